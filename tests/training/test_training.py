"""The trainer: reproducible, resumable, and clear about what goes wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.data import shapes_source
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.files import write_json
from keras_cv_lectures.recipe import TrainingOptions, split_settings
from keras_cv_lectures.runners import load_runner
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import loop, make_strategy, train
from keras_cv_lectures.training.callbacks import Checkpoints
from keras_cv_lectures.training.checks import check_options
from keras_cv_lectures.training.optimizers import make_optimizer, make_schedule

RECIPE = SYSTEMS["unet"]
CONFIG = {"filters": 2, "depth": 2, "dropout": 0.2}
OPTIONS = TrainingOptions(
    epochs=3, batch_size=4, input_size=(32, 40), optimizer="sgd", learning_rate=0.1, warmup_epochs=0.5, seed=7
)


@pytest.fixture(scope="module")
def source():
    return shapes_source(10, size=(32, 40), seed=1)


@pytest.fixture(scope="module")
def val():
    return shapes_source(3, size=(32, 40), seed=2)


def _train(source, out, *, val=None, callbacks=(), **options):
    strategy, resume = options.pop("strategy", "none"), options.pop("resume", False)
    return train(
        RECIPE,
        source,
        val,
        out=out,
        config=CONFIG,
        options=dataclasses.replace(OPTIONS, **options),
        strategy=strategy,
        resume=resume,
        callbacks=callbacks,
        verbose=0,
    )


def _distance(a, b):
    return max(float(np.abs(x - y).max()) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


class _Stop(keras.callbacks.Callback):
    def __init__(self, epoch, batch=1):
        super().__init__()
        self.stop_epoch, self.stop_batch, self.epoch = epoch, batch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (self.stop_epoch, self.stop_batch):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def uninterrupted(source, val, tmp_path_factory):
    return _train(source, tmp_path_factory.mktemp("whole") / "run", val=val)


def test_same_seed_gives_the_same_weights(source, val, uninterrupted, tmp_path):
    again = _train(source, tmp_path / "run", val=val)
    assert _distance(uninterrupted.model, again.model) < 1e-6
    other = _train(source, tmp_path / "other", seed=8)
    assert _distance(uninterrupted.model, other.model) > 1e-3


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_stopped_run_resumes_to_the_weights_of_an_uninterrupted_one(source, val, uninterrupted, tmp_path, epoch):
    with pytest.raises(KeyboardInterrupt):
        _train(source, tmp_path / "run", val=val, callbacks=[_Stop(epoch)])
    state = json.loads((tmp_path / "run/checkpoint/state.json").read_text())
    for place in ("run", "run/checkpoint"):
        (tmp_path / place / ".writing-killed").mkdir()
    assert (state["epochs_done"], state["monitor"]) == (epoch, OPTIONS.keep_best)
    resumed = _train(source, tmp_path / "run", val=val, resume=True)
    assert _distance(uninterrupted.model, resumed.model) < 1e-6
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3]
    assert not list((tmp_path / "run").rglob(".writing-*"))
    assert resumed.seconds > state["seconds"] > 0
    assert json.loads((tmp_path / "run/run.json").read_text())["seconds"] == state["seconds"]  # When it was continued.
    assert resumed.history[-1]["loss"] == pytest.approx(uninterrupted.history[-1]["loss"], abs=1e-5)


def test_resuming_a_finished_run_changes_nothing(source, uninterrupted):
    again = _train(source, uninterrupted.folder, resume=True)
    assert _distance(uninterrupted.model, again.model) == 0


def test_a_run_that_patience_ended_is_not_continued(source, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "_value", lambda self, row: 0.5)  # The first epoch stays the best.
    first = _train(source, tmp_path / "run", patience=1)
    assert [row["epoch"] for row in first.history] == [1, 2]
    again = _train(source, tmp_path / "run", patience=1, resume=True)
    assert again.history == first.history
    assert _distance(first.model, again.model) == 0


def test_patience_waits_for_the_next_measured_epoch(tmp_path):
    checkpoints = Checkpoints(tmp_path, monitor="val_ap", seed=0, patience=2, sometimes=True)
    checkpoints.best = 0.5
    checkpoints.history = [{"epoch": k, **({"val_ap": 0.5} if k == 3 else {})} for k in (1, 2, 3, 4, 5)]
    assert not checkpoints.without_gain()
    checkpoints.history.append({"epoch": 6, "val_ap": 0.4})
    assert checkpoints.without_gain()


@pytest.mark.parametrize("earlier_version", [False, True])
@pytest.mark.parametrize(("monitor", "best"), [("val_mean_iou", 0.6), ("val_loss", 0.9), ("val_ap50", None)])
def test_another_keep_best_goes_on_from_what_the_best_file_is_worth_by_it(tmp_path, monitor, best, earlier_version):
    rows = [(0.4, 0.8), (0.6, 0.9), (0.5, 0.7)]  # The second epoch is in best.keras.
    history = [{"epoch": k, "val_mean_iou": iou, "val_loss": loss} for k, (iou, loss) in enumerate(rows, 1)]
    state = {"epochs_done": 3, "best": 0.6, "history": history}
    run = {"options": {"keep_best": "val_mean_iou"}, "seconds": 7.5}
    write_json(tmp_path / "run.json", run if earlier_version else {})
    write_json(
        tmp_path / "checkpoint/state.json",
        state if earlier_version else {**state, "monitor": "val_mean_iou", "seconds": 7.5},
    )
    checkpoints = Checkpoints(tmp_path, monitor=monitor, seed=0)
    assert checkpoints.read()["epochs_done"] == 3
    assert (checkpoints.best, checkpoints.seconds_before) == (best, 7.5)
    # The loss was lowest in the last epoch, the score highest in the one before.
    checkpoints.patience = 1
    assert checkpoints.without_gain() == (monitor == "val_mean_iou")


@pytest.mark.parametrize(
    ("monitor", "falls"),
    [("val_loss", True), ("val_cross_entropy", True), ("val_doubly_stochastic", True), ("loss_mask", True),
     ("val_mean_iou", False), ("val_ap50", False), ("val_word_accuracy", False)],
)  # fmt: skip
def test_the_best_epoch_is_the_lowest_of_costs_and_the_highest_of_scores(tmp_path, monitor, falls):
    checkpoints = Checkpoints(tmp_path, monitor=monitor, seed=0)
    checkpoints.best = 1.0
    assert (checkpoints._is_better(0.5), checkpoints._is_better(2.0)) == (falls, not falls)


def test_what_is_not_measured_cannot_choose_the_best_epoch(source, tmp_path):
    with pytest.raises(ModelError, match="keep_best=val_accurracy is nothing that is measured.*val_pixel_accuracy"):
        _train(source, tmp_path / "run", keep_best="val_accurracy")


def test_a_folder_with_a_run_is_not_overwritten(source, uninterrupted):
    with pytest.raises(ModelError, match="already holds a training. Continue it with --resume"):
        _train(source, uninterrupted.folder)


def test_a_checkpoint_of_another_network_is_refused(source, uninterrupted):
    with pytest.raises(ModelError, match=r"(?s)cannot be continued from.* be written into \"config\" of .*run\.json"):
        train(
            RECIPE, source, out=uninterrupted.folder, config={**CONFIG, "filters": 3}, options=OPTIONS, resume=True,
            verbose=0,
        )  # fmt: skip


@pytest.mark.slow  # Replicas wait for each other, and beside another process for minutes.
@pytest.mark.replicas
def test_two_replicas_end_at_the_weights_of_one(source, tmp_path, replicas, float64_policy, monkeypatch):
    """Synchronized batch normalisation, SGD, the same global batches. Dropout draws per replica, so none here."""
    monkeypatch.setitem(loop._POLICIES, "float32", float64_policy)
    config = {**CONFIG, "dropout": 0.0}
    # The bias of the logits stays in float32, and its gradient is a sum over all pixels: a small step keeps what that
    # rounds away small. Replicas that do not share their statistics are a thousand times further apart.
    options = dataclasses.replace(OPTIONS, learning_rate=0.02)
    runs = [
        train(RECIPE, source, out=tmp_path / name, config=config, options=options, strategy=strategy, verbose=0)
        for name, strategy in (("one", "none"), ("two", replicas))
    ]
    assert _distance(runs[0].model, runs[1].model) < 1e-5
    assert runs[0].history[-1]["loss"] == pytest.approx(runs[1].history[-1]["loss"], abs=1e-4)
    assert runs[0].history[-1]["mean_iou"] == pytest.approx(runs[1].history[-1]["mean_iou"], abs=1e-4)


def test_accumulated_gradients_are_those_of_the_large_batch(source, tmp_path):
    """Without batch statistics two steps of two accumulated are one step of four."""
    config = {"filters": 2, "depth": 1, "normalization": None}
    common = dataclasses.replace(OPTIONS, epochs=1, schedule="constant", warmup_epochs=0, weight_decay=0.0)
    settings = {"big": {"batch_size": 4}, "small": {"batch_size": 2, "accumulate": 2}}
    models = [
        train(
            RECIPE, source.subset(range(8)), out=tmp_path / name, config=config,
            options=dataclasses.replace(common, **chosen), verbose=0,
        ).model
        for name, chosen in settings.items()
    ]  # fmt: skip
    assert _distance(*models) < 1e-6


@pytest.mark.slow
def test_a_backbone_of_ones_own_is_trained_and_resumed(source, tmp_path):
    def backbone():
        x = image = keras.Input((None, None, 3))
        stages = {}
        for k in range(1, 6):
            x = keras.layers.Conv2D(4, 4, strides=2, padding="same", activation="relu", name=f"stage{k}")(x)
            stages[f"c{k}"] = x
        return keras.Model(image, stages, name="mine")

    def run(epochs, resume=False):
        options = dataclasses.replace(OPTIONS, epochs=epochs)
        config = {"backbone": backbone()}
        return train(RECIPE, source, out=tmp_path, config=config, options=options, resume=resume, verbose=0)

    assert len(run(1).history) == 1
    assert json.loads((tmp_path / "run.json").read_text())["config"]["backbone"] == "model mine"
    assert [row["epoch"] for row in run(2, resume=True).history] == [1, 2]
    assert load_runner(tmp_path)(source[0]["image"][None])["logits"].shape == (1, 32, 40, 7)


def test_paths_and_models_are_told_as_texts():
    told = loop._told({"weights": Path("a/b.keras"), "backbone": keras.Sequential(name="mine"), "filters": 4})
    assert told == {"weights": str(Path("a/b.keras")), "backbone": "model mine", "filters": 4}


def test_nan_loss_stops_with_advice_and_keeps_the_checkpoint(source, tmp_path):
    bad = dataclasses.replace(source, read=lambda i: {**source.read(i), "mask": np.full((32, 40), 200, "int32")})
    with pytest.raises(ModelError, match=r"the loss became nan in epoch 1, step 1.*kcvl doctor"):
        _train(bad, tmp_path / "run")


def test_a_broken_picture_is_named(source, tmp_path):
    def read(index):
        if index == 5:
            raise DataError("pictures/five.png is truncated. Copy it again.")
        return source.read(index)

    with pytest.raises(DataError, match="pictures/five.png is truncated"):
        _train(dataclasses.replace(source, read=read), tmp_path / "run")


def test_nothing_to_train_on(source, tmp_path):
    with pytest.raises(DataError, match="nothing to train on"):
        _train(source.subset([]), tmp_path / "run")


def test_a_full_disk_keeps_the_last_checkpoint(source, tmp_path, monkeypatch):
    save = keras.Model.save_weights

    def full(self, path, *args, **kwargs):
        if "epoch-0002" in str(path):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return save(self, path, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "save_weights", full)
    with pytest.raises(ModelError, match=r"No space left on device.*--resume continues"):
        _train(source, tmp_path / "run")
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "run/checkpoint").glob("*.h5")] == ["epoch-0001.weights.h5"]
    assert not list((tmp_path / "run").rglob(".writing-*"))
    assert len(_train(source, tmp_path / "run", resume=True).history) == 3


def test_crops_train_at_the_pictures_own_resolution(source, val, tmp_path):
    run = _train(source, tmp_path / "run", epochs=1, input_size=None, crop_size=(16, 16), val=val)
    assert np.isfinite(run.history[0]["val_loss"])


def test_valid_convolutions_train_and_validate_on_whole_pictures(source, val, tmp_path):
    run = train(
        RECIPE, source, val, out=tmp_path / "run",
        config={"variant": "paper", "filters": 2, "depth": 2},
        options=dataclasses.replace(OPTIONS, epochs=1, border_weights=True, class_weights="median_frequency"),
        verbose=0,
    )  # fmt: skip
    assert np.isfinite(run.history[0]["val_loss"])


@pytest.mark.parametrize("loss", ["cross_entropy+dice", "focal", "tversky", "jaccard", "lovasz"])
def test_losses_by_name(source, tmp_path, loss):
    run = _train(source, tmp_path / "run", epochs=1, loss=loss)
    assert np.isfinite(run.history[0]["loss"])


def test_bfloat16_and_class_weights(source, tmp_path):
    run = _train(
        source, tmp_path / "run", epochs=1, precision="bfloat16", class_weights="median_frequency", clip_norm=1.0,
        optimizer="adamw",
    )  # fmt: skip
    assert run.model.get_layer("conv_d0a-b").compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"
    weights = json.loads((run.folder / "run.json").read_text())["class_weights"]
    # Background is the most frequent class, so the median class weighs more than it.
    assert weights[0] == min(w for w in weights if w > 0) < 1


def test_class_weights_reach_the_focal_loss():
    """One pixel of each of two classes with even logits: -w (1 - 1/2)^2 log(1/2), by hand."""
    loss = RECIPE.make_loss(dataclasses.replace(OPTIONS, loss="focal", class_weights="median_frequency"), [1.0, 3.0])
    got = float(loss(np.array([[[0, 1]]]), np.zeros((1, 1, 2, 2), "float32")))
    assert got == pytest.approx((1 + 3) / 2 * 0.25 * np.log(2), rel=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_replicas_clip_the_norm_of_the_whole_gradient(replicas, optimizer):
    """Shares (3, 0) and (0, 4): the sum has norm 5, and 2.5 is half of it. Clipped one by one they would be equal."""
    options = dataclasses.replace(
        OPTIONS,
        optimizer=optimizer,
        momentum=0.0,
        clip_norm=2.5,
        schedule="constant",
        warmup_epochs=0,
        weight_decay=0.0,
    )

    def after(optimizer, variable, step):
        step(lambda gradient: optimizer.apply([gradient], [variable]))
        return [np.asarray(v) for v in (variable, *optimizer.variables)]

    def made():
        variable = keras.Variable(np.zeros(2, "float32"))
        optimizer = make_optimizer(options, 10)
        optimizer.build([variable])
        return optimizer, variable

    def on_replicas(apply):
        shares = tf.constant([[3.0, 0.0], [0.0, 4.0]])
        replicas.run(tf.function(lambda: apply(shares[tf.distribute.get_replica_context().replica_id_in_sync_group])))

    with replicas.scope():
        several = made()
    expected = after(*made(), lambda apply: apply(tf.constant([3.0, 4.0])))
    for a, b in zip(after(*several, on_replicas), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    if optimizer == "sgd":
        np.testing.assert_allclose(expected[0], [-0.15, -0.2], rtol=1e-6)


def test_schedules_by_hand():
    options = dataclasses.replace(OPTIONS, epochs=10, learning_rate=1.0, warmup_epochs=1.0)

    def at(step, kind):
        return float(make_schedule(dataclasses.replace(options, schedule=kind), 10)(step))

    for kind in ("cosine", "poly", "constant"):
        assert at(5, kind) == pytest.approx(0.5, abs=1e-6)
        assert at(10, kind) == pytest.approx(1.0, abs=1e-6)
    assert at(55, "cosine") == pytest.approx(0.5, abs=1e-6)
    assert at(55, "poly") == pytest.approx(0.5**0.9, abs=1e-6)
    assert at(99, "constant") == 1.0
    assert at(100, "poly") == pytest.approx(0.0, abs=1e-6)


def test_biases_and_normalisation_do_not_decay():
    model = RECIPE.build((None, None, 3), 2, filters=2, depth=1)
    optimizer = make_optimizer(dataclasses.replace(OPTIONS, optimizer="adamw", weight_decay=0.1), 10)
    optimizer.build(model.trainable_variables)
    decays = {v.path: optimizer._use_weight_decay(v) for v in model.trainable_variables}
    for path, decayed in decays.items():
        assert decayed == path.endswith("kernel"), path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamn"}, "`optimizer` must be one of"),
        ({"loss": "cross_entropy+dise"}, "`loss` must be a sum of"),
        ({"loss": "dice", "class_weights": "median_frequency"}, "`class_weights` has an effect on cross_entropy and"),
        ({"loss": "focal", "label_smoothing": 0.1}, "`label_smoothing` has an effect on cross_entropy only"),
        ({"patience": 0}, "`patience` must be a positive integer"),
        ({"epochs": 0}, "`epochs` must be a positive integer"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be a positive integer"),
        ({"weight_decay": -0.1}, "`weight_decay` must be at least 0. Received: weight_decay=-0.1"),
        ({"momentum": float("nan")}, "`momentum` must be in 0..1"),
        ({"momentum": 2.0}, "`momentum` must be in 0..1. Received: momentum=2.0"),
        ({"clip_norm": -1}, "`clip_norm` must be at least 0"),
        ({"warmup_epochs": -0.5}, "`warmup_epochs` must be at least 0"),
        ({"input_size": 96}, None),
        ({"input_size": (96,)}, "`input_size` must be"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        TrainingOptions(**options)


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("unet", {"max_objects": 5}),
        ("unet", {"min_count": 2}),
        ("unet", {"weight_decay": 0.1, "optimizer": "adam"}),
        ("faster_rcnn", {"loss": "dice"}),
        ("faster_rcnn", {"class_weights": "median_frequency"}),
        ("show_and_tell", {"border_weights": True}),
        ("show_and_tell", {"label_smoothing": 0.1}),
    ],
    ids=str,
)
def test_options_without_effect_are_refused(source, tmp_path, system, options):
    recipe, name = SYSTEMS[system], next(iter(options))
    with pytest.raises(ValueError, match=f"`{name}` has no effect on ({system}|adam).*[Ll]eave it out."):
        train(recipe, source, out=tmp_path / "run", options=dataclasses.replace(recipe.options, **options))


def test_the_options_of_the_recipes_themselves_have_an_effect():
    for recipe in SYSTEMS.values():
        for options in (recipe.options, recipe.smoke_options, recipe.demo_options):
            check_options(recipe, options)


def test_settings_are_sorted_and_unknown_ones_listed():
    found = split_settings(RECIPE, {"filters": 4, "epochs": 2, "rotate": 5}, {"rotate": None})
    assert found == ({"filters": 4}, {"epochs": 2}, {"rotate": 5})
    with pytest.raises(ValueError, match=r"no option `epoch`. Close: epochs"):
        split_settings(RECIPE, {"epoch": 2}, {})


def test_multiworker_without_its_environment_shows_an_example(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(ModelError, match='TF_CONFIG.*"cluster"'):
        make_strategy("multiworker")
    with pytest.raises(ValueError, match="`strategy` must be one of"):
        make_strategy("tpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 3}, "divisible by the 2 replicas"),
        ({"accumulate": 2}, "Raise batch_size instead, to 8 for the same updates"),
        (
            {"input_size": None, "crop_size": (16, 16)},
            "2 replicas need as many at once. Set input_size",
        ),
    ],
)
def test_what_replicas_cannot_do_is_refused(source, val, tmp_path, replicas, options, message):
    with pytest.raises(ValueError, match=message):
        _train(source, tmp_path / "run", val=val, strategy=replicas, **options)


COMMAND = [
    sys.executable, "-m", "kcvl", "train", "unet", "--data", "shapes:count=12,size=32x40",
    "--set", "filters=2", "--set", "depth=2", "--set", "epochs=6", "--set", "batch_size=4", "--set", "optimizer=sgd",
    "--set", "learning_rate=0.1", "--set", "input_size=32x40",
]  # fmt: skip


@pytest.mark.slow
def test_kill_9_and_resume_from_the_command_line(tmp_path):
    """A run killed at an arbitrary moment ends at the weights of the one that was left alone."""
    whole = subprocess.run([*COMMAND, "--out", str(tmp_path / "whole")], capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    victim = subprocess.Popen(
        [*COMMAND, "--out", str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    state = tmp_path / "run/checkpoint/state.json"
    while not state.exists():
        assert victim.poll() is None, victim.stderr.read()
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    done = json.loads(state.read_text())["epochs_done"]
    assert 1 <= done < 6
    keras.saving.load_model(tmp_path / "run/best.keras")
    resumed = subprocess.run([*COMMAND, "--out", str(tmp_path / "run"), "--resume"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    a, b = (keras.saving.load_model(tmp_path / name / "last.keras") for name in ("whole", "run"))
    assert _distance(a, b) < 1e-6


def test_the_strategy_of_no_strategy_is_tensorflows_default():
    assert make_strategy("none") is tf.distribute.get_strategy()
