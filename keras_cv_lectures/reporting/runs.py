"""What a run folder knows about its data and itself."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures import files
from keras_cv_lectures.data import Source, has_splits, open_source
from keras_cv_lectures.data.spec_text import PATH_OPTIONS, parse_spec
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.files import write_json
from keras_cv_lectures.metadata import RUN_FILE, Metadata, read_run

_log = logging.getLogger(__name__)


def absolute_spec(spec: str) -> str:
    """`spec` with absolute paths, so that it names the same data from any folder.

    A path with a comma cannot be written in a specification; then `spec` stays as it is.
    """
    parsed = parse_spec(spec)
    paths = [os.path.abspath(path) for path in parsed.paths]
    options = {
        key: os.path.abspath(os.path.expanduser(value)) if key in PATH_OPTIONS else value
        for key, value in parsed.options.items()
    }
    if any("," in part for part in (*paths, *options.values())):
        return parsed.text
    words = [*parsed.names, *paths, *(f"{key}={value}" for key, value in options.items())]
    return f"{parsed.kind}:{','.join(words)}" if words else parsed.kind


def harmless_spec(spec: str) -> str:
    """`spec` out of a file that anybody may have written, if opening it neither runs a program nor downloads anything.

    Raises:
        DataError: it names a function to call.
    """
    parsed = parse_spec(spec)
    if parsed.kind == "python":
        raise DataError(
            f"{RUN_FILE} names {parsed.text} as its data. A program is not run because a file names it; give the data "
            "in the command."
        )
    if parsed.options.get("download", "no") == "no":
        return spec
    options = [f"{key}={value}" for key, value in parsed.options.items() if key != "download"]
    return f"{parsed.kind}:{','.join([*parsed.names, *options])}"


def open_numbered(spec: str, source: Source, count: int) -> Source:
    """Labelled pictures for a segmentation of `count` classes that have no names.

    Masks without a label file that do not show the last of the classes are read as 0, 1, 2, ... of as many as the model
    has.

    Args:
        spec: that `source` was opened from.
        source: is returned where it has as many classes, or other ones.
    """
    if count <= max(2, len(source.classes)) or source.classes[0] not in ("background", "class 0"):
        return source
    numbered = Metadata(classes=tuple(f"class {label}" for label in range(count)))
    return open_source(spec, split="val", like=numbered)


def validation_source(run) -> Source | None:
    """The pictures that a run was validated on, or None where there were none or they are gone, which is logged."""
    spec = run.get("val_data")
    if not spec:
        return None
    try:
        source = open_source(harmless_spec(spec), split="val", like=Metadata.from_json(run))
    except (DataError, OSError) as error:
        _log.info("the validation data of the run cannot be opened, so nothing is scored on it: %s", error)
        return None
    wanted = run.get("val_ids") or source.ids
    positions = {name: i for i, name in enumerate(source.ids)}
    chosen = [positions[name] for name in wanted if name in positions]
    return source.subset(chosen) if chosen else None


def training_source(run) -> Source | None:
    """The pictures that a run was trained on, or None where they are not known or gone, which is logged."""
    spec = run.get("data")
    if not spec:
        return None
    try:
        spec = harmless_spec(spec)
        source = open_source(spec, split="train" if has_splits(spec) else None, like=Metadata.from_json(run))
    except (DataError, OSError) as error:
        _log.info("the training data of the run cannot be opened: %s", error)
        return None
    wanted = set(run.get("train_ids") or source.ids)
    chosen = [i for i, name in enumerate(source.ids) if name in wanted]
    return source.subset(chosen) if chosen else None


def run_of(path: str | os.PathLike) -> dict[str, Any]:
    """`metadata.read_run`: what is known about the run that the model at `path` belongs to, {} where there is none.

    Raises:
        ModelError: its `run.json` is damaged.
    """
    return read_run(path)


def record_seconds(folder: Path, seconds: float) -> None:
    """Keeps in `run.json` how long the training took, over all its parts."""
    write_json(folder / RUN_FILE, {**read_json(folder / RUN_FILE), "seconds": round(seconds, 1)})


def read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    repair = "It is damaged: restore or delete it."
    value = files.read_json(path, repair=repair, error=ModelError)
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object. {repair}")
    return value


def without_nan(value: Any) -> Any:
    """`value` for JSON, which has no NaN: a class that is absent has null."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
