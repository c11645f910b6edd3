"""`kcvl predict` and `kcvl evaluate` with detectors, on the files that a stranger has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from PIL import Image

from kcvl import commands, scoring
from kcvl.text import export_table, scores_table
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.runners import Runner

NAMES = ("cell", "dirt")
# Grey level of a picture -> its objects, and what the detector finds, surest first: label, box, score.
TRUTH = {50: [(0, (10, 10, 30, 40)), (1, (50, 20, 90, 50))], 100: []}
FOUND = {50: [(0, (10, 10, 30, 40), 0.9), (1, (50, 20, 90, 50), 0.6), (0, (60, 2, 70, 12), 0.071)], 100: []}
MASK_DATA = "folder:images,masks"


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    """A folder with pictures, a COCO file of their objects, and masks of classes."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "masks"):
        Path(name).mkdir()
    images, annotations = [], []
    for number, (grey, objects) in enumerate(TRUTH.items()):
        Image.fromarray(np.full((60, 100, 3), grey, np.uint8)).save(f"images/p{grey}.png")
        Image.fromarray(np.eye(60, 100, dtype=np.uint8)).save(f"masks/p{grey}.png")
        images.append({"id": number, "file_name": f"p{grey}.png", "height": 60, "width": 100})
        for label, (x1, y1, x2, y2) in objects:
            outline = [x1, y1, x2, y1, x2, y2, x1, y2]
            record = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "segmentation": [outline]}
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "iscrowd": 0, **record}
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(NAMES)]
    Path("objects.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )


@pytest.fixture
def detector(monkeypatch):
    """The function that makes `kcvl` load a detector whatever the path."""

    def install(*, classes=NAMES, masks=True):
        def run(images):
            found = FOUND[int(images[0, 0, 0, 0])]
            outputs = {
                "boxes": np.zeros((1, 4, 4), np.float32),
                "scores": np.zeros((1, 4), np.float32),
                "labels": np.full((1, 4), -1, np.int32),
                "count": np.int32([len(found)]),
            }
            for row, (label, box, score) in enumerate(found):
                outputs["boxes"][0, row], outputs["scores"][0, row], outputs["labels"][0, row] = box, score, label
            return outputs | ({"masks": np.ones((1, 4, 28, 28), np.float32)} if masks else {})

        _install(monkeypatch, run, classes, "boxes")

    return install


@pytest.fixture
def segmentation(monkeypatch):
    def run(images):
        return {"probabilities": np.full((*images.shape[:3], 2), 0.5, np.float32)}

    _install(monkeypatch, run, ("class 0", "class 1"), None)


def _install(monkeypatch, run, classes, known):
    shape = {"input_shape": (None, None, 3), "input_dtype": "uint8", "metadata": Metadata(classes=classes)}
    runner = Runner(kind="other", path=Path("model.tflite"), run=run, facts={"detector": known is not None}, **shape)
    for module in (commands, scoring):
        monkeypatch.setattr(module, "load_runner", lambda path: runner)


def test_predict_draws_and_lists_the_objects(detector):
    detector()
    code, out, err = call("predict", "model.tflite", "images", "--out", "found")
    assert code == 0, err
    assert out == (
        "2 objects with a score of at least 0.5 in 2 pictures: 1 cell, 1 dirt; 1 less sure (--score 0.07 shows all)\n"
        "wrote found/p100_objects.json\n      found/p100_overlay.png\n      found/p50_objects.json\n"
        "      found/p50_overlay.png\nnext  look at found\n"
    )
    found = json.loads(Path("found/p50_objects.json").read_text())
    assert [record["bbox"] for record in found["annotations"]] == [[10, 10, 20, 30], [50, 20, 40, 30]]
    assert json.loads(Path("found/p100_objects.json").read_text())["annotations"] == []
    with Image.open("found/p50_overlay.png") as picture:
        assert picture.size == (400, 240)  # small pictures are enlarged by a whole factor
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 2


def test_predict_shows_less_sure_ones_if_asked(detector):
    detector()
    code, out, err = call("predict", "model.tflite", "images/p50.png", "--score", "0.07", "--out", "found")
    assert code == 0, err
    assert out.startswith("3 objects with a score of at least 0.07 in 1 picture: 2 cell, 1 dirt\nwrote")
    assert len(json.loads(Path("found/p50_objects.json").read_text())["annotations"]) == 3


def test_evaluate_tells_average_precision(detector):
    pytest.importorskip("pycocotools")
    detector()
    code, out, err = call("evaluate", "model.tflite", "--data", "coco:objects.json,images")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "boxes"
    assert lines[1].split() == ["class", "AP", "AP50", "AP75", "VOC", "AP50", "best", "F1", "objects", "detections"]
    assert re.search(r"^cell +1\.0000 +1\.0000 +1\.0000 +1\.0000 +1\.0000 from score 0\.90 +1 +2$", out, re.M)
    assert re.search(r"^mean +1\.0000 +1\.0000 +1\.0000 +1\.0000 + 2 +3$", out, re.M)
    assert re.search(r"^AR, 100 detections a picture +1\.0000$", out, re.M)
    assert re.search(r"^AP, objects above 96x96 +absent$", out, re.M)
    assert "masks" in lines
    assert re.search(r"^2 pictures of .+ with 2 objects, 2 detections with a score of at least 0\.5, in ", out, re.M)
    assert out.endswith("next  kcvl predict model.tflite PICTURE --out predictions\n")
    out = call("evaluate", "model.tflite", "--data", "coco:objects.json,images", "--score", "0.7")[1]
    assert "2 objects, 1 detection with a score of at least 0.7, in" in out


def test_evaluate_a_file_that_knows_no_names(detector):
    detector(classes=(), masks=False)
    code, out, err = call("evaluate", "model.tflite", "--data", "coco:objects.json,images")
    assert code == 0, err
    assert re.search(r"^dirt +1\.0000", out, re.M)
    assert "masks" not in out.splitlines()


@pytest.mark.parametrize("known", [True, False])
def test_data_without_pictures_are_refused_by_name(detector, known):
    """Whether the model is known to be a detector, or only its answer to a picture would tell."""
    content = json.loads(Path("objects.json").read_text())
    Path("empty.json").write_text(json.dumps({**content, "images": [], "annotations": []}))
    detector()
    if not known:
        scoring.load_runner("model.tflite").facts.clear()
    train = ["train", "faster_rcnn", "--out", "never"]
    for words in (
        ["evaluate", "model.tflite", "--data", "coco:empty.json,images"],
        [*train, "--data", "coco:empty.json,images"],
        [*train, "--data", "coco:objects.json,images", "--val", "coco:empty.json,images"],
    ):
        code, _, err = call(*words)
        assert (code, "coco empty.json has no examples. Check the path" in err) == (1, True), words


def test_without_pycocotools_the_table_has_what_is_known():
    row = {"name": "cell", "ap": None, "voc_ap50": 0.5, "best_f1": None, "best_threshold": None}
    scores = {"boxes": {"ap": None, "voc_ap50": 0.5, "per_class": [{**row, "objects": 3, "detections": 0}]}}
    table = scores_table(scores).splitlines()
    assert [line.split() for line in table] == [
        ["boxes"],
        ["class", "VOC", "AP50", "best", "F1", "objects", "detections"],
        ["cell", "0.5000", "-", "3", "0"],
    ]


@pytest.mark.parametrize(
    ("spec", "system"),
    [
        ("coco:objects.json,images", "mask_rcnn"),
        ("coco:objects.json,images,masks=no", "faster_rcnn"),
        ("folder:images,masks", "unet"),
    ],
)
def test_the_doctor_names_a_system_that_learns_such_data(spec, system):
    code, out, err = call("doctor", spec)
    assert code == 0, out + err
    assert f"next  kcvl train {system} --data {spec} --out runs/mine" in out


def test_an_exported_detector_is_not_told_in_pixels():
    row = {"size_bytes": 2_000_000, "max_difference": 0.01, "label_agreement": 0.5}
    assert "labels as the model gives them   50.00 %" in export_table(row)
    lines = export_table({**row, "task": "detection"}).splitlines()
    assert [line.split("  ")[0] for line in lines if line] == [
        "size",
        "largest difference to the model's scores",
        "detections that the model has, too",
    ]


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (
            ["evaluate", "m", "--data", MASK_DATA],
            1,
            ["a detector learns", "masks of classes instead", "coco:JSON"],
        ),
        (["evaluate", "m", "--data", "voc:images"], 1, ["but voc:images has masks", "Give vocboxes:DIR"]),
        (["evaluate", "m", "--data", "coco:objects.json,images", "--original-size"], 2, ["is for masks of classes"]),
        (["evaluate", "m", "--data", "coco:objects.json,images", "--score", "2"], 2, ["from 0 to 1", "not '2'"]),
        (["predict", "m", "images", "--tile", "64", "--out", "never"], 1, ["is not predicted in tiles"]),
        (["predict", "m", "images", "--score", "high", "--out", "never"], 2, ["from 0 to 1", "not 'high'"]),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else None,
)
def test_what_does_not_fit_a_detector_is_refused(detector, words, code, parts):
    detector()
    found, _, err = call(*words)
    assert found == code, err
    for part in parts:
        assert part in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("segmentation")
@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["evaluate", "m", "--data", "coco:objects.json,images"], 1, "has boxes of objects. Give masks of classes"),
        (["evaluate", "m", "--data", MASK_DATA, "--score", "0.5"], 2, "--score is for detectors"),
        (["predict", "m", "images", "--score", "0.5", "--out", "never"], 2, "--score is for detectors"),
        (["train", "unet", "--data", "coco:objects.json,images", "--out", "never"], 1, "has boxes of objects"),
        (["train", "mask_rcnn", "--data", MASK_DATA, "--out", "never"], 1, "has masks of classes instead of boxes"),
    ],
    ids=str,
)
def test_what_does_not_fit_a_segmentation_or_a_system_is_refused(words, code, part):
    found, _, err = call(*words)
    assert (found, part in err) == (code, True), err
