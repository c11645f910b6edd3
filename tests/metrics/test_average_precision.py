"""Pascal VOC's average precision on cases worked by hand, and what may be neither right nor wrong."""

import numpy as np
import pytest

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.geometry.rle import rle_encode
from keras_cv_lectures.metrics.average_precision import (
    PrecisionRecall,
    PrecisionRecallCurves,
    average_precision,
    match_objects,
    picture_f1,
    precision_recall,
)
from keras_cv_lectures.metrics.overlaps import box_overlaps, keypoint_similarities, mask_overlaps

CLASSES = ("cell", "platelet")
NOTHING = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, np.int32), "scores": np.zeros(0)}


def objects(boxes, labels=None, scores=None, **more):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    found = {"boxes": boxes, "labels": np.array([0] * len(boxes) if labels is None else labels, np.int32)}
    if scores is not None:
        found["scores"] = np.array(scores, np.float32)
    return found | more


def square(x, y=0, side=10):
    return [x, y, x + side, y + side]


def test_the_three_rules_on_one_curve():
    # Two objects; right, wrong, right: recall 1/2 at precision 1, then 1 at 2/3.
    recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])
    assert average_precision(recall, precision) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert average_precision(recall, precision, "11-point") == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert average_precision(recall, precision, "101-point") == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_a_recall_of_three_tenths_reaches_the_point_at_three_tenths():
    for found in range(1, 11):
        recall = np.arange(1, found + 1) / 10
        assert average_precision(recall, np.ones(found), "11-point") == pytest.approx((found + 1) / 11)


def test_average_precision_refuses():
    assert average_precision(np.zeros(0), np.zeros(0)) == 0
    with pytest.raises(DataError, match="rule must be one of"):
        average_precision([1.0], [1.0], "12-point")
    with pytest.raises(DataError, match="recall must rise"):
        average_precision([1.0, 0.5], [1.0, 1.0])


def test_a_duplicate_is_wrong_and_pictures_are_ranked_together():
    truths = [objects([square(0)]), objects([square(50)])]
    predictions = [objects([square(0), square(1)], scores=[0.9, 0.8]), objects([square(50)], scores=[0.7])]
    cell, platelet = precision_recall(truths, predictions, CLASSES)
    np.testing.assert_allclose(cell.recall, [0.5, 0.5, 1])
    np.testing.assert_allclose(cell.precision, [1, 0.5, 2 / 3])
    np.testing.assert_allclose(cell.scores, [0.9, 0.8, 0.7], rtol=1e-7)
    assert cell.objects == 2
    assert platelet.objects == 0
    assert platelet.average_precision() is None
    assert cell.average_precision("11-point") == pytest.approx((6 + 5 * 2 / 3) / 11)


@pytest.mark.parametrize(("shift", "found"), [(3, 1), (4, 0)])
def test_a_shift_keeps_seven_thirteenths_or_six_fourteenths(shift, found):
    (curve,) = precision_recall([objects([square(0)])], [objects([square(shift)], scores=[1])], ["cell"])
    assert curve.average_precision() == found


def test_the_overlap_must_exceed_the_threshold():
    truth, prediction = objects([[0, 0, 10, 10]]), objects([[0, 0, 10, 5]], scores=[1])
    assert match_objects(truth, prediction, 1).tolist() == [-1]
    assert match_objects(truth, prediction, 1, iou_threshold=0.499).tolist() == [0]


def test_the_surer_detection_of_an_object_is_the_right_one():
    truth = objects([square(0), square(40)])
    prediction = objects([square(1), square(0), square(40)], scores=[0.8, 0.9, 0.1])
    assert match_objects(truth, prediction, 1).tolist() == [-1, 0, 1]


def test_a_detection_does_not_take_the_second_best_object():
    # It overlaps the first object most, which is taken: VOC calls it wrong, though the second would do.
    truth = objects([[0, 0, 10, 10], [2, 0, 12, 10]])
    prediction = objects([[0, 0, 10, 10], [0.5, 0, 10.5, 10]], scores=[0.9, 0.8])
    assert match_objects(truth, prediction, 1).tolist() == [0, -1]


def test_classes_do_not_mix_and_padding_is_left_out():
    truth = objects([square(0), square(0), [0, 0, 0, 0]], labels=[1, 0, -1])
    prediction = objects([square(0), [0, 0, 0, 0], square(0)], labels=[0, -1, 1], scores=[0.5, 0, 0.5])
    assert match_objects(truth, prediction, 2).tolist() == [1, -2, 0]


def test_difficult_objects_and_crowds_are_neither_right_nor_wrong():
    truth = objects(
        [square(0), square(100), [200, 0, 300, 100]],
        difficult=np.array([False, True, False]),
        crowd=np.array([False, False, True]),
    )
    # Two on the difficult one, three in the crowd (one of them half outside), one in nothing.
    boxes = [square(0), square(100), square(101), square(210), square(250), square(296), square(400)]
    prediction = objects(boxes, scores=np.linspace(0.9, 0.3, 7))
    assert match_objects(truth, prediction, 1).tolist() == [0, -2, -2, -2, -2, -1, -1]
    (curve,) = precision_recall([truth], [prediction], ["cell"])
    assert curve.objects == 1
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 1 / 3])


def test_pictures_without_objects():
    curves = PrecisionRecallCurves(CLASSES)
    curves.add(objects([]), NOTHING)
    assert curves.scores()["mean_average_precision"] is None
    curves.add(objects([square(0)]), NOTHING)
    assert curves.scores()["mean_average_precision"] == 0
    curves.add(objects([]), objects([square(0)], scores=[0.9]))
    curves.add(objects([square(0)]), objects([square(0)], scores=[0.8]))
    scores = curves.scores()
    # Wrong, then right; one of two objects found at precision 1/2.
    assert scores["mean_average_precision"] == pytest.approx(0.25)
    assert scores["per_class"][0] == {
        "name": "cell", "average_precision": 0.25, "recall": 0.5, "precision": 0.5,
        "best_threshold": pytest.approx(0.8), "best_f1": 0.5, "objects": 2, "detections": 2,
    }  # fmt: skip
    assert scores["per_class"][1]["average_precision"] is None
    assert scores["per_class"][1]["best_threshold"] is None


def test_the_best_threshold_keeps_detections_of_one_score_together():
    curve = PrecisionRecall(
        name="cell",
        objects=2,
        recall=np.array([0.5, 1.0, 1.0]),
        precision=np.array([1.0, 1.0, 2 / 3]),
        scores=np.array([0.9, 0.5, 0.5]),
    )
    # Not 1 behind the second detection: the third has the same score. F1 is 2/3 after one, 4/5 after three.
    assert curve.best_threshold() == (0.5, pytest.approx(0.8))


def test_f1_of_a_picture():
    truth = objects([square(0), square(40)])
    prediction = objects([square(0), square(80), square(40)], scores=[0.9, 0.8, 0.2])
    assert picture_f1(truth, prediction, 1) == pytest.approx(2 / (2 + 2))  # one right, one wrong, two to find
    assert picture_f1(truth, prediction, 1, score_threshold=0.1) == pytest.approx(4 / (2 + 3))
    assert picture_f1(objects([]), NOTHING, 1) == 1
    assert picture_f1(objects([]), prediction, 1) == 0
    assert picture_f1(truth, NOTHING, 1) == 0


def test_masks_in_every_form_overlap_alike():
    rng = np.random.default_rng(0)
    dense = rng.random((4, 9, 12)) < 0.4
    dense[3] = False
    dense[:, :2] = False
    windows = np.array([[0, 2, 12, 9]] * 3 + [[5, 5, 5, 5]], np.int32)
    compact = {"mask_windows": windows, "mask_pixels": dense[:3, 2:].astype(np.uint8).reshape(-1)}
    codes = [rle_encode(mask, compress=bool(i % 2)) for i, mask in enumerate(dense)]
    common = (dense[:, None] & dense[None]).sum((2, 3))
    union = (dense[:, None] | dense[None]).sum((2, 3))
    expected = np.where(union > 0, common / np.maximum(union, 1), 0)
    forms = [compact, {"instance_masks": dense}, {"masks": codes}]
    boxes = [[0, 0, 12, 9]] * 4
    for form in forms:
        for other in forms:
            truth, prediction = objects(boxes, **form), objects(boxes, scores=[4, 3, 2, 1], **other)
            # Nothing can be found of an empty mask, however sure.
            assert match_objects(truth, prediction, 1, kind="masks").tolist() == [0, 1, 2, -1]
            below = expected[0, 1] - 1e-9
            pair = (objects(boxes[:1], masks=codes[:1]), objects(boxes[:1], scores=[1], masks=codes[1:2]))
            assert match_objects(*pair, 1, kind="masks", iou_threshold=below).tolist() == [0]
            assert match_objects(*pair, 1, kind="masks", iou_threshold=below + 2e-9).tolist() == [-1]


def test_overlaps_with_a_crowd_are_shares_of_the_detection():
    boxes, crowd = np.array([[0, 0, 10, 10.0]]), np.array([[5, 0, 100, 100.0]])
    assert box_overlaps(boxes, crowd, [True]).item() == 0.5
    assert box_overlaps(boxes, crowd).item() == pytest.approx(50 / (100 + 9500 - 50))
    assert box_overlaps(np.zeros((1, 4)), np.zeros((1, 4))).item() == 0
    assert box_overlaps(np.zeros((0, 4)), crowd).shape == (0, 1)
    assert mask_overlaps([], []).shape == (0, 0)


def test_keypoint_similarity_by_hand():
    # sigma 0.05 and area 100: 2 (2 sigma)^2 area = 2. Distances 0 and 1; the third point is not labelled.
    labelled = np.array([[[0, 0, 2], [5, 5, 1], [0, 0, 0]]], float)
    detected = np.array([[[0, 0, 9], [5, 6, 9], [70, 70, 9]]], float)
    similarity = keypoint_similarities(detected, labelled, [100], [square(0)])
    assert similarity.item() == pytest.approx((1 + np.exp(-0.5)) / 2, rel=1e-12)
    halved = keypoint_similarities(detected, labelled, [100], [square(0)], sigmas=[0.05, 0.025, 1])
    assert halved.item() == pytest.approx((1 + np.exp(-2)) / 2, rel=1e-12)
    with pytest.raises(DataError, match="sigmas must be 3 positive"):
        keypoint_similarities(detected, labelled, [100], [square(0)], sigmas=[0.1])


def test_objects_without_labelled_keypoints_need_not_be_found():
    seen = np.array([[[2, 2, 2], [8, 8, 2]]], float)
    unseen = np.zeros((1, 2, 3))
    truth = objects([square(0), square(100)], keypoints=np.concatenate([seen, unseen]))
    points = np.concatenate([seen, seen + [100, 0, 0], seen + [300, 0, 0]])
    prediction = objects([square(0), square(100), square(300)], scores=[3, 2, 1], keypoints=points)
    assert match_objects(truth, prediction, 1, kind="keypoints").tolist() == [0, -2, -1]


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ({}, NOTHING, "truth of the picture must hold boxes and labels"),
        (objects([]), objects([]), "prediction of the picture has no scores"),
        (objects([square(0)], labels=[2], image_id="a.png"), NOTHING, "truth of picture a.png has label 2"),
        (objects([square(0)], labels=[-3]), NOTHING, "has label -3"),
        (objects([[5, 0, 1, 9]]), NOTHING, "ends before it begins"),
        (objects([]), objects([square(np.nan)], scores=[1]), "boxes hold numbers that are not finite"),
        (objects([]), objects([square(0)], scores=[1, 2]), "scores must have shape (1,)"),
        ({"boxes": np.zeros((0, 4)), "labels": np.array([0.5])}, NOTHING, "labels must be (N,) integers"),
    ],
)
def test_wrong_pictures_are_named(truth, prediction, message):
    with pytest.raises(DataError) as error:
        match_objects(truth, prediction, 2)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "has no masks"),
        ({"masks": np.zeros((1, 28, 28))}, "Paste a detector's masks"),
        ({"instance_masks": np.zeros((2, 9, 9))}, r"instance_masks must be \(1, H, W\)"),
        ({"mask_pixels": np.zeros(3), "mask_windows": np.array([[0, 0, 2, 2]])}, "truth of the picture: "),
    ],
)
def test_wrong_masks_are_named(more, message):
    with pytest.raises(DataError, match=message):
        match_objects(objects([square(0)], **more), NOTHING, 1, kind="masks")


def test_wrong_arguments():
    with pytest.raises(DataError, match="kind must be one of"):
        PrecisionRecallCurves(CLASSES, kind="mask")
    with pytest.raises(DataError, match="iou_threshold"):
        PrecisionRecallCurves(CLASSES, iou_threshold=1.0)
    with pytest.raises(DataError, match="classes must be a sequence"):
        PrecisionRecallCurves("cell")
    with pytest.raises(DataError, match="no picture to score"):
        PrecisionRecallCurves(CLASSES).scores()
    with pytest.raises(ValueError, match="zip"):
        precision_recall([objects([])], [], CLASSES)
