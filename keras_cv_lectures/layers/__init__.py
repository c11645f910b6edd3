"""Layers: `keras.layers.Layer` subclasses with weights or state, and the blocks that several systems share.

All take and give channels-last tensors (B, H, W, C), survive `.keras` saving in safe mode, and are registered under
"keras_cv_lectures".
"""

from keras_cv_lectures.layers.blocks import conv_norm_relu, normalize
from keras_cv_lectures.layers.preprocessing import ImageNormalization
from keras_cv_lectures.layers.resizing import CropLike, PadToMultiple, ResizeLike, UpsampleTwice

__all__ = [
    "CropLike",
    "ImageNormalization",
    "PadToMultiple",
    "ResizeLike",
    "UpsampleTwice",
    "conv_norm_relu",
    "normalize",
]
