"""What an exporter was given: the model or the path of one, its metadata, and a place that may be written to."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any

import keras

from keras_cv_lectures.errors import KcvlWarning, ModelError
from keras_cv_lectures.exporting.detector_files import PROGRAM_FILE
from keras_cv_lectures.exporting.result import is_captioner, output_shapes
from keras_cv_lectures.geometry.receptive import receptive_field, window_margin
from keras_cv_lectures.layers.preprocessing import is_without_normalization
from keras_cv_lectures.metadata import CARD_FILE, LABELS_FILE, Metadata, has_metadata, read_metadata
from keras_cv_lectures.postprocessing.detection import are_detections
from keras_cv_lectures.runners import load_keras_model

MARKDOWN_FILE = "MODEL_CARD.md"
_GRAPH = "saved_model.pb"
# All that TensorFlow and this package write into the folder of a SavedModel, and what macOS lays into any.
_OWN = {
    ".DS_Store",
    _GRAPH,
    "assets",
    "assets.extra",
    "fingerprint.pb",
    "keras_metadata.pb",
    "variables",
    CARD_FILE,
    LABELS_FILE,
    MARKDOWN_FILE,
    PROGRAM_FILE,
}


def model_to_export(
    model: keras.Model | str | os.PathLike, metadata: Metadata | None
) -> tuple[keras.Model, Metadata, bool]:
    """The model and what is known about it; that of a path stands beside it where `metadata` is None.

    Returns:
        Model, metadata, and whether these are those of a run, so that `with_windows` may add to them.

    Raises:
        ModelError: `model` is neither a model nor the path of a run folder or `.keras` file.
    """
    of_run = False
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        model = load_keras_model(path)
        if metadata is None:
            metadata, of_run = read_metadata(path), has_metadata(path)
    elif not isinstance(model, keras.Model):
        raise ModelError(
            "`model` must be a Keras model, or the path of a run folder or `.keras` file. Received: "
            f"model={model!r} ({type(model).__name__})"
        )
    return model, metadata or Metadata(), of_run


def with_windows(metadata: Metadata, model: keras.Model, size: tuple[int | None, int | None]) -> Metadata:
    """The metadata of a run for a file of its model: whether and how that sees larger pictures in windows.

    Args:
        size: (height, width) of the file's input; None where it is open.
    """
    shapes = output_shapes(model)
    if are_detections(shapes) or is_captioner(shapes):
        return metadata
    return dataclasses.replace(metadata, **window_facts(model, size, metadata.input_size is None))


def window_facts(model: keras.Model, size: tuple[int | None, int | None], own_sizes: bool) -> dict[str, Any]:
    """What `Metadata` says of windows on larger pictures, as far as it is known.

    Args:
        size: (height, width) of the file's input; None where it is open.
        own_sizes: the network was trained at the pictures' own resolution, as only `has_metadata` beside the model
            can tell: metadata that is absent has no `input_size`, either. A file of one size then sees windows, unless
            the model itself takes one size (and no border is lost), or answers at a coarser stride.
    """
    if not isinstance(model, keras.Function | keras.Sequential):
        return {}
    field = receptive_field(model)
    open_model = None in model.input_shape[1:3]
    if own_sizes and None not in size and (field.lost != (0, 0) or (open_model and field.output_stride == (1, 1))):
        margin, stride = window_margin(field, size)
        return {"tiled": True, "tile_margin": margin, "tile_stride": stride}
    return {} if field.limit else {"tile_margin": field.margin, "tile_stride": field.stride}


def warn_of_raw_input(model: keras.Model) -> None:
    """Warns where a file will hand its pictures to a network that wants them normalised."""
    if is_without_normalization(model):
        warnings.warn(
            f"{model.name} was built without its normalisation (include_preprocessing=False), and an exported file "
            "takes uint8 pictures: the network behind it will see 0..255 as it is. Build the model with "
            "include_preprocessing=True and set the same weights, unless it was trained on such pictures.",
            KcvlWarning,
            stacklevel=3,
        )


def refuse_other_content(path: Path) -> None:
    """Raises ModelError unless `path` is free, an empty folder, or a SavedModel with nothing else beside it."""
    if not path.exists():
        return
    repair = "Choose another `path`, such as one that does not exist yet"
    if not path.is_dir():
        raise ModelError(f"`path` {path} is a file; the folder of a SavedModel would replace it. {repair}.")
    content = {entry.name for entry in path.iterdir()}
    others = sorted(content - _OWN)
    if others or (content and _GRAPH not in content):
        found = f"holds {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}" if others else f"has no {_GRAPH}"
        raise ModelError(
            f"`path` must be a new or empty folder, or one with a SavedModel and nothing else, because all that is in "
            f"it is replaced. {path} {found}. {repair}: {path / 'saved_model'}"
        )
