"""FCN-32s, 16s, 8s: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015.

Layers carry the names of the authors' released files: `conv1_1` ... `conv5_3`, `fc6`, `fc7`, `score_fr`, `score_pool4`,
`score_pool3`, and the upsamplings `upscore2`, `upscore_pool4`, `upscore8` (16s: `upscore16`; 32s: `upscore`).
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_cv_lectures.backbones import resolve_backbone
from keras_cv_lectures.layers import (
    Bilinear,
    BilinearConv2DTranspose,
    CropLike,
    ImageNormalization,
    PadToMultiple,
    conv_norm_relu,
)
from keras_cv_lectures.segmentation.heads import (
    check_classifier_weights,
    class_scores,
    finished,
    logits_like,
    picture_input,
)
from keras_cv_lectures.signatures import explain_arguments, one_of, refuse_given
from keras_cv_lectures.weights import load_vgg16, load_weights

VARIANTS = ("modern", "paper")
UPSAMPLINGS = ("fixed", "learned")
_CONVOLUTIONS = (2, 2, 3, 3, 3)
# Rows and columns that the released networks cut off at the top and the left, by layer and, last, by output stride.
_CROPS = {"score_pool4": 5, "score_pool3": 9, 32: 19, 16: 27, 8: 31}
_SCALES = {"pool4": 0.01, "pool3": 0.0001}


@explain_arguments
def build_fcn8s(
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    num_classes: int = 21,
    *,
    variant: str = "modern",
    at_once: bool = False,
    backbone: str | keras.Model = "vgg16",
    filters: int | Sequence[int] | None = None,
    convolutions: Sequence[int] | None = None,
    fc_filters: int | None = None,
    normalization: str | None = "auto",
    dropout: float = 0.5,
    upsampling: str = "fixed",
    backbone_weights: str | keras.Model | None = None,
    include_preprocessing: bool = True,
    weights: str | None = None,
    name: str = "fcn8s",
) -> keras.Model:
    """FCN-8s: a classifier made convolutional; its scores at stride 32 are summed with those of two finer layers.

    Input: (B, H, W, C) pictures in 0..255, uint8 or float32, any H, W and channel count.
    Output: logits (B, H, W, num_classes) float32.

    Paper: https://arxiv.org/abs/1411.4038. Differs from the paper: "paper" is the released network (padding of 100
    pixels, poolings that round up, crops by 5, 9 and 31; 134,362,751 parameters for 21 classes beside the fixed
    bilinear kernels); "modern" pads at the bottom and the right to a multiple of 32 and convolves with "same" padding,
    so that all strides line up without crops: 0.6 of the work at 512x512, and the same weights fit. Its scores start at
    random, not at zero: no layer waits for a pretrained network.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        num_classes: number of classes, background included.
        variant: "modern" or "paper".
        at_once: the released `fcn8s-atonce`, trained in one stage: pool4 and pool3 are scaled by 0.01 and 0.0001 before
            their scores are taken.
        backbone: "vgg16" for the paper's own network, another name or a model from picture to `{"c3": ..., "c4": ...,
            "c5": ...}` (see `keras_cv_lectures.backbones`), on whose "c5" a 3x3 convolution stands in for fc6 and fc7.
        filters: channels of the first of VGG's five blocks, doubled up to eightfold, or a list of five numbers. None:
            64. Other backbones have their own.
        convolutions: 3x3 convolutions in each of the five blocks. None: VGG-16's 2, 2, 3, 3, 3. Other backbones have
            their own.
        fc_filters: channels of fc6 and fc7. None: 4096, and over another backbone a quarter of the channels of "c5".
        normalization: "batch", "group", "layer" or None, after every convolution but the scores. "auto": None, and
            "batch" over another backbone. From random weights only a normalised network learns.
        dropout: rate behind fc6 and fc7.
        upsampling: "fixed" (bilinear, as released) or "learned" (as in the paper: those between the skips are
            transposed convolutions across classes that start bilinear; the last stays so, and FCN-32s has no other).
        backbone_weights: None (random), "imagenet" (downloaded on this request), the path of a Keras VGG16 file (with
            or without its fully connected layers, which become fc6 and fc7) or of a Caffe `.caffemodel`, or a
            classifier model; with another backbone as that one takes them.
        include_preprocessing: False to give the network pictures that are normalised already (BGR, mean subtracted).
        weights: None or the path of a `.keras` or `.weights.h5` file of this network, or of the authors' `.caffemodel`;
            a head with another `num_classes` is left at its initial values, with a warning (of a `.weights.h5` file
            nothing fits then).
        name: name of the model.

    Raises:
        ValueError: for an unknown option, options that exclude each other, or a file that does not fit.
        TypeError: for an unknown argument, naming the right one.

    Example:
        >>> model = build_fcn8s((None, None, 3), num_classes=11, filters=32, fc_filters=512, normalization="batch")
    """
    return _build(8, **locals())


@explain_arguments
def build_fcn16s(
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    num_classes: int = 21,
    *,
    variant: str = "modern",
    backbone: str | keras.Model = "vgg16",
    filters: int | Sequence[int] | None = None,
    convolutions: Sequence[int] | None = None,
    fc_filters: int | None = None,
    normalization: str | None = "auto",
    dropout: float = 0.5,
    upsampling: str = "fixed",
    backbone_weights: str | keras.Model | None = None,
    include_preprocessing: bool = True,
    weights: str | None = None,
    name: str = "fcn16s",
) -> keras.Model:
    """FCN-16s: scores at stride 32 summed with those of pool4.

    Input: (B, H, W, C) pictures in 0..255, uint8 or float32, any H, W and channel count.
    Output: logits (B, H, W, num_classes) float32.

    Paper: https://arxiv.org/abs/1411.4038. Differs from the paper: as `build_fcn8s`; "paper" crops by 5 and 27 and has
    134,357,354 parameters for 21 classes.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        num_classes: number of classes, background included.
        variant: "modern" or "paper"; this and all others as in `build_fcn8s`.

    Raises:
        ValueError: for an unknown option, options that exclude each other, or a file that does not fit.
        TypeError: for an unknown argument, naming the right one.
    """
    return _build(16, **locals())


@explain_arguments
def build_fcn32s(
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    num_classes: int = 21,
    *,
    variant: str = "modern",
    backbone: str | keras.Model = "vgg16",
    filters: int | Sequence[int] | None = None,
    convolutions: Sequence[int] | None = None,
    fc_filters: int | None = None,
    normalization: str | None = "auto",
    dropout: float = 0.5,
    upsampling: str = "fixed",
    backbone_weights: str | keras.Model | None = None,
    include_preprocessing: bool = True,
    weights: str | None = None,
    name: str = "fcn32s",
) -> keras.Model:
    """FCN-32s: a classifier made convolutional, its scores upsampled 32 times.

    Input: (B, H, W, C) pictures in 0..255, uint8 or float32, any H, W and channel count.
    Output: logits (B, H, W, num_classes) float32.

    Paper: https://arxiv.org/abs/1411.4038. Differs from the paper: as `build_fcn8s`; "paper" crops by 19 and has
    134,346,581 parameters for 21 classes.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        num_classes: number of classes, background included.
        variant: "modern" or "paper"; this and all others as in `build_fcn8s`.

    Raises:
        ValueError: for an unknown option, options that exclude each other, or a file that does not fit.
        TypeError: for an unknown argument, naming the right one.
    """
    return _build(32, **locals())


def _build(
    stride,
    *,
    input_shape,
    num_classes,
    variant,
    backbone,
    filters,
    convolutions,
    fc_filters,
    normalization,
    dropout,
    upsampling,
    backbone_weights,
    include_preprocessing,
    weights,
    name,
    at_once=False,
):
    image = picture_input(input_shape, num_classes)
    own = _is_own(backbone)
    _check_options(variant, upsampling, own, backbone)
    refuse_given({"filters": filters, "convolutions": convolutions}, without_effect(backbone), backbone=backbone)
    if normalization == "auto":
        normalization = None if own else "batch"
    if own:
        check_classifier_weights(normalization, backbone_weights)
    paper = variant == "paper"
    mean = "ilsvrc12" if paper else "caffe"  # The released FCNs subtract another mean than VGG's authors.
    encoder, convention = None, mean
    if not own:
        encoder, convention = resolve_backbone(
            backbone, input_shape[-1], backbone_weights, stages=(3, 4, 5), dilated=False
        )

    x = ImageNormalization(convention, name="normalize")(image) if include_preprocessing else image
    x = keras.layers.ZeroPadding2D(99, name="pad")(x) if paper else PadToMultiple(32, name="pad")(x)
    if own:
        features = _vgg(x, _filters_per_block(filters), _convolutions_per_block(convolutions), normalization, paper)
        x = _fully_connected(features["pool5"], (7, 1), fc_filters or 4096, normalization, dropout, paper)
    else:
        stages = encoder(x)
        features = {"pool4": stages["c4"], "pool3": stages["c3"]}
        fc_filters = fc_filters or max(1, stages["c5"].shape[-1] // 4)
        x = _fully_connected(stages["c5"], (3,), fc_filters, normalization, dropout, paper)

    x = class_scores(x, num_classes, name="score_fr", kernel_initializer="zeros" if paper else "he_normal")
    for level, upscore in (("pool4", "upscore2"), ("pool3", "upscore_pool4"))[: {32: 0, 16: 1, 8: 2}[stride]]:
        x = _upsampled(x, 2, upsampling, paper, name=upscore)
        skip = features[level]
        if at_once:
            skip = keras.layers.Rescaling(_SCALES[level], name=f"scale_{level}")(skip)
        skip = class_scores(
            skip, num_classes, name=f"score_{level}", kernel_initializer="zeros" if paper else "he_normal"
        )
        if paper:
            skip = _cut(skip, _CROPS[f"score_{level}"], name=f"score_{level}c")
            skip = CropLike("start", dtype="float32", name=f"score_{level}c_like")([skip, x])
        x = keras.layers.Add(dtype="float32", name=f"fuse_{level}")([x, skip])
    name_of_last = "upscore" if stride == 32 else f"upscore{stride}"
    x = _upsampled(x, stride, upsampling, paper, name=name_of_last, trainable=False)
    if paper:
        x = _cut(x, _CROPS[stride], name="cut")

    model = finished(image, logits_like(x, image, "crop"), name=name, weights=None)
    if own and backbone_weights is not None:
        load_vgg16(model, backbone_weights)
    if weights is not None:
        load_weights(model, weights)
    return model


def _vgg(x, filters, convolutions, normalization, paper):
    """The five blocks. Returns "pool3", "pool4" and "pool5", at strides 8, 16 and 32."""
    pools = {}
    for block, (channels, count) in enumerate(zip(filters, convolutions, strict=True), start=1):
        for step in range(1, count + 1):
            x = conv_norm_relu(x, channels, name=f"conv{block}_{step}", normalization=normalization)
        # Where the released network meets an odd size, Caffe's pooling rounds up.
        x = keras.layers.MaxPooling2D(2, padding="same" if paper else "valid", name=f"pool{block}")(x)
        pools[f"pool{block}"] = x
    return pools


def _fully_connected(x, kernel_sizes, channels, normalization, dropout, paper):
    for layer, size in zip(("fc6", "fc7"), kernel_sizes, strict=False):
        padding = "valid" if paper else "same"
        x = conv_norm_relu(x, channels, size, name=layer, normalization=normalization, padding=padding)
        if dropout:
            x = keras.layers.Dropout(dropout, name=layer.replace("fc", "drop"))(x)
    return x


def _upsampled(x, factor, upsampling, paper, *, name, trainable=True):
    padding = "valid" if paper else "same"
    if upsampling == "fixed":
        return BilinearConv2DTranspose(factor, padding=padding, dtype="float32", name=name)(x)
    return keras.layers.Conv2DTranspose(
        x.shape[-1],
        2 * factor,
        strides=factor,
        padding=padding,
        use_bias=False,
        kernel_initializer=Bilinear(),
        trainable=trainable,
        dtype="float32",
        name=name,
    )(x)


def _cut(x, offset, *, name):
    """Without the first `offset` rows and columns."""
    return keras.layers.Cropping2D(((offset, 0), (offset, 0)), dtype="float32", name=name)(x)


def without_effect(backbone: str | keras.Model) -> dict[str, str]:
    """Arguments of the builders that have no effect on this backbone, each with what they go with."""
    if _is_own(backbone):
        return {}
    return dict.fromkeys(("filters", "convolutions"), "the paper's own VGG-16; other backbones have their own")


def _is_own(backbone: str | keras.Model) -> bool:
    return isinstance(backbone, str) and backbone == "vgg16"


def _check_options(variant, upsampling, own, backbone):
    one_of("variant", variant, VARIANTS)
    one_of("upsampling", upsampling, UPSAMPLINGS)
    if variant == "paper" and not own:
        raise ValueError(
            f'`variant="paper"` is VGG16. Received: backbone={backbone!r}. Drop one of the two, or take "modern".'
        )


def _filters_per_block(filters) -> list[int]:
    filters = 64 if filters is None else filters
    if isinstance(filters, int):
        return [filters * factor for factor in (1, 2, 4, 8, 8)]
    if len(filters) != 5:
        raise ValueError(f"`filters` must be a number or a list of five numbers. Received: {list(filters)}")
    return [int(f) for f in filters]


def _convolutions_per_block(convolutions) -> list[int]:
    convolutions = _CONVOLUTIONS if convolutions is None else convolutions
    if len(convolutions) != 5 or min(convolutions) < 1:
        raise ValueError(f"`convolutions` must be five positive numbers. Received: {list(convolutions)}")
    return [int(c) for c in convolutions]


__all__ = ["build_fcn8s", "build_fcn16s", "build_fcn32s", "without_effect"]
