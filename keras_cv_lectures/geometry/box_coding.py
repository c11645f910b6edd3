"""Boxes relative to other boxes: what a network regresses.

R-CNN (Girshick et al. 2014, https://arxiv.org/abs/1311.2524, appendix C): the centre moves by a share of the
reference's size, the size changes by a factor, whose logarithm is the number. Weights multiply the four numbers, so
that they have a spread of about one: Faster R-CNN's (10, 10, 5, 5) are one over its standard deviations
(0.1, 0.1, 0.2, 0.2).
"""

from __future__ import annotations

import math
from typing import Literal

from keras import ops

from keras_cv_lectures.geometry.boxes import Tensor

# A side grows at most from 16 to 1000 pixels, Faster R-CNN's stride and longer side: exp() cannot overflow.
LARGEST_LOG = math.log(1000 / 16)
Weights = tuple[float, float, float, float]
Order = Literal["xy", "yx"]


def encode_boxes(
    references: Tensor,
    boxes: Tensor,
    weights: Weights = (1.0, 1.0, 1.0, 1.0),
    *,
    order: Order = "xy",
    inclusive: bool = False,
) -> Tensor:
    """Deltas (..., 4) `(dx, dy, dw, dh)` that lead from `references` to `boxes`.

    >>> encode_boxes([[0, 0, 8, 4]], [[2, 0, 10, 4]])
    [[0.25, 0.0, 0.0, 0.0]]

    Args:
        references: (..., 4) anchors or proposals, pixels; broadcasts against `boxes`.
        boxes: (..., 4), pixels.
        weights: factors of dx, dy, dw, dh.
        order: "yx" gives, and weighs, `(dy, dx, dh, dw)`, as Model Garden does.
        inclusive: sides count the last pixel, width = x2 - x1 + 1, as in Caffe.

    Raises:
        ValueError: for four weights that are not positive numbers, or another order.

    Differs from the paper: a side without length counts as one pixel, so that rows of padding stay finite.
    """
    weights = _checked(weights, order)
    (rx, ry, rw, rh), (bx, by, bw, bh) = _centres(references, inclusive), _centres(boxes, inclusive)
    rw, rh, bw, bh = (ops.where(side > 0, side, ops.ones_like(side)) for side in (rw, rh, bw, bh))
    deltas = ((bx - rx) / rw, (by - ry) / rh, ops.log(bw / rw), ops.log(bh / rh))
    deltas = (delta * weight if weight != 1 else delta for delta, weight in zip(deltas, weights, strict=True))
    return _ordered(tuple(deltas), order)


def decode_boxes(
    references: Tensor,
    deltas: Tensor,
    weights: Weights = (1.0, 1.0, 1.0, 1.0),
    clip: float | None = LARGEST_LOG,
    *,
    order: Order = "xy",
    inclusive: bool = False,
) -> Tensor:
    """Boxes (..., 4) in pixels to which `deltas` lead from `references`; `encode_boxes` undone.

    Args:
        references: (..., 4), pixels; broadcasts against `deltas`: (R, 1, 4) serves deltas (R, classes, 4).
        deltas: (..., 4) `(dx, dy, dw, dh)`.
        weights: the factors that they were encoded with.
        clip: largest dw and dh, after the weights; None is no limit, as in Caffe.
        order: "yx" takes `(dy, dx, dh, dw)`, as Model Garden does. Boxes are `(x1, y1, x2, y2)` all the same.
        inclusive: sides of the references count the last pixel, as in Caffe. Like py-faster-rcnn's, the boxes that come
            out end behind the last pixel: x2 = centre + width / 2.

    Raises:
        ValueError: for four weights that are not positive numbers, or another order.
    """
    weights = _checked(weights, order)
    rx, ry, rw, rh = _centres(references, inclusive)
    numbers = _ordered(ops.split(ops.cast(deltas, "float32"), 4, axis=-1), order, join=False)
    dx, dy, dw, dh = (n / weight if weight != 1 else n for n, weight in zip(numbers, weights, strict=True))
    if clip is not None:
        dw, dh = ops.minimum(dw, clip), ops.minimum(dh, clip)
    x, y = dx * rw + rx, dy * rh + ry
    half_width, half_height = 0.5 * (ops.exp(dw) * rw), 0.5 * (ops.exp(dh) * rh)
    return ops.concatenate([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


def _centres(boxes: Tensor, inclusive: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre and size, each (..., 1)."""
    x1, y1, x2, y2 = ops.split(ops.cast(boxes, "float32"), 4, axis=-1)
    width, height = x2 - x1, y2 - y1
    if inclusive:
        width, height = width + 1, height + 1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height


def _ordered(numbers: tuple[Tensor, ...], order: Order, join: bool = True) -> Tensor | tuple[Tensor, ...]:
    if order == "yx":
        numbers = (numbers[1], numbers[0], numbers[3], numbers[2])
    return ops.concatenate(numbers, axis=-1) if join else tuple(numbers)


def _checked(weights: Weights, order: Order) -> Weights:
    """Weights of dx, dy, dw, dh."""
    if order not in ("xy", "yx"):
        raise ValueError(f'`order` must be "xy" or "yx". Received: order={order!r}')
    if len(weights) != 4 or not all(weight > 0 for weight in weights):
        raise ValueError(f"`weights` must be four positive numbers. Received: weights={weights!r}")
    return (weights[1], weights[0], weights[3], weights[2]) if order == "yx" else tuple(weights)
