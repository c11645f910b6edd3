"""Measured costs as PNG pictures: bars to compare, lines to see what grows with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.visualize.curves import Theme, _png, _theme
from keras_cv_lectures.visualize.precision_recall import _colors


class Bar(NamedTuple):
    """One bar: its name, its length or None for what is missing, and the words behind it."""

    name: str
    value: float | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class LinePanel:
    """One diagram of `lines`.

    Attributes:
        title, x_label, y_label: words.
        curves: name -> (x, y), numbers of equal count.
        fits: name of a curve -> (y at x = 0, slope) of a straight line to draw behind it.
    """

    title: str
    x_label: str
    y_label: str
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    fits: Mapping[str, tuple[float, float]]


def bars(panels: Mapping[str, Sequence[Bar]], *, unit: str = "ms", columns: int = 2, theme: str = "light") -> bytes:
    """Draws horizontal bars, one panel for each key, the shortest bar of a panel in blue.

    Args:
        panels: title -> bars from top to bottom. A missing one has its name and its note only.
        unit: of all values.
        columns: panels side by side.
        theme: "light" or "dark".

    Returns:
        A PNG file.

    Raises:
        DataError: there is no bar, or the theme is unknown.
    """
    from matplotlib.figure import Figure

    colors = _theme(theme)
    panels = {title: list(rows) for title, rows in panels.items() if rows}
    if not panels:
        raise DataError("there is no bar to draw. Pass at least one panel with at least one bar.")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    tallest = max(map(len, panels.values()))
    height = 0.9 + 0.27 * tallest
    figure = Figure(figsize=(6.4 * columns, height * rows), facecolor=colors.ground, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (title, found) in zip(grid, panels.items(), strict=False):
        _draw_bars(axes, title, found, unit, colors)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    return _png(figure)


def lines(panels: Sequence[LinePanel], *, columns: int = 3, theme: str = "light") -> bytes:
    """Draws measured points, joined, each panel with its own axes from zero; fits are thin straight lines behind them.

    Args:
        panels: from left to right and top to bottom. A curve of one name has one colour in all of them.
        columns: panels side by side.
        theme: "light" or "dark".

    Returns:
        A PNG file.

    Raises:
        DataError: there is no panel, x and y of a curve differ in length, or the theme is unknown.
    """
    from matplotlib.figure import Figure

    colors = _theme(theme)
    for panel in panels:
        for name, (x, y) in panel.curves.items():
            if len(x) != len(y) or not len(x):
                counts = f"received {len(x)}, {len(y)}"
                raise DataError(f"{panel.title}: x and y of {name} must be as many numbers, at least one, {counts}.")
    if not panels:
        raise DataError("there is nothing to draw. Pass at least one panel.")
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    inks = dict(zip(names, _colors(len(names), theme), strict=True))
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows), facecolor=colors.ground, layout="constrained")
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
        for name, (x, y) in panel.curves.items():
            if name in panel.fits:
                start, slope = panel.fits[name]
                ends = np.array([0.0, max(x)])
                axes.plot(ends, start + slope * ends, color=inks[name], linewidth=0.9, alpha=0.4)
            axes.plot(x, y, "o-", color=inks[name], linewidth=1.6, markersize=4, label=name)
        axes.set_ylim(0, 1.3 * max(max(y) for _, y in panel.curves.values()))
        axes.set_xlim(left=0)
        axes.set_ylabel(panel.y_label, fontsize=9, color=colors.ink)
        axes.legend(loc="upper left", fontsize=8, frameon=False, labelcolor=colors.ink)
        _finish(axes, panel.title, panel.x_label, colors)
        axes.grid(color=colors.faint, linewidth=0.8)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    return _png(figure)


def _draw_bars(axes: Any, title: str, found: Sequence[Bar], unit: str, colors: Theme) -> None:
    known = [bar.value for bar in found if bar.value is not None]
    longest, shortest = max(known, default=1.0) or 1.0, min(known, default=None)
    for place, bar in enumerate(found):
        if bar.value is not None:
            color = colors.validation if bar.value == shortest else colors.training
            axes.barh(place, bar.value, height=0.68, color=color)
        where = (bar.value or 0.0) + 0.015 * longest
        axes.text(where, place, bar.note, fontsize=8, color=colors.ink, va="center", parse_math=False)
    axes.set_yticks(range(len(found)), [bar.name for bar in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(0, 1.55 * longest)  # Room for the words behind the longest.
    _finish(axes, title, unit, colors)
    axes.grid(axis="x", color=colors.faint, linewidth=0.8)


def _finish(axes: Any, title: str, x_label: str, colors: Theme) -> None:
    axes.set_title(title, fontsize=11, color=colors.ink, loc="left", fontweight="bold", parse_math=False)
    axes.set_xlabel(x_label, fontsize=9, color=colors.ink)
    axes.set_facecolor(colors.ground)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=colors.ink, labelsize=8, length=0)
    for place, spine in axes.spines.items():
        spine.set_visible(place == "bottom")
        spine.set_color(colors.faint)


__all__ = ["Bar", "LinePanel", "bars", "lines"]
