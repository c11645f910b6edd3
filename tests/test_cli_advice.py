"""What the command line says where it cannot go on, or not as fast as it could: advice in words of that command."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tensorflow as tf
from command_line import call
from conftest import ROOT

import kcvl
from kcvl import advice, commands, demo, training
from kcvl.advice import for_full_memory, for_unused_gpu
from kcvl.parser import make_parser

DATA = "shapes:count=4,size=32x40"


def failing(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def options_of(command):
    """The options that `command` takes."""
    choices = next(action.choices for action in make_parser()._actions if action.dest == "command")
    return {option for action in choices[command]._actions for option in action.option_strings}


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "export", "benchmark", "demo", "doctor", "vocab"])
def test_advice_for_full_memory_names_options_that_the_command_has(command):
    named = {word.strip("().,") for word in for_full_memory(command).split() if word.strip("(").startswith("--")}
    assert named <= options_of(command)
    assert named or command in ("doctor", "vocab")


@pytest.mark.parametrize("error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")])
def test_full_memory_ends_with_the_advice_of_the_command(error, monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "load_runner", failing(error))
    code, _, err = call("predict", "run", "street.jpg", "--out", tmp_path / "never")
    assert code == 1
    assert "memory" in err
    assert "--tile 512" in err
    assert "--set" not in err


def test_a_run_folder_is_not_evaluated_into(tmp_path):
    """Before the model is loaded; what is in the folder stays."""
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "report.html").write_text("of the run")
    code, _, err = call("evaluate", tmp_path, "--data", DATA, "--out", tmp_path)
    assert code == 2
    assert f"is a run folder, whose own report.html would be replaced. Name another: {tmp_path}/scores." in err
    assert (tmp_path / "report.html").read_text() == "of the run"


def test_an_interrupted_demo_goes_into_another_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "train", failing(KeyboardInterrupt()))
    code, _, err = call("demo", "--out", tmp_path)
    assert code == 1
    assert err == "kcvl: interrupted. What was complete is kept; run the command again with another --out.\n"
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").write_text("{}")
    code, _, err = call("demo", "--out", tmp_path)
    assert code == 1
    assert "already holds a training, and the demo begins one of its own. Choose another --out" in err
    assert "--resume" not in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "kcvl: interrupted. What was complete is kept; run the command again.\n"),
        (ImportError("No module named 'tensorflow'\nmuch more"), "cannot be imported: No module named 'tensorflow'. "),
    ],
    ids=["Ctrl-C", "missing"],
)
def test_while_tensorflow_is_imported(error, said, monkeypatch):
    monkeypatch.setattr(kcvl, "_import_tensorflow", failing(error))
    code, _, err = call("list")
    assert code == 1
    assert said in err
    assert err.count("\n") == 1


def test_help_and_version_without_an_installed_distribution(monkeypatch, tmp_path, capsys):
    """Python without the folder of installed packages knows the sources alone."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from kcvl import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--version" in done.stdout

    def unknown(name):
        raise kcvl.parser.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", unknown)
    assert call("--version")[:2] == (0, "keras_cv_lectures 0.1.0\n")


@pytest.mark.parametrize(
    ("devices", "replicas", "told"), [((), 1, "on the CPU"), (("gpu",), 1, "on the GPU"), (("a", "b"), 2, "on 2 GPUs")]
)
def test_the_plan_of_a_training_names_what_computes(devices, replicas, told, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: devices)

    class Strategy:
        num_replicas_in_sync = replicas

    assert training._devices(Strategy()) == told


def test_a_gpu_that_tensorflow_does_not_use_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(advice, "_DEVICES", tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert for_unused_gpu(0) == ""
    (tmp_path / "dxg").touch()  # Windows lends GPUs of other makers by this name, too.
    assert for_unused_gpu(0) == ""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert for_unused_gpu(0)
    (tmp_path / "dxg").unlink()
    assert for_unused_gpu(0) == ""  # An image of a container holds the program without a device.
    (tmp_path / "nvidia3").touch()
    assert "pip install 'tensorflow[and-cuda]~=2.21.0'" in for_unused_gpu(0)
    assert for_unused_gpu(1) == ""
    monkeypatch.setattr(training, "train", failing(KeyboardInterrupt()))
    _, out, _ = call("train", "unet", "--data", DATA, "--set", "input_size=32x40", "--out", tmp_path / "never")
    assert out.splitlines()[0].endswith("; on the CPU")
    assert out.splitlines()[1] == for_unused_gpu(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert for_unused_gpu(0) == ""
