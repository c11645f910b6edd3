"""The blobs of one Caffe layer -> the weights of one Keras layer, in the order of `layer.weights`.

What the layouts and the arithmetic of the two frameworks make of each other:

    Convolution, InnerProduct    (out, in / group, h, w)      Conv2D           (h, w, in / group, out)
    Deconvolution                (in, out / group, h, w)      Conv2DTranspose  (h, w, out, in)
    Deconvolution, diagonal      (C, C, h, w), (C, 1, h, w)   per channel      (h, w, C)
    BN of SegNet and DeconvNet   scale, shift                 batch normalization of mean 0, variance 1 - epsilon
    BatchNorm + Scale            mean, variance, factor + scale, shift         batch normalization
    Scale                        scale                        Rescaling: compared with its constant
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import keras
import numpy as np

from keras_cv_lectures.errors import ModelError

Blobs = Sequence[np.ndarray]


def to_weights(layer: keras.layers.Layer, group: Sequence[Blobs], epsilon: float = 1e-5) -> list[np.ndarray]:
    """Weights for `layer`, as views of the blobs where that is possible.

    Args:
        layer: a built layer.
        group: the blobs of each Caffe layer that is part of it: one, or BatchNorm and Scale.
        epsilon: the `eps` of Caffe's BatchNorm.

    Raises:
        ModelError: if the kind of the layer, the number of blobs or their shapes do not allow it.
    """
    if isinstance(layer, keras.layers.BatchNormalization):
        return _batch_norm(layer, group, epsilon)
    if len(group) != 1:
        raise ModelError(f"{len(group)} layers of the file belong to this one, which is no batch normalization.")
    if not layer.weights:
        return _constant(layer, group[0])
    convert = {"convolution": _convolution, "deconvolution": _deconvolution, "per channel": _per_channel}
    return convert[_kernel_kind(layer)](layer, group[0])


def has_other_classes(layer: keras.layers.Layer, group: Sequence[Blobs], classes: Collection[int]) -> bool:
    """Whether kernel and blob differ just where the layer has as many channels as the model has classes."""
    kind = _kernel_kind(layer, or_none=True)
    if kind is None or len(group) != 1:
        return False
    wanted, blobs = _caffe_shape(layer), group[0]
    got = _as_kernel(blobs[0], wanted).shape
    if len(got) != 4 or got[2:] != wanted[2:]:
        return False
    if kind != "convolution":
        got = (got[0], got[1] * _deconvolution_groups(blobs, wanted[1]), *got[2:])
    differ = [axis for axis in (0, 1) if got[axis] != wanted[axis]]
    return len({got[axis] for axis in differ}) == 1 and all(wanted[axis] in classes for axis in differ)


def _kernel_kind(layer, or_none=False) -> str | None:
    if isinstance(layer, keras.layers.Conv2D):
        return "convolution"
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return "deconvolution"
    # Layers that upsample every channel by itself are known by their kernel (h, w, C).
    if layer.weights and len(layer.weights[0].shape) == 3 and len(layer.weights) <= 2:
        return "per channel"
    if or_none:
        return None
    raise ModelError(
        f"a {type(layer).__name__} cannot take Caffe's blobs. Expected a (transposed) convolution, also for an inner "
        "product, or a batch normalization."
    )


def _caffe_shape(layer) -> tuple[int, ...]:
    """Shape of the blob that this layer's kernel would be in Caffe."""
    height, width, *channels = layer.weights[0].shape
    return (channels[-1], channels[0], height, width)


def _as_kernel(weight: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    """An inner product's matrix as the convolution over its whole input; other blobs as they are."""
    matrix = weight.shape[2:] if weight.ndim == 4 and weight.shape[:2] == (1, 1) else weight.shape
    if weight.shape != wanted and len(matrix) == 2 and matrix[1] == np.prod(wanted[1:], dtype=int):
        return weight.reshape(matrix[0], *wanted[1:])
    return weight


def _convolution(layer, blobs) -> list[np.ndarray]:
    kernel = _four_dimensions(_as_kernel(blobs[0], _caffe_shape(layer)))
    return [kernel.transpose(2, 3, 1, 0), *_bias(layer, blobs)]


def _deconvolution(layer, blobs) -> list[np.ndarray]:
    kernel = _four_dimensions(blobs[0])
    groups = _deconvolution_groups(blobs, layer.weights[0].shape[2])
    if groups > 1:
        kernel = _without_groups(kernel, groups)
    return [kernel.transpose(2, 3, 1, 0), *_bias(layer, blobs)]


def _deconvolution_groups(blobs, channels_out) -> int:
    """The number of groups is no blob, but (in, out / group, h, w) has a bias for each of its outputs."""
    channels_in, per_group = blobs[0].shape[:2]
    if len(blobs) == 2:
        return max(1, blobs[1].size // max(1, per_group))
    # Without a bias: one kernel a channel is Caffe's upsampling of each channel by itself.
    return channels_in if per_group == 1 and channels_out > 1 else 1


def _without_groups(kernel: np.ndarray, groups: int) -> np.ndarray:
    """(in, out / groups, h, w) -> (in, out, h, w), zero between the groups."""
    channels_in, per_group, *size = kernel.shape
    if channels_in % groups:
        raise ModelError(f"{channels_in} channels cannot be split in {groups} groups.")
    dense = np.zeros((channels_in, per_group * groups, *size), "float32")
    rows = channels_in // groups
    for group in range(groups):
        inside = slice(group * rows, (group + 1) * rows)
        dense[inside, group * per_group : (group + 1) * per_group] = kernel[inside]
    return dense


def _per_channel(layer, blobs) -> list[np.ndarray]:
    """Upsampling of each class by itself, which Caffe stores as a full kernel with zeros off the diagonal."""
    kernel = _four_dimensions(blobs[0])
    if kernel.shape[1] == 1:
        diagonal = kernel[:, 0]
    elif kernel.shape[0] == kernel.shape[1]:
        diagonal = np.einsum("cchw->chw", kernel)
        if np.count_nonzero(kernel) != np.count_nonzero(diagonal):
            raise ModelError(
                "this layer upsamples each channel by itself and the file mixes channels: its kernel is not zero off "
                "the diagonal. Build the model with a learned upsampling (Conv2DTranspose)."
            )
    else:
        raise ModelError(f"its kernel must be (C, C, h, w) or (C, 1, h, w). Received: {kernel.shape}")
    return [diagonal.transpose(1, 2, 0), *_bias(layer, blobs)]


def _four_dimensions(kernel: np.ndarray) -> np.ndarray:
    if kernel.ndim != 4:
        raise ModelError(f"its kernel must have four dimensions. Received: {kernel.shape}")
    return kernel


def _bias(layer, blobs) -> list[np.ndarray]:
    """[bias] where the layer has one; zeros if the file has none, which is the same function."""
    if len(blobs) > 2:
        raise ModelError(f"the file must hold a kernel and at most a bias. Received: {len(blobs)} blobs")
    if len(layer.weights) == 2:
        return [blobs[1].reshape(-1) if len(blobs) == 2 else np.zeros(layer.weights[1].shape, "float32")]
    if len(blobs) == 2 and np.any(blobs[1]):
        raise ModelError("the file has a bias and the layer has none. Build it with `use_bias=True`.")
    return []


def _constant(layer, blobs) -> list[np.ndarray]:
    """A Scale that is no weight here (FCN-8s at once multiplies pool4 by 0.01) must say the same."""
    scale = getattr(layer, "scale", None)
    if scale is None or isinstance(scale, bool) or len(blobs) != 1:
        raise ModelError(f"a {type(layer).__name__} has no weights, and the file has some for it.")
    if not np.allclose(blobs[0], scale, rtol=1e-5, atol=0):
        raise ModelError(f"it multiplies by {scale} and the file by {np.unique(blobs[0])[:3]}.")
    return []


def _batch_norm(layer, group, epsilon) -> list[np.ndarray]:
    if len(layer.weights) != 4:
        raise ModelError("the batch normalization must have `scale=True` and `center=True`.")
    channels = layer.weights[0].shape[0]
    zeros, ones = np.zeros(channels, "float32"), np.ones(channels, "float32")
    counts = sorted(len(blobs) for blobs in group)
    by_count = {len(blobs): [blob.reshape(-1) for blob in blobs] for blobs in group}
    for blob in (blob for count, blobs in by_count.items() for blob in (blobs[:2] if count == 3 else blobs)):
        if blob.size != channels:
            raise ModelError(f"it normalizes {channels} channels. Received: a blob of {blob.size} numbers")
    if counts == [2]:
        # The layer adds its epsilon to the variance and divides by the root: by one, so only scale and shift are left.
        variance = ones - np.float32(layer.epsilon)
        return [*by_count[2], zeros, variance]
    if counts == [4]:
        scale, shift, mean, variance = by_count[4]
    elif counts in ([3], [1, 3], [2, 3]) and by_count[3][2].size == 1:
        # Caffe sums its moving averages; the third blob says how much weight they have gathered.
        gathered = by_count[3][2][0]
        mean, variance = (blob / gathered if gathered else zeros for blob in by_count[3][:2])
        scale, shift = [*by_count.get(1, by_count.get(2, [ones])), zeros][:2]
    else:
        raise ModelError(
            "expected scale and shift; or scale, shift, mean and variance; or BatchNorm's mean, variance and factor, "
            f"with or without a Scale. Received: layers of {counts} blobs"
        )
    if not np.all(variance >= 0):
        raise ModelError("its variance must not be negative.")
    # The scale makes up for the difference between the two epsilons.
    scale = scale * np.sqrt((variance + np.float32(layer.epsilon)) / (variance + np.float32(epsilon)))
    return [scale, shift, mean, variance]


__all__ = ["has_other_classes", "to_weights"]
