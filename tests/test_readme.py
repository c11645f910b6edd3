"""What the documents name must exist: all systems in the table, command lines, names in code, local links."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import shlex
from functools import reduce
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

import keras_cv_lectures as kcvl
from kcvl.parser import make_parser
from kcvl.settings import parse_settings

ROOT = Path(__file__).resolve().parent.parent
SHELL = {"", "bash", "sh", "shell", "console"}


def _tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


readme_table = _tool("readme_table")


@pytest.fixture(
    params=[
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "saved_models/README.md",
        "docs/distributed.md",
        "docs/faq.md",
        "docs/own_reader.md",
    ]
)
def document(request) -> str:
    return request.param


def test_readme_has_the_table_of_all_systems(capsys):
    code = readme_table.main(["--check"])
    assert code == 0, "".join(capsys.readouterr())


def test_every_command_line_parses(document):
    for line in command_lines((ROOT / document).read_text(encoding="utf-8")):
        problem = problem_of(line)
        assert problem is None, f"{document}: `{line}`: {problem}"


def test_every_name_of_the_package_in_code_exists(document):
    for language, block in fenced((ROOT / document).read_text(encoding="utf-8")):
        if language not in ("python", "py"):
            continue
        for node in ast.walk(ast.parse(block)):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if re.fullmatch(r"kcvl(\.\w+)+", name):
                reduce(getattr, name.split(".")[1:], kcvl)


def test_code_is_fenced(document):
    """What is merely indented is code to a reader, and is seen by no check."""
    text = re.sub(r"^ *```.*?^ *```", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.M | re.S)
    assert not re.findall(r"^\n {4,}\S.*", text, re.M)


def test_every_local_link_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for link in links(text):
        path, _, anchor = unquote(link).partition("#")
        target = ((ROOT / document).parent / path).resolve() if path else ROOT / document
        assert target.is_relative_to(ROOT), f"{document} links to {link}, outside the repository"
        assert target.exists(), f"{document} links to {link}, which does not exist"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{document}: no heading for {link}"


def test_make_targets_exist(document):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for line in shell_lines((ROOT / document).read_text(encoding="utf-8")):
        words = line.split()
        if words[:1] == ["make"] and len(words) > 1:
            wanted = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            assert set(wanted) <= targets, f"{document}: `{line}`"


def test_the_checks_find_what_is_wrong(tmp_path, capsys):
    text = (
        "`kcvl train` starts.\n```bash\n$ A='{}' kcvl train unet --data a,b \\\n    --out c  # hint\n"
        "kcvl list | cat\n```\nThen `kcvl demo`."
    )
    assert command_lines(text) == ["kcvl train unet --data a,b --out c", "kcvl list", "kcvl demo"]
    assert problem_of("kcvl train unet --data folder:a,b --set epochs=4 --set filters=8 --out c") is None
    assert "required" in problem_of("kcvl train unet --out c")
    assert "invalid choice" in problem_of("kcvl trian unet")
    assert "no system" in problem_of("kcvl train unett --data a --out c")
    assert problem_of("kcvl benchmark unet segnet --set filters=8") is None
    assert "no option `depth`" in problem_of("kcvl benchmark unet segnet --set depth=2")
    assert "no option `epoch`" in problem_of("kcvl train unet --data a --set epoch=3 --out c")
    assert links('[a](b.md#c) ![d](e.png "f") <img src="g.png"> [h](https://i)') == ["b.md#c", "e.png", "g.png"]
    assert anchors("# How to *add* a `system`\n## 1. Now!") == {"how-to-add-a-system", "1-now"}

    table = readme_table.systems_table(kcvl.SYSTEMS.values(), ROOT)
    assert len(table.splitlines()) == 2 + len(kcvl.SYSTEMS)
    for recipe in kcvl.SYSTEMS.values():
        for part in (f"`{recipe.name}`", recipe.reference.result, f"{recipe.reference.parameters:,}"):
            assert part in table
    built = {line.split(" | ")[0].strip("| `"): line.split(" | ")[6] for line in table.splitlines()}
    assert built["fcn8s"] == "`filters=32`, `fc_filters=512`, `normalization=batch`"
    assert built["fcn"] == "what the builder does"
    assert built["keypoint_rcnn"] == "`min_size=320`, `max_size=320`"
    assert built["show_attend_tell"] == "`backbone=resnet14_v1_5`"
    readme = tmp_path / "README.md"
    readme.write_text("# Title\n")
    assert readme_table.main(["--check", "--readme", str(readme)]) == 1
    assert "expected one line `<!-- systems -->`, found 0" in capsys.readouterr().err
    readme.write_text(f"# Title\n{readme_table.START}\n{readme_table.END}\nrest\n")
    assert readme_table.main(["--check", "--readme", str(readme)]) == 1
    assert "--write" in capsys.readouterr().out
    assert readme_table.main(["--write", "--readme", str(readme)]) == 0
    assert readme_table.main(["--check", "--readme", str(readme)]) == 0
    assert readme.read_text() == f"# Title\n{readme_table.START}\n{table}\n{readme_table.END}\nrest\n"


def fenced(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", text, re.M | re.S)


def shell_lines(text: str) -> list[str]:
    """Lines of shell blocks, continued ones joined, without prompts and comments."""
    lines = []
    for language, block in fenced(text):
        if language in SHELL:
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                lines.append(re.sub(r"(^|\s)#.*", "", line.strip().removeprefix("$ ")).strip())
    return [line for line in lines if line]


def command_lines(text: str) -> list[str]:
    """Every `kcvl ...` of shell blocks, and of code inside sentences where it is more than the command's name.

    Output that a block shows does not begin with `kcvl`; a template with [brackets] or `...` is no command line.
    """
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    inline = [code.strip() for code in re.findall(r"`([^`\n]+)`", prose)]
    found = []
    for line in [*shell_lines(text), *inline]:
        line = re.sub(r"^(\w+=('[^']*'|\S*)\s+)*(\S*/bin/)?", "", line)
        line = re.split(r"\s(?:\||&&|;|>)(?:\s|$)", line)[0].strip()
        words = line.split()
        if words[:1] != ["kcvl"] or len(words) == 1 or re.search(r"\[|\.\.\.|…", line):
            continue
        # `kcvl train` in a sentence names a command and needs no arguments.
        if len(words) > 2 or line not in inline or words[1] in ("list", "demo"):
            found.append(line)
    return found


def problem_of(line: str) -> str | None:
    """What the command line would complain about before it looks at any file."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            arguments = make_parser().parse_args(shlex.split(line)[1:])
        for system in getattr(arguments, "systems", None) or [getattr(arguments, "system", "SYSTEM")]:
            if system not in (*kcvl.SYSTEMS, "SYSTEM", "all"):
                return f"there is no system {system}"
            if getattr(arguments, "settings", None):
                parse_settings(kcvl.SYSTEMS[system], arguments.settings)
    except SystemExit as stop:
        return said.getvalue() if stop.code else None
    except ValueError as error:
        return str(error)
    return None


def links(text: str) -> list[str]:
    """Targets of Markdown and HTML links that are no web addresses, code left out."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    text = re.sub(r"`[^`\n]*`", "", text)
    found = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(text: str) -> set[str]:
    """Anchors of the headings, made as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}
