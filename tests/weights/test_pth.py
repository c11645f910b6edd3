"""Files of PyTorch: what torch wrote reads back, and what was made to harm does not."""

from __future__ import annotations

import contextlib
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.weights.pth import read_torch

DATA = Path(__file__).parent / "data"
# What data/make_torch_files.py gave to torch.save.
WRITTEN = {
    "plain": np.arange(6, dtype="f4").reshape(2, 3) / 4,
    "parameter": np.array([1.5, -2.5], "f4"),
    "channels_last": np.arange(24, dtype="f4").reshape(1, 2, 3, 4),
    "transposed": np.array([[0, 3], [1, 4], [2, 5]], "f4"),
    "shared_a": np.array([[2, 3, 4], [5, 6, 7]], "f4"),
    "shared_b": np.array([1, 6, 11, 16, 21], "f4"),
    "half": np.array([1, -0.5, 65504, 2.0**-24], "f4"),
    "bfloat16": np.array([1, -3.140625, 2.0**100], "f4"),
    "double": np.array([0.1], "f8"),
    "num_batches_tracked": np.array(7, "i8"),
    "int": np.array([-1, 2**31 - 1], "i4"),
    "bytes": np.array([0, 255], "u1"),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), "f4"),
}


@pytest.mark.parametrize("name", ["zip", "legacy", "wrapped"])
def test_files_of_torch_in_every_form(name):
    state = read_torch(DATA / f"{name}.pth")
    assert list(state) == list(WRITTEN)
    for key, array in state.items():
        assert array.dtype == WRITTEN[key].dtype, key
        np.testing.assert_array_equal(array, WRITTEN[key], err_msg=key)
        assert not array.size or not array.flags.writeable


def test_a_pickled_module_is_refused_by_name():
    with pytest.raises(
        ModelError, match=r"module\.pth.*'torch\.nn\.modules\.linear\.Linear'.*nothing in a weight file"
    ):
        read_torch(DATA / "module.pth")


# A pickle by hand: an instruction is a byte and its argument.
MARK, TUPLE, REDUCE, BUILD, STOP, PERSISTENT = b"(", b"t", b"R", b"b", b".", b"Q"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def number(value):
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + data


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def tuple_of(*items):
    return MARK + b"".join(items) + TUPLE


def storage(length, kind="FloatStorage", key="0"):
    return tuple_of(text("storage"), name("torch", kind), text(key), text("cpu"), number(length)) + PERSISTENT


def tensor(size, stride, offset=0, length=4, rebuild="_rebuild_tensor_v2", **kwargs):
    arguments = [
        storage(length, **kwargs),
        number(offset),
        tuple_of(*map(number, size)),
        tuple_of(*map(number, stride)),
    ]
    return name("torch._utils", rebuild) + tuple_of(*arguments) + REDUCE


def state_dict(**tensors):
    items = b"".join(text(key) + value for key, value in tensors.items())
    return name("collections", "OrderedDict") + b")" + REDUCE + MARK + items + b"u"


def zip_file(path, body, storages=None, compression=zipfile.ZIP_STORED, order=None):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + STOP)
        if order is not None:
            archive.writestr("archive/byteorder", order)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def legacy_file(path, body, keys=("0",), storages=b"", system=None):
    system = {"little_endian": True} if system is None else system
    head = [0x1950A86A20F9469CFC6C, 1001, system]
    parts = [pickle.dumps(part, 2) for part in head] + [b"\x80\x02" + body + STOP, pickle.dumps(list(keys), 2)]
    path.write_bytes(b"".join(parts) + storages)
    return path


FOUR = np.arange(4, dtype="<f4").tobytes()


def test_strides_and_offset(tmp_path):
    path = zip_file(tmp_path / "a.pth", state_dict(a=tensor((2, 2), (1, 2)), b=tensor((1,), (1,), 3)), {"0": FOUR})
    state = read_torch(path)
    np.testing.assert_array_equal(state["a"], [[0, 2], [1, 3]])
    np.testing.assert_array_equal(state["b"], [3])


def test_big_endian_files(tmp_path):
    swapped = np.arange(4, dtype=">f4").tobytes()
    path = zip_file(tmp_path / "a.pth", state_dict(a=tensor((4,), (1,))), {"0": swapped}, order=b"big")
    np.testing.assert_array_equal(read_torch(path)["a"], [0, 1, 2, 3])
    halves = np.array([0x3F80, 0xC000], ">u2").tobytes()  # 1 and -2 in bfloat16
    body = state_dict(a=tensor((2,), (1,), length=2, kind="BFloat16Storage"))
    path = legacy_file(
        tmp_path / "b.pth", body, storages=(2).to_bytes(8, "big") + halves, system={"little_endian": False}
    )
    np.testing.assert_array_equal(read_torch(path)["a"], [1, -2])


def test_the_oldest_files_hold_parameters_with_state_and_views_of_storages(tmp_path):
    view = tuple_of(text("7"), number(1), number(2))
    identifier = tuple_of(
        text("storage"), name("torch.cuda", "FloatStorage"), text("0"), text("cuda:0"), number(4), view
    )
    arguments = tuple_of(identifier + PERSISTENT, number(0), tuple_of(number(2)), tuple_of(number(1)))
    inner = name("torch._utils", "_rebuild_tensor") + arguments + REDUCE
    parameter = name("torch.nn.parameter", "Parameter") + tuple_of(inner) + REDUCE
    parameter += tuple_of(b"\x88", b"\x89", name("collections", "OrderedDict") + b")" + REDUCE) + BUILD
    path = legacy_file(tmp_path / "a.pth", state_dict(a=parameter), storages=(4).to_bytes(8, "little") + FOUR)
    np.testing.assert_array_equal(read_torch(path)["a"], [1, 2])


OUTSIDE = {
    "offset": tensor((2,), (1,), 3),
    "stride": tensor((2,), (4,)),
    "second axis": tensor((2, 2), (1, 3)),
    "negative offset": tensor((1,), (1,), -1),
    "negative stride": tensor((2,), (-1,), 3),
    "negative size": tensor((-1,), (1,)),
    "more elements than numbers": tensor((10**9,), (0,)),
    "overflow": tensor((2**62, 4), (0, 2**62)),
    "axes": tensor((1,) * 40, (1,) * 40),
    "stride for one axis only": tensor((2, 2), (1,)),
    "no tensor": name("torch._utils", "_rebuild_tensor_v2") + tuple_of(number(1), number(0), b")", b")") + REDUCE,
    "huge empty": tensor((0, 2**62, 2**62), (0, 0, 0)),
    "huge stride": tensor((1,), (2**70,)),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_tensors_that_reach_beyond_their_numbers(tmp_path, case):
    with pytest.raises(ModelError, match="cannot be read as weights"):
        read_torch(zip_file(tmp_path / "a.pth", state_dict(a=OUTSIDE[case]), {"0": FOUR}))
    with pytest.raises(ModelError, match="cannot be read as weights"):
        read_torch(legacy_file(tmp_path / "b.pth", state_dict(a=OUTSIDE[case]), storages=bytes([4]) + bytes(7) + FOUR))


@pytest.mark.parametrize(
    "body",
    [
        name("os", "system") + tuple_of(text("touch harmed")) + REDUCE,
        name("builtins", "eval") + tuple_of(text("1")) + REDUCE,
        text("posix") + text("system") + b"\x93" + tuple_of(text("touch harmed")) + REDUCE,
        name("torch._utils", "_rebuild_tensor_v3") + b")" + REDUCE,
        name("torch.storage", "_load_from_bytes") + tuple_of(text("x")) + REDUCE,
    ],
)
def test_other_names_are_refused_and_not_run(tmp_path, monkeypatch, body):
    monkeypatch.chdir(tmp_path)
    for path in (zip_file(tmp_path / "a.pth", body), legacy_file(tmp_path / "b.pth", body)):
        with pytest.raises(ModelError, match="the file names '(os|builtins|posix|torch)"):
            read_torch(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "body",
    [
        b"(S'touch harmed'\nios\nsystem\n",  # INST calls without REDUCE.
        name("collections", "OrderedDict") + b")\x81",  # NEWOBJ
        b"\x82\x01",  # EXT1
        text("a") + b")" + REDUCE,  # A call of a string.
        name("torch", "FloatStorage") + b")" + REDUCE,
        state_dict(a=tensor((4,), (1,))) + b")" + REDUCE,
        b"}" + MARK + b")" + text("a") + b"u",  # A tuple as a key.
        b"t",
        b"h\x09",
        b"",
        b"}q" + b"\x00" + b"h\x00s",
        b")" + b"\x85" * 10_000 + b"}" + b"b" + PERSISTENT,  # Deep nesting.
    ],
)
def test_pickles_that_make_no_sense(tmp_path, body):
    with pytest.raises(ModelError, match="pickle|no storage|no state dict"):
        read_torch(zip_file(tmp_path / "a.pth", body, {"0": FOUR}))


def test_storages_must_be_as_long_as_claimed(tmp_path):
    body = state_dict(a=tensor((4,), (1,)))
    for storages in ({}, {"0": FOUR[:-1]}, {"0": FOUR + FOUR}):
        with pytest.raises(ModelError, match="storage '0'"):
            read_torch(zip_file(tmp_path / "a.pth", body, storages))
    for keys, data in (
        (["0"], (5).to_bytes(8, "little") + FOUR),
        (["0"], (-4).to_bytes(8, "little", signed=True) + FOUR),
        (["0"], (4).to_bytes(8, "little") + FOUR[:-1]),
        (["1"], (4).to_bytes(8, "little") + FOUR),
        ([], (4).to_bytes(8, "little") + FOUR),
    ):
        with pytest.raises(ModelError, match="storage"):
            read_torch(legacy_file(tmp_path / "b.pth", body, keys, data))


def test_archives_that_grow(tmp_path):
    big = state_dict(a=tensor((2**20,), (1,), length=2**20))
    path = zip_file(tmp_path / "a.pth", big, {"0": bytes(2**22)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="compressed"):
        read_torch(path)


@pytest.mark.parametrize("name", ["zip", "legacy"])
def test_no_damage_escapes_as_another_error(tmp_path, name):
    whole = (DATA / f"{name}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(whole), 61):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="cut"):
            read_torch(path)
    generator = np.random.default_rng(0)
    for _ in range(150):
        changed = np.frombuffer(whole, "u1").copy()
        changed[generator.integers(0, len(changed), 3)] = generator.integers(0, 256, 3)
        path.write_bytes(changed.tobytes())
        # Numbers of the older form carry no checksum: some changes cannot be told.
        with contextlib.suppress(ModelError):
            read_torch(path)


def test_what_is_no_file_of_torch(tmp_path):
    with pytest.raises(ModelError, match=r"existing file.*absent\.pth"):
        read_torch(tmp_path / "absent.pth")
    for content in (b"", b"<html>Not Found</html>", pickle.dumps({"a": 1}), b"\x80\x02]."):
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(ModelError, match=r"a\.pth cannot be read as weights"):
            read_torch(tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        archive.writestr("photo.txt", "no weights")
    with pytest.raises(ModelError, match=r"no data\.pkl"):
        read_torch(tmp_path / "b.pth")
    with pytest.raises(ModelError, match="no state dict"):
        read_torch(zip_file(tmp_path / "c.pth", state_dict(epoch=number(3))))


def safetensors(path, header, data=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_safetensors(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", [2, 2], 0, 16),
        "b": entry("BF16", [1], 16, 18),
        "c": entry("F16", [1], 18, 20),
        "d": entry("I64", [], 20, 28),
    }
    data = FOUR + b"\x80\x3f" + b"\x00\xc0" + (9).to_bytes(8, "little")
    state = read_torch(safetensors(tmp_path / "a.safetensors", header, data))
    np.testing.assert_array_equal(state["a"], [[0, 1], [2, 3]])
    assert [state[key].item() for key in "bcd"] == [1.0, -2.0, 9]
    assert [state[key].dtype for key in "abcd"] == ["f4", "f4", "f4", "i8"]


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry("F32", [4], 0, 12)},
        {"a": entry("F32", [5], 0, 20)},
        {"a": entry("F32", [1], 14, 18)},
        {"a": entry("F32", [-1], 0, 4)},
        {"a": entry("F32", [1], 8, 4)},
        {"a": entry("F32", [1.0], 0, 4)},
        {"a": entry("F99", [1], 0, 4)},
        {"a": entry("F32", [2**62, 0, 2**62], 0, 0)},
        {"a": entry("F32", [4], 0, 16), "b": entry("F32", [4], 0, 16)},
        {"a": [1]},
        {"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}},
        [1],
        b"{",
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_damaged_safetensors(tmp_path, header):
    with pytest.raises(ModelError, match=r"a\.safetensors cannot be read as weights"):
        read_torch(safetensors(tmp_path / "a.safetensors", header, FOUR))


def test_cut_safetensors(tmp_path):
    path = safetensors(tmp_path / "a.safetensors", {"a": entry("F32", [4], 0, 16)}, FOUR)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"a\.safetensors cannot be read as weights"):
            read_torch(path)
