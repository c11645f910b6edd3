"""Atrous spatial pyramid pooling, the head of DeepLab v3 and the decoder of v3+, on the features of any backbone.

Layers carry the module paths of torchvision (v3: `classifier.0.convs.1.0`, `classifier.0.project.0`, `classifier.4`)
and of segmentation_models.pytorch (v3+: `decoder.aspp.0.convs.1.0.0`, `decoder.block1.0`): their weights fit by name.
Of a whole file of segmentation_models.pytorch the decoder and the scores fit; its encoder (`encoder.*`) dilates the
first unit of a stage as well, which torchvision's does not. Leave it out:

    load_torch(build_deeplab(num_classes=21, decoder="smp"), FILE, new=("backbone.*",), ignore=("encoder.",))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from keras_cv_lectures.layers import ResizeCornersLike, ResizeLike, conv_norm_relu, normalize
from keras_cv_lectures.segmentation.heads import class_scores

DECODERS = ("paper", "smp")


def deeplab_v3_head(
    x: keras.KerasTensor,
    num_classes: int,
    *,
    rates: Sequence[int] = (12, 24, 36),
    filters: int = 256,
    image_pooling: bool = True,
    separable: bool = False,
    dropout: float = 0.5,
    name: str = "classifier",
) -> keras.KerasTensor:
    """Head of DeepLab v3 as torchvision has it: pyramid pooling, a 3x3 convolution, scores.

    Args:
        x: (B, h, w, C), the last stage of a backbone.

    Returns:
        (B, h, w, num_classes) float32.
    """
    x = aspp(x, filters, rates, image_pooling=image_pooling, separable=separable, dropout=dropout, name=f"{name}.0")
    x = _conv_norm_relu(x, filters, 3, name=f"{name}.1", norm=f"{name}.2", separable=separable)
    return class_scores(x, num_classes, name=f"{name}.4")


def deeplab_v3plus_decoder(
    features: Mapping[str, keras.KerasTensor],
    filters: int = 256,
    *,
    rates: Sequence[int] = (6, 12, 18),
    aspp_filters: int | None = None,
    low_level_filters: int = 48,
    image_pooling: bool = True,
    separable: bool = True,
    dropout: float = 0.1,
    variant: str = "paper",
    name: str = "decoder",
) -> keras.KerasTensor:
    """Decoder of DeepLab v3+: pyramid pooling, resized to stride 4, beside a 1x1 of "c2", and 3x3 convolutions of both.

    Args:
        features: `{"c2": (B, H/4, W/4, .), "c5": (B, h, w, .)}` of a backbone, others are not looked at.
        filters: channels of the 3x3 convolutions at stride 4.
        rates: of the pyramid.
        aspp_filters: channels of each branch of the pyramid. None: `filters`.
        low_level_filters: channels that "c2" is reduced to.
        separable: 3x3 convolutions are depthwise and pointwise, in the pyramid and behind it.
        dropout: rate behind the projection of the pyramid.
        variant: "paper": two convolutions at stride 4, batch normalisation and ReLU also between depthwise and
            pointwise. "smp": as segmentation_models.pytorch has it: one convolution before and one after the resizing,
            nothing between depthwise and pointwise. Their `dropout` is 0.5.
        name: what the names of the layers begin with; "" for none.

    Returns:
        (B, H/4, W/4, filters).
    """
    if variant not in DECODERS:
        raise ValueError(f"`decoder` must be one of {DECODERS}. Received: decoder={variant!r}")
    stem, paper = f"{name}." if name else "", variant == "paper"
    low, x = features["c2"], features["c5"]
    block = {"separable": separable, "normalize_depthwise": paper}
    aspp_filters = aspp_filters or filters
    x = aspp(x, aspp_filters, rates, image_pooling=image_pooling, dropout=dropout, name=f"{stem}aspp.0", **block)
    if not paper:
        x = _conv_norm_relu(x, aspp_filters, 3, name=f"{stem}aspp.1", norm=f"{stem}aspp.2", **block)
    low = _conv_norm_relu(low, low_level_filters, 1, name=f"{stem}block1.0", norm=f"{stem}block1.1")
    x = ResizeCornersLike(name=f"{stem}up")([x, low])
    x = keras.layers.Concatenate(name=f"{stem}concat")([x, low])
    for k in (2, 3) if paper else (2,):
        x = _conv_norm_relu(x, filters, 3, name=f"{stem}block{k}.0", norm=f"{stem}block{k}.1", **block)
    return x


def aspp(
    x: keras.KerasTensor,
    filters: int,
    rates: Sequence[int],
    *,
    image_pooling: bool = True,
    separable: bool = False,
    normalize_depthwise: bool = False,
    dropout: float = 0.0,
    name: str,
) -> keras.KerasTensor:
    """Atrous spatial pyramid pooling of DeepLab v3 (arXiv 1706.05587, figure 5).

    A 1x1 convolution, one 3x3 convolution a rate, and the mean over the picture, each to `filters` channels with batch
    normalisation and ReLU; concatenated and projected to `filters` channels.

    Args:
        x: (B, h, w, C).
        rates: dilation rates of the 3x3 convolutions; () for none.
        image_pooling: the branch of the mean over the picture, which tells every place what else there is.
        separable: the 3x3 convolutions are depthwise and pointwise.
        normalize_depthwise: of separable ones: batch normalisation and ReLU after the depthwise half, too.
        dropout: rate at the end.
        name: what the names of the layers begin with.

    Returns:
        (B, h, w, filters).
    """
    separating = {"separable": separable, "normalize_depthwise": normalize_depthwise}
    branches = [_conv_norm_relu(x, filters, 1, name=f"{name}.convs.0.0", norm=f"{name}.convs.0.1")]
    for k, rate in enumerate(rates, start=1):
        stem = f"{name}.convs.{k}"
        branches.append(_conv_norm_relu(x, filters, 3, rate=rate, name=f"{stem}.0", norm=f"{stem}.1", **separating))
    if image_pooling:
        stem = f"{name}.convs.{len(rates) + 1}"
        pooled = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{stem}.0")(x)  # (B, 1, 1, C)
        pooled = _conv_norm_relu(pooled, filters, 1, name=f"{stem}.1", norm=f"{stem}.2")
        branches.append(ResizeLike("bilinear", name=f"{stem}.4")([pooled, x]))
    if len(branches) > 1:
        x = keras.layers.Concatenate(name=f"{name}.concat")(branches)  # (B, h, w, branches * filters)
    else:
        x = branches[0]
    x = _conv_norm_relu(x, filters, 1, name=f"{name}.project.0", norm=f"{name}.project.1")
    return keras.layers.Dropout(dropout, name=f"{name}.project.3")(x) if dropout else x


def _conv_norm_relu(
    x,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    norm: str,
    rate: int = 1,
    separable: bool = False,
    normalize_depthwise: bool = False,
):
    """Convolution `name` (separable: `name.0` and `name.1`), batch normalisation `norm`, ReLU."""
    if separable and kernel_size > 1:
        x = keras.layers.DepthwiseConv2D(
            kernel_size,
            padding="same",
            dilation_rate=rate,
            use_bias=False,
            # Of the released code; Keras's own scaling would count all channels.
            depthwise_initializer=keras.initializers.TruncatedNormal(stddev=0.33),
            name=f"{name}.0",
        )(x)
        if normalize_depthwise:
            x = normalize(x, "batch", name=f"{name}.0_norm")
            x = keras.layers.ReLU(name=f"{name}.0_relu")(x)
        kernel_size, rate, name = 1, 1, f"{name}.1"
    return conv_norm_relu(x, filters, kernel_size, name=name, norm_name=norm, dilation_rate=rate)


__all__ = ["DECODERS", "aspp", "deeplab_v3_head", "deeplab_v3plus_decoder"]
