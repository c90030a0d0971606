"""Who writes and who searches, and checks the answers in the moment they are given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from common import identity
from common.model import Desired
from common.ports.errors import TransientError
from tests.simulation.changes import PARAGRAPHS, Changes
from tests.simulation.installation import Installation, Member
from tests.simulation.ledger import Ledger, Violation
from tests.simulation.network import Network, turn
from tests.simulation.plan import NAMESPACE, Plan
from tests.simulation.ports import vector_of
from tests.simulation.telling import Telling
from webhook.accept import Accepted, Change, ChangeType, NothingToUpdateError

BUSY_CALLS = 40
NAP_SECONDS = 1700.0
"""Longer than a tombstone is kept."""

Broke = Callable[[Violation], None]
"""Ends the run with what was found."""


class Writers:
    """Clients that send changes; `written` is set when the last of them has its last answer."""

    def __init__(
        self,
        *,
        plan: Plan,
        network: Network,
        installation: Installation,
        ledger: Ledger,
        changes: Changes,
        telling: Telling,
        broke: Broke,
    ) -> None:
        self._random, self._plan = network.random, plan
        self._network, self._loop = network, network.loop
        self._installation = installation
        self._ledger = ledger
        self._changes = changes
        self._telling = telling
        self._broke = broke
        self._left = plan.writers
        self.written = asyncio.Event()

    async def write(self) -> None:
        drawn, plan = self._random, self._plan
        naps = plan.naps
        for _ in range(plan.changes):
            await self._gap()
            if naps and drawn.random() < 0.3:
                naps = False
                await asyncio.sleep(NAP_SECONDS)
            await self._post(self._changes.draw())
        self._left -= 1
        if not self._left:
            self.written.set()

    async def _gap(self) -> None:
        """In a busy run the next change comes while the one before is being worked on."""
        drawn = self._random
        if self._plan.busy:
            await self._network.calls_later(drawn.randrange(BUSY_CALLS))
        else:
            await asyncio.sleep(drawn.choice((0.0, 0.5, 5.0, 20.0)) * drawn.random())

    async def _post(self, change: Change) -> None:
        """Posts until it is answered, as a client that cannot know what became of its request."""
        drawn = self._random
        while True:
            reply: asyncio.Future[Accepted | None] = self._loop.create_future()
            member = self._installation.webhook()
            if member:
                self._loop.spawn(member.process, self._serve(member, change, reply))
                try:
                    async with asyncio.timeout(drawn.uniform(3, 40)):
                        accepted = await reply
                except (TimeoutError, TransientError):
                    self._network.faults["client tries again"] += 1
                else:
                    self._note_answer(change, accepted)
                    return
            await asyncio.sleep(drawn.uniform(0, 4))

    async def _serve(
        self, member: Member, change: Change, reply: asyncio.Future[Accepted | None]
    ) -> None:
        """The webhook's side; the answer is checked in the moment it is given."""
        assert member.acceptor
        since = self._loop.steps
        try:
            async with asyncio.timeout(30):
                accepted = await member.acceptor.accept(change)
        except NothingToUpdateError:
            _reply(reply, None)
        except (TimeoutError, TransientError) as error:
            if not reply.done():
                reply.set_exception(TransientError(str(error)))
        else:
            try:
                says = partial(_says, change)
                self._ledger.answered(accepted, since, says, change.source_version)
            except Violation as violation:
                self._broke(violation)
            _reply(reply, accepted)

    def _note_answer(self, change: Change, accepted: Accepted | None) -> None:
        if self._telling.on and accepted:
            name = change.key.document_id
            self._telling.note(f"answered {name} {accepted.outcome} {accepted.version}")


class Readers:
    """Clients that search; `searches` counts those that were answered."""

    def __init__(
        self, *, network: Network, installation: Installation, ledger: Ledger, broke: Broke
    ) -> None:
        self._random = network.random
        self._network, self._loop = network, network.loop
        self._installation = installation
        self._ledger = ledger
        self._broke = broke
        self._stirred: list[asyncio.Future[None]] = []
        self.searches = 0

    async def read(self, number: int) -> None:
        drawn = self._random
        while not self._network.over:
            await self._stirring()
            for _ in range(drawn.choice((0, 0, 1, 3, 8))):
                await turn()
            member = self._installation.webhook()
            if member is None:
                continue
            answered: asyncio.Future[None] = self._loop.create_future()
            self._loop.spawn(member.process, self._search(member, number, answered))
            try:
                async with asyncio.timeout(60):
                    await answered
            except TimeoutError:
                pass  # the webhook was killed or sleeps: its late answer counts for nobody

    async def _stirring(self) -> None:
        """Readers come when something is being written: between two writes they would see one
        state only."""
        stirred: asyncio.Future[None] = self._loop.create_future()
        self._stirred.append(stirred)
        await stirred

    def stir(self) -> None:
        """Something is being written."""
        if self._stirred and self._random.random() < 0.3:
            _reply(self._stirred.pop(), None)

    async def _search(self, member: Member, reader: int, answered: asyncio.Future[None]) -> None:
        assert member.searcher
        complete = self._random.random() < 0.8
        since = self._loop.steps
        try:
            vector = vector_of(self._random.choice(PARAGRAPHS))
            top_k = 200 if complete else 3
            hits = await member.searcher.search_vector(NAMESPACE, vector, top_k=top_k)
        except TransientError:
            pass
        else:
            self.searches += 1
            if not answered.done():
                try:
                    self._ledger.searched(reader, since, hits, complete=complete)
                except Violation as violation:
                    self._broke(violation)
        _reply(answered, None)


def _reply(reply: asyncio.Future[Any], value: Any) -> None:
    if not reply.done():
        reply.set_result(value)


def _says(change: Change, desired: Desired) -> bool:
    """Whether the accepted version is what the client asked for."""
    if change.change_type is ChangeType.DELETE:
        return desired.tombstone
    if change.content is not None and desired.content_hash != identity.sha256_hex(change.content):
        return False
    return change.metadata is None or desired.metadata == change.metadata
