"""Repair of `fit` under MultiWorkerMirroredStrategy in Keras 3.15, and nothing else.

Two faults of Keras 3.15.1 on TensorFlow:

1. `fit` builds a model's state from one batch taken off the training iterator. With several workers that batch is a
   PerReplica value, which is not a tensor, and `fit` fails.
2. The logs of several workers are averaged over an axis that scalars do not have.

`tests/training/test_multiworker.py` holds a canary that fails when Keras no longer has them.
"""

from __future__ import annotations

import keras
import tensorflow as tf


class _DistributedFit:
    """Mixin before a `keras.Model` class."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if iterator is None:
            super()._maybe_symbolic_build(data_batch=data_batch)
            return
        spec = iterator.data_adapter.get_tf_dataset().element_spec
        batch = tf.nest.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), spec)
        with self.distribute_strategy.scope():
            self._symbolic_build(data_batch=batch)

    def train_step(self, data):
        return self._with_axis(super().train_step(data))

    def test_step(self, data):
        return self._with_axis(super().test_step(data))

    def _with_axis(self, logs):
        return tf.nest.map_structure(lambda value: tf.reshape(value, [1]), logs)


def repair_fit(model: keras.Model) -> keras.Model:
    """Gives `model` a `fit` and an `evaluate` that work under MultiWorkerMirroredStrategy, if that is its strategy."""
    kind = type(model)
    if isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        model.__class__ = type(kind.__name__, (_DistributedFit, kind), {"__module__": kind.__module__})
    return model
