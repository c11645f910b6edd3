"""Bilinear interpolation between the corner pixels, as the DeepLab networks were trained with."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable("keras_cv_lectures")
class ResizeCornersLike(keras.layers.Layer):
    """Resizes the first input to the height and width of the second so that corner pixels fall on corner pixels.

    Output pixel j lies at j * (h - 1) / (H - 1) of the input ("align_corners"), where `ResizeLike` has half-pixel
    centres. It is what Caffe's Interp layer, the DeepLab code and `torch.nn.UpsamplingBilinear2d` do, and exact for
    convolutions with stride s on pictures of s k + 1 pixels, whose outputs sit on pixels 0, s, ..., s k.

    Input shape: [(B, h, w, C), (B, H, W, any)]. Output shape: (B, H, W, C).
    """

    def call(self, inputs):
        x, reference = inputs
        height, width = ops.shape(reference)[1:3]
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            resized = tf.raw_ops.ResizeBilinear(images=x, size=tf.stack([height, width]), align_corners=True)
            return ops.cast(resized, x.dtype)
        down, across = (
            ops.cast(corner_matrix(*pair), x.dtype) for pair in zip(x.shape[1:3], (height, width), strict=True)
        )
        return ops.einsum("bhwc,Hh,Ww->bHWc", x, down, across)

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        x, reference = input_shape
        return x[0], reference[1], reference[2], x[3]


def corner_matrix(source: int, target: int) -> np.ndarray:
    """(target, source) float32 matrix of linear interpolation from corner to corner.

    >>> corner_matrix(2, 3)
    [[1., 0.], [.5, .5], [0., 1.]]
    """
    position = np.arange(target) * ((source - 1) / max(target - 1, 1))
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(source))).astype("float32")
