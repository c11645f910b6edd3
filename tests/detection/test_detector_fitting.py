"""How a detector is fitted and evaluated by Keras: what is drawn, computed and weighed, and what is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from small_detectors import small_faster_rcnn

from keras_cv_lectures.errors import ModelError

PARTS = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")


@pytest.fixture(scope="module")
def fresh():
    """Without batch normalisation, which training changes at any rate; with fewer samples than anchors and proposals,
    of which some are drawn."""
    return small_faster_rcnn(rpn_samples=16, samples=6, max_detections=5)


@pytest.fixture
def model(fresh):
    fresh.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    return fresh


@pytest.fixture(scope="module")
def batch():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("uint8")
    boxes = np.float32([[[8, 8, 40, 40], [0, 0, 0, 0]], [[20, 10, 50, 60], [0, 0, 30, 30]]])
    return pictures, {"boxes": boxes, "labels": np.int32([[1, -1], [0, 1]])}


def measured(model, batch):
    return model.evaluate(*batch, verbose=0, return_dict=True)


@pytest.fixture(scope="module")
def plain(fresh, batch):
    """What an evaluation says, here always of the same weights."""
    fresh.compile(run_eagerly=True)
    return measured(fresh, batch)


def test_every_evaluation_draws_the_same_and_nothing_of_the_training(model, batch, plain):
    before = np.asarray(model.noise.state)
    model.train_on_batch(*batch)
    assert np.any(np.asarray(model.noise.state) != before)
    before = np.asarray(model.noise.state)
    assert measured(model, batch) == plain
    np.testing.assert_array_equal(model.noise.state, before)


def test_an_evaluation_runs_the_network_once_and_detects_nothing(model, batch, plain, monkeypatch):
    pictures, targets = batch
    expected = float(model.compute_loss(pictures, targets, model(pictures), training=False))
    assert plain["loss"] == pytest.approx(expected, rel=1e-6)
    dense, calls = model.graph.dense, []

    def counted(inputs, training=False):
        calls.append(training)
        return dense(inputs, training=training)

    monkeypatch.setattr(model.graph, "dense", counted)
    monkeypatch.setattr(model.graph, "detect", lambda inputs: pytest.fail("detections that nobody asked for"))
    assert measured(model, batch) == plain
    assert calls == [False]
    monkeypatch.undo()
    assert "boxes" in model(pictures)


def test_factors_of_compile_are_of_the_parts_of_the_loss(model, batch, plain, tmp_path):
    assert set(plain) == {"loss", *PARTS} == {"loss", *model.loss_parts}
    assert plain["loss"] == pytest.approx(sum(plain[name] for name in PARTS), rel=1e-5)
    factors = {"loss_box_reg": 0.0, "loss_classifier": 3.0}
    model.compile(keras.optimizers.SGD(0.0), loss_weights=factors, run_eagerly=True)
    expected = {**plain, "loss": sum(plain[name] * factors.get(name, 1.0) for name in PARTS)}
    assert measured(model, batch) == pytest.approx(expected, rel=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert (again.weights_of_parts, type(again.optimizer)) == (factors, keras.optimizers.SGD)
    model.compile()
    assert not model.weights_of_parts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "mse"}, "brings its losses itself: loss_objectness, .*Received: loss='mse'"),
        ({"metrics": ["accuracy"]}, r"takes no `metrics`.*with `kcvl\.evaluate_detection`"),
        ({"weighted_metrics": ["accuracy"]}, "takes no `weighted_metrics`"),
        (
            {"loss_weights": {"loss_mask": 1.0}},
            "`loss_weights` must be .*loss_box_reg. Received: loss_weights={'loss_mask': 1.0}",
        ),
        ({"loss_weights": [1.0] * 4}, "by names of"),
        ({"loss_weights": {"loss_box_reg": "1"}}, "must be numbers"),
    ],
)
def test_compile_refuses_what_has_no_effect(fresh, arguments, message):
    with pytest.raises(ModelError, match=message):
        fresh.compile("sgd", **arguments)


def test_files_that_hold_what_had_no_effect_still_load(model):
    config = {**model.get_compile_config(), "loss": "mse", "loss_weights": [2.0], "metrics": ["accuracy"]}
    model.compile_from_config(config)
    assert (model.loss, model._compile_metrics, model.weights_of_parts) == (None, None, {})
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    for weights, kept in (([2.0], {}), ({"logits": 1.0}, {}), ({"loss_box_reg": 2.0}, {"loss_box_reg": 2.0})):
        model.compile_from_config({**config, "loss": None, "loss_weights": weights})
        assert model.weights_of_parts == kept


def test_after_a_refusal_the_detector_is_as_it_was(model, batch, plain):
    with pytest.raises(ModelError, match="takes no `metrics`"):
        model.compile(metrics=["accuracy"])
    assert measured(model, batch) == plain


@pytest.mark.parametrize("lacking", [None, "labels"])
def test_targets_are_boxes_and_labels(model, batch, lacking):
    pictures, targets = batch
    given = {name: value for name, value in targets.items() if name != lacking} if lacking else None
    received = r"\['boxes'\]" if lacking else "NoneType"
    for method in (model.fit, model.evaluate):
        with pytest.raises(ModelError, match=f"a dict of boxes, labels, as its class.*Received: {received}"):
            method(pictures, given, verbose=0)


def test_targets_of_other_heads_are_asked_for_too(model, batch, monkeypatch):
    monkeypatch.setattr(model.graph, "mask", object())
    monkeypatch.setattr(model.graph, "keypoint", object())
    with pytest.raises(ModelError, match="a dict of boxes, labels, masks, mask_windows, keypoints, as"):
        model.compute_loss(*batch, None)


def test_a_copy_is_made_from_the_configuration(model, batch, plain):
    """And not by Keras's `clone_model`, whose model has no losses."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    copy.compile(run_eagerly=True)
    assert measured(copy, batch) == plain
    found, expected = copy(batch[0]), model(batch[0])
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
