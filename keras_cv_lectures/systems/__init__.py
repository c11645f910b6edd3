"""SYSTEMS: the table of contents. The only folder that knows every system."""

from __future__ import annotations

from keras_cv_lectures.recipe import Recipe
from keras_cv_lectures.systems import captioning, detection, segmentation

_ALL = (*segmentation.RECIPES, *detection.RECIPES, *captioning.RECIPES)
SYSTEMS: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}

__all__ = ["SYSTEMS"]
