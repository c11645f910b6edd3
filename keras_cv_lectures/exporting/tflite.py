"""Keras model -> TensorFlow Lite file of builtin operators, compared with the model before it is put in place."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_cv_lectures.errors import KcvlWarning, ModelError
from keras_cv_lectures.exporting.audit import check_operators, explain_conversion_error
from keras_cv_lectures.exporting.captioner import (
    MAP,
    ORDER,
    SIGNATURES,
    captioner_in_float32,
    check_vocabulary,
    write_decoder_graphs,
)
from keras_cv_lectures.exporting.card import build_card, plain_metrics, write_card
from keras_cv_lectures.exporting.detector_files import check_labels, labels_text, program_file, with_labels
from keras_cv_lectures.exporting.given import model_to_export, warn_of_raw_input, with_windows
from keras_cv_lectures.exporting.join import in_sequence
from keras_cv_lectures.exporting.quantize import quantize, quantize_networks, values_in_eight_bits
from keras_cv_lectures.exporting.ranges import with_measured_ranges
from keras_cv_lectures.exporting.result import (
    ExportResult,
    compare,
    facts,
    is_captioner,
    output_shapes,
    warn_of_loss,
)
from keras_cv_lectures.exporting.rewrite import for_export, in_float32
from keras_cv_lectures.exporting.saved_model import (
    GENERATED,
    picture_shape,
    random_picture,
    sample_size,
    scratch_folder,
    write_serving_graph,
    writing,
)
from keras_cv_lectures.files import write_text
from keras_cv_lectures.language import Captioner
from keras_cv_lectures.layers.portable import portable_operators
from keras_cv_lectures.metadata import Metadata, labels_file, metadata_path
from keras_cv_lectures.postprocessing.detection import are_detections
from keras_cv_lectures.runners import SIGNATURE, load_runner

PRECISIONS = ("float32", "float16", "int8")
# Fewer pictures leave activation ranges that real pictures exceed.
MIN_EXAMPLES = 100
# More change the ranges hardly at all and cost time and memory.
MAX_EXAMPLES = 300
_COMPARED = 8


def export_tflite(
    model: keras.Model | str | os.PathLike,
    path: str | os.PathLike,
    *,
    precision: str = "float32",
    representative: Iterable[np.ndarray] | None = None,
    input_shape: tuple[int, ...] | None = None,
    dynamic: bool = False,
    metadata: Metadata | None = None,
    metrics: dict[str, float] | None = None,
    verify: bool = True,
) -> ExportResult:
    """Writes a `.tflite` file that takes one uint8 picture and runs on TensorFlow Lite's builtin operators alone.

    The signature `serving_default` takes `image` (1, H, W, C) uint8 and returns the outputs of `serving_outputs`: for
    segmentation `logits` and `probabilities` (1, H, W, K) float32 and `class_map` (1, H, W) int32, whatever the
    precision; for a detector the outputs of `detection.Detector`, boxes in pixels of this picture. Transposed
    convolutions become convolution + depth-to-space. A model card lies beside the file (`NAME.json`, `NAME.md`), and
    beside a detector or captioner its class names or words (`NAME.txt`, the number of the line is the id) and a program
    that runs it on a picture file (`NAME_run.py`).

    A captioner's file has more signatures: `beam` (the same as `serving_default`) and `greedy`, from picture to
    sentence; `encode`, from picture to what a step needs (`annotations`, `projected`, `hidden`, `cell`; the names are
    the decoder's `memory_names` and `state_names`), and `decode_step`, from that and `tokens` (1, K) int32, the words
    said last, to `log_probabilities` (1, K, V), the next state and `attention` (1, K, L). K is the model's `beam_size`.

    Args:
        model: of pictures (B, H, W, C), as the builders make it, or the path of a run folder or `.keras` file.
        path: file to write, ending in `.tflite`; an older one is replaced only when the new one has passed.
        precision: "float32"; "float16" (weights in half the space, computed in float32 on a CPU); "int8" (weights,
            one scale per channel, and activations in 8 bits; softmax and sigmoid in float32; of a detector the networks
            alone, see `quantize_networks`; of a captioner the encoder, and of the decoder the weights alone).
        representative: uint8 pictures (H, W, C) or batches (B, H, W, C) of the training data at the exported size,
            needed by "int8" to measure the ranges of the activations: at least 100; the first 300 are used, so
            shuffle them. For the other precisions the first few are used for the comparison.
        input_shape: (height, width) or (height, width, channels) in pixels; None takes the model's own where it is
            known.
        dynamic: leave height and width open, to be set by `resize_tensor_input` on the device; excludes `input_shape`.
            Slower than a fixed size, and not with int8 kernels on every accelerator.
        metadata: labels and training size, for the card; None takes what stands beside a `model` given by its path.
        metrics: measured quality by name, for the card.
        verify: run the file and compare it with the model.

    Returns:
        What was written, with the largest difference to the model and the share of equal labels. Both are measured on
        the first eight pictures of `representative`, of an int8 file thus on some that it was calibrated with, or on a
        generated one. A `KcvlWarning` tells of a float16 file that is off by 1 % of the largest output, and of one of
        less than 32 bits that keeps fewer than 4 of 5 labels.

    Raises:
        ModelError: an argument does not fit, such as other numbers of class names than classes; an operator has no
            builtin (the message names operator and layer); a float32 file disagrees with the model by more than 1e-4,
            in its labels but for ties, or finds other objects or words; the disk is full. Nothing is left then.
    """
    path = Path(path)
    if path.suffix != ".tflite":
        raise ModelError(f"`path` must end in .tflite. Received: {path}")
    if precision not in PRECISIONS:
        raise ModelError(f"`precision` must be one of {PRECISIONS}. Received: precision={precision!r}")
    if dynamic and input_shape is not None:
        raise ModelError(
            "`dynamic` leaves height and width open and `input_shape` fixes them. Received: dynamic=True, "
            f"input_shape={tuple(input_shape)}. Drop one of them."
        )
    metrics = plain_metrics(metrics)
    model, metadata, of_run = model_to_export(model, metadata)
    warn_of_raw_input(model)
    captioner = isinstance(model, Captioner)
    if captioner:
        check_vocabulary(model, metadata)
    reference = captioner_in_float32(model) if captioner else in_float32(model)
    shape = picture_shape(reference, input_shape)
    if None in shape and not dynamic:
        raise ModelError(
            f"`input_shape` is needed because {model.name} takes pictures of any size. Pass input_shape=(height, "
            "width), or dynamic=True to leave height and width open."
        )
    if dynamic and (captioner or are_detections(output_shapes(model))):
        kind = "captioner" if captioner else "detector"
        raise ModelError(
            f"{model.name} is a {kind}, and the `.tflite` file of a {kind} takes one size. Pass "
            "input_shape=(height, width) instead of dynamic=True; pictures of other shapes are scaled to fit into it."
        )
    if of_run:
        metadata = with_windows(metadata, model, (None, None) if dynamic else shape[:2])
    if dynamic and shape[:2] != (None, None):
        raise ModelError(
            f"{model.name} takes pictures of {_side(shape[0])}x{_side(shape[1])} pixels, which `dynamic=True` cannot "
            f"open. Leave it out, or build the model for pictures of (None, None, {shape[2]})."
        )
    metadata = with_labels(metadata, reference)
    check_labels(metadata, reference)
    examples = _examples(representative, shape, precision)
    samples = examples[:_COMPARED] or [random_picture(shape, sample_size(reference, shape))]
    if dynamic:
        size = sample_size(reference, shape, (160, 96))
        samples = samples + [random_picture(shape, size)]
    graph_shape = (1, None, None, shape[2]) if dynamic else (1, *shape)

    compared_on = GENERATED
    if examples:
        calibrated = ", which it was calibrated with" if precision == "int8" else ""
        compared_on = f"the first {len(examples[:_COMPARED])} pictures of `representative`{calibrated}"
    if dynamic:
        compared_on += ", and a generated one of another size"
    outdated = _beside_older(path)
    with contextlib.ExitStack() as files:
        target = files.enter_context(writing(path))
        if captioner:
            content = _convert_captioner(reference, graph_shape, precision, examples, target.parent)
        else:
            content = _convert(for_export(reference), graph_shape, precision, examples, target.parent)
        target.write_bytes(content)
        found = check_operators(target)
        comparison = compare(reference, load_runner(target), samples) if verify else None
        if comparison and precision == "float32":
            comparison.require_equal(path)
        result = ExportResult(
            path=path,
            precision=precision,
            operators=found,
            size_bytes=target.stat().st_size,
            card_path=path.with_suffix(".json"),
            **facts(comparison),
        )
        card = build_card(
            reference,
            result,
            samples[0].shape,
            metadata,
            metrics,
            runnable=target,
            open_size=dynamic,
            compared_on=compared_on if comparison else None,
        )
        json_target, markdown_target = (files.enter_context(writing(path.with_suffix(s))) for s in (".json", ".md"))
        write_card(card, json_target, markdown_target)
        beside = {}
        if are_detections({name: value["shape"] for name, value in card["outputs"].items()}) or is_captioner(
            card["outputs"]
        ):
            beside[program_file(path)] = card["program"]
            if metadata.classes:
                beside[labels_file(path)] = labels_text(metadata.classes)
        for place, text in beside.items():
            write_text(files.enter_context(writing(place)), text)
    for place in outdated - set(beside):
        _remove(place)
    warn_of_loss(comparison, path, precision, compared_on, reference.weights)
    return result


def _side(length: int | None) -> str:
    return "any" if length is None else str(length)


def _beside_older(path: Path) -> set[Path]:
    """What an older export to `path` wrote beside its card, as it wrote it: words and a program.

    Files of these names that hold anything else are somebody's own.
    """
    card = _json(metadata_path(path))
    if not isinstance(card, dict) or card.get("file") != path.name or not isinstance(card.get("program"), str):
        return set()
    if card.get("task") not in ("detection", "captioning"):  # Others have nothing but the card.
        return set()
    written = {program_file(path): card["program"]}
    classes = card.get("classes")
    if classes and isinstance(classes, list) and all(isinstance(name, str) for name in classes):
        written[labels_file(path)] = labels_text(classes)
    return {place for place, text in written.items() if _text(place) == text}


def _json(path: Path) -> object:
    try:
        return json.loads(_text(path) or "null")
    except ValueError:  # It is damaged.
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):  # There is none, or it is no text.
        return None


def _remove(place: Path) -> None:
    """Removes a file of an older export; one that cannot be removed is no failure of the new export."""
    try:
        place.unlink(missing_ok=True)
    except OSError as error:
        warnings.warn(
            f"{place} belongs to the export that this one replaced, and could not be removed: {error}. Remove it.",
            KcvlWarning,
            stacklevel=3,
        )


def _convert(
    model: keras.Model, shape: tuple[int | None, ...], precision: str, examples: list[np.ndarray], folder: Path
) -> bytes:
    # Through a SavedModel of constants: a concrete function with variables converts into a file that reads
    # uninitialised memory, without an error.
    with scratch_folder(folder) as scratch:
        with portable_operators():
            outputs = write_serving_graph(model, scratch / "model", shape)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(scratch / "model"), signature_keys=[SIGNATURE])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if precision == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        elif precision == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            # Which values get a range, that is all that is asked of the converter: see `with_measured_ranges`. And the
            # second half below can leave operators out of the 8 bits, `convert` alone cannot.
            converter.representative_dataset = lambda: ({"image": example} for example in examples[:1])
            converter._experimental_calibrate_only = True
        try:
            with _quiet():
                content = converter.convert()
                if precision != "int8":
                    return content
            detector = are_detections(outputs)
            content = with_measured_ranges(content, examples, values_in_eight_bits(content) if detector else None)
            with _quiet():
                return (quantize_networks if detector else quantize)(content)
        # The converter's own error type is private.
        except Exception as error:
            raise explain_conversion_error(error, model) from error


def _convert_captioner(
    model: Captioner, shape: tuple[int, ...], precision: str, examples: list[np.ndarray], folder: Path
) -> bytes:
    """The searches and the step of a captioner behind its encoder."""
    encoder = _convert(for_export(model.encoder), shape, precision, examples, folder)
    with scratch_folder(folder) as scratch:
        write_decoder_graphs(model, scratch / "model", tuple(model.encoder.compute_output_shape(shape)[1:]))
        converter = tf.lite.TFLiteConverter.from_saved_model(str(scratch / "model"), signature_keys=list(SIGNATURES))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if precision != "float32":
            # Of "int8" the words' weights alone: states and scores stay in float32, or sentences would change.
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            with _quiet():
                decoder = converter.convert()
        # The converter's own error type is private.
        except Exception as error:
            raise explain_conversion_error(error, model) from error
    return in_sequence(encoder, decoder, MAP, ORDER, same={SIGNATURE: "beam"})


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the converter's C++ writes to standard error; an exception repeats all of it that matters."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as sink, warnings.catch_warnings():
            # The converter calibrates with the interpreter whose successor this package uses.
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _examples(
    representative: Iterable[np.ndarray] | None, shape: tuple[int | None, ...], precision: str
) -> list[np.ndarray]:
    """Up to 300 pictures (1, H, W, C) uint8 of the exported size."""
    if precision == "int8" and representative is None:
        raise ModelError(
            'precision="int8" needs `representative`: pictures of the training data that show how large the '
            f"activations get. Pass at least {MIN_EXAMPLES} uint8 pictures (height, width, channels)."
        )
    limit = MAX_EXAMPLES if precision == "int8" else _COMPARED
    examples = list(itertools.islice(_pictures(() if representative is None else representative, shape), limit))
    if precision == "int8" and len(examples) < MIN_EXAMPLES:
        raise ModelError(
            f"`representative` has {len(examples)} pictures; int8 needs at least {MIN_EXAMPLES}, because fewer leave "
            "activation ranges that real pictures exceed. Pass more of the training data, "
            'or export with precision="float16".'
        )
    return examples


def _pictures(representative: Iterable[np.ndarray], shape: tuple[int | None, ...]) -> Iterator[np.ndarray]:
    for item in representative:
        if isinstance(item, tuple) and len(item) == 1:  # as `Dataset.zip((pictures,))` gives them
            item = item[0]
        if isinstance(item, dict) or (isinstance(item, tuple) and not _is_batch(item)):
            raise ModelError(
                f"`representative` must give pictures alone. Received: a {type(item).__name__} of {len(item)}. Leave "
                "out the targets, such as with dataset.map(lambda picture, mask: picture)."
            )
        batch = np.asarray(item)
        if batch.ndim == 3:
            batch = batch[None]
        fits = batch.ndim == 4 and all(e in (None, s) for e, s in zip(shape, batch.shape[1:], strict=True))
        if not fits or batch.dtype != np.uint8:
            raise ModelError(
                f"`representative` must give uint8 pictures of shape {shape}, or batches of them. Received: "
                f"{batch.dtype} of shape {np.shape(item)}. Resize the pictures to the exported size."
            )
        for picture in batch:
            yield picture[None]


def _is_batch(parts: tuple) -> bool:
    """Whether a tuple can only be pictures: Keras knows no more parts than picture, target and weight."""
    shapes = {np.shape(part) for part in parts}
    return len(parts) > 3 and len(shapes) == 1 and len(shapes.pop()) == 3
