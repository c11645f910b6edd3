"""The parts that report pages of all tasks share: heading, curves, exported files, how it was made. HTML as text."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_cv_lectures.visualize.curves import (
    VALIDATION,
    WITHOUT_MEANING,
    History,
    curve_names,
    is_average_precision,
    joint_curves,
    quantity_words,
    smaller_is_better,
    training_curves,
)
from keras_cv_lectures.visualize.page import WIDE, chart, escape, paragraph, section, table

Notes = str | Sequence[str]

# What the files of a detector may be scored by, in the order of the table's columns.
DETECTION_SCORES = {
    "ap": "AP",
    "ap50": "AP50",
    "voc_ap50": "VOC AP50",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "mask_voc_ap50": "mask VOC AP50",
    "keypoint_ap": "keypoint AP",
    "keypoint_ap50": "keypoint AP50",
    "keypoint_voc_ap50": "keypoint VOC AP50",
}
# What captions are scored by, in the order of tables.
CAPTION_SCORES = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr-D",
    "meteor": "METEOR",
    "spice": "SPICE",
    "exact_match": "exact captions",
    "attention_in_box": "attention in the box",
    "attention_peak_in_box": "its peak in the box",
    "even_in_box": "even attention in the box",
}
FILE_SCORES = DETECTION_SCORES | CAPTION_SCORES


def header(title: str, metadata: Mapping[str, Any]) -> str:
    """The heading of a page, and below it what the page is about."""
    facts = [escape(_plain(metadata[key])) for key in ("system", "data", "time") if metadata.get(key)]
    return f"<header>\n<h1>{escape(title)}</h1>\n<p>{' · '.join(facts)}</p>\n</header>"


def tiles(scores: Iterable[tuple[str, Any]]) -> str:
    """The most important numbers, large. `scores` are (name, number); what is no finite number is left out."""
    known = [(name, as_float(value)) for name, value in scores]
    known = [(name, value) for name, value in known if math.isfinite(value)]
    shown = "".join(f'<div class="tile"><b>{value:.3f}</b><span>{escape(name)}</span></div>' for name, value in known)
    return f'<div class="tiles">{shown}</div>' if shown else ""


def training(history: History, kept: str = "") -> list[str]:
    """The curves of every quantity over the epochs, average precisions or scores of captions in one chart, and all
    numbers. `kept` says which epoch the model is of; "" where that is not known."""
    names = curve_names(history)
    if not names:
        return [paragraph("No training history was recorded for this model.")]
    groups = {
        "average precision": [name for name in names if is_average_precision(name)],
        "captions": [name for name in names if name in CAPTION_SCORES and name != "cider"],  # which is no share of 1
    }
    groups = {title: joint for title, joint in groups.items() if len(joint) > 1}
    single = [name for name in names if not any(name in joint for joint in groups.values())]
    charts = []
    for name in single:
        light, dark = (training_curves(history, names=[name], theme=theme) for theme in ("light", "dark"))
        charts.append(chart(light, dark, f"{name} over {len(history)} epochs"))
    for title, joint in groups.items():
        light, dark = (joint_curves(history, joint, title=title, theme=theme) for theme in ("light", "dark"))
        place = 1 if single[:1] == ["loss"] else 0
        charts.insert(place, chart(light, dark, f"{', '.join(joint)} over {len(history)} epochs"))
    columns = list(dict.fromkeys(key for row in history for key in row))
    rows = [
        [escape(row.get("epoch", number))] + [number_text(row.get(c), "{:.4g}") for c in columns if c != "epoch"]
        for number, row in enumerate(history, 1)
    ]
    heads = [("epoch", False)] + [(c.replace("_", " "), True) for c in columns if c != "epoch"]
    every = f"<details><summary>All epochs</summary>{table('history-table', heads, rows)}</details>"
    kind = "charts pairs" if len(charts) in (2, 4) else "charts"  # no chart alone in its row
    return [paragraph(_epochs_told(history, names, kept)), f'<div class="{kind}">{"".join(charts)}</div>', every]


def exported_files(exports: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of exported files with their sizes, times and scores."""
    if not exports:
        return [
            paragraph("Nothing was exported from this model yet. `kcvl export` writes files for phones and servers.")
        ]
    columns = [
        ("file", "file", False, lambda v: f"<code>{escape(v)}</code>"),
        ("format", "format", False, escape),
        ("precision", "precision", False, escape),
        ("made_of", "made of", False, escape),
        ("size_bytes", "size", True, _size),
        ("latency_ms_1_thread", "ms, 1 thread", True, lambda v: number_text(v, "{:.1f}")),
        ("latency_ms_2_threads", "ms, 2 threads", True, lambda v: number_text(v, "{:.1f}")),
        ("mean_iou", "mean IoU", True, lambda v: number_text(v, "{:.3f}")),
        *[(key, head, True, lambda v: number_text(v, "{:.3f}")) for key, head in FILE_SCORES.items()],
        ("max_difference", "difference", True, lambda v: number_text(v, "{:.2g}")),
        ("operators_ok", "operators", False, _operators),
    ]
    columns = [column for column in columns if any(row.get(column[0]) is not None for row in exports)]
    if len(columns) > WIDE:  # The name of the file tells its format too.
        columns = [column for column in columns if column[0] != "format"]
    rows = [[pale("–") if row.get(k) is None else show(row[k]) for k, _, _, show in columns] for row in exports]
    shown = {key for key, *_ in columns}
    told = ["Size on disk", "time for one picture"]
    if "mean_iou" in shown:
        told.append("mean IoU of the file itself")
    if shown & set(DETECTION_SCORES):
        told.append("average precision of the file itself")
    if shown & set(CAPTION_SCORES):
        told.append("scores of the file's own captions")
    if "max_difference" in shown:
        detector = any(row.get("task") == "detection" for row in exports)
        told.append("its largest difference to the model" + ("'s scores" if detector else ""))
    text = f"{', '.join(told[:-1])}, and {told[-1]}." if len(told) > 2 else f"{' and '.join(told)}."
    return [paragraph(text), table("export-table", [(head, number) for _, head, number, _ in columns], rows)]


def about(metadata: Mapping[str, Any]) -> list[str]:
    """What was recorded about the run, in the order given."""
    if not metadata:
        return [paragraph("Nothing was recorded about the run.")]
    facts = []
    for key, value in metadata.items():
        shown = f"<pre>{escape(value)}</pre>" if key == "command" else escape(_plain(value))
        facts.append(f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{shown}</dd>")
    return [f"<dl>{''.join(facts)}</dl>"]


def notes_section(notes: Notes) -> str:
    """Sentences for the end of the page; nothing where there are none."""
    notes = [notes] if isinstance(notes, str) else list(notes)
    return (
        section("notes", "Notes", f"<ul>{''.join(f'<li>{escape(n)}</li>' for n in notes)}</ul>") if any(notes) else ""
    )


def bar(value: Any, otherwise: str) -> str:
    """A share 0..1 as a bar with its number; `otherwise` where it is no finite number."""
    number = as_float(value)
    if not math.isfinite(number):
        return pale(otherwise)
    width = 100 * min(1.0, max(0.0, number))
    return f'<span class="bar"><i style="width:{width:.1f}%"></i></span>{number:.3f}'


def number_text(value: Any, form: str, otherwise: str = "–") -> str:
    """A number in the format `form`; `otherwise` where it is no finite number."""
    number = as_float(value)
    return form.format(number) if math.isfinite(number) else pale(otherwise)


def pale(word: str) -> str:
    """A word in place of a number."""
    return f'<span class="none">{escape(word)}</span>'


def as_float(value: Any, otherwise: float = math.nan) -> float:
    """`value` as a number; `otherwise` where it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return otherwise
    return otherwise if math.isnan(number) else number


def png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _epochs_told(history: History, names: list[str], kept: str) -> str:
    count = f"{len(history)} epoch{'s' if len(history) != 1 else ''}"
    if kept:
        return f"{count}. {kept}"
    order = sorted(
        names, key=lambda n: (n != "mean_iou", not is_average_precision(n), n != "bleu4", n != "bleu1", n != "loss")
    )
    for name in (each for each in order if each not in WITHOUT_MEANING):
        values = np.array([as_float(row.get(VALIDATION + name)) for row in history])
        if np.isfinite(values).any():
            values[~np.isfinite(values)] = np.nan
            best = np.nanargmin(values) if smaller_is_better(name) else np.nanargmax(values)
            epoch = history[best].get("epoch", best + 1)
            return f"{count}. Best validation {quantity_words(name)}: {values[best]:.4g}, epoch {as_float(epoch):g}."
    return f"{count}, without validation."


def _operators(value: Any) -> str:
    if not isinstance(value, bool | np.bool_):
        return escape(value)
    return '<span class="good">builtin only</span>' if value else '<span class="bad">not builtin</span>'


def _size(value: Any) -> str:
    number = as_float(value)
    if not math.isfinite(number):
        return pale("–")
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return " · ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str) if value else "none"
    return str(value)
