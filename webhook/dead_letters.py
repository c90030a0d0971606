"""The dead letters over HTTP: list them, look at one, send them again, discard them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from aiohttp import web

from common.access import Principal
from common.api.dead_letters import MAX_LETTER_IDS
from common.ports.audit import AuditEvent
from common.ports.queue import DeadLetter
from webhook.auditing import event_by
from webhook.authentication import principal_of
from webhook.bodies import query_integer, read_json, refuse_unknown_parameters
from webhook.callers import caller_of
from webhook.documents import DEFAULT_PAGE, MAX_PAGE, time_of
from webhook.feed import STOPPING_SIGNAL
from webhook.models.limited import bodies_of
from webhook.models.reading import Refusals
from webhook.problems import NOT_FOUND, Problem, deadline
from webhook.refusals import refuse
from webhook.services import SERVICES

PAGES_OF_A_LIST = 10
"""So many are looked through for one page of a list, of MAX_PAGE letters of everybody's each."""
LETTERS_PER_REQUEST = 100
"""Looking through so many costs about as much as a request does."""
FILTERS = ("namespace", "document_id")

Act = Callable[[Sequence[DeadLetter]], Awaitable[int]]
"""Returns how many of them were still there."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which letters; None: any. Those of namespaces out of the principal's reach are as if they
    were not there."""

    principal: Principal
    namespace: str | None = None
    document_id: str | None = None

    @property
    def everything(self) -> bool:
        unnamed = self.namespace is None and self.document_id is None
        return unnamed and self.principal.reaches_all

    def takes(self, letter: DeadLetter) -> bool:
        key = letter.wake_up.key
        return (
            self.namespace in (None, key.namespace)
            and self.document_id in (None, key.document_id)
            and self.principal.reaches(key.namespace)
        )


# --- reading -------------------------------------------------------------------------------------


async def list_dead_letters(request: web.Request) -> web.Response:
    """A page in order of message id."""
    refuse_unknown_parameters(request, frozenset({*FILTERS, "cursor", "limit"}))
    limit = query_integer(request, "limit", default=DEFAULT_PAGE, lowest=1, highest=MAX_PAGE)
    wanted = _Wanted(principal_of(request), *(request.query.get(name) for name in FILTERS))
    step = limit + 1 if wanted.everything else MAX_PAGE
    letters = _Letters(request)
    found: list[DeadLetter] = []
    after = request.query.get("cursor")
    for _ in range(PAGES_OF_A_LIST):
        seen = await letters.page(step, after)
        found += [letter for letter in seen if wanted.takes(letter)]
        if len(found) > limit or not seen:
            break
        after = seen[-1].message_id
    else:
        return _page_of(found, after)  # enough looked through: it goes on from there
    # Of an own letter, so that it tells nothing of others.
    return _page_of(found[:limit], found[limit - 1].message_id if len(found) > limit else None)


def _page_of(letters: Sequence[DeadLetter], cursor: str | None) -> web.Response:
    return web.json_response({"dead_letters": [_letter_of(x) for x in letters], "cursor": cursor})


class _Letters:
    """Everybody's dead letters, as one request looks through them: it pays for what it is shown."""

    def __init__(self, request: web.Request) -> None:
        self.services = request.app[SERVICES]
        self.principal = principal_of(request)
        self._stopping = request.app[STOPPING_SIGNAL]

    async def page(self, limit: int, after: str | None) -> list[DeadLetter]:
        async with deadline(self.services.settings.request_timeout_seconds):
            letters = await self.services.queue.dead_letters(limit=limit, after=after)
        self.services.limits.charge_scanned(self.principal, len(letters) / LETTERS_PER_REQUEST)
        return letters

    async def next_page(self, limit: int, after: str | None) -> list[DeadLetter]:
        """Of a search that goes on until its end: no faster than the principal may ask."""
        await self.services.limits.wait_until_paid(self.principal, self._stopping)
        return await self.page(limit, after)

    async def named(self, message_ids: Collection[str]) -> list[DeadLetter]:
        """Those that are there and that the principal may know of. What lies before and between
        them is passed over as far as it can be."""
        left = sorted(filter(_may_be_an_id, set(message_ids)), reverse=True)
        wanted, found = _Wanted(self.principal), list[DeadLetter]()
        while left:
            size = 1 if len(left) == 1 else MAX_PAGE
            seen = {x.message_id: x for x in await self.next_page(size, _just_before(left[-1]))}
            last = max(seen, default="")
            while left and (not seen or left[-1] <= last):
                letter = seen.get(left.pop())
                found += [letter] if letter is not None and wanted.takes(letter) else []
        return found


def _may_be_an_id(message_id: str) -> bool:
    return message_id != "" and message_id.isascii() and message_id.isprintable()


def _just_before(message_id: str) -> str:
    """Nothing that is printable ASCII lies between the two."""
    return message_id[:-1] + chr(ord(message_id[-1]) - 1) + "\x7f"


async def get_dead_letter(request: web.Request) -> web.Response:
    message_id = request.match_info["message_id"]
    for letter in await _Letters(request).named([message_id]):
        return web.json_response(_letter_of(letter))
    raise _no_such_letter(message_id)


def _no_such_letter(message_id: str) -> Problem:
    detail = f"there is no dead letter {message_id[:80]!r}; it may have been redriven or discarded"
    return Problem(NOT_FOUND, detail, field="message_id")


# --- acting --------------------------------------------------------------------------------------


async def redrive_dead_letters(request: web.Request) -> web.Response:
    """Sends the named dead letters, or all that match, back to the queues they came from."""
    act = _told(request, "redrive", request.app[SERVICES].queue.redrive)
    return web.json_response({"redriven": await _act_on_the_named(request, act)})


async def discard_dead_letters(request: web.Request) -> web.Response:
    """Removes the named dead letters, or all that match. Their documents stay as they are."""
    act = _told(request, "discard", request.app[SERVICES].queue.discard)
    return web.json_response({"discarded": await _act_on_the_named(request, act)})


async def delete_dead_letter(request: web.Request) -> web.Response:
    """Discards one. 404 if it is not there, also at the second time."""
    services = request.app[SERVICES]
    message_id = request.match_info["message_id"]
    letters = await _Letters(request).named([message_id])
    discarded = await _told(request, "discard", services.queue.discard)(letters)
    if not discarded:
        raise _no_such_letter(message_id)
    return web.json_response({"discarded": discarded})


def _told(request: web.Request, action: str, act: Callable[[Sequence[str]], Awaitable[int]]) -> Act:
    """`act` within its deadline, with an entry for each letter in the audit trail."""
    services, caller = request.app[SERVICES], caller_of(request)
    auditing = services.auditing

    def events(letters: Sequence[DeadLetter], result: str) -> list[AuditEvent]:
        return [
            event_by(
                auditing,
                caller,
                action=action,
                namespace=letter.wake_up.namespace,
                document_id=letter.wake_up.document_id,
                version=letter.wake_up.version,
                subject=letter.message_id,
                result=result,
            )
            for letter in letters
        ]

    async def acting(letters: Sequence[DeadLetter]) -> int:
        if not letters:
            return 0
        async with (
            auditing.doing(lambda result: events(letters, result)),
            deadline(services.settings.request_timeout_seconds),
        ):
            return await act([letter.message_id for letter in letters])

    return acting


async def _act_on_the_named(request: web.Request, act: Act) -> int:
    letters = _Letters(request)
    settings = letters.services.settings
    value = await read_json(request, settings)
    body = bodies_of(settings).dead_letters.read(value, settings, _REFUSALS)
    if value.get("all") is True and value.get("message_ids") is None:
        wanted = _Wanted(letters.principal, body.namespace, body.document_id)
        return await _act_on_all(letters, wanted, act)
    if body.all:
        _refuse_all()
    for name in FILTERS:
        if value.get(name) is not None:
            refuse(name, 'goes with "all": true only')
    message_ids = body.message_ids
    if message_ids is None:
        _refuse_message_ids(value)
    return await act(await letters.named(message_ids))


def _refuse_all(*_: object) -> NoReturn:
    refuse("all", 'must be true, without "message_ids"')


def _refuse_message_ids(value: Mapping[str, Any], *_: object) -> NoReturn:
    items, limit = value.get("message_ids"), MAX_LETTER_IDS
    if isinstance(items, list) and all(isinstance(item, str) for item in items):
        refuse("message_ids", f"has {len(items)} ids, the limit is {limit}", limit=limit)
    refuse("message_ids", 'must be a list of strings, or send "all": true')


_REFUSALS: Refusals = {
    "all": _refuse_all,
    "message_ids": _refuse_message_ids,
    "namespace": lambda *_: refuse("namespace", "must be a string"),
    "document_id": lambda *_: refuse("document_id", "must be a string"),
}


async def _act_on_all(letters: _Letters, wanted: _Wanted, act: Act) -> int:
    """Each once: those that die again meanwhile come back behind the place reached, and what
    died since this began is left for the next time."""
    seen = acted = 0
    after: str | None = None
    async with deadline(letters.services.settings.request_timeout_seconds):
        count = await letters.services.queue.dead_letter_count()
    while seen < count and (page := await letters.next_page(MAX_PAGE, after)):
        acted += await act([letter for letter in page if wanted.takes(letter)])
        seen += len(page)
        after = page[-1].message_id
    return acted


# --- as JSON -------------------------------------------------------------------------------------


def _letter_of(letter: DeadLetter) -> dict[str, Any]:
    wake_up = letter.wake_up
    return {
        "message_id": letter.message_id,
        "source": letter.source.value,
        "namespace": wake_up.namespace,
        "document_id": wake_up.document_id,
        "version": wake_up.version,
        "traceparent": wake_up.traceparent,
        "reason": letter.reason,
        "receive_count": letter.receive_count,
        "sent_at": time_of(letter.sent_at),
        "died_at": time_of(letter.died_at),
    }
