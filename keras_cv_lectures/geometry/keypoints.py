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


def heatmaps_to_keypoints(heatmaps: Tensor, boxes: Tensor, *, candidates: int = 4, max_extent: int = 1344) -> Tensor:
    """The most likely place of each keypoint: the highest pixel of its heatmap resized to its box.

    torchvision's decoding: the map is resized bicubically to the box's whole number of pixels, rounded up and at least
    1, and the centre of the highest pixel is scaled to the box. Resizing 17 maps for 100 boxes would take gigabytes and
    another shape for each box. Here the pixels within one cell of the `candidates` highest local maxima are computed,
    in static shapes and with operators that TensorFlow Lite has built in. Where the box has no more pixels than the map
    has cells, all pixels are looked at. Elsewhere the highest pixel can be missed only where several maxima are nearly
    as high. `heatmaps_to_keypoints_numpy` computes all pixels.

    Paper: He et al. 2017, https://arxiv.org/abs/1703.06870, section 5.

    Args:
      heatmaps: (..., R, h, w, K) logits; h, w and K must be known.
      boxes: (..., R, 4) `(x1, y1, x2, y2)` in pixels.
      candidates: local maxima that are looked at, at least 1.
      max_extent: boxes up to this many pixels wide and high are searched pixel by pixel; of larger ones only the pixels
        around the middle of the cells are seen. Memory grows with its square.

    Returns:
      (..., R, K, 3) float32: x and y in pixels, and the logit at that pixel.
    """
    heatmaps, boxes = ops.cast(heatmaps, "float32"), ops.cast(boxes, "float32")
    height, width, points = heatmaps.shape[-3:]
    shape = [*list(ops.shape(boxes))[:-1], points, 3]
    if boxes.shape[-2] == 0:
        return ops.zeros(shape, "float32")
    boxes = ops.reshape(boxes, (-1, 4))
    maps = ops.transpose(ops.reshape(heatmaps, (-1, height, width, points)), (0, 3, 1, 2))
    rows = _Axis(boxes[:, 1], boxes[:, 3], height, points, max_extent)
    columns = _Axis(boxes[:, 0], boxes[:, 2], width, points, max_extent)

    coarse = ops.matmul(ops.matmul(rows.coarse_weights(), maps), ops.transpose(columns.coarse_weights(), (0, 1, 3, 2)))
    known = ops.logical_and(rows.coarse_known()[..., None], columns.coarse_known()[..., None, :])
    coarse = ops.where(known, coarse, _LOWEST)
    highest = rows.highest_near(coarse, 2)
    highest = columns.highest_near(highest, 3)
    peaks = ops.reshape(ops.where(coarse >= highest, coarse, _LOWEST), (-1, height * width))
    peak = ops.top_k(peaks, min(candidates, height * width))[1]

    row, row_weights, row_taps, row_seen = rows.fine(peak // width)
    column, column_weights, column_taps, column_seen = columns.fine(peak % width)
    first = height * width * ops.arange(ops.shape(peak)[0], dtype="int32")[:, None, None, None]
    index = first + row_taps[..., None] * width + column_taps[..., None, :]
    # Four axes at most: TensorFlow Lite slows down beyond.
    patches = ops.reshape(ops.take(ops.reshape(maps, (-1,)), ops.reshape(index, (-1,))), ops.shape(index))
    fine = ops.matmul(ops.matmul(row_weights, patches), ops.transpose(column_weights, (0, 1, 3, 2)))
    fine = ops.where(ops.logical_and(row_seen[..., None], column_seen[..., None, :]), fine, _LOWEST)

    flat = ops.reshape(fine, (-1, fine.shape[1] * fine.shape[2] * fine.shape[3]))
    # `ops.argmax` of floats uses operators that TensorFlow Lite has not.
    score, best = (value[..., 0] for value in ops.top_k(flat, 1))
    chosen = ops.one_hot(best // (rows.span * columns.span), peak.shape[-1], dtype="float32")
    pixel_y = ops.sum(chosen * row, axis=-1) + ops.cast(best // columns.span % rows.span, "float32")
    pixel_x = ops.sum(chosen * column, axis=-1) + ops.cast(best % columns.span, "float32")
    found = ops.stack([columns.coordinate(pixel_x), rows.coordinate(pixel_y), score], axis=-1)
    return ops.reshape(found, shape)


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
        self.scale = cells / self.pixels
        # As many pixels as two cells can hold.
        self.span = math.ceil(2 * max(max_extent, cells) / cells) + 2

    def coordinate(self, pixel: Tensor) -> Tensor:
        """Coordinates (Q * K,) in the picture of the centres of resized pixels (Q * K,)."""
        pixel = ops.reshape(pixel, (-1, self.points))
        return ops.reshape((pixel + 0.5) * (self.extent / self.pixels) + self.low, (-1,))

    def coarse_weights(self) -> Tensor:
        """(Q, 1, cells, cells): resizing to all pixels where they are no more than the cells, or nothing to do."""
        cell = ops.arange(self.cells, dtype="float32")
        places = (cell + 0.5) * self.scale - 0.5
        base, weights = ops.floor(places), 0.0
        for step in range(-1, 3):
            tap = ops.clip(base + step, 0.0, self.cells - 1.0)
            weights += _cubic(places - base - step)[..., None] * ops.cast(tap[..., None] == cell, "float32")
        weights = ops.where(self._few()[..., None], weights, ops.eye(self.cells, dtype="float32"))
        return weights[:, None]

    def coarse_known(self) -> Tensor:
        """(Q, 1, cells) bool: which rows of the coarse map are pixels or cells."""
        inside = ops.arange(self.cells, dtype="float32") < self.pixels
        return ops.logical_or(inside, ops.logical_not(self._few()))[:, None]

    def highest_near(self, values: Tensor, axis: int) -> Tensor:
        """Coarse maps (Q, K, h, w) with the highest of each three neighbours along `axis`.

        Two kinds keep their value and so stay candidates next to a higher one: pixels of a small box, which are many
        cells apart; and the outermost cells, beyond whose centre the resized map can rise again.
        """
        window = (3, 1) if axis == 2 else (1, 3)
        pooled = ops.max_pool(ops.reshape(values, (-1, *values.shape[2:], 1)), window, 1, padding="same")
        cell = ops.arange(self.cells, dtype="int32")
        alone = ops.logical_or(self._few(), ops.logical_or(cell == 0, cell == self.cells - 1))
        alone = alone[:, None, :, None] if axis == 2 else alone[:, None, None, :]
        return ops.where(alone, values, ops.reshape(pooled, ops.shape(values)))

    def fine(self, peak: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The pixels within one cell of the rows `peak` (Q * K, c) int of the coarse map.

        Returns:
          the first pixel (Q * K, c) float32, weights (Q * K, c, span, 6) of the cells (Q * K, c, 6) int32 in the pixel
          and those that follow it, and which of these are meant (Q * K, c, span) bool.
        """
        peak = ops.cast(peak, "float32")
        scale, pixels, few = (
            ops.reshape(ops.repeat(value, self.points, axis=1), (-1, 1))
            for value in (self.scale, self.pixels, self._few())
        )
        place = ops.where(few, (peak + 0.5) * scale - 0.5, peak)
        middle = ops.where(few, peak, (peak + 0.5) / scale - 0.5)
        first = ops.maximum(ops.ceil(middle - 1.0 / scale), ops.floor(middle) - (self.span // 2 - 1))
        first = ops.maximum(first, 0.0)
        pixel = first[..., None] + ops.arange(self.span, dtype="float32")
        source = (pixel + 0.5) * scale[..., None] - 0.5
        seen = ops.logical_and(ops.abs(source - place[..., None]) <= 1.0, pixel < pixels[..., None])
        taps = ops.floor(place)[..., None] + ops.arange(-2, 4, dtype="float32")
        weights = _cubic(source[..., None] - taps[..., None, :])
        return first, weights, ops.cast(ops.clip(taps, 0.0, self.cells - 1.0), "int32"), seen

    def _few(self) -> Tensor:
        """(Q, 1) bool: the box has no more pixels than the map has cells."""
        return self.pixels <= self.cells


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
