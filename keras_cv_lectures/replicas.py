"""What a replica of `tf.distribute` needs to know of the others; on other backends there is one."""

from __future__ import annotations

from typing import Any

import keras


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


__all__ = ["replica_count", "sum_over_replicas"]
