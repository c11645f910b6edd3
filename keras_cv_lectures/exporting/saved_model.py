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
from keras_cv_lectures.exporting.captioner import captioner_in_float32, check_vocabulary
from keras_cv_lectures.exporting.card import build_card, plain_metrics, write_card
from keras_cv_lectures.exporting.detector_files import check_labels, labels_text, program_file, with_labels
from keras_cv_lectures.exporting.given import (
    MARKDOWN_FILE,
    model_to_export,
    refuse_other_content,
    warn_of_raw_input,
    with_windows,
)
from keras_cv_lectures.exporting.graphs import save_graphs
from keras_cv_lectures.exporting.result import (
    ExportResult,
    compare,
    facts,
    folder_size,
    is_captioner,
    output_shapes,
)
from keras_cv_lectures.exporting.rewrite import folded, in_float32
from keras_cv_lectures.files import atomic_path, write_text
from keras_cv_lectures.geometry.receptive import accepts_size, fit_size, receptive_field
from keras_cv_lectures.language import Captioner
from keras_cv_lectures.metadata import CARD_FILE, Metadata, labels_file
from keras_cv_lectures.postprocessing.detection import are_detections
from keras_cv_lectures.runners import SIGNATURE, load_runner
from keras_cv_lectures.serving import declared_shape, freeze, refuse_changes, serving_function

# What is compared where no pictures are given.
GENERATED = "a generated picture"


def export_saved_model(
    model: keras.Model | str | os.PathLike,
    path: str | os.PathLike,
    *,
    input_shape: tuple[int, ...] | None = None,
    metadata: Metadata | None = None,
    metrics: dict[str, float] | None = None,
    verify: bool = True,
    constant_weights: bool = True,
) -> ExportResult:
    """Writes a SavedModel folder: uint8 pictures in, the serving outputs out.

    The signatures `serving_default` and `serve` (the same function; of a captioner also `caption`) take `image` (any B,
    H, W, C) uint8 and return the outputs of `serving_outputs`: for segmentation `logits`, `probabilities` and
    `class_map`, for a detector those of `detection.Detector`, for a captioner those of `language.Captioner`. The
    weights are constants of the graph, which TensorFlow arranges once for the processor. A model card
    (`model_card.json`, `MODEL_CARD.md`) lies inside; of a detector or captioner also its class names or words
    (`labels.txt`, the number of the line is the id) and a program that runs it on a picture file (`run.py`).

    Args:
        model: of pictures (B, H, W, C), as the builders make it, or the path of a run folder or `.keras` file.
        path: folder to write. An older SavedModel there is replaced, but only when the new one is complete; a folder
            that holds anything else is refused.
        input_shape: (height, width) or (height, width, channels) to fix the picture size; None keeps the model's own,
            which may be any.
        metadata: labels and training size, for the card; None takes what stands beside a `model` given by its path.
        metrics: measured quality by name, for the card.
        verify: load the folder, run it on a random picture, compare it with the model and time it.
        constant_weights: False keeps the weights as variables, batch normalisation folded into them. TensorFlow holds
            some ten copies of a constant and one of a variable: a network of 100 MB and more then takes a third of
            the memory, loads in a fraction of the time and runs a little slower.

    Raises:
        ModelError: there is no model, `path` holds something else, a metric is no number, there are other numbers of
            class names or colours than classes, a layer cannot be copied for `constant_weights=False`, the outputs
            differ from the model's by more than 1e-4, a detector finds other objects, no picture size was found that a
            network of open size takes, or the disk is full. Nothing is left then.
    """
    path, metrics = Path(path), plain_metrics(metrics)
    refuse_other_content(path)
    model, metadata, of_run = model_to_export(model, metadata)
    warn_of_raw_input(model)
    if isinstance(model, Captioner):
        check_vocabulary(model, metadata)
        model = captioner_in_float32(model)
    else:
        model = in_float32(model)
    shape = picture_shape(model, input_shape)
    metadata = with_windows(metadata, model, shape[:2]) if of_run else metadata
    metadata = with_labels(metadata, model)
    check_labels(metadata, model)
    with writing(path) as target:
        write_serving_graph(model, target, (None, *shape), constant_weights=constant_weights)
        sample = random_picture(shape, sample_size(model, shape))
        runner = load_runner(target) if verify else None
        comparison = compare(model, runner, [sample]) if runner else None
        if comparison:
            comparison.require_equal(path)
        size = folder_size(target)
        result = ExportResult(
            path=path,
            precision="float32",
            operators={},
            size_bytes=size,
            card_path=path / CARD_FILE,
            **facts(comparison),
        )
        card = build_card(
            model,
            result,
            sample.shape,
            metadata,
            metrics,
            runnable=runner,
            open_size=shape[:2] == (None, None),
            compared_on=GENERATED if comparison else None,
        )
        write_card(card, target / CARD_FILE, target / MARKDOWN_FILE)
        if are_detections({name: value["shape"] for name, value in card["outputs"].items()}) or is_captioner(
            card["outputs"]
        ):
            write_text(program_file(target), card["program"])
            if metadata.classes:
                write_text(labels_file(target), labels_text(metadata.classes))
    return result


def write_serving_graph(
    model: keras.Model, path: Path, batch_shape: tuple[int | None, ...], *, constant_weights: bool = True
) -> dict[str, list[int | None] | None]:
    """Writes a SavedModel of the serving function for pictures of `batch_shape` uint8.

    Returns:
        The shapes of its outputs by name; None for one of unknown rank.
    """
    module = tf.Module()
    if constant_weights:
        # Loading resolves the frozen function through the module; without the attribute it would be lost.
        module.frozen = frozen = freeze(model, batch_shape, dtype="uint8")

        def serve(image):
            return dict(zip(frozen.output_names, frozen(image), strict=True))
    else:
        model = folded(model)
        serve = serving_function(model)
        # As are variables.
        module.weights = [variable.value for variable in model.variables]
    module.serve = tf.function(
        serve, input_signature=[tf.TensorSpec(batch_shape, "uint8", name="image")], autograph=False
    )
    signature = module.serve.get_concrete_function()
    refuse_changes(signature, model.name)
    shapes = {name: value.shape for name, value in sorted(signature.structured_outputs.items())}
    keys = (SIGNATURE, "serve", *(["caption"] if is_captioner(shapes) else []))
    save_graphs(module, path, dict.fromkeys(keys, signature))
    return {name: None if shape.rank is None else shape.as_list() for name, shape in shapes.items()}


def picture_shape(model: keras.Model, input_shape: tuple[int, ...] | None) -> tuple[int | None, int | None, int]:
    """(H, W, C) of the exported picture from the argument `input_shape` and the model's own input."""
    own = declared_shape(model)
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


def sample_size(
    model: keras.Model, shape: tuple[int | None, ...], default: tuple[int, int] = (96, 128)
) -> tuple[int, int]:
    """(height, width) of a picture that `model` can be tried with where `shape` (H, W, C) leaves its size open.

    A network of valid convolutions gets a larger one than `default`, of a size that it takes.

    Raises:
        ModelError: no size was found.
    """
    size = tuple(s or d for s, d in zip(shape[:2], default, strict=True))
    graph = isinstance(model, keras.Function | keras.Sequential)
    if None not in shape[:2] or not graph or are_detections(output_shapes(model)):
        return size
    if accepts_size(model, size):
        return size
    field = receptive_field(model)
    try:
        return fit_size(model, tuple(s + lost for s, lost in zip(size, field.lost, strict=True)), field)
    except ModelError as error:
        raise ModelError(f"{error} Pass input_shape=(height, width) to fix the size of the pictures.") from error


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
    except OSError as error:
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
