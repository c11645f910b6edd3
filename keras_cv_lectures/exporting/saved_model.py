"""Keras model -> SavedModel folder with named signatures, checked against the model before it is put in place."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.exporting.card import build_card, write_card
from keras_cv_lectures.exporting.result import ExportResult, compare, folder_size
from keras_cv_lectures.exporting.rewrite import in_float32
from keras_cv_lectures.files import atomic_path
from keras_cv_lectures.metadata import CARD_FILE, Metadata
from keras_cv_lectures.runners import SIGNATURE, load_runner
from keras_cv_lectures.serving import freeze

MARKDOWN_FILE = "MODEL_CARD.md"
# What TensorFlow raises instead of an OSError when it cannot write.
_DISK_ERRORS = (tf.errors.ResourceExhaustedError, tf.errors.UnknownError, tf.errors.PermissionDeniedError)


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    input_shape: tuple[int, ...] | None = None,
    metadata: Metadata | None = None,
    metrics: dict[str, float] | None = None,
    verify: bool = True,
) -> ExportResult:
    """Writes a SavedModel folder: uint8 pictures in, the serving outputs out.

    The signatures `serving_default` and `serve` (the same function) take `image` (any B, H, W, C) uint8 and return the
    outputs of `serving_outputs`: for segmentation `logits`, `probabilities` and `class_map`. The weights are constants
    of the graph, so that TensorFlow folds batch normalisation when it loads the folder. A model card
    (`model_card.json`, `MODEL_CARD.md`) lies inside.

    Args:
        path: folder to write; an older one is replaced only when the new one is complete.
        input_shape: (height, width) or (height, width, channels) to fix the picture size; None keeps the model's own,
            which may be any.
        metadata: labels and training size, for the card.
        metrics: measured quality by name, for the card.
        verify: load the folder, run it on a random picture and compare it with the model.

    Raises:
        ModelError: the outputs differ from the model's by more than 1e-4, or the disk is full. Nothing is left then.
    """
    path = Path(path)
    model = in_float32(model)
    shape = picture_shape(model, input_shape)
    with writing(path) as target:
        write_serving_graph(model, target, (None, *shape))
        sample = random_picture(shape)
        difference = None
        if verify:
            found = compare(model, load_runner(target), [sample])
            difference = found.max_difference
            found.require_equal(path)
        size = folder_size(target)
        result = ExportResult(
            path=path,
            precision="float32",
            operators={},
            size_bytes=size,
            max_difference=difference,
            label_agreement=found.label_agreement if verify else None,
            card_path=path / CARD_FILE,
        )
        card = build_card(model, result, sample.shape, metadata or Metadata(), metrics)
        write_card(card, target / CARD_FILE, target / MARKDOWN_FILE)
    return result


def write_serving_graph(model: keras.Model, path: Path, batch_shape: tuple[int | None, ...]) -> None:
    """Writes a SavedModel of the serving function with constant weights, for pictures of `batch_shape` uint8."""
    frozen = freeze(model, batch_shape, dtype="uint8")
    names = frozen.output_names

    def serve(image):
        return dict(zip(names, frozen(image), strict=True))

    module = tf.Module()
    module.serve = tf.function(
        serve, input_signature=[tf.TensorSpec(batch_shape, "uint8", name="image")], autograph=False
    )
    # Loading resolves the frozen function through the module; without the attribute it would be lost.
    module.frozen = frozen
    signature = module.serve.get_concrete_function()
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # "Assets written to ..." names a temporary folder.
    try:
        tf.saved_model.save(module, str(path), signatures={SIGNATURE: signature, "serve": signature})
    finally:
        logger.setLevel(level)


def picture_shape(model: keras.Model, input_shape: tuple[int, ...] | None) -> tuple[int | None, int | None, int]:
    """(H, W, C) of the exported picture from the argument `input_shape` and the model's own input."""
    own = model.input_shape
    if not isinstance(own, tuple) or len(own) != 4:
        raise ModelError(f"Only models of one picture (B, H, W, C) can be exported. {model.name} takes {own}.")
    if input_shape is None:
        return own[1:]
    if len(input_shape) not in (2, 3) or any(not isinstance(s, int | np.integer) or s < 1 for s in input_shape):
        raise ModelError(
            f"`input_shape` must be (height, width) or (height, width, {own[3]}) in pixels. Received: {input_shape}"
        )
    shape = (*(int(s) for s in input_shape[:2]), int(input_shape[2]) if len(input_shape) == 3 else own[3])
    if any(o not in (None, s) for o, s in zip(own[1:], shape, strict=True)):
        raise ModelError(f"`input_shape` {shape} does not fit {model.name}, which was built for {own[1:]}.")
    return shape


def random_picture(shape: tuple[int | None, ...], default: tuple[int, int] = (96, 128)) -> np.ndarray:
    """(1, H, W, C) uint8: smooth blobs with noise, the same at every call; `default` where the size is free."""
    rng = np.random.default_rng(0)
    height, width = (s or d for s, d in zip(shape[:2], default, strict=True))
    coarse = rng.uniform(0, 255, (1, -(-height // 16), -(-width // 16), shape[2]))
    picture = coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width]
    return np.clip(picture + rng.normal(0, 10, picture.shape), 0, 255).astype(np.uint8)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """`atomic_path` whose failure to write is a ModelError that names the folder and its free space."""
    try:
        with atomic_path(path) as target:
            yield target
    except (OSError, *_DISK_ERRORS) as error:
        raise ModelError(
            f"{path} could not be written: {error}. {_free_space(path.parent)} Free some space or choose another "
            "folder; nothing was left behind."
        ) from error


@contextlib.contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A temporary folder on the disk of `beside`, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=".converting-", dir=beside))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_space(folder: Path) -> str:
    try:
        return f"{folder} has {shutil.disk_usage(folder).free / 1e6:.0f} MB free."
    except OSError:
        return f"{folder} is not a folder that can be written to."
