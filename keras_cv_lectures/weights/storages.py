"""Numbers of a weight file and the tensors that look at them, checked so that none looks beyond its numbers."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from typing import Any

import numpy as np

from keras_cv_lectures.errors import ModelError

MOST_AXES = 16
# Products of longer numbers, which a file may hold, would take hours.
_LARGEST = 2**63


@dataclasses.dataclass(frozen=True)
class StorageType:
    """A kind of number: its name in the file and its code, a NumPy code or "bf16"."""

    name: str
    code: str

    @property
    def dtype(self) -> np.dtype:
        """How the bytes are read; bfloat16 as unsigned integers of two bytes."""
        return np.dtype("u2" if self.code == "bf16" else self.code)


@dataclasses.dataclass
class Storage:
    """A row of `length` numbers; `values` is None until `fill`."""

    key: str
    type: StorageType
    length: int
    values: np.ndarray | None = None
    parent: Storage | None = None
    start: int = 0

    def fill(self, data: bytes, order: str = "little") -> None:
        """Takes the bytes, in the byte order "little" or "big"."""
        self.values = as_numbers(data, self.type, self.length, f"storage {self.key!r}", order)

    def view(self, start: Any, length: Any) -> Storage:
        """The part [start, start + length) of this storage."""
        if type(start) is not int or type(length) is not int or not 0 <= start <= start + length <= self.length:
            raise ModelError(
                f"storage {self.key!r} has {self.length} numbers; a view asks for {reprlib.repr((start, length))}"
            )
        return Storage(self.key, self.type, length, parent=self, start=start)

    def numbers(self) -> np.ndarray:
        """The numbers. Raises ModelError if the file did not hold them."""
        if self.parent is not None:
            return self.parent.numbers()[self.start : self.start + self.length]
        if self.values is None:
            raise ModelError(f"the numbers of storage {self.key!r} are missing")
        return self.values


class Tensor:
    """A strided look at a storage: element (i, j, ...) is number `offset + i * stride[0] + j * stride[1] + ...`.

    Raises:
        ModelError: an element lies outside the storage, or there are more elements than numbers in it (which would
            let a small file ask for any amount of memory).
    """

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any):
        numbers = [offset, *size, *stride] if type(size) is type(stride) is tuple else [None]
        plain = all(type(n) is int and 0 <= n < _LARGEST for n in numbers)
        if not isinstance(storage, Storage) or not plain or len(size) != len(stride) or len(size) > MOST_AXES:
            raise ModelError(f"a tensor is damaged: (size, stride, offset) is {reprlib.repr((size, stride, offset))}")
        self.count = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if self.count and (last >= storage.length or self.count > storage.length):
            raise ModelError(
                f"a tensor of size {size} with stride {stride} and offset {offset} reaches beyond the "
                f"{storage.length} numbers of storage {storage.key!r}"
            )
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self) -> np.ndarray:
        """The tensor as a read-only array, without a copy."""
        numbers = self.storage.numbers()
        if not self.count:
            return np.zeros(self.size, numbers.dtype)
        strides = [step * numbers.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.size, strides, writeable=False)


def as_numbers(data: bytes, kind: StorageType, length: int, what: str, order: str = "little") -> np.ndarray:
    """`length` numbers from their bytes, read-only; float16 and bfloat16 widened to float32.

    Raises:
        ModelError: `data` is longer or shorter than that. `what` is named in the message.
    """
    if len(data) != length * kind.dtype.itemsize:
        raise ModelError(f"{what} has {len(data)} bytes where {length} numbers of {kind.name} were expected")
    values = np.frombuffer(data, kind.dtype.newbyteorder("<" if order == "little" else ">"))
    if kind.code == "bf16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    elif kind.code == "f2":
        values = values.astype(np.float32)
    else:
        values = values.astype(kind.dtype, copy=False)
    values.flags.writeable = False
    return values
