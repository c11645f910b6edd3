"""Layers that change height and width: padding to a multiple, cropping to match, resizing to match."""

from __future__ import annotations

import keras
from keras import ops

Shape = tuple[int | None, ...]


def _size(x) -> tuple:
    """(height, width) of (B, H, W, C): integers where they are known, scalar tensors where not."""
    shape = ops.shape(x)
    return shape[1], shape[2]


def _is_static(*values) -> bool:
    return all(isinstance(value, int) for value in values)


def _at_least(value, least: int):
    return max(value, least) if _is_static(value) else ops.maximum(value, least)


def _zeros_behind(x, bottom, right):
    """(B, H, W, C) with rows and columns of zeros at the end; their numbers may be tensors."""
    if _is_static(bottom, right):
        return ops.pad(x, [[0, 0], [0, bottom], [0, right], [0, 0]]) if bottom or right else x
    # keras.ops.pad takes only numbers known at build time; sizes are unknown at build time on TensorFlow alone.
    import tensorflow as tf

    height, width = _size(x)
    padded = tf.pad(x, [[0, 0], [0, bottom], [0, right], [0, 0]])
    # The exported graph would forget the number of channels, and TFLite then has no convolution for it.
    return tf.reshape(padded, [-1, height + bottom, width + right, x.shape[-1]])


@keras.saving.register_keras_serializable("keras_cv_lectures")
class PadToMultiple(keras.layers.Layer):
    """Pads height and width at the bottom and the right with zeros up to a multiple of `multiple`.

    A picture whose sides are multiples already passes unchanged, so a network with stride `multiple` accepts any
    size: `CropLike` with `anchor="start"` undoes it.

    Input shape: (B, H, W, C).
    Output shape: (B, ceil(H / multiple) * multiple, ceil(W / multiple) * multiple, C).
    """

    def __init__(self, multiple: int, **kwargs):
        super().__init__(**kwargs)
        if multiple < 1:
            raise ValueError(f"`multiple` must be a positive integer. Received: multiple={multiple}")
        self.multiple = multiple

    def call(self, x):
        height, width = _size(x)
        return _zeros_behind(x, -height % self.multiple, -width % self.multiple)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return batch, self._padded(height), self._padded(width), channels

    def _padded(self, size: int | None) -> int | None:
        return None if size is None else size + -size % self.multiple

    def get_config(self):
        return {**super().get_config(), "multiple": self.multiple}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class PadToAtLeast(keras.layers.Layer):
    """Pads height and width at the bottom and the right with zeros to at least `size` pixels.

    Input shape: (B, H, W, C). Output shape: (B, max(H, size), max(W, size), C).
    """

    def __init__(self, size: int, **kwargs):
        super().__init__(**kwargs)
        if size < 1:
            raise ValueError(f"`size` must be a positive integer. Received: size={size}")
        self.size = size

    def call(self, x):
        return _zeros_behind(x, *(_at_least(self.size - side, 0) for side in _size(x)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return batch, height and max(height, self.size), width and max(width, self.size), channels

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class CropLike(keras.layers.Layer):
    """Crops the first input to the height and width of the second.

    Input shape: [(B, H, W, C), (B, h, w, any)] with h <= H and w <= W.
    Output shape: (B, h, w, C).

    Args:
        anchor: "center" removes the same number of rows above and below, as the 2015 U-Net does with its skips (one
            more below where the difference is odd); "start" keeps the top left corner.
    """

    def __init__(self, anchor: str = "center", **kwargs):
        super().__init__(**kwargs)
        if anchor not in ("center", "start"):
            raise ValueError(f'`anchor` must be "center" or "start". Received: anchor={anchor!r}')
        self.anchor = anchor

    def call(self, inputs):
        x, reference = inputs
        full_h, full_w = _size(x)
        height, width = _size(reference)
        if _is_static(full_h, full_w, height, width) and (full_h, full_w) == (height, width):
            return x
        top, left = (0, 0) if self.anchor == "start" else ((full_h - height) // 2, (full_w - width) // 2)
        return x[:, top : top + height, left : left + width, :]

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        x, reference = input_shape
        return x[0], reference[1], reference[2], x[3]

    def get_config(self):
        return {**super().get_config(), "anchor": self.anchor}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class ResizeLike(keras.layers.Layer):
    """Resizes the first input to the height and width of the second (half-pixel centres, no antialiasing).

    Input shape: [(B, H, W, C), (B, h, w, any)]. Output shape: (B, h, w, C).

    Args:
        interpolation: "bilinear" or "nearest".
    """

    def __init__(self, interpolation: str = "bilinear", **kwargs):
        super().__init__(**kwargs)
        if interpolation not in ("bilinear", "nearest"):
            raise ValueError(f'`interpolation` must be "bilinear" or "nearest". Received: {interpolation!r}')
        self.interpolation = interpolation

    def call(self, inputs):
        x, reference = inputs
        size = _size(reference)
        if _is_static(*size):
            return ops.image.resize(x, size, interpolation=self.interpolation)
        # keras.ops.image.resize fails in an exported graph when the size is a tensor (Keras 3.15).
        import tensorflow as tf

        return ops.cast(tf.image.resize(x, tf.stack(size), method=self.interpolation), x.dtype)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        x, reference = input_shape
        return x[0], reference[1], reference[2], x[3]

    def get_config(self):
        return {**super().get_config(), "interpolation": self.interpolation}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class UpsampleTwice(keras.layers.Layer):
    """Doubles height and width by repetition ("nearest") or bilinear interpolation (half-pixel centres).

    `keras.layers.UpSampling2D` cannot be exported with a dynamic size in Keras 3.15, and its nearest form becomes
    slow tiling operators in TFLite; this one is a single resize operator there.

    Input shape: (B, H, W, C). Output shape: (B, 2 H, 2 W, C).
    """

    def __init__(self, interpolation: str = "nearest", **kwargs):
        super().__init__(**kwargs)
        if interpolation not in ("bilinear", "nearest"):
            raise ValueError(f'`interpolation` must be "bilinear" or "nearest". Received: {interpolation!r}')
        self.interpolation = interpolation

    def call(self, x):
        height, width = _size(x)
        if _is_static(height, width):
            return ops.image.resize(x, (2 * height, 2 * width), interpolation=self.interpolation)
        import tensorflow as tf

        size = tf.stack([2 * height, 2 * width])
        return ops.cast(tf.image.resize(x, size, method=self.interpolation), x.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return batch, height and 2 * height, width and 2 * width, channels

    def get_config(self):
        return {**super().get_config(), "interpolation": self.interpolation}
