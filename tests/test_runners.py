"""Every kind of stored model runs alike, and what cannot run says why."""

import json
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line import call
from PIL import Image

from keras_cv_lectures import runners
from keras_cv_lectures.errors import ModelError, PictureError
from keras_cv_lectures.exporting import export_saved_model, export_tflite, timing
from keras_cv_lectures.exporting.timing import latency
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.runners import load_runner
from keras_cv_lectures.serving import freeze, gflops
from keras_cv_lectures.training.strategies import make_strategy

RNG = np.random.default_rng(0)


def small_unet(shape=(None, None, 3), classes=3, seed=0):
    """One level of U-Net with batch statistics that are not the identity."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(shape, name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    skip = x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.MaxPooling2D(2)(keras.layers.ReLU()(x))
    x = keras.layers.Conv2DTranspose(4, 2, strides=2, bias_initializer="he_normal", name="up")(x)
    x = keras.layers.Concatenate()([x, skip])
    x = keras.layers.Conv2D(classes, 1, name="logits")(x)
    model = keras.Model(inputs, x, name="small")
    statistics = [[0.5, 1, 2, 1], [0, 1, -1, 0.5], [0.1, 0.2, 0, -0.3], [0.5, 2, 1, 1]]
    model.get_layer("norm").set_weights([np.array(s, "float32") for s in statistics])
    return model


@pytest.fixture(scope="module")
def model():
    return small_unet()


@pytest.fixture(scope="module")
def stored(model, tmp_path_factory):
    """kind -> path of the same model."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "run").mkdir()
    model.save(folder / "run" / "best.keras")
    metadata = Metadata(system="unet", classes=("a", "b", "c"), input_size=(16, 24))
    (folder / "run" / "run.json").write_text(json.dumps(metadata.to_json()))
    export_saved_model(model, folder / "saved_model", metadata=metadata)
    export_tflite(model, folder / "model.tflite", input_shape=(16, 24), metadata=metadata)
    export_tflite(model, folder / "any.tflite", dynamic=True, metadata=metadata)
    return {
        "run": folder / "run",
        "keras": folder / "run" / "best.keras",
        "saved_model": folder / "saved_model",
        "tflite": folder / "model.tflite",
        "dynamic": folder / "any.tflite",
    }


@pytest.mark.parametrize("kind", ["run", "keras", "saved_model", "tflite", "dynamic"])
def test_every_kind_gives_the_same_outputs(model, stored, kind):
    images = RNG.integers(0, 256, (2, 16, 24, 3), np.uint8)
    logits = model.predict(images.astype("float32"), verbose=0)
    found = load_runner(stored[kind])(images)
    assert sorted(found) == ["class_map", "logits", "probabilities"]
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(found["probabilities"].sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(found["class_map"], found["logits"].argmax(-1))
    assert {name: v.dtype.name for name, v in found.items()} == {
        "class_map": "int32",
        "logits": "float32",
        "probabilities": "float32",
    }


@pytest.mark.parametrize("kind", ["run", "keras", "saved_model", "tflite", "dynamic"])
def test_metadata_and_shapes_travel_with_the_file(stored, kind):
    runner = load_runner(stored[kind])
    assert runner.metadata.classes == ("a", "b", "c")
    assert runner.metadata.input_size == (16, 24)
    assert runner.input_shape == ((16, 24, 3) if kind == "tflite" else (None, None, 3))
    assert runner.path == stored[kind]


@pytest.mark.parametrize("kind", ["keras", "saved_model", "dynamic"])
def test_sizes_may_change_between_calls(model, stored, kind):
    runner = load_runner(stored[kind])
    for size in ((16, 24), (8, 6), (16, 24), (2, 4)):
        images = RNG.integers(0, 256, (1, *size, 3), np.uint8)
        expected = model.predict(images.astype("float32"), verbose=0)
        np.testing.assert_allclose(runner(images)["logits"], expected, atol=1e-5)


def test_results_do_not_change_when_the_runner_is_called_again(stored):
    runner = load_runner(stored["tflite"])
    first = runner(np.zeros((1, 16, 24, 3), np.uint8))["logits"]
    copy = first.copy()
    runner(np.full((1, 16, 24, 3), 255, np.uint8))
    np.testing.assert_array_equal(first, copy)


@pytest.mark.parametrize("kind", ["keras", "dynamic"])
def test_threads_get_the_answers_to_their_own_pictures(model, stored, kind):
    runner = load_runner(stored[kind])
    images = [RNG.integers(0, 256, (1, 8 + 4 * (i % 3), 12, 3)).astype("uint8") for i in range(6)]
    alone = [runner(image)["logits"] for image in images]
    with ThreadPoolExecutor(6) as threads:
        for _ in range(20):
            for got, wanted in zip(threads.map(lambda x: runner(x)["logits"], images), alone, strict=True):
                np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_floats_are_rounded_where_the_export_takes_uint8(stored):
    images = RNG.integers(0, 255, (1, 16, 24, 3)).astype("float32")
    runner = load_runner(stored["tflite"])
    assert runner.input_dtype == "uint8"
    np.testing.assert_array_equal(runner(images + 0.4)["logits"], runner(images.astype(np.uint8))["logits"])
    np.testing.assert_array_equal(
        runner(np.full((1, 16, 24, 3), 300.0))["logits"], runner(np.full((1, 16, 24, 3), 255, np.uint8))["logits"]
    )


def test_optimized_equals_plain_and_folds_batch_normalisation(model):
    images = RNG.integers(0, 256, (1, 16, 24, 3), np.uint8)
    plain, optimized = load_runner(model), load_runner(model, optimize=True)
    for name, value in plain(images).items():
        np.testing.assert_allclose(optimized(images)[name], value, atol=1e-5)
    frozen = freeze(model, (1, 16, 24, 3))
    assert not frozen.captured_inputs  # the weights are constants
    assert frozen.output_names == ["class_map", "logits", "probabilities"]


def test_optimized_biases_are_fused_with_the_shortcut():
    """TensorFlow makes one sum of `AddV2` and a shortcut, which it cannot fuse into the convolution."""
    x = inputs = keras.Input((8, 8, 4))
    for _ in range(2):
        y = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x))
        x = keras.layers.ReLU()(keras.layers.Add()([y, x]))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(x) + keras.ops.ones((8, 2)))
    model.set_weights([RNG.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    frozen = freeze(model, (None, 8, 8, 4))
    kinds = [node.type for node in frozen.graph.get_operations()]
    assert kinds.count("BiasAdd") == 3
    assert kinds.count("AddV2") == 3 + 2  # variance + epsilon is one of numbers; the last is no vector
    images = RNG.integers(0, 256, (3, 8, 8, 4)).astype("float32")
    np.testing.assert_allclose(frozen(images)[0], model(images), rtol=1e-5)


def test_a_lite_file_that_fails_while_it_runs_is_named(tmp_path):
    """The interpreter looks at indices only when it gathers."""

    @tf.function(input_signature=[tf.TensorSpec((1, 2, 2, 1), tf.uint8)])
    def serve(image):
        return {"class_map": tf.gather(tf.constant([5.0, 7.0]), tf.cast(image, tf.int32))}

    path = tmp_path / "m.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()]).convert())
    runner = load_runner(path)
    np.testing.assert_array_equal(runner(np.ones((1, 2, 2, 1), np.uint8))["Identity"], np.full((1, 2, 2, 1), 7))
    with pytest.raises(ModelError, match=r"m\.tflite failed while it ran .* export"):
        runner(np.full((1, 2, 2, 1), 9, np.uint8))


@pytest.mark.parametrize("kind", ["memory", "optimized", "keras", "saved_model", "dynamic"])
def test_a_size_that_fails_is_told_and_the_next_one_runs(model, stored, kind):
    """The map that is halved and enlarged lacks a row where a side is odd."""
    runner = load_runner(stored.get(kind, model), optimize=kind == "optimized")
    odd, even = (np.zeros((1, side, 12, 3), np.uint8) for side in (9, 10))
    reason = "XNNPack" if kind == "dynamic" else "Dimension 1 in both shapes must be equal"
    with pytest.raises(PictureError, match=rf"9x12 pixels \(.*{reason}.*\)\. .*[Rr]esize the picture") as error:
        runner(odd)
    assert str(stored.get(kind, "The model")) in str(error.value)
    np.testing.assert_allclose(runner(even)["logits"], model.predict(even.astype("float32"), verbose=0), atol=1e-5)


def test_full_memory_is_not_the_pictures_fault(model):
    def run(images):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    runner = runners.Runner(**{**vars(load_runner(model)), "run": run})
    with pytest.raises(tf.errors.ResourceExhaustedError):
        runner(np.zeros((1, 4, 6, 3), np.uint8))


@pytest.mark.parametrize("kind", ["keras", "saved_model", "dynamic"])
def test_predict_skips_pictures_that_the_model_fails_on(stored, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    name = stored[kind].name
    # Alone: the card beside it tells a size, to which all pictures would be brought.
    if stored[kind].is_dir():
        shutil.copytree(stored[kind], name, ignore=shutil.ignore_patterns("model_card.json"))
    else:
        shutil.copy(stored[kind], name)
    for folder, sides in {"some": (10, 9, 8), "none": (9, 7)}.items():
        (tmp_path / folder).mkdir()
        for number, side in enumerate(sides):
            Image.fromarray(np.zeros((side, 12, 3), np.uint8)).save(tmp_path / folder / f"p{number}.png")
    code, out, err = call("predict", name, "some", "--out", "predicted")
    assert code == 1
    assert err.count("skipped: ") == err.count(f"skipped: some/p1.png: {name} ") == 1
    assert "9x12 pixels" in err
    assert sorted(path.name for path in (tmp_path / "predicted").glob("*_classes.png")) == [
        "p0_classes.png",
        "p2_classes.png",
    ]
    code, out, err = call("predict", name, "some/p1.png", "--out", "never")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"kcvl: some/p1.png: {name} ")
    assert "skipped" not in err
    code, out, err = call("predict", name, "none", "missing.png", "--out", "never")
    assert (code, out) == (1, "")
    assert "skipped: missing.png does not exist" in err
    told = err.splitlines()[-1]
    assert told.startswith("kcvl: the model failed on all 2 pictures, so no single one is at fault.")
    assert f"The first: none/p0.png: {name} " in told
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("kind", ["memory", "keras", "saved_model", "variables", "tflite"])
def test_a_sequential_runs_and_exports(tmp_path, kind):
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((None, None, 3)),
        keras.layers.Conv2D(4, 3, padding="same", use_bias=False),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2DTranspose(2, 2, strides=2, name="logits"),
    ]
    model = keras.Sequential(layers)
    statistics = [[0.5, 1, 2, 1], [0, 1, -1, 0.5], [0.1, 0.2, 0, -0.3], [0.5, 2, 1, 1]]
    model.get_layer("norm").set_weights([np.array(s, "float32") for s in statistics])
    path = {"memory": model, "keras": tmp_path / "m.keras", "tflite": tmp_path / "m.tflite"}.get(kind, tmp_path / "m")
    if kind == "keras":
        model.save(path)
    elif kind == "tflite":
        export_tflite(model, path, input_shape=(8, 6))
    elif kind != "memory":
        export_saved_model(model, path, constant_weights=kind == "saved_model")
    images = RNG.integers(0, 256, (2, 8, 6, 3), np.uint8)
    found = load_runner(path)(images)
    assert sorted(found) == ["class_map", "logits", "probabilities"]
    expected = model.predict(images.astype("float32"), verbose=0)
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-5, atol=1e-3)
    if kind == "memory":
        assert gflops(model, (8, 6)) * 1e9 == pytest.approx(2 * (8 * 6 * 4 * 27 + 4 * 3 * 4 * 2 * 4))


class _Subclass(keras.Model):
    def call(self, image):
        return image


@pytest.mark.parametrize("model", [keras.Sequential([keras.layers.Conv2D(2, 1)]), _Subclass()])
def test_models_that_do_not_say_what_they_take_name_the_repair(tmp_path, model):
    uses = load_runner, lambda model: gflops(model, (8, 8)), lambda model: export_saved_model(model, tmp_path / "m")
    for use in uses:
        with pytest.raises(ModelError, match=rf"{model.name} does not say .* Build the model with keras\.Input"):
            use(model)


def test_old_picture_sizes_are_forgotten(model, monkeypatch):
    monkeypatch.setattr(runners, "_KEPT_SHAPES", 1)
    runner = load_runner(model)
    for size in (4, 6, 4):
        assert runner(np.zeros((1, size, size, 3)))["logits"].shape == (1, size, size, 3)


def test_models_without_logits_keep_their_outputs():
    inputs = keras.Input((8, 8, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    x = np.full((2, 8, 8, 1), 7.0, "float32")
    np.testing.assert_allclose(load_runner(keras.Model(inputs, pooled))(x)["output"], [[7], [7]])
    named = load_runner(keras.Model(inputs, {"mean": pooled, "double": pooled * 2}))(x)
    np.testing.assert_allclose(named["double"], [[14], [14]])


@pytest.mark.parametrize(
    "images",
    [np.zeros((16, 24, 3)), np.zeros((1, 16, 25, 3)), np.zeros((1, 16, 24, 1)), np.zeros((0, 16, 24, 3))],
    ids=["no batch", "width", "channels", "empty"],
)
def test_wrong_pictures_are_refused(stored, images):
    with pytest.raises(ModelError, match=r"takes pictures of shape \(any, 16, 24, 3\)"):
        load_runner(stored["tflite"])(images)


def test_a_size_that_the_network_cannot_take_is_explained(stored):
    with pytest.raises(ModelError, match="cannot take a picture of 1x1 pixels"):
        load_runner(stored["dynamic"])(np.zeros((1, 1, 1, 3), np.uint8))


def broken(folder, kind):
    """Path of something that looks like a model and is none."""
    names = {"tflite": "m.tflite", "empty": "empty", "unpacked": "run", "saved_model": "sm", "h5": "m.h5"}
    path = folder / names.get(kind, "m.keras")
    if kind in ("empty", "unpacked", "saved_model"):
        path.mkdir()
    if kind == "unpacked":
        (path / "best.keras").mkdir()
        (path / "best.keras" / "config.json").write_text("{}")
    if kind == "saved_model":
        (path / "saved_model.pb").write_bytes(b"\xffnonsense")
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
    elif kind in ("keras", "h5", "tflite"):
        path.write_bytes(b"not a model, but long enough to have a header")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "There is no .*m.keras. Expected a run folder"),
        ("empty", "holds neither best.keras, last.keras nor saved_model.pb"),
        ("unpacked", "holds neither best.keras, last.keras nor saved_model.pb"),
        ("keras", "cannot be loaded as a Keras model"),
        ("zip", "cannot be loaded as a Keras model"),
        ("h5", r"must be saved again with model.save\('NAME.keras'\)"),
        ("tflite", "cannot be run as a TensorFlow Lite file"),
        ("saved_model", "cannot be loaded as a SavedModel"),
    ],
)
def test_foreign_files_are_refused_with_a_repair(tmp_path, kind, message):
    with pytest.raises(ModelError, match=message):
        load_runner(broken(tmp_path, kind))


def test_last_checkpoint_stands_in_for_the_best(model, tmp_path):
    model.save(tmp_path / "last.keras")
    assert load_runner(tmp_path).kind == "keras"


def test_code_in_a_keras_file_is_not_run(tmp_path):
    inputs = keras.Input((4, 4, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs)).save(tmp_path / "m.keras")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_runner(tmp_path / "m.keras")


def test_foreign_saved_model_without_signature(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"))
    with pytest.raises(ModelError, match="no signature"):
        load_runner(tmp_path / "m")


def test_foreign_saved_model_of_any_rank(tmp_path):
    module = tf.Module()
    module.serve = tf.function(lambda image: {"output": image}, input_signature=[tf.TensorSpec(None, name="image")])
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.serve)
    with pytest.raises(ModelError, match=r"m takes an input of shape <unknown>; expected one picture"):
        load_runner(tmp_path / "m")


def test_gflops_of_hand_counted_layers():
    inputs = keras.Input((8, 6, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(inputs)  # 4*3 pixels, 4 filters, 27 products: 1296
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)  # 4*3*4 outputs, 9 products: 432
    x = keras.layers.Conv2DTranspose(2, 2, strides=2)(x)  # 4*3 inputs, 4 channels, 2*2*2 weights each: 384
    x = keras.layers.Conv2D(4, 1, groups=2)(x)  # 8*6*4 outputs, 1 product: 192
    x = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x))  # 4*5: 20
    model = keras.Model(inputs, x)
    assert gflops(model, (8, 6)) * 1e9 == pytest.approx(2 * (1296 + 432 + 384 + 192 + 20))


def test_latency_counts_calls(model):
    calls = []
    runner = load_runner(model)
    counting = runners.Runner(**{**vars(runner), "run": lambda x: calls.append(x.shape) or {}})
    times = latency(counting, np.zeros((4, 6, 3), np.uint8), repeats=3, warmup=1)
    assert calls == [(1, 4, 6, 3)] * 4
    assert 0 <= times["min_ms"] <= times["median_ms"] <= times["max_ms"]


@pytest.mark.parametrize(("seconds", "calls"), [(1, 2), (7, 3), (12, 4), (100, 7)])
def test_latency_of_a_slow_model_takes_few_calls(model, monkeypatch, seconds, calls):
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def slow(x):
        clock[0] += 3
        return {}

    runner = runners.Runner(**{**vars(load_runner(model)), "run": slow})
    times = latency(runner, np.zeros((4, 6, 3), np.uint8), repeats=5, seconds=seconds)
    assert (clock[0] / 3, times["median_ms"]) == (calls, 3000)


def test_the_machine_and_its_threads_are_told(monkeypatch):
    monkeypatch.setattr(runners.tf.config.threading, "get_intra_op_parallelism_threads", lambda: 0)
    monkeypatch.setattr(runners.tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(runners.os, "sched_getaffinity", lambda process: {0, 4, 5}, raising=False)
    monkeypatch.setattr(runners.platform, "machine", lambda: "riscv64")
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    assert runners.machine() == "riscv64, 3 CPUs"
    assert runners.tensorflow_threads() == 3
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "7")
    assert runners.tensorflow_threads() == 7
    monkeypatch.setattr(runners.tf.config.threading, "get_intra_op_parallelism_threads", lambda: 5)
    assert runners.tensorflow_threads() == 5
    monkeypatch.setattr(runners.os, "sched_getaffinity", lambda process: {1})
    monkeypatch.setattr(runners.tf.config, "list_physical_devices", lambda kind: ["/GPU:0", "/GPU:1"])
    assert runners.machine() == "riscv64, 1 CPU, 2 GPUs"


def test_threads_must_be_positive(model):
    with pytest.raises(ModelError, match="threads=0"):
        load_runner(model, threads=0)


def test_another_backend_is_told_what_needs_tensorflow(model, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    for use in (lambda: load_runner(model)(np.zeros((1, 4, 6, 3), np.uint8)), lambda: make_strategy("none")):
        with pytest.raises(ModelError, match="needs the TensorFlow backend of Keras, and this process runs on jax"):
            use()
