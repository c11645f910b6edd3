"""Objects drawn on a picture: boxes, names with scores, masks, keypoints. NumPy arrays in, uint8 RGB arrays out.

Boxes are (x1, y1, x2, y2) in pixels. Lines and letters grow with the picture, small pictures are enlarged first, and a
name is left out where it would cover another or hide an object, so that a thumbnail, a photograph and a slide with 300
cells can all be read.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.geometry.masks import split_masks
from keras_cv_lectures.visualize.overlays import Colors, _caption, _color_table, _fit_text, _font, rgb

# Pairs of COCO's 17 keypoints, nose to right ankle, that a line joins.
COCO_SKELETON = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
    (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
SMALLEST_SIDE = 320
LARGEST_FACTOR = 8
MANY_OBJECTS = 30
MOST_COVERED = 0.25
_GOLDEN_ANGLE = 0.381966

Masks = np.ndarray | tuple[np.ndarray, np.ndarray]


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    masks: Masks | None = None,
    keypoints: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    colors: Colors | None = None,
    *,
    color_by: str = "auto",
    skeleton: Sequence[tuple[int, int]] | None = None,
    keypoint_threshold: float = 0.0,
    alpha: float = 0.45,
    tags: bool = True,
    enlarge: bool = True,
) -> np.ndarray:
    """Draws the objects of one picture, the largest first, so that none hides a smaller one.

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) in 0..255.
        boxes: (N, 4) pixels of the picture; may reach beyond it.
        labels: (N,) integers; rows with a negative label are padding and not drawn. None draws all alike.
        scores: (N,), written behind the name with two digits; where names are in each other's way, the surest is kept.
        masks: (N, H, W), drawn where not 0 (of probabilities, above 0.5), or compact: (`mask_pixels`, `mask_windows`).
        keypoints: (N, K, 3) x, y and visibility or score.
        names: one for each label; None writes numbers where there is more than one label.
        colors: one for each label, or one for each object where `color_by` is "object". None takes colours that are
            easy to tell apart.
        color_by: "label"; "object", which parts neighbours of one class; or "auto": "object" where masks are given and
            there is at most one name, else "label".
        skeleton: pairs of keypoints to join; None takes COCO's where K is 17, and none otherwise.
        keypoint_threshold: points are drawn whose third number is larger.
        alpha: share of the colour inside a mask, 0..1; its rim has the full colour.
        tags: write names and scores.
        enlarge: enlarge a picture whose longer side is below 320 pixels by a whole factor, at most 8.

    Returns:
        (H, W, 3) uint8, larger by a whole factor where `enlarge` says so.

    Raises:
        DataError: arrays do not belong to N objects, a label has no name or colour, or an argument is out of range.
    """
    from PIL import Image, ImageDraw

    picture = rgb(image)
    boxes = _array(boxes, (-1, 4), "boxes").astype(np.float64)
    count = len(boxes)
    own_labels = np.zeros(count, np.int64) if labels is None else _array(labels, (count,), "labels").astype(np.int64)
    scores = None if scores is None else _array(scores, (count,), "scores").astype(np.float64)
    if keypoints is not None:
        keypoints = _array(keypoints, (count, -1, 3), "keypoints").astype(np.float64)
    if not 0.0 <= alpha <= 1.0:
        raise DataError(f"alpha is a share in 0..1, received {alpha}.")
    drawn = np.flatnonzero((own_labels >= 0) & np.isfinite(boxes).all(axis=1))
    table = _object_colors(own_labels, drawn, masks is not None, names, colors, color_by)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    drawn = drawn[np.argsort(-sides[drawn].prod(axis=1), kind="stable")]

    factor = _factor(picture.shape) if enlarge else 1
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)  # a copy in any case
    size = _letter_size(picture.shape)
    if len(drawn) > MANY_OBJECTS:  # among many small objects, large letters leave no room
        size = int(np.clip(np.median(sides[drawn].min(axis=1)) * factor / 2, 12, size))
    width = max(1, round(size / 7))
    if masks is not None:
        crops, windows = _crops(masks, count, np.shape(image)[:2])
        for index in drawn:
            _paint_mask(picture, crops[index], windows[index], table[index], alpha, factor, width)

    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    edges = np.rint(np.clip(boxes, -1e6, 1e6) * factor).astype(np.int64)
    for index in drawn:
        _outline(draw, edges[index], tuple(table[index].tolist()), width)
    if keypoints is not None and keypoints.shape[1]:
        pairs = (COCO_SKELETON if keypoints.shape[1] == 17 else ()) if skeleton is None else skeleton
        for index in drawn:
            _draw_keypoints(draw, keypoints[index], factor, pairs, keypoint_threshold, table[index], width)
    if tags:
        surest = drawn[::-1] if scores is None else drawn[np.argsort(-scores[drawn], kind="stable")]
        _draw_tags(draw, canvas.size, edges, table, _texts(own_labels, scores, names), surest, size)
    return np.asarray(canvas)


def object_comparison(
    image: np.ndarray,
    truth: dict[str, Any],
    prediction: dict[str, Any],
    *,
    captions: Sequence[str] = ("truth", "prediction"),
    **settings: Any,
) -> np.ndarray:
    """Two pictures of the same size side by side with words above, such as labelled and detected objects.

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) in 0..255.
        truth: arguments of `draw_objects` for the left picture: `boxes`, `labels`, `masks`, ...
        prediction: the same for the right one.
        captions: words above them.
        **settings: arguments of `draw_objects` for both: `names`, `colors`, ...

    Returns:
        (h, w, 3) uint8.

    Raises:
        DataError: as `draw_objects` does, or there are not two captions.
    """
    if len(captions) != 2:
        raise DataError(f"captions must be two words, received {len(captions)}.")
    panels = [draw_objects(image, **(settings | part)) for part in (truth, prediction)]
    size = _letter_size(panels[0].shape)
    panels = [np.concatenate([_caption(c, p.shape[1], size), p]) for c, p in zip(captions, panels, strict=True)]
    blank = np.full((panels[0].shape[0], size, 3), 255, np.uint8)
    return np.concatenate([panels[0], blank, panels[1]], axis=1)


def distinct_colors(count: int) -> np.ndarray:
    """(count, 3) uint8 bright colours; neighbours in the list differ most in hue, and every second one is darker."""
    rows = [
        colorsys.hsv_to_rgb((0.02 + _GOLDEN_ANGLE * i) % 1.0, (0.85, 0.6, 1.0)[i % 3], (0.95, 1.0, 0.75)[i % 3])
        for i in range(count)
    ]
    return np.rint(255 * np.array(rows).reshape(-1, 3)).astype(np.uint8)


def _object_colors(
    labels: np.ndarray,
    drawn: np.ndarray,
    masked: bool,
    names: Sequence[str] | None,
    colors: Colors | None,
    color_by: str,
) -> np.ndarray:
    """(N, 3) uint8."""
    if color_by not in ("auto", "label", "object"):
        raise DataError(f'color_by must be "auto", "label" or "object", received {color_by!r}.')
    highest = int(labels[drawn].max(initial=-1))
    if names is not None and highest >= len(names):
        raise DataError(f"label {highest} has no name: names has {len(names)} entries. Name every class in order.")
    if color_by == "auto":
        one_class = highest <= 0 if names is None else len(names) <= 1
        color_by = "object" if masked and one_class and colors is None else "label"
    which = np.arange(len(labels)) if color_by == "object" else np.maximum(labels, 0)
    needed = len(labels) if color_by == "object" else highest + 1
    table = distinct_colors(max(needed, 1)) if colors is None else _color_table(colors)
    if len(table) < needed:
        what = "object" if color_by == "object" else "label"
        raise DataError(f"colors has {len(table)} entries, but {what}s reach {needed - 1}. Give one for every {what}.")
    return table[np.where(which < len(table), which, 0)] if len(table) else np.zeros((len(labels), 3), np.uint8)


def _crops(masks: Masks, count: int, size: tuple[int, int]) -> tuple[Sequence[np.ndarray], np.ndarray]:
    if isinstance(masks, tuple):
        pixels, windows = masks
        windows = _array(windows, (count, 4), "mask_windows").astype(np.int64)
        try:
            return split_masks(pixels, windows), windows
        except ValueError as error:
            raise DataError(f"masks: {error}") from error
    masks = np.asarray(masks)
    if masks.shape != (count, *size):
        raise DataError(
            f"masks must be ({count}, {size[0]}, {size[1]}) or (mask_pixels, mask_windows), received shape "
            f"{masks.shape}. Paste a detector's masks into the picture first (geometry.masks.paste_masks_numpy)."
        )
    return masks, np.tile([0, 0, size[1], size[0]], (count, 1))


def _paint_mask(
    picture: np.ndarray, crop: np.ndarray, window: np.ndarray, color: np.ndarray, alpha: float, factor: int, width: int
) -> None:
    """Mixes the colour into the mask and lays its rim, `width` pixels wide on the inside, in full colour."""
    crop = crop > 0.5 if np.issubdtype(crop.dtype, np.floating) else crop != 0
    if not crop.any():
        return
    rows, columns = (np.flatnonzero(crop.any(axis=axis)) for axis in (1, 0))
    y1, x1 = window[1] + rows[0], window[0] + columns[0]
    crop = crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, wide = picture.shape[0] // factor, picture.shape[1] // factor
    top, left = max(-y1, 0), max(-x1, 0)
    crop = crop[top : max(height - y1, 0), left : max(wide - x1, 0)]
    if not crop.size:
        return
    inside = np.pad(crop.repeat(factor, axis=0).repeat(factor, axis=1), width)
    core = inside.copy()
    for axis in (0, 1):
        for step in range(1, width + 1):
            core &= np.roll(inside, step, axis) & np.roll(inside, -step, axis)
    inside, core = (part[width:-width, width:-width] for part in (inside, core))
    y, x = (y1 + top) * factor, (x1 + left) * factor
    part = picture[y : y + inside.shape[0], x : x + inside.shape[1]]
    weight = np.where(inside & ~core, 1.0, np.where(inside, alpha, 0.0)).astype(np.float32)[..., None]
    part[:] = np.rint(part + weight * (color.astype(np.float32) - part))


def _outline(draw: Any, edges: np.ndarray, color: tuple[int, ...], width: int) -> None:
    """The box's outermost pixels; a box without extent is one line."""
    x1, y1, x2, y2 = edges.tolist()
    draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=color, width=width)


def _draw_keypoints(
    draw: Any,
    points: np.ndarray,
    factor: int,
    pairs: Sequence[tuple[int, int]],
    threshold: float,
    color: np.ndarray,
    width: int,
) -> None:
    seen = np.isfinite(points).all(axis=1) & (points[:, 2] > threshold)
    places = np.where(seen[:, None], np.clip(points[:, :2], -1e6, 1e6), 0.0) * factor
    fill = tuple(color.tolist())
    joined = [(*places[first], *places[second]) for first, second in pairs if seen[first] and seen[second]]
    # A white rim keeps lines and dots apart from a mask of the same colour.
    for line_color, line_width in (((255, 255, 255), width + 2), (fill, width)):
        for line in joined:
            draw.line(line, fill=line_color, width=line_width)
    radius = 1.0 + 0.9 * width
    for x, y in places[seen]:
        draw.ellipse((x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1), fill=(255, 255, 255))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _texts(labels: np.ndarray, scores: np.ndarray | None, names: Sequence[str] | None) -> list[str]:
    """What is written at each object: the name unless there is but one label and no name, and the score."""
    several = labels.max(initial=0) > 0
    words = [
        "" if label < 0 else str(names[label]) if names is not None else str(label) if several else ""
        for label in labels.tolist()
    ]
    if scores is None:
        return words
    return [f"{word} {score:.2f}".strip() for word, score in zip(words, scores.tolist(), strict=True)]


def _draw_tags(
    draw: Any,
    size: tuple[int, int],
    edges: np.ndarray,
    table: np.ndarray,
    texts: list[str],
    order: np.ndarray,
    letters: int,
) -> None:
    """Writes on a ground of the object's colour, above the box, below it or inside, where it covers no other tag and
    at most a quarter of any object."""
    font, line, pad = _font(letters), round(1.35 * letters), max(1, letters // 4)
    objects = edges[order].astype(np.float64)
    areas = np.maximum((objects[:, 2:] - objects[:, :2]).prod(axis=1), 1.0)
    taken = np.zeros((0, 4))
    for index in order:
        text = texts[index]
        x1, y1, x2, y2 = edges[index].tolist()
        if not text or x2 < 0 or y2 < 0 or x1 > size[0] or y1 > size[1]:
            continue
        wide = int(np.ceil(font.getlength(text))) + 2 * pad
        if wide > size[0]:
            text, wide = _fit_text(text, letters, size[0] - 2 * pad), size[0]
        lefts = [min(max(x, 0), size[0] - wide) for x in (x1, x2 - wide)]
        tops = [y for y in (y1 - line, y2, y1, y2 - line) if 0 <= y <= size[1] - line] or [max(0, size[1] - line) // 2]
        for left, top in ((left, top) for top in tops for left in lefts):
            place = np.array([left, top, left + wide, top + line])
            if not _common(place, taken).any() and (_common(place, objects) <= MOST_COVERED * areas).all():
                taken = np.concatenate([taken, place[None]])
                color = tuple(table[index].tolist())
                draw.rectangle((left, top, left + wide - 1, top + line - 1), fill=color)
                draw.text((left + pad, top + line / 2), text, fill=_ink(color), font=font, anchor="lm")
                break


def _common(place: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) area that a box has in common with each of N others."""
    sides = np.minimum(others[:, 2:], place[2:]) - np.maximum(others[:, :2], place[:2])
    return np.maximum(sides, 0).prod(axis=1)


def _ink(color: tuple[int, ...]) -> tuple[int, int, int]:
    """Black on light colours, white on dark ones."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def _factor(shape: tuple[int, ...]) -> int:
    return min(LARGEST_FACTOR, -(-SMALLEST_SIDE // max(shape[:2])))


def _letter_size(shape: tuple[int, ...]) -> int:
    """Height of the letters in pixels: 12 up to 480 pixels of the mean side, then a fortieth of it."""
    return int(max(12, np.sqrt(shape[0] * shape[1]) / 40))


def _array(values: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """`values` as an array of `shape`, where -1 stands for any length; an empty one fits whatever the shape."""
    values = np.asarray(values)
    wanted = tuple("N" if side == -1 else side for side in shape)
    if values.size == 0 and (shape[0] in (-1, 0) or 0 in values.shape[1:]):
        return np.zeros([max(side, 0) for side in shape], values.dtype)
    if values.ndim != len(shape) or any(w not in (-1, v) for w, v in zip(shape, values.shape, strict=True)):
        raise DataError(f"{what} must have shape ({', '.join(map(str, wanted))}), received {values.shape}.")
    return values
