"""The processes of a measurement: one that prepares the files of a system, and one for each path that it is run by.

python -m keras_cv_lectures.benchmarking.contender REQUEST prepare
python -m keras_cv_lectures.benchmarking.contender REQUEST PATH
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cv_lectures.benchmarking.busy import busy_detector, endless_captioner, with_offsets
from keras_cv_lectures.benchmarking.request import EXPORTS, MATRIX, MODEL_FILE, PREPARED_FILE, Request
from keras_cv_lectures.benchmarking.turns import answer, reason_of
from keras_cv_lectures.data import shapes_source, to_dataset
from keras_cv_lectures.exporting import export_saved_model, export_tflite, tflite
from keras_cv_lectures.files import write_json
from keras_cv_lectures.metadata import Metadata
from keras_cv_lectures.runners import load_keras_model, load_runner
from keras_cv_lectures.serving import gflops
from keras_cv_lectures.systems import SYSTEMS
from keras_cv_lectures.text import SPECIAL_WORDS
from keras_cv_lectures.training.optimizers import make_optimizer

_STEPS = 1000  # Of an epoch: only the learning rate depends on it.


def main(arguments: list[str]) -> None:
    request, path = Request.from_text(arguments[0]), arguments[1]
    tf.config.threading.set_intra_op_parallelism_threads(request.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if path == "prepare":
        prepare(request)
    else:
        answer(lambda: contender(request, path))


def prepare(request: Request) -> None:
    """Writes the model, and its exports as far as they can be made.

    `prepared.json` tells `parameters`, `gflops` of one picture, and under `failed` why an export is missing; it is
    written anew after each step, so that it tells how far a process came that was killed.
    """
    model = build(request)
    model.save(request.file(MODEL_FILE))
    found = {"parameters": model.count_params(), "gflops": _gflops(model, request), "failed": {}, "done": []}
    for name, file in EXPORTS.items():
        if name not in request.paths:
            continue
        write_json(request.file(PREPARED_FILE), found)
        try:
            _export(model, name, request.file(file), request)
            found["done"].append(name)
        # Converters raise almost anything, and the other paths shall be measured all the same.
        except Exception as error:
            found["failed"][name] = reason_of(error)
    write_json(request.file(PREPARED_FILE), found)


def contender(request: Request, path: str) -> Callable[[], Any]:
    """What is timed of `path`: a function of nothing."""
    if path == MATRIX:
        return matrix_product(request.matrix)
    if path == "training":
        return _training_step(request)
    pictures = picture_of(request)[None]
    if path == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
        model = build(request)
        runner = load_runner(model)
    elif path == "predict":
        model = load_keras_model(request.file(MODEL_FILE))
        return lambda: model.predict(pictures, verbose=0)
    else:
        file = request.file(EXPORTS.get(path, MODEL_FILE))
        runner = load_runner(file, threads=request.threads, optimize=path == "frozen")
    return lambda: runner(pictures)


def build(request: Request) -> keras.Model:
    """The system with random weights, and as much to do at inference as a trained one."""
    recipe = SYSTEMS[request.system]
    config, shape = config_of(request), (*request.size, 3)
    keras.utils.set_random_seed(0)
    if "captions" in recipe.keys:
        return endless_captioner(recipe.build(shape, request.classes, **config))
    if "boxes" not in recipe.keys:
        return with_offsets(recipe.build(shape, request.classes, **config))
    return busy_detector(lambda **more: recipe.build(shape, request.classes, **{**config, **more}), picture_of(request))


def config_of(request: Request) -> dict[str, Any]:
    """The builder's arguments as the trainer would complete them: a detector works at the size of the pictures.

    What was asked for stays, where the trainer would take the number of keypoints from the data.
    """
    recipe = SYSTEMS[request.system]
    fitted = recipe.fit_config(request.config, _options(request), _source(request), recipe.build)
    return {name: request.config.get(name, value) for name, value in fitted.items()}


def picture_of(request: Request) -> np.ndarray:
    """(H, W, 3) uint8 noise."""
    return np.random.default_rng(0).integers(0, 256, (*request.size, 3), np.uint8)


def training_batch(request: Request) -> tuple[Any, Any]:
    """Inputs and targets of generated pictures, as the trainer would give them."""
    recipe, options, source = SYSTEMS[request.system], _options(request), _source(request)
    names, config = recipe.names(source, options)[0], config_of(request)
    if "captions" in recipe.keys:
        # As many words as the network knows; the captions use the first ones.
        names = (*names, *(f"word{number}" for number in range(len(names), request.classes)))[: request.classes]
    batches = recipe.make_batches(
        to_dataset(source, shuffle=False, seed=0, epochs=1, keys=[key for key in recipe.keys if key in source[0]]),
        output_size=request.size,
        base_size=request.size,
        batch_size=request.batch,
        augmentation=None,
        channels=3,
        drop_remainder=True,
        context=recipe.context(config, options, names),
    )
    inputs, targets = next(iter(batches))
    if "captions" in recipe.keys:
        return inputs, targets
    # A network of fewer classes than there are kinds of shapes.
    if "boxes" in recipe.keys:
        labels = targets["labels"]
        found = {**targets, "labels": tf.where(labels < 0, labels, labels % request.classes)}
        if "keypoints" in found:  # And of any number of keypoints.
            given = found["keypoints"].shape[2]
            found["keypoints"] = tf.gather(found["keypoints"], tf.range(config["num_keypoints"]) % given, axis=2)
        return inputs, found
    return inputs, tf.where(targets == 255, targets, targets % request.classes)


def _training_step(request: Request) -> Callable[[], Any]:
    recipe, options = SYSTEMS[request.system], _options(request)
    keras.utils.set_random_seed(0)
    model = recipe.build((*request.size, 3), request.classes, **config_of(request))
    model.compile(
        make_optimizer(options, _STEPS),
        loss=recipe.make_loss(options, None),
        metrics=recipe.make_metrics(request.classes) or None,
        jit_compile=False,
    )
    inputs, targets = training_batch(request)
    return lambda: model.train_on_batch(inputs, targets)


def matrix_product(side: int) -> Callable[[], Any]:
    """The product of two square matrices, which nothing that a network does is expected to be faster than."""
    matrix = tf.random.stateless_uniform((side, side), (0, 1))
    product = tf.function(tf.matmul, autograph=False)
    return lambda: product(matrix, matrix)[0, 0].numpy()


def _export(model: keras.Model, name: str, file, request: Request) -> None:
    if name == "saved_model":
        export_saved_model(model, file, metadata=_metadata(model, request), verify=False)
        return
    # The ranges of one picture make a bad file that is as fast as a good one; 100 would take minutes to measure.
    tflite.MIN_EXAMPLES = 1
    export_tflite(
        model,
        file,
        precision=name.removeprefix("tflite_"),
        representative=[picture_of(request)],
        metadata=_metadata(model, request),
        verify=False,
    )


def _metadata(model: keras.Model, request: Request) -> Metadata:
    """A captioner's file names its words."""
    if "captions" not in SYSTEMS[request.system].keys:
        return Metadata()
    words = (f"word{number}" for number in range(len(SPECIAL_WORDS), request.classes))
    return Metadata(classes=(*SPECIAL_WORDS, *words))


def _gflops(model: keras.Model, request: Request) -> float:
    steps = model.search.max_words if "captions" in SYSTEMS[request.system].keys else 1
    return gflops(model, request.size, loop_steps=steps)


def _options(request: Request):
    options = SYSTEMS[request.system].options
    return dataclasses.replace(options, input_size=tuple(request.size), batch_size=request.batch, min_count=1)


def _source(request: Request):
    return shapes_source(max(16, request.batch), size=tuple(request.size))


if __name__ == "__main__":
    main(sys.argv[1:])
