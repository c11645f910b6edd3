"""What happens around a run folder after training: scores, exports with their scores, the report page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.data import Source, has_splits, open_source
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.evaluating import Evaluation, Progress
from keras_cv_lectures.exporting import export_saved_model, export_tflite, update_card
from keras_cv_lectures.files import write_json
from keras_cv_lectures.metadata import Metadata, metadata_path, read_metadata, read_run
from keras_cv_lectures.predicting import predict
from keras_cv_lectures.preprocessing import resize_example
from keras_cv_lectures.recipe import Recipe
from keras_cv_lectures.runners import load_keras_model, load_runner
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.visualize import ExamplePicture, write_report

EVALUATION, REPORT = "evaluation.json", "report.html"
_SHOWN = 4
_CALIBRATION = 200


def evaluate_run(recipe: Recipe, folder: Path, source: Source, *, progress: Progress | None = None) -> Evaluation:
    """Scores the best model of a run and keeps them in `evaluation.json` for the report."""
    evaluation = recipe.evaluate(load_runner(folder), source, progress=progress)
    write_json(
        folder / EVALUATION,
        {
            "data": source.name,
            "scores": _without_nan(evaluation.scores),
            "confusion": evaluation.confusion.tolist(),
            "picture_iou": _without_nan(evaluation.picture_iou),
            "size": evaluation.size,
        },
    )
    return evaluation


def refresh_report(recipe: Recipe, folder: Path, source: Source | None, *, seconds: float | None = None) -> Path:
    """Writes `report.html` of a run folder from what the folder holds.

    Args:
        source: the pictures that `evaluation.json` was made on, for the examples; None leaves them out.
        seconds: of training, to be shown.
    """
    run = read_run(folder)
    evaluation = _read_json(folder / EVALUATION)
    best, worst = _examples(folder, source, evaluation) if source is not None and evaluation else ([], [])
    facts = {
        "system": f"{recipe.name} ({recipe.reference.paper})",
        "network": ", ".join(f"{key}={value}" for key, value in (run.get("config") or {}).items()) or "defaults",
        "parameters": run.get("parameters"),
        "data": run.get("data", ""),
        "validation data": evaluation.get("data", "none"),
        "compared at": "x".join(map(str, evaluation["size"])) if evaluation.get("size") else "each picture's own size",
        "command": run.get("command", ""),
        "versions": run.get("versions", {}),
        "training options": run.get("options", {}),
        "augmentation": run.get("augmentation", {}),
    }
    if seconds is not None:
        facts["training time"] = f"{seconds / 60:.1f} minutes"
    return write_report(
        folder / REPORT,
        title=f"{recipe.name}: {folder.name}",
        classes=run["classes"],
        colors=run["colors"],
        metadata=facts,
        history=_history(folder),
        scores=evaluation.get("scores"),
        confusion=np.array(evaluation["confusion"]) if evaluation else None,
        best=best,
        worst=worst,
        exports=list(_export_rows(folder)),
        notes="Scores are those of the best epoch on the validation data, which chose that epoch.",
    )


def export_run(
    path: Path,
    *,
    out: Path,
    file_format: str = "tflite",
    precision: str = "float32",
    spec: str | None = None,
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    progress: Callable[[str], Any] | None = None,
) -> dict[str, Any]:
    """Exports the model at `path` and measures the file on labelled pictures where there are any.

    Args:
        path: a run folder or a `.keras` file.
        out: folder for the export.
        file_format: "tflite" or "saved_model".
        precision: "float32", "float16" or "int8".
        spec: pictures to calibrate int8 with, and to score the file on (the layout's validation split where it has
            one); the run's own data by default.
        size: (height, width) of the input; the run's by default.
        dynamic: height and width stay open.
        progress: label -> context manager that is called with (done, total).

    Returns:
        What was measured, for a person to read; "file" is the path.
    """
    if path.suffix == ".tflite" or (path / "saved_model.pb").exists():
        raise ModelError(f"{path} is an export already. Export from the run folder or the `.keras` file.")
    if file_format == "saved_model" and precision != "float32":
        raise ModelError(f"a SavedModel is float32; {precision} needs --format tflite.")
    if precision == "int8" and dynamic:
        raise ModelError("int8 needs a fixed input size: drop --dynamic, or choose float32 or float16.")
    model, metadata, run = load_keras_model(path), read_metadata(path), read_run(path)
    size = size or metadata.input_size
    if size is None and not dynamic and None in model.input_shape[1:3] and file_format == "tflite":
        raise ModelError(f"{path} works at any size; choose the export's with --size HEIGHTxWIDTH, or use --dynamic.")
    # The file says itself at which size it works: the one it was exported at.
    metadata = Metadata(**{**metadata.to_json(), "input_size": None if dynamic else size})
    train_spec = spec or run.get("data")
    if precision == "int8" and not train_spec:
        raise ModelError("int8 needs pictures to calibrate with: pass --data SPEC (at least 100 pictures).")
    pictures = _pictures(train_spec, size, model.input_shape[-1], run) if train_spec and not dynamic else None
    out.mkdir(parents=True, exist_ok=True)
    name = metadata.system or path.stem
    if file_format == "saved_model":
        result = export_saved_model(model, out / f"{name}_saved_model", input_shape=size, metadata=metadata)
    else:
        result = export_tflite(
            model,
            out / f"{name}_{precision}{'_dynamic' if dynamic else ''}.tflite",
            precision=precision,
            representative=pictures if precision == "int8" else None,
            input_shape=size,
            dynamic=dynamic,
            metadata=metadata,
        )
    scores = _score_file(result.path, spec, run, progress)
    card = update_card(
        result.path, metrics=scores, reference=SYSTEMS[metadata.system].reference.paper if metadata.system else None
    )
    latency = card.get("latency_ms", {})
    row = {
        "file": str(result.path),
        "format": file_format,
        "precision": precision,
        "size_bytes": result.size_bytes,
        "latency_ms_1_thread": latency.get("1"),
        "latency_ms_2_threads": latency.get("2"),
        "mean_iou": scores.get("mean_iou"),
        "max_difference": result.max_difference,
        "label_agreement": result.label_agreement,
        "operators_ok": True,
    }
    folder = Path(run["folder"]) if run else None
    if folder is not None:
        rows = [r for r in _read_json(folder / "exports.json").get("rows", []) if r["file"] != row["file"]]
        write_json(folder / "exports.json", {"rows": [*rows, row]})
        if metadata.system and (folder / REPORT).exists():
            refresh_report(SYSTEMS[metadata.system], folder, _validation_source(run))
    return row


def _pictures(spec: str, size, channels: int, run) -> Iterator[np.ndarray]:
    """Pictures (H, W, C) uint8 of the training data at the exported size, evenly spread over it."""
    source = open_source(spec, split="train") if has_splits(spec) else open_source(spec)
    held_out = set(run.get("val_ids", ()))
    indices = [i for i, name in enumerate(source.ids) if name not in held_out]
    for index in np.linspace(0, len(indices) - 1, min(len(indices), _CALIBRATION)).round().astype(int):
        example = source[indices[index]]
        image = resize_example({"image": example["image"]}, size)["image"] if size else example["image"]
        if image.shape[-1] != channels:
            raise DataError(f"{source.name} has {image.shape[-1]} channels, the model takes {channels}.")
        yield image


def _score_file(path: Path, spec: str | None, run, progress) -> dict[str, float]:
    """Mean IoU and pixel accuracy of the exported file on the validation data; empty where there is none."""
    metadata = read_metadata(path)
    like = metadata if metadata.classes else None
    source = open_source(spec, split="val", like=like) if spec else _validation_source(run)
    recipe = SYSTEMS.get(metadata.system)
    if source is None or recipe is None:
        return {}
    if progress is None:
        evaluation = recipe.evaluate(load_runner(path), source)
    else:
        with progress(f"measuring {path.name} on {source.name}") as update:
            evaluation = recipe.evaluate(load_runner(path), source, progress=update)
    return {
        "mean_iou": float(evaluation.scores["mean_iou"]),
        "pixel_accuracy": float(evaluation.scores["pixel_accuracy"]),
    }


def _validation_source(run) -> Source | None:
    """The pictures that a run was validated on, or None where they are gone."""
    spec = run.get("val_data")
    if not spec:
        return None
    try:
        source = open_source(spec, split="val", like=Metadata.from_json(run))
    except (DataError, OSError):
        return None
    wanted = run.get("val_ids") or source.ids
    positions = {name: i for i, name in enumerate(source.ids)}
    chosen = [positions[name] for name in wanted if name in positions]
    return source.subset(chosen) if chosen else None


def _examples(folder: Path, source: Source, evaluation) -> tuple[list[ExamplePicture], list[ExamplePicture]]:
    """The best and the worst pictures of an evaluation, predicted again."""
    ious = np.array([np.nan if v is None else v for v in evaluation["picture_iou"]], float)
    if len(ious) != len(source):
        return [], []
    order = [int(i) for i in np.argsort(-ious) if np.isfinite(ious[i])]
    shown = min(_SHOWN, (len(order) + 1) // 2)
    runner = load_runner(folder)

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
    for row in _read_json(folder / "exports.json").get("rows", []):
        if metadata_path(Path(row["file"])).exists():
            yield {**row, "file": Path(row["file"]).name}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: a class that is absent has null."""
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
