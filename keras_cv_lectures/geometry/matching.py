"""Which truth a box belongs to, and which boxes are trained on.

Faster R-CNN (Ren et al. 2015, https://arxiv.org/abs/1506.01497, sections 3.1.2 and 3.1.3). Shapes are static and
pictures without objects are ordinary input: truths that are padding are named by `valid`.
"""

from __future__ import annotations

from keras import ops

from keras_cv_lectures.geometry.boxes import Tensor

BELOW = -1
BETWEEN = -2
# More than any overlap: nothing equals it.
NEVER = 2.0


def match(iou: Tensor, high: float, low: float, valid: Tensor | None = None, low_quality: bool = False) -> Tensor:
    """Index (..., M) int32 of the truth that each box overlaps most, or -1 or -2; torchvision's `Matcher`.

    -1 means less than `low` (background), -2 at least `low` but less than `high` (to be ignored). Of equal overlaps
    the first truth is taken.

    >>> match([[0.8, 0.1, 0.4]], 0.7, 0.3)
    [0, -1, -2]

    Args:
        iou: (..., N, M) overlaps of N truths with M boxes, 0..1.
        high: overlap from which a box belongs to its truth.
        low: overlap below which a box is background, at most `high`.
        valid: (..., N) boolean, False where a truth is padding; default all True. Without a valid truth all is -1.
        low_quality: also give the boxes that overlap a truth as much as no other box does, ties included, to *their*
            best truth, however small the overlap is.

    Raises:
        ValueError: where `low` is above `high`.

    Differs from the paper: the box that is best for a truth may go to another truth that it overlaps more; and a truth
    that overlaps no box at all ties with all the boxes. Both as torchvision has it.
    """
    if low > high:
        raise ValueError(f"`low` must not be above `high`. Received: low={low}, high={high}")
    iou = ops.cast(iou, "float32")
    if valid is not None:
        valid = ops.expand_dims(ops.cast(valid, "bool"), -1)
        iou = ops.where(valid, iou, -1.0)
    candidates = iou
    if iou.shape[-2] in (None, 0):
        # There is no index of the largest of nothing: one more truth, which no box overlaps.
        candidates = ops.pad(iou, [[0, 0]] * (len(iou.shape) - 2) + [[0, 1], [0, 0]], constant_values=-1.0)
    best = ops.max(iou, axis=-2, initial=-1.0)
    nearest = ops.cast(ops.argmax(candidates, axis=-2), "int32")
    matches = ops.where(best < low, BELOW, ops.where(best < high, BETWEEN, nearest))
    if low_quality:
        best_for_truth = ops.max(iou, axis=-1, keepdims=True, initial=-1.0)
        if valid is not None:
            best_for_truth = ops.where(valid, best_for_truth, NEVER)
        matches = ops.where(ops.any(ops.equal(iou, best_for_truth), axis=-2), nearest, matches)
    return matches


def sample(
    positive: Tensor, negative: Tensor, count: int, positive_fraction: float, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Boolean (..., M) twice: the positives and the negatives that are drawn; torchvision's balanced sampler.

    `int(count * positive_fraction)` positives or as many as there are, and negatives up to `count` altogether.

    Args:
        positive: (..., M) boolean, e.g. `matches >= 0`.
        negative: (..., M) boolean, e.g. `matches == -1`. What is neither is never drawn.
        count: how many to draw in each picture.
        positive_fraction: largest share of positives, 0..1.
        noise: (..., M) uniform random numbers in [0, 1); those with the largest are drawn, of equal ones the first.

    Raises:
        ValueError: for a count below 1 or a fraction outside 0..1.
    """
    index, is_positive, is_valid = sample_indices(positive, negative, count, positive_fraction, noise)
    positive = ops.cast(positive, "bool")
    # One more column takes what was not drawn, and is cut off. Scattering needs flat positions.
    columns = ops.shape(positive)[-1] + 1
    flat = ops.reshape(ops.where(is_valid, index, columns - 1), (-1, count))
    rows = ops.shape(flat)[0]
    flat = flat + ops.expand_dims(ops.arange(rows, dtype="int32") * columns, 1)
    kind = ops.where(is_positive, 1, ops.where(is_valid, 2, 0))
    drawn = ops.scatter(ops.reshape(flat, (-1, 1)), ops.reshape(kind, (-1,)), (rows * columns,))
    drawn = ops.reshape(ops.reshape(drawn, (rows, columns))[:, :-1], ops.shape(positive))
    return ops.equal(drawn, 1), ops.equal(drawn, 2)


def sample_indices(
    positive: Tensor,
    negative: Tensor,
    count: int,
    positive_fraction: float,
    noise: Tensor,
    *,
    share_of: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `sample` draws as indices of a fixed number, the positives first.

    Arguments and errors are those of `sample`, and `share_of`: the number that `positive_fraction` is a share of, where
    it is not `count`, as where `count` is what candidates there are.

    Returns:
        Indices (..., count) int32; boolean (..., count), is it a positive; boolean (..., count), is it drawn at all.
        Rows that are not drawn come last, with index 0.
    """
    if count < 1 or not 0 <= positive_fraction <= 1:
        raise ValueError(
            "`count` must be at least 1 and `positive_fraction` in 0..1. "
            f"Received: count={count}, positive_fraction={positive_fraction}"
        )
    most = min(int((share_of or count) * positive_fraction), count)
    noise = ops.cast(noise, "float32")
    negatives, are_negative = _largest(noise, negative, count)
    if most == 0:
        return ops.where(are_negative, negatives, 0), ops.zeros_like(are_negative), are_negative
    positives, are_positive = _largest(noise, positive, most)
    found = ops.sum(ops.cast(are_positive, "int32"), axis=-1, keepdims=True)
    slot = ops.arange(count, dtype="int32")
    is_positive = slot < found
    # Slots after the last positive take the negatives from the first one on.
    source = ops.where(is_positive, slot, slot - found + most)
    index = ops.take_along_axis(ops.concatenate([positives, negatives], axis=-1), source, axis=-1)
    drawn = ops.concatenate([are_positive, are_negative], axis=-1)
    is_valid = ops.cast(ops.take_along_axis(ops.cast(drawn, "int32"), source, axis=-1), "bool")
    return ops.where(is_valid, index, 0), is_positive, is_valid


def _largest(noise: Tensor, candidate: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices (..., count) of the candidates with the largest noise, and whether they are candidates."""
    noise = ops.where(ops.cast(candidate, "bool"), noise, -1.0)
    if noise.shape[-1] is None or noise.shape[-1] < count:
        noise = ops.pad(noise, [[0, 0]] * (len(noise.shape) - 1) + [[0, count]], constant_values=-1.0)
    values, indices = ops.top_k(noise, k=count)
    return ops.cast(indices, "int32"), values >= 0
