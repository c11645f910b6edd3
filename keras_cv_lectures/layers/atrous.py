"""Atrous (dilated) convolution as one operator (Chen et al., DeepLab, arXiv 1606.00915, section 3.1)."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import keras

from keras_cv_lectures.layers.portable import wants_portable_operators

_whole = contextvars.ContextVar("keras_cv_lectures_whole_convolutions", default=False)


@contextlib.contextmanager
def whole_convolutions() -> Iterator[None]:
    """A dilated convolution that is traced inside is one operator with all its weights, whatever runs it faster.

    For counting what a network computes, padding included, as of every other convolution.

    >>> with portable_operators(), whole_convolutions():
    ...     cost = gflops(model, (512, 512))
    """
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class AtrousConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose dilation is an attribute of the convolution; same arguments, weights and numbers.

    y[i] = sum over k of x[i + rate * k] w[k]: a 3x3 kernel at rate r covers 2 r + 1 rows and columns with nine weights.

    Keras on TensorFlow computes a dilated convolution as `space_to_batch`, an ordinary convolution and
    `batch_to_space`. Those two copy the map, and they stand between the convolution and the batch normalisation that
    would otherwise be folded into it. The convolution of TensorFlow dilates by itself: with rate 12 on 65 x 65 x 2048
    it took 0.77 of the time on two CPU cores, and 0.67 with its gradients.

    XNNPACK multiplies the padding too. So in portable graphs (`portable_operators`), on a map of known size, weights
    that meet nothing but padding are left out: at rate 36 on 33 x 33 that is all but the middle one. Where the rate is
    over half of the size, the map is computed in nine parts, each with the weights that it meets: with rate 24 on
    33 x 33 x 960 that took 0.33 of the time in float32 and 0.4 in 8 bits, for 2.8 times the weights of this layer in
    the file. oneDNN, which computes for TensorFlow, skips padding by itself.

    TensorFlow without oneDNN, as on CPUs without AVX-512 VNNI unless TF_ENABLE_ONEDNN_OPTS=1 is set before its import,
    cannot differentiate a dilated convolution. There the layer sums 1x1 convolutions from rate 4 on, one a weight, on
    what each meets of the map: with rate 24 on 32 x 32 x 2048 a step took 0.02 of the time of `space_to_batch`.

    Input shape: (B, H, W, C). Output shape: (B, H, W, filters) with padding "same". With data_format "channels_first",
    strides or groups it computes as `keras.layers.Conv2D` does.
    """

    def convolution_op(self, inputs, kernel):
        special = max(self.dilation_rate) > 1 and max(self.strides) == 1 and self.groups == 1
        special = special and self.data_format == "channels_last"
        if not special or keras.backend.backend() != "tensorflow" or isinstance(inputs, keras.KerasTensor):
            return super().convolution_op(inputs, kernel)
        import tensorflow as tf

        sizes, portable, whole = inputs.shape[1:3], wants_portable_operators(), _whole.get()
        if portable and not whole and self.padding == "same" and self.kernel_size == (3, 3) and None not in sizes:
            return _without_padding(inputs, kernel, self.dilation_rate)
        if portable or whole or _has_gradient(keras.backend.standardize_dtype(inputs.dtype)):
            return tf.nn.conv2d(inputs, kernel, strides=1, padding=self.padding.upper(), dilations=self.dilation_rate)
        if max(self.dilation_rate) >= 4:
            return weight_by_weight(inputs, kernel, self.dilation_rate, self.padding)
        return super().convolution_op(inputs, kernel)


def _without_padding(x, kernel, rates: tuple[int, int]):
    """Convolution with a 3x3 kernel, without weights that meet padding alone where the rates are large."""
    import tensorflow as tf

    sizes = x.shape[1:3]
    needed = [slice(1, 2) if rate >= size else slice(0, 3) for rate, size in zip(rates, sizes, strict=True)]
    kernel = kernel[needed[0], needed[1]]
    if tuple(kernel.shape[:2]) == (3, 3) and all(2 * rate > size for rate, size in zip(rates, sizes, strict=True)):
        return _in_parts(x, kernel, rates)
    return tf.nn.conv2d(x, kernel, strides=1, padding="SAME", dilations=rates)


def _in_parts(x, kernel, rates: tuple[int, int]):
    """Convolution with a 3x3 kernel at rates between half and all of the map's size, each part with its own weights."""
    import tensorflow as tf

    rows, columns = (_parts(size, rate) for size, rate in zip(x.shape[1:3], rates, strict=True))
    strips = []
    for top, bottom, vertical in rows:
        parts = [
            tf.nn.conv2d(x[:, top:bottom, left:right], kernel[vertical, horizontal], 1, "VALID", dilations=rates)
            for left, right, horizontal in columns
        ]
        strips.append(tf.concat(parts, axis=2))
    return tf.concat(strips, axis=1)


def _parts(size: int, rate: int) -> list[tuple[int, int, slice]]:
    """First and last + 1 pixel that a part of the result is made of, and the weights that meet pixels."""
    return [(0, size, slice(1, 3)), (size - rate, rate, slice(1, 2)), (0, size, slice(0, 2))]


def weight_by_weight(x, kernel, rates: tuple[int, int], padding: str):
    """Dilated convolution as the sum of 1x1 convolutions, one for each weight that meets pixels.

    Args:
        x: (B, H, W, C).
        kernel: (rows, columns, C, filters).
        rates: vertical and horizontal.
        padding: "same" or "valid".
    """
    import tensorflow as tf

    rows, columns = (_meetings(x, axis, kernel.shape[axis - 1], rates[axis - 1], padding) for axis in (1, 2))
    parts = []
    for i, vertical, above_below in rows:
        for j, horizontal, left_right in columns:
            part = tf.nn.conv2d(x[:, vertical, horizontal], kernel[i : i + 1, j : j + 1], strides=1, padding="VALID")
            parts.append(tf.pad(part, ((0, 0), above_below, left_right, (0, 0))))
    return tf.add_n(parts)


def _meetings(x, axis: int, weights: int, rate: int, padding: str) -> list[tuple[int, slice, tuple]]:
    """(weight, pixels that it meets, zeros before and after what it gives) along an axis."""
    import tensorflow as tf

    size, reach = x.shape[axis], (weights - 1) * rate
    known, size = size is not None, tf.shape(x)[axis] if size is None else size
    if padding == "valid":
        return [(k, slice(k * rate, size - reach + k * rate), (0, 0)) for k in range(weights)]
    found = []
    for k in range(weights):
        shift = k * rate - reach // 2
        before, after = max(-shift, 0), max(shift, 0)
        if known and abs(shift) >= size:
            continue
        if not known:  # On a smaller map there is nothing to meet.
            before, after = tf.minimum(before, size), tf.minimum(after, size)
        found.append((k, slice(after, size - before), (before, after)))
    return found


@functools.cache
def _has_gradient(dtype: str) -> bool:
    """Whether the CPU can differentiate a dilated convolution: TensorFlow without oneDNN cannot."""
    import tensorflow as tf

    # A tape records nothing in this scope, so the operator of the gradient is called by its name.
    with tf.init_scope(), tf.device("CPU:0"):
        x, kernel = tf.ones((1, 5, 5, 1), dtype), tf.ones((3, 3, 1, 1), dtype)
        try:
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=x.shape,
                filter=kernel,
                out_backprop=x,
                strides=[1, 1, 1, 1],
                padding="SAME",
                dilations=[1, 2, 2, 1],
            )
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, tf.errors.NotFoundError):
            return False
    return True
