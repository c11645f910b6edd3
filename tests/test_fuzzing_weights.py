"""Weight files, damaged at random or made to harm: a `ModelError` that names the file, or numbers of it; no code."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from fuzzing import BINARY, DEEP, DEEPER, guard, retyped

from keras_cv_lectures import h5
from keras_cv_lectures.backbones import applications
from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.weights import load_weights, read_caffemodel, read_torch, tutorial_vocabulary
from keras_cv_lectures.weights.captions import read_arrays
from keras_cv_lectures.weights.convolutionalize import read_vgg16

sys.path.insert(0, str(Path(__file__).parent / "weights"))
import caffe_reference as caffe

DATA = Path(__file__).parent / "weights" / "data"
FAST, SLOW = 150, 600 * DEEPER
RNG = np.random.default_rng(0)
KERNEL, BIAS = RNG.standard_normal((4, 3, 3, 3)).astype("f4"), RNG.standard_normal(4).astype("f4")


# Of the standard library and of Keras, over what is damaged.
quiet = pytest.mark.filterwarnings("ignore:invalid escape sequence", "ignore:__array__ implementation")


def layers():
    return [keras.layers.Conv2D(4, 3, name="conv1_1"), keras.layers.Conv2D(4, 1, name="conv1_2")]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8, 8, 3)), *layers()], name="net")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """A file over which HDF5 loops is given up soon; a good one takes half a second."""
    monkeypatch.setattr(h5, "_SECONDS", 10)


def safetensors(path):
    header = {
        "__metadata__": {"format": "pt"},
        "conv1_1.weight": {"dtype": "F32", "shape": [4, 3, 3, 3], "data_offsets": [0, 432]},
        "conv1_1.bias": {"dtype": "F32", "shape": [4], "data_offsets": [432, 448]},
    }
    write_safetensors(path, json.dumps(header).encode())


def write_safetensors(path, header):
    path.write_bytes(len(header).to_bytes(8, "little") + header + KERNEL.tobytes() + BIAS.tobytes())


def write_h5(path):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"block1_conv1"]
        group = file.create_group("block1_conv1")
        group.attrs["weight_names"] = [b"kernel", b"bias"]
        group["kernel"], group["bias"] = KERNEL.transpose(2, 3, 1, 0), BIAS


def tiny(include_top, weights, input_tensor=None, input_shape=None):
    """In the place of a network of `keras.applications`: the layer of `write_h5`."""
    x = keras.Input(input_shape) if input_tensor is None else input_tensor
    return keras.Model(x, keras.layers.Conv2D(4, 3, name="block1_conv1")(x))


def load_backbone(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(applications.ENTRIES, "tiny", applications.Entry(tiny, "none", {"c1": "block1_conv1"}))
        return applications.build_application("tiny", 3, str(path), 32)


# The suffix of a file -> what reads it. The model is the loaders' target.
READERS = {
    "zip.pth": lambda path, model: read_torch(path),
    "legacy.pth": lambda path, model: read_torch(path),
    "a.safetensors": lambda path, model: read_torch(path),
    "a.caffemodel": lambda path, model: read_caffemodel(path),
    "a.npz": lambda path, model: read_arrays(path),
    "vgg.h5": lambda path, model: read_vgg16(path),
    "notop.h5": lambda path, model: load_backbone(path),
    "a.weights.h5": lambda path, model: load_weights(model, path),
    "a.keras": lambda path, model: load_weights(model, path),
}
# Those that build a network are slow, and HDF5 files are looked through by a process each.
ROUNDS = {"vgg.h5": FAST // 30, "notop.h5": FAST // 30, "a.weights.h5": FAST // 30, "a.keras": FAST // 10}


def write(path, model):
    match path.name:
        case "zip.pth" | "legacy.pth":
            path.write_bytes((DATA / path.name).read_bytes())
        case "a.safetensors":
            safetensors(path)
        case "a.caffemodel":
            caffe.write(path, {"conv1_1": [KERNEL, BIAS], "conv1_2": [KERNEL[:, :, :1, :1], BIAS]})
        case "a.npz":
            np.savez(path, Wemb=KERNEL, b=BIAS)
        case "vgg.h5" | "notop.h5":
            write_h5(path)
        case "a.weights.h5":
            model.save_weights(path)
        case "a.keras":
            model.save(path)


def refused(path, model, read) -> bool:
    message = None
    with guard():
        try:
            read(path, model)
        except (ModelError, DataError) as error:
            message = str(error)
    if message is not None:
        assert str(path) in message
        assert len(message) < 5000
    return message is not None


def fuzz(path, model, rounds, seed):
    write(path, model)
    whole, rng, count = path.read_bytes(), np.random.default_rng(seed), 0
    assert not refused(path, model, READERS[path.name]), "the file must be good before it is damaged"
    for number in range(rounds):
        mutate = BINARY[int(rng.integers(0, len(BINARY)))]
        path.write_bytes(mutate(whole, rng))
        try:
            count += refused(path, model, READERS[path.name])
        except BaseException as error:
            error.add_note(f"{path.name}, seed {seed}, round {number}: {mutate.__name__}")
            raise
    return count


@quiet
@pytest.mark.parametrize("name", READERS)
def test_damaged_weights_are_refused_by_name(tmp_path, model, name):
    rounds = ROUNDS.get(name, FAST)
    assert fuzz(tmp_path / name, model, rounds, seed=0) >= rounds // 4


@pytest.mark.slow
@quiet
@pytest.mark.parametrize("name", READERS)
def test_much_damaged_weights_are_refused_by_name(tmp_path, model, name):
    rounds = SLOW // (FAST // ROUNDS[name]) if name in ROUNDS else SLOW
    assert fuzz(tmp_path / name, model, rounds, seed=DEEPER) >= rounds // 4


# Made to harm


CALL = b"cos\nsystem\n(S'touch harmed'\ntR"
PERSISTENT = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n("
SHARED = b"]q\0(" + b"K\x01" * 200_000 + b"e0"  # A list of 200,000 numbers, kept as number 0 of the memo.
PICKLES = {
    "os.system": CALL,
    "posix.system": CALL.replace(b"os", b"posix", 1),
    "in a persistent id": b"(X\x07\0\0\0storage" + CALL + b"X\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ",
    "in a tensor": TENSOR + PERSISTENT + CALL + b"K\x04\x85K\x01\x85tR",
    "in a dict": b"}X\x01\0\0\0a" + CALL + b"s",
    "in state": b"ccollections\nOrderedDict\n)R" + CALL + b"b",
    "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nX\x08\0\0\0__call__tR",
    "by INST": b"(S'touch harmed'\nios\nsystem\n",
    "by OBJ": b"(cos\nsystem\nS'touch harmed'\no",
    "by NEWOBJ": b"cos\nsystem\n(S'touch harmed'\nt\x81",
    "by EXT1": b"\x82\x01(S'touch harmed'\ntR",
    "a storage that is called": b"ctorch\nFloatStorage\n(S'touch harmed'\ntR",
    "a size of a list, again and again": SHARED + b"(" + b"ctorch\nSize\nh\0\x85R" * 5000 + b"t",
    "a dict of a list, again and again": SHARED + b"(" + b"ccollections\nOrderedDict\nh\0\x85R" * 5000 + b"t",
    "a name that grows": b"]q\0" + b"]q\1(h\0h\0e" + b"]q\2(h\1h\1eq\1" * 100 + b"h\1h\1\x93",
    "a size of a million digits": TENSOR + PERSISTENT + b"K\0\x8b\x40\x42\x0f\0" + b"\x7f" * 10**6
    + b"q\1(" + b"h\1" * 16 + b"t(" + b"K\1" * 16 + b"ttR",
    "an int of 5,000 digits": b"I" + b"9" * 5000 + b"\n",
    "a call of many arguments, again and again": b"ctorch._utils\n_rebuild_tensor_v2\nq\0(" + PERSISTENT
    + b"K\0K\1\x85K\1\x85" + b"N" * 10**5 + b"tq\1" + b"h\0h\1R0" * 300_000,
    "a persistent id of many parts, again and again": PERSISTENT.removesuffix(b"tQ") + b"N" * 10**5 + b"tq\0"
    + b"Q0" + b"h\0Q0" * 300_000,
    "a key of a million digits, again and again": b"\x8b\x40\x42\x0f\0" + b"\x7f" * 10**6 + b"q\0}"
    + b"h\0Ns" * 300_000,
    "a text longer than the file": b"\x8d" + (2**62).to_bytes(8, "little") + b"a",
    "deep lists": b"]" * DEEP + b"a" * (DEEP - 1),
    "a list inside of itself": b"]q\0h\0a",
}  # fmt: skip


@pytest.mark.parametrize("case", PICKLES)
def test_pickles_made_to_harm(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    body = b"\x80\x02" + PICKLES[case] + b"."
    new, old = tmp_path / "new.pth", tmp_path / "old.pth"
    with zipfile.ZipFile(new, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/data/0", bytes(16))
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    old.write_bytes(b"".join(head) + body + pickle.dumps(["0"], 2) + (4).to_bytes(8, "little") + bytes(16))
    for path in (new, old):
        assert refused(path, None, lambda path, _: read_torch(path))
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["new.pth", "old.pth"]


class _Harm:
    def __reduce__(self):
        import os

        return os.system, ("touch harmed",)


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.npz"])
def test_pickled_objects_are_refused_and_not_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if name == "a.npz":
        np.savez(path, Wemb=np.array([_Harm()], dtype=object))
    else:
        path.write_bytes(pickle.dumps({"a": _Harm(), "b": [_Harm()]}))
    assert refused(path, None, lambda path, _: read_arrays(path))
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["zip.pth", "a.npz"])
def test_archives_are_never_unpacked(tmp_path, name):
    """Names that lead out of a folder do no harm where nothing is written."""
    inner = tmp_path / "inner"
    inner.mkdir()
    write(inner / name, None)
    before = sorted(tmp_path.rglob("*"))
    with zipfile.ZipFile(inner / name, "a") as archive:
        for other in ("../harmed", "/tmp/../harmed", "..\\harmed", "x"):
            archive.writestr(other, b"harm")
    refused(inner / name, None, READERS[name])
    assert sorted(tmp_path.rglob("*")) == before


def test_arrays_that_grow_or_are_not_there(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, Wemb=np.zeros(10**8, "u1"))
    assert refused(path, None, READERS["a.npz"])
    for shape in (
        "(1000000000000,)",
        "(4611686018427387904, 4)",
        "(-1,)",
        "(" + "(" * 300 + ")",
        "(1" + ", 0" * 100 + ")",
    ):
        head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("Wemb.npy", b"\x93NUMPY\x01\0" + len(head).to_bytes(2, "little") + head + bytes(64))
        assert refused(path, None, READERS["a.npz"]), shape


SHAPES = {
    "negative": {"shape": [-1], "data_offsets": [0, 4]},
    "backwards": {"shape": [1], "data_offsets": [8, 4]},
    "beyond the end": {"shape": [2**40], "data_offsets": [0, 2**42]},
    "as a dict": {"shape": {}, "data_offsets": [0, 4]},
    "as a text": {"shape": "", "data_offsets": [0, 4]},
    "thousands of long numbers": {"shape": [10**4000] * 100, "data_offsets": [0, 4]},
    "ones without end": {"shape": [1] * 10**5, "data_offsets": [0, 4]},
    "fractions": {"shape": [1.0], "data_offsets": [0.0, 4.0]},
    "not a number": {"shape": [float("nan")], "data_offsets": [0, float("inf")]},
}


@pytest.mark.parametrize("case", SHAPES)
def test_safetensors_made_to_harm(tmp_path, case):
    path = tmp_path / "a.safetensors"
    header = {"a": {"dtype": "F32", **SHAPES[case]}}
    write_safetensors(path, json.dumps(header).encode())
    assert refused(path, None, READERS["a.safetensors"])


def test_safetensors_may_not_overlap(tmp_path):
    path = tmp_path / "a.safetensors"
    header = {name: {"dtype": "F32", "shape": [4], "data_offsets": [at, at + 16]} for name, at in (("a", 0), ("b", 12))}
    write_safetensors(path, json.dumps(header).encode())
    with pytest.raises(ModelError, match=r"a\.safetensors.*'b' begins at byte 12, inside of 'a', which ends at 16"):
        read_torch(path)


def test_safetensors_with_another_header(tmp_path):
    path, rng = tmp_path / "a.safetensors", np.random.default_rng(0)
    safetensors(path)
    whole = path.read_bytes()
    header = whole[8 : 8 + int.from_bytes(whole[:8], "little")]
    count = 0
    for _ in range(FAST):
        write_safetensors(path, retyped(header, rng))
        count += refused(path, None, READERS["a.safetensors"])
    assert count >= FAST // 4
    for length in (2**63, 2**64 - 1, 10**8):
        path.write_bytes(length.to_bytes(8, "little") + whole[8:])
        assert refused(path, None, READERS["a.safetensors"])
    for text in (b"[" * DEEP, b'{"a":' * DEEP, b"null", b"[]", b"1e999", b'{"a": 1e999}'):
        write_safetensors(path, text)
        assert refused(path, None, READERS["a.safetensors"])


HUGE = caffe.varint(2**62)
NETS = {
    "a layer of 2**62 bytes": caffe.varint(100 << 3 | 2) + HUGE,
    "a number without end": b"\xff" * 1000,
    "messages in messages": b"\xa2\x06\x7f" * DEEP,
    "a group": caffe.varint(100 << 3 | 3) * DEEP,
    "a shape of 2**62": caffe.field(100, caffe.field(1, b"a") + caffe.field(7, caffe.field(7, caffe.field(1, HUGE)))),
    "0 times 2**62": caffe.field(
        100, caffe.field(1, b"a") + caffe.field(7, caffe.field(7, caffe.field(1, b"\0" + HUGE * 2)))
    ),
    "many sides": caffe.field(100, caffe.field(7, caffe.field(7, caffe.field(1, b"\1" * 10**5)) + b"\x2d\0\0\0\0")),
}


@pytest.mark.parametrize("case", NETS)
def test_caffe_files_made_to_harm(tmp_path, case):
    path = tmp_path / "a.caffemodel"
    path.write_bytes(NETS[case])
    assert refused(path, None, READERS["a.caffemodel"])


def test_numbers_of_a_blob_in_a_million_pieces(tmp_path):
    """Four bytes each, of which a list would take a hundred times as many."""
    piece = caffe.field(5, bytes(4)) * 10**6
    path = tmp_path / "a.caffemodel"
    blob = caffe.field(7, caffe.field(1, caffe.varint(10**6))) + piece
    path.write_bytes(caffe.field(100, caffe.field(1, b"a") + caffe.field(7, blob)))
    with guard(seconds=60, memory=2**27):
        assert read_caffemodel(path)["a"][0].shape == (10**6,)


def harm(path, case, secret):
    """Makes the file of weights at `path` do harm."""
    datasets = []
    with h5py.File(path, "a") as file:
        file.visititems(lambda name, item: datasets.append(name) if isinstance(item, h5py.Dataset) else None)
        name = datasets[0]
        if case == "loop":
            file[name].attrs["dtype"] = "bfloat16"  # Keras reads it, too.
        else:
            del file[name]
        if case == "link":
            file[name] = h5py.ExternalLink(str(secret), "x")
        elif case == "numbers elsewhere":
            file.create_dataset(name, (3, 3, 3, 4), "f4", external=[(str(secret), 0, 432)])
        elif case == "numbers nowhere":
            file.create_dataset(name, (3, 3, 3, 2**40), "f4", chunks=(3, 3, 3, 4))
    if case == "loop":
        # The length of a text in HDF5's heap; the library then looks for the next one without end.
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"\x08" + bytes(7) + b"bfloat16", b"\x7f" + bytes(7) + b"bfloat16"))
        assert path.read_bytes() != whole


@pytest.mark.parametrize("case", ["loop", "link", "numbers elsewhere", "numbers nowhere"])
@pytest.mark.parametrize("name", ["vgg.h5", "notop.h5", "a.weights.h5", "a.keras"])
def test_hdf5_files_made_to_harm(tmp_path, model, monkeypatch, name, case):
    path, secret = tmp_path / name, tmp_path / "secret"
    secret.write_bytes(bytes(432))
    monkeypatch.setattr(h5, "_SECONDS", 2 if case == "loop" else 10)
    write(path, model)
    if name == "a.keras":
        inner = tmp_path / "model.weights.h5"
        with zipfile.ZipFile(path) as archive:
            parts = {part: archive.read(part) for part in archive.namelist()}
        inner.write_bytes(parts[inner.name])
        harm(inner, case, secret)
        with zipfile.ZipFile(path, "w") as archive:
            for part, content in {**parts, inner.name: inner.read_bytes()}.items():
                archive.writestr(part, content)
    else:
        harm(path, case, secret)
    said = {"link": "points to another place", "numbers elsewhere": "kept in another file", "loop": "finds no end"}
    readers = [READERS[name], READERS["vgg.h5"]] if name == "a.keras" else [READERS[name]]
    for read in readers:
        with pytest.raises(ModelError, match=said.get(case, "claims")) as error:
            read(path, model)
        assert str(path) in str(error.value)


def test_no_module_beside_a_file_is_imported(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h5py.py").write_text("import pathlib\npathlib.Path('harmed').touch()\n")
    write_h5(tmp_path / "vgg.h5")
    assert list(read_vgg16("vgg.h5")) == ["conv1_1"]
    assert not (tmp_path / "harmed").exists()


def test_weights_in_a_keras_file_that_grow(tmp_path, model):
    path = tmp_path / "a.keras"
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    load_weights(model, path)  # Packed by somebody else.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in {**parts, "model.weights.h5": parts["model.weights.h5"] + bytes(2**24)}.items():
            archive.writestr(part, content)
    with pytest.raises(ModelError, match=r"a\.keras.*model\.weights\.h5 in it claims"):
        load_weights(model, path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b'{"a": 1e999}',
        b'{"a": "0"}',
        b'{"a": NaN}',
        b"[" * DEEP,
        b"9" * 5000,
        b'{"\\ud800": 0}',
        b"\xff",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_word_maps_made_to_harm(tmp_path, content):
    path = tmp_path / "WORDMAP.json"
    path.write_bytes(content)
    assert refused(path, None, lambda path, _: tutorial_vocabulary(path))
