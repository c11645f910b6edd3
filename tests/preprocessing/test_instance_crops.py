"""DeconvNet's crops, worked by hand on a picture of two objects."""

from __future__ import annotations

import numpy as np
import pytest

from keras_cv_lectures.data import Source, shapes_source, to_dataset
from keras_cv_lectures.preprocessing.instance_crops import instance_crops, jittered_boxes, proposal_crops


def _source(mask, instances=None):
    """One picture whose red channel counts the columns and whose green channel counts the rows."""
    mask = np.asarray(mask, np.int32)
    rows, columns = np.indices(mask.shape)
    example = {"image": np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8), "mask": mask}
    if instances is not None:
        example["instance_masks"] = np.asarray(instances, np.uint8)
    names, colors = tuple("abcd"), tuple((i, i, i) for i in range(4))
    return Source(name="two objects", ids=("p",), read=lambda i: dict(example), classes=names, colors=colors)


def _two_squares():
    mask = np.zeros((30, 40), np.int32)
    mask[5:15, 10:20] = 1  # 10 x 10 pixels
    mask[5:15, 20:40] = 2  # touches the first and the right border
    mask[0, :] = 255
    return mask


def test_instance_crop_by_hand():
    crops = instance_crops(_source(_two_squares()))
    assert crops.ids == ("p#0", "p#1")
    first = crops[0]
    # Box (10, 5, 20, 15) enlarged by 1.2 around its centre: (9, 4, 21, 16).
    assert first["image"].shape == (12, 12, 3)
    np.testing.assert_array_equal(first["image"][0, 0, :2], [9, 4])
    expected = np.zeros((12, 12))
    expected[1:11, 1:11] = 1  # and the neighbour's column on the right is background
    np.testing.assert_array_equal(first["mask"], expected)
    assert first["mask"].dtype == np.int32
    assert first["image_id"] == "p#0"
    # Box (20, 5, 40, 15) becomes (18, 4, 42, 16), cut off at column 40.
    second = crops[1]
    assert second["image"].shape == (12, 22, 3)
    assert set(np.unique(second["mask"])) == {0, 2}


def test_labels_to_ignore_stay():
    crop = instance_crops(_source(_two_squares()), enlarge=2.0)[0]
    # Box (5, 0, 25, 20): the first row is the one to ignore.
    assert (crop["mask"][0] == 255).all()
    assert (crop["mask"][1:] != 255).all()


def test_instances_of_one_class_that_touch_are_told_apart_by_their_masks():
    mask = np.zeros((20, 30), np.int32)
    mask[4:14, 4:24] = 3
    instances = np.zeros((3, 20, 30), np.uint8)
    instances[0, 4:14, 4:14] = 1
    instances[2, 4:14, 14:24] = 1  # The second has no pixels and gives no crop.
    assert len(instance_crops(_source(mask))) == 1
    crops = instance_crops(_source(mask, instances), enlarge=1.2)
    assert len(crops) == 2
    assert (crops[0]["mask"] == 3).sum() == (crops[1]["mask"] == 3).sum() == 100
    assert crops[1]["image"][0, 0, 0] == 13


def test_small_objects_are_left_out():
    assert len(instance_crops(_source(_two_squares()), min_side=10)) == 2
    with pytest.raises(ValueError, match="two objects: has no objects with sides of at least 11"):
        instance_crops(_source(_two_squares()), min_side=11)


def test_proposals_keep_all_labels_and_must_overlap_an_object():
    def proposals(example):
        # IoU with (10, 5, 20, 15): 1; 50 / 150; and 100 / 200. The last lies on nothing.
        return [[10, 5, 20, 15], [5, 5, 15, 15], [10, 5, 20, 25], [0, 16, 9, 30]]

    crops = proposal_crops(_source(_two_squares()), proposals)
    assert [crop["mask"].shape for crop in crops] == [(10, 10), (20, 10)]
    crops = proposal_crops(_source(_two_squares()), lambda example: [[10.2, 4.6, 30.1, 15.4]], min_iou=0.3)
    np.testing.assert_array_equal(crops[0]["mask"], np.repeat([[1, 2]], 10, axis=1).repeat(10, axis=0))
    with pytest.raises(ValueError, match="has no proposals with an IoU of at least 0.6"):
        proposal_crops(_source(_two_squares()), lambda example: [[10, 5, 20, 25]], min_iou=0.6)
    with pytest.raises(ValueError, match="has no proposals"):
        proposal_crops(_source(_two_squares()), lambda example: np.zeros((0, 4)))


def test_jittered_boxes_stay_in_their_ranges_and_repeat():
    boxes = np.array([[10, 20, 50, 40], [0, 0, 8, 8]], np.float32)
    found = jittered_boxes(boxes, per_box=200, shift=0.1, scale=0.5, seed=3)
    assert found.shape == (400, 4)
    centres, sides = (found[:200, :2] + found[:200, 2:]) / 2, found[:200, 2:] - found[:200, :2]
    assert (np.abs(centres - [30, 30]) <= np.array([4, 2]) + 1e-4).all()
    assert (sides <= np.array([60, 30]) + 1e-3).all()
    assert (sides >= np.array([40, 20]) / 1.5 - 1e-3).all()
    assert (np.ptp(centres, axis=0) > [6, 3]).all()
    np.testing.assert_array_equal(found, jittered_boxes(boxes, per_box=200, shift=0.1, scale=0.5, seed=3))


@pytest.mark.parametrize("stage", [instance_crops, proposal_crops])
def test_crops_are_a_source_like_any_other(stage):
    crops = stage(shapes_source(6, size=(48, 64), seed=3))
    assert len(crops) > 0
    for example in to_dataset(crops, shuffle=True, seed=0, epochs=1).take(3):
        assert example["image"].shape[:2] == example["mask"].shape
    again = stage(shapes_source(6, size=(48, 64), seed=3))
    np.testing.assert_array_equal(crops[0]["mask"], again[0]["mask"])


def test_what_is_wrong_is_explained():
    with pytest.raises(ValueError, match="`enlarge` must be at least 1"):
        instance_crops(_source(_two_squares()), enlarge=0.9)
    bare = Source(name="bare", ids=("p",), read=lambda i: {"image": np.zeros((4, 4, 3))}, classes=(), colors=())
    for stage in (instance_crops, proposal_crops):
        with pytest.raises(ValueError, match="bare: has no masks"):
            stage(bare)
