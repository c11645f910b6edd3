"""Scores of a run, and the page that shows them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.data import Source
from keras_cv_lectures.evaluating import CaptionEvaluation, DetectionEvaluation, Evaluation, Progress
from keras_cv_lectures.files import digest, write_json
from keras_cv_lectures.metadata import metadata_path
from keras_cv_lectures.predicting import predict
from keras_cv_lectures.preprocessing import resize_example
from keras_cv_lectures.recipe import Recipe
from keras_cv_lectures.reporting.captions import caption_examples, caption_pages, captions_json
from keras_cv_lectures.reporting.objects import object_examples, object_pages, objects_json, run_data_sheet
from keras_cv_lectures.reporting.pictures import shown_image
from keras_cv_lectures.reporting.runs import read_json, run_of, without_nan
from keras_cv_lectures.runners import Runner, load_runner
from keras_cv_lectures.visualize import ExamplePicture, write_caption_report, write_object_report, write_report

EVALUATION, REPORT, EXPORTS, SCORES = "evaluation.json", "report.html", "exports.json", "scores.json"
_SHOWN = 4
# What an evaluation, and so its examples, may be predicted with.
_WINDOWS = ("tile", "margin", "stride")
AnyEvaluation = Evaluation | DetectionEvaluation | CaptionEvaluation


def evaluate_run(recipe: Recipe, folder: Path, source: Source, *, progress: Progress | None = None) -> AnyEvaluation:
    """Scores the best model of a run and keeps them in `evaluation.json` for the report."""
    evaluation = recipe.evaluate(load_runner(folder), source, progress=progress)
    write_json(folder / EVALUATION, _evaluation_json(evaluation, source))
    return evaluation


def report_evaluation(
    out: Path, runner: Runner, source: Source, evaluation: AnyEvaluation, *, command: str = ""
) -> None:
    """Writes `scores.json` and `report.html` of an evaluation on any data into `out`."""
    found = _evaluation_json(evaluation, source)
    write_json(out / SCORES, {"model": str(runner.path), **found})
    classes, colors = source.classes, source.colors
    if "kinds" in found:
        classes, colors = source.object_classes, source.object_colors
    elif "captions" in found:
        classes, colors = runner.metadata.classes, ()
    facts = {
        "system": runner.metadata.system,
        "model": str(runner.path),
        "data": source.name,
        **_compared(found),
        "command": command,
    }
    _write_page(
        out / REPORT,
        found,
        source,
        lambda: runner,
        title=f"{Path(runner.path or 'model').absolute().name} on {source.name}",
        classes=classes,
        colors=colors,
        metadata=facts,
    )


def refresh_report(recipe: Recipe, folder: Path, source: Source | None) -> Path:
    """Writes `report.html` of a run folder from what the folder holds.

    Args:
        source: the pictures that `evaluation.json` was made on, for the examples; None leaves them out.
    """
    run = run_of(folder)
    evaluation = read_json(folder / EVALUATION)
    found = evaluation or _nothing_of(recipe)
    facts = {
        "system": f"{recipe.name} ({recipe.reference.paper})",
        "network": ", ".join(f"{key}={value}" for key, value in (run.get("config") or {}).items()) or "defaults",
        "parameters": run.get("parameters"),
        "data": run.get("data", ""),
        "validation data": evaluation.get("data", "none"),
        **_compared(found),
        "command": run.get("command", ""),
        "versions": run.get("versions", {}),
        "training options": run.get("options", {}),
        "augmentation": _augmentation_told(run),
    }
    if run.get("seconds"):
        where = f" on {run['machine']}" if run.get("machine") else ""
        facts["training time"] = f"{run['seconds'] / 60:.1f} minutes{where}"
    about_scores = "Scores are those of the best epoch on the validation data, which chose that epoch."
    return _write_page(
        folder / REPORT,
        found,
        source,
        lambda: load_runner(folder),
        run=run,
        keys=recipe.keys,
        title=f"{recipe.name}: {folder.absolute().name}",
        classes=run["classes"],
        colors=run["colors"],
        metadata=facts,
        history=_history(folder),
        kept=_kept_told(run),
        exports=list(_export_rows(folder)),
        notes=about_scores if evaluation else (),
    )


def _write_page(
    path: Path,
    evaluation: dict[str, Any],
    source: Source | None,
    open_runner: Callable[[], Runner],
    run: dict[str, Any] | None = None,
    keys: Sequence[str] = (),
    **page: Any,
) -> Path:
    """The page of a detector, whose evaluation has "kinds", of a captioner ("captions"), or of a segmentation.

    Args:
        source: what was evaluated, None where it is gone.
        open_runner: the model, for the examples.
        run: of the folder that `path` lies in, for its training data.
        keys: of an example that the system learns from.
        page: further arguments of `write_object_report` and `write_report`.
    """
    examples = source is not None and "scores" in evaluation
    if "captions" in evaluation:
        best, worst = caption_examples(open_runner(), source, evaluation) if examples else ([], [])
        # Words are no classes, which have colours and rows in tables.
        words, _ = page.pop("classes"), page.pop("colors")
        page["metadata"] |= {"vocabulary": f"{len(words):,} words"} if words else {}
        return write_caption_report(path, **caption_pages(evaluation), best=best, worst=worst, **page)
    if "kinds" in evaluation:
        best, worst = object_examples(open_runner(), source, evaluation) if examples else ([], [])
        sheet = run_data_sheet(path.parent, run, keys) if run else None
        return write_object_report(path, **object_pages(evaluation), best=best, worst=worst, sheet=sheet, **page)
    best, worst = _examples(open_runner(), source, evaluation) if examples else ([], [])
    confusion = np.array(evaluation["confusion"]) if evaluation else None
    return write_report(path, scores=evaluation.get("scores"), confusion=confusion, best=best, worst=worst, **page)


def _nothing_of(recipe: Recipe) -> dict[str, Any]:
    """What stands for the evaluation that a run does not have yet, so that it gets the page of its kind."""
    if "captions" in recipe.keys:
        return {"captions": []}
    return {"kinds": []} if "boxes" in recipe.keys else {}


def _evaluation_json(evaluation: AnyEvaluation, source: Source) -> dict[str, Any]:
    if isinstance(evaluation, DetectionEvaluation):
        return objects_json(evaluation, source)
    if isinstance(evaluation, CaptionEvaluation):
        return captions_json(evaluation, source)
    return {
        "data": source.name,
        "scores": without_nan(evaluation.scores),
        "confusion": evaluation.confusion.tolist(),
        "picture_iou": without_nan(evaluation.picture_iou),
        "pictures": evaluation.pictures,
        "size": evaluation.size,
        **{name: getattr(evaluation, name) for name in _WINDOWS},
    }


def _compared(evaluation: dict[str, Any]) -> dict[str, str]:
    """How predictions and labels were compared, for the page."""
    if "captions" in evaluation:
        if not evaluation["captions"]:
            return {}
        told = f"{evaluation['pictures']:,} captions with {evaluation['references']:,} references"
        words = evaluation["grounded_words"]
        return {"compared": f"{told}, {evaluation['distinct']:,} of them different" + _looked_at(words)}
    if "kinds" in evaluation:
        if not evaluation["kinds"]:
            return {}
        pictures, objects = (f"{evaluation[key]:,}" for key in ("pictures", "objects"))
        return {"compared": f"{', '.join(evaluation['kinds'])} of {objects} objects in {pictures} pictures"}
    return {"compared at": _size_text(evaluation.get("size")) + _windows_told(evaluation)}


def _windows_told(evaluation: dict[str, Any]) -> str:
    asked = {name: evaluation[name] for name in _WINDOWS if evaluation.get(name) is not None}
    told = [f"{name} {_size_text(v) if isinstance(v, list | tuple) else v}" for name, v in asked.items()]
    return f"; predicted in windows ({', '.join(told)})" if told else ""


def _looked_at(words: int) -> str:
    return f"; attention at {words:,} words whose boxes are known" if words else ""


def _examples(runner: Runner, source: Source, evaluation) -> tuple[list[ExamplePicture], list[ExamplePicture]]:
    """The best and the worst pictures of an evaluation, predicted again."""
    ious = np.array([np.nan if v is None else v for v in evaluation["picture_iou"]], float)
    if len(ious) != len(source):
        return [], []
    windows = {name: _pair(evaluation.get(name)) for name in _WINDOWS}
    order = [int(i) for i in np.argsort(-ious) if np.isfinite(ious[i])]
    shown = min(_SHOWN, (len(order) + 1) // 2)

    def example(index: int) -> ExamplePicture:
        found = source[index]
        if evaluation.get("size"):
            found = resize_example(found, tuple(evaluation["size"]))
        result = predict(runner, found["image"], **windows)
        return ExamplePicture(
            caption=source.ids[index],
            image=shown_image(found["image"]),
            truth=found["mask"],
            prediction=result.class_map,
            score=float(ious[index]),
        )

    return [example(i) for i in order[:shown]], [example(i) for i in order[::-1][: min(shown, len(order) - shown)]]


def _kept_told(run: dict[str, Any]) -> str:
    """Which epoch `best.keras` is of; "" for a run of an earlier version, or of nothing that could be measured."""
    kept = run.get("kept")
    if not isinstance(kept, dict) or not kept:
        return ""
    return f"best.keras: epoch {kept.get('epoch')} by keep_best={kept.get('keep_best')}."


def _augmentation_told(run: dict[str, Any]) -> Any:
    if run.get("options", {}).get("cache_features"):  # Whatever was asked for.
        return "none: pictures were encoded once, as they are"
    return run.get("augmentation", {})


def _history(folder: Path) -> list[dict[str, float]]:
    path = folder / "history.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def _export_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """What `exports.json` says of the files that are still there; "made_of" where that is not the model any more."""
    digests: dict[str, str] = {}
    for row in read_json(folder / EXPORTS).get("rows", []):
        file = folder / row["file"]  # An absolute path stays as it is.
        if not metadata_path(file).exists():
            continue
        model = row.get("model")  # Absent in the rows of earlier versions.
        if model is not None and model not in digests:
            digests[model] = digest(folder / model) if (folder / model).is_file() else ""
        changed = model is not None and digests[model] != row.get("model_digest")
        yield {**row, "file": file.name, **({"made_of": f"an earlier {model}"} if changed else {})}


def _pair(value):
    """What JSON made a list of as the pair that it was."""
    return tuple(value) if isinstance(value, list) else value


def _size_text(size) -> str:
    return "x".join(map(str, size)) if size else "each picture's own size"
