"""`kcvl train --resume`: what is taken from the run that is continued, and what must not have changed since."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kcvl.parser import UsageError
from kcvl.text import count_text
from keras_cv_lectures.data import Source
from keras_cv_lectures.data.trained_on import count_trained_on
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.metadata import RUN_FILE, read_run
from keras_cv_lectures.recipe import Recipe, TrainingOptions
from keras_cv_lectures.reporting.runs import harmless_spec
from keras_cv_lectures.training.callbacks import STATE, Checkpoints


def earlier_run(out: Path) -> dict[str, Any]:
    """`read_run` of the run to continue; {} where none was begun."""
    return read_run(out) if (out / RUN_FILE).exists() else {}


def continued(recipe: Recipe, out: Path, earlier: dict[str, Any]) -> Recipe:
    """`recipe` with the settings of the run in `out` as its defaults."""
    if not earlier:
        return recipe
    if earlier.get("system") != recipe.name:
        raise UsageError(f"{out} holds a run of {earlier.get('system')}, not of {recipe.name}. Choose another --out.")
    fields = {field.name for field in dataclasses.fields(TrainingOptions)}
    try:
        options = {key: _tuples(value) for key, value in earlier.get("options", {}).items() if key in fields}
        return dataclasses.replace(
            recipe,
            config=earlier.get("config") or recipe.config,
            options=TrainingOptions(**options),
            augmentation={key: _tuples(value) for key, value in earlier.get("augmentation", {}).items()},
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"the settings in {out / RUN_FILE} cannot be continued ({error}). The file is damaged, or of a version "
            "that allowed them: correct it there, or train into another --out."
        ) from error


def check_same_network(recipe: Recipe, config: dict[str, Any], out: Path) -> None:
    changed = [
        f"{key}={value} ({recipe.config.get(key, 'the default')} in the run)"
        for key, value in config.items()
        if key not in recipe.config or _tuples(recipe.config[key]) != _tuples(value)
    ]
    if changed:
        raise UsageError(
            f"--resume continues the network of {out}, which --set cannot change: {', '.join(changed)}. Leave these "
            "out, or train into another --out."
        )


def validation_of(earlier: Mapping[str, Any]) -> str | None:
    """What the run in whose `run.json` `earlier` stands was given as --val; None where it was not.

    Raises:
        DataError: its data are a function to call.
    """
    spec = earlier.get("val_data")
    if not spec or spec == earlier.get("data"):  # Without --val both are what the pictures were split of.
        return None
    try:
        return harmless_spec(spec)
    except DataError as error:
        raise DataError(f"--val was {spec} and must be given again: {error}") from error


def check_same_pictures(out: Path, earlier: Mapping[str, Any], train_source: Source, val_source: Source | None) -> str:
    """A warning where the pictures are not those of the run in `out`, "" where they are.

    Raises:
        DataError: pictures are new among those to validate on, and the run was trained on them.
    """
    if not (out / STATE).exists():
        return ""
    sources = {"to train on": (earlier["train_ids"], train_source)}
    if "val_ids" in earlier:  # Python's `train` alone does not tell.
        sources["to validate on"] = (earlier["val_ids"], val_source)
    changes = []
    for purpose, (before, source) in sources.items():
        now = set(source.ids) if source else set()
        gone, new = len(set(before) - now), len(now - set(before))
        if gone or new:
            changes.append(
                f"of its {count_text(len(before), 'picture')} {purpose} {gone} are missing and {new} are new"
            )
    if not changes:
        return ""
    difference = f"the run in {out} had other pictures: {'; '.join(changes)}"
    if val_source and "val_ids" in earlier:
        known = set(earlier["val_ids"])
        seen = count_trained_on(earlier, val_source.subset([i for i, x in enumerate(val_source.ids) if x not in known]))
        if seen:
            raise DataError(
                f"{difference}. It was trained on {seen} of the new ones, so scores on them would say nothing. Give "
                "--data and --val of the run, or train into another --out."
            )
    return f"Warning: {difference}."


def resumption(out: Path, options: TrainingOptions, *, validated: bool = False) -> str:
    """Where the run in `out` goes on, in a sentence; `validated`: whether it now has validation data."""
    checkpoints = Checkpoints(out, monitor=options.keep_best, seed=options.seed, patience=options.patience)
    state = checkpoints.read()
    if state is None:
        return f"there is no checkpoint in {out} yet: starting from the beginning"
    done = int(state["epochs_done"])
    if done < options.epochs and checkpoints.without_gain(validated=validated):
        return f"patience={options.patience} ended it after epoch {done}; --set patience={options.epochs} would go on"
    if done < options.epochs:
        return f"continuing after epoch {done}"
    advice = f"--set epochs={2 * done} would go on"
    if options.schedule in ("cosine", "poly"):  # The schedule of a longer training has not come as far.
        advice += f", its learning rate raised again to that of epoch {done + 1} of {2 * done}"
    return f"all {done} epochs are done already; {advice}"


def _tuples(value: Any) -> Any:
    """JSON has lists only."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
