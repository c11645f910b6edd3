"""Feature pyramid: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.

Layers carry torchvision's module paths (`fpn.inner_blocks.0.0`); the bottom-up network is a model named "body".
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_cv_lectures.layers import ResizeLike, normalize


def feature_pyramid(
    body: keras.Model,
    stages: Sequence[str] = ("c2", "c3", "c4", "c5"),
    filters: int = 256,
    *,
    normalization: str | None = None,
    name: str = "backbone",
) -> keras.Model:
    """Bottom-up network, and a top-down path that gives every stage the same number of channels.

    Input: (B, H, W, C), what `body` takes.
    Output: {"0": (B, h, w, filters), "1": ..., "pool": ...}: a map for each of `stages`, finest first, and the
    coarsest one sub-sampled by two, which the region proposal network alone looks at.

    Paper: https://arxiv.org/abs/1612.03144. Differs from the paper: nothing but the sub-sampled map's name, P6.

    Args:
        body: a backbone by contract, picture -> {"c2": ..., "c5": ...}.
        stages: names of its stages, finest first.
        filters: channels of every map.
        normalization: None, or "batch" after each convolution, which then has no bias (torchvision's v2).
    """
    picture = keras.Input((None, None, body.input_shape[-1]), name="picture")
    bottom_up = body(picture)
    maps: dict[str, keras.KerasTensor] = {}
    coarser = None
    for level in reversed(range(len(stages))):
        x = _conv(bottom_up[stages[level]], filters, 1, f"fpn.inner_blocks.{level}", normalization)
        if coarser is not None:
            upsampled = ResizeLike("nearest", name=f"fpn.upsample.{level}")([coarser, x])
            x = keras.layers.Add(name=f"fpn.add.{level}")([x, upsampled])
        coarser = x
        maps[str(level)] = _conv(x, filters, 3, f"fpn.layer_blocks.{level}", normalization)
    pool = keras.layers.MaxPooling2D(1, strides=2, name="fpn.pool")(maps[str(len(stages) - 1)])
    ordered = {str(level): maps[str(level)] for level in range(len(stages))}
    return keras.Model(picture, {**ordered, "pool": pool}, name=name)


def _conv(x, filters: int, kernel_size: int, name: str, normalization: str | None):
    x = keras.layers.Conv2D(
        filters,
        kernel_size,
        padding="same",
        use_bias=normalization is None,
        kernel_initializer=keras.initializers.VarianceScaling(1.0, "fan_in", "uniform"),
        name=f"{name}.0",
    )(x)
    return normalize(x, normalization, name=f"{name}.1")


__all__ = ["feature_pyramid"]
