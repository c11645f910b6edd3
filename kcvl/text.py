"""Plain-text tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from keras_cv_lectures.benchmarking.results import short_number
from keras_cv_lectures.visualize.sections import CAPTION_SCORES, FILE_SCORES

PIXEL_SCORES = {
    "mean_iou": "mean IoU",
    "mean_dice": "mean Dice",
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
    **{key: f"{name} of the file" for key, name in FILE_SCORES.items()},
    "scored_on": "measured on",
    "max_difference": "largest difference to the model",
    "label_agreement": "labels as the model gives them",
}
# What the same numbers are of a detector.
_EXPORT_DETECTOR = {
    **_EXPORT,
    "max_difference": "largest difference to the model's scores",
    "label_agreement": "detections that the model has, too",
}
_EXPORT_CAPTIONER = {
    **_EXPORT,
    "max_difference": "largest difference to the model's log probabilities and attention",
    "label_agreement": "tokens that the model has, too",
}
_EXPORTS = {"detection": _EXPORT_DETECTOR, "captioning": _EXPORT_CAPTIONER}


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


def scores_table(scores: Mapping[str, Any], constant: Mapping[str, Any] | None = None) -> str:
    """Per-class table and means: of `metrics.scores`, or of each kind in a `DetectionEvaluation`; or the scores of a
    `CaptionEvaluation`, beside them those of its best `constant` caption."""
    if "bleu4" in scores:
        return _caption_table(scores, constant or {})
    if "per_class" not in scores:
        return "\n\n".join(f"{kind}\n{_precision_table(part)}" for kind, part in scores.items())
    rows = [
        [
            c["name"],
            _share(c["iou"]),
            _share(c["accuracy"]),
            _share(c["precision"], "not predicted" if c["pixels"] else "absent"),
            int(c["pixels"]),
        ]
        for c in scores["per_class"]
    ]
    means = [[label, _share(scores[name])] for name, label in PIXEL_SCORES.items() if name in scores]
    return table(["class", "IoU", "accuracy", "precision", "pixels"], rows) + "\n\n" + table(["", ""], means)


def _caption_table(scores: Mapping[str, Any], constant: Mapping[str, Any]) -> str:
    columns = [scores, constant] if constant else [scores]
    rows = [
        [label, *(f"{column[key]:.4f}" if key in column else "-" for column in columns)]
        for key, label in CAPTION_SCORES.items()
        if key in scores
    ]
    return table(["score", "model", "best constant caption"][: 1 + len(columns)], rows)


def _precision_table(scores: Mapping[str, Any]) -> str:
    """Average precision of each class and over all, and COCO's other numbers where they were computed."""
    coco = scores.get("ap") is not None
    keys = ["ap", "ap50", "ap75", "voc_ap50"] if coco else ["voc_ap50"]
    heads = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "voc_ap50": "VOC AP50"}
    rows = [
        [
            c["name"],
            *(_share(c[key]) for key in keys),
            f"{c['best_f1']:.4f} from score {c['best_threshold']:.2f}" if c["best_f1"] is not None else "-",
            int(c["objects"]),
            int(c["detections"]),
        ]
        for c in scores["per_class"]
    ]
    total = [sum(c[key] for c in scores["per_class"]) for key in ("objects", "detections")]
    if len(rows) > 1:
        rows.append(["mean", *(_share(scores[key]) for key in keys), "", *total])
    shown = table(["class", *(heads[key] for key in keys), "best F1", "objects", "detections"], rows)
    others = [[label, _share(scores[key])] for key, label in _coco_names(scores)]
    return shown + ("\n\n" + table(["", ""], others) if coco else "")


def _coco_names(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Key and words of COCO's numbers that are no column of their own."""
    sizes = {"small": "objects below 32x32", "medium": "objects between", "large": "objects above 96x96"}
    named = []
    for key in scores:
        kind, _, rest = key.partition("_")
        if kind in ("ap", "ar") and rest in sizes:
            named.append((key, f"{kind.upper()}, {sizes[rest]}"))
        elif kind == "ar" and rest.isdecimal():
            named.append((key, f"AR, {count_text(int(rest), 'detection')} a picture"))
        elif key == "ar":
            named.append((key, "AR"))
    return named


def headline(row: Mapping[str, Any]) -> tuple[str, float] | None:
    """Name and value of the number that an exported file is judged by; None where it was not scored."""
    names = {"mean_iou": "mean IoU", **FILE_SCORES}
    for key in ("mean_iou", "mask_ap50", "ap50", "mask_voc_ap50", "voc_ap50", "bleu4"):
        if row.get(key) is not None:
            return names[key], row[key]
    return None


def export_table(row: Mapping[str, Any]) -> str:
    """What was measured of one exported file, with units."""
    labels = _EXPORTS.get(row.get("task"), _EXPORT)
    shown = [[label, _with_unit(key, row[key])] for key, label in labels.items() if row.get(key) is not None]
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
        return short_number(value)
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _share(value: float | None, missing: str = "absent") -> str:
    return missing if value is None or math.isnan(value) else f"{value:.4f}"
