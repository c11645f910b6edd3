"""A fully connected layer over a whole feature map."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_cv_lectures")
class MapDense(keras.layers.Conv2D):
    """Fully connected layer over maps of one size: a valid convolution whose kernel is as large as its input.

    Computed as one matrix product. The kernel keeps its four axes, so weights of fully connected layers that were
    trained on maps in another order of axes load as those of a convolution do.

    Input shape: (B, h, w, C), h and w known. Output shape: (B, units).

    Args:
        units: outputs.
        map_size: (h, w).
    """

    def __init__(self, units: int, map_size: tuple[int, int], **kwargs):
        super().__init__(units, map_size, **kwargs)
        self.units, self.map_size = units, tuple(map_size)

    def build(self, input_shape):
        if tuple(input_shape[1:3]) != self.map_size:
            raise ValueError(
                f"expected maps of {self.map_size[0]}x{self.map_size[1]}. Received: an input of shape {input_shape}"
            )
        super().build(input_shape)

    def call(self, x):
        kernel = ops.reshape(self.kernel, (-1, self.units))
        x = ops.matmul(ops.reshape(x, (-1, kernel.shape[0])), kernel)
        return self.activation(x + self.bias if self.use_bias else x)

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.units

    def get_config(self):
        config = super().get_config()
        for name in ("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "groups"):
            config.pop(name)
        return {**config, "units": self.units, "map_size": self.map_size}


__all__ = ["MapDense"]
