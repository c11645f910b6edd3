"""From a picture in 0..255 to what a network's weights expect, inside the graph."""

from __future__ import annotations

import keras
from keras import ops

# (subtracted, divided by, channels reversed) of a picture in 0..255, by the name of the convention.
_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
# The mean of Caffe's `ilsvrc_2012_mean.npy`, where VGG's authors have another.
_ILSVRC12_MEAN_BGR = (104.00699, 116.66877, 122.67892)
_CONVENTIONS = {
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), False),
    "symmetric": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5), False),
    "torch": (_IMAGENET_MEAN, _IMAGENET_STD, False),
    "caffe": (_CAFFE_MEAN_BGR, (1.0, 1.0, 1.0), True),
    "ilsvrc12": (_ILSVRC12_MEAN_BGR, (1.0, 1.0, 1.0), True),
    "bgr": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), True),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), False),
}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class ImageNormalization(keras.layers.Layer):
    """Normalises pictures: ((RGB picture in 0..255) - mean) / deviation, channel by channel.

    Input shape: (B, H, W, C), uint8 or float in 0..255. Output shape: the same, in the compute dtype.

    Args:
        convention: "unit" (0..1), "symmetric" (-1..1), "torch" (ImageNet mean and deviation), "caffe" (BGR order,
            the mean of VGG's authors, not divided), "ilsvrc12" (the same with the mean that Caffe distributes, up to 1
            apart), "bgr" (0..255 in BGR order) or "none" (0..255 as it is, for networks that normalise themselves).

    A picture whose channel count is not 3 gets the average of the three constants in every channel, and its channels
    keep their order: there is no published constant for a fourth channel.
    """

    def __init__(self, convention: str = "symmetric", **kwargs):
        super().__init__(**kwargs)
        if convention not in _CONVENTIONS:
            raise ValueError(f"`convention` must be one of {sorted(_CONVENTIONS)}. Received: {convention!r}")
        self.convention = convention

    def call(self, x):
        mean, deviation, reverse = _CONVENTIONS[self.convention]
        channels = x.shape[-1]
        x = ops.cast(x, self.compute_dtype)
        if channels != 3:
            mean, deviation = [sum(mean) / 3], [sum(deviation) / 3]
        elif reverse:
            x = ops.flip(x, axis=-1)
        if any(mean):
            x = x - ops.cast(ops.convert_to_tensor(mean), x.dtype)
        if any(d != 1 for d in deviation):
            x = x * ops.cast(ops.convert_to_tensor([1 / d for d in deviation]), x.dtype)
        return x

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "convention": self.convention}


def is_without_normalization(model: keras.Model) -> bool:
    """Whether a segmentation network of this package was built with `include_preprocessing=False`.

    Such a one has layers of this package behind the input "image", and none that brings 0..255 to other numbers.
    Models of anybody else, detectors and captioners are none.
    """
    if not isinstance(model, keras.Function) or isinstance(model.output, dict | list | tuple):
        return False
    kinds = {type(layer) for layer in model._flatten_layers(include_self=False)}
    normalizing = (ImageNormalization, keras.layers.Rescaling, keras.layers.Normalization)
    ours = any(kind.__module__.partition(".")[0] == __package__.partition(".")[0] for kind in kinds)
    return (
        ours
        and [x.name for x in model.inputs] == ["image"]
        and not any(issubclass(kind, normalizing) for kind in kinds)
    )
