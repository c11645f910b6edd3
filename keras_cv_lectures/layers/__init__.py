"""Layers: `keras.layers.Layer` subclasses with weights or state, and the blocks that several systems share.

All take and give channels-last tensors (B, H, W, C), survive `.keras` saving in safe mode, and are registered under
"keras_cv_lectures".
"""

from keras_cv_lectures.layers.atrous import AtrousConv2D
from keras_cv_lectures.layers.blocks import conv_norm_relu, normalize
from keras_cv_lectures.layers.corners import ResizeCornersLike
from keras_cv_lectures.layers.crf import MeanFieldCRF
from keras_cv_lectures.layers.normalization import SyncBatchNormalization
from keras_cv_lectures.layers.preprocessing import ImageNormalization
from keras_cv_lectures.layers.resizing import CropLike, PadToMultiple, ResizeLike, UpsampleTwice
from keras_cv_lectures.layers.subpixel import SubPixelConv2DTranspose
from keras_cv_lectures.layers.unpooling import MaxPoolWithArgmax, MaxUnpool, flat_argmax, window_argmax
from keras_cv_lectures.layers.upsampling import (
    BedOfNails,
    Bilinear,
    BilinearConv2DTranspose,
    Upsample,
    bilinear_kernel,
    convolution_matrix,
    interpolation_matrix,
)

__all__ = [
    "AtrousConv2D",
    "BedOfNails",
    "Bilinear",
    "BilinearConv2DTranspose",
    "CropLike",
    "ImageNormalization",
    "MaxPoolWithArgmax",
    "MaxUnpool",
    "MeanFieldCRF",
    "PadToMultiple",
    "ResizeCornersLike",
    "ResizeLike",
    "SubPixelConv2DTranspose",
    "SyncBatchNormalization",
    "Upsample",
    "UpsampleTwice",
    "bilinear_kernel",
    "conv_norm_relu",
    "convolution_matrix",
    "flat_argmax",
    "interpolation_matrix",
    "normalize",
    "window_argmax",
]
