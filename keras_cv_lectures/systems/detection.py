"""The region-based detectors.

An entry holds what is peculiar to the system; what all systems of the task share stands in `_detection`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from keras_cv_lectures.detection import build_faster_rcnn, build_keypoint_rcnn, build_mask_rcnn
from keras_cv_lectures.detection.single_level import VARIANT_DEFAULTS
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.evaluating import evaluate_detection, headline_scores
from keras_cv_lectures.evaluating.detection import check_headline
from keras_cv_lectures.exporting.agreement import compare_detections
from keras_cv_lectures.preprocessing import detection_batches
from keras_cv_lectures.recipe import Recipe, Reference, TrainingOptions

# The losses are the network's own.
_UNUSED = (
    "loss",
    "label_smoothing",
    "class_weights",
    "border_weights",
    "captions",
    "captions_per_picture",
    "min_count",
    "vocabulary",
    # Of the augmentation: pictures keep their aspect, and nothing is mirrored beyond their border.
    "resize",
    "fill",
)


def _detection(fields: tuple[str, ...] = (), **more: Any) -> Recipe:
    """A recipe of region-based detection.

    Args:
        fields: what the system learns beside boxes: "masks", "keypoints".
    """
    keys = {"masks": ("mask_pixels", "mask_windows", "instance_masks"), "keypoints": ("keypoints",)}
    kinds = ("", *(f"{field.removesuffix('s')}_" for field in fields))
    defaults = {
        "options": TrainingOptions(batch_size=4, input_size=(320, 320), keep_best="val_loss", clip_norm=5.0),
        "smoke_options": TrainingOptions(
            epochs=2,
            batch_size=2,
            input_size=(48, 64),
            warmup_epochs=0,
            learning_rate=5e-3,
            keep_best="val_loss",
            max_objects=8,
        ),
        "demo_options": TrainingOptions(
            epochs=12,
            batch_size=8,
            input_size=(96, 128),
            learning_rate=2e-3,
            keep_best="val_loss",
            clip_norm=5.0,
            max_objects=16,
        ),
        "augmentation": {"flip": 0.5, "scale": (0.8, 1.25), "brightness": 0.2, "contrast": 0.2},
        "make_batches": _object_batches,
        "keys": ("image", "boxes", "labels", "crowd", "difficult", *(key for field in fields for key in keys[field])),
        "add_weights": lambda source, options, class_weights: source,
        "count_labels": None,
        "unused": _UNUSED,
        "make_loss": lambda options, class_weights: None,
        "make_metrics": lambda classes: [],
        "evaluate": evaluate_detection,
        "epoch_scores": lambda evaluation: headline_scores(evaluation.scores),
        "epoch_score_names": tuple(kind + score for kind in kinds for score in ("ap", "ap50", "voc_ap50")),
        "check_score": check_headline,
        "agreement": _agreement,
        "context": lambda config, options, names: {
            "sizes": _sizes(more["build"], config),
            "max_objects": options.max_objects,
            "max_detections": _settings(more["build"], config)["max_detections"],
            "masks": "masks" in fields,
            "keypoints": "keypoints" in fields,
        },
        "fit_config": _sized_for_training,
        "check_source": lambda source: _check_objects(source, {field: keys[field] for field in fields}, more["name"]),
        "overfit_steps": 200,
        "overfit_rate": 3e-3,
        "names": lambda source, options: (source.object_classes, source.object_colors),
        "smoke": _SMALL_RCNN,
        "demo": _DEMO_RCNN,
    }
    return Recipe(**{**defaults, **more})


def _object_batches(dataset, *, output_size, base_size, context, **options):
    """`detection_batches` on a canvas of `output_size`."""
    del base_size  # Pictures are brought to the sizes in `context`, as the network itself brings them.
    return detection_batches(dataset, canvas=output_size, **context, **options)


def _sized_for_training(
    config: Mapping[str, Any], options: TrainingOptions, source, build: Any = None
) -> dict[str, Any]:
    """The detector brings pictures to the size that it is trained at, unless the builder was told another.

    Raises:
        ValueError: pictures of their own sizes have no common canvas to be validated on.
    """
    config = dict(config)
    if options.input_size is None:
        raise ValueError(
            "`input_size` must be (height, width) for a detector, the canvas that pictures are fitted into; crop_size "
            "takes windows of it. min_size=None in the network keeps pictures at their own size there. Received: "
            "input_size=None."
        )
    if not {"min_size", "max_size"} & config.keys():
        config |= {"min_size": min(options.input_size), "max_size": max(options.input_size)}
    if "num_keypoints" in config and source.keypoint_names:
        config["num_keypoints"] = len(source.keypoint_names)
    return config


def _check_objects(source, learned: Mapping[str, tuple[str, ...]], name: str) -> None:
    """Refuses `source` if one of what is `learned` is under none of its keys in the examples."""
    held = source[0] if len(source) else {}
    for field, keys in learned.items():
        if held and not held.keys() & keys:
            raise DataError(
                f"{source.name} holds no {field}, which {name} learns. Give data with {field}, or train faster_rcnn."
            )


def _sizes(build: Callable[..., Any], config: Mapping[str, Any]) -> tuple[int, float] | None:
    """(min_size, max_size) of the network that `build` makes of `config`; None: pictures keep their size."""
    settings = _settings(build, config)
    smallest, largest = settings["min_size"], settings["max_size"]
    return None if smallest is None else (smallest, math.inf if largest is None else largest)


def _settings(build: Callable[..., Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What `build` is called with for `config`, its defaults among them."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(build).parameters.items()}
    return {**defaults, **VARIANT_DEFAULTS.get(str(config.get("variant")), {}), **config}


def _agreement(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The smaller of two shares: detections with a partner, and how far partners overlap.

    Of what a person is shown: in 8 bits the many uncertain detections come and go.
    """
    found = compare_detections([(one, other)], score=0.5)
    return 1.0 if found.label_agreement is None else min(found.label_agreement, found.mean_iou)


_SMALL_RCNN = {
    "backbone": "resnet14_v1_5",
    "pyramid_filters": 32,
    "box_units": (64, 64),
    "anchor_sizes": ((8,), (16,), (32,), (64,), (128,)),
    "rpn_pre_nms": (100, 100),
    "rpn_post_nms": (50, 50),
    "max_detections": 20,
    # Enough to sample every anchor and every region: two replicas then see what one sees.
    "rpn_samples": 4096,
    "samples": 128,
}
_DEMO_RCNN = {
    **_SMALL_RCNN,
    "pyramid_filters": 64,
    "box_units": (256, 256),
    "rpn_pre_nms": (300, 300),
    "rpn_post_nms": (150, 100),
    "rpn_samples": 128,
    "samples": 64,
}
_RCNN = {
    "url": "https://arxiv.org/abs/1703.06870",
    "paper": "He, Gkioxari, Dollar, Girshick: Mask R-CNN, ICCV 2017",
    "year": 2017,
}
_PUBLISHED_RCNN = {"num_classes": 90, "frozen_normalization": True}

RECIPES: tuple[Recipe, ...] = (
    _detection(
        name="faster_rcnn",
        summary="Faster R-CNN: proposals from a feature pyramid, then a class and a box for each",
        build=build_faster_rcnn,
        config={},
        reference=Reference(
            paper="Ren, He, Girshick, Sun: Faster R-CNN, NeurIPS 2015, on a feature pyramid",
            year=2015,
            url="https://arxiv.org/abs/1506.01497",
            result="COCO val2017 (torchvision, ResNet-50 FPN): box AP 37.0",
            parameters=41_755_286,
            parameters_of=_PUBLISHED_RCNN,
        ),
    ),
    _detection(
        ("masks",),
        name="mask_rcnn",
        summary="Mask R-CNN: Faster R-CNN that also draws a mask in every box",
        build=build_mask_rcnn,
        config={},
        smoke={**_SMALL_RCNN, "mask_filters": (32, 32)},
        demo={**_DEMO_RCNN, "mask_filters": (64, 64)},
        reference=Reference(
            **_RCNN,
            result="COCO val2017 (torchvision, ResNet-50 FPN): box AP 37.9, mask AP 34.6",
            parameters=44_401_393,
            parameters_of=_PUBLISHED_RCNN,
        ),
    ),
    _detection(
        ("keypoints",),
        name="keypoint_rcnn",
        summary="Keypoint R-CNN: Faster R-CNN that also marks the keypoints of every object",
        build=build_keypoint_rcnn,
        config={"num_keypoints": 17},
        smoke={**_SMALL_RCNN, "keypoint_filters": (32, 32)},
        demo={**_DEMO_RCNN, "keypoint_filters": (64, 64, 64, 64)},
        reference=Reference(
            **_RCNN,
            result="COCO val2017, persons (torchvision, ResNet-50 FPN): box AP 54.6, keypoint AP 65.0",
            parameters=59_137_258,
            parameters_of={"num_classes": 1, "frozen_normalization": True},
        ),
    ),
)
