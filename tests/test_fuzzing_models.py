"""Models, damaged at random or made to harm: a `ModelError` that names the file, or an answer; no code is run."""

from __future__ import annotations

import json
import os
import shutil
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from fuzzing import BINARY, DEEP, DEEPER, JSON, guard

import keras_cv_lectures as kcvl
from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.metadata import Metadata, read_metadata
from keras_cv_lectures.reporting import run_of
from keras_cv_lectures.runners import load_keras_model
from keras_cv_lectures.weights import load_weights

SIZE = (32, 40)
PICTURE = np.zeros((*SIZE, 3), np.uint8)
# Model -> (the file that is damaged, rounds in the fast tier, rounds in the slow tier).
TARGETS = {
    "m.tflite": ("m.tflite", 40, 300),
    "m.keras": ("m.keras", 16, 100),
    "saved": ("saved/saved_model.pb", 12, 40),
    "saved ": ("saved/variables/variables.index", 6, 20),
    "saved  ": ("saved/variables/variables.data-00000-of-00001", 6, 20),
    "run": ("run/run.json", 16, 100),
    "run ": ("run/best.keras", 6, 30),
    "card.tflite": ("card.json", 40, 200),
}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return kcvl.build_unet((None, None, 3), 3, filters=2, depth=1)


@pytest.fixture(scope="module")
def stored(model, tmp_path_factory):
    """A model in every form; those in the folder itself have no description beside them."""
    folder = tmp_path_factory.mktemp("stored")
    metadata = Metadata(system="unet", classes=tuple("abc"), colors=((0, 0, 0),) * 3, input_size=SIZE)
    (folder / "run").mkdir()
    model.save(folder / "run" / "best.keras")
    (folder / "run" / "run.json").write_text(json.dumps({**metadata.to_json(), "options": {"epochs": 1}}))
    model.save(folder / "m.keras")
    kcvl.export_tflite(model, folder / "card.tflite", input_shape=SIZE, metadata=metadata)
    shutil.copy(folder / "card.tflite", folder / "m.tflite")
    kcvl.export_saved_model(model, folder / "saved", input_shape=SIZE)
    return folder


def refused(path) -> bool:
    """Whether the model at `path` gives no class map of the picture, by a message that names it or a file of it."""
    message = None
    with guard(seconds=60, memory=None):
        try:
            assert kcvl.predict(path, PICTURE).class_map.shape == SIZE
            if path.is_dir():
                run_of(path)
        except ModelError as error:
            message = str(error)
    if message is not None:
        assert str(path.with_suffix("")) in message
        assert len(message) < 5000
    return message is not None


def fuzz(stored, folder, target, rounds, seed):
    name, (file, *_) = target.strip(), TARGETS[target]
    shutil.copytree(stored, folder, dirs_exist_ok=True)
    whole, rng, count = (stored / file).read_bytes(), np.random.default_rng(seed), 0
    assert not refused(folder / name), "the model must be good before it is damaged"
    mutators = JSON if file.endswith(".json") else BINARY
    for number in range(rounds):
        mutate = mutators[int(rng.integers(0, len(mutators)))]
        (folder / file).write_bytes(mutate(whole, rng))
        try:
            count += refused(folder / name)
        except BaseException as error:
            error.add_note(f"{file}, seed {seed}, round {number}: {mutate.__name__}")
            raise
    return count


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_models_are_refused_by_name(stored, tmp_path, target):
    rounds = TARGETS[target][1]
    assert fuzz(stored, tmp_path, target, rounds, seed=0) >= rounds // 4


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_much_damaged_models_are_refused_by_name(stored, tmp_path, target):
    rounds = TARGETS[target][2] * DEEPER
    assert fuzz(stored, tmp_path, target, rounds, seed=DEEPER) >= rounds // 4


DESCRIPTIONS = {
    "classes as a text": {"classes": "abc"},
    "classes of numbers": {"classes": [1, 2, 3]},
    "colours of four": {"colors": [[0, 0, 0, 0]] * 3},
    "colours beyond 255": {"colors": [[0, 0, 256]] * 3},
    "a size that is no number": {"input_size": [float("nan"), 40]},
    "a negative size": {"input_size": [-1, 40]},
    "a size of one number": {"input_size": [40]},
    "a size as a text": {"input_size": "32x40"},
    "a margin of one number": {"tile_margin": [4]},
    "a negative margin": {"tile_margin": [-4, 4]},
    "a stride of nothing": {"tile_stride": 0},
    "a shrinkage of nothing": {"shrunk_by": 0},
    "a shrinkage that is no number": {"shrunk_by": float("nan")},
    "tiles as a text": {"tiled": "yes"},
    "a system that is none": {"system": ["unet"]},
    "a list of settings": {"config": [1]},
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_descriptions_of_another_kind(tmp_path, case):
    path = tmp_path / "run.json"
    path.write_text(json.dumps(DESCRIPTIONS[case]))
    for read in (read_metadata, run_of):
        with pytest.raises(ModelError, match=r"run\.json: .* must .*valid description of a model"):
            read(tmp_path)


@pytest.mark.parametrize(
    "content", ["[" * DEEP, '{"a":' * DEEP, "null", "1e999", '{"classes": ["\\ud800"]}', "9" * 5000]
)
def test_descriptions_that_are_none(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_text(content)
    for read in (read_metadata, run_of):
        with pytest.raises(ModelError, match="is not a valid description of a model") as error:
            read(tmp_path)
        assert str(path) in str(error.value)


# Made to harm


def with_config(path, layer, inputs=(4,)):
    """A `.keras` file whose second layer has this description."""
    keras.Sequential([keras.Input(inputs), keras.layers.Activation("relu", name="a")]).save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][1] = {"registered_name": None, "build_config": None, **layer}
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def layer_of(module, name, /, **config):
    return {"module": module, "class_name": name, "config": {"name": "a", **config}}


def activation(module, name, /, **config):
    value = {"module": module, "class_name": name, "config": config, "registered_name": name}
    if not config:
        value |= {"class_name": "function", "config": name, "registered_name": "function"}
    return layer_of("keras.layers", "Activation", activation=value)


MODULE = "import pathlib\npathlib.Path('harmed').touch()\nclass Harm: pass\n"
HARM = {
    "a class of another module": layer_of("harmful", "Harm"),
    "a class of a registered name": {**layer_of("harmful", "Harm"), "registered_name": "harmful>Harm"},
    "os.system as a layer": layer_of("os", "system", command="touch harmed"),
    "subprocess.Popen as a layer": layer_of("subprocess", "Popen", args="touch harmed", shell=True),
    "os.system as an activation": activation("os", "system"),
    "eval as an activation": activation("builtins", "eval"),
    "a function of another module": activation("harmful", "Harm"),
    "a download as an activation": activation("keras.utils", "get_file", fname="harmed", origin="file:///etc/hostname"),
    "a Lambda": layer_of(
        "keras.layers",
        "Lambda",
        function={"class_name": "__lambda__", "config": {"code": "4wE=", "defaults": None, "closure": None}},
    ),
    "a SavedModel": layer_of("keras.layers", "TFSMLayer", filepath="saved", call_endpoint="serve"),
    "a pickled module of PyTorch": layer_of("keras.layers", "TorchModuleWrapper", module={"module": "gAKVAA=="}),
    "words of another file": layer_of("keras.layers", "StringLookup", vocabulary="secret"),
}


REFUSALS = "Could not locate (class|function)|disallowed|No module named 'torch'"


@pytest.mark.parametrize("case", HARM)
def test_keras_files_made_to_harm(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "harmful.py").write_text(MODULE)
    (tmp_path / "secret").write_text("the\nsecret\n")
    tf.saved_model.save(tf.Module(), str(tmp_path / "saved"))
    path = with_config(tmp_path / "m.keras", HARM[case])
    before = sorted(tmp_path.rglob("*"))
    target = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    for load in (load_keras_model, lambda path: load_weights(target, path)):
        with guard(60, None), pytest.raises(ModelError, match=f"cannot be loaded.*({REFUSALS})") as error:
            load(path)
        assert str(path) in str(error.value)
    assert [p for p in sorted(tmp_path.rglob("*")) if "__pycache__" not in p.parts] == before


def test_keras_files_are_not_unpacked_outside(stored, tmp_path):
    """Names that lead out of a folder and links in the archive; the weights are read as they are."""
    inner = tmp_path / "inner"
    inner.mkdir()
    path = shutil.copy(stored / "m.keras", inner / "m.keras")
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = (0o120777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../harmed", "assets/../../harmed", str(tmp_path / "harmed"), "..\\harmed"):
            archive.writestr(name, b"harm")
        archive.writestr(link, os.fspath(tmp_path))
    with guard(seconds=60, memory=None):
        refused(path)
    assert sorted(tmp_path.rglob("*")) == [inner, path]


@pytest.mark.parametrize(
    "content", ["[" * DEEP, "null", "{}", '{"class_name": 1}', '{"module": "os", "class_name": "system"}']
)
def test_keras_files_of_another_config(tmp_path, content):
    path = with_config(tmp_path / "m.keras", layer_of("keras.layers", "Activation", activation="relu"))
    assert load_keras_model(path).layers
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in {**parts, "config.json": content.encode()}.items():
            archive.writestr(name, part)
    with guard(seconds=60, memory=None), pytest.raises(ModelError, match=r"m\.keras cannot be loaded"):
        load_keras_model(path)
