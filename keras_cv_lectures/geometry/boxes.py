"""Boxes `(x1, y1, x2, y2)` in pixels: area, overlap, clipping, other ways to write them down.

Pixel (row i, column j) covers [j, j+1) x [i, i+1), so a box of one pixel is one wide: width = x2 - x1. Everything is
float32 on any backend, in a graph with unknown sizes or eagerly, with any leading axes and with zero boxes. Where a
function has `inclusive`, True is the convention of Caffe and MATLAB, which name the last pixel instead of the edge
behind it: width = x2 - x1 + 1.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from keras import ops

# A NumPy array, nested lists of numbers, or a tensor of the running backend.
Tensor = Any
BoxFormat = Literal["xyxy", "xywh", "cxcywh", "yxyx"]

# Torchvision's, in the distance and shape terms; unions need less, as the intersection is never larger.
EPSILON = 1e-7
NO_AREA = 1e-30


def box_area(boxes: Tensor, *, inclusive: bool = False) -> Tensor:
    """Areas (...,) in square pixels of boxes (..., 4)."""
    x1, y1, x2, y2 = _corners(boxes)
    return _extent(x1, x2, inclusive) * _extent(y1, y2, inclusive)


def pairwise_iou(a: Tensor, b: Tensor, *, inclusive: bool = False) -> Tensor:
    """Intersection over union (..., N, M), 0..1, of every box of `a` (..., N, 4) with every box of `b` (..., M, 4).

    Two boxes without area have 0, where torchvision and Caffe divide zero by zero.

    >>> pairwise_iou([[0, 0, 2, 2]], [[1, 0, 3, 2], [5, 5, 6, 6]])
    [[0.33333334, 0.0]]
    """
    inter, area_a, area_b = _intersection(*_pairs(a, b), inclusive)
    return inter / ops.maximum(area_a + area_b - inter, NO_AREA)


def pairwise_overlap(a: Tensor, b: Tensor, *, inclusive: bool = False) -> Tensor:
    """Share (..., N, M), 0..1, of each box of `a` (..., N, 4) that lies in each box of `b` (..., M, 4).

    COCO's measure for regions that are marked as a crowd (`b`): a detection somewhere in a crowd is no mistake.
    """
    inter, area_a, _ = _intersection(*_pairs(a, b), inclusive)
    return inter / ops.maximum(area_a, NO_AREA)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (...,) of boxes (..., 4) one by one; the arguments broadcast."""
    inter, union = _intersection_and_union(_corners(a), _corners(b))
    return inter / ops.maximum(union, NO_AREA)


def generalized_iou(a: Tensor, b: Tensor, *, pairwise: bool = False) -> Tensor:
    """Generalized IoU, -1..1, which falls with the empty part of the box around both.

    One by one for boxes (..., 4) that broadcast; with `pairwise` every box of (..., N, 4) with every one of
    (..., M, 4), (..., N, M).

    Paper: Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630.
    Differs from the paper: boxes without area give finite numbers.
    """
    a, b = _pairs(a, b) if pairwise else (_corners(a), _corners(b))
    inter, union = _intersection_and_union(a, b)
    width, height = _hull(a, b)
    hull = width * height
    return inter / ops.maximum(union, NO_AREA) - (hull - union) / ops.maximum(hull, NO_AREA)


def distance_iou(a: Tensor, b: Tensor, *, pairwise: bool = False) -> Tensor:
    """IoU less the squared distance of the centres over the squared diagonal of the box around both, -1..1.

    Shapes as in `generalized_iou`.

    Paper: Zheng et al. 2020, https://arxiv.org/abs/1911.08287.
    Differs from the paper: 1e-7 is added to the squared diagonal, as in torchvision.
    """
    a, b = _pairs(a, b) if pairwise else (_corners(a), _corners(b))
    return _distance_iou(a, b)[0]


def complete_iou(a: Tensor, b: Tensor, *, pairwise: bool = False) -> Tensor:
    """`distance_iou` less a term for unequal aspect ratios, whose weight is taken as a constant by the gradient.

    Shapes as in `generalized_iou`.

    Paper: Zheng et al. 2020, https://arxiv.org/abs/1911.08287.
    Differs from the paper: 1e-7 is added to denominators, as in torchvision. Boxes without height or width give finite
    numbers, where torchvision's may be NaN.
    """
    a, b = _pairs(a, b) if pairwise else (_corners(a), _corners(b))
    distance, iou = _distance_iou(a, b)
    v = (4 / math.pi**2) * ops.square(_angle(a) - _angle(b))
    alpha = ops.stop_gradient(v / (1 - iou + v + EPSILON))
    return distance - alpha * v


def clip_boxes(boxes: Tensor, size: Tensor, *, inclusive: bool = False) -> Tensor:
    """Boxes (..., N, 4) cut at the picture's border: x in [0, width], y in [0, height].

    Args:
        boxes: (..., N, 4).
        size: `(height, width)` in pixels: two numbers or scalar tensors, (2,), or (..., 2) with one pair for each
            leading index of the boxes.
        inclusive: cut at width - 1 and height - 1, as Caffe does.
    """
    boxes, size = _float(boxes), _size(size)
    if len(size.shape) > 1:
        size = ops.expand_dims(size, -2)
    limit = ops.concatenate([size[..., 1:2], size[..., 0:1]] * 2, axis=-1)
    return ops.minimum(ops.maximum(boxes, 0.0), limit - 1 if inclusive else limit)


def large_enough(boxes: Tensor, minimum: Tensor | float, *, inclusive: bool = False) -> Tensor:
    """Boolean (...,): are both sides of the boxes (..., 4) at least `minimum` pixels long?"""
    x1, y1, x2, y2 = _corners(boxes)
    return ops.logical_and(_extent(x1, x2, inclusive) >= minimum, _extent(y1, y2, inclusive) >= minimum)


def convert_boxes(boxes: Tensor, source: BoxFormat, target: BoxFormat) -> Tensor:
    """Boxes (..., 4) written in another way.

    Args:
        boxes: (..., 4).
        source: what they are now: "xyxy" corners, "yxyx" corners as TensorFlow's operators have them, "xywh" corner
            and size (COCO's files), or "cxcywh" centre and size.
        target: what they shall be.

    Raises:
        ValueError: for another name.
    """
    for argument, name in (("source", source), ("target", target)):
        if name not in ("xyxy", "xywh", "cxcywh", "yxyx"):
            raise ValueError(f'`{argument}` must be "xyxy", "xywh", "cxcywh" or "yxyx". Received: {argument}={name!r}')
    boxes = _float(boxes)
    if source == target:
        return boxes
    first, second, third, fourth = (boxes[..., i] for i in range(4))
    if source == "xyxy":
        corners = (first, second, third, fourth)
    elif source == "yxyx":
        corners = (second, first, fourth, third)
    elif source == "xywh":
        corners = (first, second, first + third, second + fourth)
    else:
        half_width, half_height = 0.5 * third, 0.5 * fourth
        corners = (first - half_width, second - half_height, first + half_width, second + half_height)
    x1, y1, x2, y2 = corners
    if target == "yxyx":
        corners = (y1, x1, y2, x2)
    elif target == "xywh":
        corners = (x1, y1, x2 - x1, y2 - y1)
    elif target == "cxcywh":
        corners = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    return ops.stack(corners, axis=-1)


def masks_to_boxes(masks: Tensor, *, inclusive: bool = False) -> Tensor:
    """Smallest boxes (..., 4) around what is not 0 in masks (..., H, W); an empty mask gives zeros.

    Args:
        masks: (..., H, W), of any number type or boolean.
        inclusive: name the last row and column that are set, as torchvision's `masks_to_boxes` does, instead of the
            edges behind them.
    """
    set_ = ops.not_equal(masks, 0)
    x1, x2 = _first_and_last(ops.any(set_, axis=-2))
    y1, y2 = _first_and_last(ops.any(set_, axis=-1))
    boxes = ops.stack([x1, y1, x2, y2] if inclusive else [x1, y1, x2 + 1, y2 + 1], axis=-1)
    found = ops.any(set_, axis=(-2, -1))
    return ops.where(ops.expand_dims(found, -1), boxes, ops.zeros_like(boxes))


def _float(boxes: Tensor) -> Tensor:
    return ops.cast(boxes, "float32")


def _size(size: Tensor) -> Tensor:
    if isinstance(size, (tuple, list)) and len(size) == 2 and not isinstance(size[0], (tuple, list)):
        return ops.stack([ops.cast(side, "float32") for side in size])
    return _float(size)


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x1, y1, x2, y2 of boxes (..., 4), each (...,)."""
    boxes = _float(boxes)
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _pairs(a: Tensor, b: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Coordinates (..., N, 1) and (..., 1, M). One tensor a coordinate: the rank stays what TensorFlow Lite broadcasts
    fast."""
    return tuple(ops.expand_dims(c, -1) for c in _corners(a)), tuple(ops.expand_dims(c, -2) for c in _corners(b))


def _extent(low: Tensor, high: Tensor, inclusive: bool = False) -> Tensor:
    return high - low + 1 if inclusive else high - low


def _intersection(a: tuple[Tensor, ...], b: tuple[Tensor, ...], inclusive: bool = False) -> tuple[Tensor, ...]:
    """Area of the intersection, of `a` and of `b`."""
    width = _extent(ops.maximum(a[0], b[0]), ops.minimum(a[2], b[2]), inclusive)
    height = _extent(ops.maximum(a[1], b[1]), ops.minimum(a[3], b[3]), inclusive)
    areas = (_extent(c[0], c[2], inclusive) * _extent(c[1], c[3], inclusive) for c in (a, b))
    return ops.maximum(width, 0.0) * ops.maximum(height, 0.0), *areas


def _intersection_and_union(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    inter, area_a, area_b = _intersection(a, b)
    return inter, area_a + area_b - inter


def _hull(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Width and height of the smallest box around both."""
    width = ops.maximum(a[2], b[2]) - ops.minimum(a[0], b[0])
    height = ops.maximum(a[3], b[3]) - ops.minimum(a[1], b[1])
    return ops.maximum(width, 0.0), ops.maximum(height, 0.0)


def _distance_iou(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    inter, union = _intersection_and_union(a, b)
    iou = inter / ops.maximum(union, NO_AREA)
    width, height = _hull(a, b)
    dx = (a[0] + a[2]) / 2 - (b[0] + b[2]) / 2
    dy = (a[1] + a[3]) / 2 - (b[1] + b[3]) / 2
    return iou - (dx * dx + dy * dy) / (width * width + height * height + EPSILON), iou


def _angle(corners: tuple[Tensor, ...]) -> Tensor:
    """Arc tangent of width over height; of a right angle where there is no height."""
    x1, y1, x2, y2 = corners
    return ops.arctan((x2 - x1) / ops.maximum(y2 - y1, NO_AREA))


def _first_and_last(set_: Tensor) -> tuple[Tensor, Tensor]:
    """First and last index (...,), float32, that is True in (..., L); of none, L and -1."""
    length = ops.shape(set_)[-1]
    index = ops.arange(length, dtype="float32")
    beyond = ops.cast(length, "float32")
    first = ops.min(ops.where(set_, index, beyond), axis=-1, initial=beyond)
    return first, ops.max(ops.where(set_, index, -1.0), axis=-1, initial=-1.0)
