"""ImageNet files of `keras.applications` -> a network of the same layers with any number of input channels."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from keras_cv_lectures.h5 import load_h5
from keras_cv_lectures.weights.assign import set_weights

# What keras.applications inserts behind EfficientNet's normalisation when, and only when, it downloads the weights
# itself; folded into the normalisation's variance here so that a file from disk gives the same network.
_EFFICIENTNET_DEVIATION = np.array([0.229, 0.224, 0.225], "float32")


def load_imagenet(
    model: keras.Model, application: Callable[..., keras.Model], weights: str, *, bgr: bool = False
) -> None:
    """Loads ImageNet weights into `model`, an instance of `application` without top and with any channel count.

    Args:
        model: `application(include_top=False, weights=None, input_shape=(None, None, C))`.
        application: the builder, such as `keras.applications.ResNet50`.
        weights: "imagenet" (Keras downloads and caches its file) or the path of a `_notop.h5` file.
        bgr: whether the network reads blue, green, red, see `adapt_first_kernel`.

    Raises:
        ModelError: the file is absent, damaged, or of another network.
    """
    # Loaded through a three-channel twin without Keras's own extra layers, so that the file fits by construction.
    twin = application(include_top=False, weights=None, input_shape=(None, None, 3))
    if weights == "imagenet":
        twin.set_weights(application(include_top=False, weights="imagenet", input_shape=(None, None, 3)).get_weights())
    else:
        load_h5(twin, weights)
    for source, target in zip(_weighted(twin), _weighted(model), strict=True):
        values = source.get_weights()
        if isinstance(target, keras.layers.Normalization):
            mean, variance, count = values
            deviation = _EFFICIENTNET_DEVIATION.reshape(np.shape(variance)[:-1] + (3,))
            values = [_channels(mean, target), _channels(variance * deviation, target), count]
        elif [v.shape for v in values] != [tuple(w.shape) for w in target.weights]:
            values = [adapt_first_kernel(values[0], target.weights[0].shape[2], bgr=bgr), *values[1:]]
        set_weights(target, values)


def adapt_first_kernel(kernel: np.ndarray, channels: int, *, bgr: bool = False) -> np.ndarray:
    """First kernel (h, w, 3, out) for another number of input channels.

    One channel: the sum over red, green and blue, which gives a grey picture the response of its colour copy. Others:
    the three repeated in turn and scaled by 3 / channels, which keeps the size of the response.

    Args:
        bgr: whether the kernel reads blue, green, red. Pictures of three channels are turned for it, and others come as
            they are, red first: see `layers.ImageNormalization`.
    """
    if channels == 3:
        return kernel
    if bgr:
        kernel = kernel[:, :, ::-1]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = np.take(kernel, np.arange(channels) % 3, axis=2)
    return repeated * (3.0 / channels)


def _weighted(model):
    return [layer for layer in model.layers if layer.weights]


def _channels(values, target):
    """Per-channel constants (1, 1, 1, 3) for another channel count: their average."""
    wanted = tuple(target.weights[0].shape)
    return values if np.shape(values) == wanted else np.full(wanted, np.mean(values), "float32")
