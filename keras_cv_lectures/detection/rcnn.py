"""Faster R-CNN, Mask R-CNN and Keypoint R-CNN.

Ren, He, Girshick, Sun, "Faster R-CNN", NeurIPS 2015; Lin et al., "Feature Pyramid Networks", CVPR 2017; He, Gkioxari,
Dollar, Girshick, "Mask R-CNN", ICCV 2017.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_cv_lectures.backbones.resolve import resolve_backbone, stage_strides
from keras_cv_lectures.detection.arguments import check_settings, check_widths
from keras_cv_lectures.detection.coco import COCO_IDS, COCO_OUTPUTS
from keras_cv_lectures.detection.detector import Detector
from keras_cv_lectures.detection.freezing import freeze_normalization, freeze_stages
from keras_cv_lectures.detection.graph import DetectorSettings, surrounding_color
from keras_cv_lectures.detection.heads import box_head, keypoint_head, mask_head, rpn_head
from keras_cv_lectures.detection.pyramid import feature_pyramid
from keras_cv_lectures.detection.single_level import (
    STRIDE,
    VARIANT_DEFAULTS,
    single_level_detector,
    with_variant_defaults,
)
from keras_cv_lectures.signatures import check_task, explain_arguments, one_of, takes_also
from keras_cv_lectures.weights import load_weights

VARIANTS = ("v1", "v2")
# torchvision's pyramid on MobileNetV3 has two maps, both of stride 32; all regions are read from the first.
_MOBILE = ("c5_early", "c5")
# Our name of a backbone -> torchvision's of the detectors on it.
_TORCHVISION = {"resnet50_v1_5": "resnet50_fpn", "mobilenetv3_large": "mobilenet_v3_large_fpn"}
# Its network on MobileNetV3 for small pictures has these `min_size` and `max_size`, weights of its own, and so many
# candidates a level and proposals a picture at inference.
_SMALL_PICTURES, _SMALL_MOBILE, _SMALL_PROPOSALS = (320, 640), "mobilenet_v3_large_320_fpn", 150


@explain_arguments
@with_variant_defaults
def build_faster_rcnn(
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    num_classes: int = 80,
    *,
    backbone: str | keras.Model = "resnet50_v1_5",
    variant: str = "v1",
    backbone_weights: str | None = None,
    trainable_stages: int | None = None,
    frozen_normalization: bool | None = None,
    min_size: int | None = 800,
    max_size: int | None = 1333,
    pyramid_filters: int = 256,
    box_units: Sequence[int] | None = None,
    anchor_sizes: Sequence[Sequence[float]] | None = None,
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    rpn_pre_nms: tuple[int, int] | None = None,
    rpn_post_nms: tuple[int, int] | None = None,
    rpn_nms: float = 0.7,
    rpn_score: float | None = None,
    rpn_samples: int = 256,
    samples: int = 512,
    box_score: float = 0.05,
    box_nms: float = 0.5,
    max_detections: int = 100,
    sampling_ratio: int = 2,
    aligned: bool = False,
    class_agnostic: bool = False,
    coco_outputs: bool | None = None,
    weights: str | None = None,
    name: str = "faster_rcnn",
) -> keras.Model:
    """Faster R-CNN on a feature pyramid, as torchvision has it; detections come out of the graph, ready to use.

    Input: (B, H, W, C) pictures in 0..255, uint8 or float32, any H, W and channel count.
    Output: a dict of `boxes` (B, D, 4) as (x1, y1, x2, y2) in the picture's own pixels, by descending `scores` (B, D)
    in 0..1, `labels` (B, D) int32 from 0 and -1 behind the last, `count` (B,) int32. Trained by `fit` with the targets
    that `Detector` describes.

    Paper: https://arxiv.org/abs/1506.01497 with https://arxiv.org/abs/1612.03144. Differs from the paper: RoIAlign for
    RoI pooling; regions from four levels of a pyramid; the stride of a ResNet's stage on its 3x3; batch normalisation
    frozen where pretrained weights are given. 41,755,286 parameters for ResNet-50 and 91 outputs, as torchvision
    publishes.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        num_classes: number of classes, background not included.
        backbone: a name, or a model from picture to `{"c2": ..., "c5": ...}` (see `keras_cv_lectures.backbones`),
            dilated or not; without a pyramid "c4", of stride 16, and "c5" suffice.
        variant: "v1", or "v2": batch normalisation in pyramid and heads, two convolutions in the proposal network, four
            before the box head's fully connected layer (torchvision's `fasterrcnn_resnet50_fpn_v2`). Without a pyramid,
            on the map of stride 16: "vgg16", the network of 2015 (RoI pooling, 9 anchors of 128 to 512 pixels), and
            "c4", a ResNet whose last stage looks at the regions. Options that the call leaves out are then those of
            `detection.single_level.VARIANT_DEFAULTS`.
        backbone_weights: None (random), "imagenet" (downloaded on this request) or the path of a file.
        trainable_stages: how many of the backbone's five stages are trained, the last ones; None: three with
            pretrained weights, two of MobileNetV3 (the last three of six that torchvision counts: from `features.7`),
            four where "vgg16" is network and backbone, otherwise all, also where a backbone of one's own does not give
            the stage up to which it would be frozen. 4 needs a stage "c1".
        frozen_normalization: batch normalisation of the backbone as a constant; None: with pretrained weights in "v1".
        min_size, max_size: pixels that pictures are brought to: the shorter side to `min_size` unless the longer one
            then exceeds `max_size`. None for pictures at their own size.
        pyramid_filters: channels of the pyramid; without one, of the proposal network.
        box_units: of the box head's fully connected layers; None: (1024, 1024), in "v2" (1024,). "c4" has none.
        anchor_sizes: for each level the square roots of the anchors' areas in pixels; None: one of 32, 64, 128, 256,
            512 for each level, and all five on each of MobileNetV3's three.
        anchor_ratios: height by width.
        rpn_pre_nms, rpn_post_nms: candidates a level and proposals a picture, (training, inference). None: both (2000,
            1000); of Faster R-CNN "v1" on MobileNetV3 with min_size=320 and max_size=640 both (2000, 150), as
            torchvision has it there; of "c4" (12000, 6000) and (2000, 1000), of "vgg16" (12000, 6000) and (2000, 300).
        rpn_nms: IoU from which the lower of two proposals goes.
        rpn_score: lowest objectness of a proposal, 0..1; None: 0, and 0.05 for MobileNetV3.
        rpn_samples, samples: anchors and regions of a picture in the losses.
        box_score: lowest score of a detection, 0..1.
        box_nms: IoU from which the lower of two detections of one class goes.
        max_detections: D.
        sampling_ratio, aligned: of RoIAlign, which "vgg16" does not have.
        class_agnostic: one box a region for all classes.
        coco_outputs: True for a head with torchvision's 91 outputs, of which 80 are COCO's categories; the labels are
            0..79 all the same (names: `detection.COCO_CLASSES`). None: with published weights and 80 classes.
        weights: None, "torchvision/coco_v1" (downloaded on this request) or the path of a `.keras`, `.weights.h5`,
            `.pth` or `.safetensors` file of this network. Of the two files that are published for MobileNetV3 the one
            for small pictures goes with min_size=320 and max_size=640, the other one with all other sizes.
        name: name of the model.

    Raises:
        ValueError: for an unknown option or a file that does not fit.
        TypeError: for an unknown argument, naming the right one.

    Example:
        >>> model = build_faster_rcnn((None, None, 3), num_classes=3, backbone="resnet14_v1_5", min_size=None)
    """
    return _build("fasterrcnn", **locals())


@explain_arguments
@takes_also(build_faster_rcnn)
def build_mask_rcnn(
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    num_classes: int = 80,
    *,
    mask_filters: Sequence[int] = (256, 256, 256, 256),
    class_agnostic_masks: bool = False,
    name: str = "mask_rcnn",
    **options: Any,
) -> keras.Model:
    """Mask R-CNN: Faster R-CNN with a third head that draws a mask in every detected box.

    Input: (B, H, W, C) pictures, as `build_faster_rcnn`.
    Output: as `build_faster_rcnn`, and `masks` (B, D, 28, 28): probabilities on a grid over each box, which
    `geometry.masks.paste_masks_numpy` brings to the picture. Targets of `fit` have `masks` and `mask_windows`.

    Paper: https://arxiv.org/abs/1703.06870. Differs from the paper: as `build_faster_rcnn`; sampling and schedules as
    torchvision has them. 44,401,393 parameters for ResNet-50 and 91 outputs.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        num_classes: number of classes, background not included.
        mask_filters: of the mask head's convolutions.
        class_agnostic_masks: one mask a region for all classes.
        name: name of the model.
        options: every option of `build_faster_rcnn`.

    Raises:
        ValueError: for an unknown option or a file that does not fit.
        TypeError: for an unknown argument, naming the right one.
    """
    return _build("maskrcnn", **_merged(locals()))


@explain_arguments
@takes_also(build_faster_rcnn)
def build_keypoint_rcnn(
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    num_classes: int = 1,
    *,
    num_keypoints: int = 17,
    keypoint_filters: Sequence[int] = (512,) * 8,
    name: str = "keypoint_rcnn",
    **options: Any,
) -> keras.Model:
    """Keypoint R-CNN: Faster R-CNN with a third head that marks the keypoints of every detected object.

    Input: (B, H, W, C) pictures, as `build_faster_rcnn`.
    Output: as `build_faster_rcnn`, and `keypoints` (B, D, K, 3): x, y in the picture's pixels, and a score, the height
    of the heat map's peak (not a probability). Targets of `fit` have `keypoints`.

    Paper: https://arxiv.org/abs/1703.06870. Differs from the paper: as `build_faster_rcnn`. 59,137,258 parameters for
    ResNet-50, one class and 17 keypoints.

    Args:
        input_shape: (height, width, channels); height and width may be None.
        num_classes: number of classes, background not included.
        num_keypoints: K.
        keypoint_filters: of the keypoint head's convolutions.
        name: name of the model.
        options: every option of `build_faster_rcnn`.

    Raises:
        ValueError: for an unknown option or a file that does not fit.
        TypeError: for an unknown argument, naming the right one.
    """
    return _build("keypointrcnn", **_merged(locals()))


def _merged(arguments: dict[str, Any]) -> dict[str, Any]:
    """The options of Faster R-CNN that are not among the arguments, with their defaults."""
    options = arguments.pop("options")
    shared = inspect.signature(build_faster_rcnn).parameters.values()
    defaults = {p.name: p.default for p in shared if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return {**defaults, **options, **arguments}


def _build(
    system: str,
    *,
    input_shape,
    num_classes,
    backbone,
    variant,
    backbone_weights,
    trainable_stages,
    frozen_normalization,
    pyramid_filters,
    box_units,
    anchor_sizes,
    rpn_score,
    class_agnostic,
    coco_outputs,
    weights,
    name,
    mask_filters=None,
    class_agnostic_masks=False,
    num_keypoints=None,
    keypoint_filters=(),
    **settings,
) -> keras.Model:
    variants = (*VARIANTS, *VARIANT_DEFAULTS) if system == "fasterrcnn" else VARIANTS
    check_task(input_shape, num_classes, background="background does not count")
    one_of("variant", variant, variants)
    check_widths(least=1, box_units=box_units)
    check_widths(mask_filters=mask_filters, keypoint_filters=keypoint_filters)
    second = variant == "v2"
    mobile = backbone == "mobilenetv3_large"
    published = weights is not None and os.fspath(weights).startswith("torchvision/")
    pretrained = backbone_weights is not None or weights is not None
    if coco_outputs is None:
        coco_outputs = published and num_classes == len(COCO_IDS)
    if coco_outputs and num_classes != len(COCO_IDS):
        raise ValueError(f"`coco_outputs` goes with {len(COCO_IDS)} classes. Received: num_classes={num_classes}")
    outputs = COCO_OUTPUTS if coco_outputs else num_classes + 1

    # The classifier of this network has weights for the fully connected layers of the head, too.
    head_weights = backbone_weights if variant == backbone == "vgg16" else None
    own, pyramid = isinstance(backbone, keras.Model), variant not in VARIANT_DEFAULTS
    body, convention = resolve_backbone(
        backbone,
        input_shape[-1],
        None if head_weights else backbone_weights,
        stages=(2, 3, 4, 5) if pyramid else (4, 5),
    )
    if own and not pyramid and (stride := stage_strides(body, (4,))[0]) != STRIDE:
        raise ValueError(
            f'stage "c4" of `backbone` must have the stride {STRIDE} for variant={variant!r}. Received: a model where '
            f"it is {stride}. Pass backbones.dilate(model, {STRIDE}), or the model as it was."
        )
    if frozen_normalization is None:
        frozen_normalization = pretrained and not second
    if frozen_normalization:
        # torchvision's frozen normalisation has this epsilon whatever its network was trained with.
        freeze_normalization(body, epsilon=1e-5 if _is_torchvisions(backbone) else None)
    if trainable_stages is None:
        # VGG's first stage is the second of the paper, which trains the last three of five. torchvision trains three,
        # and two of those that it counts in MobileNetV3 are our last.
        last = 4 if variant == backbone == "vgg16" else 2 if mobile else 3
        trainable_stages = last if pretrained else 5
        if f"c{5 - trainable_stages}" not in body.output:  # One's own need not give what nobody asked to freeze.
            trainable_stages = 5
    freeze_stages(body, trainable_stages)
    architecture = _architecture(system, backbone, second, (settings["min_size"], settings["max_size"]))
    usual = (2000, _SMALL_PROPOSALS if architecture == f"fasterrcnn_{_SMALL_MOBILE}" else 1000)
    for argument in ("rpn_pre_nms", "rpn_post_nms"):
        if settings[argument] is None:
            settings[argument] = VARIANT_DEFAULTS.get(variant, {}).get(argument, usual)
    if not pyramid:
        model = single_level_detector(
            variant,
            body,
            outputs,
            filters=pyramid_filters,
            units=box_units,
            class_agnostic=class_agnostic,
            input_shape=input_shape,
            convention=convention,
            name=name,
            head_weights=head_weights,
            anchor_sizes=anchor_sizes,
            rpn_score=rpn_score or 0.0,
            classes=COCO_IDS if coco_outputs else None,
            **settings,
        )
        if weights is not None:
            load_weights(model, weights)
        return model

    norm = "batch" if second else None
    stages, strides = (_MOBILE, (32, 32)) if mobile else (("c2", "c3", "c4", "c5"), (4, 8, 16, 32))
    if own:  # The last ones may be dilated.
        strides = tuple(stage_strides(body, (2, 3, 4, 5)))
    if anchor_sizes is None:
        anchor_sizes = ((32, 64, 128, 256, 512),) * 3 if mobile else ((32,), (64,), (128,), (256,), (512,))
    # The pyramid has one map more than the backbone has stages.
    rpn_score = (0.05 if mobile else 0.0) if rpn_score is None else rpn_score
    check_settings(anchor_sizes=anchor_sizes, levels=len(stages) + 1, rpn_score=rpn_score, **settings)
    maps = feature_pyramid(body, stages, pyramid_filters, normalization=norm)
    per_cell = len(anchor_sizes[0]) * len(settings["anchor_ratios"])
    box_units = box_units or ((1024,) if second else (1024, 1024))
    convolutions = (pyramid_filters,) * 4 if second else ()
    mask = keypoint = None
    if mask_filters is not None:
        kinds = 1 if class_agnostic_masks else outputs
        mask = mask_head(pyramid_filters, kinds, filters=mask_filters, normalization=norm)
    if num_keypoints is not None:
        keypoint = keypoint_head(pyramid_filters, num_keypoints, filters=keypoint_filters)
    model = Detector(
        maps,
        rpn_head(pyramid_filters, per_cell, convolutions=2 if second else 1),
        box_head(pyramid_filters, outputs, convolutions=convolutions, units=box_units, class_agnostic=class_agnostic),
        mask,
        keypoint,
        settings=DetectorSettings(
            anchor_sizes=anchor_sizes,
            region_levels=tuple(str(level) for level in range(len(stages))),
            region_strides=strides,
            surroundings=surrounding_color(convention, input_shape[-1]),
            rpn_score=rpn_score,
            class_agnostic=class_agnostic,
            classes=COCO_IDS if coco_outputs else None,
            **settings,
        ),
        input_shape=input_shape,
        convention=convention,
        name=name,
    )
    if weights is not None:
        load_weights(model, weights, architecture=architecture)
        if frozen_normalization and _trained_without_epsilon(weights, architecture):
            freeze_normalization(body, epsilon=0.0)
    return model


def _architecture(system: str, backbone, second: bool, sizes: tuple[int | None, int | None]) -> str | None:
    """torchvision's name of the network that brings pictures to `sizes`."""
    if not _is_torchvisions(backbone):
        return None
    small = backbone == "mobilenetv3_large" and sizes == _SMALL_PICTURES
    return f"{system}_{_SMALL_MOBILE if small else _TORCHVISION[backbone]}" + ("_v2" if second else "")


def _is_torchvisions(backbone) -> bool:
    """Whether torchvision has detectors on it."""
    return isinstance(backbone, str) and backbone in _TORCHVISION


def _trained_without_epsilon(weights: str | os.PathLike, architecture: str | None) -> bool:
    """Whether torchvision sets the frozen normalisation's epsilon to 0 for weights of this label or file name."""
    # Of the two files of keypoints this is coco_v1; for the other, coco_legacy, the epsilon stays.
    files = ("fasterrcnn_resnet50_fpn_coco", "maskrcnn_resnet50_fpn_coco", "keypointrcnn_resnet50_fpn_coco-fc266e95")
    if os.fspath(weights) == "torchvision/coco_v1":
        return architecture in ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn")
    return Path(weights).name.startswith(files)


__all__ = ["build_faster_rcnn", "build_keypoint_rcnn", "build_mask_rcnn"]
