"""What detectors minimise: functions of head outputs and of the targets that sampling chose.

Rows are regions: anchors, proposals, keypoints. Sampling has a fixed size here, so every function is told which rows
count, by masks or by labels below 0; what the others hold, even NaN in targets, changes neither value nor gradient.
Nothing counted gives 0. Everything is computed in float32.

The losses of a detector are sums over the regions of the whole batch divided by their number, as in torchvision. Where
several devices share a batch, each divides by `number`, the sum of the numbers of all of them, and the losses add up.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_cv_lectures.geometry.boxes import box_iou, complete_iou, distance_iou, generalized_iou
from keras_cv_lectures.losses.pixelwise import logit_of_label

Tensor = Any


def rpn_losses(
    logits: Tensor,
    deltas: Tensor,
    positive: Tensor,
    negative: Tensor,
    targets: Tensor,
    *,
    beta: float = 1.0 / 9.0,
    number: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Objectness and box loss of a region proposal network, equal to torchvision's.

    Paper: Ren et al. 2015, https://arxiv.org/abs/1506.01497, equation 1.
    Differs from the paper: the box loss is divided by the number of sampled anchors and not by that of all positions,
    without the factor of 10 that makes up for it.

    Args:
      logits: (B, A) that an anchor holds an object.
      deltas: (B, A, 4) predicted box codes.
      positive, negative: (B, A) bool, the sampled anchors.
      targets: (B, A, 4) codes of the matched boxes; read where positive.
      beta: see `smooth_l1`.
      number: what the sums are divided by; None for the number of sampled anchors here.

    Returns:
      `(objectness, box)`: binary cross entropy over the sampled anchors divided by their number, and smooth L1 summed
      over the positive ones divided by the number of all sampled ones.
    """
    positive, negative = ops.cast(positive, "bool"), ops.cast(negative, "bool")
    sampled = ops.logical_or(positive, negative)
    entropy = binary_cross_entropy(ops.cast(positive, "float32"), _masked(logits, sampled))
    objectness = _share(ops.where(sampled, entropy, 0.0), sampled, number)
    return objectness, _box_loss(targets, deltas, positive, sampled, beta, number)


def fast_rcnn_loss(
    logits: Tensor,
    deltas: Tensor,
    labels: Tensor,
    targets: Tensor,
    *,
    background: int = 0,
    beta: float = 1.0 / 9.0,
    number: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Class and box loss of the regions, equal to torchvision's `fastrcnn_loss`.

    Paper: Girshick 2015, https://arxiv.org/abs/1504.08083, section 2.3.
    Differs from the paper: beta 1/9 is torchvision's; the paper's smooth L1 has 1.

    Args:
      logits: (B, R, C) with the background among the C classes.
      deltas: (B, R, C * 4), class by class, or (B, R, C', 4). C' may be less than C: codes without the last classes,
        where the background is the last one; or 1, one code for all classes.
      labels: (B, R) int, index into the logits; below 0 for rows that do not count.
      targets: (B, R, 4) codes of the matched boxes; read where the label is an object's.
      background: the label of no object.
      beta: see `smooth_l1`.
      number: what the sums are divided by; None for the number of rows that count here.

    Returns:
      `(class, box)`: cross entropy divided by the number of rows that count, NaN where a label has no logit, and smooth
      L1 summed over the rows with objects, of the code for their class, divided by the number of rows that count.
    """
    labels = ops.cast(labels, "int32")
    counted = labels >= 0
    logits = _masked(logits, counted)
    entropy = ops.where(counted, ops.logsumexp(logits, axis=-1) - logit_of_label(logits, labels), 0.0)
    # A label without a logit would have a loss without a lower bound.
    entropy = ops.where(labels < logits.shape[-1], entropy, float("nan"))
    objects = ops.logical_and(counted, ops.not_equal(labels, background))
    if len(deltas.shape) == len(labels.shape) + 1:
        deltas = ops.reshape(deltas, [*list(ops.shape(deltas))[:-1], deltas.shape[-1] // 4, 4])
    chosen = ops.one_hot(_channel(labels, deltas.shape[-2]), deltas.shape[-2], dtype="float32")
    deltas = ops.sum(_float(deltas) * chosen[..., None], axis=-2)
    return _share(entropy, counted, number), _box_loss(targets, deltas, objects, counted, beta, number)


def mask_rcnn_loss(
    logits: Tensor, targets: Tensor, labels: Tensor, *, background: int | None = 0, number: Tensor | None = None
) -> Tensor:
    """Binary cross entropy of the mask of each region's class, equal to torchvision's `maskrcnn_loss`.

    Paper: He et al. 2017, https://arxiv.org/abs/1703.06870, section 3.

    Args:
      logits: (B, R, m, m, C), one mask a class, or C = 1, one for all classes.
      targets: (B, R, m, m) in 0..1, such as `geometry.masks.mask_targets` gives.
      labels: (B, R) int, index into the C masks; rows below 0 or with the background's do not count.
      background: the label of no object; None where the C masks do not include it.
      number: what the sums are divided by; None for the number of rows that count here.

    Returns:
      the mean over the cells of the rows that count.
    """
    labels = ops.cast(labels, "int32")
    counted = labels >= 0
    if background is not None:
        counted = ops.logical_and(counted, ops.not_equal(labels, background))
    shape = list(ops.shape(logits))
    classes = logits.shape[-1]
    chosen = ops.one_hot(_channel(labels, classes), classes, dtype="float32")
    # A product of matrices reads the logits once; multiplying with the one-hot classes would store them again.
    flat = ops.reshape(_float(logits), [*shape[:-3], shape[-3] * shape[-2], classes])
    picked = ops.reshape(ops.matmul(flat, chosen[..., None]), shape[:-1])
    cells = ops.broadcast_to(counted[..., None, None], shape[:-1])
    entropy = binary_cross_entropy(_masked(targets, cells), _masked(picked, cells))
    return _share(ops.mean(ops.where(cells, entropy, 0.0), axis=(-2, -1)), counted, number)


def keypoint_loss(logits: Tensor, index: Tensor, valid: Tensor, *, number: Tensor | None = None) -> Tensor:
    """Cross entropy over the cells of each keypoint's heatmap, equal to torchvision's `keypointrcnn_loss`.

    Paper: He et al. 2017, https://arxiv.org/abs/1703.06870, section 5.

    Args:
      logits: (B, R, h, w, K).
      index: (B, R, K) int, the true cell as row * w + column, such as `geometry.keypoints.keypoint_targets` gives.
      valid: (B, R, K) bool, the keypoints that count.
      number: what the sums are divided by; None for the number of keypoints that count here.

    Returns:
      the mean over the keypoints that count.
    """
    valid = ops.cast(valid, "bool")
    shape = list(ops.shape(logits))
    flat = ops.reshape(_float(logits), [*shape[:-3], shape[-3] * shape[-2], shape[-1]])
    flat = _masked(flat, ops.broadcast_to(valid[..., None, :], ops.shape(flat)))
    index = ops.where(valid, ops.cast(index, "int32"), 0)
    picked = ops.take_along_axis(flat, index[..., None, :], axis=-2)[..., 0, :]
    entropy = ops.logsumexp(flat, axis=-2) - picked
    return _share(ops.where(valid, entropy, 0.0), valid, number)


def smooth_l1(targets: Tensor, predictions: Tensor, beta: float = 1.0) -> Tensor:
    """d^2 / (2 beta) where d = |target - prediction| is below beta, else d - beta / 2; element by element.

    beta = 0 is the plain L1 distance; 1 / sigma^2 in Caffe's terms (RPN: 1/9).
    """
    distance = ops.abs(_float(targets) - _float(predictions))
    if beta <= 0.0:
        return distance
    return ops.where(distance < beta, 0.5 / beta * distance * distance, distance - 0.5 * beta)


def binary_cross_entropy(targets: Tensor, logits: Tensor) -> Tensor:
    """-t log p - (1 - t) log(1 - p) with p = sigmoid(logits), element by element; t may lie between 0 and 1."""
    logits = _float(logits)
    return ops.softplus(logits) - _float(targets) * logits


def focal_loss(targets: Tensor, logits: Tensor, alpha: float | None = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss alpha_t (1 - p_t)^gamma times the binary cross entropy, element by element.

    Paper: Lin et al. 2017, https://arxiv.org/abs/1708.02002, equation 5. Its sum is divided by the number of positive
    anchors there.

    Args:
      targets: 0 or 1, or between.
      logits: the same shape.
      alpha: weight of t = 1; t = 0 has 1 - alpha. None for 1 both.
      gamma: at least 0; 0 is the cross entropy.
    """
    targets, logits = _float(targets), _float(logits)
    entropy = binary_cross_entropy(targets, logits)
    probability = ops.sigmoid(logits)
    # 1 - p_t without the cancellation of 1 - (1 - p).
    missing = targets * ops.sigmoid(-logits) + (1.0 - targets) * probability
    # Floored so that the power has a finite gradient at 0 for gamma < 1.
    loss = ops.power(ops.maximum(missing, 1e-12), gamma) * entropy
    return loss if alpha is None else (alpha * targets + (1.0 - alpha) * (1.0 - targets)) * loss


def iou_loss(targets: Tensor, predictions: Tensor) -> Tensor:
    """1 - IoU of boxes (..., 4) `(x1, y1, x2, y2)`, one by one: (...)."""
    return 1.0 - box_iou(_float(targets), _float(predictions))


def giou_loss(targets: Tensor, predictions: Tensor) -> Tensor:
    """1 - `geometry.boxes.generalized_iou`, one by one: boxes (..., 4) to (...)."""
    return 1.0 - generalized_iou(_float(targets), _float(predictions))


def diou_loss(targets: Tensor, predictions: Tensor) -> Tensor:
    """1 - `geometry.boxes.distance_iou`, one by one: boxes (..., 4) to (...)."""
    return 1.0 - distance_iou(_float(targets), _float(predictions))


def ciou_loss(targets: Tensor, predictions: Tensor) -> Tensor:
    """1 - `geometry.boxes.complete_iou`, one by one: boxes (..., 4) to (...)."""
    return 1.0 - complete_iou(_float(targets), _float(predictions))


def _box_loss(
    targets: Tensor, deltas: Tensor, objects: Tensor, counted: Tensor, beta: float, number: Tensor | None
) -> Tensor:
    rows = ops.broadcast_to(objects[..., None], ops.shape(deltas))
    return _share(smooth_l1(_masked(targets, rows), _masked(deltas, rows), beta), counted, number)


def _channel(labels: Tensor, channels: int) -> Tensor:
    """Index into heads with one output for all classes, or one a class."""
    return ops.zeros_like(labels) if channels == 1 else labels


def _masked(values: Tensor, kept: Tensor) -> Tensor:
    """`values` in float32, 0 where not kept: neither NaN there nor its gradient goes further."""
    while len(kept.shape) < len(values.shape):
        kept = kept[..., None]
    return ops.where(kept, _float(values), 0.0)


def _share(losses: Tensor, counted: Tensor, number: Tensor | None) -> Tensor:
    """Sum of `losses` divided by the number of rows `counted`, or by `number`; 0 where there are none."""
    number = ops.sum(ops.cast(counted, "float32")) if number is None else _float(number)
    return ops.sum(losses) / ops.maximum(number, 1.0)


def _float(values: Tensor) -> Tensor:
    return ops.cast(values, "float32")
