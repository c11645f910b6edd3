"""U-Net at 512x512, float32, batch 1: our serving paths beside PyTorch and Keras alternatives, taking turns in one run.

    python tools/benchmark_peers.py [--torch-python PYTHON] [--size 512] [--filters 64] [--rounds 7] [--threads 2]

PYTHON is the interpreter of an environment with PyTorch. Each contender is a process of its own that answers "run" with
the seconds of one call, so that only one computes at a time and all see the same state of the machine. Contenders that
cannot be started are reported as missing. The networks have the same layers: two 3x3 convolutions with batch
normalisation a level, 64 to 1024 channels, 2x2 transposed convolutions, two classes, random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

OURS = ("keras", "frozen", "saved_model", "tflite")
TORCH = ("torch_channels_last", "torch_compile_freeze")
KERAS_PEERS = ("keras_unet_collection",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of contenders")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        _serve(arguments)
        return
    contenders = dict.fromkeys(OURS + KERAS_PEERS, sys.executable)
    if arguments.torch_python:
        contenders |= dict.fromkeys(TORCH, arguments.torch_python)
    workers, times = {}, {}
    for name, python in contenders.items():
        if arguments.only and name not in arguments.only:
            continue
        worker = _start(name, python, arguments)
        if worker is None:
            print(f"{name:24s} missing")
        else:
            workers[name], times[name] = worker, []
    for _ in range(arguments.rounds):
        for name, worker in workers.items():
            times[name].append(_ask(worker))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    best = min(statistics.median(t) for t in times.values())
    for name, values in sorted(times.items(), key=lambda item: statistics.median(item[1])):
        median = statistics.median(values)
        print(f"{name:24s} median {median:.3f} s  min {min(values):.3f} s  {median / best:.2f}x of the fastest")


def _start(name: str, python: str, arguments):
    command = [python, "-W", "ignore", __file__, "--worker", name]
    for option in ("size", "filters", "threads"):
        command += [f"--{option}", str(getattr(arguments, option))]
    worker = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": str(arguments.threads)},
    )
    return worker if worker.stdout.readline().strip() == "ready" else None


def _ask(worker) -> float:
    worker.stdin.write("run\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())


def _serve(arguments) -> None:
    import time

    # Libraries print to standard output; only the protocol may.
    protocol = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    run = _torch(arguments) if arguments.worker in TORCH else _tensorflow(arguments)
    for _ in range(3):
        run()
    protocol.write("ready\n")
    for _ in sys.stdin:
        started = time.perf_counter()
        run()
        protocol.write(json.dumps(time.perf_counter() - started) + "\n")


def _tensorflow(arguments):
    import tempfile

    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    side = arguments.size
    picture = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    if arguments.worker == "keras_unet_collection":
        from keras_unet_collection import models

        filters = [arguments.filters * 2**k for k in range(5)]
        model = models.unet_2d(
            (side, side, 3), filters, n_labels=2, batch_norm=True, pool=True, unpool=False, output_activation=None
        )
        function = tf.function(lambda x: model(x, training=False), autograph=False)
        batch = tf.constant(picture.astype("float32"))
        return lambda: function(batch).numpy()

    import keras_cv_lectures as kcvl

    model = kcvl.build_unet((side, side, 3), 2, filters=arguments.filters)
    if arguments.worker in ("keras", "frozen"):
        runner = kcvl.load_runner(model, optimize=arguments.worker == "frozen")
    else:
        folder = Path(tempfile.mkdtemp())
        if arguments.worker == "saved_model":
            path = kcvl.export_saved_model(model, folder / "saved", verify=False).path
        else:
            path = kcvl.export_tflite(model, folder / "model.tflite", verify=False).path
        del model
        runner = kcvl.load_runner(path, threads=arguments.threads)
    return lambda: runner(picture)


def _torch(arguments):
    import torch
    from torch import nn

    torch.set_num_threads(arguments.threads)

    def double(inputs: int, outputs: int) -> nn.Sequential:
        layers = []
        for c in (inputs, outputs):
            layers += [nn.Conv2d(c, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    class UNet(nn.Module):
        def __init__(self, filters: int):
            super().__init__()
            sizes = [filters * 2**k for k in range(5)]
            self.down = nn.ModuleList(double(i, o) for i, o in zip([3, *sizes], sizes, strict=False))
            pairs = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))
            self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in pairs)
            self.decode = nn.ModuleList(double(i, o) for i, o in pairs)
            self.score = nn.Conv2d(filters, 2, 1)

        def forward(self, x):
            skips = []
            for block in self.down[:-1]:
                x = block(x)
                skips.append(x)
                x = nn.functional.max_pool2d(x, 2)
            x = self.down[-1](x)
            for up, decode, skip in zip(self.up, self.decode, reversed(skips), strict=True):
                x = decode(torch.cat([skip, up(x)], dim=1))
            return self.score(x)

    model = UNet(arguments.filters).eval().to(memory_format=torch.channels_last)
    x = torch.rand(1, 3, arguments.size, arguments.size).to(memory_format=torch.channels_last)
    if arguments.worker == "torch_compile_freeze":
        import torch._inductor.config as inductor

        inductor.freezing = True
        model = torch.compile(model)

    def run():
        with torch.inference_mode() if arguments.worker != "torch_compile_freeze" else torch.no_grad():
            return model(x)

    return run


if __name__ == "__main__":
    main()
