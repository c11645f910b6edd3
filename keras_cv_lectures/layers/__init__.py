"""Layers: `keras.layers.Layer` subclasses with weights or state, and the blocks that several systems share.

All take and give channels-last tensors (B, H, W, C), survive `.keras` saving in safe mode, and are registered under
"keras_cv_lectures".
"""

from keras_cv_lectures.layers.atrous import AtrousConv2D
from keras_cv_lectures.layers.attention import HardAttention, SoftAttention
from keras_cv_lectures.layers.blocks import conv_norm_relu, normalize
from keras_cv_lectures.layers.corners import ResizeCornersLike
from keras_cv_lectures.layers.crf import MeanFieldCRF
from keras_cv_lectures.layers.detection import Detections, FitPicture, Proposals, PyramidAnchors, RestoreScale
from keras_cv_lectures.layers.map_dense import MapDense
from keras_cv_lectures.layers.normalization import LocalResponseNormalization, SyncBatchNormalization
from keras_cv_lectures.layers.portable import portable_operators, wants_portable_operators
from keras_cv_lectures.layers.preprocessing import ImageNormalization
from keras_cv_lectures.layers.resizing import CropLike, PadToAtLeast, PadToMultiple, ResizeLike, UpsampleTwice
from keras_cv_lectures.layers.roi import MultiLevelRoIAlign, RoIAlign, RoIPool, RoIWarp, roi_levels
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
    "Detections",
    "FitPicture",
    "HardAttention",
    "ImageNormalization",
    "LocalResponseNormalization",
    "MapDense",
    "MaxPoolWithArgmax",
    "MaxUnpool",
    "MeanFieldCRF",
    "MultiLevelRoIAlign",
    "PadToAtLeast",
    "PadToMultiple",
    "Proposals",
    "PyramidAnchors",
    "ResizeCornersLike",
    "ResizeLike",
    "RestoreScale",
    "RoIAlign",
    "RoIPool",
    "RoIWarp",
    "SoftAttention",
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
    "portable_operators",
    "roi_levels",
    "wants_portable_operators",
    "window_argmax",
]
