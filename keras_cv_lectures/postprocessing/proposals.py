"""DeconvNet's inference: score every proposal by itself, merge the score maps, multiply with FCN-8s.

Noh, Hong and Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015, https://arxiv.org/abs/1505.04366,
section 4.3, with the numbers of the authors' released code.

boxes = sliding_boxes((height, width))                                # or EdgeBox's, best first
scores = segment_proposals(model.predict, image, boxes)               # (H, W, K)
labels = ensemble_scores(scores, fcn_scores).argmax(-1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from keras_cv_lectures.postprocessing.segmentation import resize_probabilities


def segment_proposals(
    predict: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    boxes: np.ndarray,
    *,
    size: tuple[int, int] = (224, 224),
    min_side: float = 112,
    limit: int = 50,
    batch_size: int = 8,
) -> np.ndarray:
    """Raw scores of a picture from the scores of its proposals, each cut out and resized to what the network takes.

    Differs from the paper: boxes are clipped to the picture, where the authors pad the picture with zeros. With EdgeBox
    proposals nothing lies outside.

    Args:
        predict: (n, *size, C) float32 pictures in 0..255 -> (n, h, w, K) raw scores, such as `model.predict`.
        image: (H, W, C) in 0..255.
        boxes: (N, 4) proposals (x1, y1, x2, y2) in pixels, the best first.
        size: (height, width) that the network was trained on.
        min_side: boxes with a shorter side (pixels) are passed over: 112 in the authors' code.
        limit: number of boxes used at most: 50 in the authors' code.
        batch_size: crops scored at a time.

    Returns:
        (H, W, K) float32, as `merge_proposals` gives it.

    Raises:
        ValueError: wrong shapes, or no box is large enough.
    """
    image = np.asarray(image)
    if image.ndim != 3:
        raise ValueError(f"`image` must be (height, width, channels). Received: an array of shape {image.shape}")
    boxes = _whole_pixels(boxes, image.shape[:2])
    sides = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    chosen = boxes[sides >= max(1, min_side)][:limit]
    if not len(chosen):
        raise ValueError(
            f"`boxes` must have a box inside the picture with sides of at least min_side={min_side} pixels. Received: "
            f"{len(boxes)} boxes, the longest short side {sides.max(initial=0)}. Lower `min_side`."
        )
    crops = [resize_probabilities(image[y1:y2, x1:x2], size) for x1, y1, x2, y2 in chosen]
    scores = [np.asarray(predict(np.stack(crops[i : i + batch_size]))) for i in range(0, len(crops), batch_size)]
    return merge_proposals(np.concatenate(scores), chosen, image.shape[:2])


def merge_proposals(scores: Sequence[np.ndarray] | np.ndarray, boxes: np.ndarray, image_size: tuple[int, int]):
    """Largest score that any proposal gives to a pixel and class, at least 0.

    Raw score maps, not probabilities, are resized to their boxes (bilinear) and gathered by the element-wise maximum in
    a volume of zeros. A pixel outside all boxes keeps zeros, whose argmax is class 0, the background.

    Args:
        scores: N maps (h, w, K) of raw scores, an array (N, h, w, K) or a list.
        boxes: (N, 4), (x1, y1, x2, y2) in pixels; rounded to whole ones. What lies outside the picture is cut off.
        image_size: (height, width) in pixels of the result.

    Returns:
        (height, width, K) float32.

    Raises:
        ValueError: `scores` and `boxes` are not equally many, there are none, or a shape is wrong.
    """
    if len(scores) != len(boxes) or not len(scores):
        raise ValueError(
            "`scores` and `boxes` must be equally many, and at least one. "
            f"Received: {len(scores)} score maps and {len(boxes)} boxes"
        )
    height, width = image_size
    merged = np.zeros((height, width, np.shape(scores[0])[-1]), np.float32)
    for score, (x1, y1, x2, y2) in zip(scores, _whole_pixels(boxes), strict=True):
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        if right <= left or bottom <= top:
            continue
        resized = resize_probabilities(np.asarray(score, np.float32), (int(y2 - y1), int(x2 - x1)))
        window = merged[top:bottom, left:right]
        np.maximum(window, resized[top - y1 : bottom - y1, left - x1 : right - x1], out=window)
    return merged


def ensemble_scores(deconvnet: np.ndarray, fcn8s: np.ndarray) -> np.ndarray:
    """EDeconvNet: DeconvNet's merged scores times FCN-8s' scores where those are positive, else 0.

    Args:
        deconvnet: (..., K) raw scores, usually of `merge_proposals`.
        fcn8s: raw scores of the same shape.

    Returns:
        Scores of the same shape, float32; their argmax, or a CRF on their softmax, gives the labels.

    Raises:
        ValueError: the shapes differ.
    """
    deconvnet, fcn8s = np.asarray(deconvnet, np.float32), np.asarray(fcn8s, np.float32)
    if deconvnet.shape != fcn8s.shape:
        raise ValueError(
            f"`deconvnet` and `fcn8s` must have one shape. Received: {deconvnet.shape} and {fcn8s.shape}. "
            "Bring both to the picture's size with `resize_probabilities`."
        )
    return deconvnet * np.maximum(fcn8s, 0)


def sliding_boxes(
    image_size: tuple[int, int], *, fractions: Sequence[float] = (1.0, 0.75, 0.5), overlap: float = 0.5
) -> np.ndarray:
    """Windows in several sizes over the whole picture, the largest first: proposals where there is no EdgeBox.

    Args:
        image_size: (height, width) in pixels.
        fractions: sides of the windows as parts of the picture's sides, each above 0 and at most 1.
        overlap: part of a window's side that neighbouring windows share at least, from 0 to below 1.

    Returns:
        (N, 4) float32 boxes (x1, y1, x2, y2) in whole pixels; windows of one size reach all four borders.

    Raises:
        ValueError: a number outside its range.
    """
    if not 0 <= overlap < 1 or not all(0 < fraction <= 1 for fraction in fractions):
        raise ValueError(
            "`fractions` must be above 0 and at most 1, `overlap` at least 0 and below 1. "
            f"Received: fractions={tuple(fractions)}, overlap={overlap}"
        )
    boxes = []
    for fraction in sorted(fractions, reverse=True):
        sides = [max(1, round(fraction * full)) for full in image_size]
        rows, columns = (
            np.linspace(0, full - side, 1 + int(np.ceil((full - side) / max(1.0, side * (1 - overlap))))).round()
            for full, side in zip(image_size, sides, strict=True)
        )
        boxes += [(left, top, left + sides[1], top + sides[0]) for top in rows for left in columns]
    return np.array(boxes, np.float32)


def _whole_pixels(boxes: np.ndarray, image_size: tuple[int, int] | None = None) -> np.ndarray:
    """Boxes rounded to whole pixels, at least one pixel wide and high; clipped to a picture if one is given."""
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ValueError(f"`boxes` must be finite numbers of shape (N, 4). Received: an array of shape {boxes.shape}")
    whole = np.floor(boxes + 0.5).astype(int)
    if image_size is not None:
        height, width = image_size
        return np.clip(whole, 0, [width, height, width, height])
    whole[:, 2:] = np.maximum(whole[:, 2:], whole[:, :2] + 1)
    return whole


__all__ = ["ensemble_scores", "merge_proposals", "segment_proposals", "sliding_boxes"]
