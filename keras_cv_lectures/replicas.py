"""What a replica of `tf.distribute` needs to know of the others; on other backends there is one."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def replica_count() -> int:
    """How many replicas share each global batch."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(x: Any) -> Any:
    """The sum of a tensor over all replicas, in each of them; `x` itself where there is one."""
    if replica_count() == 1:
        return x
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return x if context is None else context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def mean_divisor(count: Any, training: bool) -> Any:
    """What a sum over `count` items of this replica is divided by to give its share of a loss; at least 1.

    Shares are added up for a gradient, so in training it is the number in the global batch, and an item weighs the same
    on every replica. A loss that is only measured Keras multiplies by the replicas and weighs by this replica's
    pictures, of which the last batch has more on one than on another.
    """
    return ops.maximum(sum_over_replicas(count) if training else count * replica_count(), 1.0)


__all__ = ["mean_divisor", "replica_count", "sum_over_replicas"]
