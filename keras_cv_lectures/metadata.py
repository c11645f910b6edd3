"""What a model file cannot say about itself: its labels, their colours, the size it was trained at.

A run folder keeps it as `run.json` beside the `.keras` files; an export keeps it in the JSON model card beside a
`.tflite` (`NAME.json`) or inside a SavedModel folder (`model_card.json`). All hold these keys at their top level.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_cv_lectures.errors import ModelError

RUN_FILE = "run.json"
CARD_FILE = "model_card.json"


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Facts about a trained model.

    Attributes:
        system: name in `SYSTEMS`, or "" for a model of the user's own.
        classes: class names in label order; segmentation includes the background.
        colors: one (red, green, blue) in 0..255 for each class.
        input_size: (height, width) in pixels that pictures are resized to before the model sees them, or None to
            give the model each picture as it is.
        config: the builder's arguments.
    """

    system: str = ""
    classes: tuple[str, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    input_size: tuple[int, int] | None = None
    config: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Metadata:
        size = value.get("input_size")
        return cls(
            system=value.get("system", ""),
            classes=tuple(value.get("classes", ())),
            colors=tuple(tuple(c) for c in value.get("colors", ())),
            input_size=tuple(size) if size else None,
            config=value.get("config"),
        )


def metadata_path(model_path: Path) -> Path:
    """The file that would hold the metadata of the run folder, `.keras`, SavedModel or `.tflite` at `model_path`."""
    if model_path.suffix == ".tflite":
        return model_path.with_suffix(".json")
    if (model_path / "saved_model.pb").exists():
        return model_path / CARD_FILE
    if model_path.is_dir():
        return model_path / RUN_FILE
    return model_path.parent / RUN_FILE


def read_metadata(model_path: str | Path) -> Metadata:
    """Metadata of a model file, or an empty `Metadata()` where none stands beside it."""
    path = metadata_path(Path(model_path))
    if not path.exists():
        return Metadata()
    try:
        return Metadata.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError) as error:  # Also bytes that are no UTF-8.
        raise ModelError(f"{path} is not a valid description of a model ({error}). Restore or delete it.") from error


def read_run(model_path: str | Path) -> dict[str, Any]:
    """All of `run.json` of the run folder at (or around) `model_path`, with the ids trained on as "train_ids".

    An empty dict for a model that belongs to no run.
    """
    path = Path(model_path)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / RUN_FILE).exists():
            run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
            ids = folder / "train_ids.txt"
            run["train_ids"] = ids.read_text(encoding="utf-8").splitlines() if ids.exists() else []
            return {**run, "folder": str(folder)}
    return {}
