"""Plain-text tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns aligned with spaces: numbers to the right, words to the left."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[k]) for row in [list(heads), *cells]) for k in range(len(heads))]
    numeric = [all(not isinstance(row[k], str) for row in rows) for k in range(len(heads))]
    lines = []
    for row in ([list(heads)] if any(heads) else []) + cells:
        parts = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def scores_table(scores: Mapping[str, Any]) -> str:
    """Per-class table and the four means of `metrics.scores`."""
    rows = [
        [c["name"], _share(c["iou"]), _share(c["accuracy"]), _share(c["precision"]), int(c["pixels"])]
        for c in scores["per_class"]
    ]
    means = [
        [name.replace("_", " "), _share(scores[name])]
        for name in ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "boundary_f1")
        if name in scores
    ]
    return table(["class", "IoU", "accuracy", "precision", "pixels"], rows) + "\n\n" + table(["", ""], means)


def size_text(key: str, value: Any) -> str:
    """A value of an export's row, with its unit."""
    if key == "size_bytes":
        return f"{value / 1e6:.2f} MB"
    if key.startswith("latency_ms") and value is not None:
        return f"{value:.2f} ms"
    return _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _share(value: float | None) -> str:
    return "absent" if value is None or math.isnan(value) else f"{value:.4f}"
