"""Callbacks of the trainer: checkpoints that a killed run continues from, and a clear stop on a NaN loss."""

from __future__ import annotations

import csv
import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.files import atomic_path, read_json, write_json, write_text

BEST, LAST, STATE, HISTORY = "best.keras", "last.keras", "checkpoint/state.json", "history.csv"
# Parts of the names of metrics of which less is better.
_FALLING = ("loss", "error", "cross_entropy", "doubly_stochastic", "reinforce")


class Checkpoints(keras.callbacks.Callback):
    """Saves, after every epoch, all that continuing needs; and the best model so far.

    Files in `folder`: `checkpoint/epoch-NNNN.weights.h5` (weights and optimizer), `checkpoint/state.json` (which of
    them is the last, the history, the best value), `best.keras`, `history.csv`. A checkpoint is complete before
    `state.json` names it, so a process killed at any moment leaves a readable one.

    Args:
        folder: the run folder.
        monitor: history key that chooses the best; one that starts with "val_" falls back to the training value.
        seed: random layers (dropout) restart from (seed, epoch) at every epoch, so that a continued run draws what the
            uninterrupted one would have drawn.
        writes: False in the workers that must not write.
        patience: epochs without a better value of `monitor` after which training ends; None: never.
        sometimes: whether `monitor` is measured after some epochs only. Otherwise its absence is an error.
    """

    def __init__(
        self,
        folder: Path,
        *,
        monitor: str,
        seed: int,
        writes: bool = True,
        patience: int | None = None,
        sometimes: bool = False,
    ):
        super().__init__()
        self.patience, self.sometimes = patience, sometimes
        self.folder, self.monitor, self.seed, self.writes = Path(folder), monitor, seed, writes
        self.history: list[dict[str, float]] = []
        self.best: float | None = None

    def restore(self, model: keras.Model) -> int:
        """Loads the last checkpoint into `model` (compiled, its optimizer built). Returns the epoch to start with."""
        path = self.folder / STATE
        if not path.exists():
            return 0
        try:
            state = read_json(path)
            with warnings.catch_warnings():
                # Keras only warns when a part of the network finds nothing in the file.
                warnings.simplefilter("error")
                model.load_weights(path.parent / state["weights"])
            history, best, done = list(state["history"]), state["best"], int(state["epochs_done"])
        except (OSError, ValueError, KeyError, TypeError, UserWarning) as error:
            raise ModelError(
                f"the checkpoint in {path.parent} cannot be continued from: {error}. It must come from the same system "
                "and options; train into another folder, or without --resume."
            ) from error
        self.history, self.best = history, best
        return done

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None):
        for index, variable in enumerate(v for v in self.model.variables if v.path.endswith("seed_generator_state")):
            state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2)
            variable.assign(state.astype(np.int64) % 2**31)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None):
        names = list(logs or {})
        if batch or self.sometimes or self.monitor.removeprefix("val_") in names:
            return
        raise ModelError(
            f"keep_best={self.monitor} is nothing that is measured. Choose one of "
            f"{', '.join('val_' + name for name in names)}."
        )

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None):
        row = {"epoch": epoch + 1, **{key: float(value) for key, value in (logs or {}).items()}}
        self.history.append(row)
        value = self._value(row)
        better = value is not None and math.isfinite(value) and (self.best is None or self._is_better(value))
        if better:
            self.best = value
        if self.without_gain():
            self.model.stop_training = True
        if not self.writes:
            return
        if better:
            save_model(self.model, self.folder / BEST)
        name = f"epoch-{epoch + 1:04d}.weights.h5"
        _remember_saved_attributes()
        with atomic_path(self.folder / "checkpoint" / name) as temporary:
            self.model.save_weights(temporary)
        state = {"weights": name, "epochs_done": epoch + 1, "best": self.best, "history": self.history}
        write_json(self.folder / STATE, state)
        for old in (self.folder / "checkpoint").glob("epoch-*.weights.h5"):
            if old.name != name:
                old.unlink()
        write_history(self.folder / HISTORY, self.history)

    def _value(self, row: Mapping[str, float]) -> float | None:
        return row.get(self.monitor, row.get(self.monitor.removeprefix("val_")))

    def without_gain(self) -> bool:
        """Whether `patience` has ended the training, by the history, which a continued run has too."""
        if self.patience is None or self.best is None:
            return False
        measured = [row for row in self.history if self._value(row) is not None]
        at_best = [row["epoch"] for row in measured if self._value(row) == self.best]
        # By epochs that were measured: before the next of them nobody knows that nothing was gained.
        return bool(at_best) and measured[-1]["epoch"] - at_best[0] >= self.patience

    def _is_better(self, value: float) -> bool:
        falls = any(part in self.monitor for part in _FALLING)
        return value < self.best if falls else value > self.best


class StopOnNaN(keras.callbacks.Callback):
    """Raises when the loss is not finite: going on would only overwrite good checkpoints with NaN weights."""

    def __init__(self):
        super().__init__()
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None):
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None):
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(float(loss)):
            raise ModelError(
                f"the loss became {float(loss)} in epoch {self.epoch + 1}, step {batch + 1}. Usual causes: a learning "
                "rate that is too high (try a tenth, or clip_norm=1), or label values outside the classes (run "
                "`kcvl doctor` on the data). The checkpoint of the epoch before is kept."
            )


def _remember_saved_attributes() -> None:
    """Keeps saving a model from leaking 70 kB.

    Keras 3.15 looks up what to save of an optimizer under another name than it keeps it, so each time it makes one to
    find out, whose variables TensorFlow never frees.
    """
    from keras.src.backend.common import global_state
    from keras.src.saving import saving_lib

    key = "saving_attr_skiplist_Optimizer"
    if global_state.get_global_attribute(key) is None:
        global_state.set_global_attribute(key, saving_lib.get_attr_skipset("Optimizer"))


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a `.keras` file for inference (no optimizer), all of it or nothing."""
    with atomic_path(path) as temporary:
        model.save(temporary, include_optimizer=False)


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Writes the history as CSV, one row an epoch."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())
