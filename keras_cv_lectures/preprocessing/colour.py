"""Colour, grey values, noise and channels of one picture, in as few passes as possible."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import tensorflow as tf

# Beside the elastic field's stream, 1.
_NOISE_STREAM = 2


class ColourSettings(Protocol):
    """The fields of `Augmentation` that are about colour."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    grey_value: float
    gamma: float
    noise: float


def recolour(
    picture: tf.Tensor, augmentation: ColourSettings, draw: dict[str, tf.Tensor], seed: tf.Tensor, dtype: tf.DType
) -> tf.Tensor:
    """Colour, grey values and noise in as few passes as possible, then the dtype of the file."""

    def between(name: str) -> tf.Tensor:
        return (2.0 * draw[name] - 1.0) * getattr(augmentation, name)

    gain, offset = tf.constant(1.0), tf.constant(0.0)
    if augmentation.brightness:
        gain *= 1.0 + between("brightness")
    if augmentation.contrast:
        contrast = 1.0 + between("contrast")
        offset += (1.0 - contrast) * gain * tf.reduce_mean(picture)
        gain *= contrast
    if augmentation.grey_value:
        offset += 255.0 * between("grey_value")
    channels = picture.shape[-1]
    if (augmentation.saturation or augmentation.hue) and channels != 1:
        if channels != 3:
            raise ValueError(f"image: expected 1 or 3 channels for saturation and hue, received {channels} channels.")
        matrix = gain * _chroma(1.0 + between("saturation"), 2.0 * math.pi * between("hue"))
        pixels = tf.matmul(tf.reshape(picture, [-1, 3]), matrix, transpose_b=True) + offset
        picture = tf.reshape(pixels, tf.shape(picture))
    elif augmentation.brightness or augmentation.contrast or augmentation.grey_value:
        picture = picture * gain + offset
    if augmentation.gamma:
        exponent = (1.0 + augmentation.gamma) ** (2.0 * draw["gamma"] - 1.0)
        picture = 255.0 * tf.pow(tf.clip_by_value(picture / 255.0, 0.0, 1.0), exponent)
    if augmentation.noise:
        stream = tf.random.fold_in(seed, _NOISE_STREAM, alg="philox")
        deviation = augmentation.noise * draw["noise"]
        picture += deviation * tf.random.stateless_normal(tf.shape(picture), stream, alg="philox")
    picture = tf.clip_by_value(picture, 0.0, 255.0)
    # Casting cuts the fraction off, so half a grey level more rounds.
    return picture if dtype.is_floating else tf.cast(picture + 0.5, dtype)


def with_channels(image: tf.Tensor, channels: int) -> tf.Tensor:
    """The picture (h, w, C) with as many channels: 1 from 3 is its brightness (ITU-R 601), any number repeats 1.

    Raises:
      ValueError: another conversion is asked for.
    """
    if image.shape[-1] == channels:
        return image
    if image.shape[-1] == 3 and channels == 1:
        grey = tf.tensordot(tf.cast(image, tf.float32), tf.constant([[0.299], [0.587], [0.114]]), axes=1)
        return grey if image.dtype.is_floating else tf.cast(grey + 0.5, image.dtype)
    if image.shape[-1] == 1:
        return tf.tile(image, [1, 1, channels])
    raise ValueError(
        f"channels: expected the {image.shape[-1]} channels of the images, received {channels}; only 3 -> 1 and 1 -> n"
        " are converted. Read the pictures with that many channels."
    )


def _chroma(saturation: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
    """Matrix (3, 3) that scales and turns the chroma plane (I, Q) of YIQ and leaves brightness Y alone."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.595901, -0.274557, -0.321344], [0.211537, -0.522736, 0.311199]])
    to_rgb = np.linalg.inv(to_yiq)
    luma = to_rgb @ np.diag([1.0, 0.0, 0.0]) @ to_yiq
    keep = to_rgb @ np.diag([0.0, 1.0, 1.0]) @ to_yiq
    turn = to_rgb @ np.array([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]]) @ to_yiq
    luma, keep, turn = (tf.constant(part, tf.float32) for part in (luma, keep, turn))
    return luma + saturation * (tf.cos(angle) * keep + tf.sin(angle) * turn)
