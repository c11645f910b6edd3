"""The detector's computation: from pictures to dense answers, and from them to detections."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cv_lectures.geometry.keypoints import heatmaps_to_keypoints
from keras_cv_lectures.layers import (
    Detections,
    FitPicture,
    ImageNormalization,
    MultiLevelRoIAlign,
    PadToMultiple,
    Proposals,
    PyramidAnchors,
    RestoreScale,
)
from keras_cv_lectures.layers.detection import picture_size, scale_places
from keras_cv_lectures.layers.portable import wants_portable_operators
from keras_cv_lectures.postprocessing.detection import canvas_color

# Of the search for a keypoint's pixel in TensorFlow Lite: trained heads' maps take one or two, random heads' more.
_ROUNDS_IN_FILES = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Numbers of a region-based detector; the defaults are torchvision's (Faster R-CNN ResNet-50 FPN).

    Attributes:
        min_size, max_size: pixels that the picture's sides are brought to (see `layers.FitPicture`); None keeps it.
        size_multiple: the picture is padded to a multiple of it, with `surroundings`.
        surroundings: C numbers, the colour around a picture on its canvas and in its padding, behind the normalisation;
            None: zeros, which behind a normalisation are the mean colour. Builders choose it by `surrounding_color`.
        anchor_sizes: for each level the square roots of the anchors' areas, pixels.
        anchor_ratios: height by width.
        region_levels: names of the maps that regions are pooled from; the others serve proposals only.
        region_strides: their strides in pixels.
        rpn_pre_nms, rpn_post_nms: (training, inference) candidates a level and proposals a picture.
        rpn_nms: IoU threshold among proposals of one level.
        rpn_score: lowest objectness of a proposal, 0..1.
        rpn_foreground, rpn_background: IoU from which an anchor is an object, and below which it is background.
        rpn_samples, rpn_positives: anchors a picture in the loss, and the largest share of objects among them.
        foreground, background: IoU limits of regions.
        samples, positives: regions a picture in the loss, and the largest share of objects among them.
        box_weights: of the box coder.
        beta: where the smooth L1 loss turns from square to straight, of normalised deltas.
        box_score, box_nms, max_detections: see `layers.Detections`.
        box_pool, mask_pool, keypoint_pool: side of the pooled maps.
        sampling_ratio: samples a bin and axis of RoIAlign; 0: as many as pixels.
        aligned: RoIAlign with the half-pixel shift of detectron2.
        class_agnostic: one box for all classes.
        classes: the head's output of each class, in the order of the labels; None: 1, 2, ....
    """

    min_size: int | None = 800
    max_size: int | None = 1333
    size_multiple: int = 32
    surroundings: Sequence[float] | None = None
    anchor_sizes: Sequence[Sequence[float]] = ((32,), (64,), (128,), (256,), (512,))
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    region_levels: Sequence[str] = ("0", "1", "2", "3")
    region_strides: Sequence[int] = (4, 8, 16, 32)
    rpn_pre_nms: Sequence[int] = (2000, 1000)
    rpn_post_nms: Sequence[int] = (2000, 1000)
    rpn_nms: float = 0.7
    rpn_score: float = 0.0
    rpn_foreground: float = 0.7
    rpn_background: float = 0.3
    rpn_samples: int = 256
    rpn_positives: float = 0.5
    foreground: float = 0.5
    background: float = 0.5
    samples: int = 512
    positives: float = 0.25
    box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0)
    beta: float = 1 / 9
    box_score: float = 0.05
    box_nms: float = 0.5
    max_detections: int = 100
    box_pool: int = 7
    mask_pool: int = 14
    keypoint_pool: int = 14
    sampling_ratio: int = 2
    aligned: bool = False
    class_agnostic: bool = False
    classes: Sequence[int] | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(tuple(item) if isinstance(item, list) else item for item in value)
                object.__setattr__(self, field.name, value)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        return dataclasses.asdict(self)


def surrounding_color(convention: str, channels: int) -> tuple[int, ...] | None:
    """`DetectorSettings.surroundings` of a new detector: about the mean colour to its network, as in exported files.

    Args:
        convention: of `layers.ImageNormalization`; "none" where the network normalises by itself.
        channels: of the picture.
    """
    return canvas_color(channels) if convention == "none" else None


class Graph:
    """The layers of a detector and the order in which they are applied.

    Works on symbolic tensors, to build the functional graph, as well as on values, to train.
    """

    def __init__(self, backbone, rpn, box, mask, keypoint, *, settings: DetectorSettings, convention: str):
        self.backbone, self.rpn, self.box, self.mask, self.keypoint = backbone, rpn, box, mask, keypoint
        self.settings = s = settings
        self.fit = FitPicture(s.min_size, s.max_size, name="fit")
        self.normalize = ImageNormalization(convention, dtype="float32", name="normalize")
        # Not by the convention, which detectors of earlier versions had with zeros around their pictures.
        self.color = s.surroundings
        self.blank = BlankOutside(self.color, dtype="float32", name="blank")
        self.pad = PadToMultiple(s.size_multiple, dtype="float32", name="pad")
        self.anchors = PyramidAnchors(s.anchor_sizes, s.anchor_ratios, name="anchors")
        train, infer = (
            {"pre_nms": pre, "post_nms": post, "nms_threshold": s.rpn_nms, "score_threshold": s.rpn_score}
            for pre, post in zip(s.rpn_pre_nms, s.rpn_post_nms, strict=True)
        )
        self.train_proposals = Proposals(**train, name="train_proposals")
        self.proposals = Proposals(**infer, name="proposals")
        # The maps' own, not that of the session which loads the detector.
        self.pool_dtype = backbone.output[s.region_levels[0]].dtype
        pool = {
            "sampling_ratio": s.sampling_ratio,
            "aligned": s.aligned,
            "strides": tuple(s.region_strides),
            "dtype": self.pool_dtype,
        }
        self.box_pool = MultiLevelRoIAlign(s.box_pool, **pool, name="box_pool")
        self.mask_pool = MultiLevelRoIAlign(s.mask_pool, **pool, name="mask_pool")
        self.keypoint_pool = MultiLevelRoIAlign(s.keypoint_pool, **pool, name="keypoint_pool")
        self.detections = Detections(
            s.box_score, s.box_nms, s.max_detections, s.box_weights, s.classes, name="detections"
        )
        self.restore = RestoreScale(name="restore")
        self.masks = MasksOfLabels(s.classes, name="masks")
        self.keypoints = Peaks(name="keypoints")

    def dense(self, inputs, training: bool = False) -> dict[str, Any]:
        """Everything before proposals: `picture`, `size`, `maps`, `logits`, `deltas` and `anchors` of each level."""
        if isinstance(inputs, Mapping):
            picture, size = self.normalize(inputs["image"]), ops.cast(inputs["size"], "float32")
            picture = self.blank([picture, size])
        else:
            picture, size = self.fit(inputs)
            picture = self.normalize(picture)
        picture = self._padded(picture)
        maps = self.backbone(picture, training=training)
        answers = [self.rpn(level, training=training) for level in maps.values()]
        return {
            "picture": picture,
            "size": size,
            "maps": maps,
            "logits": [logits for logits, _ in answers],
            "deltas": [deltas for _, deltas in answers],
            "anchors": self.anchors([picture, *maps.values()]),
        }

    def detect(self, inputs) -> dict[str, Any]:
        """Detections in the pixels of the given pictures."""
        dense = self.dense(inputs)
        proposals, count = self.proposals([dense["size"], *dense["logits"], *dense["deltas"], *dense["anchors"]])
        logits, deltas = self.regions(self.box, self.box_pool, dense, proposals)
        found = self.detections([dense["size"], proposals, count, logits, deltas])
        if self.mask is not None:
            masks = self.regions(self.mask, self.mask_pool, dense, found["boxes"])
            found["masks"] = self.masks([masks, found["labels"]])
        if self.keypoint is not None:
            heat = self.regions(self.keypoint, self.keypoint_pool, dense, found["boxes"])
            found["keypoints"] = self.keypoints([heat, found["boxes"], found["labels"]])
        if isinstance(inputs, Mapping):
            return found
        for name in {"boxes", "keypoints"} & set(found):
            found[name] = self.restore([found[name], dense["size"], inputs])
        return found

    def fit_targets(self, inputs, dense, targets: Mapping[str, Any]) -> dict[str, Any]:
        """Targets in the pixels of the fitted picture, from targets in the pixels of the given one."""
        targets = dict(targets)
        if not isinstance(inputs, Mapping):
            factors = dense["size"] / picture_size(inputs)
            for name in {"boxes", "mask_windows", "keypoints"} & set(targets):
                targets[name] = scale_places(ops.cast(targets[name], "float32"), factors)
        return targets

    def _padded(self, picture):
        padded = self.pad.compute_output_shape(picture.shape)
        if self.color is None or (None not in padded[1:3] and padded[1:3] == tuple(picture.shape[1:3])):
            return self.pad(picture)
        color = ops.convert_to_tensor(self.color, dtype="float32")
        return self.pad(picture - color) + color

    def region_maps(self, dense) -> list:
        """The maps that regions are pooled from."""
        return [dense["maps"][name] for name in self.settings.region_levels]

    def regions(self, head: keras.Model, pool, dense, boxes, training: bool = False):
        """What `head` says of each of the boxes (B, R, 4): its outputs with the axes (B, R, ...)."""
        pooled = pool(self.region_maps(dense), boxes)
        merged = ops.reshape(pooled, (-1, *pooled.shape[2:]))
        answers = head(merged, training=training)
        count = ops.shape(pooled)[1]
        return keras.tree.map_structure(lambda x: ops.reshape(x, (-1, count, *x.shape[1:])), answers)


@keras.saving.register_keras_serializable("keras_cv_lectures")
class BlankOutside(keras.layers.Layer):
    """One colour outside the picture, on the canvas that it lies on at the top left.

    Input: [canvas (B, H, W, C), size (B, 2)]. Output: (B, H, W, C).

    Args:
        color: C numbers; None: zeros.
    """

    def __init__(self, color: Sequence[float] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.color = None if color is None else tuple(color)

    def call(self, inputs):
        canvas, size = inputs
        height, width = ops.shape(canvas)[1:3]
        rows = ops.cast(ops.arange(height), "float32")[None] < size[:, :1]
        columns = ops.cast(ops.arange(width), "float32")[None] < size[:, 1:]
        return ops.where(ops.logical_and(rows[:, :, None], columns[:, None])[..., None], canvas, self._around())

    def _around(self):
        return 0 if self.color is None else ops.convert_to_tensor(self.color, dtype="float32")

    def get_config(self):
        return {**super().get_config(), "color": self.color}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class MasksOfLabels(keras.layers.Layer):
    """Of each region's masks, one a class, the probabilities of its own class.

    Input: [logits (B, D, h, w, K), labels (B, D) from 0, -1 where there is none]. Output: (B, D, h, w) in 0..1, zero
    where there is no label.

    Args:
        classes: the logits' index of each label; None: label + 1. With K = 1 all labels share the one mask.
    """

    def __init__(self, classes: Sequence[int] | None = None, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.classes = None if classes is None else tuple(classes)

    def call(self, inputs):
        logits, labels = inputs
        _, regions, height, width, outputs = logits.shape
        real = ops.cast(labels >= 0, "float32")
        if outputs == 1:
            chosen = logits[..., 0]
        else:
            # A product with one column for each region: TFLite's builtin operators gather along the first axes only.
            index = head_index(labels, self.classes)
            column = ops.one_hot(ops.reshape(index, (-1,)), outputs)[..., None]
            chosen = ops.matmul(ops.reshape(logits, (-1, height * width, outputs)), column)
        chosen = ops.reshape(chosen, (-1, regions, height, width))
        return ops.sigmoid(chosen) * real[..., None, None]

    def compute_output_shape(self, input_shape):
        return input_shape[0][:-1]

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


@keras.saving.register_keras_serializable("keras_cv_lectures")
class Peaks(keras.layers.Layer):
    """The highest place of every keypoint's heat map, in the pixels of the region's box.

    In TensorFlow Lite six rounds of the search have to do, which find the place in trained heads' maps; in noise they
    may miss it.

    Input: [logits (B, D, h, w, K), boxes (B, D, 4), labels (B, D), -1 where there is no region].
    Output: (B, D, K, 3): x, y, and the logit there; zero where there is no region.
    """

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, inputs):
        logits, boxes, labels = inputs
        # TensorFlow's quantizer crashes at a loop here.
        written_out = keras.backend.backend() == "tensorflow" and wants_portable_operators()
        points = heatmaps_to_keypoints(logits, boxes, rounds=_ROUNDS_IN_FILES if written_out else None)
        return points * ops.cast(labels >= 0, "float32")[..., None, None]

    def compute_output_shape(self, input_shape):
        logits = input_shape[0]
        return (*logits[:2], logits[-1], 3)


def head_index(labels, classes: Sequence[int] | None):
    """The head's output for each label from 0; 0, the background, where the label is -1.

    For a label that no class has it is one that no head has.
    """
    if classes is None:
        return labels + 1
    table = ops.convert_to_tensor((0, *classes, np.iinfo("int32").max), dtype="int32")
    return ops.take(table, ops.minimum(labels + 1, len(classes) + 1), axis=0)


__all__ = ["DetectorSettings", "Graph", "head_index", "surrounding_color"]
