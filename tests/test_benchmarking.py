"""Contenders take turns in processes of their own; what cannot run is said to be missing, with the reason."""

import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures import benchmarking
from keras_cv_lectures.benchmarking import PATHS, benchmark_system, gflops, latency, system
from keras_cv_lectures.benchmarking.busy import busy_detector, endless_captioner
from keras_cv_lectures.benchmarking.contender import build, config_of, picture_of, prepare, training_batch
from keras_cv_lectures.benchmarking.contender import contender as contender_of
from keras_cv_lectures.benchmarking.request import Request
from keras_cv_lectures.benchmarking.results import as_json, cells, chart, markdown, short_number
from keras_cv_lectures.benchmarking.turns import Turns, take_turns
from keras_cv_lectures.detection import build_mask_rcnn
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.exporting import export_tflite, tflite
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.text import END

TURNS = benchmarking.turns.__file__


def contender(code, before=""):
    """Command line of a process that answers with `code` as its function."""
    text = f"import runpy, time\nt = runpy.run_path({TURNS!r})\n{before}\ndef make():\n    return lambda: {code}\n"
    return [sys.executable, "-c", text + "t['answer'](make)"]


def test_contenders_take_turns(tmp_path):
    log = tmp_path / "log"
    commands = {name: contender(f"open({str(log)!r}, 'a').write({name!r})") for name in "ab"}
    found = take_turns(commands, rounds=2, threads=1)
    assert log.read_text() == "aaabbb" + "abab"  # three calls that are not timed when each starts, then rounds
    assert [len(turns.seconds) for turns in found.values()] == [2, 2]
    assert all(turns.median > 0 and turns.missing is None for turns in found.values())


def test_times_are_those_of_the_call_and_memory_that_of_the_process_alone():
    # What this process has held does not count: a child begins with the peak of its parent in `ru_maxrss`.
    ballast = np.ones(300_000_000, np.uint8)
    commands = {
        "idle": contender("time.sleep(0.05)"),
        "large": contender("time.sleep(0.01)", before="kept = b'x' * 100_000_000"),
    }
    found = take_turns(commands, rounds=2, threads=1)
    assert ballast[-1]
    assert found["idle"].median >= 0.05
    assert found["idle"].megabytes < 60
    assert 99 < found["large"].megabytes - found["idle"].megabytes < 110


def test_what_cannot_run_is_missing_and_the_others_go_on():
    told = []
    commands = {
        "nowhere": ["no-such-program"],
        "broken": contender("1 / 0"),
        "silent": [sys.executable, "-c", "raise SystemExit(3)"],
        "killed": contender("__import__('os').kill(__import__('os').getpid(), 9)"),
        "late": contender("next(calls)", before="calls = iter([1, 2, 3, 4])"),
        "sound": contender("None"),
    }
    found = take_turns(commands, rounds=3, threads=1, tell=lambda name, turns: told.append((name, turns is None)))
    assert "No such file" in found["nowhere"].missing
    assert found["broken"].missing == "ZeroDivisionError: division by zero"
    assert found["silent"].missing == "the process ended with exit code 3"
    assert found["killed"].missing == "the process was killed, as the system does where memory is full"
    assert found["late"].missing.startswith("StopIteration")
    assert len(found["sound"].seconds) == 3
    assert list(found) == list(commands)
    assert ("broken", True) in told
    assert ("broken", False) in told
    assert ("sound", False) not in told


def tiny(**more):
    options = {"size": (16, 24), "classes": 2, "config": {"filters": 2, "depth": 1}, "threads": 1, "rounds": 1}
    return benchmark_system("unet", **{**options, "matrix": 64, **more})


SECONDS = {"frozen": (0.5, 0.25, 1.0), "tflite_float32": (0.25,), "training": (2.0,), "matrix_product": (0.125,)}


@pytest.fixture(scope="module")
def measured():
    """A measurement whose processes are calls in this one, and whose clock is `SECONDS`."""

    def prepared(request):
        prepare(request)
        return json.loads(request.file("prepared.json").read_text())

    def turns(commands, *args, **options):
        for *_, text, path in commands.values():
            contender_of(Request.from_text(text), path)()
        return {name: Turns(seconds=SECONDS[name], megabytes=9.0) for name in commands}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite, "MIN_EXAMPLES", tflite.MIN_EXAMPLES)  # Put back after what `prepare` does to it.
        patch.setattr(system, "_prepare", prepared)
        patch.setattr(system, "take_turns", turns)
        return tiny(paths=("frozen", "tflite_float32", "training"))


def test_a_system_is_measured_by_the_paths_that_were_asked_for(measured):
    rows = {row.path: row for row in measured.rows}
    assert list(rows) == ["frozen", "tflite_float32", "training"]
    assert [(row.median_ms, row.min_ms) for row in rows.values()] == [(500, 250), (250, 250), (2000, 2000)]
    assert [row.pictures for row in measured.rows] == [1, 1, 2]
    assert [row.size_bytes is not None for row in measured.rows] == [False, True, False]
    assert rows["tflite_float32"].size_bytes > 4 * measured.parameters
    assert [row.peak_mb for row in measured.rows] == [9, 9, 9]
    assert measured.matrix_gflops == pytest.approx(2 * 64**3 / 1e9 / 0.125)
    model = SYSTEMS["unet"].build((16, 24, 3), 2, filters=2, depth=1)
    assert measured.parameters == model.count_params()
    assert measured.gflops == gflops(model, (16, 24))


def test_speed_is_cost_over_time_and_its_share_that_of_the_matrix_product(measured):
    for row in measured.rows:
        pictures = 3 * 2 if row.path == "training" else 1  # a step goes forward once and back twice, for two pictures
        assert row.gflops_per_second == pytest.approx(pictures * measured.gflops / (row.median_ms / 1000))
        assert row.share_of_matrix_product == pytest.approx(row.gflops_per_second / measured.matrix_gflops)


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0041263, "0.004126"), (41.263, "41.26"), (1333.6, "1334"), (41263.4, "41263"), (-2e5, "-200000")],
)
def test_numbers_have_no_power_of_ten(value, told):
    assert short_number(value) == told
    assert short_number(999.96, 3) == "1000"


def test_results_are_written_as_json_markdown_and_a_chart(measured):
    text = json.dumps(as_json([measured], {"threads": 1}))
    stored = json.loads(text)["systems"][0]
    assert [row["seconds"] for row in stored["rows"]] == [list(row.seconds) for row in measured.rows]
    assert json.loads(text)["machine"]["tensorflow"] == tf.__version__
    page = markdown([measured], {"threads": 1})
    assert f"| training step, 2 pictures | {measured.rows[2].median_ms:.4g} |" in page
    assert "Settings: threads=1." in page
    assert chart([measured]).startswith(b"\x89PNG")


def test_an_export_that_fails_is_a_row_that_says_why(monkeypatch):
    failed = {"tflite_int8": "ModelError: no builtin"}
    facts = {"parameters": 7, "gflops": 0.5, "failed": failed, "done": ["tflite_float32"]}
    monkeypatch.setattr(system, "_prepare", lambda request: facts)
    monkeypatch.setattr(system, "_size", lambda path: 1)
    started = []

    def turns(commands, *args, **options):
        started.extend(commands)
        return {name: Turns(seconds=(0.5,), megabytes=9.0) for name in commands}

    monkeypatch.setattr(system, "take_turns", turns)
    found = tiny(paths=("tflite_float32", "tflite_int8"))
    assert started == ["tflite_float32", "matrix_product"]
    assert [row.missing for row in found.rows] == [None, "ModelError: no builtin"]
    assert found.rows[0].gflops_per_second == 1.0
    assert found.matrix_gflops == pytest.approx(2 * 64**3 / 1e9 / 0.5)
    assert cells(found.rows[1]) == ["TFLite int8", *[None] * 6, "ModelError: no builtin"]
    assert "| TFLite int8 |  |  |  |  |  |  | ModelError: no builtin |" in markdown([found], {})
    assert chart([found]).startswith(b"\x89PNG")


@pytest.mark.slow
def test_processes_are_started_for_what_is_measured():
    found = tiny(paths=("call", "bfloat16"))
    assert all(row.missing is None and 0 < row.min_ms <= row.median_ms for row in found.rows)
    # A network of nothing holds little more than the libraries.
    assert all(0.8 < row.peak_mb / found.matrix_mb < 1.5 for row in found.rows)


@pytest.mark.slow
def test_a_network_that_cannot_be_built_leaves_no_path():
    found = tiny(config={"filters": -1}, paths=("call", "training"))
    assert all("filters" in row.missing for row in found.rows)
    assert (found.parameters, found.matrix_gflops) == (None, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": ("call", "gpu")}, "`paths` must be some of predict, call"),
        ({"paths": ()}, "Received: none"),
        ({"rounds": 0}, "`rounds` must be a whole number of at least 1. Received: rounds=0"),
        ({"threads": 1.5}, "`threads` must be"),
        ({"size": (8, 24)}, "at least 16 pixels"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(ModelError, match=message):
        tiny(**options)


def test_an_unknown_system_is_answered_with_the_known_ones():
    with pytest.raises(ModelError, match="must be one of fcn32s"):
        benchmark_system("unets")


def test_a_request_keeps_tuples_on_its_way_through_a_command_line():
    config = {"anchor_sizes": ((8,), (16,)), "variant": "it's", "dropout": 0.1, "backbone": None}
    request = Request(system="unet", folder="/a b", size=(16, 24), classes=2, config=config)
    assert Request.from_text(request.to_text()) == request


def request_for(name, **more):
    smoke = {**SYSTEMS[name].config, **SYSTEMS[name].smoke}
    return Request(**{"system": name, "folder": "", "size": (32, 48), "classes": 3, "config": smoke, **more})


def test_a_busy_detector_lets_as_many_boxes_through_as_asked():
    request = request_for("faster_rcnn")
    seen = []

    def make(**settings):
        seen.append(settings)
        return SYSTEMS["faster_rcnn"].build((32, 48, 3), 3, **{**request.config, "min_size": 32, **settings})

    model = busy_detector(make, picture_of(request), passing=12)
    assert seen[0] == {"box_score": 0.0, "max_detections": 12}
    # All boxes stay at their anchors, so that deltas are zero whatever the picture.
    assert all(not np.any(v) for head in (model.graph.rpn, model.graph.box) for v in head.weights if "bbox_" in v.path)
    every = model.predict_on_batch(picture_of(request)[None])
    assert 11 <= every["count"][0] <= 20  # 12 pass, of equal scores maybe more; 20 is the smoke network's limit


@pytest.mark.parametrize("name", ["segnet", "faster_rcnn", "show_attend_tell"])
def test_no_offset_of_a_benchmark_network_is_zero(name):
    """TensorFlow leaves out what is zero, which no trained network's offset is."""
    offsets = [v for v in build(request_for(name, classes=40)).weights if v.path.endswith(("/bias", "/beta"))]
    assert len(offsets) > 5
    assert all(np.all(keras.ops.convert_to_numpy(v) != 0) for v in offsets if "bbox_pred" not in v.path)


def test_an_endless_captioner_says_as_many_words_as_it_may():
    request = request_for("show_attend_tell", classes=40)
    model = build(request)
    found = model.predict_on_batch(picture_of(request)[None])
    assert np.all(found["tokens"] != END)
    assert np.all(found["tokens"][0] > 0)
    assert found["tokens"].shape == (1, 16)
    assert endless_captioner(model) is model


@pytest.mark.parametrize(
    ("name", "classes"), [("segnet", 2), ("mask_rcnn", 2), ("keypoint_rcnn", 1), ("show_and_tell", 20)]
)
def test_a_training_batch_fits_a_network_of_few_classes(name, classes):
    inputs, targets = training_batch(request_for(name, classes=classes))
    if name == "show_and_tell":
        assert inputs["image"].shape[0] == 2
        assert 3 < np.max(targets) < classes
        return
    if name == "segnet":
        assert inputs.shape == (2, 32, 48, 3)
        labels = targets.numpy()
        assert set(labels[labels != 255]) == {0, 1}
        return
    labels = targets["labels"].numpy()
    assert labels.shape[0] == 2
    assert labels.min() >= -1
    assert 0 <= labels.max() < classes


@pytest.mark.parametrize("number", [3, 17])
def test_a_network_has_the_keypoints_that_were_asked_for(number):
    """Generated objects have five."""
    request = request_for("keypoint_rcnn", classes=1)
    request = Request(**{**vars(request), "config": {**request.config, "num_keypoints": number}})
    assert config_of(request)["num_keypoints"] == number
    assert config_of(request)["min_size"] == 32
    keypoints = training_batch(request)[1]["keypoints"].numpy()
    assert keypoints.shape[2] == number
    np.testing.assert_array_equal(keypoints[:, :, 5:10], keypoints[:, :, : max(0, min(5, number - 5))])
    assert keypoints[..., 2].any(axis=(0, 1)).all()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("name", "classes"), [("mask_rcnn", 3), ("show_attend_tell", 40)])
def test_every_path_runs(name, classes):
    """Each in a process of its own, of the systems with the most to prepare."""
    smoke = SYSTEMS[name].smoke
    found = benchmark_system(name, size=(32, 48), classes=classes, config=smoke, threads=1, rounds=1, matrix=64)
    assert {row.path: row.missing for row in found.rows} == dict.fromkeys(PATHS)
    # What a step of theirs costs is more than a prediction thrice.
    shares = {row.path: row.share_of_matrix_product is not None for row in found.rows}
    assert shares == {path: path != "training" for path in PATHS}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3, padding="same", name="logits")(inputs))
    model.save(folder / "model.keras")
    export_tflite(model, folder / "model.tflite")
    return folder, model


def test_latency_takes_models_paths_and_runners(stored):
    folder, model = stored
    picture = np.zeros((8, 8, 3), np.uint8)
    for thing in (model, folder / "model.tflite", benchmarking.load_runner(folder / "model.keras")):
        times = latency(thing, picture, repeats=2)
        assert 0 < times["min_ms"] <= times["median_ms"] <= times["max_ms"]


def test_gflops_are_reported_here_too(stored):
    assert gflops(stored[1], (8, 8)) * 1e9 == 2 * 8 * 8 * 2 * 27


def test_the_words_of_a_captioner_count_once_for_every_step():
    """What one more step of the search costs: three hypotheses through the cell and to the words."""
    model = build(request_for("show_and_tell", classes=40))

    def cost(steps):
        return gflops(model, (32, 48), loop_steps=steps)

    step = 2 * 3 * (32 * 256 + 64 * 256 + 64 * 40) / 1e9  # Input and state of four gates of 64 units, then 40 words.
    assert cost(16) - cost(15) == pytest.approx(step, rel=1e-9)
    assert cost(1) - cost(0) == pytest.approx(step, rel=1e-9)


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
