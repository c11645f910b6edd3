"""The ISBI 2012 pair of a trained model: smoothing and threshold chosen on the training slices,
then scores on the held-out ones.

    python tools/isbi_scores.py RUN IMAGES LABELS TRAIN_LIST HELD_OUT_LIST [--average] [--scales S ...]
        [--smooth SIGMA ...]

IMAGES and LABELS are folders of equal names (labels: 255 cell, 0 membrane), the lists name slices, one a line.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.ndimage import gaussian_filter

from keras_cv_lectures import open_source, predict, predict_averaged
from keras_cv_lectures.metrics import best_threshold, isbi_scores
from keras_cv_lectures.runners import load_runner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("run", "images", "labels", "train_list", "held_out_list"):
        parser.add_argument(name)
    parser.add_argument("--average", action="store_true", help="average eight mirrored and rotated versions")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0], help="with --average: sizes of the picture")
    parser.add_argument(
        "--smooth",
        type=float,
        nargs="+",
        default=[0.0],
        help="deviations of a Gaussian on the probabilities, in pixels",
    )
    arguments = parser.parse_args()
    runner = load_runner(arguments.run)

    def stack(list_file: str) -> tuple[np.ndarray, np.ndarray]:
        source = open_source(f"folder:{arguments.images},{arguments.labels},list={list_file},channels=1")
        cell, truth = [], []
        for example in source:
            image = example["image"]
            if arguments.average:
                found = predict_averaged(runner, image, scales=arguments.scales)
            else:
                found = predict(runner, image).probabilities
            cell.append(found[..., 1])
            truth.append(example["mask"])
        return np.stack(cell), np.stack(truth)

    thresholds = np.linspace(0.02, 0.98, 49)
    train, held_out = stack(arguments.train_list), stack(arguments.held_out_list)
    # Smoothing and threshold of each measure are what is best on the training slices.
    on_train = {sigma: isbi_scores(_smoothed(train[0], sigma), train[1], thresholds) for sigma in arguments.smooth}
    for measure, shown in (("rand_f", "foreground-restricted Rand F"), ("pixel_error", "pixel error")):
        sign = 1 if measure == "rand_f" else -1
        chosen = {sigma: best_threshold(found, measure) for sigma, found in on_train.items()}
        sigma = max(chosen, key=lambda s: sign * on_train[s][chosen[s]][measure])
        threshold = chosen[sigma]
        score = isbi_scores(_smoothed(held_out[0], sigma), held_out[1], [threshold])[threshold][measure]
        print(
            f"{shown}: {score:.4f} at threshold {threshold:.2f}, smoothed by {sigma:g} "
            f"(training slices {on_train[sigma][threshold][measure]:.4f})"
        )


def _smoothed(probabilities: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(probabilities, (0, sigma, sigma)) if sigma else probabilities


if __name__ == "__main__":
    main()
