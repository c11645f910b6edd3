"""Exports of a run, scored on its validation data and noted in its folder."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.data import Source, has_splits, open_source
from keras_cv_lectures.data.trained_on import trained_on
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.evaluating import (
    CaptionEvaluation,
    DetectionEvaluation,
    caption_headlines,
    evaluate_captioning,
    evaluate_detection,
    evaluate_segmentation,
    headline_scores,
)
from keras_cv_lectures.exporting import export_saved_model, export_tflite, update_card
from keras_cv_lectures.exporting.detector_files import with_labels
from keras_cv_lectures.exporting.given import window_facts
from keras_cv_lectures.exporting.tflite import MIN_EXAMPLES as MIN_CALIBRATION
from keras_cv_lectures.files import digest, write_json
from keras_cv_lectures.geometry.tiles import cut_window
from keras_cv_lectures.metadata import Metadata, has_metadata, read_metadata
from keras_cv_lectures.postprocessing.detection import fitted_size, on_canvas
from keras_cv_lectures.predicting import as_runner, is_captioner, is_detector, predict
from keras_cv_lectures.predicting.pictures import resize_picture
from keras_cv_lectures.preprocessing import resize_example
from keras_cv_lectures.recipe import Recipe
from keras_cv_lectures.reporting.pages import EXPORTS, REPORT, refresh_report
from keras_cv_lectures.reporting.runs import harmless_spec, open_numbered, read_json, run_of, validation_source
from keras_cv_lectures.runners import keras_file, load_keras_model, load_runner
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.visualize.sections import FILE_SCORES

_log = logging.getLogger(__name__)

_CALIBRATION = 200
# Key of an example that a model is compared with -> what compares.
_EVALUATE = {"boxes": evaluate_detection, "captions": evaluate_captioning, "mask": evaluate_segmentation}
_Pair = tuple[int, int]


def export_run(
    path: Path,
    *,
    out: Path,
    file_format: str = "tflite",
    precision: str = "float32",
    spec: str | None = None,
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    low_memory: bool = False,
    progress: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Exports the model at `path` and measures the file on labelled pictures where there are any.

    Args:
        path: a run folder or a `.keras` file.
        out: folder for the export.
        file_format: "tflite" or "saved_model".
        precision: "float32", "float16" or "int8".
        spec: pictures to calibrate int8 with, and to score the file on (the layout's validation split where it has
            one), but for those in the training's folder that the run was trained on; the run's own data by default.
        size: (height, width) of the input; the run's by default. Of a network of valid convolutions it is the size
            that is answered for, and the file's input is larger by the network's context. The file of a segmentation
            that was trained on crops, without an `input_size`, sees larger pictures in windows of this size; its card
            holds the margin and stride (`geometry.receptive.window_margin`).
        dynamic: height and width stay open. Pictures are still resized to the size that the run was trained at.
        low_memory: a SavedModel with variables instead of constants, see `export_saved_model`.
        progress: label -> context manager that is called with (done, total).

    Returns:
        What was measured, for a person to read; "file" is the path, "report" the run's page or None, "not_scored" why
        there are no scores, or None.

    Raises:
        ModelError, DataError: the settings exclude each other, the pictures of `spec` are missing or too few, or the
            exporter refuses. A failure to open the run's own data to score the file on is logged instead, as it is
            where `spec` can be calibrated with but has no validation split.
    """
    if file_format == "saved_model" and precision != "float32":
        raise ModelError(f"a SavedModel is float32; {precision} needs --format tflite.")
    if low_memory and file_format != "saved_model":
        raise ModelError("low_memory is for SavedModels; a TFLite file holds its weights once anyway.")
    if precision == "int8" and dynamic:
        raise ModelError("int8 needs a fixed input size: drop --dynamic, or choose float32 or float16.")
    model, metadata, run = load_keras_model(path), read_metadata(path), run_of(path)
    recipe = SYSTEMS.get(metadata.system)
    config = metadata.config or {}
    context = (
        recipe.context(config, recipe.options, tuple(metadata.classes))
        if recipe and recipe.needs_one_size(config)
        else None
    )
    if dynamic and context:
        raise ModelError(
            f"{path} answers only for the middle of its input, so that its size must be fixed: drop --dynamic."
        )
    detector, captioner = bool(is_detector(as_runner(model))), bool(is_captioner(as_runner(model)))
    # A SavedModel of a detector takes pictures as they are, since they are resized inside.
    known = None if detector and file_format == "saved_model" else metadata.input_size
    size = None if dynamic else size or known
    if size is None and not dynamic and None in model.input_shape[1:3] and (context or file_format == "tflite"):
        or_else = "" if context else ", or use --dynamic"
        raise ModelError(f"{path} works at any size; choose the export's with --size HEIGHTxWIDTH{or_else}.")
    window, margin = _window(context, size)
    tiles = {}
    if not (detector or captioner):
        own = (None, None) if dynamic else model.input_shape[1:3]
        tiles = window_facts(model, window or own, has_metadata(path) and metadata.input_size is None)
    in_windows = tiles.get("tiled", False)
    metadata = dataclasses.replace(metadata, input_size=None if in_windows else size or known, **tiles)
    pictures = None
    if precision == "int8":
        source, indices = _calibration_data(spec, run, metadata)
        read = _picture_reader(source, model.input_shape, None if in_windows else size, window, margin, detector)
        pictures = (read(index) for index in indices)
    scored = _scoring_data(spec, run, with_labels(metadata, model), needed=pictures is None)
    not_scored = "there are no labelled pictures. --data SPEC names some" if scored is None else ""
    evaluate = recipe.evaluate if recipe else None
    if scored is not None and recipe is None:
        kind = "boxes" if detector else "captions" if captioner else "mask"
        evaluate = _EVALUATE[kind]
        scored, not_scored, metadata = _fitting(scored, spec, kind, model, with_labels(metadata, model), size)
    if scored is not None and spec:
        scored, not_scored = _unseen(scored, run)
    out.mkdir(parents=True, exist_ok=True)
    name = metadata.system or path.stem
    if file_format == "saved_model":
        result = export_saved_model(
            model,
            out / f"{name}_saved_model",
            input_shape=window,
            metadata=metadata,
            constant_weights=not low_memory,
        )
    else:
        result = export_tflite(
            model,
            out / f"{name}_{precision}{'_dynamic' if dynamic else ''}.tflite",
            precision=precision,
            representative=pictures,
            input_shape=window,
            dynamic=dynamic,
            metadata=metadata,
        )
    scores, scored_on = _score_file(result.path, evaluate, scored, progress)
    card = update_card(
        result.path, metrics=scores, data=scored_on, reference=recipe.reference.paper if recipe else None
    )
    latency = card.get("latency_ms", {})
    row = {
        "file": str(result.path),
        "task": card.get("task"),
        "format": file_format,
        "precision": precision,
        "size_bytes": result.size_bytes,
        "latency_ms_1_thread": latency.get("1"),
        "latency_ms_2_threads": latency.get("2"),
        "mean_iou": scores.get("mean_iou"),
        **{name: value for name, value in scores.items() if name in FILE_SCORES},
        "scored_on": scored_on,
        "max_difference": result.max_difference,
        "label_agreement": result.label_agreement,
        "operators_ok": True if file_format == "tflite" else None,
    }
    report = _keep_row(Path(run["folder"]), row, keras_file(path), recipe, run) if run else None
    return {**row, "report": report, "not_scored": not_scored or None}


def _window(context: Callable | None, size: _Pair | None) -> tuple[_Pair | None, _Pair]:
    """(height, width) of the network's input that answers for `size`, and how far it reaches beyond it."""
    if context is None or size is None:
        return size, (0, 0)
    (height, above), (width, left) = (context(side) for side in size)
    return (height, width), (above, left)


def _calibration_data(spec: str | None, run: Mapping[str, Any], metadata: Metadata) -> tuple[Source, list[int]]:
    """A source and the pictures of it to calibrate with, evenly spread over those that were trained on.

    Raises:
        DataError: there are too few; the message says what to do.
    """
    repair = f"Pass --data SPEC with at least {MIN_CALIBRATION} pictures, or choose --precision float16."
    known = spec or run.get("data")
    if not known:
        raise DataError(f"int8 needs pictures to calibrate with, and none are known for this model. {repair}")
    try:
        known = known if spec else harmless_spec(known)
        source = open_source(known, split="train" if has_splits(known) else None, like=_named(metadata))
    except DataError as error:
        if spec:
            raise
        raise DataError(f"the training pictures, which int8 is calibrated with, are gone: {error}\n{repair}") from error
    wanted = set(source.ids if spec else run.get("train_ids") or source.ids)
    indices = [i for i, name in enumerate(source.ids) if name in wanted]
    if len(indices) < MIN_CALIBRATION:
        raise DataError(
            f"int8 needs at least {MIN_CALIBRATION} pictures to calibrate with, because fewer leave activation ranges "
            f"that real pictures exceed; {source.name} has {len(indices)} to train on. {repair}"
        )
    chosen = np.linspace(0, len(indices) - 1, min(len(indices), _CALIBRATION)).round().astype(int)
    return source, [indices[i] for i in chosen]


def _picture_reader(
    source: Source,
    input_shape: tuple[int | None, ...],
    size: _Pair | None,
    window: _Pair | None,
    margin: _Pair,
    fitted: bool,
) -> Callable[[int], np.ndarray]:
    """Index -> picture (H, W, C) uint8 as the exported network sees it.

    Args:
        size: that pictures are resized to; None for a window from the middle of each at its own resolution.
        window: of the network, mirrored by `margin` beyond the resized picture.
        fitted: resize with the aspect kept, and lay the picture on a canvas of `window`, as detectors see it.
    """
    fixed, channels = input_shape[1:3], input_shape[-1]

    def read(index: int) -> np.ndarray:
        image = source[index]["image"]
        if image.shape[-1] != channels:
            raise DataError(
                f"{source.name} has {image.shape[-1]} channels, the model takes {channels}. Add channels={channels} to "
                "the data specification."
            )
        if fitted:
            small = fitted_size(image.shape[:2], window or fixed)
            return on_canvas(resize_picture(image, small, antialias=False), window or fixed)
        if window is None:
            return resize_example({"image": image}, fixed)["image"]
        if size is None:
            middle = tuple((have - want) // 2 for have, want in zip(image.shape[:2], window, strict=True))
            return cut_window(image, middle, window)
        return cut_window(resize_example({"image": image}, size)["image"], (-margin[0], -margin[1]), window)

    return read


def _scoring_data(spec: str | None, run: Mapping[str, Any], metadata: Metadata, *, needed: bool) -> Source | None:
    """The pictures to score the file on, None where there are none.

    Raises:
        DataError: those of `spec` cannot be opened and are `needed`; otherwise that is logged.
    """
    if not spec:
        return validation_source(run)
    try:
        return open_source(spec, split="val", like=_named(metadata))
    except DataError as error:
        if needed:
            raise
        _log.info("the file is not scored, because the validation data cannot be opened: %s", error)
        return None


def _unseen(source: Source, run: Mapping[str, Any]) -> tuple[Source | None, str]:
    """The pictures that the run was not trained on, under a name that says so, and why there are none, if so.

    Names alone are no reason to leave a picture out, since other folders have pictures of the same names: where the
    folder of the training, or of `source`, is not known, all are scored, under a name that says so.
    """
    seen = set(trained_on(run, source))
    left = [index for index in range(len(source)) if index not in seen]
    if not seen:
        return source, ""
    if source.files is None or "train_root" not in run:
        told = f"{len(seen)} of {len(source)} pictures have names that pictures of the training had, and may be those"
        return source.subset(range(len(source)), f"{source.name} ({told})"), ""
    if not left:
        return None, f"every picture of {source.name} was trained on. --data SPEC names others"
    return source.subset(left, f"{source.name} ({len(left)} of {len(source)} pictures; the others were trained on)"), ""


def _fitting(
    source: Source, spec: str | None, kind: str, model: keras.Model, metadata: Metadata, size: _Pair | None
) -> tuple[Source | None, str, Metadata]:
    """Of a model of no known system: the pictures, why it cannot be scored on them, if so, and its class names.

    A model or a first picture that cannot be scored is such a reason, too: a score is no condition of an export.

    Args:
        kind: key of an example that the model is compared with.
        metadata: gets the names of the data where it has none and there are as many.
        size: (height, width) of a picture that the model takes; None for the picture's own.
    """
    try:
        if not len(source) or kind not in (first := source[0]):
            return None, f"the pictures of {source.name} have no {kind}", metadata
        if metadata.classes:
            return source, "", metadata
        if kind == "captions":
            return None, "the words of a captioner outside its run folder are not known", metadata
        first = {"image": first["image"]}
        count = len(predict(model, (resize_example(first, size) if size else first)["image"]).classes)
    except (DataError, ModelError) as error:
        return None, str(error).removesuffix("."), metadata
    if kind == "mask":
        source = open_numbered(spec, source, count) if spec else source
        names, colors = source.classes, source.colors
    else:
        names, colors = source.object_classes or source.classes, source.object_colors
    if len(names) != count:
        return None, f"the model has {count} classes and {source.name} has {len(names)}", metadata
    return source, "", dataclasses.replace(metadata, classes=tuple(names), colors=tuple(colors or ()))


def _score_file(path: Path, evaluate: Callable, source: Source | None, progress) -> tuple[dict[str, float], str | None]:
    """What the exported file reaches on the validation data, and the data's name; empty and None without any.

    Mean IoU and pixel accuracy, of a detector the average precisions of `headline_scores`, of a captioner the scores of
    `caption_headlines`.
    """
    if source is None:
        return {}, None
    if progress is None:
        evaluation = evaluate(load_runner(path), source)
    else:
        with progress(f"measuring {path.name} on {source.name}") as update:
            evaluation = evaluate(load_runner(path), source, progress=update)
    if isinstance(evaluation, DetectionEvaluation):
        return headline_scores(evaluation.scores), source.name
    if isinstance(evaluation, CaptionEvaluation):
        return caption_headlines(evaluation.scores), source.name
    return {name: float(evaluation.scores[name]) for name in ("mean_iou", "pixel_accuracy")}, source.name


def _keep_row(folder: Path, row: dict[str, Any], model: Path, recipe: Recipe | None, run) -> Path | None:
    """Notes an export of `model` in the run folder, by paths that hold when the folder is moved. Returns the report."""
    root = Path(os.path.abspath(folder))

    def kept(path: str | Path) -> str:
        path = Path(os.path.abspath(path))
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

    # A training that is continued may replace the model.
    row = {**row, "file": kept(row["file"]), "model": kept(model), "model_digest": digest(model)}
    rows = [r for r in read_json(folder / EXPORTS).get("rows", []) if r["file"] != row["file"]]
    write_json(folder / EXPORTS, {"rows": [*rows, row]})
    if recipe is None or not (folder / REPORT).exists():
        return None
    return refresh_report(recipe, folder, validation_source(run))


def _named(metadata: Metadata) -> Metadata | None:
    return metadata if metadata.classes else None
