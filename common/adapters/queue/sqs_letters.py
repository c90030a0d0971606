"""The dead-letter queue. SQS has no peek: whoever looks receives the letters and gives them back.

So a look hides what it finds from other processes for as long as it takes (seconds), a listing
shows at most `MOST_LISTED` letters, and counts are what SQS calls approximate.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import structlog

from common.adapters.queue.sqs_line import MOST_RECEIVED, SqsLine
from common.adapters.queue.sqs_messages import (
    Envelope,
    dead_letter_of,
    letter_of,
    opened_letter,
    revived,
)
from common.clock import Clock
from common.ports.errors import PortError
from common.ports.queue import DeadLetter

log = structlog.get_logger(__name__)

MOST_LISTED = 1000
MOST_SEARCHED = 10_000
"""Letters that are looked at to find those that are to be redriven or discarded."""
LOOK_SECONDS = 20.0
"""A look ends after so long with what it found until then."""
HIDDEN_SECONDS = 60.0
PAGES_SECONDS = 30.0
"""The pages of one listing are of one look, if they are asked for within so long."""
STRAYS_SECONDS = 600.0
"""A look for strays is made this often at least, and whenever the number of letters changed."""


@dataclass(frozen=True, slots=True)
class HeldLetter:
    letter: Envelope
    until: float


class DeadLetters:
    """One look at a time; looks of other processes hide each other's letters.

    `max_receives` is what is said of letters that SQS moved by itself. `sources`: the queues of
    wake-ups. What SQS moved from another, as S3's events from the intake's, is shown and can be
    discarded, but is neither a stray nor redriven: it is no wake-up, and AWS's own redrive knows
    where it belongs.
    """

    def __init__(
        self, line: SqsLine, *, sources: Collection[str], max_receives: int, clock: Clock
    ) -> None:
        self._line = line
        self._sources = {name.rpartition("/")[2] for name in sources}
        self._max_receives = max_receives
        self._clock = clock
        self._looking = asyncio.Lock()
        self._pages: list[DeadLetter] = []
        self._pages_until = 0.0
        self._no_strays_among: int | None = None
        self._no_strays_until = 0.0

    async def add(self, envelope: Envelope, reason: str, *, longest_wait_seconds: float) -> None:
        letter = letter_of(envelope, reason, self._clock())
        await self._line.send(letter, longest_wait_seconds=longest_wait_seconds)

    async def count(self) -> int:
        attributes = await self._line.attributes()
        return sum(int(attributes.get(name, 0)) for name in _COUNTS)

    async def listed(self, *, limit: int, after: str | None) -> list[DeadLetter]:
        if after is None or self._pages_until <= _now():
            async with self._looking:
                await self._list()
        later = (letter for letter in self._pages if after is None or letter.message_id > after)
        return list(itertools.islice(later, limit))

    async def redrive(
        self, ids: Collection[str], send: Callable[[Envelope], Awaitable[None]]
    ) -> int:
        """Copies first, deletes second: a death between them leaves both."""

        async def redrive(copies: Sequence[HeldLetter]) -> None:
            await send(revived(copies[0].letter, self._clock()))
            await self._delete(copies)

        return await self._with_each(ids, redrive, of=self._is_wake_up)

    async def discard(self, ids: Collection[str]) -> int:
        return await self._with_each(ids, self._delete, of=lambda _: True)

    async def strays(self, limit: int) -> list[HeldLetter]:
        """Letters without a reason, hidden for HIDDEN_SECONDS; no look where none can be."""
        count = await self.count()
        if count == self._no_strays_among and _now() < self._no_strays_until:
            return []
        async with self._looking:
            found = await self._take(MOST_SEARCHED)
            strays = [held for held in found if self._is_stray(held.letter)][:limit]
            await self._give_back(held for held in found if held not in strays)
        if not strays:
            self._no_strays_among, self._no_strays_until = count, _now() + STRAYS_SECONDS
        return strays

    def _is_stray(self, letter: Envelope) -> bool:
        return letter.reason is None and self._is_wake_up(letter)

    def _is_wake_up(self, letter: Envelope) -> bool:
        return not letter.moved_from or letter.moved_from in self._sources

    async def _list(self) -> None:
        found = await self._take(MOST_LISTED)
        await self._give_back(found)
        letters = {held.letter.message_id: dead_letter_of(held.letter) for held in found}
        self._pages = [letters[message_id] for message_id in sorted(letters)]
        self._pages_until = _now() + PAGES_SECONDS

    async def _with_each(
        self,
        ids: Collection[str],
        act: Callable[[Sequence[HeldLetter]], Awaitable[None]],
        *,
        of: Callable[[Envelope], bool],
    ) -> int:
        """Do it with every such letter that is found, copies of it together; how many were."""
        if not ids:
            return 0
        wanted: dict[str, list[HeldLetter]] = {message_id: [] for message_id in ids}
        async with self._looking:
            others: list[HeldLetter] = []
            for held in await self._take(MOST_SEARCHED, set(ids)):
                copies = wanted.get(held.letter.message_id, others)
                (copies if of(held.letter) else others).append(held)
            acts = [act(copies) for copies in wanted.values() if copies]
            results = await asyncio.gather(*acts, return_exceptions=True)
            await self._give_back(others)
        self._pages = [letter for letter in self._pages if letter.message_id not in wanted]
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return len(results)

    async def _delete(self, copies: Sequence[HeldLetter]) -> None:
        await asyncio.gather(
            *[self._line.delete(held.letter.receipt, held.until) for held in copies]
        )

    async def _take(self, most: int, wanted: Collection[str] = ()) -> list[HeldLetter]:
        """Hide and return letters: all, or until those that are wanted are among them.

        An answer may be empty while there are letters; so as long as the count says that some
        are missing, the queue is given a second to find them.
        """
        missing, found = set(wanted), list[HeldLetter]()
        expected = int((await self._line.attributes()).get("ApproximateNumberOfMessages", 0))
        ends = _now() + LOOK_SECONDS
        try:
            while len(found) < most and _now() < ends:
                letters = await self._receive(wait_seconds=1 if len(found) < expected else 0)
                found += letters
                missing -= {held.letter.message_id for held in letters}
                if not letters or (wanted and not missing):
                    break
        except PortError:
            await self._give_back(found)
            raise
        return found

    async def _receive(self, wait_seconds: float) -> list[HeldLetter]:
        messages, until = await self._line.receive(
            limit=MOST_RECEIVED, visibility_seconds=HIDDEN_SECONDS, wait_seconds=wait_seconds
        )
        return [HeldLetter(opened_letter(m, self._max_receives), until) for m in messages]

    async def _give_back(self, letters: Iterable[HeldLetter]) -> None:
        """What cannot be given back is visible again when its time is over."""
        hides = [self._line.hide(held.letter.receipt, held.until, 0) for held in letters]
        for result in await asyncio.gather(*hides, return_exceptions=True):
            if isinstance(result, PortError):
                log.warning("dead_letter.not_given_back", error=str(result))
            elif isinstance(result, BaseException):
                raise result


_COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


def _now() -> float:
    return asyncio.get_running_loop().time()
