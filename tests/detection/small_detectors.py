"""A Faster R-CNN that is built and run in a moment, for tests of how detectors are trained."""

from __future__ import annotations

import keras

from keras_cv_lectures.detection import build_faster_rcnn


def body():
    x = picture = keras.Input((None, None, 3), name="picture")
    stages = {}
    for k in range(1, 6):
        x = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu", name=f"conv{k}")(x)
        stages[f"c{k}"] = x
    return keras.Model(picture, stages, name="small")


def small_faster_rcnn(**options):
    """For pictures of 64x64 and two classes, without batch normalisation; `options` of the builder go first."""
    keras.utils.set_random_seed(0)
    small = {
        "variant": "vgg16",
        "backbone": body(),
        "pyramid_filters": 8,
        "box_units": (8,),
        "min_size": None,
        "max_size": None,
        "anchor_sizes": ((16, 32),),
        "rpn_pre_nms": (20, 20),
        "rpn_post_nms": (20, 20),
        "samples": 16,
        "max_detections": 10,
    }
    return build_faster_rcnn((64, 64, 3), 2, **{**small, **options})
