"""Which pictures `kcvl train` trains and validates on, and with which labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from kcvl.training import open_training_data
from keras_cv_lectures.errors import DataError


@pytest.fixture
def coco(tmp_path):
    """Writes `train.json` or `val.json` with one picture, the categories {id: name} and a box of each of `objects`."""

    def write(split, names, objects):
        (tmp_path / split).mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), len(split), np.uint8)).save(tmp_path / split / "a.png")
        content = {
            "images": [{"id": 1, "file_name": "a.png"}],
            "categories": [{"id": number, "name": name} for number, name in names.items()],
            "annotations": [
                {"id": i, "image_id": 1, "category_id": number, "bbox": [1, 1, 4, 3]}
                for i, number in enumerate(objects)
            ],
        }
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
        return f"coco:{tmp_path}/{{split}}.json,{tmp_path}/{{split}}"

    return write


def test_a_class_has_one_label_in_training_and_validation(coco):
    spec = coco("train", {1: "cat", 2: "dog", 3: "bird"}, [1, 2, 3])
    coco("val", {1: "dog", 2: "cat"}, [1, 2])
    train_source, val_source, _ = open_training_data(spec, None)
    assert train_source.classes == val_source.classes == ("cat", "dog", "bird")
    assert val_source[0]["labels"].tolist() == [1, 0]
    coco("val", {1: "dog", 2: "fox"}, [1, 2])
    with pytest.raises(DataError, match="is a 'fox', but the classes are cat, dog, bird"):
        open_training_data(spec, None)


def test_pets_are_held_out_within_each_breed(tmp_path):
    for folder in ("images", "annotations/trimaps"):
        (tmp_path / folder).mkdir(parents=True)
    names = [f"{breed}_{number}" for breed in ("Bengal", "great_pyrenees", "pug") for number in range(1, 8)]
    for number, name in enumerate(names):
        Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
        Image.fromarray(np.eye(4, 6, dtype=np.uint8) + 1).save(tmp_path / "annotations" / "trimaps" / f"{name}.png")
    train_source, val_source, _ = open_training_data(f"pets:{tmp_path}", None)
    assert val_source.ids == ("Bengal_7", "great_pyrenees_7", "pug_7")  # Of 7 each, 15 % is 1.05.
    assert train_source.ids == tuple(name for name in names if not name.endswith("_7"))
    assert (train_source.name, val_source.name) == ("pets (other 18)", "pets (chosen 3)")
    again = open_training_data(f"pets:{tmp_path}", None, validated=["pug_1"])[1]
    assert again.ids == ("pug_1",)
