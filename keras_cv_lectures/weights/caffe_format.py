"""Reader of `.caffemodel` files: the names and the blobs of a Caffe network, without Caffe and without protobuf.

A file is one `NetParameter` message in protobuf's wire format: (key, value) pairs, where the key is a varint of
(field number * 8 + wire type). Only the fields below are read, everything else is stepped over. Caffe's `caffe.proto`
numbers them so:

    NetParameter      layer = 100 (LayerParameter), layers = 2 (V1LayerParameter)
    LayerParameter    name = 1, blobs = 7
    V1LayerParameter  layer = 1 (V0, refused), name = 4, blobs = 6
    BlobProto         shape = 7 { dim = 1 }, or num = 1, channels = 2, height = 3, width = 4;
                      data = 5 (float), or double_data = 8
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_cv_lectures.errors import ModelError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LAYER, _V1_LAYER = 100, 2
# (name, blobs) of a layer message, by the field that holds the message.
_LAYER_FIELDS = {_LAYER: (1, 7), _V1_LAYER: (4, 6)}
_MAX_DIMENSIONS = 32  # Caffe's own limit (kMaxBlobAxes)


def read_caffemodel(path: str | os.PathLike) -> dict[str, list[np.ndarray]]:
    """The blobs of every layer that has any, by the layer's name and in the file's order.

    Blobs are float32 in Caffe's layout: (out, in / group, height, width) of a convolution, (in, out / group, height,
    width) of a deconvolution, (out, in) or (1, 1, out, in) of an inner product. They are read-only views of the mapped
    file where that stores them in one piece, so a file of 550 MB costs no memory before its blobs are used.

    Raises:
        ModelError: if the file cannot be read, is cut short, contradicts itself or holds no blob.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ModelError(f"`weights` must be a `.caffemodel` file. {path} cannot be read: {error}") from error
    try:
        layers = _read_net(data)
    except _WireError as error:
        raise ModelError(
            f"{path} is no whole `.caffemodel` file: {error}. Expected a binary NetParameter message, as Caffe writes "
            "it. Compare its size with the published one and fetch it again."
        ) from error
    if not layers:
        raise ModelError(f"{path} holds no layer with weights. Expected a `.caffemodel` file, not a solver state.")
    return layers


class _WireError(Exception):
    """The bytes are not the message that they should be."""


def _read_net(data: memoryview) -> dict[str, list[np.ndarray]]:
    layers = {}
    for field, wire, value in _fields(data):
        if field not in _LAYER_FIELDS:
            continue
        name, blobs = _read_layer(_bytes(field, wire, value), field)
        if not blobs:
            continue
        if name in layers:
            raise _WireError(f"two layers with weights are called {name!r}")
        layers[name] = blobs
    return layers


def _read_layer(data: memoryview, kind: int) -> tuple[str, list[np.ndarray]]:
    name_field, blobs_field = _LAYER_FIELDS[kind]
    name, blobs = "", []
    for field, wire, value in _fields(data):
        if field == name_field:
            try:
                name = str(_bytes(field, wire, value), "utf-8")
            except UnicodeDecodeError as error:
                raise _WireError(f"the name of a layer is no text ({error.reason})") from error
        elif field == blobs_field:
            try:
                blobs.append(_read_blob(_bytes(field, wire, value)))
            except _WireError as error:
                raise _WireError(f"blob {len(blobs)} of layer {name!r}: {error}") from error
        elif kind == _V1_LAYER and field == 1:
            raise _WireError("it is of the first Caffe format (V0); upgrade it with Caffe's upgrade_net_proto_binary")
    return name, blobs


def _read_blob(data: memoryview) -> np.ndarray:
    shape, legacy = None, {}
    pieces = {"<f4": [], "<f8": []}
    for field, wire, value in _fields(data):
        if field == 7:
            shape = _read_shape(_bytes(field, wire, value))
        elif field in (1, 2, 3, 4):
            legacy[field] = _integer(field, wire, value)
        elif field == 5:
            _collect(pieces["<f4"], wire, value, _FIXED32, 4)
        elif field == 8:
            _collect(pieces["<f8"], wire, value, _FIXED64, 8)
    if legacy:
        shape = [legacy.get(field, 0) for field in (1, 2, 3, 4)]
    shape = shape or []
    dtype = "<f8" if pieces["<f8"] else "<f4"
    parts = pieces[dtype]
    # One packed piece, which is what Caffe writes, is used where it lies.
    values = np.frombuffer(parts[0] if parts else b"", dtype)
    if len(shape) > _MAX_DIMENSIONS or any(size < 0 for size in shape) or math.prod(shape) != values.size:
        raise _WireError(f"its shape {tuple(shape[:_MAX_DIMENSIONS])} does not hold its {values.size} numbers")
    if not values.size:  # NumPy refuses a side of 2**62 even where another is 0.
        raise _WireError("it holds no number")
    return values.astype("float32", copy=False).reshape(shape)


def _read_shape(data: memoryview) -> list[int]:
    shape = []
    for field, wire, value in _fields(data):
        if field != 1:
            continue
        if wire == _BYTES:
            position = 0
            while position < len(value):
                size, position = _varint(value, position)
                shape.append(_signed(size))
        else:
            shape.append(_integer(field, wire, value))
    return shape


def _collect(pieces, wire, value, single, width):
    """Adds the bytes of packed numbers, or of one number that is not packed."""
    if wire != single and (wire != _BYTES or len(value) % width):
        raise _WireError("its data is no list of numbers")
    if not pieces:
        pieces.append(value)
        return
    if not isinstance(pieces[0], bytearray):
        pieces[0] = bytearray(pieces[0])
    pieces[0] += value  # grows in place: a list of single numbers would cost a hundred times the memory


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field number, wire type, value): a varint as an unsigned number, all others as their bytes."""
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        field, wire = key >> 3, key & 7
        if field == 0:
            raise _WireError("a field has the number 0")
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield field, wire, value
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise _WireError(f"unknown wire type {wire}")
        if size > end - position:
            raise _WireError(f"field {field} needs {size} bytes and {end - position} are left")
        yield field, wire, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; the highest bit of a byte says that another follows."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise _WireError("it ends inside a number")
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & (2**64 - 1), position
    raise _WireError("a number is longer than ten bytes")


def _bytes(field, wire, value) -> memoryview:
    if wire != _BYTES:
        raise _WireError(f"field {field} is a number, not a message")
    return value


def _integer(field, wire, value) -> int:
    if wire != _VARINT:
        raise _WireError(f"field {field} is no whole number")
    return _signed(value)


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


__all__ = ["read_caffemodel"]
