"""How cost grows: with picture size, batch, classes and caption length; with two replicas or workers instead of one.

    python tools/benchmark_scaling.py [--rounds 7] [--threads 2] [--out DIR]
        [--only size batch classes words strategies]
    python tools/benchmark_scaling.py --tiny --rounds 1

Small networks of random weights on noise: U-Net and DeepLab v3+ with the settings of `kcvl demo`, Show, Attend and Tell
likewise. One number varies at a time, the others stay. All cases of one process take turns in every round, so that a
busy moment meets all of them; each point is the median of its rounds. Inference is the compiled call; a captioner's
goes from the picture to a sentence of as many words as it may have, by beam search.

Strategies: a training step of U-Net on the same global batch in one process on THREADS threads, by two Mirrored
replicas on virtual CPU devices of one process, and by two MultiWorker processes on this machine, each with half of the
threads. All share the same cores, so this shows what distributing costs, not what more machines gain. Of two processes
the memory that is told is that of the first.

`--out` gets `scaling.json` and `scaling.png`; `--tiny` is quick enough to see that everything works.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from turns import answer, milliseconds, straight_line, take_turns

SEGMENTERS, CAPTIONER = ("unet", "deeplabv3plus"), "show_attend_tell"
INFERENCE, TRAINING = "inference", "training step"
STRATEGIES = {"one": "one process", "mirrored": "two replicas", "multiworker": "two processes"}
PEER = "peer"  # The second process of "multiworker".


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What one point is measured at: square pictures of `size` pixels, `classes` of a captioner are its words."""

    system: str
    kind: str
    size: int
    batch: int
    classes: int
    words: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What varies, over which values; what stays is `FIXED`."""

    title: str
    x_label: str
    varied: str
    values: tuple[int, ...]
    systems: tuple[str, ...]

    def x(self, value: int) -> float:
        """Where a value is drawn: cost grows with the pixels, not with the side."""
        return value**2 / 1000 if self.varied == "size" else value


FIXED = {"size": 128, "batch": 2, "classes": 21, "words": 20}
VOCABULARY = 2000
SWEEPS = {
    "size": Sweep(
        title="picture size",
        x_label="thousand pixels a picture",
        varied="size",
        values=(64, 128, 192, 256),
        systems=SEGMENTERS,
    ),
    "batch": Sweep(title="batch", x_label="pictures", varied="batch", values=(1, 2, 4, 8), systems=SEGMENTERS),
    "classes": Sweep(title="classes", x_label="classes", varied="classes", values=(2, 21, 150), systems=SEGMENTERS),
    "words": Sweep(title="caption length", x_label="words", varied="words", values=(5, 20, 40), systems=(CAPTIONER,)),
}
STRATEGY_BATCHES = (4, 16)
TINY = {"size": (32, 48), "batch": (1, 2), "classes": (2, 3), "words": (2, 4)}
TINY_FIXED, TINY_BATCHES = {"size": 32, "batch": 1, "classes": 2, "words": 2}, (2,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each case (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="of every contender (default: 2)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for scaling.json and scaling.png")
    parser.add_argument("--only", nargs="+", choices=(*SWEEPS, "strategies"), default=(*SWEEPS, "strategies"))
    parser.add_argument("--tiny", action="store_true", help="tiny networks, pictures and sweeps")
    parser.add_argument("--worker", choices=(*STRATEGIES, PEER), help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        answer(lambda: _strategy_step(arguments), warm=0 if arguments.worker == PEER else 3)
        return
    if min(arguments.rounds, arguments.threads) < 1:
        parser.error("--rounds and --threads must be positive.")
    sweeps = {name: _tiny(sweep) if arguments.tiny else sweep for name, sweep in SWEEPS.items()}
    points = _measure({name: sweeps[name] for name in sweeps if name in arguments.only}, arguments)
    curves = _curves({name: sweeps[name] for name in sweeps if name in arguments.only}, points, arguments)
    for line in _table(curves):
        print(line)
    strategies = _strategies(arguments) if "strategies" in arguments.only else []
    if arguments.out:
        _write(arguments.out, points, curves, strategies, arguments)


def _tiny(sweep: Sweep) -> Sweep:
    return dataclasses.replace(sweep, values=TINY[sweep.varied])


def _setting(sweep: Sweep, system: str, kind: str, value: int, arguments) -> Setting:
    numbers = {**(TINY_FIXED if arguments.tiny else FIXED), sweep.varied: value}
    if system == CAPTIONER:
        return Setting(system=system, kind=kind, **{**numbers, "classes": 50 if arguments.tiny else VOCABULARY})
    return Setting(system=system, kind=kind, **{**numbers, "words": 0})


def _measure(sweeps: Mapping[str, Sweep], arguments) -> dict[Setting, dict[str, Any]]:
    """Setting -> milliseconds of each round."""
    settings = dict.fromkeys(
        _setting(sweep, system, kind, value, arguments)
        for sweep in sweeps.values()
        for system in sweep.systems
        for kind in (INFERENCE, TRAINING)
        for value in sweep.values
    )
    if not settings:
        return {}
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    calls: dict[Setting, Callable[[], Any]] = {}
    for number, setting in enumerate(settings, 1):
        print(f"preparing {number} of {len(settings)}: {_words(setting)}", file=sys.stderr, flush=True)
        make = _inference if setting.kind == INFERENCE else _training_step
        calls[setting] = make(setting, arguments)
    times = milliseconds(calls, arguments.rounds)
    return {setting: {"ms": times[setting]} for setting in calls}


def _words(setting: Setting) -> str:
    told = f"{setting.system}, {setting.kind}, {setting.batch} x {setting.size}x{setting.size}"
    return told + (f", {setting.words} words" if setting.words else f", {setting.classes} classes")


def _model(setting: Setting, arguments):
    import keras

    from keras_cv_lectures.systems import SYSTEMS

    recipe = SYSTEMS[setting.system]
    config = {**recipe.config, **(recipe.smoke if arguments.tiny else recipe.demo)}
    if setting.words:
        config["max_words"] = setting.words
    keras.utils.set_random_seed(0)
    # Sizes are left open, as in training.
    return recipe, recipe.build((None, None, 3), setting.classes, **config)


def _pictures(setting: Setting):
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (setting.batch, setting.size, setting.size, 3), np.uint8)


def _inference(setting: Setting, arguments) -> Callable[[], Any]:
    from keras_cv_lectures.benchmarking.busy import endless_captioner
    from keras_cv_lectures.runners import load_runner

    _, model = _model(setting, arguments)
    runner, pictures = load_runner(endless_captioner(model) if setting.words else model), _pictures(setting)
    return lambda: runner(pictures)


def _training_step(setting: Setting, arguments) -> Callable[[], Any]:
    import tensorflow as tf

    recipe, model = _model(setting, arguments)
    _compile(recipe, model, setting.classes)
    inputs, targets = tf.nest.map_structure(tf.constant, _batch(setting))
    return lambda: model.train_on_batch(inputs, targets)


def _compile(recipe, model, classes: int) -> None:
    from keras_cv_lectures.training.optimizers import make_optimizer

    model.compile(
        make_optimizer(recipe.options, 1000),
        loss=recipe.make_loss(recipe.options, None),
        metrics=recipe.make_metrics(classes) or None,
        jit_compile=False,
    )


def _batch(setting: Setting) -> tuple[Any, Any]:
    """Inputs and targets of noise; a captioner has one caption a picture, of all the words that it may have."""
    import numpy as np

    random, pictures = np.random.default_rng(1), np.float32(_pictures(setting))
    if setting.words:
        tokens = random.integers(4, setting.classes, (setting.batch, 1, setting.words + 1)).astype("int32")
        tokens[:, :, 0] = 1
        return {"image": pictures, "tokens": tokens}, tokens
    return pictures, random.integers(0, setting.classes, pictures.shape[:3]).astype("int32")


def _curves(sweeps: Mapping[str, Sweep], points, arguments) -> list[dict[str, Any]]:
    """One dict for each curve: what it shows, its points and the straight line through them."""
    found = []
    for name, sweep in sweeps.items():
        for kind in (INFERENCE, TRAINING):
            for system in sweep.systems:
                measured = [points[_setting(sweep, system, kind, value, arguments)] for value in sweep.values]
                y = [statistics.median(p["ms"]) for p in measured]
                x = [sweep.x(value) for value in sweep.values]
                start, slope, explained = straight_line(x, y)
                line = {"start": start, "slope": slope, "explained": explained}
                curve = {"sweep": name, "kind": kind, "system": system}
                found.append({**curve, "values": list(sweep.values), "x": x, "y": y, **line})
    return found


def _table(curves: list[dict[str, Any]]) -> list[str]:
    if not curves:
        return []
    lines = [
        "| what varies | of | system | measured | one more | straight line explains |",
        "|---|---|---|---|---|---|",
    ]
    for curve in curves:
        shown = ", ".join(f"{value}: {y:.1f}" for value, y in zip(curve["values"], curve["y"], strict=True))
        more = f"{curve['slope']:.3g} ms ({SWEEPS[curve['sweep']].x_label})"
        explained = f"{100 * curve['explained']:.1f} %"
        lines.append(f"| {curve['sweep']} | {curve['kind']} | {curve['system']} | {shown} ms | {more} | {explained} |")
    return lines


def _strategies(arguments) -> list[dict[str, Any]]:
    """A training step on the same global batch by each strategy."""
    batches = TINY_BATCHES if arguments.tiny else STRATEGY_BATCHES
    commands = {}
    for batch in batches:
        for kind in STRATEGIES:
            commands[f"{STRATEGIES[kind]}, batch {batch}"] = _worker_command(kind, batch, arguments)
    print("training step of unet by strategy", flush=True)
    found = take_turns(commands, arguments.rounds, arguments.threads)
    return [
        {"strategy": kind, "batch": batch, **dataclasses.asdict(found[f"{STRATEGIES[kind]}, batch {batch}"])}
        for batch in batches
        for kind in STRATEGIES
    ]


def _worker_command(kind: str, batch: int, arguments) -> list[str]:
    command = [sys.executable, "-W", "ignore", __file__, "--worker", kind, "--batch", str(batch)]
    return [*command, "--threads", str(arguments.threads), *(["--tiny"] if arguments.tiny else [])]


def _strategy_step(arguments) -> Callable[[], Any]:
    """What a contender of `_strategies` does at its turn."""
    if arguments.worker != "multiworker":
        return _distributed_step(arguments, arguments.worker)
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]

    def config(index: int) -> str:
        return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})

    second = subprocess.Popen(
        _worker_command(PEER, arguments.batch, arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TF_CONFIG": config(1)},
    )
    atexit.register(second.kill)
    os.environ["TF_CONFIG"] = config(0)
    step = _distributed_step(arguments, "multiworker")
    second.stdout.readline()  # It is ready.

    def run() -> None:
        # Both have to take the step, or the first one waits.
        second.stdin.write("run\n")
        second.stdin.flush()
        step()
        second.stdout.readline()

    return run


def _distributed_step(arguments, kind: str) -> Callable[[], Any]:
    """A step of `fit` on a global batch, the data set included."""
    import numpy as np
    import tensorflow as tf

    both = kind in ("multiworker", PEER)
    tf.config.threading.set_intra_op_parallelism_threads(max(1, arguments.threads // (2 if both else 1)))
    if kind == "mirrored":
        device = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    from keras_cv_lectures.training import make_strategy
    from keras_cv_lectures.training.feeding import sharded
    from keras_cv_lectures.training.multiworker import repair_fit

    strategy = make_strategy("none" if kind == "one" else "mirrored" if kind == "mirrored" else "multiworker")
    numbers = {**(TINY_FIXED if arguments.tiny else FIXED), "batch": arguments.batch, "words": 0}
    setting = Setting(system="unet", kind=TRAINING, **numbers)
    with strategy.scope():
        recipe, model = _model(setting, arguments)
        model = repair_fit(model)
        _compile(recipe, model, setting.classes)
    examples = tf.data.Dataset.from_tensor_slices(_batch(setting)).repeat()
    batches = sharded(examples.batch(arguments.batch, drop_remainder=True))
    model.fit(batches, steps_per_epoch=1, epochs=1, verbose=0)  # Builds what follows calls.
    iterator = iter(strategy.experimental_distribute_dataset(batches))
    return lambda: np.asarray(model.train_function(iterator)["loss"])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _write(folder: Path, points, curves: list[dict[str, Any]], strategies: list[dict[str, Any]], arguments) -> None:
    from keras_cv_lectures.benchmarking import machine
    from keras_cv_lectures.files import atomic_path, write_json

    settings = {"rounds": arguments.rounds, "threads": arguments.threads, "tiny": arguments.tiny}
    stored = {"machine": machine(), "settings": settings}
    stored["points"] = [{**dataclasses.asdict(setting), **measured} for setting, measured in points.items()]
    write_json(folder / "scaling.json", {**stored, "curves": curves, "strategies": strategies})
    with atomic_path(folder / "scaling.png") as path:
        path.write_bytes(_drawn(curves, strategies))


def _drawn(curves: list[dict[str, Any]], strategies: list[dict[str, Any]]) -> bytes:
    """Inference and training step, one panel for each of what varies; then the strategies."""
    from keras_cv_lectures.visualize import LinePanel, lines

    panels = []
    for kind in dict.fromkeys(curve["kind"] for curve in curves):
        for name, sweep in SWEEPS.items():
            chosen = [c for c in curves if (c["kind"], c["sweep"]) == (kind, name)]
            if not chosen:
                continue
            panels.append(
                LinePanel(
                    title=f"{kind}: {sweep.title}",
                    x_label=sweep.x_label,
                    y_label="ms",
                    curves={c["system"]: (c["x"], c["y"]) for c in chosen},
                    fits={c["system"]: (c["start"], c["slope"]) for c in chosen},
                )
            )
    measured = [row for row in strategies if not row["missing"]]
    if measured:
        by_kind = {kind: [row for row in measured if row["strategy"] == kind] for kind in STRATEGIES}
        panels.append(
            LinePanel(
                title="training step: strategies, same cores",
                x_label="pictures of the global batch",
                y_label="ms",
                curves={
                    STRATEGIES[kind]: (
                        [row["batch"] for row in rows],
                        [1000 * statistics.median(row["seconds"]) for row in rows],
                    )
                    for kind, rows in by_kind.items()
                    if rows
                },
                fits={},
            )
        )
    return lines(panels, columns=3)


if __name__ == "__main__":
    main()
