"""ResNet with the stride on the 3x3 ("v1.5"), in the shape and with the names of torchvision.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, https://arxiv.org/abs/1512.03385.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_cv_lectures.backbones.torch_shape import (
    batch_norm,
    check_output_stride,
    conv2d,
    load_published,
    max_pool,
)


def resnet14_v1_5(channels: int = 3, weights: str | None = None, output_stride: int = 32) -> keras.Model:
    """One bottleneck a stage, at a quarter of ResNet-50's width: for quick tries. Nobody published weights for it.

    Args:
        weights: None or the path of a file.
    """
    model = resnet_v1_5((1, 1, 1, 1), (16, 32, 64, 128), stem=16, channels=channels, output_stride=output_stride)
    return load_published(model, "resnet14", weights)


def resnet50_v1_5(
    channels: int = 3,
    weights: str | None = None,
    output_stride: int = 32,
    multi_grid: Sequence[int] | None = None,
) -> keras.Model:
    """ResNet-50 of torchvision: 23,508,032 trained parameters for three channels. Arguments as in `resnet_v1_5`.

    Args:
        weights: None, "imagenet" or "imagenet-v2" (downloaded on this request), or the path of a torchvision file.
    """
    model = resnet_v1_5((3, 4, 6, 3), channels=channels, output_stride=output_stride, multi_grid=multi_grid)
    return load_published(model, "resnet50", weights)


def resnet101_v1_5(
    channels: int = 3,
    weights: str | None = None,
    output_stride: int = 32,
    multi_grid: Sequence[int] | None = None,
) -> keras.Model:
    """ResNet-101 of torchvision: 42,500,160 trained parameters for three channels. Arguments as in `resnet50_v1_5`."""
    model = resnet_v1_5((3, 4, 23, 3), channels=channels, output_stride=output_stride, multi_grid=multi_grid)
    return load_published(model, "resnet101", weights)


def resnet_v1_5(
    units: Sequence[int] = (3, 4, 6, 3),
    planes: Sequence[int] = (64, 128, 256, 512),
    *,
    stem: int = 64,
    channels: int = 3,
    output_stride: int = 32,
    multi_grid: Sequence[int] | None = None,
    name: str = "backbone",
) -> keras.Model:
    """ResNet of bottlenecks; layers carry torchvision's module paths (`layer1.0.conv1`, `layer1.0.downsample.0`).

    Input: (B, H, W, channels), normalised by the convention "torch". Any H and W.
    Output: {"c1": (B, ceil(H / 2), ceil(W / 2), stem), "c2": (B, ceil(H / 4), ..., 4 planes[0]), ..., "c5"}; stage k
    has stride min(2**k, output_stride).

    Differs from the paper: the stride of a stage is on its first 3x3, not on its first 1x1, as in torchvision. Below
    output stride 32, that 3x3 keeps the dilation rate of the stage before and everything after it takes twice that
    rate (torchvision's `replace_stride_with_dilation`).

    Args:
        units: bottlenecks of the four stages.
        planes: channels of the 3x3 of the four stages; a stage gives four times as many.
        stem: channels of the first convolution.
        channels: channels of the picture.
        output_stride: 8, 16 or 32.
        multi_grid: factors on the rates of the 3x3 of the last stage, one a bottleneck, as DeepLab v3 uses them
            ((1, 2, 4)). None: all 1.
        name: name of the model.

    Raises:
        ValueError: for another output stride, lists of a wrong length, or a multi grid that would dilate a
            convolution with a stride.
    """
    check_output_stride(output_stride)
    if len(units) != 4 or len(planes) != 4:
        raise ValueError(f"`units` and `planes` must be four numbers each. Received: {tuple(units)}, {tuple(planes)}")
    multi_grid = tuple(multi_grid or (1,) * units[3])
    if len(multi_grid) != units[3] or min(multi_grid) < 1:
        raise ValueError(
            f"`multi_grid` must be {units[3]} positive numbers, one a bottleneck of the last stage. "
            f"Received: multi_grid={multi_grid}"
        )
    if output_stride == 32 and multi_grid[0] != 1:
        raise ValueError(
            "`multi_grid` must begin with 1 at output stride 32, where the first bottleneck of the last stage has a "
            f"stride. Received: multi_grid={multi_grid}. Use output_stride=16 or 8."
        )

    image = keras.Input((None, None, channels), name="picture")
    x = conv2d(image, stem, 7, strides=2, name="conv1")
    x = batch_norm(x, name="bn1")
    stages = {"c1": keras.layers.ReLU(name="relu")(x)}
    x = max_pool(stages["c1"], name="maxpool")

    stride, rate = 4, 1
    for stage in range(4):
        strides, first_rate = (1 if stage == 0 else 2), rate
        if strides * stride > output_stride:
            strides, rate = 1, 2 * rate
        stride *= strides
        grid = multi_grid if stage == 3 else (1,) * units[stage]
        for unit in range(units[stage]):
            x = _bottleneck(
                x,
                planes[stage],
                strides=strides if unit == 0 else 1,
                rate=grid[unit] * (first_rate if unit == 0 else rate),
                project=unit == 0,
                name=f"layer{stage + 1}.{unit}",
            )
        stages[f"c{stage + 2}"] = x
    return keras.Model(image, stages, name=name)


def _bottleneck(x, planes: int, *, strides: int, rate: int, project: bool, name: str):
    """1x1, 3x3 (which has the stride and the rate), 1x1 to four times `planes`, added to the input; ReLUs."""
    shortcut = x
    if project and (strides != 1 or x.shape[-1] != 4 * planes):
        shortcut = conv2d(x, 4 * planes, 1, strides=strides, name=f"{name}.downsample.0")
        shortcut = batch_norm(shortcut, name=f"{name}.downsample.1")
    x = batch_norm(conv2d(x, planes, 1, name=f"{name}.conv1"), name=f"{name}.bn1")
    x = keras.layers.ReLU(name=f"{name}.relu1")(x)
    x = conv2d(x, planes, 3, strides=strides, dilation_rate=rate, name=f"{name}.conv2")
    x = batch_norm(x, name=f"{name}.bn2")
    x = keras.layers.ReLU(name=f"{name}.relu2")(x)
    x = batch_norm(conv2d(x, 4 * planes, 1, name=f"{name}.conv3"), name=f"{name}.bn3")
    x = keras.layers.Add(name=f"{name}.add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}.relu")(x)


__all__ = ["resnet50_v1_5", "resnet101_v1_5", "resnet_v1_5"]
