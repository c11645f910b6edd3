"""Pooling over positions that are not neighbours: what a pooling becomes in a dilated network."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

PADDINGS = ("same", "end", "valid")
MODES = ("max", "average")


@keras.saving.register_keras_serializable("keras_cv_lectures")
class DilatedPooling2D(keras.layers.Layer):
    """Pooling at every position, over window entries that are `dilation_rate` apart.

    It takes the place of a pooling with a stride, on a map that is `dilation_rate` times as dense: with s the stride,
    r the rate and `pool` the pooling with its stride, `self(x)[:, :: s * r, :: s * r] == pool(x[:, ::r, ::r])`, borders
    included. One row (1, 3, 2, 5), windows of 2, rate 2, padding "end":

        max(1, 2), max(3, 5), 2, 5  =  2, 5, 2, 5

    Input shape: (B, H, W, C).
    Output shape: (B, H, W, C); for "valid" padding (B, H - (rows - 1) * rate, W - (columns - 1) * rate, C).

    Args:
        pool_size: (rows, columns) of a window.
        strides: (rows, columns) of the pooling that is replaced; where "same" windows begin depends on them.
        padding: "same" as the pooling that is replaced; "end": windows begin at their position and may reach over the
            border; "valid": windows inside the map only. What lies outside is not counted.
        dilation_rate: distance between the entries of a window.
        mode: "max" or "average".

    Raises:
        ValueError: for an unknown `padding` or `mode`, or a rate below 1.
    """

    def __init__(
        self,
        pool_size: tuple[int, int] = (2, 2),
        strides: tuple[int, int] = (2, 2),
        padding: str = "end",
        dilation_rate: int = 1,
        mode: str = "max",
        **kwargs,
    ):
        super().__init__(**kwargs)
        for argument, value, allowed in (("padding", padding, PADDINGS), ("mode", mode, MODES)):
            if value not in allowed:
                raise ValueError(f"`{argument}` must be one of {allowed}. Received: {argument}={value!r}")
        if dilation_rate < 1:
            raise ValueError(f"`dilation_rate` must be at least 1. Received: dilation_rate={dilation_rate}")
        self.pool_size, self.strides = tuple(pool_size), tuple(strides)
        self.padding, self.dilation_rate, self.mode = padding, dilation_rate, mode

    def call(self, x):
        if self.mode == "max":
            return self._over_window(x, ops.maximum, lambda outside: outside)
        total = self._over_window(x, ops.add, ops.zeros_like)
        count = self._over_window(ops.ones_like(x[:, :, :, :1]), ops.add, ops.zeros_like)
        return total / count

    def _over_window(self, x, combine: Callable, outside: Callable):
        """`combine` over the entries of every window, rows first.

        An entry outside of the map is `outside` of the entry at the window's own position, which is in every window:
        for a maximum that entry itself, so that no border value widens the range that int8 has to hold.
        """
        for axis in (1, 2):
            size = ops.shape(x)[axis]
            entries = self.pool_size[axis - 1]
            if self.padding == "valid":
                whole = size - (entries - 1) * self.dilation_rate
                shifted = [
                    _cut(x, axis, k * self.dilation_rate, k * self.dilation_rate + whole) for k in range(entries)
                ]
            else:
                first = self._before(size, axis)
                shifted = [_shift(x, axis, (k - first) * self.dilation_rate, size, outside) for k in range(entries)]
            x = shifted[0]
            for other in shifted[1:]:
                x = combine(x, other)
        return x

    def _before(self, size, axis: int):
        """Entries of a window before its own position: for "same" padding they depend on the parity of the size."""
        if self.padding == "end":
            return 0
        pool, stride = self.pool_size[axis - 1], self.strides[axis - 1]
        size = -(-size // self.dilation_rate)
        return _largest((-(-size // stride) - 1) * stride + pool - size, 0) // 2

    def compute_output_shape(self, input_shape):
        batch, *sizes, channels = input_shape
        if self.padding == "valid":
            lost = [(pool - 1) * self.dilation_rate for pool in self.pool_size]
            sizes = [None if size is None else size - less for size, less in zip(sizes, lost, strict=True)]
        return batch, *sizes, channels

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
            "mode": self.mode,
        }


def _shift(x, axis: int, by, size, outside: Callable):
    """Entry i becomes entry i + `by`, and `outside` of entry i where there is none. `by` may be a tensor."""
    if isinstance(by, int) and by == 0:
        return x
    ahead, behind = _smallest(_largest(by, 0), size), _smallest(_largest(-by, 0), size)
    return ops.concatenate(
        [
            outside(_cut(x, axis, 0, behind)),
            _cut(x, axis, ahead, size - behind),
            outside(_cut(x, axis, size - ahead, size)),
        ],
        axis=axis,
    )


def _cut(x, axis: int, start, stop):
    return x[:, start:stop] if axis == 1 else x[:, :, start:stop]


def _largest(a, b):
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else ops.maximum(a, b)


def _smallest(a, b):
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else ops.minimum(a, b)
