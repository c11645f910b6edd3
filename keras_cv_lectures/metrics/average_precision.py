"""Average precision as Pascal VOC defines it, and the precision-recall curves behind it. NumPy alone.

    curves = PrecisionRecallCurves(("cell", "platelet"))
    for truth, prediction in ...:
        curves.add(truth, prediction)
    scores = curves.scores()  # {"mean_average_precision": 0.81, "per_class": [...]}

Pictures are mappings as `metrics.objects` describes them. Everingham et al., The Pascal Visual Object Classes (VOC)
Challenge, 2010, section 4.2: over the whole data set, the detections of a class are taken by descending score. One is
right if it overlaps the object that it overlaps most by more than the threshold and no surer detection has
found that object; a second detection of it is wrong. `difficult` objects are neither right nor wrong to find, and need
not be found. Hariharan et al., Simultaneous Detection and Segmentation, 2014, is the same with masks (AP^r).

Differs from the paper: `crowd` regions (COCO's) hold any number of detections, which are left out where more than the
threshold of their own area lies inside and they are not right otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.metrics.objects import Objects, check_classes, check_kind, read_objects
from keras_cv_lectures.metrics.overlaps import box_overlaps, keypoint_similarities, mask_overlaps

RULES = ("area", "11-point", "101-point")

WRONG, LEFT_OUT = -1, -2


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """The curve of one class, one point after each detection, the surest first.

    Attributes:
        name: of the class.
        objects: number that were to be found.
        recall: (M,) float64, share of the objects found so far.
        precision: (M,) float64, share of the detections so far that are right.
        scores: (M,) float64, descending.
    """

    name: str
    objects: int
    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray

    def average_precision(self, rule: str = "area") -> float | None:
        """See `average_precision`; None where there was no object to find."""
        return average_precision(self.recall, self.precision, rule) if self.objects else None

    def best_threshold(self) -> tuple[float, float] | None:
        """The score from which on detections are best kept, and the F1 reached; None where nothing right was found.

        F1 = 2 P R / (P + R). Of several best thresholds it is the highest.
        """
        total = self.recall + self.precision
        if not self.objects or not (total > 0).any():
            return None
        f1 = np.divide(2 * self.recall * self.precision, total, out=np.zeros_like(total), where=total > 0)
        # Detections of one score are kept together, so only the last of them is a choice.
        last = np.append(self.scores[1:] != self.scores[:-1], True)
        best = int(np.argmax(np.where(last, f1, -1.0)))
        return float(self.scores[best]), float(f1[best])


class PrecisionRecallCurves:
    """Collects pictures one by one; what it keeps is three numbers for each detection.

    Args:
        classes: K names in label order, background not among them.
        kind: what is compared: "boxes", "masks" or "keypoints" (object keypoint similarity).
        iou_threshold: overlap that a right detection exceeds, 0..1.
        sigmas: of the keypoints; see `overlaps.keypoint_similarities`.

    Raises:
        DataError: an argument is out of range.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        kind: str = "boxes",
        iou_threshold: float = 0.5,
        sigmas: Sequence[float] | None = None,
    ):
        check_kind(kind)
        self.classes = check_classes(classes)
        self.kind = kind
        self.iou_threshold = _threshold(iou_threshold)
        self.sigmas = sigmas
        self.pictures = 0
        self._objects = np.zeros(len(self.classes), np.int64)
        self._found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # labels, scores, right

    def add(self, truth: Mapping[str, Any], prediction: Mapping[str, Any]) -> None:
        """Compares the detections of one picture with its labelled objects; either may be none.

        Raises:
            DataError: a picture is not as `metrics.objects` describes it.
        """
        where = _name_of(truth, self.pictures)
        settings = {"num_classes": len(self.classes), "kind": self.kind, "where": where}
        labelled, detected = (
            read_objects(truth, detected=False, **settings),
            read_objects(prediction, detected=True, **settings),
        )
        matched = _match(labelled, detected, self.kind, self.iou_threshold, self.sigmas)
        counted = ~_ignored(labelled, self.kind)
        self._objects += np.bincount(labelled.labels[counted], minlength=len(self.classes))
        kept = matched != LEFT_OUT
        self._found.append((detected.labels[kept], detected.scores[kept], matched[kept] >= 0))
        self.pictures += 1

    def curves(self) -> list[PrecisionRecall]:
        """One curve for each class, in label order."""
        labels, scores, right = (
            np.concatenate([part[i] for part in self._found]) if self._found else np.zeros(0, kind)
            for i, kind in enumerate((np.int64, np.float64, bool))
        )
        order = np.argsort(-scores, kind="stable")
        labels, scores, right = labels[order], scores[order], right[order]
        curves = []
        for label, name in enumerate(self.classes):
            own = labels == label
            hits = np.cumsum(right[own]).astype(np.float64)
            objects = int(self._objects[label])
            curves.append(
                PrecisionRecall(
                    name=name,
                    objects=objects,
                    recall=hits / max(objects, 1),
                    precision=hits / np.arange(1, len(hits) + 1),
                    scores=scores[own],
                )
            )
        return curves

    def scores(self, rule: str = "area") -> dict[str, Any]:
        """Every number, ready for JSON.

        Args:
            rule: see `average_precision`.

        Returns:
            `mean_average_precision`, over the classes with objects, and `per_class`, a list of K dicts: `name`,
            `average_precision`, `recall` and `precision` of all detections, `best_threshold` and `best_f1` (see
            `PrecisionRecall.best_threshold`), `objects` and `detections`. What has no value is None.

        Raises:
            DataError: no picture was added, or the rule is unknown.
        """
        if not self.pictures:
            raise DataError("there is no picture to score. Call add(truth, prediction) for each.")
        rows = []
        for curve in self.curves():
            best = curve.best_threshold()
            any_found = len(curve.scores) > 0
            rows.append(
                {
                    "name": curve.name,
                    "average_precision": curve.average_precision(rule),
                    "recall": (float(curve.recall[-1]) if any_found else 0.0) if curve.objects else None,
                    "precision": float(curve.precision[-1]) if any_found else None,
                    "best_threshold": best[0] if best else None,
                    "best_f1": best[1] if best else None,
                    "objects": curve.objects,
                    "detections": len(curve.scores),
                }
            )
        known = [row["average_precision"] for row in rows if row["average_precision"] is not None]
        return {"mean_average_precision": float(np.mean(known)) if known else None, "per_class": rows}


def precision_recall(
    truths: Iterable[Mapping[str, Any]],
    predictions: Iterable[Mapping[str, Any]],
    classes: Sequence[str],
    *,
    kind: str = "boxes",
    iou_threshold: float = 0.5,
    sigmas: Sequence[float] | None = None,
) -> list[PrecisionRecall]:
    """The curves of all pictures at once; see `PrecisionRecallCurves`.

    Raises:
        ValueError: there are not as many truths as predictions, or an argument is not as described there.
    """
    curves = PrecisionRecallCurves(classes, kind=kind, iou_threshold=iou_threshold, sigmas=sigmas)
    for truth, prediction in zip(truths, predictions, strict=True):
        curves.add(truth, prediction)
    return curves.curves()


def average_precision(recall: np.ndarray, precision: np.ndarray, rule: str = "area") -> float:
    """Area under a precision-recall curve whose precision is first made to fall: the best at this recall or a higher.

    Args:
        recall: (M,) rising, 0..1.
        precision: (M,) of the same detections.
        rule: "area": the exact area (VOC from 2010 on); "11-point": mean precision at recall 0, 0.1 ... 1 (VOC 2007);
            "101-point": at 0, 0.01 ... 1 (COCO). Beyond the last recall the precision is 0.

    Returns:
        0..1; 0 where M is 0.

    Raises:
        DataError: the shapes differ, the recall falls, or the rule is unknown.
    """
    recall, precision = np.asarray(recall, np.float64), np.asarray(precision, np.float64)
    if recall.ndim != 1 or recall.shape != precision.shape or (np.diff(recall) < 0).any():
        raise DataError(
            f"recall must rise along (M,) and precision have its shape, received {recall.shape} and {precision.shape}."
        )
    if rule not in RULES:
        raise DataError(f"rule must be one of {', '.join(RULES)}, received {rule!r}.")
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if rule == "area":
        return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
    count = 11 if rule == "11-point" else 101
    # A recall such as 3 / 10 must reach the 0.3 of the grid, whatever either is in binary.
    reached = np.searchsorted(recall, np.arange(count) / (count - 1) - 1e-12)
    return float(np.mean(np.append(envelope, 0.0)[reached]))


def match_objects(
    truth: Mapping[str, Any],
    prediction: Mapping[str, Any],
    num_classes: int,
    *,
    kind: str = "boxes",
    iou_threshold: float = 0.5,
    sigmas: Sequence[float] | None = None,
) -> np.ndarray:
    """Which labelled object each detection of a picture has found.

    Returns:
        (D,) int64 for the D rows of the prediction: the row of the object in `truth`, -1 where the detection is wrong,
        -2 where it is neither right nor wrong: it lies in a crowd or on a difficult object, or is padding.

    Raises:
        DataError: a picture is not as `metrics.objects` describes it, or an argument is out of range.
    """
    check_kind(kind)
    settings = {"num_classes": num_classes, "kind": kind, "where": _name_of(truth, None)}
    labelled, detected = (
        read_objects(truth, detected=False, **settings),
        read_objects(prediction, detected=True, **settings),
    )
    matched = _match(labelled, detected, kind, _threshold(iou_threshold), sigmas)
    result = np.full(len(prediction["labels"]), LEFT_OUT, np.int64)
    result[detected.rows] = np.where(matched >= 0, np.append(labelled.rows, 0)[matched], matched)
    return result


def picture_f1(
    truth: Mapping[str, Any],
    prediction: Mapping[str, Any],
    num_classes: int,
    *,
    kind: str = "boxes",
    iou_threshold: float = 0.5,
    score_threshold: float = 0.5,
) -> float:
    """F1 = 2 TP / (2 TP + FP + FN) of one picture, all classes together, which ranks pictures from best to worst.

    Only detections with at least `score_threshold` count. A picture with nothing to find and nothing found has 1.

    Raises:
        DataError: as `match_objects` does.
    """
    check_kind(kind)
    matched = match_objects(truth, prediction, num_classes, kind=kind, iou_threshold=iou_threshold)
    matched = matched[np.asarray(prediction["scores"]) >= score_threshold]
    labelled = read_objects(truth, num_classes, kind=kind, detected=False, where=_name_of(truth, None))
    objects = int(np.count_nonzero(~_ignored(labelled, kind)))
    right, wrong = np.count_nonzero(matched >= 0), np.count_nonzero(matched == WRONG)
    return float(2 * right / (objects + right + wrong)) if objects + wrong else 1.0


def _match(
    labelled: Objects, detected: Objects, kind: str, threshold: float, sigmas: Sequence[float] | None
) -> np.ndarray:
    """(D,) int64: index of the object found, `WRONG` or `LEFT_OUT`."""
    result = np.full(len(detected.labels), WRONG, np.int64)
    overlaps = _overlaps(labelled, detected, kind, sigmas)
    overlaps[detected.labels[:, None] != labelled.labels[None]] = 0.0
    regions = labelled.crowd | _nothing_to_compare(labelled, kind)
    inside = overlaps[:, regions].max(axis=1, initial=0.0) > threshold
    overlaps[:, regions] = 0.0
    taken = np.zeros(len(labelled.labels), bool)
    for row in np.argsort(-detected.scores, kind="stable"):
        best = int(np.argmax(overlaps[row])) if len(taken) else 0
        if len(taken) and overlaps[row, best] > threshold and not taken[best]:
            if labelled.difficult[best]:
                result[row] = LEFT_OUT
                continue
            taken[best] = True
            result[row] = best
        elif inside[row]:
            result[row] = LEFT_OUT
    return result


def _overlaps(labelled: Objects, detected: Objects, kind: str, sigmas: Sequence[float] | None) -> np.ndarray:
    """(D, N) float64."""
    if kind == "boxes":
        return box_overlaps(detected.boxes, labelled.boxes, labelled.crowd)
    if kind == "masks":
        return mask_overlaps(detected.masks, labelled.masks, labelled.crowd)
    areas = labelled.box_areas() if labelled.area is None else labelled.area
    return keypoint_similarities(detected.keypoints, labelled.keypoints, areas, labelled.boxes, sigmas)


def _ignored(labelled: Objects, kind: str) -> np.ndarray:
    """(N,) bool: objects that need not be found."""
    return labelled.crowd | labelled.difficult | _nothing_to_compare(labelled, kind)


def _nothing_to_compare(labelled: Objects, kind: str) -> np.ndarray:
    """(N,) bool: objects with no labelled keypoint, where keypoints are compared."""
    if kind != "keypoints" or not len(labelled.labels):
        return np.zeros(len(labelled.labels), bool)
    return ~(labelled.keypoints[..., 2] > 0).any(axis=1)


def _name_of(truth: Mapping[str, Any], index: int | None) -> str:
    name = truth.get("image_id")
    if name is None:
        return "the picture" if index is None else f"picture {index}"
    return f"picture {name.decode() if isinstance(name, bytes) else name}"


def _threshold(value: float) -> float:
    if not 0.0 <= value < 1.0:
        raise DataError(f"iou_threshold is an overlap of at least 0 and below 1, received {value!r}.")
    return float(value)
