"""Exports equal their model, are made of builtin operators, and leave nothing behind when something fails."""

import errno
import json
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures import exporting
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.exporting import (
    check_operators,
    export_saved_model,
    export_tflite,
    for_export,
    in_float32,
    update_card,
)
from keras_cv_lectures.exporting.audit import explain_conversion_error
from keras_cv_lectures.exporting.rewrite import folded
from keras_cv_lectures.layers.subpixel import SubPixelConv2DTranspose
from keras_cv_lectures.metadata import Metadata, read_metadata
from keras_cv_lectures.predicting import predict
from keras_cv_lectures.runners import load_runner, machine, tensorflow_threads, versions
from keras_cv_lectures.segmentation import build_unet

RNG = np.random.default_rng(0)


def tiny_unet(shape=(None, None, 3), seed=0):
    keras.utils.set_random_seed(seed)
    model = build_unet(shape, num_classes=4, filters=4, depth=2)
    # Moving statistics as after training, so that folding them is not the identity.
    model(RNG.integers(0, 256, (4, 16, 16, shape[2])).astype("float32"), training=True)
    return model


@pytest.fixture(scope="module")
def model():
    return tiny_unet()


@pytest.fixture(scope="module")
def pictures():
    coarse = RNG.integers(0, 256, (100, 3, 4, 3)).repeat(8, 1).repeat(8, 2)[:, :20, :28]
    return coarse.astype(np.uint8)


@keras.saving.register_keras_serializable("keras_cv_lectures_tests")
class ArgmaxPool(keras.layers.Layer):
    """A layer whose operator TensorFlow Lite lacks."""

    def call(self, x):
        return tf.nn.max_pool_with_argmax(x, 2, 2, "SAME")[0]


@keras.saving.register_keras_serializable("keras_cv_lectures_tests")
class Unsteady(keras.layers.Layer):
    """A layer that computes something else each time it is traced."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count = 0

    def call(self, x):
        self.count += 1
        return x * self.count


@keras.saving.register_keras_serializable("keras_cv_lectures_tests")
class Random(keras.layers.Layer):
    """A layer that draws random numbers from a generator's state, at inference too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal((1, 8, 8, 3), seed=self.generator)


def test_rewritten_model_is_the_same_function(model):
    copy = for_export(model)
    kinds = [type(layer) for layer in copy.layers]
    assert kinds.count(SubPixelConv2DTranspose) == 2
    assert keras.layers.Conv2DTranspose not in kinds
    x = RNG.integers(0, 256, (2, 21, 18, 3)).astype("float32")
    np.testing.assert_allclose(np.asarray(copy(x)), np.asarray(model(x)), atol=1e-5)
    assert any(type(layer) is keras.layers.Conv2DTranspose for layer in model.layers), "the model itself stays"


def test_rewriting_reaches_nested_models_and_leaves_what_it_cannot_convert():
    inner_in = keras.Input((None, None, 3))
    x = keras.layers.Conv2DTranspose(4, 4, strides=2, padding="same", bias_initializer="he_normal", name="up4")(
        inner_in
    )
    x = keras.layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="up3")(x)
    x = keras.layers.Conv2DTranspose(4, 4, strides=2, padding="valid", name="valid4")(x)
    inner = keras.Model(inner_in, {"c1": x}, name="backbone")
    inputs = keras.Input((None, None, 3))
    x = inner(inputs)["c1"]
    x = keras.layers.Conv2DTranspose(2, 2, strides=2, use_bias=False, activation="relu", name="up2")(x)
    model = keras.Model(inputs, x)
    copy = for_export(model)
    nested = copy.get_layer("backbone")
    assert isinstance(nested.get_layer("up4"), SubPixelConv2DTranspose)
    assert isinstance(copy.get_layer("up2"), SubPixelConv2DTranspose)
    assert type(nested.get_layer("up3")) is keras.layers.Conv2DTranspose
    assert type(nested.get_layer("valid4")) is keras.layers.Conv2DTranspose
    x = RNG.normal(size=(1, 5, 6, 3)).astype("float32")
    np.testing.assert_allclose(np.asarray(copy(x)), np.asarray(model(x)), atol=1e-5)


def test_rewriting_keeps_what_a_normalization_has_adapted_to():
    normalization = keras.layers.Normalization()
    normalization.adapt(np.array([[[[10.0, 20.0, 30.0]]], [[[30.0, 60.0, 70.0]]]]))
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2DTranspose(2, 2, strides=2)(normalization(inputs)))
    copy = for_export(model)
    assert any(isinstance(layer, SubPixelConv2DTranspose) for layer in copy.layers)
    x = RNG.integers(0, 256, (1, 3, 4, 3)).astype("float32")
    np.testing.assert_allclose(np.asarray(copy(x)), np.asarray(model(x)), atol=1e-5)


def test_a_model_without_anything_to_rewrite_is_returned_as_it_is():
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs))
    assert for_export(model) is model
    assert in_float32(model) is model


def _unlike_at_the_start(model):
    """Other statistics, scales and shifts of normalisation than the initial ones, which would hide a mistake."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([RNG.uniform(0.5, 2.0, w.shape) for w in layer.get_weights()])


def _normalizations(model):
    return [layer.name for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]


def test_folding_puts_normalization_into_the_kernels_before_it():
    inner_in = keras.Input((None, None, 6))
    x = keras.layers.DepthwiseConv2D(3, use_bias=False, name="each")(inner_in)
    x = keras.layers.BatchNormalization(name="each_norm")(x)
    inner = keras.Model(inner_in, x, name="inner")
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(6, 3, bias_initializer="he_normal", name="first")(inputs)
    x = keras.layers.BatchNormalization(scale=False, epsilon=1e-2, name="first_norm")(x)
    x = inner(keras.layers.ReLU()(x))
    twice = keras.layers.Conv2D(4, 1, name="read_twice")(x)
    y = keras.layers.BatchNormalization(name="stays_read_twice")(twice)
    y = keras.layers.Conv2D(4, 1, activation="relu", name="not_linear")(keras.layers.Add()([y, twice]))
    y = keras.layers.BatchNormalization(name="stays_behind_relu")(y)
    last = keras.layers.Conv2D(2, 1, name="output_itself")(y)
    model = keras.Model(inputs, [keras.layers.BatchNormalization(name="stays_output")(last), last])
    _unlike_at_the_start(model)
    copy = folded(model)
    assert sorted(_normalizations(copy)) == ["stays_behind_relu", "stays_output", "stays_read_twice"]
    assert len(_normalizations(model)) == 5, "the model itself stays"
    x = RNG.normal(size=(2, 9, 8, 3)).astype("float32")
    for found, expected in zip(copy(x), model(x), strict=True):
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=1e-5)


def test_a_saved_model_with_variables_is_the_same_function(pictures, tmp_path):
    _unlike_at_the_start(net := tiny_unet(seed=1))
    assert _normalizations(folded(net)) == []
    export_saved_model(net, tmp_path / "small", constant_weights=False)
    assert len(list((tmp_path / "small/variables").iterdir())) == 2
    found, expected = load_runner(tmp_path / "small")(pictures[:2]), load_runner(net)(pictures[:2])
    assert set(found) == set(expected)
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-4 * np.abs(expected["logits"]).max())


def test_bfloat16_models_are_exported_in_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = tiny_unet()
    finally:
        keras.config.set_dtype_policy("float32")
    copy = in_float32(mixed)
    assert {layer.compute_dtype for layer in copy.layers} == {"float32"}
    for a, b in zip(mixed.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    result = export_tflite(mixed, tmp_path / "m.tflite", input_shape=(16, 16))
    assert result.max_difference < 1e-4


def test_tflite_float32_equals_the_model(model, pictures, tmp_path):
    result = export_tflite(model, tmp_path / "m.tflite", representative=pictures, input_shape=(20, 28))
    found = load_runner(tmp_path / "m.tflite")(pictures[:3])
    expected = model.predict(pictures[:3].astype("float32"), verbose=0)
    np.testing.assert_allclose(found["logits"], expected, atol=1e-4)
    assert result.max_difference < 1e-4
    assert result.label_agreement > 0.999
    assert result.size_bytes == (tmp_path / "m.tflite").stat().st_size
    assert "DEPTH_TO_SPACE" in result.operators
    assert "TRANSPOSE_CONV" not in result.operators
    assert result.operators == check_operators(tmp_path / "m.tflite")


def test_tflite_with_open_height_and_width(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(inputs)
    x = keras.layers.Conv2DTranspose(4, 4, strides=2, padding="same", bias_initializer="he_normal")(x)
    model = keras.Model(inputs, keras.layers.Conv2D(4, 1, name="logits")(x))
    export_tflite(model, tmp_path / "m.tflite", dynamic=True)
    card = json.loads((tmp_path / "m.json").read_text())
    assert card["input"]["image"]["shape"] == [1, None, None, 3]
    shapes = {name: output["shape"] for name, output in card["outputs"].items()}
    maps = [1, None, None, 4]
    assert shapes == {"logits": maps, "probabilities": maps, "class_map": maps[:3]}
    assert card["measured_size"] == [96, 128]
    for part in ("| image | uint8 | (1, None, None, 3) |", "Measured on a picture of 96x128 pixels"):
        assert part in (tmp_path / "m.md").read_text()
    runner = load_runner(tmp_path / "m.tflite")
    assert runner.input_shape == (None, None, 3)
    for size in ((8, 14), (32, 16)):
        x = RNG.integers(0, 256, (1, *size, 3), np.uint8)
        expected = model.predict(x.astype("float32"), verbose=0)
        np.testing.assert_allclose(runner(x)["logits"], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["m.tflite", "m"])
def test_valid_networks_of_open_size_are_tried_with_a_size_they_take(name, tmp_path):
    inputs = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(2, (1, 131), padding="valid")(keras.layers.Conv2D(2, (101, 1), padding="valid")(inputs))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="logits")(x))
    export = partial(export_tflite, dynamic=True) if name == "m.tflite" else export_saved_model
    result = export(model, tmp_path / name)
    assert result.label_agreement == 1
    card = json.loads(result.card_path.read_text())
    assert card["measured_size"] == [196, 258]
    assert card["input"]["image"]["shape"] == [1, None, None, 1]


def test_networks_that_resize_pictures_themselves_keep_their_open_size(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(2, 3, strides=2)(keras.layers.Resizing(56, 56)(inputs))
    result = export_saved_model(keras.Model(inputs, x), tmp_path / "m")
    assert json.loads(result.card_path.read_text())["measured_size"] == [96, 128]


@pytest.mark.parametrize("name", ["m.tflite", "m"])
def test_networks_that_take_no_size_are_to_be_given_one(name, tmp_path):
    inputs = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(2, 601, strides=2)(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="logits")(x))
    export = partial(export_tflite, dynamic=True) if name == "m.tflite" else export_saved_model
    with pytest.raises(ModelError, match=r"Pass input_shape=\(height, width\)"):
        export(model, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_float16_halves_the_file(model, pictures, tmp_path):
    sizes = {
        precision: export_tflite(
            build_unet((16, 16, 3), 2, filters=16, depth=2), tmp_path / f"{precision}.tflite", precision=precision
        )
        for precision in ("float32", "float16")
    }
    assert sizes["float16"].size_bytes < 0.6 * sizes["float32"].size_bytes
    assert sizes["float16"].max_difference < 0.05


def test_int8_takes_uint8_and_gives_float32_close_to_the_model(model, pictures, tmp_path):
    result = export_tflite(
        model, tmp_path / "m.tflite", precision="int8", representative=iter(pictures), input_shape=(20, 28)
    )
    runner = load_runner(tmp_path / "m.tflite")
    assert runner.input_dtype == "uint8"
    found = runner(pictures[:4])
    expected = model.predict(pictures[:4].astype("float32"), verbose=0)
    assert {v.dtype.name for v in found.values()} == {"float32", "int32"}
    spread = expected.max() - expected.min()
    assert np.abs(found["logits"] - expected).mean() < 0.03 * spread
    assert len(np.unique(found["logits"])) > 32, "saturated or too coarse"
    assert result.label_agreement > 0.85
    # Softmax in 8 bits would give multiples of 1/256, whose sum is off by up to a few of them.
    np.testing.assert_allclose(found["probabilities"].sum(-1), 1, atol=1e-6)


def test_saved_model_has_named_signatures_and_any_batch(model, pictures, tmp_path):
    result = export_saved_model(model, tmp_path / "m")
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    assert {"serving_default", "serve"} <= set(loaded.signatures)
    assert not loaded.variables if hasattr(loaded, "variables") else True
    expected = model.predict(pictures[:2].astype("float32"), verbose=0)
    for name in ("serving_default", "serve"):
        found = loaded.signatures[name](image=tf.constant(pictures[:2]))
        np.testing.assert_allclose(found["logits"], expected, atol=1e-4)
    assert result.max_difference < 1e-4
    assert result.size_bytes > 4 * model.count_params()


def test_saved_model_of_a_fixed_size(model, tmp_path):
    export_saved_model(model, tmp_path / "m", input_shape=(16, 24))
    assert load_runner(tmp_path / "m").input_shape == (16, 24, 3)
    card = json.loads((tmp_path / "m" / "model_card.json").read_text())
    # TensorFlow has one number of threads for the whole process.
    assert card["latency_ms"].keys() == {str(tensorflow_threads())}
    assert min(card["latency_ms"].values()) > 0


def test_card_says_what_the_file_cannot(model, tmp_path):
    metadata = Metadata(system="unet", classes=("a", "b", "c", "d"), colors=((1, 2, 3),) * 4, input_size=(16, 24))
    result = export_tflite(
        model, tmp_path / "m.tflite", input_shape=(16, 24), metadata=metadata, metrics={"mean IoU": 0.5}
    )
    card = json.loads(result.card_path.read_text())
    assert read_metadata(tmp_path / "m.tflite") == metadata
    assert card["parameters"] == model.count_params()
    assert card["file_size"] == result.size_bytes
    assert set(card["latency_ms"]) == {"1", "2"}
    assert min(card["latency_ms"].values()) > 0
    assert card["gflops"] > 0
    assert card["max_difference"] == result.max_difference
    assert card["outputs"]["logits"] == {"dtype": "float32", "shape": [1, 16, 24, 4]}
    assert card["machine"] == machine()
    assert card["versions"] == versions()
    assert card["metrics_data"] is None
    assert "measured on" not in (tmp_path / "m.md").read_text()

    facts = {"data": "six slices", "reference": "Ronneberger et al. 2015"}
    update_card(tmp_path / "m.tflite", metrics={"mean IoU int8": 0.49}, **facts)
    card = json.loads(result.card_path.read_text())
    assert card["metrics"] == {"mean IoU": 0.5, "mean IoU int8": 0.49}
    assert card["metrics_data"] == "six slices"
    text = (tmp_path / "m.md").read_text()
    assert f"({card['machine']})" in text
    for part in (
        "| measured on | six slices |",
        "Ronneberger et al. 2015",
        "mean IoU int8",
        "16, 24",
        "| 2 | c |",
        "CONV_2D",
        "get_signature_runner",
    ):
        assert part in text


@pytest.mark.parametrize("kind", ["tflite", "saved_model"])
def test_program_of_the_card_runs(model, tmp_path, kind, monkeypatch):
    from PIL import Image

    path = tmp_path / ("m.tflite" if kind == "tflite" else "m")
    (export_tflite if kind == "tflite" else export_saved_model)(model, path, input_shape=(16, 24))
    Image.fromarray(RNG.integers(0, 256, (40, 30, 3), np.uint8)).save(tmp_path / "PICTURE.jpg")
    program = json.loads((tmp_path / "m.json" if kind == "tflite" else path / "model_card.json").read_text())["program"]
    assert len(program.splitlines()) == 14
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "program", "exec"), {})
    assert np.load(tmp_path / "OUTPUT.npy").shape == (16, 24)


def small_net(shape, kernel_size=3, padding="same"):
    """Four classes of the pixels around each."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input(shape)
    x = keras.layers.Conv2D(4, kernel_size, padding=padding, name="first")(inputs)
    return keras.Model(inputs, keras.layers.Conv2D(4, 1, name="logits")(x))


OPEN, FIVE = (None, None, 3), (None, None, 5)
VALID = ((36, 40, 3), 17, "valid")  # Answers with the 20 x 24 pixels in the middle.
TRAINED, SMALLER = Metadata(input_size=(16, 20)), Metadata(input_size=(18, 22))
# A network, its file, how it is exported, the size of a picture, and what it must be resized to before it is seen.
PROGRAMS = {
    "open": ((OPEN,), "m.tflite", {"dynamic": True}, (17, 23), None),
    "open of five channels": ((FIVE,), "m", {}, (17, 23), None),
    "open and trained": ((OPEN,), "m", {"metadata": TRAINED}, (30, 50), (16, 20)),
    "five channels": ((FIVE,), "m.tflite", {"input_shape": (16, 24)}, (33, 47), (16, 24)),
    "valid": (VALID, "m.tflite", {}, (40, 30), (20, 24)),
    "valid and trained": (VALID, "m", {"metadata": SMALLER}, (18, 22), None),
}


@pytest.mark.parametrize(("net", "name", "options", "size", "seen"), PROGRAMS.values(), ids=PROGRAMS)
def test_program_of_the_card_answers_as_predict_does(net, name, options, size, seen, tmp_path, monkeypatch):
    from PIL import Image

    model, path = small_net(*net), tmp_path / name
    result = (export_tflite if path.suffix else export_saved_model)(model, path, **options)
    picture = np.random.default_rng(4).integers(0, 256, (*size, model.input_shape[-1]), np.uint8)
    monkeypatch.chdir(tmp_path)
    np.save("PICTURE.npy", picture)
    if picture.shape[-1] == 3:
        Image.fromarray(picture).save("PICTURE.jpg", format="PNG")
    exec(compile(json.loads(result.card_path.read_text())["program"], "program", "exec"), {})
    if seen:  # TensorFlow and Pillow round resized pictures differently.
        bands = (Image.fromarray(picture[..., k]) for k in range(picture.shape[-1]))
        picture = np.stack([band.resize(seen[::-1], Image.Resampling.BILINEAR) for band in bands], axis=-1)
    expected = predict(path, picture).class_map
    assert expected.shape == picture.shape[:2]
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(np.load("OUTPUT.npy"), expected)


def test_card_is_needed_to_update_it(tmp_path):
    with pytest.raises(ModelError, match="no model card"):
        update_card(tmp_path / "m.tflite", metrics={})


def test_metrics_are_numbers_of_any_kind(tmp_path):
    model = small_net((4, 4, 1), 1)
    metrics = {"a": np.float32(0.5), "b": np.int64(3), "c": keras.ops.convert_to_tensor(0.25)}
    card = tmp_path / "m" / "model_card.json"
    export_saved_model(model, tmp_path / "m", metrics=metrics)
    assert json.loads(card.read_text())["metrics"] == {"a": 0.5, "b": 3, "c": 0.25}
    update_card(tmp_path / "m", metrics={"a": np.array(0.125, np.float32)})
    assert json.loads(card.read_text())["metrics"]["a"] == 0.125
    for export, name in ((export_tflite, "m.tflite"), (export_saved_model, "n"), (update_card, "m")):
        for value in ("0.5", [1, 2], None):
            with pytest.raises(ModelError, match=r"`metrics` must be numbers by name\. Received for 'a'"):
                export(*(() if export is update_card else (model,)), tmp_path / name, metrics={"a": value})
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_operators_without_builtin_are_named_with_their_layer(tmp_path, capfd):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 3, name="conv")(inputs)
    model = keras.Model(inputs, ArgmaxPool(name="pool_with_indices")(x), name="net")
    with pytest.raises(ModelError, match="MaxPoolWithArgmax in layer 'pool_with_indices'"):
        export_tflite(model, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []
    assert "loc(" not in capfd.readouterr().err, "the converter's own messages are hidden"


def test_other_conversion_errors_keep_their_first_line(model):
    error = explain_conversion_error(RuntimeError("\nthe reason\nnoise"), model)
    assert "the reason" in str(error)
    assert "noise" not in str(error)


@pytest.mark.parametrize("kind", ["tflite", "saved_model"])
@pytest.mark.parametrize(
    ("layer", "message"), [(Unsteady, "disagrees with its model"), (Random, r"changes variables .*random")]
)
def test_an_export_that_would_disagree_is_refused(tmp_path, kind, layer, message):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layer()(inputs), name="model")
    with pytest.raises(ModelError, match=message):
        (export_tflite if kind == "tflite" else export_saved_model)(
            model, tmp_path / ("m.tflite" if kind == "tflite" else "m")
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`input_shape` is needed because"),
        ({"input_shape": (16,)}, r"`input_shape` must be \(height, width\)"),
        ({"input_shape": (16, 16, 1)}, "does not fit"),
        ({"input_shape": (16, 16), "dynamic": True}, r"dynamic=True, input_shape=\(16, 16\)\. Drop one of them"),
        ({"input_shape": (16, 16), "precision": "int4"}, "`precision` must be one of"),
        ({"input_shape": (16, 16), "precision": "int8"}, 'precision="int8" needs `representative`'),
        (
            {"input_shape": (16, 16), "precision": "int8", "representative": np.zeros((99, 16, 16, 3), np.uint8)},
            "has 99 pictures; int8 needs at least 100",
        ),
        (
            {"input_shape": (16, 16), "precision": "int8", "representative": np.zeros((100, 16, 17, 3), np.uint8)},
            "Resize the pictures",
        ),
        (
            {"input_shape": (16, 16), "precision": "int8", "representative": np.zeros((100, 16, 16, 3))},
            "must give uint8 pictures",
        ),
    ],
)
def test_arguments_that_do_not_fit(model, tmp_path, arguments, message):
    with pytest.raises(ModelError, match=message):
        export_tflite(model, tmp_path / "m.tflite", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_suffix_says_what_the_file_is(model, tmp_path):
    with pytest.raises(ModelError, match=r"end in \.tflite"):
        export_tflite(model, tmp_path / "m.bin", input_shape=(16, 16))


@pytest.mark.parametrize("kind", ["tflite", "saved_model"])
def test_full_disk_leaves_the_old_export(model, tmp_path, monkeypatch, kind):
    path = tmp_path / ("m.tflite" if kind == "tflite" else "m")
    path.write_text("old") if kind == "tflite" else path.mkdir()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    module = exporting.tflite if kind == "tflite" else exporting.saved_model
    monkeypatch.setattr(module, "write_card", full)
    with pytest.raises(ModelError, match=r"No space left on device.*MB free.*Free some space"):
        (export_tflite if kind == "tflite" else export_saved_model)(model, path, input_shape=(16, 16))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.is_dir() or path.read_text() == "old"


def test_a_file_that_is_no_tflite(tmp_path):
    Path(tmp_path / "m.tflite").write_bytes(b"something else")
    with pytest.raises(ModelError, match="is not a TensorFlow Lite file"):
        check_operators(tmp_path / "m.tflite")


def test_variables_in_a_file_are_refused(model, tmp_path, monkeypatch):
    from keras_cv_lectures.exporting import audit

    monkeypatch.setattr(audit, "operators", lambda path: {"CONV_2D": 1, "VAR_HANDLE": 2, "CUSTOM:FlexErf": 1})
    with pytest.raises(ModelError, match="VAR_HANDLE, CUSTOM:FlexErf"):
        audit.check_operators(tmp_path / "m.tflite")
