"""The house rules: imports point strictly down the ranks, and nothing forbidden is used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "keras_cv_lectures"
RANKS = [
    # These may use `errors`.
    {"errors", "files", "h5", "metadata", "parts", "recipe", "replicas", "signatures", "geometry", "text"},
    {
        "layers",
        "losses",
        "metrics",
        "data",
        "preprocessing",
        "postprocessing",
        "weights",
        "visualize",
        "runners",
        "serving",
    },
    {"backbones"},
    {"classification", "segmentation", "detection", "language"},
    {"training", "exporting", "predicting"},
    {"evaluating"},
    {"systems"},
    {"reporting", "benchmarking"},
]
RANK_OF = {name: rank for rank, names in enumerate(RANKS) for name in names}
# Pairs of one rank that may be used across, with the reason.
ALLOWED = {
    ("runners", "layers"),  # Loading a file needs them registered.
    ("runners", "serving"),
    ("weights", "runners"),  # A file of Keras is opened in one way.
    ("metadata", "files"),  # A description is read as any other file that somebody else wrote.
    ("text", "files"),  # A vocabulary is a file, written whole or not at all.
    ("serving", "postprocessing"),  # What a served model returns is postprocessing; serving only calls it.
}
FILES = sorted(PACKAGE.rglob("*.py"))
COMMAND_LINE = sorted((PACKAGE.parent / "kcvl").glob("*.py"))


def _unit(path: Path) -> str:
    """The top-level module or folder that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(tree: ast.AST):
    """Names imported at run time; what stands under `if TYPE_CHECKING:` is for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        yield from _imports(node)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_strictly_down(path):
    unit = _unit(path)
    if unit in ("__init__", "__main__"):
        return
    assert unit in RANK_OF, f"{unit} has no rank: add it to RANKS"
    for module in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        parts = module.split(".")
        assert parts[0] != "kcvl", "the command line stands above the package"
        if parts[0] != "keras_cv_lectures" or len(parts) == 1:
            continue
        other = parts[1]
        if other in (unit, "errors") or (unit, other) in ALLOWED:
            continue
        assert RANK_OF[other] < RANK_OF[unit], f"{unit} (rank {RANK_OF[unit]}) imports {other} (rank {RANK_OF[other]})"


@pytest.mark.parametrize("path", FILES + COMMAND_LINE, ids=lambda p: str(p.relative_to(PACKAGE.parent)))
def test_nothing_forbidden(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400, "split it"
    forbidden = re.findall(r"\bLambda\(|SELECT_TF_OPS|\bTODO\b|\bFIXME\b|except:\s*$", text, re.M)
    assert not forbidden
    tree = ast.parse(text)
    calls = [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert path in COMMAND_LINE or "print" not in calls
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Assert)], "assert is for tests; raise for users"


def test_public_names_exist_and_register_the_layers():
    import keras

    import keras_cv_lectures

    for name in keras_cv_lectures.__all__:
        assert getattr(keras_cv_lectures, name) is not None
    # What lets `keras.saving.load_model` read our files in safe mode after nothing but this import.
    assert keras.saving.get_registered_object("keras_cv_lectures>SyncBatchNormalization") is not None
    assert keras.saving.get_registered_object("keras_cv_lectures>MeanIoU") is not None


def test_the_command_line_answers_before_it_imports_anything_heavy():
    code = "import sys, kcvl; kcvl.make_parser(); print('keras' in sys.modules, 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
    assert result.stderr == ""
