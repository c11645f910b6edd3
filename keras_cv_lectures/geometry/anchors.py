"""Anchors: the boxes of fixed sizes and shapes, spread over a grid, that a detector starts from.

Faster R-CNN (Ren et al. 2015, https://arxiv.org/abs/1506.01497, section 3.1), on feature pyramids (Lin et al. 2017,
https://arxiv.org/abs/1612.03144), RetinaNet's octaves (https://arxiv.org/abs/1708.02002) and SSD's default boxes
(https://arxiv.org/abs/1512.02325). All are float32 `(x1, y1, x2, y2)` in pixels of the padded picture, row by row of
the grid, then column, then shape. A ratio is height over width unless said otherwise.

Differs from the paper: `cell_anchors` and `pyramid_anchors` follow torchvision, whose anchors of cell (i, j) sit on the
cell's top left corner and not on its centre; the published weights expect that. `caffe_anchors` is the table of 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_cv_lectures.geometry.boxes import Tensor

RATIOS = (0.5, 1.0, 2.0)
# A side is a whole number, or a scalar tensor where the picture's size is not known.
Side = int | Tensor


def cell_anchors(sizes: Sequence[float] | float, ratios: Sequence[float] = RATIOS) -> np.ndarray:
    """Anchors (len(ratios) * len(sizes), 4) of one cell around the origin, ratio by ratio, in whole pixels.

    A size is the side of the square of the same area. Corners are rounded, halves to the even number.

    >>> cell_anchors(32)
    [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]

    Raises:
        ValueError: for a size or ratio that is not positive.
    """
    sizes = _positive("sizes", sizes)
    heights = np.sqrt(_positive("ratios", ratios))
    widths = 1 / heights
    w, h = (widths[:, None] * sizes).ravel(), (heights[:, None] * sizes).ravel()
    return np.round(np.stack([-w, -h, w, h], axis=1) / 2)


def caffe_anchors(
    base: int = 16, ratios: Sequence[float] = RATIOS, scales: Sequence[float] = (8, 16, 32)
) -> np.ndarray:
    """Anchors (len(ratios) * len(scales), 4) of py-faster-rcnn's first cell, ratio by ratio.

    They stand around the centre of the first `base` x `base` pixels and name their last pixel: width = x2 - x1 + 1.

    Pixels count from 0; the table of the MATLAB release counts from 1, so that its numbers are larger by one.

    >>> caffe_anchors()[0]
    [-84, -40, 99, 55]
    """
    ratios, scales = np.float64(_positive("ratios", ratios)), np.float64(_positive("scales", scales))
    w = np.round(np.sqrt(base * base / ratios))
    h = np.round(w * ratios)
    w, h = (w[:, None] * scales).ravel(), (h[:, None] * scales).ravel()
    centre = (base - 1) / 2
    corners = [centre - (w - 1) / 2, centre - (h - 1) / 2, centre + (w - 1) / 2, centre + (h - 1) / 2]
    return np.stack(corners, axis=1).astype(np.float32)


def grid_anchors(cell: Tensor, grid: tuple[Side, Side], stride: tuple[Side, Side] | Side) -> Tensor:
    """`cell` (A, 4) moved to every cell of a grid: (h * w * A, 4) in the order row, column, anchor.

    Args:
        cell: anchors of the cell in row 0 and column 0.
        grid: `(h, w)` cells, whole numbers or scalar tensors.
        stride: `(sy, sx)` pixels from one cell to the next, or one number for both.
    """
    sy, sx = stride if isinstance(stride, (tuple, list)) else (stride, stride)
    h, w = grid
    x = ops.expand_dims(ops.arange(w, dtype="float32") * ops.cast(sx, "float32"), 0)
    y = ops.expand_dims(ops.arange(h, dtype="float32") * ops.cast(sy, "float32"), 1)
    # Sums with zeros make rows and columns of the grid whatever is known of its size.
    x, y = ops.reshape(x + ops.zeros_like(y), (-1, 1)), ops.reshape(y + ops.zeros_like(x), (-1, 1))
    shifts = ops.expand_dims(ops.concatenate([x, y, x, y], axis=-1), 1)
    return ops.reshape(shifts + ops.cast(cell, "float32"), (-1, 4))


def pyramid_anchors(
    grids: Sequence[tuple[Side, Side]],
    image_size: tuple[Side, Side],
    sizes: Sequence[Sequence[float] | float],
    ratios: Sequence[Sequence[float]] | Sequence[float] = RATIOS,
) -> Tensor:
    """Anchors (sum of h * w * A, 4) of all levels of a pyramid, finest first; torchvision's `AnchorGenerator`.

    The distance of a level's cells is the picture's side divided by the grid's, rounded down. Anchors that stick out
    of the picture are kept.

    Args:
        grids: `(h, w)` cells of each level.
        image_size: `(height, width)` in pixels of the padded picture that the grids were computed from.
        sizes: one size or several for each level, in pixels.
        ratios: those of every level, or one sequence for each level.

    Raises:
        ValueError: where the numbers of levels differ.
    """
    by_level = [ratios] * len(grids) if np.ndim(ratios[0]) == 0 else ratios
    if not len(grids) == len(sizes) == len(by_level):
        raise ValueError(
            "`grids`, `sizes` and `ratios` must have one entry for each level. Received: "
            f"{len(grids)} grids, {len(sizes)} sizes, {len(by_level)} sequences of ratios"
        )
    levels = []
    for grid, level_sizes, level_ratios in zip(grids, sizes, by_level, strict=True):
        stride = (image_size[0] // grid[0], image_size[1] // grid[1])
        levels.append(grid_anchors(cell_anchors(level_sizes, level_ratios), grid, stride))
    return ops.concatenate(levels, axis=0)


def octave_sizes(size: float, steps: int = 3) -> tuple[int, ...]:
    """RetinaNet's sizes between `size` and the double of it, rounded down: 32 gives (32, 40, 50)."""
    return tuple(int(size * 2 ** (step / steps)) for step in range(steps))


def default_boxes(
    grids: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
    ratios: Sequence[Sequence[float]],
    scales: Sequence[float] | None = None,
    *,
    scale_range: tuple[float, float] = (0.15, 0.9),
    steps: Sequence[float] | None = None,
    clip: bool = True,
) -> np.ndarray:
    """SSD's default boxes (N, 4), torchvision's `DefaultBoxGenerator`, around the centres of the cells.

    A cell has two squares, of its level's scale and of the geometric mean with the next level's, and for each ratio r
    a box r times as wide as high and one r times as high as wide.

    Args:
        grids: `(h, w)` cells of each level.
        image_size: `(height, width)` in pixels.
        ratios: for each level, those beside 1.
        scales: side of the squares as a share of the picture's, one more than levels; default `scale_range` in equal
            steps, and 1.
        scale_range: first and last scale, where `scales` is not given.
        steps: distance of cells in pixels for each level; default the picture's side divided by the grid's.
        clip: limit sides to the picture's.

    Raises:
        ValueError: where the numbers of levels differ.
    """
    count = len(grids)
    if scales is None:
        low, high = scale_range
        even = [low + (high - low) * k / (count - 1) for k in range(count)] if count > 1 else [low]
        scales = [*even, 1.0 if count > 1 else high]
    if len(ratios) != count or len(scales) != count + 1 or (steps is not None and len(steps) != count):
        raise ValueError(
            "`ratios` and `steps` must have one entry for each level and `scales` one more. Received: "
            f"{count} grids, ratios={ratios!r}, scales={scales!r}, steps={steps!r}"
        )
    height, width = image_size
    levels = []
    for k, (rows, columns) in enumerate(grids):
        mean = math.sqrt(scales[k] * scales[k + 1])
        sides = [(scales[k], scales[k]), (mean, mean)]
        for ratio in ratios[k]:
            long, short = scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)
            sides += [(long, short), (short, long)]
        sides = np.clip(sides, 0, 1) if clip else np.array(sides)
        down, across = (rows, columns) if steps is None else (height / steps[k], width / steps[k])
        y, x = np.meshgrid((np.arange(rows) + 0.5) / down, (np.arange(columns) + 0.5) / across, indexing="ij")
        centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
        levels.append(np.concatenate([centres - sides / 2, centres + sides / 2], axis=-1).reshape(-1, 4))
    return (np.concatenate(levels) * (width, height, width, height)).astype(np.float32)


def model_garden_anchors(
    image_size: tuple[int, int],
    min_level: int = 2,
    max_level: int = 6,
    *,
    num_scales: int = 1,
    ratios: Sequence[float] = RATIOS,
    anchor_size: float = 8.0,
) -> dict[int, np.ndarray]:
    """Anchors (h * w * A, 4) of each level as TensorFlow Model Garden has them, scale by scale, then ratio by ratio.

    They stand around the centres of the cells, are not rounded, and a **ratio is width over height**. Level k has a
    stride of about 2**k, the picture's side divided by the grid's, and anchors of `anchor_size` * 2**k pixels.

    Raises:
        ValueError: for levels in the wrong order.
    """
    if min_level > max_level:
        raise ValueError(f"`min_level` must not be above `max_level`. Received: {min_level=}, {max_level=}")
    height, width = image_size
    shapes = _positive("ratios", ratios) ** 0.5
    scales = 2 ** (np.arange(num_scales) / num_scales)
    result = {}
    for level in range(min_level, max_level + 1):
        rows, columns = math.ceil(height / 2**level), math.ceil(width / 2**level)
        side = (anchor_size * 2**level * scales)[:, None]
        half = np.stack([side * shapes, side / shapes], axis=-1).reshape(-1, 2) / 2
        y, x = np.meshgrid(
            (np.arange(rows) + 0.5) * (height / rows), (np.arange(columns) + 0.5) * (width / columns), indexing="ij"
        )
        centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
        boxes = np.concatenate([centres - half, centres + half], axis=-1)
        result[level] = boxes.reshape(-1, 4).astype(np.float32)
    return result


def _positive(argument: str, values: Sequence[float] | float) -> np.ndarray:
    numbers = np.atleast_1d(np.asarray(values, np.float32))
    if numbers.ndim != 1 or not (numbers > 0).all():
        raise ValueError(f"`{argument}` must be positive numbers. Received: {argument}={values!r}")
    return numbers
