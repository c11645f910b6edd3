"""Batches as the trainer wants them: resized, augmented, cropped, and with mirrored context for valid convolutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cv_lectures.preprocessing.augment import Augmentation, augment
from keras_cv_lectures.preprocessing.segmentation import segmentation_batches

# Wanted output side -> (input side, margin), in pixels.
Context = Callable[[int], tuple[int, int]]


def training_batches(
    dataset: tf.data.Dataset,
    *,
    output_size: tuple[int, int] | None,
    base_size: tuple[int, int] | None,
    batch_size: int,
    augmentation: Augmentation | None = None,
    channels: int = 3,
    drop_remainder: bool = False,
    context: Context | None = None,
) -> tf.data.Dataset:
    """`segmentation_batches` of windows of `output_size` cut from pictures at `base_size`.

    Args:
        output_size: (H, W) of the targets, or None for each picture's own size (`batch_size` 1, no augmentation).
        base_size: (height, width) that pictures are resized to first; scale 1 of the augmentation is that size. None:
            pictures keep their own resolution.
        context: for networks whose valid convolutions lose a margin: the inputs grow by mirrored pixels so that the
            targets keep `output_size`, as in the overlap-tile strategy.
        augmentation, batch_size, channels, drop_remainder: as in `segmentation_batches`.
    """
    dataset, augmentation = at_base_size(dataset, augmentation, output_size, base_size)
    batches = segmentation_batches(
        dataset,
        output_size=output_size,
        batch_size=batch_size,
        augmentation=augmentation,
        channels=channels,
        drop_remainder=drop_remainder,
    )
    if context is None:
        return batches
    mapped = batches.map(lambda x, y: mirror_context(x, y, context), num_parallel_calls=tf.data.AUTOTUNE)
    return mapped.prefetch(tf.data.AUTOTUNE)


def at_base_size(
    dataset: tf.data.Dataset,
    augmentation: Augmentation | None,
    output_size: tuple[int, int] | None,
    base_size: tuple[int, int] | None,
) -> tuple[tf.data.Dataset, Augmentation | None]:
    """Examples and augmentation such that windows of `output_size` are cut from pictures at `base_size`.

    Both come back as they are where the two sizes are one, or nothing is augmented.
    """
    if augmentation is None or output_size == base_size:
        return dataset, augmentation
    if base_size is not None:
        dataset = dataset.map(
            lambda example: {**example, **augment(example, Augmentation.none(), base_size)},
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
    return dataset, dataclasses.replace(augmentation, resize=False)


@tf.autograph.experimental.do_not_convert
def mirror_context(inputs: tf.Tensor, targets: tf.Tensor, context: Context) -> tuple[tf.Tensor, tf.Tensor]:
    """Grows `inputs` by mirrored pixels so that a valid network answers for every pixel of `targets`.

    Where the network's possible output sizes are larger than the picture, targets grow at the bottom and the right by
    the ignore label 255 (weight 0).

    Args:
        inputs: (B, H, W, C), height and width known.
        targets: (B, H, W) or (B, H, W, 2).
        context: wanted output side -> (input side, margin).
    """
    paddings, grown = [], []
    for side in inputs.shape[1:3]:
        if side is None:
            raise ValueError(
                "a network of valid convolutions needs pictures of one size: set crop_size or input_size, such as "
                "input_size=388x388."
            )
        total, margin = context(int(side))
        paddings.append((margin, total - margin - int(side)))
        grown.append(total - 2 * margin - int(side))
    for axis, (before, after) in enumerate(paddings):
        inputs = _mirror(inputs, axis + 1, before, after)
    extra = [[0, 0], [0, grown[0]], [0, grown[1]]]
    if targets.shape.rank == 4:
        labels = tf.pad(targets[..., :1], [*extra, [0, 0]], constant_values=255)
        return inputs, tf.concat([labels, tf.pad(targets[..., 1:], [*extra, [0, 0]])], axis=-1)
    return inputs, tf.pad(targets, extra, constant_values=255)


def resize_example(example: Mapping[str, Any], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Image and mask of an example brought to (height, width), exactly as training does it without augmentation."""
    kept = {key: example[key] for key in ("image", "mask") if key in example}
    return {**example, **{key: value.numpy() for key, value in augment(kept, Augmentation.none(), size).items()}}


def _mirror(x: tf.Tensor, axis: int, before: int, after: int) -> tf.Tensor:
    """Mirrors at the border without repeating the edge pixel, as often as a small picture needs."""
    side = int(x.shape[axis])
    positions = np.abs(np.arange(-before, side + after))
    period = max(1, 2 * (side - 1))
    positions = positions % period
    positions = np.where(positions >= side, period - positions, positions)
    return tf.gather(x, positions, axis=axis)
