"""Layers: `keras.layers.Layer` subclasses with weights or state, and the blocks that several systems share.

All take and give channels-last tensors (B, H, W, C), survive `.keras` saving in safe mode, and are registered under
"keras_cv_lectures".
"""

from keras_cv_lectures.layers.blocks import conv_norm_relu, normalize
from keras_cv_lectures.layers.normalization import SyncBatchNormalization
from keras_cv_lectures.layers.preprocessing import ImageNormalization
from keras_cv_lectures.layers.resizing import CropLike, PadToMultiple, ResizeLike, UpsampleTwice
from keras_cv_lectures.layers.subpixel import SubPixelConv2DTranspose

__all__ = [
    "CropLike",
    "ImageNormalization",
    "PadToMultiple",
    "ResizeLike",
    "SubPixelConv2DTranspose",
    "SyncBatchNormalization",
    "UpsampleTwice",
    "conv_norm_relu",
    "normalize",
]
