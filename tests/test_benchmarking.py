"""Timings come from processes with the asked number of threads, and say what they belong to."""

import keras
import numpy as np
import pytest

from keras_cv_lectures import benchmarking
from keras_cv_lectures.benchmarking import benchmark, gflops, latency
from keras_cv_lectures.detection import build_mask_rcnn
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.exporting import export_tflite


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3, padding="same", name="logits")(inputs))
    model.save(folder / "model.keras")
    export_tflite(model, folder / "model.tflite")
    return folder, model


def test_one_row_for_each_form_and_number_of_threads(stored):
    folder, _ = stored
    models = {"Keras": folder / "model.keras", "TFLite": folder / "model.tflite"}
    rows = benchmark(models, np.zeros((8, 8, 3), np.uint8), threads=(1,), repeats=3)
    assert [(r.name, r.kind, r.threads) for r in rows] == [
        ("Keras", "keras", 1),
        ("Keras, frozen", "keras", 1),
        ("TFLite", "tflite", 1),
    ]
    assert all(0 < r.min_ms <= r.median_ms for r in rows)
    assert rows[2].size_bytes == (folder / "model.tflite").stat().st_size


def test_what_stops_the_child_reaches_the_caller(stored):
    folder, _ = stored
    with pytest.raises(ModelError, match=r"takes pictures of shape \(any, 8, 8, 3\)"):
        benchmark({"Keras": folder / "model.keras"}, np.zeros((9, 8, 3), np.uint8), threads=(1,), repeats=1)


def test_models_take_turns(stored, monkeypatch):
    folder, _ = stored
    order = []
    load = benchmarking.load_runner

    def spying(path, **kwargs):
        runner = load(path, **kwargs)
        name = f"{runner.kind}{'+' if kwargs.get('optimize') else ''}"
        return benchmarking.Runner(**{**vars(runner), "run": lambda x: order.append(name) or {}})

    monkeypatch.setattr(benchmarking, "load_runner", spying)
    paths = {"a": str(folder / "model.keras"), "b": str(folder / "model.tflite")}
    rows = benchmarking._measure(paths, np.zeros((1, 8, 8, 3), np.uint8), 2, repeats=2)
    assert order == ["keras", "keras+", "tflite"] * 4  # two rounds that are not timed, two that are
    assert {r.threads for r in rows} == {2}


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.uint8), {}, "uint8 picture"),
        (np.zeros((8, 8, 3)), {}, "uint8 picture"),
        (np.zeros((8, 8, 3), np.uint8), {"repeats": 0}, "at least 1"),
        (np.zeros((8, 8, 3), np.uint8), {"threads": ()}, "at least 1"),
    ],
)
def test_arguments_that_do_not_fit(image, options, message):
    with pytest.raises(ModelError, match=message):
        benchmark({}, image, **options)


def test_latency_takes_models_paths_and_runners(stored):
    folder, model = stored
    picture = np.zeros((8, 8, 3), np.uint8)
    for thing in (model, folder / "model.tflite", benchmarking.load_runner(folder / "model.keras")):
        times = latency(thing, picture, repeats=2)
        assert 0 < times["min_ms"] <= times["median_ms"] <= times["max_ms"]


def test_gflops_are_reported_here_too(stored):
    assert gflops(stored[1], (8, 8)) * 1e9 == 2 * 8 * 8 * 2 * 27


def test_the_heads_of_a_detector_count_once_for_every_region():
    """Each proposal more costs the box head on it, each detection more the mask head."""
    options = {"backbone": "resnet14_v1_5", "pyramid_filters": 8, "box_units": (16, 4), "mask_filters": (8,)}

    def cost(proposals, detections):
        model = build_mask_rcnn(
            (None, None, 3), 2, rpn_post_nms=(50, proposals), max_detections=detections, min_size=64, **options
        )
        return gflops(model, (64, 80))

    box = 7 * 7 * 8 * 16 + 16 * 4 + 4 * 3 + 4 * 12
    label = 28 * 28 * 3  # The mask of the label is taken out by a product with a one-hot vector.
    mask = 14 * 14 * 9 * 8 * 8 + 28 * 28 * 8 * 8 + 28 * 28 * 8 * 3 + label
    few = cost(20, 10)
    assert cost(30, 10) - few == pytest.approx(10 * 2 * box / 1e9, rel=1e-6)
    assert cost(20, 15) - few == pytest.approx(5 * 2 * mask / 1e9, rel=1e-6)
