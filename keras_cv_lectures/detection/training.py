"""What a region-based detector is trained on: sampled anchors and regions, and their losses.

Ren et al. 2015 (Faster R-CNN) and He et al. 2017 (Mask R-CNN), with torchvision's normalisation. Proposals are taken as
given (the approximate joint training of the 2015 paper): no gradient flows through their coordinates.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_cv_lectures.detection.graph import Graph, head_index
from keras_cv_lectures.geometry.box_coding import encode_boxes
from keras_cv_lectures.geometry.boxes import pairwise_iou
from keras_cv_lectures.geometry.keypoints import keypoint_targets
from keras_cv_lectures.geometry.masks import mask_targets
from keras_cv_lectures.geometry.matching import match, sample_indices
from keras_cv_lectures.losses.detection import fast_rcnn_loss, keypoint_loss, mask_rcnn_loss, rpn_losses
from keras_cv_lectures.replicas import sum_over_replicas

_RPN = ("loss_objectness", "loss_rpn_box_reg")
_REGIONS = ("loss_classifier", "loss_box_reg")


class DetectionLosses:
    """dense answers, targets -> a dict of losses, the share of this replica in the mean over all.

    Sums over sampled anchors and regions are divided by their number in the global batch, so two replicas take the same
    step as one.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        heads = {"loss_mask": graph.mask, "loss_keypoint": graph.keypoint}
        self.names = (*_RPN, *_REGIONS, *(name for name, head in heads.items() if head is not None))

    def __call__(self, dense: dict[str, Any], targets: dict[str, Any], *, seed, training: bool) -> dict[str, Any]:
        boxes = ops.cast(targets["boxes"], "float32")
        labels = ops.cast(targets["labels"], "int32")
        targets = {**targets, "boxes": boxes, "labels": labels}
        losses = self._rpn(dense, boxes, labels >= 0, seed)
        return {**losses, **self._regions(dense, targets, seed, training)}

    def usable_anchors(self, anchors, size):
        """(B, A), which of the anchors (A, 4) are trained on in pictures of size (B, 2); None for all."""
        return None

    def _rpn(self, dense, boxes, real, seed):
        s = self.graph.settings
        batch = ops.shape(boxes)[0]
        anchors = ops.concatenate(dense["anchors"], axis=0)
        logits = ops.concatenate([ops.reshape(x, (batch, -1)) for x in dense["logits"]], axis=1)
        deltas = ops.concatenate([ops.reshape(x, (batch, -1, 4)) for x in dense["deltas"]], axis=1)
        usable = self.usable_anchors(anchors, dense["size"])
        iou = pairwise_iou(boxes, anchors[None])
        iou = iou if usable is None else ops.where(usable[:, None], iou, -1.0)
        matches = match(iou, s.rpn_foreground, s.rpn_background, valid=real, low_quality=True)
        positive, negative = matches >= 0, matches == -1
        if usable is not None:
            positive, negative = ops.logical_and(usable, positive), ops.logical_and(usable, negative)
        index, positive, valid = _sampled(positive, negative, s.rpn_samples, s.rpn_positives, seed)
        references = ops.take(anchors, index, axis=0)
        objectness, box = rpn_losses(
            ops.take_along_axis(logits, index, axis=1),
            ops.take_along_axis(deltas, index[..., None], axis=1),
            positive,
            ops.logical_and(valid, ops.logical_not(positive)),
            encode_boxes(references, _rows(boxes, _rows(ops.maximum(matches, 0), index))),
            number=_count(valid),
        )
        return {"loss_objectness": objectness, "loss_rpn_box_reg": box}

    def _regions(self, dense, targets, seed, training):
        s, boxes, labels = self.graph.settings, targets["boxes"], targets["labels"]
        proposals, count = self.graph.train_proposals(
            [dense["size"], *dense["logits"], *dense["deltas"], *dense["anchors"]]
        )
        # The truths join the proposals: at first nothing else is near them.
        candidates = ops.concatenate([proposals, boxes], axis=1)
        usable = ops.concatenate([ops.arange(proposals.shape[1])[None] < count[:, None], labels >= 0], axis=1)
        matches = match(pairwise_iou(boxes, candidates), s.foreground, s.background, valid=labels >= 0)
        index, positive, valid = _sampled(
            ops.logical_and(matches >= 0, usable),
            ops.logical_and(matches == -1, usable),
            s.samples,
            s.positives,
            seed,
        )
        regions = _rows(candidates, index)
        matched = _rows(ops.maximum(matches, 0), index)
        truth = ops.where(positive, head_index(_rows(labels, matched), s.classes), ops.where(valid, 0, -1))
        logits, deltas = self.graph.regions(self.graph.box, self.graph.box_pool, dense, regions, training)
        classifier, box = fast_rcnn_loss(
            logits,
            deltas,
            truth,
            encode_boxes(regions, _rows(boxes, matched), s.box_weights),
            beta=s.beta,
            number=_count(valid),
        )
        losses = {"loss_classifier": classifier, "loss_box_reg": box}
        if self.graph.mask is None and self.graph.keypoint is None:
            return losses
        # Objects come first among the samples: what lies behind the last one needs no mask.
        most = _used_columns(positive, max(1, int(s.samples * s.positives)))
        objects = tuple(x[:, :most] for x in (regions, matched, truth, positive))
        if self.graph.mask is not None:
            losses["loss_mask"] = self._masks(dense, targets, *objects, training)
        if self.graph.keypoint is not None:
            losses["loss_keypoint"] = self._keypoints(dense, targets, *objects, training)
        return losses

    def _masks(self, dense, targets, regions, matched, truth, positive, training):
        logits = self.graph.regions(self.graph.mask, self.graph.mask_pool, dense, regions, training)
        goals = mask_targets(
            targets["masks"],
            targets["mask_windows"],
            regions,
            ops.where(positive, matched, -1),
            logits.shape[2],
            image_size=dense["size"],
        )
        return mask_rcnn_loss(logits, goals, truth, number=_count(positive))

    def _keypoints(self, dense, targets, regions, matched, _, positive, training):
        logits = self.graph.regions(self.graph.keypoint, self.graph.keypoint_pool, dense, regions, training)
        matched = ops.where(positive, matched, -1)
        cells, visible = keypoint_targets(targets["keypoints"], regions, matched, logits.shape[2])
        return keypoint_loss(logits, cells, visible, number=_count(visible))


def _sampled(positive, negative, count: int, share: float, seed):
    noise = keras.random.uniform(ops.shape(positive), seed=seed)
    known = positive.shape[1]
    # The share is one of `count`, also where there are fewer candidates.
    return sample_indices(positive, negative, min(count, known) if known else count, share, noise, share_of=count)


def _rows(x, index):
    """The entries (B, S, ...) of (B, N, ...) at index (B, S)."""
    return ops.take_along_axis(x, index[..., None] if len(x.shape) == 3 else index, axis=1)


def _count(mask):
    """How many are True, over all replicas."""
    return sum_over_replicas(ops.sum(ops.cast(mask, "float32")))


def _used_columns(positive, limit: int):
    """How many of the columns of (B, S) are needed; a tensor on TensorFlow, the limit where shapes are fixed."""
    limit = min(limit, positive.shape[1])
    if keras.backend.backend() != "tensorflow":
        return limit
    most = ops.max(ops.sum(ops.cast(positive[:, :limit], "int32"), axis=1))
    return ops.maximum(most, 1)


__all__ = ["DetectionLosses"]
