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
from keras_cv_lectures.metadata import read_metadata
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
def config(recipe, source):
    return recipe.fit_config({**recipe.config, **recipe.smoke}, recipe.smoke_options, source)


@pytest.fixture(scope="module")
def source():
    return shapes_source(16, size=(48, 64), seed=3)


def _batches(recipe, config, source, batch_size, *, augmentation=None, drop_remainder=True):
    size = recipe.smoke_options.input_size
    dataset = to_dataset(source, shuffle=False, seed=0, epochs=1, keys=[k for k in recipe.keys if k in source[0]])
    return recipe.make_batches(
        dataset,
        output_size=size,
        base_size=size,
        batch_size=batch_size,
        augmentation=augmentation,
        channels=3,
        drop_remainder=drop_remainder,
        context=recipe.context(config, recipe.smoke_options, recipe.names(source, recipe.smoke_options)[0]),
    )


@pytest.fixture(scope="module")
def batch(recipe, config, source):
    return next(iter(_batches(recipe, config, source, 4)))


def _model(recipe, config, source, *, channels=3, policy="float32"):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    try:
        return recipe.build((None, None, channels), len(recipe.names(source, recipe.smoke_options)[0]), **config)
    finally:
        keras.config.set_dtype_policy("float32")


def _loss(recipe, model, inputs, targets):
    """What `fit` minimises; detectors have losses of their own."""
    outputs, loss = model(inputs, training=True), recipe.make_loss(recipe.smoke_options, None)
    return model.compute_loss(inputs, targets, outputs) if loss is None else loss(targets, outputs)


@pytest.fixture(scope="module")
def model(recipe, config, source):
    return _model(recipe, config, source)


def _compile(model, recipe, source, optimizer, eager=False):
    model.compile(
        optimizer=optimizer,
        loss=recipe.make_loss(recipe.smoke_options, None),
        metrics=recipe.make_metrics(len(recipe.names(source, recipe.smoke_options)[0])) or None,
        jit_compile=False,
        run_eagerly=eager,
    )
    model.optimizer.build(model.trainable_variables)  # or TensorFlow traces the step twice
    return model


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


@pytest.mark.filterwarnings("ignore:.*random numbers:keras_cv_lectures.errors.KcvlWarning")
def test_published_parameter_count(recipe, unfilled):
    # Papers count what is learned: not the moving statistics of batch normalisation.
    model = unfilled(recipe.build, **recipe.reference.parameters_of)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == recipe.reference.parameters


def test_default_training_builds_with_its_own_settings(recipe):
    Augmentation(**recipe.augmentation)
    accepted = inspect.signature(recipe.build).parameters
    assert {*recipe.config, *recipe.smoke, *recipe.demo} <= set(accepted)


def test_every_variable_gets_a_finite_gradient(recipe, model, batch):
    inputs, targets = batch
    with tf.GradientTape() as tape:
        value = _loss(recipe, model, inputs, targets)
    gradients = tape.gradient(value, [v.value for v in model.trainable_variables])
    # Of a table of words only the rows in use have one.
    gradients = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
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
    if recipe.needs_one_size(config):
        pytest.skip("valid convolutions take certain sizes only; the predictor tiles")
    for channels, size in ((1, (37, 53)), (5, (40, 33))):
        model = _model(recipe, config, source, channels=channels)
        for output in _flat(model(np.zeros((1, *size, channels), "uint8"))):
            assert np.isfinite(output).all()


def test_pictures_without_objects_give_a_finite_loss(recipe, model, config):
    empty = next(i for i in range(200) if not (shapes_source(200, size=(48, 64))[i]["labels"]).size)
    source = shapes_source(200, size=(48, 64)).subset([empty])
    inputs, targets = next(iter(_batches(recipe, config, source, 1)))
    assert np.isfinite(float(_loss(recipe, model, inputs, targets)))


@pytest.fixture(scope="module")
def overfitted(recipe, source, tmp_path_factory):
    """A run of the trainer on four pictures, and the loss of its first step."""
    losses = []
    run = train(
        recipe,
        source.subset(range(4)),
        source.subset(range(12, 16)),
        out=tmp_path_factory.mktemp(recipe.name) / "run",
        config=recipe.smoke,
        options=dataclasses.replace(
            recipe.smoke_options,
            epochs=4,
            batch_size=4,
            steps_per_epoch=recipe.overfit_steps // 4,
            optimizer="adam",
            learning_rate=recipe.overfit_rate,
            schedule="constant",
        ),
        augmentation=dataclasses.asdict(Augmentation.none()),
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: losses.append(logs["loss"]))],
        verbose=0,
    )
    return run, losses[0]


@trains
def test_the_trainer_overfits_four_pictures(overfitted):
    run, first = overfitted
    assert run.history[-1]["loss"] < 0.25 * first


@trains
def test_int8_file_agrees_with_the_model_on_what_it_learned(recipe, config, overfitted, source, tmp_path):
    if recipe.needs_one_size(config):
        pytest.skip("smoke settings of valid networks are exported by their own test")
    pictures = [example["image"] for example in shapes_source(100, size=(48, 64), seed=5)]
    learned = [source[i]["image"] for i in range(4)]
    model = overfitted[0].model
    result = export_tflite(
        model,
        tmp_path / "model.tflite",
        precision="int8",
        representative=[*learned, *pictures],
        input_shape=recipe.smoke_options.input_size,
        verify=False,
    )
    file, reference = load_runner(result.path), load_runner(model)

    # Of a few objects on a picture one may change its box for another that is as good: all pictures count as one.
    def answers(runner):
        found = [runner(picture[None]) for picture in learned]
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}

    assert recipe.agreement(answers(file), answers(reference)) >= 0.9


@trains
def test_two_replicas_take_the_step_of_one(recipe, config, source, replicas, float64_policy):
    data = _batches(recipe, config, source, 4).take(2)

    def weights_after(scope, eager):
        with scope:
            model = _model(recipe, config, source, policy=float64_policy)
            _compile(model, recipe, source, keras.optimizers.SGD(0.01), eager).fit(data, verbose=0, shuffle=False)
        return [v.numpy() for v in model.weights]

    # Compiling a network takes longer than two steps of it do.
    one, two = weights_after(contextlib.nullcontext(), eager=True), weights_after(replicas.scope(), eager=False)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(a).max()))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["unet", "faster_rcnn", "show_attend_tell"], indirect=True, scope="module")
def test_two_replicas_measure_what_one_does(recipe, config, source, replicas, float64_policy):
    """Of the last batch, three pictures, one replica has two, the other one."""
    data = _batches(recipe, config, source.subset(range(7)), 4, drop_remainder=False)

    def measured(scope, eager):
        with scope:
            model = _model(recipe, config, source, policy=float64_policy)
            return _compile(model, recipe, source, "sgd", eager).evaluate(data, verbose=0, return_dict=True)

    one, two = measured(contextlib.nullcontext(), eager=True), measured(replicas.scope(), eager=False)
    assert one == pytest.approx(two, rel=1e-4, abs=1e-6)


@trains
def test_saved_model_and_tflite_agree_with_the_model(recipe, model, config, source, tmp_path):
    if recipe.needs_one_size(config):
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
def test_a_run_is_written_and_its_scores_are_those_of_the_saved_model(recipe, source, overfitted):
    run, _ = overfitted
    names = {metric.name for metric in recipe.make_metrics(len(recipe.names(source, recipe.smoke_options)[0]))}
    assert len(run.history) == 4
    assert {"loss", "val_loss", *names, *(f"val_{n}" for n in names)} <= set(run.history[0])
    for file in ("best.keras", "last.keras", "run.json", "history.csv", "train_ids.txt", "checkpoint/state.json"):
        assert (run.folder / file).exists(), file
    points = source.keypoint_names if "keypoints" in recipe.keys else ()
    assert read_metadata(run.folder).keypoint_names == points
    evaluation = recipe.evaluate(load_runner(run.folder), source.subset(range(12, 16)))
    assert evaluation.pictures == 4
    # What fit showed for the best epoch is what evaluating the saved model gives.
    key = recipe.smoke_options.keep_best
    if key.removeprefix("val_") in evaluation.scores:
        best = max(row[key] for row in run.history)
        assert abs(evaluation.scores[key.removeprefix("val_")] - best) < 2e-3
