"""Logits of a segmentation network -> probabilities and class maps, at the network's size or at the picture's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

STRIP_BYTES = 64 * 2**20


def serving_outputs(outputs: Any, name: str) -> dict[str, Any]:
    """Named outputs that a served or exported model returns.

    Works eagerly and inside a traced function; only operators that TensorFlow Lite has builtin are used.

    Args:
        outputs: what the model returned: a tensor, a dict of tensors, or a list of them.
        name: name of the model's output (`model.output_names[0]`).

    Returns:
        For one float tensor (B, H, W, K) named "logits": `logits` (B, H, W, K) float32, `probabilities`
        (B, H, W, K) float32 and `class_map` (B, H, W) int32. With K > 1 the classes exclude each other (softmax; the
        lowest label wins a tie); with K = 1 the one channel is the foreground (sigmoid; class 1 where the logit
        is above 0). Of a dict its "logits" count; a dict without them is returned unchanged, any other tensor as
        `{"output": tensor}`, several tensors as `{"output_0": ..., "output_1": ...}`.
    """
    if isinstance(outputs, dict):
        # Other heads, such as torchvision's auxiliary one, are for training.
        return serving_outputs(outputs["logits"], "logits") if "logits" in outputs else outputs
    if isinstance(outputs, list | tuple):
        if len(outputs) != 1:
            return {f"output_{i}": output for i, output in enumerate(outputs)}
        outputs = outputs[0]
    is_float = "float" in keras.backend.standardize_dtype(outputs.dtype)
    if name != "logits" or len(outputs.shape) != 4 or not is_float:
        return {"output": outputs}
    logits = ops.cast(outputs, "float32")  # (B, H, W, K)
    if logits.shape[-1] == 1:
        return {
            "logits": logits,
            "probabilities": ops.sigmoid(logits),
            "class_map": ops.cast(logits[..., 0] > 0, "int32"),  # (B, H, W)
        }
    return {"logits": logits, "probabilities": ops.softmax(logits, axis=-1), "class_map": _argmax(logits)}


def resize_probabilities(probabilities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Probabilities at another size, by bilinear interpolation with half-pixel centres.

    Enlarging equals `tf.image.resize(..., "bilinear", antialias=False)`. Shrinking widens the triangle so that every
    source pixel counts (`antialias=True`): a thin class does not vanish between two samples.

    Args:
        probabilities: (H, W, K) float, in 0..1 (any finite values are interpolated alike).
        size: (height, width) in pixels of the result.

    Returns:
        (height, width, K) float32. Where the input sums to 1 over K, so does the result.

    Raises:
        ValueError: `probabilities` is not a non-empty (H, W, K) array, or `size` is not two positive integers.
    """
    probabilities, size = _checked(probabilities, size)
    if probabilities.shape[:2] == size:
        return probabilities
    result = np.empty((*size, probabilities.shape[2]), np.float32)
    for start, strip in _resized_strips(probabilities, size):
        result[start : start + len(strip)] = strip
    return result


def class_map_at(probabilities: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Class map at another size: interpolated probabilities first, then the decision, so that borders stay smooth.

    The enlarged probabilities exist only a strip of rows at a time; memory is that of the class map.

    Args:
        probabilities: (H, W, K) float in 0..1; K = 1 is the probability of the foreground, decided at 0.5.
        size: (height, width) in pixels of the result.

    Returns:
        (height, width) int32 labels.

    Raises:
        ValueError: as `resize_probabilities`.
    """
    probabilities, size = _checked(probabilities, size)
    if probabilities.shape[:2] == size:
        return _decide(probabilities)
    result = np.empty(size, np.int32)
    for start, strip in _resized_strips(probabilities, size):
        result[start : start + len(strip)] = _decide(strip)
    return result


def _argmax(logits: Any) -> Any:
    if keras.backend.backend() == "tensorflow":
        # keras.ops.argmax handles negative zero with a BitwiseAnd, which TensorFlow Lite does not have builtin.
        return tf.argmax(logits, axis=-1, output_type=tf.int32)
    return ops.cast(ops.argmax(logits, axis=-1), "int32")


def _decide(probabilities: np.ndarray) -> np.ndarray:
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] > 0.5).astype(np.int32)
    return probabilities.argmax(axis=-1).astype(np.int32)


def _checked(probabilities: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    probabilities = np.asarray(probabilities, np.float32)
    if probabilities.ndim != 3 or 0 in probabilities.shape:
        raise ValueError(
            f"probabilities must be (height, width, classes), received shape {probabilities.shape}. "
            "Pass one picture of the batch."
        )
    if len(size) != 2 or any(side != int(side) or side < 1 for side in size):
        raise ValueError(f"size must be (height, width) in whole pixels, at least (1, 1); received {tuple(size)}.")
    return probabilities, (int(size[0]), int(size[1]))


def _resized_strips(probabilities: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, (rows, width, K) float32) from top to bottom, a bounded number of bytes at a time."""
    height, width, channels = probabilities.shape
    down = _interpolation_matrix(height, size[0])  # (h, H)
    across = _interpolation_matrix(width, size[1])  # (w, W)
    source = probabilities.reshape(height, width * channels)
    rows = max(1, STRIP_BYTES // (4 * max(width, size[1]) * channels))
    for start in range(0, size[0], rows):
        strip = (down[start : start + rows] @ source).reshape(-1, width, channels)  # (r, W, K)
        columns = np.ascontiguousarray(strip.transpose(1, 0, 2)).reshape(width, -1)  # (W, r K)
        strip = (across @ columns).reshape(size[1], -1, channels)  # (w, r, K)
        yield start, strip.transpose(1, 0, 2)


def _interpolation_matrix(source: int, target: int) -> Any:
    """Sparse (target, source) float32 matrix of a triangle filter; rows sum to 1.

    Weights that would fall outside the picture are dropped and the rest renormalised, which at two taps is the same as
    repeating the border pixel.
    """
    from scipy.sparse import csr_array

    scale = source / target
    reach = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    taps = np.floor(centres - reach).astype(int)[:, None] + np.arange(2 * int(np.ceil(reach)) + 2)  # (target, taps)
    weights = np.clip(1.0 - np.abs(taps + 0.5 - centres[:, None]) / reach, 0.0, None)
    weights[(taps < 0) | (taps >= source)] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    row, tap = np.nonzero(weights)
    return csr_array((weights[row, tap].astype(np.float32), (row, taps[row, tap])), shape=(target, source))
