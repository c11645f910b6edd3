"""COCO's numbers on cases worked by hand, and against pycocotools called as its own examples call it."""

import contextlib
import io
import json
import sys

import numpy as np
import pytest

from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.geometry.masks import pack_masks
from keras_cv_lectures.geometry.rle import polygons_to_mask, rle_decode, rle_encode
from keras_cv_lectures.metrics.coco import CocoEvaluator, coco_scores
from keras_cv_lectures.metrics.overlaps import COCO_SIGMAS

CLASSES = ("cell", "platelet")
NOTHING = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, np.int32), "scores": np.zeros(0)}
DETECTION_STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100")
DETECTION_STATS += ("ar_small", "ar_medium", "ar_large")
ONE = pytest.approx(1, abs=1e-12)  # the program divides by one and the spacing of floating point numbers
KEYPOINT_STATS = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")


def objects(boxes, labels=None, scores=None, **more):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    found = {"boxes": boxes, "labels": np.array([0] * len(boxes) if labels is None else labels, np.int32)}
    if scores is not None:
        found["scores"] = np.array(scores, np.float32)
    return found | more


def square(x, y=0, side=10):
    return [x, y, x + side, y + side]


def dense(boxes, size=(40, 60)):
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks


@pytest.fixture(autouse=True)
def installed():
    pytest.importorskip("pycocotools")


def test_perfect_detections_score_one_and_nothing_is_printed(capfd):
    truths = [objects([square(0), square(20, side=40), square(70, side=100)], labels=[0, 1, 0])]
    scores = coco_scores(truths, [truths[0] | {"scores": np.array([0.2, 0.9, 0.5])}], CLASSES)
    assert [scores[name] for name in ("ap", "ap50", "ap75", "ar_10", "ar_100")] == [ONE] * 5
    # One detection of two cells, the only platelet.
    assert scores["ar_1"] == pytest.approx((1 / 2 + 1) / 2)
    assert [scores[f"ap_{size}"] for size in ("small", "medium", "large")] == [ONE] * 3
    assert scores["per_class"] == [
        {"name": "cell", "ap": ONE, "ap50": ONE, "ap75": ONE, "ar": 1, "objects": 2},
        {"name": "platelet", "ap": ONE, "ap50": ONE, "ap75": ONE, "ar": 1, "objects": 1},
    ]
    assert json.loads(json.dumps(scores)) == scores
    assert capfd.readouterr() == ("", "")


def test_a_box_shifted_by_a_fifth_passes_four_of_ten_thresholds():
    # 8 of 10 columns are common: IoU 8 / 12 passes 0.50, 0.55, 0.60, 0.65.
    truths, predictions = [objects([square(0)])], [objects([square(2)], scores=[0.5])]
    scores = coco_scores(truths, predictions, CLASSES)
    assert (scores["ap"], scores["ap50"], scores["ap75"]) == (pytest.approx(0.4), ONE, 0)
    assert scores["ar_1"] == pytest.approx(0.4)
    assert scores["ap_medium"] is None
    assert scores["per_class"][1] == {
        "name": "platelet", "ap": None, "ap50": None, "ap75": None, "ar": None, "objects": 0,
    }  # fmt: skip


def test_a_duplicate_costs_precision_only_before_the_last_object():
    truths = [objects([square(0), square(40)])]
    after = [objects([square(0), square(40), square(0)], scores=[0.9, 0.8, 0.7])]
    assert coco_scores(truths, after, CLASSES)["ap"] == ONE
    before = [objects([square(0), square(40), square(0)], scores=[0.9, 0.7, 0.8])]
    # Right, wrong, right: precision 1 up to recall 1/2 (51 of the 101 points), then 2/3.
    assert coco_scores(truths, before, CLASSES)["ap"] == pytest.approx((51 + 50 * 2 / 3) / 101)


@pytest.mark.parametrize("mark", ["crowd", "difficult"])
def test_a_crowd_holds_any_number_of_detections(mark):
    crowd = {mark: np.array([False, True])}
    truth = objects([square(0), [100, 0, 200, 100]], **crowd)
    boxes = [square(0), square(110), square(150), square(150, 50)]
    assert coco_scores([truth], [objects(boxes, scores=[0.1, 0.9, 0.8, 0.7])], CLASSES)["ap"] == ONE
    plain = objects([square(0), [100, 0, 200, 100]])
    # Three wrong before the right one; two objects, of which the large one is never found: 51 points of 1/4.
    found = coco_scores([plain], [objects(boxes, scores=[0.1, 0.9, 0.8, 0.7])], CLASSES)["ap"]
    assert found == pytest.approx(51 / 101 / 4)
    every = coco_scores([objects([square(0)], **{mark: np.array([True])})], [NOTHING], CLASSES)
    assert every["ap"] is None
    assert every["per_class"][0]["objects"] == 0


def test_pictures_without_objects():
    assert coco_scores([objects([])], [NOTHING], CLASSES)["ap"] is None
    assert coco_scores([objects([square(0)])], [NOTHING], CLASSES)["ap"] == 0
    truths = [objects([]), objects([square(0)]), {"boxes": [], "labels": []}]
    predictions = [objects([square(0)], scores=[0.9]), objects([square(0)], scores=[0.8]), NOTHING]
    assert coco_scores(truths, predictions, CLASSES)["ap"] == pytest.approx(1 / 2)
    with pytest.raises(DataError, match="no picture to evaluate"):
        coco_scores([], [], CLASSES)
    for kind, more in (("masks", {"masks": []}), ("keypoints", {"keypoints": np.zeros((0, 5, 3))})):
        assert coco_scores([objects([]) | more], [NOTHING | more], CLASSES, kind=kind)["ap"] is None


def test_the_first_object_of_the_first_picture_counts():
    # Its id must not be 0, which COCO's program takes for "not matched".
    truths = [objects([square(0)]), objects([square(0)])]
    predictions = [objects([square(0)], scores=[0.9]), NOTHING]
    assert coco_scores(truths, predictions, CLASSES)["ap"] == pytest.approx(51 / 101)


def test_padded_rows_are_left_out():
    truth = objects([square(0), [0, 0, 0, 0]], labels=[0, -1])
    prediction = objects([square(0), [0, 0, 0, 0]], labels=[0, -1], scores=[0.1, 0.9])
    assert coco_scores([truth], [prediction], CLASSES)["ap"] == ONE


def test_most_detections_and_class_agnostic():
    boxes = [square(12 * i) for i in range(6)]
    truth, prediction = objects(boxes), objects(boxes, labels=[1] * 6, scores=np.linspace(0.9, 0.1, 6))
    assert coco_scores([truth], [prediction], CLASSES)["ap"] == 0
    agnostic = coco_scores([truth], [prediction], CLASSES, class_agnostic=True, max_detections=(3, 5))
    assert agnostic["ar_3"] == pytest.approx(3 / 6)
    assert agnostic["ar_5"] == pytest.approx(5 / 6)
    assert agnostic["ap"] == pytest.approx(84 / 101)  # recalls 0 ... 0.83
    assert [row["name"] for row in agnostic["per_class"]] == ["object"]


def test_areas_come_from_the_annotator_then_the_mask_then_the_box():
    boxes = np.array([[0, 0, 40, 40]])
    truth, prediction = objects(boxes), objects(boxes, scores=[1])
    assert coco_scores([truth], [prediction], CLASSES)["ap_small"] is None
    assert coco_scores([truth | {"area": np.array([1000.0])}], [prediction], CLASSES)["ap_small"] == ONE
    half = {"instance_masks": dense([[0, 0, 20, 40]])}
    assert coco_scores([truth | half], [prediction | half], CLASSES, kind="masks")["ap_small"] == ONE


def test_masks_in_every_form():
    boxes = [[0, 0, 10, 20], [30, 5, 60, 40]]
    shifted = [[2, 0, 12, 20], [36, 5, 60, 40]]  # IoU 8/12: four thresholds; 24/30 = 0.8: seven
    masks, others = dense(boxes), dense(shifted)
    pixels, windows = pack_masks(others)
    truth = objects(boxes, instance_masks=masks)
    forms = [
        {"instance_masks": others},
        {"mask_pixels": pixels, "mask_windows": windows},
        {"masks": [rle_encode(mask) for mask in others]},
        {"masks": [rle_encode(mask, compress=True) for mask in others]},
    ]
    for form in forms:
        prediction = objects(boxes, scores=[0.1, 0.9], **form, size=(40, 60))
        ap = coco_scores([truth | {"size": (40, 60)}], [prediction], CLASSES, kind="masks")["ap"]
        # Both found at four thresholds, at three more the surer one of two: 51 points.
        assert ap == pytest.approx((4 + 3 * 51 / 101) / 10)


def test_windows_beyond_the_picture_are_cut():
    mask = {"mask_pixels": np.ones(100, np.uint8), "mask_windows": np.array([[-5, -5, 5, 5]])}
    whole = {"masks": [rle_encode(dense([[0, 0, 5, 5]], (8, 8))[0])], "size": np.array([8, 8])}
    truth, prediction = objects([square(0)], **whole), objects([square(0)], scores=[1], **mask)
    assert coco_scores([truth], [prediction], CLASSES, kind="masks")["ap"] == ONE
    outside = mask | {"mask_windows": np.array([[-20, 0, -10, 10]])}
    assert coco_scores([truth], [prediction | outside], CLASSES, kind="masks")["ap"] == 0


def test_keypoints_by_hand():
    # sigma 0.1 and area 100: OKS of one point at distance d is exp(-d^2 / 8). At distance 2: 0.607, at thresholds
    # 0.50, 0.55 and 0.60; the second object's other point is not labelled.
    truth = objects([square(0), square(100)], keypoints=[[[1, 1, 2], [9, 9, 2]], [[101, 1, 2], [0, 0, 0]]])
    points = np.array([[[1, 3, 1], [7, 9, 1]], [[103, 1, 1], [5, 5, 1]]], float)
    prediction = objects([square(0), square(100)], scores=[0.9, 0.8], keypoints=points)
    scores = coco_scores([truth], [prediction], CLASSES, kind="keypoints", sigmas=(0.1, 0.1))
    assert scores["ap"] == pytest.approx(0.3)
    assert (scores["ap50"], scores["ar50"]) == (ONE, 1)
    assert scores["ar75"] == 0
    assert coco_scores([truth], [prediction], CLASSES, kind="keypoints")["ap"] == 0  # 0.05: exp(-4/2)
    unlabelled = truth | {"keypoints": np.zeros((2, 2, 3))}
    found = coco_scores([unlabelled], [prediction], CLASSES, kind="keypoints")
    assert found["ap"] is None
    assert found["per_class"][0]["objects"] == 0


def test_curves_of_the_result():
    evaluator = CocoEvaluator(CLASSES)
    evaluator.add(objects([square(0), square(40)]), objects([square(0), square(80)], scores=[0.9, 0.8]))
    result = evaluator.result()
    assert result.precision.shape == result.score.shape == (10, 101, 2)
    np.testing.assert_allclose(result.thresholds, np.arange(50, 100, 5) / 100)
    np.testing.assert_allclose(result.precision[0, :, 0], result.recall <= 0.5, atol=1e-12)
    np.testing.assert_allclose(result.score[0, :51, 0], np.float32(0.9))
    assert np.isnan(result.precision[..., 1]).all()
    again = evaluator.result()  # evaluating leaves what was collected as it was
    assert again.scores == result.scores


def test_refusals(monkeypatch):
    masked = objects([square(0)], mask_pixels=np.ones(4, np.uint8), mask_windows=np.array([[0, 0, 2, 2]]))
    with pytest.raises(DataError, match="picture 0: masks by windows need the size"):
        coco_scores([masked], [NOTHING | {"masks": []}], CLASSES, kind="masks")
    code = objects([square(0)], masks=[{"size": [5, 5], "counts": [25]}], scores=[1])
    with pytest.raises(DataError, match="picture 0: the picture is 8 x 8 pixels"):
        coco_scores([masked | {"size": (8, 8)}], [code], CLASSES, kind="masks")
    short = objects([square(0)], masks=[{"size": [5, 5], "counts": [3, 4]}], scores=[1])
    with pytest.raises(DataError, match="covers 7 pixels"):
        coco_scores([objects([]) | {"masks": []}], [short], CLASSES, kind="masks")
    points = [objects([square(0)], keypoints=np.ones((1, k, 3)), scores=[1]) for k in (5, 6)]
    with pytest.raises(DataError, match="objects of 6 keypoints, others have 5"):
        coco_scores(points[:1], points[1:], CLASSES, kind="keypoints")
    with pytest.raises(DataError, match="max_detections must be rising"):
        CocoEvaluator(CLASSES, max_detections=(10, 1))
    with pytest.raises(DataError, match="kind must be"):
        CocoEvaluator(CLASSES, kind="bbox")
    for name in [name for name in sys.modules if name.split(".")[0] == "pycocotools"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ModelError, match=r"pip install 'keras_cv_lectures\[coco\]'"):
        CocoEvaluator(CLASSES)


def official(dataset, results, kind):
    """What pycocotools' own example computes: COCO(file), loadRes(list), summarize()."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(dataset))
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value == -1 else value for value in evaluation.stats]


@pytest.fixture
def sample(realdata):
    """COCO's file as it is, and our truths of it with the masks that its polygons draw."""
    path = realdata("coco_sample") / "instances_keypoints.json"
    dataset = json.loads(path.read_text(encoding="utf-8"))
    categories = [category["id"] for category in dataset["categories"]]
    truths = []
    for image in dataset["images"]:
        own = [a for a in dataset["annotations"] if a["image_id"] == image["id"]]
        size = (image["height"], image["width"])
        boxes = np.array([a["bbox"] for a in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [rle_encode(polygons_to_mask(a["segmentation"], size), compress=True) for a in own]
        truths.append(
            {
                "image_id": image["id"],
                "size": size,
                "boxes": boxes,
                "labels": np.array([categories.index(a["category_id"]) for a in own], np.int32),
                "crowd": np.array([a["iscrowd"] for a in own], bool),
                "area": np.array([a["area"] for a in own]),
                "masks": masks,
                "keypoints": np.array([a["keypoints"] for a in own]).reshape(len(own), -1, 3),
            }
        )
    return dataset, truths, [category["name"] for category in dataset["categories"]]


def moved(truth, share):
    """The labelled objects as detections, boxes moved right by a share of their width; where no keypoint is labelled,
    all are put in the middle of the box."""
    boxes, points = truth["boxes"].copy(), truth["keypoints"].copy()
    middles = np.pad((boxes[:, None, :2] + boxes[:, None, 2:]) / 2, ((0, 0), (0, 0), (0, 1)))
    points = np.where((points[..., 2:] > 0).any(axis=1, keepdims=True), points, middles)
    boxes[:, 0::2] += share * (boxes[:, 2:3] - boxes[:, 0:1])
    return truth | {"boxes": boxes, "keypoints": points, "scores": np.ones(len(boxes))}


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["boxes", "masks", "keypoints"])
def test_the_sample_finds_itself(sample, kind):
    _, truths, names = sample
    scores = coco_scores(truths, [moved(truth, 0.0) for truth in truths], names, kind=kind)
    assert scores["ap"] == ONE
    assert scores["ap50"] == ONE


@pytest.mark.realdata
def test_the_sample_shifted(sample):
    _, truths, names = sample
    for share in (0.07, 0.2, 0.3, 0.4):
        overlap = (1 - share) / (1 + share)
        expected = np.mean(np.arange(50, 100, 5) / 100 <= overlap)
        assert 0 <= expected < 1
        scores = coco_scores(truths, [moved(truth, share) for truth in truths], names)
        assert scores["ap"] == pytest.approx(expected, abs=1e-12), share


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["boxes", "masks", "keypoints"])
def test_the_sample_scores_what_pycocotools_alone_says(sample, kind):
    dataset, truths, names = sample
    dataset["annotations"][3]["iscrowd"] = 1
    truths[1]["crowd"][2] = True
    polygon = dataset["annotations"][3]["segmentation"]
    dataset["annotations"][3]["segmentation"] = rle_encode(polygons_to_mask(polygon, truths[1]["size"]))
    rng = np.random.default_rng(0)
    predictions, results = [], []
    for truth in truths:
        count = len(truth["boxes"])
        picked = rng.integers(0, count, 2 * count)
        boxes = truth["boxes"][picked] + np.tile(rng.normal(0, 6, (2 * count, 2)), 2)
        points = truth["keypoints"][picked] + rng.normal(0, 5, (2 * count, truth["keypoints"].shape[1], 3))
        scores = rng.random(2 * count)
        masks = [np.roll(rle_decode(truth["masks"][i]), rng.integers(-9, 9, 2), (0, 1)) for i in picked]
        form = {"keypoints": points, "instance_masks": np.stack(masks), "size": truth["size"]}
        predictions.append(objects([], labels=[]) | {"boxes": boxes, "labels": truth["labels"][picked]} | form)
        predictions[-1]["scores"] = scores
        for row in range(2 * count):
            x1, y1, x2, y2 = boxes[row]
            result = {"image_id": truth["image_id"], "score": scores[row], "category_id": 1}
            if kind == "boxes":
                result["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            elif kind == "masks":
                result["segmentation"] = rle_encode(masks[row], compress=True)
            else:
                result["keypoints"] = points[row].ravel().tolist()
            results.append(result)
    expected = official(dataset, results, {"boxes": "bbox", "masks": "segm"}.get(kind, kind))
    scores = coco_scores(truths, predictions, names, kind=kind)
    found = [scores[name] for name in (KEYPOINT_STATS if kind == "keypoints" else DETECTION_STATS)]
    assert 0.1 < found[0] < 0.9
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_default_spreads_are_those_of_pycocotools():
    from pycocotools.cocoeval import Params

    np.testing.assert_allclose(COCO_SIGMAS, Params("keypoints").kpt_oks_sigmas, rtol=1e-12)
