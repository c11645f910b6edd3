"""Whether a model and the data have the same classes, and what to say if they do not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from keras_cv_lectures.data import Source
from keras_cv_lectures.errors import DataError

Progress = Callable[[int, int], None]

_NAMED = 12  # Classes that a message lists.
_REPAIR = "Give the labels that the model was trained with: labels=FILE in the data specification."
_log = logging.getLogger(__name__)


def check_pixel_classes(predicted: Sequence[str], named: bool, source: Source) -> None:
    """Classes of pixels are compared by position, so there must be as many, and known names in one order.

    Args:
        predicted: classes of the model, background included.
        named: whether these names are its own.
        source: of the masks.

    Raises:
        DataError: they differ.
    """
    model, data = tuple(predicted), tuple(source.classes)
    if len(model) != len(data):
        shown = f" ({listed(model)})" if named else ""
        raise DataError(
            f"the model has {len(model)} classes{shown}, {source.name} has {len(data)} ({listed(data)}). {_REPAIR}"
        )
    if named and model != data:
        if set(model) == set(data):
            raise DataError(
                f"the model has the classes {listed(model)}, {source.name} has them in another order: "
                f"{listed(data)}. {_REPAIR}"
            )
        _log_by_position(model, data, source)


def object_labels(model: Sequence[str], source: Source) -> np.ndarray | None:
    """For each label of the model the label in the data, -1 where the data has no such class; None: they are equal.

    Args:
        model: names of the model's classes, () where it does not know them.
        source: of the boxes.

    Raises:
        DataError: names are known and neither they nor their number agree.
    """
    model, data = tuple(model), object_classes(source)
    if not model or model == data:
        return None
    if set(data) <= set(model):
        places = {name: label for label, name in enumerate(data)}
        others = [name for name in model if name not in places]
        if others:
            _log.info("%s: detections of %s, which it does not have, are left out.", source.name, listed(others))
        return np.array([places.get(name, -1) for name in model], np.int32)
    if len(model) != len(data):
        raise DataError(
            f"the model finds {len(model)} classes ({listed(model)}), {source.name} has {len(data)} "
            f"({listed(data)}). {_REPAIR}"
        )
    _log_by_position(model, data, source)
    return None


def object_classes(source: Source) -> tuple[str, ...]:
    """Names of what boxes can be, without background."""
    return tuple(source.object_classes or source.classes)


def listed(names: Sequence[str]) -> str:
    """The first dozen names."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _log_by_position(model: Sequence[str], data: Sequence[str], source: Source) -> None:
    _log.info(
        "%s: its classes (%s) are compared by position with those of the model (%s).",
        source.name,
        listed(data),
        listed(model),
    )
