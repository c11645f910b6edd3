"""A run folder belongs to one training at a time."""

from __future__ import annotations

import dataclasses
import json
import threading

import keras
import pytest

from keras_cv_lectures.data import shapes_source
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.files import locked
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import train
from keras_cv_lectures.training.checks import LOCK, sole_training

RECIPE = SYSTEMS["unet"]
OPTIONS = dataclasses.replace(RECIPE.options, epochs=1, batch_size=2, input_size=(16, 16))


def _train(out, *, filters=2, callbacks=(), **more):
    config, source = {"filters": filters, "depth": 1}, shapes_source(2, size=(16, 16), seed=1)
    return train(RECIPE, source, out=out, config=config, options=OPTIONS, callbacks=callbacks, verbose=0, **more)


def test_a_second_training_into_the_same_folder_is_refused(tmp_path):
    """Before the first epoch has ended there is no checkpoint yet that would tell."""
    refused = []

    def begin_another(logs):
        for resume in (False, True):
            with pytest.raises(ModelError, match=r"^another training is writing to .*run, .*choose another --out"):
                _train(tmp_path / "run", filters=3, resume=resume)
            refused.append(resume)

    run = _train(tmp_path / "run", callbacks=[keras.callbacks.LambdaCallback(on_train_begin=begin_another)])
    assert refused == [False, True]
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["config"]["filters"] == 2
    assert told["parameters"] == keras.models.load_model(run.folder / "best.keras").count_params()
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), sole_training(tmp_path, False, writes=True):
        raise KeyboardInterrupt
    # A killed process leaves the file, not the lock.
    (tmp_path / LOCK).touch()
    with sole_training(tmp_path, False, writes=True):
        # Another worker of the same training does not write.
        with sole_training(tmp_path, False, writes=False):
            pass
        with pytest.raises(ModelError, match="another training"), sole_training(tmp_path, True, writes=True):
            pass
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").write_text("{}")
    with pytest.raises(ModelError, match="already holds a training"), sole_training(tmp_path, False, writes=True):
        pass


def test_an_error_before_anything_is_written_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no"), sole_training(tmp_path / "new", False, writes=True):
        raise ValueError("no")
    with pytest.raises(ValueError, match="no"), sole_training(tmp_path, False, writes=True):
        raise ValueError("no")
    with sole_training(tmp_path / "written", False, writes=True):
        (tmp_path / "written" / "run.json").write_text("{}")
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["written", "run.json"]


def test_who_may_wait_for_a_lock_gets_it_next(tmp_path):
    asked, got = threading.Event(), threading.Event()

    def wait():
        with locked(tmp_path / "lock", asked.set):
            got.set()

    with locked(tmp_path / "lock", lambda: None):
        other = threading.Thread(target=wait)
        other.start()
        assert asked.wait(10)
        assert not got.is_set()
    other.join(10)
    assert got.is_set()
    assert not (tmp_path / "lock").exists()
