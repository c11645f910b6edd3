"""Scores of a segmentation model, from whatever kind of file, on a source of labelled pictures."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.data import Source
from keras_cv_lectures.data.contract import check_example
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.evaluating.classes import Progress, check_pixel_classes
from keras_cv_lectures.metrics import boundary_f1, confusion_matrix, scores
from keras_cv_lectures.predicting import SegmentationResult, TileSize, as_runner, network_size, predict
from keras_cv_lectures.preprocessing import resize_example
from keras_cv_lectures.runners import Runner


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores over a source.

    Attributes:
        scores: `metrics.scores` of `confusion`, and "boundary_f1", the mean over pictures.
        confusion: (K, K) int64, rows are the truth.
        picture_iou: mean IoU of each picture, in the order of the source; NaN where no pixel is labelled.
        pictures: number of pictures.
        seconds: of predicting and scoring.
        size: (height, width) at which was compared, or None for each picture's own.
        tile, margin, stride: what `evaluate_segmentation` was given.
    """

    scores: dict[str, Any]
    confusion: np.ndarray
    picture_iou: list[float]
    pictures: int
    seconds: float
    size: tuple[int, int] | None
    tile: TileSize | None = None
    margin: int | tuple[int, int] | None = None
    stride: int | None = None


def evaluate_segmentation(
    model: keras.Model | Runner | str | os.PathLike,
    source: Source,
    *,
    original_size: bool = False,
    tile: TileSize | None = None,
    margin: int | tuple[int, int] | None = None,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Predicts every picture of `source` and compares with its mask.

    Where the model works at a fixed size, pictures and masks are brought to it, as in training, and compared there;
    with `original_size` the prediction is brought back to each picture's own size instead. A model of any size is
    always compared at the picture's own size.

    Classes are compared by their position: class 2 of the model with class 2 of the masks. Where a model comes without
    names, that is all that is known about them.

    Args:
        model: a model, a runner, or the path of a run folder, `.keras` file, SavedModel or `.tflite`.
        source: pictures with masks.
        original_size: see above.
        tile: predict in windows of this size, as `predict` does, and compare at each picture's own size.
        margin: see `predict`.
        stride: see `predict`.
        progress: called with (done, total) after every picture.

    Raises:
        DataError: there is nothing to compare with, a mask is not of its picture's size, or the model and the masks do
            not have the same classes.
        ModelError: the model is a detector, or cannot be tiled as asked.
    """
    if len(source) == 0:
        raise DataError(f"{source.name} holds no pictures; there is nothing to evaluate.")
    runner = as_runner(model)
    size = None if original_size or tile is not None else network_size(runner)
    started = time.perf_counter()
    confusion, ious, boundaries, classes = None, [], [], len(source.classes)
    for index in range(len(source)):
        example = source[index]
        if "mask" not in example:
            boxes = " It has boxes, which are for detectors." if "boxes" in example else ""
            raise DataError(
                f"{source.name} has no masks of classes to compare with.{boxes} Give labelled pictures, such as "
                "folder:IMAGES,MASKS."
            )
        check_example(example, f"{source.name}, example {source.ids[index]}")
        if size is not None:
            example = resize_example(example, size)
        result = predict(runner, example["image"], tile=tile, margin=margin, stride=stride)
        if not isinstance(result, SegmentationResult):
            raise ModelError(
                f"{runner.path or 'the model'} is a detector and gives no class for every pixel. Score it with "
                "evaluate_detection, on data with boxes such as coco:JSON,IMAGES."
            )
        if confusion is None:
            check_pixel_classes(result.classes, bool(runner.metadata.classes), source)
        mask = np.asarray(example["mask"])
        matrix = confusion_matrix(mask, result.class_map, classes)
        confusion = matrix if confusion is None else confusion + matrix
        ious.append(float(scores(matrix)["mean_iou"]) if matrix.any() else float("nan"))
        boundaries.append(boundary_f1(mask, result.class_map, classes))
        if progress is not None:
            progress(index + 1, len(source))
    result = dict(scores(confusion, source.classes))
    finite = [value for value in boundaries if np.isfinite(value)]
    result["boundary_f1"] = float(np.mean(finite)) if finite else float("nan")
    return Evaluation(
        scores=result,
        confusion=confusion,
        picture_iou=ious,
        pictures=len(source),
        seconds=time.perf_counter() - started,
        size=size,
        tile=tile,
        margin=margin,
        stride=stride,
    )
