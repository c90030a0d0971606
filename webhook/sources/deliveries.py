"""POST /v1/sources/{name}: another system's webhook, verified, mapped and accepted whole.

200 once every change that can be accepted is durable. A delivery that was accepted whole is
answered the same again, and nothing is done: newer changes may have been made since. One that fails
is answered so that its sender sends it again, and then only what was not accepted before is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog
from aiohttp import web

from common.ports.errors import PortError
from common.transitions import Outcome
from webhook.bodies import beside, traceparent_of
from webhook.callers import caller_of
from webhook.idempotency import REPLAYED
from webhook.problems import OVER_CAPACITY, TOO_LARGE, Problem
from webhook.services import SERVICES, Services
from webhook.signatures import Headers
from webhook.sources.arrivals import headers_of, source_of, verified_body
from webhook.sources.config import HandshakeConfig
from webhook.sources.each_change import MAX_ERRORS_TOLD, accept_each
from webhook.sources.github_compared import with_comparison
from webhook.sources.github_files import with_files
from webhook.sources.handshake import take_token
from webhook.sources.identity import Part, parts_of
from webhook.sources.loading import Source
from webhook.sources.mapping import (
    JSON,
    Mapped,
    checked,
    context_of,
    delivery_id_of,
    headers_decide,
    map_delivery,
    merged,
)
from webhook.sources.payloads import payload_of
from webhook.sources.remembered import Kept, Known, Remembered
from webhook.sources.settled import ignored, keys_of, of_each, told_of
from webhook.work_to_the_end import WorkToTheEnd

log = structlog.get_logger(__name__)

UNDER_WAY: web.AppKey[WorkToTheEnd[JSON]] = web.AppKey("under_way", WorkToTheEnd)
_COUNTED = ("changes", "ignored", *(outcome.value for outcome in Outcome))
MAX_UNDER_WAY = 256
"""Deliveries of one process. Work goes on when its connection is gone, so connections bound it not.
"""
BUSY_RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One that is shown to come from its source."""

    source: Source
    size: int
    """Of its body, in bytes."""
    context: JSON
    id: str | None
    """As its sender calls it."""
    parts: tuple[Part, ...]


async def post_delivery(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    source, headers = source_of(services, request.match_info["name"]), headers_of(request)
    if isinstance(source.config.verify, HandshakeConfig):
        await take_token(request, source)
        return web.json_response(_answer(source, None, []))
    body = await verified_body(request, source, headers)
    delivery = await beside(len(body), lambda: read_delivery(source, headers, body))
    timeout_seconds = services.settings.request_timeout_seconds
    remembered = Remembered(services.receipts, source, timeout_seconds)
    known = await remembered.known_of(delivery.parts)
    told = [one.told for one in known if one.told is not None]
    new = [pair for pair in zip(delivery.parts, known, strict=True) if pair[1].told is None]
    if told and not new:
        _tell_of_another_id(delivery, told)
        answer = _answer(source, delivery.id, told)
        return web.json_response(answer, headers={REPLAYED: "true"})
    work = _Work(request, services, delivery, new, remembered)
    done = await _to_the_end(request.app[UNDER_WAY], work)
    return web.json_response(_answer(source, delivery.id, [*told, done]))


async def _to_the_end(under_way: WorkToTheEnd[JSON], work: _Work) -> JSON:
    """Who sends what is under way waits for it. Raises Problem: 503 where too much is, and what
    the work raises."""
    if not under_way.is_under_way(work.name) and len(under_way) >= MAX_UNDER_WAY:
        raise Problem(
            OVER_CAPACITY,
            f"{MAX_UNDER_WAY} deliveries are being worked: send it again later",
            limit=MAX_UNDER_WAY,
            headers={"Retry-After": str(BUSY_RETRY_SECONDS)},
            reason="deliveries",
            retry_after_seconds=BUSY_RETRY_SECONDS,
        )
    return await under_way.result(work.name, work.done)


def read_delivery(source: Source, headers: Headers, body: bytes) -> Delivery:
    """Raises Problem."""
    decide = headers_decide(source)
    payload = payload_of(source.config.format, headers, body, headers_decide=decide)
    context = context_of(source, headers, payload)
    delivery_id = delivery_id_of(source, headers, context)
    return Delivery(
        source=source,
        size=len(body),
        context=context,
        id=delivery_id,
        parts=parts_of(source, headers, body, context, delivery_id),
    )


def _tell_of_another_id(delivery: Delivery, known: Sequence[JSON]) -> None:
    """A replay, or a sender whose changes back look like what they change back to."""
    before = [one.get("delivery_id", delivery.id) for one in known]
    if delivery.source.config.format != "cloudevents" and before != [delivery.id]:
        ids = {"delivery": delivery.id, "known_as": before[0]}
        log.warning("source.known_under_another_id", source=delivery.source.name, **ids)


def _answer(source: Source, delivery_id: str | None, told: Sequence[JSON]) -> JSON:
    return {"source": source.name, "delivery_id": delivery_id, **_sum(told)}


def _sum(told: Sequence[JSON]) -> JSON:
    """Further members only where there is any of them."""
    counts: JSON = {name: sum(one[name] for one in told) for name in _COUNTED}
    found: JSON = {
        "refused": sum(one.get("refused", 0) for one in told),
        "errors": [error for one in told for error in one.get("errors", ())][:MAX_ERRORS_TOLD],
        "warnings": [warning for one in told for warning in one.get("warnings", ())],
    }
    return counts | {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class _Work:
    """On the parts of a delivery that were not accepted whole before."""

    request: web.Request
    services: Services
    delivery: Delivery
    new: Sequence[tuple[Part, Known]]
    remembered: Remembered
    accepted: dict[int, str] = field(default_factory=dict)
    """By the index among the changes of all parts: the outcome of each that is, now or before."""
    uncompared: dict[int, Problem] = field(default_factory=dict)
    """By the index of the part, why more than it names could not be looked at."""

    @property
    def name(self) -> object:
        """The same for the same parts; a part without a name is like no other."""
        names = tuple(part.names[:1] or object() for part, _ in self.new)
        return self.delivery.source.name, names

    async def done(self) -> JSON:
        """What is told of all of them. Raises Problem."""
        source, size = self.delivery.source, self.delivery.size
        contexts = await self._contexts()
        mapped = await beside(size, lambda: _map_each(source, contexts))
        whole = merged(mapped, source.config.max_changes)
        keys = await beside(size, lambda: [keys_of(part) for part in mapped])
        self._recall(keys)
        try:
            told = await self._accept(whole)
        except Exception:
            with suppress(PortError, Problem):  # it comes again anyway
                await self._keep(mapped, keys)
            raise
        await self._keep(mapped, keys)
        return {**told, "ignored": sum(ignored(part) for part in mapped)}

    async def _contexts(self) -> list[JSON]:
        contexts = []
        for number, (part, _) in enumerate(self.new):
            context, problem = await with_comparison(
                self.delivery.source, part.context, self.services.github, self.services.settings
            )
            contexts.append(context)
            if problem is not None:
                self.uncompared[number] = problem
        return contexts

    def _recall(self, keys: Sequence[Sequence[str | None]]) -> None:
        """What was accepted before is as it was."""
        before = [
            key in known.accepted
            for (_, known), of_part in zip(self.new, keys, strict=True)
            for key in of_part
        ]
        unchanged = Outcome.UNCHANGED.value
        self.accepted.update((index, unchanged) for index, was in enumerate(before) if was)

    async def _keep(self, mapped: Sequence[Mapped], keys: Sequence[Sequence[str | None]]) -> None:
        outcomes = of_each(mapped, self.accepted)
        kept = [
            self._kept(number, part, keys[number], of_part)
            for number, (part, of_part) in enumerate(zip(mapped, outcomes, strict=True))
        ]
        await self.remembered.keep([one for one in kept if one.entries])

    def _kept(
        self,
        number: int,
        mapped: Mapped,
        keys: Sequence[str | None],
        outcomes: Sequence[str | None],
    ) -> Kept:
        part, known = self.new[number]
        told = None if number in self.uncompared else told_of(mapped, outcomes)
        if told is not None:
            return Kept(part, known, told={**told, "delivery_id": self.delivery.id})
        accepted = [key for key, outcome in zip(keys, outcomes, strict=True) if key and outcome]
        return Kept(part, known, accepted=[key for key in accepted if key not in known.accepted])

    async def _accept(self, mapped: Mapped) -> JSON:
        source, services = self.delivery.source, self.services
        todo = {index: file for index, file in mapped.files.items() if index not in self.accepted}
        mapped = replace(mapped, files=todo)
        unfetched = await with_files(
            mapped, source.github_token, services.github, services.settings
        )
        trace, size = traceparent_of(self.request), _size_of(mapped, self.delivery)
        changes = await beside(size, lambda: checked(mapped, services.settings, traceparent=trace))
        for index, problem in unfetched.items():
            changes[index] = problem
        caller = caller_of(self.request, source=source.name)
        again = next(iter(self.uncompared.values()), None)
        told = await accept_each(services, mapped, changes, caller, self.accepted, again=again)
        log.debug("source.delivered", source=source.name, delivery=self.delivery.id, **told)
        return {"changes": len(changes) + len(mapped.refused), **told}


def _map_each(source: Source, contexts: Sequence[JSON]) -> list[Mapped]:
    """An event that cannot be looked into is no fault of those beside it. Raises Problem."""
    if len(contexts) == 1:
        return [map_delivery(source, contexts[0])]
    parts = []
    for number, context in enumerate(contexts):
        try:
            parts.append(map_delivery(source, context))
        except Problem as problem:
            if problem.kind is TOO_LARGE:
                raise
            parts.append(Mapped([], refused=[problem.within(f"events[{number}]")]))
    return parts


def _size_of(mapped: Mapped, delivery: Delivery) -> int:
    """Of what is to be looked through, in bytes."""
    fetched = (len(mapped.changes[index].get("content", "")) for index in mapped.files)
    return delivery.size + sum(fetched)
