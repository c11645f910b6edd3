"""Scores of captions: corpora worked by hand, and an independent computation on random ones."""

import itertools
import math
import sys
import types

import numpy as np
import pytest

from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.metrics import best_constant, bleu, caption_scores, cider_d, rouge_l
from keras_cv_lectures.metrics import captions as module

NEAR = {"abs": 1e-7}  # coco-caption's guards move a perfect BLEU by some 1e-9


def test_bleu_by_hand():
    """Papineni's example: `the` seven times; a reference has it twice at most."""
    score = bleu(["the the the the the the the"], [["the cat is on the mat", "there is a cat on the mat"]])
    assert score.precisions[0] == pytest.approx(2 / 7)
    assert (score.candidate_length, score.reference_length) == (7, 7)
    assert score.brevity_penalty == pytest.approx(1, **NEAR)
    assert score.scores[0] == pytest.approx(2 / 7)
    assert max(score.scores[1:]) < 1e-4  # no bigram in common


def test_bleu_adds_counts_over_the_corpus():
    # Unigrams 2/2 and 1/3, bigrams 1/1 and 0/2; lengths 2 + 3 against 2 + 3.
    score = bleu(["red dog", "a b c"], [["red dog"], ["a x y"]], max_order=2)
    assert score.precisions == pytest.approx((3 / 5, 1 / 3))
    assert score.scores == pytest.approx((3 / 5, math.sqrt(3 / 5 * 1 / 3)))
    np.testing.assert_allclose(score.per_picture[0], [1, 1], atol=1e-6)
    assert score.per_picture[1] == pytest.approx([1 / 3, 0], abs=1e-6)


def test_brevity_penalty_and_the_closest_reference():
    # 3 words; references of 4 and 2 are equally close: the shorter counts, so that there is no penalty.
    tied = bleu(["a b c"], [["a b c d", "a b"]])
    assert (tied.reference_length, tied.brevity_penalty) == (2, 1.0)
    # 5 is closer to 4 words than 2 is.
    near = bleu(["a b c d"], [["a b", "a b c d e"]])
    assert (near.reference_length, near.brevity_penalty) == (5, pytest.approx(math.exp(1 - 5 / 4)))
    assert near.scores[0] == pytest.approx(math.exp(-1 / 4))
    # The penalty is of the whole corpus: a long caption pays for a short one.
    both = bleu(["a b c d", "a b c d e f"], [["a b c d e"], ["a b c d e"]])
    assert both.brevity_penalty == pytest.approx(1, **NEAR)


def test_rouge_l_by_hand():
    # Common subsequence `a c` of 3 words against 4; `b c d` does not add to it.
    (score,) = rouge_l(["a b c"], [["a c d e"]])
    precision, recall = 2 / 3, 2 / 4
    assert score == pytest.approx((1 + 1.44) * precision * recall / (recall + 1.44 * precision))
    # Precision of the one reference (2/2), recall of the other (1/1).
    (score,) = rouge_l(["a b"], [["a b x y", "a"]])
    assert score == pytest.approx(1.0)


def test_cider_by_hand():
    """Two pictures of one word each that no other has: order 1 alone counts, weight log 2, cosine 1."""
    assert cider_d(["red", "blue"], [["red"], ["blue"]]) == pytest.approx([2.5, 2.5])
    # A word that both have weighs nothing. `a red`: of order 1 the cosine is that of `red`, of order 2 that of the
    # bigram; orders 3 and 4 do not occur.
    assert cider_d(["a red", "a red"], [["a red"], ["a blue"]]) == pytest.approx([5.0, 0.0])
    # Said twice: the weight 2 log 2 is clipped to that of the reference, its norm is not: 1 / 2. One bigram more.
    (twice, _) = cider_d(["red red", "blue"], [["red"], ["blue"]])
    assert twice == pytest.approx(10 / 4 * 0.5 * math.exp(-1 / 72))


def test_a_single_picture_has_no_cider():
    assert cider_d(["a red circle on the left"], [["a red circle on the left"]]).tolist() == [0.0]


def test_identical_captions():
    references = [["a red circle left of a blue square"], ["two green triangles above one star", "something else"]]
    found = caption_scores([each[0] for each in references], references)
    assert sorted(found) == ["bleu1", "bleu2", "bleu3", "bleu4", "cider", "rouge_l"]
    assert [found[f"bleu{n}"] for n in (1, 2, 3, 4)] == pytest.approx([1.0] * 4, **NEAR)
    assert found["rouge_l"] == 1.0
    # 10 of one reference alone; the second of two has nothing in common.
    assert found["cider"] == pytest.approx((10 + 5) / 2)


def test_a_candidate_without_words_scores_nothing():
    found = caption_scores(["", "a dog"], [["a cat"], ["a dog"]])
    assert found["bleu1"] == pytest.approx(math.exp(1 - 4 / 2))
    assert found["rouge_l"] == 0.5
    alone = caption_scores([""], [["a cat"]])
    assert max(alone.values()) < 1e-9


def test_case_and_punctuation_do_not_count_and_words_can_be_given():
    text = caption_scores(["A dog, running."], [["a dog running", ""]])
    words = caption_scores([["a", "dog", "running"]], [[("a", "dog", "running")]])
    assert text == words
    assert text["rouge_l"] == 1.0
    assert caption_scores([b"A dog, running."], [[b"a dog running"]]) == text


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a"], [["a"], ["b"]], "1 candidates, 2 lists"),
        ([], [], "no captions to score"),
        (["a"], [[]], "picture 0 has no reference"),
        (["a", "b"], [["a"], ["", "."]], "picture 1 has no reference"),
        ("a dog", [["a"]] * 5, "`candidates` must hold one entry"),
        (["a"], ["a dog"], r"Write \['a dog'\]"),
    ],
    ids=str,
)
def test_what_cannot_be_scored(candidates, references, message):
    for score in (bleu, rouge_l, cider_d, caption_scores):
        with pytest.raises(DataError, match=message):
            score(candidates, references)


def test_order_must_be_positive():
    with pytest.raises(DataError, match="max_order=0"):
        bleu(["a"], [["a"]], max_order=0)


@pytest.mark.parametrize("seed", range(4))
def test_against_an_independent_computation(seed):
    rng = np.random.default_rng(seed)

    def sentence(least):
        return [
            str(word) for word in rng.choice(list("abcdef"), rng.integers(least, 8), p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.1])
        ]

    references = [[sentence(1) for _ in range(rng.integers(1, 4))] for _ in range(6)]
    candidates = [sentence(0) for _ in references]
    score = bleu(candidates, references)
    np.testing.assert_allclose(score.scores, _slow_bleu(candidates, references), rtol=1e-12)
    for row, pair in enumerate(zip(candidates, references, strict=True)):
        np.testing.assert_allclose(score.per_picture[row], _slow_bleu([pair[0]], [pair[1]]), rtol=1e-12)
    np.testing.assert_allclose(rouge_l(candidates, references), _slow_rouge(candidates, references), rtol=1e-12)
    np.testing.assert_allclose(
        cider_d(candidates, references), _slow_cider(candidates, references), rtol=1e-9, atol=1e-12
    )


def _grams(words, order):
    return ["\t".join(words[i : i + order]) for i in range(max(0, len(words) - order + 1))]


def _slow_bleu(candidates, references):
    product, scores = 1.0, []
    lengths = [0, 0]
    for words, known in zip(candidates, references, strict=True):
        distances = sorted((abs(len(each) - len(words)), len(each)) for each in known)
        lengths[0] += len(words)
        lengths[1] += distances[0][1]
    ratio = (lengths[0] + 1e-15) / (lengths[1] + 1e-9)
    for order in (1, 2, 3, 4):
        right = all_of_them = 0
        for words, known in zip(candidates, references, strict=True):
            grams = _grams(words, order)
            all_of_them += len(grams)
            for gram in set(grams):
                right += min(grams.count(gram), max(_grams(each, order).count(gram) for each in known))
        product *= (right + 1e-15) / (all_of_them + 1e-9)
        scores.append(product ** (1 / order) * math.exp(min(0.0, 1 - 1 / ratio)))
    return scores


def _slow_rouge(candidates, references):
    def common(one, two):
        for count in range(len(one), 0, -1):
            if {*itertools.combinations(one, count)} & {*itertools.combinations(two, count)}:
                return count
        return 0

    found = []
    for words, known in zip(candidates, references, strict=True):
        lengths = [common(words, each) for each in known]
        p = max(lengths) / max(1, len(words))
        r = max(length / len(each) for length, each in zip(lengths, known, strict=True))
        found.append(0.0 if p * r == 0 else 2.44 * p * r / (r + 1.44 * p))
    return found


def _slow_cider(candidates, references):
    """With dense vectors over all n-grams of an order."""
    total = np.zeros(len(candidates))
    for order in (1, 2, 3, 4):
        grams = [[_grams(each, order) for each in known] for known in references]
        ours = [_grams(words, order) for words in candidates]
        names = sorted({g for known in grams for each in known for g in each} | {g for each in ours for g in each})
        seen = np.array([sum(any(name in each for each in known) for known in grams) for name in names])
        rarity = np.log(len(candidates)) - np.log(np.maximum(seen, 1))

        def vector(words, names=names, rarity=rarity):
            return np.array([words.count(name) for name in names]) * rarity

        for row, (words, known) in enumerate(zip(candidates, references, strict=True)):
            a = vector(ours[row])
            for each, reference in zip(grams[row], known, strict=True):
                b = vector(each)
                bigrams = len(_grams(words, 2)) - len(_grams(reference, 2))
                norm = np.linalg.norm(a) * np.linalg.norm(b)
                if norm > 0:
                    total[row] += np.minimum(a, b) @ b / norm * math.exp(-(bigrams**2) / 72) / len(known)
    return total * 10 / 4


def test_java_scores_without_the_package_or_java(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.meteor.meteor", None)
    with pytest.raises(ModelError, match=r"pip install 'keras_cv_lectures\[captions\]'"):
        caption_scores(["a"], [["a"]], java=True)
    _install_pycocoevalcap(monkeypatch)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(ModelError, match="no `java`"):
        caption_scores(["a"], [["a"]], java=True)


def test_java_scores_get_tokenised_text_and_end_their_process(monkeypatch):
    killed = _install_pycocoevalcap(monkeypatch)
    monkeypatch.setattr(module.shutil, "which", lambda name: "/bin/java")
    found = caption_scores(["A dog."], [["The dog!", "a cat"]], java=True)
    assert (found["meteor"], found["spice"]) == (0.25, 0.5)
    assert killed == ["killed"]
    with pytest.raises(ModelError, match=r"METEOR failed .*broken pipe"):
        caption_scores(["crash"], [["a cat"]], java=True)


def _install_pycocoevalcap(monkeypatch):
    """Stand-ins that behave as the package does."""
    killed = []

    class Meteor:
        def __init__(self):
            self.meteor_p = types.SimpleNamespace(kill=lambda: killed.append("killed"))

        def compute_score(self, truths, found):
            if found[0] == ["crash"]:
                raise BrokenPipeError("broken pipe")
            assert (truths, found) == ({0: ["the dog", "a cat"]}, {0: ["a dog"]})
            return 0.25, [0.25]

    class Spice:
        def compute_score(self, truths, found):
            return np.float64(0.5), [{}]

    for name, value in (("meteor", Meteor), ("spice", Spice)):
        holder = types.ModuleType(name)
        setattr(holder, name.capitalize(), value)
        monkeypatch.setitem(sys.modules, f"pycocoevalcap.{name}.{name}", holder)
        monkeypatch.setitem(sys.modules, f"pycocoevalcap.{name}", types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "pycocoevalcap", types.ModuleType("pycocoevalcap"))
    return killed


@pytest.mark.parametrize("order", [1, 4])
def test_the_best_constant_caption_is_found_as_by_trying_all(order):
    rng = np.random.default_rng(3)

    def sentence():
        return [str(word) for word in rng.choice(list("abcd"), rng.integers(1, 8))]

    references = [[sentence() for _ in range(rng.integers(1, 4))] for _ in range(7)]
    captions = [words for each in references for words in each]
    scores = [bleu([words] * len(references), references, order).scores[-1] for words in captions]
    found = best_constant(captions, references, order=order)
    assert found == tuple(captions[int(np.argmax(scores))])
    with pytest.raises(DataError, match="no captions to choose"):
        best_constant([], references)
