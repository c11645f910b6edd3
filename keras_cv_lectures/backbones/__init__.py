"""Backbones: picture -> `{"c1": ..., "c5": ...}`, where stage k has stride `2**k` (and "c0", where one has it, is at
full resolution). Stages are addressed by name. For a (1, 64, 96, 3) picture ResNet-50 gives

    c1 (1, 32, 48, 64)   c2 (1, 16, 24, 256)   c3 (1, 8, 12, 512)   c4 (1, 4, 6, 1024)   c5 (1, 2, 3, 2048)

With `output_stride` 16 or 8 no stage has a greater stride than that: the layers behind are dilated instead, and the
weights stay the same. Pictures come normalised as the backbone's weights require; `resolve_backbone` says which
convention that is. A model of your own that honours the contract is accepted wherever a name is.

A cell of stage k stands on pixel 2**k i of pictures of 32 n + 1 pixels a side, and of any size in the backbones of
torchvision's shape and the ResNets; MobileNetV2, EfficientNet and Xception pad even sizes at the end alone, as they do
in Keras, and their cells stand up to 2**k - 1 pixels farther there; those of VGG stand between pixels.

Names are those of `keras.applications`, whose files they load; "resnet50_v1_5", "resnet101_v1_5" and
"mobilenetv3_large" have torchvision's shape. "resnet14_v1_5" is small, for quick tries.
"""

from keras_cv_lectures.backbones.applications import (
    efficientnetb0,
    mobilenetv2,
    resnet50,
    resnet101,
    vgg16,
    vgg19,
    xception,
)
from keras_cv_lectures.backbones.dilated_pooling import DilatedPooling2D
from keras_cv_lectures.backbones.dilation import dilate
from keras_cv_lectures.backbones.mobilenetv3 import mobilenetv3_large
from keras_cv_lectures.backbones.resnet import resnet14_v1_5, resnet50_v1_5, resnet101_v1_5, resnet_v1_5
from keras_cv_lectures.backbones.resolve import BACKBONES, resolve_backbone, warn_of_frozen_noise

__all__ = [
    "BACKBONES",
    "DilatedPooling2D",
    "dilate",
    "efficientnetb0",
    "mobilenetv2",
    "mobilenetv3_large",
    "resnet14_v1_5",
    "resnet50",
    "resnet50_v1_5",
    "resnet101",
    "resnet101_v1_5",
    "resnet_v1_5",
    "resolve_backbone",
    "vgg16",
    "vgg19",
    "warn_of_frozen_noise",
    "xception",
]
