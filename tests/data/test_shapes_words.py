"""What is said about generated pictures is true: the checks read the sentences and know nothing of their making."""

import re

import numpy as np
import pytest

from keras_cv_lectures.data import shapes_source
from keras_cv_lectures.data.shapes import (
    CLEAR_GAP,
    CLEAR_SHARE,
    SHAPE_CLASSES,
    SHAPE_COLORS,
    Background,
    Scene,
    draw_example,
    is_clear,
    make_shape,
    render,
)
from keras_cv_lectures.text import tokenize

SIZE = (96, 128)


@pytest.fixture(scope="module")
def examples():
    return [draw_example(11, index, SIZE) for index in range(120)]


def test_phrases_fit_exactly_one_shape(examples):
    named = 0
    for example in examples:
        for i, phrase in enumerate(example["phrases"].tolist()):
            if phrase:
                assert _referents(phrase, example) == [i], phrase
                named += 1
    assert named > 0.9 * sum(len(example["labels"]) for example in examples)


def test_two_shapes_alike_are_told_apart_by_position_and_three_in_a_spot_not_at_all():
    pair = _red_squares((5, 5), (23, 5))
    assert [phrase.split()[1] for phrase in pair["phrases"].tolist()] == ["leftmost", "rightmost"]
    # The one in the middle is between the others on both axes.
    row = _red_squares((5, 5), (15, 15), (25, 25))
    assert row["phrases"][1] == ""
    assert row["phrases"][0] != ""


def test_answers_are_true(examples):
    seen = {}
    for example in examples:
        questions = example["questions"].tolist()
        assert len({question for question, _ in questions}) == len(questions), "asked twice"
        for question, answer in questions:
            kind, truth = _answer(question, example)
            assert answer == truth, (question, answer)
            seen.setdefault(kind, set()).add(answer)
    assert seen["exists"] == seen["relation"] == {"yes", "no"}
    assert seen["color"] == set(SHAPE_COLORS)
    assert seen["shape"] == set(SHAPE_CLASSES)
    assert {"0", "1", "2", "3"} <= seen["count"]


def test_yes_and_no_are_balanced(examples):
    answers = [answer for e in examples for _, answer in e["questions"].tolist() if answer in ("yes", "no")]
    assert 0.45 < answers.count("yes") / len(answers) < 0.55


def test_sentences_are_true(examples):
    relations = 0
    for example in examples:
        things = _things(example)
        kinds = [kind for _, _, kind in things]
        for caption in example["sentences"].tolist():
            if not things:
                assert "empty" in caption or "no shapes" in caption
            elif caption.startswith("a picture of "):
                counts = _counts(caption.removeprefix("a picture of "))
                assert counts == {(c, k): sum(t[1:] == (c, k) for t in things) for _, c, k in things}
            elif match := re.fullmatch(r"(\w+) shapes?: (.*)", caption):
                assert _NUMBERS[match[1]] == len(things)
                assert _counts(match[2]) == {(kind,): kinds.count(kind) for kind in kinds}
            elif match := re.fullmatch(r"a (\w+ \w+ \w+) (left of|right of|above|below) a (\w+ \w+ \w+)", caption):
                first, second = tuple(match[1].split()), tuple(match[3].split())
                pairs = [
                    (a, b) for a, t in enumerate(things) for b, u in enumerate(things) if (t, u) == (first, second)
                ]
                assert any(_holds(match[2], a, b, example) for a, b in pairs if a != b), caption
                relations += 1
            else:
                match = re.fullmatch(r"a (\w+ \w+ \w+) (?:in|at|on) the (.*)", caption)
                alike = [i for i, thing in enumerate(things) if thing == tuple(match[1].split())]
                assert any(_lies(match[2], example["boxes"][i]) for i in alike), caption
    assert relations > 60


def test_the_caption_names_every_shape_from_left_to_right(examples):
    joints = set()
    for example in examples:
        things, (caption,), objects = _things(example), example["captions"].tolist(), example["caption_objects"]
        words = caption.split()
        assert words == tokenize(caption)
        named = objects[objects >= 0].tolist()
        assert sorted(named) == list(range(len(things))), "each shape once"
        if not things:
            assert caption == "an empty picture"
            continue
        places = np.flatnonzero(objects >= 0)
        for place, i in zip(places, named, strict=True):
            assert words[place - 3 : place + 1] == ["a", *things[i]]
        centers = [_center(example["boxes"][i])[0] for i in named]
        for place, near, far in zip(places, centers, centers[1:], strict=False):
            assert near <= far
            joint = "left of" if far - near >= CLEAR_GAP * SIZE[1] else "and"
            assert " ".join(words[place + 1 :]).startswith(f"{joint} a ")
            joints.add(joint)
        assert len(words) == 4 * len(things) + words.count("left") * 2 + words.count("and")
    assert joints == {"left of", "and"}


def test_a_caption_by_hand():
    shapes = [
        ("square", "red", (28.0, 10.0), 4.0),
        ("star", "blue", (9.0, 20.0), 8.0),
        ("ring", "cyan", (27.0, 25.0), 3),
    ]
    scene = Scene(
        tuple(make_shape(SHAPE_CLASSES.index(kind), color, place, radius) for kind, color, place, radius in shapes),
        Background.plain(),
    )
    example = render(scene, (32, 40))
    assert example["captions"].tolist() == ["a large blue star left of a small cyan ring and a small red square"]
    assert example["caption_objects"].tolist() == [-1, -1, -1, 1, -1, -1, -1, -1, -1, 2, -1, -1, -1, -1, 0]


def test_clear_pictures_leave_no_doubt():
    source = shapes_source(60, size=(48, 64), seed=2, max_shapes=3, clear=True)
    counts = set()
    for example in source:
        counts.add(len(example["labels"]))
        columns = np.sort([_center(box)[0] for box in example["boxes"]])
        assert (np.diff(columns) >= CLEAR_GAP * 64).all()
        assert " and " not in example["captions"][0]
    assert counts == {0, 1, 2, 3}
    # The same pictures whatever the number, each its own, with ids in a row.
    longer = shapes_source(80, size=(48, 64), seed=2, max_shapes=3, clear=True)
    assert longer.ids[:60] == source.ids
    assert {source[i]["image_id"] for i in range(60)} == set(source.ids)
    assert all(np.array_equal(longer[i]["image"], source[i]["image"]) for i in (0, 13, 59))
    assert len({example["image"].tobytes() for example in longer}) == 80


def test_a_shape_that_hides_another_is_not_clear():
    square = SHAPE_CLASSES.index("square")

    def clear(x):
        """A square of side 8 at 12 under one of side 8 at x, on a picture 64 wide (gap 3.84 px)."""
        radius = 4 * 2**0.5
        shapes = (make_shape(square, "red", (12.0, 12.0), radius), make_shape(square, "blue", (x, 12.0), radius))
        return is_clear(Scene(shapes, Background.plain()), (32, 64))

    assert CLEAR_SHARE == 0.6
    # From 5 px on, 5 of 8 columns of the lower one are seen; its visible box then ends at the upper one.
    assert [clear(12.0 + gap) for gap in (1, 4, 5, 9)] == [False, False, True, True]
    # Cut at the border.
    assert [clear(x) for x in (60.0, 61.0, 64.0)] == [True, True, False]
    above = (make_shape(square, "red", (12.0, 8.0), 4.0), make_shape(square, "blue", (14.0, 24.0), 4.0))
    assert not is_clear(Scene(above, Background.plain()), (32, 64))


# A reader of the sentences.

_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


def _red_squares(*centers):
    shapes = tuple(make_shape(SHAPE_CLASSES.index("square"), "red", center, 4.0) for center in centers)
    return render(Scene(shapes, Background.plain()), (32, 40))


def _things(example):
    return [
        (*attributes, SHAPE_CLASSES[label])
        for attributes, label in zip(example["attributes"].tolist(), example["labels"], strict=True)
    ]


def _singular(noun):
    return {"crosses": "cross"}.get(noun, noun.removesuffix("s") if noun != "cross" else noun)


def _counts(text):
    """'two red circles and a blue star' -> {('red', 'circle'): 2, ('blue', 'star'): 1}"""
    counts = {}
    for part in re.split(r", | and ", text):
        number, *words = part.split()
        counts[*words[:-1], _singular(words[-1])] = _NUMBERS[number]
    return counts


def _center(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _referents(phrase, example):
    """The instances that 'the leftmost large red star' fits."""
    article, *words, noun = phrase.split()
    assert article == "the"
    extreme = words.pop(0) if words and words[0].endswith("most") else None
    found = [
        i for i, thing in enumerate(_things(example)) if set(words) <= set(thing[:2]) and noun in ("shape", thing[2])
    ]
    if extreme:
        assert len(found) > 1, "a superlative needs company"
        axis, sign = {"leftmost": (0, 1), "rightmost": (0, -1), "topmost": (1, 1), "bottommost": (1, -1)}[extreme]
        key = [sign * _center(example["boxes"][i])[axis] for i in found]
        found = [i for i, value in zip(found, key, strict=True) if value == min(key)]
    return found


def _holds(relation, a, b, example):
    """Along the axis of `relation` a lies on that side of b, and along the other axis they are closer."""
    (xa, ya), (xb, yb) = (_center(example["boxes"][i]) for i in (a, b))
    right, down = xb - xa, yb - ya
    ahead, aside = {
        "left of": (right, down),
        "right of": (-right, down),
        "above": (down, right),
        "below": (-down, right),
    }[relation]
    return ahead > abs(aside)


def _lies(place, box):
    x, y = _center(box)
    column, row = 3 * x / SIZE[1], 3 * y / SIZE[0]
    sides = {"left": column < 1, "right": column >= 2, "top": row < 1, "bottom": row >= 2}
    return set(place.split()) == ({side for side, there in sides.items() if there} or {"center"})


def _answer(question, example):
    """(kind of question, true answer)"""
    things = _things(example)
    if match := re.fullmatch(r"how many (\w+) are there\?", question):
        kind = _singular(match[1])
        return "count", str(sum(kind in ("shape", thing[2]) for thing in things))
    if match := re.fullmatch(r"how many (\w+) shapes are there\?", question):
        return "count", str(sum(match[1] == thing[1] for thing in things))
    if match := re.fullmatch(r"is there an? (\w+) (\w+)\?", question):
        return "exists", "yes" if match.groups() in [thing[1:] for thing in things] else "no"
    if match := re.fullmatch(r"what color is the (\w+)\?", question):
        (color,) = [thing[1] for thing in things if thing[2] == match[1]]
        return "color", color
    if match := re.fullmatch(r"what is the shape of the (\w+) object\?", question):
        (kind,) = [thing[2] for thing in things if thing[1] == match[1]]
        return "shape", kind
    match = re.fullmatch(r"is (the [\w ]+?) (left of|right of|above|below) (the [\w ]+)\?", question)
    (a,), (b,) = _referents(match[1], example), _referents(match[3], example)
    return "relation", "yes" if _holds(match[2], a, b, example) else "no"
