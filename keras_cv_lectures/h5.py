"""HDF5 files of unknown origin: looked through by a process of their own before this one opens them.

HDF5's library loops for ever, or ends the process, over some damaged files; no exception tells. And a file may point to
numbers in any other file, or claim more of them than it has.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from keras_cv_lectures.errors import ModelError

if TYPE_CHECKING:
    import keras

# What describes the numbers, and reading the weights inside of a `.keras` file from a slow disk.
_SECONDS, _BYTES_A_SECOND = 60, 1e7
# Visits what describes the numbers, not the numbers: the files may be large.
_VISIT = """
import io, os, sys, h5py
densest = 32  # Trained numbers hardly compress.
def inside(path):
    import zipfile
    with zipfile.ZipFile(path) as archive:
        name = "model.weights.h5"
        if name not in archive.namelist():
            sys.exit(0)  # Keras says what it misses.
        claimed, there = archive.getinfo(name).file_size, os.path.getsize(path)
        if claimed > densest * there:
            sys.exit(f"{name} in it claims {claimed:,} bytes, and the whole file has {there:,}")
        return io.BytesIO(archive.read(name))
def visit(group, path):
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            sys.exit(f"{path}/{name} points to another place")
        item = group[name]
        for attribute in item.attrs:
            item.attrs[attribute]
        if isinstance(item, h5py.Group):
            if len(path) > 1000:
                sys.exit("its groups are nested too deeply")
            visit(item, f"{path}/{name}")
        elif isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                sys.exit(f"the numbers of {path}/{name} are kept in another file")
            if item.dtype.kind in "fiub" and item.nbytes > densest * item.id.get_storage_size():
                sys.exit(f"{path}/{name} claims {item.nbytes:,} bytes and has {item.id.get_storage_size():,}")
path = sys.argv[1]
with h5py.File(inside(path) if path.endswith(".keras") else path, "r") as file:
    for attribute in file.attrs:
        file.attrs[attribute]
    visit(file, "")
"""


def check_h5(path: str | os.PathLike) -> None:
    """Refuses a damaged file, and one whose numbers are elsewhere or nowhere.

    Args:
        path: of the file, or of a `.keras` file, an archive with such a file of weights inside.

    Raises:
        ModelError: it says which.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    _look_through(os.fspath(path), status.st_size, status.st_mtime_ns, status.st_ino)


@functools.lru_cache(maxsize=256)
def _look_through(path: str, size: int, *_: int) -> None:
    """`check_h5` of a file, once as long as nobody writes to it."""
    if getattr(sys, "frozen", False) or not Path(sys.executable or "").stem.lower().startswith(("python", "pypy")):
        return  # Inside of an application, or a server, there is no interpreter to ask.
    # -P: no module of the current folder, which may have come with the file.
    command = [sys.executable, "-P", "-c", _VISIT, path]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS + size / _BYTES_A_SECOND, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{path} cannot be read: HDF5 finds no end in it. It is damaged: fetch it again.") from error
    if done.returncode:
        told = (done.stderr.decode(errors="replace").strip().splitlines() or [f"HDF5 ended with {done.returncode}"])[-1]
        raise ModelError(f"{path} cannot be read as an HDF5 file of weights: {told[:300]}. Fetch it again.")


def load_h5(model: keras.Model, path: str | os.PathLike) -> None:
    """Loads a file of weights of Keras, `.weights.h5` or `.h5`, into a model.

    Raises:
        ModelError: the file is absent, damaged, or of another network.
    """
    try:
        check_h5(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of what it then raises.
            model.load_weights(path)
    except ModelError:
        raise
    except Exception as error:  # Damaged files make HDF5 and Keras raise almost anything.
        raise ModelError((str(error).splitlines() or [type(error).__name__])[0]) from error


__all__ = ["check_h5", "load_h5"]
