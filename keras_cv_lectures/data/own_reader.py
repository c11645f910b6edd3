"""`python:MODULE:FUNCTION`: data that a function of the user's reads, under the name that commands give to data."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from keras_cv_lectures.data.source import Source
from keras_cv_lectures.errors import DataError

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def python_source(name: str, split: str | None = None) -> Source:
    """What a function returns.

    Args:
        name: "MODULE:FUNCTION", the module as it would be imported in the current folder, which stays at the end of
            `sys.path`. The function takes the name
            of a split, "train" or "val", or nothing, and returns a `Source`.
        split: None means "train", where the function takes a split.

    Raises:
        DataError: the module cannot be imported, has no such function, or the function returns something else. What
            the function itself raises is passed on.
    """
    function = _function(name)
    if python_splits(name) == (None,):
        source = function()
    else:
        source = function(split or "train")
    if not isinstance(source, Source):
        raise DataError(
            f"python:{name} must return a `keras_cv_lectures.data.Source`, but returned {type(source).__name__}. "
            "docs/own_reader.md shows one."
        )
    return source


def python_splits(name: str) -> tuple[str | None, ...]:
    """("train", "val") for a function that takes a split, (None,) for one that takes nothing.

    Raises:
        DataError: as `python_source`.
    """
    try:
        parameters = inspect.signature(_function(name)).parameters
    except ValueError as error:
        raise DataError(f"python:{name} does not say what it takes ({error}). Write a function def {name}.") from error
    return ("train", "val") if parameters else (None,)


def _function(name: str) -> Callable[..., Any]:
    if not _NAME.fullmatch(name):
        raise DataError(f"python:{name} must be python:MODULE:FUNCTION, such as python:my_data:make.")
    module_name, _, function_name = name.partition(":")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # The user's own program may raise anything while it is imported.
        raise DataError(
            f"python:{name}: the module {module_name} cannot be imported from {folder} ({type(error).__name__}: "
            f"{error}). Change to its folder, or correct it."
        ) from error
    finally:
        sys.path.remove(folder)
    # What the function imports when it is called is found, too; last, so that it hides nothing.
    if folder not in sys.path:
        sys.path.append(folder)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise DataError(f"python:{name}: the module {module_name} has no function {function_name}. Write one.")
    return function
