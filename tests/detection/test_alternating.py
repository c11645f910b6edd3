"""The four steps of alternating training: what each of them trains, and from where."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_detectors import body, small_faster_rcnn

from keras_cv_lectures.data import to_dataset
from keras_cv_lectures.data.shapes import SHAPE_CLASSES, shapes_source
from keras_cv_lectures.detection import build_faster_rcnn
from keras_cv_lectures.detection.alternating import STEPS, _ChosenLosses, train_alternating
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.metrics.average_precision import PrecisionRecallCurves
from keras_cv_lectures.preprocessing.detection import detection_batches

PARTS = ("backbone", "rpn", "box")
RPN, REGIONS = {"loss_objectness", "loss_rpn_box_reg"}, {"loss_classifier", "loss_box_reg"}


@pytest.fixture
def model():
    return small_faster_rcnn(box_units=(16,), rpn_pre_nms=(60, 60))


@pytest.fixture
def eager():
    """Without the tracing, which takes longer than the few steps here."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def batches():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("uint8")
    targets = {
        "boxes": np.float32([[[8, 8, 40, 40], [0, 0, 0, 0]], [[20, 10, 50, 60], [0, 0, 30, 30]]]),
        "labels": np.int32([[1, -1], [0, 1]]),
    }
    return tf.data.Dataset.from_tensors((pictures, targets))


def weights(model):
    return {part: [w.copy() for w in getattr(model.graph, part).get_weights()] for part in PARTS}


def changed(before, after):
    return {part for part in PARTS if any((a != b).any() for a, b in zip(before[part], after[part], strict=True))}


def train(model, **options):
    """History, and the weights of `model` at the beginning of every step and at the end."""
    seen = []
    history = train_alternating(
        model,
        batches(),
        optimizer=lambda: keras.optimizers.SGD(0.1),
        on_step=lambda step: seen.append(weights(model)),
        verbose=0,
        **options,
    )
    return history, [*seen, weights(model)]


def test_each_step_trains_its_part(model, eager):
    first = next(layer for layer in model.graph.backbone.layers if layer.weights)
    first.trainable = False
    losses = model.losses_of
    history, seen = train(model)
    # The second step trains another network, whose backbone and heads come over before the third.
    expected = [{"backbone", "rpn"}, {"backbone", "box"}, {"rpn"}, {"box"}]
    assert [changed(*pair) for pair in itertools.pairwise(seen)] == expected
    assert tuple(history) == STEPS
    assert [set(found) for found in history.values()] == [RPN, REGIONS, RPN, REGIONS]
    assert all(np.isfinite(value).all() for found in history.values() for value in found.values())
    # Frozen before, frozen after; trained before, trainable after.
    assert model.losses_of is losses
    np.testing.assert_array_equal(seen[0]["backbone"][0], seen[-1]["backbone"][0])
    assert not first.trainable
    assert all(layer.trainable for part in PARTS for layer in getattr(model.graph, part).layers if layer is not first)


def test_afterwards_the_model_is_compiled_for_all_losses(model, eager):
    train(model)
    found = model.evaluate(batches(), verbose=0, return_dict=True)
    assert all(found[name] > 0 for name in (*RPN, *REGIONS))
    before = weights(model)
    model.fit(batches(), verbose=0, shuffle=False)
    assert changed(before, weights(model)) == set(PARTS)


def test_weights_of_the_losses_hold_in_every_step_and_after(model, monkeypatch):
    given, found = {"loss_objectness": 2.0, "loss_classifier": 0.5}, []

    def fit(network, *_, **__):
        found.append(network.weights_of_parts)
        return keras.callbacks.History()

    monkeypatch.setattr(type(model), "fit", fit)
    monkeypatch.setattr(keras.callbacks.History, "history", {}, raising=False)
    model.compile("sgd", loss_weights=given)
    train(model)
    assert found == [given] * len(STEPS)
    assert model.weights_of_parts == given


def test_the_second_network_starts_where_the_first_did(model, eager):
    """With no epoch in the second step the backbone of the third is the initial one, the proposal network is not."""
    history, seen = train(model, epochs=(1, 0, 0, 0), validation_data=batches())
    assert changed(seen[0], seen[1]) == {"backbone", "rpn"}
    assert changed(seen[0], seen[-1]) == {"rpn"}
    assert set(history["rpn"]) == RPN | {f"val_{name}" for name in RPN}


def test_regions_are_those_of_the_other_proposal_network(model):
    other = model.from_config(model.get_config())
    given = {}

    def losses(dense, targets, **options):
        given.update(dense, **options)
        return {"a": 1, "b": 2}

    x = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype("uint8")
    mine, theirs = model.graph.dense(x), other.graph.dense(x)
    assert _ChosenLosses(losses, ("b",), other.graph)(mine, {}, seed=3, training=True) == {"b": 2}
    np.testing.assert_array_equal(given["logits"][0], theirs["logits"][0])
    np.testing.assert_array_equal(given["deltas"][0], theirs["deltas"][0])
    assert np.abs(given["logits"][0] - mine["logits"][0]).max() > 0
    assert given["maps"] is mine["maps"]
    assert (given["seed"], given["training"]) == (3, True)


@pytest.mark.parametrize("epochs", [(1, 2), (1, 1, 1, -1), -1])
def test_epochs_are_one_number_or_four(model, epochs):
    with pytest.raises(ValueError, match="`epochs` must be one number or four"):
        train(model, epochs=epochs)


def test_another_model_is_refused():
    with pytest.raises(ModelError, match="must be a Detector.*Functional"):
        train_alternating(body(), batches(), optimizer=keras.optimizers.SGD)


@pytest.mark.slow
@pytest.mark.long
def test_four_steps_find_the_shapes_that_they_were_trained_on():
    data = detection_batches(
        to_dataset(shapes_source(8, size=(64, 64), seed=3, max_shapes=2), shuffle=False, seed=0, epochs=1),
        canvas=(64, 64),
        sizes=None,
        batch_size=4,
        max_objects=4,
        masks=False,
        keypoints=False,
    ).cache()
    keras.utils.set_random_seed(0)
    model = build_faster_rcnn(
        (64, 64, 3),
        len(SHAPE_CLASSES),
        variant="c4",
        backbone="resnet14_v1_5",
        pyramid_filters=64,
        min_size=None,
        max_size=None,
        anchor_sizes=((12, 24, 40),),
        rpn_pre_nms=(200, 100),
        rpn_post_nms=(60, 30),
        samples=32,
        rpn_samples=32,
        max_detections=10,
    )
    rate = {"optimizer": lambda: keras.optimizers.Adam(1e-3), "verbose": 0}
    history = train_alternating(model, data, epochs=(40, 40, 20, 20), **rate)
    for step, losses in history.items():
        first, last = (sum(values[epoch] for values in losses.values()) for epoch in (0, -1))
        assert last < first / 2, step
    curves = PrecisionRecallCurves(SHAPE_CLASSES)
    for inputs, targets in data:
        found = {name: np.asarray(value) for name, value in model(inputs).items()}
        for row in range(len(targets["labels"])):
            real = np.asarray(targets["labels"][row]) >= 0
            truth = {name: np.asarray(targets[name][row])[real] for name in ("boxes", "labels")}
            count = found["count"][row]
            curves.add(truth, {name: found[name][row, :count] for name in ("boxes", "labels", "scores")})
    assert curves.scores()["mean_average_precision"] >= 0.9
