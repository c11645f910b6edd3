"""FCN over a dilated ResNet in torchvision's shape: one 3x3 convolution and one score layer on the last stage.

Layers carry torchvision's module paths (`classifier.0`, `aux_classifier.4`); the backbone is a model named "backbone".
"""

from __future__ import annotations

import keras

from keras_cv_lectures.backbones import resolve_backbone, warn_of_frozen_noise
from keras_cv_lectures.layers import ImageNormalization, conv_norm_relu
from keras_cv_lectures.segmentation.heads import (
    class_scores,
    encoded,
    finished,
    logits_like,
    picture_input,
)
from keras_cv_lectures.signatures import explain_arguments

_ARCHITECTURES = {"resnet50_v1_5": "fcn_resnet50", "resnet101_v1_5": "fcn_resnet101"}


@explain_arguments
def build_fcn(
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    num_classes: int = 21,
    *,
    backbone: str | keras.Model = "resnet50_v1_5",
    output_stride: int | None = None,
    auxiliary: bool = False,
    dropout: float = 0.1,
    backbone_weights: str | None = None,
    freeze_backbone: bool = False,
    include_preprocessing: bool = True,
    weights: str | None = None,
    name: str = "fcn",
) -> keras.Model:
    """FCN as torchvision has it (`fcn_resnet50`, `fcn_resnet101`): scores at stride 8, resized to the picture.

    Input: (B, H, W, C) pictures in 0..255, uint8 or float32, any H, W and channel count.
    Output: logits (B, H, W, num_classes) float32; with `auxiliary` a dict of two such, "logits" and "auxiliary".

    Paper: https://arxiv.org/abs/1411.4038. Differs from the paper: everything but the idea; this is the network that
    torchvision trained and published. No skips: the last two stages are dilated instead of strided, so that the finest
    scores stand at stride 8. For 21 classes with the auxiliary head ResNet-50 has 35,322,218 parameters.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        num_classes: number of classes, background included.
        backbone: "resnet50_v1_5" or "resnet101_v1_5" for torchvision's networks, another name, or a model from picture
            to `{"c4": ..., "c5": ...}` (see `keras_cv_lectures.backbones`).
        output_stride: 8, 16 or 32: stride of the scores. None: 8. A model as backbone has its own.
        auxiliary: a second head on "c4", whose loss torchvision adds with factor 0.5; for training only, by
            `compile(loss={"logits": loss, "auxiliary": loss}, loss_weights={"logits": 1, "auxiliary": 0.5})` and
            `fit` with the targets `{"logits": masks, "auxiliary": masks}`.
        dropout: rate before the score layers.
        backbone_weights: None (random), "imagenet" (downloaded on this request) or the path of a file.
        freeze_backbone: the backbone keeps its weights in training, and its batch normalisation is a constant.
            A model of one's own is frozen itself.
        include_preprocessing: False to give the network pictures that are normalised already.
        weights: None, "torchvision/coco-voc" (downloaded on this request) or the path of a `.keras`, `.weights.h5`,
            `.pth` or `.safetensors` file of this network; a head with another `num_classes` is left at its initial
            values, with a warning (of a `.weights.h5` file nothing fits then).
        name: name of the model.

    Raises:
        ValueError: for an unknown option or a file that does not fit.
        TypeError: for an unknown argument, naming the right one.

    Example:
        >>> model = build_fcn((None, None, 3), num_classes=21)
    """
    image = picture_input(input_shape, num_classes)
    warn_of_frozen_noise(freeze_backbone, backbone, backbone_weights, weights)
    stride = (8 if isinstance(backbone, str) else 32) if output_stride is None else output_stride
    encoder, convention = resolve_backbone(backbone, input_shape[-1], backbone_weights, stride, stages=(4, 5))
    x = ImageNormalization(convention, name="normalize")(image) if include_preprocessing else image
    stages = encoded(encoder, x, freeze_backbone)

    scores = fcn_head(stages["c5"], num_classes, dropout=dropout)
    outputs = logits_like(scores, image)
    if auxiliary:
        scores = fcn_head(stages["c4"], num_classes, dropout=dropout, name="aux_classifier")
        outputs = {"logits": outputs, "auxiliary": logits_like(scores, image, name="auxiliary")}
    return finished(image, outputs, name=name, weights=weights, architecture=_architecture(backbone))


def _architecture(backbone) -> str | None:
    """Torchvision's name of the whole network."""
    return _ARCHITECTURES.get(backbone) if isinstance(backbone, str) else None


def fcn_head(
    x: keras.KerasTensor, num_classes: int, *, dropout: float = 0.1, name: str = "classifier"
) -> keras.KerasTensor:
    """3x3 convolution to a quarter of the channels, batch normalisation, ReLU, dropout, scores.

    Args:
        x: (B, h, w, C).
        name: of the layers `name.0` ... `name.4`, which are torchvision's.

    Returns:
        (B, h, w, num_classes), float32.
    """
    x = conv_norm_relu(x, max(1, x.shape[-1] // 4), name=f"{name}.0", norm_name=f"{name}.1")
    if dropout:
        x = keras.layers.Dropout(dropout, name=f"{name}.3")(x)
    return class_scores(x, num_classes, name=f"{name}.4")


__all__ = ["build_fcn", "fcn_head"]
