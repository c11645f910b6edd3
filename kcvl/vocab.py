"""`kcvl vocab`: the words of captions."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from kcvl.parser import UsageError
from kcvl.terminal import next_steps, quiet, quoted, say, wrote
from kcvl.text import count_text, table
from keras_cv_lectures.data import caption_texts, has_splits, open_source
from keras_cv_lectures.data.spec_text import parse_spec
from keras_cv_lectures.data.specs import splits_of
from keras_cv_lectures.errors import DataError
from keras_cv_lectures.text import SPECIAL_WORDS, Vocabulary, tokenize

_SHOWN = 12


def run_vocab(arguments: argparse.Namespace) -> int:
    """Builds and writes a vocabulary. Returns the exit code."""
    out = Path(arguments.out)
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder. Name a file, such as {out / 'vocabulary.txt'}.")
    least = len(SPECIAL_WORDS) + 1
    if arguments.size is not None and arguments.size < least:
        raise UsageError(f"--size must be at least {least}: {', '.join(SPECIAL_WORDS)} and one word.")
    with quiet():
        source = open_source(arguments.data, "train" if has_splits(arguments.data) else None)
        texts = list(caption_texts(source))
        vocabulary = Vocabulary.build(texts, min_count=arguments.min_count, size=arguments.size)
        shares = [_row(source.name, len(source), texts, vocabulary)]
        for name, captions in _validation(arguments.data):
            shares.append(_row(name, *captions, vocabulary))
    counts = Counter(word for text in texts for word in tokenize(text))
    say(table(["data", "pictures", "captions", "words", "unknown words", "share"], shares))
    frequent = ", ".join(f"{word} {counts[word]:,}" for word in vocabulary.words[4 : 4 + _SHOWN])
    say(f"most frequent: {frequent}" + (", ..." if len(vocabulary) > 4 + _SHOWN else ""))
    rest = len(counts) - (len(vocabulary) - len(SPECIAL_WORDS))
    why = f"which occur less than {count_text(arguments.min_count, 'time')}"
    why += " or are beyond --size" if arguments.size else ""
    say(
        f"{count_text(len(vocabulary), 'word')}, the first {len(SPECIAL_WORDS)} included; "
        + (
            f"{rest:,} of {count_text(len(counts), 'different word')} are left out, {why}"
            if rest
            else "none is left out"
        )
    )
    vocabulary.save(out)
    wrote(out)
    given = ("--data", arguments.data, "--set", f"vocabulary={out}")
    next_steps(quoted("kcvl", "train", "show_attend_tell", *given, "--out", "runs/mine"))
    return 0


def _validation(spec: str) -> list[tuple[str, tuple[int, list[str]]]]:
    """Name, number of pictures and captions of the validation split, where the layout has one."""
    if not has_splits(spec) or "val" not in splits_of(parse_spec(spec)):
        return []
    try:
        source = open_source(spec, "val")
    except DataError:  # Training names what is wrong; a vocabulary needs the training captions alone.
        return []
    return [(source.name, (len(source), list(caption_texts(source))))]


def _row(name: str, pictures: int, texts: list[str], vocabulary: Vocabulary) -> list[object]:
    unknown, total = vocabulary.unknown(texts)
    share = f"{unknown / max(1, total):.2%}"
    return [name, pictures, len(texts), total, unknown, share]
