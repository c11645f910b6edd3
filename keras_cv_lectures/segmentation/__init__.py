"""Semantic segmentation: picture (B, H, W, C) in 0..255 -> logits (B, H, W, num_classes), background included.

Every builder's output layer is called "logits"; the exporter and the predictor add probabilities and the class map.
"""

from keras_cv_lectures.segmentation.aspp import aspp, deeplab_v3_head, deeplab_v3plus_decoder
from keras_cv_lectures.segmentation.crf import append_crf
from keras_cv_lectures.segmentation.deconvnet import build_deconvnet
from keras_cv_lectures.segmentation.deeplab import build_deeplab
from keras_cv_lectures.segmentation.fcn import build_fcn
from keras_cv_lectures.segmentation.fcn_vgg import build_fcn8s, build_fcn16s, build_fcn32s
from keras_cv_lectures.segmentation.segnet import build_segnet, predict_bayesian
from keras_cv_lectures.segmentation.unet import build_unet, unet_decoder

__all__ = [
    "append_crf",
    "aspp",
    "build_deconvnet",
    "build_deeplab",
    "build_fcn",
    "build_fcn8s",
    "build_fcn16s",
    "build_fcn32s",
    "build_segnet",
    "build_unet",
    "deeplab_v3_head",
    "deeplab_v3plus_decoder",
    "predict_bayesian",
    "unet_decoder",
]
