"""Convolution blocks as functions from tensor to tensor; every layer gets a name under the block's `name`."""

from __future__ import annotations

import keras

from keras_cv_lectures.layers.atrous import AtrousConv2D
from keras_cv_lectures.layers.normalization import SyncBatchNormalization

NORMALIZATIONS = ("batch", "group", "layer", None)


def normalize(x, kind: str | None, *, name: str):
    """Normalisation layer by its kind: "batch", "group" (up to 32 groups), "layer" (over channels) or None.

    Batch statistics are those of the global batch under `tf.distribute`, so that one and two replicas train the same
    weights; momentum 0.9 and epsilon 1e-5 as in PyTorch, whose weights then fit.
    """
    if kind is None:
        return x
    if kind == "batch":
        return SyncBatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)
    if kind == "group":
        channels = x.shape[-1]
        groups = next(g for g in range(min(32, channels), 0, -1) if channels % g == 0)
        return keras.layers.GroupNormalization(groups, epsilon=1e-5, name=name)(x)
    if kind == "layer":
        return keras.layers.LayerNormalization(epsilon=1e-5, name=name)(x)
    raise ValueError(f"`normalization` must be one of {NORMALIZATIONS}. Received: normalization={kind!r}")


def conv_norm_relu(
    x,
    filters: int,
    kernel_size: int = 3,
    *,
    name: str,
    normalization: str | None = "batch",
    padding: str = "same",
    strides: int = 1,
    dilation_rate: int = 1,
    use_bias: bool | None = None,
    relu: bool = True,
    norm_name: str | None = None,
):
    """Convolution, normalisation, ReLU: layers `name`, `norm_name` (or `name_norm`) and `name_relu`.

    Args:
        use_bias: of the convolution. None: only where no normalisation follows, because a bias before batch
            normalisation has a zero gradient that adaptive optimizers turn into noise.
        relu: False leaves the last step out.
    """
    x = (AtrousConv2D if dilation_rate > 1 else keras.layers.Conv2D)(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        dilation_rate=dilation_rate,
        use_bias=normalization is None if use_bias is None else use_bias,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    x = normalize(x, normalization, name=norm_name or f"{name}_norm")
    return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x
