"""People's tokens against an issuer that is really asked: it rotates its keys, goes away, comes
back, and answers what it should not."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from common import oidc_keys
from common.access import Scope
from common.oidc_issuers import OidcIssuer
from common.oidc_keys import fetch_keys
from common.ports.errors import PermanentError, TransientError
from common.settings import Settings
from tests import tokens
from tests.servers.issuer import DISCOVERY, KEYS, IssuerServer, an_issuer, hangs, never_ends, says
from tests.tokens import NOW, Signer, signer
from webhook.issuers import issuers_of
from webhook.oidc import OidcVerifier
from webhook.oidc_key_cache import PAUSE_SECONDS, KeyCache
from webhook.problems import Problem

FIRST, SECOND = signer("RS256", "first"), signer("ES256", "second")


def known(server: IssuerServer, **given: Any) -> OidcIssuer:
    return tokens.issuer(issuer=server.url, **given)


@dataclass
class Door:
    """The verifier of one issuer, with a clock of its own."""

    server: IssuerServer
    now: float = 0.0
    sent: int = 0

    def __post_init__(self) -> None:
        issuer = known(self.server)
        cache = KeyCache(issuer, clock=lambda: self.now)
        self.verifier = OidcVerifier([(issuer, cache)], clock=lambda: NOW + self.now)

    async def answers(self, signer: Signer, **given: Any) -> int:
        """The status that whoever has such a token would see; each is a new one."""
        self.sent += 1
        claims = self.server.claims(exp=NOW + 10**6, jti=str(self.sent), **given)
        try:
            await self.verifier.principal(signer.token(claims))
        except Problem as problem:
            return problem.kind.status
        return 200


@asynccontextmanager
async def door(*signers: Signer) -> AsyncIterator[Door]:
    async with an_issuer(*signers) as server:
        made = Door(server)
        try:
            yield made
        finally:
            await made.verifier.close()


async def test_keys_are_found_by_discovery_and_kept() -> None:
    async with door(FIRST, SECOND) as at:
        for _ in range(5):
            assert await at.answers(FIRST) == await at.answers(SECOND) == 200
        assert at.server.asked == {DISCOVERY: 1, KEYS: 1}


async def test_keys_are_kept_as_long_as_the_issuer_says() -> None:
    async with door(FIRST) as at:
        at.server.headers = {"Cache-Control": "public, max-age=1200, must-revalidate"}
        assert await at.answers(FIRST) == 200
        at.now = 1199
        assert await at.answers(FIRST) == 200
        assert at.server.asked[KEYS] == 1
        at.now = 1200
        assert await at.answers(FIRST) == 200
        assert at.server.asked[KEYS] == 2


async def test_an_issuer_rotates_its_keys() -> None:
    async with door(FIRST) as at:
        assert await at.answers(FIRST) == 200
        at.now += PAUSE_SECONDS
        at.server.signers = [FIRST, SECOND]
        assert await at.answers(SECOND) == 200, "at its first token"
        at.server.signers = [SECOND]
        at.now += 3600
        assert await at.answers(SECOND) == 200
        assert await at.answers(FIRST) == 401


async def test_an_issuer_goes_away_and_comes_back() -> None:
    async with door(FIRST) as at:
        assert await at.answers(FIRST) == 200
        await at.server.go_away()
        at.now += 3600
        assert await at.answers(FIRST) == 200
        assert await at.answers(SECOND) == 503
        at.now += 6 * 3600
        assert await at.answers(FIRST) == 503
        await at.server.start()
        assert await at.answers(FIRST) == 503, "it was asked just now"
        at.now += PAUSE_SECONDS
        assert await at.answers(FIRST) == 200
        assert await at.answers(SECOND) == 401


async def test_an_issuer_that_was_never_there() -> None:
    async with door(FIRST) as at:
        await at.server.go_away()
        assert await at.answers(FIRST) == 503
        await at.server.start()
        at.now += PAUSE_SECONDS
        assert await at.answers(FIRST) == 200


GARBAGE = {
    "a page": says("<html>it works</html>", headers={"Content-Type": "text/html"}),
    "nothing": says(""),
    "a list": says("[]"),
    "no keys": says('{"keys": []}'),
    "a secret": says('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "first"}]}'),
    "too much": never_ends,
    "a bomb": says(gzip.compress(b" " * 50_000_000), headers={"Content-Encoding": "gzip"}),
    "a torn bomb": says(gzip.compress(b"{}")[:-9], headers={"Content-Encoding": "gzip"}),
    "missing": says("", 404),
    "broken": says("", 500),
    "busy": says("", 429),
}


@pytest.mark.parametrize("name", sorted(GARBAGE))
async def test_garbage_replaces_no_keys(name: str) -> None:
    async with door(FIRST) as at:
        assert await at.answers(FIRST) == 200
        at.server.answers[KEYS] = GARBAGE[name]
        at.now += 3600
        assert await at.answers(FIRST) == 200
        assert await at.answers(SECOND) == 503
        at.server.answers.clear()
        at.now += PAUSE_SECONDS
        assert await at.answers(SECOND) == 401


@pytest.mark.parametrize("name", sorted(GARBAGE))
async def test_garbage_in_the_place_of_the_discovery_document(name: str) -> None:
    async with door(FIRST) as at:
        at.server.answers[DISCOVERY] = GARBAGE[name]
        assert await at.answers(FIRST) == 503
        assert KEYS not in at.server.asked


async def test_an_issuer_that_hangs_is_waited_for_no_longer_than_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(oidc_keys, "DEADLINE_SECONDS", 0.05)
    async with door(FIRST) as at:
        for path in (KEYS, DISCOVERY):
            at.server.answers = {path: hangs}
            assert await at.answers(FIRST) == 503
            at.now += PAUSE_SECONDS
        monkeypatch.undo()
        at.server.answers = {}
        assert await at.answers(FIRST) == 200


# --- what is not fetched --------------------------------------------------------------------------


async def fails(server: IssuerServer, **given: Any) -> str:
    with pytest.raises(PermanentError) as caught:
        await fetch_keys(known(server, **given))
    return str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_told_and_not_followed(status: int) -> None:
    async with an_issuer(FIRST) as thief, an_issuer(FIRST) as server:
        server.answers[KEYS] = says("", status, {"Location": thief.keys_url})
        assert f"set issuer or jwks_url to what is at {thief.keys_url}" in await fails(server)
        server.answers[DISCOVERY] = says("", status, {"Location": thief.url})
        assert "elsewhere" in await fails(server)
        assert not thief.asked


@pytest.mark.parametrize("name", ["too much", "a bomb"])
async def test_no_more_is_read_than_keys_take(name: str) -> None:
    async with an_issuer(FIRST) as server:
        server.answers[KEYS] = GARBAGE[name]
        assert "answers more than 524,288 bytes" in await fails(server)


@pytest.mark.parametrize("named", ["", "/", "/other", "x"])
async def test_a_discovery_document_of_another_issuer(named: str) -> None:
    async with an_issuer(FIRST) as server:
        said = {"issuer": server.url + named, "jwks_uri": server.keys_url}
        server.answers[DISCOVERY] = says(json.dumps(said))
        if named:
            assert "the same to the letter" in await fails(server)
        else:
            assert len((await fetch_keys(known(server))).keys) == 1


@pytest.mark.parametrize(
    "url",
    ["http://keys.example/jwks", "file:///etc/passwd", "ftp://127.0.0.1/keys", "/keys", "", None, 7,
     ["https://keys.example"], "http://169.254.169.254/latest/meta-data", "https://a:b@keys.example"],
)  # fmt: skip
async def test_a_discovery_document_that_names_no_address_to_fetch_from(url: object) -> None:
    async with an_issuer(FIRST) as server:
        said = {"issuer": server.url, "jwks_uri": url}
        server.answers[DISCOVERY] = says(json.dumps(said))
        assert "no jwks_uri that may be used" in await fails(server)


async def test_where_the_keys_are_can_be_set() -> None:
    async with an_issuer(FIRST) as server:
        server.answers["/keys.json"] = says(json.dumps({"keys": [SECOND.jwk]}))
        url = f"http://127.0.0.1:{server.port}/keys.json"
        found = await fetch_keys(known(server, jwks_url=url))
        assert [key.kid for key in found.keys] == ["second"]
        assert found.url == url
        assert server.asked == {"/keys.json": 1}


async def test_an_issuer_with_a_slash_at_its_end() -> None:
    async with an_issuer(FIRST) as server:
        said = {"issuer": server.url + "/", "jwks_uri": server.keys_url}
        server.answers[DISCOVERY] = says(json.dumps(said))
        assert len((await fetch_keys(tokens.issuer(issuer=server.url + "/"))).keys) == 1


async def test_what_cannot_be_reached_is_told_as_that() -> None:
    async with an_issuer() as server:
        pass
    with pytest.raises(TransientError, match="cannot be reached"):
        await fetch_keys(known(server))


async def test_the_issuer_is_asked_beside_other_requests() -> None:
    """Fifty tokens at once: one question, and the loop goes on."""
    async with door(FIRST) as at:
        asked, released = asyncio.Event(), asyncio.Event()

        async def slowly(_: web.Request) -> web.StreamResponse:
            asked.set()
            await released.wait()
            return web.json_response({"keys": [FIRST.jwk]})

        at.server.answers[KEYS] = slowly
        waiting = [asyncio.create_task(at.answers(FIRST)) for _ in range(50)]
        await asked.wait()
        released.set()
        assert await asyncio.gather(*waiting) == [200] * 50
        assert at.server.asked[KEYS] == 1


async def test_the_verifier_that_the_settings_make() -> None:
    assert issuers_of(Settings()) == []
    async with an_issuer(FIRST) as server, an_issuer(SECOND) as other:
        settings = Settings(oidc_issuers=[known(server), known(other)])
        [verifier] = issuers_of(settings)
        try:
            times = {"iat": None, "nbf": None, "exp": 4_000_000_000}
            person = await verifier.principal(FIRST.token(server.claims(**times)))
            assert person.scopes == {Scope.READ, Scope.SEARCH, Scope.WRITE}
            assert (await verifier.principal(SECOND.token(other.claims(**times)))).id != person.id
            with pytest.raises(Problem):
                await verifier.principal(FIRST.token(other.claims(**times)))
        finally:
            await verifier.close()
