"""What a model file cannot say about itself: its labels, their colours, the size it was trained at.

A run folder keeps it as `run.json` beside the `.keras` files; an export keeps it in the JSON model card beside a
`.tflite` (`NAME.json`) or inside a SavedModel folder (`model_card.json`). All hold these keys at their top level.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.files import read_json, read_text

RUN_FILE = "run.json"
CARD_FILE = "model_card.json"
LABELS_FILE = "labels.txt"  # in the folder of a SavedModel


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Facts about a trained model.

    Attributes:
        system: name in `SYSTEMS`, or "" for a model of the user's own.
        classes: class names in label order; segmentation includes the background.
        colors: one (red, green, blue) in 0..255 for each class.
        input_size: (height, width) in pixels that pictures are resized to before the model sees them, or None to
            give the model each picture as it is.
        shrunk_by: how many times as long the sides of the pictures that a segmentation was trained on were before they
            were resized to the size of the training (median, by areas), such as 2.0 where they were halved; None where
            it is not known, or they were not resized.
        config: the builder's arguments.
        tiled: whether a segmentation's file of one size sees pictures at their own resolution, in overlapping windows
            of that size, because its network was trained so; otherwise they are resized to it.
        tile_margin: (rows, columns) at each edge of a window's answer that are not used, or None where they are not
            known. `geometry.receptive.window_margin` says when they are exact and when an approximation.
        tile_stride: the network's total stride, of which neighbouring windows lie a multiple apart, or None.
        keypoint_names: of a detector with keypoints the names of its points in their order; () where unknown.
    """

    system: str = ""
    classes: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    input_size: tuple[int, int] | None = None
    shrunk_by: float | None = None
    config: dict[str, Any] | None = None
    tiled: bool = False
    tile_margin: tuple[int, int] | None = None
    tile_stride: int | None = None
    keypoint_names: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Metadata:
        """What `to_json` gave, after a way through a file.

        Raises:
            ValueError: an entry is of another kind.
        """
        system, config, size = value.get("system", ""), value.get("config"), value.get("input_size")
        classes, colors = value.get("classes", []), value.get("colors", [])
        points = value.get("keypoint_names", [])
        size, shrunk = size or None, value.get("shrunk_by")
        tiled, margin, stride = value.get("tiled", False), value.get("tile_margin"), value.get("tile_stride")
        rules = {
            "system must be a text": isinstance(system, str),
            "classes must be a list of names": _is_list(classes) and all(isinstance(name, str) for name in classes),
            "colors must be a list of [red, green, blue] in 0..255": _is_list(colors)
            and all(_are_whole(color, 3, 0, 255) for color in colors),
            "input_size must be [height, width] in pixels": size is None or _are_whole(size, 2, 1, 2**31),
            "shrunk_by must be a positive number": shrunk is None
            or (type(shrunk) in (int, float) and 0 < shrunk < math.inf),
            "config must hold the arguments of a builder": config is None or isinstance(config, dict),
            "tiled must be true or false": isinstance(tiled, bool),
            "tile_margin must be [rows, columns] in pixels": margin is None or _are_whole(margin, 2, 0, 2**31),
            "tile_stride must be a number of pixels": stride is None or _are_whole([stride], 1, 1, 2**31),
            "keypoint_names must be a list of names": _is_list(points) and all(isinstance(p, str) for p in points),
        }
        broken = [rule for rule, kept in rules.items() if not kept]
        if broken:
            raise ValueError("; ".join(broken))
        return cls(
            system=system,
            classes=tuple(classes),
            colors=tuple(tuple(color) for color in colors),
            input_size=tuple(size) if size else None,
            shrunk_by=shrunk,
            config=config,
            tiled=tiled,
            tile_margin=None if margin is None else tuple(margin),
            tile_stride=stride,
            keypoint_names=tuple(points),
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _are_whole(value: Any, count: int, low: int, high: int) -> bool:
    return _is_list(value) and len(value) == count and all(type(n) is int and low <= n <= high for n in value)


def labels_file(path: Path) -> Path:
    """Where the class names of a `.tflite` file or SavedModel folder stand, one a line in label order."""
    return path.with_suffix(".txt") if path.suffix == ".tflite" else path / LABELS_FILE


def metadata_path(model_path: Path) -> Path:
    """The file that would hold the metadata of the run folder, `.keras`, SavedModel or `.tflite` at `model_path`."""
    if model_path.suffix == ".tflite":
        return model_path.with_suffix(".json")
    if (model_path / "saved_model.pb").exists():
        return model_path / CARD_FILE
    if model_path.is_dir():
        return model_path / RUN_FILE
    return model_path.parent / RUN_FILE


def has_metadata(model_path: str | Path) -> bool:
    """Whether metadata stands beside a model file: what `read_metadata` then says is known, and not just absent."""
    return metadata_path(Path(model_path)).exists()


def read_metadata(model_path: str | Path) -> Metadata:
    """Metadata of a model file, or an empty `Metadata()` where none stands beside it."""
    if not has_metadata(model_path):
        return Metadata()
    return Metadata.from_json(_read_description(metadata_path(Path(model_path))))


def read_run(model_path: str | Path) -> dict[str, Any]:
    """All of `run.json` of the run folder at (or around) `model_path`, with the ids trained on as "train_ids".

    The folder itself is "folder", relative where `model_path` is. An empty dict for a model that belongs to no run.

    Raises:
        ModelError: the file is damaged.
    """
    # A relative path has no parents beyond the current folder.
    path = Path(os.path.abspath(model_path))
    for folder in (path, path.parent, path.parent.parent):
        if (folder / RUN_FILE).exists():
            run = _read_description(folder / RUN_FILE)
            ids = folder / "train_ids.txt"
            repair = "Restore or delete it."
            run["train_ids"] = read_text(ids, repair=repair, error=ModelError).splitlines() if ids.exists() else []
            return {**run, "folder": str(folder) if Path(model_path).is_absolute() else os.path.relpath(folder)}
    return {}


def _read_description(path: Path) -> dict[str, Any]:
    repair = "It is not a valid description of a model: restore or delete it."
    value = read_json(path, repair=repair, error=ModelError)
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object. {repair}")
    try:
        Metadata.from_json(value)
    except ValueError as error:
        raise ModelError(f"{path}: {error}. {repair}") from error
    return value
