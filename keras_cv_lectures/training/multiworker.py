"""Repair of `fit` under MultiWorkerMirroredStrategy in Keras 3.15, and nothing else.

Two faults of Keras 3.15.1 on TensorFlow:

1. `fit` builds a model's state from one batch taken off the training iterator. With several workers that batch is a
   PerReplica value, which is not a tensor, and `fit` fails.
2. The logs of several workers are averaged over an axis that scalars do not have.

`tests/training/test_multiworker.py` holds a canary that fails when Keras no longer has them.
"""

from __future__ import annotations

import types
from typing import Any

import keras
import tensorflow as tf


def repair_fit(model: keras.Model) -> keras.Model:
    """Gives `model` a `fit` and an `evaluate` that work under MultiWorkerMirroredStrategy, if that is its strategy.

    The methods are its own: a class of them would be another than the registered one that its file has to name.
    """
    if _several_workers(model.distribute_strategy):
        model._maybe_symbolic_build = types.MethodType(_symbolic_build, model)
        model.train_step = types.MethodType(_train_step, model)
        model.test_step = types.MethodType(_test_step, model)
    return model


def _several_workers(strategy: tf.distribute.Strategy) -> bool:
    """What Keras itself asks before it averages over the axis: one worker needs no repair."""
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return several and strategy.extended._in_multi_worker_mode()


def _symbolic_build(self: keras.Model, iterator: Any = None, data_batch: Any = None) -> None:
    if iterator is None:
        type(self)._maybe_symbolic_build(self, data_batch=data_batch)
        return
    spec = iterator.data_adapter.get_tf_dataset().element_spec
    batch = tf.nest.map_structure(lambda s: keras.KerasTensor(s.shape, s.dtype.name), spec)
    with self.distribute_strategy.scope():
        self._symbolic_build(data_batch=batch)


def _train_step(self: keras.Model, data: Any) -> Any:
    return _with_axis(type(self).train_step(self, data))


def _test_step(self: keras.Model, data: Any) -> Any:
    return _with_axis(type(self).test_step(self, data))


def _with_axis(logs: Any) -> Any:
    return tf.nest.map_structure(lambda value: tf.reshape(value, [1]), logs)


__all__ = ["repair_fit"]
