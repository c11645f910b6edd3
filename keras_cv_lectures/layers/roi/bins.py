"""Which pixels a bin of a region averages, and with which weights, one axis at a time.

Bilinear samples on a regular grid are separable: a bin is `sum_ij wy_i wx_j F[y_i, x_j]`. Everything here is small (it
has no channels) and runs in float32, whatever the features are.
"""

from __future__ import annotations

import keras
from keras import ops


def bin_samples(start, size, limit, bins: int, per_bin: int, *, offset: float = 0.5, reach: float | None = 1.0):
    """Pixels and weights of `per_bin` bilinear samples in each bin.

    Args:
        start, size: (...,) first coordinate and length of the region, in pixels of a map whose pixel i has its centre
            at i.
        limit: (...,) pixels of the map along this axis, as floats.
        bins: number of bins along this axis.
        per_bin: samples in each, at least 1.
        offset: place of a sample in its share of the bin, 0 at the beginning, 0.5 in the middle.
        reach: samples up to so many pixels beyond the first and the last centre take that pixel's value, those further
            away are 0. None is Model Garden's rule: after the last centre always the last pixel, and before the first
            the line through the first two pixels.

    Returns:
        (pixels, weights): (..., bins, 2 * per_bin) int32 and float32.
    """
    number = ops.arange(bins, dtype="float32")[:, None]
    within = ops.arange(per_bin, dtype="float32") + offset
    start, size = start[..., None, None], size[..., None, None]
    # In the order in which the reference rounds: it decides which side of a border a sample is on.
    if reach is None:
        place = start + (number + within / per_bin) * size / bins
    else:
        step = divided(size, bins)
        place = start + number * step + within * step / per_bin
    last = limit[..., None, None] - 1
    share = 1 / per_bin
    if reach is not None:
        share = share * ops.cast(ops.logical_and(place >= -reach, place <= last + reach), "float32")
        place = ops.minimum(ops.maximum(place, 0.0), last)
    low = ops.minimum(ops.maximum(ops.floor(place), 0.0), last)
    high = ops.minimum(low + 1, last)
    fraction = place - low
    pixels = ops.concatenate([low, high], axis=-1)
    weights = ops.concatenate([(1 - fraction) * share, fraction * share], axis=-1)
    return ops.cast(pixels, "int32"), weights


def bin_matrix(start, size, limit, bins: int):
    """Weights of all pixels in each bin under torchvision's adaptive sampling: ceil(length of a bin) samples in it.

    A region of length 0 or less has no samples, and its bins are 0.

    Args:
        start, size: (...,) as for `bin_samples`.
        limit: pixels of the map along this axis, an integer or a scalar tensor.
        bins: number of bins.

    Returns:
        (..., bins, limit) float32. In between it takes as many times the memory as the longest bin has samples, but on
        JAX, which adds them one by one.
    """
    step = divided(size, bins)
    count = ops.ceil(step)[..., None]
    most = 0 if 0 in count.shape else ops.cast(ops.maximum(ops.max(count), 0.0), "int32")
    begin = start[..., None] + ops.arange(bins, dtype="float32") * step[..., None]
    divisor = ops.maximum(count, 1.0)
    pixel = ops.cast(ops.arange(limit, dtype="int32"), "float32")
    last = ops.cast(limit, "float32") - 1

    def of_samples(sample):
        place = begin[..., None] + ((sample + 0.5) * step[..., None] / divisor)[..., None, :]
        counts = ops.logical_and(ops.logical_and(place >= -1, place <= last + 1), sample < count[..., None])
        share = ops.cast(counts, "float32") / divisor[..., None]
        place = ops.minimum(ops.maximum(place, 0.0), last)
        hats = ops.relu(1 - ops.abs(place[..., None] - pixel))
        return ops.sum(hats * share[..., None], axis=-2)

    if keras.backend.backend() == "jax":
        # No tensor can be as long as the data says, but a loop can.
        none = ops.zeros((*step.shape, bins, limit))
        return ops.fori_loop(0, most, lambda k, total: total + of_samples(ops.cast(k, "float32")[None]), none)
    return of_samples(ops.cast(ops.arange(most, dtype="int32"), "float32"))


def divided(x, number: int):
    """x / number, each rounded as IEEE 754 says, which decides in which bin a pixel is.

    XLA multiplies with a rounded 1 / number where it knows the number, so on JAX it must not know.
    """
    if keras.backend.backend() == "jax":
        number = ops.where(ops.isnan(x), 1.0, float(number))
    return x / number


def scalars(values: list, dtype: str):
    """(L,) tensor of L numbers, each a Python number or a scalar tensor."""
    if any(ops.is_tensor(value) for value in values):
        return ops.stack([ops.cast(value, dtype) for value in values])
    return ops.convert_to_tensor(values, dtype=dtype)
