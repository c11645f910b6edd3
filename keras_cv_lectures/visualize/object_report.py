"""One HTML file that tells how a detector's run went: curves, average precision, examples, exported files."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import write_text
from keras_cv_lectures.visualize.curves import History
from keras_cv_lectures.visualize.objects import draw_objects
from keras_cv_lectures.visualize.overlays import Colors, rgb
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
from keras_cv_lectures.visualize.precision_recall import precision_recall_curves
from keras_cv_lectures.visualize.sections import (
    Notes,
    about,
    as_float,
    bar,
    exported_files,
    header,
    notes_section,
    number_text,
    pale,
    png,
    tiles,
    training,
)
from keras_cv_lectures.visualize.sheets import FOUND, MISSED, WRONG, ObjectPicture, object_errors, resize_picture

LARGEST_PANEL = 440
Curves = Mapping[str, Mapping[str, Sequence[np.ndarray]]]

_NUMBERS = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "small",
    "ap_medium": "medium",
    "ap_large": "large",
    "ar_1": "AR, 1",
    "ar_10": "AR, 10",
    "ar_100": "AR, 100",
    "ar": "AR",
    "voc_ap50": "VOC AP50",
}
_CLASS_NUMBERS = {
    "ap50": "AP50",
    "ap75": "AP75",
    "voc_ap50": "VOC AP50",
    "recall": "recall",
    "precision": "precision",
    "best_f1": "best F1",
    "best_threshold": "at score",
}


def write_object_report(
    path: str | os.PathLike,
    *,
    title: str,
    classes: Sequence[str],
    colors: Colors,
    metadata: Mapping[str, Any] | None = None,
    history: History = (),
    kept: str = "",
    scores: Mapping[str, Mapping[str, Any]] | None = None,
    curves: Curves | None = None,
    best: Sequence[ObjectPicture] = (),
    worst: Sequence[ObjectPicture] = (),
    score_threshold: float | None = None,
    sheet: np.ndarray | None = None,
    exports: Sequence[Mapping[str, Any]] = (),
    notes: Notes = (),
) -> Path:
    """Writes the report as one self-contained file: pictures inside, no script, no address elsewhere.

    A part that is missing leaves a sentence that says so. Example pictures are shrunk to at most 440 pixels a side.

    Args:
        path: file to write, replaced as a whole or not at all.
        title: heading of the page.
        classes: names in label order, without background.
        colors: one (red, green, blue) in 0..255 per class.
        metadata: what was run, in the order to show; see `write_report`.
        history: one mapping of numbers per epoch, see `training_curves`.
        kept: which epoch the model is of, in a sentence.
        scores: for each kind ("boxes", "masks", "keypoints") the numbers of `metrics.coco.CocoResult`, `voc_ap50`, and
            `per_class`, a list of dicts in label order: `name`, `ap`, `ap50`, `ap75`, `voc_ap50`, `recall`,
            `precision`, `best_threshold`, `best_f1`, `objects`, `detections`. Any may be missing, None or nan.
        curves: kind -> class -> recall, precision and scores, see `precision_recall_curves`; drawn are classes that
            have a `voc_ap50` in `scores`.
        best: pictures with the highest scores, best first; each with its prediction.
        worst: pictures with the lowest scores, worst first.
        score_threshold: the score that detections on those pictures have at least, for the words above.
        sheet: (H, W, 3) uint8, the first pictures of the training data with their objects, see `object_sheet`.
        exports: one mapping per exported file, see `write_report`; scored by `ap`, `ap50`, `mask_ap`, `mask_ap50`,
            `keypoint_ap`, `keypoint_ap50`.
        notes: sentences for the end of the page.

    Returns:
        `path`.

    Raises:
        DataError: there are not as many colours as classes, or an array has another shape than stated.
    """
    if len(classes) != len(colors):
        raise DataError(f"a report needs one colour per class, received {len(classes)} classes, {len(colors)} colors.")
    metadata, scores, curves = metadata or {}, scores or {}, curves or {}
    parts = [
        header(title, metadata),
        tiles(_headlines(scores)),
        section("training", "Training", *training(history, kept)),
        section("average-precision", "Average precision", *_summary(scores)),
        section("classes", "Scores by class", *_class_tables(scores, classes, colors)),
        section("curves", "Precision and recall", *_curves(curves, scores)),
        section("examples", "Examples", *_examples(best, worst, classes, colors, score_threshold)),
        _data(sheet),
        section("exports", "Exported files", *exported_files(exports)),
        section("about", "How it was made", *about(metadata)),
        notes_section(notes),
    ]
    path = Path(path)
    write_text(path, document(title, "\n".join(part for part in parts if part)))
    return path


def _headlines(scores: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """COCO's AP and AP50 of each kind; where they are missing, VOC's."""
    found = []
    for kind, numbers in scores.items():
        word = {"boxes": "box", "masks": "mask", "keypoints": "keypoint"}.get(kind, kind)
        found += [(f"{word} {_NUMBERS[key]}", numbers.get(key)) for key in ("ap", "ap50")]
        if not math.isfinite(as_float(numbers.get("ap50"))):
            found.append((f"{word} {_NUMBERS['voc_ap50']}", numbers.get("voc_ap50")))
    return found


def _summary(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    keys = [key for key in _NUMBERS if any(_known(numbers.get(key)) for numbers in scores.values())]
    if not keys:
        return [paragraph("This model was not evaluated on pictures with labelled objects.")]
    rows = [
        [escape(kind), *(number_text(numbers.get(key), "{:.3f}") for key in keys)] for kind, numbers in scores.items()
    ]
    told = []
    if "ap" in keys:
        told.append(
            "AP: mean over overlaps (IoU) of 0.50, 0.55 ... 0.95, as COCO defines it; AP50 and AP75 at one of them. "
            "Small objects are below 32 x 32 pixels, large ones above 96 x 96. AR: average recall with so many "
            "detections in a picture."
        )
    if "voc_ap50" in keys:
        told.append("VOC AP50: area under the curves of precision and recall, as Pascal VOC defines it.")
    if "keypoints" in scores:
        told.append("Keypoints overlap by OKS, their similarity in relation to the size of the object.")
    heads = [("", False), *((_NUMBERS[key], True) for key in keys)]
    return [paragraph(" ".join(told)), table("average-precision-table", heads, rows)]


def _class_tables(scores: Mapping[str, Mapping[str, Any]], classes: Sequence[str], colors: Colors) -> list[str]:
    tables = {kind: numbers.get("per_class") or () for kind, numbers in scores.items()}
    if not any(tables.values()):
        return [paragraph("There are no scores by class.")]
    text = (
        "Recall: share of the objects that all detections together find. Precision: share of all detections that are "
        "right. Best F1: the highest balance of both, reached by the detections from that score on."
    )
    parts = [paragraph(text)]
    for kind, rows in tables.items():
        if not rows:
            continue
        if len(tables) > 1:
            parts.append(f"<h3>{escape(kind.capitalize())}</h3>")
        parts.append(_class_table(f"class-table-{kind}", rows, classes, colors))
    return parts


def _class_table(name: str, rows: Sequence[Mapping[str, Any]], classes: Sequence[str], colors: Colors) -> str:
    first = "ap" if any(_known(row.get("ap")) for row in rows) else "voc_ap50"
    keys = [key for key in _CLASS_NUMBERS if key != first and any(_known(row.get(key)) for row in rows)]
    cells = []
    for label, row in enumerate(rows):
        objects, detections = (as_float(row.get(key)) for key in ("objects", "detections"))
        gone = "–" if objects > 0 else "absent"
        color = swatch(colors[label]) if label < len(colors) else ""
        shown = classes[label] if label < len(classes) else label
        cells.append(
            [
                f"{color}{escape(row.get('name', shown))}",
                bar(row.get(first), gone),
                *(number_text(row.get(key), "{:.3f}") for key in keys),
                f"{objects:,.0f}" if math.isfinite(objects) else pale("–"),
                f"{detections:,.0f}" if math.isfinite(detections) else pale("–"),
            ]
        )
    heads = [("class", False), (_NUMBERS[first], False), *((_CLASS_NUMBERS[key], True) for key in keys)]
    return table(name, [*heads, ("objects", True), ("detections", True)], cells)


def _curves(curves: Curves, scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    averaged = {kind: _averages(lines, scores.get(kind, {})) for kind, lines in curves.items()}
    drawn = {kind: lines for kind, lines in curves.items() if any(v is not None for v in averaged[kind].values())}
    if len(drawn) > 1 and all(len(lines) == 1 for lines in drawn.values()):  # One class: all kinds in one chart.
        averaged = {"": {kind: next(iter(averaged[kind].values())) for kind in drawn}}
        drawn = {"": {kind: next(iter(lines.values())) for kind, lines in drawn.items()}}
    charts = []
    for kind, lines in drawn.items():
        overlap = {"": "overlap", "keypoints": "OKS"}.get(kind, "IoU")
        title = f"{kind}, {overlap} above 0.5".removeprefix(", ")
        light, dark = (
            precision_recall_curves(lines, averages=averaged[kind], title=title, theme=theme, mean=kind != "")
            for theme in ("light", "dark")
        )
        named = f"precision and recall of {kind or ', '.join(lines)}"
        charts.append(f'<div class="scroll">{chart(light, dark, named, "matrix")}</div>')
    if not charts:
        return [paragraph("No labelled object was evaluated, so there are no curves.")]
    text = (
        "Each curve runs over all detections, the surest first: what share of the objects is found, and "
        "what share of the detections is right. A dot marks the best F1."
    )
    return [paragraph(text), *charts]


def _averages(lines: Mapping[str, Any], numbers: Mapping[str, Any]) -> dict[str, float | None]:
    """The average precision of each curve, as Pascal VOC defines it; None for a class without objects."""
    known = {row.get("name"): as_float(row.get("voc_ap50")) for row in numbers.get("per_class") or ()}
    return {name: known[name] if math.isfinite(known.get(name, math.nan)) else None for name in lines}


def _examples(
    best: Sequence[ObjectPicture],
    worst: Sequence[ObjectPicture],
    classes: Sequence[str],
    colors: Colors,
    score_threshold: float | None,
) -> list[str]:
    if not best and not worst:
        return [paragraph("No example pictures were kept.")]
    key = "".join(
        f"<span>{swatch(color)}{name}</span>"
        for name, color in (("right", FOUND), ("wrong or a second time", WRONG), ("missed", MISSED))
    )
    shown = "" if score_threshold is None else f" Detections with a score of at least {score_threshold:g} are shown."
    parts = [paragraph(f"Pictures are ranked by F1, right detections against wrong ones and missed objects.{shown}")]
    parts.append(f'<div class="key">{key}</div>')
    for heading, pictures in (("Best", best), ("Worst", worst)):
        if pictures:
            parts += [f"<h3>{heading}</h3>", *(_example(picture, classes, colors) for picture in pictures)]
    return parts


def _example(picture: ObjectPicture, classes: Sequence[str], colors: Colors) -> str:
    small = resize_picture(picture, LARGEST_PANEL)
    panels = [("picture", rgb(small.image))]
    for name, objects in (("truth", small.truth), ("prediction", small.prediction)):
        if objects is not None:
            panels.append((name, _draw(small.image, objects, classes, colors)))
    if len(panels) == 3:
        panels = panels[1:]  # The picture itself can be seen under its objects.
    if small.truth is not None and small.prediction is not None and small.found is not None:
        panels.append(("errors", object_errors(small)))
    figures = "".join(
        f"<figure>{image(png(panel), f'{name} of {picture.caption}')}<figcaption>{name}</figcaption></figure>"
        for name, panel in panels
    )
    told = []
    counts = picture.counts()
    if counts is not None:
        told.append("{} right, {} wrong, {} missed".format(*counts))
    score = as_float(picture.score)
    if math.isfinite(score):
        told.append(f"<b>F1 {score:.3f}</b>")
    caption = f"<p><span>{escape(picture.caption)}</span><span>{' · '.join(told)}</span></p>"
    return f'<div class="example">{caption}<div class="panels three">{figures}</div></div>'


def _draw(picture: np.ndarray, objects: Mapping[str, Any], classes: Sequence[str], colors: Colors) -> np.ndarray:
    objects = {key: value for key, value in objects.items() if key != "ignored"}
    # Of one class alone, each object has a colour of its own where masks touch, and the name says nothing.
    if len(classes) == 1:
        return draw_objects(picture, **objects, colors=None if objects.get("masks") is not None else colors)
    return draw_objects(picture, **objects, names=classes, colors=colors)


def _data(sheet: np.ndarray | None) -> str:
    if sheet is None:
        return ""
    text = "The first pictures of the training data with their labelled objects. What is wrong here is learned wrong."
    return section("data", "Training data", paragraph(text), image(png(rgb(sheet)), "labelled pictures", "sheet"))


def _known(value: Any) -> bool:
    return math.isfinite(as_float(value))
