"""Does the input pipeline keep up? Pictures per second that it delivers, and that the training step consumes.

    python tools/benchmark_input.py SPEC [--system unet] [--set OPTION=VALUE ...] [--batches 30]

SPEC and --set are those of `kcvl train`, SYSTEM a segmentation; pictures are brought to 180x240 unless input_size says
otherwise. Measured one after the other, each with the whole machine: the pipeline reads and decodes every picture from
disk (no cache), weighs and augments it as the options and the recipe's augmentation say; the step is forward, backward
and update on a batch in memory, with the loss and the optimizer of the options.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time

import numpy as np

import keras_cv_lectures as kcvl
from kcvl.settings import parse_settings
from keras_cv_lectures.data import open_source, to_dataset
from keras_cv_lectures.preprocessing import Augmentation
from keras_cv_lectures.training.checks import check_options
from keras_cv_lectures.training.loop import weigh_classes
from keras_cv_lectures.training.optimizers import make_optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec")
    parser.add_argument("--system", default="unet")
    parser.add_argument("--set", action="append", default=["input_size=180x240"], dest="settings")
    parser.add_argument("--batches", type=int, default=30)
    arguments = parser.parse_args()

    import keras

    recipe = kcvl.SYSTEMS[arguments.system]
    config, options, augmentation = parse_settings(recipe, arguments.settings)
    check_options(recipe, options, augmentation)
    source = open_source(arguments.spec, split="train")
    config = dict(recipe.fit_config({**recipe.config, **config}, options, source, recipe.build))
    classes, _ = recipe.names(source, options)
    class_weights = weigh_classes(recipe, source, options)
    source = recipe.add_weights(source, options, class_weights)
    steps = options.steps_per_epoch or math.ceil(len(source) / options.batch_size)
    batches = recipe.make_batches(
        to_dataset(source, shuffle=True, seed=0, keys=[k for k in recipe.keys if k in source[0]]),
        output_size=options.crop_size or options.input_size,
        base_size=options.input_size,
        batch_size=options.batch_size,
        augmentation=Augmentation(**{**recipe.augmentation, **augmentation}),
        channels=3,
        drop_remainder=True,
        context=recipe.context(config, dataclasses.replace(options, steps_per_epoch=steps), classes),
    )
    iterator = iter(batches)
    for _ in range(5):
        batch = next(iterator)
    started = time.perf_counter()
    for _ in range(arguments.batches):
        next(iterator)
    delivered = arguments.batches * options.batch_size / (time.perf_counter() - started)
    del iterator

    if options.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    model = recipe.build((None, None, 3), len(classes), **config)
    model.compile(
        make_optimizer(options, steps),
        loss=recipe.make_loss(options, class_weights),
        metrics=recipe.make_metrics(len(classes)) or None,
        jit_compile=False,
    )
    seconds = []
    for step in range(12):
        started = time.perf_counter()
        model.train_on_batch(*batch)
        if step >= 2:
            seconds.append(time.perf_counter() - started)
    consumed = options.batch_size / float(np.median(seconds))
    print(f"pipeline {delivered:.0f} pictures/s, step {consumed:.1f} pictures/s: {delivered / consumed:.1f}x")


if __name__ == "__main__":
    main()
