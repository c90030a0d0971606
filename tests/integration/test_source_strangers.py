"""What whoever is not a source may cost it: no body is read that is refused anyway, those that have
to be read have a bound together, and a password cannot be guessed for long."""

from __future__ import annotations

import asyncio
import gzip
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.settings import MEBIBYTE
from tests.fakes.receipts import MemoryReceipts
from tests.integration.test_http_sources import Sender, sending
from tests.pipeline import Pipeline, pipeline
from tests.raw_http import RawClient, connected, request
from tests.source_files import SECRET, VARIABLE
from webhook.limits import Limits
from webhook.token_bucket import Rate
from webhook.unverified_bodies import UNVERIFIED, UnverifiedBodies

KIBIBYTE = 1024
TOTAL = 4 * MEBIBYTE
FILE = f"""\
sources:
  github:
    namespace: docs
    verify: {{kind: github, secret: "${{{VARIABLE}}}"}}
    changes: [{{document_id: "{{item.id}}", content: item.text}}]
  wiki:
    namespace: docs
    verify: {{kind: standard-webhooks, secret: "${{{VARIABLE}}}"}}
    changes: [{{document_id: "{{item.id}}", content: item.text}}]
  paid:
    namespace: docs
    verify: {{kind: stripe, secret: "${{{VARIABLE}}}"}}
    changes: [{{document_id: "{{item.id}}", content: item.text}}]
  basic:
    namespace: docs
    verify: {{kind: basic, username: sender, secret: "${{{VARIABLE}}}"}}
    changes: [{{document_id: "{{item.id}}", content: item.text}}]
  token:
    namespace: docs
    verify: {{kind: token, header: X-Token, secret: "${{{VARIABLE}}}"}}
    changes: [{{document_id: "{{item.id}}", content: item.text}}]
  other-token:
    namespace: docs
    verify: {{kind: token, header: X-Token, secret: "${{OTHER_SECRET}}"}}
    changes: [{{document_id: "{{item.id}}", content: item.text}}]
"""
OTHER = "the secret of the other one"
ONE = {"id": "a", "text": "A"}
FORGED = f"X-Hub-Signature-256: sha256={'0' * 64}"


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    monkeypatch.setenv("OTHER_SECRET", OTHER)


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@pytest.fixture
async def sender(flow: Pipeline, tmp_path: Path) -> AsyncIterator[Sender]:
    path, settings = tmp_path / "sources.yaml", {"max_unverified_bytes": TOTAL}
    async with sending(flow, path, MemoryReceipts(), file=FILE, settings=settings) as made:
        yield made


def strangers(sender: Sender) -> UnverifiedBodies:
    return sender.api.runner.app[UNVERIFIED]


async def until_held(sender: Sender, size: int) -> None:
    async with asyncio.timeout(60):
        while strangers(sender).used != size:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


def head(name: str, *headers: str, length: int | None = None) -> bytes:
    how = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return request(f"/v1/sources/{name}", *headers, how, length=False)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# --- room ----------------------------------------------------------------------------------------


async def test_bodies_of_strangers_have_a_bound_together(sender: Sender) -> None:
    largest = strangers(sender).largest
    async with connected(sender.api.runner) as first, connected(sender.api.runner) as second:
        await first.send(head("github", FORGED, length=largest) + b"x")
        await until_held(sender, largest)
        refused = await second.ask(head("github", FORGED, length=KIBIBYTE))
        assert refused.problem == (503, "over-capacity")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await sender.send("wiki", ONE))[0] == 200
        assert (await sender.send("basic", ONE))[0] == 200
        assert (await sender.send("github", ONE))[0] == 503
    await until_held(sender, 0)
    assert (await sender.send("github", ONE))[0] == 200
    assert strangers(sender) == UnverifiedBodies(TOTAL)


async def test_a_body_of_unknown_length_takes_room_as_it_grows(sender: Sender) -> None:
    """Chunks, and what few bytes unfold to."""
    folded = gzip.compress(bytes(600 * KIBIBYTE))
    async with connected(sender.api.runner) as first, connected(sender.api.runner) as second:
        await first.send(head("github", FORGED) + chunk(bytes(600 * KIBIBYTE)))
        await until_held(sender, 600 * KIBIBYTE)
        gzipped = head("github", FORGED, "Content-Encoding: gzip", length=len(folded))
        refused = await second.ask(gzipped + folded)
        assert refused.problem == (503, "over-capacity")
        await until_held(sender, 600 * KIBIBYTE)
        refused = await first.ask(chunk(bytes(600 * KIBIBYTE)))
        assert refused.problem == (413, "too-large")
    await until_held(sender, 0)


async def test_what_is_refused_or_given_up_takes_no_room_any_more(sender: Sender) -> None:
    async with connected(sender.api.runner) as client:
        sent = head("github", FORGED, length=100_000) + bytes(100_000)
        assert (await client.ask(sent)).problem == (401, "unauthenticated")
        assert strangers(sender) == UnverifiedBodies(TOTAL)
        await client.send(head("github", FORGED, length=100_000))
        await until_held(sender, 100_000)
    await until_held(sender, 0)


async def test_one_body_has_a_quarter_at_most(sender: Sender) -> None:
    async with connected(sender.api.runner) as client:
        answer = await client.ask(head("github", FORGED, length=strangers(sender).largest + 1))
        assert answer.problem == (413, "too-large")
        assert answer.value["limit"] == TOTAL // 4


def greedy(bodies: UnverifiedBodies, source: str, network: str, step: int = KIBIBYTE) -> int:
    """Takes all it can get."""
    taken = 0
    while bodies.has_room(source, network, step):
        bodies.add(source, network, step)
        taken += step
    return taken


def test_one_source_leaves_the_others_half_and_one_network_the_sources_half_of_that() -> None:
    bodies = UnverifiedBodies(TOTAL)
    assert greedy(bodies, "a", "1") == TOTAL // 4 == bodies.largest
    for network in range(2, 50):
        greedy(bodies, "a", str(network))
    assert TOTAL * 2 // 5 < bodies.used <= TOTAL // 2
    assert bodies.has_room("b", "1", TOTAL // 8)


@pytest.mark.parametrize("networks", [1, 10, 100])
def test_a_newcomer_finds_room_beside_all_who_take_what_they_can(networks: int) -> None:
    bodies = UnverifiedBodies(64 * MEBIBYTE)
    for source in ("a", "b", "c"):
        for network in range(networks):
            greedy(bodies, source, str(network), KIBIBYTE)
        if source == "a" and networks < 100:
            assert bodies.has_room("a", "new", 16 * KIBIBYTE)
        assert bodies.has_room("new", "1", MEBIBYTE)


# --- before the body -----------------------------------------------------------------------------

NOW = int(time.time())
TIMES = ("webhook-id: m1", f"webhook-timestamp: {NOW}")
RIGHT = b64encode(bytes(32)).decode()
REFUSED_BY_THEIR_HEAD = {
    "github: no signature": ("github", ()),
    "github: two": ("github", (FORGED, FORGED)),
    "github: another form": ("github", (f"X-Hub-Signature-256: sha1={'0' * 40}",)),
    "github: too short": ("github", (f"X-Hub-Signature-256: sha256={'0' * 62}",)),
    "github: no hex": ("github", (f"X-Hub-Signature-256: sha256={'x' * 64}",)),
    "wiki: no time": ("wiki", ("webhook-id: m1", f"webhook-signature: v1,{RIGHT}")),
    "wiki: no number": (
        "wiki", ("webhook-id: m", "webhook-timestamp: x", f"webhook-signature: v1,{RIGHT}"),
    ),
    "wiki: old": (
        "wiki", ("webhook-id: m", "webhook-timestamp: 9", f"webhook-signature: v1,{RIGHT}"),
    ),
    "wiki: another version": ("wiki", (*TIMES, f"webhook-signature: v9,{RIGHT}")),
    "paid: old": ("paid", (f"Stripe-Signature: t=9,v1={'0' * 64}",)),
    "paid: no time": ("paid", (f"Stripe-Signature: v1={'0' * 64}",)),
    "paid: no signature": ("paid", (f"Stripe-Signature: t={NOW}",)),
    "basic: none": ("basic", ()),
    "basic: wrong": ("basic", ("Authorization: Basic c2VuZGVyOng=",)),
    "token: none": ("token", ()),
    "token: wrong": ("token", ("X-Token: x",)),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_BY_THEIR_HEAD)
async def test_what_the_head_shows_is_refused_before_a_byte_of_the_body(
    sender: Sender, case: str
) -> None:
    name, headers = REFUSED_BY_THEIR_HEAD[case]
    async with connected(sender.api.runner) as client:
        answer = await client.ask(head(name, *headers, length=1000))
        assert answer.problem == (401, "unauthenticated")
        assert strangers(sender).used == 0
        # The connection is good for the next request once the body has been sent after all.
        assert (await client.ask(bytes(1000) + get_health())).status == 200


def get_health() -> bytes:
    return request("/healthz", method="GET", length=False)


async def test_bodies_of_known_senders_take_no_room_of_strangers(sender: Sender) -> None:
    """Their size has the bound of the source alone."""
    credentials = b64encode(f"sender:{SECRET}".encode()).decode()
    sent = head("basic", f"Authorization: Basic {credentials}", length=2 * MEBIBYTE)
    async with connected(sender.api.runner) as client:
        answer = await client.ask(sent + b" " * (2 * MEBIBYTE))
        assert answer.problem == (422, "invalid-field")


# --- guesses -------------------------------------------------------------------------------------


@pytest.fixture
async def guarded_sender(flow: Pipeline, tmp_path: Path) -> AsyncIterator[Sender]:
    limits = Limits(failures=Rate(per_second=0.001, burst=3), clock=lambda: 0.0)
    path = tmp_path / "sources.yaml"
    async with sending(flow, path, MemoryReceipts(), file=FILE, limits=limits) as made:
        yield made


def basic(password: str) -> str:
    return "Authorization: Basic " + b64encode(f"sender:{password}".encode()).decode()


async def statuses(client: RawClient, name: str, *headers: str) -> list[int]:
    return [(await client.ask(head(name, one, length=0))).status for one in headers]


@pytest.mark.parametrize("name", ["basic", "token"])
async def test_a_sources_password_cannot_be_guessed_for_long(
    guarded_sender: Sender, name: str
) -> None:
    written = basic if name == "basic" else "X-Token: {}".format
    async with connected(guarded_sender.api.runner) as client:
        guesses = [written(f"guess-{n}") for n in range(5)]
        assert await statuses(client, name, *guesses) == [401, 401, 401, 429, 429]
        # Not even the right one is looked at, unless it was right before.
        assert await statuses(client, name, written(SECRET)) == [429]
    assert (await guarded_sender.send("github", ONE))[0] == 200


async def test_who_was_known_before_is_let_in_while_others_guess(guarded_sender: Sender) -> None:
    assert (await guarded_sender.send("token", ONE))[0] == 200
    async with connected(guarded_sender.api.runner) as client:
        await statuses(client, "token", *(f"X-Token: guess-{n}" for n in range(4)))
        # What is right for one source is a guess at another.
        assert await statuses(client, "other-token", f"X-Token: {SECRET}") == [429]
    assert (await guarded_sender.send("token", ONE, delivery_id="m2"))[0] == 200


async def test_signatures_are_no_guesses_whatever_else_is_sent(guarded_sender: Sender) -> None:
    """Behind a proxy all share an address: a broken sender must not shut out the others."""
    async with connected(guarded_sender.api.runner) as client:
        sent = [head("github", FORGED, f"Authorization: Bearer {n}", length=0) for n in range(6)]
        assert [(await client.ask(one)).status for one in sent] == [401] * 6
