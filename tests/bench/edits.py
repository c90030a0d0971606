"""One sentence of a document is edited: how many chunks have to be embedded, ours and LangChain's.

No model runs. The splitters make chunks of the same mean size on the documents of the feed; the
documents here are its sections, drawn and joined to lengths of 5 to 500 chunks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

from tests.bench.peers.feed import chunks_of
from tests.bench.peers.setup import Bench, Limits, bench
from tests.bench.report import Line, Options, at_least, percentile, progress

LENGTHS = (5, 10, 20, 50, 100, 200, 500)
"""In chunks, about."""
DOCUMENTS, QUICK_DOCUMENTS = 20, 6
"""Of each length."""
EDITS_EACH = 5
SEED = 20261121
FEW, SHARE = 3, 0.99
CHARACTERS_A_TOKEN = 4.5

_SECTIONS = re.compile(r"^(?=#{1,6} )", re.MULTILINE)
_SENTENCE = re.compile(r"[A-Z](?:[^.!?\n]|\n(?=[^\n#|>*`-])){20,400}[.!?](?=\s)")
"""In prose; it may go over several lines, not into a heading, a list, a table or a fence."""


@dataclass(frozen=True, slots=True)
class Edited:
    """A document, and what it could become: each of `after` is one edit away."""

    before: str
    after: list[str]


def measure(options: Options) -> list[Line]:
    """The same edits for both. What they are is drawn from a seed."""
    del options
    limits = replace(Limits.from_environment(), systems=("langchain",))
    count = QUICK_DOCUMENTS if limits.quick else DOCUMENTS
    ours: dict[int, list[int]] = {}
    theirs: dict[int, list[int]] = {}
    with bench(limits) as made:
        drawn = Draw(random.Random(SEED), [content for _, content in made.feed.documents])
        for length in LENGTHS:
            characters = int(length * made.mean_tokens * CHARACTERS_A_TOKEN)
            cases = [drawn.edited(characters) for _ in range(count)]
            ours[length] = [new for case in cases for new in _ours(case)]
            theirs[length] = _theirs(made, cases)
            progress(f"edits: {length} chunks: ours {_told(ours[length])}")
            progress(f"edits: {length} chunks: LangChain {_told(theirs[length])}")
    return _lines(ours, theirs)


class Draw:
    def __init__(self, source: random.Random, contents: Sequence[str]) -> None:
        self._random = source
        self._sections = [part for text in contents for part in _SECTIONS.split(text) if part]
        self._sentences = [found[0] for text in contents for found in _SENTENCE.finditer(text)]

    def edited(self, characters: int) -> Edited:
        text = self._document(characters)
        places = list(_SENTENCE.finditer(text))
        while not places:
            text = self._document(characters)
            places = list(_SENTENCE.finditer(text))
        return Edited(text, [self._edit(text, places) for _ in range(EDITS_EACH)])

    def _edit(self, text: str, places: Sequence[re.Match[str]]) -> str:
        """One sentence anywhere is replaced, removed, or gets a new one before it."""
        place = self._random.choice(places)
        old, new = place[0], self._random.choice(self._sentences)
        while new == old:
            new = self._random.choice(self._sentences)
        by = self._random.choice([new, f"{new} {old}", ""])
        return text[: place.start()] + by + text[place.end() :]

    def _document(self, characters: int) -> str:
        """Whole sections, each once, until it is long enough."""
        parts: list[str] = []
        length = 0
        for section in self._random.sample(self._sections, len(self._sections)):
            if length >= characters:
                break
            parts.append(section.strip())
            length += len(section)
        return "\n\n".join(parts) + "\n"


def _ours(case: Edited) -> list[int]:
    known = _hashes(case.before)
    return [len(_hashes(after) - known) for after in case.after]


def _hashes(text: str) -> set[str]:
    return {chunk.hash for chunk in chunks_of("edited.md", text)}


def _theirs(made: Bench, cases: Sequence[Edited]) -> list[int]:
    texts = [text for case in cases for text in (case.before, *case.after)]
    job = replace(
        made.job("langchain", inference=False),
        documents=[(f"{number}.md", text) for number, text in enumerate(texts)],
    )
    said = made.run("split", job)
    if said.failure:
        raise RuntimeError(f"split {said.failure}")
    chunks = [set(answer["chunks"]) for answer in said.answers]
    found: list[int] = []
    for first in range(0, len(chunks), EDITS_EACH + 1):
        known, *after = chunks[first : first + EDITS_EACH + 1]
        found += [len(edited - known) for edited in after]
    return found


def _lines(ours: dict[int, list[int]], theirs: dict[int, list[int]]) -> list[Line]:
    lines: list[Line] = []
    for name, found in (("ours", ours), ("LangChain's splitter", theirs)):
        everything = [count for counts in found.values() for count in counts]
        measure = f"edits: one sentence, at most {FEW} new chunks, {name}"
        share = _few(everything)
        if found is ours:
            lines.append(at_least(measure, share, SHARE, _told(everything)))
        else:
            lines.append(Line(measure, _told(everything)))
        lines += [
            Line(f"edits: of {length} chunks, {name}", _told(counts))
            for length, counts in found.items()
        ]
    return lines


def _few(counts: Sequence[int]) -> float:
    return sum(count <= FEW for count in counts) / len(counts)


def _told(counts: Sequence[int]) -> str:
    return (
        f"{100 * _few(counts):.1f} % of {len(counts)}; mean {mean(counts):.2f}, "
        f"p99 {percentile(counts, 0.99)}, max {max(counts)}"
    )
