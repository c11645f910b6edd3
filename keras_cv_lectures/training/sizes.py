"""The size that pictures are trained at where nobody chose one."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_cv_lectures.data import Source
from keras_cv_lectures.data.headers import picture_sizes
from keras_cv_lectures.metadata import RUN_FILE, read_run
from keras_cv_lectures.recipe import Recipe, TrainingOptions

LONGEST_SIDE = 512


def choose_input_size(
    recipe: Recipe,
    source: Source,
    options: TrainingOptions,
    config: Mapping[str, Any] | None = None,
    *,
    written: str = "{}=(height, width)",
) -> tuple[TrainingOptions, str]:
    """Options with an input size, and a line for the user where pictures change by it.

    Neither `input_size` nor `crop_size` given: the most frequent size of the pictures, shrunk to 512 pixels on the
    longer side. With `crop_size` none, but for a network that needs one size to validate on (detectors, valid
    convolutions): the most frequent. Pictures are stretched to it or, for detectors, keep their aspect.

    Args:
        recipe: the system.
        source: pictures to train on, at least one.
        options: returned as they are where a size is given.
        config: builder arguments, over the recipe's.
        written: how the user sets the option `{}` to another size.

    Returns:
        (options, line): the line is what a warning would say, and "" where a size was given or all pictures looked at
        have the chosen one.
    """
    fitted = "boxes" in recipe.keys
    one_size = fitted or recipe.needs_one_size({**recipe.config, **(config or {})})
    if options.input_size is not None or (options.crop_size is not None and not one_size):
        return options, ""
    # An encoder may have said already what is in the pictures.
    if source.files is None and "image" not in source[0]:
        return options, ""
    sizes = picture_sizes(source)
    height, width = max(sizes, key=sizes.get)  # Of equally frequent ones the first picture's.
    factor = 1.0 if options.crop_size else min(1.0, LONGEST_SIDE / max(height, width))
    chosen = max(1, round(height * factor)), max(1, round(width * factor))
    options = dataclasses.replace(options, input_size=chosen)
    other = f"{written.format('input_size')} chooses another size"
    if len(sizes) == 1:
        if factor == 1:
            return options, ""
        return options, f"pictures of {height}x{width} are shrunk to {chosen[0]}x{chosen[1]}; {other}."
    smallest, largest = min(sizes, key=np.prod), max(sizes, key=np.prod)
    brought = "fitted into" if fitted else "stretched to"
    windows = "" if one_size else f"; {written.format('crop_size')} trains on windows of pictures at their own size"
    return options, (
        f"the pictures have {len(sizes)} sizes, {smallest[0]}x{smallest[1]} to {largest[0]}x{largest[1]} "
        f"(height x width). All are {brought} {chosen[0]}x{chosen[1]}, after the most frequent one. {other}{windows}."
    )


def input_size(
    recipe: Recipe, source: Source, options: TrainingOptions, config: Mapping[str, Any] | None, continued: Path | None
) -> tuple[TrainingOptions, str]:
    """`choose_input_size`; a run in the folder `continued`, if there is one, keeps the size that it was begun with."""
    if continued and (continued / RUN_FILE).exists() and options.input_size is None and options.crop_size is None:
        begun = read_run(continued).get("options")
        if isinstance(begun, dict) and begun.get("crop_size") is None:
            size = begun.get("input_size")
            return dataclasses.replace(options, input_size=tuple(size) if size else None), ""
    return choose_input_size(recipe, source, options, config)


def shrunk_by(source: Source, size: tuple[int, int] | None) -> float | None:
    """How many times as long the sides of pictures of `source` are as at `size` (height, width), by their areas.

    The median of those looked at; None without a size.
    """
    if size is None:
        return None
    area = math.prod(size)
    return round(statistics.median(math.sqrt(math.prod(s) / area) for s in picture_sizes(source).elements()), 3)


__all__ = ["LONGEST_SIDE", "choose_input_size", "input_size", "shrunk_by"]
