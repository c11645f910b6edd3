"""The report of a detector: what is kept of its scores, pictures with what is right and wrong, the training data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.data import Source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.evaluating import DetectionEvaluation
from keras_cv_lectures.evaluating.classes import object_labels
from keras_cv_lectures.files import atomic_path
from keras_cv_lectures.metrics.average_precision import PrecisionRecall, match_objects
from keras_cv_lectures.metrics.objects import KINDS
from keras_cv_lectures.predicting import DetectionResult, predict
from keras_cv_lectures.reporting.pictures import shown_image
from keras_cv_lectures.reporting.runs import training_source, without_nan
from keras_cv_lectures.runners import Runner
from keras_cv_lectures.visualize import ObjectPicture, object_sheet

DATA_SHEET = "data.png"
_SHOWN, _LOOKED_AT, _ON_SHEET = 4, 20, 9
_CURVE_POINTS = 200
_log = logging.getLogger(__name__)


def objects_json(evaluation: DetectionEvaluation, source: Source) -> dict[str, Any]:
    """What `evaluation.json` and `scores.json` keep; of each curve at most 200 points."""
    return {
        "data": source.name,
        "kinds": list(evaluation.kinds),
        "scores": without_nan(evaluation.scores),
        "curves": {
            kind: {curve.name: _thinned(curve) for curve in curves} for kind, curves in evaluation.curves.items()
        },
        "picture_f1": without_nan(evaluation.picture_f1),
        "score_threshold": evaluation.score_threshold,
        "pictures": evaluation.pictures,
        "objects": evaluation.objects,
        "detections": evaluation.detections,
    }


def object_pages(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `write_object_report` that `objects_json` knows."""
    return {
        "scores": evaluation.get("scores"),
        "curves": {
            kind: {name: [np.array(values) for values in points] for name, points in curves.items()}
            for kind, curves in evaluation.get("curves", {}).items()
        },
        "score_threshold": evaluation.get("score_threshold"),
    }


def object_examples(
    runner: Runner, source: Source, evaluation: Mapping[str, Any]
) -> tuple[list[ObjectPicture], list[ObjectPicture]]:
    """The best and the worst pictures of an evaluation, predicted again.

    Among the best, pictures with objects come first: that nothing was found in an empty one tells little.
    """
    scores = np.array([np.nan if v is None else v for v in evaluation.get("picture_f1", ())], float)
    if len(scores) != len(source):
        return [], []
    order = [int(i) for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])]
    shown = min(_SHOWN, (len(order) + 1) // 2)
    looked_at = order[: max(shown, min(_LOOKED_AT, len(order) - shown))]
    best = sorted(looked_at, key=lambda i: len(source[i]["labels"]) == 0)[:shown]
    worst = [i for i in reversed(order) if i not in best][: min(shown, len(order) - shown)]
    kind = "masks" if "masks" in evaluation["kinds"] else evaluation["kinds"][0]

    def example(index: int) -> ObjectPicture:
        found = source[index]
        result = predict(runner, found["image"]).above(evaluation["score_threshold"])
        prediction = result.as_prediction()
        labels = object_labels(_names(runner, result), source)
        if labels is not None:
            prediction["labels"] = labels[prediction["labels"]]
        truth = {**found, "size": prediction["size"]}
        return ObjectPicture(
            caption=source.ids[index],
            image=shown_image(found["image"]),
            truth=_drawn(found, evaluation["kinds"]),
            prediction=_drawn(prediction, evaluation["kinds"]),
            found=match_objects(truth, prediction, len(source.object_classes), kind=kind),
            score=float(scores[index]),
        )

    return [example(i) for i in best], [example(i) for i in worst]


def data_overview(source: Source, count: int = _ON_SHEET, *, kinds: Sequence[str] = KINDS) -> np.ndarray:
    """The first pictures of `source` with their labelled objects drawn, as one picture.

    Args:
        source: pictures with `boxes` and `labels`.
        count: how many pictures, at most.
        kinds: what is drawn, where there is any: "boxes" (always), "masks", "keypoints".

    Returns:
        (h, w, 3) uint8.

    Raises:
        DataError: there is no picture, or pictures have no labelled objects.
    """
    if not source.object_classes:
        raise DataError(f"{source.name} has no labelled objects to draw. Give boxes, such as coco:JSON,IMAGES.")
    pictures = []
    for index in range(min(count, len(source))):
        example = source[index]
        pictures.append(
            ObjectPicture(caption=source.ids[index], image=shown_image(example["image"]), truth=_drawn(example, kinds))
        )
    one_class = len(source.object_classes) == 1
    by_object = one_class and any(picture.truth.get("masks") is not None for picture in pictures)
    return object_sheet(
        pictures,
        names=None if one_class else source.object_classes,
        colors=None if by_object else source.object_colors,
    )


def run_data_sheet(folder: Path, run: Mapping[str, Any], keys: Sequence[str]) -> np.ndarray | None:
    """The overview of the data that a run was trained on, made once and kept in `data.png`; None where it is gone.

    Args:
        folder: of the run.
        run: what `run.json` says.
        keys: of an example that the system learns from.
    """
    from PIL import Image

    path = folder / DATA_SHEET
    kinds = [kind for kind, key in (("masks", "mask_windows"), ("keypoints", "keypoints")) if key in keys]
    try:
        if not path.exists():
            source = training_source(run)
            if source is None:
                return None
            with atomic_path(path) as temporary:
                Image.fromarray(data_overview(source, kinds=kinds)).save(temporary)
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (DataError, OSError) as error:
        _log.info("the report shows no training pictures: %s", error)
        return None


def _thinned(curve: PrecisionRecall) -> list[list[float]]:
    """Recall, precision and scores, of many detections those that shape the curve: right ones, and the best F1."""
    recall, precision, scores = curve.recall, curve.precision, curve.scores
    if len(recall) > _CURVE_POINTS:
        right = np.flatnonzero(np.diff(recall, prepend=0.0) > 0)
        kept = right[np.linspace(0, len(right) - 1, min(len(right), _CURVE_POINTS - 2)).round().astype(int)]
        best = curve.best_threshold()
        # Of the detections of one score the last: they are kept together.
        extra = [] if best is None else [int(np.flatnonzero(scores == best[0])[-1])]
        kept = np.unique([*kept.tolist(), *extra, len(recall) - 1])
        recall, precision, scores = recall[kept], precision[kept], scores[kept]
    return [np.round(values, 6).tolist() for values in (recall, precision, scores)]


def _drawn(objects: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    """An example or a prediction by the names of the arguments of `draw_objects`; of `kinds` what it has."""
    result = {key: objects[key] for key in ("boxes", "labels", "scores") if key in objects}
    if "keypoints" in kinds and "keypoints" in objects:
        result["keypoints"] = np.array(objects["keypoints"])
        if "scores" in objects:  # Those found are all drawn: the height of a peak has no zero that means anything.
            result["keypoints"][..., 2] = 1
    if "masks" in kinds and "mask_windows" in objects:
        result["masks"] = (objects["mask_pixels"], objects["mask_windows"])
    elif "masks" in kinds and "instance_masks" in objects:
        result["masks"] = objects["instance_masks"]
    marks = [np.asarray(objects[key], bool) for key in ("crowd", "difficult") if key in objects]
    if marks:
        result["ignored"] = np.logical_or.reduce(marks)
    return result


def _names(runner: Runner, result: DetectionResult) -> Sequence[str]:
    """Names of the model's classes; () where it has only numbers."""
    numbered = tuple(f"class {label}" for label in range(len(result.classes)))
    return runner.metadata.classes or (() if result.classes == numbered else result.classes)
