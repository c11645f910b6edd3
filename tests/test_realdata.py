"""The main job on real pictures: train, evaluate, export to int8, predict the same from every file."""

from __future__ import annotations

import json

import numpy as np
import pytest

import keras_cv_lectures as kcvl
from kcvl import main
from keras_cv_lectures.data import doctor

pytestmark = [pytest.mark.slow, pytest.mark.realdata]

SETTINGS = [
    "input_size=90x120", "filters=12", "depth=3", "epochs=8", "learning_rate=4e-3",
    "class_weights=sqrt_median_frequency",
]  # fmt: skip


@pytest.fixture(scope="module")
def camvid(realdata):
    return f"camvid:{realdata('camvid')}"


@pytest.fixture(scope="module")
def run(camvid, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "camvid"
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    assert main(["train", "unet", "--data", camvid, *settings, "--out", str(out)]) == 0
    return out


def test_camvid_is_learnt(run):
    """Far from converged, but far from chance: sky, road and buildings alone give about 0.2."""
    scores = json.loads((run / "evaluation.json").read_text())["scores"]
    assert scores["mean_iou"] > 0.25
    assert scores["pixel_accuracy"] > 0.7
    assert "data:image/png;base64" in (run / "report.html").read_text()


def test_int8_loses_at_most_one_point(run, camvid, tmp_path):
    scores = {}
    for precision in ("float32", "int8"):
        out = tmp_path / precision
        assert main(["export", str(run), "--precision", precision, "--out", str(out)]) == 0
        scores[precision] = json.loads((out / f"unet_{precision}.json").read_text())["metrics"]["mean_iou"]
    assert scores["int8"] > scores["float32"] - 0.01


def test_every_file_predicts_the_same_classes(run, camvid, tmp_path):
    example = kcvl.open_source(camvid, "val")[7]
    expected = kcvl.predict(run, example["image"]).class_map
    assert expected.shape == example["mask"].shape
    for kind, file in (("tflite", "unet_float32.tflite"), ("saved_model", "unet_saved_model")):
        assert main(["export", str(run), "--format", kind, "--out", str(tmp_path)]) == 0
        found = kcvl.predict(tmp_path / file, example["image"]).class_map
        assert np.mean(found == expected) > 0.9999


@pytest.mark.parametrize("name", ["camvid:camvid", "folder:isbi2012/image,isbi2012/label"])
def test_doctor_passes_the_real_data(realdata, name):
    kind, paths = name.split(":")
    spec = f"{kind}:" + ",".join(str(realdata(path)) for path in paths.split(","))
    report = doctor(spec)
    assert report.ok, report.text()
    assert report.examples > 20


def test_isbi_slices_are_learnt_from_crops(realdata, tmp_path):
    """Binary 0/255 masks, grey pictures, elastic deformation, the border-weight map, whole slices predicted."""
    folder = realdata("isbi2012")
    spec = f"folder:{folder / 'image'},{folder / 'label'},channels=1"
    settings = "crop_size=128x128 filters=8 depth=3 epochs=6 steps_per_epoch=25 elastic=6 rotate=45 border_weights=True"
    out = tmp_path / "isbi"
    arguments = [part for setting in settings.split() for part in ("--set", setting)]
    assert main(["train", "unet", "--data", spec, *arguments, "--out", str(out)]) == 0
    scores = json.loads((out / "evaluation.json").read_text())["scores"]
    # All cell would be about 0.78.
    assert scores["pixel_accuracy"] > 0.8
