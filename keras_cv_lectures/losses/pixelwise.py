"""What the losses of semantic segmentation share: reading labels, pixel weights and logits, and refusing bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.geometry.label_maps import one_hot_of_two

_LOST_SHAPE = "your tf.data pipeline lost the shape, as after tf.numpy_function: mask.set_shape((height, width))."


class WeightedLabels(NamedTuple):
    """Targets and the (B, H, W) weights of their pixels that came beside them as `sample_weight`."""

    y_true: Any
    weights: Any


class PixelWeightedLoss(keras.losses.Loss):
    """A loss of one value per example, (B,), whose `sample_weight` may be one of each pixel.

    Keras multiplies values and weights with broadcasting: maps of weights would meet values of whole pictures.
    """

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss.

        Args:
            sample_weight: one number, or one a picture, (B,) or (B, 1), which multiplies the picture's loss; or one a
                pixel, (B, H, W) or (B, H, W, 1), which multiplies the weights that `y_true` carries, 1 where it has
                none. `call` then gets `WeightedLabels`.

        Raises:
            ModelError: `sample_weight` has another shape; or it is of pixels and the reduction divides by its sum.
        """
        if sample_weight is None:
            return super().__call__(y_true, y_pred)
        y_pred, weights = ops.convert_to_tensor(y_pred), ops.convert_to_tensor(sample_weight, dtype=self.dtype)
        places, rank = tuple(y_pred.shape[:3]), _rank(weights)
        if rank in (2, 4) and weights.shape[-1] == 1:
            weights, rank = weights[..., 0], rank - 1
        lost = f" Here {_LOST_SHAPE}" if rank is None else ""
        if rank not in (0, 1, 3) or len(y_pred.shape) <= rank or not _alike(weights.shape, places[:rank]):
            raise ModelError(
                "`sample_weight` must be one number a picture, (B,) or (B, 1), or one a pixel, (B, H, W) or "
                f"(B, H, W, 1), where y_pred is {tuple(y_pred.shape)}. Received: sample_weight of shape "
                f"{getattr(sample_weight, 'shape', weights.shape)}." + lost
            )
        if rank < 3:
            return super().__call__(y_true, y_pred, weights)
        if self.reduction == "mean_with_sample_weight":
            raise ModelError(
                f"{self.name} has reduction='mean_with_sample_weight', which divides by the weights of pictures; "
                "received one weight a pixel. Leave `reduction` out."
            )
        return super().__call__(WeightedLabels(y_true, weights), y_pred)


class SegmentationLoss(PixelWeightedLoss):
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
        y_true, beside = y_true if isinstance(y_true, WeightedLabels) else (y_true, None)
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
        if beside is not None:
            weights = ops.where(valid, weights * ops.cast(beside, "float32"), 0.0)
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
    if _rank(y_true) is None:
        # TensorFlow traces `fit` again so after masks of another shape; and so come those of a Python function.
        raise ModelError(
            "y_true has an unknown number of axes: either it came with several since the model was compiled (call "
            f"model.compile again, and give class ids of shape (B, H, W)), or {_LOST_SHAPE}"
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
    if not _alike(labels.shape[1:], logits.shape[1:3]):
        raise ModelError(
            f"y_true is {tuple(labels.shape[1:])} pixels large, y_pred {tuple(logits.shape[1:3])}. "
            "A network with valid convolutions predicts the middle of its input: crop the labels to it."
        )
    return labels, pixel_weights


def _rank(x: Any) -> int | None:
    """How many axes a tensor has; None where TensorFlow does not know it."""
    return None if getattr(x.shape, "rank", 0) is None else len(x.shape)


def _alike(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether two shapes of equal length agree in all that is known of both."""
    return all(a == b for a, b in zip(one, other, strict=True) if a is not None and b is not None)


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
