"""What `fit` is fed: batches that several workers share, and those of a validation."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_cv_lectures.data import Source, to_dataset
from keras_cv_lectures.recipe import Recipe, TrainingOptions


def keys_of(recipe: Recipe, source: Source) -> tuple[str, ...]:
    """What `recipe` reads of an example, as far as the examples of `source` have it."""
    first = source[0]
    return tuple(key for key in recipe.keys if key in first)


def validation_batches(
    recipe: Recipe, source: Source | None, options: TrainingOptions, channels: int, context: Any
) -> tf.data.Dataset | None:
    """Every picture of `source` once, as it is; None without a source."""
    if source is None:
        return None
    # Whole pictures, one at a time where they may differ in size.
    batch_size = options.batch_size if options.input_size else 1
    return sharded(
        recipe.make_batches(
            to_dataset(source, shuffle=False, seed=0, epochs=1, keys=keys_of(recipe, source)),
            output_size=options.input_size,
            base_size=options.input_size,
            batch_size=batch_size,
            augmentation=None,
            channels=channels,
            drop_remainder=False,
            context=context,
        )
    )


def sharded(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Every worker reads all pictures and keeps its share of each global batch: the batches of one process."""
    options = tf.data.Options()
    # Threads of its own: readers are Python, and where they fill TensorFlow's pool of two (on two cores) while a step
    # waits for a batch of another data set, nothing moves any more.
    options.threading.private_threadpool_size = 4
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


__all__ = ["keys_of", "sharded", "validation_batches"]
