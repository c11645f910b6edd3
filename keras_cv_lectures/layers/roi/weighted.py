"""Weighted sums of pixels in three forms: gathers (every runtime), one sparse product (TensorFlow), dense products.

`crop_and_resize`, the usual short cut on TensorFlow, is none of them: its gradient adds from several threads without a
lock, and loses some of what regions that overlap should add.
"""

from __future__ import annotations

import keras
from keras import ops

from keras_cv_lectures.layers.portable import wants_portable_operators
from keras_cv_lectures.layers.roi.bins import scalars

IMPLEMENTATIONS = ("auto", "sparse", "gather")
# Numbers gathered at a time: a portion that fits a cache is faster, and 1000 regions of 7 x 7 bins would take 800 MB.
_PORTION = 2**22


def weighted(maps: list, levels, rows, columns, implementation: str = "auto"):
    """`gathered` or `sparse_product`, which "auto" takes where `portable_operators` does not forbid it."""
    sparse = implementation == "sparse" or (implementation == "auto" and not wants_portable_operators())
    return (sparse_product if sparse else gathered)(maps, levels, rows, columns)


def gathered(maps: list, levels, rows, columns):
    """Bins as sums of gathered pixels: operators of TensorFlow Lite, XLA and JAX alone.

    Args:
        maps: L feature maps (B, H, W, C).
        levels: (B, R) int32, the map of each region; None where there is but one.
        rows, columns: (pixels, weights) of the two axes, (B, R, h, k) and (B, R, w, k).

    Returns:
        (B, R, h, w, C) in the type of the maps.
    """
    (y, wy), (x, wx) = rows, columns
    shapes = [ops.shape(each) for each in maps]
    batch, channels = shapes[0][0], maps[0].shape[-1]
    flat = [ops.reshape(each, (-1, channels)) for each in maps]
    flat = flat[0] if len(flat) == 1 else ops.concatenate(flat, axis=0)
    picture = ops.arange(batch, dtype="int32")[:, None]
    if levels is None:
        begin, width = picture * (shapes[0][1] * shapes[0][2]), shapes[0][2]
    else:
        areas = [height * width for _, height, width, _ in shapes]
        before = [0]
        for area in areas[:-1]:
            before.append(before[-1] + batch * area)
        begin = ops.take(scalars(before, "int32"), levels) + picture * ops.take(scalars(areas, "int32"), levels)
        width = ops.take(scalars([width for _, _, width, _ in shapes], "int32"), levels)[:, :, None, None]
    y = y * width + begin[:, :, None, None]
    regions, down, right = ops.shape(y)[1], y.shape[2], x.shape[2]
    lines, taps = batch * regions * down * right, y.shape[3] * x.shape[3]
    place = _pairs(y, x, batch * regions, ops.add)
    weight = ops.cast(_pairs(wy, wx, batch * regions, ops.multiply), flat.dtype)
    place, weight = ops.reshape(place, (lines, taps)), ops.reshape(weight, (lines, 1, taps))
    portion = max(_PORTION // (taps * channels), 1)
    if not isinstance(lines, int) or lines <= portion:
        total = ops.matmul(weight, ops.take(flat, place, axis=0))
    else:
        in_portions = _in_portions if keras.backend.backend() == "tensorflow" else _in_a_loop
        total = in_portions(flat, place, weight, portion)
    return ops.reshape(total, (batch, regions, down, right, channels))


def _in_portions(flat, place, weight, portion: int):
    """The products of `weight` (N, 1, k) and the rows of `flat` at `place` (N, k), `portion` of the N at a time."""
    parts, start = [], 0
    for i in range(0, place.shape[0], portion):
        rows = ops.take(flat, place[i : i + portion] + start, axis=0)
        parts.append(ops.matmul(weight[i : i + portion], rows))
        # Always 0, of NaN too, but nobody knows before the portion is done. TensorFlow Lite computes all that one of
        # its libraries can do, then all that another can: it would else gather everything before it multiplies.
        some = parts[-1][0, 0, 0]
        start = ops.cast(some < some, "int32")
    return ops.concatenate(parts, axis=0)


def _in_a_loop(flat, place, weight, portion: int):
    """`_in_portions` of equal size in a loop, which no file needs to hold.

    JAX compiled 49 portions of two pictures' 512 regions one by one for four times as long, and their gradient keeps
    one of the maps for each: 1.5 GB instead of 50 MB.
    """
    lines, taps = place.shape
    count = -(-lines // portion)
    portion = -(-lines // count)
    spare = count * portion - lines
    place = ops.reshape(ops.pad(place, [[0, spare], [0, 0]]), (count, portion, taps))
    weight = ops.reshape(ops.pad(weight, [[0, spare], [0, 0], [0, 0]]), (count, portion, 1, taps))
    total = ops.map(lambda part: ops.matmul(part[1], ops.take(flat, part[0], axis=0)), (place, weight))
    return ops.reshape(total, (count * portion, 1, -1))[:lines]


def _pairs(down, right, count, combine):
    """(count, h, w, k * l): all pairs of the last axes of (B, R, h, k) and (B, R, w, l)."""
    (_, _, height, k), (_, _, width, taps) = down.shape, right.shape
    # One inner axis of 16 numbers is several times faster than two of 4, and TensorFlow Lite broadcasts four axes.
    down = ops.reshape(ops.repeat(down, taps, axis=3), (count, height, 1, k * taps))
    return combine(down, ops.reshape(ops.tile(right, (1, 1, 1, k)), (count, 1, width, k * taps)))


def multiplied(maps: list, levels, matrices: list[tuple]):
    """Bins as products with the weights of all pixels; right for any number of samples, heavy for large maps.

    Args:
        maps, levels: as for `gathered`.
        matrices: of each map the weights of its rows (B, R, h, H) and columns (B, R, w, W).

    Returns:
        (B, R, h, w, C). In between it takes B * R * h * W * C numbers of each map.
    """
    total = None
    for level, (each, (down, right)) in enumerate(zip(maps, matrices, strict=True)):
        batch, height, width, channels = ops.shape(each)
        regions, bins_down, bins_right = ops.shape(down)[1], down.shape[2], right.shape[2]
        if levels is not None:
            down = down * ops.cast(levels == level, down.dtype)[:, :, None, None]
        down, right = ops.cast(down, each.dtype), ops.cast(right, each.dtype)
        down = ops.reshape(down, (batch, regions * bins_down, height))
        part = ops.matmul(down, ops.reshape(each, (batch, height, width * channels)))
        part = ops.reshape(part, (batch * regions, bins_down, width, channels))
        part = ops.matmul(ops.reshape(right, (batch * regions, 1, bins_right, width)), part)
        part = ops.reshape(part, (batch, regions, bins_down, bins_right, channels))
        total = part if total is None else total + part
    return total


def sparse_product(maps: list, levels, rows, columns):
    """`gathered` as a product of one sparse matrix and the pixels of each map; TensorFlow alone, without XLA.

    Forward and gradient are each one parallel product, so nothing larger than the result is written, and the gradient
    is the same in every run. The regions of each map are picked out first, and put back where they were.
    """
    import tensorflow as tf

    (y, wy), (x, wx) = rows, columns
    batch, regions = ops.shape(y)[:2]
    bins = (y.shape[2], x.shape[2])
    y, wy, x, wx = (tf.reshape(each, (-1, *each.shape[2:])) for each in (y, wy, x, wx))
    everything = tf.range(tf.shape(y)[0])
    if levels is None:
        parts = [everything]
    else:
        parts = tf.dynamic_partition(everything, tf.reshape(levels, (-1,)), len(maps))
    found = []
    for each, part in zip(maps, parts, strict=True):
        chosen = (y, wy, x, wx) if levels is None else (tf.gather(a, part) for a in (y, wy, x, wx))
        picture = part // tf.maximum(regions, 1)
        found.append(_product(each, picture, *chosen))
    total = found[0] if levels is None else tf.dynamic_stitch(parts, found)
    return tf.reshape(total, (batch, regions, *bins, maps[0].shape[-1]))


def picked(flat, place):
    """Rows of `flat` (M, C) at `place` (N,) int32, with a faster gradient outside of `portable_operators`."""
    if wants_portable_operators():
        return ops.take(flat, place, axis=0)
    return _times(flat, place[:, None], ops.ones_like(place[:, None], dtype=flat.dtype))


def _product(feature, picture, y, wy, x, wx):
    """(N, h * w, C): bins of N regions, of which `picture` (N,) int32 says the row of the batch."""
    import tensorflow as tf

    height, width = (tf.shape(feature)[axis] for axis in (1, 2))
    channels, bins, taps = feature.shape[-1], y.shape[1] * x.shape[1], y.shape[2] * x.shape[2]
    count = tf.shape(y)[0]
    y = y * width + (picture * height * width)[:, None, None]
    place, weight = _pairs(y[None], x[None], count, tf.add), _pairs(wy[None], wx[None], count, tf.multiply)
    place, weight = (tf.reshape(each, (-1, taps)) for each in (place, weight))
    return tf.reshape(_times(tf.reshape(feature, (-1, channels)), place, weight), (-1, bins, channels))


def _times(flat, place, weight):
    """(N, C): sums over k of `weight` (N, k) times the rows of `flat` (M, C) at `place` (N, k)."""
    import tensorflow as tf

    dtype = "float64" if flat.dtype == "float64" else "float32"  # What the sparse product has.
    (lines, taps), rows = tf.unstack(tf.shape(place)), tf.shape(flat)[0]
    line = tf.repeat(tf.range(lines), taps)
    entries = tf.cast(tf.stack([line, tf.reshape(place, (-1,))], axis=1), "int64")
    weight = tf.cast(tf.reshape(weight, (-1,)), dtype)
    # The operator divides by the number of lines, and of none it takes the whole process down.
    spare, lacking = (tf.maximum(1 - size, 0) for size in (lines, rows))
    shape = tf.cast(tf.stack([lines + spare, rows + lacking]), "int64")

    def matrix():
        return tf.raw_ops.SparseTensorToCSRSparseMatrix(indices=entries, values=weight, dense_shape=shape)

    @tf.custom_gradient
    def product(dense):
        def gradient(upstream):
            # The operator's own gradient would also compute one of the weights, which is a dense product. The matrix is
            # made anew, because one from another graph has lost its type, and transposed first, which is faster.
            transposed = tf.raw_ops.SparseMatrixTranspose(input=matrix(), type=weight.dtype)
            upstream = tf.pad(upstream, [[0, spare], [0, 0]])
            return tf.raw_ops.SparseMatrixMatMul(a=transposed, b=upstream)[:rows]

        dense = tf.pad(dense, [[0, lacking], [0, 0]])
        return tf.raw_ops.SparseMatrixMatMul(a=matrix(), b=dense)[:lines], gradient

    return tf.cast(tf.ensure_shape(product(tf.cast(flat, dtype)), (None, flat.shape[1])), flat.dtype)
