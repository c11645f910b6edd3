"""Functions of TensorFlow -> SavedModel folder on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

# What TensorFlow raises instead of an OSError when it cannot write.
_DISK_ERRORS = (tf.errors.ResourceExhaustedError, tf.errors.UnknownError, tf.errors.PermissionDeniedError)


def save_graphs(module: tf.Module, path: Path, signatures: Mapping[str, Any]) -> None:
    """Writes functions that are traced already as the signatures of a SavedModel, without telling of it.

    Args:
        module: holds the variables that they use.
        signatures: name -> concrete function.

    Raises:
        OSError: the folder could not be written.
    """
    # What is served is not trained: gradients of our own would be saved, too, and those that refer to values of the
    # graph cannot be.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # "Assets written to ..." names a temporary folder.
    try:
        tf.saved_model.save(module, str(path), signatures=dict(signatures), options=options)
    except _DISK_ERRORS as error:  # Anywhere else they are about memory or about the model.
        raise OSError(str(error)) from error
    finally:
        logger.setLevel(level)
