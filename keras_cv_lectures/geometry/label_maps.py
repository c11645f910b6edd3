"""What the labels of pixels look like, in `keras.ops`."""

from __future__ import annotations

from typing import Any

from keras import ops


def one_hot_of_two(pairs: Any) -> Any:
    """Whether pairs of numbers are one-hot masks of two classes: each is [1, 0] or [0, 1], and both kinds occur.

    Read as [class id, pixel weight] they would be a map that gives class 1 the weight 0 and class 0 the weight 1
    everywhere, from which a network of two classes learns that all is background.

    Args:
        pairs: (..., 2), any number type.

    Returns:
        A scalar bool.
    """
    first, second = (ops.cast(pairs[..., k], "float32") for k in (0, 1))
    of_zero, of_one = (first == 1.0) & (second == 0.0), (first == 0.0) & (second == 1.0)
    return ops.all(of_zero | of_one) & ops.any(of_zero) & ops.any(of_one)


__all__ = ["one_hot_of_two"]
