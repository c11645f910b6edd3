"""Joint augmentation: one random map per example, applied to the picture and to everything that is drawn on it.

The map is composed first (resize, scale, flip, crop, shift, rotate, elastic; `random_map.py`); then each key is warped
once: the image by bilinear interpolation, masks, weights and instance masks by the nearest pixel, keypoints and boxes
by the forward map (`objects.py`).
All randomness comes from `example["seed"]`, so an example is the same on every machine, worker and order of reading.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from keras_cv_lectures.geometry import warps
from keras_cv_lectures.preprocessing.colour import recolour
from keras_cv_lectures.preprocessing.objects import warp_objects
from keras_cv_lectures.preprocessing.random_map import RandomMap, check_elastic, draw_numbers, stretched_map

IGNORE = 255

# What a mirrored border would leave without a label.
_OBJECTS = {"boxes", "instance_masks", "mask_pixels", "keypoints"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What may happen to a picture. Every default but `flip` changes nothing.

    Attributes:
      flip: probability of a left-right mirror image, 0..1.
      flip_vertical: probability of an upside-down mirror image, 0..1.
      scale: (smallest, largest) factor, log-uniform; 1 is the picture at the output size, see `resize`.
      rotate: largest rotation about the centre of the output, degrees to either side.
      translate: largest shift, as a share of the output's width and height, to either side.
      quarter_turns: also rotates by 0, 90, 180 or 270 degrees, each as often, which resamples nothing (square outputs).
      warp: share of the examples that are scaled, rotated and deformed; the others are only flipped, turned by quarters
        and cropped. Resampling smooths fine grain: a network that only ever saw warped pictures is thrown off by the
        sharper grain of the pictures it is used on. 0..1.
      elastic: standard deviation, in output pixels, of the displacements of a coarse grid, from which a smooth field is
        interpolated (bicubic). The U-Net paper uses 10 on a 3 x 3 grid for 512-pixel pictures.
      elastic_grid: nodes per side of that grid, at least 2; the outer ones lie on the border.
      resize: True measures `scale` from the picture stretched to the output size; False from the picture at its own
        resolution, so that the output is a window of it.
      crop: a scaled picture that is larger than the output is cut at a random place (one that is smaller is put at a
        random place); False takes the middle.
      brightness: grey levels are multiplied by 1 - b .. 1 + b.
      contrast: differences to the picture's mean are multiplied by 1 - c .. 1 + c.
      saturation: colour is multiplied by 1 - s .. 1 + s; no effect on grey pictures.
      hue: largest rotation of colour about the grey axis, in turns, 0..0.5; no effect on grey pictures.
      grey_value: -g .. g times 255 is added to all grey levels.
      gamma: exponent between 1 / (1 + g) and 1 + g, log-uniform, on grey levels divided by 255.
      noise: largest standard deviation of Gaussian noise, in grey levels of 0..255.
      fill: what lies outside the picture. "reflect" mirrors picture and mask; "constant" gives the picture's mean
        colour, mask 255 (ignore), weight 0. Examples with boxes, instance masks or keypoints always use "constant",
        because a mirrored object would have no label.
      min_visible: an object of which less than this share stays visible is dropped, 0..1.
      keypoint_flip: for each keypoint the index of its mirror partner, e.g. left eye for right eye; None swaps none.

    Differs from the paper: (Ronneberger et al., "U-Net", 2015) names shift, rotation, elastic deformation and
    grey-value variation, but gives numbers for the elastic deformation only.
    """

    flip: float = 0.5
    flip_vertical: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    rotate: float = 0.0
    quarter_turns: bool = False
    warp: float = 1.0
    translate: float = 0.0
    elastic: float = 0.0
    elastic_grid: int = 3
    resize: bool = True
    crop: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey_value: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    fill: warps.Border = "reflect"
    min_visible: float = 0.1
    keypoint_flip: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        # Lists come from JSON files and the command line; tuples keep the object hashable.
        for name in ("scale", "keypoint_flip"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        shares = ("flip", "flip_vertical", "warp", "brightness", "contrast", "saturation", "grey_value", "min_visible")
        for name in shares:
            _check(0 <= getattr(self, name) <= 1, name, "a number from 0 to 1", getattr(self, name))
        for name in ("rotate", "translate", "elastic", "gamma", "noise"):
            _check(getattr(self, name) >= 0, name, "a number that is not negative", getattr(self, name))
        _check(0 <= self.hue <= 0.5, "hue", "turns from 0 to 0.5", self.hue)
        _check(
            isinstance(self.scale, tuple) and len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1],
            "scale",
            "(smallest, largest) with 0 < smallest <= largest",
            self.scale,
        )
        _check(self.elastic_grid >= 2, "elastic_grid", "at least 2 nodes per side", self.elastic_grid)
        _check(self.fill in ("reflect", "constant"), "fill", "'reflect' or 'constant'", self.fill)
        if self.keypoint_flip is not None:
            order = self.keypoint_flip
            _check(sorted(order) == list(range(len(order))), "keypoint_flip", "a permutation of 0..K-1", order)

    @classmethod
    def none(cls) -> Augmentation:
        """Nothing random: the picture is resized to the output size."""
        return cls(flip=0.0, crop=False)

    @property
    def moves(self) -> bool:
        """Whether more than a resize happens to the geometry."""
        geometry = (self.flip, self.flip_vertical, self.rotate, self.quarter_turns, self.translate, self.elastic)
        return any(geometry) or tuple(self.scale) != (1.0, 1.0) or not self.resize

    @property
    def random(self) -> bool:
        """Whether anything depends on the seed."""
        colour = ("brightness", "contrast", "saturation", "hue", "grey_value", "gamma", "noise")
        placed = self.crop and not self.resize
        scaled = tuple(self.scale) != (1.0, 1.0)
        # A crop of what was enlarged lies anywhere in it, and of a share of the examples nobody knows which they are.
        varies = self.scale[0] != self.scale[1] or (scaled and (self.crop or 0.0 < self.warp < 1.0))
        moved = any((self.flip, self.flip_vertical, self.rotate, self.quarter_turns, self.translate, self.elastic))
        return moved or placed or varies or any(getattr(self, name) for name in colour)


# AutoGraph has nothing to do here, and would take seconds to read it all.
@tf.autograph.experimental.do_not_convert
def augment(
    example: dict[str, Any], augmentation: Augmentation, output_size: tuple[int, int], *, mask_size: int = 56
) -> dict[str, tf.Tensor]:
    """The example, augmented and at a fixed size; eager or inside `tf.data`.

    Args:
      example: `image` (h, w, C) uint8, or float32 in 0..255, and any of `mask` (h, w) integer, `weights` (h, w)
        float32, `instance_masks` (N, h, w), `boxes` (N, 4), `labels` (N,), `crowd` and `difficult` (N,), `area` (N,)
        square pixels, `keypoints` (N, K, 3); other keys pass as they are (captions that say "left" are not rewritten
        when the picture is flipped).
        Instance masks may come compact instead: `mask_pixels` (P,) 0/1, the row-major crops one after the other, and
        `mask_windows` (N, 4) integer, the half-open windows (x1, y1, x2, y2) of pixels that they cover.
        `seed` int32 (2,) is needed when the augmentation is random.
      augmentation: what may happen; `Augmentation.none()` resizes only.
      output_size: (H, W) in pixels.
      mask_size: side of the square crops that compact masks become, in pixels.

    Returns:
      A dict of tensors with the same keys and dtypes: `image` (H, W, C), `mask` and `weights` (H, W), `instance_masks`
      (M, H, W), `boxes` (M, 4) clipped to the picture, `labels` (M,), `keypoints` (M, K, 3) with (0, 0, 0) for those
      that left the picture, `area` (M,) float32 of what is seen in the output. M <= N: objects that became invisible
      are dropped from all of them, and from `crowd`, `difficult`, `attributes` and `phrases`; a plain resize drops
      none.
      Compact masks come as `masks` (M, mask_size, mask_size) uint8 0/1 over `mask_windows` (M, 4) float32, which are
      the objects' boxes in the output; they are sampled from the crops directly, so that no (N, H, W) is ever made.
      Pictures that shrink are filtered first (antialias), so that fine texture does not alias.

    Raises:
      ValueError: `seed` is missing; `output_size` is not positive; saturation or hue is asked for pictures that have
        neither 1 nor 3 channels; the elastic field would fold pictures of this size; `keypoint_flip` does not fit.
    """
    _check(len(output_size) == 2 and min(output_size) >= 1, "output_size", "(height, width), positive", output_size)
    if augmentation.random and "seed" not in example:
        raise ValueError(
            "seed: expected example['seed'], int32 (2,), for a random augmentation, received none. Add it."
        )
    check_elastic(augmentation, output_size)
    example = {key: tf.convert_to_tensor(value) for key, value in example.items()}
    seed = tf.cast(example["seed"], tf.int32) if augmentation.random else tf.zeros([2], tf.int32)
    draw = draw_numbers(seed)
    border = "constant" if _OBJECTS & set(example) else augmentation.fill

    warp = stretched_map(augmentation, draw, seed, tf.shape(example["image"])[:2], tuple(output_size))
    result = dict(example)
    picture = _warp_image(example["image"], warp, border, augmentation.moves)
    result["image"] = recolour(picture, augmentation, draw, seed, example["image"].dtype)
    x, y = warps.sampling_grid(warp.inverse, warp.size, warp.coarse)
    for key, fill in (("mask", IGNORE), ("weights", 0), ("instance_masks", 0)):
        if key in example:
            result[key] = warps.sample_nearest(example[key], x, y, border=border, fill=fill)
            result[key].set_shape([*example[key].shape[:-2], *warp.size])
    return warp_objects(
        example,
        result,
        warp,
        min_visible=augmentation.min_visible,
        keypoint_flip=augmentation.keypoint_flip,
        mask_size=mask_size,
    )


def _warp_image(image: tf.Tensor, warp: RandomMap, border: warps.Border, moves: bool) -> tf.Tensor:
    """The picture at the output size, float32."""
    channels = image.shape[-1]
    if not moves:
        picture = tf.image.resize(image, warp.size, antialias=True)
        return tf.ensure_shape(tf.cast(picture, tf.float32), [*warp.size, channels])
    source = tf.cast(warp.source_size, tf.float32)
    small = tf.cast(tf.round(source * tf.minimum(tf.stack(warp.factors), 1.0)), tf.int32)
    # Bilinear sampling reads 2 x 2 pixels whatever the scale: a picture that shrinks must be filtered before.
    picture = tf.cond(
        tf.reduce_any(small < warp.source_size),
        lambda: tf.image.resize(image, small, antialias=True),
        lambda: tf.cast(image, tf.float32),
    )
    ratio = tf.cast(small, tf.float32) / source
    x, y = warps.sampling_grid(warps.compose(warp.inverse, warps.scaling(ratio[1], ratio[0])), warp.size, warp.coarse)
    mean = tf.reduce_mean(picture, axis=(0, 1)) if border == "constant" else 0.0
    return tf.ensure_shape(warps.sample_bilinear(picture, x, y, border=border, fill=mean), [*warp.size, channels])


def _check(condition: bool, name: str, expected: str, received: Any) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}, received {received}.")
