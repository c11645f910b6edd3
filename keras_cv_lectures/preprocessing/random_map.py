"""The one random map of an example: from the picture to the output, for pictures, points and masks alike.

`stretched_map` brings pictures to a fixed size (`augment`); `placed_map` keeps their aspect and puts them at the top
left of a canvas (`detection_batches`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import tensorflow as tf

from keras_cv_lectures.geometry import warps

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

# The steepest elastic deformation taken: sigma over the distance of two grid nodes. Beyond it pictures fold over.
_STEEPEST = 0.2


class GeometrySettings(Protocol):
    """The fields of `Augmentation` that are about geometry."""

    flip: float
    flip_vertical: float
    scale: tuple[float, float]
    rotate: float
    quarter_turns: bool
    warp: float
    translate: float
    elastic: float
    elastic_grid: int
    resize: bool
    crop: bool

    @property
    def moves(self) -> bool: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomMap:
    """One map: picture -> `forward` -> elastic field undone -> output.

    Attributes:
      forward, inverse: matrices (3, 3) there and back.
      coarse: (G, G, 2) elastic field over the output, or None.
      factors: size of the scaled picture over the picture's own size, (height, width).
      mirrored: bool, left and right hands are exchanged.
      source_size: (h, w) int32 of the picture.
      size: (H, W) of the output.
      frame: (height, width) int32, the part of the output at the top left in which the picture lies; objects end there.
      exact: boxes map to boxes: no rotation, no elastic field.
      whole: bool, nothing but a resize happens, and no object can leave.
    """

    forward: tf.Tensor
    inverse: tf.Tensor
    coarse: tf.Tensor | None
    factors: tuple[tf.Tensor, tf.Tensor]
    mirrored: tf.Tensor
    source_size: tf.Tensor
    size: tuple[int, int]
    frame: tf.Tensor
    exact: bool
    whole: tf.Tensor

    def points(self, points: tf.Tensor, steps: int = 20) -> tf.Tensor:
        """Forward map of points (..., 2); `steps` of refinement where there is an elastic field."""
        moved = warps.transform_points(points, self.forward)
        return moved if self.coarse is None else warps.undo_displacement(self.coarse, moved, self.size, steps)

    def origins(self, points: tf.Tensor) -> tf.Tensor:
        """Where points (..., 2) of the output come from."""
        if self.coarse is not None:
            points += warps.displacement(self.coarse, points, self.size)
        return warps.transform_points(points, self.inverse)

    @property
    def limits(self) -> tf.Tensor:
        """The frame as a box (4,): (width, height, width, height)."""
        return tf.cast(tf.gather(self.frame, [1, 0, 1, 0]), tf.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlacedMap(RandomMap):
    """A map of resize, mirror, quarter turns and cut, in this order, and then of what `warped` says.

    Attributes:
      scaled: (height, width) int32 of the scaled picture.
      flips: (vertical, horizontal) bool.
      turns: number of clockwise quarter turns.
      cut: (top, left) int32, pixels of the turned picture that lie above and left of the canvas.
      warped: whether more may happen (rotation, elastic field, shift), so that pixels have to be looked up one by one.
    """

    scaled: tf.Tensor
    flips: tf.Tensor
    turns: tf.Tensor
    cut: tf.Tensor
    warped: bool


def draw_numbers(seed: tf.Tensor) -> dict[str, tf.Tensor]:
    """The uniform random numbers in [0, 1) of one example, by name; `seed` is int32 (2,)."""
    values = tf.unstack(tf.random.stateless_uniform([len(_DRAWS)], seed, alg="philox"))
    return dict(zip(_DRAWS, values, strict=True))


def check_elastic(settings: GeometrySettings, size: tuple[int, int]) -> None:
    """Refuses an elastic field that would fold pictures of `size` over."""
    steepness = settings.elastic * (settings.elastic_grid - 1) / min(size)
    if steepness > _STEEPEST:
        most = math.floor(10 * _STEEPEST * min(size) / (settings.elastic_grid - 1)) / 10
        raise ValueError(
            f"elastic: expected at most {most} pixels for output_size={tuple(size)} and elastic_grid="
            f"{settings.elastic_grid}, received {settings.elastic}: the picture would fold over. Lower it."
        )


def stretched_map(
    settings: GeometrySettings, draw: dict[str, tf.Tensor], seed: tf.Tensor, source: tf.Tensor, size: tuple[int, int]
) -> RandomMap:
    """The map of `augment`: scale 1 is the picture stretched to `size` (or its own size, with `resize=False`)."""
    source_f = tf.cast(source, tf.float32)
    warped, scale = _warped_and_scale(settings, draw)
    base = tf.constant(size, tf.float32) if settings.resize else source_f
    # Whole pixels for the scaled picture and its place: a crop without scaling then copies pixels instead of blurring.
    scaled = tf.maximum(tf.round(base * scale), 1.0)
    gap = tf.constant(size, tf.float32) - scaled
    if settings.crop:
        place = tf.sign(gap) * tf.floor(tf.stack([draw["top"], draw["left"]]) * (tf.abs(gap) + 1.0))
    else:
        place = tf.floor(gap / 2.0)
    if settings.translate:
        shift = 2.0 * tf.stack([draw["shift_y"], draw["shift_x"]]) - 1.0
        place += tf.round(shift * settings.translate * tf.constant(size, tf.float32))
    flips = tf.stack([draw["flip_vertical"] < settings.flip_vertical, draw["flip"] < settings.flip])
    factors = scaled / source_f
    signed = tf.where(flips, -factors, factors)
    corner = tf.where(flips, place + scaled, place)
    forward = warps.compose(warps.scaling(signed[1], signed[0]), warps.translation(corner[1], corner[0]))
    if settings.rotate or settings.quarter_turns:
        angle = _angle(settings, draw, warped)
        if settings.quarter_turns:
            angle += tf.floor(4.0 * draw["quarter"]) * (math.pi / 2)
        forward = warps.compose(forward, warps.about(warps.rotation(angle), size[1] / 2, size[0] / 2))
    return RandomMap(
        forward=forward,
        inverse=warps.inverse(forward),
        coarse=_elastic_field(settings, seed, warped),
        factors=(factors[0], factors[1]),
        mirrored=tf.not_equal(flips[0], flips[1]),
        source_size=source,
        size=size,
        frame=tf.constant(size, tf.int32),
        exact=not settings.rotate and not settings.elastic,
        whole=tf.constant(not settings.moves),
    )


def placed_map(
    settings: GeometrySettings,
    draw: dict[str, tf.Tensor],
    seed: tf.Tensor,
    source: tf.Tensor,
    canvas: tuple[int, int],
    sides: tuple[int, int] | None,
) -> PlacedMap:
    """The map of `detection_batches`: the picture keeps its aspect and starts at the canvas's top left corner.

    Scale 1 is the size of `resize_rule` for `sides`, or the picture's own size where they are None. A picture that
    is larger than the canvas is cut: at a random place with `crop`, otherwise at the bottom and the right. Quarter
    turns exchange its sides; shift, rotation and elastic field act inside the frame of the placed picture.
    """
    warped, scale = _warped_and_scale(settings, draw)
    scaled = tf.stack(resize_rule(source, *(sides or (None, None)), factor=scale))
    scaled_f = tf.cast(scaled, tf.float32)
    factors = scaled_f / tf.cast(source, tf.float32)
    flips = tf.stack([draw["flip_vertical"] < settings.flip_vertical, draw["flip"] < settings.flip])
    signed = tf.where(flips, -factors, factors)
    corner = tf.where(flips, scaled_f, 0.0)
    forward = warps.compose(warps.scaling(signed[1], signed[0]), warps.translation(corner[1], corner[0]))
    turns, turned = tf.constant(0), scaled_f
    if settings.quarter_turns:
        turns = tf.cast(4.0 * draw["quarter"], tf.int32)
        turned = tf.where(turns % 2 == 1, scaled_f[::-1], scaled_f)
        # Exact, unlike rotations by pi / 2.
        cosine, sine = tf.gather([1.0, 0.0, -1.0, 0.0], turns), tf.gather([0.0, 1.0, 0.0, -1.0], turns)
        turn = tf.stack([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        there = warps.translation(-scaled_f[1] / 2, -scaled_f[0] / 2)
        forward = warps.compose(forward, there, turn, warps.translation(turned[1] / 2, turned[0] / 2))
    frame = tf.minimum(turned, tf.constant(canvas, tf.float32))
    cut = turned - frame
    if settings.crop:
        cut = tf.floor(tf.stack([draw["top"], draw["left"]]) * (cut + 1.0))
    else:
        cut = tf.zeros_like(cut)
    place = -cut
    if settings.translate:
        shift = 2.0 * tf.stack([draw["shift_y"], draw["shift_x"]]) - 1.0
        place += tf.round(shift * settings.translate * frame)
    forward = warps.compose(forward, warps.translation(place[1], place[0]))
    if settings.rotate:
        turn = warps.rotation(_angle(settings, draw, warped))
        forward = warps.compose(forward, warps.about(turn, frame[1] / 2, frame[0] / 2))
    stretched = dataclasses.replace(settings, resize=True)
    return PlacedMap(
        forward=forward,
        inverse=warps.inverse(forward),
        coarse=_elastic_field(settings, seed, warped),
        factors=(factors[0], factors[1]),
        mirrored=tf.not_equal(flips[0], flips[1]),
        source_size=source,
        size=canvas,
        frame=tf.cast(frame, tf.int32),
        exact=not settings.rotate and not settings.elastic,
        whole=tf.reduce_all(turned == frame) & (not stretched.moves),
        scaled=scaled,
        flips=flips,
        turns=turns,
        cut=tf.cast(cut, tf.int32),
        warped=bool(settings.rotate or settings.elastic or settings.translate),
    )


def resize_rule(
    size: tuple[int, int] | tf.Tensor,
    min_side: int | None,
    max_side: int | None,
    *,
    factor: tf.Tensor | float = 1.0,
) -> tuple[int, int] | tuple[tf.Tensor, tf.Tensor]:
    """The size that torchvision's detectors bring a picture to; its aspect stays, up to the rounding to pixels.

    The shorter side becomes `min_side`, but the longer one at most `max_side`:
    `scale = min(min_side / shorter, max_side / longer)`, sides `floor(side * scale)`, in float64 as torchvision
    computes it, so that a product just below a whole number is rounded down.

    Args:
      size: (height, width), two integers or a tensor (2,).
      min_side, max_side: in pixels; both None keep the size.
      factor: multiplies the scale.

    Returns:
      (height, width), each at least 1: integers for integers, int32 scalars for tensors.
    """
    if not tf.is_tensor(size) and not tf.is_tensor(factor) and not any(tf.is_tensor(side) for side in size):
        height, width = (int(side) for side in size)
        scale = 1.0 if min_side is None else min(min_side / min(height, width), max_side / max(height, width))
        return max(int(height * (scale * factor)), 1), max(int(width * (scale * factor)), 1)
    sides = tf.cast(tf.stack(size) if isinstance(size, tuple | list) else size, tf.float64)
    scale = tf.constant(1.0, tf.float64)
    if min_side is not None:
        scale = tf.minimum(min_side / tf.reduce_min(sides), max_side / tf.reduce_max(sides))
    found = tf.maximum(tf.cast(sides * (scale * tf.cast(factor, tf.float64)), tf.int32), 1)
    return found[0], found[1]


def _warped_and_scale(settings: GeometrySettings, draw: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    smallest, largest = settings.scale
    warped = draw["warp"] < settings.warp
    return warped, tf.where(warped, smallest * (largest / smallest) ** draw["scale"], 1.0)


def _angle(settings: GeometrySettings, draw: dict[str, tf.Tensor], warped: tf.Tensor) -> tf.Tensor:
    return tf.where(warped, (2.0 * draw["rotate"] - 1.0) * math.radians(settings.rotate), 0.0)


def _elastic_field(settings: GeometrySettings, seed: tf.Tensor, warped: tf.Tensor) -> tf.Tensor | None:
    if not settings.elastic:
        return None
    grid = settings.elastic_grid
    stream = tf.random.fold_in(seed, _ELASTIC_STREAM, alg="philox")
    coarse = tf.random.stateless_normal([grid, grid, 2], stream, stddev=settings.elastic, alg="philox")
    return coarse * tf.cast(warped, tf.float32)
