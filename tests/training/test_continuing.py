"""Trainings that are continued: with other batches, and what is known of the model that is kept."""

from __future__ import annotations

import dataclasses
import json
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kcvl.resuming import resumption
from keras_cv_lectures.data import shapes_source
from keras_cv_lectures.errors import KcvlWarning
from keras_cv_lectures.files import write_json
from keras_cv_lectures.recipe import TrainingOptions
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import train
from keras_cv_lectures.training.callbacks import Checkpoints
from keras_cv_lectures.training.checks import warn_of_stronger_decay
from keras_cv_lectures.training.optimizers import Shifted, make_optimizer, make_schedule, stand_at

OPTIONS = TrainingOptions(
    epochs=3, batch_size=4, input_size=(16, 16), optimizer="adam", learning_rate=0.1, warmup_epochs=0, keep_best="loss"
)


def _build(input_shape, num_classes):
    """One convolution: what is trained does not matter here."""
    image = keras.Input(input_shape)
    scaled = keras.layers.Rescaling(1 / 255)(image)
    return keras.Model(image, keras.layers.Conv2D(num_classes, 1, name="logits")(scaled))


class _Rates(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(float(self.model.optimizer.learning_rate))


def _train(out, *, val=None, resume=False, callbacks=(), strategy="none", **options):
    recipe = dataclasses.replace(SYSTEMS["unet"], build=_build, config={})
    return train(
        recipe,
        shapes_source(8, size=(16, 16)),
        val,
        out=out,
        options=dataclasses.replace(OPTIONS, **options),
        resume=resume,
        callbacks=callbacks,
        strategy=strategy,
        verbose=0,
    )


def _cosine(share):
    return 0.1 * 0.5 * (1 + np.cos(np.pi * share))


def test_the_schedule_counts_epochs_however_many_steps_they_have(tmp_path):
    """Two steps in the first epoch of three, then four in each: a third is over, and the rate ends at zero."""
    _train(tmp_path, epochs=1)
    rates = _Rates()
    run = _train(tmp_path, resume=True, batch_size=2, callbacks=[rates])
    assert rates.seen == pytest.approx([_cosine(step / 12) for step in range(4, 12)], rel=1e-5)
    assert float(run.model.optimizer.learning_rate) == pytest.approx(0, abs=1e-8)
    assert int(run.model.optimizer.iterations) == 2 + 8  # Which Adam corrects its means by.
    # Both say which epoch is kept, and why.
    kept = {"epoch": min(run.history, key=lambda row: row["loss"])["epoch"], "keep_best": "loss"}
    assert json.loads((tmp_path / "run.json").read_text())["kept"] == kept
    assert json.loads((tmp_path / "checkpoint/state.json").read_text())["kept"] == kept


def test_a_mirrored_training_is_continued_with_other_steps(tmp_path):
    """Its counter of steps is a variable of all replicas."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    _train(tmp_path, epochs=1, strategy=strategy)
    run = _train(tmp_path, resume=True, batch_size=2, strategy=strategy)
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    with strategy.scope():
        assert float(run.model.optimizer.learning_rate) == pytest.approx(0, abs=1e-8)


def test_what_a_continued_training_keeps(tmp_path):
    """More pictures, of another size, do not change the size that it was begun with, and an old run's own sizes stay;
    without those that it was validated on nothing is better than what was the best."""
    _train(tmp_path, epochs=1, input_size=None, val=shapes_source(2, size=(16, 16), seed=5), keep_best="val_loss")
    best = (tmp_path / "best.keras").read_bytes()
    recipe = dataclasses.replace(SYSTEMS["unet"], build=_build, config={})
    options = dataclasses.replace(OPTIONS, input_size=None, epochs=2, keep_best="val_loss")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", KcvlWarning)
        run = train(recipe, shapes_source(8, size=(24, 16)), out=tmp_path, options=options, resume=True, verbose=0)
    assert "by val_loss, and without validation data none of those to come is: best.keras stays" in str(told[0].message)
    assert run.history[1]["loss"] < run.history[0]["val_loss"]
    assert (tmp_path / "best.keras").read_bytes() == best
    described = json.loads((run.folder / "run.json").read_text())
    assert (described["input_size"], described["train_root"]) == ([16, 16], None)
    assert described["shrunk_by"] == 1.225  # Of 24x16 the root of 3 / 2.


@pytest.mark.parametrize("kind", ["cosine", "poly", "constant", "steps"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_optimizer_stands_at_another_step(kind, accumulate):
    options = dataclasses.replace(OPTIONS, schedule=kind, accumulate=accumulate, warmup_epochs=0.5, milestones=2)
    optimizer, schedule = make_optimizer(options, 10), make_schedule(options, 10)
    variable = keras.Variable(np.zeros(2, "float32"))
    optimizer.build([variable])
    for _ in range(4):
        optimizer.apply([np.ones(2, "float32")], [variable])
    before = optimizer._learning_rate
    stand_at(optimizer, 4)
    assert optimizer._learning_rate is before  # An unchanged training stays bit by bit what it was.
    stand_at(optimizer, 20)
    assert float(optimizer.learning_rate) == float(schedule(20))
    optimizer.apply([np.ones(2, "float32")], [variable])
    assert float(optimizer.learning_rate) == float(schedule(21))


def test_a_shifted_schedule_is_kept_in_a_file():
    shifted = Shifted(make_schedule(OPTIONS, 10), 7)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(shifted))
    assert float(again(3)) == float(shifted(3)) == pytest.approx(_cosine(10 / 30), rel=1e-6)


def _told(folder, *rows, patience=None):
    """What is known after epochs of these values."""
    checkpoints = Checkpoints(folder, monitor="val_mean_iou", seed=0, writes=False, patience=patience)
    checkpoints.set_model(types.SimpleNamespace(stop_training=False))
    for epoch, row in enumerate(rows):
        checkpoints.on_epoch_end(epoch, row)
    return checkpoints


def test_training_scores_are_not_compared_with_validation_scores(tmp_path):
    validated, unvalidated = {"mean_iou": 0.7, "val_mean_iou": 0.5}, {"mean_iou": 0.9}
    found = _told(tmp_path, validated, unvalidated, patience=1)
    assert (found.best, found.kept["epoch"], found.model.stop_training) == (0.5, 1, False)
    assert found.was_validated()
    # The other way round the epochs before have no score to compare with.
    found = _told(tmp_path, unvalidated, {"mean_iou": 0.8}, validated, {**validated, "val_mean_iou": 0.4}, patience=1)
    assert (found.best, found.kept["epoch"], found.model.stop_training) == (0.5, 3, True)
    found = _told(tmp_path, unvalidated, {"mean_iou": 0.8})
    assert (found.best, found.kept["epoch"], found.was_validated()) == (0.9, 1, False)


def test_patience_by_training_values_does_not_end_what_is_validated_now(tmp_path):
    """The first two epochs have no validation data, and the second no gain."""
    _train(tmp_path, epochs=2, keep_best="val_mean_iou", patience=2, learning_rate=1e-9)
    state = json.loads((tmp_path / "checkpoint/state.json").read_text())
    for row, value in zip(state["history"], (0.9, 0.8), strict=True):
        row["mean_iou"] = value
    write_json(tmp_path / "checkpoint/state.json", state)
    options = dataclasses.replace(OPTIONS, keep_best="val_mean_iou", patience=1)
    told = [resumption(tmp_path, options, validated=validated) for validated in (False, True)]
    assert told == ["patience=1 ended it after epoch 2; --set patience=3 would go on", "continuing after epoch 2"]
    val = shapes_source(2, size=(16, 16), seed=5)
    run = _train(tmp_path, val=val, resume=True, keep_best="val_mean_iou", patience=1)
    assert ["val_mean_iou" in row for row in run.history] == [False, False, True]


def test_a_begun_run_whose_weights_decay_more_now_is_told(tmp_path):
    """Through a momentum of 0.75 a weight loses four times what it did beside it: 1 / (1 - 0.75)."""
    options = {"optimizer": "sgd", "momentum": 0.75, "weight_decay": 1e-3}
    _train(tmp_path, epochs=1, **options)
    run = json.loads((tmp_path / "run.json").read_text())
    older = {key: value for key, value in run["options"].items() if not key.startswith("milestone")}
    write_json(tmp_path / "run.json", {**run, "options": older})
    chosen, plain = {**options, "weight_decay": 2.5e-4}, {**options, "momentum": 0.0}
    for quiet in (chosen, plain, {**options, "optimizer": "adamw"}):
        warn_of_stronger_decay(tmp_path, TrainingOptions(**quiet))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", KcvlWarning)
        _train(tmp_path, epochs=2, resume=True, **options)
    (message,) = (str(each.message) for each in told if each.category is KcvlWarning)
    assert message.endswith("and weighs 4 times as much. weight_decay=0.00025 goes on as before.")
    warn_of_stronger_decay(tmp_path, TrainingOptions(**options))  # It was told once.


def test_what_chose_the_kept_epoch_outlives_another_keep_best(tmp_path):
    history = [{"epoch": k, "val_mean_iou": iou, "val_loss": 0.5} for k, iou in enumerate([0.4, 0.6, 0.5], 1)]
    state = {"epochs_done": 3, "best": 0.6, "monitor": "val_mean_iou", "seconds": 1.0, "history": history}
    write_json(tmp_path / "checkpoint/state.json", state)  # Of a version that did not keep it.
    checkpoints = Checkpoints(tmp_path, monitor="val_loss", seed=0)
    checkpoints.read()
    assert checkpoints.kept == {"epoch": 2, "keep_best": "val_mean_iou"}
    write_json(tmp_path / "checkpoint/state.json", {**state, "monitor": "val_loss", "kept": checkpoints.kept})
    again = Checkpoints(tmp_path, monitor="val_loss", seed=0)
    again.read()
    assert again.kept == {"epoch": 2, "keep_best": "val_mean_iou"}
