"""The steps from the first rows of a list to its first rows after changes, each applied to the result of the one before."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leave:
    """Remove the row at an index."""

    id: str
    index: int


@dataclass(frozen=True, slots=True)
class Move:
    """Remove the row at an index and insert it at another, counted after its removal."""

    id: str
    from_index: int
    to_index: int


@dataclass(frozen=True, slots=True)
class Enter:
    """Insert a row at an index."""

    id: str
    index: int


Step = Leave | Move | Enter


def compute_steps(old: Sequence[str], new: Sequence[str], changed: Collection[str]) -> list[Step]:
    """The steps from `old` to `new`: removals, then moves, then insertions, so that the list is never longer than the longer one.

    As few rows as possible move, and rows in `changed` rather than others.
    """
    steps: list[Step] = []
    current, new_ids = list(old), set(new)
    for id_ in old:
        if id_ not in new_ids:
            index = current.index(id_)
            steps.append(Leave(id_, index))
            del current[index]
    kept_ids = set(current)
    steps += _move(current, [id_ for id_ in new if id_ in kept_ids], changed)
    steps += [Enter(id_, index) for index, id_ in enumerate(new) if id_ not in kept_ids]
    return steps


def _move(current: list[str], wanted: Sequence[str], changed: Collection[str]) -> list[Step]:
    """The moves that bring the rows of `current` into the wanted order."""
    steps: list[Step] = []
    if current == wanted:
        return steps
    settled = _find_fixed_rows(current, wanted, changed)
    previous: str | None = None
    for id_ in wanted:
        if id_ not in settled:
            from_index = current.index(id_)
            del current[from_index]
            # Behind its predecessor, which is settled. Rows that have yet to move may stand between it and its successor.
            to_index = 0 if previous is None else current.index(previous) + 1
            current.insert(to_index, id_)
            steps.append(Move(id_, from_index, to_index))
            settled.add(id_)
        previous = id_
    return steps


def _find_fixed_rows(current: Sequence[str], wanted: Sequence[str], changed: Collection[str]) -> set[str]:
    """The rows that need not move: an increasing subsequence, of the greatest weight. Quadratic, of at most 100 rows."""
    places = {id_: place for place, id_ in enumerate(wanted)}
    # Many rows that did not change outweigh any that did.
    weights = [1 if id_ in changed else len(current) + 1 for id_ in current]
    best, previous = list(weights), [-1] * len(current)
    for end, id_ in enumerate(current):
        for start in range(end):
            if places[current[start]] < places[id_] and best[start] + weights[end] > best[end]:
                best[end], previous[end] = best[start] + weights[end], start
    fixed: set[str] = set()
    place = max(range(len(current)), key=best.__getitem__)
    while place >= 0:
        fixed.add(current[place])
        place = previous[place]
    return fixed
