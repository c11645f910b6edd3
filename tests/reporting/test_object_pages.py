"""What a run folder of a detector keeps and shows, with a detector that is made of the labels themselves."""

import dataclasses
import json
import types

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from keras_cv_lectures.data import open_source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.evaluating import DetectionEvaluation, headline_scores
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.metrics.average_precision import PrecisionRecall, average_precision
from keras_cv_lectures.predicting import DetectionResult
from keras_cv_lectures.reporting import (
    data_overview,
    evaluate_run,
    exports,
    objects,
    pages,
    refresh_report,
    report_evaluation,
    training_source,
)
from keras_cv_lectures.systems import SYSTEMS

SPEC = "shapes:count=24,size=48x64,seed=3"
SHOWN = 0.5


EMPTY = 7


@pytest.fixture(scope="module")
def source():
    """Generated shapes; the picture at `EMPTY` has no object."""
    shapes = open_source(SPEC, split="train")

    def read(index):
        example = shapes.read(index)
        keys = ("boxes", "labels", "instance_masks", "keypoints") if index == EMPTY else ()
        return {**example, **{key: example[key][:0] for key in keys}}

    return dataclasses.replace(shapes, read=read)


def evaluation(source, f1, **changes):
    curve = PrecisionRecall(
        name="circle", objects=2, recall=np.array([0.5, 1.0]), precision=np.ones(2), scores=np.array([0.9, 0.6])
    )
    numbers = {"ap": 0.25, "ap50": 0.5, "ap75": float("nan"), "voc_ap50": 0.5}
    numbers["per_class"] = [{"name": name, "voc_ap50": 0.5, "objects": 2} for name in source.object_classes]
    fields = {
        "scores": {"boxes": numbers, "masks": numbers},
        "curves": {"boxes": [curve], "masks": [curve]},
        "kinds": ("boxes", "masks"),
        "picture_f1": list(f1),
        "score_threshold": SHOWN,
        "pictures": len(source),
        "objects": 40,
        "detections": 50,
        "seconds": 1.0,
    }
    return DetectionEvaluation(**fields | changes)


@pytest.fixture
def detector(source, monkeypatch):
    """A runner whose answers are the labelled boxes, the classes in reverse order, and one unsure box more."""
    names = source.object_classes[::-1]
    examples = {example["image"].tobytes(): example for example in source}

    def predict(runner, image):
        example = examples[image.tobytes()]
        count = len(example["labels"])
        return DetectionResult(
            image=image,
            boxes=np.concatenate([example["boxes"], np.float32([[0, 0, 5, 5]])]),
            scores=np.float32([0.9] * count + [0.1]),
            labels=np.append(len(names) - 1 - example["labels"], 0).astype(np.int32),
            classes=names,
            colors=source.object_colors[::-1],
            mask_probabilities=np.ones((count + 1, 4, 4), np.float32),
        )

    runner = types.SimpleNamespace(metadata=Metadata(system="mask_rcnn", classes=names), path="runs/mine", facts={})
    monkeypatch.setattr(objects, "predict", predict)
    monkeypatch.setattr(pages, "load_runner", lambda folder: runner)
    return runner


@pytest.fixture
def run_folder(tmp_path, source):
    run = {
        "system": "mask_rcnn",
        "classes": list(source.object_classes),
        "colors": [list(color) for color in source.object_colors],
        "data": SPEC,
        "command": "kcvl train mask_rcnn",
    }
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    (tmp_path / "train_ids.txt").write_text("\n".join(source.ids[2:5]) + "\n", encoding="utf-8")
    return tmp_path


def test_a_long_curve_keeps_its_shape():
    random = np.random.default_rng(0)
    right = random.random(3000) < np.linspace(1.0, 0.05, 3000)
    hits = np.cumsum(right)
    scores = np.linspace(1, 0, 3000).round(3)  # many equal ones
    curve = PrecisionRecall(
        name="a", objects=1500, recall=hits / 1500, precision=hits / np.arange(1, 3001), scores=scores
    )
    recall, precision, kept = (np.array(values) for values in objects._thinned(curve))
    assert len(recall) == len(precision) == len(kept) <= 200
    assert abs(average_precision(recall, precision) - curve.average_precision()) < 0.01
    threshold, f1 = curve.best_threshold()
    best = int(np.flatnonzero(np.isclose(kept, threshold))[-1])
    assert 2 * precision[best] * recall[best] / (precision[best] + recall[best]) == pytest.approx(f1, abs=1e-5)
    assert recall[-1] == pytest.approx(hits[-1] / 1500, abs=1e-6)
    short = dataclasses.replace(curve, recall=curve.recall[:3], precision=curve.precision[:3], scores=scores[:3])
    np.testing.assert_allclose(objects._thinned(short)[1], short.precision, atol=1e-6)


def test_a_file_is_judged_by_coco_s_numbers_or_else_by_pascal_voc_s():
    some, none = {"ap": 0.2, "ap50": 0.5, "voc_ap50": 0.4}, {"ap": None, "ap50": None, "voc_ap50": 0.4}
    assert headline_scores({"boxes": some, "masks": none}) == {"ap": 0.2, "ap50": 0.5, "mask_voc_ap50": 0.4}
    assert headline_scores({"keypoints": {**none, "voc_ap50": None}}) == {}


def test_best_and_worst_pictures(source, detector):
    f1 = np.linspace(0.9, 0.1, len(source))
    f1[EMPTY], f1[3] = 1.0, np.nan
    found = objects.objects_json(evaluation(source, f1), source)
    json.dumps(found, allow_nan=False)
    best, worst = objects.object_examples(detector, source, found)
    ranked = [i for i in range(len(source)) if i not in (EMPTY, 3)]
    assert [picture.caption for picture in best] == [source.ids[i] for i in ranked[:4]]
    assert [picture.caption for picture in worst] == [source.ids[i] for i in ranked[:-5:-1]]
    for picture in best:
        objects_there = len(picture.truth["labels"])
        # The unsure box is not shown, and classes are compared by their names.
        np.testing.assert_array_equal(picture.prediction["labels"], picture.truth["labels"])
        assert len(picture.found) == objects_there
        assert "masks" in picture.truth
        assert "keypoints" not in picture.truth
    by_boxes = {**found, "kinds": ["boxes"]}
    picture = objects.object_examples(detector, source, by_boxes)[0][0]
    assert picture.counts() == (len(picture.truth["labels"]), 0, 0)
    assert "masks" not in picture.prediction
    assert objects.object_examples(detector, source.subset(range(5)), found) == ([], [])
    two = objects.objects_json(evaluation(source.subset([0, 1]), [0.5, 0.5]), source)
    best, worst = objects.object_examples(detector, source.subset([0, 1]), two)
    assert {p.caption for p in best} | {p.caption for p in worst} == set(source.ids[:2])


def test_a_run_folder_gets_its_page(source, detector, run_folder, monkeypatch):
    some = source.subset(range(4))
    recipe = dataclasses.replace(SYSTEMS["mask_rcnn"], evaluate=lambda *a, **k: evaluation(some, [1, 0.5, 0.2, 0.1]))
    evaluate_run(recipe, run_folder, some)
    text = refresh_report(recipe, run_folder, some).read_text(encoding="utf-8")
    for shown in ("box AP50", "mask AP50", "boxes, masks of 40 objects in 4 pictures", "Training data", "F1 0.500"):
        assert shown in text
    assert source.ids[0] in text
    assert "pixel accuracy" not in text
    sheet = (run_folder / "data.png").read_bytes()
    # The pictures that were trained on, with masks, which this system learns, and without keypoints.
    expected = data_overview(source.subset([2, 3, 4]), kinds=("masks",))
    with Image.open(run_folder / "data.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), expected)
    monkeypatch.setattr(objects, "data_overview", None)  # made once
    refresh_report(recipe, run_folder, None)
    assert (run_folder / "data.png").read_bytes() == sheet
    # What is in a run folder can be read up.
    table = (ROOT / "saved_models" / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{path.name}` |" in table for path in run_folder.iterdir())


def test_a_page_without_evaluation_and_without_its_data(source, run_folder):
    run = json.loads((run_folder / "run.json").read_text(encoding="utf-8"))
    (run_folder / "run.json").write_text(json.dumps({**run, "data": "coco:/no/such.json,/no"}), encoding="utf-8")
    text = refresh_report(SYSTEMS["faster_rcnn"], run_folder, None).read_text(encoding="utf-8")
    assert "was not evaluated on pictures with labelled objects" in text
    assert "Training data" not in text
    assert "compared" not in text
    assert not (run_folder / "data.png").exists()


def test_an_evaluation_on_any_data(source, detector, tmp_path):
    some = source.subset(range(2))
    report_evaluation(tmp_path, detector, some, evaluation(some, [1.0, 0.25]), command="kcvl evaluate")
    kept = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert kept["scores"]["boxes"]["ap50"] == 0.5
    assert kept["scores"]["boxes"]["ap75"] is None
    assert kept["curves"]["masks"]["circle"] == [[0.5, 1.0], [1.0, 1.0], [0.9, 0.6]]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "runs/mine" in text
    assert "Training data" not in text


def test_the_data_of_a_run(source):
    run = {"data": SPEC, "train_ids": [source.ids[4], source.ids[1]]}
    assert training_source(run).ids == (source.ids[1], source.ids[4])
    assert training_source({}) is None
    assert training_source({"data": "coco:/no/such.json,/no"}) is None
    with pytest.raises(DataError, match="no labelled objects"):
        data_overview(dataclasses.replace(source, object_classes=()))


def test_a_detector_is_calibrated_with_pictures_as_it_sees_them(source):
    read = exports._picture_reader(source, (None, None, None, 3), (32, 64), (32, 64), (0, 0), True)
    picture = read(0)
    assert picture.shape == (32, 64, 3)
    assert picture.dtype == np.uint8
    assert (picture[:, 43:] == (124, 116, 104)).all()  # 48 x 64 pixels become 32 x 43
    assert (picture[:, :43] != (124, 116, 104)).any(axis=-1).mean() > 0.9


def test_an_exported_detector_is_scored(source, monkeypatch):
    monkeypatch.setattr(exports, "load_runner", lambda path: None)
    scored = exports._scoring_data(None, {"val_data": SPEC, "classes": []}, Metadata(), needed=True)
    ideal = evaluation(source, [1.0] * len(source))
    found, scored_on = exports._score_file("a.tflite", lambda runner, data: ideal, scored, None)
    assert found == {"ap": 0.25, "ap50": 0.5, "mask_ap": 0.25, "mask_ap50": 0.5}
    assert scored_on == open_source(SPEC, split="val").name
