"""Pooling with indices and max unpooling against `tf.nn.max_pool_with_argmax` and `tf.scatter_nd`.

    python tools/benchmark_unpooling.py [--size 256x256] [--channels 64] [--batch 1] [--repeats 30] [--jit]

Both sides run as `tf.function` in one process, call by call in turn, and give equal numbers, which is checked first.
The pair is a pooling followed by the unpooling of its maxima. `--jit` adds our layers under XLA, which has no kernel
for TensorFlow's operator.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from keras_cv_lectures.layers import MaxPoolWithArgmax, MaxUnpool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="256x256", help="height x width of the map, even")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--jit", action="store_true", help="also our layers with jit_compile=True")
    arguments = parser.parse_args()
    height, width = (int(side) for side in arguments.size.split("x"))
    if height % 2 or width % 2:
        parser.error("--size needs even sides")

    x = tf.nn.relu(tf.random.stateless_normal((arguments.batch, height, width, arguments.channels), seed=(0, 1)))
    cases = _cases(x, arguments.jit)
    _check(cases)
    seconds = {key: [] for key in cases}
    for repeat in range(arguments.repeats + 3):
        for key, (function, inputs) in cases.items():
            started = time.perf_counter()
            function(*inputs)
            if repeat >= 3:
                seconds[key].append(time.perf_counter() - started)

    print(f"{arguments.batch} x {height} x {width} x {arguments.channels}, medians of {arguments.repeats} in ms")
    print(f"{'':32s}{'TensorFlow':>12s}{'ours':>8s}{'ratio':>8s}" + (f"{'ours, XLA':>12s}" if arguments.jit else ""))
    for name in dict.fromkeys(name for _, name in cases):
        theirs, ours, *jit = (
            1e3 * float(np.median(seconds[who, name])) for who in ("tf", "ours", "jit") if (who, name) in seconds
        )
        print(f"{name:32s}{theirs:12.2f}{ours:8.2f}{ours / theirs:8.2f}" + "".join(f"{value:12.2f}" for value in jit))


def _cases(x: tf.Tensor, jit: bool) -> dict:
    """(who, what) -> (traced function, inputs)."""
    pool, unpool = MaxPoolWithArgmax(), MaxUnpool()
    pooled, flat = _tf_pool(x)
    _, index = pool(x)
    cotangent = {
        "pooling": tf.random.stateless_normal(pooled.shape, seed=(0, 2)),
        "unpooling": tf.random.stateless_normal(x.shape, seed=(0, 3)),
    }
    cotangent["pair"] = cotangent["unpooling"]
    sides = {
        "tf": (_tf_pool, lambda v, i: _tf_unpool(v, i, x.shape), flat),
        "ours": (pool, lambda v, i: unpool([v, i, x]), index),
    }
    if jit:
        sides["jit"] = sides["ours"]
    cases = {}
    for who, (pooling, unpooling, places) in sides.items():
        functions = {
            "pooling": (lambda x, pooling=pooling: tuple(pooling(x)), (x,)),
            "unpooling": (unpooling, (pooled, places)),
            "pair": (lambda x, pooling=pooling, unpooling=unpooling: unpooling(*pooling(x)), (x,)),
        }
        for name, (function, inputs) in functions.items():
            options = {"autograph": False, "jit_compile": who == "jit" or None}
            cases[who, name] = tf.function(function, **options), inputs
            backward = tf.function(_with_gradient(function), **options)
            cases[who, f"{name}, forward and gradient"] = backward, (cotangent[name], *inputs)
    return cases


def _tf_pool(x):
    return tf.nn.max_pool_with_argmax(x, 2, 2, "VALID")


def _tf_unpool(values, flat, shape):
    batch, entries = shape[0], int(np.prod(shape[1:]))
    flat = tf.reshape(flat, (batch, -1)) + entries * tf.range(batch, dtype=flat.dtype)[:, None]
    unpooled = tf.scatter_nd(tf.reshape(flat, (-1, 1)), tf.reshape(values, (-1,)), (batch * entries,))
    return tf.reshape(unpooled, shape)


def _with_gradient(function):
    def run(cotangent, x, *rest):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x, *rest)
        y = y if isinstance(y, tuple) else (y,)
        return tape.gradient(y[0], x, cotangent), *y

    return run


def _check(cases: dict) -> None:
    """Raises where the sides differ; positions are in two forms and show by the unpooling."""
    for (who, name), (function, inputs) in cases.items():
        reference, reference_inputs = cases["tf", name]
        found, expected = function(*inputs), reference(*reference_inputs)
        if isinstance(found, tuple):
            found, expected = found[0], expected[0]
        np.testing.assert_array_equal(found, expected, err_msg=f"{who}: {name}")


if __name__ == "__main__":
    main()
