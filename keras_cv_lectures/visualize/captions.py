"""Where a captioner looked while it said each word: attention maps over the picture. NumPy in, uint8 RGB arrays out.

As Xu et al. show it (Show, Attend and Tell, ICML 2015, https://arxiv.org/abs/1502.03044): the weights are enlarged to
the picture, smoothed, and laid over it in grey, white where the network looked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.visualize.overlays import _caption, _text_width, rgb

# The paper's Gaussian of 20 pixels on maps that are enlarged 16 times.
SMOOTHING = 1.25
STYLES = ("paper", "light")
_OPACITY = 0.8
_DARK = 0.22
_FLAT = 1e-3


def attention_maps(attention: np.ndarray, size: tuple[int, int], sigma: float = SMOOTHING) -> np.ndarray:
    """Attention weights at the size of a picture, smooth, each map stretched to 0..1.

    Args:
        attention: (T, h, w) or (h, w) weights, at least 0; any sum.
        size: (height, width) in pixels of the picture that the h x w locations cover.
        sigma: standard deviation of the Gaussian in locations, not pixels, so that it means the same at every size.
            1.25 is the paper's (20 pixels at 16 a location); 0.33 shows the locations themselves.

    Returns:
        (T, height, width) or (height, width) float32. A map whose weights are all equal is 1 everywhere; one of zeros
        is 0.

    Raises:
        DataError: the weights are negative, not finite or of another shape, or `sigma` or `size` is out of range.

    Differs from the paper: enlarged by bicubic interpolation, where skimage's `pyramid_expand` is linear; after the
    Gaussian the two can hardly be told apart.
    """
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    weights = np.asarray(attention, np.float32)
    if weights.ndim == 2:
        return attention_maps(weights[None], size, sigma)[0]
    if weights.ndim != 3 or 0 in weights.shape[1:] or not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise DataError(
            "attention must be (words, rows, columns) of finite weights that are not negative. Received: shape "
            f"{weights.shape}. Reshape the locations to the encoder's rows and columns."
        )
    height, width = (int(side) for side in size)
    if not (min(height, width) >= 1 and 0 <= sigma < np.inf):
        raise DataError(f"size must be positive and sigma at least 0. Received: size={size}, sigma={sigma}.")
    deviation = sigma * height / weights.shape[1], sigma * width / weights.shape[2]
    result = np.zeros((len(weights), height, width), np.float32)
    for place, each in zip(result, weights, strict=True):
        low, high = each.min(), each.max()
        if high - low <= _FLAT * high:  # Stretched, it would show nothing but rounding.
            place[:] = float(high > 0)
            continue
        large = Image.fromarray(each / high).resize((width, height), Image.Resampling.BICUBIC)
        smooth = gaussian_filter(np.maximum(np.asarray(large), 0.0), deviation, mode="reflect")
        place[:] = (smooth - smooth.min()) / max(smooth.max() - smooth.min(), np.finfo(np.float32).tiny)
    return result


def attention_grid(
    image: np.ndarray,
    words: Sequence[str],
    attention: np.ndarray,
    *,
    columns: int = 5,
    betas: Sequence[float] | None = None,
    side: int = 224,
    sigma: float = SMOOTHING,
    style: str = "paper",
    title: str = "",
) -> np.ndarray:
    """The picture, and beside it, word by word, where the network looked.

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) in 0..255.
        words: T words of the caption.
        attention: (T, h, w), one map a word.
        columns: pictures in a row, at most.
        betas: (T,) the gate of the context at each word, written behind it in brackets; None for none.
        side: pixels of the longer side of each picture.
        sigma: see `attention_maps`.
        style: "paper" lays the map over the picture in grey; "light" keeps the picture's colours and darkens what was
            not looked at.
        title: a line above all.

    Returns:
        (h, w, 3) uint8, white ground.

    Raises:
        DataError: there are not as many maps (or betas) as words, or an argument is out of range.
    """
    words, maps = _check(words, attention, columns, side, style)
    if betas is not None and len(betas) != len(words):
        raise DataError(f"betas must be one for each word. Received: {len(words)} words, {len(betas)} betas.")
    picture = _fit(image, side)
    shown = [picture, *_painted(picture, maps, sigma, style)]
    texts = words if betas is None else [f"{w} ({b:.2f})" for w, b in zip(words, betas, strict=True)]
    grid = _grid(shown, ["", *texts], columns, _letters(side))
    return grid if not title else np.concatenate([_line(title, grid.shape[1], _letters(side) + 2), grid])


def side_by_side(
    image: np.ndarray,
    words: Sequence[str] | tuple[Sequence[str], Sequence[str]],
    soft: np.ndarray,
    hard: np.ndarray,
    *,
    columns: int = 5,
    side: int = 224,
    sigma: float = SMOOTHING,
    style: str = "paper",
    names: tuple[str, str] = ("soft attention", "hard attention"),
) -> np.ndarray:
    """Two attentions on one picture, each with its caption, one above the other.

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) in 0..255.
        words: of the caption that both belong to; or a pair of captions, where the two said different ones.
        soft: (T, h, w) maps of the first.
        hard: (T, h, w) maps of the second.
        columns: pictures in a row, at most.
        side: pixels of the longer side of each picture.
        sigma: see `attention_maps`.
        style: see `attention_grid`.
        names: said above each.

    Returns:
        (h, w, 3) uint8, white ground.

    Raises:
        DataError: there are not as many maps as words.
    """
    pair = (words, words) if all(isinstance(word, str) for word in words) else tuple(words)
    if len(pair) != 2:
        raise DataError(f"words must be one caption or a pair of captions. Received: {len(pair)}.")
    settings = {"columns": columns, "side": side, "sigma": sigma, "style": style}
    bands = [
        attention_grid(image, said, maps, **settings, title=f"{name}: {' '.join(said)}")
        for name, said, maps in zip(names, pair, (soft, hard), strict=True)
    ]
    width = max(band.shape[1] for band in bands)
    return np.concatenate([np.pad(b, ((0, 0), (0, width - b.shape[1]), (0, 0)), constant_values=255) for b in bands])


def captioned(image: np.ndarray, caption: str, *, side: int = 448) -> np.ndarray:
    """The picture with its caption below, in as many lines as it needs; for models without attention.

    Args:
        image: (H, W, 3), (H, W, 1) or (H, W) in 0..255.
        caption: any text.
        side: pixels of the longer side of the picture.

    Returns:
        (h, w, 3) uint8.
    """
    picture, letters = _fit(image, side), max(12, side // 22)
    room = picture.shape[1] - letters
    lines: list[str] = []
    for word in caption.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _text_width(longer, letters) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return np.concatenate([picture, *(_line(line, picture.shape[1], letters) for line in lines)])


def _check(
    words: Sequence[str], attention: np.ndarray, columns: int, side: int, style: str
) -> tuple[list[str], np.ndarray]:
    words, maps = [str(word) for word in words], np.asarray(attention)
    if maps.ndim != 3 or len(maps) != len(words):
        raise DataError(
            f"attention must hold one map (rows, columns) for each of the {len(words)} words. Received: shape "
            f"{maps.shape}. Leave out the maps of the end and of padding."
        )
    if columns < 1 or side < 16:
        raise DataError(f"columns must be at least 1 and side at least 16. Received: columns={columns}, side={side}.")
    if style not in STYLES:
        raise DataError(f"style must be one of {', '.join(STYLES)}. Received: {style!r}.")
    return words, maps


def _fit(image: np.ndarray, side: int) -> np.ndarray:
    """(h, w, 3) uint8 with `side` pixels on the longer side; small pictures are enlarged smoothly."""
    from PIL import Image

    picture = rgb(image)
    factor = side / max(picture.shape[:2])
    height, width = (max(1, round(length * factor)) for length in picture.shape[:2])
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BICUBIC))


def _painted(picture: np.ndarray, attention: np.ndarray, sigma: float, style: str) -> list[np.ndarray]:
    ground = picture.astype(np.float32)
    painted = []
    for each in attention_maps(attention, picture.shape[:2], sigma):
        if style == "paper":
            mixed = (1 - _OPACITY) * ground + _OPACITY * 255.0 * each[..., None]
        else:
            mixed = ground * (_DARK + (1 - _DARK) * each[..., None])
        painted.append(np.rint(mixed).astype(np.uint8))
    return painted


def _line(text: str, width: int, letters: int) -> np.ndarray:
    """A line of text that begins where pictures with a gap around them do."""
    gap = min(letters // 2, width - 1)
    return np.pad(_caption(text, width - gap, letters), ((0, 0), (gap, 0), (0, 0)), constant_values=255)


def _grid(pictures: Sequence[np.ndarray], texts: Sequence[str], columns: int, letters: int) -> np.ndarray:
    """Cells of one size, row after row, each with its text above."""
    cells = [
        np.concatenate([_caption(text, picture.shape[1], letters), picture])
        for text, picture in zip(texts, pictures, strict=True)
    ]
    height, width = cells[0].shape[:2]
    columns, gap = min(columns, len(cells)), letters // 2
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = cell
    return sheet


def _letters(side: int) -> int:
    return max(12, side // 14)
