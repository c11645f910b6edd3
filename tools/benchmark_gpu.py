"""Networks on the JAX backend, on whatever device JAX sees, beside PyTorch, in one run.

    python tools/benchmark_gpu.py [CASE ...] [--step forward train] [--precision float32 bfloat16]
        [--size 512x512] [--batch 8] [--rounds 10] [--calls 5] [--json FILE] [--torch-python PYTHON] [--only NAME ...]

This Python needs Keras and JAX (`jax[cuda12]` for a GPU); TensorFlow may be absent. PYTHON is the interpreter of an
environment with PyTorch and torchvision, by default this one; PyTorch takes CUDA where it finds it. Contenders take
turns of `--calls` calls (see `turns.py`), after three turns that do not count, and a turn ends when the device is done.
What cannot be started is reported as missing, as is what has no counterpart. The most memory that a contender took is
told of the host, which holds its libraries, and of the GPU.

Weights are random. Pictures lie on the device beforehand: ours are uint8 in the forward pass, which normalises them,
PyTorch's are normalised floats. bfloat16 is Keras's `mixed_bfloat16` and PyTorch's autocast: variables in float32.
In float32 both sides may use TF32 on a GPU, as JAX does by default. PyTorch is in channels-last layout, with cuDNN's
search for the fastest convolution. Detectors bring pictures to `--size`; in the forward pass about 400 boxes pass the
threshold on both sides. Steps are SGD with momentum; detectors have five objects a picture.

`--size 64x64 --batch 1 --rounds 2 --calls 1` is quick enough to see on any machine that it works.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark_peers import CASES, our_segmentation, torch_network, torch_segmentation_loss
from turns import answer, take_turns

STEPS, PRECISIONS = ("forward", "train"), ("float32", "bfloat16")
CONTENDERS = ("jax", "torch", "torch_compile")
# Networks without a counterpart in PyTorch.
CAPTIONERS = ("show_attend_tell", "show_and_tell")
VOCABULARY, WORDS, CAPTIONS = 10_000, 20, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*CASES, *CAPTIONERS)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(names)} (default: unet)")
    parser.add_argument("--step", nargs="*", choices=STEPS, default=STEPS)
    parser.add_argument("--precision", nargs="*", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--size", help="HEIGHTxWIDTH, default that of the case")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch on a CPU; JAX takes all")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--about", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.cases) - set(names))
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}; cases: {', '.join(names)}")
    arguments.cases = arguments.cases or ["unet"]
    if arguments.worker:
        answer(lambda: _contender(arguments))
        _tell_memory(arguments)
        return
    # JAX would take three quarters of the GPU's memory, and PyTorch would have to do with the rest.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    rows = [row for case in arguments.cases for step in arguments.step for row in _compare(case, step, arguments)]
    _print(rows)
    if arguments.json:
        settings = {key: getattr(arguments, key) for key in ("size", "batch", "rounds", "calls", "threads")}
        arguments.json.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1), encoding="utf-8")


def _compare(case: str, step: str, arguments) -> list[dict[str, Any]]:
    height, width = _size(case, arguments)
    print(f"{case}, {step}, {arguments.batch} x {height}x{width}, turns of {arguments.calls}", flush=True)
    commands, about = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            for precision in arguments.precision if name == "jax" or case in CASES else ():
                key = f"{name}_{precision}"
                about[key] = Path(folder) / f"{key}.json"
                python = sys.executable if name == "jax" else arguments.torch_python
                commands[key] = [python, "-W", "ignore", __file__, case, "--worker", name, "--about", str(about[key])]
                commands[key] += [f"--step={step}", f"--precision={precision}", f"--batch={arguments.batch}"]
                commands[key] += [f"--size={height}x{width}", f"--calls={arguments.calls}"]
                commands[key] += [f"--threads={arguments.threads}"]
        found = take_turns(commands, arguments.rounds, arguments.threads)
        rows = []
        for name in arguments.only:
            for precision in arguments.precision:
                key = f"{name}_{precision}"
                row = {"case": case, "step": step, "contender": name, "precision": precision}
                row |= {"batch": arguments.batch, "size": [height, width]}
                if key in found and not found[key].missing:
                    row |= json.loads(about[key].read_text(encoding="utf-8"))
                    row["seconds"] = [seconds / arguments.calls for seconds in found[key].seconds]
                else:
                    row["missing"] = found[key].missing if key in found else "has no such network"
                rows.append(row)
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    """A table of milliseconds a call and of the most memory of the GPU."""
    print(
        f"\n{'case':26s}{'step':9s}{'contender':15s}{'precision':10s}{'median ms':>10s}{'min ms':>10s}{'per s':>9s}"
        f"{'GPU MB':>9s}  on"
    )
    for row in rows:
        text = f"{row['case']:26s}{row['step']:9s}{row['contender']:15s}{row['precision']:10s}"
        if "missing" in row:
            print(f"{text}   missing: {row['missing']}")
            continue
        median, least = statistics.median(row["seconds"]), min(row["seconds"])
        memory = "-" if row.get("gpu_megabytes") is None else f"{row['gpu_megabytes']:.0f}"
        print(f"{text}{1e3 * median:10.2f}{1e3 * least:10.2f}{row['batch'] / median:9.1f}{memory:>9s}  {row['device']}")


def _size(case: str, arguments) -> tuple[int, int]:
    if arguments.size:
        height, width = arguments.size.split("x")
        return int(height), int(width)
    return CASES[case].size if case in CASES else (224, 224)


def _tell_memory(arguments) -> None:
    """Adds the most memory of a GPU that this contender ever took, in units of 1e6 bytes, to what it told about it."""
    if not arguments.about.exists():
        return
    if arguments.worker == "jax":
        import jax

        most = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    else:
        import torch

        most = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    about = json.loads(arguments.about.read_text(encoding="utf-8"))
    about["gpu_megabytes"] = None if most is None else most / 1e6
    arguments.about.write_text(json.dumps(about), encoding="utf-8")


def _contender(arguments) -> Callable[[], object]:
    return _jax(arguments) if arguments.worker == "jax" else _torch(arguments)


def _jax(arguments) -> Callable[[], object]:
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras

    if arguments.precision[0] == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    device = jax.devices()[0]
    about = {"device": f"{device.platform}: {device.device_kind}", "jax": jax.__version__, "keras": keras.__version__}
    arguments.about.write_text(json.dumps(about), encoding="utf-8")
    model, x, y, options = _ours(arguments)
    x, y = jax.device_put((x, y))
    if arguments.step[0] == "forward":
        compiled = jax.jit(lambda weights, rest, x: model.stateless_call(weights, rest, x, training=False)[0])
        state = [
            [v.value for v in variables] for variables in (model.trainable_variables, model.non_trainable_variables)
        ]

        def forward():
            for _ in range(arguments.calls):
                found = compiled(*state, x)
            return jax.block_until_ready(found)

        return forward
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), jit_compile=True, **options)
    # Builds and compiles what `fit` runs. What follows is `fit` without copies of state and data from and to the host.
    model.train_on_batch(x, y)
    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([v.value for v in each] for each in variables)

    def train():
        nonlocal state
        for _ in range(arguments.calls):
            logs, state = model.train_function(state, iter([(x, y)]))
        return jax.block_until_ready((logs, state))

    return train


def _ours(arguments):
    """(our model, inputs, targets, what it is compiled with)."""
    import numpy as np

    kcvl, name = _package(), arguments.cases[0]
    train, batch, size = arguments.step[0] == "train", arguments.batch, _size(name, arguments)
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (batch, *size, 3)).astype("float32" if train else "uint8")
    if name in CAPTIONERS:
        model = getattr(kcvl, f"build_{name}")((*size, 3), VOCABULARY)
        tokens = random.integers(4, VOCABULARY, (batch, CAPTIONS, WORDS + 1)).astype("int32")
        return (model, {"image": pictures, "tokens": tokens}, tokens, {}) if train else (model, pictures, None, {})
    case = CASES[name]
    if case.detector:
        model = case.ours(kcvl, (*size, 3), case.classes, train=train, min_size=min(size), max_size=max(size))
        boxes = np.repeat(np.float32(_five_boxes(*size))[None], batch, axis=0)
        targets = {
            "boxes": boxes,
            "labels": random.integers(0, case.classes, boxes.shape[:2]).astype("int32"),
            "masks": np.ones((*boxes.shape[:2], 56, 56), "uint8"),
            "mask_windows": boxes,
        }
        return model, pictures, targets, {}
    labels = random.integers(0, case.classes, (batch, *size)).astype("int32")
    if not train:
        return case.ours(kcvl, (*size, 3), case.classes), pictures, labels, {}
    model, targets, options = our_segmentation(case, kcvl, (*size, 3), labels)
    return model, pictures, targets, options


def _five_boxes(height: int, width: int) -> list[list[float]]:
    """Overlapping boxes of a quarter of the sides along the diagonal."""
    return [[k * width / 7, k * height / 7, k * width / 7 + width / 4, k * height / 7 + height / 4] for k in range(5)]


class _Absent(types.ModuleType):
    """Stands in for TensorFlow while our package is imported: data pipelines name it, networks on JAX do not use it."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{self.__name__}.{name}")

    def __call__(self, *_, **__):
        raise ImportError(f"{self.__name__} was called, and TensorFlow is not installed")


def _package():
    if importlib.util.find_spec("tensorflow") is not None:
        import keras_cv_lectures

        return keras_cv_lectures
    # Keras asks whether there is TensorFlow, too, and must get the true answer.
    import keras  # noqa: F401

    sys.modules["tensorflow"] = _Absent("tensorflow")
    try:
        import keras_cv_lectures
    finally:
        del sys.modules["tensorflow"]
    return keras_cv_lectures


def _torch(arguments) -> Callable[[], object]:
    import torch

    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    about = {"device": f"{device.type}: {kind}", "torch": torch.__version__}
    arguments.about.write_text(json.dumps(about), encoding="utf-8")
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    name, train = arguments.cases[0], arguments.step[0] == "train"
    case, size, batch = CASES[name], _size(name, arguments), arguments.batch
    sizes = {"min_size": min(size), "max_size": max(size)} if case.detector else {}
    model = torch_network(case, train, **sizes).to(device, memory_format=torch.channels_last)
    x = torch.rand(batch, 3, *size).to(device, memory_format=torch.channels_last)
    if not train:
        model.eval()
    if case.detector:
        x = list(x)
        if not train:
            _let_boxes_pass(model, x)
    loss_of = _torch_loss(case, batch, size, device, model, x)
    call = loss_of if train else lambda: model(x)
    if arguments.worker == "torch_compile":
        call = torch.compile(call)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9) if train else None

    def run():
        for _ in range(arguments.calls):
            with torch.set_grad_enabled(train):
                with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision[0] == "bfloat16"):
                    found = call()
                if train:
                    optimizer.zero_grad()
                    found.backward()
                    optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return found

    return run


def _let_boxes_pass(model, pictures) -> None:
    """Sets the threshold of a detector of random weights to the score of the last of 400 boxes of a picture."""
    import torch

    heads = model.roi_heads
    wanted, heads.score_thresh, heads.detections_per_img = heads.detections_per_img, 0.0, 400
    with torch.inference_mode():
        heads.score_thresh = float(model(pictures[:1])[0]["scores"][-1])
    heads.detections_per_img = wanted


def _torch_loss(case, batch: int, size: tuple[int, int], device, model, x) -> Callable[[], Any]:
    """A function of nothing that computes what the step minimises."""
    import torch

    if case.detector:
        boxes = torch.tensor(_five_boxes(*size), device=device)
        masks = torch.zeros(5, *size, dtype=torch.uint8, device=device)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        labels = torch.randint(1, case.classes, (batch, 5), device=device)
        targets = [{"boxes": boxes, "labels": row, "masks": masks} for row in labels]
        return lambda: sum(model(x, targets).values())
    labels = torch.randint(case.classes, (batch, *size), device=device)
    return lambda: torch_segmentation_loss(model(x), labels)


if __name__ == "__main__":
    main()
