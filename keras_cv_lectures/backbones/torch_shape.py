"""What the networks in torchvision's shape have in common: how they pad, normalise, initialise and get weights."""

from __future__ import annotations

import keras

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.layers import AtrousConv2D, SyncBatchNormalization
from keras_cv_lectures.weights.published import download, find_published
from keras_cv_lectures.weights.torchvision import load_torch

OUTPUT_STRIDES = (8, 16, 32)


def check_output_stride(output_stride: int) -> None:
    """Raises ValueError unless `output_stride` is 8, 16 or 32."""
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"`output_stride` must be one of {OUTPUT_STRIDES}. Received: output_stride={output_stride!r}")


def conv2d(
    x,
    filters: int,
    kernel_size: int,
    *,
    name: str,
    strides: int = 1,
    dilation_rate: int = 1,
    depthwise: bool = False,
    use_bias: bool = False,
):
    """Convolution padded by rate * (kernel_size - 1) / 2 on every side, as torch pads.

    Keras's "same" is that padding at stride 1; at stride 2 it depends on the parity of the size, so the padding is
    then a layer of its own, `<name>_pad`.

    Args:
        depthwise: one filter a channel; `filters` must then be the channels of `x`.
    """
    padding = "same"
    if strides > 1:
        padding = "valid"
        if kernel_size > 1:
            x = keras.layers.ZeroPadding2D((kernel_size - 1) // 2, name=f"{name}_pad")(x)
    options = {
        "strides": strides,
        "padding": padding,
        "dilation_rate": dilation_rate,
        "use_bias": use_bias,
        "name": name,
    }
    # A new initializer each time: one that is shared would give equal shapes equal values.
    if depthwise:
        # Torch's fan out of a depthwise kernel is what Keras calls its fan in: channels times kernel area.
        initializer = keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
        return keras.layers.DepthwiseConv2D(kernel_size, depthwise_initializer=initializer, **options)(x)
    initializer = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    convolution = AtrousConv2D if dilation_rate > 1 else keras.layers.Conv2D
    return convolution(filters, kernel_size, kernel_initializer=initializer, **options)(x)


def batch_norm(x, *, name: str, momentum: float = 0.9, epsilon: float = 1e-5):
    """Batch normalisation over the global batch; torch's momentum 0.1 is 0.9 here."""
    return SyncBatchNormalization(momentum=momentum, epsilon=epsilon, name=name)(x)


def max_pool(x, *, name: str):
    """3x3 maximum with stride 2 and a border of one, of values that are not negative.

    Torch's border holds the lowest value; zeros are as low where a ReLU came before.
    """
    x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return keras.layers.MaxPooling2D(3, strides=2, name=name)(x)


def load_published(model: keras.Model, architecture: str, weights: str | None) -> keras.Model:
    """`model` with the ImageNet weights asked for; None leaves it as it is.

    Args:
        architecture: torchvision's name of the network.
        weights: None, "imagenet" or "imagenet-v2" (torchvision's files, downloaded on this request), or the path of a
            file of this network, of a classifier or of a segmentation network around it.

    Raises:
        ModelError: the file cannot be had, or does not fit.
    """
    if weights is None:
        return model
    try:
        path = weights
        if weights in ("imagenet", "imagenet-v2"):
            path = download(find_published(f"torchvision/{weights}", architecture))
        load_torch(model, path, ignore=("fc.", "classifier.", "aux_classifier."))
    except ModelError as error:
        raise ModelError(f"`backbone_weights` of {architecture} cannot be loaded from {weights!r}: {error}") from error
    return model
