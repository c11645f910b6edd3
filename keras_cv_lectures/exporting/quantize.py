"""Measured `.tflite` file -> file that computes in 8 bits.

An 8-bit number is one of 256 steps between the smallest and the largest value. That suffices for feature maps. It does
not for coordinates, where a step is several pixels, nor for scores, where the order counts: of a detector the networks
become 8-bit, but not what turns their answers into boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from keras_cv_lectures.exporting.eight_bit import with_fast_kernels

# In 8 bits a probability would be a multiple of 1/256.
_PROBABILITIES = ("SOFTMAX", "LOGISTIC")
# Where the time goes.
_LAYERS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
# What stands between two layers. Nothing that picks or sorts is among them, so coordinates never pass.
_BETWEEN = frozenset(
    {
        "ADD",
        "AVERAGE_POOL_2D",
        "CONCATENATION",
        "DEPTH_TO_SPACE",
        "HARD_SWISH",
        "LOGISTIC",
        "MAX_POOL_2D",
        "MAXIMUM",
        "MEAN",
        "MINIMUM",
        "MUL",
        "PAD",
        "PADV2",
        "RELU",
        "RELU6",
        "RELU_0_TO_1",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "SUB",
        "TRANSPOSE",
    }
)


class Operator(NamedTuple):
    """One operator of a graph; tensors are numbers. It is named after its first output."""

    kind: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def quantize(content: bytes) -> bytes:
    """Weights and activations in 8 bits, all but probabilities.

    Args:
        content: a `.tflite` file with the ranges that a converter measured.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    return with_fast_kernels(mlir_quantize(content, denylisted_ops=list(_PROBABILITIES)))


def quantize_networks(content: bytes) -> bytes:
    """`quantize` of a detector: its networks in 8 bits, the rest in float32.

    In 8 bits compute the layers but for the last ones of each network (they give logits, deltas and masks; they are
    small, and the steps of their results would be seen), and what lies between two layers: additions, pooling,
    enlarging. All else stays in float32: anchors, decoding, the samples of RoIAlign, softmax and sigmoid, non-maximum
    suppression.

    Args:
        content: a `.tflite` file with ranges of `values_in_eight_bits` alone. The converter spreads 8-bit numbers from
            the operators that it quantizes to their neighbours, past its lists of what to leave alone; without measured
            ranges it cannot.
    """
    from tensorflow.lite.python.convert import mlir_quantize

    found = main_operators(content)
    eight_bit = in_eight_bits(found)
    kinds = {operator.kind for operator in found} - {found[index].kind for index in eight_bit}
    names = [op.name for index, op in enumerate(found) if index not in eight_bit and op.kind not in kinds]
    return with_fast_kernels(mlir_quantize(content, denylisted_ops=sorted(kinds), denylisted_nodes=names))


def values_in_eight_bits(content: bytes) -> set[int]:
    """Numbers of the values that go into or come out of a detector's operators that compute in 8 bits."""
    found = main_operators(content)
    return {tensor for index in in_eight_bits(found) for tensor in (*found[index].inputs, *found[index].outputs)}


def in_eight_bits(found: list[Operator]) -> set[int]:
    """Which operators of a detector, by their place in the list, compute in 8 bits."""
    users: dict[int, list[int]] = {}
    makers: dict[int, int] = {}
    for index, operator in enumerate(found):
        for tensor in operator.inputs:
            users.setdefault(tensor, []).append(index)
        makers.update(dict.fromkeys(operator.outputs, index))

    def after(index: int) -> set[int]:
        return {user for tensor in found[index].outputs for user in users.get(tensor, ())}

    def before(index: int) -> set[int]:
        return {makers[tensor] for tensor in found[index].inputs if tensor in makers}

    layers = {index for index, operator in enumerate(found) if operator.kind in _LAYERS}
    between = {index for index, operator in enumerate(found) if operator.kind in _BETWEEN}
    lead_on, follow = _reached(layers, between, before), _reached(layers, between, after)
    eight_bit = (between & lead_on & follow) | {index for index in layers if after(index) & lead_on}
    for index, operator in enumerate(found):  # In the order of computation, so what comes before is settled.
        # Maps laid out for RoIAlign stay as they are. Joining them would give all one scale, the coarsest.
        if operator.kind == "RESHAPE" and before(index) and before(index) <= eight_bit:
            eight_bit.add(index)
    return eight_bit


def _reached(layers: set[int], between: set[int], step: Callable[[int], Iterable[int]]) -> set[int]:
    """The layers, and what is reached from them step by step over nothing but what lies between layers."""
    seen, ends = set(layers), list(layers)
    while ends:
        new = between.intersection(step(ends.pop())) - seen
        seen |= new
        ends += new
    return seen


def main_operators(content: bytes) -> list[Operator]:
    """The operators of a `.tflite` file's main graph in the order of computation."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    codes = [kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes]
    graph, found = model.Subgraphs(0), []
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        inputs = tuple(t for j in range(operator.InputsLength()) if (t := operator.Inputs(j)) >= 0)
        outputs = tuple(operator.Outputs(j) for j in range(operator.OutputsLength()))
        name = graph.Tensors(outputs[0]).Name().decode() if outputs else ""
        found.append(Operator(codes[operator.OpcodeIndex()], name, inputs, outputs))
    return found


__all__ = ["Operator", "in_eight_bits", "main_operators", "quantize", "quantize_networks", "values_in_eight_bits"]
