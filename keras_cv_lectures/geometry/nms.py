"""Non-maximum suppression: of boxes that overlap, keep the one with the highest score.

Greedy: the box with the highest score stays, those that overlap it by more than a threshold go, and so on with what is
left. Outputs have a fixed size. On TensorFlow it is one operator, `NonMaxSuppressionV4`, which TensorFlow Lite has
built in; `nms_portable` is the same in plain array operations for other backends. Boxes of different labels never
suppress each other. The operator knows no labels, so they are moved apart before it, to places in a square: in a row,
as torchvision has them below 1,000 boxes, the last of 80 labels would lose nine times as much of float32's precision.

Give logits rather than probabilities where these may reach 1: scores that are equal only by rounding change places from
one runtime to another. Of equal scores the lower index comes first, but in TensorFlow Lite any.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_cv_lectures.geometry.boxes import Tensor, pairwise_iou

NEVER = float("-inf")
# Up to as many pictures the batch is written out, so that TensorFlow works on them side by side.
UNROLLED = 64
# More boxes than these are not compared all with all, which would take more than 1 GiB a picture.
COMPARED = 16_384


def nms(
    boxes: Tensor,
    scores: Tensor,
    max_outputs: int,
    iou_threshold: float,
    labels: Tensor | None = None,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Indices of the boxes to keep, highest score first, and how many there are.

    >>> nms([[0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 11, 11]], [0.5, 0.9, 0.7], max_outputs=3, iou_threshold=0.5)
    [1, 2, 0], 2

    Args:
        boxes: (N, 4) pixels.
        scores: (N,); rows with minus infinity are never kept.
        max_outputs: length of the result.
        iou_threshold: a box is dropped where its IoU with a better one is larger than this, 0..1.
        labels: (N,) whole numbers from 0; only boxes of equal labels suppress each other. Default: all do.
        score_threshold: boxes with at most this score are dropped.

    Returns:
        Indices (max_outputs,) int32, 0 from the count on, and the count, a scalar int32.

    Raises:
        ValueError: for a threshold outside 0..1 or less than one output.
    """
    _check(max_outputs, iou_threshold)
    boxes, scores = _apart(boxes, labels), ops.cast(scores, "float32")
    if keras.backend.backend() == "tensorflow":
        return _tensorflow_nms(boxes, scores, max_outputs, iou_threshold, score_threshold)
    indices, count = _portable(boxes[None], scores[None], max_outputs, iou_threshold, score_threshold)
    return indices[0], count[0]


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    max_outputs: int,
    iou_threshold: float,
    labels: Tensor | None = None,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`nms` of each picture: boxes (B, N, 4), scores and labels (B, N); indices (B, max_outputs), counts (B,)."""
    _check(max_outputs, iou_threshold)
    boxes, scores = _apart(boxes, labels), ops.cast(scores, "float32")
    settings = (max_outputs, iou_threshold, score_threshold)
    if keras.backend.backend() != "tensorflow":
        return _portable(boxes, scores, *settings)
    batch = boxes.shape[0] if boxes.shape[0] is not None else scores.shape[0]
    if batch is not None and 0 < batch <= UNROLLED:
        results = [_tensorflow_nms(boxes[i], scores[i], *settings) for i in range(batch)]
        return ops.stack([indices for indices, _ in results]), ops.stack([count for _, count in results])
    import tensorflow as tf

    return tf.map_fn(
        lambda picture: _tensorflow_nms(*picture, *settings),
        (boxes, scores),
        fn_output_signature=(tf.TensorSpec([max_outputs], tf.int32), tf.TensorSpec([], tf.int32)),
    )


def nms_portable(
    boxes: Tensor,
    scores: Tensor,
    max_outputs: int,
    iou_threshold: float,
    labels: Tensor | None = None,
    score_threshold: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`nms` or `batched_nms` in plain array operations: (N, 4) or (B, N, 4), for any backend and XLA.

    Exact: boxes are kept and dropped in rounds until nothing changes, which takes as many rounds as the longest chain
    of boxes that drop one another; memory and time grow with N * N. More than 16,384 boxes are kept one by one: memory
    grows with N, time with N * max_outputs.
    """
    _check(max_outputs, iou_threshold)
    boxes, scores = _apart(boxes, labels), ops.cast(scores, "float32")
    settings = (max_outputs, iou_threshold, score_threshold)
    if len(boxes.shape) == 3:
        return _portable(boxes, scores, *settings)
    indices, count = _portable(ops.expand_dims(boxes, 0), ops.expand_dims(scores, 0), *settings)
    return indices[0], count[0]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    max_outputs: int,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft-NMS: a box that overlaps better ones loses score, by exp(-IoU^2 / sigma) for each, instead of being dropped.

    Paper: Bodla et al. 2017, https://arxiv.org/abs/1704.04503 (the Gaussian rule).
    Differs from the paper: in TensorFlow Lite a box that is equal to a better one is dropped at once.

    Args:
        boxes: (N, 4) pixels.
        scores: (N,) probabilities, not logits.
        max_outputs: length of the result.
        sigma: width of the Gaussian, above 0.
        score_threshold: boxes whose score has fallen to this are dropped, at least 0.
        labels: (N,) whole numbers from 0; only boxes of equal labels lower each other's score.

    Returns:
        Indices (max_outputs,) int32 by falling new score, the new scores (max_outputs,), both 0 from the count on, and
        the count.

    Raises:
        ValueError: for settings outside these ranges.
    """
    _check_soft(max_outputs, sigma, score_threshold)
    boxes, scores = _apart(boxes, labels), ops.cast(scores, "float32")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        indices, scores, count = tf.raw_ops.NonMaxSuppressionV5(
            boxes=boxes,
            scores=scores,
            max_output_size=max_outputs,
            iou_threshold=1.0,
            score_threshold=score_threshold,
            soft_nms_sigma=sigma / 2,  # The operator's Gaussian is exp(-IoU^2 / (2 sigma)).
            pad_to_max_output_size=True,
        )
        return tf.ensure_shape(indices, [max_outputs]), tf.ensure_shape(scores, [max_outputs]), count
    return soft_nms_portable(boxes, scores, max_outputs, sigma, score_threshold)


def soft_nms_portable(
    boxes: Tensor,
    scores: Tensor,
    max_outputs: int,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`soft_nms` in plain array operations, one round for each output."""
    _check_soft(max_outputs, sigma, score_threshold)
    boxes, scores = _apart(boxes, labels), ops.cast(scores, "float32")
    slots = ops.arange(max_outputs)

    def keep_one(i, state):
        left, indices, kept = state
        best = ops.cast(ops.argmax(left), "int32")
        score = left[best]
        found = score > score_threshold
        indices = ops.where(ops.logical_and(slots == i, found), best, indices)
        kept = ops.where(ops.logical_and(slots == i, found), score, kept)
        iou = pairwise_iou(ops.expand_dims(boxes[best], 0), boxes)[0]
        left = left * ops.exp(-iou * iou / sigma)
        left = ops.where(ops.arange(ops.shape(left)[0], dtype="int32") == best, NEVER, left)
        return left, indices, kept

    # One row more than there are, which never wins: the largest of nothing does not exist.
    boxes, scores = ops.pad(boxes, [[0, 1], [0, 0]]), ops.pad(scores, [[0, 1]], constant_values=NEVER)
    empty = (scores, ops.zeros((max_outputs,), "int32"), ops.zeros((max_outputs,), "float32"))
    _, indices, kept = ops.fori_loop(0, max_outputs, keep_one, empty)
    return indices, kept, ops.sum(ops.cast(kept > score_threshold, "int32"))


def _tensorflow_nms(
    boxes: Tensor, scores: Tensor, max_outputs: int, iou_threshold: float, score_threshold: float | None
) -> tuple[Tensor, Tensor]:
    """TensorFlow's operator; which corner of a box comes first, x or y, makes no difference to it."""
    import tensorflow as tf

    indices, count = tf.raw_ops.NonMaxSuppressionV4(
        boxes=boxes,
        scores=scores,
        max_output_size=max_outputs,
        iou_threshold=_off_the_tie(iou_threshold),
        score_threshold=NEVER if score_threshold is None else score_threshold,
        pad_to_max_output_size=True,
    )
    return tf.ensure_shape(indices, [max_outputs]), count


def _portable(
    boxes: Tensor, scores: Tensor, max_outputs: int, iou_threshold: float, score_threshold: float | None
) -> tuple[Tensor, Tensor]:
    """Indices (B, max_outputs) and counts (B,) of boxes (B, N, 4) that are moved apart already."""
    few = boxes.shape[1] is None or boxes.shape[1] <= COMPARED
    return (_fixed_point if few else _one_by_one)(boxes, scores, max_outputs, iou_threshold, score_threshold)


def _one_by_one(
    boxes: Tensor, scores: Tensor, max_outputs: int, iou_threshold: float, score_threshold: float | None
) -> tuple[Tensor, Tensor]:
    """`_portable` in one round for each output."""
    left = ops.where(scores > (NEVER if score_threshold is None else score_threshold), scores, NEVER)
    slots, rows = ops.arange(max_outputs), ops.arange(boxes.shape[1])

    def keep_one(i, state):
        left, indices, count = state
        best = ops.expand_dims(ops.cast(ops.argmax(left, axis=-1), "int32"), -1)
        found = ops.max(left, axis=-1, keepdims=True) > NEVER
        indices = ops.where(ops.logical_and(slots == i, found), best, indices)
        box = ops.take_along_axis(boxes, ops.expand_dims(best, -1), axis=1)
        gone = ops.logical_or(pairwise_iou(box, boxes)[:, 0] > _off_the_tie(iou_threshold), rows == best)
        return ops.where(gone, NEVER, left), indices, count + ops.cast(found[:, 0], "int32")

    empty = ops.zeros((ops.shape(scores)[0], max_outputs), "int32"), ops.zeros_like(scores[:, 0], dtype="int32")
    _, indices, count = ops.fori_loop(0, max_outputs, keep_one, (left, *empty))
    return indices, count


def _fixed_point(
    boxes: Tensor, scores: Tensor, max_outputs: int, iou_threshold: float, score_threshold: float | None
) -> tuple[Tensor, Tensor]:
    """`_portable` by comparing all boxes with all."""
    # At least as many rows as outputs; those of padding are never kept.
    boxes = ops.pad(boxes, [[0, 0], [0, max_outputs], [0, 0]])
    scores = ops.pad(scores, [[0, 0], [0, max_outputs]], constant_values=NEVER)
    ranked, order = ops.top_k(scores, k=ops.shape(scores)[-1])
    allowed = ranked > (NEVER if score_threshold is None else score_threshold)
    boxes = ops.take_along_axis(boxes, ops.expand_dims(order, -1), axis=1)
    rank = ops.arange(ops.shape(ranked)[-1])
    better = ops.expand_dims(rank, 1) < ops.expand_dims(rank, 0)
    drops = ops.cast(ops.logical_and(pairwise_iou(boxes, boxes) > _off_the_tie(iou_threshold), better), "float32")

    def suppress(kept, _):
        hits = ops.matmul(ops.expand_dims(ops.cast(kept, "float32"), -2), drops)[..., 0, :]
        return ops.logical_and(allowed, hits < 0.5), kept

    kept, _ = ops.while_loop(
        lambda kept, before: ops.any(ops.not_equal(kept, before)),
        suppress,
        suppress(allowed, None),
    )
    place = ops.where(kept, -ops.cast(rank, "float32"), NEVER)
    place, slots = ops.top_k(place, k=max_outputs)
    indices = ops.cast(ops.take_along_axis(order, slots, axis=1), "int32")
    count = ops.minimum(ops.sum(ops.cast(kept, "int32"), axis=-1), max_outputs)
    return ops.where(place > NEVER, indices, 0), count


def _apart(boxes: Tensor, labels: Tensor | None) -> Tensor:
    """Boxes (..., N, 4), those of each label moved to where no other label's are."""
    boxes = ops.cast(boxes, "float32")
    if labels is None:
        return boxes
    low = ops.min(boxes, axis=(-2, -1), keepdims=True, initial=0.0)
    high = ops.max(boxes, axis=(-2, -1), keepdims=True, initial=0.0)
    labels = ops.cast(labels, "float32")
    # In a square, not in a row: float32 keeps the more of the boxes the less far they are moved.
    side = ops.ceil(ops.sqrt(ops.max(labels, axis=-1, keepdims=True, initial=0.0) + 1.0))
    row = ops.floor((labels + 0.5) / side)
    column = labels - row * side
    places = ops.stack([column, row, column, row], axis=-1)
    return boxes + places * (high - low + 1)


def _off_the_tie(iou_threshold: float) -> float:
    """The float32 beside the threshold that makes an IoU equal to it stay or go in every runtime.

    TensorFlow drops what is larger, TensorFlow Lite also what is equal, which IoUs of whole pixels often are.
    Torchvision compares with the threshold in float64, so that an IoU of 3/10, which float32 rounds up, is larger than
    0.3.
    """
    tie = np.float32(iou_threshold)
    moved = np.nextafter(tie, np.float32(0 if float(tie) > iou_threshold else 2))
    return float(np.clip(moved, np.finfo(np.float32).tiny, np.float32(1)))  # The operator takes 0..1.


def _check(max_outputs: int, iou_threshold: float = 0.5) -> None:
    if max_outputs < 1 or not 0 <= iou_threshold <= 1:
        raise ValueError(
            f"`max_outputs` must be at least 1 and `iou_threshold` in 0..1. Received: {max_outputs=}, {iou_threshold=}"
        )


def _check_soft(max_outputs: int, sigma: float, score_threshold: float) -> None:
    _check(max_outputs)
    if sigma <= 0 or score_threshold < 0:
        raise ValueError(
            f"`sigma` must be above 0 and `score_threshold` at least 0. Received: {sigma=}, {score_threshold=}"
        )
