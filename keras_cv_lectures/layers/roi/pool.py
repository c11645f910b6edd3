"""RoIPool (Fast R-CNN) and RoIWarp (multi-task cascades), which round boxes to whole pixels of the map."""

from __future__ import annotations

import keras
from keras import ops

from keras_cv_lectures.layers.roi.base import as_size, fixed
from keras_cv_lectures.layers.roi.bins import bin_samples, divided
from keras_cv_lectures.layers.roi.weighted import picked, weighted

Shape = tuple[int | None, ...]


class _Rounded(keras.layers.Layer):
    """What both layers share: settings, shapes, and boxes rounded to whole pixels of the map."""

    def __init__(self, output_size, scale, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.output_size, self.scale = as_size(output_size), scale
        # Keras asks before it compiles a model for XLA, which has no sparse product.
        self.supports_jit = keras.backend.backend() != "tensorflow"

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        features, boxes = input_shape
        return features[0], boxes[1], *self.output_size, features[3]

    def get_config(self):
        return {**super().get_config(), "output_size": self.output_size, "scale": self.scale}

    def _corners(self, boxes):
        """x1, y1, x2, y2, each (B, R), whole numbers as floats; halves are rounded away from 0, as C does."""
        boxes = fixed(boxes) * (1.0 if self.scale is None else self.scale)
        size = ops.abs(boxes)
        whole = ops.floor(size)
        whole = (whole + ops.cast(size - whole >= 0.5, "float32")) * ops.sign(boxes)
        return [whole[..., i] for i in range(4)]


@keras.saving.register_keras_serializable("keras_cv_lectures")
class RoIPool(_Rounded):
    """Features of boxes on one map: every bin is the maximum of the pixels that it touches.

    Input shape: [features (B, H, W, C), boxes (B, R, 4)]. Every size but C may be unknown; see `max_side`.
    Output shape: (B, R, h, w, C) in the compute dtype.

    Corners are rounded to pixels, both of which belong to the region; bin p of a region of n pixels has the pixels from
    floor(p n / h) to ceil((p + 1) n / h), so neighbours may share one. Bins without a pixel of the map are 0. The
    gradient goes to one pixel that has the maximum. No gradient reaches the boxes.

    Each bin is the maximum of four overlapping windows, whose sides are powers of two, from tables of the maxima of all
    windows of each such size: about log2(H) log2(W) copies of the map, whatever the number of boxes.

    Paper: https://arxiv.org/abs/1504.08083, section 2.1. Differs from the paper: nothing known; equal to torchvision
    and the Caffe layer.

    Args:
        output_size: (h, w), or one number for both.
        scale: pixels of the map per pixel of the boxes, such as 1 / 16. None: boxes are in pixels of the map.
        boxes_inside: no box reaches out of the map by more than rounding, so no bin is longer than 1 / h of the map:
            fewer tables. Longer bins would miss pixels in their middle.
        max_side: height and width of the largest map, where they are unknown when the layer is built.

    Raises:
        ValueError: for settings outside of these.

    >>> ramp = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    >>> RoIPool(2)([ramp, np.array([[[0, 0, 2, 3]]], "float32")])[0, 0, :, :, 0]
    [[5, 6], [13, 14]]
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scale: float | None = None,
        boxes_inside: bool = False,
        max_side: int = 128,
        **kwargs,
    ):
        super().__init__(output_size, scale, **kwargs)
        if not isinstance(max_side, int) or max_side < 1:
            raise ValueError(f"`max_side` must be a positive number of pixels. Received: max_side={max_side!r}")
        self.boxes_inside, self.max_side = bool(boxes_inside), max_side

    def call(self, inputs):
        features, boxes = inputs
        features = ops.cast(features, self.compute_dtype)
        batch, height, width, channels = ops.shape(features)
        x1, y1, x2, y2 = self._corners(boxes)
        top, bottom = _edges(y1, y2, height, self.output_size[0])
        left, right = _edges(x1, x2, width, self.output_size[1])
        powers = [self._powers(side, bins) for side, bins in zip((height, width), self.output_size, strict=True)]
        tall, above, below = _windows(top, bottom, powers[0], height)
        wide, before, behind = _windows(left, right, powers[1], width)
        flat = ops.reshape(ops.concatenate(_tables(features, *powers), axis=0), (-1, channels))
        table = tall[:, :, :, None] * powers[1] + wide[:, :, None, :]
        picture = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1, 1))
        begin = (table * batch + picture) * (height * width)
        best = None
        for y in (above, below):
            for x in (before, behind):
                place = begin + y[:, :, :, None] * width + x[:, :, None, :]
                value = picked(flat, ops.reshape(place, (-1,)))
                best = value if best is None else ops.maximum(best, value)
        filled = ops.logical_and((bottom > top)[:, :, :, None], (right > left)[:, :, None, :])
        best = ops.where(ops.reshape(filled, (-1, 1)), best, ops.zeros_like(best))
        return ops.reshape(best, (batch, ops.shape(x1)[1], *self.output_size, channels))

    def get_config(self):
        return {**super().get_config(), "boxes_inside": self.boxes_inside, "max_side": self.max_side}

    def _powers(self, side, bins: int) -> int:
        """Number of window sizes 1, 2, 4, ... that bins along a side of the map need."""
        side = side if isinstance(side, int) else self.max_side
        # Rounding the corners may add a pixel at each end, and floor and ceil one to each bin.
        longest = min(side, -(-(side + 1) // bins) + 1) if self.boxes_inside else side
        return max(longest.bit_length(), 1)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class RoIWarp(_Rounded):
    """Features of boxes on one map: every cell is one bilinear sample at the top left corner of its bin.

    Input shape: [features (B, H, W, C), boxes (B, R, 4)]. Every size but C may be unknown.
    Output shape: (B, R, h, w, C) in the compute dtype. The multi-task cascade takes 28 x 28 and pools them by maxima to
    14 x 14.

    Corners are rounded to pixels; cell p of a region from a to b is the value at `a + p (b - a) / h`, where pixel i has
    its centre at i. Samples further than half a pixel from the outermost centres are 0.

    Paper: https://arxiv.org/abs/1512.04412, section 3.2. Differs from the paper: corners are rounded, as in the code
    that its authors released; that code also takes the maximum of several such samples where a bin is longer than a
    pixel; no gradient reaches the boxes, which the cascade needs for its first stage.

    Args:
        output_size: (h, w), or one number for both.
        scale: pixels of the map per pixel of the boxes, such as 1 / 16. None: boxes are in pixels of the map.

    Raises:
        ValueError: for settings outside of these.

    >>> ramp = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    >>> RoIWarp(2)([ramp, np.array([[[0, 0, 3, 3]]], "float32")])[0, 0, :, :, 0]
    [[0, 1.5], [6, 7.5]]
    """

    def __init__(self, output_size: int | tuple[int, int], scale: float | None = None, **kwargs):
        super().__init__(output_size, scale, **kwargs)

    def call(self, inputs):
        features, boxes = inputs
        features = ops.cast(features, self.compute_dtype)
        height, width = (ops.cast(side, "float32") for side in ops.shape(features)[1:3])
        x1, y1, x2, y2 = self._corners(boxes)
        one = ops.ones_like(x1)

        def cells(begin, end, side, bins):
            return bin_samples(begin, ops.maximum(end - begin, 0.0), side * one, bins, 1, offset=0.0, reach=0.5)

        rows = cells(y1, y2, height, self.output_size[0])
        return weighted([features], None, rows, cells(x1, x2, width, self.output_size[1]))


def _edges(first, last, side, bins: int):
    """First pixel and pixel behind the last of every bin, (B, R, bins) int32, cut at the borders of the map."""
    # float32 in this order is what the reference computes: 7 * (5 / 7) may be a pixel more than 5.
    step = divided(ops.maximum(last - first + 1, 1.0), bins)[..., None]
    number = ops.arange(bins, dtype="float32")
    first, side = first[..., None], ops.cast(side, "float32")
    edges = (ops.floor(number * step) + first, ops.ceil((number + 1) * step) + first)
    return [ops.cast(ops.minimum(ops.maximum(edge, 0.0), side), "int32") for edge in edges]


def _windows(begin, end, powers: int, side):
    """Power of two, first and second beginning of the two windows that cover each bin."""
    length = end - begin
    power, size = ops.zeros_like(length), ops.ones_like(length)
    for exponent in range(1, powers):
        longer = ops.cast(length >= 2**exponent, "int32")
        power, size = power + longer, size * (1 + longer)
    last = side - 1
    return power, ops.minimum(begin, last), ops.minimum(ops.maximum(end - size, 0), last)


def _tables(features, tall: int, wide: int) -> list:
    """Maxima of the windows of 2**i x 2**j pixels that begin at each pixel, j fastest, each (B, H, W, C).

    Windows that leave the map have any value: no bin asks for them.
    """
    tables, column = [], features
    for i in range(tall):
        row = column
        for j in range(wide):
            tables.append(row)
            if j + 1 < wide:
                row = ops.maximum(row, _rolled(row, 2, 2**j))
        if i + 1 < tall:
            column = ops.maximum(column, _rolled(column, 1, 2**i))
    return tables


def _rolled(x, axis: int, pixels: int):
    parts = (x[:, pixels:], x[:, :pixels]) if axis == 1 else (x[:, :, pixels:], x[:, :, :pixels])
    return ops.concatenate(parts, axis=axis)
