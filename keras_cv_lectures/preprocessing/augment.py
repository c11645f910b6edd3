"""Joint augmentation: one random map per example, applied to the picture and to everything that is drawn on it.

The map is composed first (resize, scale, flip, crop, shift, rotate, elastic); then each key is warped once: the image
by bilinear interpolation, masks, weights and instance masks by the nearest pixel, keypoints and boxes by the forward
map.
All randomness comes from `example["seed"]`, so an example is the same on every machine, worker and order of reading.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

from keras_cv_lectures.geometry import warps
from keras_cv_lectures.preprocessing.colour import recolour

IGNORE = 255

# Each quantity has its own place in the stream of random numbers: add new ones at the end, so that seeds stay valid.
_DRAWS = (
    "flip",
    "flip_vertical",
    "scale",
    "rotate",
    "left",
    "top",
    "shift_x",
    "shift_y",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "grey_value",
    "gamma",
    "noise",
    "warp",
    "quarter",
)
_ELASTIC_STREAM = 1

# Keys with one row per object: what leaves the picture leaves all of them.
_PER_OBJECT = ("boxes", "labels", "instance_masks", "keypoints", "attributes", "phrases")

# An object's box under rotation or elastic deformation is the box around this many mapped points per edge.
_POINTS_PER_EDGE = 16

# The steepest elastic deformation taken: sigma over the distance of two grid nodes. Beyond it pictures fold over.
_STEEPEST = 0.2


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
        varies = self.scale[0] != self.scale[1] or (self.crop and self.scale[0] != 1.0)
        moved = any((self.flip, self.flip_vertical, self.rotate, self.quarter_turns, self.translate, self.elastic))
        return moved or placed or varies or any(getattr(self, name) for name in colour)


def augment(example: dict[str, Any], augmentation: Augmentation, output_size: tuple[int, int]) -> dict[str, tf.Tensor]:
    """The example, augmented and at a fixed size; eager or inside `tf.data`.

    Args:
      example: `image` (h, w, C) uint8, or float32 in 0..255, and any of `mask` (h, w) integer, `weights` (h, w)
        float32, `instance_masks` (N, h, w), `boxes` (N, 4), `labels` (N,), `keypoints` (N, K, 3); other keys pass as
        they are (captions that say "left" are not rewritten when the picture is flipped).
        `seed` int32 (2,) is needed when the augmentation is random.
      augmentation: what may happen; `Augmentation.none()` resizes only.
      output_size: (H, W) in pixels.

    Returns:
      A dict of tensors with the same keys and dtypes: `image` (H, W, C), `mask` and `weights` (H, W), `instance_masks`
      (M, H, W), `boxes` (M, 4) clipped to the picture, `labels` (M,), `keypoints` (M, K, 3) with (0, 0, 0) for those
      that left the picture. M <= N: objects that became invisible are dropped from all four, and from `attributes`
      and `phrases`; a plain resize drops none.
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
    steepness = augmentation.elastic * (augmentation.elastic_grid - 1) / min(output_size)
    if steepness > _STEEPEST:
        most = math.floor(10 * _STEEPEST * min(output_size) / (augmentation.elastic_grid - 1)) / 10
        raise ValueError(
            f"elastic: expected at most {most} pixels for output_size={tuple(output_size)} and elastic_grid="
            f"{augmentation.elastic_grid}, received {augmentation.elastic}: the picture would fold over. Lower it."
        )
    example = {key: tf.convert_to_tensor(value) for key, value in example.items()}
    seed = tf.cast(example["seed"], tf.int32) if augmentation.random else tf.zeros([2], tf.int32)
    draw = dict(zip(_DRAWS, tf.unstack(tf.random.stateless_uniform([len(_DRAWS)], seed, alg="philox")), strict=True))
    border = "constant" if {"boxes", "instance_masks", "keypoints"} & set(example) else augmentation.fill

    warp = _compose(augmentation, draw, seed, tf.shape(example["image"])[:2], tuple(output_size))
    result = dict(example)
    picture = _warp_image(example["image"], warp, border, augmentation.moves)
    result["image"] = recolour(picture, augmentation, draw, seed, example["image"].dtype)
    x, y = warps.sampling_grid(warp.inverse, warp.size, warp.coarse)
    for key, fill in (("mask", IGNORE), ("weights", 0), ("instance_masks", 0)):
        if key in example:
            result[key] = warps.sample_nearest(example[key], x, y, border=border, fill=fill)
            result[key].set_shape([*example[key].shape[:-2], *warp.size])
    return _warp_objects(example, result, augmentation, warp)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Warp:
    """One map: picture -> `forward` -> elastic field undone -> output; `inverse` is the matrix of the way back."""

    forward: tf.Tensor
    inverse: tf.Tensor
    coarse: tf.Tensor | None
    factors: tuple[tf.Tensor, tf.Tensor]  # size of the scaled picture over the picture's own size: (height, width)
    mirrored: tf.Tensor  # bool: left and right hands are exchanged
    source_size: tf.Tensor  # (h, w) int32
    size: tuple[int, int]

    def points(self, points: tf.Tensor) -> tf.Tensor:
        """Forward map of points (..., 2)."""
        moved = warps.transform_points(points, self.forward)
        return moved if self.coarse is None else warps.undo_displacement(self.coarse, moved, self.size)


def _compose(
    augmentation: Augmentation, draw: dict[str, tf.Tensor], seed: tf.Tensor, source: tf.Tensor, size: tuple[int, int]
) -> _Warp:
    source_f = tf.cast(source, tf.float32)
    smallest, largest = augmentation.scale
    warped = draw["warp"] < augmentation.warp
    scale = tf.where(warped, smallest * (largest / smallest) ** draw["scale"], 1.0)
    base = tf.constant(size, tf.float32) if augmentation.resize else source_f
    # Whole pixels for the scaled picture and its place: a crop without scaling then copies pixels instead of blurring.
    scaled = tf.maximum(tf.round(base * scale), 1.0)
    gap = tf.constant(size, tf.float32) - scaled
    if augmentation.crop:
        place = tf.sign(gap) * tf.floor(tf.stack([draw["top"], draw["left"]]) * (tf.abs(gap) + 1.0))
    else:
        place = tf.floor(gap / 2.0)
    if augmentation.translate:
        shift = 2.0 * tf.stack([draw["shift_y"], draw["shift_x"]]) - 1.0
        place += tf.round(shift * augmentation.translate * tf.constant(size, tf.float32))
    flips = tf.stack([draw["flip_vertical"] < augmentation.flip_vertical, draw["flip"] < augmentation.flip])
    factors = scaled / source_f
    signed = tf.where(flips, -factors, factors)
    corner = tf.where(flips, place + scaled, place)
    forward = warps.compose(warps.scaling(signed[1], signed[0]), warps.translation(corner[1], corner[0]))
    if augmentation.rotate or augmentation.quarter_turns:
        angle = tf.where(warped, (2.0 * draw["rotate"] - 1.0) * math.radians(augmentation.rotate), 0.0)
        if augmentation.quarter_turns:
            angle += tf.floor(4.0 * draw["quarter"]) * (math.pi / 2)
        forward = warps.compose(forward, warps.about(warps.rotation(angle), size[1] / 2, size[0] / 2))
    coarse = None
    if augmentation.elastic:
        grid = augmentation.elastic_grid
        stream = tf.random.fold_in(seed, _ELASTIC_STREAM, alg="philox")
        coarse = tf.random.stateless_normal([grid, grid, 2], stream, stddev=augmentation.elastic, alg="philox")
        coarse *= tf.cast(warped, tf.float32)
    return _Warp(
        forward=forward,
        inverse=warps.inverse(forward),
        coarse=coarse,
        factors=(factors[0], factors[1]),
        mirrored=tf.not_equal(flips[0], flips[1]),
        source_size=source,
        size=size,
    )


def _warp_image(image: tf.Tensor, warp: _Warp, border: warps.Border, moves: bool) -> tf.Tensor:
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


def _warp_objects(
    example: dict[str, tf.Tensor], result: dict[str, tf.Tensor], augmentation: Augmentation, warp: _Warp
) -> dict[str, tf.Tensor]:
    """Boxes, labels, instance masks and keypoints; `result` already holds the warped instance masks."""
    if "keypoints" in example:
        result["keypoints"] = _warp_keypoints(example["keypoints"], augmentation.keypoint_flip, warp)
    if "boxes" not in example and "instance_masks" not in example:
        return result
    height, width = warp.size
    exact = not augmentation.rotate and not augmentation.elastic
    if "boxes" in example:
        boxes = tf.cast(example["boxes"], tf.float32)
        mapped = warps.boxes_around(warp.points(warps.box_outlines(boxes, 1 if exact else _POINTS_PER_EDGE)))
        limits = tf.constant([width, height, width, height], tf.float32)
        clipped = tf.clip_by_value(mapped, 0.0, limits)
        visible = tf.math.divide_no_nan(_area(clipped), _area(mapped))
        uncut = tf.reduce_all(clipped == mapped, axis=-1) & exact
        final = clipped
    if "instance_masks" in example:
        masks = tf.not_equal(result["instance_masks"], 0)
        before = tf.reduce_sum(tf.cast(example["instance_masks"] != 0, tf.float32), axis=(1, 2))
        after = tf.reduce_sum(tf.cast(masks, tf.float32), axis=(1, 2))
        visible = tf.math.divide_no_nan(after, before * warp.factors[0] * warp.factors[1])
        tight = _boxes_of_masks(masks)
        # A box that only moved keeps its fractions of a pixel; a cut or turned object gets the box of what is seen.
        final = tf.where(uncut[:, None], clipped, tight) if "boxes" in example else tight
    # One pixel, less the rounding of coordinates.
    broad = tf.reduce_all(final[:, 2:] - final[:, :2] > 0.999, axis=1)
    keep = (visible >= augmentation.min_visible) & broad
    if not augmentation.moves:
        keep = tf.ones_like(keep)
        final = clipped if "boxes" in example else final
    if "boxes" in example:
        result["boxes"] = final
    for key in _PER_OBJECT:
        if key in example:
            result[key] = tf.boolean_mask(result[key], keep)
    return result


def _warp_keypoints(keypoints: tf.Tensor, partners: tuple[int, ...] | None, warp: _Warp) -> tf.Tensor:
    if partners is not None:
        count = keypoints.shape[1]
        _check(count in (None, len(partners)), "keypoint_flip", f"{count} indices, one per keypoint", partners)
        order = tf.where(warp.mirrored, tf.constant(partners), tf.range(len(partners)))
        keypoints = tf.gather(keypoints, order, axis=1)
    moved = warp.points(keypoints[..., :2])
    seen = warps.inside(moved[..., 0], moved[..., 1], warp.size) & (keypoints[..., 2] > 0)
    return tf.where(seen[..., None], tf.concat([moved, keypoints[..., 2:]], axis=-1), 0.0)


def _boxes_of_masks(masks: tf.Tensor) -> tf.Tensor:
    """Boxes (N, 4) around masks (N, H, W) bool; zeros for an empty mask."""
    sides = []
    for axis in (1, 2):
        line = tf.cast(tf.reduce_any(masks, axis=axis), tf.int32)
        first = tf.argmax(line, axis=1, output_type=tf.int32)
        last = tf.shape(line)[1] - tf.argmax(line[:, ::-1], axis=1, output_type=tf.int32)
        sides.append((first, tf.where(tf.reduce_any(masks, axis=(1, 2)), last, 0)))
    (x1, x2), (y1, y2) = sides
    return tf.cast(tf.stack([x1, y1, x2, y2], axis=1), tf.float32)


def _area(boxes: tf.Tensor) -> tf.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _check(condition: bool, name: str, expected: str, received: Any) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}, received {received}.")
