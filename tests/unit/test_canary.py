"""What a canary believes: on a service that is slow, that lies, and that will not say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.cli import canary_run
from common.cli.canary import told
from common.cli.canary_run import CANNOT_SEARCH, LEAST_SCORE, Canary, Flight, Step
from common.cli.canary_search import Search
from common.client import (
    ApiError,
    AsyncClient,
    ChangeResult,
    Insert,
    NotFoundError,
    Outcome,
    Problem,
    Status,
    UnreachableError,
)

AWAY = ApiError(Problem(status=503, title="away"))
NO_SEARCH = ApiError(
    Problem(status=503, title="no", type=f"urn:bloomweaver:problem:{CANNOT_SEARCH}")
)


@dataclass
class Service:
    """Both clients at once. `answers` is given each search's number and the texts of all versions
    so far, and says which of them the search finds, or raises."""

    answers: Callable[[int, list[str]], list[str]] = lambda _number, texts: texts[-1:]
    url: str = "http://service"
    texts: list[str] = field(default_factory=list)
    searches: int = 0
    deletes: int = 0
    gate: asyncio.Event | None = None
    """A change is accepted only once it is open."""
    accepting: asyncio.Event = field(default_factory=asyncio.Event)
    broken: ApiError | None = None
    score: float = 0.9
    listed: list[Any] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    """Of those."""
    unlisted: Exception | None = None

    async def ping(self) -> None:
        pass

    async def change(self, change: Any) -> ChangeResult:
        self.accepting.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.broken is not None:
            raise self.broken
        self.texts.append(str(change.content) if isinstance(change, Insert) else "")
        return ChangeResult(
            namespace="canary", document_id=change.document_id, outcome=Outcome.ACCEPTED,
            version=len(self.texts),
        )  # fmt: skip

    async def documents(self, namespace: str, prefix: str) -> AsyncIterator[Any]:
        assert (namespace, prefix) == ("canary", "canary-")
        if self.unlisted is not None:
            raise self.unlisted
        for one in self.listed:
            yield one

    async def delete(self, document_id: str, namespace: str) -> None:
        assert namespace == "canary"
        if self.broken is not None:
            raise self.broken
        if document_id in {one.document_id for one in self.listed}:
            self.deleted.append(document_id)
            return
        self.deletes += 1
        self.texts.append("")

    async def wait_searchable(self, _versions: Any) -> None:
        pass

    async def search(self, _query: str, namespace: str, filter: Any) -> Any:  # noqa: A002
        assert (namespace, len(filter)) == ("canary", 1)
        self.searches += 1
        found = self.answers(self.searches, self.texts)
        self._canary = f"canary-{filter['canary']}"
        hits = [
            SimpleNamespace(text=text, document_id=self._canary, score=self.score)
            for text in found
            if text
        ]
        return SimpleNamespace(hits=hits)

    async def document(self, _document_id: str, namespace: str) -> Any:
        if not self.texts:
            raise NotFoundError(Problem(status=404, title="none"))
        gone = not self.texts[-1]
        return SimpleNamespace(
            status=Status.DELETED if gone else Status.COMPLETED, version=len(self.texts),
            applied_version=len(self.texts), error=None,
        )  # fmt: skip

    async def chunks(self, _document_id: str, namespace: str) -> AsyncIterator[Any]:
        for text in self.answers(0, self.texts):
            yield SimpleNamespace(text=text)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_run, "LOOK_AGAIN_SECONDS", 0.0)


def canary(service: Service, search: Search = Search.AUTO) -> Canary:
    client = cast("AsyncClient", service)
    return Canary(client, client, "canary", search=search)


async def flown(service: Service, seconds: float = 30.0, search: Search = Search.AUTO) -> Flight:
    return await canary(service, search).fly(seconds)


async def test_it_goes_on_looking_until_the_old_text_is_gone() -> None:
    def mixed_for_a_while(number: int, texts: list[str]) -> list[str]:
        return texts[-2:] if number < 6 else texts[-1:]

    flight = await flown(service := Service(mixed_for_a_while))
    assert flight.error is None
    # One search for the first text, five for the second, one for the end.
    assert service.searches == 7


@pytest.mark.parametrize(
    ("lie", "step"),
    [
        (lambda _n, _texts: [], Step.FOUND),
        (lambda _n, texts: texts[:1], Step.REPLACED),
        (lambda _n, texts: texts, Step.REPLACED),
        (lambda _n, texts: [t for t in texts if t][-1:], Step.GONE),
    ],
    ids=["finds nothing", "finds the old", "finds both", "finds what is deleted"],
)
async def test_a_search_that_lies_is_a_failure(
    lie: Callable[[int, list[str]], list[str]], step: Step
) -> None:
    flight = await flown(service := Service(lie), 0.2)
    assert flight.step is step
    assert isinstance(flight.error, TimeoutError)
    assert flight.as_json()["ok"] is False
    assert (service.deletes, flight.cleaned_up) == (1, True)


@pytest.mark.parametrize("error", [AWAY, UnreachableError("http://service", "reset")])
async def test_what_passes_is_asked_again(error: Exception) -> None:
    def away_at_first(number: int, texts: list[str]) -> list[str]:
        if number == 1:
            raise error
        return texts[-1:]

    flight = await flown(service := Service(away_at_first))
    assert (flight.error, flight.searched, service.searches) == (None, True, 4)


async def test_what_does_not_pass_ends_it_at_once() -> None:
    refused = ApiError(Problem(status=403, title="no", detail="not this namespace"))

    def refuse(_number: int, _texts: list[str]) -> list[str]:
        raise refused

    flight = await flown(service := Service(refuse))
    assert (flight.step, flight.error, service.searches) == (Step.FOUND, refused, 1)


async def test_where_nobody_searches_a_lie_is_still_a_failure() -> None:
    def old_chunks(number: int, texts: list[str]) -> list[str]:
        if number:
            raise NO_SEARCH
        return texts[:1]

    flight = await flown(service := Service(old_chunks), 0.2)
    assert (flight.step, flight.searched, service.searches) == (Step.REPLACED, False, 1)


async def test_an_interruption_lets_the_accept_end_before_it_deletes() -> None:
    service = Service(gate=asyncio.Event())
    flight = asyncio.create_task(canary(service).fly(30))
    await service.accepting.wait()
    flight.cancel()
    await asyncio.sleep(0)
    assert service.gate is not None
    service.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await flight
    assert [bool(text) for text in service.texts] == [True, False]


async def test_what_it_had_to_leave_behind_is_told() -> None:
    def break_down(_number: int, _texts: list[str]) -> list[str]:
        service.broken = AWAY
        return []

    service = Service(break_down)
    flight = await flown(service, 0.2)
    assert (flight.left_behind, flight.cleaned_up) == ("away", False)


async def test_where_search_is_required_one_that_cannot_is_a_failure() -> None:
    def cannot(_number: int, _texts: list[str]) -> list[str]:
        raise NO_SEARCH

    flight = await flown(service := Service(cannot), 0.2, Search.REQUIRED)
    assert (flight.step, flight.searched) == (Step.FOUND, True)
    assert isinstance(flight.error, TimeoutError)
    assert service.searches > 1
    lines = list(told(flight, flight.error, []))
    assert any("the last search was answered: no" in line for line in lines), lines


async def test_where_search_is_required_one_that_is_late_will_do() -> None:
    def late(number: int, texts: list[str]) -> list[str]:
        if number < 4:
            raise NO_SEARCH
        return texts[-1:]

    flight = await flown(Service(late), search=Search.REQUIRED)
    assert (flight.error, flight.searched, flight.refused) == (None, True, "")


@pytest.mark.parametrize(("score", "well"), [(LEAST_SCORE, True), (LEAST_SCORE - 0.01, False)])
async def test_a_text_that_is_far_from_itself_has_a_wrong_vector(score: float, well: bool) -> None:
    """The filter finds it all the same."""
    flight = await flown(Service(score=score), 30.0 if well else 0.2)
    assert (flight.error is None) is well


def test_a_deleted_text_must_be_gone_however_far_it_is() -> None:
    looks = canary_run.Looks(3, None, "the song")
    assert canary_run.shows(looks, [canary_run.Seen("the song", 0.0)]) is False


async def test_a_part_of_the_text_is_not_the_text() -> None:
    flight = await flown(Service(lambda _n, texts: [text[:-1] for text in texts[-1:]]), 0.2)
    assert flight.step is Step.FOUND


def listed(name: str, hours: float, *, tombstone: bool = False) -> Any:
    accepted = datetime.now(UTC) - timedelta(hours=hours)
    return SimpleNamespace(document_id=name, accepted_at=accepted, tombstone=tombstone)


async def test_what_killed_canaries_left_is_deleted_and_told() -> None:
    left = f"canary-{'a' * 16}"
    service = Service(
        listed=[
            listed(left, 1.1), listed(f"canary-{'b' * 16}", 0.9),
            listed(f"canary-{'c' * 16}", 9, tombstone=True), listed("canary-in-a-coal-mine", 9),
        ]
    )  # fmt: skip
    flight = await flown(service)
    assert (flight.error, service.deleted) == (None, [left])
    assert flight.taken[0].detail.endswith(f"deleted what earlier canaries left: {left}")


@pytest.mark.parametrize("error", [AWAY, UnreachableError("http://service", "reset")])
async def test_what_cannot_be_deleted_of_others_ends_no_flight(error: Exception) -> None:
    flight = await flown(Service(unlisted=error))
    assert flight.error is None
    assert f"could not be deleted: {error}" in flight.taken[0].detail


async def test_what_nobody_foresaw_leaves_no_document() -> None:
    def unforeseen(_number: int, _texts: list[str]) -> list[str]:
        raise ZeroDivisionError

    service = Service(unforeseen)
    with pytest.raises(ZeroDivisionError):
        await flown(service)
    assert service.deletes == 1
