"""Pictures to validate on where the data name none, and what the doctor says of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import Source, doctor, examine
from keras_cv_lectures.data.held_out import held_out


def test_the_last_pictures_or_the_last_of_each_breed():
    ids = [f"cat_{i}" for i in range(20)] + [f"big_dog_{i}" for i in range(10)]
    assert held_out(ids) == list(range(26, 30))  # round(4.5) is 4.
    assert held_out(ids, "petsboxes") == [17, 18, 19, 28, 29]
    assert held_out(["a_1", "b_1", "c_1", "d_1"], "pets") == [3]
    assert held_out(["a", "b", "c"]) == []


def source_of(labels, masks):
    """A picture with one object, or a mask, of each of `labels`."""

    def read(index):
        example = {"image": np.full((2, 2, 3), [index, 0, 9], np.uint8)}
        if masks:
            return example | {"mask": np.full((2, 2), labels[index], np.int32)}
        return example | {"boxes": np.float32([[0, 0, 2, 2]]), "labels": np.int32([labels[index]])}

    names = ("cat", "dog", "hen")
    return Source(
        name="toy",
        ids=tuple(f"{'cdh'[label]}_{i}" for i, label in enumerate(labels)),
        read=read,
        classes=names,
        colors=((0, 0, 0),) * 3,
        object_classes=() if masks else names,
    )


@pytest.mark.parametrize("masks", [False, True])
def test_the_doctor_warns_of_pictures_sorted_by_class(masks):
    """Of 60 pictures the last 9 are dogs; 24 hens may be missing there by chance."""
    said = "toy: the 9 pictures that `kcvl train` validates on without --val, the last, have none of"
    labels = [0] * 26 + [2] * 24 + [1] * 10
    (warning,) = (line for line in examine([source_of(labels, masks)]).warnings if "--val" in line)
    assert warning.startswith(f"{said} 'cat'. Are they sorted by class?")
    mixed = [label for trio in zip([0] * 20, [1] * 20, [2] * 20, strict=True) for label in trio]
    for sources, kind in (
        ([source_of(mixed, masks)], ""),
        ([source_of(labels, masks)], "pets"),
        ([source_of(labels, masks), source_of([1] * 3, masks)], ""),
    ):
        assert not any("--val" in line for line in examine(sources, kind=kind).warnings)


def test_a_split_that_does_not_open_is_there_to_validate_on(tmp_path):
    """26 cats before 4 dogs, which alone would be validated on if there was no other split."""
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(30)]
    boxes = [{"id": i, "image_id": i, "category_id": int(i > 25), "bbox": [0, 0, 2, 2]} for i in range(30)]
    for i in range(30):
        Image.fromarray(np.full((2, 2, 3), [i, 0, 9], np.uint8)).save(tmp_path / f"{i}.png")
    names = [{"id": i, "name": name} for i, name in enumerate(("cat", "dog"))]
    content = {"images": images, "annotations": boxes, "categories": names}
    (tmp_path / "train.json").write_text(json.dumps(content))
    spec = f"coco:{tmp_path}/{{split}}.json,{tmp_path}"
    assert sum("without --val" in line for line in doctor(spec).warnings) == 1
    (tmp_path / "val.json").write_text("{")
    report = doctor(spec)
    assert "val.json" in report.problems[0]
    assert not any("without --val" in line for line in report.warnings)
