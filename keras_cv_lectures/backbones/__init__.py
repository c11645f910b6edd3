"""Backbones: picture -> `{"c1": ..., "c5": ...}`, where stage k has stride `2**k` (and "c0", where one has it, is at
full resolution). Stages are addressed by name. For a (1, 64, 96, 3) picture ResNet-50 gives

    c1 (1, 32, 48, 64)   c2 (1, 16, 24, 256)   c3 (1, 8, 12, 512)   c4 (1, 4, 6, 1024)   c5 (1, 2, 3, 2048)

Pictures come normalised as the backbone's weights require; `resolve_backbone` says which convention that is. A model of
your own that honours the contract is accepted wherever a name is.
"""

from keras_cv_lectures.backbones.applications import (
    BACKBONES,
    efficientnetb0,
    mobilenetv2,
    resnet50,
    resolve_backbone,
    vgg16,
)

__all__ = ["BACKBONES", "efficientnetb0", "mobilenetv2", "resnet50", "resolve_backbone", "vgg16"]
