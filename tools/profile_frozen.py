"""Where the time of our frozen float32 path goes: kinds of operations and the longest, beside a matrix product.

    python tools/profile_frozen.py [CASE] [--rounds 5] [--threads 2] [--longest 10]

Cases are those of `benchmark_peers.py`. Operations run one after the other here and are as TensorFlow left them when it
had folded and fused; a time is the median over the rounds. The rate counts what convolutions and products of the whole
network calculate, and the matrix product has the same number of threads.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from benchmark_peers import CASES, our_model
from turns import milliseconds

from keras_cv_lectures.benchmarking.contender import matrix_product
from keras_cv_lectures.serving import freeze, gflops

_SIDE = 3072  # Of the square matrices: 58 GFLOP.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=CASES, metavar="CASE", default="unet", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--longest", type=int, default=10, help="operations to list")
    arguments = parser.parse_args()
    case = CASES[arguments.case]
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    model = our_model(case, logits=not case.detector)
    picture = np.random.default_rng(0).integers(0, 256, (1, *case.size, 3)).astype("float32")
    run = traced(freeze(model, picture.shape), picture, arguments.threads)
    runs: list[dict[str, tuple[str, float]]] = []
    # In turn, because a shared machine's rate changes by the minute.
    contenders = {"network": lambda: runs.append(run()), "product": matrix_product(_SIDE)}
    product = statistics.median(milliseconds(contenders, arguments.rounds)["product"])
    runs = runs[-arguments.rounds :]
    kinds = {name: kind for name, (kind, _) in runs[-1].items()}
    times = {name: statistics.median(found[name][1] for found in runs) for name in kinds}

    whole, rate = sum(times.values()), 2e-6 * _SIDE**3 / product
    billions = gflops(model, case.size)
    print(f"{arguments.case}: operations {whole:.0f} ms, {billions:.1f} GFLOP, {1e3 * billions / whole:.0f} GFLOP/s")
    print(f"matrix product {rate:.0f} GFLOP/s: the network reaches {1e3 * billions / whole / rate:.0%} of it")
    counts, sums = Counter(kinds.values()), Counter()
    for name, kind in kinds.items():
        sums[kind] += times[name]
    for kind, time in sums.most_common(arguments.longest):
        print(f"{time:9.1f} ms  {time / whole:6.1%}  {counts[kind]:4d} {kind}")
    for name in sorted(times, key=times.__getitem__, reverse=True)[: arguments.longest]:
        print(f"{times[name]:9.1f} ms  {kinds[name]}  {name}")


def traced(frozen, picture: np.ndarray, threads: int) -> Callable[[], dict[str, tuple[str, float]]]:
    """A call of a frozen function that tells name -> (kind, milliseconds) of each operation that it ran."""
    v1 = tf.compat.v1
    config = v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)
    outputs = [tensor.name for tensor in frozen.outputs]
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen.graph.as_graph_def(), name="")
    session = v1.Session(graph=graph, config=config)
    options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)

    def run() -> dict[str, tuple[str, float]]:
        found = v1.RunMetadata()
        session.run(outputs, {frozen.inputs[0].name: picture}, options=options, run_metadata=found)
        nodes = [node for device in found.step_stats.dev_stats for node in device.node_stats]
        return {
            # The label is "name = Kind(inputs)".
            node.node_name: (
                node.timeline_label.rpartition("= ")[2].partition("(")[0],
                (node.op_end_rel_micros - node.op_start_rel_micros) / 1e3,
            )
            for node in nodes
        }

    return run


if __name__ == "__main__":
    main()
