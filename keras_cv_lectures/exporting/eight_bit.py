"""8-bit operators without a fast kernel -> 8-bit operators that have one.

TensorFlow Lite computes most 8-bit operators with XNNPACK, on all threads. For hard swish, comparisons and casts of
truth values it falls back to one thread and one number at a time: on a CPU, hard swish took two fifths of the time of
MobileNetV3, and the masks of SegNet's pooling a quarter of it. What replaces them uses that an 8-bit number stops at
the ends of its range: a result whose range is one step of its arguments is a comparison.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Differences of scales that XNNPACK's additions accept: 2^-10 up to 2^8, here with some room.
_SMALLEST, _LARGEST = 2.0**-9, 2.0**7


class _Range(NamedTuple):
    """What the numbers -128 .. 127 stand for: scale * (number - zero)."""

    scale: float
    zero: int


# 0 and 1 are both exact, and all beyond them becomes one of them.
_UNIT = _Range(1 / 255, -128)


def with_fast_kernels(content: bytes) -> bytes:
    """The same file with hard swish, masks and argmax in operators that are fast in 8 bits.

    Masks and argmax give the same numbers; 0 and 1 are exact in masks afterwards, which the converter does not see to.
    Hard swish differs by a step of 1/256 of its range at most.

    Args:
        content: a `.tflite` file in 8 bits.
    """
    from ai_edge_litert.tools.flatbuffer_utils import convert_bytearray_to_object, convert_object_to_bytearray

    model = convert_bytearray_to_object(content)
    graph = _Graph(model)
    graph.replace_hard_swish()
    graph.replace_masks()
    graph.replace_argmax()
    graph.drop_unused()
    return bytes(convert_object_to_bytearray(model))


class _Graph:
    """The main graph of a `.tflite` file, to be changed in place. Tensors are numbers, operators are objects."""

    def __init__(self, model):
        from ai_edge_litert import schema_py_generated as schema

        self.schema, self.model, self.main = schema, model, model.subgraphs[0]
        names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        self._kinds = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
        self._users: dict[int, list] = {}
        self._makers: dict[int, object] = {}
        for operator in self.main.operators:
            for tensor in operator.inputs:
                self._users.setdefault(int(tensor), []).append(operator)
            self._makers.update(dict.fromkeys(map(int, operator.outputs), operator))
        self._masks: dict[int, int] = {}
        self._steps: dict[tuple[int, int], int] = {}

    def replace_hard_swish(self) -> None:
        """x * relu6(x + 3) / 6, the sum in the range 0 .. 6."""
        for operator in list(self.main.operators):
            if self._kind(operator) != "HARD_SWISH":
                continue
            x, y = int(operator.inputs[0]), int(operator.outputs[0])
            given = self._range(x)
            if given is None or self._range(y) is None or given.scale * 255 / 6 > _LARGEST:
                continue
            if given.scale * 255 / 6 < _SMALLEST:  # |x| < 0.012, where hard swish is x / 2 to less than a step
                new = [self._binary("MUL", x, self._constant(0.5, like=x), y)]
            else:
                sum_ = self._tensor(x, _Range(6 / 255, -128))
                sixth = self._tensor(x, _Range(given.scale / 6, given.zero))  # the same numbers
                new = [
                    self._binary("ADD", x, self._constant(3.0, like=x), sum_),
                    self._binary("MUL", x, self._constant(1 / 6, like=x), sixth),
                    self._binary("MUL", sixth, sum_, y),
                ]
            self._put(operator, new)

    def replace_masks(self) -> None:
        """Truth values that are cast to numbers are computed as numbers 0 and 1 from the start."""
        whole: dict[int, int] = {}  # tensor of whole numbers -> the largest that it can hold
        for operator in list(self.main.operators):
            kind, result = self._kind(operator), int(operator.outputs[0])
            if kind == "QUANTIZE":
                cast = self._makers.get(int(operator.inputs[0]))
                if cast is None or self._kind(cast) != "CAST" or not self._takes_any_range(result):
                    continue
                truth = int(cast.inputs[0])
                if not self._is_mask(truth, whole):
                    continue
                new: list = []
                mask = self._mask(truth, whole, new)
                self._put(operator, new)
                self._use_instead(result, mask)
                whole[mask] = 1
            elif kind == "ADD" and all(int(t) in whole for t in operator.inputs) and self._takes_any_range(result):
                if sum(whole[int(t)] for t in operator.inputs) > 255:
                    continue
                whole[result] = sum(whole[int(t)] for t in operator.inputs)
                self._set_range(result, _Range(1 / (255 // whole[result]), -128))  # every whole number is exact

    def replace_argmax(self) -> None:
        """Argmax of the float32 numbers that are there anyway, which is twice as fast."""
        floats = {}
        for operator in self.main.operators:
            if self._kind(operator) == "DEQUANTIZE":
                floats[int(operator.inputs[0])] = int(operator.outputs[0])
            elif self._kind(operator) == "ARG_MAX" and int(operator.inputs[0]) in floats:
                operator.inputs = [floats[int(operator.inputs[0])], *operator.inputs[1:]]

    def drop_unused(self) -> None:
        kept, needed = [], set(map(int, self.main.outputs))
        for operator in reversed(self.main.operators):
            if needed.intersection(map(int, operator.outputs)):
                kept.append(operator)
                needed.update(map(int, operator.inputs))
        self.main.operators = kept[::-1]

    def _is_mask(self, truth: int, whole: dict[int, int]) -> bool:
        """Whether `_mask` can compute these truth values."""
        maker = self._makers.get(truth)
        kind = maker and self._kind(maker)
        if kind == "LOGICAL_AND":
            return all(self._is_mask(int(t), whole) for t in maker.inputs)
        if kind == "LESS":
            left, right = (self._range(int(t)) for t in maker.inputs)
            return left is not None and left == right and self._same_shape(*maker.inputs)
        return kind == "EQUAL" and int(maker.inputs[0]) in whole and self._number(int(maker.inputs[1])) is not None

    def _mask(self, truth: int, whole: dict[int, int], new: list) -> int:
        """Tensor of the range 0 .. 1 with these truth values; what computes it is appended to `new`."""
        if truth in self._masks:
            return self._masks[truth]
        maker = self._makers[truth]
        a, b = map(int, maker.inputs)
        kind = self._kind(maker)
        if kind == "LOGICAL_AND":
            mask = self._computed("MUL", self._mask(a, whole, new), self._mask(b, whole, new), truth, _UNIT, new)
        elif kind == "LESS":
            step = self._range(a).scale
            # 0 or more than a step; in the range 0 .. one step, its largest number.
            less = self._computed("SUB", b, a, truth, _Range(step / 255, -128), new)
            mask = self._computed("MUL", less, self._constant(1 / step, like=less), truth, _UNIT, new)
        else:
            value = self._number(b)
            if value == 0:
                reached = self._reaches(a, 1, new)
                mask = self._computed("SUB", self._constant(1.0, like=reached), reached, truth, _UNIT, new)
            elif value == whole[a]:
                mask = self._reaches(a, value, new)
            else:
                both = self._reaches(a, value, new), self._reaches(a, value + 1, new)
                mask = self._computed("SUB", *both, truth, _UNIT, new)
        self._masks[truth] = mask
        return mask

    def _reaches(self, x: int, value: int, new: list) -> int:
        """1 where the whole numbers `x` are at least `value`, else 0."""
        key = x, value
        if key not in self._steps:
            self._steps[key] = self._computed("SUB", x, self._constant(value - 1, like=x), x, _UNIT, new)
        return self._steps[key]

    def _takes_any_range(self, tensor: int) -> bool:
        """Whether all that reads a tensor may be given another range."""
        for user in self._users.get(tensor, ()):
            kind = self._kind(user)
            if kind == "EQUAL":
                if int(user.inputs[0]) != tensor or self._number(int(user.inputs[1])) is None:
                    return False
                casts = self._users.get(int(user.outputs[0]), ())
                ends = [end for cast in casts for end in self._users.get(int(cast.outputs[0]), ())]
                if {*map(self._kind, casts)} != {"CAST"} or {*map(self._kind, ends)} != {"QUANTIZE"}:
                    return False
                if not all(self._takes_any_range(int(end.outputs[0])) for end in ends):
                    return False
            elif kind not in ("ADD", "MUL"):
                return False
        return tensor not in map(int, self.main.outputs)

    def _number(self, tensor: int) -> int | None:
        """The whole number 0 .. 127 that a constant stands for."""
        data, range_ = self.model.buffers[self.main.tensors[tensor].buffer].data, self._range(tensor)
        if data is None or range_ is None or len(data) != 1:
            return None
        value = range_.scale * (int(np.asarray(data, np.uint8).view(np.int8)[0]) - range_.zero)
        return round(value) if -0.5 < value < 127 and abs(value - round(value)) < 0.25 else None

    def _computed(self, kind: str, a: int, b: int, like: int, range_: _Range, new: list) -> int:
        result = self._tensor(like, range_)
        new.append(self._binary(kind, a, b, result))
        return result

    def _binary(self, kind: str, a: int, b: int, result: int):
        schema, operator = self.schema, self.schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self._code(kind), [a, b], [result]
        name = f"{kind.title()}Options"
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        operator.builtinOptions = getattr(schema, f"{name}T")()
        self._makers[result] = operator
        return operator

    def _code(self, kind: str) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if self._kinds[index] == kind and code.version == 2:  # the version that has 8-bit numbers
                return index
        code = self.schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.schema.BuiltinOperator, kind)
        code.version = 2
        self.model.operatorCodes.append(code)
        self._kinds.append(kind)
        return len(self._kinds) - 1

    def _tensor(self, like: int, range_: _Range, data: np.ndarray | None = None) -> int:
        """A new 8-bit tensor with the shape of another, or a constant."""
        tensor, source = self.schema.TensorT(), self.main.tensors[like]
        tensor.type = self.schema.TensorType.INT8
        tensor.shape, tensor.shapeSignature = source.shape, source.shapeSignature
        tensor.name, tensor.buffer = f"eight_bit_{len(self.main.tensors)}".encode(), 0
        if data is not None:
            tensor.shape, tensor.shapeSignature = np.array([], np.int32), None
            buffer = self.schema.BufferT()
            buffer.data = data.view(np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.main.tensors.append(tensor)
        self._set_range(len(self.main.tensors) - 1, range_)
        return len(self.main.tensors) - 1

    def _constant(self, value: float, *, like: int) -> int:
        """A scalar; the largest 8-bit number stands for it."""
        return self._tensor(like, _Range((value or 1.0) / 127, 0), np.array([127 if value else 0], np.int8))

    def _range(self, tensor: int) -> _Range | None:
        """The range of an 8-bit tensor; None for others."""
        found = self.main.tensors[tensor]
        if found.type != self.schema.TensorType.INT8 or found.quantization is None:
            return None
        scales = found.quantization.scale
        if scales is None or len(scales) != 1:
            return None
        return _Range(float(scales[0]), int(found.quantization.zeroPoint[0]))

    def _set_range(self, tensor: int, range_: _Range) -> None:
        quantization = self.schema.QuantizationParametersT()
        quantization.scale = np.array([range_.scale], np.float32)
        quantization.zeroPoint = np.array([range_.zero], np.int64)
        self.main.tensors[tensor].quantization = quantization

    def _same_shape(self, a: int, b: int) -> bool:
        return list(self.main.tensors[a].shape) == list(self.main.tensors[b].shape)

    def _kind(self, operator) -> str:
        return self._kinds[operator.opcodeIndex]

    def _put(self, operator, new: list) -> None:
        """Puts operators in the place of one."""
        place = next(i for i, other in enumerate(self.main.operators) if other is operator)
        self.main.operators[place : place + 1] = new

    def _use_instead(self, old: int, new: int) -> None:
        for user in self._users.pop(old, ()):
            user.inputs = [new if int(tensor) == old else int(tensor) for tensor in user.inputs]
            self._users.setdefault(new, []).append(user)


__all__ = ["with_fast_kernels"]
