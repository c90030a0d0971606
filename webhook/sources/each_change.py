"""The changes of a delivery, each accepted or refused for itself.

Senders send a list again whole, for days, while any of it is refused: one change that can never be
accepted would hold up all others. So it is reported, logged, counted and told to the audit trail,
and the answer asks for another delivery only where that would mend something, or where there was
nothing to accept at all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from common import telemetry
from common.model import DocumentKey
from common.ports.errors import PermanentError
from common.transitions import Outcome
from webhook.accept import Change, ChangeType, ProfileMismatchError
from webhook.acceptance import charge_for, require_reach_of_change
from webhook.auditing import REFUSED, event_by
from webhook.callers import Caller
from webhook.changes import accept_all
from webhook.problems import (
    CONTENT_UNAVAILABLE,
    INVALID_FIELD,
    KINDS,
    NOT_FOUND,
    PRECONDITION_FAILED,
    QUOTA_EXCEEDED,
    TYPE_PREFIX,
    UNAVAILABLE,
    Problem,
    deadline,
    problem_of,
)
from webhook.services import Services
from webhook.sources.mapping import JSON, Mapped

log = structlog.get_logger(__name__)

MAX_ERRORS_TOLD = 20
MAX_NAME_CHARACTERS = 200
"""Of what is told of a name: nobody has checked its length."""
_COMES_AGAIN = {
    TYPE_PREFIX + kind.slug: kind
    for kind in (NOT_FOUND, PRECONDITION_FAILED, QUOTA_EXCEEDED, UNAVAILABLE)
}
_KINDS = {TYPE_PREFIX + kind.slug: kind for kind in KINDS}


@dataclass(slots=True)
class _Refusals:
    """Of one delivery, told to everybody who is to know of them."""

    services: Services
    caller: Caller
    told: list[JSON] = field(default_factory=list)
    """The problem documents, each with the document it is about, where that is known."""
    again: Problem | None = None
    """What another delivery may mend; the others were accepted."""

    def add(self, problem: Problem, change: JSON) -> None:
        namespace, document = _text(change.get("namespace")), _text(change.get("document_id"))
        short = {
            "namespace": namespace[:MAX_NAME_CHARACTERS],
            "document_id": document[:MAX_NAME_CHARACTERS],
        }
        self.told.append({**short, **problem.body()})
        if not problem.audited:
            event = event_by(
                self.services.auditing,
                self.caller,
                action=REFUSED,
                namespace=namespace,
                document_id=document,
                subject=_text(change.get("change_type")),
                result=problem.kind.slug,
            )
            self.services.auditing.refuse(event)


async def accept_each(
    services: Services,
    mapped: Mapped,
    changes: Sequence[Change | Problem],
    caller: Caller,
    accepted: dict[int, str],
    *,
    again: Problem | None = None,
) -> JSON:
    """Of `mapped.changes` those that can be accepted; what is to be told of them. `accepted` has,
    by index, those that were before, and gets the outcome of each that is now, also where this ends
    with a Problem. `again`: what the delivery is to come again for whatever comes of its changes.

    Raises Problem: what a list of changes is answered with that cannot be accepted for now; what is
    to come again, once the others were accepted; and the first refusal where nothing was valid.
    """
    refusals = _Refusals(services, caller, again=again)
    for problem in mapped.refused:
        refusals.add(problem, {})
    todo = {index: one for index, one in enumerate(changes) if index not in accepted}
    valid = _valid(mapped, todo, refusals)
    charge_for(services, list(valid.values()), caller)
    valid = await _of_our_profile(services, valid, refusals)
    results: dict[int, JSON] = {}
    try:
        await _accepted(services, valid, caller, refusals, results)
    finally:
        _sort(valid, results, refusals, accepted)
    outcomes = Counter(accepted.values())
    _tell(caller.source, mapped, refusals.told)
    if refusals.again is not None:
        raise refusals.again
    if refusals.told and not outcomes:
        raise _nothing_valid(refusals.told)
    return {
        **{outcome.value: outcomes[outcome.value] for outcome in Outcome},
        **_shown(mapped, refusals.told),
    }


def _valid(
    mapped: Mapped, todo: Mapping[int, Change | Problem], refusals: _Refusals
) -> dict[int, Change]:
    """What can be tried; the others are added to the refusals."""
    valid: dict[int, Change] = {}
    for index, change in todo.items():
        found = _reached(refusals.services, index, change, refusals.caller)
        if isinstance(found, Change):
            valid[index] = found
        elif found.kind.status == UNAVAILABLE.status:
            refusals.again = refusals.again or found
        else:
            refusals.add(found, mapped.changes[index])
    return valid


async def _of_our_profile(
    services: Services, valid: dict[int, Change], refusals: _Refusals
) -> dict[int, Change]:
    """Those of namespaces that this service may embed. The others are to come again, until somebody
    has mended that. Raises Problem (503)."""
    known: dict[str, Problem | None] = {}
    for index, change in valid.items():
        namespace = change.key.namespace
        if namespace in known:
            continue
        try:
            async with deadline(services.settings.request_timeout_seconds):
                await services.acceptor.is_bound(namespace)
            known[namespace] = None
        except (ProfileMismatchError, PermanentError) as error:
            known[namespace] = problem_of(error).within(f"changes[{index}]")
    refusals.again = refusals.again or next(filter(None, known.values()), None)
    return {index: change for index, change in valid.items() if not known[change.key.namespace]}


async def _accepted(
    services: Services,
    valid: dict[int, Change],
    caller: Caller,
    refusals: _Refusals,
    results: dict[int, JSON],
) -> None:
    """Puts into `results`, by index, what came out, also when it is ended early. Documents whose
    content is elsewhere come last and each for itself: one that cannot be fetched for now is to
    come again, and holds up no other."""
    elsewhere = {change.key for change in valid.values() if change.content_url is not None}
    here = [index for index, change in valid.items() if change.key not in elsewhere]
    await _all(services, valid, here, caller, results)
    documents: dict[DocumentKey, list[int]] = {}
    for index, change in valid.items():
        if change.key in elsewhere:
            documents.setdefault(change.key, []).append(index)
    todo = iter(documents.values())

    async def work() -> None:
        for indices in todo:
            try:
                await _all(services, valid, indices, caller, results)
            except Problem as problem:
                if problem.kind is not CONTENT_UNAVAILABLE:
                    raise
                refusals.again = refusals.again or problem

    if documents:
        await _side_by_side(work, min(services.settings.accept_concurrency, len(documents)))


async def _all(
    services: Services,
    valid: dict[int, Change],
    indices: Sequence[int],
    caller: Caller,
    results: dict[int, JSON],
) -> None:
    found: list[JSON] = []
    try:
        if indices:
            some = [valid[index] for index in indices]
            await accept_all(services, some, caller, found, of_delivery=True)
    finally:
        results.update((index, one) for index, one in zip(indices, found, strict=False) if one)


async def _side_by_side(work: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
    """Raises the first error."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def _reached(
    services: Services, index: int, change: Change | Problem, caller: Caller
) -> Change | Problem:
    """A namespace that is not the source's is one change's own fault, too."""
    if isinstance(change, Problem):
        return change
    try:
        require_reach_of_change(services, change, caller)
    except Problem as problem:
        return problem.within(f"changes[{index}]")
    return change


def _sort(
    valid: dict[int, Change],
    results: dict[int, JSON],
    refusals: _Refusals,
    accepted: dict[int, str],
) -> None:
    """What was accepted, and what is refused. An update of what is not there may have overtaken its
    insert, a namespace that is full may have room another time, and a document that is damaged be
    mended: they are to come again."""
    replaced: set[DocumentKey] = set()
    refused: list[JSON] = []
    later: Problem | None = None
    for index, result in sorted(results.items(), reverse=True):
        error, change = result.get("error"), valid[index]
        if error is None:
            accepted[index] = result["outcome"]
            if change.change_type is not ChangeType.UPDATE:
                replaced.add(change.key)
        elif error["type"] not in _COMES_AGAIN:
            refused.append(_refused(index, result, error))
        elif change.key in replaced and change.source_version is None:
            accepted[index] = Outcome.SUPERSEDED.value  # done later, it would undo that
        else:
            later = _to_come_again(index, error)
    refusals.told += reversed(refused)
    refusals.again = refusals.again or later


def _refused(index: int, result: JSON, error: JSON) -> JSON:
    named = {name: result[name] for name in ("namespace", "document_id")}
    return {**named, **error, "field": f"changes[{index}].{error.get('field', 'content_url')}"}


def _to_come_again(index: int, error: JSON) -> Problem:
    kind = _COMES_AGAIN[error["type"]]
    detail = f"{error['detail']}; the delivery's other changes were accepted"
    if kind not in (QUOTA_EXCEEDED, UNAVAILABLE):
        kind = INVALID_FIELD
    return Problem(kind, detail, field=f"changes[{index}].document_id")


def _nothing_valid(told: list[JSON]) -> Problem:
    first = told[0]
    more: JSON = {"errors": told[:MAX_ERRORS_TOLD]} if len(told) > 1 else {}
    problem = Problem(
        _KINDS.get(first["type"], INVALID_FIELD),
        first["detail"],
        field=first.get("field"),
        limit=first.get("limit"),
        **more,
    )
    problem.audited = True
    return problem


def _tell(source: str, mapped: Mapped, told: list[JSON]) -> None:
    if told:
        telemetry.SOURCE_REFUSED.labels(source).inc(len(told))
        shown = [{name: one.get(name) for name in ("field", "document_id", "detail")}
                 for one in told[:MAX_ERRORS_TOLD]]  # fmt: skip
        log.warning("source.changes_refused", source=source, count=len(told), changes=shown)
    if mapped.warnings:
        log.warning("source.warned", source=source, warnings=mapped.warnings)


def _shown(mapped: Mapped, told: list[JSON]) -> JSON:
    """Only where there is any of it."""
    refused = {"refused": len(told), "errors": told[:MAX_ERRORS_TOLD]} if told else {}
    return {**refused, **({"warnings": mapped.warnings} if mapped.warnings else {})}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
