"""What each command does. Every command ends with what it wrote and what to do next."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cv_lectures.benchmarking import benchmark, gflops
from keras_cv_lectures.cli.demo import run_demo
from keras_cv_lectures.cli.text import scores_table, size_text, table
from keras_cv_lectures.data import Source, doctor, has_splits, open_source
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.exporting import export_saved_model, export_tflite
from keras_cv_lectures.files import write_json
from keras_cv_lectures.metadata import read_run
from keras_cv_lectures.predicting import picture_files, predict
from keras_cv_lectures.preprocessing import Augmentation
from keras_cv_lectures.recipe import Recipe, split_settings
from keras_cv_lectures.reporting import evaluate_run, export_run, refresh_report
from keras_cv_lectures.runners import load_runner
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import train


class UsageError(ValueError):
    """The command's words are at fault: exit code 2."""


def run(arguments: argparse.Namespace) -> int:
    """Runs the command that `arguments` name. Returns the exit code."""
    # Readers say how they understood masks that came without a label file.
    notes = logging.StreamHandler(sys.stdout)
    notes.setFormatter(logging.Formatter("Note: %(message)s"))
    logger = logging.getLogger("keras_cv_lectures")
    logger.handlers[:], logger.propagate = [notes], False
    logger.setLevel(logging.INFO)
    return _COMMANDS[arguments.command](arguments)


def _list(arguments) -> int:
    rows = [
        [name, recipe.reference.year, f"{recipe.reference.parameters:,}", recipe.summary, recipe.reference.paper]
        for name, recipe in SYSTEMS.items()
    ]
    _say(table(["system", "year", "parameters", "what it is", "paper"], rows))
    _next("kcvl demo", "kcvl train SYSTEM --data SPEC --out DIR   (kcvl train --help lists the kinds of data)")
    return 0


def _demo(arguments) -> int:
    recipe = _recipe(arguments.system)
    out = Path(arguments.out or f"saved_models/{recipe.name}/demo-{time.strftime('%Y%m%d-%H%M%S')}")
    run_demo(recipe, out, say=_say, progress=_Progress)
    _next(f"open {out / 'report.html'}", f"kcvl predict {out} YOUR_PICTURE.jpg --out predictions")
    return 0


def _doctor(arguments) -> int:
    with _Progress("examining") as progress:
        report = doctor(arguments.data, progress=progress)
    _say(report.text())
    if not report.ok:
        _next("repair what is listed under problems, then run `kcvl doctor` again")
        return 1
    _next(f"kcvl train unet --data {shlex.quote(arguments.data)} --out saved_models/unet/mine")
    return 0


def _train(arguments) -> int:
    recipe = _recipe(arguments.system)
    config, options, augmentation = parse_settings(recipe, arguments.settings)
    train_source, val_source, val_spec = open_training_data(arguments.data, arguments.val)
    if options.input_size is None and options.crop_size is None:
        options = dataclasses.replace(options, input_size=_usual_size(train_source))
    channels = train_source[0]["image"].shape[-1]
    out = Path(arguments.out)
    where = f"{options.input_size[0]}x{options.input_size[1]}" if options.input_size else "their own size"
    _say(
        f"{recipe.name} on {train_source.name}: {len(train_source)} pictures at {where}, "
        f"{len(train_source.classes)} classes, {options.epochs} epochs of {options.batch_size}; "
        + (f"{len(val_source)} pictures to validate" if val_source else "nothing to validate on")
    )
    result = train(
        recipe,
        train_source,
        val_source,
        out=out,
        config=config,
        options=options,
        augmentation=augmentation,
        channels=channels,
        strategy=arguments.strategy,
        resume=arguments.resume,
        # A bar that redraws itself fills a log file; there it is one line an epoch.
        verbose=1 if sys.stdout.isatty() else 2,
        record={
            "data": arguments.data,
            "val_data": val_spec,
            "val_ids": list(val_source.ids) if val_source else [],
            "command": shlex.join(["kcvl", *sys.argv[1:]]),
        },
    )
    if not (out / "best.keras").exists():
        return 0  # A worker that writes nothing.
    if val_source:
        with _Progress("evaluating") as progress:
            evaluation = evaluate_run(recipe, out, val_source, progress=progress)
        _say(scores_table(evaluation.scores))
    refresh_report(recipe, out, val_source, seconds=result.seconds)
    _wrote(out / "best.keras", out / "history.csv", out / "report.html")
    _next(
        f"kcvl predict {out} PICTURE --out predictions",
        f"kcvl export {out} --format tflite --precision int8 --out {out / 'exports'}",
    )
    return 0


def _evaluate(arguments) -> int:
    runner = load_runner(arguments.model)
    source = open_source(arguments.data, split="val", like=runner.metadata if runner.metadata.classes else None)
    recipe = SYSTEMS.get(runner.metadata.system, next(iter(SYSTEMS.values())))
    seen = set(read_run(arguments.model).get("train_ids", ())) & set(source.ids)
    with _Progress("evaluating") as progress:
        evaluation = recipe.evaluate(runner, source, original_size=arguments.original_size, progress=progress)
    _say(scores_table(evaluation.scores))
    at = "each picture's own size" if evaluation.size is None else f"{evaluation.size[0]}x{evaluation.size[1]} pixels"
    _say(f"{evaluation.pictures} pictures of {source.name}, compared at {at}, in {evaluation.seconds:.1f} s")
    if seen:
        _say(f"Note: {len(seen)} of these pictures were trained on; their scores say nothing about new pictures.")
    if arguments.out:
        out = Path(arguments.out)
        write_json(out / "scores.json", {"model": str(arguments.model), "data": arguments.data, **evaluation.scores})
        _wrote(out / "scores.json")
    _next(f"kcvl predict {arguments.model} PICTURE --out predictions")
    return 0


def _predict(arguments) -> int:
    runner = load_runner(arguments.model)
    pictures = [p for path in arguments.paths for p in (picture_files(path) if Path(path).is_dir() else [Path(path)])]
    out, written, failed = Path(arguments.out), [], []
    with _Progress("predicting") as progress:
        for done, path in enumerate(pictures):
            try:
                result = predict(runner, path, tile=arguments.tile)
                written += result.save(out, path.stem).values()
            except DataError as error:
                failed.append(str(error))
            progress(done + 1, len(pictures))
    for message in failed:
        _say(f"skipped: {message}", file=sys.stderr)
    if not written:
        raise DataError("no picture could be predicted; see the lines above.")
    _wrote(*written[:4], more=len(written) - 4)
    _next(f"look at {out}")
    return 1 if failed else 0


def _export(arguments) -> int:
    path = Path(arguments.model)
    row = export_run(
        path,
        out=Path(arguments.out),
        file_format=arguments.format,
        precision=arguments.precision,
        spec=arguments.data,
        size=_size(arguments.size) if arguments.size else None,
        dynamic=arguments.dynamic,
        progress=_Progress,
    )
    _say(table(["", ""], [[key.replace("_", " "), size_text(key, value)] for key, value in row.items()]))
    _wrote(row["file"])
    _next(f"kcvl predict {row['file']} PICTURE --out predictions", "read the model card beside the file")
    return 0


def _benchmark(arguments) -> int:
    recipe = _recipe(arguments.system)
    config, _, _ = parse_settings(recipe, arguments.settings)
    size = _size(arguments.size)
    model = recipe.build((*size, 3), arguments.classes, **{**recipe.config, **config})
    cost = gflops(model, size)
    _say(
        f"{recipe.name}: {model.count_params():,} parameters, {cost:.2f} GFLOPs for a picture of {size[0]}x{size[1]}; "
        f"random weights, batch 1, {arguments.repeats} rounds in which the forms take turns"
    )
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        forms = {"Keras": Path(folder) / "model.keras", "SavedModel": Path(folder) / "saved"}
        model.save(forms["Keras"])
        export_saved_model(model, forms["SavedModel"], verify=False)
        for precision in ("float32", "float16", "int8"):
            forms[f"TFLite {precision}"] = path = Path(folder) / f"{precision}.tflite"
            noise = (picture for _ in range(100)) if precision == "int8" else None
            export_tflite(model, path, precision=precision, representative=noise, verify=False)
        rows = benchmark(forms, picture, repeats=arguments.repeats)
    _say(
        table(
            ["form", "threads", "median ms", "min ms", "GFLOP/s", "MB"],
            [[r.name, r.threads, r.median_ms, r.min_ms, 1000 * cost / r.median_ms, r.size_bytes / 1e6] for r in rows],
        )
    )
    fastest = min(rows, key=lambda r: r.median_ms)
    _say(f"fastest: {fastest.name} with {fastest.threads} threads")
    _next("kcvl export MODEL --format tflite --precision int8 --out DIR")
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "demo": _demo,
    "doctor": _doctor,
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "benchmark": _benchmark,
}


def parse_settings(recipe: Recipe, settings: Sequence[str]) -> tuple[dict, Any, dict]:
    """`["filters=32", "epochs=4", "rotate=15"]` -> (network, training options, augmentation)."""
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set takes OPTION=VALUE. Received: {setting!r}")
        values[key] = _value(text)
    fields = {field.name: field for field in dataclasses.fields(Augmentation)}
    try:
        config, options, augmentation = split_settings(recipe, values, fields)
        Augmentation(**{**recipe.augmentation, **augmentation})
        return config, dataclasses.replace(recipe.options, **options), augmentation
    except (ValueError, TypeError) as error:
        raise UsageError(f"--set: {error}") from error


def open_training_data(spec: str, val_spec: str | None) -> tuple[Source, Source | None, str]:
    """Training and validation sources, and a description of the latter.

    Without `val_spec` the layout's own validation split is taken; a layout without splits gives its last 15 %: the
    last, because neighbouring pictures are often frames of one video, which a random split would leak.
    """
    if val_spec is not None:
        train_source = open_source(spec, split="train")
        return train_source, open_source(val_spec, split="val", like=train_source), val_spec
    if has_splits(spec):
        return open_source(spec, split="train"), open_source(spec, split="val"), spec
    source = open_source(spec)
    held_out = round(0.15 * len(source))
    if held_out == 0:
        return source, None, ""
    first = len(source) - held_out
    return (
        source.subset(range(first), f"{source.name} (first {first})"),
        source.subset(range(first, len(source)), f"{source.name} (last {held_out})"),
        spec,
    )


def _usual_size(source: Source) -> tuple[int, int]:
    """The first picture's size, shrunk to 512 pixels on its longer side."""
    height, width = source[0]["image"].shape[:2]
    factor = min(1.0, 512 / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _recipe(name: str) -> Recipe:
    if name not in SYSTEMS:
        raise UsageError(f"there is no system {name!r}. Systems: {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]


def _value(text: str) -> Any:
    for separator, number in (("x", int), ("..", float)):
        parts = text.split(separator)
        if len(parts) == 2:
            try:
                return tuple(number(part) for part in parts)
            except ValueError:
                pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _size(text: str) -> tuple[int, int]:
    value = _value(text)
    if not (isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, int) and v > 0 for v in value)):
        raise UsageError(f"--size takes HEIGHTxWIDTH, such as 180x240. Received: {text!r}")
    return value


def _say(text: str, file=None) -> None:
    print(text, file=file or sys.stdout, flush=True)


def _wrote(*paths: object, more: int = 0) -> None:
    _say("wrote " + "\n      ".join(str(path) for path in paths) + (f"\n      and {more} more" if more > 0 else ""))


def _next(*steps: str) -> None:
    _say("next  " + "\n      ".join(steps))


class _Progress:
    """A progress bar on standard error while `with` lasts; called with (done, total)."""

    def __init__(self, label: str):
        self.label, self.bar = label, None

    def __enter__(self):
        return self

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None:
            _say(f"{self.label} ...", file=sys.stderr)
            self.bar = keras.utils.Progbar(total, verbose=1 if sys.stderr.isatty() else 0, unit_name="picture")
        self.bar.update(done)

    def __exit__(self, *error):
        return None
