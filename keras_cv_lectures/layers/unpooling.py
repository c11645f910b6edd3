"""Max pooling that remembers where each maximum was, and the unpooling that puts values back there.

SegNet's decoder (Badrinarayanan, Kendall, Cipolla 2017, arXiv 1511.00561, section 3) and DeconvNet's switches (Noh,
Hong, Han 2015, arXiv 1505.04366, section 3.1). The place is kept as the position inside the window, row by row, not as
an index into the whole map: such a number is exact in bfloat16 and int8, does not depend on the size of the picture,
and needs neither gather nor scatter, so that the same graph runs on TensorFlow, XLA, JAX and TensorFlow Lite.
"""

from __future__ import annotations

import keras
from keras import ops

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable("keras_cv_lectures")
class MaxPoolWithArgmax(keras.layers.Layer):
    """Max pooling that also gives the position of each maximum inside its window.

    Input shape: (B, H, W, C).
    Output shape: [(B, h, w, C), (B, h, w, C)]: the maxima, and their positions `row * pool_size + column` as whole
    numbers in the compute dtype, 0 .. pool_size^2 - 1. Of several equal maxima the first, row by row, is taken, as
    Caffe and `tf.nn.max_pool_with_argmax` do. No gradient flows through the positions. `flat_argmax` makes TensorFlow's
    indices of them. What a window with NaN gives is not defined; torch hands NaN on.

    >>> x = np.array([[1, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]], "float32").reshape(1, 4, 4, 1)
    >>> pooled, index = MaxPoolWithArgmax()(x)
    >>> pooled[0, :, :, 0], index[0, :, :, 0]
    ([[5, 6], [7, 8]], [[3, 0], [2, 3]])

    Args:
        pool_size: side of the square window, at most 16 (whole numbers up to 255 are exact in bfloat16).
        strides: distance of neighbouring windows, at most `pool_size`; default `pool_size`.
        padding: what happens to rows and columns at the bottom and the right that do not fill a window. "valid" drops
            them, h = floor((H - k) / s) + 1, torch's default. "same" pools what there is of them,
            h = ceil((H - k) / s) + 1: Caffe, and torch's `ceil_mode`. Where windows overlap this is not TensorFlow's
            "SAME", whose first window may begin outside of the map.

    Raises:
        ValueError: for settings outside these ranges, and for a map without a whole window under "valid".
    """

    def __init__(self, pool_size: int = 2, strides: int | None = None, padding: str = "valid", **kwargs):
        super().__init__(**kwargs)
        self.pool_size, self.strides = _window(pool_size, strides)
        if padding not in ("valid", "same"):
            raise ValueError(f'`padding` must be "valid" or "same". Received: padding={padding!r}')
        self.padding = padding

    def call(self, x):
        height, width = (self._pooled(size) for size in ops.shape(x)[1:3])
        reach = _reach(self.pool_size, self.strides)
        x = self._with_rows(x, 1, (height + reach) * self.strides)
        x = self._with_rows(x, 2, (width + reach) * self.strides)
        pooled = ops.max_pool(x, self.pool_size, self.strides, padding="valid")
        maximum = ops.stop_gradient(pooled)
        # The position is the number of entries before the first one that reaches the maximum.
        index, before = ops.zeros_like(maximum), None
        for entry in _entries(ops.stop_gradient(x), height, width, self.pool_size, self.strides)[:-1]:
            before = entry < maximum if before is None else ops.logical_and(before, entry < maximum)
            index = index + ops.cast(before, index.dtype)
        return [pooled, index]

    def compute_output_shape(self, input_shape: Shape) -> list[Shape]:
        batch, height, width, channels = input_shape
        shape = (batch, self._pooled(height), self._pooled(width), channels)
        return [shape, shape]

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "padding": self.padding,
        }

    def _pooled(self, size):
        """Number of windows along a side of `size` pixels: a number, a scalar tensor, or None for None."""
        if size is None:
            return None
        if self.padding == "valid" and isinstance(size, int) and size < self.pool_size:
            raise ValueError(
                f'A map of {size} pixels holds no window of {self.pool_size}. Use a larger picture, or padding="same".'
            )
        rest = size - self.pool_size + (self.strides - 1 if self.padding == "same" else 0)
        windows = rest // self.strides + 1
        return max(windows, 1) if isinstance(windows, int) else ops.maximum(windows, 1)

    def _with_rows(self, x, axis: int, size):
        """`x` with exactly `size` rows (axis 1) or columns (axis 2): the last is repeated, or the surplus dropped.

        A repeated pixel stands behind its original in every window, so it is never the first maximum.
        """
        known = x.shape[axis] if isinstance(size, int) else None
        if known is None:
            missing = (_reach(self.pool_size, self.strides) + 1) * self.strides
            missing -= self.pool_size if self.padding == "valid" else 1  # the most for any size
        else:
            missing = max(size - known, 0)
        if missing:
            last = x[:, -1:] if axis == 1 else x[:, :, -1:]
            x = ops.concatenate([x, *[last] * missing], axis=axis)
        return _first(x, axis, size)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class MaxUnpool(keras.layers.Layer):
    """Puts each value at the position that `MaxPoolWithArgmax` recorded, zeros elsewhere.

    Input shape: [values (B, h, w, C), index (B, h, w, C), reference (B, H, W, any)], index as `MaxPoolWithArgmax` with
    the same settings gave it. The reference, usually what was pooled, gives height and width of the result; only its
    shape is read. It may be left out.
    Output shape: (B, H, W, C); without a reference H = (h - 1) * strides + pool_size, and W likewise.

    Where windows overlap and share a maximum, the value of the last window, row by row, is kept, and the gradient
    reaches the values of all of them: both as in `torch.nn.MaxUnpool2d`.

    >>> MaxUnpool()([np.array([[1, 2], [3, 4]], "float32").reshape(1, 2, 2, 1), index, x])[0, :, :, 0]
    [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]

    Args:
        pool_size, strides: those of the pooling.

    Raises:
        ValueError: for settings that `MaxPoolWithArgmax` refuses, for other than two or three inputs, and for a
            reference whose pooling does not have the size of the values.
    """

    def __init__(self, pool_size: int = 2, strides: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.pool_size, self.strides = _window(pool_size, strides)

    def call(self, inputs):
        values, index, *reference = _two_or_three(inputs)
        small = ops.shape(values)[1:3]
        large = ops.shape(reference[0])[1:3] if reference else [self._unpooled(size) for size in small]
        reach = _reach(self.pool_size, self.strides)
        pads = [[0, reach + self._spare_blocks(*sizes)] for sizes in zip(small, large, strict=True)]
        height, width = (size + pad[1] for size, pad in zip(small, pads, strict=True))
        rows = [
            ops.concatenate([self._phase(values, index, row, column, pads) for column in range(self.strides)], axis=3)
            for row in range(self.strides)
        ]  # each (B, height, width, strides * C)
        # Row after row of one block row in memory is what the interleaved map is, so joining needs no transposition.
        x = ops.reshape(
            ops.concatenate(rows, axis=2), (-1, height * self.strides, width * self.strides, values.shape[3])
        )
        return _first(_first(x, 1, large[0]), 2, large[1])

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        values, _, *reference = _two_or_three(input_shape)
        height, width = reference[0][1:3] if reference else (self._unpooled(size) for size in values[1:3])
        return values[0], height, width, values[3]

    def get_config(self):
        return {**super().get_config(), "pool_size": self.pool_size, "strides": self.strides}

    def _unpooled(self, size):
        return None if size is None else (size - 1) * self.strides + self.pool_size

    def _spare_blocks(self, small, large) -> int:
        """Blocks of `strides` rows behind those that windows reach: pooling with padding "valid" may drop rows."""
        if not isinstance(small, int) or not isinstance(large, int):
            return 1 if self.strides > 1 else 0
        if not (small - 1) * self.strides < large < small * self.strides + self.pool_size:
            raise ValueError(
                f"Pooling {large} rows or columns with pool_size={self.pool_size}, strides={self.strides} does not "
                f"give the {small} of the values. Pass what was pooled as `reference`, and the settings of its pooling."
            )
        return max(-(-large // self.strides) - small - _reach(self.pool_size, self.strides), 0)

    def _phase(self, values, index, row: int, column: int, pads):
        """Pixels whose row and column leave these remainders by the strides, (B, h + pad, w + pad, C)."""
        phase = None
        # The largest offsets belong to the earliest windows; later windows write over them.
        for down in reversed(range(row, self.pool_size, self.strides)):
            for right in reversed(range(column, self.pool_size, self.strides)):
                shift = (down // self.strides, right // self.strides)
                here = _shifted(index, shift, pads, fill=-1) == down * self.pool_size + right
                value = _shifted(values, shift, pads, fill=0)
                if phase is None:
                    phase = value * ops.cast(here, value.dtype)
                else:
                    # The bracket is zero, and carries the gradient to the values that are written over.
                    phase = ops.where(here, value + (phase - ops.stop_gradient(phase)), phase)
        return phase


def flat_argmax(index, size: tuple[int, int], pool_size: int = 2, strides: int | None = None):
    """Indices of `tf.nn.max_pool_with_argmax`, `(y * W + x) * C + c`, of positions inside windows.

    Args:
        index: (B, h, w, C), as `MaxPoolWithArgmax` gives it.
        size: (H, W) of the map that was pooled.
        pool_size, strides: those of the pooling.

    Returns:
        (B, h, w, C) int32. torch's indices `y * W + x` are these divided by C.

    Raises:
        ValueError: for maps with 2^31 entries or more.

    >>> flat_argmax(index, (4, 4))[0, :, :, 0]  # of the example at `MaxPoolWithArgmax`
    [[5, 2], [12, 15]]
    """
    pool_size, strides = _window(pool_size, strides)
    index = ops.cast(index, "int32")
    top, left, channel = _origins(index, size, strides)
    y, x = top + index // pool_size, left + index % pool_size
    return (y * size[1] + x) * index.shape[3] + channel


def window_argmax(
    flat, size: tuple[int, int], pool_size: int = 2, strides: int | None = None, dtype: str | None = None
):
    """Positions inside windows of the indices `(y * W + x) * C + c`: the inverse of `flat_argmax`.

    Args:
        flat: (B, h, w, C) whole numbers, of `tf.nn.max_pool_with_argmax` with `include_batch_in_index=False`.
        size: (H, W) of the map that was pooled.
        pool_size, strides: those of the pooling, whose first window begins at the top left corner.
        dtype: of the result, default Keras's float type.

    Returns:
        (B, h, w, C), for `MaxUnpool`.

    Raises:
        ValueError: for maps with 2^31 entries or more.
    """
    pool_size, strides = _window(pool_size, strides)
    flat = ops.cast(flat, "int32")
    top, left, _ = _origins(flat, size, strides)
    pixel = flat // flat.shape[3]
    index = (pixel // size[1] - top) * pool_size + pixel % size[1] - left
    return ops.cast(index, dtype or keras.config.floatx())


def _origins(index, size: tuple[int, int], strides: int):
    """First row and first column of every window, and the channels, shaped to broadcast with (B, h, w, C)."""
    entries = size[0] * size[1] * index.shape[3]
    if entries >= 2**31:
        raise ValueError(f"`size` x channels must be below 2^31, the range of int32. Received: size={size}, {entries}")
    _, height, width, channels = ops.shape(index)
    top = ops.arange(height, dtype="int32")[None, :, None, None] * strides
    left = ops.arange(width, dtype="int32")[None, None, :, None] * strides
    return top, left, ops.arange(channels, dtype="int32")


def _window(pool_size: int, strides: int | None) -> tuple[int, int]:
    if not isinstance(pool_size, int) or not 1 <= pool_size <= 16:
        raise ValueError(f"`pool_size` must be an integer from 1 to 16. Received: pool_size={pool_size!r}")
    strides = pool_size if strides is None else strides
    if not isinstance(strides, int) or not 1 <= strides <= pool_size:
        raise ValueError(
            f"`strides` must be an integer from 1 to pool_size={pool_size}: windows leave no gaps. "
            f"Received: strides={strides!r}"
        )
    return pool_size, strides


def _two_or_three(inputs):
    if not isinstance(inputs, (list, tuple)) or len(inputs) not in (2, 3):
        raise ValueError(
            "`MaxUnpool` takes [values, index] or [values, index, reference], the reference being what was pooled. "
            f"Received: {inputs!r}"
        )
    return inputs


def _reach(pool_size: int, strides: int) -> int:
    """Blocks of `strides` pixels that a window covers behind its first."""
    return -(-pool_size // strides) - 1


def _entries(x, height, width, pool_size: int, strides: int) -> list:
    """The pool_size^2 entries of every window, row by row, each (B, height, width, C).

    x: (B, (height + reach) * strides, (width + reach) * strides, C). Cutting a reshaped map copies long runs of memory;
    the strided slices `x[:, i::2, j::2]` are eight times slower on a CPU. So is, in TensorFlow Lite, a slice that drops
    its axis, as `blocks[:, row]` does.
    """
    reach, channels = _reach(pool_size, strides), x.shape[3]
    blocks = ops.reshape(x, (-1, strides, width + reach, strides * channels))
    phases = {
        (row, column): ops.reshape(
            blocks[:, row : row + 1, :, column * channels : (column + 1) * channels],
            (-1, height + reach, width + reach, channels),
        )
        for row in range(strides)
        for column in range(strides)
    }
    entries = []
    for row in range(pool_size):
        for column in range(pool_size):
            entry = phases[row % strides, column % strides]
            down, right = row // strides, column // strides
            entries.append(entry[:, down : down + height, right : right + width] if reach else entry)
    return entries


def _shifted(x, shift: tuple[int, int], pads: list[list[int]], fill: float):
    """`x` moved down and right by `shift` pixels on a map that is larger by `pads`."""
    pads = [[before, pad[1] - before] for before, pad in zip(shift, pads, strict=True)]
    return ops.pad(x, [[0, 0], *pads, [0, 0]], constant_values=fill) if any(map(any, pads)) else x


def _first(x, axis: int, size):
    """The first `size` rows (axis 1) or columns (axis 2)."""
    if isinstance(size, int) and x.shape[axis] == size:
        return x
    return x[:, :size] if axis == 1 else x[:, :, :size]
