"""Precision-recall curves as a PNG picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.visualize.curves import Theme, _png, _short, _theme

MOST_NAMED = 10
_GRID = np.arange(101) / 100


def precision_recall_curves(
    curves: Mapping[str, Sequence[np.ndarray]],
    *,
    averages: Mapping[str, float | None] | None = None,
    title: str = "",
    theme: str = "light",
    mean: bool = True,
) -> bytes:
    """Draws one curve for each class, the class with the best average precision first in the list of names.

    Of more than 10 classes only the five best and the five worst have a colour and a name, the others are grey. Where
    scores are given, a dot marks the detections that are best kept: those with the highest F1 = 2 P R / (P + R), with
    the score they begin at.

    Args:
        curves: for each class, recall (M,) rising and precision (M,), one value after each detection, and if wanted
            scores (M,) descending. M may be 0, and may differ between classes.
        averages: average precision of each class, written behind its name; classes with None have no object to find and
            are left out. None takes the area under each curve.
        title: words above.
        theme: "light" or "dark".
        mean: draw the mean of the classes, where there are several, as a black line.

    Returns:
        A PNG file.

    Raises:
        DataError: there is no class to draw, shapes differ, values lie outside of 0..1, or the theme is unknown.
    """
    from matplotlib.figure import Figure

    style = _theme(theme)
    lines = {name: _checked(name, parts) for name, parts in curves.items()}
    values = {name: _area(*line[:2]) for name, line in lines.items()} if averages is None else dict(averages)
    missing = [name for name in lines if name not in values]
    if missing:
        raise DataError(f"averages lack {', '.join(missing)}. Give one for every curve, None where it has no object.")
    order = sorted((name for name in lines if values[name] is not None), key=lambda name: -values[name])
    if not order:
        raise DataError("there is no class with objects, so there is no curve to draw.")
    named = order if len(order) <= MOST_NAMED else order[: MOST_NAMED // 2] + order[-(MOST_NAMED // 2) :]

    figure = Figure(figsize=(7.6, 4.6), facecolor=style.ground, layout="constrained")
    axes = figure.subplots()
    _draw_f1(axes, style)
    for name in (name for name in order if name not in named):
        axes.plot(*_steps(*lines[name][:2]), color=style.training, linewidth=0.8, alpha=0.5)
    shown = []
    for name, color in zip(named, _colors(len(named), theme), strict=True):
        recall, precision, scores = lines[name]
        label = f"{_short(name)}  {values[name]:.3f}"
        best = _best(recall, precision, scores)
        if best is not None:
            axes.plot(recall[best], precision[best], "o", color=color, markersize=6, zorder=3)
            label += f"  ● {scores[best]:.2f}"
        shown += axes.plot(*_steps(recall, precision), color=color, linewidth=1.8, label=label)
    if mean and len(order) > 1:
        middle = np.mean([_at_grid(*lines[name][:2]) for name in order], axis=0)
        average = np.mean([values[name] for name in order])
        shown += axes.plot(_GRID, middle, color=style.ink, linewidth=2.6, label=f"mean of {len(order)}  {average:.3f}")
    told = "average precision"
    if any(lines[name][2] is not None for name in named):
        told += ", ● best F1 at score"
    _finish(figure, axes, shown, title, told, style)
    return _png(figure)


def _checked(name: str, parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    arrays = [np.asarray(part, np.float64) for part in parts]
    if len(arrays) not in (2, 3) or any(a.ndim != 1 or len(a) != len(arrays[0]) for a in arrays):
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise DataError(
            f"the curve of {name} must be recall, precision and maybe scores, each (M,), received {shapes}."
        )
    recall, precision = arrays[:2]
    inside = all(((values >= 0) & (values <= 1)).all() for values in (recall, precision))
    if not inside or (np.diff(recall) < 0).any():
        raise DataError(f"recall and precision of {name} must lie in 0..1, and recall must not fall.")
    return recall, precision, arrays[2] if len(arrays) == 3 else None


def _envelope(precision: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(precision[::-1])[::-1]


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    return float(np.sum(np.diff(recall, prepend=0.0) * _envelope(precision)))


def _at_grid(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    return np.append(_envelope(precision), 0.0)[np.searchsorted(recall, _GRID - 1e-12)]


def _steps(recall: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The falling staircase under which the area is the average precision, down to 0 after the last recall."""
    if not len(recall):
        return np.zeros(2), np.zeros(2)
    high = _envelope(precision)
    x = np.concatenate([[0.0], np.repeat(recall, 2)])
    y = np.concatenate([np.repeat(high, 2), [0.0]])
    return x, y


def _best(recall: np.ndarray, precision: np.ndarray, scores: np.ndarray | None) -> int | None:
    total = recall + precision
    if scores is None or not (recall > 0).any():
        return None
    f1 = np.divide(2 * recall * precision, total, out=np.zeros_like(total), where=total > 0)
    last = np.append(scores[1:] != scores[:-1], True)  # detections of one score are kept together
    return int(np.argmax(np.where(last, f1, -1.0)))


def _draw_f1(axes: Any, style: Theme) -> None:
    """Faint lines of equal F1."""
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.geomspace(f1 / (2 - f1), 1, 100)
        axes.plot(recall, f1 * recall / (2 * recall - f1), color=style.faint, linewidth=0.9, zorder=0)
        axes.text(f1 / (2 - f1), 1.012, f"F1 {f1:.1f}", fontsize=7, color=style.training, ha="center", va="bottom")


def _colors(count: int, theme: str) -> list[Any]:
    from matplotlib import colormaps

    if count == 1:
        return [_theme(theme).validation]
    return [colormaps["tab10"](i % 10) for i in range(count)]


def _finish(figure: Any, axes: Any, shown: Sequence[Any], title: str, legend_title: str, style: Theme) -> None:
    # Names are set afterwards: matplotlib leaves out what is called "_...", and before 3.10 even where it is listed.
    legend = figure.legend(
        shown,
        ["name"] * len(shown),
        loc="outside right upper",
        fontsize=8.5,
        frameon=False,
        labelcolor=style.ink,
        title=legend_title,
        title_fontsize=9,
        alignment="left",
    )
    legend.get_title().set_color(style.ink)
    for text, line in zip(legend.get_texts(), shown, strict=True):
        text.set_text(line.get_label())
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01))
    axes.set_xlabel("recall", fontsize=10, color=style.ink)
    axes.set_ylabel("precision", fontsize=10, color=style.ink)
    axes.set_facecolor(style.ground)
    axes.tick_params(which="both", colors=style.ink, labelsize=8, length=0)
    if title:
        axes.set_title(title, fontsize=11, color=style.ink, loc="left", fontweight="bold", pad=16, parse_math=False)
    for place, spine in axes.spines.items():
        spine.set_visible(place in ("bottom", "left"))
        spine.set_color(style.faint)
