"""Scores of a run, and the page that shows them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.data import Source
from keras_cv_lectures.evaluating import Evaluation, Progress
from keras_cv_lectures.files import write_json
from keras_cv_lectures.metadata import metadata_path
from keras_cv_lectures.predicting import predict
from keras_cv_lectures.preprocessing import resize_example
from keras_cv_lectures.recipe import Recipe
from keras_cv_lectures.reporting.runs import read_json, run_of
from keras_cv_lectures.runners import Runner, load_runner
from keras_cv_lectures.visualize import ExamplePicture, write_report

EVALUATION, REPORT, EXPORTS, SCORES = "evaluation.json", "report.html", "exports.json", "scores.json"
_SHOWN = 4


def evaluate_run(recipe: Recipe, folder: Path, source: Source, *, progress: Progress | None = None) -> Evaluation:
    """Scores the best model of a run and keeps them in `evaluation.json` for the report."""
    evaluation = recipe.evaluate(load_runner(folder), source, progress=progress)
    write_json(folder / EVALUATION, _evaluation_json(evaluation, source))
    return evaluation


def report_evaluation(out: Path, runner: Runner, source: Source, evaluation: Evaluation, *, command: str = "") -> None:
    """Writes `scores.json` and `report.html` of an evaluation on any data into `out`."""
    found = _evaluation_json(evaluation, source)
    write_json(out / SCORES, {"model": str(runner.path), **found})
    best, worst = _examples(runner, source, found)
    write_report(
        out / REPORT,
        title=f"{Path(runner.path or 'model').absolute().name} on {source.name}",
        classes=source.classes,
        colors=source.colors,
        metadata={
            "system": runner.metadata.system,
            "model": str(runner.path),
            "data": source.name,
            "compared at": _size_text(evaluation.size),
            "command": command,
        },
        scores=found["scores"],
        confusion=evaluation.confusion,
        best=best,
        worst=worst,
    )


def refresh_report(recipe: Recipe, folder: Path, source: Source | None) -> Path:
    """Writes `report.html` of a run folder from what the folder holds.

    Args:
        source: the pictures that `evaluation.json` was made on, for the examples; None leaves them out.
    """
    run = run_of(folder)
    evaluation = read_json(folder / EVALUATION)
    best, worst = _examples(load_runner(folder), source, evaluation) if source is not None and evaluation else ([], [])
    facts = {
        "system": f"{recipe.name} ({recipe.reference.paper})",
        "network": ", ".join(f"{key}={value}" for key, value in (run.get("config") or {}).items()) or "defaults",
        "parameters": run.get("parameters"),
        "data": run.get("data", ""),
        "validation data": evaluation.get("data", "none"),
        "compared at": _size_text(evaluation.get("size")),
        "command": run.get("command", ""),
        "versions": run.get("versions", {}),
        "training options": run.get("options", {}),
        "augmentation": run.get("augmentation", {}),
    }
    if run.get("seconds"):
        facts["training time"] = f"{run['seconds'] / 60:.1f} minutes"
    return write_report(
        folder / REPORT,
        title=f"{recipe.name}: {folder.absolute().name}",
        classes=run["classes"],
        colors=run["colors"],
        metadata=facts,
        history=_history(folder),
        scores=evaluation.get("scores"),
        confusion=np.array(evaluation["confusion"]) if evaluation else None,
        best=best,
        worst=worst,
        exports=list(_export_rows(folder)),
        notes="Scores are those of the best epoch on the validation data, which chose that epoch."
        if evaluation
        else (),
    )


def _evaluation_json(evaluation: Evaluation, source: Source) -> dict[str, Any]:
    return {
        "data": source.name,
        "scores": _without_nan(evaluation.scores),
        "confusion": evaluation.confusion.tolist(),
        "picture_iou": _without_nan(evaluation.picture_iou),
        "size": evaluation.size,
    }


def _examples(runner: Runner, source: Source, evaluation) -> tuple[list[ExamplePicture], list[ExamplePicture]]:
    """The best and the worst pictures of an evaluation, predicted again."""
    ious = np.array([np.nan if v is None else v for v in evaluation["picture_iou"]], float)
    if len(ious) != len(source):
        return [], []
    order = [int(i) for i in np.argsort(-ious) if np.isfinite(ious[i])]
    shown = min(_SHOWN, (len(order) + 1) // 2)

    def example(index: int) -> ExamplePicture:
        found = source[index]
        if evaluation.get("size"):
            found = resize_example(found, tuple(evaluation["size"]))
        result = predict(runner, found["image"])
        return ExamplePicture(
            caption=source.ids[index],
            image=found["image"],
            truth=found["mask"],
            prediction=result.class_map,
            score=float(ious[index]),
        )

    return [example(i) for i in order[:shown]], [example(i) for i in order[::-1][: min(shown, len(order) - shown)]]


def _history(folder: Path) -> list[dict[str, float]]:
    path = folder / "history.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def _export_rows(folder: Path) -> Iterator[dict[str, Any]]:
    for row in read_json(folder / EXPORTS).get("rows", []):
        file = folder / row["file"]  # An absolute path stays as it is.
        if metadata_path(file).exists():
            yield {**row, "file": file.name}


def _size_text(size) -> str:
    return "x".join(map(str, size)) if size else "each picture's own size"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: a class that is absent has null."""
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
