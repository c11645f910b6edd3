"""Segmentation networks: our serving paths and training step beside PyTorch and Keras alternatives, in one run.

    python tools/benchmark_peers.py [CASE ...] [--torch-python PYTHON] [--rounds 7] [--threads 2] [--only NAME ...]
    python tools/benchmark_peers.py fcn_resnet50 --train --torch-python PYTHON

PYTHON is the interpreter of an environment with PyTorch, torchvision and segmentation_models_pytorch. Each contender is
a process of its own that answers "run" with the seconds of one call; they take turns, so that only one computes at a
time and all see the same state of the machine. Contenders that cannot be started are reported as missing. All networks
of a case have the same layers and random weights. Ours take uint8 pictures and give logits, probabilities and class
map, the others take normalised floats and give logits. --train times a training step at 256x256 in batches of 4 (SGD).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

OURS = ("frozen", "saved_model", "tflite", "tflite_int8")
TORCH = ("torch_channels_last", "torch_compile_freeze", "torch_bfloat16")
KERAS_PEERS = ("keras_unet_collection",)
TRAINING = ("keras_fit", "keras_fit_bfloat16", "torch_channels_last", "torch_bfloat16")


@dataclasses.dataclass(frozen=True)
class Case:
    """One network: picture size, number of classes, ours (in the namespace `kcvl`) and PyTorch's."""

    size: tuple[int, int]
    classes: int
    ours: Callable[..., Any]
    torch: Callable[..., Any]


def _torchvision(name: str):
    def build(classes: int, train: bool):
        from torchvision.models import segmentation

        make = getattr(segmentation, name)
        return make(weights=None, weights_backbone=None, num_classes=classes, aux_loss=True)

    return build


def _smp(classes: int, train: bool):
    import segmentation_models_pytorch as smp

    return smp.DeepLabV3Plus("resnet50", encoder_weights=None, classes=classes)


CASES = {
    "unet": Case((512, 512), 2, lambda kcvl, shape, n, **_: kcvl.build_unet(shape, n), lambda n, train: _torch_unet(n)),
    "segnet": Case(
        (360, 480), 11, lambda kcvl, shape, n, **_: kcvl.build_segnet(shape, n), lambda n, train: _torch_segnet(n)
    ),
    "fcn_resnet50": Case(
        (520, 520),
        21,
        lambda kcvl, shape, n, **heads: kcvl.build_fcn(shape, n, **heads),
        _torchvision("fcn_resnet50"),
    ),
    "deeplabv3_resnet50": Case(
        (520, 520),
        21,
        lambda kcvl, shape, n, **heads: kcvl.build_deeplab(shape, n, version="v3", **heads),
        _torchvision("deeplabv3_resnet50"),
    ),
    "deeplabv3_mobilenet": Case(
        (520, 520),
        21,
        lambda kcvl, shape, n, **heads: kcvl.build_deeplab(
            shape, n, version="v3", backbone="mobilenetv3_large", **heads
        ),
        _torchvision("deeplabv3_mobilenet_v3_large"),
    ),
    "deeplabv3plus_resnet50": Case(
        (512, 512), 21, lambda kcvl, shape, n, **_: kcvl.build_deeplab(shape, n, version="v3+", decoder="smp"), _smp
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: unet)")
    parser.add_argument("--train", action="store_true", help="time a training step instead")
    parser.add_argument("--torch-python")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of contenders")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.cases) - set(CASES))
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}; cases: {', '.join(CASES)}")
    if arguments.worker:
        _serve(arguments)
        return
    for case in arguments.cases or ["unet"]:
        _compare(case, arguments)


def _compare(case: str, arguments) -> None:
    names = TRAINING if arguments.train else (*OURS, *(KERAS_PEERS if case == "unet" else ()), *TORCH)
    print(f"{case}{', training step' if arguments.train else ''}")
    workers, times = {}, {}
    for name in names:
        python = arguments.torch_python if name.startswith("torch") else sys.executable
        if python is None or (arguments.only and name not in arguments.only):
            continue
        worker = _start(name, python, case, arguments)
        if worker is None:
            print(f"  {name:24s} missing")
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
        print(
            f"  {name:24s} median {median:.3f} s  min {min(values):.3f} s  {median / best:.2f}x of the fastest",
            flush=True,
        )


def _start(name: str, python: str, case: str, arguments):
    command = [python, "-W", "ignore", __file__, case, "--worker", name, "--threads", str(arguments.threads)]
    if arguments.train:
        command.append("--train")
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
    case = CASES[arguments.cases[0]]
    if arguments.worker.startswith("torch"):
        run = _torch(case, arguments)
    elif arguments.train:
        run = _keras_training(case, arguments)
    else:
        run = _tensorflow(case, arguments)
    for _ in range(3):
        run()
    protocol.write("ready\n")
    for _ in sys.stdin:
        started = time.perf_counter()
        run()
        protocol.write(json.dumps(time.perf_counter() - started) + "\n")


def _tensorflow(case: Case, arguments):
    import tempfile

    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    shape = (*case.size, 3)
    picture = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    if arguments.worker == "keras_unet_collection":
        from keras_unet_collection import models

        peer = models.unet_2d(
            shape,
            [64 * 2**k for k in range(5)],
            n_labels=case.classes,
            batch_norm=True,
            pool=True,
            unpool=False,
            output_activation=None,
        )
        function = tf.function(lambda x: peer(x, training=False), autograph=False)
        batch = tf.constant(picture.astype("float32"))
        return lambda: function(batch).numpy()

    import keras_cv_lectures as kcvl

    model = case.ours(kcvl, shape, case.classes)
    if arguments.worker == "frozen":
        runner = kcvl.load_runner(model, optimize=True)
        return lambda: runner(picture)
    folder = Path(tempfile.mkdtemp())
    if arguments.worker == "saved_model":
        path = kcvl.export_saved_model(model, folder / "saved", verify=False).path
    else:
        precision = "int8" if arguments.worker == "tflite_int8" else "float32"
        pictures = [picture[0]] * 100 if precision == "int8" else None
        path = kcvl.export_tflite(
            model, folder / "model.tflite", precision=precision, representative=pictures, verify=False
        ).path
    del model
    runner = kcvl.load_runner(path, threads=arguments.threads)
    return lambda: runner(picture)


def _keras_training(case: Case, arguments):
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_cv_lectures as kcvl

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    if arguments.worker.endswith("bfloat16"):
        keras.config.set_dtype_policy("mixed_bfloat16")
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (4, 256, 256, 3)).astype("float32")
    labels = random.integers(0, case.classes, (4, 256, 256)).astype("int32")
    two = "resnet50" in arguments.cases[0] and "plus" not in arguments.cases[0]
    model = case.ours(kcvl, (256, 256, 3), case.classes, **({"auxiliary": True} if two else {}))
    loss = kcvl.losses.SegmentationCrossEntropy
    if two:
        options = {
            "loss": {"logits": loss(), "auxiliary": loss()},
            "loss_weights": {"logits": 1.0, "auxiliary": 0.5},
        }
        targets = {"logits": labels, "auxiliary": labels}
    else:
        options, targets = {"loss": loss()}, labels
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), jit_compile=False, **options)
    return lambda: model.train_on_batch(pictures, targets)


def _torch(case: Case, arguments):
    import torch

    torch.set_num_threads(arguments.threads)
    bfloat16 = arguments.worker.endswith("bfloat16")

    def precision():
        return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)

    model = case.torch(case.classes, arguments.train).to(memory_format=torch.channels_last)
    if arguments.train:
        x = torch.rand(4, 3, 256, 256).to(memory_format=torch.channels_last)
        labels = torch.randint(case.classes, (4, 256, 256))
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

        def step():
            optimizer.zero_grad()
            with precision():
                outputs = model(x)
                outputs = outputs if isinstance(outputs, dict) else {"out": outputs}
                loss = torch.nn.functional.cross_entropy(outputs["out"].float(), labels)
                if "aux" in outputs:
                    loss = loss + 0.5 * torch.nn.functional.cross_entropy(outputs["aux"].float(), labels)
            loss.backward()
            optimizer.step()

        return step

    model.eval()
    if hasattr(model, "aux_classifier"):
        model.aux_classifier = None
    x = torch.rand(1, 3, *case.size).to(memory_format=torch.channels_last)
    if arguments.worker == "torch_compile_freeze":
        import torch._inductor.config as inductor

        inductor.freezing = True
        model = torch.compile(model)

    def run():
        with torch.no_grad() if arguments.worker == "torch_compile_freeze" else torch.inference_mode(), precision():
            return model(x)

    return run


def _double(inputs: int, outputs: int, convolutions: int = 2):
    from torch import nn

    layers = []
    for c in (inputs, *(outputs,) * (convolutions - 1)):
        layers += [nn.Conv2d(c, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _torch_unet(classes: int, filters: int = 64):
    import torch
    from torch import nn

    class UNet(nn.Module):
        def __init__(self, filters: int):
            super().__init__()
            sizes = [filters * 2**k for k in range(5)]
            self.down = nn.ModuleList(_double(i, o) for i, o in zip([3, *sizes], sizes, strict=False))
            pairs = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))
            self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in pairs)
            self.decode = nn.ModuleList(_double(i, o) for i, o in pairs)
            self.score = nn.Conv2d(filters, classes, 1)

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

    return UNet(filters)


def _torch_segnet(classes: int):
    from torch import nn

    class SegNet(nn.Module):
        def __init__(self):
            super().__init__()
            widths, counts = (64, 128, 256, 512, 512), (2, 2, 3, 3, 3)
            self.encode = nn.ModuleList(_double(i, o, n) for i, o, n in zip((3, *widths), widths, counts, strict=False))
            # The last convolution of a decoder block narrows to the next one's width.
            narrow = (64, 64, 128, 256, 512)
            self.decode = nn.ModuleList(
                nn.Sequential(_double(w, w, n - 1), _double(w, o, 1))
                for w, o, n in zip(widths[:0:-1], narrow[:0:-1], counts[:0:-1], strict=True)
            )
            self.last = nn.Sequential(_double(64, 64, 1), nn.Conv2d(64, classes, 3, padding=1))

        def forward(self, x):
            places = []
            for block in self.encode:
                x = block(x)
                size = x.shape[2:]
                x, index = nn.functional.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
                places.append((index, size))
            for block in (*self.decode, self.last):
                index, size = places.pop()
                x = block(nn.functional.max_unpool2d(x, index, 2, output_size=size))
            return x

    return SegNet()


if __name__ == "__main__":
    main()
