"""The parts of two-stage detectors that have no weights: picture sizes, anchors, proposals, detections.

Boxes are (x1, y1, x2, y2) in pixels and everything is float32 under any precision: bfloat16 rounds 1001 to 1000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_cv_lectures.geometry.anchors import cell_anchors, grid_anchors
from keras_cv_lectures.geometry.box_coding import decode_boxes
from keras_cv_lectures.geometry.boxes import clip_boxes, large_enough
from keras_cv_lectures.geometry.nms import batched_nms

# A score below every score that counts.
_NEVER = -1e9


class _Float32Layer(keras.layers.Layer):
    """A layer that computes in float32 whatever the policy is."""

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})


@keras.saving.register_keras_serializable("keras_cv_lectures")
class FitPicture(_Float32Layer):
    """Resizes pictures so that the shorter side is `min_size`, unless the longer one would then exceed `max_size`.

    Bilinear with half-pixel centres, without antialiasing, as torchvision's `GeneralizedRCNNTransform`; but no side
    becomes less than a pixel.

    Input shape: (B, H, W, C), any real type.
    Output: the resized pictures (B, h, w, C) float32, and (B, 2) float32 with (h, w) in every row.

    Args:
        min_size: pixels of the shorter side; None keeps the size of the pictures.
        max_size: largest longer side in pixels.
    """

    def __init__(self, min_size: int | None, max_size: int | None = None, **kwargs):
        super().__init__(**kwargs)
        if min_size is not None and not 0 < min_size <= (max_size or min_size):
            raise ValueError(
                "`min_size` must be a positive number of pixels, at most `max_size`. "
                f"Received: min_size={min_size}, max_size={max_size}"
            )
        self.min_size, self.max_size = min_size, max_size

    def call(self, picture):
        picture = ops.cast(picture, "float32")
        height, width = picture.shape[1:3]
        if height is None or width is None:
            return self._resized_at_run_time(picture)
        size = self._fitted(height, width)
        if size != (height, width):
            picture = _resize(picture, size)
        rows = ops.ones_like(picture[:, 0, 0, :1])
        return picture, rows * ops.convert_to_tensor([size], dtype="float32")

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        if self.min_size is None:
            return height, width
        # In float64, as `preprocessing.resize_rule` and torchvision outside of TorchScript: float32 loses a row of
        # pictures such as 480x640 at 800.
        scale = self.min_size / min(height, width)
        scale = min(scale, self.max_size / max(height, width)) if self.max_size else scale
        return max(math.floor(height * scale), 1), max(math.floor(width * scale), 1)

    def _resized_at_run_time(self, picture):
        # Sizes are unknown at build time on TensorFlow alone.
        import tensorflow as tf

        size = tf.shape(picture)[1:3]
        if self.min_size is not None:
            sides = tf.cast(size, tf.float64)
            scale = self.min_size / tf.reduce_min(sides)
            if self.max_size:
                scale = tf.minimum(scale, self.max_size / tf.reduce_max(sides))
            size = tf.maximum(tf.cast(tf.floor(sides * scale), tf.int32), 1)
            picture = _resize(picture, size)
        return picture, tf.ones_like(picture[:, 0, 0, :1]) * tf.cast(size, tf.float32)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        size = (None, None) if None in (height, width) else self._fitted(height, width)
        return (batch, *size, channels), (batch, 2)

    def get_config(self):
        return {**super().get_config(), "min_size": self.min_size, "max_size": self.max_size}


def _resize(picture, size):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.image.resize(picture, size, "bilinear", antialias=False)
    return ops.image.resize(picture, size, interpolation="bilinear", antialias=False)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class PyramidAnchors(_Float32Layer):
    """The anchors of every level of a feature pyramid, as torchvision lays them out.

    Anchors of one cell are centred on the cell's top left corner, `stride * index`, and rounded to whole pixels.

    Input: [picture (B, H, W, C), level 1 (B, h1, w1, any), ...], the padded picture and the maps in order.
    Output: a list of (h * w * A, 4), one a level, in the order row, column, anchor.

    Args:
        sizes: for each level the square roots of the anchors' areas, in pixels.
        ratios: height by width, of every level.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float] = (0.5, 1.0, 2.0), **kwargs):
        super().__init__(**kwargs)
        self.sizes = tuple(tuple(level) for level in sizes)
        self.ratios = tuple(ratios)
        if len({len(level) for level in self.sizes}) != 1 or not self.ratios:
            raise ValueError(
                "`sizes` must hold equally many sizes for every level, because one head serves all levels, and "
                f"`ratios` at least one. Received: sizes={self.sizes}, ratios={self.ratios}"
            )

    @property
    def per_cell(self) -> int:
        """Anchors of one cell."""
        return len(self.sizes[0]) * len(self.ratios)

    def call(self, inputs):
        picture, *maps = inputs
        if len(maps) != len(self.sizes):
            raise ValueError(f"expected {len(self.sizes)} maps, one for each of `sizes`. Received: {len(maps)}")
        height, width = _sides(picture)
        anchors = []
        for sizes, level in zip(self.sizes, maps, strict=True):
            rows, columns = _sides(level)
            anchors.append(
                grid_anchors(cell_anchors(sizes, self.ratios), (rows, columns), (height // rows, width // columns))
            )
        return anchors

    def compute_output_shape(self, input_shape):
        def count(shape):
            return None if None in shape[1:3] else shape[1] * shape[2] * self.per_cell

        return [(count(shape), 4) for shape in input_shape[1:]]

    def get_config(self):
        return {**super().get_config(), "sizes": self.sizes, "ratios": self.ratios}


def _sides(x):
    """Height and width of (B, H, W, C): numbers where they are known, otherwise scalar tensors."""
    if None not in x.shape[1:3]:
        return x.shape[1:3]
    return tuple(ops.shape(x)[1:3])


@keras.saving.register_keras_serializable("keras_cv_lectures")
class Proposals(_Float32Layer):
    """From the region proposal network's answers to boxes worth a second look.

    On each level the `pre_nms` highest anchors are decoded, cut at the picture's border, and thinned by non-maximum
    suppression within the level; the `post_nms` highest of all levels remain. Nothing is differentiated.

    Input: [size (B, 2), logits of level 1 (B, h, w, A), ..., deltas of level 1 (B, h, w, 4 A), ...,
        anchors of level 1 (h * w * A, 4), ...].
    Output: boxes (B, post_nms, 4), zero where `count` ends; count (B,) int32.

    Args:
        pre_nms: candidates a level.
        post_nms: boxes a picture.
        nms_threshold: IoU from which the lower box goes.
        score_threshold: objectness (0..1) below which an anchor is no candidate.
        min_size: pixels; boxes with a shorter side are dropped.
    """

    def __init__(
        self,
        pre_nms: int = 1000,
        post_nms: int = 1000,
        nms_threshold: float = 0.7,
        score_threshold: float = 0.0,
        min_size: float = 1e-3,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.pre_nms, self.post_nms, self.nms_threshold = pre_nms, post_nms, nms_threshold
        self.score_threshold, self.min_size = score_threshold, min_size

    def call(self, inputs):
        size, *rest = [ops.stop_gradient(ops.cast(x, "float32")) for x in inputs]
        levels = len(rest) // 3
        boxes, scores, labels = [], [], []
        for level in range(levels):
            logits, deltas, anchors = rest[level], rest[levels + level], rest[2 * levels + level]
            logits = ops.reshape(logits, (ops.shape(logits)[0], -1))
            deltas = ops.reshape(deltas, (ops.shape(deltas)[0], -1, 4))
            best, index = _top_k(logits, self.pre_nms)
            chosen = ops.take_along_axis(deltas, index[..., None], axis=1)
            boxes.append(decode_boxes(ops.take(anchors, index, axis=0), chosen))
            scores.append(best)
            labels.append(ops.zeros_like(index) + level)
        boxes = clip_boxes(ops.concatenate(boxes, axis=1), size)
        scores = ops.concatenate(scores, axis=1)
        good = large_enough(boxes, self.min_size)
        if self.score_threshold > 0:
            good = ops.logical_and(good, ops.sigmoid(scores) >= self.score_threshold)
        index, count = batched_nms(
            boxes,
            ops.where(good, scores, _NEVER),
            self.post_nms,
            self.nms_threshold,
            labels=ops.concatenate(labels, axis=1),
            score_threshold=_NEVER / 2,
        )
        return _rows(boxes, index, count), count

    def compute_output_shape(self, input_shape):
        batch = input_shape[0][0]
        return (batch, self.post_nms, 4), (batch,)

    def compute_output_spec(self, inputs):
        boxes, count = self.compute_output_shape([x.shape for x in inputs])
        return keras.KerasTensor(boxes, "float32"), keras.KerasTensor(count, "int32")

    def get_config(self):
        names = ("pre_nms", "post_nms", "nms_threshold", "score_threshold", "min_size")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class Detections(_Float32Layer):
    """From the box head's answers to at most `max_detections` boxes with a class and a score.

    Each class has its own box and its own non-maximum suppression, so one place may be reported under two classes.

    Input: [size (B, 2), proposals (B, P, 4), count (B,), class logits (B, P, K), deltas (B, P, 4 K or 4)], where the
        first of the K classes is the background.
    Output: a dict of `boxes` (B, D, 4) by descending `scores` (B, D), `labels` (B, D) int32 from 0, -1 where `count`
        (B,) int32 ends.

    Args:
        score_threshold: probability (0..1) above which a class is reported.
        nms_threshold: IoU from which the lower of two boxes of one class goes.
        max_detections: D.
        box_weights: of the box coder.
        classes: the head's index of each class that is reported, in the order of the labels; None: all, 1 to K - 1.
            torchvision's COCO heads have 91 outputs for 80 classes.
        min_size: pixels; boxes with a shorter side are dropped.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
        box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
        classes: Sequence[int] | None = None,
        min_size: float = 1e-2,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.score_threshold, self.nms_threshold, self.max_detections = score_threshold, nms_threshold, max_detections
        self.box_weights = tuple(box_weights)
        self.classes = None if classes is None else tuple(classes)
        self.min_size = min_size

    def call(self, inputs):
        size, proposals, count, logits, deltas = inputs
        batch, slots, outputs = ops.shape(logits)[0], logits.shape[1], logits.shape[2]
        classes = self.classes or tuple(range(1, outputs))
        # Logarithms: probabilities that saturate at 1 would tie, and ties are broken otherwise by every runtime.
        scores = ops.take(ops.log_softmax(logits, axis=-1), list(classes), axis=-1)  # (B, P, k)
        used = ops.arange(slots)[None, :, None] < count[:, None, None]
        deltas = ops.reshape(deltas, (batch, slots, -1, 4))
        agnostic = deltas.shape[2] == 1
        if not agnostic:
            deltas = ops.take(deltas, list(classes), axis=2)
        boxes = decode_boxes(proposals[:, :, None, :], deltas, self.box_weights)  # (B, P, k or 1, 4)
        boxes = ops.reshape(boxes, (batch, -1, 4))
        boxes = clip_boxes(boxes, size)
        good = ops.reshape(large_enough(boxes, self.min_size), (batch, slots, -1))
        scores = ops.reshape(ops.where(ops.logical_and(used, good), scores, _NEVER), (batch, -1))  # (B, P k)
        labels = ops.broadcast_to(ops.arange(len(classes), dtype="int32"), (slots, len(classes)))
        labels = ops.zeros_like(scores, dtype="int32") + ops.reshape(labels, (1, -1))
        if agnostic:
            boxes = ops.repeat(boxes, len(classes), axis=1)
        index, found = batched_nms(
            boxes,
            scores,
            self.max_detections,
            self.nms_threshold,
            labels=labels,
            score_threshold=math.log(self.score_threshold) if self.score_threshold > 0 else _NEVER / 2,
        )
        real = ops.arange(self.max_detections)[None] < found[:, None]
        return {
            "boxes": _rows(boxes, index, found),
            "scores": ops.where(real, ops.exp(ops.take_along_axis(scores, index, axis=1)), 0.0),
            "labels": ops.where(real, ops.take_along_axis(labels, index, axis=1), -1),
            "count": found,
        }

    def compute_output_spec(self, inputs):
        batch, most = inputs[0].shape[0], self.max_detections
        return {
            "boxes": keras.KerasTensor((batch, most, 4), "float32"),
            "scores": keras.KerasTensor((batch, most), "float32"),
            "labels": keras.KerasTensor((batch, most), "int32"),
            "count": keras.KerasTensor((batch,), "int32"),
        }

    def get_config(self):
        names = ("score_threshold", "nms_threshold", "max_detections", "box_weights", "classes", "min_size")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class RestoreScale(_Float32Layer):
    """Boxes or keypoints in a fitted picture brought back to the picture that it was made from.

    Input: [boxes (B, D, 4) or keypoints (B, D, K, 3), size of the fitted picture (B, 2), picture (B, H, W, C)].
    Output shape: that of the boxes or keypoints.
    """

    def call(self, inputs):
        places, size, picture = inputs
        return scale_places(places, picture_size(picture) / size)

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def picture_size(picture):
    """(2,) float32: height and width of the pictures (B, H, W, C)."""
    return ops.stack([ops.cast(side, "float32") for side in _sides(picture)])


def scale_places(places, factors):
    """Boxes (B, N, 4) or keypoints (B, N, K, 3) after a resize by `factors` (B, 2), down and across."""
    down, across = ops.split(factors, 2, axis=-1)  # (B, 1) each
    if len(places.shape) == 3:
        return places * ops.stack([across, down, across, down], axis=-1)
    return places * ops.stack([across, down, ops.ones_like(down)], axis=-1)[:, None]


def _top_k(scores, limit: int):
    known = scores.shape[1]
    if known is not None:
        return ops.top_k(scores, min(limit, known))
    import tensorflow as tf

    values, index = tf.math.top_k(scores, tf.minimum(limit, tf.shape(scores)[1]))
    return values, index


def _rows(boxes, index, count):
    """The rows `index` of (B, N, 4), zeros behind the first `count`."""
    chosen = ops.take_along_axis(boxes, index[..., None], axis=1)
    real = ops.arange(index.shape[1])[None] < count[:, None]
    return ops.where(real[..., None], chosen, 0.0)


__all__ = ["Detections", "FitPicture", "Proposals", "PyramidAnchors", "RestoreScale", "picture_size", "scale_places"]
