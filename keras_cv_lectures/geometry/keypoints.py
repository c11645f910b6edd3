"""Keypoints and the heatmaps that a keypoint head predicts inside each box, in `keras.ops` on float32.

A heatmap spreads over its box: cell (i, j) of an h x w map covers an h-th of the box's height and a w-th of its width.
Keypoints are (..., K, 3) `(x, y, v)` in pixels; v is above 0 where a point may be used, as COCO's visibility is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

Tensor = Any

# Keys' cubic with the factor that torch, OpenCV and TensorFlow's legacy resize use.
_CUBIC = -0.75
_LOWEST = float(np.finfo(np.float32).min)
# Behind every pixel.
_FAR = 1e9


def keypoint_targets(keypoints: Tensor, boxes: Tensor, matched: Tensor, size: int = 56) -> tuple[Tensor, Tensor]:
    """The cell of each box's heatmap that its object's keypoints lie in: torchvision's `keypoints_to_heatmap`.

    Paper: He et al. 2017, https://arxiv.org/abs/1703.06870, section 5.

    Args:
      keypoints: (..., N, K, 3) of the true objects.
      boxes: (..., R, 4) `(x1, y1, x2, y2)` in the same pixels.
      matched: (..., R) int, index of each box's object; below 0 for none, whose points are not counted.
      size: side of the heatmaps in cells.

    Returns:
      `(index (..., R, K) int32, valid (..., R, K) bool)`: the cell as row * size + column, 0 where not valid. Points on
      the right or lower edge of the box belong to the last cell; points outside of it, and such with v = 0, are not
      valid.
    """
    keypoints, boxes = ops.cast(keypoints, "float32"), ops.cast(boxes, "float32")
    matched = ops.cast(matched, "int32")
    count, points = ops.shape(boxes)[-2], ops.shape(keypoints)[-2]
    shape = [*list(ops.shape(boxes))[:-2], count, points]
    if keypoints.shape[-3] == 0 or boxes.shape[-2] == 0:
        return ops.zeros(shape, "int32"), ops.zeros(shape, "bool")
    objects = ops.shape(keypoints)[-3]
    rows = ops.reshape(matched, (-1, count))
    rows = ops.maximum(rows, 0) + objects * ops.arange(ops.shape(rows)[0], dtype="int32")[:, None]
    chosen = ops.take(ops.reshape(keypoints, (-1, points * 3)), ops.reshape(rows, (-1,)), axis=0)
    chosen = ops.reshape(chosen, [*shape, 3])
    cells, inside = [], ops.logical_and(chosen[..., 2] > 0.0, matched[..., None] >= 0)
    for axis in range(2):
        value, low, high = chosen[..., axis], boxes[..., axis, None], boxes[..., axis + 2, None]
        # A box without extent has no cells; the division must only stay finite.
        extent = ops.where(high > low, high - low, 1.0)
        cell = ops.floor((value - low) * (size / extent))
        cell = ops.where(value == high, size - 1.0, cell)
        inside = ops.logical_and(inside, ops.logical_and(cell >= 0.0, cell < size))
        inside = ops.logical_and(inside, high > low)
        cells.append(cell)
    index = ops.where(inside, cells[1] * size + cells[0], 0.0)
    return ops.cast(index, "int32"), inside


def heatmaps_to_keypoints(
    heatmaps: Tensor, boxes: Tensor, *, candidates: int = 8, rounds: int | None = None, max_extent: int = 1344
) -> Tensor:
    """The most likely place of each keypoint: the highest pixel of its heatmap resized to its box.

    torchvision's decoding: the map is resized bicubically to the box's whole number of pixels, rounded up and at least
    1, and the centre of the highest pixel is scaled to the box. Resizing 17 maps for 100 boxes would take gigabytes and
    another shape for each box. Here each square between four cells gets a number that no pixel in it exceeds, and the
    pixels of the squares with the highest numbers are computed, until no other square can hold a higher pixel: in
    static shapes and with operators that TensorFlow Lite has built in. A trained head's maps take one or two rounds,
    noise up to twenty. `heatmaps_to_keypoints_numpy` computes all pixels.

    Paper: He et al. 2017, https://arxiv.org/abs/1703.06870, section 5.

    Args:
      heatmaps: (..., R, h, w, K) logits; h, w and K must be known.
      boxes: (..., R, 4) `(x1, y1, x2, y2)` in pixels.
      candidates: squares that are looked at in a round, at least 1; changes time and memory, not the result.
      rounds: no more than these, at least 1, written out one after another instead of as a loop, for converters that
        have none; the highest pixel may then be missed where more squares than were looked at are nearly as high, as in
        noise. None: as many as it takes.
      max_extent: boxes up to this many pixels wide and high are searched pixel by pixel; of larger ones every second
        pixel is seen, beyond twice as many every third one, and so on. Memory grows with its square.

    Returns:
      (..., R, K, 3) float32: x and y in pixels, and the logit at that pixel. Of a map with NaN or infinite cells, any
      place.
    """
    heatmaps, boxes = ops.cast(heatmaps, "float32"), ops.cast(boxes, "float32")
    height, width, points = heatmaps.shape[-3:]
    shape = [*list(ops.shape(boxes))[:-1], points, 3]
    if boxes.shape[-2] == 0:
        return ops.zeros(shape, "float32")
    boxes = ops.reshape(boxes, (-1, 4))
    maps = ops.transpose(ops.reshape(heatmaps, (-1, height, width, points)), (0, 3, 1, 2))
    maps = _repeat_border(_repeat_border(ops.reshape(maps, (-1, height, width)), 1), 2)
    rows = _Axis(boxes[:, 1], boxes[:, 3], height, points, max_extent)
    columns = _Axis(boxes[:, 0], boxes[:, 2], width, points, max_extent)

    squares = (height + 1) * (width + 1)
    some = ops.logical_and(rows.some()[:, :, None], columns.some()[:, None, :])
    bounds = ops.reshape(ops.where(some, _bounds(maps), _LOWEST), (-1, squares))
    square = ops.arange(squares, dtype="int32")
    flat = ops.reshape(maps, (-1,))
    first = (height + 4) * (width + 4) * ops.arange(ops.shape(maps)[0], dtype="int32")[:, None, None, None]

    def open_(bound, _, score, *__):
        # Rounding alone is no reason to go on: a flat map would be searched wholly.
        return ops.any(bound[:, 0] > score + 1e-6 * ops.abs(score))

    def look(bound, last, score, y, x):
        """The next squares, from the one after `last` on in the order of falling bounds."""
        after = ops.logical_or(bounds < bound, ops.logical_and(bounds == bound, square > last))
        found, chosen = ops.top_k(ops.where(after, bounds, _LOWEST), min(candidates, squares))
        row, row_weights, row_seen = rows.pixels_in(chosen // (width + 1))
        column, column_weights, column_seen = columns.pixels_in(chosen % (width + 1))
        taps = ops.arange(4, dtype="int32")
        index = (chosen // (width + 1))[..., None, None] + taps[:, None]
        index = first + index * (width + 4) + (chosen % (width + 1))[..., None, None] + taps
        # Four axes at most: TensorFlow Lite slows down beyond.
        patches = ops.reshape(ops.take(flat, ops.reshape(index, (-1,))), ops.shape(index))
        values = ops.matmul(ops.matmul(row_weights, patches), ops.transpose(column_weights, (0, 1, 3, 2)))
        values = ops.where(ops.logical_and(row_seen[..., None], column_seen[..., None, :]), values, _LOWEST)
        # Of equal pixels the first one, row by row, as `argmax` of the whole map has it.
        highest = ops.max(values, axis=(1, 2, 3))
        columns_at = ops.where(values == highest[:, None, None, None], column[:, :, None, :], _FAR)
        columns_at = ops.min(columns_at, axis=-1)
        new_y = ops.min(ops.where(columns_at < _FAR, row, _FAR), axis=(1, 2))
        new_x = ops.min(ops.where(row == new_y[:, None, None], columns_at, _FAR), axis=(1, 2))
        earlier = ops.logical_or(new_y < y, ops.logical_and(new_y == y, new_x < x))
        better = ops.logical_or(highest > score, ops.logical_and(highest == score, earlier))
        score, y, x = (ops.where(better, new, old) for new, old in ((highest, score), (new_y, y), (new_x, x)))
        return found[:, -1:], ops.cast(chosen[:, -1:], "int32"), score, y, x

    # The first round is outside of the loop, so that most maps never enter it.
    none, last = ops.zeros_like(bounds[:, 0]), ops.zeros_like(bounds[:, :1], "int32")
    state = look(ops.full_like(bounds[:, :1], np.inf), last, none + _LOWEST, none, none)
    if rounds is None:
        state = ops.while_loop(open_, look, state)
    for _ in range((rounds or 1) - 1):
        state = look(*state)
    _, _, score, y, x = state
    return ops.reshape(ops.stack([columns.coordinate(x), rows.coordinate(y), score], axis=-1), shape)


def heatmaps_to_keypoints_numpy(heatmaps: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """`heatmaps_to_keypoints` with all pixels computed, for any box; one box at a time.

    Args:
      heatmaps: (R, h, w, K) logits.
      boxes: (R, 4) `(x1, y1, x2, y2)` in pixels.

    Returns:
      (R, K, 3) float32.
    """
    heatmaps, boxes = np.asarray(heatmaps, np.float32), np.asarray(boxes, np.float32)
    result = np.zeros((len(boxes), heatmaps.shape[-1], 3), np.float32)
    for found, maps, box in zip(result, heatmaps, boxes, strict=True):
        weights, sizes = [], []
        for cells, low, high in ((maps.shape[0], box[1], box[3]), (maps.shape[1], box[0], box[2])):
            extent = np.maximum(high - low, np.float32(1))
            pixels = int(np.ceil(extent))
            places = (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) * np.float32(cells / pixels) - 0.5
            taps = np.floor(places)[:, None] + np.arange(-1, 3)
            matrix = np.zeros((pixels, cells), np.float32)
            # Taps beyond the border repeat its cell.
            index = np.clip(taps, 0, cells - 1).astype(int)
            np.add.at(matrix, (np.arange(pixels)[:, None], index), _cubic_numpy(np.abs(places[:, None] - taps)))
            weights.append(matrix)
            sizes.append(extent / np.float32(pixels))
        for point in range(maps.shape[-1]):
            values = weights[0] @ maps[..., point] @ weights[1].T
            row, column = np.unravel_index(np.argmax(values), values.shape)
            x, y = (column + np.float32(0.5)) * sizes[1] + box[0], (row + np.float32(0.5)) * sizes[0] + box[1]
            found[point] = x, y, values[row, column]
    return result


class _Axis:
    """Rows, or columns, of the resized maps of Q boxes with K maps each."""

    def __init__(self, low: Tensor, high: Tensor, cells: int, points: int, max_extent: int):
        self.low, self.cells, self.points = low[:, None], cells, points
        self.extent = ops.maximum(high - low, 1.0)[:, None]
        self.pixels = ops.ceil(self.extent)
        max_extent = max(max_extent, cells)
        # Pixels from one that is looked at to the next.
        self.step = ops.ceil(self.pixels / max_extent)
        # As many pixels as the space between two cells can hold, the one before it, and one more against rounding.
        self.span = math.ceil(max_extent / cells) + 2

    def coordinate(self, pixel: Tensor) -> Tensor:
        """Coordinates (Q * K,) in the picture of the centres of resized pixels (Q * K,)."""
        pixel = ops.reshape(pixel, (-1, self.points))
        return ops.reshape((pixel + 0.5) * (self.extent / self.pixels) + self.low, (-1,))

    def some(self) -> Tensor:
        """(Q * K, cells + 1) bool: is there a pixel between cells k - 1 and k?"""
        space = ops.arange(self.cells + 1, dtype="int32")[None] + ops.zeros_like(self.each(self.pixels), "int32")
        pixel, place = self._from(space, 3, 1.0)
        return ops.any(self._in(space, pixel, place), axis=-1)

    def pixels_in(self, space: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The pixels between cells `space` - 1 and `space`, (Q * K, c) int.

        Returns:
          pixels (Q * K, c, span) float32, their weights (Q * K, c, span, 4) of the cells from `space` - 2 on, and which
          of them are meant (Q * K, c, span) bool.
        """
        pixel, place = self._from(space, self.span, self.each(self.step)[..., None])
        offset = place - ops.cast(space, "float32")[..., None]
        weights = _cubic(offset[..., None] - ops.arange(-2, 2, dtype="float32"))
        return pixel, weights, self._in(space, pixel, place)

    def each(self, value: Tensor) -> Tensor:
        """(Q * K, 1) of (Q, 1): one for each map."""
        return ops.reshape(ops.repeat(value, self.points, axis=1), (-1, 1))

    def _from(self, space: Tensor, count: int, step: Tensor | float) -> tuple[Tensor, Tensor]:
        """`count` pixels from the last one before the space on, and their places in cells, (Q * K, c, count)."""
        scale = self.each(self.cells / self.pixels)
        before = ops.maximum(ops.floor((ops.cast(space, "float32") - 0.5) / scale - 0.5), 0.0)
        pixel = before[..., None] + step * ops.arange(count, dtype="float32")
        return pixel, (pixel + 0.5) * scale[..., None] - 0.5

    def _in(self, space: Tensor, pixel: Tensor, place: Tensor) -> Tensor:
        # By the place of each pixel and not by the ends of the space: rounding cannot put a pixel into none.
        known = ops.logical_and(pixel >= 0.0, pixel < self.each(self.pixels)[..., None])
        return ops.logical_and(known, ops.floor(place) == ops.cast(space, "float32")[..., None] - 1.0)


def _repeat_border(maps: Tensor, axis: int) -> Tensor:
    """Maps (M, h, w) with the outermost cells of an axis two more times."""
    first, last = (maps[:, :1], maps[:, -1:]) if axis == 1 else (maps[..., :1], maps[..., -1:])
    return ops.concatenate([first, first, maps, last, last], axis=axis)


def _bounds(maps: Tensor) -> Tensor:
    """Numbers (M, h + 1, w + 1) that the bicubic surface between four cells of (M, h + 4, w + 4) maps does not exceed.

    Written as Bezier patches, the surface lies within the hull of its sixteen control points. Those of a curve between
    the second and the third of four cells are these two and their neighbours, a third of the slope there away.
    """

    def along_columns(rows):
        a, b, c, d = (rows[..., k : k + width + 1] for k in range(4))
        ends = ops.maximum(b, c)
        return ops.maximum(ends, ops.maximum(b + third * (c - a), c - third * (d - b)))

    height, width, third = maps.shape[1] - 4, maps.shape[2] - 4, -_CUBIC / 3.0
    a, b, c, d = (maps[:, k : k + height + 1] for k in range(4))
    ends = along_columns(maps[:, 1:-1])
    bounds = ops.maximum(ends[:, :-1], ends[:, 1:])
    return ops.maximum(bounds, ops.maximum(along_columns(b + third * (c - a)), along_columns(c - third * (d - b))))


def _cubic(distance: Tensor) -> Tensor:
    """Keys' kernel, 0 from a distance of 2 cells on."""
    distance = ops.abs(distance)
    near = ((_CUBIC + 2.0) * distance - (_CUBIC + 3.0)) * distance * distance + 1.0
    far = ((_CUBIC * distance - 5.0 * _CUBIC) * distance + 8.0 * _CUBIC) * distance - 4.0 * _CUBIC
    return ops.where(distance <= 1.0, near, ops.where(distance < 2.0, far, 0.0))


def _cubic_numpy(distance: np.ndarray) -> np.ndarray:
    near = ((_CUBIC + 2.0) * distance - (_CUBIC + 3.0)) * distance * distance + 1.0
    far = ((_CUBIC * distance - 5.0 * _CUBIC) * distance + 8.0 * _CUBIC) * distance - 4.0 * _CUBIC
    return np.where(distance <= 1.0, near, np.where(distance < 2.0, far, 0.0)).astype(np.float32)
