"""Models with code of the user's own are exported: losses, Lambdas, and layers that cannot be made again."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.exporting import export_saved_model, export_tflite, for_export, in_float32
from keras_cv_lectures.exporting.rewrite import folded
from keras_cv_lectures.layers.subpixel import SubPixelConv2DTranspose

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, 6, 3)).astype("float32")


def my_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred))


class Scale(keras.layers.Layer):
    """A layer of one weight, whose configuration lacks what __init__ needs."""

    def __init__(self, start, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer=keras.initializers.Constant(self.start))

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return super().get_config()


class Nameless(Scale):
    """Its configuration lacks the name."""

    def __init__(self, start=1.0, **kwargs):
        super().__init__(start, **kwargs)

    def get_config(self):
        return {"start": self.start}


class Wider(keras.layers.Dense):
    """What its configuration makes is one wider than it is."""

    def get_config(self):
        return {**super().get_config(), "units": self.units + 1}


def network(*layers, last=None):
    """A convolution with normalisation, `layers`, and a transposed convolution; also inside a model of its own."""
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(image)
    x = keras.layers.BatchNormalization()(x)
    for layer in layers:
        x = layer(x)
    x = keras.layers.Conv2DTranspose(4, 2, strides=2, bias_initializer="he_normal")(x)
    inner = keras.Model(image, x, name="inner")
    outer = keras.Input((None, None, 3))
    model = keras.Model(outer, keras.layers.Conv2D(2, 1, name="logits")(inner(outer)), name="net")
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(RNG.uniform(0.5, 1.5, weight.shape))
    return model, inner


def assert_same_function(copy, model):
    expected = np.asarray(model(X))
    np.testing.assert_allclose(np.asarray(copy(X)), expected, atol=1e-4 * np.abs(expected).max())


@keras.saving.register_keras_serializable("keras_cv_lectures_tests")
class MadeWhenBuilt(keras.layers.Layer):
    """Its inner layer is of 16 bits whatever it is itself, and no part of its configuration."""

    def build(self, shape):
        self.inner = keras.layers.Dense(4, dtype="mixed_bfloat16")
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


def has_subpixel(model):
    return any(isinstance(layer, SubPixelConv2DTranspose) for layer in model._flatten_layers())


@pytest.mark.parametrize("loss", [my_loss, lambda y_true, y_pred: my_loss(y_true, y_pred)], ids=["function", "lambda"])
def test_what_a_model_is_compiled_with_is_no_matter_of_its_export(loss):
    model, inner = network()
    for each in (model, inner):
        each.compile("adam", loss=loss)
    for copy in (for_export(model), folded(model)):
        assert copy is not model
        assert not copy.compiled
        assert_same_function(copy, model)
    assert has_subpixel(for_export(model))
    assert (model.compiled, inner.compiled) == (True, True)
    assert model.loss is loss


def test_a_model_stays_compiled_where_it_cannot_be_copied():
    model, inner = network(Scale(2.0))
    inner.compile("adam", loss=my_loss)
    assert for_export(model) is model
    assert inner.compiled


def test_lambdas_keep_their_function():
    """Its globals and closure too, which its configuration does not hold."""
    shift = tf.constant(0.25)
    double = keras.layers.Lambda(lambda x, times: tf.nn.relu(x * times - shift), arguments={"times": 2.0}, name="own")
    model, _ = network(double)
    copy = for_export(model)
    assert has_subpixel(copy)
    assert_same_function(copy, model)


def test_layers_without_a_name_in_their_configuration_find_their_weights():
    model, _ = network(Nameless(name="own1"), Nameless(name="own2"))
    copy = folded(model)
    assert copy is not model
    assert_same_function(copy, model)


@pytest.mark.parametrize(
    "inside",
    [
        lambda **how: keras.layers.TimeDistributed(keras.layers.Dense(4, **how), **how),
        lambda **how: keras.layers.Bidirectional(keras.layers.SimpleRNN(4, **how)),
        lambda **how: keras.layers.RNN([keras.layers.SimpleRNNCell(units, **how) for units in (3, 4)]),
        lambda **how: MadeWhenBuilt() if how else keras.layers.Dense(4),
    ],
    ids=["TimeDistributed", "Bidirectional", "RNN", "build"],
)
def test_layers_inside_layers_compute_in_float32(inside):
    """As the same layers do that were made in float32, with the same weights."""

    def made(**how):
        image = keras.Input((5, 6, 3))
        return keras.Model(image, inside(**how)(keras.layers.Reshape((5, 18))(image)))

    model, expected = made(dtype="mixed_bfloat16"), made()
    expected.set_weights(model.get_weights())
    copy = in_float32(model)
    assert {layer.compute_dtype for layer in copy._flatten_layers()} == {"float32"}
    assert np.abs(np.float32(model(X)) - expected(X)).max() > 1e-4
    np.testing.assert_allclose(copy(X), expected(X), atol=1e-6)
    assert in_float32(copy) is copy


def test_operations_between_the_layers_are_made_again():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, keras.layers.Conv2D(2, 1, dtype="mixed_bfloat16")(image / 2.0))
    copy = in_float32(model)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(copy(X), (X / 2) @ kernel[0, 0] + bias, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: Scale(2.0, name="mine"), r"net cannot be copied, because layer 'mine' \(Scale\).*start.*get_config"),
        (lambda: Wider(4, name="mine"), r"net cannot be copied, because layer 'mine' \(Wider\) is not made again"),
    ],
    ids=["not made", "other weights"],
)
def test_layers_that_cannot_be_made_again(layer, message, tmp_path):
    model, _ = network(layer())
    assert for_export(model) is model
    with pytest.raises(ModelError, match=message):
        folded(model)
    with pytest.raises(ModelError, match=r"export a float32 model with constant weights"):
        export_saved_model(model, tmp_path / "m", constant_weights=False)
    assert in_float32(model) is model
    model.get_layer("inner").layers[1].dtype_policy = "mixed_bfloat16"
    with pytest.raises(ModelError, match=message):
        in_float32(model)


def test_a_network_with_a_layer_of_ones_own_is_exported(tmp_path):
    model, _ = network(Scale(2.0))
    model.compile("adam", loss=my_loss)
    result = export_tflite(model, tmp_path / "m.tflite", input_shape=(8, 8))
    assert result.label_agreement > 0.99
    assert "TRANSPOSE_CONV" in result.operators
