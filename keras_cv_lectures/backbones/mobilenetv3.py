"""MobileNetV3-Large in the shape of torchvision, its layers named as the modules under `features`.

Howard et al., "Searching for MobileNetV3", ICCV 2019, https://arxiv.org/abs/1905.02244.
"""

from __future__ import annotations

from typing import NamedTuple

import keras

from keras_cv_lectures.backbones.torch_shape import batch_norm, check_output_stride, conv2d, load_published


class _Block(NamedTuple):
    kernel: int
    expanded: int
    out: int
    squeeze: bool
    activation: str
    stride: int


_RE, _HS = "relu", "hard_swish"
_LARGE = (  # Table 1 of the paper; `features.1` ... `features.15` of torchvision.
    _Block(3, 16, 16, False, _RE, 1),
    _Block(3, 64, 24, False, _RE, 2),
    _Block(3, 72, 24, False, _RE, 1),
    _Block(5, 72, 40, True, _RE, 2),
    _Block(5, 120, 40, True, _RE, 1),
    _Block(5, 120, 40, True, _RE, 1),
    _Block(3, 240, 80, False, _HS, 2),
    _Block(3, 200, 80, False, _HS, 1),
    _Block(3, 184, 80, False, _HS, 1),
    _Block(3, 184, 80, False, _HS, 1),
    _Block(3, 480, 112, True, _HS, 1),
    _Block(3, 672, 112, True, _HS, 1),
    _Block(5, 672, 160, True, _HS, 2),
    _Block(5, 960, 160, True, _HS, 1),
    _Block(5, 960, 160, True, _HS, 1),
)
# Stage -> the last `features.N` at that stride. "aux" is where torchvision's auxiliary classifier and LR-ASPP look.
# "c5_early" is the first map of the last stage, which torchvision's detectors take beside "c5".
_TAPS = {1: "c1", 3: "c2", 4: "aux", 6: "c3", 12: "c4", 13: "c5_early"}


def mobilenetv3_large(
    channels: int = 3,
    weights: str | None = None,
    output_stride: int = 32,
    *,
    width: float = 1.0,
    name: str = "backbone",
) -> keras.Model:
    """MobileNetV3-Large: inverted residuals with squeeze and excitation; 2,971,952 parameters for three channels.

    Input: (B, H, W, channels), normalised by the convention "torch". Any H and W.
    Output: {"c1": (B, ceil(H / 2), ceil(W / 2), 16), "c2" 24, "c3" 40, "c4" 112, "c5" 960 channels}; stage k has
    stride min(2**k, output_stride). "aux" is the first map of 40 channels at stride 8, `features.4`,
    and "c5_early" the first of stage 5, `features.13`.

    Differs from the paper: paddings are symmetric, and below output stride 32 the depthwise convolution that loses
    its stride takes the new dilation rate itself. Both as in torchvision, whose segmentation networks use output
    stride 16 (`dilated=True`). Layers have its module paths without "features." (`4.block.2.fc1`), as its segmentation
    files have them.

    Args:
        channels: channels of the picture.
        weights: None, "imagenet" or "imagenet-v2" (downloaded on this request), or the path of a torchvision file.
        output_stride: 8, 16 or 32.
        width: factor on all channel counts, rounded to multiples of 8.
        name: name of the model.

    Raises:
        ValueError: for another output stride or a width that is not positive.
    """
    check_output_stride(output_stride)
    if width <= 0:
        raise ValueError(f"`width` must be positive. Received: width={width}")

    image = keras.Input((None, None, channels), name="picture")
    x = _conv_norm(image, _divisible(16 * width), 3, _HS, strides=2, name="0")
    stages, stride, rate = {}, 2, 1
    for index, block in enumerate(_LARGE, start=1):
        strides = block.stride
        if stride * strides > output_stride:
            strides, rate = 1, 2 * rate
        stride *= strides
        x = _inverted_residual(x, block, width, strides=strides, rate=rate, name=f"{index}")
        if index in _TAPS:
            stages[_TAPS[index]] = x
    stages["c5"] = _conv_norm(x, 6 * x.shape[-1], 1, _HS, name=f"{len(_LARGE) + 1}")
    return load_published(keras.Model(image, stages, name=name), "mobilenet_v3_large", weights)


def _inverted_residual(x, block: _Block, width: float, *, strides: int, rate: int, name: str):
    """1x1 up, depthwise, squeeze and excitation, 1x1 down without activation; added to the input where shapes agree."""
    shortcut, step = x, 0
    expanded, out = _divisible(block.expanded * width), _divisible(block.out * width)
    if expanded != x.shape[-1]:
        x = _conv_norm(x, expanded, 1, block.activation, name=f"{name}.block.{step}")
        step += 1
    x = _conv_norm(
        x,
        expanded,
        block.kernel,
        block.activation,
        strides=strides,
        dilation_rate=rate,
        depthwise=True,
        name=f"{name}.block.{step}",
    )
    step += 1
    if block.squeeze:
        x = _squeeze_excite(x, _divisible(expanded // 4), name=f"{name}.block.{step}")
        step += 1
    x = _conv_norm(x, out, 1, None, name=f"{name}.block.{step}")
    if block.stride == 1 and out == shortcut.shape[-1]:
        x = keras.layers.Add(name=f"{name}.add")([x, shortcut])
    return x


def _squeeze_excite(x, squeezed: int, *, name: str):
    """Channels weighted by a function of their means over the whole picture."""
    scale = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}.avgpool")(x)
    scale = conv2d(scale, squeezed, 1, use_bias=True, name=f"{name}.fc1")
    scale = keras.layers.ReLU(name=f"{name}.activation")(scale)
    scale = conv2d(scale, x.shape[-1], 1, use_bias=True, name=f"{name}.fc2")
    scale = keras.layers.Activation("hard_sigmoid", name=f"{name}.scale_activation")(scale)
    return keras.layers.Multiply(name=f"{name}.scale")([x, scale])


def _conv_norm(x, filters: int, kernel_size: int, activation: str | None, *, name: str, **options):
    x = conv2d(x, filters, kernel_size, name=f"{name}.0", **options)
    x = batch_norm(x, name=f"{name}.1", momentum=0.99, epsilon=1e-3)
    if activation is None:
        return x
    if activation == _RE:
        return keras.layers.ReLU(name=f"{name}.2")(x)
    return keras.layers.Activation(activation, name=f"{name}.2")(x)


def _divisible(value: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least that and not more than a tenth below `value`."""
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * value else nearest


__all__ = ["mobilenetv3_large"]
