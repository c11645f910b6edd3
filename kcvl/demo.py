"""`kcvl demo`: everything once, on generated pictures: train, evaluate, export, check, predict, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kcvl.text import count_text, headline, scores_table, size_text, table
from keras_cv_lectures.data import open_source
from keras_cv_lectures.metrics.overlaps import box_overlaps
from keras_cv_lectures.predicting import SHOWN_SCORE, CaptionResult, DetectionResult, predict
from keras_cv_lectures.recipe import Recipe
from keras_cv_lectures.reporting import evaluate_run, export_run, record_seconds, refresh_report
from keras_cv_lectures.training import train

TRAIN, VAL = "shapes:count=600,size=96x128", "shapes:count=320,size=96x128,split=val"
_EXPORTS = (("saved_model", "float32"), ("tflite", "float32"), ("tflite", "int8"))


def run_demo(
    recipe: Recipe, out: Path, *, say: Callable[[str], Any], progress: Callable[[str], Any], command: str = "kcvl demo"
) -> None:
    """Trains `recipe` on generated shapes and takes the result through every step a user takes.

    Args:
        recipe: the system; its `demo` settings are used.
        out: run folder.
        say: prints a line.
        progress: label -> context manager that is called with (done, total).
        command: what the run folder says that it was made by.
    """
    started = time.perf_counter()
    train_source, val_source = open_source(TRAIN, split="train"), open_source(VAL)
    say(f"1/5 training {recipe.name} on {len(train_source)} generated pictures")
    result = train(
        recipe,
        train_source,
        val_source,
        out=out,
        config=recipe.demo,
        options=recipe.demo_options,
        augmentation=recipe.demo_augmentation,
        verbose=2,
        record={"data": TRAIN, "val_data": VAL, "val_ids": list(val_source.ids), "command": command},
    )
    record_seconds(out, result.seconds)
    say("2/5 evaluating the best epoch")
    with progress("evaluating") as update:
        evaluation = evaluate_run(recipe, out, val_source, progress=update)
    say(scores_table(evaluation.scores, getattr(evaluation, "constant", None)))

    say("3/5 exporting, and comparing each file with the model")
    rows = [
        export_run(out, out=out / "exports", file_format=kind, precision=precision, progress=progress)
        for kind, precision in _EXPORTS
    ]
    judged = headline(rows[0])
    heads = ("format", "precision", "size", "ms, 2 threads", judged[0] if judged else "score", "largest difference")
    shown = [
        [
            row["format"],
            row["precision"],
            size_text(row["size_bytes"]),
            row["latency_ms_2_threads"],
            (headline(row) or ("", None))[1],
            row["max_difference"],
        ]
        for row in rows
    ]
    say(table(heads, shown))

    say("4/5 predicting one picture with the model and with every export")
    image = val_source[0]["image"]
    expected = predict(out, image)
    expected.save(out / "predictions", "model")
    for row in rows:
        found = predict(row["file"], image)
        found.save(out / "predictions", f"{row['format']}_{row['precision']}")
        say(f"    {row['format']} {row['precision']}: {_agreement(found, expected)} as the model says")

    say("5/5 writing the report")
    refresh_report(recipe, out, val_source)
    say(f"wrote {out} in {time.perf_counter() - started:.0f} s: best.keras, exports/, predictions/, report.html")


def _agreement(found: Any, expected: Any) -> str:
    """How much of what the model says an exported file says too."""
    if isinstance(expected, CaptionResult):
        same = sum(one == other for one, other in zip(found.words, expected.words, strict=False))
        return f"{same} of {count_text(max(len(found.words), len(expected.words)), 'word')}"
    if not isinstance(expected, DetectionResult):
        return f"{100 * float(np.mean(found.class_map == expected.class_map)):.2f} % of the pixels"
    found, expected = found.above(SHOWN_SCORE - 0.05), expected.above(SHOWN_SCORE)
    overlaps = box_overlaps(expected.boxes, found.boxes) * (expected.labels[:, None] == found.labels[None])
    same = int(np.count_nonzero(overlaps.max(axis=1, initial=0.0) >= 0.9))
    return f"{same} of {len(expected)} objects"
