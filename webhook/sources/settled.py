"""Which changes of a delivery are accepted, so that another attempt does none of them again. Pure.

Each is called by what the mapping made of it, not by its number: what the mapping sees may grow
between two attempts (`webhook.sources.github_compared`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from common.transitions import Outcome
from webhook.sources.mapping import JSON, Mapped

_KEY_BYTES = 9
"""12 characters of base64; a key need only tell the changes of one part apart."""


def keys_of(mapped: Mapped) -> list[str | None]:
    """Of each change, before files are fetched into it. Of equal ones each has its own; None: it
    cannot be told from others, and is done again."""
    seen: Counter[str] = Counter()
    keys: list[str | None] = []
    for index, change in enumerate(mapped.changes):
        file = mapped.files.get(index)
        try:
            text = json.dumps([change, file and asdict(file)], sort_keys=True)
        except (RecursionError, ValueError):
            keys.append(None)
            continue
        digest = hashlib.sha256(text.encode()).digest()
        again = hashlib.sha256(digest + str(seen[text]).encode()).digest()
        seen[text] += 1
        keys.append(base64.b64encode(again[:_KEY_BYTES]).decode())
    return keys


def of_each(parts: Sequence[Mapped], outcomes: Mapping[int, str]) -> Iterator[list[str | None]]:
    """Of each part the outcomes of its changes, from those of all parts by index; None where there
    is none yet."""
    start = 0
    for part in parts:
        end = start + len(part.changes)
        yield [outcomes.get(index) for index in range(start, end)]
        start = end


def told_of(part: Mapped, outcomes: Sequence[str | None]) -> JSON | None:
    """What is told of a part when it comes again; None: not every change of it was accepted, or
    there was nothing to accept. Another time that may be different."""
    if not outcomes or None in outcomes or part.refused:
        return None
    counted = Counter(outcomes)
    counts = {outcome.value: counted[outcome.value] for outcome in Outcome}
    warnings = {"warnings": part.warnings} if part.warnings else {}
    return {"changes": len(outcomes), "ignored": ignored(part), **counts, **warnings}


def ignored(part: Mapped) -> int:
    """Of its items."""
    return 1 if part.ignored else part.unmatched
