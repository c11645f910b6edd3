"""HDF5 files of unknown origin: looked through by a process of their own before this one opens them.

HDF5's library loops for ever, or ends the process, over some damaged files; no exception tells. And a file may point to
numbers in any other file, or claim more of them than it has.
"""

from __future__ import annotations

import os
import subprocess
import sys

from keras_cv_lectures.errors import ModelError

_SECONDS = 60
# Visits what describes the numbers, not the numbers: the files may be large.
_VISIT = """
import sys, h5py
densest = 32  # Trained numbers hardly compress.
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
with h5py.File(sys.argv[1], "r") as file:
    for attribute in file.attrs:
        file.attrs[attribute]
    visit(file, "")
"""


def check_h5(path: str | os.PathLike) -> None:
    """Refuses a damaged file, and one whose numbers are elsewhere or nowhere.

    Raises:
        ModelError: it says which.
    """
    command = [sys.executable, "-c", _VISIT, os.fspath(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{path} cannot be read: HDF5 finds no end in it. It is damaged: fetch it again.") from error
    if done.returncode:
        told = (done.stderr.decode(errors="replace").strip().splitlines() or [f"HDF5 ended with {done.returncode}"])[-1]
        raise ModelError(f"{path} cannot be read as an HDF5 file of weights: {told[:300]}. Fetch it again.")


__all__ = ["check_h5"]
