"""COCO files as other programs write them: Roboflow, LVIS, and marks that leave nothing to learn."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import coco_source, doctor, has_splits, open_source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.metrics.coco import coco_scores

H, W = 6, 8


def annotation(number, **fields):
    return {"id": number, "image_id": 10, "category_id": 7, "bbox": [2, 1, 4, 3]} | fields


@pytest.fixture
def coco(tmp_path):
    """Writes a COCO file of the picture 10, `a.png`, with the class "train"."""
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((H, W, 3), 60, np.uint8)).save(tmp_path / "images" / "a.png")

    def write(*annotations, path=tmp_path / "instances.json", **changes):
        content = {
            "images": [{"id": 10, "file_name": "a.png", "height": H, "width": W}],
            "categories": [{"id": 7, "name": "train"}],
            "annotations": list(annotations),
        } | changes
        path.write_text(json.dumps(content))
        return path, tmp_path / "images"

    return write


@pytest.mark.parametrize("fields", [{"iscrowd": 1}, {"ignore": 1}])
def test_objects_none_of_which_is_learned_are_refused(coco, fields):
    files = coco(annotation(1, **fields), annotation(2, **fields))
    with pytest.raises(DataError, match=r"all 2 objects have `iscrowd` or `ignore` 1.*Set the mark to 0"):
        coco_source(*files)
    report = doctor(f"coco:{files[0]},{files[1]}")
    assert not report.ok
    assert any("every object is marked as a group or as difficult (`iscrowd`" in line for line in report.warnings)
    path, images = coco(annotation(1, **fields), annotation(2))
    assert coco_source(path, images)[0]["boxes"].shape == (2, 4)
    assert not any("every object" in line for line in doctor(f"coco:{path},{images}").warnings)
    assert len(coco_source(*coco())) == 1


def test_objects_to_ignore_are_difficult(coco):
    example = coco_source(*coco(annotation(1, ignore=1), annotation(2, ignore=0), annotation(3)))[0]
    np.testing.assert_array_equal(example["difficult"], [True, False, False])
    assert not example["crowd"].any()
    assert not {"crowd", "difficult"} & coco_source(*coco(annotation(1, ignore=0)))[0].keys()


def test_average_precision_of_objects_to_ignore_is_that_of_pycocotools(coco):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    path, images = coco(annotation(1, ignore=1), annotation(2, bbox=[0, 0, 2, 2]))
    found = [{"image_id": 10, "category_id": 7, "bbox": [0, 0, 2, 2], "score": 0.9}]
    example = coco_source(path, images)[0]
    prediction = {"boxes": np.float32([[0, 0, 2, 2]]), "labels": np.int32([0]), "scores": np.float32([0.9])}
    ours = coco_scores([example], [prediction], ("train",))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {**json.loads(path.read_text()), "info": {}}
        for entry in truth.dataset["annotations"]:
            entry |= {"iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
        truth.createIndex()
        theirs = COCOeval(truth, truth.loadRes(found), "bbox")
        for step in (theirs.evaluate, theirs.accumulate, theirs.summarize):
            step()
    # One of two objects: precision 1 up to recall 1/2, which are 51 of 101 points.
    assert ours["ap"] == pytest.approx(theirs.stats[0]) == pytest.approx(51 / 101)
    assert ours["per_class"][0]["objects"] == 2


def test_objects_none_of_which_is_learned_can_be_validated_on(coco, tmp_path):
    _, images = coco(annotation(1), path=tmp_path / "train.json")
    coco(annotation(1, ignore=1), path=tmp_path / "val.json")
    spec = f"coco:{tmp_path}/{{split}}.json,{images}"
    source = open_source(spec, "train")
    assert open_source(spec, "val", like=source)[0]["difficult"].all()
    assert open_source(f"coco:{tmp_path}/val.json,{images}", "val").ids == ("a",)
    with pytest.raises(DataError, match="all 1 objects have `iscrowd` or `ignore` 1"):
        open_source(f"coco:{tmp_path}/val.json,{images}", "train")
    report = doctor(spec)
    assert report.ok
    assert any("val.json: all 1 objects have `iscrowd` or `ignore` 1" in warning for warning in report.warnings)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_validation_split_is_found_by_its_usual_names(coco, tmp_path, name):
    for folder, box in (("train", [2, 1, 4, 3]), (name, [0, 0, 1, 1])):
        (tmp_path / folder).mkdir()
        coco(annotation(1, bbox=box), path=tmp_path / folder / "_annotations.coco.json")
        Image.new("RGB", (W, H)).save(tmp_path / folder / "a.png")
    spec = f"coco:{tmp_path}/{{split}}/_annotations.coco.json,{tmp_path}/{{split}}"
    assert has_splits(spec)
    assert open_source(spec)[0]["boxes"].tolist() == [[2, 1, 6, 4]]
    assert open_source(spec, "val")[0]["boxes"].tolist() == [[0, 0, 1, 1]]
    assert [split.examples for split in doctor(spec).splits] == [1, 1]


def test_an_unused_category_of_a_doubled_name_is_left_out(coco):
    categories = [{"id": 0, "name": "train"}, {"id": 1, "name": "bus"}, {"id": 7, "name": "train"}]
    files = coco(annotation(1), annotation(2, category_id=1), categories=categories)
    source = coco_source(*files)
    assert source.classes == ("bus", "train")
    assert source[0]["labels"].tolist() == [1, 0]
    with pytest.raises(DataError, match="names 'train' twice"):
        coco_source(*coco(annotation(1), annotation(2, category_id=0), categories=categories))
    # A split without that class has the labels of the others.
    files = coco(annotation(1, category_id=1), categories=categories)
    assert coco_source(*files, classes=source.classes)[0]["labels"].tolist() == [0]


@pytest.mark.parametrize("segmentation", [[[]], [[1, 2, 3, 4]], "x", {"size": [H, W], "counts": ["a"]}])
def test_damaged_segmentations_do_not_matter_to_boxes(coco, segmentation):
    path, images = coco(annotation(1, segmentation=segmentation))
    with pytest.raises(DataError, match="annotation 1 has"):
        coco_source(path, images)
    assert open_source(f"coco:{path},{images},masks=no")[0]["boxes"].tolist() == [[2, 1, 6, 4]]


@pytest.mark.parametrize("folder", [".", "train2017"])
def test_pictures_of_lvis_are_found_by_their_address(coco, folder):
    entry = {"id": 10, "coco_url": "http://images.cocodataset.org/train2017/b.png", "height": H, "width": W}
    path, images = coco(annotation(1), images=[entry])
    with pytest.raises(DataError, match=r"train2017/b\.png is missing, though"):
        coco_source(path, images)
    (images / folder).mkdir(exist_ok=True)
    Image.new("RGB", (W, H)).save(images / folder / "b.png")
    source = coco_source(path, images)
    assert (source.ids, len(source[0]["boxes"])) == (("b",) if folder == "." else ("train2017/b",), 1)
    with pytest.raises(DataError, match="expected a path inside"):
        coco_source(*coco(images=[{"id": 10, "coco_url": "http://x/../b.png"}]))


def test_annotations_of_faulty_pictures_are_not_blamed(coco):
    entries = [{"id": 10, "file_name": "a.png"}, {"id": 20}, {"id": 30, "file_name": "../b.png"}]
    more = [annotation(number, image_id=image) for number, image in ((2, 20), (3, 20), (4, 30), (5, 40))]
    path, images = coco(annotation(1), *more, images=entries)
    problems = doctor(f"coco:{path},{images}").problems
    assert len(problems) == 3
    for problem, start in zip(
        problems, ("picture 20", "picture 30", "annotation 5 belongs to picture 40"), strict=True
    ):
        assert problem.startswith(f"{path}: {start}")
    path, images = coco(*more[:2], images=[{"id": 10}, {"id": 20}])
    assert len(doctor(f"coco:{path},{images}").problems) == 1
    with pytest.raises(DataError, match="no picture of .* has a file_name"):
        coco_source(path, images)


def test_keypoints_without_names_are_said_not_to_be_read(coco):
    path, images = coco(annotation(1, keypoints=[3, 2, 2]), annotation(2, keypoints=[], bbox=[0, 0, 2, 2]))
    assert "keypoints" not in coco_source(path, images)[0]
    (warning,) = doctor(f"coco:{path},{images}").warnings
    assert "1 annotations have keypoints, but no category names them" in warning
    named = [{"id": 7, "name": "train", "keypoints": ["tip"]}]
    path, images = coco(annotation(1, keypoints=[3, 2, 2]), categories=named)
    assert doctor(f"coco:{path},{images}").warnings == ()
