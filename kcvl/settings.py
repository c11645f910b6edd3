"""`--set OPTION=VALUE` and other words of a command, understood and checked before any work starts."""

from __future__ import annotations

import ast
import dataclasses
import functools
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kcvl.parser import UsageError
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.preprocessing import Augmentation
from keras_cv_lectures.recipe import Recipe, TrainingOptions, split_settings
from keras_cv_lectures.systems import SYSTEMS

_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    bool: "true or false",
    tuple: "two numbers, such as 180x240 or 0.5..2",
    types.NoneType: "none",
}
_OWN_KINDS = {"milestones": "one epoch or several in ascending order, such as 12, 16x22 or 4,6,8"}


def parse_settings(recipe: Recipe, settings: Sequence[str]) -> tuple[dict, TrainingOptions, dict]:
    """`["filters=32", "epochs=4", "rotate=15"]` -> (network, training options, augmentation).

    Raises:
        UsageError: an option is unknown, or its value is of the wrong kind or out of range.
    """
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set takes OPTION=VALUE. Received: {setting!r}.")
        values[key.strip()] = value_of(text)
    fields = {field.name: field for field in dataclasses.fields(Augmentation)}
    try:
        config, options, augmentation = split_settings(recipe, values, fields)
        options = {name: _word(name, value) for name, value in options.items()}
        _check_kinds(TrainingOptions, options)
        _check_kinds(Augmentation, augmentation)
        Augmentation(**{**recipe.augmentation, **augmentation})
        return config, dataclasses.replace(recipe.options, **options), augmentation
    except (ValueError, TypeError) as error:
        raise UsageError(f"--set: {error}") from error


def find_recipe(name: str) -> Recipe:
    """The system of that name; its builder answers wrong settings with a `UsageError`."""
    if name not in SYSTEMS:
        raise UsageError(f"there is no system {name!r}. Systems: {', '.join(SYSTEMS)}.")
    recipe = SYSTEMS[name]

    @functools.wraps(recipe.build)
    def build(*args: Any, **config: Any) -> Any:
        try:
            return recipe.build(*args, **config)
        except (DataError, ModelError):
            raise
        except (ValueError, TypeError) as error:
            given = ", ".join(f"{key}={value}" for key, value in config.items()) or "its defaults"
            raise UsageError(f"{name} cannot be built with {given}: {str(error).rstrip('.')}.") from error

    return dataclasses.replace(recipe, build=build)


def own_words(error: ValueError) -> str | None:
    """What this package says about options that do not fit together; None for a ValueError of anyone else's.

    TensorFlow repeats what was raised inside a `tf.data` function between the lines of a traceback.
    """
    if isinstance(error, UsageError | DataError | ModelError):
        return None
    text = str(error)
    if text.startswith("in user code:"):
        found = re.search(r"keras_cv_lectures.*^\s*ValueError: (.*)\Z", text, re.DOTALL | re.MULTILINE)
        return " ".join(found.group(1).split()) if found else None
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    module = place.tb_frame.f_globals.get("__name__", "") if place is not None else ""
    return text if module.startswith("keras_cv_lectures.") else None


def output_folder(name: str) -> Path:
    """`--out DIR`, which need not exist yet.

    Raises:
        UsageError: it is a file.
        DataError: it, or the folder that it would be made in, cannot be written to; said before hours of work.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {path} is a file. Name a folder.")
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK):
        raise DataError(f"--out {path}: {there} cannot be written to. Change its permissions, or choose another --out.")
    return path


def size_of(text: str) -> tuple[int, int]:
    """`--size HEIGHTxWIDTH`."""
    value = value_of(text)
    if not (isinstance(value, tuple) and len(value) == 2 and all(type(v) is int and v > 0 for v in value)):
        raise UsageError(f"--size takes HEIGHTxWIDTH, such as 180x240. Received: {text!r}.")
    return value


def value_of(text: str) -> Any:
    """The value that a setting's text stands for: 180x240, 0.5..2, a Python literal, true, false, none, or itself."""
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


def _word(option: str, value: Any) -> Any:
    """`none` as the word that it is where an option takes words and never nothing."""
    return "none" if value is None and typing.get_type_hints(TrainingOptions)[option] is str else value


def _check_kinds(fields: type, values: Mapping[str, Any]) -> None:
    hints = typing.get_type_hints(fields)
    for name, value in values.items():
        choices = typing.get_args(hints[name]) if isinstance(hints[name], types.UnionType) else (hints[name],)
        kinds = [typing.get_origin(kind) or kind for kind in choices]
        known = all(kind in _KINDS for kind in kinds)  # A choice of words is checked by the class itself.
        if known and not any(_is_a(value, kind) for kind in kinds):
            told = _OWN_KINDS.get(name) or " or ".join(_KINDS[k] for k in kinds)
            raise ValueError(f"`{name}` takes {told}. Received: {value!r}.")


def _is_a(value: Any, kind: type) -> bool:
    if kind in (int, float):  # True is an int for Python, not for a person.
        return type(value) in (int, kind)
    return isinstance(value, kind)
