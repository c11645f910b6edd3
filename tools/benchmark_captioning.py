"""Show, Attend and Tell's decoder beside PyTorch: a training step, and beam search.

    python tools/benchmark_captioning.py [--torch-python PYTHON] [--rounds 7] [--threads 2] [--only NAME ...]

14x14x2048 annotations, vocabulary 9,490, all widths 512, the forms of the widely used PyTorch tutorial. `train`: a step
of Adam on 32 captions of 20 words. `beam`: five hypotheses, 20 steps, for the annotations of one picture; the end is
never said, so that all steps are taken; `tflite_int8` holds the decoder's weights in 8 bits. PyTorch's decoder is
written as ours: annotations projected once, the vocabulary layer once over all steps, attention as a product of
batches; `torch_tutorial` projects at every step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from turns import answer, take_turns

PLACES, WIDTH, WORDS, UNITS, STEPS, BATCH, BEAMS = 196, 2048, 9490, 512, 20, 32, 5
CONTENDERS = {
    "train": ("keras_fit", "torch_hoisted", "torch_tutorial"),
    "beam": ("frozen", "tflite", "tflite_int8", "torch_hoisted"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="train, beam (default: both)")
    parser.add_argument("--torch-python")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of contenders")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        answer(lambda: _contender(arguments.cases[0], arguments.worker, arguments.threads))
        return
    for case in arguments.cases or CONTENDERS:
        print(case)
        commands = {}
        for name in CONTENDERS[case]:
            python = arguments.torch_python if name.startswith("torch") else sys.executable
            if python is not None and (not arguments.only or name in arguments.only):
                options = ["--worker", name, f"--threads={arguments.threads}"]
                commands[name] = [python, "-W", "ignore", __file__, case, *options]
        take_turns(commands, arguments.rounds, arguments.threads)


def _contender(case: str, name: str, threads: int) -> Callable[[], object]:
    if name.startswith("torch"):
        return _torch_train(name, threads) if case == "train" else _torch_beam(threads)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    return _our_train(name) if case == "train" else _our_beam(name, threads)


def _our_model():
    import keras

    from keras_cv_lectures.benchmarking.busy import endless_captioner
    from keras_cv_lectures.language import AttentionDecoder, Captioner

    image = keras.Input((14, 14, WIDTH))
    # The encoder does nothing: the pictures are annotations already.
    encoder = keras.Model(image, keras.layers.Activation("linear")(image))
    decoder = AttentionDecoder(
        WORDS,
        embedding_units=UNITS,
        units=UNITS,
        attention_units=UNITS,
        attention_activation="relu",
        gate="vector",
        begin_depth=1,
        begin_activation=None,
        readout="plain",
    )
    model = Captioner(encoder, decoder, input_shape=(14, 14, WIDTH), max_words=STEPS, beam_size=BEAMS)
    return endless_captioner(model)


def _our_train(name: str):
    import keras
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    model = _our_model()
    # A tensor, as PyTorch's are: input pipelines are not compared here.
    annotations = tf.constant(random.random((BATCH, 14, 14, WIDTH), "float32"))
    tokens = random.integers(4, WORDS, (BATCH, 1, STEPS + 1)).astype("int32")
    tokens[:, :, 0] = 1
    tokens = tf.constant(tokens)
    model.compile(keras.optimizers.Adam(4e-4), jit_compile=False)
    return lambda: model.train_on_batch({"annotations": annotations, "tokens": tokens}, tokens)


def _our_beam(name: str, threads: int):
    import tempfile
    from pathlib import Path

    import numpy as np

    import keras_cv_lectures as kcvl

    model = _our_model()
    annotations = np.random.default_rng(0).random((1, 14, 14, WIDTH), "float32")
    if name == "frozen":
        runner = kcvl.load_runner(model, optimize=True)
    else:
        path, options = Path(tempfile.mkdtemp()) / "model.tflite", {}
        if name == "tflite_int8":
            noise = np.random.default_rng(1)
            examples = (noise.integers(0, 2, (14, 14, WIDTH), np.uint8) for _ in range(100))
            options = {"precision": "int8", "representative": examples}
        runner = kcvl.load_runner(kcvl.export_tflite(model, path, verify=False, **options).path, threads=threads)
    return lambda: runner(annotations)


def _torch_decoder(hoisted: bool):
    import torch
    from torch import nn

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.annotations, self.query = nn.Linear(WIDTH, UNITS), nn.Linear(UNITS, UNITS)
            self.score = nn.Linear(UNITS, 1)
            self.embedding, self.cell = nn.Embedding(WORDS, UNITS), nn.LSTMCell(UNITS + WIDTH, UNITS)
            self.begin_hidden, self.begin_cell = nn.Linear(WIDTH, UNITS), nn.Linear(WIDTH, UNITS)
            self.gate, self.vocabulary = nn.Linear(UNITS, WIDTH), nn.Linear(UNITS, WORDS)

        def begin(self, a):
            mean = a.mean(1)
            return self.begin_hidden(mean), self.begin_cell(mean)

        def step(self, a, projected, x, h, c):
            projected = self.annotations(a) if projected is None else projected
            scores = self.score(torch.relu(projected + self.query(h)[:, None]))[..., 0]
            weights = torch.softmax(scores, 1)
            if hoisted:
                context = torch.bmm(weights[:, None], a.expand(len(weights), -1, -1))[:, 0]
            else:
                context = (a * weights[..., None]).sum(1)
            context = torch.sigmoid(self.gate(h)) * context
            h, c = self.cell(torch.cat([x, context], 1), (h, c))
            return h, c, weights

    return Decoder()


def _torch_train(name: str, threads: int):
    import torch

    torch.set_num_threads(threads)
    hoisted = name == "torch_hoisted"
    model = _torch_decoder(hoisted)
    optimizer = torch.optim.Adam(model.parameters(), 4e-4)
    a = torch.rand(BATCH, PLACES, WIDTH)
    tokens = torch.randint(4, WORDS, (BATCH, STEPS + 1))

    def step():
        optimizer.zero_grad(set_to_none=True)
        words = model.embedding(tokens[:, :-1])
        projected = model.annotations(a) if hoisted else None
        h, c = model.begin(a)
        states, attention = [], []
        for t in range(STEPS):
            h, c, weights = model.step(a, projected, words[:, t], h, c)
            states.append(h if hoisted else model.vocabulary(torch.dropout(h, 0.5, True)))
            attention.append(weights)
        found = torch.stack(states, 1)
        logits = model.vocabulary(torch.dropout(found, 0.5, True)) if hoisted else found
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, WORDS), tokens[:, 1:].reshape(-1))
        loss = loss + ((1 - torch.stack(attention, 1).sum(1)) ** 2).mean()
        loss.backward()
        optimizer.step()

    return step


def _torch_beam(threads: int):
    import torch

    torch.set_num_threads(threads)
    model = _torch_decoder(True).eval()
    a = torch.rand(1, PLACES, WIDTH)

    def search():
        with torch.inference_mode():
            projected = model.annotations(a)
            h, c = (x.expand(BEAMS, -1) for x in model.begin(a))
            scores = torch.full((BEAMS, 1), -1e9)
            scores[0] = 0
            last = torch.ones(BEAMS, dtype=torch.long)
            tokens = torch.zeros(BEAMS, 0, dtype=torch.long)
            for _ in range(STEPS):
                h, c, _ = model.step(a, projected, model.embedding(last), h, c)
                totals = scores + torch.log_softmax(model.vocabulary(h), 1)
                best, place = totals.flatten().topk(BEAMS)
                parent, last = place // WORDS, place % WORDS
                h, c, scores = h[parent], c[parent], best[:, None]
                tokens = torch.cat([tokens[parent], last[:, None]], 1)
            return tokens

    return search


if __name__ == "__main__":
    main()
