"""The geometry of a generated picture: polygons with a class and a color, back to front, over a background."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from keras_cv_lectures.errors import DataError

SHAPE_CLASSES = ("circle", "square", "triangle", "star", "cross", "ring")
SHAPE_COLORS = {
    "red": (200, 34, 44),
    "orange": (240, 132, 28),
    "yellow": (238, 212, 52),
    "green": (52, 156, 62),
    "cyan": (62, 196, 206),
    "blue": (44, 84, 206),
    "purple": (140, 58, 172),
}
KEYPOINT_NAMES = ("center", "top", "right", "bottom", "left")
KEYPOINT_FLIP = (0, 1, 4, 3, 2)  # the order of the keypoints after a horizontal flip
EMPTY_SHARE = 0.05  # of the pictures show no shape

LARGE = 0.16  # radius / shorter side of the picture from which a shape is called large
MIN_SIDE = 16
_SMALL_RADII, _LARGE_RADII = (0.10, 0.135), (0.19, 0.28)  # the gap between them makes the word certain
_TRIES = 20  # places tried before a shape is left out
_CROWDING = 0.5  # of the shapes are put close to another one, so that occlusion is common
_GRID = 64.0  # vertices lie on multiples of 1/64 px: the last bit of sin and cos cannot move a pixel
_JITTER = 12.0  # largest change of a color channel against the named color


def make_scene(seed: int, index: int, size: tuple[int, int], max_shapes: int = 6) -> Scene:
    """Scene `index` of `seed` for a picture of `size` (height, width): no shape (5 %), or up to `max_shapes`.

    The same numbers give the same scene on every machine and worker. Shapes may overlap and be cut by the border.

    Raises:
        DataError: an argument is out of range.
    """
    _check_arguments(seed, index, size, max_shapes)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    background = _make_background(rng)
    count = 0 if rng.random() < EMPTY_SHARE else 1 + int(rng.random() * max_shapes)
    shapes: list[Shape] = []
    for _ in range(count):
        label = int(rng.random() * len(SHAPE_CLASSES))
        color = tuple(SHAPE_COLORS)[int(rng.random() * len(SHAPE_COLORS))]
        rgb = np.rint(np.array(SHAPE_COLORS[color]) + _JITTER * (2.0 * rng.random(3) - 1.0))
        low, high = _LARGE_RADII if rng.random() < 0.5 else _SMALL_RADII
        radius = (low + (high - low) * rng.random()) * min(size)
        # Less than half a turn between two look-alike poses: the vertex called top is always the one nearest to it.
        rotation = 0.8 * math.pi * (2.0 * rng.random() - 1.0) / _SYMMETRY[label] if _SYMMETRY[label] else 0.0
        center = _free_place(rng, size, radius, color, shapes)
        if center is not None:
            shapes.append(make_shape(label, color, center, radius, rotation, rgb=tuple(rgb)))
    return Scene(tuple(shapes), background, f"shapes-{seed}-{index:06d}", (seed, index))


def make_shape(
    label: int,
    color: str,
    center: tuple[float, float],
    radius: float,
    rotation: float = 0.0,
    *,
    rgb: tuple[float, float, float] | None = None,
) -> Shape:
    """A shape of class `label` whose vertices lie at most `radius` px from `center` (x, y).

    `rotation` is in radians, clockwise in the picture; 0 is the upright pose. `rgb` defaults to the named color.
    """
    cos, sin = math.cos(rotation), math.sin(rotation)

    def place(points: np.ndarray) -> np.ndarray:
        x, y = radius * points[:, 0], radius * points[:, 1]
        turned = np.stack([center[0] + cos * x - sin * y, center[1] + sin * x + cos * y], axis=1)
        return np.rint(turned * _GRID) / _GRID

    contours, points = _OUTLINES[label]
    fill = SHAPE_COLORS[color] if rgb is None else rgb
    return Shape(label, color, tuple(float(c) for c in fill), tuple(place(c) for c in contours), place(points))


@dataclass(frozen=True, eq=False)
class Shape:
    """One polygon with holes.

    Attributes:
        label: index into `SHAPE_CLASSES`.
        color: name, a key of `SHAPE_COLORS`.
        rgb: the fill, 0..255.
        contours: closed polygons, each (V, 2) float64 (x, y) in continuous pixel coordinates; a point is inside by the
            even-odd rule. Circles have 64 vertices; a ring has two contours.
        points: (5, 2) float64, the keypoints of `KEYPOINT_NAMES`. They belong to the body and turn with it: top is the
            apex of a triangle, the upper tip of a star, the middle of the upper edge of a square, the end of the upper
            arm of a cross; bottom of a triangle is the middle of its base and of a star the notch between the legs.
    """

    label: int
    color: str
    rgb: tuple[float, float, float]
    contours: tuple[np.ndarray, ...]
    points: np.ndarray

    @property
    def center(self) -> tuple[float, float]:
        return float(self.points[0, 0]), float(self.points[0, 1])

    @property
    def radius(self) -> float:
        """Distance of the farthest vertex from the center, px."""
        offsets = np.concatenate(self.contours) - self.points[0]
        return math.sqrt(float((offsets * offsets).sum(axis=1).max()))

    @property
    def rotation(self) -> float:
        """Angle of the keypoint top against straight up, radians clockwise."""
        x, y = self.points[1] - self.points[0]
        return math.atan2(x, -y)

    def transformed(self, matrix: np.ndarray) -> Shape:
        """The shape with every vertex and keypoint mapped by the 2x3 affine `matrix`."""
        contours = tuple(_affine(c, matrix) for c in self.contours)
        return dataclasses.replace(self, contours=contours, points=_affine(self.points, matrix))


@dataclass(frozen=True, eq=False)
class Background:
    """Colors behind the shapes.

    Attributes:
        gradient: (2, 2, 3) float64, the colors (0..255) at the corners of the picture, blended smoothly between.
        texture: tuple of (h, w, 3) float64 grids, added to the gradient, and at half strength to the shapes.
        noise: largest change of one pixel, in grey values.
    """

    gradient: np.ndarray
    texture: tuple[np.ndarray, ...] = ()
    noise: float = 0.0

    @classmethod
    def plain(cls, rgb: tuple[float, float, float] = (128.0, 128.0, 128.0)) -> Background:
        """One color, no texture, no noise: the whole image is then a function of the geometry."""
        return cls(np.broadcast_to(np.asarray(rgb, np.float64), (2, 2, 3)))


@dataclass(frozen=True, eq=False)
class Scene:
    """Shapes back to front over a background; `seed` starts the pixel noise and the choice of words."""

    shapes: tuple[Shape, ...]
    background: Background
    image_id: str = "scene"
    seed: tuple[int, int] = (0, 0)

    def transformed(self, matrix: np.ndarray) -> Scene:
        """The scene with all geometry mapped by `matrix` (2, 3): (x, y) -> matrix @ (x, y, 1).

        The background stays in place: it fills the picture and has no geometry.

        Raises:
            DataError: `matrix` is not a finite, invertible 2x3 matrix.
        """
        matrix = np.asarray(matrix, np.float64)
        if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
            raise DataError(f"matrix must be a finite (2, 3) affine map, received shape {matrix.shape}: {matrix}")
        if matrix[0, 0] * matrix[1, 1] == matrix[0, 1] * matrix[1, 0]:
            raise DataError(f"matrix must be invertible, received {matrix.tolist()}, which flattens the picture")
        return dataclasses.replace(self, shapes=tuple(shape.transformed(matrix) for shape in self.shapes))


def _affine(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    # Spelled out: a matrix product may round differently from one BLAS to the next.
    x, y = points[:, 0], points[:, 1]
    return np.stack([row[0] * x + row[1] * y + row[2] for row in matrix], axis=1)


def _make_background(rng: np.random.Generator) -> Background:
    colors = 45.0 + 165.0 * rng.random((2, 2, 3))
    grey = (colors[..., 0:1] + colors[..., 1:2] + colors[..., 2:3]) / 3.0
    gradient = grey + 0.55 * (colors - grey)  # duller than the shapes, yet not grey
    strength = 10.0 + 22.0 * rng.random()
    texture = []
    for cells, share in ((5, 1.0), (11, 0.7), (24, 0.45)):
        common = rng.random((cells, cells + cells // 3, 1)) - 0.5
        tint = rng.random((cells, cells + cells // 3, 3)) - 0.5
        texture.append(strength * share * (1.6 * common + 0.5 * tint))
    return Background(gradient, tuple(texture), noise=8.0 + 14.0 * rng.random())


def _free_place(
    rng: np.random.Generator, size: tuple[int, int], radius: float, color: str, others: list[Shape]
) -> tuple[float, float] | None:
    """A center that leaves most of every other shape visible, or None when there is no room."""
    height, width = size
    # Shapes of one color keep apart: where they overlapped, nobody could see which is in front.
    gaps = [(*other.center, (1.0 if other.color == color else 0.55) * (radius + other.radius)) for other in others]
    neighbor = others[int(rng.random() * len(others))] if others and rng.random() < _CROWDING else None
    for _ in range(_TRIES):
        x, y = rng.random(), rng.random()
        if neighbor is None:
            x, y = 0.5 * radius + (width - radius) * x, 0.5 * radius + (height - radius) * y
        else:
            reach = radius + neighbor.radius
            x, y = neighbor.center[0] + reach * (2.0 * x - 1.0), neighbor.center[1] + reach * (2.0 * y - 1.0)
        within = 0.5 * radius <= x <= width - 0.5 * radius and 0.5 * radius <= y <= height - 0.5 * radius
        if within and all((x - other_x) ** 2 + (y - other_y) ** 2 >= gap * gap for other_x, other_y, gap in gaps):
            return x, y
    return None


def _check_arguments(seed: int, index: int, size: tuple[int, int], max_shapes: int) -> None:
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value < 2**32:
            raise DataError(f"{name} must be an integer from 0 to 2**32 - 1, received {value!r}")
    if len(size) != 2 or min(size) < MIN_SIDE:
        raise DataError(f"size must be (height, width), each at least {MIN_SIDE} pixels, received {size!r}")
    if max_shapes < 1:
        raise DataError(f"max_shapes must be at least 1, received {max_shapes!r}")


def _turn(radii: tuple[float, ...], count: int) -> np.ndarray:
    """(count, 2) vertices clockwise from the top, at the given radii in turn."""
    angles = [2.0 * math.pi * k / count for k in range(count)]
    return np.array(
        [(radii[k % len(radii)] * math.sin(a), -radii[k % len(radii)] * math.cos(a)) for k, a in enumerate(angles)]
    )


def _compass(top: float, right: tuple[float, float], bottom: float) -> np.ndarray:
    """The keypoints of an upright, mirror-symmetric unit shape."""
    return np.array([(0.0, 0.0), (0.0, -top), right, (0.0, bottom), (-right[0], right[1])])


def _outlines() -> tuple[tuple[tuple[np.ndarray, ...], np.ndarray], ...]:
    """(contours, keypoints) of every class: upright, radius 1, center at the origin, y downwards."""
    half, notch, arm, hole = math.sqrt(0.5), 0.45, 0.32, 0.55
    end = math.sqrt(1.0 - arm * arm)
    tip = (math.sin(0.4 * math.pi), -math.cos(0.4 * math.pi))
    square = half * np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])
    corners = [(arm, -end), (arm, -arm), (end, -arm), (end, arm), (arm, arm), (arm, end)]
    cross = np.array(corners + [(-x, -y) for x, y in corners])
    circle = _turn((1.0,), 64)
    return (
        ((circle,), _compass(1.0, (1.0, 0.0), 1.0)),
        ((square,), _compass(half, (half, 0.0), half)),
        ((_turn((1.0,), 3),), _compass(1.0, (math.sqrt(0.75), 0.5), 0.5)),
        ((_turn((1.0, notch), 10),), _compass(1.0, tip, notch)),
        ((cross,), _compass(end, (end, 0.0), end)),
        ((circle, hole * circle), _compass(1.0, (1.0, 0.0), 1.0)),
    )


_OUTLINES = _outlines()
_SYMMETRY = (0, 4, 3, 5, 4, 0)  # look-alike poses in one turn; 0: all poses look alike
