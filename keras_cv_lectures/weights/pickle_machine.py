"""Pickles read by a small machine that builds dicts, lists, tuples, strings and numbers, and calls nothing else.

Python's own unpickler imports and calls whatever a file names. This one knows only what the caller hands in.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from keras_cv_lectures.errors import ModelError


def read_pickle(
    file: BinaryIO, known: Mapping[str, Any] | None = None, persistent: Callable[[Any], Any] | None = None
) -> Any:
    """The object pickled at the file's position; the position is then behind it.

    Args:
        file: open for reading bytes.
        known: what a name in the pickle means, as "module name": a function to be called with the pickled arguments,
            or any other value. State that a pickle attaches to what was built is dropped.
        persistent: what stands for a persistent identifier.

    Raises:
        ModelError: the pickle names something that is not in `known` (the message says what), uses an instruction
            that data never needs, or is damaged.
    """
    machine = _Machine(known or {}, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except ModelError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, RecursionError) as error:
        raise ModelError(f"the pickle is damaged: {error}") from error
    raise ModelError("the pickle is damaged: it has no end")


class _Machine:
    """The stack and the memo of the pickle protocols 0 to 5."""

    def __init__(self, known, persistent):
        self.known, self.persistent = known, persistent
        self.stack, self.marked, self.memo = [], [], {}

    def pop(self):
        return self.stack.pop()

    def step(self, name, argument):
        if name in _PUSHES_ARGUMENT:
            self.stack.append(argument)
        elif name in _PUSHES:
            self.stack.append(_PUSHES[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(self.stack) < count:
                raise IndexError("the stack is too short")
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name in _GETS:
            self.stack.append(self.memo[argument])
        elif name in _PUTS:
            self.memo[argument] = self.stack[-1]
        elif name not in ("PROTO", "FRAME"):
            instruction = getattr(self, f"_{name.lower()}", None)
            if instruction is None:
                raise ModelError(f"the pickle uses the instruction {name}, which no file of plain weights needs")
            instruction(argument)

    def _memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def _mark(self, _):
        self.marked.append(self.stack)
        self.stack = []

    def _to_mark(self):
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _pop(self, _):
        self.pop()

    def _tuple(self, _):
        items = self._to_mark()
        self.stack.append(tuple(items))

    def _list(self, _):
        items = self._to_mark()
        self.stack.append(items)

    def _dict(self, _):
        items = self._to_mark()
        self.stack.append({})
        self._set(items)

    def _append(self, _):
        item = self.pop()
        self._extend([item])

    def _appends(self, _):
        self._extend(self._to_mark())

    def _extend(self, items):
        if type(self.stack[-1]) is not list:
            raise TypeError("items for what is no list")
        self.stack[-1].extend(items)

    def _setitem(self, _):
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def _setitems(self, _):
        self._set(self._to_mark())

    def _set(self, items):
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise TypeError("entries for what is no dict")
        # Only plain keys: the hash of a deeply nested tuple would overflow the C stack.
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | float | None):
                raise TypeError(f"a key of type {type(key).__name__}")
            target[key] = value

    def _global(self, argument):
        self._name(argument)

    def _stack_global(self, _):
        name, module = self.pop(), self.pop()
        # Nothing else is made a text: of lists that hold each other it may be endless.
        if type(name) is not str or type(module) is not str:
            raise TypeError("a name that is no text")
        self._name(f"{module} {name}")

    def _name(self, name):
        if name not in self.known:
            shown = name[:100].replace(" ", ".")
            raise ModelError(
                f"the file names {shown!r}, which is not plain weights, so it is not read: nothing in "
                "a weight file is run. Save the tensors alone: torch.save(model.state_dict(), PATH)"
            )
        self.stack.append(self.known[name])

    def _reduce(self, _):
        arguments, function = self.pop(), self.pop()
        if not callable(function) or type(arguments) is not tuple:
            raise TypeError("a call of what is no function")
        # A tuple can be named again for two bytes: unpacked each time, a long one would take hours.
        if len(arguments) > _MOST_ARGUMENTS:
            raise TypeError(f"a call with {len(arguments)} arguments")
        self.stack.append(function(*arguments))

    def _build(self, _):
        self.pop()

    def _binpersid(self, _):
        if self.persistent is None:
            raise TypeError("a persistent identifier")
        self.stack.append(self.persistent(self.pop()))


# `torch._utils._rebuild_tensor_v2` has seven.
_MOST_ARGUMENTS = 16
_PUSHES_ARGUMENT = frozenset(
    (
        # Without LONG4, for numbers of more than 255 bytes: as a key, a long one is read through at every use.
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
        *("FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
)
_PUSHES = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
