"""What the losses of semantic segmentation share: reading labels, pixel weights and logits, and refusing bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.geometry.label_maps import one_hot_of_two


class SegmentationLoss(keras.losses.Loss):
    """Reads labels, weights and logits, and leaves the formula to `example_loss`.

    One-hot masks of two classes have the shape of [class id, pixel weight] pairs. Where a batch is such a mask (see
    `one_hot_of_two`), its labels are unusable: turn them into ids by argmax.

    Args:
        ignore_label: label of pixels that count for nothing, or None where every pixel has a class.
        reduction: as in `keras.losses.Loss`.
        name: as in `keras.losses.Loss`.
    """

    def __init__(
        self,
        *,
        ignore_label: int | None = 255,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
    ):
        # The dtype is fixed: bfloat16 would round both the logits and the sums over a picture.
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.ignore_label = ignore_label

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_true, logits = ops.convert_to_tensor(y_true), ops.cast(y_pred, "float32")
        given, pixel_weights = _split(y_true, logits)
        labels = ops.cast(given, "int32")
        valid = ops.ones_like(labels, dtype="bool")
        if self.ignore_label is not None:
            valid = labels != self.ignore_label
        # NaN and fractions (masks resized with interpolation) differ from their integer, too.
        unusable = valid & ((labels < 0) | (labels >= logits.shape[-1]) | (given != ops.cast(labels, given.dtype)))
        if pixel_weights is not None and logits.shape[-1] == 2:
            unusable = unusable | (valid & one_hot_of_two(y_true))
        valid = valid & ~unusable
        labels = ops.where(valid, labels, -1)
        weights = ops.cast(valid, "float32")
        if pixel_weights is not None:
            weights = ops.where(valid, ops.cast(pixel_weights, "float32"), 0.0)
        loss = self.example_loss(logits, labels, valid, weights)
        return ops.where(ops.any(unusable, axis=(1, 2)), float("nan"), loss)

    def example_loss(self, logits: Any, labels: Any, valid: Any, weights: Any) -> Any:
        """The formula.

        Args:
            logits: (B, H, W, K) float32.
            labels: (B, H, W) int32, 0..K-1, or -1 where the pixel does not count.
            valid: (B, H, W) bool, whether the pixel counts.
            weights: (B, H, W) float32, weight of the pixel, 0 where it does not count.

        Returns:
            (B,) float32.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ignore_label": self.ignore_label}


def _split(y_true: Any, logits: Any) -> tuple[Any, Any | None]:
    """(B, H, W) labels as given, and (B, H, W) pixel weights or None; checks every shape known now."""
    if len(logits.shape) != 4 or logits.shape[-1] is None or logits.shape[-1] < 2:
        raise ModelError(
            f"y_pred must be logits of shape (B, H, W, classes) with 2 or more classes, not {tuple(logits.shape)}. "
            "Background is a class: a single foreground class needs num_classes=2."
        )
    if getattr(y_true.shape, "rank", 0) is None:  # So TensorFlow traces `fit` again after masks of another shape.
        raise ModelError(
            "y_true came with several numbers of axes since the model was compiled. Call model.compile again, and give "
            "class ids of shape (B, H, W)."
        )
    if len(y_true.shape) == 4 and y_true.shape[-1] == 2:
        labels, pixel_weights = y_true[..., 0], y_true[..., 1]
    elif len(y_true.shape) == 3:
        labels, pixel_weights = y_true, None
    else:
        raise ModelError(
            "y_true must be class ids of shape (B, H, W), or (B, H, W, 2) with a pixel weight beside each; "
            f"received {tuple(y_true.shape)}. Squeeze a trailing axis of 1; turn one-hot masks into ids by argmax. "
            "Then call model.compile again: Keras cannot go on after an error in `fit`."
        )
    known = zip(labels.shape[1:], logits.shape[1:3], strict=True)
    if any(label != logit for label, logit in known if label is not None and logit is not None):
        raise ModelError(
            f"y_true is {tuple(labels.shape[1:])} pixels large, y_pred {tuple(logits.shape[1:3])}. "
            "A network with valid convolutions predicts the middle of its input: crop the labels to it."
        )
    return labels, pixel_weights


def logit_of_label(logits: Any, labels: Any) -> Any:
    """Logit of the label, (...,) of logits (..., K); 0 where the label is -1."""
    # Chosen, not multiplied: 0 times the minus infinity of a class that is ruled out would be NaN.
    chosen = ops.one_hot(labels, logits.shape[-1], dtype="bool")
    return ops.sum(ops.where(chosen, logits, 0.0), axis=-1)


def ratio(numerator: Any, denominator: Any) -> Any:
    """numerator / denominator, and 0 where the denominator is 0."""
    some = denominator > 0.0
    return ops.where(some, numerator / ops.where(some, denominator, 1.0), 0.0)


def weight_list(weights: Sequence[float] | None, argument: str) -> list[float] | None:
    if weights is None:
        return None
    values = [float(weight) for weight in weights]
    if not values or any(not 0.0 <= value < float("inf") for value in values):
        raise ModelError(f"{argument} must be finite numbers of at least 0, one per class; received {weights!r}.")
    return values


def class_weight_tensor(weights: list[float], num_classes: int, argument: str) -> Any:
    if len(weights) != num_classes:
        raise ModelError(f"{argument} has {len(weights)} values but the model predicts {num_classes} classes.")
    return ops.convert_to_tensor(weights, dtype="float32")
