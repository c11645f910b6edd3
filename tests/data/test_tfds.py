"""Data sets of tensorflow-datasets: built here, in a temporary folder, with pictures drawn on the spot."""

import json
import shutil
import sys

import numpy as np
import pytest
from made_tfds import builder_class, prepare
from PIL import Image

from keras_cv_lectures.data import caption_texts, doctor, has_splits, open_source, tfds_source, to_dataset
from keras_cv_lectures.data.spec_text import parse_spec
from keras_cv_lectures.data.specs import splits_of
from keras_cv_lectures.errors import DataError

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed (extra [data])")

HEIGHT, WIDTH = 20, 40
TRAIN, VAL = 5, 2


def picture(index):
    return np.full((HEIGHT, WIDTH, 3), 10 * index, np.uint8)


def mask(index):
    return np.tile(np.arange(WIDTH) * 3 // WIDTH, (HEIGHT, 1))[..., None].astype(np.uint8)


def box(x1, y1, x2, y2):
    return tfds.features.BBox(ymin=y1 / HEIGHT, xmin=x1 / WIDTH, ymax=y2 / HEIGHT, xmax=x2 / WIDTH)


def boxes(index):
    """As many objects as the example's number says: corners in pixels, label, crowd, difficult."""
    return [((2.0 * i, 1.0, 2.0 * i + 10, 6.0 + i), i % 2, i == 1, i == 2) for i in range(index)]


def kinds():
    """Name -> features and a function that makes example `i`."""
    f = tfds.features
    image, marks = f.Image(), ("is_crowd", "is_difficult")
    inner = {"bbox": f.BBoxFeature(), "label": f.ClassLabel(names=["cat", "dog"]), **dict.fromkeys(marks, np.bool_)}
    objects = f.Sequence({**inner, "area": np.int64})

    def rows(index):
        return [
            {"bbox": box(*corners), "label": label, "area": 7 + i, **dict(zip(marks, values, strict=True))}
            for i, (corners, label, *values) in enumerate(boxes(index))
        ]

    def one(index):
        return {"image": picture(index), "segmentation_mask": mask(index)}

    named = f.LabeledImage(labels=["sky", "road", "car"])
    plain = f.Image(shape=(None, None, 1))
    return {
        "seg_named": (
            {"image": image, "segmentation_mask": named, "film": f.Video((None, 4, 4, 3))},
            lambda i: one(i) | {"film": np.zeros((i % 3, 4, 4, 3), np.uint8)},
        ),
        "seg_plain": ({"image": image, "segmentation_mask": plain}, one),
        "det": (
            {"image": image, "objects": objects, "rows": f.Sequence(f.Sequence(np.int64))},
            lambda i: {"image": picture(i), "objects": rows(i), "rows": [[1], [2, 3]]},
        ),
        "det_bare": (
            {"image": image, "faces": f.Sequence(f.BBoxFeature())},
            lambda i: {"image": picture(i), "faces": [box(*corners) for corners, *_ in boxes(i)]},
        ),
        "cap": (
            {"image": image, "captions": f.Sequence({"id": np.int64, "text": f.Text()}), "name": f.Text()},
            lambda i: {
                "image": picture(i),
                "name": "x",
                "captions": [{"id": 1, "text": f"Number  {i}\nis é."}, {"id": 2, "text": " .. "}],
            },
        ),
        "cap_one": ({"image": image, "caption": f.Text()}, lambda i: {"image": picture(i), "caption": f"A {i}"}),
        "both": (
            {"image": image, "segmentation_mask": plain, "objects": objects, "caption": f.Text()},
            lambda i: one(i) | {"objects": rows(i), "caption": f"A {i}"},
        ),
        "nothing": (
            {"image": image, "label": f.ClassLabel(num_classes=3)},
            lambda i: {"image": picture(i), "label": 1},
        ),
    }


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The folder of all of `kinds`, with the splits train, validation and test."""
    folder = tmp_path_factory.mktemp("tfds")
    splits = {"train": (0, TRAIN), "validation": (TRAIN, VAL), "test": (TRAIN + VAL, 1)}
    for name, (features, example) in kinds().items():
        form = "array_record" if name == "cap_one" else "tfrecord"
        prepare(folder, name, features, example, splits, file_format=form)
    return folder


def by_number(source):
    """The examples by the number that their pictures show: tensorflow-datasets shuffles as it writes."""
    return {int(example["image"][0, 0, 0]) // 10: example for example in source}


def test_masks_with_names(prepared):
    source = open_source(f"tfds:seg_named,dir={prepared}")
    assert source.classes == ("sky", "road", "car")
    assert len(source) == TRAIN
    for number, example in by_number(source).items():
        np.testing.assert_array_equal(example["image"], picture(number))
        np.testing.assert_array_equal(example["mask"], mask(number)[..., 0])
        assert example["mask"].dtype == np.int32
    assert sorted(by_number(source)) == list(range(TRAIN))
    assert open_source(f"tfds:seg_named,dir={prepared},channels=1")[0]["image"].shape == (HEIGHT, WIDTH, 1)


def test_masks_without_names_are_guessed_or_named_by_a_file(prepared, tmp_path):
    spec = f"tfds:seg_plain,dir={prepared}"
    source = open_source(spec)
    assert source.classes == ("class 0", "class 1", "class 2")
    assert "Mask values were taken as the classes 0..2" in source.notes[0]
    assert doctor(spec).notes == source.notes
    (tmp_path / "labels.txt").write_text("1 road\n0 sky\nignore 2\n")
    source = open_source(f"{spec},labels={tmp_path}/labels.txt")
    assert source.classes == ("road", "sky")
    np.testing.assert_array_equal(np.unique(source[0]["mask"]), [0, 1, 255])
    assert source.notes == ()


def test_boxes_become_absolute_corners(prepared):
    source = open_source(f"tfds:det,dir={prepared}")
    assert source.classes == source.object_classes == ("cat", "dog")
    for number, example in by_number(source).items():
        expected = boxes(number)
        np.testing.assert_allclose(example["boxes"], np.array([b for b, *_ in expected]).reshape(-1, 4), atol=1e-5)
        assert example["labels"].tolist() == [label for _, label, *_ in expected]
        assert example["crowd"].tolist() == [crowd for *_, crowd, _ in expected]
        assert example["difficult"].tolist() == [difficult for *_, difficult in expected]
        assert example["area"].tolist() == [7 + i for i in range(number)]
    report = doctor(f"tfds:det,dir={prepared},split=train")
    assert report.splits[0].crowds == sum(crowd or difficult for i in range(TRAIN) for *_, crowd, difficult in boxes(i))
    assert example["boxes"].dtype == np.float32


def test_classes_of_boxes_take_the_order_of_a_model(prepared, tmp_path):
    (tmp_path / "classes.txt").write_text("dog\nfox\ncat\n")
    spec = f"tfds:det,dir={prepared}"
    known = open_source(f"{spec},labels={tmp_path}/classes.txt")
    for other in (known, open_source(spec, "val", like=known)):
        assert other.classes == ("dog", "fox", "cat")
        for number, example in by_number(other).items():
            assert example["labels"].tolist() == [2 - 2 * label for _, label, *_ in boxes(number)]
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(DataError, match="holds objects 'dog', but the classes are cat"):
        open_source(f"{spec},labels={tmp_path}/classes.txt")


def test_boxes_without_classes_are_objects(prepared):
    source = open_source(f"tfds:det_bare,dir={prepared}")
    assert source.classes == ("object",)
    assert [len(by_number(source)[i]["labels"]) for i in range(TRAIN)] == list(range(TRAIN))


def test_captions(prepared):
    source = open_source(f"tfds:cap,dir={prepared}")
    assert {n: list(e["captions"]) for n, e in by_number(source).items()} == {
        i: [f"Number {i} is é."] for i in range(5)
    }
    assert sorted(caption_texts(source)) == [f"Number {i} is é." for i in range(TRAIN)]
    report = doctor(f"tfds:cap,dir={prepared}")
    assert report.ok
    assert any("captions left out: 5" in warning and "'..' has no word" in warning for warning in report.warnings)


def test_array_records_are_read_too(prepared):
    source = open_source(f"tfds:cap_one,dir={prepared}", "val")
    assert {n: list(e["captions"]) for n, e in by_number(source).items()} == {5: ["A 5"], 6: ["A 6"]}


def test_splits_and_slices(prepared):
    spec = f"tfds:seg_named,dir={prepared}"
    assert splits_of(parse_spec(spec)) == ("train", "val")
    assert has_splits(spec)
    whole = by_number(open_source(spec, "val"))
    assert sorted(whole) == [5, 6]
    assert sorted(by_number(open_source(f"{spec},split=test"))) == [7]
    first, rest = (open_source(f"{spec},split=train[{part}]") for part in (":40%", "40%:"))
    assert first.ids + rest.ids == open_source(spec).ids
    assert (len(first), len(rest)) == (2, 3)
    assert sorted({**by_number(first), **by_number(rest)}) == list(range(TRAIN))
    for wrong in ("nowhere", "train[a:b]", "train[", "../x"):
        with pytest.raises(DataError, match="there is train, validation, test"):
            open_source(f"{spec},split={wrong}")


def test_it_goes_through_the_pipeline_of_a_training(prepared):
    dataset = to_dataset(open_source(f"tfds:det,dir={prepared}"), shuffle=True, seed=1, epochs=2)
    found = [(int(row["image"][0, 0, 0]) // 10, len(row["boxes"])) for row in dataset]
    assert sorted(found) == sorted([(i, i) for i in range(TRAIN)] * 2)


def test_masks_and_objects_need_a_choice(prepared):
    spec = f"tfds:both,dir={prepared}"
    with pytest.raises(DataError, match="Choose one: mask=segmentation_mask or objects=objects"):
        open_source(spec)
    with pytest.raises(DataError, match="Choose one"):
        open_source(f"{spec},mask=segmentation_mask,objects=objects")
    masks, objects, captions = (
        open_source(f"{spec},{choice}")[0]
        for choice in ("mask=segmentation_mask", "objects=objects", "captions=caption")
    )
    assert set(masks) == {"image", "image_id", "mask"}
    assert set(objects) == {"image", "image_id", "boxes", "labels", "crowd", "difficult", "area"}
    assert set(captions) == {"image", "image_id", "captions"}
    assert set(open_source(f"{spec},objects=objects,captions=caption")[0]) == set(objects) | {"captions"}
    with pytest.raises(DataError, match=r"mask=objects must be a feature for that: image, segmentation_mask\. The"):
        open_source(f"{spec},mask=objects")
    with pytest.raises(DataError, match=r"are expected; the features are image \(Image\), label \(ClassLabel\)"):
        open_source(f"tfds:nothing,dir={prepared}")


def test_what_is_not_prepared_is_not_downloaded(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "builder", lambda *a, **k: pytest.fail("a data set's own program was asked for"))
    with pytest.raises(DataError, match=r"tfds:mnist is not prepared in .*Add download=yes.*tfds\.builder\('mnist'"):
        open_source(f"tfds:mnist,dir={tmp_path}")
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(open_source("tfds:seg_named")) == len(tfds_source("seg_named:1.0.0")) == TRAIN
    with pytest.raises(DataError, match="is not prepared"):
        open_source("tfds:seg_named:2.0.0")
    for name in ("../seg_named", "kaggle:x", "seg_named/..", "gs://x", "a b"):
        with pytest.raises(DataError, match="is no name of a data set|expected a path inside"):
            open_source(f"tfds:{name}")


def test_it_is_prepared_when_asked(tmp_path):
    features, example = kinds()["cap_one"]
    maker = builder_class("made_when_asked", features, example, {"train": (0, 2)})
    tfds.core.registered._DATASET_REGISTRY[maker.name] = maker
    try:
        spec = f"tfds:made_when_asked,dir={tmp_path}"
        with pytest.raises(DataError, match="is not prepared"):
            open_source(spec)
        assert len(open_source(f"{spec},download=yes")) == len(open_source(spec)) == 2
    finally:
        del tfds.core.registered._DATASET_REGISTRY[maker.name]
    with pytest.raises(DataError, match="cannot be prepared in"):
        open_source(f"tfds:no_such_data_set,dir={tmp_path},download=yes")
    with pytest.raises(DataError, match="there is train"):
        open_source(spec, "val")


def test_configurations_and_versions(prepared, tmp_path):
    for place in ("x/a/1.0.0", "x/a/1.10.0", "x/a/1.9.0", "x/b/1.0.0"):
        shutil.copytree(prepared / "seg_named" / "1.0.0", tmp_path / place)
    with pytest.raises(DataError, match="holds the configurations a, b. Choose one: tfds:x/a"):
        open_source(f"tfds:x,dir={tmp_path}")
    from keras_cv_lectures.data.tfds_folder import open_builder

    assert str(open_builder("x/a", tmp_path).data_dir).endswith("x/a/1.10.0")
    assert str(open_builder("x/a:1.9.0", tmp_path).data_dir).endswith("x/a/1.9.0")
    shutil.rmtree(tmp_path / "x" / "b")
    assert str(open_builder("x", tmp_path).data_dir).endswith("x/a/1.10.0")


def test_without_tensorflow_datasets_the_message_says_how_to_install_it(prepared, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r"pip install 'keras_cv_lectures\[data\]'"):
        open_source(f"tfds:det,dir={prepared}")
    report = doctor(f"tfds:det,dir={prepared}")
    assert "pip install" in report.problems[0]


@pytest.fixture
def copy(prepared, tmp_path):
    """A copy of one data set that a test may damage: `copy("det")` gives its folder, its spec and its training file."""

    def make(name):
        folder = tmp_path / name / "1.0.0"
        shutil.copytree(prepared / name / "1.0.0", folder)
        return folder, f"tfds:{name},dir={tmp_path}", next(folder.glob("*-train.*"))

    return make


def test_damaged_records_are_named(copy):
    _, spec, file = copy("seg_named")
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="is truncated or damaged at byte"):
        open_source(spec)
    first = int.from_bytes(whole[:8], "little") + 16
    file.write_bytes(whole[first:])
    with pytest.raises(DataError, match="holds 4 examples, but .* says 5"):
        open_source(spec)
    place = whole.index(b"IDAT")
    file.write_bytes(whole[:place] + b"XXXX" + whole[place + 4 :])
    report = doctor(spec)
    assert len(report.problems) == 1
    assert f"{file}, example 0" in report.problems[0]
    assert report.splits[0].readable == TRAIN - 1
    file.unlink()
    with pytest.raises(DataError, match="is no file in"):
        open_source(spec)


def test_files_outside_of_the_folder_are_not_opened(copy, tmp_path):
    folder, spec, file = copy("seg_named")
    file.rename(tmp_path / file.name)
    info = json.loads((folder / "dataset_info.json").read_text())
    for split in info["splits"]:
        split["filepathTemplate"] = "../../" + split["filepathTemplate"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="is no file in"):
        open_source(spec)


def test_no_module_is_imported_because_a_file_names_it(copy, tmp_path, monkeypatch):
    folder, spec, _ = copy("seg_named")
    (tmp_path / "harmful.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend(tmp_path)
    content = (folder / "features.json").read_text()
    (folder / "features.json").write_text(content.replace("tensorflow_datasets.core.features.labeled_image", "harmful"))
    with pytest.raises(DataError, match=r"names the class 'harmful.LabeledImage'.*own_reader.md"):
        open_source(spec)
    for content in ("{", "[]", '{"featuresDict": 3}'):
        (folder / "features.json").write_text(content)
        with pytest.raises(DataError, match="Prepare"):
            open_source(spec)


def test_boxes_in_pixels_are_refused(tmp_path):
    f = tfds.features
    features = {"image": f.Image(), "objects": f.Sequence({"bbox": f.Tensor(shape=(4,), dtype=np.float32)})}

    def example(index):
        return {"image": picture(index), "objects": [{"bbox": [1, 2, 12, 22]}]}

    prepare(tmp_path, "det", features, example, {"train": (0, 1)})
    file = tmp_path / "det" / "1.0.0" / "features.json"
    text = file.read_text()
    # As a data set that was prepared before the form of boxes was written down.
    bare = {"boundingBox": {}, "pythonClassName": "tensorflow_datasets.core.features.bounding_boxes.BBoxFeature"}
    content = json.loads(text)
    inner = content["featuresDict"]["features"]["objects"]["sequence"]["feature"]["featuresDict"]["features"]
    inner["bbox"] = bare
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"must be \(ymin, xmin, ymax, xmax\) in 0..1, but are 1 to 22"):
        open_source(f"tfds:det,dir={tmp_path}")[0]


def test_palette_masks_keep_their_indices(tmp_path):
    stored = Image.fromarray(mask(0)[..., 0]).convert("P")
    stored.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    stored.save(tmp_path / "mask.png")
    f = tfds.features
    features = {"image": f.Image(), "mask": f.Image(shape=(None, None, 1))}
    stored_mask = {"mask": tmp_path / "mask.png"}
    prepare(tmp_path, "palette", features, lambda i: {"image": picture(i)} | stored_mask, {"train": (0, 1)})
    np.testing.assert_array_equal(open_source(f"tfds:palette,dir={tmp_path}")[0]["mask"], mask(0)[..., 0])
