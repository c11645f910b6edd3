"""Captions as words, and words as numbers: one tokenizer and one vocabulary for training, decoding and scoring."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from keras_cv_lectures.errors import DataError
from keras_cv_lectures.files import read_text, write_text

PAD, START, END, UNKNOWN = 0, 1, 2, 3
SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unk>")


@dataclass(frozen=True)
class Vocabulary:
    """The words that a captioner knows; a word's place is its id. Cannot be changed.

    Ids 0 to 3 are padding, the start and the end of a caption, and any word that is not in the list. The rest follows
    by falling frequency, words of one frequency alphabetically.

    Attributes:
        words: in the order of ids, the four first ones included.

    Raises:
        DataError: the four first words are others, or a word is empty, holds white space or occurs twice.
    """

    words: tuple[str, ...]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        if isinstance(self.words, str):
            raise DataError(f"words must be a sequence of words, received the text {self.words[:40]!r}. Split it.")
        words = tuple(self.words)
        if words[:4] != SPECIAL_WORDS:
            raise DataError(
                f"a vocabulary begins with {', '.join(SPECIAL_WORDS)} (ids 0 to 3), received "
                f"{', '.join(map(repr, words[:4])) or 'no word'}. Put them first, or build it with `kcvl vocab`."
            )
        ids: dict[str, int] = {}
        for number, word in enumerate(words):
            if not isinstance(word, str) or word.split() != [word]:
                raise DataError(
                    f"word {number} of the vocabulary is {word!r}; expected one word without white space. Remove it: "
                    "the ids of all later words change, so it must happen before training."
                )
            if ids.setdefault(word, number) != number:
                raise DataError(f"the vocabulary holds {word!r} twice, as {ids[word]} and {number}. Remove one.")
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def build(cls, captions: Iterable[str], *, min_count: int = 5, size: int | None = None) -> Vocabulary:
        """The words of `captions`.

        Args:
            captions: of the training data, one sentence each, as text or UTF-8 bytes; divided by `tokenize`.
            min_count: words that occur less often are left out.
            size: the most words, the four first ones included; None for no limit.

        Raises:
            DataError: no word is left, a caption is no UTF-8, or an argument is out of range.
        """
        if min_count < 1:
            raise DataError(f"min_count must be at least 1, received {min_count}.")
        if size is not None and size <= len(SPECIAL_WORDS):
            raise DataError(f"size must be more than the {len(SPECIAL_WORDS)} words that are always there, not {size}.")
        counts = Counter(word for caption in captions for word in tokenize(as_text(caption)))
        frequent = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
        if not frequent:
            raise DataError(
                f"no word occurs {min_count} times or more in the captions, which hold {len(counts)} different words. "
                "Lower min_count, or check that these are the captions."
            )
        return cls((*SPECIAL_WORDS, *frequent)[:size])

    @classmethod
    def load(cls, path: str | os.PathLike) -> Vocabulary:
        """The vocabulary in a file that `save` wrote.

        Raises:
            DataError: the file cannot be read or is no vocabulary.
        """
        repair = "Give a text file of words, one a line, such as `kcvl vocab` writes."
        text = read_text(path, what="the vocabulary", repair=repair)
        # Not `splitlines`, which also divides lines at characters that no editor shows as a line's end.
        lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
        try:
            return cls(tuple(lines))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike) -> None:
        """Writes UTF-8 text, one word a line: the number of the line, from 0, is the word's id."""
        write_text(path, "\n".join(self.words) + "\n")

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def encode(self, caption: str, max_words: int | None = None) -> list[int]:
        """`[1, words ..., 2]`, with 3 for a word that is not in the vocabulary.

        Args:
            caption: a sentence.
            max_words: a longer caption is cut to so many words, and ends with 2 nevertheless.

        Raises:
            DataError: the caption has no word, or `max_words` is not positive.
        """
        if max_words is not None and max_words < 1:
            raise DataError(f"max_words must be at least 1, received {max_words}.")
        words = tokenize(caption)[:max_words]
        if not words:
            raise DataError(f"the caption {caption!r} has no word. Write one, or remove the caption.")
        return [START, *(self._ids.get(word, UNKNOWN) for word in words), END]

    def decode(self, ids: Iterable[int]) -> str:
        """The words of `ids` up to the first 2, with spaces between; 0 and 1 are passed over, 3 is shown as `<unk>`.

        Raises:
            DataError: an id is none of this vocabulary, because a model goes with another one.
        """
        words = []
        for number in map(int, ids):
            if number == END:
                break
            if not 0 <= number < len(self.words):
                raise DataError(
                    f"id {number} is not in this vocabulary of {len(self.words)} words. Use the vocabulary that the "
                    "model was trained with."
                )
            if number not in (PAD, START):
                words.append(self.words[number])
        return " ".join(words)

    def unknown(self, captions: Iterable[str]) -> tuple[int, int]:
        """How many words of `captions` are not in the vocabulary, and how many words there are."""
        unknown = total = 0
        for caption in captions:
            words = tokenize(caption)
            total += len(words)
            unknown += sum(word not in self._ids for word in words)
        return unknown, total


def as_text(caption: str | bytes) -> str:
    """A caption as text, whether its source gives text or UTF-8 bytes.

    Raises:
        DataError: the bytes are no UTF-8.
    """
    try:
        return caption.decode() if isinstance(caption, bytes) else str(caption)
    except UnicodeDecodeError as error:
        raise DataError(f"the caption {caption[:60]!r} is no UTF-8 text. Give captions as str.") from error


def tokenize(caption: str) -> list[str]:
    """The words of a caption in lower case, nearly as coco-caption's scores have them; punctuation is dropped.

    Follows the Penn Treebank: clitics are words of their own (`the dog's` is `the dog 's`, `don't` is `do n't`,
    `cannot` is `can not`), whether the text is divided there already or not; hyphens, slashes and other apostrophes
    stay inside a word (`t-shirt`, `o'clock`), as do points in abbreviations and numbers (`u.s.`, `3.5`, `1,000`);
    `&`, `%`, `$`, `#` and the like are words. Accents and vowel signs belong to the letter before them, and a letter
    that Unicode can write with its accent is written so (form NFC).

    In languages that are written without spaces, words are not found: of Chinese, Japanese and Thai each character is a
    word, unless the caption has spaces between such characters, which then divide its words. Captions in Khmer, Lao or
    Burmese, and those whose words should be longer, need spaces: a caption without them would be one word.

    Differs from the paper: coco-caption runs Stanford's PTBTokenizer (Java). Here brackets are dropped (its list means
    them, but is in upper case), `/` and `*` are not escaped, of abbreviations with a point only acronyms and titles are
    known, and characters that are neither letters, digits nor one of the symbols above are dropped.

    >>> tokenize("A dog's owner isn't there, at 5:30 (p.m.)!")
    ['a', 'dog', "'s", 'owner', 'is', "n't", 'there', 'at', '5:30', 'p.m.']
    """
    text = unicodedata.normalize("NFC", caption.lower()).translate(_APOSTROPHES)
    if not text.isascii() and not _DIVIDED.search(text):
        text = _UNDIVIDED.sub(r" \g<0> ", text)
    words: list[str] = []
    for found in _TOKEN.finditer(_with_marks_as_letters(text)):
        words += _split(text[found.start() : found.end()])
    return words


def _with_marks_as_letters(text: str) -> str:
    """`text` with an underscore, which `_TOKEN` takes for a letter, in the place of every combining mark of a word."""
    if text.isascii():
        return text
    letters, inside = [], False
    for character in text:
        mark = unicodedata.category(character) in ("Mn", "Mc")
        inside = inside if mark else character.isalnum()
        letters.append("_" if mark and inside else character)
    return "".join(letters)


def _split(token: str) -> Sequence[str]:
    """A token, or its parts where it is a contraction."""
    end, clitics = len(token), []
    # By places, because a hostile token may end in a hundred thousand of them.
    while (found := _CLITIC.search(token, max(1, end - 3), end)) and token[: min(end, _LONG)] not in _ASSIMILATED:
        clitics.append(found[0])
        end = found.start()
    return (*_ASSIMILATED.get(token[:end], (token[:end],)), *reversed(clitics))


# Typographic and foreign forms of the apostrophe.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4\u0060\uff07", "'"))
_TOKEN = re.compile(
    r"""
      (?:[^\W\d_]\.){2,}                                # u.s., p.m.
    | \b(?:mr|mrs|ms|dr|st|jr|sr|vs)\.(?=\s*\w)         # st. bernard, but not the point at the end of a sentence
    | \d+(?:[.,:]\d+)+(?:[-/]?\w+)*                     # 1,000, 3.5, 5:30, 5:30pm
    | (?<!\w)'(?:\d\ds?|n'?(?!\w)|tis\b|twas\b|em\b|(?:s|m|d|ll|re|ve|t)\b)    # '90s, rock 'n' roll, 'em, a lone 's
    | \w+(?:[-'/]\w+)*                                  # words; with hyphens, apostrophes, slashes inside
    | [&%$\#@*+=\u00a3\u20ac\u00b0]
    """,
    re.VERBOSE,
)
# A character of a script without spaces (Han, kana, Thai), and the marks that belong to it.
_UNDIVIDED = re.compile(
    "[\u3005-\u3007\u3041-\u309f\u30a1-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003fffd"
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u3099\u309a]*"
)
_DIVIDED = re.compile(rf"{_UNDIVIDED.pattern}\s+{_UNDIVIDED.pattern}")
_CLITIC = re.compile(r"(?:n't|'(?:s|m|d|ll|re|ve))\Z")
_ASSIMILATED = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "gimme": ("gim", "me"),
    "lemme": ("lem", "me"),
    "'tis": ("'t", "is"),
    "'twas": ("'t", "was"),
}
_LONG = 1 + max(map(len, _ASSIMILATED))  # Longer than all of them.
