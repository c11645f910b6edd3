"""Parts of a backbone that stay as they were trained elsewhere."""

from __future__ import annotations

import keras


def freeze_normalization(model: keras.Model, epsilon: float | None = None) -> None:
    """Makes every batch normalisation a constant scale and shift: detectors see too few pictures at once for averages.

    Args:
        epsilon: added to the variances from now on; None leaves it.
    """
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            freeze_normalization(layer, epsilon)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
            if epsilon is not None:
                layer.epsilon = epsilon


def freeze_stages(body: keras.Model, trainable: int) -> None:
    """Freezes the first stages of a backbone, so that its last `trainable` of five are trained.

    A layer belongs to the first stage whose output depends on it.

    Args:
        body: picture -> {..., "c5": ...}, with the last stage that is frozen: "c1" where four are trained.
        trainable: 0 to 5; 5 freezes nothing.

    Raises:
        ValueError: for another number, or a body without that stage.
    """
    if trainable not in range(6):
        raise ValueError(f"`trainable_stages` must be 0 to 5. Received: trainable_stages={trainable!r}")
    if trainable == 5:
        return
    last = f"c{5 - trainable}"
    if last not in body.output:
        raise ValueError(
            f"`trainable_stages` must leave frozen a stage that the backbone gives. Received: {trainable}, which needs "
            f"{last}, and a model that gives {', '.join(body.output)}. Add it to the model's outputs, or pass "
            "trainable_stages=5."
        )
    for layer in keras.Model(body.inputs, body.output[last]).layers:
        layer.trainable = False


__all__ = ["freeze_normalization", "freeze_stages"]
