"""Heads of the region-based detectors: what looks at the maps, and what looks at one region at a time.

Every head is a small model. Its layers carry torchvision's module paths below `rpn.` or `roi_heads.`.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_cv_lectures.layers import MapDense, conv_norm_relu, normalize


def rpn_head(channels: int, anchors: int, *, filters: int | None = None, convolutions: int = 1) -> keras.Model:
    """Region proposal network: for each anchor a logit of being an object, and four box deltas.

    Input: (B, h, w, channels), one level. Output: logits (B, h, w, anchors), deltas (B, h, w, 4 anchors), float32.

    Args:
        anchors: number in one cell.
        filters: of the 3x3 convolutions; None: as many as `channels`.
        convolutions: 1 (the paper), 2 in torchvision's v2.
    """
    x = level = keras.Input((None, None, channels), name="level")
    for index in range(convolutions):
        x = _normal_conv(x, filters or channels, 3, 0.01, f"head.conv.{index}.0")
        x = keras.layers.ReLU(name=f"head.conv.{index}.1")(x)
    logits = _normal_conv(x, anchors, 1, 0.01, "head.cls_logits", dtype="float32")
    deltas = _normal_conv(x, 4 * anchors, 1, 0.01, "head.bbox_pred", dtype="float32")
    return keras.Model(level, [logits, deltas], name="rpn")


def box_head(
    channels: int,
    classes: int,
    *,
    size: tuple[int, int] = (7, 7),
    units: Sequence[int] = (1024, 1024),
    convolutions: Sequence[int] = (),
    dropout: float = 0.0,
    class_agnostic: bool = False,
) -> keras.Model:
    """Scores and boxes of a region: fully connected layers, after convolutions in torchvision's v2.

    Input: (R, h, w, channels). Output: logits (R, classes), deltas (R, 4 classes), or (R, 4) where `class_agnostic`;
    float32.

    Args:
        classes: outputs, background included and first.
        size: (h, w).
        units: of the fully connected layers.
        convolutions: filters of 3x3 convolutions with batch normalisation before them.
        dropout: rate after each fully connected layer.
    """
    x = region = keras.Input((*size, channels), name="region")
    for index, filters in enumerate(convolutions):
        x = keras.layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer=_he_fan_out(), name=f"box_head.{index}.0"
        )(x)
        x = normalize(x, "batch", name=f"box_head.{index}.1")
        x = keras.layers.ReLU(name=f"box_head.{index}.2")(x)
    # torchvision's v2 counts modules: after the convolutions comes the flattening, then the linear layer.
    names = [f"box_head.{len(convolutions) + 1 + 2 * i}" if convolutions else f"box_head.fc{6 + i}" for i in range(9)]
    for index, width in enumerate(units):
        options = {"kernel_initializer": _torch_linear(), "name": names[index]}
        x = MapDense(width, size, **options)(x) if index == 0 else keras.layers.Dense(width, **options)(x)
        x = keras.layers.ReLU(name=f"{names[index]}_relu")(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"{names[index]}_dropout")(x)
    return _predictor(region, x, classes, class_agnostic)


def pooled_box_head(tail: keras.Model, classes: int, *, class_agnostic: bool = False) -> keras.Model:
    """Scores and boxes from the mean over what `tail`, the last stage of a ResNet, makes of a region (C4 detectors).

    Input: what `tail` takes, (R, h, w, channels). Output: as `box_head`.
    """
    region = keras.Input(tail.input_shape[1:], name="region")
    x = keras.layers.GlobalAveragePooling2D(name="box_head.pool")(tail(region))
    return _predictor(region, x, classes, class_agnostic)


def _predictor(region, x, classes: int, class_agnostic: bool) -> keras.Model:
    def dense(units: int, name: str):
        return keras.layers.Dense(units, kernel_initializer=_torch_linear(), dtype="float32", name=name)(x)

    logits = dense(classes, "box_predictor.cls_score")
    deltas = dense(4 if class_agnostic else 4 * classes, "box_predictor.bbox_pred")
    return keras.Model(region, [logits, deltas], name="box")


def mask_head(
    channels: int,
    classes: int,
    *,
    size: tuple[int, int] = (14, 14),
    filters: Sequence[int] = (256, 256, 256, 256),
    normalization: str | None = None,
) -> keras.Model:
    """A mask of every class for a region: convolutions, one transposed convolution to twice the size, scores.

    Input: (R, h, w, channels). Output: logits (R, 2 h, 2 w, classes) float32.

    Args:
        classes: outputs, the background (which is never used) included and first; 1 for masks without classes.
        size: (h, w).
        filters: of the 3x3 convolutions; the last also of the transposed one.
        normalization: None, or "batch" (torchvision's v2).
    """
    x = region = keras.Input((*size, channels), name="region")
    for index, width in enumerate(filters):
        x = keras.layers.Conv2D(
            width,
            3,
            padding="same",
            use_bias=normalization is None,
            kernel_initializer=_he_fan_out(),
            name=f"mask_head.{index}.0",
        )(x)
        x = normalize(x, normalization, name=f"mask_head.{index}.1")
        x = keras.layers.ReLU(name=f"mask_head.{index}_relu")(x)
    x = keras.layers.Conv2DTranspose(
        x.shape[-1], 2, strides=2, kernel_initializer=_he_fan_out(), name="mask_predictor.conv5_mask"
    )(x)
    x = keras.layers.ReLU(name="mask_predictor.relu")(x)
    logits = keras.layers.Conv2D(
        classes, 1, kernel_initializer=_he_fan_out(), dtype="float32", name="mask_predictor.mask_fcn_logits"
    )(x)
    return keras.Model(region, logits, name="mask")


def keypoint_head(
    channels: int, keypoints: int, *, size: tuple[int, int] = (14, 14), filters: Sequence[int] = (512,) * 8
) -> keras.Model:
    """A heat map for every keypoint of a region, four times as large as its feature map.

    Input: (R, h, w, channels). Output: logits (R, 4 h, 4 w, keypoints) float32.
    """
    x = region = keras.Input((*size, channels), name="region")
    for index, width in enumerate(filters):
        x = conv_norm_relu(x, width, 3, name=f"keypoint_head.{2 * index}", normalization=None)
    x = keras.layers.Conv2DTranspose(
        keypoints,
        4,
        strides=2,
        padding="same",
        kernel_initializer=_he_fan_out(),
        dtype="float32",
        name="keypoint_predictor.kps_score_lowres",
    )(x)
    x = keras.layers.UpSampling2D(2, interpolation="bilinear", dtype="float32", name="keypoint_predictor.upsample")(x)
    return keras.Model(region, x, name="keypoint")


def _normal_conv(x, filters: int, kernel_size: int, deviation: float, name: str, **options):
    start = keras.initializers.RandomNormal(stddev=deviation)
    return keras.layers.Conv2D(filters, kernel_size, padding="same", kernel_initializer=start, name=name, **options)(x)


def _he_fan_out():
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def _torch_linear():
    return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


__all__ = ["box_head", "keypoint_head", "mask_head", "pooled_box_head", "rpn_head"]
