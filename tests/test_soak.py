"""Nothing grows where a process trains or predicts for long: resident memory stays where it was once it is warm."""

from __future__ import annotations

import gc
import resource
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_cv_lectures as kcvl
from keras_cv_lectures.data import shapes_source
from keras_cv_lectures.recipe import TrainingOptions
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import train

SIZE = (32, 32)


def resident() -> float:
    """Megabytes of this process that are in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


class Watch(keras.callbacks.Callback):
    """Resident megabytes after the epochs of `windows`; collecting garbage after each would take the test's time."""

    def __init__(self, *windows: range):
        super().__init__()
        self.megabytes: dict[range, list[float]] = {window: [] for window in windows}

    def on_epoch_end(self, epoch, logs=None):
        for window, values in self.megabytes.items():
            if epoch in window:
                values.append(resident())


def check_flat(warm: list[float], late: list[float]) -> None:
    before, after = np.mean(warm), np.mean(late)
    # A leak of 70 kB an epoch would be 1.5 %.
    assert after < 1.01 * before, f"{before:.0f} MB became {after:.0f} MB"


@pytest.mark.slow
@pytest.mark.long
def test_memory_is_flat_over_200_epochs(tmp_path):
    """One process, one call: epochs of training, validation and checkpoints, as a user runs them."""
    watch = Watch(range(50, 60), range(190, 200))
    source = shapes_source(4, size=SIZE)
    run = train(
        SYSTEMS["unet"],
        source,
        shapes_source(2, size=SIZE, seed=1),
        out=tmp_path / "run",
        config={"filters": 2, "depth": 1},
        options=TrainingOptions(epochs=200, batch_size=4, input_size=SIZE, warmup_epochs=0),
        callbacks=[watch],
        verbose=0,
    )
    assert len(run.history) == 200
    warm, late = watch.megabytes.values()
    assert len(warm) == len(late) == 10
    check_flat(warm, late)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m.keras", "saved", "m.tflite"])
def test_memory_is_flat_over_500_predictions(tmp_path, name):
    """Pictures of two sizes in turn."""
    keras.utils.set_random_seed(0)
    model = kcvl.build_unet((None, None, 3), 3, filters=2, depth=1)
    if name == "m.keras":
        model.save(tmp_path / name)
    elif name == "saved":
        kcvl.export_saved_model(model, tmp_path / name, input_shape=SIZE)
    else:
        kcvl.export_tflite(model, tmp_path / name, input_shape=SIZE)
    pictures = [np.zeros((*SIZE, 3), np.uint8), np.full((48, 40, 3), 255, np.uint8)]
    runner, warm, late = kcvl.load_runner(tmp_path / name), [], []
    for number in range(500):
        picture = pictures[number % 2]
        assert kcvl.predict(runner, picture).class_map.shape == picture.shape[:2]
        if 100 <= number < 110 or number >= 490:
            (warm if number < 110 else late).append(resident())
    check_flat(warm, late)
