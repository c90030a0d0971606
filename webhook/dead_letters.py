"""The dead letters over HTTP: list them, look at one, send them again, discard them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from common.ports.queue import DeadLetter
from webhook.bodies import query_integer, read_json, refuse_unknown_parameters
from webhook.documents import DEFAULT_PAGE, MAX_PAGE, time_of
from webhook.problems import INVALID_FIELD, NOT_FOUND, Problem, deadline
from webhook.services import SERVICES, Services
from webhook.validation import refuse_unknown

MAX_LETTER_IDS = 10_000
FILTERS = ("namespace", "document_id")

Act = Callable[[Sequence[str]], Awaitable[int]]
"""Takes message ids; how many of them it found."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which letters; None: any."""

    namespace: str | None
    document_id: str | None

    @property
    def everything(self) -> bool:
        return self.namespace is None and self.document_id is None

    def takes(self, letter: DeadLetter) -> bool:
        key = letter.wake_up.key
        return self.namespace in (None, key.namespace) and self.document_id in (
            None,
            key.document_id,
        )


# --- reading -------------------------------------------------------------------------------------


async def list_dead_letters(request: web.Request) -> web.Response:
    """A page in order of message id. With a filter it may be short although more follow."""
    refuse_unknown_parameters(request, frozenset({*FILTERS, "cursor", "limit"}))
    limit = query_integer(request, "limit", default=DEFAULT_PAGE, lowest=1, highest=MAX_PAGE)
    wanted = _Wanted(*(request.query.get(name) for name in FILTERS))
    step = limit if wanted.everything else MAX_PAGE
    seen = await _letters(request.app[SERVICES], step + 1, request.query.get("cursor"))
    found = [letter for letter in seen[:step] if wanted.takes(letter)]
    page = found[:limit]
    last = page if len(found) > limit else seen[:step]
    cursor = last[-1].message_id if max(len(found) - limit, len(seen) - step) > 0 else None
    return web.json_response({"dead_letters": [_letter_of(x) for x in page], "cursor": cursor})


async def _letters(services: Services, limit: int, after: str | None) -> list[DeadLetter]:
    async with deadline(services.settings.request_timeout_seconds):
        return await services.queue.dead_letters(limit=limit, after=after)


async def get_dead_letter(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    wanted = request.match_info["message_id"]
    after: str | None = None
    while letters := await _letters(services, MAX_PAGE, after):
        for letter in letters:
            if letter.message_id == wanted:
                return web.json_response(_letter_of(letter))
        after = letters[-1].message_id
    raise _no_such_letter(wanted)


def _no_such_letter(message_id: str) -> Problem:
    detail = f"there is no dead letter {message_id[:80]!r}; it may have been redriven or discarded"
    return Problem(NOT_FOUND, detail, field="message_id")


# --- acting --------------------------------------------------------------------------------------


async def redrive_dead_letters(request: web.Request) -> web.Response:
    """Sends the named dead letters, or all that match, back to the queues they came from."""
    queue = request.app[SERVICES].queue
    return web.json_response({"redriven": await _act_on_the_named(request, queue.redrive)})


async def discard_dead_letters(request: web.Request) -> web.Response:
    """Removes the named dead letters, or all that match. Their documents stay as they are."""
    queue = request.app[SERVICES].queue
    return web.json_response({"discarded": await _act_on_the_named(request, queue.discard)})


async def delete_dead_letter(request: web.Request) -> web.Response:
    """Discards one. 404 if it is not there, also at the second time."""
    services = request.app[SERVICES]
    message_id = request.match_info["message_id"]
    async with deadline(services.settings.request_timeout_seconds):
        discarded = await services.queue.discard([message_id])
    if not discarded:
        raise _no_such_letter(message_id)
    return web.json_response({"discarded": discarded})


async def _act_on_the_named(request: web.Request, act: Act) -> int:
    services = request.app[SERVICES]
    value = await read_json(request, services.settings)
    refuse_unknown(value, frozenset({"message_ids", "all", *FILTERS}))
    everything = value.get("all")
    if everything is True and value.get("message_ids") is None:
        return await _act_on_all(services, _wanted(value), act)
    if everything not in (None, False):
        raise Problem(INVALID_FIELD, 'all must be true, without "message_ids"', field="all")
    for name in FILTERS:
        if value.get(name) is not None:
            raise Problem(INVALID_FIELD, f'{name} goes with "all": true only', field=name)
    message_ids = _message_ids(value.get("message_ids"))
    async with deadline(services.settings.request_timeout_seconds):
        return await act(message_ids)


def _wanted(value: dict[str, Any]) -> _Wanted:
    for name in FILTERS:
        if not isinstance(value.get(name), str | None):
            raise Problem(INVALID_FIELD, f"{name} must be a string", field=name)
    return _Wanted(value.get("namespace"), value.get("document_id"))


def _message_ids(value: Any) -> list[str]:
    field, limit = "message_ids", MAX_LETTER_IDS
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Problem(INVALID_FIELD, f'{field} must be a list of strings, or send "all": true',
                      field=field)  # fmt: skip
    if len(value) > limit:
        detail = f"{field} has {len(value)} ids, the limit is {limit}"
        raise Problem(INVALID_FIELD, detail, field=field, limit=limit)
    return value


async def _act_on_all(services: Services, wanted: _Wanted, act: Act) -> int:
    """Each once: those that die again meanwhile come back behind the place reached, and what
    died since this began is left for the next time."""
    seen = acted = 0
    after: str | None = None
    async with deadline(services.settings.request_timeout_seconds):
        count = await services.queue.dead_letter_count()
    while seen < count and (letters := await _letters(services, MAX_PAGE, after)):
        ids = [letter.message_id for letter in letters if wanted.takes(letter)]
        async with deadline(services.settings.request_timeout_seconds):
            acted += await act(ids)
        seen += len(letters)
        after = letters[-1].message_id
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
