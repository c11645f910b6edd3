"""Which pictures of a source a training has seen, by what a run remembers of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_cv_lectures.data.source import Source


def picture_root(source: Source) -> str | None:
    """The folder that all pictures of `source` lie in; None for generated ones."""
    if source.files is None:
        return None
    return os.path.commonpath({os.path.abspath(source.files(i)[0].parent) for i in range(len(source))})


def trained_on(run: Mapping[str, Any], source: Source) -> list[int]:
    """Which pictures of `source` the run was trained on, by their names and the folder they lie in."""
    ids, root = set(run.get("train_ids", ())), run.get("train_root")
    same = [i for i, name in enumerate(source.ids) if name in ids]
    if source.files is None or "train_root" not in run:
        return same
    return [i for i in same if root is not None and Path(os.path.abspath(source.files(i)[0])).is_relative_to(root)]


def count_trained_on(run: Mapping[str, Any], source: Source) -> int:
    """How many pictures of `source` the run was trained on."""
    return len(trained_on(run, source))


__all__ = ["count_trained_on", "picture_root", "trained_on"]
