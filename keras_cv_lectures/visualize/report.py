"""One HTML file that tells how a segmentation run went: curves, scores, confusion, examples, exported files."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import write_text
from keras_cv_lectures.visualize.curves import History, confusion_figure
from keras_cv_lectures.visualize.overlays import Colors, error_map, overlay, rgb
from keras_cv_lectures.visualize.page import chart, document, escape, image, paragraph, section, swatch, table
from keras_cv_lectures.visualize.sections import (
    Notes,
    about,
    as_float,
    bar,
    exported_files,
    header,
    notes_section,
    number_text,
    png,
    tiles,
    training,
)

LARGEST_PANEL = 360
SMALL_PANEL = 200
HEADLINES = (
    ("mean_iou", "mean IoU"),
    ("mean_dice", "mean Dice"),
    ("pixel_accuracy", "pixel accuracy"),
    ("mean_accuracy", "mean class accuracy"),
    ("frequency_weighted_iou", "frequency-weighted IoU"),
)


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
    kept: str = "",
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
        kept: which epoch the model is of, in a sentence.
        scores: `pixel_accuracy`, `mean_accuracy`, `mean_iou`, `mean_dice`, `frequency_weighted_iou` in 0..1 and
            `per_class`, a list of `{"name", "iou", "dice", "accuracy", "precision", "pixels"}` in label order; nan for
            a class that does not occur.
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
        header(title, metadata),
        tiles([(name, scores.get(key)) for key, name in HEADLINES]),
        section("training", "Training", *training(history, kept)),
        section("classes", "Scores by class", *_class_table(scores, colors)),
        section("confusion", "Confusion", *_confusion(confusion, classes)),
        section("examples", "Examples", *_examples(best, worst, classes, colors)),
        section("exports", "Exported files", *exported_files(exports)),
        section("about", "How it was made", *about(metadata)),
        notes_section(notes),
    ]
    path = Path(path)
    write_text(path, document(title, "\n".join(part for part in parts if part)))
    return path


def _class_table(scores: Mapping[str, Any], colors: Colors) -> list[str]:
    classes = scores.get("per_class") or ()
    if not classes:
        return [paragraph("This model was not evaluated on labelled data.")]
    total = sum(max(0.0, as_float(row.get("pixels"), 0.0)) for row in classes)
    rows = []
    for label, row in enumerate(classes):
        pixels = as_float(row.get("pixels"), 0.0)
        gone = "absent" if pixels <= 0 else "–"
        color = swatch(colors[label]) if label < len(colors) else ""
        rows.append(
            [
                f"{color}{escape(row.get('name', label))}",
                bar(row.get("iou"), gone),
                number_text(row.get("dice"), "{:.3f}", gone),
                number_text(row.get("accuracy"), "{:.3f}", gone),
                number_text(row.get("precision"), "{:.3f}", gone if pixels <= 0 else "not predicted"),
                f"{pixels:,.0f}",
                f"{pixels / total:.2%}" if total else "–",
            ]
        )
    heads = [
        (name, name not in ("class", "IoU"))
        for name in ("class", "IoU", "Dice", "accuracy", "precision", "pixels", "share")
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
        f"<figure>{image(png(panel), f'{name} of {example.caption}', kind)}<figcaption>{name}</figcaption></figure>"
        for name, panel in panels
    )
    score = as_float(example.score)
    told = f"<b>mean IoU {score:.3f}</b>" if math.isfinite(score) else ""
    caption = f"<p><span>{escape(example.caption)}</span>{told}</p>"
    return f'<div class="example">{caption}<div class="panels">{figures}</div></div>'


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
