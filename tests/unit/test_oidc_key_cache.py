"""How often an issuer is asked for its keys, and how long what it said is believed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from jwt.algorithms import RSAAlgorithm
from structlog.testing import capture_logs

from common.oidc_issuers import OidcIssuer
from common.oidc_keys import PublishedKeys, fresh_seconds, keys_in
from common.ports.errors import PermanentError, TransientError
from tests.tokens import Signer, issuer, signer
from webhook.oidc_key_cache import PAUSE_SECONDS, KeyCache, UnknownKeyError

FIRST, SECOND = signer("RS256", "first"), signer("RS256", "second")
FRESH = 300.0
STALE = 3600.0


class Issuer:
    """Publishes `signers`, unless it is `away`; counts how often it was asked."""

    def __init__(self, *signers: Signer) -> None:
        self.signers = signers
        self.away: Exception | None = None
        self.holds: asyncio.Event | None = None
        self.asked = 0
        self.now = 0.0
        self.answered = asyncio.Event()
        self.cache = KeyCache(
            issuer(stale_keys_seconds=STALE), fetch=self._fetch, clock=lambda: self.now
        )

    async def _fetch(self, _: OidcIssuer) -> PublishedKeys:
        self.asked += 1
        try:
            if self.holds is not None:
                await self.holds.wait()
            if self.away is not None:
                raise self.away
        finally:
            self.answered.set()
        body = json.dumps({"keys": [signer.jwk for signer in self.signers]}).encode()
        return PublishedKeys(keys_in(body, "the issuer"), "the issuer", FRESH)

    async def knows(self, kid: str) -> bool:
        try:
            return (await self.cache.key(kid, "RS256")).kid == kid
        except UnknownKeyError:
            return False


async def test_many_tokens_ask_once() -> None:
    issuer = Issuer(FIRST)
    for _ in range(20):
        assert await issuer.knows("first")
    issuer.now = FRESH - 1
    assert await issuer.knows("first")
    assert issuer.asked == 1


async def test_keys_are_asked_for_again_when_they_are_no_longer_fresh() -> None:
    issuer = Issuer(FIRST, SECOND)
    assert await issuer.knows("second")
    issuer.signers = (FIRST,)
    issuer.now = FRESH - 1
    assert await issuer.knows("second")
    issuer.now = FRESH
    assert not await issuer.knows("second"), "a key that was taken back opens nothing"
    assert issuer.asked == 2


async def test_a_new_key_is_learned_from_its_first_token() -> None:
    issuer = Issuer(FIRST)
    assert await issuer.knows("first")
    issuer.signers = (FIRST, SECOND)
    issuer.now = PAUSE_SECONDS
    assert await issuer.knows("second")
    assert issuer.asked == 2


async def test_garbage_kids_do_not_make_it_hammer_the_issuer() -> None:
    issuer = Issuer(FIRST)
    for n in range(100):
        assert not await issuer.knows(f"garbage-{n}")
    assert issuer.asked == 1
    issuer.now = 3 * PAUSE_SECONDS
    for n in range(100):
        assert not await issuer.knows(f"garbage-{n}")
    assert issuer.asked == 2
    assert await issuer.knows("first")


async def test_all_who_wait_share_one_question() -> None:
    issuer = Issuer(FIRST)
    issuer.holds = asyncio.Event()
    waiting = [asyncio.create_task(issuer.knows("first")) for _ in range(50)]
    for _ in range(5):
        await asyncio.sleep(0)
    issuer.holds.set()
    assert await asyncio.gather(*waiting) == [True] * 50
    assert issuer.asked == 1


async def test_who_gives_up_leaves_the_question_to_the_others() -> None:
    issuer = Issuer(FIRST)
    issuer.holds = asyncio.Event()
    hasty = asyncio.create_task(issuer.knows("first"))
    patient = asyncio.create_task(issuer.knows("first"))
    for _ in range(5):
        await asyncio.sleep(0)
    hasty.cancel()
    await asyncio.gather(hasty, return_exceptions=True)
    issuer.holds.set()
    assert await patient
    assert issuer.asked == 1


@pytest.mark.parametrize(
    "error", [TransientError("away"), PermanentError("garbage"), RuntimeError("nobody foresaw")]
)
async def test_old_keys_serve_while_the_issuer_is_away(error: Exception) -> None:
    issuer = Issuer(FIRST)
    assert await issuer.knows("first")
    issuer.away = error
    issuer.now = FRESH
    assert await issuer.knows("first")
    issuer.now = FRESH + STALE - 1
    assert await issuer.knows("first")
    issuer.now = FRESH + STALE
    with pytest.raises(TransientError, match="cannot be fetched"):
        await issuer.cache.key("first", "RS256")
    issuer.away = None
    issuer.now += PAUSE_SECONDS
    assert await issuer.knows("first")


async def test_nobody_waits_for_an_issuer_that_is_known_to_be_away() -> None:
    issuer = Issuer(FIRST)
    assert await issuer.knows("first")
    issuer.away, issuer.now = TransientError("away"), FRESH
    assert await issuer.knows("first")
    issuer.holds, issuer.now = asyncio.Event(), FRESH + PAUSE_SECONDS
    issuer.answered.clear()
    assert await issuer.knows("first"), "answered though the issuer is still being asked"
    issuer.away = None
    issuer.signers = (SECOND,)
    issuer.holds.set()
    await issuer.answered.wait()
    assert await issuer.knows("second")
    assert not await issuer.knows("first")


async def test_a_key_that_an_absent_issuer_may_have_is_not_refused() -> None:
    issuer = Issuer(FIRST)
    assert await issuer.knows("first")
    issuer.away, issuer.now = TransientError("away"), PAUSE_SECONDS
    for _ in range(3):
        with pytest.raises(TransientError):
            await issuer.cache.key("second", "RS256")
    assert issuer.asked == 2
    assert await issuer.knows("first")


async def test_a_token_that_no_answer_could_decide_is_refused_whether_or_not_there_is_one() -> None:
    issuer = Issuer(FIRST, SECOND)
    assert await issuer.knows("first")
    issuer.away, issuer.now = TransientError("away"), FRESH
    assert await issuer.knows("first")
    with pytest.raises(UnknownKeyError, match="with which"):
        await issuer.cache.key(None, "RS256")


async def test_an_issuer_that_never_answered_is_asked_at_most_every_so_often() -> None:
    issuer = Issuer(FIRST)
    issuer.away = TransientError("away")
    for _ in range(20):
        with pytest.raises(TransientError):
            await issuer.cache.key("first", "RS256")
    assert issuer.asked == 1
    issuer.away, issuer.now = None, PAUSE_SECONDS
    assert await issuer.knows("first")


async def test_why_keys_were_not_fetched_is_logged_without_a_token() -> None:
    issuer = Issuer(FIRST)
    issuer.away = PermanentError("it answers 404")
    with capture_logs() as logs, pytest.raises(TransientError):
        await issuer.cache.key("second", "RS256")
    assert [(line["log_level"], line["error"]) for line in logs] == [("warning", "it answers 404")]


async def test_closing_ends_the_question() -> None:
    issuer = Issuer(FIRST)
    issuer.holds = asyncio.Event()
    waiting = asyncio.create_task(issuer.knows("first"))
    for _ in range(5):
        await asyncio.sleep(0)
    await issuer.cache.close()
    assert issuer.answered.is_set()
    await asyncio.gather(waiting, return_exceptions=True)
    await issuer.cache.close()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("", 300), ("public", 300), ("max-age=600", 600), ("public, max-age=600", 600),
        ("public,max-age=600,must-revalidate", 600), ("MAX-AGE=600", 600), ('max-age="600"', 600),
        ("max-age=0", 60), ("max-age=86400", 3600), ("max-age=999999999999", 3600),
        ("no-store", 60), ("no-cache, max-age=600", 60), ("s-maxage=600", 300),
        ("max-age=-1", 300), ("max-age=x", 300),
    ],
)  # fmt: skip
def test_how_long_keys_are_fresh(said: str, seconds: float) -> None:
    assert fresh_seconds(said) == seconds


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}',
        b'{"keys": [1, null, "a", []]}',
        b"[" * 100_000, b"\xff\xfe", b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}',
        b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "a"}]}',
        b'{"keys": [{"kty": "RSA", "n": 7, "e": [], "kid": "a"}]}',
        b'{"keys": [{"kty": "RSA", "alg": ["RS256"]}]}',
        b'{"keys": [{"kty": "EC", "crv": "P-256"}]}',
        b'{"keys": [{"kty": "EC", "crv": ["P-256"], "x": "AQAB", "y": "AQAB"}]}',
        b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}]}',
        json.dumps({"keys": [FIRST.jwk] * 101}).encode(),
    ],
)  # fmt: skip
def test_answers_that_are_no_keys(body: bytes) -> None:
    with pytest.raises(PermanentError, match="the issuer"):
        keys_in(body, "the issuer")


def test_one_damaged_key_does_not_take_the_others_along() -> None:
    damaged = [FIRST.jwk | {"n": "!"}, FIRST.jwk | {"kid": 7}, {"kty": "EC", "crv": "P-256"}, 7]
    body = json.dumps({"keys": [*damaged, SECOND.jwk]}).encode()
    assert [key.kid for key in keys_in(body, "the issuer")] == ["second"]


def test_a_private_key_that_was_published_by_mistake_is_not_used() -> None:
    private: Any = FIRST.private
    whole = RSAAlgorithm.to_jwk(private, as_dict=True) | {"key_ops": ["verify"], "kid": "whole"}
    body = json.dumps({"keys": [whole, SECOND.jwk]}).encode()
    assert [key.kid for key in keys_in(body, "the issuer")] == ["second"]
