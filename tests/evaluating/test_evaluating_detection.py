"""Scores of detectors on sources: known answers, classes by name, and data that does not fit."""

import json

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import coco_source, open_source
from keras_cv_lectures.data.source import Source
from keras_cv_lectures.evaluating import evaluate_detection, evaluate_segmentation
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.runners import Runner

SIZE = (64, 80)
NAMES = ("cell", "dirt")
# Pictures: objects as (label, box), every detection as (label, box, score).
TRUTH = [
    [(0, (8, 8, 24, 24)), (1, (40, 20, 72, 52))],
    [],
    [(0, (4, 4, 20, 36)), (0, (30, 4, 46, 36))],
]
FOUND = [
    [(0, (8, 8, 24, 24), 0.9), (1, (40, 20, 72, 52), 0.8)],
    [(1, (10, 10, 30, 30), 0.6)],  # nothing is there
    [(0, (4, 4, 20, 36), 0.7), (0, (30, 4, 46, 20), 0.4)],  # the second covers half of its object: IoU 0.5 exactly
]


def source_of(truth=TRUTH, *, masks=True, keypoints=False, crowd=None, classes=NAMES):
    """Each picture is known by its grey level."""

    def read(index):
        boxes = np.float32([box for _, box in truth[index]]).reshape(-1, 4)
        example = {
            "image": np.full((*SIZE, 3), index, np.uint8),
            "boxes": boxes,
            "labels": np.int32([label for label, _ in truth[index]]),
            "image_id": f"p{index}",
        }
        if masks:
            example["mask_windows"] = boxes.astype(np.int32)
            sides = boxes[:, 2:] - boxes[:, :2]
            example["mask_pixels"] = np.ones(int(sides.prod(axis=1).sum()), np.uint8)
        if keypoints:
            example["keypoints"] = np.concatenate([boxes[:, None, :2] + 2, np.full((len(boxes), 1, 1), 2)], axis=-1)
        if crowd is not None:
            example["crowd"] = np.array(crowd[index], bool)
        return example

    ids = tuple(f"p{i}" for i in range(len(truth)))
    colors = tuple((90 * i, 9, 9) for i in range(len(classes)))
    return Source(name="test", ids=ids, read=read, classes=classes, colors=colors, object_classes=classes)


def runner_of(found=FOUND, *, masks=True, keypoints=False, classes=NAMES):
    """Finds what `found` says for the picture of that grey level."""

    def run(images):
        index = int(images[0, 0, 0, 0])
        room = 12
        outputs = {
            "boxes": np.zeros((1, room, 4), np.float32),
            "scores": np.zeros((1, room), np.float32),
            "labels": np.full((1, room), -1, np.int32),
            "count": np.int32([len(found[index])]),
        }
        for row, (label, box, score) in enumerate(found[index]):
            outputs["boxes"][0, row], outputs["scores"][0, row], outputs["labels"][0, row] = box, score, label
        if masks:
            outputs["masks"] = np.ones((1, room, 28, 28), np.float32)
        if keypoints:
            places = outputs["boxes"][:, :, None, :2] + 2
            outputs["keypoints"] = np.concatenate([places, np.ones((1, room, 1, 1))], axis=-1).astype(np.float32)
        return outputs

    shape = {"input_shape": (None, None, 3), "input_dtype": "uint8"}
    return Runner(kind="other", metadata=Metadata(classes=classes), path=None, run=run, **shape)


def _segmentation():
    def run(images):
        return {"probabilities": np.full((*images.shape[:3], 3), 1 / 3, np.float32)}

    shape = {"input_shape": (None, None, 3), "input_dtype": "uint8"}
    return Runner(kind="other", metadata=Metadata(), path=None, run=run, **shape)


def test_scores_of_a_case_worked_by_hand():
    seen = []
    evaluation = evaluate_detection(runner_of(), source_of(), progress=lambda *done: seen.append(done))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert evaluation.kinds == ("boxes", "masks")
    assert (evaluation.pictures, evaluation.objects, evaluation.detections) == (3, 4, 4)  # one is below 0.5
    boxes = evaluation.scores["boxes"]
    cell, dirt = boxes["per_class"]
    # Cells: two of three found before the one that is wrong at IoU above 0.5; VOC's area is 2/3.
    assert cell["voc_ap50"] == pytest.approx(2 / 3)
    assert (cell["objects"], cell["detections"], dirt["objects"], dirt["detections"]) == (3, 3, 1, 2)
    assert dirt["voc_ap50"] == 1.0  # the right one comes first
    assert boxes["voc_ap50"] == pytest.approx((2 / 3 + 1) / 2)
    # F1 of cells is best when the two sure ones are kept: P 1, R 2/3.
    assert (cell["best_threshold"], cell["best_f1"]) == (pytest.approx(0.7), pytest.approx(0.8))
    # Of pictures, at scores of at least 0.5: all right; one false alarm; one of two objects found.
    assert evaluation.picture_f1 == pytest.approx([1.0, 0.0, 2 / 3])
    assert [len(curve.scores) for curve in evaluation.curves["boxes"]] == [3, 2]
    json.dumps(evaluation.scores)


def test_coco_counts_an_iou_of_exactly_half():
    """COCO asks for at least the threshold, VOC for more than it."""
    pytest.importorskip("pycocotools")
    cell, dirt = evaluate_detection(runner_of(masks=False), source_of()).scores["boxes"]["per_class"]
    assert (cell["ap50"], dirt["ap50"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert cell["ap75"] == pytest.approx(67 / 101)  # recall 0 ... 0.66 of the hundred and one


def test_a_higher_threshold_counts_fewer_detections():
    evaluation = evaluate_detection(runner_of(), source_of(), score_threshold=0.75)
    assert evaluation.detections == 2
    assert evaluation.picture_f1 == pytest.approx([1.0, 1.0, 0.0])
    assert evaluation.score_threshold == 0.75


def test_kinds_are_those_that_both_sides_have():
    def kinds(runner, source, **options):
        return evaluate_detection(runner, source, **options).kinds

    everything = {"masks": True, "keypoints": True}
    assert kinds(runner_of(**everything), source_of(**everything)) == ("boxes", "masks", "keypoints")
    assert kinds(runner_of(**everything), source_of(masks=False)) == ("boxes",)
    assert kinds(runner_of(masks=False), source_of(**everything)) == ("boxes",)
    assert kinds(runner_of(), source_of(), kinds=["masks"]) == ("masks",)
    keypoints = evaluate_detection(runner_of(**everything), source_of(**everything), kinds=("keypoints",))
    assert keypoints.scores["keypoints"]["per_class"][1]["voc_ap50"] == 1.0
    with pytest.raises(ValueError, match="test has no masks to compare with, only boxes"):
        kinds(runner_of(), source_of(masks=False), kinds=["masks"])
    with pytest.raises(ValueError, match="gives no masks"):
        kinds(runner_of(masks=False), source_of(), kinds=["masks"])
    for wrong in (["segm"], []):
        with pytest.raises(ValueError, match="`kinds` must"):
            kinds(runner_of(), source_of(), kinds=wrong)


def test_crowds_are_not_counted():
    crowd = [[False, True], [], [False, False]]
    evaluation = evaluate_detection(runner_of(), source_of(crowd=crowd))
    assert evaluation.objects == 3
    assert evaluation.scores["boxes"]["per_class"][1]["objects"] == 0
    assert evaluation.scores["boxes"]["per_class"][1]["voc_ap50"] is None
    assert evaluation.picture_f1[0] == 1.0


def test_areas_of_a_coco_file_are_those_of_pycocotools(tmp_path, capsys):
    """By its area an object is small, and its keypoints must lie closer; by its box it would be medium."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    boxes = [(10, 5, 50, 45), (20, 10, 60, 50)]  # 1600 square pixels
    areas = [800, 1500]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in range(2)],
        "categories": [{"id": 0, "name": "cell", "keypoints": ["nucleus"]}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i,
                "category_id": 0,
                "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": area,
                "num_keypoints": 1,
                "keypoints": [x1 + 4, y1 + 2, 2],  # the runner finds it two pixels to the left
            }
            for i, ((x1, y1, x2, y2), area) in enumerate(zip(boxes, areas, strict=True))
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    for i in range(2):
        Image.fromarray(np.full((*SIZE, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    source = coco_source(tmp_path / "a.json", tmp_path)
    runner = runner_of([[(0, box, 0.9)] for box in boxes], masks=False, keypoints=True, classes=("cell",))
    scores = evaluate_detection(runner, source).scores

    truth = coco.COCO(str(tmp_path / "a.json"))
    results = [
        {"image_id": i, "category_id": 0, "score": 0.9, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for i, (x1, y1, x2, y2) in enumerate(boxes)
    ]
    points = [{**result, "keypoints": [box[0] + 2, box[1] + 2, 1]} for result, box in zip(results, boxes, strict=True)]
    for kind, rows, places in (
        ("boxes", results, {"ap": 0, "ap_small": 3, "ap_medium": 4, "ap_large": 5}),
        ("keypoints", [{k: v for k, v in p.items() if k != "bbox"} for p in points], {"ap": 0, "ap50": 1, "ap75": 2}),
    ):
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(rows), {"boxes": "bbox"}.get(kind, kind))
        evaluation.params.kpt_oks_sigmas = np.array([0.05])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        expected = {name: evaluation.stats[place] for name, place in places.items()}
        found = {name: -1 if scores[kind][name] is None else scores[kind][name] for name in places}
        assert found == pytest.approx(expected, abs=1e-12)
    # exp(-2^2 / (2 * 0.1^2 * 800)) = 0.78 and 0.87 pass six and eight thresholds.
    assert 0.6 < scores["keypoints"]["ap"] < 0.8


def test_nothing_to_find_and_nothing_found():
    evaluation = evaluate_detection(runner_of([[], []]), source_of([[], []]))
    assert evaluation.scores["boxes"]["voc_ap50"] is None
    assert evaluation.picture_f1 == [1.0, 1.0]
    evaluation = evaluate_detection(runner_of([[], [], []]), source_of())
    assert evaluation.scores["boxes"]["voc_ap50"] == 0.0
    assert evaluation.picture_f1 == [0.0, 1.0, 0.0]


def test_classes_are_compared_by_name(caplog):
    """The model knows a class more, in another order; its detections of that one are no false alarms."""
    found = [[({0: 2, 1: 0}[label], box, score) for label, box, score in picture] for picture in FOUND]
    found[1] = [(1, (10, 10, 30, 30), 0.99)]  # a bubble, which the data does not have
    runner = runner_of(found, classes=("dirt", "bubble", "cell"))
    with caplog.at_level("INFO"):
        evaluation = evaluate_detection(runner, source_of())
    assert [row["name"] for row in evaluation.scores["boxes"]["per_class"]] == list(NAMES)
    assert evaluation.scores["boxes"]["per_class"][0]["voc_ap50"] == pytest.approx(2 / 3)
    assert evaluation.picture_f1[1] == 1.0
    assert evaluation.detections == 3
    assert "detections of bubble, which it does not have, are left out" in caplog.text


def test_other_names_are_compared_by_position_if_they_are_as_many(caplog):
    with caplog.at_level("INFO"):
        evaluation = evaluate_detection(runner_of(classes=("Zelle", "Schmutz")), source_of())
    assert evaluation.scores["boxes"]["per_class"][1]["voc_ap50"] == 1.0
    assert "compared by position with those of the model (Zelle, Schmutz)" in caplog.text
    assert evaluate_detection(runner_of(classes=()), source_of()).scores == evaluation.scores
    with pytest.raises(ValueError, match=r"finds 3 classes \(a, b, c\), test has 2 \(cell, dirt\).*labels=FILE"):
        evaluate_detection(runner_of(classes=("a", "b", "c")), source_of())


def test_many_objects_are_more_than_cocos_hundred(caplog):
    pytest.importorskip("pycocotools")
    boxes = [(0, (x, y, x + 4, y + 4)) for x in range(0, 80, 5) for y in range(0, 60, 5)]  # 192
    source = source_of([boxes], masks=False)

    def run(images):
        return {
            "boxes": np.float32([[box for _, box in boxes]]),
            "scores": np.linspace(0.9, 0.6, len(boxes), dtype=np.float32)[None],
            "labels": np.zeros((1, len(boxes)), np.int32),
        }

    shape = {"input_shape": (None, None, 3), "input_dtype": "uint8"}
    runner = Runner(kind="other", metadata=Metadata(), path=None, run=run, **shape)
    with caplog.at_level("INFO"):
        assert evaluate_detection(runner, source).scores["boxes"]["ap50"] < 0.6
    assert "a picture has 192 objects of one class" in caplog.text
    assert "finds at most" not in caplog.text
    scores = evaluate_detection(runner, source, max_detections=400).scores["boxes"]
    assert (scores["ap50"], scores["ar_400"], scores["voc_ap50"]) == (1.0, 1.0, 1.0)


def test_more_objects_than_the_detector_has_room_for_are_told(caplog):
    """It has room for 12; looking at more detections than it gives would not help."""
    boxes = [(0, (x, y, x + 4, y + 4)) for x in range(0, 80, 5) for y in range(0, 60, 5)]  # 192
    runner = runner_of([[(*row, 0.9) for row in boxes[:12]]])
    with caplog.at_level("INFO"):
        evaluate_detection(runner, source_of([boxes[:12]]))
        assert "finds at most" not in caplog.text
        evaluate_detection(runner, source_of([boxes]))
    assert "a picture has 192 objects, and the detector finds at most 12. Build it with max_detections=" in caplog.text
    assert "evaluate_detection(..., max_detections" not in caplog.text


def test_without_pycocotools_pascal_vocs_precision_is_there(monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "pycocotools" else find(name, *a))
    scores = evaluate_detection(runner_of(), source_of()).scores["boxes"]
    assert (scores["ap"], scores["per_class"][0]["ap75"]) == (None, None)
    assert scores["voc_ap50"] == pytest.approx((2 / 3 + 1) / 2)


def test_data_and_models_of_the_other_kind_are_refused():
    shapes = open_source("shapes:count=1,size=32x40")
    masks_only = Source(
        name="masks",
        ids=shapes.ids,
        read=lambda i: {key: shapes[i][key] for key in ("image", "mask")},
        classes=shapes.classes,
        colors=shapes.colors,
    )
    with pytest.raises(ValueError, match=r"masks has no boxes.*masks of classes, which are for segmentations.*coco:"):
        evaluate_detection(runner_of(), masks_only)
    with pytest.raises(ValueError, match=r"test has no masks of classes.*boxes, which are for detectors.*folder:"):
        evaluate_segmentation(_segmentation(), source_of())
    with pytest.raises(ValueError, match=r"is no detector.*evaluate_segmentation"):
        evaluate_detection(_segmentation(), source_of())
    with pytest.raises(ValueError, match=r"is a detector.*evaluate_detection"):
        evaluate_segmentation(runner_of([[]] * 256), masks_only)
    with pytest.raises(ValueError, match="holds no pictures"):
        evaluate_detection(runner_of(), source_of([]))


def test_generated_shapes_with_dense_masks():
    source = open_source("shapes:count=2,size=48x64")
    found = [[(label, tuple(box), 0.9) for label, box in zip(e["labels"], e["boxes"], strict=True)] for e in source]
    known = [np.asarray(e["image"]) for e in source]
    runner = runner_of(found, classes=source.object_classes)

    def run(images):
        index = next(i for i, image in enumerate(known) if (image == images[0]).all())
        return runner.run(np.full((1, 1, 1, 3), index, np.uint8))

    fields = {"input_shape": (None, None, 3), "input_dtype": "uint8", "metadata": runner.metadata, "path": None}
    evaluation = evaluate_detection(Runner(kind="other", run=run, **fields), source)
    assert evaluation.kinds == ("boxes", "masks")
    assert evaluation.scores["boxes"]["voc_ap50"] == 1.0
    assert 0 < evaluation.scores["masks"]["voc_ap50"] <= 1.0
