"""MultiWorkerMirroredStrategy over two processes on the loopback address, and the canary of the repaired Keras."""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.language import Captioner, PlainDecoder
from keras_cv_lectures.runners import load_keras_model
from keras_cv_lectures.training import multiworker
from keras_cv_lectures.training.callbacks import StopOnNaN, save_model

COMMAND = [
    sys.executable, "-m", "kcvl", "train", "unet", "--data", "shapes:count=12,size=32x40",
    "--set", "filters=2", "--set", "depth=2", "--set", "batch_size=4", "--set", "optimizer=sgd",
    "--set", "learning_rate=0.1", "--set", "input_size=32x40",
]  # fmt: skip

# Enough that a worker killed at the first checkpoint does not see the last.
EPOCHS = 5


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _start(out, epochs, *, resume=False):
    workers = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        command = [*COMMAND, "--set", f"epochs={epochs}", "--strategy", "multiworker", "--out", str(out)]
        processes.append(
            subprocess.Popen(
                [*command, *(["--resume"] if resume else [])],
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def _finish(processes, timeout=600):
    """(output, exit code) of each; none is left behind if one hangs."""
    try:
        return [(p.communicate(timeout=timeout)[0], p.returncode) for p in processes]
    finally:
        for process in processes:
            process.kill()


def _weights(folder):
    return load_keras_model(folder / "last.keras").get_weights()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights after a training by two workers."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    for output, code in _finish(_start(out, EPOCHS)):
        assert code == 0, output
    return _weights(out)


@pytest.mark.slow
@pytest.mark.long("workers")
def test_two_workers_train_the_weights_of_one_process(trained, tmp_path):
    command = [*COMMAND, "--set", f"epochs={EPOCHS}", "--out", str(tmp_path / "one")]
    single = subprocess.run(command, capture_output=True, text=True)
    assert single.returncode == 0, single.stderr
    for a, b in zip(_weights(tmp_path / "one"), trained, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
@pytest.mark.long("workers")
def test_a_killed_worker_does_not_hang_the_other_and_both_resume(trained, tmp_path):
    processes = _start(tmp_path / "run", EPOCHS)
    state = tmp_path / "run/checkpoint/state.json"
    while not state.exists():
        assert processes[0].poll() is None, processes[0].stdout.read()
        time.sleep(0.01)
    processes[1].kill()
    (output, code), _ = _finish(processes, timeout=300)
    done = json.loads(state.read_text())["epochs_done"]
    assert 0 < done < EPOCHS
    assert code == 1, output
    assert "a worker of the cluster went away" in output
    assert "--resume" in output
    for output, code in _finish(_start(tmp_path / "run", EPOCHS, resume=True)):
        assert code == 0, output
    for a, b in zip(trained, _weights(tmp_path / "run"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_logs_of_one_worker_keep_their_form():
    """They have no axis to begin with, and Keras takes none away."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # Without `TF_CONFIG` of this process alone.
    with strategy.scope():
        image = keras.Input((2,))
        model = multiworker.repair_fit(keras.Model(image, keras.layers.Dense(1, kernel_initializer="ones")(image)))
        model.compile("sgd", "mse", jit_compile=False)
    seen = []
    told = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(float(logs["loss"])))
    # (1 + 2 - 0) ** 2 before the first step.
    model.fit(np.float32([[1, 2]]), np.float32([[0]]), callbacks=[StopOnNaN(), told], verbose=0)
    assert seen == [9.0]


def test_a_repaired_model_of_a_class_of_its_own_is_saved_and_loaded(tmp_path, monkeypatch):
    """Captioners and detectors are such models; what Keras itself defines is loaded under any name."""
    monkeypatch.setattr(multiworker, "_several_workers", lambda strategy: True)
    image = keras.Input((8, 8, 3))
    encoder = keras.Model(image, keras.layers.Conv2D(2, 4, strides=4)(image))
    model = Captioner(encoder, PlainDecoder(6, embedding_units=2, units=2), input_shape=(8, 8, 3), max_words=2)
    assert multiworker.repair_fit(model) is model
    assert model.train_step.__func__ is not Captioner.train_step
    save_model(model, tmp_path / "best.keras")
    again = load_keras_model(tmp_path / "best.keras")
    assert type(again) is Captioner
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_canary_keras_still_has_the_faults():
    """When this fails, Keras has changed `fit`: look whether training/multiworker.py can go."""
    from keras.src.backend.tensorflow import trainer

    assert 'strategy.reduce("MEAN", v, axis=0)' in inspect.getsource(trainer.reduce_per_replica)
    build = inspect.getsource(trainer.TensorFlowTrainer._maybe_symbolic_build)
    assert "next(it)" in build
    assert "self.distribute_strategy.reduce(" in build
