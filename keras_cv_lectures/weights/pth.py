"""Weight files of PyTorch, read without PyTorch and without running anything they hold: `.pth`, `.pt`, `.safetensors`.

`.pth` files come in two forms. Since PyTorch 1.6 they are zip archives: `NAME/data.pkl`, a pickle of tensors without
their numbers, and `NAME/data/KEY`, the numbers. Before, they were five pickles in a row and then the numbers, each
storage behind its length; several files that torchvision still publishes are of this kind.
"""

from __future__ import annotations

import io
import mmap
import os
import reprlib
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.weights.pickle_machine import read_pickle
from keras_cv_lectures.weights.safetensors import read_safetensors
from keras_cv_lectures.weights.storages import MOST_AXES, Storage, StorageType, Tensor

TORCH_SUFFIXES = (".pth", ".pt", ".safetensors")
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# Where training scripts put the weights beside the epoch and the optimizer's state.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_LARGEST_PICKLE = 64 * 2**20
# What the standard library and NumPy raise over bytes that make no sense; ModelError is a ValueError.
_DAMAGE = (ValueError, OSError, OverflowError, EOFError, MemoryError, RuntimeError, struct.error, zipfile.BadZipFile)


def read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name, in the file's order; float16 and bfloat16 become float32.

    Args:
        path: a `.pth` or `.pt` file of either form, or a `.safetensors` file. A dict that holds the state dict
            under "state_dict", "model_state_dict" or "model" is opened.

    Returns:
        Read-only arrays; tensors that share their numbers in the file share them here.

    Raises:
        ModelError: the file is absent or damaged, names anything but tensors, or a tensor reaches beyond its numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"`weights` must be an existing file. Received: weights={str(path)!r}")
    try:
        with path.open("rb") as file:
            if path.suffix == ".safetensors":
                return read_safetensors(file)
            return _state(_read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file))
    except _DAMAGE as error:
        raise ModelError(f"`weights` file {path} cannot be read as weights of PyTorch: {_told(error)}") from error


def _told(error: Exception) -> str:
    return str(error)[:500] or type(error).__name__


def _state(value: Any) -> dict[str, np.ndarray]:
    """The state dict in what a file held, as arrays."""
    for _ in _WRAPPERS:
        if not isinstance(value, dict):
            break
        value = next((value[key] for key in _WRAPPERS if isinstance(value.get(key), dict)), value)
    tensors = {}
    if isinstance(value, dict):
        tensors = {key: tensor for key, tensor in value.items() if isinstance(tensor, Tensor)}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        raise ModelError("it holds no state dict: expected tensors by name, as in torch.save(model.state_dict(), PATH)")
    return {key: tensor.array() for key, tensor in tensors.items()}


def _read_zip(file: BinaryIO) -> Any:
    file.seek(0)
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        # PyTorch never compresses and never lets entries overlap: whatever does could grow without bound.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ModelError("its zip archive is compressed, which PyTorch never does")
        if sum(entry.file_size for entry in entries.values()) > size:
            raise ModelError("its zip archive claims more bytes than the file has")
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1 or entries[pickles[0]].file_size > _LARGEST_PICKLE:
            raise ModelError("its zip archive has no data.pkl: it is no file of torch.save")
        root = pickles[0].removesuffix("data.pkl")
        order = archive.read(f"{root}byteorder").strip() if f"{root}byteorder" in entries else b"little"

        def fill(storage: Storage) -> None:
            name = f"{root}data/{storage.key}"
            if name not in entries:
                raise ModelError(f"the numbers of storage {storage.key!r} are missing")
            storage.fill(archive.read(name), "big" if order == b"big" else "little")

        value, storages = _read_tensors(io.BytesIO(archive.read(pickles[0])))
        for storage in storages.values():
            fill(storage)
    return value


def _read_legacy(file: BinaryIO) -> Any:
    file.seek(0)
    if file.read(4) == b"PK\x03\x04":
        raise ModelError("its zip archive has no end: the file is cut off. Fetch it again")
    try:
        # Reading a map cannot allocate more than the file has, whatever length an instruction claims.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise ModelError("it is empty") from error
    with data:
        try:
            magic = read_pickle(data)
        except ModelError as error:
            raise ModelError(f"it is neither a zip archive of torch.save nor its older form ({error})") from error
        if magic != _MAGIC:
            raise ModelError("it is neither a zip archive of torch.save nor its older form")
        protocol, system = read_pickle(data), read_pickle(data)
        if protocol != _PROTOCOL or not isinstance(system, dict):
            raise ModelError(f"its protocol is {reprlib.repr(protocol)}; {_PROTOCOL} was expected")
        order = "little" if system.get("little_endian", True) else "big"
        value, storages = _read_tensors(data)
        keys = read_pickle(data)
        if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
            raise ModelError("its list of storages is damaged")
        for key in keys:
            storage = storages[key]
            length = int.from_bytes(data.read(8), order, signed=True)
            if length != storage.length:
                raise ModelError(f"storage {key!r} has {length} numbers where its tensors say {storage.length}")
            storage.fill(data.read(length * storage.type.dtype.itemsize), order)
    return value


def _read_tensors(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """What the main pickle holds, its tensors still without numbers, and the storages that they ask for."""
    storages: dict[str, Storage] = {}

    def persistent(identifier: Any) -> Storage:
        # ("storage", type, key, device, length), in the older form with (key, offset, length) of a view or None.
        if type(identifier) is not tuple or not 5 <= len(identifier) <= 6:
            raise ModelError(f"{reprlib.repr(identifier)} is no storage")
        tag, kind, key, _, length, *view = identifier
        if tag != "storage" or not isinstance(kind, StorageType) or not isinstance(key, str):
            raise ModelError(f"{reprlib.repr(identifier)} is no storage")
        if type(length) is not int or length < 0:
            raise ModelError(f"storage {key!r} has the length {reprlib.repr(length)}")
        storage = storages.setdefault(key, Storage(key, kind, length))
        if storage.type != kind or storage.length != length:
            raise ModelError(f"storage {key!r} is described in two ways")
        return storage.view(*view[0][1:]) if view and view[0] is not None else storage

    value = read_pickle(file, _KNOWN, persistent)
    return value, storages


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """`torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`; what follows is about gradients."""
    return Tensor(storage, offset, size, stride)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _ordered_dict(pairs: Any = None) -> dict:
    if pairs is None:
        return {}
    if type(pairs) is not list or not all(isinstance(key, str | int) for key, _ in pairs):
        raise ModelError("a dict is made of something else than pairs of a name or a number and a value")
    made = dict(pairs)
    # A list can be named again for two bytes: copied each time, it would take any amount of memory.
    pairs.clear()
    return made


def _size(numbers: Any = ()) -> tuple:
    if not isinstance(numbers, list | tuple) or len(numbers) > MOST_AXES:
        raise ModelError(f"a size is {reprlib.repr(numbers)}; expected at most {MOST_AXES} numbers")
    return tuple(numbers)


_DTYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_FUNCTIONS: dict[str, Callable] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "torch.nn.parameter Parameter": _parameter,
    "torch Size": _size,
}
_KNOWN = _FUNCTIONS | {
    f"{module} {name}": StorageType(name, code) for module in ("torch", "torch.cuda") for name, code in _DTYPES.items()
}
