"""Scores of whole predictions during training: measured on the epoch's weights, seen by whatever reads the logs."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.data import shapes_source
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.recipe import TrainingOptions
from keras_cv_lectures.runners import load_runner
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import train
from keras_cv_lectures.training.scores import EpochScores

# Measured after an epoch it must be what the metric of the same name says of it.
RECIPE = dataclasses.replace(
    SYSTEMS["unet"],
    epoch_scores=lambda evaluation: {"iou": evaluation.scores["mean_iou"], "worse": -evaluation.scores["mean_iou"]},
    epoch_score_names=("iou", "worse", "unknown"),
)
CONFIG = {"filters": 2, "depth": 2}
OPTIONS = TrainingOptions(
    epochs=3, batch_size=4, input_size=(32, 40), learning_rate=0.02, warmup_epochs=0, evaluate_every=2, seed=7
)
OTHERS = shapes_source(10, size=(32, 40), seed=2)  # To validate on.


@pytest.fixture(scope="module")
def source():
    return shapes_source(10, size=(32, 40), seed=1)


def _train(source, out, *, val=(0, 1, 2), recipe=RECIPE, callbacks=(), resume=False, strategy="none", **options):
    return train(
        recipe,
        source,
        OTHERS.subset(val) if val else None,
        out=out,
        config=CONFIG,
        options=dataclasses.replace(OPTIONS, **options),
        callbacks=callbacks,
        resume=resume,
        strategy=strategy,
        verbose=0,
    )


class _Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(dict(logs))


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    watch = _Watch()
    run = _train(source, tmp_path_factory.mktemp("scores") / "run", callbacks=[watch], keep_best="val_worse")
    return run, watch.seen


def test_every_second_epoch_and_the_last_are_measured_with_their_own_weights(run):
    history = run[0].history
    assert ["val_iou" in row for row in history] == [False, True, True]
    assert not any("val_unknown" in row for row in history)
    for row in history:
        if "val_iou" in row:
            assert row["val_iou"] == pytest.approx(row["val_mean_iou"], abs=1e-6)
    assert len({row["val_iou"] for row in history if "val_iou" in row}) == 2


def test_other_callbacks_and_the_history_file_see_the_scores(run):
    run, seen = run
    assert [{"epoch": row["epoch"], **logs} for row, logs in zip(run.history, seen, strict=True)] == run.history
    with open(run.folder / "history.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["val_worse"] for row in rows] == [str(row.get("val_worse", "")) for row in run.history]


def test_the_best_epoch_is_chosen_by_a_score(run):
    run, _ = run
    measured = {row["epoch"]: row["val_worse"] for row in run.history if "val_worse" in row}
    best = max(measured, key=measured.get)
    state = json.loads((run.folder / "checkpoint/state.json").read_text())
    assert state["best"] == measured[best]
    kept = RECIPE.evaluate(load_runner(run.folder), OTHERS.subset([0, 1, 2]))
    assert -kept.scores["mean_iou"] == pytest.approx(measured[best], abs=1e-6)


def test_a_resumed_run_measures_the_same_epochs(run, source, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(source, tmp_path / "run", callbacks=[Stop()], keep_best="val_worse")
    resumed = _train(source, tmp_path / "run", resume=True, keep_best="val_worse")
    for row, expected in zip(resumed.history, run[0].history, strict=True):
        assert row == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_measured_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="keep_best=val_iou needs evaluate_every=1"):
        _train(source, tmp_path / "a", evaluate_every=0, keep_best="val_iou")
    with pytest.raises(ValueError, match="evaluate_every=2 needs validation data"):
        _train(source, tmp_path / "b", val=())
    with pytest.raises(ValueError, match="unet measures all its scores after every epoch"):
        _train(source, tmp_path / "c", recipe=SYSTEMS["unet"])
    with pytest.raises(ModelError, match="keep_best=val_unknown could not be measured.*only val_iou, val_worse"):
        _train(source, tmp_path / "d", epochs=1, keep_best="val_unknown")
    with pytest.raises(ValueError, match="`evaluate_every` must be a number of epochs, or 0"):
        dataclasses.replace(OPTIONS, evaluate_every=-1)


def test_numbers_without_a_value_are_left_out():
    callback = EpochScores(
        lambda: {"ap": math.nan, "ap50": 0.25}, ("ap", "ap50"), every=1, epochs=1, strategy=tf.distribute.get_strategy()
    )
    logs = {"loss": 1.0}
    callback.on_epoch_end(0, logs)
    assert logs == {"loss": 1.0, "val_ap50": 0.25}


def test_which_scores_the_systems_have():
    for name, recipe in SYSTEMS.items():
        assert (recipe.epoch_scores is None) == (not recipe.epoch_score_names), name
    assert {"ap", "ap50", "mask_ap", "mask_ap50"} <= set(SYSTEMS["mask_rcnn"].epoch_score_names)
    assert "keypoint_ap" in SYSTEMS["keypoint_rcnn"].epoch_score_names
    assert SYSTEMS["faster_rcnn"].epoch_score_names == ("ap", "ap50", "voc_ap50")


WORKER = """
import sys, tensorflow as tf
from keras_cv_lectures.training import make_strategy
strategy = make_strategy("multiworker")  # Before anything touches the devices.
from tests.training import test_scores as here
from keras_cv_lectures.data import shapes_source
import dataclasses, json

evaluate, calls = here.RECIPE.evaluate, []
recipe = dataclasses.replace(here.RECIPE, evaluate=lambda *a, **k: calls.append(1) or evaluate(*a, **k))
run = here.train(
    recipe, shapes_source(12, size=(32, 40), seed=1), shapes_source(4, size=(32, 40), seed=2), out=sys.argv[1],
    config=here.CONFIG, options=dataclasses.replace(here.OPTIONS, keep_best="val_iou"), strategy=strategy, verbose=0,
)
print(json.dumps({"calls": len(calls), "history": run.history}))
"""


@pytest.mark.slow
def test_the_first_of_two_workers_measures_for_both(tmp_path):
    sockets = [socket.socket() for _ in range(2)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    cluster = {"worker": [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]}
    for opened in sockets:
        opened.close()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "run")],
            env={**os.environ, "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}})},
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        ended = [worker.communicate(timeout=600) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], ended
    first, second = (json.loads(output.splitlines()[-1]) for output, _ in ended)
    assert (first["calls"], second["calls"]) == (2, 0)
    for row, other in zip(first["history"], second["history"], strict=True):
        assert row.get("val_iou") == other.get("val_iou")
        if "val_iou" in row:
            assert row["val_iou"] == pytest.approx(row["val_mean_iou"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.replicas
def test_two_replicas_are_measured_as_one_model(source, tmp_path, replicas):
    run = _train(source, tmp_path / "run", val=range(4), strategy=replicas, evaluate_every=1, keep_best="val_iou")
    for row in run.history:
        assert row["val_iou"] == pytest.approx(row["val_mean_iou"], abs=1e-6)


@pytest.mark.slow
def test_average_precision_of_a_detector_after_every_epoch(tmp_path):
    """The history says of the best epoch what the kept model scores."""
    recipe, source = SYSTEMS["mask_rcnn"], shapes_source(12, size=(48, 64), seed=3)
    val = shapes_source(4, size=(48, 64), seed=4)
    run = train(
        recipe,
        source,
        val,
        out=tmp_path / "run",
        config=recipe.smoke,
        options=dataclasses.replace(recipe.smoke_options, epochs=3, evaluate_every=1, keep_best="val_mask_ap50"),
        verbose=0,
    )
    names = {"val_ap", "val_ap50", "val_mask_ap", "val_mask_ap50"}
    assert all(names <= set(row) for row in run.history)
    scores = recipe.epoch_scores(recipe.evaluate(load_runner(run.folder), val))
    best = max(run.history, key=lambda row: row["val_mask_ap50"])
    np.testing.assert_allclose(
        [scores[name.removeprefix("val_")] for name in names], [best[n] for n in names], atol=1e-6
    )
