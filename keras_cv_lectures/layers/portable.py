"""The switch between TensorFlow's own fast operators and the operators that every runtime has."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import keras

_portable = contextvars.ContextVar("keras_cv_lectures_portable_operators", default=False)


@contextlib.contextmanager
def portable_operators() -> Iterator[None]:
    """Layers called, or traced, inside use operators alone that TensorFlow Lite and XLA have too.

    Outside, on the TensorFlow backend, some layers take operators that only TensorFlow has and that are faster there;
    the numbers are the same but for rounding. What was traced before keeps its operators: trace the function inside.

    >>> with portable_operators():
    ...     concrete = tf.function(model).get_concrete_function(signature)
    """
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def wants_portable_operators() -> bool:
    """Whether a layer must use portable operators: inside of `portable_operators`, or on another backend."""
    return _portable.get() or keras.backend.backend() != "tensorflow"
