"""What the fully connected CRF adds to a trained model: mean IoU and boundary F1 before and after.

    python tools/crf_gain.py MODEL SPEC [--preset deeplab_resnet101] [--set bilateral_xy=30 ...]

MODEL and SPEC are those of `kcvl evaluate`. Where the model works at one size, pictures and masks are compared there.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import keras_cv_lectures as kcvl
from keras_cv_lectures.metrics import boundary_f1, confusion_matrix, scores
from keras_cv_lectures.postprocessing import CRF_PRESETS, dense_crf
from keras_cv_lectures.preprocessing import resize_example


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--preset", choices=sorted(CRF_PRESETS), default="deeplab_resnet101")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="PARAMETER=NUMBER")
    arguments = parser.parse_args()
    parameters = dict(CRF_PRESETS[arguments.preset])
    for setting in arguments.settings:
        name, _, value = setting.partition("=")
        if name not in parameters:
            parser.error(f"there is no parameter {name!r}; parameters: {', '.join(parameters)}")
        parameters[name] = type(parameters[name])(float(value))

    runner = kcvl.load_runner(arguments.model)
    source = kcvl.open_source(arguments.data, split="val")
    classes, size = len(source.classes), runner.metadata.input_size
    confusion = {"without": 0, "with": 0}
    boundary = {"without": [], "with": []}
    seconds = 0.0
    for example in source:
        if size is not None:
            example = resize_example(example, size)
        mask = np.asarray(example["mask"])
        probabilities = kcvl.predict(runner, example["image"]).probabilities
        started = time.perf_counter()
        refined = dense_crf(example["image"], probabilities, **parameters)
        seconds += time.perf_counter() - started
        for name, found in (("without", probabilities), ("with", refined)):
            labels = found.argmax(-1)
            confusion[name] = confusion[name] + confusion_matrix(mask, labels, classes)
            boundary[name].append(boundary_f1(mask, labels, classes))
    for name, matrix in confusion.items():
        found = scores(matrix)
        print(
            f"{name:8s} CRF: mean IoU {found['mean_iou']:.4f}  pixel accuracy {found['pixel_accuracy']:.4f}  "
            f"boundary F1 {np.nanmean(boundary[name]):.4f}"
        )
    print(f"{seconds / len(source):.2f} s a picture in the CRF, {parameters}")


if __name__ == "__main__":
    main()
