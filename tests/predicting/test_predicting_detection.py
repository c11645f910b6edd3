"""Detectors through the predictor: every kind of file finds the same boxes in pictures of every size."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from PIL import Image

from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import PictureError
from keras_cv_lectures.geometry.rle import rle_decode
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.predicting import DetectionResult, SegmentationResult, is_detector, predict, predict_tiled
from keras_cv_lectures.predicting.tiled import as_runner
from keras_cv_lectures.preprocessing.detection import detection_example
from keras_cv_lectures.reporting.exports import _picture_reader
from keras_cv_lectures.runners import Runner

NAMES = ("dark", "bright")
COLORS = ((200, 0, 0), (0, 200, 0))


def bright_box(input_shape=(None, None, 3)):
    """A detector of one class (label 1): the box around all pixels brighter than 127.5, with room for two objects."""
    image = keras.Input(input_shape, name="image")
    bright = ops.cast(ops.max(image, axis=-1) > 127.5, "float32")  # (B, H, W)
    edges = []
    for axis in (1, 2):  # x from the maximum over rows, y from that over columns
        line = ops.max(bright, axis=axis)
        place = ops.cumsum(ops.ones_like(line), axis=1) - 1
        edges.append(ops.min(ops.where(line > 0, place, 1e6), axis=1))
        edges.append(ops.max(ops.where(line > 0, place + 1, 0), axis=1))
    box = ops.stack([edges[0], edges[2], edges[1], edges[3]], axis=-1)
    found = ops.max(bright, axis=(1, 2)) > 0
    box = ops.where(found[:, None], box, 0)
    nothing = ops.zeros_like(box)
    score = ops.cast(found, "float32") * 0.75
    label = ops.where(found, 1, -1)
    outputs = {
        "boxes": ops.stack([box, nothing], axis=1),
        "scores": ops.stack([score, score * 0], axis=1),
        "labels": ops.stack([label, label * 0 - 1], axis=1),
        "count": ops.cast(found, "int32"),
        "masks": ops.ones_like(ops.tile(ops.stack([box, nothing], axis=1)[..., None], (1, 1, 1, 4))),
    }
    return keras.Model(image, outputs)


def picture_of(size, box, channels=3):
    """Black but for a white box."""
    picture = np.zeros((*size, channels), np.uint8)
    x1, y1, x2, y2 = box
    picture[y1:y2, x1:x2] = 255
    return picture


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The detector as every kind of file: name -> path; those with "48x64" take that size only."""
    folder = tmp_path_factory.mktemp("stored")
    model = bright_box()
    # The size of training is nothing to a detector of open size, which resizes by itself.
    facts = Metadata(classes=NAMES, colors=COLORS, input_size=(32, 32)).to_json()
    (folder / "run").mkdir()
    model.save(folder / "run" / "best.keras")
    for name, size in (("open", (None, None)), ("48x64", (48, 64))):
        archive = keras.export.ExportArchive()
        archive.track(model)
        spec = tf.TensorSpec((1, *size, 3), tf.uint8, name="image")
        archive.add_endpoint("serving_default", lambda image: model(tf.cast(image, tf.float32)), [spec])
        archive.write_out(folder / f"saved {name}", verbose=False)
        (folder / f"saved {name}" / "model_card.json").write_text(json.dumps(facts))
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved 48x64"))
    (folder / "tflite 48x64.tflite").write_bytes(converter.convert())
    for card in ("run/run.json", "tflite 48x64.json"):
        (folder / card).write_text(json.dumps(facts))
    names = {"run": "run", "tflite 48x64": "tflite 48x64.tflite"}
    return {kind: folder / names.get(kind, kind) for kind in ("run", "saved open", "saved 48x64", "tflite 48x64")}


@pytest.mark.parametrize("size", [(48, 64), (101, 77), (20, 300)], ids=str)
@pytest.mark.parametrize("kind", ["run", "saved open", "saved 48x64", "tflite 48x64"])
def test_every_kind_of_file_finds_the_box_in_the_pictures_own_pixels(stored, kind, size):
    box = (size[1] // 4, size[0] // 5, size[1] // 2, size[0])  # touches the lower border
    result = predict(stored[kind], picture_of(size, box))
    assert (result.classes, result.colors, len(result)) == (NAMES, COLORS, 1)
    assert (result.labels.tolist(), result.scores.tolist()) == ([1], [0.75])
    shrunk = 1 if kind in ("run", "saved open") else max(1, size[0] / 48, size[1] / 64)
    tolerance = 0 if shrunk == 1 and (kind in ("run", "saved open") or size == (48, 64)) else 1.01 * shrunk
    np.testing.assert_allclose(result.boxes[0], box, atol=tolerance)
    x1, y1, x2, y2 = result.boxes[0].round().astype(int)
    inside = result.instance_map()[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
    assert inside.mean() > 0.95  # pasted masks have round corners


def test_what_is_a_detector_is_known_before_or_seen_in_the_answer(stored):
    assert is_detector(as_runner(stored["run"])) is True
    assert is_detector(as_runner(stored["tflite 48x64"])) is True
    runner = as_runner(stored["saved open"])
    assert is_detector(runner) is None
    assert len(list(predict(runner, [picture_of((30, 40), (1, 2, 9, 9)), np.zeros((20, 20, 3), np.uint8)]))) == 2
    assert is_detector(runner) is True
    image = keras.Input((None, None, 3))
    assert is_detector(as_runner(keras.Model(image, {"logits": image}))) is False
    assert is_detector(as_runner(keras.Model(image, image))) is False


def test_a_keras_detector_is_prepared_once_for_all_sizes(stored):
    runner = as_runner(stored["run"])
    for size in ((20, 30), (31, 17)):
        predict(runner, picture_of(size, (1, 2, 9, 9)))
    assert runner.facts["open"].structured_outputs["boxes"].shape == (None, 2, 4)


def test_a_picture_that_a_detector_fails_on_is_told():
    image = keras.Input((None, None, 3))
    halved = keras.layers.UpSampling2D(2)(keras.layers.MaxPooling2D(2)(image))
    both = keras.layers.Concatenate()([image, halved])  # of one size where no side is odd
    model = keras.Model(image, bright_box()(both[..., :3]))
    with pytest.raises(PictureError, match=r"The model failed while it ran on a picture of 9x12 pixels \(.*(9|8)"):
        predict(model, np.zeros((9, 12, 3), np.uint8))
    box = (2, 1, 7, 8)
    np.testing.assert_array_equal(predict(model, picture_of((10, 12), box)).boxes, [box])


def test_pictures_share_a_batch_where_the_file_takes_one_size(stored):
    seen = []

    def run(images):
        seen.append(images.shape)
        return runner(images)

    runner = as_runner(stored["saved 48x64"])
    spy = dataclasses.replace(runner, run=run, facts={})
    pictures = [picture_of((20 + i, 30), (2, 2, 20, 10 + i)) for i in range(3)]
    for picture, result in zip(pictures, predict(spy, iter(pictures), batch_size=2), strict=True):
        np.testing.assert_array_equal(result.boxes, predict(runner, picture).boxes)
    assert seen == [(1, 48, 64, 3), (2, 48, 64, 3), (1, 48, 64, 3)]  # the first tells what the file gives


@pytest.mark.parametrize("size", [(97, 131), (40, 59), (20, 30)], ids=str)
def test_a_detector_of_one_size_sees_pictures_as_in_training(size):
    """Detections and the calibration in 8 bits: not filtered, rounded down to the same size."""
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    example = {"image": picture, "boxes": np.float32([[1, 1, 9, 9]]), "labels": np.int32([0])}
    trained = detection_example(example, canvas=(48, 64), sizes=(48, 64))
    height, width = trained["size"].numpy()
    expected = (trained["image"].numpy() + 0.5).astype(np.uint8)[:height, :width]
    seen = []

    def run(images):
        seen[:] = [images[0]]  # The first it sees tells what the file gives.
        return _fake([0]).run(images)

    predict(dataclasses.replace(_fake([0]), run=run, input_shape=(48, 64, 3)), picture)
    source = Source(name="test", ids=("a",), read=lambda index: example, classes=("x",), colors=((1, 1, 1),))
    seen.append(_picture_reader(source, (None, 48, 64, 3), None, None, (0, 0), True)(0))
    for found in seen:
        assert found.shape == (48, 64, 3)
        np.testing.assert_array_equal(found[:height, :width], expected)
        assert (found[height:] == (124, 116, 104)).all()
        assert (found[:, width:] == (124, 116, 104)).all()


def test_masks_are_pasted_where_their_whole_boxes_lie():
    boxes, masks = np.float32([[40, 10, 60, 30]]), np.zeros((1, 4, 4), np.float32)
    masks[..., :2] = 1  # the left half of a box that is 40 wide: all that lies in the picture
    fields = {"boxes": boxes, "mask_probabilities": masks, "keypoints": None, "scores": np.float32([0.9])}
    whole = _result(**fields, mask_boxes=np.float32([[40, 10, 80, 30]]), labels=np.int32([0]))
    assert (whole.above(0.5).instance_map()[12:28, 42:58] == 1).all()
    assert not _result(**fields, labels=np.int32([0])).instance_map()[:, 54:].any()  # squeezed into the cut box


def test_points_with_scores_below_nought_are_drawn_too():
    points = np.float32([[[9, 9, -3]], [[25, 20, 1]], [[3, 3, 1]]])
    settings = {"tags": False, "enlarge": False, "alpha": 0.0}
    drawn, left_out = _result(keypoints=points).draw(**settings), _result(keypoints=None).draw(**settings)
    assert (drawn[9, 9] != left_out[9, 9]).any()


def test_a_folder_grey_pictures_and_pictures_without_objects(stored, tmp_path):
    Image.fromarray(picture_of((30, 40), (3, 4, 20, 22))[..., 0]).save(tmp_path / "a.png")
    Image.new("RGBA", (40, 30)).save(tmp_path / "b.png")
    full, empty = predict(stored["run"], tmp_path)
    assert (full.name, full.boxes.tolist(), full.image.shape) == ("a", [[3, 4, 20, 22]], (30, 40, 1))
    assert (empty.name, len(empty), empty.boxes.shape, empty.masks[1].shape) == ("b", 0, (0, 4), (0, 4))
    assert full.draw().shape == (240, 320, 3)
    assert empty.draw().shape[2] == 3


@pytest.mark.parametrize("settings", [{"tile": 32}, {"tile": "auto"}, {"margin": 8}, {"stride": 4}], ids=str)
@pytest.mark.parametrize("kind", ["run", "saved open", "tflite 48x64"])
def test_detectors_are_not_tiled(stored, kind, settings):
    with pytest.raises(ValueError, match="not predicted in tiles"):
        predict(stored[kind], picture_of((60, 60), (1, 1, 9, 9)), **settings)
    if "tile" in settings and kind != "run":
        with pytest.raises(ValueError, match="not predicted in tiles"):
            predict_tiled(stored[kind], picture_of((60, 60), (1, 1, 9, 9)), margin=8)


def test_names_and_colours_must_fit():
    runner = _fake([1])
    result = predict(runner, np.zeros((8, 8, 3), np.uint8))
    assert result.classes == ("class 0", "class 1")
    assert len(set(result.colors)) == 2
    named = predict(runner, np.zeros((8, 8, 3), np.uint8), classes=("a", "b", "c"))
    assert (named.classes, len(named.colors)) == (("a", "b", "c"), 3)
    with pytest.raises(ValueError, match="`colors` has 1 entries"):
        predict(runner, np.zeros((8, 8, 3), np.uint8), classes=("a", "b"), colors=[(1, 2, 3)])
    with pytest.raises(ValueError, match="object of class 1, but only 1 classes are known"):
        predict(runner, np.zeros((8, 8, 3), np.uint8), classes=("a",))


def test_a_segmentation_is_predicted_as_before():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Activation("linear", name="logits")(image))
    assert isinstance(predict(model, picture_of((8, 9), (1, 1, 4, 4))), SegmentationResult)


# Results -------------------------------------------------------------------------------------------------------------


def _result(**changes):
    fields = {
        "image": picture_of((40, 60), (5, 5, 30, 30)),
        "boxes": np.float32([[5, 5, 30, 30], [20, 10, 50, 36], [0, 0, 60, 40]]),
        "scores": np.float32([0.9, 0.5, 0.2]),
        "labels": np.int32([1, 0, 1]),
        "classes": NAMES,
        "colors": COLORS,
        "name": "street",
        "file_name": "street.jpg",
        "keypoint_names": ("tip",),
        "mask_probabilities": np.ones((3, 4, 4), np.float32),
        "keypoints": np.float32([[[9, 9, 1]], [[25, 20, 1]], [[3, 3, 1]]]),
    }
    return DetectionResult(**{**fields, **changes})


def test_above_keeps_everything_of_the_sure_ones():
    result = _result()
    sure = result.above(0.5)
    assert (len(result), len(sure), len(result.above(0.95))) == (3, 2, 0)
    assert sure.scores.tolist() == pytest.approx([0.9, 0.5])
    assert (sure.mask_probabilities.shape, sure.keypoints.shape, sure.boxes.shape) == ((2, 4, 4), (2, 1, 3), (2, 4))
    assert sure.name == "street"
    assert set(np.unique(result.instance_map())) == {0, 1, 2, 3}
    assert set(np.unique(sure.instance_map())) == {0, 1, 2}


def test_a_result_is_saved_as_picture_and_list(tmp_path):
    paths = _result().save(tmp_path / "out")
    assert {kind: path.name for kind, path in paths.items()} == {
        "objects": "street_objects.json",
        "overlay": "street_overlay.png",
    }
    found = json.loads(paths["objects"].read_text())
    assert found["images"] == [{"id": 1, "file_name": "street.jpg", "height": 40, "width": 60}]
    point = {"keypoints": ["tip"]}
    assert found["categories"] == [{"id": 0, "name": "dark", **point}, {"id": 1, "name": "bright", **point}]
    assert [a["category_id"] for a in found["annotations"]] == [1, 0]  # the third is below the score that is shown
    mask = rle_decode(found["annotations"][0]["segmentation"])
    np.testing.assert_array_equal(mask, _result().instance_map() == 1)
    shown = np.asarray(Image.open(paths["overlay"]))
    np.testing.assert_array_equal(shown, _result().draw())
    assert len(json.loads(_result().save(tmp_path, "all", score=0.0)["objects"].read_text())["annotations"]) == 3


def test_drawing_shows_what_is_sure_enough():
    result = _result(mask_probabilities=None, keypoints=None)
    assert result.masks is None
    colors = {tuple(c) for c in result.draw(0.5, tags=False, enlarge=False).reshape(-1, 3).tolist()}
    assert set(COLORS) <= colors
    assert not {tuple(c) for c in result.draw(0.95, tags=False).reshape(-1, 3).tolist()} & set(COLORS)
    with pytest.raises(ValueError, match="build_mask_rcnn"):
        result.instance_map()


def test_objects_of_one_class_with_masks_are_told_apart():
    result = _result(classes=("cell",), colors=(COLORS[0],), labels=np.zeros(3, np.int32), keypoints=None)
    picture = result.draw(tags=False, enlarge=False)
    assert tuple(picture[5, 10]) != tuple(picture[35, 45])  # the outlines of two boxes


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_pictures_of_any_channels_are_drawn(channels):
    assert _result(image=picture_of((40, 60), (5, 5, 30, 30), channels)).draw().shape[2] == 3


def test_a_prediction_is_what_the_metrics_take():
    from keras_cv_lectures.metrics.objects import read_objects

    for kind in ("boxes", "masks", "keypoints"):
        objects = read_objects(_result().as_prediction(), 2, kind=kind, detected=True, where="test")
        assert len(objects.labels) == 3
        assert objects.size == (40, 60)


def _fake(labels):
    """A runner that always finds one object of each label."""
    count = len(labels)

    def run(images):
        return {
            "boxes": np.tile(np.float32([1, 1, 5, 5]), (len(images), count, 1)),
            "scores": np.full((len(images), count), 0.9, np.float32),
            "labels": np.tile(np.int32(labels), (len(images), 1)),
            "count": np.full(len(images), count, np.int32),
        }

    shape = {"input_shape": (None, None, 3), "input_dtype": "uint8"}
    return Runner(kind="other", metadata=Metadata(), path=None, run=run, **shape)


# The networks --------------------------------------------------------------------------------------------------------


def test_a_network_gives_what_it_gives_and_brings_the_names_of_its_classes():
    from keras_cv_lectures.detection import COCO_CLASSES, build_mask_rcnn

    model = build_mask_rcnn(
        (None, None, 3),
        80,
        backbone="resnet14_v1_5",
        pyramid_filters=8,
        box_units=(8,),
        mask_filters=(8,),
        min_size=None,
        rpn_pre_nms=(50, 20),
        rpn_post_nms=(20, 10),
        max_detections=4,
        box_score=0.0,
        coco_outputs=True,
    )
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    result = predict(model, picture)
    expected = {name: np.asarray(value)[0] for name, value in model(picture[None]).items()}
    count = int(expected["count"])
    assert len(result) == count > 0
    np.testing.assert_allclose(result.boxes, expected["boxes"][:count], atol=1e-3)
    np.testing.assert_allclose(result.scores, expected["scores"][:count], atol=1e-5)
    np.testing.assert_allclose(result.mask_probabilities, expected["masks"][:count], atol=1e-4)
    assert result.classes == COCO_CLASSES
    with pytest.raises(ValueError, match="finds 80 classes, but `classes` has 2"):
        predict(model, picture, classes=("a", "b"))


def test_a_detector_is_freed_with_what_was_prepared_for_it():
    import gc
    import weakref

    model = bright_box()
    predict(model, picture_of((20, 30), (1, 2, 9, 9)))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
