"""Scores of whole predictions during training: average precision of a detector, BLEU of a captioner."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.training.strategies import is_chief

VALIDATION = "val_"


class EpochScores(keras.callbacks.Callback):
    """Measures the model every so many epochs, and after the last, and adds the scores to the logs.

    Has to stand before the callbacks that read the logs. Of several workers the first one measures; the others wait for
    it and get its numbers, so that all of them decide alike on what the scores mean.

    Args:
        measure: () -> name -> value, of the model that is trained.
        names: all that `measure` may give; they get the prefix "val_" in the logs. What is missing or no finite number
            is left out of them.
        every: epochs.
        epochs: number of the last epoch, from 1.
        strategy: the model's.
        needed: the name that must be among the scores, because the best epoch is chosen by it; None for none.

    Raises:
        ModelError: while it trains, where `needed` was not among the scores.
    """

    def __init__(
        self,
        measure: Callable[[], Mapping[str, float]],
        names: Sequence[str],
        *,
        every: int,
        epochs: int,
        strategy: tf.distribute.Strategy,
        needed: str | None = None,
    ):
        super().__init__()
        self.measure, self.names, self.every, self.epochs = measure, tuple(names), every, epochs
        self.strategy, self.needed = strategy, needed

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None):
        if (epoch + 1) % self.every and epoch + 1 != self.epochs:
            return
        found = self.measure() if is_chief(self.strategy) else {}
        values = _of_chief([float(found.get(name, math.nan)) for name in self.names], self.strategy)
        scores = {name: value for name, value in zip(self.names, values, strict=True) if math.isfinite(value)}
        if self.needed is not None and self.needed not in scores:
            measured = ", ".join(VALIDATION + name for name in scores) or "nothing"
            raise ModelError(
                f"keep_best={VALIDATION}{self.needed} could not be measured on the validation data, only {measured}. "
                "Choose one of these, or keep_best=val_loss; COCO's average precision needs pycocotools (pip install "
                "'keras_cv_lectures[coco]') and labelled objects."
            )
        if logs is not None:
            logs.update({VALIDATION + name: value for name, value in scores.items()})


def _of_chief(values: list[float], strategy: tf.distribute.Strategy) -> list[float]:
    """The first worker's `values`, in every worker."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return values

    # A sum over all replicas, to which the first one alone adds something.
    def share(context: tf.distribute.InputReplicaContext) -> tf.Tensor:
        first = context.replica_id_in_sync_group == 0
        return tf.constant(values if first else [0.0] * len(values), tf.float64)

    shares = strategy.experimental_distribute_values_from_function(share)
    return [float(value) for value in strategy.reduce("SUM", strategy.run(tf.function(tf.identity), (shares,)), None)]


__all__ = ["EpochScores"]
