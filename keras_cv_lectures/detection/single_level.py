"""Detectors on one map of stride 16: Faster R-CNN of 2015 on VGG16, and ResNet "C4".

Ren, He, Girshick, Sun, "Faster R-CNN", NeurIPS 2015, https://arxiv.org/abs/1506.01497; He et al., "Deep Residual
Learning", CVPR 2016, appendix A, https://arxiv.org/abs/1512.03385, which leaves a ResNet's last stage to the regions.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras
from keras import ops

from keras_cv_lectures.detection.arguments import check_settings
from keras_cv_lectures.detection.detector import Detector
from keras_cv_lectures.detection.graph import DetectorSettings, Graph, surrounding_color
from keras_cv_lectures.detection.heads import box_head, pooled_box_head, rpn_head
from keras_cv_lectures.detection.training import DetectionLosses
from keras_cv_lectures.geometry.anchors import caffe_anchors, grid_anchors
from keras_cv_lectures.layers import Proposals, PyramidAnchors
from keras_cv_lectures.layers.roi import RoIPool
from keras_cv_lectures.weights.convolutionalize import caffe_name, read_vgg16
from keras_cv_lectures.weights.keras_applications import adapt_first_kernel

STRIDE = 16
# What a variant has where a call of the builder does not say otherwise.
VARIANT_DEFAULTS: dict[str, dict[str, Any]] = {
    "c4": {
        "backbone": "resnet50_v1_5",
        "pyramid_filters": 1024,
        "anchor_sizes": ((32, 64, 128, 256, 512),),
        "rpn_pre_nms": (12000, 6000),
        "rpn_post_nms": (2000, 1000),
    },
    "vgg16": {
        "backbone": "vgg16",
        "min_size": 600,
        "max_size": 1000,
        "pyramid_filters": 512,
        "box_units": (4096, 4096),
        "anchor_sizes": ((128, 256, 512),),
        "rpn_pre_nms": (12000, 6000),
        "rpn_post_nms": (2000, 300),
        "samples": 128,
        "box_nms": 0.3,
    },
}
_SMALLEST_PROPOSAL = 16.0
# Caffe's boxes name the last pixel, ours the edge behind it.
_LAST_PIXEL = (0.0, 0.0, 1.0, 1.0)

Builder = TypeVar("Builder", bound=Callable)


def with_variant_defaults(builder: Builder) -> Builder:
    """Options that a call of `builder` leaves out are those of `VARIANT_DEFAULTS` of its `variant`."""

    @functools.wraps(builder)
    def build(*args, **options):
        return builder(*args, **{**VARIANT_DEFAULTS.get(str(options.get("variant")), {}), **options})

    return build


def single_level_detector(
    variant: str,
    body: keras.Model,
    outputs: int,
    *,
    filters: int,
    units: Sequence[int] | None,
    class_agnostic: bool,
    input_shape: tuple[int | None, int | None, int],
    convention: str,
    name: str,
    head_weights: str | os.PathLike | None = None,
    **settings: Any,
) -> Detector:
    """Faster R-CNN on the map c4 of `body`.

    "c4": anchors as torchvision lays them out, RoIAlign 14x14, and `body`'s last stage as the head of every region,
    with its stride, followed by the mean. "vgg16": the anchors of the 2015 release, RoI pooling 7x7, two fully
    connected layers with dropout 0.5. 137,078,239 parameters for VGG16 and 21 outputs.

    Paper: https://arxiv.org/abs/1506.01497. Differs from the paper: trained jointly unless `train_alternating` is
    used; the mean of VGG's authors, up to 1 grey level from Caffe's. "vgg16" has Caffe's convention that
    width = x2 - x1 + 1 in anchors, codes, overlaps and RoI pooling, with boxes that end behind their last pixel; the
    pixel by which py-faster-rcnn's proposals grow when they are decoded is left out. The smallest proposal has 16
    pixels at the network's scale, not the picture's. Where a side is no multiple of 16, VGG16's last cells see zeros,
    Caffe's a smaller window. Where no anchor lies within a picture, all are trained. The head's new layers begin with
    torch's random numbers.

    Args:
        variant: "c4" or "vgg16".
        body: picture -> {"c4": ..., "c5": ...}; c4 of stride 16, and for "c4" c5 computed from c4 alone.
        outputs: classes with the background.
        filters: of the 3x3 of the proposal network.
        units: of the fully connected layers, "vgg16" only; None: (4096, 4096).
        class_agnostic: one box for all classes.
        input_shape, convention, name: as of `Detector`.
        head_weights: of a VGG16 classifier, `read_vgg16`'s sources: its convolutions and fully connected layers go to
            the layers of their shapes.
        settings: fields of `DetectorSettings`.

    Raises:
        ValueError: for another variant, anchors for more than one level, or a body that cannot be cut at c4.
    """
    if variant not in VARIANT_DEFAULTS:
        raise ValueError(f"`variant` must be one of {tuple(VARIANT_DEFAULTS)}. Received: variant={variant!r}")
    sizes = settings.pop("anchor_sizes", None) or VARIANT_DEFAULTS[variant]["anchor_sizes"]
    if len(sizes) != 1:
        raise ValueError(
            f"`anchor_sizes` must hold the sizes of one level for variant={variant!r}, such as ((128, 256, 512),). "
            f"Received: anchor_sizes={sizes!r}"
        )
    check_settings(anchor_sizes=sizes, levels=1, **settings)
    backbone = keras.Model(body.inputs, {"0": body.output["c4"]}, name="backbone")
    channels = backbone.output["0"].shape[-1]
    per_cell = len(sizes[0]) * len(settings.get("anchor_ratios", DetectorSettings.anchor_ratios))
    if variant == "c4":
        kind, pool, beta = Detector, 14, DetectorSettings.beta
        rpn = rpn_head(channels, per_cell, filters=filters)
        box = pooled_box_head(_last_stage(body), outputs, class_agnostic=class_agnostic)
    else:
        kind, pool, beta = CaffeDetector, 7, 1.0
        units = units or VARIANT_DEFAULTS[variant]["box_units"]
        rpn = two_way_rpn_head(channels, per_cell, filters=filters)
        box = box_head(channels, outputs, units=units, dropout=0.5, class_agnostic=class_agnostic)
    if head_weights is not None:
        load_vgg16_layers([*backbone.layers, *box.layers], head_weights)
    return kind(
        backbone,
        rpn,
        box,
        settings=DetectorSettings(
            **{
                "anchor_sizes": sizes,
                "region_levels": ("0",),
                "region_strides": (STRIDE,),
                "size_multiple": STRIDE,
                "surroundings": surrounding_color(convention, input_shape[-1]),
                "box_pool": pool,
                "beta": beta,
                "class_agnostic": class_agnostic,
                **settings,
            }
        ),
        input_shape=input_shape,
        convention=convention,
        name=name,
    )


def two_way_rpn_head(channels: int, anchors: int, *, filters: int = 512) -> keras.Model:
    """Region proposal network of 2015, which scores background and object: 2,387,510 parameters for VGG16.

    Input: (B, h, w, channels). Output: logits (B, h, w, anchors), object less background, whose sigmoid is the softmax
    of the two; deltas (B, h, w, 4 anchors); float32.
    """

    def conv(x, width: int, size: int, name: str, **options):
        start = keras.initializers.RandomNormal(stddev=0.01)
        return keras.layers.Conv2D(width, size, padding="same", kernel_initializer=start, name=name, **options)(x)

    level = keras.Input((None, None, channels), name="level")
    x = conv(level, filters, 3, "head.conv.0.0", activation="relu")
    both = conv(x, 2 * anchors, 1, "head.cls_score", dtype="float32")
    logits = ObjectLessBackground(name="head.cls_logits")(both)
    return keras.Model(level, [logits, conv(x, 4 * anchors, 1, "head.bbox_pred", dtype="float32")], name="rpn")


def load_vgg16_layers(layers: Sequence[keras.layers.Layer], source: str | os.PathLike | keras.Model) -> None:
    """Gives `block1_conv1` ... `block5_conv3`, `box_head.fc6` and `box_head.fc7` the weights of a VGG16 classifier.

    Layers of other shapes than the classifier's, and those that the file lacks, keep their values.

    Raises:
        ModelError: the file is absent or no VGG16.
    """
    found = read_vgg16(source)
    for layer in layers:
        name = caffe_name(layer.name.removeprefix("box_head."))
        if name not in found or not layer.weights:
            continue
        kernel, bias = found[name]
        if name == "conv1_1":
            kernel = adapt_first_kernel(kernel, layer.kernel.shape[2], bgr=True)
        if isinstance(layer, keras.layers.Dense):
            kernel = kernel.reshape(-1, kernel.shape[-1])
        if [tuple(w.shape) for w in layer.weights] == [kernel.shape, bias.shape]:
            layer.set_weights([kernel, bias])


@keras.saving.register_keras_serializable("keras_cv_lectures")
class ObjectLessBackground(keras.layers.Layer):
    """(B, h, w, 2 A), A scores of background and A of object -> (B, h, w, A), their difference, float32."""

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, x):
        background, foreground = ops.split(x, 2, axis=-1)
        return foreground - background

    def compute_output_shape(self, input_shape):
        return *input_shape[:-1], input_shape[-1] // 2


@keras.saving.register_keras_serializable("keras_cv_lectures")
class CaffeAnchors(PyramidAnchors):
    """The anchors of py-faster-rcnn on one map of stride 16, around the centre of the cell's pixels.

    Input, output and arguments: as `PyramidAnchors`, of one level. Anchors end behind their last pixel.
    """

    def call(self, inputs):
        _, level = inputs
        scales = [size / STRIDE for size in self.sizes[0]]
        return [grid_anchors(caffe_anchors(STRIDE, self.ratios, scales) + _LAST_PIXEL, ops.shape(level)[1:3], STRIDE)]


@keras.saving.register_keras_serializable("keras_cv_lectures")
class CaffeRoIPool(RoIPool):
    """`RoIPool` of the last of the maps, of boxes that end behind their last pixel.

    Call: `layer(maps, boxes)` with maps [(B, H, W, C)], boxes (B, R, 4) in pixels of the picture.
    Output shape: (B, R, h, w, C).
    """

    def call(self, features, boxes):
        return super().call([features[-1], boxes - ops.convert_to_tensor(_LAST_PIXEL, "float32")])

    def compute_output_shape(self, features_shape, boxes_shape):
        return super().compute_output_shape([features_shape[-1], boxes_shape])


class CaffeGraph(Graph):
    """The graph with the anchors, the smallest proposal and the RoI pooling of 2015."""

    def __init__(self, *parts, settings: DetectorSettings, convention: str):
        super().__init__(*parts, settings=settings, convention=convention)
        s = settings
        self.anchors = CaffeAnchors(s.anchor_sizes, s.anchor_ratios, name="anchors")
        self.train_proposals, self.proposals = (
            Proposals(pre, post, s.rpn_nms, s.rpn_score, _SMALLEST_PROPOSAL, name=name)
            for pre, post, name in zip(s.rpn_pre_nms, s.rpn_post_nms, ("train_proposals", "proposals"), strict=True)
        )
        # Longest side of a map whose size is unknown when the graph is built; `max_size` is that of pictures which
        # are brought to a size, others may have 8192 pixels.
        side = 512 if s.min_size is None or s.max_size is None else -(-s.max_size // STRIDE)
        self.box_pool = CaffeRoIPool(
            s.box_pool, 1 / STRIDE, boxes_inside=True, max_side=side, dtype=self.pool_dtype, name="box_pool"
        )


class CaffeLosses(DetectionLosses):
    """Losses of 2015: anchors that stick out of the picture are neither object nor background."""

    def usable_anchors(self, anchors, size):
        """(B, A), which anchors lie in the pictures; all, where none does."""
        height, width = size[:, :1], size[:, 1:]
        x1, y1, x2, y2 = (anchors[None, :, i] for i in range(4))
        inside = ops.logical_and(ops.logical_and(x1 >= 0, y1 >= 0), ops.logical_and(x2 <= width, y2 <= height))
        return ops.logical_or(inside, ops.logical_not(ops.any(inside, axis=1, keepdims=True)))


@keras.saving.register_keras_serializable("keras_cv_lectures")
class CaffeDetector(Detector):
    """`Detector` with `CaffeGraph` and `CaffeLosses`."""

    graph_class = CaffeGraph
    losses_class = CaffeLosses


def _last_stage(body: keras.Model) -> keras.Model:
    """c4 -> c5."""
    try:
        return keras.Model(body.output["c4"], body.output["c5"], name="tail")
    except ValueError as error:
        raise ValueError(
            '`backbone` must compute its stage "c5" from "c4" alone for variant="c4". Received: a model '
            f"{body.name!r} that cannot be cut there ({error})"
        ) from error


__all__ = [
    "VARIANT_DEFAULTS",
    "CaffeAnchors",
    "CaffeDetector",
    "CaffeGraph",
    "CaffeLosses",
    "CaffeRoIPool",
    "ObjectLessBackground",
    "load_vgg16_layers",
    "single_level_detector",
    "two_way_rpn_head",
    "with_variant_defaults",
]
