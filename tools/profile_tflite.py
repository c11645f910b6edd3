"""Where the time of a `.tflite` file goes: the file is cut after more and more of its operators, and each part timed.

    python tools/profile_tflite.py FILE [--parts 20] [--first 0] [--last N] [--rounds 7] [--threads 2]

The interpreter that pip installs says nothing about single operators, and XNNPACK runs many as one. A part's time is
the median over the rounds of its difference to the part before; parts take turns, so that a slow moment meets all. Each
holds its own memory meanwhile: for a large network take few parts first, then operators `--first` to `--last` in more.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools.flatbuffer_utils import convert_bytearray_to_object, convert_object_to_bytearray
from turns import milliseconds

from keras_cv_lectures.exporting.quantize import Operator, main_operators


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--parts", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, metavar="OPERATOR", help="what is before it is one part more")
    parser.add_argument("--last", type=int, metavar="OPERATOR", help="what comes after it is left out")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    content = arguments.file.read_bytes()
    operators = main_operators(content)
    ends = np.linspace(arguments.first, arguments.last or len(operators), arguments.parts + 1).round().astype(int)
    ends = sorted(set(ends.tolist()) - {0})
    runs = {end: _interpreter(cut(content, operators, end), arguments.threads).invoke for end in ends}
    times = milliseconds(runs, arguments.rounds)
    start, before = 0, [0.0] * arguments.rounds
    for end, now in times.items():
        part = statistics.median(b - a for a, b in zip(before, now, strict=True))
        kinds = Counter(operator.kind for operator in operators[start:end]).most_common(4)
        told = ", ".join(f"{count} {kind}" for kind, count in kinds)
        print(f"{start:5d}-{end:<5d} {part:8.2f} ms  sum {statistics.median(now):8.2f}  {told}")
        start, before = end, now


def cut(content: bytes, operators: list[Operator], end: int) -> bytes:
    """The file with the first `end` operators; it gives what none of them reads."""
    model = convert_bytearray_to_object(content)
    graph = model.subgraphs[0]
    if end < len(operators):
        read = {tensor for operator in operators[:end] for tensor in operator.inputs}
        graph.operators = graph.operators[:end]
        graph.outputs = [t for operator in operators[:end] for t in operator.outputs if t not in read]
        model.signatureDefs = []
    return bytes(convert_object_to_bytearray(model))


def _interpreter(content: bytes, threads: int) -> Interpreter:
    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        random = np.random.default_rng(0).integers(0, 256, detail["shape"])
        interpreter.set_tensor(detail["index"], random.astype(detail["dtype"]))
    return interpreter


if __name__ == "__main__":
    main()
