"""Which known word may have been meant: for messages about a name that is a letter or two away from another."""

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], most: int = 2) -> str | None:
    """Return the known word that is at most ``most`` letters away, and fewer for a short one; else None."""
    found = min(known, key=lambda other: distance(word, other), default=None)
    return found if found is not None and distance(word, found) <= min(most, max(1, len(found) // 4)) else None


def distance(one: str, other: str) -> int:
    """How many letters must be added, left out, changed or swapped with their neighbour to make one text the other."""
    before, last = list[int](), list(range(len(other) + 1))
    for i, a in enumerate(one):
        row = [i + 1]
        for j, b in enumerate(other):
            row.append(min(last[j + 1] + 1, row[j] + 1, last[j] + (a != b)))
            if i and j and a == other[j - 1] and b == one[i - 1]:
                row[-1] = min(row[-1], before[j - 1] + 1)
        before, last = last, row
    return last[-1]
