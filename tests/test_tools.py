"""Benchmark programs: what they do with measurements. What they measure is run by hand."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import keras
import pytest

import keras_cv_lectures
from keras_cv_lectures.training.optimizers import PenalizedSGD

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module


@pytest.mark.parametrize("name", sorted(path.stem for path in TOOLS.glob("*.py")))
def test_every_tool_finds_what_it_imports_and_has_the_options_that_it_shows(tool, name):
    found = tool(name)
    shown = "".join(re.findall(rf"^ *python tools/{name}\.py(.*)$", found.__doc__, re.M))
    program = (TOOLS / f"{name}.py").read_text(encoding="utf-8")
    missing = [option for option in re.findall(r"--[a-z][a-z-]*", shown) if f'"{option}"' not in program]
    assert not missing


@pytest.mark.parametrize("path", sorted(TOOLS.glob("*.py")), ids=lambda path: path.stem)
def test_every_name_of_the_package_that_a_tool_imports_exists(path):
    """Also inside functions, which run after minutes of other measurements."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names = []
        if isinstance(node, ast.ImportFrom):
            modules, names = [node.module], [alias.name for alias in node.names]
        for module in modules:
            if module.split(".")[0] not in ("keras_cv_lectures", "kcvl"):
                continue
            found = importlib.import_module(module)
            for name in names:
                if not hasattr(found, name):
                    importlib.import_module(f"{module}.{name}")


def test_the_input_benchmark_measures_the_training_that_its_options_ask_for(tool, monkeypatch):
    steps = []
    monkeypatch.setattr(keras.Model, "train_on_batch", lambda model, x, y: steps.append((model, x, y)))
    options = ["variant=paper", "filters=2", "depth=1", "batch_size=2", "input_size=24x32", "border_weights=true",
               "optimizer=sgd", "momentum=0.5"]  # fmt: skip
    words = [word for option in options for word in ("--set", option)]
    monkeypatch.setattr(sys, "argv", ["input", "shapes:count=6,size=24x32", "--batches", "1", *words])
    tool("benchmark_input").main()
    model, x, y = steps[0]
    # Valid convolutions answer for less than they see; a target is a label and its weight.
    assert x.shape[1] > y.shape[1] >= 24
    assert model.compute_output_shape(x.shape)[:3] == tuple(y.shape[:3])
    assert y.shape[3] == 2
    assert (type(model.optimizer), model.optimizer.momentum) == (PenalizedSGD, 0.5)


def test_functions_take_turns_in_one_process(tool):
    order = []
    times = tool("turns").milliseconds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, warm=1)
    assert order == ["a", "b"] * 4
    assert [len(values) for values in times.values()] == [3, 3]


def test_a_straight_line_tells_what_one_more_costs(tool):
    start, slope, explained = tool("turns").straight_line([1, 2, 4], [12.0, 14.0, 18.0])
    assert (start, slope, explained) == pytest.approx((10, 2, 1))
    # Around the mean 2 of y = 1, 3, 2 a line of slope 1/2 explains (1 + 0 + 1) / 4 = 1/2 of 2: a quarter.
    assert tool("turns").straight_line([0, 1, 2], [1.0, 3.0, 2.0]) == pytest.approx((1.5, 0.5, 0.25))


def test_the_turns_of_the_tools_need_no_library():
    """PyTorch's environment has none of ours."""
    code = f"import sys; sys.path.insert(0, {str(TOOLS)!r}); import turns; print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_peers_that_are_missing_are_in_the_file_and_in_the_chart(tool, tmp_path, monkeypatch, capsys):
    peers = tool("benchmark_peers")
    ours = peers.Turns(seconds=(0.25, 0.75, 0.5), megabytes=900.0)
    monkeypatch.setattr(peers, "take_turns", lambda commands, *_: dict.fromkeys(commands, ours))
    files = ["--json", str(tmp_path / "peers.json"), "--plot", str(tmp_path / "peers.png")]
    monkeypatch.setattr(sys, "argv", ["peers", "unet", "--only", "frozen", "torch_bfloat16", *files])
    peers.main()
    rows = json.loads((tmp_path / "peers.json").read_text())["rows"]
    assert {row["contender"]: row["missing"] for row in rows} == {
        "frozen": None,
        "torch_bfloat16": "no --torch-python was given",
    }
    assert rows[0]["seconds"] == [0.25, 0.75, 0.5]
    assert "torch_bfloat16           missing: no --torch-python was given" in capsys.readouterr().out
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_a_scaling_point_is_measured_once_and_drawn_in_every_curve_that_passes_it(tool, tmp_path):
    scaling = tool("benchmark_scaling")
    arguments = argparse.Namespace(tiny=False, rounds=3, threads=1)
    sweeps = {name: scaling.SWEEPS[name] for name in ("size", "batch")}
    settings = {
        scaling._setting(sweep, system, kind, value, arguments)
        for sweep in sweeps.values()
        for system in sweep.systems
        for kind in (scaling.INFERENCE, scaling.TRAINING)
        for value in sweep.values
    }
    # Four sizes and four batches have one setting in common, for each system and kind.
    assert len(settings) == 2 * 2 * (4 + 4 - 1)
    # Cost 5 ms and 2 ms for every thousand pixels of the batch.
    points = {s: {"ms": [5 + 2 * s.batch * s.size**2 / 1000] * 3} for s in settings}
    curves = scaling._curves(sweeps, points, arguments)
    assert len(curves) == 2 * 2 * 2
    by_size = next(c for c in curves if c["sweep"] == "size")
    assert (by_size["start"], by_size["slope"], by_size["explained"]) == pytest.approx((5, 4, 1))  # two pictures
    by_batch = next(c for c in curves if c["sweep"] == "batch")
    # 128 x 128 pixels each.
    assert (by_batch["values"], by_batch["slope"]) == ([1, 2, 4, 8], pytest.approx(2 * 128**2 / 1000))
    strategies = [
        {"strategy": "one", "batch": 4, "seconds": (0.1, 0.3, 0.2), "megabytes": 1.0, "missing": None},
        {"strategy": "mirrored", "batch": 4, "seconds": (), "megabytes": None, "missing": "no devices"},
    ]
    scaling._write(tmp_path, points, curves, strategies, arguments)
    stored = json.loads((tmp_path / "scaling.json").read_text())
    assert len(stored["points"]) == len(settings)
    assert stored["strategies"][1]["missing"] == "no devices"
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert sum("unet" in line for line in scaling._table(curves)) == 4


def test_both_sides_train_the_same_heads(tool):
    """torchvision's networks always come with a second one, and ours without."""
    peers = tool("benchmark_peers")
    two = []
    for name, case in peers.CASES.items():
        if case.detector:
            continue
        alone = dataclasses.replace(
            case,
            ours=lambda package, shape, classes, auxiliary=False: auxiliary,
            torch=lambda classes, train: types.SimpleNamespace(aux_classifier="second head"),
        )
        ours, targets, options = peers.our_segmentation(alone, keras_cv_lectures, (64, 64, 3), "labels")
        theirs = peers.torch_network(alone, True).aux_classifier is not None
        assert ours == isinstance(targets, dict) == ("loss_weights" in options) == theirs == case.auxiliary
        assert peers.torch_network(alone, False).aux_classifier is None
        two += [name] * ours
    assert two == ["fcn_resnet50", "deeplabv3_resnet50"]


def test_the_detector_for_small_pictures_has_as_many_proposals_as_torchvisions_at_every_size(tool):
    """`fasterrcnn_mobilenet_v3_large_320_fpn` has `rpn_pre_nms_top_n_test` and `rpn_post_nms_top_n_test` of 150."""
    case = tool("benchmark_peers").CASES["faster_rcnn_mobilenet320"]
    kcvl = types.SimpleNamespace(build_faster_rcnn=lambda shape, classes, **options: options)
    options = case.ours(kcvl, (*case.size, 3), case.classes, train=True, min_size=320, max_size=426)
    assert (options["min_size"], options["max_size"]) == (320, 426)
    assert options["rpn_pre_nms"] == options["rpn_post_nms"] == (2000, 150)


def test_memory_of_a_gpu_is_told_beside_that_of_the_process(tool, tmp_path, monkeypatch, capsys):
    gpu, about = tool("benchmark_gpu"), tmp_path / "about.json"
    device = types.SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 2_500_000})
    cuda = types.SimpleNamespace(is_available=lambda: True, max_memory_allocated=lambda: 7_000_000)
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(devices=lambda: [device]))
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    row = {"case": "unet", "step": "train", "precision": "float32", "batch": 2, "seconds": [0.5]}
    for worker, found in (("jax", 2.5), ("torch", 7.0)):
        about.write_text('{"device": "gpu: some"}')
        gpu._tell_memory(argparse.Namespace(worker=worker, about=about))
        assert json.loads(about.read_text()) == {"device": "gpu: some", "gpu_megabytes": found}
    device.memory_stats = lambda: None  # As a CPU answers.
    gpu._tell_memory(argparse.Namespace(worker="jax", about=about))
    assert json.loads(about.read_text())["gpu_megabytes"] is None
    gpu._print([{**row, "contender": "torch", "device": "gpu: some", "gpu_megabytes": 7.0}])
    assert capsys.readouterr().out.endswith("4.0        7  gpu: some\n")
    turns = tool("turns")
    monkeypatch.setattr(turns._turns, "take_turns", lambda *_, **__: {"a": turns.Turns(seconds=(1.0,), megabytes=9.0)})
    turns.take_turns({}, 1, 1)
    assert "host memory     9 MB" in capsys.readouterr().out
