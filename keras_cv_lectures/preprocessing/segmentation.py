"""Examples -> batches for segmentation: `(inputs, targets)` of one fixed size."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_cv_lectures.preprocessing.augment import Augmentation, augment
from keras_cv_lectures.preprocessing.colour import with_channels

_KEYS = ("image", "mask", "weights", "seed")


def segmentation_batches(
    dataset: tf.data.Dataset,
    *,
    output_size: tuple[int, int] | None,
    batch_size: int,
    augmentation: Augmentation | None = None,
    channels: int = 3,
    target_crop: int = 0,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Batches for training and evaluation, in the order of `dataset`.

    Args:
      dataset: unbatched examples with `image` (h, w, C) and `mask` (h, w); with `weights` (h, w) float32 the targets
        carry them; with a random augmentation `seed` int32 (2,) too. Other keys are left out.
      output_size: (H, W) in pixels; None keeps each picture's own size, for which `batch_size` must be 1.
      batch_size: examples per batch.
      augmentation: None resizes only.
      channels: channels of the inputs; 1 from RGB is its brightness (ITU-R 601), 3 from grey repeats it.
      target_crop: pixels cut from each side of the targets, for networks whose output is smaller than their input (92
        for the valid convolutions of U-Net's 572 -> 388).
      drop_remainder: leaves out a last batch that is not full.

    Returns:
      A dataset of `(inputs, targets)`: inputs (B, H, W, channels) uint8 (models normalise by themselves); targets
      (B, H, W) int32 with 255 = ignore, or (B, H, W, 2) float32 `[label, weight]`, less the crop on each side.

    Raises:
      ValueError: no output size with batches of several pictures or with an augmentation; a crop that leaves nothing;
        images whose channels do not fit.
    """
    if output_size is None and batch_size != 1:
        raise ValueError(
            f"output_size: expected (height, width) for batch_size={batch_size}, received None. Pictures of different"
            " sizes cannot share a batch: give a size, or use batch_size=1."
        )
    if output_size is None and augmentation is not None:
        raise ValueError("output_size: expected (height, width) with an augmentation, received None. Give a size.")
    if target_crop < 0 or (output_size is not None and 2 * target_crop >= min(output_size)):
        raise ValueError(
            f"target_crop: expected 0 or more, less than half of output_size={output_size}, received {target_crop}."
        )
    plan = augmentation or Augmentation.none()

    # Nothing here needs AutoGraph, which takes seconds to read it all.
    @tf.autograph.experimental.do_not_convert
    def prepare(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        example = {key: example[key] for key in _KEYS if key in example}
        example["image"] = with_channels(example["image"], channels)
        if output_size is not None:
            example = augment(example, plan, output_size)
        return to_segmentation(example, target_crop=target_crop)

    batches = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.batch(batch_size, drop_remainder=drop_remainder).prefetch(tf.data.AUTOTUNE)


@tf.autograph.experimental.do_not_convert
def to_segmentation(example: dict[str, Any], *, target_crop: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
    """`(inputs, targets)` of one example: the image (H, W, C) as it is, and the mask (H, W) int32.

    With `weights` the targets are (H, W, 2) float32 `[label, weight]`; `target_crop` pixels are cut from each side.
    """
    image, targets = tf.convert_to_tensor(example["image"]), tf.cast(example["mask"], tf.int32)
    if "weights" in example:
        targets = tf.stack([tf.cast(targets, tf.float32), tf.cast(example["weights"], tf.float32)], axis=-1)
    if target_crop:
        targets = targets[target_crop:-target_crop, target_crop:-target_crop]
    return image, targets
