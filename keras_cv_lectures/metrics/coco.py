"""COCO's twelve numbers (ten for keypoints), computed by pycocotools; the extra `[coco]` installs it.

    evaluator = CocoEvaluator(("cell", "platelet"), kind="masks")
    for truth, prediction in ...:
        evaluator.add(truth, prediction)
    evaluator.result().scores["ap50"]

Lin et al., Microsoft COCO: Common Objects in Context, 2014, https://arxiv.org/abs/1405.0312, with the rules of
https://cocodataset.org/#detection-eval. Average precision is the mean over 101 recalls, 10 thresholds 0.50 ... 0.95 and
the classes with objects. Crowds are neither right nor wrong to find. Pictures are mappings as `metrics.objects`
describes them.

Differs from the paper: `difficult` objects of data that mark no `crowd`, such as Pascal VOC, are taken for crowds, so
that a detection inside of one is left out, too; `average_precision` goes by Pascal VOC's own rule. Where `crowd` is
there, it alone counts, and difficult objects are to be found: pycocotools goes by `iscrowd` and overwrites `ignore`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.metrics.objects import Objects, as_code, check_classes, check_kind, read_objects
from keras_cv_lectures.metrics.overlaps import keypoint_sigmas

_KIND_NAMES = {"boxes": "bbox", "masks": "segm", "keypoints": "keypoints"}
_MOST_DETECTIONS = {"boxes": (1, 10, 100), "masks": (1, 10, 100), "keypoints": (20,)}


@dataclass(frozen=True, kw_only=True)
class CocoResult:
    """What COCO's evaluation found.

    Attributes:
        scores: ready for JSON; 0..1, or None where there is no object to find. `ap` (mean over the thresholds), `ap50`,
            `ap75`, `ap_small` (below 32^2 pixels), `ap_medium`, `ap_large` (above 96^2), `ar_1`, `ar_10`, `ar_100`
            (average recall with at most so many detections in a picture), `ar_small`, `ar_medium`, `ar_large`; of
            keypoints `ap`, `ap50`, `ap75`, `ap_medium`, `ap_large`, `ar`, `ar50`, `ar75`, `ar_medium`, `ar_large`.
            `per_class` is a list of K dicts: `name`, `ap`, `ap50`, `ap75`, `ar` and `objects` (crowds not counted).
        thresholds: (10,) 0.50 ... 0.95.
        recall: (101,) 0 ... 1.
        precision: (10, 101, K) at each recall, nan for classes without objects; all areas, most detections.
        score: (10, 101, K), of the detection where the recall is reached; 0 where it never is.
    """

    scores: dict[str, Any]
    thresholds: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    score: np.ndarray


class CocoEvaluator:
    """Collects pictures one by one, masks as run-length codes, then evaluates them all.

    Args:
        classes: K names in label order, background not among them.
        kind: what is compared: "boxes", "masks" or "keypoints" (object keypoint similarity).
        max_detections: the most detections of a class in a picture for `ar_...`, rising; average precision uses the
            last. None is COCO's (1, 10, 100), of keypoints (20,). Raise it where pictures hold more objects.
        sigmas: (number of keypoints,) spread of each; None takes COCO's for 17 keypoints and 0.05 for others.
        class_agnostic: compare whatever the labels are, as is done with proposals.

    Raises:
        DataError: an argument is out of range.
        ModelError: pycocotools is not installed.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        kind: str = "boxes",
        max_detections: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        class_agnostic: bool = False,
    ):
        check_kind(kind)
        _check_pycocotools()
        self.classes = check_classes(classes)
        self.kind = kind
        self.max_detections = _limits(_MOST_DETECTIONS[kind] if max_detections is None else max_detections, kind)
        self.sigmas = sigmas
        self.class_agnostic = class_agnostic
        self._images: list[dict[str, Any]] = []
        self._truths: list[dict[str, Any]] = []
        self._predictions: list[dict[str, Any]] = []
        self._keypoints: int | None = None

    def add(self, truth: Mapping[str, Any], prediction: Mapping[str, Any]) -> None:
        """Takes up the labelled objects and the detections of one picture; either may be none.

        Raises:
            DataError: a picture is not as `metrics.objects` describes it, its size is not known although masks need
                it, or pictures differ in the number of keypoints.
        """
        number = len(self._images) + 1
        where = f"picture {truth.get('image_id', number - 1)}"
        settings = {"num_classes": len(self.classes), "kind": self.kind, "where": where}
        labelled = read_objects(truth, detected=False, **settings)
        detected = read_objects(prediction, detected=True, **settings)
        size = labelled.size or detected.size
        passed_over = labelled.crowd if "crowd" in truth else labelled.difficult
        truths = [
            self._annotation(labelled, row, number, size, where) | {"iscrowd": int(ignored)}
            for row, ignored in enumerate(passed_over)
        ]
        if labelled.area is not None:
            for annotation, area in zip(truths, labelled.area.tolist(), strict=True):
                annotation["area"] = area
        predictions = [
            self._annotation(detected, row, number, size, where) | {"iscrowd": 0, "score": float(score)}
            for row, score in enumerate(detected.scores)
        ]
        if self.kind == "keypoints":
            for annotation in predictions:  # As COCO's server does for results, which bring no area of their own.
                x, y = annotation["keypoints"][0::3], annotation["keypoints"][1::3]
                annotation["area"] = float((max(x) - min(x)) * (max(y) - min(y)))
        height, width = size or (0, 0)
        self._images.append({"id": number, "height": height, "width": width})
        self._truths += truths
        self._predictions += predictions

    def result(self) -> CocoResult:
        """Evaluates all pictures that were added.

        Raises:
            DataError: no picture was added, or `sigmas` does not fit the keypoints.
        """
        if not self._images:
            raise DataError("there is no picture to evaluate. Call add(truth, prediction) for each.")
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells its progress by print
            evaluation = COCOeval(self._index(self._truths), self._index(self._predictions), _KIND_NAMES[self.kind])
            evaluation.params.maxDets = list(self.max_detections)
            if self.kind == "keypoints":
                evaluation.params.kpt_oks_sigmas = keypoint_sigmas(self._keypoints or 17, self.sigmas)
            evaluation.evaluate()
            evaluation.accumulate()
        return self._summary(evaluation)

    def _annotation(
        self, objects: Objects, row: int, image: int, size: tuple[int, int] | None, where: str
    ) -> dict[str, Any]:
        x1, y1, x2, y2 = objects.boxes[row].tolist()
        annotation: dict[str, Any] = {
            "image_id": image,
            "category_id": 0 if self.class_agnostic else int(objects.labels[row]),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
        }
        if self.kind == "masks":
            from pycocotools.mask import frPyObjects

            try:
                code = as_code(objects.masks[row], size)
            except DataError as error:
                raise DataError(f"{where}: {error}") from error
            area = float(sum(code["counts"][1::2]))
            annotation |= {"segmentation": frPyObjects(code, *code["size"]), "area": area}  # kept as text
        if self.kind == "keypoints":
            points = objects.keypoints[row]
            if self._keypoints not in (None, len(points)):
                raise DataError(f"{where} has objects of {len(points)} keypoints, others have {self._keypoints}.")
            self._keypoints = len(points)
            annotation |= {
                "keypoints": points.ravel().tolist(),
                "num_keypoints": int(np.count_nonzero(points[:, 2] > 0)),
            }
        return annotation

    def _index(self, annotations: list[dict[str, Any]]) -> Any:
        from pycocotools.coco import COCO

        names = ("object",) if self.class_agnostic else self.classes
        index = COCO()
        index.dataset = {
            "images": self._images,
            "categories": [{"id": label, "name": name} for label, name in enumerate(names)],
            # Ids begin at 1: the program takes a match with object 0 for none. It writes into what it is given.
            "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)],
        }
        index.createIndex()
        return index

    def _summary(self, evaluation: Any) -> CocoResult:
        precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]  # (T, R, K, A, M), (T, K, A, M)
        parameters = evaluation.params
        areas = list(parameters.areaRngLbl)
        scores: dict[str, Any] = {
            "ap": _mean(precision[:, :, :, 0, -1]),
            "ap50": _mean(precision[0, :, :, 0, -1]),
            "ap75": _mean(precision[5, :, :, 0, -1]),
        }
        scores |= {f"ap_{name}": _mean(precision[:, :, :, areas.index(name), -1]) for name in areas[1:]}
        if self.kind == "keypoints":
            scores |= {"ar": _mean(recall[:, :, 0, -1]), "ar50": _mean(recall[0, :, 0, -1])}
            scores |= {"ar75": _mean(recall[5, :, 0, -1])}
        else:
            scores |= {f"ar_{most}": _mean(recall[:, :, 0, i]) for i, most in enumerate(self.max_detections)}
        scores |= {f"ar_{name}": _mean(recall[:, :, areas.index(name), -1]) for name in areas[1:]}
        scores["per_class"] = [
            {
                "name": name,
                "ap": _mean(precision[:, :, label, 0, -1]),
                "ap50": _mean(precision[0, :, label, 0, -1]),
                "ap75": _mean(precision[5, :, label, 0, -1]),
                "ar": _mean(recall[:, label, 0, -1]),
                "objects": sum(t["category_id"] == label and not self._ignored(t) for t in self._truths),
            }
            for label, name in enumerate(("object",) if self.class_agnostic else self.classes)
        ]
        curve = precision[:, :, :, 0, -1]
        return CocoResult(
            scores=scores,
            thresholds=np.array(parameters.iouThrs),
            recall=np.array(parameters.recThrs),
            precision=np.where(curve < 0, np.nan, curve),
            score=np.where(curve < 0, 0.0, evaluation.eval["scores"][:, :, :, 0, -1]),
        )

    def _ignored(self, truth: Mapping[str, Any]) -> bool:
        return bool(truth["iscrowd"]) or (self.kind == "keypoints" and not truth["num_keypoints"])


def coco_scores(
    truths: Iterable[Mapping[str, Any]],
    predictions: Iterable[Mapping[str, Any]],
    classes: Sequence[str],
    *,
    kind: str = "boxes",
    max_detections: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    class_agnostic: bool = False,
) -> dict[str, Any]:
    """`CocoResult.scores` of all pictures at once; see `CocoEvaluator`.

    Raises:
        ValueError: there are not as many truths as predictions, or as `CocoEvaluator` raises.
    """
    evaluator = CocoEvaluator(
        classes, kind=kind, max_detections=max_detections, sigmas=sigmas, class_agnostic=class_agnostic
    )
    for truth, prediction in zip(truths, predictions, strict=True):
        evaluator.add(truth, prediction)
    return evaluator.result().scores


def _check_pycocotools() -> None:
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"COCO's evaluation needs pycocotools, which cannot be imported ({error}). Install it: "
            "pip install 'keras_cv_lectures[coco]'. Pascal VOC's needs nothing: metrics.PrecisionRecallCurves."
        ) from error


def _limits(limits: Sequence[int], kind: str) -> tuple[int, ...]:
    numbers = tuple(int(limit) for limit in limits)
    if not numbers or numbers[0] < 1 or any(a >= b for a, b in itertools.pairwise(numbers)):
        raise DataError(f"max_detections must be rising positive numbers, such as {_MOST_DETECTIONS[kind]}: {limits!r}")
    return numbers


def _mean(values: np.ndarray) -> float | None:
    """Mean of what has a value; COCO marks what has none by -1."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else None
