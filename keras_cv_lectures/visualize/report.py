"""One HTML file that tells how a segmentation run went: curves, scores, confusion, examples, exported files."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import write_text
from keras_cv_lectures.visualize.curves import (
    VALIDATION,
    History,
    confusion_figure,
    curve_names,
    smaller_is_better,
    training_curves,
)
from keras_cv_lectures.visualize.overlays import Colors, error_map, overlay, rgb
from keras_cv_lectures.visualize.page import (
    chart,
    document,
    escape,
    image,
    paragraph,
    section,
    swatch,
    table,
)

LARGEST_PANEL = 360
SMALL_PANEL = 200
HEADLINES = (
    ("mean_iou", "mean IoU"),
    ("pixel_accuracy", "pixel accuracy"),
    ("mean_accuracy", "mean class accuracy"),
    ("frequency_weighted_iou", "frequency-weighted IoU"),
)
Notes = str | Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ExamplePicture:
    """One picture of a report.

    Attributes:
        caption: for example the file name.
        image: (H, W, 3) or (H, W) in 0..255.
        truth: (H, W) integer labels, 255 = ignore; None where it is not known.
        prediction: (H, W) integer labels.
        score: mean IoU of this picture in 0..1, None or nan where it has none.
    """

    caption: str
    image: np.ndarray
    truth: np.ndarray | None
    prediction: np.ndarray
    score: float | None = None


def write_report(
    path: str | os.PathLike,
    *,
    title: str,
    classes: Sequence[str],
    colors: Colors,
    metadata: Mapping[str, Any] | None = None,
    history: History = (),
    scores: Mapping[str, Any] | None = None,
    confusion: np.ndarray | None = None,
    best: Sequence[ExamplePicture] = (),
    worst: Sequence[ExamplePicture] = (),
    exports: Sequence[Mapping[str, Any]] = (),
    notes: Notes = (),
) -> Path:
    """Writes the report as one self-contained file: pictures inside, no script, no address elsewhere.

    A part that is missing leaves a sentence that says so. Pictures are shrunk to at most 360 pixels a side.

    Args:
        path: file to write, replaced as a whole or not at all.
        title: heading of the page.
        classes: names in label order, background included.
        colors: one (red, green, blue) in 0..255 per class.
        metadata: what was run, in the order to show: `system`, `data`, `command`, `versions`, `time` and others; values
            are text, numbers, lists or mappings.
        history: one mapping of numbers per epoch, see `training_curves`.
        scores: `pixel_accuracy`, `mean_accuracy`, `mean_iou`, `frequency_weighted_iou` in 0..1 and `per_class`, a list
            of `{"name", "iou", "accuracy", "precision", "pixels"}` in label order; nan for a class that does not occur.
        confusion: (K, K) counts of pixels, rows are the truth.
        best: pictures with the highest scores, best first.
        worst: pictures with the lowest scores, worst first.
        exports: one mapping per exported file: `file`, `format`, `precision`, `size_bytes`, `latency_ms_1_thread`,
            `latency_ms_2_threads`, `mean_iou`, `max_difference` (to the model, on its outputs), `operators_ok`. Keys
            may be missing.
        notes: sentences for the end of the page.

    Returns:
        `path`.

    Raises:
        DataError: there are not as many colours as classes, or an array has another shape than stated.
    """
    if len(classes) != len(colors):
        raise DataError(f"a report needs one colour per class, received {len(classes)} classes, {len(colors)} colors.")
    metadata, scores = metadata or {}, scores or {}
    parts = [
        _header(title, metadata),
        _tiles(scores),
        section("training", "Training", *_training(history)),
        section("classes", "Scores by class", *_class_table(scores, colors)),
        section("confusion", "Confusion", *_confusion(confusion, classes)),
        section("examples", "Examples", *_examples(best, worst, classes, colors)),
        section("exports", "Exported files", *_exports(exports)),
        section("about", "How it was made", *_about(metadata)),
        _notes(notes),
    ]
    path = Path(path)
    write_text(path, document(title, "\n".join(part for part in parts if part)))
    return path


def _header(title: str, metadata: Mapping[str, Any]) -> str:
    facts = [escape(_plain(metadata[key])) for key in ("system", "data", "time") if metadata.get(key)]
    return f"<header>\n<h1>{escape(title)}</h1>\n<p>{' · '.join(facts)}</p>\n</header>"


def _tiles(scores: Mapping[str, Any]) -> str:
    known = [(name, _float(scores.get(key))) for key, name in HEADLINES]
    known = [(name, value) for name, value in known if math.isfinite(value)]
    tiles = "".join(f'<div class="tile"><b>{value:.3f}</b><span>{name}</span></div>' for name, value in known)
    return f'<div class="tiles">{tiles}</div>' if tiles else ""


def _training(history: History) -> list[str]:
    names = curve_names(history)
    if not names:
        return [paragraph("No training history was recorded for this model.")]
    charts = []
    for name in names:
        light, dark = (training_curves(history, names=[name], theme=theme) for theme in ("light", "dark"))
        charts.append(chart(light, dark, f"{name} over {len(history)} epochs"))
    columns = list(dict.fromkeys(key for row in history for key in row))
    rows = [
        [escape(row.get("epoch", number))] + [_number(row.get(c), "{:.4g}") for c in columns if c != "epoch"]
        for number, row in enumerate(history, 1)
    ]
    heads = [("epoch", False)] + [(c.replace("_", " "), True) for c in columns if c != "epoch"]
    every = f"<details><summary>All epochs</summary>{table('history-table', heads, rows)}</details>"
    kind = "charts pairs" if len(charts) in (2, 4) else "charts"  # no chart alone in its row
    return [paragraph(_best_epoch(history, names)), f'<div class="{kind}">{"".join(charts)}</div>', every]


def _best_epoch(history: History, names: list[str]) -> str:
    count = f"{len(history)} epoch{'s' if len(history) != 1 else ''}"
    for name in sorted(names, key=lambda n: (n != "mean_iou", n != "loss")):
        values = np.array([_float(row.get(VALIDATION + name)) for row in history])
        if np.isfinite(values).any():
            values[~np.isfinite(values)] = np.nan
            best = np.nanargmin(values) if smaller_is_better(name) else np.nanargmax(values)
            epoch = history[best].get("epoch", best + 1)
            words = name.replace("_", " ").replace("iou", "IoU")
            return f"{count}. Best validation {words}: {values[best]:.4g}, epoch {epoch}."
    return f"{count}, without validation."


def _class_table(scores: Mapping[str, Any], colors: Colors) -> list[str]:
    classes = scores.get("per_class") or ()
    if not classes:
        return [paragraph("This model was not evaluated on labelled data.")]
    total = sum(max(0.0, _float(row.get("pixels"), 0.0)) for row in classes)
    rows = []
    for label, row in enumerate(classes):
        pixels = _float(row.get("pixels"), 0.0)
        gone = "absent" if pixels <= 0 else "–"
        color = swatch(colors[label]) if label < len(colors) else ""
        rows.append(
            [
                f"{color}{escape(row.get('name', label))}",
                _bar(row.get("iou"), gone),
                _number(row.get("accuracy"), "{:.3f}", gone),
                _number(row.get("precision"), "{:.3f}", gone if pixels <= 0 else "not predicted"),
                f"{pixels:,.0f}",
                f"{pixels / total:.2%}" if total else "–",
            ]
        )
    heads = [
        (name, name not in ("class", "IoU")) for name in ("class", "IoU", "accuracy", "precision", "pixels", "share")
    ]
    text = "Accuracy: share of the class's pixels that were found. Precision: share of its predictions that are right."
    return [paragraph(text), table("class-table", heads, rows)]


def _confusion(confusion: np.ndarray | None, classes: Sequence[str]) -> list[str]:
    if confusion is None or not np.nansum(confusion) > 0:
        return [paragraph("No labelled pixel was evaluated, so there is no confusion matrix.")]
    light, dark = (confusion_figure(confusion, classes, theme=theme) for theme in ("light", "dark"))
    text = (
        "Rows are the truth, columns the prediction; colours tell the share of a row. A blank row is an absent class."
    )
    picture = chart(light, dark, "confusion matrix, rows are the truth", "matrix")
    return [paragraph(text), f'<div class="scroll">{picture}</div>']


def _examples(
    best: Sequence[ExamplePicture], worst: Sequence[ExamplePicture], classes: Sequence[str], colors: Colors
) -> list[str]:
    if not best and not worst:
        return [paragraph("No example pictures were kept.")]
    shown = [example.prediction for example in (*best, *worst)]
    shown += [example.truth for example in (*best, *worst) if example.truth is not None]
    present = {int(label) for class_map in shown for label in np.unique(class_map)}
    key = "".join(
        f"<span>{swatch(color)}{escape(name)}</span>"
        for label, (name, color) in enumerate(zip(classes, colors, strict=True))
        if label in present
    )
    text = "Errors are red; hatched pixels carry no label and count neither way."
    parts = [paragraph(text), f'<div class="key">{key}</div>']
    for heading, examples in (("Best", best), ("Worst", worst)):
        if examples:
            parts += [f"<h3>{heading}</h3>", *(_example(example, colors) for example in examples)]
    return parts


def _example(example: ExamplePicture, colors: Colors) -> str:
    picture = _shrink(rgb(example.image), labels=False)
    prediction = _shrink(np.asarray(example.prediction), labels=True)
    panels = [("picture", picture), ("prediction", overlay(picture, prediction, colors))]
    if example.truth is not None:
        truth = _shrink(np.asarray(example.truth), labels=True)
        panels.insert(1, ("truth", overlay(picture, truth, colors)))
        panels.append(("errors", error_map(picture, truth, prediction)))
    kind = "pixelated" if max(picture.shape[:2]) <= SMALL_PANEL else ""
    figures = "".join(
        f"<figure>{image(_png(panel), f'{name} of {example.caption}', kind)}<figcaption>{name}</figcaption></figure>"
        for name, panel in panels
    )
    score = _float(example.score)
    told = f"<b>mean IoU {score:.3f}</b>" if math.isfinite(score) else ""
    caption = f"<p><span>{escape(example.caption)}</span>{told}</p>"
    return f'<div class="example">{caption}<div class="panels">{figures}</div></div>'


def _exports(exports: Sequence[Mapping[str, Any]]) -> list[str]:
    if not exports:
        return [
            paragraph("Nothing was exported from this model yet. `kcvl export` writes files for phones and servers.")
        ]
    columns = [
        ("file", "file", False, lambda v: f"<code>{escape(v)}</code>"),
        ("format", "format", False, escape),
        ("precision", "precision", False, escape),
        ("size_bytes", "size", True, _size),
        ("latency_ms_1_thread", "ms, 1 thread", True, lambda v: _number(v, "{:.1f}")),
        ("latency_ms_2_threads", "ms, 2 threads", True, lambda v: _number(v, "{:.1f}")),
        ("mean_iou", "mean IoU", True, lambda v: _number(v, "{:.3f}")),
        ("max_difference", "max. difference", True, lambda v: _number(v, "{:.2g}")),
        ("operators_ok", "operators", False, _operators),
    ]
    columns = [column for column in columns if any(row.get(column[0]) is not None for row in exports)]
    rows = [[_none("–") if row.get(k) is None else show(row[k]) for k, _, _, show in columns] for row in exports]
    text = "Size on disk, time for one picture, mean IoU of the file itself, and its largest difference to the model."
    return [paragraph(text), table("export-table", [(head, number) for _, head, number, _ in columns], rows)]


def _about(metadata: Mapping[str, Any]) -> list[str]:
    if not metadata:
        return [paragraph("Nothing was recorded about the run.")]
    facts = []
    for key, value in metadata.items():
        shown = f"<pre>{escape(value)}</pre>" if key == "command" else escape(_plain(value))
        facts.append(f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{shown}</dd>")
    return [f"<dl>{''.join(facts)}</dl>"]


def _notes(notes: Notes) -> str:
    notes = [notes] if isinstance(notes, str) else list(notes)
    return (
        section("notes", "Notes", f"<ul>{''.join(f'<li>{escape(n)}</li>' for n in notes)}</ul>") if any(notes) else ""
    )


def _bar(value: Any, otherwise: str) -> str:
    number = _float(value)
    if not math.isfinite(number):
        return _none(otherwise)
    width = 100 * min(1.0, max(0.0, number))
    return f'<span class="bar"><i style="width:{width:.1f}%"></i></span>{number:.3f}'


def _number(value: Any, form: str, otherwise: str = "–") -> str:
    number = _float(value)
    return form.format(number) if math.isfinite(number) else _none(otherwise)


def _none(word: str) -> str:
    return f'<span class="none">{escape(word)}</span>'


def _operators(value: Any) -> str:
    if not isinstance(value, bool | np.bool_):
        return escape(value)
    return '<span class="good">builtin only</span>' if value else '<span class="bad">not builtin</span>'


def _size(value: Any) -> str:
    number = _float(value)
    if not math.isfinite(number):
        return _none("–")
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.0f} kB"


def _float(value: Any, otherwise: float = math.nan) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return otherwise
    return otherwise if math.isnan(number) else number


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return " · ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str) if value else "none"
    return str(value)


def _shrink(array: np.ndarray, *, labels: bool) -> np.ndarray:
    """The picture or class map at no more than LARGEST_PANEL pixels a side; pictures averaged, labels sampled."""
    from PIL import Image

    factor = max(array.shape[:2]) / LARGEST_PANEL
    if factor <= 1:
        return array
    height, width = (max(1, round(side / factor)) for side in array.shape[:2])
    if labels:
        rows = ((np.arange(height) + 0.5) * array.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * array.shape[1] / width).astype(int)
        return array[rows][:, columns]
    return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BOX))


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
