"""Files of the safetensors format: eight bytes of header length, a JSON header, the numbers."""

from __future__ import annotations

import json
import math
import os
from typing import Any, BinaryIO

import numpy as np

from keras_cv_lectures.errors import ModelError
from keras_cv_lectures.weights.storages import MOST_AXES, StorageType, as_numbers

_LARGEST_HEADER = 100 * 10**6
_CODES = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BF16": "bf16",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U64": "u8",
    "U32": "u4",
    "U16": "u2",
    "U8": "u1",
    "BOOL": "?",
}


def read_safetensors(file: BinaryIO) -> dict[str, np.ndarray]:
    """The tensors by name; float16 and bfloat16 become float32.

    Raises:
        ModelError: the header is damaged, or a tensor lies outside the file or does not have the bytes its shape needs.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(_LARGEST_HEADER, size - 8):
        raise ModelError(f"its header claims {length} bytes in a file of {size}")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"its header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise ModelError("its header is no JSON object")
    entries = {name: _entry(name, entry) for name, entry in header.items() if name != "__metadata__"}
    start = 8 + length
    # The format forbids overlaps; they would let a small file ask for any amount of memory.
    last, before = 0, None
    for name, (*_, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin < last:
            raise ModelError(f"tensor {name!r} begins at byte {begin}, inside of {before!r}, which ends at {last}")
        last, before = end, name
    arrays = {}
    for name, (kind, shape, begin, end) in entries.items():
        if end > size - start:
            raise ModelError(f"tensor {name!r} ends at byte {end} of {size - start}")
        file.seek(start + begin)
        arrays[name] = as_numbers(file.read(end - begin), kind, math.prod(shape), f"tensor {name!r}").reshape(shape)
    return arrays


def _entry(name: str, entry: Any) -> tuple[StorageType, list[int], int, int]:
    try:
        kind = StorageType(entry["dtype"], _CODES[entry["dtype"]])
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"tensor {name!r} is described as {str(entry)[:200]}, which is not understood") from error
    plain = type(shape) is list and len(shape) <= MOST_AXES and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
    if not plain or begin > end:
        raise ModelError(f"tensor {name!r} is described as {str(entry)[:200]}, which is not understood")
    return kind, shape, begin, end
