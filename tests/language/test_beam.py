"""Beam search equals trying everything, greedy search is one beam, and samples have the model's frequencies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_cv_lectures.language import beam_search, sample_words
from keras_cv_lectures.language.beam import check_search
from keras_cv_lectures.text import END, START

WORDS, HIDDEN, PLACES = 6, 3, 4  # Ids 0 and 1 are never said: three words and the end.
BANNED = (0, 1)


class Toy:
    """A recurrent network whose state remembers every word, so that a state in the wrong row shows."""

    def __init__(self, pictures: int, seed: int = 0, end_bias: float = 0.0):
        generator = np.random.default_rng(seed)
        self.embedding = 1.5 * generator.normal(size=(WORDS, HIDDEN)).astype("float32")
        self.recurrent = 1.5 * generator.normal(size=(HIDDEN, HIDDEN)).astype("float32")
        self.out = 1.5 * generator.normal(size=(HIDDEN, WORDS)).astype("float32")
        self.out_bias = end_bias * (np.arange(WORDS) == END).astype("float32")
        self.look = generator.normal(size=(HIDDEN, PLACES)).astype("float32")
        self.pictures = generator.normal(size=(pictures, HIDDEN)).astype("float32")

    def begin(self, beams: int, pictures=None):
        chosen = self.pictures if pictures is None else self.pictures[pictures]
        return [tf.constant(np.repeat(chosen[:, None], beams, axis=1))]

    def step(self, state, tokens):
        hidden = tf.tanh(tf.einsum("bnh,hk->bnk", state[0], self.recurrent) + tf.gather(self.embedding, tokens))
        logits = tf.einsum("bnh,hv->bnv", hidden, self.out) + self.out_bias
        return logits, [hidden], tf.nn.softmax(tf.einsum("bnh,hl->bnl", hidden, self.look))

    def log_probabilities(self, picture: int, words, banned=BANNED):
        """Of each word of a sentence after those before it, in float64; one more row for what may follow."""
        hidden, rows, attention = self.pictures[picture].astype("float64"), [], []
        for word in (START, *words):
            hidden = np.tanh(hidden @ self.recurrent + self.embedding[word])
            logits = hidden @ self.out + self.out_bias
            rows.append(logits - np.log(np.exp(logits).sum()))
            seen = np.exp(hidden @ self.look)
            attention.append(seen / seen.sum())
        return np.array(rows), np.array(attention)

    def score(self, picture: int, words) -> float:
        rows, _ = self.log_probabilities(picture, words)
        return float(sum(row[word] for row, word in zip(rows, words, strict=False)))

    def search(self, beams, max_words, pictures=None, **options):
        count = len(self.pictures) if pictures is None else len(pictures)
        settings = {"banned": BANNED, "places": PLACES} | options
        found = beam_search(
            self.step, self.begin(beams, pictures), batch=count, beams=beams, max_words=max_words, **settings
        )
        return {name: np.asarray(x) for name, x in found.items()}


def sentences(max_words):
    """All that can be said: sentences that end, and those of `max_words` words that do not."""
    words = [k for k in range(WORDS) if k not in (*BANNED, END)]
    for length in range(max_words):
        yield from ((*text, END) for text in itertools.product(words, repeat=length))
    yield from itertools.product(words, repeat=max_words)


def penalty(length, exponent):
    return ((5 + length) / 6) ** exponent


def exhaustive(toy, picture, max_words, exponent=0.0):
    """All sentences with their scores, best first."""
    scored = [(toy.score(picture, text), text) for text in sentences(max_words)]
    return sorted(scored, key=lambda pair: -pair[0] / penalty(len(pair[1]), exponent))


@pytest.mark.parametrize("exponent", [0.0, 0.7, 2.0])
def test_enough_beams_find_what_trying_everything_finds_in_its_order(exponent):
    toy, max_words = Toy(4), 3
    beams = len(list(sentences(max_words)))  # 1 + 3 + 9 + 27
    found = toy.search(beams, max_words, length_penalty=exponent)
    for picture in range(4):
        expected = exhaustive(toy, picture, max_words, exponent)
        best_score, best = expected[0]
        np.testing.assert_array_equal(found["tokens"][picture, 0], [*best, *[0] * (max_words - len(best))])
        assert found["length"][picture, 0] == len(best) - (best[-1] == END)
        np.testing.assert_allclose(found["log_probability"][picture, 0], best_score, atol=1e-5)
        if exponent:
            # The loop runs until all have ended, so that every place is decided and not the first alone.
            ranked = [score / penalty(len(text), exponent) for score, text in expected]
            got = found["log_probability"][picture]
            ended = (found["tokens"][picture] == END).sum(-1)
            np.testing.assert_allclose(got / penalty(found["length"][picture] + ended, exponent), ranked, atol=1e-5)


def test_a_longer_sentence_wins_under_a_penalty():
    """Hand-worked: END at once has 0.5; "4, end" has 0.5 * 0.9 = 0.45."""
    table = np.full((WORDS, WORDS), 1e-6)
    table[START, [END, 4]] = 0.5
    table[4, [END, 5]] = 0.9, 0.1
    table[5, END] = 1

    def step(state, tokens):
        return tf.gather(np.log(table).astype("float32"), tokens), state, None

    for exponent, expected in ((0.0, [END, 0, 0]), (2.0, [4, END, 0])):
        # log 0.45 / (7/6)^2 = -0.587 is better than log 0.5 = -0.693.
        found = beam_search(step, [tf.zeros((1, 2, 1))], batch=1, beams=2, max_words=3, length_penalty=exponent)
        np.testing.assert_array_equal(found["tokens"][0, 0], expected)
        assert set(found) == {"tokens", "length", "log_probability"}


@pytest.mark.parametrize("exponent", [0.0, 0.7])
@pytest.mark.parametrize("beams", [1, 2, 3])
def test_narrow_beams_follow_the_rule_step_by_step(beams, exponent):
    """The rule in plain Python: the best of all frozen hypotheses and all extensions of the others."""
    toy, max_words = Toy(5, seed=1), 6
    found = toy.search(beams, max_words, length_penalty=exponent)
    for picture in range(5):
        kept = [(0.0, ())]
        for _ in range(max_words):
            pool = []
            for score, text in kept:
                if text and text[-1] == END:
                    pool.append((score, text))
                    continue
                rows, _ = toy.log_probabilities(picture, text)
                pool += [(score + rows[-1][k], (*text, k)) for k in range(WORDS) if k not in BANNED]
            kept = sorted(pool, key=lambda pair: -pair[0] / penalty(len(pair[1]), exponent))[:beams]
        score, text = kept[0]
        np.testing.assert_array_equal(found["tokens"][picture, 0], [*text, *[0] * (max_words - len(text))])
        np.testing.assert_allclose(found["log_probability"][picture, 0], score, atol=1e-5)


def test_one_beam_takes_the_likeliest_word_at_every_step():
    toy, max_words = Toy(6, seed=2), 5
    found = toy.search(1, max_words)
    for picture in range(6):
        text: list[int] = []
        while len(text) < max_words and END not in text:
            rows, _ = toy.log_probabilities(picture, text)
            text.append(max((k for k in range(WORDS) if k not in BANNED), key=lambda k: rows[-1][k]))
        np.testing.assert_array_equal(found["tokens"][picture, 0], [*text, *[0] * (max_words - len(text))])


@pytest.mark.parametrize("exponent", [0.0, 0.7])
def test_pictures_of_a_batch_are_searched_as_if_alone(exponent):
    toy = Toy(5, seed=3)
    together = toy.search(3, 6, length_penalty=exponent)
    for picture in range(5):
        alone = toy.search(3, 6, pictures=[picture], length_penalty=exponent)
        for name, value in together.items():
            # The best one: a batch may go on where a picture alone would have stopped.
            np.testing.assert_allclose(alone[name][0, 0], value[picture, 0], atol=1e-6, err_msg=name)


def test_attention_is_that_of_the_words_that_were_kept():
    toy = Toy(5, seed=4)
    found = toy.search(3, 6)
    for picture, beam in np.ndindex(5, 3):
        tokens = found["tokens"][picture, beam]
        text = [int(k) for k in tokens if k]
        _, attention = toy.log_probabilities(picture, text)
        np.testing.assert_allclose(found["attention"][picture, beam, : len(text)], attention[: len(text)], atol=1e-5)
        assert not found["attention"][picture, beam, len(text) :].any()
        np.testing.assert_allclose(found["log_probability"][picture, beam], toy.score(picture, text), atol=1e-5)


def test_what_has_ended_stays_as_it_is():
    # Nearly everything ends at once, and the penalty keeps the loop running for the others.
    toy = Toy(3, seed=5, end_bias=6.0)
    short, long = (toy.search(2, n, length_penalty=1.0) for n in (2, 7))
    np.testing.assert_array_equal(long["tokens"][:, 0, 0], END)
    assert not long["tokens"][:, 0, 1:].any()
    np.testing.assert_allclose(short["log_probability"][:, 0], long["log_probability"][:, 0], rtol=1e-6)
    np.testing.assert_array_equal(long["length"][:, 0], 0)


def test_where_nothing_ends_the_best_that_lives_is_the_answer():
    toy = Toy(3, seed=6, end_bias=-100.0)
    found = toy.search(4, 5)
    assert not (found["tokens"] == END).any()
    assert found["tokens"].min() > END
    np.testing.assert_array_equal(found["length"], 5)
    assert (np.diff(found["log_probability"]) <= 0).all()


def test_stopping_early_does_not_change_the_answer():
    toy = Toy(8, seed=7, end_bias=1.0)
    steps = []

    def counted(state, tokens):
        steps.append(1)
        return toy.step(state, tokens)

    found = beam_search(counted, toy.begin(3), batch=8, beams=3, max_words=12, banned=BANNED)
    assert len(steps) < 12
    for picture in range(8):
        # A penalty next to nothing has the same order, and waits until the last hypothesis has ended.
        patient = toy.search(3, 12, pictures=[picture], length_penalty=1e-6)
        np.testing.assert_array_equal(found["tokens"][picture, 0], patient["tokens"][0, 0])


def test_all_sentences_are_whole_where_that_is_asked_for():
    toy, whole = Toy(8, seed=7, end_bias=1.0), {"all_ended": True}
    early, patient = toy.search(5, 12), toy.search(5, 12, **whole)
    assert not _ended(early).all()
    assert _ended(patient).all()
    np.testing.assert_array_equal(early["tokens"][:, 0], patient["tokens"][:, 0])
    for picture in range(8):
        alone = toy.search(5, 12, pictures=[picture], **whole)
        np.testing.assert_array_equal(alone["tokens"][0], patient["tokens"][picture])


def _ended(found):
    """Whether the word behind each sentence's last one is the end, (B, N)."""
    last = np.take_along_axis(found["tokens"], np.minimum(found["length"], 11)[..., None], axis=2)[..., 0]
    return (last == END) | (found["length"] == 12)


def test_banned_words_are_not_said_and_keep_their_probability():
    toy = Toy(4, seed=8)
    free, bound = toy.search(3, 5, banned=()), toy.search(3, 5, banned=(0, 1, 3))
    assert {0, 1, 3} & set(free["tokens"][:, :, 0].ravel())
    assert not {1, 3} & set(bound["tokens"].ravel())
    for picture in range(4):
        text = [int(k) for k in bound["tokens"][picture, 0] if k]
        # The others are not scaled up for what is banned.
        np.testing.assert_allclose(bound["log_probability"][picture, 0], toy.score(picture, text), atol=1e-5)


def test_more_beams_than_words():
    toy = Toy(2, seed=9)
    found = toy.search(50, 2)
    texts = {tuple(int(k) for k in row if k) for row in found["tokens"][0][found["log_probability"][0] > -1e6]}
    assert texts <= set(sentences(2))
    assert tuple(int(k) for k in found["tokens"][0, 0] if k) == exhaustive(toy, 0, 2)[0][1]


def test_inside_a_graph_with_an_open_batch():
    toy = Toy(4, seed=10)

    @tf.function(input_signature=[tf.TensorSpec([None, HIDDEN])])
    def run(pictures):
        state = [tf.repeat(pictures[:, None], 3, axis=1)]
        return beam_search(
            toy.step, state, batch=tf.shape(pictures)[0], beams=3, max_words=5, banned=BANNED, places=PLACES
        )

    expected = toy.search(3, 5)
    for name, value in run(tf.constant(toy.pictures)).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)


# Sampling


def draw(toy, count, max_words, seed=0, **options):
    uniform = np.random.default_rng(seed).uniform(size=(len(toy.pictures), count, max_words)).astype("float32")
    settings = {"banned": BANNED, "places": PLACES} | options
    found = sample_words(toy.step, toy.begin(count), tf.constant(uniform), **settings)
    return {name: np.asarray(x) for name, x in found.items()}


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampled_sentences_have_the_models_frequencies(temperature):
    toy, count = Toy(2, seed=11), 4000
    found = draw(toy, count, 2, temperature=temperature)
    for picture in range(2):
        said = [tuple(int(k) for k in row if k) for row in found["tokens"][picture]]
        assert set(said) <= set(sentences(2))
        for text in sentences(2):
            rows, _ = toy.log_probabilities(picture, text)
            chance = 1.0
            for row, word in zip(rows, text, strict=False):
                allowed = np.exp(row / temperature) * ~np.isin(np.arange(WORDS), BANNED)
                chance *= allowed[word] / allowed.sum()
            deviation = np.sqrt(chance * (1 - chance) / count)
            assert abs(said.count(text) / count - chance) < 4 * deviation + 1e-9, text


def test_log_probabilities_and_attention_of_samples():
    toy = Toy(2, seed=12)
    for banned in ((), BANNED):
        found = draw(toy, 5, 6, temperature=1.3, banned=banned)
        for picture, k in np.ndindex(2, 5):
            ended = np.flatnonzero(found["tokens"][picture, k] == END)
            words = int(found["length"][picture, k])
            text = [int(x) for x in found["tokens"][picture, k]][: words + bool(ended.size)]
            _, attention = toy.log_probabilities(picture, text)
            # As beam search has it: neither temperature nor what is banned changes it.
            np.testing.assert_allclose(found["log_probability"][picture, k], toy.score(picture, text), atol=1e-5)
            np.testing.assert_allclose(found["attention"][picture, k, : len(text)], attention[: len(text)], atol=1e-5)
            assert not found["attention"][picture, k, len(text) :].any()
            assert not found["tokens"][picture, k, len(text) :].any()


def test_samples_follow_their_numbers():
    toy = Toy(2, seed=13)
    same, again, other = (draw(toy, 5, 6, seed=seed)["tokens"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(same, again)
    assert (same != other).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 20, 0.0), "`beam_size`.*beam_size=0"),
        ((3, 0, 0.0), "`max_words`.*max_words=0"),
        ((3, 2.5, 0.0), "`max_words`.*max_words=2.5"),
        ((3, 20, -1.0), "`length_penalty`.*length_penalty=-1"),
    ],
)
def test_wrong_settings(arguments, words):
    with pytest.raises(ValueError, match=words):
        check_search(*arguments)


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_wrong_temperature(temperature):
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        draw(Toy(1), 1, 2, temperature=temperature)
