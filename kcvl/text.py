"""Plain-text tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_SCORES = {
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "boundary_f1": "boundary F1",
}
_EXPORT = {
    "size_bytes": "size",
    "latency_ms_1_thread": "one picture, 1 thread",
    "latency_ms_2_threads": "one picture, 2 threads",
    "mean_iou": "mean IoU of the file",
    "max_difference": "largest difference to the model",
    "label_agreement": "pixels with the model's label",
}


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
    """Per-class table and the means of `metrics.scores`."""
    rows = [
        [c["name"], _share(c["iou"]), _share(c["accuracy"]), _share(c["precision"]), int(c["pixels"])]
        for c in scores["per_class"]
    ]
    means = [[label, _share(scores[name])] for name, label in _SCORES.items() if name in scores]
    return table(["class", "IoU", "accuracy", "precision", "pixels"], rows) + "\n\n" + table(["", ""], means)


def export_table(row: Mapping[str, Any]) -> str:
    """What was measured of one exported file, with units."""
    shown = [[label, _with_unit(key, row[key])] for key, label in _EXPORT.items() if row.get(key) is not None]
    return table(["", ""], shown)


def size_text(size_bytes: float) -> str:
    """Bytes for a person."""
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"


def count_text(count: int, one: str, many: str = "") -> str:
    """`1 picture`, `2 pictures`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _with_unit(key: str, value: Any) -> str:
    if key == "size_bytes":
        return size_text(value)
    if key.startswith("latency_ms"):
        return f"{value:.2f} ms"
    if key == "label_agreement":
        return f"{100 * value:.2f} %"
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
