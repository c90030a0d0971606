"""/v1/scrub: compare the index with registry and packs, and tell how far it is meanwhile."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Any

from aiohttp import web

from common.ports.audit import AuditEvent
from common.scrubbing import (
    NoSuchNamespaceError,
    ScrubBusyError,
    ScrubProgress,
    ScrubService,
    report_to_json,
)
from webhook.auditing import ACCEPTED, BEGUN, UNCERTAIN, event_by
from webhook.authentication import principal_of, require_reach, require_reach_of_all
from webhook.bodies import read_json, refuse_unknown_parameters
from webhook.callers import caller_of
from webhook.feed import NDJSON_TYPES, STOPPING_SIGNAL
from webhook.models.limited import bodies_of
from webhook.models.reading import Refusals
from webhook.problems import (
    NOT_FOUND,
    SCRUB_RUNNING,
    SCRUB_UNAVAILABLE,
    STOPPING,
    Problem,
    problem_of,
)
from webhook.refusals import refuse
from webhook.services import SERVICES, Services
from webhook.validation import namespace_of

PROGRESS_SECONDS = 1.0
NO_INDEX = (
    "this process does not scrub: ask the one that `bloomweaver up` runs, or, where queue, "
    "registry, blobs and index are servers, run `bloomweaver scrub` with their settings"
)


async def get_scrub(request: web.Request) -> web.Response:
    """The last scrub's report; null before there was one."""
    refuse_unknown_parameters(request, frozenset())
    require_reach_of_all(principal_of(request))
    service = _service_of(request.app[SERVICES])
    report = None if service.last is None else report_to_json(service.last)
    return web.json_response({"running": service.running, "report": report})


async def post_scrub(request: web.Request) -> web.StreamResponse:
    """Lines of progress, then one with the report. A client that goes away cancels the scrub:
    what was repaired by then stays repaired."""
    services = request.app[SERVICES]
    service = _service_of(services)
    namespace, repair = await _wanted(request, services)
    if namespace is None:
        require_reach_of_all(principal_of(request))
    else:
        require_reach(principal_of(request), namespace)
    if repair:
        await _tell_repair(request, namespace, BEGUN)
    stopping = asyncio.ensure_future(request.app[STOPPING_SIGNAL].wait())
    scrub = _Scrub(service, namespace, repair)
    try:
        await scrub.begun(stopping)
        response = web.StreamResponse(headers={"Content-Type": NDJSON_TYPES[0]})
        await response.prepare(request)
        lines = _Lines(request, response, services.settings.request_timeout_seconds)
        while await scrub.goes_on(stopping):
            await lines.send({"progress": scrub.progress and asdict(scrub.progress)})
        await lines.send(scrub.end(stopping))
        return response
    finally:
        stopping.cancel()
        await scrub.cancel()
        if repair:
            services.auditing.owe([scrub.event(request, namespace)])


async def _tell_repair(request: web.Request, namespace: str | None, result: str) -> None:
    """Before anything is repaired. Raises Problem (503)."""
    auditing = request.app[SERVICES].auditing
    auditing.require_open()
    await auditing.tell([_repair(request, namespace, result)])


def _repair(request: web.Request, namespace: str | None, result: str, count: int = 1) -> AuditEvent:
    return event_by(
        request.app[SERVICES].auditing,
        caller_of(request),
        action="scrub.repair",
        namespace=namespace or "",
        result=result,
        count=count,
    )


class _Scrub:
    """A scrub as a task, and how far it is."""

    def __init__(self, service: ScrubService, namespace: str | None, repair: bool) -> None:
        self.progress: ScrubProgress | None = None
        self._first = asyncio.Event()
        self._task = asyncio.create_task(
            service(namespace=namespace, repair=repair, progress=self._tell), name="scrub"
        )

    def _tell(self, progress: ScrubProgress) -> None:
        self.progress = progress
        self._first.set()

    async def begun(self, stopping: asyncio.Future[Any]) -> None:
        """Raises what kept it from beginning, so that the answer's status can say so."""
        first = asyncio.ensure_future(self._first.wait())
        await asyncio.wait((first, self._task, stopping), return_when=asyncio.FIRST_COMPLETED)
        first.cancel()
        if self._task.done() and (error := self._task.exception()) is not None:
            raise _problem_of(error)
        if not self._task.done() and stopping.done():
            raise _stopping()

    async def goes_on(self, stopping: asyncio.Future[Any]) -> bool:
        """After a while, or at its end."""
        await asyncio.wait(
            (self._task, stopping),
            timeout=PROGRESS_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
        return not self._task.done() and not stopping.done()

    def end(self, stopping: asyncio.Future[Any]) -> dict[str, Any]:
        if not self._task.done():
            return {"error": _stopping().body()}
        error = self._task.exception()
        if error is not None:
            return {"error": _problem_of(error).body()}
        return {"report": report_to_json(self._task.result())}

    def event(self, request: web.Request, namespace: str | None) -> AuditEvent:
        """What the audit trail is told of a repair that has ended."""
        if self._task.cancelled() or self._task.exception() is not None:
            return _repair(request, namespace, UNCERTAIN)
        repaired = self._task.result().repaired_total
        return _repair(request, namespace, ACCEPTED, repaired)

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class _Lines:
    """An answer as NDJSON. A client that reads nothing for so long is taken for gone."""

    def __init__(
        self, request: web.Request, response: web.StreamResponse, timeout_seconds: float
    ) -> None:
        self._request = request
        self._response = response
        self._timeout_seconds = timeout_seconds

    async def send(self, value: dict[str, Any]) -> None:
        data = await asyncio.to_thread(json.dumps, value)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._response.write(data.encode() + b"\n")
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionAbortedError("the client does not read the progress") from None


def _service_of(services: Services) -> ScrubService:
    if services.scrub is None:
        raise Problem(SCRUB_UNAVAILABLE, NO_INDEX)
    return services.scrub


async def _wanted(request: web.Request, services: Services) -> tuple[str | None, bool]:
    """Namespace (None: all) and whether to repair. Raises Problem."""
    refuse_unknown_parameters(request, frozenset())
    limits = services.settings
    value = await read_json(request, limits)
    body = bodies_of(limits).scrub.read(value, limits, _REFUSALS)
    repair, namespace = bool(body.repair), body.namespace
    return None if namespace is None else namespace_of(namespace, limits), repair


_REFUSALS: Refusals = {
    "repair": lambda *_: refuse("repair", "must be true or false"),
    "namespace": lambda value, limits: namespace_of(value["namespace"], limits),
}


def _problem_of(error: BaseException) -> Problem:
    if isinstance(error, ScrubBusyError):
        return Problem(SCRUB_RUNNING, str(error))
    if isinstance(error, NoSuchNamespaceError):
        return Problem(NOT_FOUND, str(error), field="namespace")
    if isinstance(error, Exception):
        return problem_of(error)
    raise error


def _stopping() -> Problem:
    return Problem(STOPPING, "the service is stopping; what was repaired stays repaired")
