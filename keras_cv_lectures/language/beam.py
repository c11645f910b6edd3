"""Search for a sentence, in the graph: beam search with finished beams frozen, of which one beam is greedy search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keras import ops

from keras_cv_lectures.text import END, PAD, START

_NEVER = -1e9


def beam_search(
    step: Callable,
    state: Sequence,
    *,
    batch,
    beams: int,
    max_words: int,
    length_penalty: float = 0.0,
    start: int = START,
    end: int = END,
    banned: Sequence[int] = (PAD, START),
    places: int | None = None,
    all_ended: bool = False,
):
    """The likeliest of the sentences that `beams` hypotheses reach, for every picture of a batch.

    A hypothesis that emits `end` is frozen: it keeps its place and its score among the others, and nothing extends it.
    Every step keeps the `beams` best of all frozen ones and all extensions, by log probability / penalty(length), where
    penalty(n) = ((5 + n) / 6) ** length_penalty (Wu et al. 2016) and the end counts. After `max_words` steps hypotheses
    that did not end take part like the others, so there is always an answer. The loop stops early when no extension can
    overtake the best: the first sentence is whole then, those behind it may be beginnings of sentences.

    Args:
        step: (state, tokens (batch, beams) int32) -> (logits (batch, beams, V), state, weights (batch, beams, places)
            or None). Every tensor of the state has the axes (batch, beams, ...).
        state: before the first word, with the same axes.
        batch: pictures, an int or a scalar tensor.
        banned: ids that are never emitted.
        places: annotations that the weights lie on; None: the weights are not kept.
        all_ended: goes on until all `beams` sentences have ended, or have `max_words` words.

    Returns:
        dict of tokens (batch, beams, max_words) int32, best first, 0 after the end; length (batch, beams) int32, words
        without the end; log_probability (batch, beams); with places: attention (batch, beams, max_words, places).
    """
    batch_shape, width = (batch, beams), 1 if places is None else places
    state = [ops.convert_to_tensor(x) for x in state]
    shapes = [tuple(x.shape) for x in state]
    first = ops.cast(ops.arange(beams) == 0, "float32")[None]
    # All hypotheses start equal: only the first is extended.
    scores = ops.zeros(batch_shape) + (1 - first) * _NEVER
    running = ops.ones(batch_shape)
    tokens = ops.zeros((*batch_shape, max_words), dtype="int32")
    attention = ops.zeros((*batch_shape, max_words, width))
    last = ops.full(batch_shape, start, dtype="int32")
    lengths = ops.zeros(batch_shape)
    columns = ops.arange(max_words)

    def penalty(length):
        return ops.power((5.0 + length) / 6.0, length_penalty)

    def unsettled(t, scores, running, *_):
        if length_penalty or all_ended:
            return ops.logical_and(t < max_words, ops.sum(running) > 0)
        # Log probabilities only fall, so a frozen hypothesis that leads stays in front.
        best_running = ops.max(ops.where(running > 0, scores, _NEVER), axis=1)
        best_ended = ops.max(ops.where(running > 0, _NEVER, scores), axis=1)
        return ops.logical_and(t < max_words, ops.any(best_running > best_ended))

    def advance(t, scores, running, lengths, last, tokens, attention, *state):
        logits, state, weights = step(list(state), last)
        logits = ops.cast(logits, "float32")
        # No other words of a hypothesis can be among the best: what follows is small, whatever the vocabulary.
        count = min(logits.shape[-1], beams + len(set(banned)))
        best, words = ops.top_k(logits, count)
        words = ops.cast(words, "int32")
        highest = best[..., :1]
        log_sum = highest + ops.log(ops.sum(ops.exp(logits - highest), axis=-1, keepdims=True))
        log_probabilities = ops.where(_any_of(words, banned), _NEVER, best - log_sum)
        live = running[..., None] > 0
        # What has ended goes on as itself, with padding.
        itself = ops.cast(ops.arange(count) > 0, "float32") * _NEVER
        totals = scores[..., None] + ops.where(live, log_probabilities, itself)
        words = ops.where(live, words, PAD)
        grown = lengths + running
        ranks = totals / penalty(grown)[..., None] if length_penalty else totals
        _, chosen = ops.top_k(ops.reshape(ranks, (batch, beams * count)), beams)
        chosen = ops.cast(chosen, "int32")
        parent = chosen // count
        rows = parent + beams * ops.arange(batch, dtype="int32")[:, None]

        def of_parent(x, shape):
            flat = ops.reshape(x, (batch * beams, *shape[2:]))
            return ops.reshape(ops.take(flat, ops.reshape(rows, (-1,)), axis=0), (batch, beams, *shape[2:]))

        picked = ops.reshape(rows * count + chosen % count, (-1,))
        scores, word = (
            ops.reshape(ops.take(ops.reshape(x, (-1,)), picked, axis=0), (batch, beams)) for x in (totals, words)
        )
        running, grown = of_parent(running, (0, 0)), of_parent(grown, (0, 0))
        here = ops.cast(columns == t, "int32")[None, None]
        tokens = of_parent(tokens, (0, 0, max_words))
        tokens = tokens * (1 - here) + (word * ops.cast(running, "int32"))[..., None] * here
        attention = of_parent(attention, (0, 0, max_words, width))
        if places is not None:
            now = (of_parent(weights, (0, 0, places)) * running[..., None])[:, :, None]
            attention = ops.where(ops.cast(here, "bool")[..., None], now, attention)
        running = running * ops.cast(word != end, "float32")
        state = [of_parent(x, shape) for x, shape in zip(state, shapes, strict=True)]
        return (t + 1, scores, running, grown, word, tokens, attention, *state)

    _, scores, running, lengths, _, tokens, attention, *_ = ops.while_loop(
        unsettled, advance, (0, scores, running, lengths, last, tokens, attention, *state)
    )
    _, order = ops.top_k(scores / penalty(lengths), beams)
    rows = ops.reshape(ops.cast(order, "int32") + beams * ops.arange(batch, dtype="int32")[:, None], (-1,))

    def ordered(x, *shape):
        return ops.reshape(ops.take(ops.reshape(x, (batch * beams, *shape)), rows, axis=0), (batch, beams, *shape))

    words = lengths - (1 - running)
    found = {
        "tokens": ordered(tokens, max_words),
        "length": ordered(ops.cast(words, "int32")),
        "log_probability": ordered(scores),
    }
    if places is not None:
        found["attention"] = ordered(attention, max_words, places)
    return found


def _any_of(words, ids: Sequence[int]):
    """Whether each of `words` is one of the ids."""
    found = ops.zeros_like(words, dtype="bool")
    for k in ids:
        found = ops.logical_or(found, words == k)
    return found


def _one_of(size: int, ids: Sequence[int]):
    """(size,) 1 at the ids, else 0, float32."""
    places = ops.arange(size)
    found = ops.zeros((size,))
    for k in ids:
        found = ops.maximum(found, ops.cast(places == k, "float32"))
    return found


def sample_words(
    step: Callable,
    state: Sequence,
    uniform,
    *,
    temperature: float = 1.0,
    start: int = START,
    end: int = END,
    banned: Sequence[int] = (PAD, START),
    places: int | None = None,
):
    """Sentences drawn word by word from softmax(logits / temperature).

    Args:
        step, state, start, end, banned, places: as `beam_search`.
        uniform: (batch, N, max_words) numbers in 0..1 that draw the words; N sentences a picture.

    Returns:
        as `beam_search`, in no order. The log probability is that under the model, temperature 1.
    """
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive. Received: temperature={temperature!r}")
    shape, max_words = ops.shape(uniform)[:2], uniform.shape[-1]
    width = 1 if places is None else places
    columns = ops.arange(max_words)
    tokens = ops.zeros((*shape, max_words), dtype="int32")
    attention = ops.zeros((*shape, max_words, width))

    def advance(t, scores, running, lengths, last, tokens, attention, *state):
        logits, state, weights = step(list(state), last)
        size = logits.shape[-1]
        logits = ops.cast(logits, "float32")
        # As in a beam search: words that are not said keep their share, so that sentences of both can be compared.
        log_probabilities = logits - ops.logsumexp(logits, axis=-1, keepdims=True)
        allowed = logits + _one_of(size, banned) * _NEVER
        running_sum = ops.cumsum(ops.softmax(allowed / temperature, axis=-1), axis=-1)
        here = ops.cast(columns == t, "float32")
        draw = ops.sum(uniform * here, axis=-1, keepdims=True) * running_sum[..., -1:]
        word = ops.minimum(ops.sum(ops.cast(running_sum <= draw, "int32"), axis=-1), size - 1)
        picked = ops.sum(ops.one_hot(word, size, dtype="float32") * log_probabilities, axis=-1)
        scores, lengths = scores + picked * running, lengths + running
        tokens = ops.where(here > 0, (word * ops.cast(running, "int32"))[..., None], tokens)
        if places is not None:
            now = (weights * running[..., None])[:, :, None]
            attention = ops.where(here[:, None] > 0, now, attention)
        running = running * ops.cast(word != end, "float32")
        return (t + 1, scores, running, lengths, word, tokens, attention, *state)

    _, scores, running, lengths, _, tokens, attention, *_ = ops.while_loop(
        lambda t, scores, running, *_: ops.logical_and(t < max_words, ops.sum(running) > 0),
        advance,
        (
            0,
            ops.zeros(shape),
            ops.ones(shape),
            ops.zeros(shape),
            ops.full(shape, start, dtype="int32"),
            tokens,
            attention,
            *state,
        ),
    )
    found = {
        "tokens": tokens,
        "length": ops.cast(lengths - (1 - running), "int32"),
        "log_probability": scores,
    }
    return {**found, "attention": attention} if places is not None else found


def check_search(beams: int, max_words: int, length_penalty: float) -> None:
    """Says what is wrong with the settings of a search."""
    for name, value in (("beam_size", beams), ("max_words", max_words)):
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    if not length_penalty >= 0:
        raise ValueError(f"`length_penalty` must be 0 or more. Received: length_penalty={length_penalty!r}")


__all__ = ["beam_search", "check_search", "sample_words"]
