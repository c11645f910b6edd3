"""Exported detectors find what their model finds; in 8 bits only the networks; a program beside the file runs it."""

import json
import re
import runpy
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_cv_lectures.detection import COCO_CLASSES, build_keypoint_rcnn, build_mask_rcnn
from keras_cv_lectures.detection.coco import COCO_IDS
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.exporting import export_saved_model, export_tflite
from keras_cv_lectures.exporting.agreement import compare_detections
from keras_cv_lectures.exporting.detector_files import check_labels, detector_facts, run_program, with_labels
from keras_cv_lectures.exporting.quantize import Operator, in_eight_bits, main_operators
from keras_cv_lectures.layers import Detections, FitPicture
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.predicting import predict
from keras_cv_lectures.runners import load_runner

RNG = np.random.default_rng(0)
SMALL = {
    "backbone": "resnet14_v1_5",
    "pyramid_filters": 16,
    "box_units": (32, 32),
    "min_size": None,
    "max_size": None,
    "anchor_sizes": ((8,), (16,), (32,), (64,), (128,)),
    "rpn_pre_nms": (50, 50),
    "rpn_post_nms": (30, 20),
    "samples": 64,
    "max_detections": 5,
}


def tiny_detector(classes=None, shape=(32, 32, 3)):
    """Four fixed regions of a 32 x 32 picture, judged by two convolutions: what a detector is outside, in a second."""
    keras.utils.set_random_seed(1)
    image = keras.Input(shape, name="image")
    picture, size = FitPicture(None)(image)
    if None in shape:
        picture = keras.layers.Resizing(32, 32)(picture)
    x = keras.layers.Conv2D(8, 3, strides=4, padding="same", activation="relu", name="first")(picture / 255)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="second")(x)
    x = keras.layers.AveragePooling2D(2)(x)
    outputs = 3 if classes is None else 91
    spread = keras.initializers.RandomNormal(stddev=2.0)
    logits = keras.layers.Conv2D(outputs, 1, kernel_initializer=spread, name="logits")(x)
    deltas = keras.layers.Conv2D(4 * outputs, 1, name="deltas")(x)
    regions = np.float32([[0, 0, 16, 16], [16, 0, 32, 16], [0, 16, 16, 32], [16, 16, 32, 32]])
    proposals = ops.zeros_like(ops.reshape(deltas, (-1, 4, 4 * outputs))[..., :4]) + regions
    found = Detections(max_detections=6, classes=classes, name="detections")(
        [
            size,
            proposals,
            ops.cast(size[:, 0] * 0 + 4, "int32"),
            ops.reshape(logits, (-1, 4, outputs)),
            ops.reshape(deltas, (-1, 4, 4 * outputs)),
        ]
    )
    return keras.Model(image, found, name="tiny")


@pytest.fixture(scope="module")
def detector():
    return tiny_detector()


@pytest.fixture(scope="module")
def pictures():
    return RNG.integers(0, 256, (100, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)


def detections(*rows, size=3, **more):
    """Outputs of one picture from rows (box, score, label)."""
    found = {
        "boxes": np.zeros((1, size, 4), np.float32),
        "scores": np.zeros((1, size), np.float32),
        "labels": np.full((1, size), -1, np.int32),
        "count": np.int32([len(rows)]),
    }
    for i, (box, score, label) in enumerate(rows):
        found["boxes"][0, i], found["scores"][0, i], found["labels"][0, i] = box, score, label
    return {**found, **more}


A, B = (0, 0, 10, 10), (20, 20, 40, 30)


def test_rows_in_another_order_are_the_same_detections():
    one, other = detections((A, 0.9, 0), (B, 0.9, 1)), detections((B, 0.9, 1), (A, 0.9, 0))
    result = compare_detections([(one, other)])
    assert (result.detections, result.paired, result.lowest_iou, result.box_difference) == (4, 4, 1.0, 0.0)
    result.require_equal("x")


def test_differences_of_partners_are_measured():
    masks = np.zeros((1, 3, 2, 2), np.float32)
    points = np.zeros((1, 3, 2, 3), np.float32)
    moved = points.copy()
    moved[0, 0, :, :2] = (3, 4)
    one = detections((A, 0.9, 0), masks=masks, keypoints=points)
    other = detections(((0, 0, 10, 8), 0.7, 0), masks=masks + np.float32(0.25), keypoints=moved)
    result = compare_detections([(one, other)])
    assert result.paired == 2
    assert result.lowest_iou == pytest.approx(0.8)
    assert result.box_difference == 2
    assert result.score_difference == pytest.approx(0.2)
    assert result.mask_difference == 0.25
    assert result.keypoint_difference == 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((A, 0.9, 1), "2 of 2 have no partner .the model alone has label 0 with score 0.900"),
        (((0, 0, 4, 10), 0.9, 0), "2 of 2 have no partner"),
        (((0, 0, 9.8, 10), 0.9, 0), "partners overlap by 0.980"),
        ((A, 0.89, 0), "scores differ by 1.0e-02"),
        ((A, np.nan, 0), "scores differ by nan|no partner"),
        (((0, 0, np.nan, 10), 0.9, 0), "no partner|overlap by nan"),
    ],
)
def test_what_float32_does_not_explain_is_refused(row, message):
    result = compare_detections([(detections((A, 0.9, 0)), detections(row))])
    with pytest.raises(ModelError, match=message):
        result.require_equal("x")


def test_only_detections_with_a_score_count_unless_there_are_no_others():
    weak = compare_detections([(detections((A, 0.9, 0), (B, 0.06, 0)), detections((A, 0.9, 0)))])
    assert (weak.detections, weak.paired) == (2, 2)
    # The partner of a detection above 0.1 may be below it.
    edge = compare_detections([(detections((A, 0.1001, 0)), detections((A, 0.0999, 0)))])
    assert (edge.detections, edge.paired) == (1, 1)
    alone = compare_detections([(detections((B, 0.06, 0)), detections())])
    assert (alone.detections, alone.paired) == (1, 0)
    nothing = compare_detections([(detections(), detections())])
    assert nothing.label_agreement is None
    nothing.require_equal("x")


def test_the_last_of_a_full_list_may_be_another_one():
    rows = [(A, 0.9, 0), (B, 0.8, 0)]
    one = detections(*rows, ((50, 50, 60, 60), 0.5, 0))
    other = detections(*rows, ((70, 70, 80, 80), 0.5, 0))
    compare_detections([(one, other)]).require_equal("x")
    other = detections(*rows, ((70, 70, 80, 80), 0.4, 0))
    with pytest.raises(ModelError, match="1 of 6 have no partner"):
        compare_detections([(one, other)]).require_equal("x")


def test_networks_are_in_eight_bits_but_their_last_layers_and_what_follows_are_not():
    graph = [
        Operator("CAST", "float", (0,), (1,)),
        Operator("PAD", "pad", (1, 90), (2,)),
        Operator("CONV_2D", "stem", (2, 91, 92), (3,)),
        Operator("CONV_2D", "branch", (3, 91, 92), (4,)),
        Operator("ADD", "residual", (3, 4), (5,)),
        Operator("CONV_2D", "map", (5, 91, 92), (6,)),
        Operator("RESHAPE", "pixels", (6, 93), (7,)),
        Operator("CONV_2D", "rpn", (6, 91, 92), (8,)),
        Operator("CONV_2D", "deltas", (8, 91, 92), (9,)),
        Operator("RESHAPE", "rows", (9, 93), (10,)),
        Operator("MUL", "decode", (10, 94), (11,)),
        Operator("GATHER", "samples", (7, 11), (12,)),
        Operator("RESHAPE", "flat", (12, 93), (13,)),
        Operator("FULLY_CONNECTED", "fc6", (13, 91, 92), (14,)),
        Operator("FULLY_CONNECTED", "scores", (14, 91, 92), (15,)),
        Operator("LOG_SOFTMAX", "softmax", (15,), (16,)),
    ]
    found = {graph[i].name for i in in_eight_bits(graph)}
    assert found == {"stem", "branch", "residual", "map", "pixels", "rpn", "fc6"}


@pytest.fixture(scope="module")
def exported(detector, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    metadata = Metadata(classes=("one", "two"))
    return export_tflite(detector, folder / "m.tflite", representative=pictures, metadata=metadata)


def test_tflite_of_a_detector(exported):
    folder = exported.path.parent
    assert exported.agreement["detections"] == exported.agreement["paired"] > 10
    assert exported.label_agreement == 1
    assert exported.max_difference < 1e-5
    assert sorted(p.name for p in folder.iterdir()) == ["m.json", "m.md", "m.tflite", "m.txt", "m_run.py"]
    assert (folder / "m.txt").read_text() == "one\ntwo\n"
    card = json.loads((folder / "m.json").read_text())
    assert card["task"] == "detection"
    assert (card["max_detections"], card["score_threshold"], card["nms_threshold"]) == (6, 0.05, 0.5)
    assert card["program"] == (folder / "m_run.py").read_text()
    text = (folder / "m.md").read_text()
    for part in ("detections a picture, at most | 6", "| 1 | two |", "detections that the model has, too | 100.00 %"):
        assert part in text


def test_int8_keeps_boxes_and_scores_in_float(detector, pictures, tmp_path):
    result = export_tflite(detector, tmp_path / "m.tflite", precision="int8", representative=pictures)
    assert result.label_agreement > 0.9
    assert result.agreement["mean_iou"] > 0.97
    types = _types(tmp_path / "m.tflite")
    assert types["first"] == types["second"] == {"INT8"}
    assert types["logits"] == types["deltas"] == {"FLOAT32"}
    assert "INT8" not in types["detections"]
    assert len(np.unique(load_runner(tmp_path / "m.tflite")(pictures[:50])["scores"])) > 100


def _types(path):
    """Types of the results of each layer's operators."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    content = path.read_bytes()
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    found = {}
    for operator in main_operators(content):
        if operator.kind not in ("QUANTIZE", "DEQUANTIZE"):
            layer = (operator.name.split(";")[0].split("/") + ["", ""])[1].removesuffix("_1")
            found.setdefault(layer, set()).update(names[graph.Tensors(t).Type()] for t in operator.outputs)
    return found


@pytest.mark.slow
def test_saved_model_of_a_detector(detector, pictures, tmp_path):
    result = export_saved_model(detector, tmp_path / "m")
    assert result.label_agreement in (None, 1)
    found, expected = load_runner(tmp_path / "m")(pictures[:3]), detector.predict(pictures[:3], verbose=0)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-4)


@pytest.mark.slow
def test_a_detector_that_disagrees_is_refused(detector, pictures, tmp_path, monkeypatch):
    from keras_cv_lectures.exporting import tflite

    def shifted(path):
        runner = load_runner(path)
        return lambda x: {**(found := runner(x)), "boxes": found["boxes"] + 1}

    monkeypatch.setattr(tflite, "load_runner", shifted)
    with pytest.raises(ModelError, match="partners overlap by 0.78.*Nothing was written"):
        export_tflite(detector, tmp_path / "m.tflite", representative=pictures)
    assert list(tmp_path.iterdir()) == []


def test_open_sizes_are_refused(detector, tmp_path):
    with pytest.raises(ModelError, match="is a detector.*takes one size"):
        export_tflite(detector, tmp_path / "m.tflite", dynamic=True)


def test_coco_names_are_known():
    model = tiny_detector(classes=COCO_IDS)
    assert with_labels(Metadata(), model).classes == tuple(COCO_CLASSES)
    assert with_labels(Metadata(classes=("x",)), model).classes == ("x",)
    assert with_labels(Metadata(), tiny_detector()).classes == ()
    assert detector_facts(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])) == {"task": "detection"}


@pytest.mark.parametrize("names", [("one",), ("background", "one", "two")])
@pytest.mark.parametrize("export", [export_tflite, export_saved_model])
def test_names_of_other_numbers_are_refused(detector, tmp_path, export, names):
    message = rf"tiny tells 2 classes apart, `metadata.classes` has {len(names)}.*without one for the background"
    with pytest.raises(ModelError, match=message):
        export(detector, tmp_path / "m.tflite", metadata=Metadata(classes=names))
    with pytest.raises(ModelError, match=r"tells 80 classes apart, `metadata\.classes`"):
        check_labels(Metadata(classes=names), tiny_detector(classes=COCO_IDS))
    assert not list(tmp_path.iterdir())


def _run(folder, program):
    """What the program prints, found in a process that cannot import this package."""
    return subprocess.run(
        [sys.executable, "-I", str(program), "picture.png"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


def _sampled(picture, factor):
    """Bilinear at the centres of pixels that are `factor` as large; without antialiasing."""
    for axis in (0, 1):
        places = (np.arange(picture.shape[axis] / factor) + 0.5) * factor - 0.5
        before = np.floor(places).astype(int)
        share = (places - before).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        picture = picture.take(before, axis) * (1 - share) + picture.take(before + 1, axis) * share
    return picture


@pytest.mark.parametrize("size", [(50, 80), (80, 50)])
def test_program_brings_boxes_back_to_the_picture(exported, tmp_path, size):
    from PIL import Image

    picture = Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8))
    picture.save(tmp_path / "picture.png")
    printed = _run(tmp_path, exported.path.parent / "m_run.py").splitlines()

    small = np.floor(_sampled(np.asarray(picture, np.float64), 2.5))
    canvas = np.full((32, 32, 3), (124, 116, 104), np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    found = load_runner(exported.path)(canvas[None])
    boxes = found["boxes"][0] * 2.5
    expected = [
        f"{('one', 'two')[found['labels'][0, i]]} {found['scores'][0, i]:.3f} at "
        + ", ".join(f"{side:.1f}" for side in boxes[i])
        for i in range(found["count"][0])
    ]
    assert expected
    assert printed == expected
    drawn = np.asarray(Image.open(tmp_path / "detections.png"))
    assert drawn.shape == (*size, 3)
    assert (drawn == (255, 255, 0)).all(-1).any()


@pytest.mark.parametrize(("name", "shape"), [("m.tflite", (32, 32, 5)), ("m", (None, None, 2))])
def test_program_takes_arrays_of_other_channels(name, shape, tmp_path, monkeypatch, capsys):
    from PIL import Image

    path, program = tmp_path / name, tmp_path / "m_run.py"
    export = export_tflite if path.suffix else export_saved_model
    result = export(tiny_detector(shape=shape), path, metadata=Metadata(classes=("0", "1")), verify=False)
    if path.is_dir():
        program = path / "run.py"
        assert (path / "labels.txt").read_text() == "0\n1\n"
        assert "This program lies in this folder as `run.py`" in (path / "MODEL_CARD.md").read_text()
    assert program.read_text() == json.loads(result.card_path.read_text())["program"]
    array = RNG.integers(0, 256, (50, 80, shape[-1]), np.uint8)
    np.save(tmp_path / "array.npy", array)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program), "array.npy"])
    runpy.run_path(str(program))
    found = np.array([re.findall(r"-?[\d.]+", line) for line in capsys.readouterr().out.splitlines()], np.float64)
    expected = predict(path, array)
    assert len(expected) > 1
    np.testing.assert_array_equal(found[:, 0], expected.labels)
    # TensorFlow and Pillow round resized pictures differently.
    np.testing.assert_allclose(found[:, 1], expected.scores, atol=0.01)
    np.testing.assert_allclose(np.clip(found[:, 2:], 0, (80, 50, 80, 50)), expected.boxes, atol=0.5)
    assert np.asarray(Image.open("detections.png")).shape == (50, 80, 3)


@pytest.mark.parametrize("tflite", [True, False])
@pytest.mark.parametrize("shape", [(32, 48, 3), (None, None, 1), (32, 48, 2), (None, None, 5)])
def test_programs_of_all_kinds_are_python(tflite, shape):
    for labels in ("m.txt", None):
        text = run_program("m.tflite", ("boxes", "masks", "keypoints"), shape, labels, tflite=tflite)
        compile(text, "program", "exec")
        assert ("names" in text) == bool(labels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "options"),
    [(build_mask_rcnn, {"mask_filters": (16, 16)}), (build_keypoint_rcnn, {"keypoint_filters": (16, 16)})],
)
def test_region_based_detectors(build, options, tmp_path):
    from PIL import Image

    keras.utils.set_random_seed(0)
    model = build((None, None, 3), 3, **SMALL, **options)
    pictures = RNG.integers(0, 256, (100, 16, 24, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    result = export_tflite(model, tmp_path / "m.tflite", input_shape=(64, 96), representative=pictures[:3])
    assert result.label_agreement == 1
    assert result.agreement["detections"] > 0
    Image.fromarray(pictures[0]).resize((70, 90)).save(tmp_path / "picture.png")
    printed = _run(tmp_path, tmp_path / "m_run.py").splitlines()
    assert printed
    assert printed[0].split()[0] in "012"
    assert (tmp_path / "detections.png").exists()

    export_tflite(
        model, tmp_path / "i.tflite", input_shape=(64, 96), precision="int8", representative=pictures, verify=False
    )
    types = _types(tmp_path / "i.tflite")
    for layer in ("anchors", "proposals", "detections", "box_pool", "masks", "keypoints"):
        # The maps that RoIAlign reads are 8-bit; it is their samples that are not.
        assert layer == "box_pool" or "INT8" not in types.get(layer, ()), layer
    assert all("INT8" in types[layer] for layer in ("backbone", "rpn", "box"))
    assert all(np.isfinite(v).all() for v in load_runner(tmp_path / "i.tflite")(pictures[:2]).values())

    saved = export_saved_model(model, tmp_path / "saved")
    assert saved.label_agreement == 1
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    assert loaded.signatures["serving_default"](image=tf.constant(pictures[:2]))["boxes"].shape == (2, 5, 4)
