"""The caption that scores best when it is said about every picture: what a captioner has to beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.metrics.captions import MAX_ORDER, Sentence, _combine, _ngrams, _pairs, _Words, _words


def best_constant(
    captions: Sequence[Sentence], references: Sequence[Sequence[Sentence]], *, order: int = MAX_ORDER
) -> tuple[str, ...]:
    """The words of the one of `captions` with the highest corpus BLEU, said about all pictures.

    The search is exact and takes time in proportion to the number of captions, not times that of pictures: what a
    constant caption matches depends only on in how many pictures each of its n-grams occurs.

    Args:
        captions: to choose from, such as all references; the first of equally good ones is taken.
        references: for each picture the captions that people wrote.
        order: BLEU-1 ... BLEU-4: the longest n-grams that count.

    Raises:
        DataError: see `metrics.caption_scores`; or there is nothing to choose from.
    """
    pairs = _pairs([()] * len(references), references)
    counts: Counter[tuple[_Words, int]] = Counter()  # (n-gram, k) -> pictures with a reference that has it k times
    for _, known in pairs:
        most: Counter[_Words] = Counter()
        for words in known:
            for length in range(1, order + 1):
                most |= _ngrams(words, length)
        counts.update((ngram, k) for ngram, times in most.items() for k in range(1, times + 1))
    closest: dict[int, int] = {}
    best: tuple[float, _Words] = (-1.0, ())
    for words in dict.fromkeys(map(_words, captions)):
        if len(words) not in closest:
            closest[len(words)] = sum(min((abs(len(r) - len(words)), len(r)) for r in known)[1] for _, known in pairs)
        matches, totals = np.zeros(order), np.zeros(order)
        for length in range(1, order + 1):
            found = _ngrams(words, length)
            totals[length - 1] = found.total() * len(pairs)
            matches[length - 1] = sum(counts[ngram, k] for ngram, times in found.items() for k in range(1, times + 1))
        scores, _ = _combine(matches, totals, len(words) * len(pairs), closest[len(words)])
        best = max(best, (float(scores[-1]), words), key=lambda pair: pair[0])
    if not closest:
        raise DataError(
            "there are no captions to choose the best constant one from. Give some, such as the references."
        )
    return best[1]
