"""How well detected objects cover labelled ones: intersection over union of boxes and masks, keypoint similarity.

NumPy in float64, pairwise: row i and column j compare detection i with labelled object j.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.metrics.objects import Mask, as_crop

# Standard deviations of how people place COCO's 17 keypoints, nose to right ankle, in units of sqrt(area).
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
    0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
)  # fmt: skip
OTHER_SIGMA = 0.05


def box_overlaps(
    detected: np.ndarray, labelled: np.ndarray, crowd: np.ndarray | Sequence[bool] | None = None
) -> np.ndarray:
    """Intersection over union of boxes; over the detection's own area where the labelled box is a crowd.

    Args:
        detected: (D, 4) x1, y1, x2, y2.
        labelled: (N, 4).
        crowd: (N,) bool, or None.

    Returns:
        (D, N) float64 in 0..1; 0 where both areas are 0.
    """
    detected, labelled = (np.asarray(b, np.float64).reshape(-1, 4) for b in (detected, labelled))
    low = np.maximum(detected[:, None, :2], labelled[None, :, :2])
    high = np.minimum(detected[:, None, 2:], labelled[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0.0), axis=-1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (detected, labelled)]
    return _ratios(common, *areas, crowd)


def mask_overlaps(
    detected: Sequence[Mask], labelled: Sequence[Mask], crowd: np.ndarray | Sequence[bool] | None = None
) -> np.ndarray:
    """Intersection over union of masks; over the detection's own area where the labelled mask is a crowd.

    Args:
        detected: D crops or run-length codes.
        labelled: N of them, of the same picture.
        crowd: (N,) bool, or None.

    Returns:
        (D, N) float64 in 0..1; 0 where both masks are empty.
    """
    detected, labelled = [as_crop(m) for m in detected], [as_crop(m) for m in labelled]
    windows = [np.array([m.window for m in masks], np.int64).reshape(-1, 4) for masks in (detected, labelled)]
    low = np.maximum(windows[0][:, None, :2], windows[1][None, :, :2])
    high = np.minimum(windows[0][:, None, 2:], windows[1][None, :, 2:])
    common = np.zeros((len(detected), len(labelled)))
    for i, j in np.argwhere((high > low).all(axis=-1)):
        (x1, y1), (x2, y2) = low[i, j], high[i, j]
        parts = [
            m.pixels[y1 - m.window[1] : y2 - m.window[1], x1 - m.window[0] : x2 - m.window[0]]
            for m in (detected[i], labelled[j])
        ]
        common[i, j] = np.count_nonzero(parts[0] & parts[1])
    areas = [np.array([np.count_nonzero(m.pixels) for m in masks], np.float64) for masks in (detected, labelled)]
    return _ratios(common, *areas, crowd)


def keypoint_similarities(
    detected: np.ndarray,
    labelled: np.ndarray,
    areas: np.ndarray,
    boxes: np.ndarray,
    sigmas: Sequence[float] | None = None,
) -> np.ndarray:
    """Object keypoint similarity (OKS) as COCO defines it.

    OKS = mean over the labelled keypoints of exp(-d^2 / (2 (2 sigma)^2 area)), d the distance in pixels. Of an object
    with no labelled keypoint, d is how far each detected point lies outside a region three times as wide and high as
    the object's box, and the mean is over all points.

    Args:
        detected: (D, K, 3), of which x and y are used.
        labelled: (N, K, 3) x, y, visibility; a point counts where the visibility is above 0.
        areas: (N,) square pixels of the labelled objects.
        boxes: (N, 4) of the labelled objects.
        sigmas: (K,) spread of each keypoint; None takes COCO's where K is 17, and 0.05 for all otherwise.

    Returns:
        (D, N) float64 in 0..1.

    Raises:
        DataError: D and N differ in K, or `sigmas` has not K positive numbers.
    """
    detected, labelled = np.asarray(detected, np.float64), np.asarray(labelled, np.float64)
    if not len(detected) or not len(labelled):
        return np.zeros((len(detected), len(labelled)))
    count = labelled.shape[1]
    if detected.shape[1] != count:
        raise DataError(f"labelled objects have {count} keypoints, detected ones {detected.shape[1]}.")
    spread = (2 * keypoint_sigmas(count, sigmas)) ** 2  # (K,)
    seen = labelled[..., 2] > 0  # (N, K)
    none_seen = ~seen.any(axis=1)  # (N,)
    steps = detected[:, None, :, :2] - labelled[None, :, :, :2]  # (D, N, K, 2)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    low, high = (boxes[:, :2] - sides)[:, None], (boxes[:, 2:] + sides)[:, None]  # (N, 1, 2)
    points = detected[:, None, :, :2]
    outside = np.maximum(low - points, 0.0) + np.maximum(points - high, 0.0)
    steps = np.where(none_seen[None, :, None, None], outside, steps)
    areas = np.asarray(areas, np.float64)[None, :, None]
    closeness = np.exp(-np.sum(steps**2, axis=-1) / spread / (areas + np.spacing(1)) / 2)
    counts = seen | none_seen[:, None]
    return np.sum(closeness * counts, axis=-1) / np.sum(counts, axis=-1)


def keypoint_sigmas(count: int, sigmas: Sequence[float] | None = None) -> np.ndarray:
    """(K,) float64: `sigmas`, or the default for `count` keypoints.

    Raises:
        DataError: there are not `count` positive numbers.
    """
    if sigmas is None:
        return np.array(COCO_SIGMAS) if count == len(COCO_SIGMAS) else np.full(count, OTHER_SIGMA)
    sigmas = np.asarray(sigmas, np.float64)
    if sigmas.shape != (count,) or not (sigmas > 0).all():
        raise DataError(f"sigmas must be {count} positive numbers, one per keypoint, received {sigmas.tolist()}.")
    return sigmas


def _ratios(common: np.ndarray, detected: np.ndarray, labelled: np.ndarray, crowd: np.ndarray | None) -> np.ndarray:
    whole = detected[:, None] + labelled[None] - common
    if crowd is not None:
        whole = np.where(np.asarray(crowd, bool)[None], detected[:, None], whole)
    return np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
