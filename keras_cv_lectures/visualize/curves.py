"""Training curves and confusion matrices as PNG pictures, drawn by matplotlib without its global state."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError

History = Sequence[Mapping[str, Any]]

VALIDATION = "val_"
# Parts of the names of quantities of which less is better.
SMALLER_IS_BETTER = ("loss", "error", "learning_rate", "cross_entropy", "doubly_stochastic", "reinforce")
# Costs whose gradient counts and whose value says nothing about the model: no epoch of them is the best.
WITHOUT_MEANING = ("reinforce",)
WORDS = {
    "loss_objectness": "RPN objectness loss",
    "loss_rpn_box_reg": "RPN box loss",
    "loss_classifier": "class loss",
    "loss_box_reg": "box loss",
    "loss_mask": "mask loss",
    "loss_keypoint": "keypoint loss",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr-D",
    "exact_match": "exact captions",
    "attention_in_box": "attention in the box",
}
LARGEST_ANNOTATED = 12
LARGEST_NAMED = 60


@dataclass(frozen=True)
class Theme:
    """Colours of a chart, as matplotlib takes them."""

    ground: str
    ink: str
    faint: str
    training: str
    validation: str
    ramp: tuple[str, ...]


THEMES = {
    "light": Theme("#ffffff", "#3d4450", "#e3e6eb", "#8b95a5", "#1f5fd0", ("#f5f7fb", "#9dbcf0", "#1f5fd0", "#0d2f73")),
    "dark": Theme("#171b22", "#b6bfcc", "#2b323d", "#8491a5", "#6ea2ff", ("#1b2029", "#24427e", "#4a84ea", "#b9d2ff")),
}


def curve_names(history: History) -> list[str]:
    """Names that have a curve, without the prefix `val_`: loss first, learning rate last, others as they appear."""
    keys = dict.fromkeys(key for row in history for key in row if key != "epoch")
    names = list(dict.fromkeys(key.removeprefix(VALIDATION) for key in keys))
    names = [n for n in names if any(np.isfinite(_column(history, key)).any() for key in (n, VALIDATION + n))]
    return sorted(names, key=lambda name: (name == "learning_rate", name != "loss"))


def training_curves(
    history: History, *, names: Sequence[str] | None = None, columns: int = 3, theme: str = "light"
) -> bytes:
    """Draws every quantity over the epochs, training in grey and validation in blue, the best epoch marked.

    Args:
        history: one mapping per epoch, such as `{"loss": 0.7, "val_loss": 0.8, "mean_iou": 0.4, "val_mean_iou": 0.4,
            "learning_rate": 1e-3}`. Keys may come and go; the line skips what is not a finite number. The key
            "epoch" is the abscissa where every row has it, else epochs count from 1.
        names: what to draw (without `val_`); None draws all of `curve_names(history)`.
        columns: panels side by side.
        theme: "light" or "dark".

    Returns:
        A PNG file.

    Raises:
        DataError: there is nothing to draw, or the theme is unknown.
    """
    from matplotlib.figure import Figure

    colors = _theme(theme)
    names = curve_names(history) if names is None else list(names)
    if not names:
        raise DataError("history holds no finite number to draw. Pass one mapping of numbers per epoch.")
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.4 * columns, 2.9 * rows), facecolor=colors.ground, layout="constrained")
    for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, names, strict=False):
        _draw_curve(axes, history, name, colors)
    for axes in figure.axes[len(names) :]:
        axes.set_visible(False)
    return _png(figure)


def joint_curves(history: History, names: Sequence[str], *, title: str = "", theme: str = "light") -> bytes:
    """Draws several shares (0..1) over the epochs in one chart, each with its best epoch marked.

    Args:
        history: as of `training_curves`.
        names: what to draw (without `val_`): the validation's values where there are any, else the training's.
        title: words above.
        theme: "light" or "dark".

    Returns:
        A PNG file.

    Raises:
        DataError: there is nothing to draw, or the theme is unknown.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colors = _theme(theme)
    figure = Figure(figsize=(4.4, 2.9), facecolor=colors.ground, layout="constrained")
    axes = figure.subplots()
    epochs = _epochs(history)
    for number, name in enumerate(names):
        values = _column(history, VALIDATION + name)
        values = values if np.isfinite(values).any() else _column(history, name)
        known = np.isfinite(values)
        if not known.any():
            continue
        best, color = int(np.nanargmax(values)), colormaps["tab10"](number % 10)
        label = f"{quantity_words(name)}  {values[best]:.3f}"
        axes.plot(epochs[known], values[known], color=color, linewidth=1.8, label=label)
        axes.plot(epochs[best], values[best], "o", color=color, markersize=6)
    if not axes.lines:
        raise DataError(f"history holds no finite number of {', '.join(names) or 'no name'} to draw.")
    _finish_axes(axes, title, epochs, colors)
    axes.set_ylim(0, 1.02)
    legend = axes.legend(loc="best", fontsize=8, frameon=False, labelcolor=colors.ink)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return _png(figure)


def confusion_figure(confusion: np.ndarray, classes: Sequence[str], *, theme: str = "light") -> bytes:
    """Draws a confusion matrix: rows are the truth, columns the prediction, colour is the share of the row.

    Up to 12 classes each cell tells its percentage and its count of pixels. A class that never occurs has a blank row.

    Args:
        confusion: (K, K) counts, `confusion[truth, prediction]`; nan counts as 0.
        classes: K names in label order.
        theme: "light" or "dark".

    Returns:
        A PNG file.

    Raises:
        DataError: the matrix is not K x K for K names, or the theme is unknown.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    colors = _theme(theme)
    counts = np.nan_to_num(np.asarray(confusion, np.float64))
    k = len(classes)
    if counts.shape != (k, k) or k == 0:
        raise DataError(f"confusion must be ({k}, {k}) for {k} class names, received shape {counts.shape}.")
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)

    side = 2.2 + float(np.clip(0.62 * k, 2.2, 9.0))
    figure = Figure(figsize=(side + 0.6, side), facecolor=colors.ground, layout="constrained")
    axes = figure.subplots()
    ramp = LinearSegmentedColormap.from_list("shares", colors.ramp).with_extremes(bad=colors.ground)
    picture = axes.imshow(np.ma.masked_invalid(shares), cmap=ramp, vmin=0.0, vmax=1.0)
    _label_classes(axes, classes, colors)
    axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    if k <= LARGEST_NAMED:
        axes.grid(which="minor", color=colors.ground, linewidth=1.5 if k <= LARGEST_ANNOTATED else 0.5)
    axes.tick_params(which="both", length=0, colors=colors.ink)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if k <= LARGEST_ANNOTATED:
        _annotate(axes, counts, shares, ramp)
    bar = figure.colorbar(picture, ax=axes, fraction=0.035, pad=0.02, format="{x:.0%}")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, colors=colors.ink, labelsize=8)
    return _png(figure)


def quantity_words(name: str) -> str:
    """The name of a history column (without `val_`) for people."""
    if name in WORDS:
        return WORDS[name]
    words = name.replace("_", " ").replace("iou", "IoU").replace("dice", "Dice")
    words = re.sub(r"\bbleu(\d)\b", r"BLEU-\1", words)
    return re.sub(r"\b(ap|ar)(?=\d|\b)", lambda m: m[1].upper(), words)


def is_average_precision(name: str) -> bool:
    """Whether a history column (without `val_`) is an average precision, such as `ap50` or `mask_ap`."""
    return re.search(r"(^|_)ap\d*(_|$)", name) is not None


def smaller_is_better(name: str) -> bool:
    """Whether the best epoch of a quantity (with or without `val_`) is the one with its smallest value."""
    return any(part in name for part in SMALLER_IS_BETTER)


def _draw_curve(axes: Any, history: History, name: str, colors: Theme) -> None:
    epochs = _epochs(history)
    training, validation = _column(history, name), _column(history, VALIDATION + name)
    for values, color, label in (
        (training, colors.training, "training"),
        (validation, colors.validation, "validation"),
    ):
        known = np.isfinite(values)
        if known.any():
            marker = "o" if known.sum() < max(3, 0.5 * len(values)) else None  # few points, as of sparse validation
            axes.plot(
                epochs[known], values[known], color=color, linewidth=1.8, marker=marker, markersize=4, label=label
            )
    if np.isfinite(validation).any():
        if name not in WITHOUT_MEANING:
            best = np.nanargmin(validation) if smaller_is_better(name) else np.nanargmax(validation)
            axes.plot(epochs[best], validation[best], "o", color=colors.validation, markersize=6)
            told = f"{validation[best]:.3g} at epoch {epochs[best]:.0f}"
            axes.set_title(told, fontsize=9, color=colors.validation, loc="right")
        if np.isfinite(training).any():
            axes.legend(loc="best", fontsize=8, frameon=False, labelcolor=colors.ink)
    _finish_axes(axes, quantity_words(name), epochs, colors)


def _finish_axes(axes: Any, title: str, epochs: np.ndarray, colors: Theme) -> None:
    axes.set_title(title, fontsize=11, color=colors.ink, loc="left", fontweight="bold", parse_math=False)
    axes.set_xlabel("epoch", fontsize=9, color=colors.ink)
    axes.set_facecolor(colors.ground)
    axes.grid(color=colors.faint, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=colors.ink, labelsize=8, length=0)
    axes.margins(x=0.03, y=0.12)
    if len(epochs) > 1:
        axes.xaxis.get_major_locator().set_params(integer=True)
    else:
        axes.set_xticks([float(epochs[0])])
    for place, spine in axes.spines.items():
        spine.set_visible(place == "bottom")
        spine.set_color(colors.faint)


def _epochs(history: History) -> np.ndarray:
    """(epochs,) float64: the key "epoch" where every row has it, else counted from 1."""
    epochs = _column(history, "epoch")
    return epochs if np.isfinite(epochs).all() else np.arange(1.0, len(history) + 1)


def _label_classes(axes: Any, classes: Sequence[str], colors: Theme) -> None:
    k = len(classes)
    if k <= LARGEST_NAMED:
        size = 9 if k <= 20 else 6
        names = [_short(name) for name in classes]
        axes.set_xticks(range(k), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
        axes.set_yticks(range(k), names, fontsize=size)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set_parse_math(False)
    axes.set_xlabel("prediction", fontsize=10, color=colors.ink, fontweight="bold")
    axes.set_ylabel("truth", fontsize=10, color=colors.ink, fontweight="bold")


def _annotate(axes: Any, counts: np.ndarray, shares: np.ndarray, ramp: Any) -> None:
    for (truth, prediction), share in np.ndenumerate(shares):
        if counts[truth, prediction] <= 0:
            continue
        red, green, blue, _ = ramp(share)
        ink = "#10141a" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"
        percent = "<1%" if share < 0.005 else f"{share:.0%}"
        axes.text(prediction, truth - 0.13, percent, ha="center", va="center", fontsize=8.5, color=ink)
        count = _compact(counts[truth, prediction])
        axes.text(prediction, truth + 0.22, count, ha="center", va="center", fontsize=7, color=ink)


def _column(history: History, key: str) -> np.ndarray:
    """(epochs,) float64; nan where a row lacks the key or holds no finite number."""
    return np.array([_number(row.get(key)) for row in history], np.float64)


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _compact(count: float) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return f"{count:.0f}"


def _short(name: str, longest: int = 22) -> str:
    name = " ".join(str(name).split())
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _theme(name: str) -> Theme:
    if name not in THEMES:
        raise DataError(f"theme must be one of {', '.join(THEMES)}, received {name!r}.")
    return THEMES[name]


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A class name in a script that matplotlib's font lacks is drawn as boxes; that is no reason to alarm anyone.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=160, facecolor=figure.get_facecolor())
    return buffer.getvalue()
