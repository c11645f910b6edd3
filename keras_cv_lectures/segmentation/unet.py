"""U-Net: Ronneberger, Fischer and Brox, "Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.

Layers carry the names of the authors' released network (`conv_d0a-b`, `upconv_d4c_u3a`, `conv_u0c-d`): "d" is the way
down, "u" the way up, the digit the level, the letters the data blobs before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_cv_lectures.backbones import BACKBONES, resolve_backbone, warn_of_frozen_noise
from keras_cv_lectures.layers import (
    CropLike,
    ImageNormalization,
    PadToMultiple,
    UpsampleTwice,
    conv_norm_relu,
)
from keras_cv_lectures.segmentation.heads import (
    class_scores,
    encoded,
    finished,
    logits_like,
    picture_input,
)
from keras_cv_lectures.signatures import explain_arguments, one_of, refuse_given

VARIANTS = ("modern", "paper", "released")
UPSAMPLINGS = ("transpose", "bilinear", "nearest")
_DEPTH = 4
_DECODER_FILTERS = (256, 128, 64, 32, 16)


@explain_arguments
def build_unet(
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    num_classes: int = 2,
    *,
    variant: str = "modern",
    depth: int | None = None,
    filters: int | Sequence[int] | None = None,
    dropout: float | None = None,
    normalization: str | None = "auto",
    upsampling: str = "transpose",
    backbone: str | keras.Model | None = None,
    backbone_weights: str | None = None,
    freeze_backbone: bool = False,
    decoder_filters: Sequence[int] | None = None,
    include_preprocessing: bool = True,
    weights: str | None = None,
    name: str = "unet",
) -> keras.Model:
    """U-Net: a contracting path, an expanding path, and skips that concatenate equal levels.

    Input: (B, H, W, C) pictures in 0..255, uint8 or float32, any channel count.
    Output: logits (B, H, W, num_classes) float32 for "modern"; (B, H - 184, W - 184, num_classes) for "paper" and
    "released" at depth 4.

    Paper: https://arxiv.org/abs/1505.04597. Differs from the paper: "paper" nothing (31,030,658 parameters for one
    channel and two classes), except that pictures are given in 0..255 and scaled to 0..1 inside; "released" is the
    network of the authors' `phseg_v5` files (ReLU after every up-convolution, the last of which keeps its 128
    channels; 31,100,354 parameters); "modern" pads its convolutions, normalises batches, has no dropout unless asked
    and accepts any size by padding inside and cropping back.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        num_classes: number of classes, background included.
        variant: "modern", "paper" or "released".
        depth: number of poolings. None: 4, as in the paper. A backbone has its own.
        filters: channels of the first level, doubled at each level, or a list of depth + 1 numbers. None: 64. A
            backbone has its own.
        dropout: rate at the end of the contracting path (the two deepest levels, before the skip). None: 0.5 for
            "paper" and "released", 0 for "modern".
        normalization: "batch", "group", "layer" or None. "auto": "batch" for "modern", None for the others.
        upsampling: "transpose" (2x2 up-convolution as in the paper), "bilinear" or "nearest" (upsampled, then
            concatenated, no convolution between). "nearest" and "transpose" keep their accuracy in int8.
        backbone: None for the paper's own contracting path, a name in `backbones.BACKBONES` or a model from picture to
            `{"c1": ..., "c5": ...}` (see `keras_cv_lectures.backbones`). The decoder is then in the shape of
            segmentation_models', with `decoder_filters`; theirs doubles by "nearest", scores by 3x3 and has two more
            convolutions between a VGG and its decoder.
        backbone_weights: None (random), "imagenet" (downloaded on this request) or the path of a Keras file. Only
            with a backbone.
        freeze_backbone: the backbone keeps its weights in training, and its batch normalisation is a constant.
            A model of one's own is frozen itself.
        decoder_filters: channels of the five decoder stages over a backbone. None: 256, 128, 64, 32, 16.
        include_preprocessing: False to give the network pictures that are normalised already.
        weights: None or the path of a `.keras` or `.weights.h5` file of this network; a head with another
            `num_classes` is left at its initial values, with a warning (of a `.weights.h5` file nothing fits then).
        name: name of the model.

    Raises:
        ValueError: for an unknown option, a size that the valid convolutions cannot take (the next valid sizes are
            named), or options that exclude each other.
        TypeError: for an unknown argument, naming the right one.

    Example:
        >>> model = build_unet((None, None, 3), num_classes=11)
        >>> model.compile("adam", loss=SegmentationCrossEntropy(), metrics=[MeanIoU(11)])
    """
    image = picture_input(input_shape, num_classes)
    _check_options(variant, upsampling, backbone)
    given = {
        "depth": depth,
        "filters": filters,
        "backbone_weights": backbone_weights,
        "decoder_filters": decoder_filters,
    }
    given["freeze_backbone"] = freeze_backbone or None
    refuse_given(given, without_effect(backbone), backbone=backbone)
    warn_of_frozen_noise(freeze_backbone, backbone, backbone_weights, weights)
    depth = _DEPTH if depth is None else depth
    if depth < 1:
        raise ValueError(f"`depth` must be at least 1. Received: depth={depth}")
    valid = variant != "modern"
    channels_at = _filters_per_level(64 if filters is None else filters, depth)
    if normalization == "auto":
        normalization = None if valid else "batch"
    if dropout is None:
        dropout = 0.5 if valid else 0.0
    if valid:
        _check_valid_size(input_shape, depth)

    x = image
    if backbone is not None:
        encoder, convention = resolve_backbone(backbone, input_shape[-1], backbone_weights, dilated=False)
        if include_preprocessing:
            x = ImageNormalization(convention, name="normalize")(x)
        padded = PadToMultiple(32, name="pad")(x)
        x = unet_decoder(
            encoded(encoder, padded, freeze_backbone),
            _DECODER_FILTERS if decoder_filters is None else decoder_filters,
            upsampling=upsampling,
            normalization=normalization,
            dropout=dropout,
        )
    else:
        if include_preprocessing:
            x = ImageNormalization("unit" if valid else "symmetric", name="normalize")(x)
        if not valid:
            x = PadToMultiple(2**depth, name="pad")(x)
        x, skips = _contract(x, channels_at, dropout, normalization, valid)
        x = _expand(x, skips, channels_at, normalization, upsampling, variant)

    logits = logits_like(class_scores(x, num_classes), image, "none" if valid else "crop")
    return finished(image, logits, name=name, weights=weights)


def unet_decoder(
    features: Mapping[str, keras.KerasTensor],
    filters: Sequence[int] = _DECODER_FILTERS,
    *,
    upsampling: str = "nearest",
    normalization: str | None = "batch",
    dropout: float = 0.0,
) -> keras.KerasTensor:
    """Expanding path over a backbone's features: double, concatenate the skip, two 3x3 convolutions; five times.

    Args:
        features: `{"c1": (B, H/2, W/2, .), ..., "c5": (B, H/32, W/32, .)}` and, where a backbone has it, "c0" at full
            resolution.
        filters: channels of the stages at strides 16, 8, 4, 2 and 1.
        dropout: rate on "c5".

    Returns:
        (B, H, W, filters[-1]).
    """
    if len(filters) != 5:
        raise ValueError(f"`decoder_filters` must be five numbers, one a stage. Received: {tuple(filters)}")
    x = features["c5"]
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout_c5")(x)
    for channels, level in zip(filters, (4, 3, 2, 1, 0), strict=True):
        x = _upsample(x, channels, upsampling, name=f"up{level}")
        if f"c{level}" in features:
            x = keras.layers.Concatenate(name=f"skip{level}")([x, features[f"c{level}"]])
        for step in ("a", "b"):
            x = conv_norm_relu(x, channels, name=f"decoder{level}{step}", normalization=normalization)
    return x


def _contract(x, channels_at, dropout, normalization, valid):
    """Way down: two convolutions and a pooling a level. Returns the deepest map and the skips, level 0 first."""
    padding = "valid" if valid else "same"
    depth = len(channels_at) - 1
    skips = []
    for level, channels in enumerate(channels_at):
        for step in ("a-b", "b-c"):
            x = conv_norm_relu(x, channels, name=f"conv_d{level}{step}", normalization=normalization, padding=padding)
        if dropout and level >= depth - 1:
            x = keras.layers.Dropout(dropout, name=f"dropout_d{level}c")(x)
        if level < depth:
            skips.append(x)
            x = keras.layers.MaxPooling2D(2, name=f"pool_d{level}c-{level + 1}a")(x)
    return x, skips


def _expand(x, skips, channels_at, normalization, upsampling, variant):
    """Way up: up-convolution, concatenation with the cropped skip (up-convolution first), two convolutions a level."""
    padding = "valid" if variant != "modern" else "same"
    below = f"d{len(skips)}c"
    for level in range(len(skips) - 1, -1, -1):
        channels = channels_at[level]
        # The released network differs from the paper's figure in both respects.
        released = variant == "released"
        up_channels = channels_at[level + 1] if released and level == 0 else channels
        x = _upsample(x, up_channels, upsampling, name=f"upconv_{below}_u{level}a", relu=released)
        skip = skips[level]
        if variant != "modern":
            skip = CropLike(anchor="center", name=f"crop_d{level}c")([skip, x])
        x = keras.layers.Concatenate(name=f"concat_u{level}b")([x, skip])
        for step in ("b-c", "c-d"):
            x = conv_norm_relu(x, channels, name=f"conv_u{level}{step}", normalization=normalization, padding=padding)
        below = f"u{level}d"
    return x


def _upsample(x, channels, upsampling, *, name, relu=False):
    if upsampling != "transpose":
        return UpsampleTwice(upsampling, name=name)(x)
    x = keras.layers.Conv2DTranspose(channels, 2, strides=2, kernel_initializer="he_normal", name=name)(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x


def valid_size(output: int, depth: int = 4) -> int:
    """Smallest input side (pixels) for which the valid network gives at least `output` pixels: 388 -> 572."""
    deepest = 1
    while True:
        size = deepest
        for _ in range(depth):
            size = 2 * size - 4
        if size >= output and size > 0:
            return size + context_margin(depth) * 2
        deepest += 1


def context_margin(depth: int = 4) -> int:
    """Pixels that the valid network loses on each side: 92 at depth 4 (572 -> 388)."""
    # Two 3x3 convolutions cost two pixels a side at the level's stride; each level but the deepest is met twice.
    return sum(2 * 2**level * (2 if level < depth else 1) for level in range(depth + 1))


def context_for(config: Mapping[str, Any], options: Any = None) -> Callable[[int], tuple[int, int]] | None:
    """For a network with valid convolutions: wanted output side -> (input side, margin) in pixels; else None."""
    if config.get("variant", "modern") == "modern":
        return None
    depth = config.get("depth") or _DEPTH
    return lambda output: (valid_size(output, depth), context_margin(depth))


def _check_options(variant, upsampling, backbone):
    one_of("variant", variant, VARIANTS)
    one_of("upsampling", upsampling, UPSAMPLINGS)
    if backbone is not None and variant != "modern":
        raise ValueError(f'`backbone` needs `variant="modern"`. Received: variant={variant!r}. Drop one of the two.')
    if upsampling != "transpose" and variant != "modern":
        raise ValueError(f'`upsampling={upsampling!r}` needs `variant="modern"`. Received: variant={variant!r}.')


def without_effect(backbone: str | keras.Model | None) -> dict[str, str]:
    """Arguments of `build_unet` that have no effect with this backbone, or without one, each with what they go with."""
    if backbone is not None:
        return dict.fromkeys(("depth", "filters"), "the paper's own path; a backbone has its own")
    names = ("backbone_weights", "freeze_backbone", "decoder_filters")
    return dict.fromkeys(names, f"a `backbone`, one of {BACKBONES} or a model")


def _filters_per_level(filters, depth) -> list[int]:
    if isinstance(filters, int):
        return [filters * 2**level for level in range(depth + 1)]
    if len(filters) != depth + 1:
        raise ValueError(
            f"`filters` must be a number or a list of depth + 1 = {depth + 1} numbers. Received: {list(filters)}"
        )
    return [int(f) for f in filters]


def _check_valid_size(input_shape, depth):
    """Valid convolutions need every pooled map to be even, or the skips no longer line up."""
    for axis, size in zip(("height", "width"), input_shape[:2], strict=True):
        if size is None:
            continue
        fits, after = True, size
        for _ in range(depth):
            after -= 4
            fits = fits and after > 0 and after % 2 == 0
            after //= 2
        if fits and after - 4 > 0 and size > 2 * context_margin(depth):
            continue
        larger = valid_size(max(1, size - 2 * context_margin(depth)), depth)
        # Sizes that fit lie 2**depth apart; the one below the smallest leaves no output.
        near = [larger + k * 2**depth for k in (-1, 0, 1, 2)]
        fitting = ", ".join(str(side) for side in near if side >= valid_size(1, depth))
        raise ValueError(
            f"`input_shape` {axis} must make every pooled map even: {fitting}, ... for depth {depth}. Received: "
            f"input_shape={tuple(input_shape)}. Mirror-pad pictures to {larger} pixels, or predict with the "
            "overlap-tile strategy, which does it for you."
        )


__all__ = ["build_unet", "context_for", "context_margin", "unet_decoder", "valid_size", "without_effect"]
