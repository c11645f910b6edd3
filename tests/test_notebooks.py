"""The notebooks are stored clean, use public names only, and run from the first cell to the last."""

from __future__ import annotations

import ast
import base64
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNNER = ROOT / "tools" / "run_notebooks.py"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# The fewest pictures that a complete run of each notebook shows.
PICTURES = {
    "01_unet.ipynb": 13,
    "02_upsampling.ipynb": 14,
    "03_semantic_segmentation.ipynb": 16,
    "04_detection.ipynb": 9,
    "05_captioning.ipynb": 7,
}


def _run(*arguments: object) -> subprocess.CompletedProcess:
    # Nothing listens there: a download would fail at once.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    return subprocess.run(
        [sys.executable, str(RUNNER), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **nowhere},
    )


def _write(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def notebook(request) -> nbformat.NotebookNode:
    found = nbformat.read(request.param, as_version=4)
    nbformat.validate(found)
    return found


def test_every_notebook_says_how_many_pictures_it_shows():
    assert {path.name for path in NOTEBOOKS} == set(PICTURES)


def test_notebook_is_stored_without_outputs(notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], cell.source
            assert cell.execution_count is None, cell.source
    assert notebook.cells[0].source.startswith("# ")


def test_notebook_uses_public_names_only(notebook):
    import keras_cv_lectures as kcvl

    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!")))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("keras_cv_lectures"), cell.source
            elif isinstance(node, ast.Import):
                names = [alias for alias in node.names if alias.name.startswith("keras_cv_lectures")]
                assert all((alias.name, alias.asname) == ("keras_cv_lectures", "kcvl") for alias in names), cell.source
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "kcvl":
                assert node.attr in dir(kcvl), node.attr


def test_runner_names_the_cell_that_fails_and_goes_on(tmp_path):
    broken = _write(tmp_path / "broken.ipynb", "x = 1", "# why\nx / 0", "x = 2")
    good = _write(tmp_path / "good.ipynb", "from pathlib import Path\nPath('left_behind').touch()\nprint(1)")
    result = _run(broken, good, "--out", tmp_path / "executed")
    assert result.returncode == 1, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert "FAILED, cell In [2] (x / 0): ZeroDivisionError: division by zero" in lines[0]
    assert lines[1].endswith(" s  0 pictures")
    assert not list(tmp_path.rglob("left_behind")), "notebooks run in a folder of their own"
    executed = nbformat.read(tmp_path / "executed" / "good.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].text == "1\n"
    assert _run(tmp_path / "absent.ipynb").returncode == 2


@pytest.mark.slow
def test_runner_stops_a_notebook_that_takes_too_long(tmp_path):
    result = _run(_write(tmp_path / "slow.ipynb", "import time\ntime.sleep(600)"), "--timeout", 5)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "cell In [1] (import time): not finished after 5 s" in result.stdout


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs_and_shows_its_pictures(path, tmp_path):
    result = _run(path, "--out", tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    executed = nbformat.read(tmp_path / path.name, as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    errors = "".join(output.text for output in outputs if output.get("name") == "stderr")
    assert "Traceback" not in errors, errors
    assert "UserWarning" not in errors, errors
    shown = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(shown) >= PICTURES[path.name]
    assert all(base64.b64decode(png).startswith(b"\x89PNG") for png in shown)
