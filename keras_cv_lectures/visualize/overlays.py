"""Class maps as pictures: colours, overlays, errors, legends. NumPy arrays in, uint8 RGB arrays out.

Images are (H, W, 3) or (H, W, 1) or (H, W) in 0..255; class maps are (H, W) integers; `colors` holds one
(red, green, blue) in 0..255 per label. Pixels with the ignore label are white in a colour map, keep the picture in an
overlay, and are hatched among errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError

Colors = Sequence[tuple[int, int, int]]

IGNORED_COLOR = (255, 255, 255)
ERROR_COLOR = (214, 39, 40)
INK = (32, 36, 42)
SMALLEST_PANEL = 192
STRIP_ROWS = 256


def colorize(class_map: np.ndarray, colors: Colors, ignore_label: int | None = 255) -> np.ndarray:
    """Paints each label in its colour.

    Args:
        class_map: (H, W) integer labels.
        colors: one colour per label.
        ignore_label: label painted white; None if every value is a class.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: a label has no colour, or a shape or colour is not as stated.
    """
    class_map, table = _labels(class_map), _color_table(colors)
    ignored = _ignored(class_map, ignore_label)
    known = (class_map >= 0) & (class_map < len(table))
    if not (known | ignored).all():
        worst = class_map[~(known | ignored)][0]
        raise DataError(
            f"class map holds label {worst}, but colors has {len(table)} entries (labels 0..{len(table) - 1}). "
            "Give a colour for every label, or pass that label as ignore_label."
        )
    if not len(table):
        return np.full((*class_map.shape, 3), IGNORED_COLOR, np.uint8)
    picture = table[np.where(ignored, 0, class_map)]
    picture[ignored] = IGNORED_COLOR
    return picture


def overlay(
    image: np.ndarray,
    class_map: np.ndarray,
    colors: Colors,
    alpha: float = 0.5,
    border: bool = True,
    *,
    ignore_label: int | None = 255,
    transparent: Sequence[int] = (),
) -> np.ndarray:
    """Lays the colours of the classes over the picture.

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) in 0..255.
        class_map: (H, W) integer labels.
        colors: one colour per label.
        alpha: share of the class colour, 0 (picture only) to 1 (colour only).
        border: draw the rim of every region in its full colour, so that small and pale regions stay visible. The rim
            is 1 pixel wide, 1 more for every 400 pixels of the shorter side.
        ignore_label: pixels that keep the picture.
        transparent: further labels that keep the picture, for example the background.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: sizes differ, a label has no colour, or `alpha` is outside 0..1.
    """
    picture, class_map = rgb(image), _labels(class_map)
    _same_size("class map", class_map, picture)
    if not 0.0 <= alpha <= 1.0:
        raise DataError(f"alpha is a share in 0..1, received {alpha}.")
    color = colorize(class_map, colors, ignore_label)
    kept = _ignored(class_map, ignore_label)
    for label in transparent:
        kept = kept | (class_map == label)
    weight = np.where(kept, np.float32(0), np.float32(alpha))[..., None]  # (H, W, 1)
    if border:
        weight[_rims(class_map, 1 + min(class_map.shape) // 400) & ~kept] = 1.0
    result = np.empty_like(color)
    for start in range(0, len(color), STRIP_ROWS):  # bounds the memory of the float arithmetic
        rows = slice(start, start + STRIP_ROWS)
        ground = picture[rows].astype(np.float32)
        result[rows] = np.rint(ground + weight[rows] * (color[rows] - ground))
    return result


def error_map(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, ignore_label: int | None = 255
) -> np.ndarray:
    """Shows wrong pixels in red on a pale grey picture; ignored pixels are hatched.

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) in 0..255.
        truth: (H, W) integer labels.
        prediction: (H, W) integer labels.
        ignore_label: label of `truth` that counts neither as right nor as wrong.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: sizes differ.
    """
    picture, truth, prediction = rgb(image), _labels(truth), _labels(prediction)
    _same_size("truth", truth, picture)
    _same_size("prediction", prediction, picture)
    grey = picture @ np.array([0.299, 0.587, 0.114], np.float32)  # (H, W), ITU-R BT.601
    pale = np.repeat(np.rint(110 + grey * (135 / 255))[..., None], 3, axis=-1).astype(np.uint8)
    ignored = _ignored(truth, ignore_label)
    pale[(truth != prediction) & ~ignored] = ERROR_COLOR
    rows, columns = np.indices(truth.shape, sparse=True)
    hatch = (rows + columns) % 8 < 2
    pale[ignored] = 245
    pale[ignored & hatch] = 200
    return pale


def legend(
    classes: Sequence[str],
    colors: Colors,
    present: Iterable[int] | None = None,
    *,
    width: int | None = None,
    size: int = 14,
) -> np.ndarray:
    """Draws a swatch and the name of each class.

    Args:
        classes: names in label order.
        colors: one colour per class.
        present: labels to show, in any order, others than 0..K-1 ignored; None shows every class.
        width: pixels to fill, row after row; None puts one class on each line.
        size: height of the letters in pixels.

    Returns:
        (h, w, 3) uint8, white ground, `w == width` where that is given.

    Raises:
        DataError: there are not as many colours as classes.
    """
    from PIL import Image, ImageDraw

    table = _color_table(colors)
    if len(classes) != len(table):
        raise DataError(f"legend needs one colour per class, received {len(classes)} classes and {len(table)} colors.")
    wanted = None if present is None else {int(label) for label in present}
    labels = [label for label in range(len(classes)) if wanted is None or label in wanted]
    swatch, gap, line = round(1.2 * size), round(0.6 * size), round(1.9 * size)
    room = None if width is None else max(size, width - 2 * gap - swatch - gap)
    names = {label: _fit_text(classes[label], size, room) for label in labels}
    spans = {label: swatch + gap + _text_width(names[label], size) for label in labels}  # pixels of one entry

    places, x, y = {}, gap, gap
    for label in labels:
        if places and (width is None or x + spans[label] + gap > width):
            x, y = gap, y + line
        places[label] = (x, y)
        x += spans[label] + 2 * gap
    right = width or max((spans[label] for label in labels), default=0) + 2 * gap
    canvas = Image.new("RGB", (right, y + line), "white")
    draw = ImageDraw.Draw(canvas)
    for label, (x, y) in places.items():
        top = y + (line - gap - swatch) // 2
        box = (x, top, x + swatch - 1, top + swatch - 1)
        draw.rectangle(box, fill=tuple(table[label].tolist()), outline=(120, 124, 130))
        draw.text((x + swatch + gap, top + swatch / 2), names[label], fill=INK, font=_font(size), anchor="lm")
    return np.asarray(canvas)


def comparison(
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    colors: Colors,
    *,
    classes: Sequence[str] | None = None,
    captions: Sequence[str] = ("picture", "truth", "prediction", "errors"),
    alpha: float = 0.5,
    ignore_label: int | None = 255,
    transparent: Sequence[int] = (),
) -> np.ndarray:
    """Picture | truth | prediction | errors, side by side with captions; without truth, picture | prediction.

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) in 0..255. Pictures narrower than 192 pixels are enlarged by a whole
            factor, so that the captions fit.
        truth: (H, W) integer labels, or None.
        prediction: (H, W) integer labels.
        colors: one colour per label.
        classes: names in label order; where given, a legend of the classes that occur is set below.
        captions: words above the four panels.
        alpha: share of the class colour, 0..1.
        ignore_label: label of `truth` that is neither painted nor counted as wrong.
        transparent: labels that keep the picture.

    Returns:
        (h, w, 3) uint8.

    Raises:
        DataError: sizes differ, or there are not four captions.
    """
    if len(captions) != 4:
        raise DataError(f"captions must be four (picture, truth, prediction, errors), received {len(captions)}.")

    def paint(class_map: np.ndarray) -> np.ndarray:
        return overlay(image, class_map, colors, alpha, ignore_label=ignore_label, transparent=transparent)

    panels = [rgb(image), paint(prediction)]
    captions = list(captions)
    if truth is None:
        captions = [captions[0], captions[2]]
    else:
        panels = [panels[0], paint(truth), panels[1], error_map(image, truth, prediction, ignore_label)]
    factor = -(-SMALLEST_PANEL // panels[0].shape[1])
    panels = [panel.repeat(factor, axis=0).repeat(factor, axis=1) for panel in panels]
    size = int(np.clip(panels[0].shape[1] / 18, 13, 40))
    gap = max(4, size // 2)
    panels = [np.concatenate([_caption(c, p.shape[1], size), p]) for c, p in zip(captions, panels, strict=True)]
    blank = np.full((panels[0].shape[0], gap, 3), 255, np.uint8)
    row = np.concatenate([part for panel in panels for part in (blank, panel)] + [blank], axis=1)
    parts = [row, np.full((gap, row.shape[1], 3), 255, np.uint8)]
    if classes is not None:
        present = np.union1d(prediction, prediction if truth is None else truth)
        parts.append(legend(classes, colors, present, width=row.shape[1], size=size))
    return np.concatenate(parts)


def _rims(class_map: np.ndarray, thickness: int) -> np.ndarray:
    """(H, W) bool: pixels with another label at most `thickness` pixels away in their row or column."""
    rims = np.zeros(class_map.shape, bool)
    for distance in range(1, thickness + 1):
        for axis in (0, 1):
            labels, marks = np.moveaxis(class_map, axis, 0), np.moveaxis(rims, axis, 0)
            differs = labels[distance:] != labels[:-distance]
            marks[distance:] |= differs
            marks[:-distance] |= differs
    return rims


def rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of an (H, W, 3), (H, W, 1) or (H, W) picture in 0..255; possibly a view of it.

    Raises:
        DataError: the array is not one picture, channels last.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
        raise DataError(
            f"image must be (height, width, 3) RGB or (height, width, 1) grey, received shape {image.shape}. "
            "Pass one picture, channels last."
        )
    if image.dtype != np.uint8:
        image = np.clip(np.rint(np.nan_to_num(image.astype(np.float32))), 0, 255).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _labels(class_map: np.ndarray) -> np.ndarray:
    class_map = np.asarray(class_map)
    if class_map.dtype == bool:
        class_map = class_map.astype(np.int32)
    if class_map.ndim != 2 or not np.issubdtype(class_map.dtype, np.integer) or 0 in class_map.shape:
        raise DataError(
            f"a class map must be (height, width) integers, received {class_map.dtype} of shape {class_map.shape}. "
            "Pass one picture's labels; of logits or probabilities take the argmax first."
        )
    return class_map


def _color_table(colors: Colors) -> np.ndarray:
    table = np.asarray(colors)
    if table.size == 0:
        return np.zeros((0, 3), np.uint8)
    if table.ndim != 2 or table.shape[1] != 3 or table.min() < 0 or table.max() > 255:
        raise DataError(
            f"colors must be one (red, green, blue) in 0..255 per class, received values of shape {table.shape}."
        )
    return table.astype(np.uint8)


def _ignored(class_map: np.ndarray, ignore_label: int | None) -> np.ndarray:
    return np.zeros(class_map.shape, bool) if ignore_label is None else class_map == ignore_label


def _same_size(what: str, class_map: np.ndarray, picture: np.ndarray) -> None:
    if class_map.shape != picture.shape[:2]:
        raise DataError(
            f"{what} is {class_map.shape[0]} x {class_map.shape[1]} pixels (height x width), the image "
            f"{picture.shape[0]} x {picture.shape[1]}. Bring them to one size, labels by nearest neighbour."
        )


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> int:
    return int(np.ceil(_font(size).getlength(text)))


def _fit_text(text: str, size: int, room: int | None) -> str:
    """One line of text, shortened with an ellipsis to at most `room` pixels."""
    text = " ".join(str(text).split())
    if room is None or _text_width(text, size) <= room:
        return text
    while text and _text_width(text + "…", size) > room:
        text = text[:-1]
    return text + "…"


def _caption(text: str, width: int, size: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (width, round(2.1 * size)), "white")
    text = _fit_text(text, size, width)
    ImageDraw.Draw(canvas).text((0, canvas.height / 2), text, fill=INK, font=_font(size), anchor="lm")
    return np.asarray(canvas)
