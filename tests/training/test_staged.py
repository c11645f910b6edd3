"""Training 32s -> 16s -> 8s: what each stage starts from, what it writes, and that it can be resumed."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest

from keras_cv_lectures.data import shapes_source
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.recipe import TrainingOptions
from keras_cv_lectures.segmentation import build_fcn8s, build_fcn16s, build_fcn32s
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training.staged import start_from, train_staged

NARROW = {"filters": 2, "convolutions": (1, 1, 1, 1, 1), "fc_filters": 4}
OPTIONS = TrainingOptions(
    epochs=1, batch_size=4, input_size=(32, 32), optimizer="sgd", learning_rate=0.1, warmup_epochs=0, seed=7
)
BUILDERS = {"16s": build_fcn16s, "8s": build_fcn8s}


@pytest.fixture(scope="module")
def source():
    return shapes_source(8, size=(32, 32), seed=1)


def _recipe(name):
    return dataclasses.replace(SYSTEMS["unet"], name=f"fcn{name}", build=BUILDERS[name], config={}, augmentation={})


def _train(source, out, **arguments):
    return train_staged(
        {name: _recipe(name) for name in ("16s", "8s")},
        source,
        out=out,
        options=OPTIONS,
        config={**NARROW, "normalization": "batch"},
        verbose=0,
        **arguments,
    )


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """Folder, runs, and what fc6 held when each stage began."""
    begun = {}

    class _Begin(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begun[self.model.name] = self.model.get_layer("fc6").get_weights()

    folder = tmp_path_factory.mktemp("staged")
    return folder, _train(source, folder, callbacks=[_Begin()]), begun


def test_a_finer_network_begins_where_the_coarser_one_ended():
    keras.utils.set_random_seed(0)
    coarse = build_fcn32s((None, None, 3), 3, **NARROW)
    fine = build_fcn16s((None, None, 3), 3, **NARROW)
    assert start_from(coarse, fine) == ["upscore2", "score_pool4", "upscore16"]
    assert not np.any(fine.get_layer("score_pool4").kernel)
    x = np.random.default_rng(0).uniform(0, 255, (1, 128, 160, 3))
    np.testing.assert_array_equal(*(_scores(model, x) for model in (coarse, fine)))
    # Interpolated in two steps, the scores stand every 16 pixels, on the line between those that stand every 32. So the
    # line is the same but around its bends: it cuts them off within 8 pixels of a score's place, 16 + 32 k.
    a, b = (np.asarray(model(x)) for model in (coarse, fine))
    straight = [[p for p in range(32, side - 32) if not 8 <= p % 32 < 24] for side in x.shape[1:3]]
    straight = (slice(None), *np.ix_(*straight))
    np.testing.assert_allclose(a[straight], b[straight], atol=1e-5 * np.abs(a).max())
    assert np.abs(a - b).max() > 1e-2 * np.abs(a).max()

    finest = build_fcn8s((None, None, 3), 3, **NARROW)
    fine.get_layer("score_pool4").set_weights([np.ones(w.shape) for w in fine.get_layer("score_pool4").weights])
    assert start_from(fine, finest) == ["upscore_pool4", "score_pool3", "upscore8"]
    assert np.all(finest.get_layer("score_pool4").kernel == 1)
    assert not np.any(finest.get_layer("score_pool3").kernel)


def _scores(model, x):
    return np.asarray(keras.Model(model.input, model.get_layer("score_fr").output)(x))


def test_networks_that_share_no_layer_are_refused():
    wide = build_fcn16s((None, None, 3), 4, **{**NARROW, "filters": 3, "fc_filters": 5})
    with pytest.raises(ModelError, match="share no layer of equal name and shapes"):
        start_from(build_fcn32s((None, None, 3), 3, **NARROW), wide)


def test_stages_write_run_folders_and_start_from_the_best_of_the_one_before(whole):
    folder, runs, begun = whole
    assert list(begun) == ["fcn16s", "fcn8s"]
    assert [run.folder for run in runs] == [folder / "16s", folder / "8s"]
    written = [json.loads((run.folder / "run.json").read_text()) for run in runs]
    assert [run["stage"] for run in written] == ["16s", "8s"]
    assert [run["system"] for run in written] == ["fcn16s", "fcn8s"]
    assert [run["started_from"] for run in written] == [None, str(folder / "16s/best.keras")]
    np.testing.assert_allclose([run["options"]["learning_rate"] for run in written], [0.1, 0.01])
    best = keras.saving.load_model(folder / "16s/best.keras")
    for a, b in zip(begun["fcn8s"], best.get_layer("fc6").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert runs[-1].model.get_layer("score_pool3").kernel.numpy().any()  # Learned away from zero.


def test_a_training_killed_between_stages_ends_where_an_uninterrupted_one_ends(source, whole, tmp_path):
    class _Killed(Exception):
        pass

    def kill(name):
        if name == "8s":
            raise _Killed

    with pytest.raises(_Killed):
        _train(source, tmp_path, on_stage=kill)
    with pytest.raises(ModelError, match="already holds a training"):
        _train(source, tmp_path)
    parts = _train(source, tmp_path, resume=True)
    assert [len(run.history) for run in parts] == [OPTIONS.epochs] * 2
    for a, b in zip(whole[1][-1].model.get_weights(), parts[-1].model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("stages", "rate_factor", "message"), [({}, 0.1, "at least one"), ({"32s": None}, 0.0, "must be positive")]
)
def test_wrong_arguments(stages, rate_factor, message, source, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_staged(stages, source, out=tmp_path, rate_factor=rate_factor)
