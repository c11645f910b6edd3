"""Features of pictures on disk: one array for each picture, in shards that are written whole or not at all.

A folder holds `features.json`, which says what the features were made with and of which pictures, and `shard-00000.npy`
and so on, (n, h, w, D) each. What is missing can be computed later; what is there is read by memory map.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import atomic_path, read_json, write_json
from keras_cv_lectures.text import as_text

INDEX = "features.json"
_FORMAT = 1
# What is said of an entry of `made_with` that differs.
_OTHERWISE = "were made with {name} {had}, and {name} {wants} is wanted"


@dataclass(frozen=True)
class FeatureFolder:
    """The features of a list of pictures, as far as they are there.

    Attributes:
        folder: holds the files.
        shape: of one picture's features, (h, w, D).
        dtype: "float16" or "float32".
        count: number of pictures.
        per_shard: pictures of a shard; the last one may have fewer.
    """

    folder: Path
    shape: tuple[int, int, int]
    dtype: str
    count: int
    per_shard: int
    _open: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def at(
        cls,
        folder: str | os.PathLike,
        *,
        ids: Sequence[str],
        shape: Sequence[int],
        dtype: str,
        shard_bytes: int,
        made_with: Mapping[str, Any],
    ) -> FeatureFolder:
        """The folder of these features, begun where there is none.

        Args:
            ids: of the pictures, in their order.
            shape: (h, w, D).
            dtype: "float16" or "float32".
            shard_bytes: about the size of a file, for a folder that is begun.
            made_with: name -> what the features depend on, such as a digest of the encoder's weights; JSON.

        Raises:
            DataError: the folder holds something else, features of other pictures, or such that were made otherwise;
                it cannot be written, or the disk has too little space for what is missing.
        """
        folder, shape = Path(folder), tuple(int(n) for n in shape)
        wanted = {
            "made_with": dict(made_with) | {"dtype": dtype, "shape": list(shape)},
            "pictures": {"count": len(ids), "ids": hashlib.sha256("\n".join(ids).encode()).hexdigest()},
        }
        one = math.prod(shape) * np.dtype(dtype).itemsize
        per_shard = max(1, min(len(ids), shard_bytes // one))
        if (folder / INDEX).exists():
            per_shard = _check_index(folder, wanted)
        elif folder.exists() and (not folder.is_dir() or any(not p.name.startswith(".") for p in folder.iterdir())):
            raise DataError(f"{folder} is no folder of features: it holds something else. Name a new or empty folder.")
        else:
            _written(folder, lambda: write_json(folder / INDEX, {"format": _FORMAT, "per_shard": per_shard, **wanted}))
        store = cls(folder, shape, dtype, len(ids), per_shard)
        missing = one * sum(stop - first for first, stop in map(store.range_of, store.missing()))
        free = shutil.disk_usage(folder).free
        if missing > free:
            raise DataError(
                f"the features need {missing / 1e9:.1f} GB more in {folder}, and the disk has {free / 1e9:.1f} GB "
                "left. Free space, name a folder on another disk, or make them smaller (a smaller input_size, float16)."
            )
        return store

    def missing(self) -> list[int]:
        """The numbers of the shards that are not there yet."""
        return [k for k in range(-(-self.count // self.per_shard)) if not self.path_of(k).exists()]

    def range_of(self, shard: int) -> tuple[int, int]:
        """(first picture, the one to stop before) of a shard."""
        return shard * self.per_shard, min((shard + 1) * self.per_shard, self.count)

    def path_of(self, shard: int) -> Path:
        """The shard's file."""
        return self.folder / f"shard-{shard:05d}.npy"

    def write(self, shard: int, features: np.ndarray) -> None:
        """Writes a shard, (n, h, w, D).

        Raises:
            DataError: the disk is full, or the folder cannot be written.
        """

        def save() -> None:
            with atomic_path(self.path_of(shard)) as temporary:
                np.save(temporary, features, allow_pickle=False)

        _written(self.folder, save)

    def read(self, picture: int) -> np.ndarray:
        """(h, w, D) of one picture, a copy in float32: TensorFlow's kernels for float16 on CPUs are slow ones.

        Raises:
            DataError: its file is missing or damaged.
        """
        shard, row = divmod(picture, self.per_shard)
        return np.array(self._shard(shard)[row], "float32")

    def check(self) -> None:
        """Opens every shard that is there.

        Raises:
            DataError: one is cut off or is something else, naming the file.
        """
        missing = set(self.missing())
        for shard in range(-(-self.count // self.per_shard)):
            if shard not in missing:
                self._shard(shard)

    def _shard(self, shard: int) -> np.ndarray:
        if shard not in self._open:
            path = self.path_of(shard)
            try:
                features = np.load(path, mmap_mode="r", allow_pickle=False)
            except Exception as error:  # NumPy parses the head with Python's own parser, which raises its own errors.
                raise DataError(
                    f"the features {path} cannot be read ({error}): the file is missing, cut off or damaged. Delete "
                    "it, and it is computed again."
                ) from error
            first, stop = self.range_of(shard)
            wanted = (stop - first, *self.shape)
            if features.shape != wanted or features.dtype != np.dtype(self.dtype):
                raise DataError(
                    f"the features {path} are {features.dtype} of shape {features.shape}, expected {self.dtype} of "
                    f"{wanted}: the file belongs elsewhere. Delete it, and it is computed again."
                )
            self._open[shard] = features
        return self._open[shard]


def feature_source(features: FeatureFolder, source: Source) -> Source:
    """`source` with `annotations` (h, w, D) of each picture instead of the picture.

    Of an example there remain `captions`, where it has any, and `image_id`. Pictures are not opened; only of a source
    that does not know its captions without, each is once.
    """
    captions_at = source.captions_at
    if captions_at is None and (source.texts is not None or "captions" in source[0]):
        captions_at = _remembered(lambda index: tuple(as_text(text) for text in source.read(index)["captions"]))

    def read(index: int) -> dict[str, Any]:
        example = {"annotations": features.read(index), "image_id": source.ids[index]}
        if captions_at is not None:
            example["captions"] = np.array([as_text(text) for text in captions_at(index)], dtype=object)
        return example

    return replace(source, read=read, inspect=None, captions_at=captions_at)


def _remembered(read: Callable[[int], tuple[str, ...]]) -> Callable[[int], tuple[str, ...]]:
    known: dict[int, tuple[str, ...]] = {}

    def remembered(index: int) -> tuple[str, ...]:
        if index not in known:
            known[index] = read(index)
        return known[index]

    return remembered


def _check_index(folder: Path, wanted: Mapping[str, Any]) -> int:
    """The pictures of a shard, if the features in `folder` are those that are wanted."""
    path = folder / INDEX
    try:
        found = read_json(path)
        version, per_shard = found["format"], found["per_shard"]
        had, pictures = dict(found["made_with"]), dict(found["pictures"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}). Name another folder, or delete this one.") from error
    if version != _FORMAT or type(per_shard) is not int or per_shard < 1:
        raise DataError(f"{path} is of another version. Name another folder, or delete this one.")
    reasons = [
        _OTHERWISE.format(name=name, had=_shown(had.get(name)), wants=_shown(value))
        for name, value in wanted["made_with"].items()
        if had.get(name) != value
    ]
    if pictures != wanted["pictures"]:
        count, others = wanted["pictures"]["count"], pictures.get("count")
        reasons.append(f"are of {others} pictures, and not of these {count}" if others != count else _OTHER_PICTURES)
    if reasons:
        raise DataError(f"the features in {folder} {'; they '.join(reasons)}. Name another folder, or delete this one.")
    return per_shard


_OTHER_PICTURES = "are of other pictures (their ids differ), or of these in another order"


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value[:12]
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _written(folder: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(
            f"the features could not be written to {folder}: {'the disk is full' if full else error}. "
            f"{'Free space' if full else 'Make it writable'}, or name another folder; the files that are complete are "
            "kept, and the next call goes on after them."
        ) from error


__all__ = ["INDEX", "FeatureFolder", "feature_source"]
