"""Float32 `.tflite` file -> the same with the ranges of its values on pictures, which 8-bit numbers are made for."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np


def with_measured_ranges(
    content: bytes, examples: Iterable[np.ndarray], wanted: Collection[int] | None = None
) -> bytes:
    """The same file with the smallest and the largest number of each value, over all examples.

    The converter's own calibration looks at a value when an operator that works in place has overwritten it: what goes
    into an addition then seems as large as the sum, and gets steps as coarse. A reversal of channels, which moves 8-bit
    numbers and does not rescale them, even gave wrong numbers. Here every value that is measured is an output of the
    graph, and so has memory of its own, and fast kernels do not keep it to themselves.

    Args:
        content: a `.tflite` file with ranges by the converter, of one picture at least; it says which values have one.
            In graphs that a loop or a condition calls none is left, so that they compute in float32.
        examples: pictures (1, height, width, channels) uint8.
        wanted: numbers of the values of the main graph that keep a range; None for all that have one. The fewer, the
            less memory.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.tools.flatbuffer_utils import convert_bytearray_to_object, convert_object_to_bytearray

    model = convert_bytearray_to_object(content)
    main = model.subgraphs[0]
    for graph in model.subgraphs:
        for number, tensor in enumerate(graph.tensors):
            if graph is not main or (wanted is not None and number not in wanted):
                tensor.quantization = None
    ranges = {i: (np.inf, -np.inf) for i, tensor in enumerate(main.tensors) if _has_range(tensor)}
    outputs = main.outputs
    main.outputs = np.union1d(outputs, np.fromiter(ranges, np.int32)).astype(np.int32)
    interpreter = Interpreter(model_content=bytes(convert_object_to_bytearray(model)), num_threads=os.cpu_count())
    main.outputs = outputs
    place, shape = interpreter.get_input_details()[0]["index"], None
    for example in examples:
        if example.shape != shape:
            shape = example.shape
            interpreter.resize_tensor_input(place, shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(place, example)
        interpreter.invoke()
        for i, (smallest, largest) in ranges.items():
            values = interpreter.tensor(i)()
            if values.size:
                ranges[i] = min(smallest, values.min()), max(largest, values.max())
            del values  # a view of memory that the next picture's size may move
    for i, (smallest, largest) in ranges.items():
        if smallest <= largest:
            main.tensors[i].quantization.min = np.array([smallest], np.float32)
            main.tensors[i].quantization.max = np.array([largest], np.float32)
    return bytes(convert_object_to_bytearray(model))


def _has_range(tensor: Any) -> bool:
    return tensor.quantization is not None and tensor.quantization.min is not None


__all__ = ["with_measured_ranges"]
