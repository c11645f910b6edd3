"""RoIAlign on a feature pyramid, and RoIPool, against torchvision.

    python tools/benchmark_roi.py [--boxes 1000] [--channels 256] [--repeats 10] [--lite]
    python tools/benchmark_roi.py --peer PYTHON ...

Maps of strides 4 to 32 of an 800 x 1088 picture, boxes of 16 to 400 pixels, 7 x 7 bins of 2 x 2 samples. `--peer` is
the Python of an environment with torch and torchvision: it runs this file with `--torch` on the same boxes, after ours
is done, with the threads that each library takes by itself. `--lite` adds the portable form as a TensorFlow Lite file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

HEIGHT, WIDTH, STRIDES, BINS = 800, 1088, (4, 8, 16, 32), 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=1000)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--lite", action="store_true", help="also the portable form in TensorFlow Lite")
    parser.add_argument("--peer", metavar="PYTHON", help="a Python with torch and torchvision")
    parser.add_argument("--torch", action="store_true", help="time torchvision in this Python")
    arguments = parser.parse_args()
    cases = _torch_cases if arguments.torch else _our_cases
    for name, function in cases(arguments):
        best, median = _time(function, arguments.repeats)
        print(f"{'torchvision' if arguments.torch else 'ours':12s}{name:36s}{best:9.1f}{median:9.1f} ms (best, median)")
    if arguments.peer:
        options = [f"--{name}={getattr(arguments, name)}" for name in ("boxes", "channels", "repeats")]
        subprocess.run([arguments.peer, __file__, "--torch", *options], check=True)


def _time(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    function()
    function()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return 1e3 * min(seconds), 1e3 * float(np.median(seconds))


def _inputs(arguments) -> tuple[list[np.ndarray], np.ndarray]:
    """Maps (1, H, W, C) and boxes (R, 4), the same in both processes."""
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((1, HEIGHT // s, WIDTH // s, arguments.channels), "float32") for s in STRIDES]
    sides = np.exp(rng.uniform(np.log(16), np.log(400), (arguments.boxes, 2)))
    corners = rng.uniform(0, 1, sides.shape) * ((WIDTH, HEIGHT) - sides)
    return maps, np.concatenate([corners, corners + sides], axis=1).astype("float32")


def _our_cases(arguments) -> Iterator[tuple[str, Callable[[], object]]]:
    import tensorflow as tf

    from keras_cv_lectures.layers.roi import MultiLevelRoIAlign, RoIAlign, RoIPool

    maps, boxes = _inputs(arguments)
    maps, boxes = [tf.constant(each) for each in maps], tf.constant(boxes[None])
    upstream = tf.random.stateless_normal((1, arguments.boxes, BINS, BINS, arguments.channels), seed=(0, 1))
    pyramid = MultiLevelRoIAlign(BINS, strides=STRIDES)
    single, maxima = RoIAlign(BINS, 1 / 16), RoIPool(BINS, 1 / 16, boxes_inside=True)
    functions = {
        "RoIAlign, pyramid": (lambda maps: pyramid(maps, boxes), maps),
        "RoIAlign, stride 16": (lambda maps: single([maps[0], boxes]), maps[2:3]),
        "RoIPool, stride 16": (lambda maps: maxima([maps[0], boxes]), maps[2:3]),
    }
    for name, (function, inputs) in functions.items():
        forward = tf.function(function, autograph=False)
        yield name, lambda forward=forward, inputs=inputs: forward(inputs)

        @tf.function(autograph=False)
        def backward(maps, function=function):
            with tf.GradientTape() as tape:
                tape.watch(maps)
                y = function(maps)
            return tape.gradient(y, maps, upstream), y

        yield f"{name}, and gradient", lambda backward=backward, inputs=inputs: backward(inputs)
    if arguments.lite:
        yield "RoIAlign, pyramid, Lite", _lite(pyramid, maps, boxes)


def _lite(layer, maps, boxes) -> Callable[[], object]:
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    from keras_cv_lectures.layers.portable import portable_operators

    with portable_operators():
        specs = [tf.TensorSpec(each.shape) for each in (*maps, boxes)]
        function = tf.function(lambda *inputs: layer(list(inputs[:-1]), inputs[-1]), autograph=False)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function(*specs)])
    interpreter = Interpreter(model_content=converter.convert(), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    by_shape = {tuple(each.shape): each for each in (*maps, boxes)}
    for place in interpreter.get_input_details():
        interpreter.set_tensor(place["index"], by_shape[tuple(place["shape"])].numpy())
    return interpreter.invoke


def _torch_cases(arguments) -> Iterator[tuple[str, Callable[[], object]]]:
    import torch
    import torchvision

    maps, boxes = _inputs(arguments)
    maps = {str(i): torch.tensor(each).permute(0, 3, 1, 2).contiguous() for i, each in enumerate(maps)}
    boxes = [torch.tensor(boxes)]
    upstream = torch.randn(arguments.boxes, arguments.channels, BINS, BINS)
    pyramid = torchvision.ops.MultiScaleRoIAlign(list(maps), BINS, 2)
    functions = {
        "RoIAlign, pyramid": (lambda maps: pyramid(maps, boxes, [(HEIGHT, WIDTH)]), maps),
        "RoIAlign, stride 16": (lambda maps: torchvision.ops.roi_align(maps["2"], boxes, BINS, 1 / 16, 2), maps),
        "RoIPool, stride 16": (lambda maps: torchvision.ops.roi_pool(maps["2"], boxes, BINS, 1 / 16), maps),
    }
    for name, (function, inputs) in functions.items():

        def forward(function=function, inputs=inputs):
            with torch.no_grad():
                return function(inputs)

        def backward(function=function, inputs=inputs):
            leaves = {key: each.detach().requires_grad_() for key, each in inputs.items()}
            function(leaves).backward(upstream)

        yield name, forward
        yield f"{name}, and gradient", backward


if __name__ == "__main__":
    main()
