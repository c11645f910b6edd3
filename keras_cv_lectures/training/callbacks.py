"""Callbacks of the trainer: checkpoints that a killed run continues from, and a clear stop on a NaN loss."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.files import atomic_path, read_json, remove_unfinished, write_json, write_text
from keras_cv_lectures.metadata import RUN_FILE
from keras_cv_lectures.visualize.curves import smaller_is_better

BEST, LAST, STATE, HISTORY = "best.keras", "last.keras", "checkpoint/state.json", "history.csv"


class Checkpoints(keras.callbacks.Callback):
    """Saves, after every epoch, all that continuing needs; and the best model so far.

    Files in `folder`: `checkpoint/epoch-NNNN.weights.h5` (weights and optimizer), `checkpoint/state.json` (which of
    them is the last, the history, the best value and of which metric it is, the epoch that `best.keras` holds and what
    chose it, the seconds so far), `best.keras`, `history.csv`. A checkpoint is complete before `state.json` names it,
    so a process killed at any moment leaves a readable one.

    Args:
        folder: the run folder.
        monitor: history key that chooses the best; one that starts with "val_" falls back to the training value in a
            run of which no epoch has it.
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
        # The epoch in `best.keras`, and the metric that chose it; not `monitor` where that was changed since.
        self.kept: dict[str, Any] = {}
        # Of training in earlier parts of the run; and when this one began.
        self.seconds_before, self.started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of training, over all parts of the run."""
        return self.seconds_before + time.perf_counter() - self.started

    def read(self) -> dict[str, Any] | None:
        """Takes over how far the run has come. Returns the content of `checkpoint/state.json`, None without one.

        Raises:
            ModelError: it is damaged.
        """
        path = self.folder / STATE
        if not path.exists():
            return None
        try:
            state = read_json(path)
            if not {"monitor", "seconds"} <= state.keys():  # Written by an earlier version.
                state = {**self._told_of_run(), **state}
            self.seconds_before = float(state["seconds"])
            int(state["epochs_done"])
            self.history, self.best = list(state["history"]), state["best"]
            self.kept = dict(state.get("kept") or self._kept_by(state["monitor"]))
            if state["monitor"] != self.monitor:
                self.best = self._value_of_best(state["monitor"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} is damaged ({error}). Restore it, or train into another --out.") from error
        return state

    def restore(self, model: keras.Model) -> int:
        """Loads the last checkpoint into `model` (compiled, its optimizer built). Returns the epoch to start with."""
        folder = (self.folder / STATE).parent
        for place in (self.folder, folder) if self.writes else ():
            remove_unfinished(place)
        state = self.read()
        if state is None:
            return 0
        try:
            with warnings.catch_warnings():
                # Keras only warns when a part of the network finds nothing in the file.
                warnings.simplefilter("error")
                model.load_weights(folder / state["weights"])
        except (OSError, ValueError, KeyError, TypeError, UserWarning) as error:
            raise ModelError(
                f"the checkpoint in {folder} cannot be continued from: {error}. It must come from the same system "
                "and options; train into another folder, or without --resume. What an earlier version had as the "
                f'default of a builder\'s argument, such as "trainable_stages": 3, can be written into "config" of '
                f"{self.folder / RUN_FILE}."
            ) from error
        return int(state["epochs_done"])

    def _told_of_run(self) -> dict[str, Any]:
        run = read_json(self.folder / RUN_FILE) if (self.folder / RUN_FILE).exists() else {}
        monitor = run.get("options", {}).get("keep_best", self.monitor)
        return {"monitor": monitor, "seconds": run.get("seconds", 0.0)}

    def _value_of_best(self, monitor: str) -> float | None:
        """`monitor` chose the epoch that `best.keras` holds: what this one's is there, None if it was not measured."""
        held = self._row_of_best(monitor)
        return self._value(held) if held else None

    def _kept_by(self, monitor: str) -> dict[str, Any]:
        """`kept` of a state that does not have it."""
        held = self._row_of_best(monitor)
        return {"epoch": held["epoch"], "keep_best": monitor} if held else {}

    def _row_of_best(self, monitor: str) -> dict[str, float] | None:
        held = (row for row in self.history if self.best is not None and self._value(row, monitor) == self.best)
        return next(held, None)

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
        before = self._key()
        self.history.append(row)
        if self._key() != before:
            self.best = None  # Of training values, which are no measure for what is validated now.
        value = self._value(row)
        better = value is not None and math.isfinite(value) and (self.best is None or self._is_better(value))
        if better:
            self.best, self.kept = value, {"epoch": epoch + 1, "keep_best": self.monitor}
        if self.without_gain():
            self.model.stop_training = True
        if not self.writes:
            return
        # Before the first model: it tells a training killed now from models without their training.
        (self.folder / STATE).parent.mkdir(parents=True, exist_ok=True)
        if better:
            save_model(self.model, self.folder / BEST)
        name = f"epoch-{epoch + 1:04d}.weights.h5"
        _remember_saved_attributes()
        with atomic_path(self.folder / "checkpoint" / name) as temporary:
            self.model.save_weights(temporary)
        state = {"weights": name, "epochs_done": epoch + 1, "best": self.best, "monitor": self.monitor}
        state |= {"kept": self.kept, "seconds": round(self.seconds, 1), "history": self.history}
        write_json(self.folder / STATE, state)
        for old in (self.folder / "checkpoint").glob("epoch-*.weights.h5"):
            if old.name != name:
                old.unlink()
        write_history(self.folder / HISTORY, self.history)

    def _value(self, row: Mapping[str, float], monitor: str | None = None) -> float | None:
        return row.get(self._key(monitor))

    def _key(self, monitor: str | None = None) -> str:
        """What all epochs are compared by, also where some were trained with validation data and some without."""
        monitor = monitor or self.monitor
        return monitor if any(monitor in row for row in self.history) else monitor.removeprefix("val_")

    def was_validated(self) -> bool:
        """Whether epochs so far have a `monitor` that only validation data give."""
        return not self.sometimes and self._key().startswith("val_")

    def without_gain(self, *, validated: bool = False) -> bool:
        """Whether `patience` has ended the training, by the history, which a continued run has too.

        Args:
            validated: whether the next epoch has validation data: a `monitor` of these is then not judged by the
                training values of epochs that had none.
        """
        if validated and self._key() != self.monitor:
            return False
        measured = [(row["epoch"], value) for row in self.history if (value := self._value(row)) is not None]
        finite = [(epoch, value) for epoch, value in measured if math.isfinite(value)]
        if self.patience is None or not finite:
            return False
        # Not `self.best`: what `best.keras` holds may have been chosen by another metric.
        at_best, _ = (min if self._falls() else max)(finite, key=lambda each: each[1])
        # By epochs that were measured: before the next of them nobody knows that nothing was gained.
        return measured[-1][0] - at_best >= self.patience

    def _is_better(self, value: float) -> bool:
        return value < self.best if self._falls() else value > self.best

    def _falls(self) -> bool:
        """Whether less of what is monitored is better."""
        return smaller_is_better(self.monitor)


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


def tensorboard(folder: Path, chief: bool) -> list[keras.callbacks.Callback]:
    """What writes for TensorBoard, where that is installed and this process writes the run folder."""
    if not chief or importlib.util.find_spec("tensorboard") is None:
        return []
    return [keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)]


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
