"""One HTML file that tells how a captioner's run went: curves, scores, captions with their references, attention."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.files import write_text
from keras_cv_lectures.visualize.captions import attention_grid
from keras_cv_lectures.visualize.curves import History
from keras_cv_lectures.visualize.overlays import rgb
from keras_cv_lectures.visualize.page import document, escape, image, paragraph, section, table
from keras_cv_lectures.visualize.sections import (
    CAPTION_SCORES,
    Notes,
    about,
    as_float,
    exported_files,
    header,
    notes_section,
    number_text,
    png,
    tiles,
    training,
)

LARGEST_PANEL = 440
_CELL, _COLUMNS = 150, 7
_SHOWN_REFERENCES = 6
_HEADLINES = ("bleu1", "bleu4", "cider", "exact_match", "attention_in_box")
_TOLD = {
    "bleu4": "BLEU: share of n-grams that a reference of the picture has, over all pictures; short captions pay.",
    "rouge_l": "ROUGE-L: the longest common subsequence of words.",
    "cider": "CIDEr-D: agreement in n-grams, rare ones weighing more, 0 to 10; it changes with the set of pictures.",
    "exact_match": "Exact captions: share that is word for word a reference.",
    "attention_in_box": (
        "Attention in the box: how much of it lies inside the box of what a word names, while that word is said; even "
        "attention would have the share of the picture that these boxes cover."
    ),
}


@dataclass(frozen=True, kw_only=True)
class CaptionPicture:
    """One picture of a report.

    Attributes:
        name: for example the file name.
        image: (H, W, 3), (H, W, 1) or (H, W) in 0..255.
        words: of the caption that the model gave.
        references: captions that people wrote.
        attention: (T, h, w), one map for each of the words; None without attention.
        log_probability: of the caption; None where it is not known.
        scores: names and numbers to say about this picture, such as {"CIDEr-D": 1.2}.
    """

    name: str
    image: np.ndarray
    words: Sequence[str]
    references: Sequence[str] = ()
    attention: np.ndarray | None = None
    log_probability: float | None = None
    scores: Mapping[str, float] | None = None


def write_caption_report(
    path: str | os.PathLike,
    *,
    title: str,
    metadata: Mapping[str, Any] | None = None,
    history: History = (),
    kept: str = "",
    scores: Mapping[str, float] | None = None,
    constant: Mapping[str, float] | None = None,
    constant_caption: str = "",
    best: Sequence[CaptionPicture] = (),
    worst: Sequence[CaptionPicture] = (),
    exports: Sequence[Mapping[str, Any]] = (),
    notes: Notes = (),
) -> Path:
    """Writes the report as one self-contained file: pictures inside, no script, no address elsewhere.

    A part that is missing leaves a sentence that says so.

    Args:
        path: file to write, replaced as a whole or not at all.
        title: heading of the page.
        metadata: what was run, in the order to show; see `write_report`.
        history: one mapping of numbers per epoch, see `training_curves`; BLEU where it was measured.
        kept: which epoch the model is of, in a sentence.
        scores: by the names of `sections.CAPTION_SCORES`; any may be missing, None or nan.
        constant: the same of the best constant caption.
        constant_caption: that caption.
        best: pictures with the highest scores, best first.
        worst: pictures with the lowest scores, worst first.
        exports: one mapping per exported file, see `write_report`; scored by the names of `sections.CAPTION_SCORES`.
        notes: sentences for the end of the page.

    Returns:
        `path`.

    Raises:
        DataError: attention has another shape than stated.
    """
    metadata, scores = metadata or {}, scores or {}
    parts = [
        header(title, metadata),
        tiles([(CAPTION_SCORES[key], scores.get(key)) for key in _HEADLINES]),
        section("training", "Training", *training(history, kept)),
        section("scores", "Scores", *_scores(scores, constant or {}, constant_caption)),
        section("examples", "Examples", *_examples(best, worst)),
        section("exports", "Exported files", *exported_files(exports)),
        section("about", "How it was made", *about(metadata)),
        notes_section(notes),
    ]
    path = Path(path)
    write_text(path, document(title, "\n".join(part for part in parts if part)))
    return path


def _scores(scores: Mapping[str, Any], constant: Mapping[str, Any], constant_caption: str) -> list[str]:
    known = [key for key in CAPTION_SCORES if math.isfinite(as_float(scores.get(key)))]
    if not known:
        return [paragraph("This model was not evaluated on pictures with captions.")]
    columns, heads = [scores], [("score", False), ("model", True)]
    if constant:
        columns.append(constant)
        heads.append(("best constant caption", True))
    rows = [
        [escape(CAPTION_SCORES[key]), *(number_text(column.get(key), "{:.3f}") for column in columns)] for key in known
    ]
    told = [paragraph(" ".join(text for key, text in _TOLD.items() if key in known))]
    if constant:
        said = f"“{constant_caption}”, said about every picture, scores best of all single captions by BLEU-4."
        told.append(paragraph(said))
    return [*told, table("score-table", heads, rows)]


def _examples(best: Sequence[CaptionPicture], worst: Sequence[CaptionPicture]) -> list[str]:
    if not best and not worst:
        return [paragraph("No example pictures were kept.")]
    parts = [paragraph("Pictures are ranked by CIDEr-D, then by ROUGE-L, of their caption against the references.")]
    if any(picture.attention is not None for picture in (*best, *worst)):
        parts.append(
            paragraph("Beside a picture, word by word, what the model looked at: white where it counted most.")
        )
    for heading, pictures in (("Best", best), ("Worst", worst)):
        if pictures:
            parts += [f"<h3>{heading}</h3>", *map(_example, pictures)]
    return parts


def _example(picture: CaptionPicture) -> str:
    caption = " ".join(picture.words) or "(no word)"
    told = [f"{name} {value:.3f}" for name, value in (picture.scores or {}).items() if math.isfinite(as_float(value))]
    if picture.log_probability is not None:
        told.append(f"log probability {picture.log_probability:.2f}")
    shown = [f"<li>{escape(text)}</li>" for text in picture.references[:_SHOWN_REFERENCES]]
    more = len(picture.references) - _SHOWN_REFERENCES
    shown += [f"<li>and {more} more</li>"] if more > 0 else []
    references = f'<ul class="soft">{"".join(shown)}</ul>' if shown else ""
    panel = image(png(_panel(picture)), f"{picture.name}: {caption}")
    return (
        f'<div class="example"><p><strong>{escape(caption)}</strong><b>{" · ".join(told)}</b></p>'
        f'{panel}<p class="soft"><span>{escape(picture.name)}</span></p>{references}</div>'
    )


def _panel(picture: CaptionPicture) -> np.ndarray:
    if picture.attention is not None and len(picture.words):
        return attention_grid(picture.image, picture.words, picture.attention, columns=_COLUMNS, side=_CELL)
    from PIL import Image

    shown = rgb(picture.image)
    factor = min(1.0, LARGEST_PANEL / max(shown.shape[:2]))
    size = [max(1, round(side * factor)) for side in shown.shape[1::-1]]
    return np.asarray(Image.fromarray(np.ascontiguousarray(shown)).resize(size, Image.Resampling.BOX))
