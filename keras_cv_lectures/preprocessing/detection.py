"""Examples -> batches for detection: pictures on a canvas, objects padded to a fixed number.

Pictures keep their aspect and lie at the top left; everything that can be drawn on them (boxes, masks, keypoints) goes
through the same random map as `augment`.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cv_lectures.geometry import warps
from keras_cv_lectures.preprocessing.augment import Augmentation
from keras_cv_lectures.preprocessing.colour import recolour, with_channels
from keras_cv_lectures.preprocessing.objects import PER_OBJECT, warp_objects
from keras_cv_lectures.preprocessing.random_map import (
    PlacedMap,
    check_elastic,
    draw_numbers,
    placed_map,
    resize_rule,
)

_log = logging.getLogger(__name__)

# What padded rows hold, per key of the targets; the others hold zeros.
_PADDING = {"labels": -1}


def detection_batches(
    dataset: tf.data.Dataset,
    *,
    canvas: tuple[int, int],
    sizes: tuple[int, int] | None = (800, 1333),
    batch_size: int,
    augmentation: Augmentation | None = None,
    channels: int = 3,
    max_objects: int = 100,
    max_detections: int | None = None,
    masks: bool = True,
    keypoints: bool = True,
    mask_size: int = 56,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Batches for training and evaluation, in the order of `dataset`.

    Args:
      dataset: unbatched examples with `image`, `boxes` and `labels`, and any of `crowd`, `difficult`, instance masks
        (compact or dense) and `keypoints`; with a random augmentation `seed` int32 (2,) too. Other keys are left out.
      canvas: (H, W) in pixels, the size of all pictures of all batches. A picture that is larger after resizing is
        cut (see `Augmentation.crop`); one that is smaller is followed by zeros at the bottom and the right.
      sizes: (min_side, max_side) of `resize_rule`; scale 1 of the augmentation is that size. None keeps each picture's
        own resolution.
      batch_size: examples per batch.
      augmentation: None resizes only. `scale` multiplies the size that `sizes` gives; `resize` and `fill` have no
        effect here; `quarter_turns` work for every aspect; shift, rotation and elastic field act within the picture's
        frame, where the picture's mean colour fills what they uncover.
      channels: channels of the inputs, see `segmentation_batches`.
      max_objects: N. Of a picture with more objects the largest (by the area of their boxes) are kept; the first time
        it happens is logged.
      max_detections: the most objects that the detector finds in a picture; the first time that a picture has more is
        logged. None: not looked at.
      masks, keypoints: False leaves them out although the examples have them.
      mask_size: M, side of the square crops of masks, in pixels.
      drop_remainder: leaves out a last batch that is not full.

    Returns:
      A dataset of `(inputs, targets)`. Inputs: `image` (B, H, W, channels) uint8 (float32 where the examples have
      that), `size` (B, 2) int32, (height, width) of the picture on the canvas. Targets: `boxes` (B, N, 4) float32
      (x1, y1, x2, y2) in pixels of the canvas, `labels` (B, N) int32; and where there are any, `masks` (B, N, M, M)
      uint8 0/1 over `mask_windows` (B, N, 4) float32, the boxes on the canvas that the crops cover, and `keypoints`
      (B, N, K, 3) float32. Rows of padding have label -1 and zeros. Crowds, difficult objects, and those without an
      area or with a negative label are left out.

    Differs from the paper: (Ren et al. 2015, He et al. 2017) resize and mirror only; masks are kept at M x M over their
    box instead of the size of the picture, so that their memory does not grow with it.

    Raises:
      ValueError: a size that is not positive; a key that is missing; an elastic field that would fold the picture;
        channels that do not fit.
    """
    if max_objects < 1:
        raise ValueError(f"max_objects: expected at least 1, received {max_objects}.")
    unwanted = set() if masks else {"instance_masks", "mask_pixels", "mask_windows"}
    unwanted |= set() if keypoints else {"keypoints"}
    drop = _Surplus(max_objects, max_detections)

    # Nothing here needs AutoGraph, which takes seconds to read it all.
    @tf.autograph.experimental.do_not_convert
    def prepare(example: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        found = detection_example(
            {key: value for key, value in example.items() if key not in unwanted},
            canvas=canvas,
            sizes=sizes,
            augmentation=augmentation,
            channels=channels,
            mask_size=mask_size,
        )
        inputs = {key: found.pop(key) for key in ("image", "size")}
        return inputs, _padded(drop(found), max_objects)

    batches = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.batch(batch_size, drop_remainder=drop_remainder).prefetch(tf.data.AUTOTUNE)


@tf.autograph.experimental.do_not_convert
def detection_example(
    example: dict[str, Any],
    *,
    canvas: tuple[int, int],
    sizes: tuple[int, int] | None = (800, 1333),
    augmentation: Augmentation | None = None,
    channels: int = 3,
    mask_size: int = 56,
) -> dict[str, tf.Tensor]:
    """One example of `detection_batches`, without padded rows; eager or inside `tf.data`. Arguments as there.

    Returns:
      `image` (H, W, channels), `size` (2,) int32, `boxes` (M, 4), `labels` (M,), and where there are any `masks`,
      `mask_windows`, `keypoints`.
    """
    _check_sizes(canvas, sizes, mask_size)
    settings = dataclasses.replace(augmentation or Augmentation.none(), resize=True)
    check_elastic(settings, canvas)
    # A cut place is random too, and which pictures are cut is known too late.
    random = dataclasses.replace(settings, resize=False).random
    for key in ("image", "boxes", "labels", *(["seed"] if random else [])):
        if key not in example:
            raise ValueError(
                f"{key}: expected example[{key!r}], received only {', '.join(sorted(example))}. Add it: "
                "sources for detection hold the objects, and `to_dataset` adds a seed."
            )
    seed = tf.cast(example["seed"], tf.int32) if random else tf.zeros([2], tf.int32)
    draw = draw_numbers(seed)
    image = with_channels(tf.convert_to_tensor(example["image"]), channels)
    objects = _training_objects(example)
    warp = placed_map(settings, draw, seed, tf.shape(image)[:2], tuple(canvas), sizes)
    picture = recolour(_picture(image, warp), settings, draw, seed, image.dtype)
    bottom, right = tf.unstack(tf.constant(canvas) - warp.frame)
    picture = tf.ensure_shape(tf.pad(picture, [[0, bottom], [0, right], [0, 0]]), [*canvas, channels])
    result = warp_objects(
        objects,
        dict(objects),
        warp,
        min_visible=settings.min_visible,
        keypoint_flip=settings.keypoint_flip,
        mask_size=mask_size,
    )
    result = _kept(result, _has_area(result["boxes"]))
    return {"image": picture, "size": warp.frame, **result}


def _picture(image: tf.Tensor, warp: PlacedMap) -> tf.Tensor:
    """The picture in its frame, (height, width, C) float32: bilinear, half-pixel centres, no antialias."""
    height, width = warp.frame[0], warp.frame[1]
    if warp.warped:
        x, y = warps.sampling_grid(warp.inverse, warp.size, warp.coarse)
        mean = tf.reduce_mean(tf.cast(image, tf.float32), axis=(0, 1))
        return warps.sample_bilinear(image, x, y, border="constant", fill=mean)[:height, :width]
    # The same map by whole rows and columns, which costs a fraction of looking up every pixel.
    picture = tf.cast(tf.image.resize(image, warp.scaled), tf.float32)
    picture = tf.cond(warp.flips[1], lambda: picture[:, ::-1], lambda: picture)
    picture = tf.cond(warp.flips[0], lambda: picture[::-1], lambda: picture)
    picture = tf.image.rot90(picture, -warp.turns % 4)
    top, left = warp.cut[0], warp.cut[1]
    return tf.ensure_shape(picture[top : top + height, left : left + width], [None, None, image.shape[-1]])


def _training_objects(example: dict[str, Any]) -> dict[str, tf.Tensor]:
    """The objects to train on, masks compact: crowds, difficult ones, and those without area or label are dropped."""
    objects = {
        "boxes": tf.reshape(tf.cast(example["boxes"], tf.float32), [-1, 4]),
        "labels": tf.cast(example["labels"], tf.int32),
    }
    if "keypoints" in example:
        objects["keypoints"] = tf.cast(example["keypoints"], tf.float32)
    keep = _has_area(objects["boxes"]) & (objects["labels"] >= 0)
    for key in ("crowd", "difficult"):
        if key in example:
            keep &= ~tf.cast(example[key], tf.bool)
    if "mask_pixels" in example:
        windows = tf.reshape(tf.cast(example["mask_windows"], tf.int32), [-1, 4])
        areas = (windows[:, 2] - windows[:, 0]) * (windows[:, 3] - windows[:, 1])
        pixels = tf.reshape(tf.convert_to_tensor(example["mask_pixels"]), [-1])
        kept = tf.reduce_all(keep)
        pixels = tf.cond(kept, lambda: pixels, lambda: tf.boolean_mask(pixels, tf.repeat(keep, areas)))
        return {**_kept({**objects, "mask_windows": windows}, keep), "mask_pixels": pixels}
    if "instance_masks" in example:
        dense = tf.boolean_mask(tf.convert_to_tensor(example["instance_masks"]), keep)
        count, height, width = tf.unstack(tf.shape(dense))
        windows = tf.tile(tf.stack([0, 0, width, height])[None], [count, 1])
        return {**_kept(objects, keep), "mask_pixels": tf.reshape(dense, [-1]), "mask_windows": windows}
    return _kept(objects, keep)


def _has_area(boxes: tf.Tensor) -> tf.Tensor:
    return tf.reduce_all(boxes[:, 2:] > boxes[:, :2], axis=1)


def _kept(objects: dict[str, tf.Tensor], keep: tf.Tensor) -> dict[str, tf.Tensor]:
    return {key: tf.boolean_mask(value, keep) if key in PER_OBJECT else value for key, value in objects.items()}


class _Surplus:
    """Keeps the largest objects of a picture with too many, in their order, and logs the first time.

    Likewise of a picture with more than the detector can find, of which all the same as many are kept.
    """

    def __init__(self, most: int, findable: int | None = None):
        self.most, self.findable = most, findable
        self.told: set[str] = set()

    def __call__(self, objects: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        boxes = objects["boxes"]
        count = tf.shape(boxes)[0]

        def largest() -> dict[str, tf.Tensor]:
            with tf.control_dependencies([tf.numpy_function(self._tell, [count], [])]):
                areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            rows = tf.sort(tf.math.top_k(areas, tf.minimum(self.most, count)).indices)
            return {key: tf.gather(value, rows) for key, value in objects.items()}

        limit = self.most if self.findable is None else min(self.most, self.findable)
        return tf.cond(count > limit, largest, lambda: objects)

    def _tell(self, count: np.ndarray) -> None:
        if count > self.most:
            self._tell_once(
                "a picture has %d objects, but max_objects=%d: the largest are kept, here and in other pictures. "
                "Raise max_objects to train on all.",
                int(count),
                self.most,
            )
        if self.findable is not None and count > self.findable:
            self._tell_once(
                "a picture has %d objects, but the detector finds at most max_detections=%d. Build it with a larger "
                "max_detections to find all.",
                int(count),
                self.findable,
            )

    def _tell_once(self, text: str, *values: int) -> None:
        # Two threads may both get here at first, which tells it twice.
        if text not in self.told:
            self.told.add(text)
            _log.warning(text, *values)


def _padded(objects: dict[str, tf.Tensor], rows: int) -> dict[str, tf.Tensor]:
    padded = {}
    for key, value in objects.items():
        missing = rows - tf.shape(value)[0]
        paddings = [[0, missing]] + [[0, 0]] * (value.shape.rank - 1)
        padded[key] = tf.pad(value, paddings, constant_values=_PADDING.get(key, 0))
        padded[key].set_shape([rows, *value.shape[1:]])
    return padded


def _check_sizes(canvas: tuple[int, int], sizes: tuple[int, int] | None, mask_size: int) -> None:
    if len(canvas) != 2 or min(canvas) < 1:
        raise ValueError(f"canvas: expected (height, width), positive, received {canvas}.")
    if sizes is not None and (len(sizes) != 2 or not 0 < sizes[0] <= sizes[1]):
        raise ValueError(f"sizes: expected (min_side, max_side) with 0 < min_side <= max_side, received {sizes}.")
    if mask_size < 1:
        raise ValueError(f"mask_size: expected at least 1 pixel, received {mask_size}.")


__all__ = ["detection_batches", "detection_example", "resize_rule"]
