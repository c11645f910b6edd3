"""The VGG-16 of DeepLab v1 and v2 at stride 8, "LargeFOV", and its heads, with the layer names of the released files.

`conv1_1` ... `conv5_3`, `fc6`, `fc7`, `fc8` (`fc8_voc12` in the files, which add the data set, as
`load_caffe` knows); v2 has four heads `fc6_1` ... `fc8_4`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.errors import KcvlWarning, ModelError
from keras_cv_lectures.layers import conv_norm_relu
from keras_cv_lectures.segmentation.heads import class_scores
from keras_cv_lectures.weights.convolutionalize import check_convolutions, described, read_vgg16
from keras_cv_lectures.weights.keras_applications import adapt_first_kernel

_CONVOLUTIONS = (2, 2, 3, 3, 3)


def vgg16_stride8(x: keras.KerasTensor, filters: int = 64, normalization: str | None = None) -> keras.KerasTensor:
    """Convolutions of VGG-16 with poolings of 3x3; the last two do not stride, and conv5 has rate 2 instead.

    Args:
        x: (B, H, W, C), BGR without its mean.
        filters: channels of the first stage; 2, 4, 8 and 8 times as many in the others.
        normalization: as of `conv_norm_relu`.

    Returns:
        (B, h, w, 8 filters), where each of three poolings makes n // 2 + 1 of n: cells lie on pixels 0, 8, 16, ..., and
        pictures of 8 k + 1 pixels, which have k + 1, fit exactly.
    """
    for stage, convolutions in enumerate(_CONVOLUTIONS, start=1):
        for k in range(1, convolutions + 1):
            channels = filters * 2 ** min(stage - 1, 3)
            rate = 2 if stage == 5 else 1
            x = conv_norm_relu(x, channels, 3, name=f"conv{stage}_{k}", normalization=normalization, dilation_rate=rate)
        if stage <= 3:
            # Caffe pads by one and rounds up, which starts every window on an odd pixel; after a ReLU a zero is no
            # maximum that was not there.
            x = keras.layers.ZeroPadding2D(((1, 2), (1, 2)), name=f"pool{stage}_pad")(x)
            x = keras.layers.MaxPooling2D(3, 2, name=f"pool{stage}")(x)
        else:
            x = keras.layers.MaxPooling2D(3, 1, padding="same", name=f"pool{stage}")(x)
    return x


def pool5a(x: keras.KerasTensor) -> keras.KerasTensor:
    """The mean of 3x3 cells that v1 has before fc6, and v2 has not; (B, h, w, C) like `x`."""
    # Caffe's mean counts the padding: at the border, too, the sum is divided by nine.
    x = keras.layers.ZeroPadding2D(1, name="pool5a_pad")(x)
    return keras.layers.AveragePooling2D(3, 1, name="pool5a")(x)


def large_fov_head(
    x: keras.KerasTensor,
    num_classes: int,
    *,
    rate: int = 12,
    kernel_size: int = 3,
    filters: int = 1024,
    dropout: float = 0.5,
    normalization: str | None = None,
    suffix: str = "",
) -> keras.KerasTensor:
    """fc6 (atrous), fc7, fc8: VGG's classifier as convolutions; scores (B, h, w, num_classes) float32."""
    x = conv_norm_relu(x, filters, kernel_size, name=f"fc6{suffix}", normalization=normalization, dilation_rate=rate)
    x = keras.layers.Dropout(dropout, name=f"drop6{suffix}")(x) if dropout else x
    x = conv_norm_relu(x, filters, 1, name=f"fc7{suffix}", normalization=normalization)
    x = keras.layers.Dropout(dropout, name=f"drop7{suffix}")(x) if dropout else x
    return _scores(x, num_classes, name=f"fc8{suffix}")


def aspp_of_classifiers(
    x: keras.KerasTensor, num_classes: int, *, rates: Sequence[int], **options: Any
) -> keras.KerasTensor:
    """ASPP of DeepLab v2 on VGG: a whole `large_fov_head` a rate, `fc6_1` ... `fc8_4`, scores summed."""
    scores = [
        large_fov_head(x, num_classes, rate=rate, suffix=f"_{k}", **options) for k, rate in enumerate(rates, start=1)
    ]
    return _sum(scores, name="fc8")


def aspp_of_scores(x: keras.KerasTensor, num_classes: int, *, rates: Sequence[int]) -> keras.KerasTensor:
    """ASPP of DeepLab v2 on a ResNet: one 3x3 convolution to the scores a rate, `fc1_c0` ... `fc1_c3`, summed."""
    scores = [_scores(x, num_classes, kernel_size=3, rate=rate, name=f"fc1_c{k}") for k, rate in enumerate(rates)]
    return _sum(scores, name="fc1")


def load_classifier(model: keras.Model, source: str | os.PathLike | keras.Model) -> None:
    """VGG-16's convolutions into `model`; its fully connected layers become fc6 and fc7 by leaving numbers out.

    fc6 keeps evenly spaced rows, columns and filters of the 7x7 kernel, fc7 the same channels; so every `fc6_K`, too.

    Args:
        source: as in `keras_cv_lectures.weights.load_vgg16`.

    Raises:
        ModelError: the file is absent, is no VGG-16, or its layers have other shapes. Nothing is changed then.

    Differs from the paper: it keeps 1024 of the 4096 filters at random.
    """
    found = read_vgg16(source)
    check_convolutions(model, found, source)
    weights = {}
    for layer in model.layers:
        kernel, bias = found.get(layer.name.split("_")[0] if layer.name.startswith("fc") else layer.name, (None, None))
        if kernel is None or not layer.weights or layer.name.startswith("fc8"):
            continue
        shape, have = tuple(layer.kernel.shape), kernel.shape
        if layer.name == "conv1_1":
            kernel = adapt_first_kernel(kernel, shape[2], bgr=True)
        elif layer.name.startswith("fc") and all(h >= want for h, want in zip(have, shape, strict=True)):
            kept = [_evenly(h, want) for h, want in zip(have, shape, strict=True)]
            kernel, bias = kernel[np.ix_(*kept)], bias[kept[-1]]
        if kernel.shape != shape:
            raise ModelError(
                f"{described(source)} does not fit layer {layer.name!r} of {model.name!r}: expected a kernel {shape}. "
                f"Received: {have}. VGG-16's weights need filters=64 and aspp_filters of at most its 4096."
            )
        weights[layer.name] = [kernel, bias]
    for name, arrays in weights.items():
        model.get_layer(name).set_weights(arrays)
    missing = [name for name in ("fc6", "fc7") if name not in found]
    if missing:
        warnings.warn(
            f"{described(source)} has nothing for {missing}: these keep their initial values.",
            KcvlWarning,
            stacklevel=3,
        )


def _evenly(have: int, want: int) -> np.ndarray:
    """`want` of the indices 0 ... have - 1: the ends and what lies evenly between (7, 3 -> 0, 3, 6)."""
    return np.linspace(0, have - 1, want).round().astype(int)


def _scores(x, num_classes: int, *, name: str, kernel_size: int = 1, rate: int = 1):
    # The standard deviation of the released prototxt.
    start = keras.initializers.RandomNormal(stddev=0.01)
    return class_scores(x, num_classes, kernel_size, name=name, kernel_initializer=start, dilation_rate=rate)


def _sum(scores: list, *, name: str):
    return keras.layers.Add(dtype="float32", name=name)(scores) if len(scores) > 1 else scores[0]


__all__ = ["aspp_of_classifiers", "aspp_of_scores", "large_fov_head", "load_classifier", "pool5a", "vgg16_stride8"]
