"""What the builders of detectors are given, looked at before anything is built."""

from __future__ import annotations

import math
from typing import Any

from keras_cv_lectures.detection.graph import DetectorSettings


def check_widths(*, least: int = 0, **given: Any) -> None:
    """Refuses what is no number of units or channels a layer; None is left to the builder.

    Args:
        least: how many layers there must be.

    Raises:
        ValueError: naming the argument.
    """
    for name, widths in given.items():
        right = isinstance(widths, list | tuple) and len(widths) >= least and all(map(_whole, widths))
        if widths is not None and not right:
            raise ValueError(f"`{name}` must be one number a layer, such as (64, 64). Received: {name}={widths!r}")


def check_settings(*, anchor_sizes: Any, levels: int, **settings: Any) -> None:
    """Refuses numbers with which a detector can be built but not run.

    Args:
        anchor_sizes: as of `DetectorSettings`.
        levels: how many maps get anchors.
        settings: other fields of `DetectorSettings`; those that are not there are not looked at.

    Raises:
        ValueError: naming the argument.
    """
    if not (_several(anchor_sizes) and all(_several(level) and all(map(_positive, level)) for level in anchor_sizes)):
        raise ValueError(
            "`anchor_sizes` must hold the sizes of every level, such as ((32,), (64,), (128,), (256,), (512,)). "
            f"Received: anchor_sizes={anchor_sizes!r}"
        )
    if len(anchor_sizes) != levels or len({len(level) for level in anchor_sizes}) != 1:
        where = f"each of the {levels} levels" if levels > 1 else "one level"
        raise ValueError(
            f"`anchor_sizes` must hold equally many sizes for {where}. Received: anchor_sizes={anchor_sizes!r}"
        )
    ratios = settings.get("anchor_ratios", (1.0,))
    if not (_several(ratios) and all(map(_positive, ratios))):
        raise ValueError(
            f"`anchor_ratios` must be height by width, such as (0.5, 1.0, 2.0). Received: anchor_ratios={ratios!r}"
        )
    for name in ("rpn_pre_nms", "rpn_post_nms"):
        pair = settings.get(name, (1, 1))
        if not (_several(pair) and len(pair) == 2 and all(map(_whole, pair))):
            raise ValueError(
                f"`{name}` must be two numbers, in training and in inference, such as (2000, 1000). "
                f"Received: {name}={pair!r}"
            )
    for name in ("rpn_samples", "samples", "max_detections"):
        if not _whole(settings.get(name, 1)):
            raise ValueError(f"`{name}` must be a whole number of at least 1. Received: {name}={settings[name]!r}")
    for name, most in (("rpn_samples", "rpn_positives"), ("samples", "positives")):
        share = settings.get(most, getattr(DetectorSettings, most))
        if name in settings and int(settings[name] * share) < 1:
            raise ValueError(
                f"`{name}` must be at least {math.ceil(1 / share)}, because at most {share:g} of them are objects, and "
                f"fewer are none. Received: {name}={settings[name]!r}"
            )
    for name in ("rpn_nms", "box_nms", "rpn_score", "box_score"):
        value = settings.get(name, 0.5)
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be in 0..1. Received: {name}={value!r}")


def _several(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0


def _whole(value: Any) -> bool:
    return type(value) is int and value > 0


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


__all__ = ["check_settings", "check_widths"]
