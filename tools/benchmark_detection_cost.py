"""What proposals, regions and labelled objects cost a detector: a training step and an inference of each.

    python tools/benchmark_detection_cost.py [--rounds 10] [--size 320] [--batch 2] [--out DIR]

A small Mask R-CNN (ResNet-14, pyramid of 64 channels, random weights) on noise. One number is varied at a time, the
others stay. All cases take turns in every round, so that a busy moment meets all of them; the table has the median of
the rounds, and of a straight line through them what one more costs and how much of the variance the line explains.
`--out` gets `detection_cost.md` and `detection_cost.png`.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from turns import milliseconds, straight_line

OBJECTS, REGIONS = (0, 10, 100, 300), (10, 100, 300, 1000)
# What stays while something else varies.
FIXED = {"objects": 10, "proposals": 300, "samples": 128, "positives": 0.25, "detections": 100}
# As many regions whatever the objects, and none of the objects without a mask in the loss.
ALL_OBJECTS = {"proposals": 512, "samples": 512, "positives": 0.6}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """One curve: a number that varies, and what is timed.

    Attributes:
        panel: title of the plot that the curve is drawn in.
        name: of the curve.
        varied: key of `FIXED`.
        values: of what varies.
        training: a training step instead of an inference.
        masks: of a Mask R-CNN instead of a Faster R-CNN.
        fixed: other numbers than those of `FIXED`.
    """

    panel: str
    name: str
    varied: str
    values: tuple[int, ...]
    training: bool
    masks: bool = True
    fixed: dict[str, float] = dataclasses.field(default_factory=dict)


SWEEPS = (
    Sweep(
        panel="training: objects of a picture",
        name="boxes and masks",
        varied="objects",
        values=OBJECTS,
        training=True,
        fixed=ALL_OBJECTS,
    ),
    Sweep(
        panel="training: objects of a picture",
        name="boxes",
        varied="objects",
        values=OBJECTS,
        training=True,
        masks=False,
        fixed=ALL_OBJECTS,
    ),
    Sweep(
        panel="training: proposals of a picture",
        name="boxes and masks",
        varied="proposals",
        values=REGIONS,
        training=True,
    ),
    Sweep(
        panel="training: regions in the loss",
        name="boxes and masks",
        varied="samples",
        values=REGIONS,
        training=True,
        fixed={"proposals": 1000},
    ),
    Sweep(
        panel="inference: proposals of a picture",
        name="boxes and masks",
        varied="proposals",
        values=REGIONS,
        training=False,
    ),
    Sweep(
        panel="inference: detections of a picture",
        name="boxes and masks",
        varied="detections",
        values=REGIONS[:3],
        training=False,
    ),
    Sweep(
        panel="inference: detections of a picture",
        name="boxes",
        varied="detections",
        values=REGIONS[:3],
        training=False,
        masks=False,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="timed calls of each case (default: 10)")
    parser.add_argument("--size", type=int, default=320, help="side of the pictures in pixels (default: 320)")
    parser.add_argument("--batch", type=int, default=2, help="pictures of a training step (default: 2)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the table and the plot")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.size, arguments.batch) < 1:
        parser.error("--rounds, --size and --batch must be positive.")
    parts = _parts()
    cases = {}
    for sweep in SWEEPS:
        for value in sweep.values:
            print(f"preparing {sweep.panel}, {sweep.name}: {value}", flush=True)
            numbers = {**FIXED, **sweep.fixed, sweep.varied: value}
            detector = _detector(parts, numbers, masks=sweep.masks)
            make = _training_step if sweep.training else _inference
            cases[sweep.panel, sweep.name, value] = make(detector, numbers, arguments)
    medians = {key: float(np.median(times)) for key, times in milliseconds(cases, arguments.rounds).items()}
    text = _table(medians, arguments)
    print(text)
    if arguments.out:
        _write(arguments.out, text, medians)


def _parts() -> dict[str, Any]:
    """The networks of all detectors: what varies is between them."""
    import keras

    from keras_cv_lectures.detection import build_mask_rcnn

    keras.utils.set_random_seed(0)
    model = build_mask_rcnn(
        (None, None, 3),
        3,
        backbone="resnet14_v1_5",
        pyramid_filters=64,
        box_units=(256, 256),
        mask_filters=(64, 64),
        anchor_sizes=((8,), (16,), (32,), (64,), (128,)),
        min_size=None,
        max_size=None,
    )
    graph = model.graph
    return {"parts": (graph.backbone, graph.rpn, graph.box, graph.mask), "settings": graph.settings}


def _detector(parts: dict[str, Any], numbers: dict[str, float], *, masks: bool):
    from keras_cv_lectures.detection import Detector

    proposals = (numbers["proposals"],) * 2
    settings = dataclasses.replace(
        parts["settings"],
        rpn_pre_nms=proposals,
        rpn_post_nms=proposals,
        samples=numbers["samples"],
        positives=numbers["positives"],
        max_detections=numbers["detections"],
        # Random weights are sure of nothing; all places for detections shall be taken.
        box_score=0.0,
    )
    return Detector(*parts["parts"][: 4 if masks else 3], settings=settings)


def _pictures(arguments, count: int) -> np.ndarray:
    side = arguments.size
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def _inference(detector, numbers: dict[str, float], arguments) -> Callable[[], Any]:
    import tensorflow as tf

    picture = tf.constant(_pictures(arguments, 1))
    detect = tf.function(lambda x: detector(x), autograph=False)
    found = int(detect(picture)["count"][0])
    if found < min(numbers["detections"], numbers["proposals"]):
        print(f"    (found {found} of {numbers['detections']} detections)", flush=True)
    return lambda: detect(picture)["boxes"].numpy()


def _training_step(detector, numbers: dict[str, float], arguments) -> Callable[[], Any]:
    import tensorflow as tf

    count, batch, side = numbers["objects"], arguments.batch, arguments.size
    rng = np.random.default_rng(1)
    rows = max(1, count)  # A picture without objects has one row of padding.
    sides = np.exp(rng.uniform(np.log(side / 20), np.log(side / 4), (batch, rows, 2)))
    corners = rng.uniform(0, 1, sides.shape) * (side - sides)
    boxes = np.concatenate([corners, corners + sides], axis=-1).astype("float32")
    labels = rng.integers(0, 3, (batch, rows))
    targets = {
        "boxes": boxes if count else np.zeros_like(boxes),
        "labels": np.int32(labels if count else np.full_like(labels, -1)),
        "masks": np.ones((batch, rows, 56, 56), np.uint8),
        "mask_windows": boxes,
    }
    pictures, targets = tf.constant(_pictures(arguments, batch)), tf.nest.map_structure(tf.constant, targets)
    inputs = {"image": pictures, "size": tf.fill((batch, 2), side)}

    @tf.function(autograph=False)
    def step(inputs, targets):
        with tf.GradientTape() as tape:
            loss = detector.compute_loss(inputs, targets, detector(inputs, training=True))
        variables = [variable.value for variable in detector.trainable_variables]
        return loss, tape.gradient(loss, variables, unconnected_gradients="zero")

    return lambda: step(inputs, targets)[0].numpy()


def _curves(medians: dict[tuple, float]) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    keys = dict.fromkeys(key[:2] for key in medians)
    return {key: tuple(np.array([(k[2], ms) for k, ms in medians.items() if k[:2] == key], float).T) for key in keys}


def _table(medians: dict[tuple, float], arguments) -> str:
    lines = [
        f"Median of {arguments.rounds} interleaved rounds, milliseconds; {arguments.size}x{arguments.size} pixels, "
        f"{arguments.batch} pictures a training step, one an inference.",
        "",
        "| what varies | of | milliseconds | one more | straight line explains |",
        "|---|---|---|---|---|",
    ]
    for (panel, name), (values, times) in _curves(medians).items():
        _, slope, explained = straight_line(values, times)
        shown = ", ".join(f"{value:.0f}: {ms:.1f}" for value, ms in zip(values, times, strict=True))
        lines.append(f"| {panel} | {name} | {shown} | {1e3 * slope:.1f} us | {100 * explained:.1f} % |")
    return "\n".join(lines)


def _write(folder: Path, text: str, medians: dict[tuple, float]) -> None:
    from matplotlib.figure import Figure

    from keras_cv_lectures.files import atomic_path, write_text

    curves = _curves(medians)
    panels = list(dict.fromkeys(panel for panel, _ in curves))
    colors = {"boxes and masks": "#1f5fd0", "boxes": "#f08a24"}
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3)
    training = [panel for panel in panels if panel.startswith("training")]
    inference = [panel for panel in panels if panel not in training]
    for row, titles in zip(axes, (training, inference), strict=True):
        for axis in row[len(titles) :]:
            axis.axis("off")
        for axis, panel in zip(row, titles, strict=False):
            for name, color in colors.items():
                if (panel, name) not in curves:
                    continue
                values, times = curves[panel, name]
                start, slope, _ = straight_line(values, times)
                ends = np.array([0, values.max()])
                axis.plot(ends, start + slope * ends, color=color, alpha=0.4)
                axis.plot(values, times, "o", color=color, label=f"{name}: {1e3 * slope:.0f} us each")
            axis.set(title=panel, xlabel="how many", ylabel="ms", ylim=(0, 1.3 * axis.get_ylim()[1]))
            axis.grid(alpha=0.3)
            axis.legend(frameon=False, loc="upper left")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    with atomic_path(folder / "detection_cost.png") as path:
        path.write_bytes(picture.getvalue())
    write_text(folder / "detection_cost.md", text + "\n")


if __name__ == "__main__":
    main()
