"""What `test_jax.py` runs on both backends: every system and the layers that TensorFlow has operators of its own for.

    KERAS_BACKEND=jax python tests/jax_side.py FOLDER

answers for the models (`NAME.keras`) and batches (`NAME.npz`) that the test wrote into FOLDER, in `NAME.answers.npz`,
and for the layers in `layers.answers.npz`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cv_lectures import geometry
from keras_cv_lectures.layers import (
    AtrousConv2D,
    MaxPoolWithArgmax,
    MaxUnpool,
    MultiLevelRoIAlign,
    ResizeCornersLike,
    ResizeLike,
    RoIAlign,
    RoIPool,
    Upsample,
)
from keras_cv_lectures.systems import SYSTEMS

# Neither side is a multiple of a network's stride.
ODD = (45, 61)


def system_answers(name: str, model: keras.Model, classes: int, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What the model says of a picture, and what one step of `fit` does: loss, metrics, and changes of the weights."""
    recipe = SYSTEMS[name]
    found = flat("forward", model.predict_on_batch(batch["pictures"]))
    model.compile(
        keras.optimizers.SGD(0.01),
        loss=recipe.make_loss(recipe.smoke_options, None),
        metrics=recipe.make_metrics(classes) or None,
        # TensorFlow's XLA has no sparse products; JAX has nothing but XLA.
        jit_compile=keras.backend.backend() == "jax",
    )
    before = [ops.convert_to_numpy(v) for v in model.weights]
    inputs, targets = batch["inputs"], batch["targets"]
    size = len(next(iter(flat("", inputs).values())))
    history = model.fit(inputs, targets, batch_size=size, epochs=1, shuffle=False, verbose=0).history
    found |= {f"history/{key}": np.asarray(values[0]) for key, values in history.items()}
    for k, (old, variable) in enumerate(zip(before, model.weights, strict=True)):
        found[f"change/{k} {variable.name}"] = ops.convert_to_numpy(variable) - old
    return found


def layer_answers() -> dict[str, np.ndarray]:
    """What the layers say, and their gradients, of maps with ties, odd sizes, and boxes beyond the picture."""
    random = np.random.default_rng(0)
    found = {}

    def both(name: str, function: Callable, x: np.ndarray) -> None:
        value, gradient = _with_gradient(function, x)
        found[name], found[f"{name}, gradient"] = value, gradient

    # Whole numbers of a small range: nearly every window has ties.
    ties = random.integers(0, 3, (2, 11, 13, 4)).astype("float32")
    for size, strides, padding in ((2, 2, "valid"), (2, 2, "same"), (3, 2, "valid"), (3, 2, "same"), (3, 1, "same")):
        pool, unpool = MaxPoolWithArgmax(size, strides, padding), MaxUnpool(size, strides)
        title = f"pool {size} {strides} {padding}"
        pooled, index = pool(ties)
        found[f"{title}, index"] = ops.convert_to_numpy(index)
        both(title, lambda x, pool=pool: pool(x)[0], ties)
        both(f"un{title}", lambda v, u=unpool, i=index: u([v, i, ties]), ops.convert_to_numpy(pooled) + 0.5)

    maps = [random.standard_normal((2, side, side + 3, 5)).astype("float32") for side in (24, 12, 6, 3)]
    corners = random.uniform(-20, 90, (2, 40, 2))
    boxes = np.concatenate([corners, corners + np.exp(random.uniform(-1, 6.5, corners.shape))], -1).astype("float32")
    for aligned in (False, True):
        for ratio in (2, 0):
            align = RoIAlign(3, 0.25, sampling_ratio=ratio, aligned=aligned)
            both(f"RoIAlign {ratio} {aligned}", lambda x, align=align: align([x, boxes]), maps[0])
    pyramid = MultiLevelRoIAlign((3, 2), strides=(4, 8, 16, 32))
    both("RoIAlign of a pyramid", lambda x: pyramid([x, *maps[1:]], boxes), maps[0])
    both("RoIPool", lambda x: RoIPool(3, 0.25)([x, boxes]), maps[0])

    # Boxes and scores of whole numbers: equal scores, and IoUs that are the threshold.
    low = random.integers(0, 12, (2, 60, 2))
    tied = np.concatenate([low, low + random.integers(1, 9, low.shape)], -1).astype("float32")
    scores, labels = random.integers(0, 9, (2, 60)).astype("float32"), random.integers(0, 3, (2, 60))
    for threshold in (0.3, 0.5):
        names = ("index", "count")
        many = geometry.batched_nms(tied, scores, 70, threshold, labels=labels, score_threshold=1.0)
        one = geometry.nms(tied[0], scores[0], 10, threshold)
        portable = geometry.nms_portable(tied, scores, 20, threshold)
        for title, values in (("batched", many), ("one", one), ("portable", portable)):
            found |= {
                f"nms {title} {threshold} {n}": ops.convert_to_numpy(v) for n, v in zip(names, values, strict=True)
            }
    soft = geometry.soft_nms(tied[0], random.permutation(60).astype("float32") / 60, 30, labels=labels[0])
    found |= {f"soft nms {k}": ops.convert_to_numpy(v) for k, v in enumerate(soft)}

    reference = np.zeros((2, 17, 30, 1), "float32")
    for interpolation in ("bilinear", "nearest"):
        both(f"resize {interpolation}", lambda x, i=interpolation: ResizeLike(i)([x, reference]), ties)
    both("resize, corners", lambda x: ResizeCornersLike()([x, reference]), ties)
    for interpolation in ("nearest", "bilinear", "bicubic"):
        both(f"upsample {interpolation}", lambda x, i=interpolation: Upsample(3, i)(x), ties)
    kernel = random.standard_normal((3, 3, 4, 6)).astype("float32")
    for rate in (2, 7, 12):
        layer = AtrousConv2D(6, 3, padding="same", dilation_rate=rate, use_bias=False)
        layer.build(ties.shape)
        layer.set_weights([kernel])
        both(f"atrous {rate}", layer, ties)
    return found


def flat(name: str, value: Any) -> dict[str, np.ndarray]:
    """Arrays of a dict of dicts by their joined names."""
    if isinstance(value, Mapping):
        return {key: x for part, inner in value.items() for key, x in flat(f"{name}/{part}", inner).items()}
    return {name: np.asarray(value)}


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of `flat("", ...)`."""
    found: dict[str, Any] = {}
    for key, value in arrays.items():
        *folders, last = key.strip("/").split("/")
        place = found
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return found


def _with_gradient(function: Callable, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The function's value, and the gradient of its product with numbers that differ from each other."""

    def total(x):
        y = function(x)
        numbers = np.cos(np.arange(np.prod(y.shape))).astype("float32")
        return ops.sum(y * numbers.reshape(y.shape)), y

    if keras.backend.backend() == "jax":
        import jax

        gradient, value = jax.jit(jax.grad(total, has_aux=True))(x)
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            watched = tf.constant(x)
            tape.watch(watched)
            product, value = total(watched)
        gradient = tape.gradient(product, watched)
    return np.asarray(value), np.asarray(gradient)


def main(folder: Path) -> None:
    """Answers for every model in the folder; says on standard output how long each took."""
    seconds = {}
    for path in sorted(folder.glob("*.keras")):
        started = time.perf_counter()
        with np.load(path.with_suffix(".npz")) as archive:
            batch = nested({key: archive[key] for key in archive.files})
        model = keras.saving.load_model(path)
        found = system_answers(path.stem, model, int(batch["classes"]), batch)
        np.savez(path.with_suffix(".answers.npz"), **found)
        seconds[path.stem] = round(time.perf_counter() - started, 1)
    np.savez(folder / "layers.answers.npz", **layer_answers())
    print(json.dumps({"backend": keras.backend.backend(), "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
