"""Outputs of a detector -> objects of the picture: padding, scale, masks, records."""

import json

import numpy as np
import pytest

from keras_cv_lectures.geometry.masks import paste_masks_numpy, split_masks, unpack_masks
from keras_cv_lectures.geometry.rle import rle_decode
from keras_cv_lectures.postprocessing.detection import (
    CANVAS_COLOR,
    are_detections,
    check_detector,
    coco_annotations,
    detected_objects,
    fitted_size,
    instance_map,
    on_canvas,
    paste_masks,
)


@pytest.mark.parametrize(
    ("size", "canvas", "expected"),
    [
        ((100, 50), (320, 320), (320, 160)),
        ((50, 100), (320, 320), (160, 320)),
        ((600, 800), (320, 320), (240, 320)),
        ((320, 320), (320, 320), (320, 320)),
        ((3, 1000), (64, 64), (1, 64)),  # never nothing
        ((33, 77), (96, 128), (54, 128)),  # 54.86 rows
    ],
    ids=str,
)
def test_a_picture_is_fitted_with_its_aspect(size, canvas, expected):
    assert fitted_size(size, canvas) == expected


def test_the_rest_of_the_canvas_has_the_mean_colour():
    picture = np.full((2, 3, 3), 7, np.uint8)
    canvas = on_canvas(picture, (4, 5))
    assert canvas.shape == (4, 5, 3)
    np.testing.assert_array_equal(canvas[:2, :3], picture)
    np.testing.assert_array_equal(canvas[2:], np.broadcast_to(CANVAS_COLOR, (2, 5, 3)))
    np.testing.assert_array_equal(canvas[:2, 3:], np.broadcast_to(CANVAS_COLOR, (2, 2, 3)))
    assert on_canvas(np.zeros((2, 2, 1), np.uint8), (3, 3))[2, 2, 0] == 115
    with pytest.raises(ValueError, match="fitted_size"):
        on_canvas(picture, (1, 9))


def _outputs():
    """Two pictures with room for three objects; the first has two, the second none."""
    boxes = np.zeros((2, 3, 4), np.float32)
    boxes[0, :2] = [[2, 4, 10, 20], [-1, 0, 6, 50]]
    keypoints = np.zeros((2, 3, 1, 3), np.float32)
    keypoints[0, :2, 0] = [[4, 8, 0.5], [1, 1, -2.0]]
    return {
        "boxes": boxes,
        "scores": np.float32([[0.9, 0.4, 0], [0, 0, 0]]),
        "labels": np.int32([[1, 0, -1], [-1, -1, -1]]),
        "count": np.int32([2, 0]),
        "masks": np.ones((2, 3, 4, 4), np.float32),
        "keypoints": keypoints,
    }


def test_objects_come_back_in_the_pictures_own_pixels():
    """Seen at 20 x 10, the picture is 40 high and 30 wide: y times 2, x times 3."""
    found = detected_objects(_outputs(), 0, (40, 30), seen_size=(20, 10))
    np.testing.assert_array_equal(found["boxes"], [[6, 8, 30, 40], [0, 0, 18, 40]])  # cut at the border
    np.testing.assert_array_equal(found["keypoints"][:, 0], np.float32([[12, 16, 0.5], [3, 2, -2]]))
    np.testing.assert_array_equal(found["labels"], [1, 0])
    assert found["labels"].dtype == np.int32
    assert found["masks"].shape == (2, 4, 4)


def test_a_picture_without_objects_is_normal():
    found = detected_objects(_outputs(), 1, (40, 30))
    assert {name: value.shape for name, value in found.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
        "masks": (0, 4, 4),
        "mask_boxes": (0, 4),
        "keypoints": (0, 1, 3),
    }
    pixels, windows = paste_masks(found["masks"], found["boxes"], (40, 30))
    assert (pixels.shape, windows.shape) == ((0,), (0, 4))
    assert not instance_map([], windows, (4, 3)).any()
    assert coco_annotations(found, (40, 30), crops=([], windows)) == []


def test_objects_on_the_empty_canvas_are_no_objects_and_masks_keep_their_place_at_its_edge():
    """The picture has 10 x 10 pixels of a canvas of 20 x 20; the second object lies beyond, the third on its edge."""
    outputs = {
        "boxes": np.float32([[[0, 0, 4, 4], [12, 2, 18, 8], [4, 2, 16, 8]]]),
        "scores": np.float32([[0.9, 0.8, 0.7]]),
        "labels": np.int32([[0, 1, 2]]),
        "count": np.int32([3]),
        "masks": np.zeros((1, 3, 6, 6), np.float32),
    }
    outputs["masks"][0, 2, :, :3] = 1  # the left half, x from 4 to 10, which is all there is in the picture
    found = detected_objects(outputs, 0, (10, 10))
    np.testing.assert_array_equal(found["labels"], [0, 2])
    np.testing.assert_array_equal(found["boxes"], [[0, 0, 4, 4], [4, 2, 10, 8]])
    np.testing.assert_array_equal(found["mask_boxes"], [[0, 0, 4, 4], [4, 2, 16, 8]])
    pasted = unpack_masks(*paste_masks(found["masks"], found["mask_boxes"], (10, 10)), (10, 10))[1]
    assert pasted[3:7, 5:10].all()  # spread over the cut box it would end at x = 7
    assert not pasted[:, :4].any()


def test_order_is_restored_and_padding_left_out():
    outputs = _outputs()
    outputs["scores"][0] = [0.3, 0.4, 0.9]  # 8 bits may exchange neighbours; the third row is padding
    assert detected_objects(outputs, 0, (40, 30))["scores"].tolist() == pytest.approx([0.4, 0.3])
    outputs["count"][0] = 1
    assert detected_objects(outputs, 0, (40, 30))["labels"].tolist() == [1]
    del outputs["count"]
    assert len(detected_objects(outputs, 0, (40, 30))["labels"]) == 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"boxes": (None, None, None), "scores": (None, 7), "labels": None}, True),
        ({"boxes": None, "scores": None, "labels": None}, True),
        ({"boxes": (2, 7, 5)}, False),
        ({"boxes": (2, 7)}, False),
        ({"boxes": (3, 7, 4)}, False),
        ({"scores": (2, 7, 80)}, False),
        ({"scores": (2, 6)}, False),
        ({"labels": (None, 8)}, False),
        ({"labels": ()}, False),
    ],
)
def test_detections_are_known_by_their_shapes(change, expected):
    shapes = {"boxes": (2, 7, 4), "scores": (2, 7), "labels": (2, 7), "masks": (2, 7, 28, 28), **change}
    assert are_detections(shapes) is expected
    assert not are_detections({name: shapes[name] for name in ("boxes", "scores")})


@pytest.mark.parametrize("change", [{"scores": np.zeros((2, 4))}, {"labels": np.zeros(2)}, {"boxes": np.zeros((3, 4))}])
def test_what_is_no_detector_is_refused(change):
    with pytest.raises(ValueError, match="expected a detector"):
        check_detector({**_outputs(), **change})
    with pytest.raises(ValueError, match="probabilities"):
        check_detector({"probabilities": np.zeros((1, 2, 2, 3))})


def test_of_two_masks_the_surer_one_has_the_pixel():
    crops, windows = [np.array([[1, 1], [0, 1]]), np.ones((2, 2))], np.int32([[1, 0, 3, 2], [0, 1, 2, 3]])
    expected = [[0, 1, 1], [2, 2, 1], [2, 2, 0]]
    np.testing.assert_array_equal(instance_map(crops, windows, (3, 3)), expected)


def test_pasted_masks_are_those_of_the_boxes():
    masks = np.zeros((2, 4, 4), np.float32)
    masks[0], masks[1, :, :2] = 1.0, 1.0  # all of the first box, the left half of the second
    boxes = np.float32([[2, 2, 10, 10], [0, 0, 16, 8]])
    expected = np.zeros((2, 12, 20), np.uint8)
    expected[0, 2:10, 2:10] = expected[1, :8, :8] = 1
    exact = unpack_masks(*paste_masks(masks, boxes, (12, 20), rule="detectron2"), (12, 20))
    expected[1, [[0], [7]], [0, 7]] = 0  # two rims meet in the corners: 0.625 * 0.75 is below a half
    np.testing.assert_array_equal(exact, expected)
    # The rule of torchvision, which is the default, moves rims.
    dense = unpack_masks(*paste_masks(masks, boxes, (12, 20)), (12, 20))
    np.testing.assert_array_equal(dense, paste_masks_numpy(masks, boxes, (12, 20)) > 0.5)
    assert not paste_masks(masks, np.zeros((2, 4)), (12, 20))[1].any()


def test_records_are_cocos():
    found = detected_objects(_outputs(), 0, (40, 30), seen_size=(20, 10))
    pixels, windows = paste_masks(found["masks"], found["boxes"], (40, 30))
    crops = split_masks(pixels, windows)
    first, second = json.loads(json.dumps(coco_annotations(found, (40, 30), crops=(crops, windows), image_id=7)))
    assert {key: first[key] for key in ("id", "image_id", "category_id", "bbox", "iscrowd")} == {
        "id": 1,
        "image_id": 7,
        "category_id": 1,
        "bbox": [6, 8, 24, 32],
        "iscrowd": 0,
    }
    assert first["score"] == pytest.approx(0.9, abs=1e-6)
    mask = rle_decode(first["segmentation"])
    np.testing.assert_array_equal(mask, unpack_masks(pixels, windows, (40, 30))[0])
    assert first["area"] == mask.sum()
    assert (first["keypoints"], first["num_keypoints"], first["keypoint_scores"]) == ([12, 16, 2], 1, [0.5])
    # Nor does a score below 0 say that a point is not there.
    assert (second["keypoints"], second["num_keypoints"], second["keypoint_scores"]) == ([3, 2, 2], 1, [-2])
    assert coco_annotations(found, (40, 30))[1]["area"] == 18 * 40
