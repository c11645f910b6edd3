"""What several predictions write: each under a name of its own, and objects in a file that our reader reads."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_cv_lectures.data import coco_source
from keras_cv_lectures.geometry.masks import unpack_masks
from keras_cv_lectures.metadata import Metadata, read_metadata
from keras_cv_lectures.predicting import CaptionResult, DetectionResult, output_names, predict
from keras_cv_lectures.runners import Runner

SHAPE = {"input_shape": (None, None, 3), "input_dtype": "uint8", "path": None}
PICTURE = np.zeros((8, 12, 3), np.uint8)


def runner_of(answer, **metadata):
    """A runner that gives the same `answer` for every picture of a batch."""

    def run(images):
        return {name: np.repeat(value[None], len(images), axis=0) for name, value in answer(images).items()}

    return Runner(kind="other", metadata=Metadata(**metadata), run=run, **SHAPE)


@pytest.fixture
def segmentation():
    return runner_of(lambda images: {"probabilities": np.ones((*images.shape[1:3], 1), np.float32)})


@pytest.fixture
def detector():
    """Two objects with masks of the whole box and two keypoints, one of them with a peak below zero."""
    found = {
        "boxes": np.float32([[1, 2, 7, 6], [4, 0, 12, 8]]),
        "scores": np.float32([0.9, 0.6]),
        "labels": np.int32([1, 0]),
        "count": np.int32(2),
        "masks": np.ones((2, 4, 4), np.float32),
        "keypoints": np.float32([[[2, 3, 0.5], [6, 5, 0.25]], [[5, 1, 0.75], [4, 3, -2]]]),
    }
    return runner_of(lambda images: found, classes=("cat", "dog"), keypoint_names=("nose", "tail"))


def put(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PICTURE + np.uint8(value)).save(path)
    return path


def names(model, images, **settings):
    return [result.name for result in predict(model, images, **settings)]


# Names ---------------------------------------------------------------------------------------------------------------


def test_pictures_without_a_name_are_numbered(segmentation, detector, tmp_path):
    batch = np.stack([PICTURE, PICTURE + 1, PICTURE + 2])
    for model, endings in ((segmentation, ("classes.png", "overlay.png")), (detector, ("objects.json", "overlay.png"))):
        for result in predict(model, iter(batch)):
            result.save(tmp_path / endings[0])
        expected = {f"prediction_{n:04d}_{ending}" for n in (1, 2, 3) for ending in endings}
        assert {path.name for path in (tmp_path / endings[0]).iterdir()} == expected
    assert predict(segmentation, PICTURE).name == ""


@pytest.mark.parametrize("kind", [list, iter])
def test_pictures_of_one_stem_have_names_of_their_own(segmentation, tmp_path, kind):
    files = [put(tmp_path / p) for p in ("a/x.png", "b/x.png", "b/y.png", "b/y.bmp", "prediction_0006.png")]
    opened = Image.open(files[3])  # Which knows its file.
    found = names(segmentation, kind([*files[:3], opened, files[4], PICTURE]))
    # What comes next is not known of an iterator: the first one keeps the short name.
    several = ["a_x", "b_x", "y_png", "y_bmp"] if kind is list else ["x", "b_x", "y", "y_bmp"]
    assert found == [*several, "prediction_0006", "prediction_0006_2"]
    found = names(segmentation, kind([put(tmp_path / "prediction_0002.png"), PICTURE, files[0], files[0]]))
    assert len({name.casefold() for name in found}) == 4
    opened.close()


def test_a_folder_with_two_pictures_of_one_stem(segmentation, tmp_path):
    for name in ("X.png", "x.bmp", "y.png"):
        put(tmp_path / "in" / name)
    assert names(segmentation, tmp_path / "in") == ["X_png", "x_bmp", "y"]


def test_a_batch_has_the_names_of_its_pictures(tmp_path):
    """Pictures are read ahead for a batch; each result still gets the name of its own."""
    model = runner_of(lambda images: {"probabilities": np.ones((4, 6, 1), np.float32)}, input_size=(4, 6))
    files = [put(tmp_path / f"{name}.png", value) for value, name in enumerate("abcde")]
    results = list(predict(model, [*files[:3], PICTURE + 3, files[4]], batch_size=2))
    assert [r.name for r in results] == ["a", "b", "c", "prediction_0004", "e"]
    assert [int(r.image[0, 0, 0]) for r in results] == [0, 1, 2, 3, 4]


def test_a_link_has_its_own_name(tmp_path):
    target = put(tmp_path / "store" / "0a1b.png")
    links = [tmp_path / "links" / name for name in ("cat.png", "dog.png")]
    (tmp_path / "links").mkdir()
    for link in links:
        link.symlink_to(target)
    assert list(output_names(links).values()) == ["cat", "dog"]


def test_captions_have_names_too(tmp_path):
    tokens = {"tokens": np.int32([4, 2]), "length": np.int32(1), "log_probability": np.float32(-1)}
    model = runner_of(lambda images: tokens)
    results = list(predict(model, [PICTURE, PICTURE], classes=("<pad>", "<start>", "<end>", "<unk>", "dog")))
    assert all(isinstance(result, CaptionResult) for result in results)
    assert [(r.name, r.caption) for r in results] == [("prediction_0001", "dog"), ("prediction_0002", "dog")]


# Objects -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_our_reader_reads_what_a_detector_wrote(detector, tmp_path, known):
    if not known:
        detector.facts.clear()
        detector = Runner(kind="other", metadata=Metadata(classes=("cat", "dog")), run=detector.run, **SHAPE)
    result = predict(detector, put(tmp_path / "pictures" / "street.one.png"))
    assert (result.name, result.file_name) == ("street.one", "street.one.png")
    file = result.save(tmp_path / "out", score=0.0)["objects"]
    source = coco_source(file, tmp_path / "pictures")
    assert source.object_classes == ("cat", "dog")
    assert source.keypoint_names == (("nose", "tail") if known else ("point_1", "point_2"))
    (example,) = source
    np.testing.assert_array_equal(example["image"], PICTURE)
    np.testing.assert_array_equal(example["boxes"], result.boxes)
    np.testing.assert_array_equal(example["labels"], [1, 0])
    np.testing.assert_array_equal(example["keypoints"], [[[2, 3, 2], [6, 5, 2]], [[5, 1, 2], [4, 3, 2]]])
    masks = unpack_masks(example["mask_pixels"], example["mask_windows"], (8, 12))
    np.testing.assert_array_equal(masks, unpack_masks(*result.masks, (8, 12)))


def test_names_of_keypoints_that_do_not_fit_are_not_used(detector):
    two = predict(detector, PICTURE)
    assert two.keypoint_names == two.above(0.7).keypoint_names == ("nose", "tail")
    other = Runner(kind="other", metadata=Metadata(keypoint_names=("nose",)), run=detector.run, **SHAPE)
    assert predict(other, PICTURE).keypoint_names == ()
    assert isinstance(two, DetectionResult)


def test_metadata_keep_the_names_of_keypoints(tmp_path):
    facts = Metadata(classes=("dog",), keypoint_names=("nose", "tail"))
    (tmp_path / "run.json").write_text(json.dumps(facts.to_json()))
    assert read_metadata(tmp_path) == facts
    older = {name: value for name, value in facts.to_json().items() if name != "keypoint_names"}
    (tmp_path / "run.json").write_text(json.dumps(older))
    assert read_metadata(tmp_path) == Metadata(classes=("dog",))
    (tmp_path / "run.json").write_text(json.dumps({**older, "keypoint_names": "nose"}))
    with pytest.raises(ValueError, match="keypoint_names must be a list of names"):
        read_metadata(tmp_path)
