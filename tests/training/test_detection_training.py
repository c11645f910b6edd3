"""Detectors in the trainer: the sizes they see, and options and data that do not go with them."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import shapes_source
from keras_cv_lectures.errors import DataError, KcvlWarning
from keras_cv_lectures.evaluating import detection
from keras_cv_lectures.preprocessing import Augmentation
from keras_cv_lectures.preprocessing.detection import detection_example
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import train
from keras_cv_lectures.training.checks import warn_of_cut_pictures, warn_of_unmirrored_keypoints
from keras_cv_lectures.training.sizes import choose_input_size

RECIPE = SYSTEMS["faster_rcnn"]


@pytest.fixture(scope="module")
def source():
    return shapes_source(4, size=(48, 64), seed=1)


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        ({}, (48, 64)),
        ({"min_size": 40}, (40, 1333)),
        ({"max_size": 900}, (800, 900)),
        ({"min_size": 40, "variant": "vgg16"}, (40, 1000)),
        ({"min_size": 40, "max_size": None}, (40, math.inf)),
        ({"min_size": None}, None),
    ],
)
def test_pictures_are_brought_to_the_sizes_of_the_network(source, unfilled, config, sizes):
    """Of which the builder completes what is not given."""
    fitted = RECIPE.fit_config(config, RECIPE.smoke_options, source)
    assert RECIPE.context(fitted, RECIPE.smoke_options, ())["sizes"] == sizes
    if "variant" not in config:
        settings = unfilled(RECIPE.build, num_classes=2, **{**RECIPE.smoke, **fitted}).graph.settings
        assert (settings.min_size, settings.max_size or math.inf) == (sizes or (None, settings.max_size))
    example = {"image": np.zeros((48, 64, 3), np.uint8), "boxes": np.float32([[1, 1, 9, 9]]), "labels": np.int32([0])}
    scale = 1.0 if sizes is None else min(sizes[0] / 48, sizes[1] / 64)
    found = detection_example(example, canvas=(1000, 1000), sizes=sizes)
    np.testing.assert_array_equal(found["size"], [math.floor(48 * scale), math.floor(64 * scale)])


@pytest.mark.parametrize(("system", "kept", "missing"), [
    ("mask_rcnn", "keypoints", "masks"),
    ("keypoint_rcnn", "mask_pixels mask_windows", "keypoints"),
])  # fmt: skip
def test_data_without_what_the_head_learns_are_refused(source, tmp_path, system, kept, missing):
    keys = {"image", "image_id", "boxes", "labels", *kept.split()}
    poor = dataclasses.replace(source, read=lambda index: {k: v for k, v in source.read(index).items() if k in keys})
    recipe = SYSTEMS[system]
    for sources in ((poor, None), (source, poor)):
        with pytest.raises(DataError, match=f"holds no {missing}, which {system} learns.*or train faster_rcnn"):
            train(recipe, *sources, out=tmp_path / "run", config=recipe.smoke, options=recipe.smoke_options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("installed", "score", "message"),
    [
        (
            False,
            "mask_ap50",
            "`mask_ap50` is one of COCO's.*pip install 'keras_cv_lectures.coco.', or choose val_mask_voc_ap50",
        ),
        (False, "ap", "or choose val_voc_ap50"),
        (True, "voc_ap50", "Choose val_ap50"),
    ],
)
def test_a_score_that_this_machine_does_not_measure_cannot_choose(
    source, tmp_path, monkeypatch, installed, score, message
):
    monkeypatch.setattr(detection, "_has_pycocotools", lambda: installed)
    recipe = SYSTEMS["mask_rcnn"]
    options = dataclasses.replace(recipe.smoke_options, evaluate_every=1, keep_best=f"val_{score}")
    with pytest.raises(ValueError, match=message):
        train(recipe, source, source, out=tmp_path / "run", config=recipe.smoke, options=options)
    options = dataclasses.replace(options, keep_best=score)
    with pytest.raises(ValueError, match=f"begins with val_: val_{score}"):
        train(recipe, source, source, out=tmp_path / "run", config=recipe.smoke, options=options)


def test_a_detector_needs_a_canvas(source):
    options = dataclasses.replace(RECIPE.smoke_options, input_size=None, crop_size=(32, 32))
    with pytest.raises(ValueError, match="`input_size` must be .* for a detector.*crop_size takes windows of it"):
        RECIPE.fit_config(RECIPE.smoke, options, source)
    options, _ = choose_input_size(RECIPE, source, options)  # As `train` and the command do it.
    assert (options.input_size, options.crop_size) == ((48, 64), (32, 32))


@pytest.mark.parametrize(
    ("config", "canvas", "words"),
    [
        (
            {},
            (240, 320),
            "input_size=240x320 .* cuts 1 of 3 pictures .*=320x320 holds all",
        ),
        ({}, (320, 320), ""),
        (
            {"min_size": 300},
            (320, 320),
            "input_size=320x320 .* cuts 3 of 3 pictures .*=400x400 holds all",
        ),
    ],
)
def test_pictures_that_the_canvas_cuts_are_counted(tmp_path, config, canvas, words):
    for index, size in enumerate([(400, 300), (400, 300), (300, 400)]):  # Pillow's (width, height).
        Image.new("RGB", size).save(tmp_path / f"{index}.png")
    source = dataclasses.replace(
        shapes_source(3),
        read=lambda index: {"image": np.zeros((300, 400, 3) if index < 2 else (400, 300, 3), np.uint8)},
        files=lambda index: [tmp_path / f"{index}.png"],
    )
    options = dataclasses.replace(RECIPE.options, input_size=canvas)
    sizes = RECIPE.context(RECIPE.fit_config(config, options, source), options, ())["sizes"]
    with pytest.warns(KcvlWarning, match=words) if words else contextlib.nullcontext():
        warn_of_cut_pictures(source, sizes, canvas)


@pytest.mark.parametrize(
    ("names", "own", "augmentation", "told"),
    [
        (("tip", "base"), (0, 1), {"flip": 0.5}, True),
        (("tip", "base"), (), {"flip_vertical": 0.5}, True),
        (("tip", "base"), (0, 1), {"flip": 0.0}, False),
        (("tip", "base"), (0, 1), {"flip": 0.5, "keypoint_flip": (0, 1)}, False),
        (("tip", "base"), (1, 0), {"flip": 0.5}, False),  # The data say so themselves.
        (("eye_l", "eye_r"), (1, 0), {"flip": 0.5}, False),
        (("tip",), (0,), {"flip": 0.5}, False),
    ],
)
def test_keypoints_that_no_mirror_exchanges_are_told(source, names, own, augmentation, told):
    source = dataclasses.replace(source, keypoint_names=names, keypoint_flip=own)
    message = "no keypoint of tip, base has a partner.*keypoint_flip=.*says that there are no sides"
    with pytest.warns(KcvlWarning, match=message) if told else contextlib.nullcontext():
        warn_of_unmirrored_keypoints(source, Augmentation(**augmentation))


def test_a_training_with_keypoints_without_sides_says_so(source, tmp_path):
    """Before it finds that the detector has no classes."""
    recipe = SYSTEMS["keypoint_rcnn"]
    odd = dataclasses.replace(source, keypoint_names=tuple("abcde"), keypoint_flip=(0, 1, 2, 3, 4))
    config = {**recipe.smoke, "variant": "v9"}
    with pytest.warns(KcvlWarning, match="no keypoint of a, b, c, d, e"), pytest.raises(ValueError, match="variant"):
        train(recipe, odd, None, out=tmp_path / "run", config=config, options=recipe.smoke_options)
