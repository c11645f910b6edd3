"""True sentences about a labelled scene: of many forms, questions with answers, and referring phrases.

They are made from labels, attributes and visible boxes alone. Spatial words are used only where they are beyond doubt:
by the centres of the boxes, in the direction that clearly dominates.
"""

from __future__ import annotations

import numpy as np

from keras_cv_lectures.data.shapes.scene import SHAPE_CLASSES, SHAPE_COLORS

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_EXTREMES = {"leftmost": (0, 1.0), "rightmost": (0, -1.0), "topmost": (1, 1.0), "bottommost": (1, -1.0)}
_EXTREME_MARGIN = 4.0  # pixels to the runner-up; nobody should have to measure


def describe(
    labels: np.ndarray, attributes: np.ndarray, boxes: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Words for N labelled shapes.

    Args:
        labels: (N,) int32. attributes: (N, 2) strings, size and color. boxes: (N, 4) float32 of the visible parts.
        size: (height, width) of the picture. rng: chooses among true sentences.

    Returns:
        `sentences` (C,) strings, C >= 2; `questions` (Q, 2) strings, question and answer; `phrases` (N,) strings: each
        fits exactly one shape, or is "" where no phrase of the grammar does.
    """
    things = [
        (str(dimension), str(color), SHAPE_CLASSES[label])
        for label, (dimension, color) in zip(labels.tolist(), attributes.tolist(), strict=True)
    ]
    centers = [((x1 + x2) / 2.0, (y1 + y2) / 2.0) for x1, y1, x2, y2 in boxes.tolist()]
    phrases = [_phrase(i, things, centers, rng) for i in range(len(things))]
    relations = _clear_relations(boxes.tolist(), centers)
    sentences = _sentences(things, centers, relations, size, rng)
    return {
        "sentences": np.array(sentences, dtype=np.str_),
        "questions": np.array(_questions(things, phrases, relations, rng), dtype=np.str_).reshape(-1, 2),
        "phrases": np.array(phrases, dtype=np.str_),
    }


Thing = tuple[str, str, str]  # size, color, class
Relation = tuple[int, str, int]  # instance, "left of" ..., instance


def _sentences(
    things: list[Thing],
    centers: list[tuple[float, float]],
    relations: list[Relation],
    size: tuple[int, int],
    rng: np.random.Generator,
) -> list[str]:
    if not things:
        return ["an empty picture", "there are no shapes in the picture"]
    names = [f"{color} {kind}" for _, color, kind in things]
    inventory = [_quantity(names.count(name), name) for name in dict.fromkeys(names)]
    kinds = [kind for *_, kind in things]
    tally = _join([f"{_number(kinds.count(kind))} {_plural(kind, kinds.count(kind))}" for kind in dict.fromkeys(kinds)])
    sentences = [
        f"a picture of {_join(inventory)}",
        f"{_number(len(things))} {_plural('shape', len(things))}: {tally}",
    ]
    if relations:
        first, relation, second = relations[_pick(rng, len(relations))]
        sentences.insert(0, f"a {' '.join(things[first])} {relation} a {' '.join(things[second])}")
    i = _pick(rng, len(things))
    sentences.append(f"a {' '.join(things[i])} {_place(centers[i], size)}")
    return sentences


def _questions(
    things: list[Thing], phrases: list[str], relations: list[Relation], rng: np.random.Generator
) -> list[tuple[str, str]]:
    colors, kinds = [color for _, color, _ in things], [kind for *_, kind in things]
    absent = [kind for kind in SHAPE_CLASSES if kind not in kinds]
    asked = [("how many shapes are there?", str(len(things)))]
    for kind in [*dict.fromkeys(kinds), *_sample(rng, absent, 1)]:
        asked.append((f"how many {_plural(kind)} are there?", str(kinds.count(kind))))
    for color in dict.fromkeys(colors):
        asked.append((f"how many {color} shapes are there?", str(colors.count(color))))
    asked += _existence(list(dict.fromkeys(zip(colors, kinds, strict=True))), rng)
    for _, color, kind in things:
        if kinds.count(kind) == 1:
            asked.append((f"what color is the {kind}?", color))
        if colors.count(color) == 1:
            asked.append((f"what is the shape of the {color} object?", kind))
    named = [(a, relation, b) for a, relation, b in relations if phrases[a] and phrases[b]]
    for a, relation, b in _sample(rng, named, 2):
        true = rng.random() < 0.5
        word = relation if true else _OPPOSITE[relation]
        asked.append((f"is {phrases[a]} {word} {phrases[b]}?", "yes" if true else "no"))
    return asked


def _existence(present: list[tuple[str, str]], rng: np.random.Generator) -> list[tuple[str, str]]:
    """As many questions with the answer no as with yes, the former about near misses where there are any."""
    colors, kinds = {color for color, _ in present}, {kind for _, kind in present}
    absent = [(color, kind) for color in SHAPE_COLORS for kind in SHAPE_CLASSES if (color, kind) not in present]
    near = [(color, kind) for color, kind in absent if color in colors or kind in kinds]
    denied = _sample(rng, near or absent, max(1, len(present)))
    answers = [(pair, "yes") for pair in present] + [(pair, "no") for pair in denied]
    return [(f"is there {_article(color)} {kind}?", answer) for (color, kind), answer in answers]


def _phrase(i: int, things: list[Thing], centers: list[tuple[float, float]], rng: np.random.Generator) -> str:
    """A phrase that fits instance i alone: by its own properties if possible, else by its position among its like."""
    dimension, color, kind = things[i]
    by_property, by_position = [], []
    for wanted in (
        (None, None, kind),
        (None, color, None),
        (None, color, kind),
        (dimension, None, kind),
        (dimension, color, None),
        (dimension, color, kind),
    ):
        alike = [
            j
            for j, thing in enumerate(things)
            if all(want is None or want == have for want, have in zip(wanted, thing, strict=True))
        ]
        words = " ".join(word for word in (*wanted[:2], wanted[2] or "shape") if word)
        if alike == [i]:
            by_property.append(f"the {words}")
            continue
        for extreme, (axis, sign) in _EXTREMES.items():
            rivals = [sign * centers[j][axis] for j in alike if j != i]
            if sign * centers[i][axis] + _EXTREME_MARGIN <= min(rivals):
                by_position.append(f"the {extreme} {words}")
    choices = by_property or by_position
    return choices[_pick(rng, len(choices))] if choices else ""


def _clear_relations(boxes: list[list[float]], centers: list[tuple[float, float]]) -> list[Relation]:
    """Ordered pairs whose distance along one axis is half the mean box side at least, and 1.5 times the other one."""
    relations = []
    for a, (xa, ya) in enumerate(centers):
        for b, (xb, yb) in enumerate(centers):
            dx, dy = xb - xa, yb - ya
            reach_x = (boxes[a][2] - boxes[a][0] + boxes[b][2] - boxes[b][0]) / 4.0
            reach_y = (boxes[a][3] - boxes[a][1] + boxes[b][3] - boxes[b][1]) / 4.0
            if a != b and abs(dx) >= reach_x and abs(dx) >= 1.5 * abs(dy):
                relations.append((a, "left of" if dx > 0 else "right of", b))
            elif a != b and abs(dy) >= reach_y and abs(dy) >= 1.5 * abs(dx):
                relations.append((a, "above" if dy > 0 else "below", b))
    return relations


def _place(center: tuple[float, float], size: tuple[int, int]) -> str:
    column = ("left", "", "right")[min(int(3.0 * center[0] / size[1]), 2)]
    row = ("top", "", "bottom")[min(int(3.0 * center[1] / size[0]), 2)]
    if not row and not column:
        return "in the center"
    return f"in the {row} {column}" if row and column else f"{'at' if row else 'on'} the {row or column}"


def _quantity(count: int, name: str) -> str:
    return _article(name) if count == 1 else f"{_number(count)} {_plural(name)}"


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def _plural(name: str, count: int = 2) -> str:
    if count == 1:
        return name
    return name + ("es" if name.endswith("s") else "s")


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _pick(rng: np.random.Generator, count: int) -> int:
    return int(rng.random() * count)


def _sample(rng: np.random.Generator, items: list, count: int) -> list:
    order = np.argsort(rng.random(len(items)), kind="stable")
    return [items[i] for i in order[:count].tolist()]
