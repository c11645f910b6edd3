"""Detectors learn eight real pictures by heart, from scratch, in 200 steps."""

from __future__ import annotations

import dataclasses

import pytest

from keras_cv_lectures.data import open_source
from keras_cv_lectures.runners import load_runner
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import train

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.realdata]

NETWORK = {"backbone": "resnet14_v1_5", "pyramid_filters": 64, "box_units": (256, 256), "samples": 128}
UNCHANGED = {"flip": 0.0, "scale": (1.0, 1.0), "brightness": 0.0, "contrast": 0.0}


def _learnt_by_heart(system, spec, out, *, input_size, config):
    """Scores of the last epoch on the eight pictures that it was trained on."""
    recipe, source = SYSTEMS[system], open_source(spec, "train").subset(range(8))
    options = dataclasses.replace(
        recipe.options,
        epochs=4,
        steps_per_epoch=50,
        batch_size=4,
        input_size=input_size,
        learning_rate=2e-3,
        warmup_epochs=0.5,
    )
    run = train(
        recipe, source, out=out, config={**NETWORK, **config}, options=options, augmentation=UNCHANGED, verbose=0
    )
    assert len(run.history) == 4
    evaluation = recipe.evaluate(load_runner(out / "last.keras"), source)
    assert evaluation.pictures == 8
    return recipe.epoch_scores(evaluation)


def test_faster_rcnn_learns_blood_cells(realdata, tmp_path):
    """Three classes, 13 to 22 cells a picture, some of them cut or one over the other."""
    pytest.importorskip("pycocotools")
    found = _learnt_by_heart(
        "faster_rcnn",
        f"vocboxes:{realdata('bccd')}",
        tmp_path / "run",
        input_size=(240, 320),
        config={"rpn_pre_nms": (400, 200), "rpn_post_nms": (200, 150), "max_detections": 60},
    )
    assert found["ap50"] >= 0.95


def test_mask_rcnn_learns_nuclei(realdata, tmp_path):
    """5 to 82 nuclei a picture, most of them 6 to 25 pixels wide."""
    pytest.importorskip("pycocotools")
    folder = realdata("dsb2018")
    found = _learnt_by_heart(
        "mask_rcnn",
        f"coco:{folder}/annotations/instances_{{split}}.json,{folder}/images/{{split}}",
        tmp_path / "run",
        input_size=(256, 256),
        config={
            "anchor_sizes": ((8,), (16,), (32,), (64,), (128,)),
            "rpn_pre_nms": (600, 600),
            "rpn_post_nms": (300, 300),
            "max_detections": 150,
            "mask_filters": (64, 64),
        },
    )
    assert found["ap50"] >= 0.95
    assert found["mask_ap50"] >= 0.95
