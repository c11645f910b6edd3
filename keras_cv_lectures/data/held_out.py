"""Which pictures `kcvl train` validates on where the data have no such split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

HELD_OUT = 0.15
# A class in so many of the other pictures is missing in 15 % of them by chance once in 50 times.
_MANY = 25


def held_out(ids: Sequence[str], kind: str = "") -> list[int]:
    """Indices of the last 15 % of the pictures, in ascending order.

    The last, because neighbouring pictures are often frames of one video, which a random choice would leak. The lists
    of Oxford-IIIT Pet are sorted by breed instead, so that there it is the last 15 % of each breed.

    Args:
        ids: of all pictures.
        kind: of the data specification, such as "pets".
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(ids):
        groups[name.rpartition("_")[0] if kind in ("pets", "petsboxes") else ""].append(index)
    found = [i for group in groups.values() for i in group[len(group) - round(HELD_OUT * len(group)) :]]
    # Breeds of a few pictures each would leave none.
    return sorted(found) or list(range(len(ids) - round(HELD_OUT * len(ids)), len(ids)))


def missing_classes(present: Sequence[frozenset[int]], held: Sequence[int]) -> list[int]:
    """Classes that no picture of `held` has, though many others do: more than chance would explain.

    Args:
        present: of each picture the classes in it.
        held: indices of those to validate on.
    """
    chosen = set(held)
    there = frozenset().union(*(present[index] for index in held))
    counts = Counter(each for index, classes in enumerate(present) if index not in chosen for each in classes)
    return sorted(each for each, count in counts.items() if count >= _MANY and each not in there)
