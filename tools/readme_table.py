"""The table of systems in README.md, made from `SYSTEMS`, between the lines `<!-- systems -->` and `<!-- /systems -->`.

python tools/readme_table.py             prints the table
python tools/readme_table.py --write     puts it into README.md
python tools/readme_table.py --check     exit code 1 if README.md has another one
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_cv_lectures import SYSTEMS
from keras_cv_lectures.files import write_text
from keras_cv_lectures.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- systems -->", "<!-- /systems -->"
HEADS = ("system", "builder", "paper", "year", "published result", "parameters", "`kcvl train` builds", "status")
# What tests/test_systems.py checks of every entry of SYSTEMS.
CONTRACT = "trains, evaluates, exports"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints, writes or checks the table. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="put the table into the file")
    mode.add_argument("--check", action="store_true", help="say whether the file has this table")
    parser.add_argument("--readme", metavar="FILE", type=Path, default=ROOT / "README.md")
    arguments = parser.parse_args(argv)
    table = systems_table(SYSTEMS.values(), ROOT)
    if not (arguments.write or arguments.check):
        print(table)
        return 0
    text = arguments.readme.read_text(encoding="utf-8")
    try:
        wanted = with_table(text, table)
    except ValueError as error:
        print(f"{arguments.readme}: {error}", file=sys.stderr)
        return 1
    if arguments.check and text != wanted:
        print(f"{arguments.readme}: the table of systems is old. Run `python tools/readme_table.py --write`.")
        return 1
    if text != wanted:
        write_text(arguments.readme, wanted)
    print(f"{arguments.readme}: the table of systems is up to date")
    return 0


def systems_table(recipes: Iterable[Recipe], root: Path) -> str:
    """One Markdown row a system; `root` is the repository that tests and notebooks are looked for in."""
    rows = [HEADS, ("---",) * len(HEADS), *(_row(recipe, root) for recipe in recipes)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def with_table(text: str, table: str) -> str:
    """`text` with `table` between the two marker lines.

    Raises:
        ValueError: a marker is missing or occurs twice, or they stand in the wrong order.
    """
    lines = [line.strip() for line in text.splitlines()]
    for marker in (START, END):
        if lines.count(marker) != 1:
            raise ValueError(
                f"expected one line `{marker}`, found {lines.count(marker)}. The table of systems stands between the "
                f"lines `{START}` and `{END}`."
            )
    first, last = lines.index(START), lines.index(END)
    if first > last:
        raise ValueError(f"`{END}` stands before `{START}`. Exchange the two lines.")
    kept = text.splitlines()
    return "\n".join([*kept[: first + 1], table, *kept[last:]]) + "\n"


def _row(recipe: Recipe, root: Path) -> tuple[str, ...]:
    reference = recipe.reference
    return (
        f"`{recipe.name}`",
        f"`kcvl.{recipe.build.__name__}`",
        f"[{reference.paper}]({reference.url})",
        str(reference.year),
        reference.result,
        f"{reference.parameters:,}",
        _trained(recipe),
        _status(recipe, root),
    )


def _trained(recipe: Recipe) -> str:
    """The builder's arguments of the default training, where they are not its defaults."""
    # What depends on the data, such as the number of keypoints, is no peculiarity of the training.
    source = SimpleNamespace(keypoint_names=())
    config = recipe.fit_config(dict(recipe.config), recipe.options, source, recipe.build)
    defaults = inspect.signature(recipe.build).parameters
    given = {k: v for k, v in config.items() if v != defaults[k].default and k not in recipe.reference.parameters_of}
    return ", ".join(f"`{name}={value}`" for name, value in given.items()) or "what the builder does"


def _status(recipe: Recipe, root: Path) -> str:
    """What is done, as far as files can tell: an entry of `SYSTEMS` is held to the contract by the tests."""
    # One test file covers a family: that of `build_fcn8s` in fcn_vgg.py is test_fcn.py.
    family = recipe.build.__module__.rpartition(".")[2].partition("_")[0]
    claims = sorted((root / "tests").glob(f"*/test_{family}.py"))
    notebooks = sorted((root / "notebooks").glob(f"[0-9][0-9]_{recipe.name}.ipynb"))
    parts = [CONTRACT]
    parts += [f"[tests of the paper's claims]({path.relative_to(root).as_posix()})" for path in claims]
    parts += [f"[notebook]({path.relative_to(root).as_posix()})" for path in notebooks]
    if not claims:
        parts.append("the paper's claims are not tested yet")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
