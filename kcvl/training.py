"""`kcvl train`: the choices that a user leaves open, said aloud, and everything around the trainer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kcvl.advice import for_unused_gpu
from kcvl.parser import UsageError
from kcvl.resuming import check_same_network, check_same_pictures, continued, earlier_run, resumption, validation_of
from kcvl.scoring import check_data_fits, check_source_fits
from kcvl.settings import find_recipe, output_folder, own_words, parse_settings
from kcvl.terminal import Progress, next_steps, quoted, say, wrote
from kcvl.text import count_text, scores_table
from keras_cv_lectures.data import Source, has_splits, open_source
from keras_cv_lectures.data.held_out import held_out
from keras_cv_lectures.data.spec_text import parse_spec
from keras_cv_lectures.data.specs import splits_of
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.metadata import RUN_FILE
from keras_cv_lectures.recipe import Recipe, TrainingOptions
from keras_cv_lectures.reporting import (
    MIN_CALIBRATION,
    REPORT,
    absolute_spec,
    evaluate_run,
    record_seconds,
    refresh_report,
)
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.training import make_strategy, train, train_staged
from keras_cv_lectures.training.callbacks import BEST, HISTORY
from keras_cv_lectures.training.checks import check_folder, check_replicas, check_sources
from keras_cv_lectures.training.sizes import choose_input_size


def run_train(arguments: argparse.Namespace) -> int:
    """Trains, evaluates, writes the report. Returns the exit code."""
    stages = _stages(arguments)
    recipe, out = next(iter(stages.values())), output_folder(arguments.out)
    folders = [out / name for name in stages] if arguments.staged else [out]
    for folder in {out, *folders}:
        check_folder(folder, arguments.resume)
    earlier = earlier_run(folders[0]) if arguments.resume else {}
    recipe = continued(recipe, folders[0], earlier)
    config, options, augmentation = parse_settings(recipe, arguments.settings)
    if earlier:
        check_same_network(recipe, config, folders[0])
    detector, captioner = "boxes" in recipe.keys, "captions" in recipe.keys
    given = arguments.val or validation_of(earlier)
    for spec in (arguments.data, given):
        if spec:
            check_data_fits(detector, spec, captioner=captioner)
    try:
        train_source, val_source, val_spec = open_training_data(
            arguments.data, given, validated=earlier.get("val_ids") or ()
        )
    except DataError as error:
        if given == arguments.val:
            raise
        raise DataError(f"{str(error).rstrip('.')}. That is the run's --val, from {RUN_FILE}: pass another.") from error
    check_source_fits(train_source, arguments.data, detector, captioner)
    if val_source is not None:
        check_source_fits(val_source, given or arguments.data, detector, captioner)
    check_sources(recipe, train_source, val_source)
    classes = recipe.names(train_source, options)[0]
    known = earlier.get("classes")
    if known and list(classes) != known:
        raise DataError(
            f"the run in {out} has the classes {', '.join(known)}, {train_source.name} has "
            f"{', '.join(classes)}. Continue with the same data, or train into another --out."
        )
    other_pictures = check_same_pictures(folders[0], earlier, train_source, val_source) if earlier else ""
    channels = train_source[0]["image"].shape[-1]
    options, sizes_told = choose_input_size(recipe, train_source, options, config, written="--set {}=HEIGHTxWIDTH")
    strategy = make_strategy(arguments.strategy)
    _check_with_strategy(recipe, options, strategy, val_source, len(classes))

    say(f"{_plan(arguments.system, train_source, val_source, options, len(classes))}; {_devices(strategy)}")
    goes_on = arguments.resume and not arguments.staged
    standing = resumption(folders[0], options, validated=val_source is not None) if goes_on else ""
    unused = for_unused_gpu(len(tf.config.list_physical_devices("GPU")))
    for line in (unused, sizes_told and f"Warning: {sizes_told}", other_pictures, standing):
        if line:
            say(line)
    settings = {
        "out": out,
        "config": {**recipe.config, **config},
        "options": options,
        "augmentation": {**recipe.augmentation, **augmentation},
        "channels": channels,
        "strategy": strategy,
        "resume": arguments.resume,
        # A bar that redraws itself fills a log file; there it is one line an epoch.
        "verbose": 1 if sys.stdout.isatty() else 2,
        "record": {
            "data": absolute_spec(val_spec if val_spec and not given else arguments.data),
            "val_data": absolute_spec(val_spec) if val_spec else "",
            "val_ids": list(val_source.ids) if val_source else [],
            "command": quoted("kcvl", *arguments.words),
        },
    }
    try:
        if arguments.staged:
            runs = train_staged(
                stages, train_source, val_source, on_stage=lambda name: say(f"stage {name}"), **settings
            )
        else:
            runs = [train(recipe, train_source, val_source, **settings)]
    except DataError as error:
        raise DataError(f"{error}\n`{quoted('kcvl', 'doctor', arguments.data)}` names every file at fault.") from error
    except ValueError as error:
        words = own_words(error)
        if earlier and isinstance(error, UsageError):
            raise UsageError(
                f"{error} The network is that of {folders[0] / RUN_FILE}; a version that made it may have passed over "
                "a setting: correct it there, or train into another --out."
            ) from error
        if words is None:
            raise
        raise UsageError(f"--set: {words}") from error
    if not runs[-1].chief:  # Another worker writes the folder.
        return 0
    for run in runs:
        record_seconds(run.folder, run.seconds)
    for name, run in zip(stages, runs, strict=True):
        if val_source:
            with Progress(f"evaluating the best epoch{f' of {name}' if arguments.staged else ''}") as progress:
                evaluation = evaluate_run(stages[name], run.folder, val_source, progress=progress)
            say(scores_table(evaluation.scores, getattr(evaluation, "constant", None)))
        refresh_report(stages[name], run.folder, val_source)
    folder = runs[-1].folder
    wrote(folder / BEST, folder / HISTORY, folder / REPORT)
    precision = ["--precision", "int8"] if len(train_source) >= MIN_CALIBRATION else []
    size = [] if options.input_size else ["--size", "{}x{}".format(*options.crop_size)]
    next_steps(
        f"open {quoted(folder / REPORT)}",
        f"{quoted('kcvl', 'predict', folder)} {'PICTURE' if channels in (1, 3) else 'ARRAY.npy'} --out predictions",
        quoted("kcvl", "export", folder, *precision, *size, "--out", folder / "exports"),
    )
    return 0


def _stages(arguments: argparse.Namespace) -> dict[str, Recipe]:
    """Name -> recipe of what is trained in turn: the system alone, or with --staged what it builds upon, too."""
    recipe = find_recipe(arguments.system)
    if not arguments.staged:
        return {recipe.name: recipe}
    if not recipe.stages:
        in_stages = ", ".join(name for name, other in SYSTEMS.items() if other.stages)
        raise UsageError(f"{recipe.name} is not trained in stages. Leave --staged out; it is for {in_stages}.")
    return {name: find_recipe(name) for name in recipe.stages}


def open_training_data(
    spec: str, val_spec: str | None, *, validated: Sequence[str] = ()
) -> tuple[Source, Source | None, str]:
    """Training and validation sources, and the specification of the latter ("" where there is none).

    Without `val_spec` the layout's own validation split is taken; data without one gives its last 15 % (see
    `held_out`). Where the layout has but one split, the specification names it, and then is that of the training
    pictures, too. Of these a run that is continued keeps the pictures that it `validated` on, however many there are
    now.
    """
    if val_spec is not None:
        train_source = open_source(spec, split="train")
        return train_source, open_source(val_spec, split="val", like=train_source), val_spec
    parsed = parse_spec(spec)
    if has_splits(spec) and "val" in splits_of(parsed):
        train_source = open_source(spec, split="train")
        return train_source, open_source(spec, split="val", like=train_source), spec
    only = splits_of(parsed)[0]
    source = open_source(spec, split=only)
    count, known = len(source), set(validated)
    held = [i for i, name in enumerate(source.ids) if name in known] or held_out(source.ids, parsed.kind)
    if not held:
        return source, None, ""
    others = sorted(set(range(count)) - set(held))
    first, last = ("first", "last") if held[0] == len(others) else ("other", "chosen")
    # No option can follow a folder that is given without a kind and has a comma in its path.
    complete = only is None or "split" in parsed.options or any("," in str(path) for path in parsed.paths)
    return (
        source.subset(others, f"{source.name} ({first} {len(others)})"),
        source.subset(held, f"{source.name} ({last} {len(held)})"),
        spec if complete else f"{absolute_spec(spec)},split={only}",
    )


def _plan(system: str, train_source: Source, val_source: Source | None, options: TrainingOptions, classes: int) -> str:
    size = options.input_size
    where = f"at {size[0]}x{size[1]}" if size else "at their own size"
    if options.crop_size:
        where += " in windows of {}x{}".format(*options.crop_size)
    validated = f"{count_text(len(val_source), 'picture')} to validate" if val_source else "nothing to validate on"
    return (
        f"{system} on {train_source.name}: {count_text(len(train_source), 'picture')} {where}, "
        f"{count_text(classes, 'class', 'classes')}, {count_text(options.epochs, 'epoch')} in "
        f"batches of {options.batch_size}; {validated}"
    )


def _devices(strategy: tf.distribute.Strategy) -> str:
    """What computes, such as "on the CPU" or "on 4 GPUs"."""
    kind, count = "GPU" if tf.config.list_physical_devices("GPU") else "CPU", strategy.num_replicas_in_sync
    return f"on the {kind}" if count == 1 else f"on {count} {kind}s"


def _check_with_strategy(
    recipe: Recipe, options: TrainingOptions, strategy: Any, val_source: Source | None, classes: int
) -> None:
    """What cannot be checked before TensorFlow has its devices."""
    try:
        check_replicas(options, strategy, val_source)
    except ValueError as error:
        raise UsageError(f"--set: {error}") from error
    metrics = recipe.make_metrics(max(2, classes))
    known = ["loss", *(metric.name for metric in metrics)]
    # Networks with losses of their own measure them by names that the trainer knows when they are built.
    if metrics and options.keep_best.removeprefix("val_") not in (*known, *recipe.epoch_score_names):
        names = ", ".join(f"val_{name}" for name in known)
        if recipe.epoch_score_names:
            names += "; with evaluate_every=1 also " + ", ".join(f"val_{name}" for name in recipe.epoch_score_names)
        raise UsageError(f"--set keep_best={options.keep_best} is nothing that is measured. Choose one of {names}.")
