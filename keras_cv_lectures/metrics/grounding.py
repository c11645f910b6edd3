"""Whether attention lies where it should: how much of it inside a box, and whether its peak is there.

Liu et al., Attention Correctness in Neural Image Captioning, AAAI 2017, https://arxiv.org/abs/1605.09553; the pointing
game of Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016, https://arxiv.org/abs/1608.00507.
"""

from __future__ import annotations

import numpy as np

from keras_cv_lectures.errors import DataError


def attention_inside(attention: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Share of each attention map that lies inside its box, each location's weight being spread evenly over its area.

    Args:
        attention: (N, h, w) weights of h x w locations that cover the whole picture; any sum.
        boxes: (N, 4) (x1, y1, x2, y2) in pixels.
        size: (height, width) of the picture in pixels.

    Returns:
        (N,) float64 in 0..1; nan where a map is all zeros. Of even weights it is the box's share of the picture, which
        is what to compare with.

    Raises:
        DataError: the arrays do not belong together.
    """
    weights, boxes = _checked(attention, boxes)
    rows = _covered(boxes[:, 1], boxes[:, 3], size[0], weights.shape[1])  # (N, h)
    columns = _covered(boxes[:, 0], boxes[:, 2], size[1], weights.shape[2])  # (N, w)
    totals = weights.sum(axis=(1, 2))
    inside = np.einsum("nhw,nh,nw->n", weights, rows, columns)
    return np.divide(inside, totals, out=np.full(len(weights), np.nan), where=totals > 0)


def pointing_hits(attention: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whether the middle of the location that counts most lies inside the box; of equal ones the first counts.

    Args:
        attention: (N, h, w) weights of h x w locations that cover the whole picture.
        boxes: (N, 4) (x1, y1, x2, y2) in pixels.
        size: (height, width) of the picture in pixels.

    Returns:
        (N,) bool.

    Raises:
        DataError: the arrays do not belong together.
    """
    weights, boxes = _checked(attention, boxes)
    count, height, width = weights.shape
    row, column = np.divmod(weights.reshape(count, height * width).argmax(axis=1), width)
    y, x = (row + 0.5) * size[0] / height, (column + 0.5) * size[1] / width
    return (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])


def _checked(attention: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weights, boxes = np.asarray(attention, np.float64), np.asarray(boxes, np.float64)
    if weights.ndim != 3 or boxes.shape != (len(weights), 4) or 0 in weights.shape[1:]:
        raise DataError(
            "attention must be (N, h, w) with one box (x1, y1, x2, y2) each. Received: attention of shape "
            f"{weights.shape}, boxes of shape {boxes.shape}."
        )
    return weights, boxes


def _covered(start: np.ndarray, stop: np.ndarray, length: int, count: int) -> np.ndarray:
    """(N, count) share of each of `count` equal parts of `length` that lies between start and stop."""
    edges = np.arange(count + 1) * (length / count)
    shared = np.minimum(stop[:, None], edges[1:]) - np.maximum(start[:, None], edges[:-1])
    return np.clip(shared, 0, None) * (count / length)
