"""Where a section is cut: by its content alone, so that an edit moves only the cuts beside it.

Packing by size alone cuts every chunk where the one before it ended, so that a sentence inserted
near the top moves all cuts below it. Here a place is a cut because of what stands around it: every
place between two atoms (blocks, or sentences of large ones) has a score, a hash of what follows,
and is a cut when no place within `nearest` tokens on either side scores higher. That is the local
maximum rule of content-defined chunking (Bjørner, Blass, Gurevich: "Content-dependent chunking for
differential compression, the local maximum approach", 2010), here over atoms and with tokens as the
distance. An edit can change the standing of places within `nearest` tokens only, cuts are at least
`nearest` tokens apart, and their mean distance is about twice that.

What is then still larger than a chunk may be is cut from its beginning on, each time at the best
place of those that leave a chunk of a fair size: these cuts depend on the ones before them, but
never beyond the next local maximum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True, slots=True)
class Spacing:
    """In tokens. A section of up to `whole` is not cut at all; cuts are `nearest` apart, and
    nothing is larger than `farthest` where it can be cut at all; what is larger is cut into
    parts of `smallest` or more, of about `usual` where all places are alike."""

    nearest: int
    farthest: int
    smallest: int
    usual: int
    whole: int


def spacing_for(target_tokens: int, max_tokens: int) -> Spacing:
    """Chunks of a long text are then of some nine tenths of the target on average."""
    target = min(target_tokens, max_tokens)
    return Spacing(
        nearest=max(target // 2, 1),
        farthest=max(min(target * 8 // 5, max_tokens), 1),
        smallest=max(target // 4, 1),
        usual=target,
        whole=target,
    )


def cuts(sizes: Sequence[int], scores: Sequence[int], spacing: Spacing) -> list[int]:
    """The indices of atoms that begin a chunk, in order, the first included; [] for no atoms.

    `sizes[i]` are the tokens of atom i, `scores[i]` is how well a chunk may begin with it (the
    first atom's is not looked at). Takes time linear in the number of atoms, up to the number
    that `farthest` tokens hold.
    """
    if not sizes:
        return []
    starts = [0, *accumulate(sizes)]
    if starts[-1] <= spacing.whole:
        return [0]
    found: list[int] = []
    for first, last in pairwise([0, *_local_maxima(starts, scores, spacing.nearest), len(sizes)]):
        found.append(first)
        found.extend(_within(first, last, starts, scores, spacing))
    return found


def sure_cut(sizes: Sequence[int], scores: Sequence[int], spacing: Spacing) -> int | None:
    """The last atom that is a cut whatever follows these atoms, so that what is before it can be
    cut already; None if there is none."""
    starts = [0, *accumulate(sizes)]
    # The end is taken for one that outranks everything, so that no place near it is chosen.
    return max(_local_maxima(starts, scores, spacing.nearest), default=None)


def _local_maxima(starts: Sequence[int], scores: Sequence[int], nearest: int) -> Iterator[int]:
    """Atoms that no other within `nearest` tokens outranks; of equals the first counts.

    The section's own ends outrank everything, so that no cut is nearer to them.
    """
    count = len(starts) - 1
    better_before = [0] * count
    better_after = [count] * count
    stack = [0]
    for place in range(1, count):
        while len(stack) > 1 and scores[stack[-1]] < scores[place]:
            better_after[stack.pop()] = place
        better_before[place] = stack[-1]
        stack.append(place)
    for place in range(1, count):
        behind = starts[place] - starts[better_before[place]]
        ahead = starts[better_after[place]] - starts[place]
        if behind >= nearest and ahead >= nearest:
            yield place


def _within(
    first: int, last: int, starts: Sequence[int], scores: Sequence[int], spacing: Spacing
) -> Iterator[int]:
    """More cuts between two local maxima that are too far apart."""
    while starts[last] - starts[first] > spacing.farthest and last - first > 1:
        first = _best(first, last, starts, scores, spacing)
        yield first


def _best(
    first: int, last: int, starts: Sequence[int], scores: Sequence[int], spacing: Spacing
) -> int:
    """The best place that leaves parts of a fair size; where there is none, the next that fits."""
    origin = starts[first]
    latest = min(origin + spacing.farthest, starts[last] - spacing.smallest)
    best, rank = first + 1, (-1, 0)
    place = first + 1
    while place < last and starts[place] <= latest:
        if starts[place] - origin >= spacing.smallest:
            # Where all are alike, such as the lines of some tables, the usual size decides.
            found = (scores[place], -abs(starts[place] - origin - spacing.usual))
            if found > rank:
                best, rank = place, found
        place += 1
    return best if rank[0] >= 0 else _fullest(first, last, starts, spacing.farthest)


def _fullest(first: int, last: int, starts: Sequence[int], farthest: int) -> int:
    place = first + 1
    while place + 1 < last and starts[place + 1] - starts[first] <= farthest:
        place += 1
    return place
