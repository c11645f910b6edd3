"""Graphs of `.tflite` files put one behind the other.

The converter moves what only a loop reads into the loop: written as one graph, a search would project its annotations
once more for every word. What a graph is given as an argument stays outside.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

# Attributes by which an operator names graphs of its own.
_GRAPHS = ("condSubgraphIndex", "bodySubgraphIndex", "thenSubgraphIndex", "elseSubgraphIndex", "initSubgraphIndex")


def in_sequence(
    first: bytes, then: bytes, argument: str, order: Mapping[str, str | None], *, same: Mapping[str, str] | None = None
) -> bytes:
    """The file `then`, whose graphs begin with the file `first` or with each other.

    Weights are stored once, however many graphs compute with them.

    Args:
        first: a file of one signature with one result.
        then: a file with the signatures that `order` names.
        argument: of `then` that is the result of `first`.
        order: signature -> the signature whose results become its arguments of the same names; None for `first`. Its
            other arguments are those of what comes before it. Earlier entries are put together first.
        same: new signature -> the one whose graph it runs.
    """
    from ai_edge_litert.tools.flatbuffer_utils import convert_bytearray_to_object, convert_object_to_bytearray

    model, front = convert_bytearray_to_object(then), convert_bytearray_to_object(first)
    (definition,) = front.signatureDefs
    (result,) = definition.outputs
    result.name = argument.encode()
    main = _moved_in(model, front)
    for key, before in order.items():
        signature = _signature(model, key)
        if before is None:
            graph, given = main, definition
        else:
            given = _signature(model, before)
            graph = model.subgraphs[given.subgraphIndex]
        _put_before(model.subgraphs[signature.subgraphIndex], signature, graph, given)
    for key, other in (same or {}).items():
        twin = copy.copy(_signature(model, other))
        twin.signatureKey = key.encode()
        model.signatureDefs.append(twin)
    return bytes(convert_object_to_bytearray(model))


def _moved_in(model, front):
    """The main graph of `front` with the numbers of `model`, which takes in all that it refers to."""
    codes, buffers, graphs = len(model.operatorCodes), len(model.buffers), len(model.subgraphs)
    model.operatorCodes += front.operatorCodes
    model.buffers += front.buffers
    model.subgraphs += front.subgraphs[1:]
    for graph in front.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = tensor.buffer + buffers if tensor.buffer else 0  # Buffer 0 is the empty one.
        for operator in graph.operators:
            operator.opcodeIndex += codes
            for name in _GRAPHS:
                if hasattr(operator.builtinOptions, name):
                    setattr(operator.builtinOptions, name, getattr(operator.builtinOptions, name) + graphs - 1)
    return front.subgraphs[0]


def _put_before(graph, signature, front, given) -> None:
    """Computes those arguments of `graph` that `front` has results for by `front`."""
    made = {each.name: int(each.tensorIndex) for each in given.outputs}
    entries = {each.name: int(each.tensorIndex) for each in signature.inputs if each.name in made}
    # A result takes the place of the argument; the other tensors come behind those of the graph. One result may have
    # several names, as zeros have that several states begin with.
    places: dict[int, int] = {}
    instead = {place: places.setdefault(made[name], place) for name, place in entries.items()}
    for operator in graph.operators:
        operator.inputs = [instead.get(t, t) for t in map(int, operator.inputs)]
    graph.outputs = [instead.get(t, t) for t in map(int, graph.outputs)]
    for each in signature.outputs:
        each.tensorIndex = instead.get(int(each.tensorIndex), each.tensorIndex)
    for number, tensor in enumerate(front.tensors):
        if number in places:
            graph.tensors[places[number]] = copy.copy(tensor)
        else:
            places[number] = len(graph.tensors)
            graph.tensors.append(copy.copy(tensor))
    operators = [copy.copy(operator) for operator in front.operators]
    for operator in operators:
        for name in ("inputs", "outputs", "intermediates"):
            tensors = getattr(operator, name)
            if tensors is not None:
                setattr(operator, name, [places[t] if t >= 0 else -1 for t in map(int, tensors)])
    graph.operators = [*operators, *graph.operators]
    computed = set(entries.values())
    arguments = [copy.copy(each) for each in given.inputs]
    for each in arguments:
        each.tensorIndex = places[int(each.tensorIndex)]
    graph.inputs = [
        *(each.tensorIndex for each in arguments),
        *(t for t in map(int, graph.inputs) if t not in computed),
    ]
    signature.inputs = [*arguments, *(each for each in signature.inputs if int(each.tensorIndex) not in computed)]


def _signature(model, key: str):
    return next(each for each in model.signatureDefs if each.signatureKey.decode() == key)


__all__ = ["in_sequence"]
