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


def as_measured(share: Any, pictures: Any) -> Any:
    """A replica's share of a loss, so that what Keras makes of all of them in an evaluation is their sum.

    It multiplies each by the replicas and weighs it by the replica's pictures, of which the last batch has more on one
    than on another. A gradient is a plain sum.
    """
    pictures = ops.cast(pictures, "float32")
    return share * sum_over_replicas(pictures) / (replica_count() * ops.maximum(pictures, 1.0))


__all__ = ["as_measured", "replica_count", "sum_over_replicas"]
