"""The contract of every system, from its recipe alone. Adding a system does not change this file."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.data import shapes_source, to_dataset
from keras_cv_lectures.exporting import export_saved_model, export_tflite
from keras_cv_lectures.preprocessing import Augmentation
from keras_cv_lectures.runners import load_runner
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import train

pytestmark = pytest.mark.replicas

# Compiling a deep network takes seconds even where it is narrow: the fast tier trains these networks, the slow
# tier all.
TRAINED_FAST = ("unet",)
trains = pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=() if name in TRAINED_FAST else pytest.mark.slow) for name in SYSTEMS],
    indirect=True,
    scope="module",
)


@pytest.fixture(scope="module", params=SYSTEMS)
def recipe(request):
    return SYSTEMS[request.param]


@pytest.fixture(scope="module")
def config(recipe):
    return {**recipe.config, **recipe.smoke}


@pytest.fixture(scope="module")
def source():
    return shapes_source(16, size=(48, 64), seed=3)


def _batches(recipe, config, source, batch_size, *, augmentation=None):
    size = recipe.smoke_options.input_size
    dataset = to_dataset(source, shuffle=False, seed=0, epochs=1, keys=[k for k in recipe.keys if k in source[0]])
    return recipe.make_batches(
        dataset,
        output_size=size,
        base_size=size,
        batch_size=batch_size,
        augmentation=augmentation,
        channels=3,
        drop_remainder=True,
        context=recipe.context(config),
    )


@pytest.fixture(scope="module")
def batch(recipe, config, source):
    return next(iter(_batches(recipe, config, source, 4)))


def _model(recipe, config, source, *, channels=3):
    keras.utils.set_random_seed(0)
    return recipe.build((None, None, channels), len(source.classes), **config)


@pytest.fixture(scope="module")
def model(recipe, config, source):
    return _model(recipe, config, source)


def _compile(model, recipe, source, optimizer):
    model.compile(
        optimizer=optimizer,
        loss=recipe.make_loss(recipe.smoke_options, None),
        metrics=recipe.make_metrics(len(source.classes)),
        jit_compile=False,
    )
    return model


def _in_float64(model):
    """The same network with layers that compute in float64.

    A fresh deep network multiplies what float32 rounds away by ten with every few layers, and one ReLU or pooling that
    chooses otherwise changes the gradient of a small batch visibly.
    """

    def clone(layer):
        return layer.__class__.from_config({**layer.get_config(), "dtype": "float64"})

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def _flat(outputs):
    return [np.asarray(x) for x in tf.nest.flatten(outputs)]


def test_builder_cites_its_paper_and_states_its_shapes(recipe):
    text = inspect.getdoc(recipe.build)
    for part in ("Input:", "Output:", "Paper:", "Differs from the paper:", "Args:", "Raises:"):
        assert part in text, part
    assert re.search(r"\(B, H", text)
    assert recipe.reference.url in text
    parameters = list(inspect.signature(recipe.build).parameters.values())
    assert [p.name for p in parameters[:2]] == ["input_shape", "num_classes"]
    assert all(p.kind == p.KEYWORD_ONLY for p in parameters[2:])


def test_published_parameter_count(recipe):
    # Papers count what is learned: not the moving statistics of batch normalisation.
    model = recipe.build(**recipe.reference.parameters_of)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == recipe.reference.parameters


def test_default_training_builds_with_its_own_settings(recipe):
    Augmentation(**recipe.augmentation)
    accepted = inspect.signature(recipe.build).parameters
    assert {*recipe.config, *recipe.smoke, *recipe.demo} <= set(accepted)


def test_every_variable_gets_a_finite_gradient(recipe, model, batch):
    inputs, targets = batch
    loss = recipe.make_loss(recipe.smoke_options, None)
    with tf.GradientTape() as tape:
        value = loss(targets, model(inputs, training=True))
    gradients = tape.gradient(value, [v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
    # A network that is not connected has zero gradients everywhere below the cut.
    kernels = [
        np.abs(g).max() for v, g in zip(model.trainable_variables, gradients, strict=True) if v.path.endswith("kernel")
    ]
    assert min(kernels) > 0


def test_keras_file_round_trip_is_exact(model, batch, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for before, after in zip(_flat(model(batch[0])), _flat(again(batch[0])), strict=True):
        np.testing.assert_array_equal(before, after)
    assert again.output_names == model.output_names


def test_odd_sizes_and_channel_counts(recipe, config, source):
    if recipe.context(config) is not None:
        pytest.skip("valid convolutions take certain sizes only; the predictor tiles")
    for channels, size in ((1, (37, 53)), (5, (40, 33))):
        model = _model(recipe, config, source, channels=channels)
        for output in _flat(model(np.zeros((1, *size, channels), "uint8"))):
            assert np.isfinite(output).all()


def test_pictures_without_objects_give_a_finite_loss(recipe, model, config):
    empty = next(i for i in range(200) if not (shapes_source(200, size=(48, 64))[i]["labels"]).size)
    source = shapes_source(200, size=(48, 64)).subset([empty])
    inputs, targets = next(iter(_batches(recipe, config, source, 1)))
    loss = recipe.make_loss(recipe.smoke_options, None)
    assert np.isfinite(float(loss(targets, model(inputs, training=True))))


@trains
def test_overfits_four_pictures(recipe, config, source, batch):
    model = _compile(_model(recipe, config, source), recipe, source, keras.optimizers.Adam(1e-2))
    first = model.train_on_batch(*batch)[0]
    for _ in range(60):
        last = model.train_on_batch(*batch)[0]
    assert last < 0.25 * first


@trains
def test_two_replicas_take_the_step_of_one(recipe, config, source, replicas):
    data = _batches(recipe, config, source, 4).take(2)

    def weights_after(scope):
        with scope:
            model = _in_float64(_model(recipe, config, source))
            _compile(model, recipe, source, keras.optimizers.SGD(0.01)).fit(data, epochs=1, verbose=0, shuffle=False)
        return [v.numpy() for v in model.weights]

    one, two = weights_after(contextlib.nullcontext()), weights_after(replicas.scope())
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(a).max()))


@trains
def test_saved_model_and_tflite_agree_with_the_model(recipe, model, config, source, tmp_path):
    if recipe.context(config) is not None:
        pytest.skip("smoke settings of valid networks are exported by their own test")
    size = recipe.smoke_options.input_size
    pictures = np.stack([source[i]["image"] for i in range(3)])
    expected = load_runner(model)(pictures)
    saved = export_saved_model(model, tmp_path / "saved", input_shape=size)
    lite = export_tflite(model, tmp_path / "model.tflite", input_shape=size)
    for result in (saved, lite):
        got = load_runner(result.path)(pictures)
        assert set(got) == set(expected)
        for name, value in expected.items():
            if value.dtype.kind == "f":
                np.testing.assert_allclose(got[name], value, atol=1e-4 * max(1.0, np.abs(value).max()), err_msg=name)


@trains
def test_trains_through_the_trainer_and_writes_a_run(recipe, source, tmp_path):
    run = train(
        recipe,
        source.subset(range(12)),
        source.subset(range(12, 16)),
        out=tmp_path / "run",
        config=recipe.smoke,
        options=dataclasses.replace(recipe.smoke_options, epochs=2),
        verbose=0,
    )
    names = {metric.name for metric in recipe.make_metrics(len(source.classes))}
    assert len(run.history) == 2
    assert {"loss", "val_loss", *names, *(f"val_{n}" for n in names)} <= set(run.history[0])
    for file in ("best.keras", "last.keras", "run.json", "history.csv", "train_ids.txt", "checkpoint/state.json"):
        assert (run.folder / file).exists(), file
    evaluation = recipe.evaluate(load_runner(run.folder), source.subset(range(12, 16)))
    assert evaluation.pictures == 4
    # What fit showed for the best epoch is what evaluating the saved model gives.
    key = recipe.smoke_options.keep_best
    best = max(row[key] for row in run.history)
    assert abs(evaluation.scores[key.removeprefix("val_")] - best) < 2e-3
