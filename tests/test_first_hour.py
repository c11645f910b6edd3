"""What a person meets in the first hour: usual mistakes, and the words that repair them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_cv_lectures as kcvl
from kcvl.parser import make_parser
from kcvl.settings import output_folder, parse_settings
from kcvl.vocab import run_vocab
from keras_cv_lectures.backbones import resolve_backbone
from keras_cv_lectures.data.coco import coco_objects
from keras_cv_lectures.data.doctor import doctor
from keras_cv_lectures.data.label_inference import infer_label_map
from keras_cv_lectures.data.specs import parse_spec
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.exporting.card import _program
from keras_cv_lectures.predicting import CaptionResult, DetectionResult, SegmentationResult

TRAIN = ["train", "unet", "--data", "folder:a,b", "--out", "c"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*TRAIN, "--epochs", "3"], ["kcvl train: --epochs 3", "--set epochs=3", "`kcvl train --help`"]),
        ([*TRAIN, "--learning-rate=0.1"], ["--set learning_rate=0.1"]),
        ([*TRAIN, "--staged", "--augment"], ["--set augment=VALUE"]),
        (["doctor", "folder:a,", "b"], ["kcvl doctor: b is not understood", "no blank after a comma"]),
        (["predict", "m", "p.jpg", "--out", "d", "--size", "4"], ["kcvl predict: --size 4 is not understood. See"]),
    ],
)
def test_words_too_many_are_answered_with_the_right_ones(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        make_parser().parse_args(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in said:
        assert part in error


def test_the_number_of_classes_is_no_option():
    with pytest.raises(ValueError, match="`num_classes` is no option: .* as many classes as the data have"):
        parse_settings(kcvl.SYSTEMS["unet"], ["num_classes=5"])


@pytest.mark.parametrize("widths", ["box_units=64", "mask_filters=64", "box_units=wide"])
def test_widths_of_layers_are_a_list(widths):
    config = parse_settings(kcvl.SYSTEMS["mask_rcnn"], [widths])[0]
    name = widths.partition("=")[0]
    with pytest.raises(ValueError, match=rf"`{name}` must be one number a layer, such as \(64, 64\)"):
        kcvl.build_mask_rcnn((64, 64, 3), 2, backbone="resnet14_v1_5", **config)


@pytest.mark.parametrize("build", [kcvl.build_unet, kcvl.build_faster_rcnn])
def test_swapped_arguments_are_named(build):
    with pytest.raises(
        ValueError, match=r"`input_shape` must be \(height, width, channels\).* Received: input_shape=3"
    ):
        build(3, (None, None, 3))


@pytest.fixture
def masks(tmp_path):
    """Writes masks of a disk of class `value` in class 0, in the format of `name`."""

    def write(name, value, **options):
        rows, columns = np.mgrid[:40, :40]
        mask = np.where((rows - 20) ** 2 + (columns - 20) ** 2 < 150, value, 0).astype(np.uint8)
        Image.fromarray(mask).save(tmp_path / name, **options)
        return tmp_path / name

    return write


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_masks_as_jpeg_are_not_taken_for_more_classes(masks, suffix):
    assert infer_label_map([masks("a.png", 2)]).classes == ("class 0", "class 1", "class 2")
    path = masks(f"a{suffix}", 2, quality=95)
    with pytest.raises(
        DataError, match=rf"a\{suffix}\), which changes values where classes meet.* as PNG.*labels=FILE"
    ):
        infer_label_map([masks("b.png", 2), path])
    # Without an edge there is nothing to change.
    assert infer_label_map([masks("flat.jpg", 0)]).classes == ("background", "foreground")


def test_coloured_masks_as_jpeg_are_refused(tmp_path):
    Image.new("RGB", (16, 16), (250, 10, 90)).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="masks are stored as JPEG"):
        infer_label_map([tmp_path / "a.jpg"])


def test_foreground_masks_for_a_model_of_numbered_classes_are_noted(masks):
    classes = ("class 0", "class 1", "class 2")
    mixed = infer_label_map([masks("a.png", 255), masks("b.png", 1)], classes=classes)
    assert mixed.note == "", "255 beside class ids is the label to ignore"
    guess = infer_label_map([masks("a.png", 255)], classes=classes)
    assert guess.classes == classes
    assert "0 and 255 alone" in guess.note
    assert "labels=FILE" in guess.note


def test_a_folder_may_be_called_like_a_kind_of_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "VOC" / "Annotations").mkdir(parents=True)
    (tmp_path / "VOC" / "Annotations" / "a.xml").write_text("<annotation/>")
    for name in ("images", "masks"):
        (tmp_path / "coco" / name).mkdir(parents=True)
    assert parse_spec("VOC").kind == "vocboxes"
    assert parse_spec("coco").kind == "folder"
    (tmp_path / "shapes" / "images").mkdir(parents=True)
    (tmp_path / "shapes" / "masks").mkdir()
    assert parse_spec("shapes").kind == "shapes"
    with pytest.raises(DataError, match="1 path.* expected after 'camvid:'"):
        parse_spec("camvid")


@pytest.fixture
def coco(tmp_path):
    """COCO of two pictures, of which `present` are there."""

    def write(*present):
        (tmp_path / "images").mkdir()
        for name in present:
            Image.new("RGB", (8, 6)).save(tmp_path / "images" / name)
        pictures = [{"id": i, "file_name": f"{i}.png", "width": 8, "height": 6} for i in range(2)]
        content = {"images": pictures, "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
        (tmp_path / "a.json").write_text(json.dumps(content))
        return tmp_path / "a.json", tmp_path / "images"

    return write


def test_a_missing_picture_is_told_once(coco):
    json_file, images = coco("0.png")
    report = doctor(f"coco:{json_file},{images}")
    assert [problem.count("1.png is missing") for problem in report.problems] == [1]


def test_the_wrong_folder_of_pictures_is_told_in_one_line(coco):
    json_file, images = coco()
    with pytest.raises(DataError, match=r"none of the 2 pictures that .*a\.json names is in .*images.*0\.png"):
        coco_objects(json_file, images)
    assert len(doctor(f"coco:{json_file},{images}").problems) == 1


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(tmp_path, monkeypatch):
    assert output_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []
    # Root may write anywhere, so the permission is asked of a stand-in.
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode == os.W_OK))
    with pytest.raises(DataError, match="cannot be written to. Change its permissions, or choose another --out"):
        output_folder(str(tmp_path / "a" / "b"))


def test_the_vocabulary_that_was_written_is_the_one_to_train_with(tmp_path, capsys):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    (tmp_path / "c.csv").write_text("image,caption\na.png,one red dot\n")
    spec, out = f"captions:{tmp_path / 'c.csv'},{tmp_path}", str(tmp_path / "words.txt")
    run_vocab(make_parser().parse_args(["vocab", "--data", spec, "--min-count", "1", "--out", out]))
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[:4] == ["next", "kcvl", "train", "show_attend_tell"]
    assert f"vocabulary={out}" in last


def test_what_tensorflow_logs_after_its_import_meets_an_open_stream():
    program = (
        "import kcvl; kcvl._import_tensorflow(); import tensorflow as tf\n"
        "tf.get_logger().warning('advice'); tf.get_logger().error('fault')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Logging error" not in done.stderr
    assert "fault" in done.stderr
    assert "advice" not in done.stderr


def test_results_are_printed_in_one_line():
    image = np.zeros((30, 40, 3), np.uint8)
    class_map = np.zeros((30, 40), np.int32)
    class_map[3, 4] = 2
    names, colors = ("sky", "road", "car"), ((0, 0, 0),) * 3
    segmentation = SegmentationResult(
        image=image, class_map=class_map, classes=names, colors=colors, name="a", make_probabilities=lambda: image
    )
    assert repr(segmentation) == "SegmentationResult('a', 30x40 pixels: sky, car)"
    for count, said in ((0, "nothing"), (2, "car 0.50, car 0.50"), (12, "car 0.50, 2 more")):
        detection = DetectionResult(
            image=image,
            boxes=np.zeros((count, 4), np.float32),
            scores=np.full(count, 0.5, np.float32),
            labels=np.full(count, 2, np.int32),
            classes=names,
            colors=colors,
        )
        assert repr(detection).startswith("DetectionResult('', 30x40 pixels: ")
        assert repr(detection).endswith(f"{said})")
    caption = CaptionResult(image=image, words=("a", "dog"), tokens=np.array([5, 6]), log_probability=-1.0, name="b")
    assert repr(caption) == "CaptionResult('b', 'a dog')"


def _own_backbone(strides, size=None):
    x = image = keras.Input((size, size, 3))
    stages = {}
    for number, stride in enumerate(strides, 1):
        x = stages[f"c{number}"] = keras.layers.Conv2D(2, 3, strides=stride, padding="same")(x)
    return keras.Model(image, stages)


@pytest.mark.parametrize("size", [None, 64])
def test_a_backbone_of_other_strides_is_refused(size):
    model = _own_backbone((2, 2, 2, 2, 2), size)
    assert resolve_backbone(model, 3)[0] is model
    dilated = _own_backbone((2, 2, 2, 2, 1), size)  # An output stride of 16.
    assert resolve_backbone(dilated, 3)[0] is dilated
    with pytest.raises(ValueError, match=r"strides 2, 4, 8, 16 and 32.*the strides \[2, 4, 4, 8, 16\]"):
        resolve_backbone(_own_backbone((2, 2, 1, 2, 2), size), 3)
    with pytest.raises(ValueError, match=r"Missing: \['c1'.*base\.get_layer"):
        resolve_backbone(keras.Model(model.input, model.output["c5"]), 3)


def test_a_dilated_backbone_is_refused_where_stages_are_doubled():
    dilated = kcvl.backbones.dilate(_own_backbone((2, 2, 2, 2, 2)), 8)
    for build in (kcvl.build_unet, kcvl.build_fcn8s, kcvl.build_fcn16s, kcvl.build_fcn32s):
        with pytest.raises(
            ValueError, match=r"by doubling.*8, 8, 8\]\. Pass the model as it was before backbones\.dilate"
        ):
            build((None, None, 3), 2, backbone=dilated)
    assert kcvl.build_fcn((32, 32, 3), 2, backbone=dilated).output_shape == (None, 32, 32, 2)


def test_a_backbone_needs_only_the_stages_that_the_network_reads():
    model = _own_backbone((2, 2, 2, 2, 2))
    for build, stages in ((kcvl.build_fcn8s, ("c3", "c4", "c5")), (kcvl.build_fcn, ("c4", "c5"))):
        backbone = keras.Model(model.input, {name: model.output[name] for name in stages})
        assert build((32, 32, 3), 2, backbone=backbone).output_shape == (None, 32, 32, 2)
        backbone = keras.Model(model.input, {name: model.output[name] for name in stages[1:]})
        with pytest.raises(ValueError, match=rf'"{stages[0]}": \.\.\., "c5".*Missing: \[\'{stages[0]}\'\]'):
            build((32, 32, 3), 2, backbone=backbone)


def test_weights_of_other_classes_are_explained(tmp_path):
    kcvl.build_unet((None, None, 3), 3, filters=2, depth=1).save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ModelError, match=r"fits the very same network only.*model\.save\('NAME\.keras'\)") as caught:
        kcvl.build_unet((None, None, 3), 5, filters=2, depth=1, weights=tmp_path / "a.weights.h5")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="backbone=NAME, backbone_weights='imagenet'"):
        kcvl.build_unet((None, None, 3), 5, filters=2, depth=1, weights="imagenet")


def test_masks_of_several_shapes_in_one_compiled_model_are_explained():
    loss = kcvl.losses.SegmentationCrossEntropy()

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(None), tf.TensorSpec((None, None, None, 3))])
    def traced(labels, logits):
        return loss.call(labels, logits)

    with pytest.raises(ModelError, match=r"call model\.compile again"):
        traced(tf.zeros((1, 4, 4)), tf.zeros((1, 4, 4, 3)))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_program_sees_what_predict_sees(channels, tmp_path, monkeypatch):
    """An upright picture, made smaller with the same filter; of any number of channels."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (48, 32, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by a quarter.
    Image.fromarray(picture).save("PICTURE.jpg", format="PNG", exif=exif)
    array = rng.integers(0, 256, (32, 48, channels), np.uint8)
    np.save("PICTURE.npy", array)

    body = _program("m.tflite", (16, 24, channels), "class_map", tflite=True)
    kept = ("import numpy", "from PIL", "picture", "bands", "image")
    lines = [line for line in body.splitlines() if line.startswith(kept)]
    seen: dict = {}
    exec("\n".join(lines), seen)
    assert seen["image"].shape == (1, 16, 24, channels)
    assert seen["image"].dtype == np.uint8
    if channels != 1:
        upright = np.rot90(picture, -1) if channels == 3 else array
        expected = tf.image.resize(upright[None].astype(np.float32), (16, 24), antialias=True).numpy()
        # Pillow rounds after each of the two directions.
        assert np.abs(seen["image"].astype(np.float32) - expected).max() <= 1.5
