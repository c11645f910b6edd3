"""How good captions are: BLEU, ROUGE-L and CIDEr-D as coco-caption computes them; METEOR and SPICE where Java is.

    caption_scores(["a dog runs"], [["a dog is running", "the dog runs"]])["bleu1"]

Every candidate belongs to one picture, every picture has one or more references. A sentence is a text, which
`text.tokenize` splits (lower case, no punctuation: published numbers depend on it), or a sequence of its words. A
candidate without words is allowed and scores 0; references without words are left out.

Papineni et al., BLEU, ACL 2002, https://aclanthology.org/P02-1040; Lin, ROUGE, 2004,
https://aclanthology.org/W04-1013; Vedantam et al., CIDEr, CVPR 2015, https://arxiv.org/abs/1411.5726; rules of
https://github.com/tylin/coco-caption.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cv_lectures.errors import DataError, ModelError
from keras_cv_lectures.text import as_text, tokenize

Sentence = str | Sequence[str]
_Words = tuple[str, ...]

MAX_ORDER = 4
ROUGE_BETA = 1.2
CIDER_SIGMA = 6.0
# coco-caption's guards against division by zero: an order without any match gives a tiny number instead of 0.
_TINY, _SMALL = 1e-15, 1e-9


@dataclass(frozen=True, kw_only=True)
class BleuScore:
    """BLEU of a corpus.

    Attributes:
        scores: BLEU-1 ... BLEU-max_order in 0..1, brevity penalty included.
        precisions: share of the candidates' n-grams that are in a reference, for each order alone.
        brevity_penalty: exp(1 - r / c) where the candidates are shorter than the references, else 1.
        candidate_length: c, words of all candidates.
        reference_length: r, words of the references that are closest in length, ties to the shorter.
        per_picture: (N, max_order) float64, each picture as a corpus of its own. Without 4-gram in common BLEU-4 is
            nearly 0, whatever the other orders say.
    """

    scores: tuple[float, ...]
    precisions: tuple[float, ...]
    brevity_penalty: float
    candidate_length: int
    reference_length: int
    per_picture: np.ndarray


def caption_scores(
    candidates: Sequence[Sentence], references: Sequence[Sequence[Sentence]], *, java: bool = False
) -> dict[str, float]:
    """All scores of a set of captions.

    Args:
        candidates: one caption for each of N pictures.
        references: for each picture the captions that people wrote.
        java: METEOR and SPICE too, which run Java programs of pycocoevalcap (extra `[captions]`; SPICE fetches its
            language models at its first use).

    Returns:
        `bleu1` ... `bleu4` and `rouge_l` in 0..1, `cider` (CIDEr-D) in 0..10, and with `java` `meteor` and `spice` in
        0..1. The document frequencies of CIDEr are those of these references, so that it changes with the set of
        pictures, and is 0 of a single one.

    Raises:
        DataError: there is no caption, the lengths differ, or a picture has no reference with words.
        ModelError: pycocoevalcap or Java is missing.
    """
    pairs = _pairs(candidates, references)
    found = {f"bleu{order}": score for order, score in enumerate(_bleu(pairs, MAX_ORDER).scores, 1)}
    found["rouge_l"] = float(np.mean(_rouge_l(pairs, ROUGE_BETA)))
    found["cider"] = float(np.mean(_cider_d(pairs, CIDER_SIGMA)))
    return found | (_java_scores(pairs) if java else {})


def bleu(
    candidates: Sequence[Sentence], references: Sequence[Sequence[Sentence]], max_order: int = MAX_ORDER
) -> BleuScore:
    """BLEU of a corpus: n-grams of all candidates that a reference of their picture has, clipped, times the brevity.

    Args:
        candidates: one caption for each of N pictures.
        references: for each picture the captions that people wrote.
        max_order: longest n-gram.

    Raises:
        DataError: see `caption_scores`; or `max_order` is below 1.

    Differs from the paper: coco-caption adds 1e-15 to matches and 1e-9 to totals, so that a perfect corpus scores
    1 - 1e-9 and one without any match nearly, not exactly, 0.
    """
    if not (isinstance(max_order, int) and max_order >= 1):
        raise DataError(f"`max_order` must be a positive integer. Received: max_order={max_order!r}")
    return _bleu(_pairs(candidates, references), max_order)


def rouge_l(
    candidates: Sequence[Sentence], references: Sequence[Sequence[Sentence]], *, beta: float = ROUGE_BETA
) -> np.ndarray:
    """ROUGE-L of each picture, from the longest common subsequence of words; its mean is the corpus' score.

    Args:
        candidates: one caption for each of N pictures.
        references: for each picture the captions that people wrote.
        beta: weight of recall against precision.

    Returns:
        (N,) float64 in 0..1.

    Raises:
        DataError: see `caption_scores`.

    Differs from the paper: as in coco-caption, the highest precision and the highest recall are taken over the
    references independently.
    """
    return _rouge_l(_pairs(candidates, references), beta)


def cider_d(
    candidates: Sequence[Sentence], references: Sequence[Sequence[Sentence]], *, sigma: float = CIDER_SIGMA
) -> np.ndarray:
    """CIDEr-D of each picture: agreement in n-grams of order 1 to 4, the rarer ones weighing more.

    Args:
        candidates: one caption for each of N pictures.
        references: for each picture the captions that people wrote; the document frequencies are theirs.
        sigma: of the Gaussian that punishes a difference in length.

    Returns:
        (N,) float64 in 0..10; 0 of a single picture, whose n-grams are all in every document.

    Raises:
        DataError: see `caption_scores`.

    Differs from the paper: as in coco-caption, words are not stemmed, the term frequency is the plain count, and the
    length is the number of bigrams.
    """
    return _cider_d(_pairs(candidates, references), sigma)


def _pairs(
    candidates: Sequence[Sentence], references: Sequence[Sequence[Sentence]]
) -> list[tuple[_Words, list[_Words]]]:
    """Of each picture the words of its candidate and of its references."""
    for argument, values in (("candidates", candidates), ("references", references)):
        if isinstance(values, str):
            raise DataError(f"`{argument}` must hold one entry for each picture. Received: the text {values!r}.")
    if len(candidates) != len(references):
        raise DataError(
            f"every candidate needs the references of its picture. Received: {len(candidates)} candidates, "
            f"{len(references)} lists of references."
        )
    if not len(candidates):
        raise DataError("there are no captions to score. Give one candidate and its references for each picture.")
    pairs = []
    for index, (candidate, known) in enumerate(zip(candidates, references, strict=True)):
        if isinstance(known, str):
            raise DataError(
                f"`references` must hold a list of captions for each picture. Received: the text {known!r} for "
                f"picture {index}. Write [{known!r}]."
            )
        texts = [words for words in map(_words, known) if words]
        if not texts:
            raise DataError(f"picture {index} has no reference with words. Leave it out, or give it a caption.")
        pairs.append((_words(candidate), texts))
    return pairs


def _words(sentence: Sentence) -> _Words:
    if isinstance(sentence, str | bytes):  # bytes: as TensorFlow's texts come
        return tuple(tokenize(as_text(sentence)))
    return tuple(as_text(word) for word in sentence)


def _ngrams(words: _Words, order: int) -> Counter[_Words]:
    return Counter(words[start : start + order] for start in range(len(words) - order + 1))


def _bleu(pairs: Sequence[tuple[_Words, list[_Words]]], max_order: int) -> BleuScore:
    matches, totals = (np.zeros((len(pairs), max_order)) for _ in range(2))
    lengths = np.zeros((len(pairs), 2))  # of the candidate and of the closest reference
    for row, (candidate, references) in enumerate(pairs):
        lengths[row] = len(candidate), min((abs(len(r) - len(candidate)), len(r)) for r in references)[1]
        for order in range(1, max_order + 1):
            found = _ngrams(candidate, order)
            most: Counter[_Words] = Counter()
            for reference in references:
                most |= _ngrams(reference, order)
            matches[row, order - 1] = (found & most).total()
            totals[row, order - 1] = found.total()
    corpus, penalty = _combine(matches.sum(axis=0), totals.sum(axis=0), *lengths.sum(axis=0))
    per_picture = [_combine(m, t, *pair)[0] for m, t, pair in zip(matches, totals, lengths, strict=True)]
    precisions = (matches.sum(axis=0) + _TINY) / (totals.sum(axis=0) + _SMALL)
    return BleuScore(
        scores=tuple(float(score) for score in corpus),
        precisions=tuple(float(precision) for precision in precisions),
        brevity_penalty=penalty,
        candidate_length=int(lengths[:, 0].sum()),
        reference_length=int(lengths[:, 1].sum()),
        per_picture=np.array(per_picture),
    )


def _combine(matches: np.ndarray, totals: np.ndarray, candidate: float, reference: float) -> tuple[np.ndarray, float]:
    """Geometric means of the precisions up to each order, times the brevity penalty, and that penalty."""
    ratio = (candidate + _TINY) / (reference + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    orders = np.arange(1, len(matches) + 1)
    return np.cumprod((matches + _TINY) / (totals + _SMALL)) ** (1 / orders) * penalty, penalty


def _rouge_l(pairs: Sequence[tuple[_Words, list[_Words]]], beta: float) -> np.ndarray:
    scores = np.zeros(len(pairs))
    for row, (candidate, references) in enumerate(pairs):
        common = [_longest_common(candidate, reference) for reference in references]
        if not any(common):
            continue
        precision = max(common) / len(candidate)
        recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
        scores[row] = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    return scores


def _longest_common(one: _Words, other: _Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        above = 0  # of the row before, one column to the left
        for column, seen in enumerate(other, 1):
            above, row[column] = row[column], above + 1 if word == seen else max(row[column], row[column - 1])
    return row[-1]


def _cider_d(pairs: Sequence[tuple[_Words, list[_Words]]], sigma: float) -> np.ndarray:
    counted = [(_all_ngrams(candidate), [_all_ngrams(r) for r in references]) for candidate, references in pairs]
    frequency: Counter[_Words] = Counter()
    for _, references in counted:
        frequency.update({ngram for reference in references for ngram in reference})
    weigh = _Weights(frequency, len(pairs))
    scores = np.zeros(len(pairs))
    for row, (candidate, references) in enumerate(counted):
        ours = weigh(candidate)
        scores[row] = 10 * np.mean([_similarity(ours, weigh(reference), sigma) for reference in references])
    return scores


def _all_ngrams(words: _Words) -> Counter[_Words]:
    return sum((_ngrams(words, order) for order in range(1, MAX_ORDER + 1)), Counter())


class _Weights:
    """Counts of n-grams -> for each order their weights, and the norms; and the number of bigrams."""

    def __init__(self, frequency: Counter[_Words], pictures: int):
        self._frequency, self._pictures = frequency, math.log(pictures)

    def __call__(self, counts: Counter[_Words]) -> tuple[list[dict[_Words, float]], np.ndarray, int]:
        weights: list[dict[_Words, float]] = [{} for _ in range(MAX_ORDER)]
        for ngram, count in counts.items():
            rarity = self._pictures - math.log(max(1, self._frequency[ngram]))
            weights[len(ngram) - 1][ngram] = count * rarity
        norms = np.array([math.sqrt(sum(value**2 for value in order.values())) for order in weights])
        return weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)


def _similarity(ours: tuple, theirs: tuple, sigma: float) -> float:
    """Mean over the orders of the clipped cosine, 0..1."""
    (weights, norms, length), (wanted, wanted_norms, wanted_length) = ours, theirs
    dots = np.array(
        [
            sum(min(value, there[ngram]) * there[ngram] for ngram, value in here.items() if ngram in there)
            for here, there in zip(weights, wanted, strict=True)
        ]
    )
    product = norms * wanted_norms
    cosines = np.divide(dots, product, out=np.zeros(MAX_ORDER), where=product > 0)
    return float(cosines.mean() * math.exp(-((length - wanted_length) ** 2) / (2 * sigma**2)))


def _java_scores(pairs: Sequence[tuple[_Words, list[_Words]]]) -> dict[str, float]:
    """METEOR 1.5 and SPICE 1.0 of pycocoevalcap."""
    repair = "Install both, or leave out METEOR and SPICE (java=False)."
    try:
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.spice.spice import Spice
    except ImportError as error:
        raise ModelError(
            f"METEOR and SPICE need pycocoevalcap ({error}): pip install 'keras_cv_lectures[captions]', and a Java "
            f"runtime. {repair}"
        ) from error
    if shutil.which("java") is None:
        raise ModelError(f"METEOR and SPICE are Java programs, and there is no `java` on the PATH. {repair}")
    truths = {index: [" ".join(words) for words in references] for index, (_, references) in enumerate(pairs)}
    found = {index: [" ".join(candidate)] for index, (candidate, _) in enumerate(pairs)}
    scores: dict[str, float] = {}
    for name, make in (("meteor", Meteor), ("spice", Spice)):
        scorer: Any = None
        try:
            scorer = make()
            scores[name] = float(scorer.compute_score(truths, found)[0])
        # Whatever a Java program that fails makes of its caller: a broken pipe, a line that is no number, a non-zero
        # exit, a download that does not come.
        except Exception as error:
            raise ModelError(
                f"{name.upper()} failed in its Java program ({type(error).__name__}: {str(error)[:300]}). It needs 2 "
                f"to 8 GB of memory and Java 8 or later; SPICE fetches models at its first use. {repair}"
            ) from error
        finally:
            # METEOR's process lives on, with its memory, until it is ended.
            process = getattr(scorer, "meteor_p", None)
            if process is not None:
                process.kill()
    return scores
