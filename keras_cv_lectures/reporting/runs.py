"""What a run folder knows about its data and itself."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from keras_cv_lectures.data import Source, open_source
from keras_cv_lectures.data.specs import parse_spec
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.files import write_json
from keras_cv_lectures.metadata import RUN_FILE, Metadata, read_run

_PATH_OPTIONS = ("labels", "list")
_log = logging.getLogger(__name__)


def absolute_spec(spec: str) -> str:
    """`spec` with absolute paths, so that it names the same data from any folder.

    A path with a comma cannot be written in a specification; then `spec` stays as it is.
    """
    parsed = parse_spec(spec)
    paths = [os.path.abspath(path) for path in parsed.paths]
    options = {
        key: os.path.abspath(os.path.expanduser(value)) if key in _PATH_OPTIONS else value
        for key, value in parsed.options.items()
    }
    if any("," in part for part in (*paths, *options.values())):
        return parsed.text
    words = [*paths, *(f"{key}={value}" for key, value in options.items())]
    return f"{parsed.kind}:{','.join(words)}" if words else parsed.kind


def picture_root(source: Source) -> str | None:
    """The folder that all pictures of `source` lie in; None for generated ones."""
    if source.files is None:
        return None
    return os.path.commonpath({os.path.abspath(source.files(i)[0].parent) for i in range(len(source))})


def count_trained_on(run: dict[str, Any], source: Source) -> int:
    """How many pictures of `source` the run was trained on, by their names and the folder they lie in."""
    ids, root = set(run.get("train_ids", ())), run.get("train_root")
    same = [i for i, name in enumerate(source.ids) if name in ids]
    if source.files is None or "train_root" not in run:
        return len(same)
    return sum(root is not None and Path(os.path.abspath(source.files(i)[0])).is_relative_to(root) for i in same)


def validation_source(run) -> Source | None:
    """The pictures that a run was validated on, or None where there were none or they are gone, which is logged."""
    spec = run.get("val_data")
    if not spec:
        return None
    try:
        source = open_source(spec, split="val", like=Metadata.from_json(run))
    except (DataError, OSError) as error:
        _log.info("the validation data of the run cannot be opened, so nothing is scored on it: %s", error)
        return None
    wanted = run.get("val_ids") or source.ids
    positions = {name: i for i, name in enumerate(source.ids)}
    chosen = [positions[name] for name in wanted if name in positions]
    return source.subset(chosen) if chosen else None


def run_of(path: str | os.PathLike) -> dict[str, Any]:
    """`metadata.read_run`: what is known about the run that the model at `path` belongs to, {} where there is none.

    Raises:
        ModelError: its `run.json` is damaged.
    """
    try:
        return read_run(path)
    except (ValueError, TypeError) as error:  # Of JSON, of an encoding, or because it holds something else.
        found = (folder / RUN_FILE for folder in (Path(path), *Path(path).absolute().parents[:2]))
        file = next((f for f in found if f.exists()), RUN_FILE)
        raise ModelError(f"{file} is not a valid description of a run ({error}). Restore or delete it.") from error


def record_seconds(folder: Path, seconds: float) -> None:
    """Keeps in `run.json` how long the training took, over all its parts."""
    write_json(folder / RUN_FILE, {**read_json(folder / RUN_FILE), "seconds": round(seconds, 1)})


def read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # Of JSON, or of an encoding.
        raise ModelError(f"{path} is damaged ({error}). Restore or delete it.") from error
