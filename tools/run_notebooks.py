"""Executes the notebooks in a temporary folder, one after the other, and says which cell fails.

    python tools/run_notebooks.py                           every notebook of notebooks/
    python tools/run_notebooks.py notebooks/01_unet.ipynb --out executed

The notebooks themselves are not changed; `--out` keeps copies with all outputs. Exit code 1 if a cell fails or the time
is up, 2 if a notebook does not exist.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from keras_cv_lectures.files import write_text

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the notebooks that `argv` names. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="default: all of notebooks/")
    parser.add_argument("--out", metavar="DIR", type=Path, help="keep executed copies here, failed ones too")
    parser.add_argument("--timeout", metavar="S", type=float, default=900, help="seconds a notebook (default: 900)")
    arguments = parser.parse_args(argv)
    paths = [Path(name) for name in arguments.notebooks] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        if not path.is_file():
            parser.error(f"there is no notebook {path}")

    failed = 0
    for path in paths:
        started = time.perf_counter()
        notebook = nbformat.read(path, as_version=4)
        error = execute(notebook, timeout=arguments.timeout)
        seconds = time.perf_counter() - started
        failed += error is not None
        said = f"FAILED, {error}" if error else f"{len(pictures(notebook))} pictures"
        print(f"{path}  {seconds:.0f} s  {said}", flush=True)
        if arguments.out:
            write_text(arguments.out / path.name, nbformat.writes(notebook))
    return 1 if failed else 0


def execute(notebook: nbformat.NotebookNode, *, timeout: float) -> str | None:
    """Runs every cell in a fresh kernel, in a temporary folder; the outputs are put into `notebook`.

    Args:
        timeout: seconds for the whole notebook.

    Returns:
        None, or which cell failed and why.
    """
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory(prefix="notebook-", ignore_cleanup_errors=True) as folder:
        client = NotebookClient(
            notebook, kernel_name="python3", resources={"metadata": {"path": folder}}, startup_timeout=120
        )
        number = 0
        try:
            # What the kernel itself logs is about its sockets; what cells write to standard error arrives as output.
            with client.setup_kernel(env=_environment(Path(folder)), stderr=subprocess.DEVNULL):
                for index, cell in enumerate(notebook.cells):
                    number += cell.cell_type == "code"
                    client.timeout = max(1, round(deadline - time.monotonic()))
                    client.execute_cell(cell, index)
        except CellExecutionError as error:
            return f"cell In [{number}] ({_first_line(cell)}): {error.ename}: {_plain(error.evalue)}"
        except CellTimeoutError:
            return f"cell In [{number}] ({_first_line(cell)}): not finished after {timeout:g} s"
        except DeadKernelError:
            return f"cell In [{number}] ({_first_line(cell)}): the kernel died, perhaps for want of memory"
    return None


def pictures(notebook: nbformat.NotebookNode) -> list[str]:
    """The PNG pictures among the outputs, base64."""
    return [output["data"]["image/png"] for output in outputs(notebook) if "image/png" in output.get("data", {})]


def outputs(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    """All outputs of all cells, in order."""
    for cell in notebook.cells:
        yield from cell.get("outputs", ())


def _environment(folder: Path) -> dict[str, str]:
    """Without a backend that would draw nothing inline, and without leaving files in the home folder."""
    kept = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    return {**kept, "IPYTHONDIR": str(folder / ".ipython"), "JUPYTER_RUNTIME_DIR": str(folder / ".jupyter")}


def _first_line(cell: nbformat.NotebookNode) -> str:
    """The first line of a cell that is no comment: how a reader finds it."""
    lines = [line.strip() for line in cell.source.splitlines()]
    return next((line for line in lines if line and not line.startswith("#")), "")[:60]


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())[:500]


if __name__ == "__main__":
    sys.exit(main())
