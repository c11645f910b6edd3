"""Scores of a detector, from whatever kind of file, on a source of pictures with labelled objects."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.data import Source
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.evaluating.classes import Progress, object_classes, object_labels
from keras_cv_lectures.metrics.average_precision import PrecisionRecall, PrecisionRecallCurves, picture_f1
from keras_cv_lectures.metrics.coco import CocoEvaluator
from keras_cv_lectures.predicting import SHOWN_SCORE, DetectionResult, as_runner, predict
from keras_cv_lectures.runners import Runner

KINDS = ("boxes", "masks", "keypoints")
VOC_THRESHOLD = 0.5
_COCO_MOST = 100
_SHORT = {"boxes": "", "masks": "mask_", "keypoints": "keypoint_"}

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionEvaluation:
    """Scores over a source.

    Attributes:
        scores: ready for JSON: for each kind that was compared ("boxes", "masks", "keypoints") a dict of `ap`, `ap50`,
            `ap75` and the other numbers of COCO (see `metrics.coco.CocoResult`; None all, where pycocotools is not
            installed), `voc_ap50` (Pascal VOC's, mean over the classes), and `per_class`, a list of dicts: `name`,
            `ap`, `ap50`, `ap75`, `voc_ap50`, `recall` and `precision` of all detections, `best_threshold` and
            `best_f1` (the score from which on detections are best kept), `objects`, `detections`. Numbers without a
            value, as of classes without objects, are None.
        curves: kind -> precision and recall of each class at IoU 0.5, from which `voc_ap50` comes.
        kinds: those compared, in the order of `scores`.
        picture_f1: F1 of each picture in the order of the source, of masks where they were compared, else of boxes, at
            IoU 0.5, of detections with at least `score_threshold`.
        score_threshold: see there.
        pictures: number of pictures.
        objects: number of labelled objects, crowds and difficult ones not counted.
        detections: number of detections with at least `score_threshold`.
        seconds: of predicting and scoring.
    """

    scores: dict[str, dict[str, Any]]
    curves: dict[str, list[PrecisionRecall]]
    kinds: tuple[str, ...]
    picture_f1: list[float]
    score_threshold: float
    pictures: int
    objects: int
    detections: int
    seconds: float


def evaluate_detection(
    model: keras.Model | Runner | str | os.PathLike,
    source: Source,
    *,
    score_threshold: float = SHOWN_SCORE,
    progress: Progress | None = None,
    kinds: Sequence[str] | None = None,
    max_detections: int | None = None,
) -> DetectionEvaluation:
    """Predicts every picture of `source` and compares the detections with its objects, in the picture's own pixels.

    Classes are compared by name, where the model knows its names and has all those of the data; detections of its
    other classes are then left out. Otherwise they are compared by their position.

    Args:
        model: a detector, a runner, or the path of a run folder, `.keras` file, SavedModel or `.tflite`.
        source: pictures with `boxes` and `labels`.
        score_threshold: for `picture_f1` and `detections`; average precision takes all that the detector gives.
        progress: called with (done, total) after every picture.
        kinds: of "boxes", "masks" and "keypoints" those to compare; None compares what model and data both have.
        max_detections: the most detections of a class in a picture for COCO's average precision; None is COCO's 100
            (20 for keypoints). Raise it where pictures hold more objects and the detector, too, was built with a larger
            `max_detections`, which is the most that it gives of all classes.

    Raises:
        DataError: there is nothing to compare with, or the model and the data do not have the same classes.
        ModelError: the model is no detector, or has nothing of a kind that was asked for.
    """
    started = time.perf_counter()
    runner, names = as_runner(model), object_classes(source)
    chosen = _check_source(source, kinds)
    compared: dict[str, _Comparison] = {}
    f1, objects, detections, most, fullest, labels = [], 0, 0, 0, 0, None
    for index in range(len(source)):
        example = source[index]
        result = predict(runner, example["image"])
        if not isinstance(result, DetectionResult):
            raise ModelError(
                f"{runner.path or 'the model'} is no detector. Score it with evaluate_segmentation, on data with "
                "masks of classes such as folder:IMAGES,MASKS."
            )
        prediction = result.as_prediction()
        if not index:
            labels = object_labels(runner.metadata.classes or _own_names(result), source)
            compared = {
                kind: _Comparison(kind, names, max_detections) for kind in _kinds(chosen, kinds, prediction, runner)
            }
        if labels is not None:
            prediction["labels"] = labels[prediction["labels"]]
        truth = {**example, "size": np.array(result.size)}
        most, fullest = max(most, _most_of_a_class(example)), max(fullest, _count_objects(example))
        for comparison in compared.values():
            comparison.add(truth, prediction)
        ranked = "masks" if "masks" in compared else next(iter(compared))
        f1.append(picture_f1(truth, prediction, len(names), kind=ranked, score_threshold=score_threshold))
        objects += _count_objects(example)
        detections += int(np.sum((prediction["scores"] >= score_threshold) & (prediction["labels"] >= 0)))
        if progress is not None:
            progress(index + 1, len(source))
    given = runner.facts["max_detections"]
    if fullest > given:
        _log.warning(
            "%s: a picture has %d objects, and the detector finds at most %d. Build it with max_detections=%d; its "
            "trained weights fit.",
            source.name,
            fullest,
            given,
            2 * fullest,
        )
    if max_detections is None and most > _COCO_MOST and given > _COCO_MOST:
        _log.info(
            "%s: a picture has %d objects of one class, and COCO's AP looks at %d detections only. "
            "evaluate_detection(..., max_detections=%d) counts more; VOC's AP counts all.",
            source.name,
            most,
            _COCO_MOST,
            2 * most,
        )
    return DetectionEvaluation(
        scores={kind: comparison.scores() for kind, comparison in compared.items()},
        curves={kind: comparison.curves.curves() for kind, comparison in compared.items()},
        kinds=tuple(compared),
        picture_f1=f1,
        score_threshold=score_threshold,
        pictures=len(source),
        objects=objects,
        detections=detections,
        seconds=time.perf_counter() - started,
    )


def headline_scores(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The numbers that a model is judged by: `ap` and `ap50` of boxes, `mask_ap` and so on.

    Where COCO's are missing, Pascal VOC's: `voc_ap50`, `mask_voc_ap50`.

    Args:
        scores: of a `DetectionEvaluation`.
    """
    found = {}
    for kind, numbers in scores.items():
        names = ("ap", "ap50") if _is_number(numbers.get("ap50")) else ("voc_ap50",)
        found |= {_SHORT[kind] + name: float(numbers[name]) for name in names if _is_number(numbers.get(name))}
    return found


def check_headline(name: str) -> None:
    """Refuses a name that `headline_scores` does not give here.

    Raises:
        ValueError: it is one of COCO's numbers, and pycocotools is not installed; or one of Pascal VOC's, and it is.
    """
    coco, installed = "voc_" not in name, _has_pycocotools()
    if coco and not installed:
        raise ValueError(
            f"`{name}` is one of COCO's numbers, for which pycocotools is not installed: pip install "
            f"'keras_cv_lectures[coco]', or choose val_{name.replace('ap', 'voc_ap').removesuffix('50')}50."
        )
    if installed and not coco:
        raise ValueError(
            f"`{name}` is measured where pycocotools is not installed; here it is. Choose "
            f"val_{name.replace('voc_', '')}."
        )


def _has_pycocotools() -> bool:
    return importlib.util.find_spec("pycocotools") is not None


class _Comparison:
    """The scores of one kind: Pascal VOC's always, COCO's where pycocotools is installed."""

    def __init__(self, kind: str, classes: Sequence[str], max_detections: int | None):
        self.curves = PrecisionRecallCurves(classes, kind=kind, iou_threshold=VOC_THRESHOLD)
        self.coco = None
        if not _has_pycocotools():
            _log.info(
                "pycocotools is not installed: AP at IoU 0.5 only. pip install 'keras_cv_lectures[coco]' gives all."
            )
            return
        limits = None
        if max_detections is not None:
            limits = (max_detections,) if kind == "keypoints" else tuple(sorted({1, 10, 100, max_detections}))
            limits = tuple(limit for limit in limits if limit <= max_detections)
        self.coco = CocoEvaluator(classes, kind=kind, max_detections=limits)

    def add(self, truth: Mapping[str, Any], prediction: Mapping[str, Any]) -> None:
        self.curves.add(truth, prediction)
        if self.coco is not None:
            self.coco.add(truth, prediction)

    def scores(self) -> dict[str, Any]:
        voc = self.curves.scores()
        coco: dict[str, Any] = dict.fromkeys(("ap", "ap50", "ap75"))
        rows: list[dict[str, Any]] = [dict(coco) for _ in voc["per_class"]]
        if self.coco is not None:
            coco = self.coco.result().scores
            rows = [{key: row[key] for key in ("ap", "ap50", "ap75")} for row in coco["per_class"]]
        merged = [
            {"name": row["name"], **ours, "voc_ap50": row["average_precision"]}
            | {key: value for key, value in row.items() if key not in ("name", "average_precision")}
            for row, ours in zip(voc["per_class"], rows, strict=True)
        ]
        means = {key: value for key, value in coco.items() if key != "per_class"}
        return {**means, "voc_ap50": voc["mean_average_precision"], "per_class": merged}


def _check_source(source: Source, kinds: Sequence[str] | None) -> tuple[str, ...]:
    """The kinds that the data can be compared in.

    Raises:
        DataError: there are no boxes, or not what `kinds` asks for.
    """
    if len(source) == 0:
        raise DataError(f"{source.name} holds no pictures; there is nothing to evaluate.")
    example = source[0]
    if "boxes" not in example or "labels" not in example:
        masks = " It has masks of classes, which are for segmentations." if "mask" in example else ""
        raise DataError(
            f"{source.name} has no boxes to compare with.{masks} Give labelled objects, such as coco:JSON,IMAGES, "
            "vocboxes:DIR, yolo:DIR or instances:IMAGES,MASKS."
        )
    there = ["boxes"]
    if "instance_masks" in example or "mask_windows" in example:
        there.append("masks")
    if "keypoints" in example:
        there.append("keypoints")
    for kind in kinds or ():
        if kind not in KINDS:
            raise DataError(f"`kinds` must be of {', '.join(KINDS)}. Received: {kind!r}.")
        if kind not in there:
            raise DataError(f"{source.name} has no {kind} to compare with, only {', '.join(there)}. Leave it out.")
    if kinds is not None and not kinds:
        raise DataError("`kinds` must name at least one of " + ", ".join(KINDS) + ", or be None.")
    return tuple(there)


def _kinds(
    there: Sequence[str], asked: Sequence[str] | None, prediction: Mapping[str, Any], runner: Runner
) -> tuple[str, ...]:
    """The kinds that both sides have."""
    found = {"boxes": "boxes", "masks": "mask_windows", "keypoints": "keypoints"}
    for kind in asked or ():
        if found[kind] not in prediction:
            raise ModelError(f"{runner.path or 'the model'} gives no {kind}. Leave them out of `kinds`.")
    return tuple(kind for kind in KINDS if kind in (asked or there) and found[kind] in prediction)


def _own_names(result: DetectionResult) -> tuple[str, ...]:
    """Names that a network brings with its weights; () where it has only numbers."""
    return () if all(name == f"class {label}" for label, name in enumerate(result.classes)) else result.classes


def _most_of_a_class(example: Mapping[str, Any]) -> int:
    labels = np.asarray(example["labels"])
    return int(np.bincount(labels[labels >= 0]).max(initial=0))


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _count_objects(example: Mapping[str, Any]) -> int:
    counted = np.asarray(example["labels"]) >= 0
    for key in ("crowd", "difficult"):
        if key in example:
            counted &= ~np.asarray(example[key], bool)
    return int(np.count_nonzero(counted))
