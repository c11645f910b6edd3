"""Boundary F1: do the outlines agree, whatever the areas are."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from keras_cv_lectures.errors import DataError


def boundary_f1(
    label: np.ndarray,
    prediction: np.ndarray,
    num_classes: int,
    ignore_label: int | None = 255,
    tolerance: float = 0.0075,
) -> float:
    """Boundary F1 (BF) of one picture, mean over the classes that occur in the label or the prediction.

    Csurka et al., What is a good evaluation measure for semantic segmentation?, 2013. For each class, precision is the
    share of predicted boundary pixels that have a labelled boundary pixel within the tolerance, recall the reverse, and
    F1 = 2 P R / (P + R), 0 where P + R = 0. A boundary pixel of a class is one with a neighbour above, below, left or
    right of another class; the picture's edge and ignored pixels bound nothing. If neither side has a boundary, the
    class scores 1 where both cover the same pixels and 0 otherwise.

    Args:
        label: (H, W) class ids and the ignore label.
        prediction: (H, W) class ids; what lies on ignored pixels is not looked at.
        num_classes: K, including background; larger ids are refused.
        ignore_label: label of pixels that do not count, or None.
        tolerance: share of the picture's diagonal: 0.0075 is 4.5 pixels at 360 x 480.

    Returns:
        0..1, or NaN where no pixel is labelled; `mean_boundary_f1` leaves such pictures out.

    Raises:
        DataError: for shapes that differ, and ids outside 0..K-1.

    Differs from the paper: boundary pixels are matched by distance alone, each as often as needed, where the official
    script pairs them one to one (BSDS `correspondPixels`). Two predicted outlines along one labelled outline both count
    as right here, so values are slightly higher.
    """
    label, prediction = np.asarray(label), np.asarray(prediction)
    if label.ndim != 2 or label.shape != prediction.shape:
        raise DataError(f"label and prediction must both be (H, W), not {label.shape} and {prediction.shape}.")
    valid = np.ones(label.shape, bool) if ignore_label is None else label != ignore_label
    classes = np.unique(np.concatenate([label[valid], prediction[valid]]))
    if not len(classes):
        return math.nan
    if classes[0] < 0 or classes[-1] >= num_classes:
        raise DataError(f"ids lie in {classes[0]}..{classes[-1]}, outside the classes 0..{num_classes - 1}.")
    distance = tolerance * math.hypot(*label.shape)
    label_edges, prediction_edges = _edges(label, valid), _edges(prediction, valid)
    values = []
    for index in classes:
        ours, theirs = prediction_edges & (prediction == index), label_edges & (label == index)
        if not ours.any() and not theirs.any():
            values.append(float(np.array_equal((prediction == index) & valid, (label == index) & valid)))
        elif not ours.any() or not theirs.any():
            values.append(0.0)
        else:
            values.append(_f1(ours, theirs, distance))
    return float(np.mean(values))


def mean_boundary_f1(
    labels: Iterable[np.ndarray],
    predictions: Iterable[np.ndarray],
    num_classes: int,
    ignore_label: int | None = 255,
    tolerance: float = 0.0075,
) -> float:
    """Mean of `boundary_f1` over pictures, which may differ in size; 0 where none has a labelled pixel."""
    values = [
        boundary_f1(label, prediction, num_classes, ignore_label, tolerance)
        for label, prediction in zip(labels, predictions, strict=True)
    ]
    values = [value for value in values if not math.isnan(value)]
    return float(np.mean(values)) if values else 0.0


def _edges(classes: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(H, W) bool: labelled pixels with a labelled neighbour of another class, which is in `edges`, too."""
    edges = np.zeros(classes.shape, bool)
    down = (classes[1:] != classes[:-1]) & valid[1:] & valid[:-1]
    right = (classes[:, 1:] != classes[:, :-1]) & valid[:, 1:] & valid[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges


def _f1(ours: np.ndarray, theirs: np.ndarray, distance: float) -> float:
    from scipy import ndimage

    # Distances between boundary pixels do not change in the window that holds them all, and it is often small.
    rows, columns = np.nonzero(ours | theirs)
    window = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    ours, theirs = ours[window], theirs[window]
    precision = np.mean(ndimage.distance_transform_edt(~theirs)[ours] <= distance)
    recall = np.mean(ndimage.distance_transform_edt(~ours)[theirs] <= distance)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
