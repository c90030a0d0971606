"""People with tokens at the HTTP API, and an issuer as `bloomweaver doctor` sees it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from common.checks import Finding, Verdict, carried_out
from common.diagnosis import checks_of
from common.settings import Settings
from tests import tokens
from tests.access import Keys, bearer
from tests.fakes.keys import MemoryKeyStore
from tests.integration.test_http_api import Api, insert, is_problem, serving
from tests.pipeline import pipeline
from tests.servers.issuer import KEYS, IssuerServer, an_issuer, says
from tests.tokens import signer
from webhook.issuers import issuers_of
from webhook.opened import open_own
from webhook.role import authentication_of

OWN, OTHER = signer("RS256", "first"), signer("RS256", "second")
SEARCH = ("/v1/namespaces/docs/search", {"query": "alpha"})
LETTERS = "/v1/dead-letters"


@dataclass
class People:
    """A service on loopback that knows one issuer and no key."""

    api: Api
    server: IssuerServer

    def token(self, *roles: str, signer: tokens.Signer = OWN, **given: Any) -> dict[str, str]:
        """As headers."""
        now = time.time()
        times = {"iat": now, "nbf": now, "exp": now + 300}
        claims = self.server.claims(roles=list(roles), **(times | given))
        return bearer(signer.token(claims))

    async def statuses(self, headers: dict[str, str]) -> list[int]:
        """Of a search, a change and a look at the dead letters."""
        searched, _ = await self.api.post(*SEARCH, headers=headers)
        changed, _ = await self.api.change(insert(), headers=headers)
        looked, _ = await self.api.get(LETTERS, headers=headers)
        return [searched, changed, looked]


def of(server: IssuerServer, **given: Any) -> Settings:
    roles = {"readers": "reader", "writers": "editor", "owners": "admin"}
    usual = {"roles": roles, "namespaces_claim": "team", "namespaces": ["docs"]}
    issuer = tokens.issuer(issuer=server.url, **(usual | given))
    return Settings(_env_file=None, oidc_issuers=[issuer])


@asynccontextmanager
async def people(folder: Path) -> AsyncIterator[People]:
    async with an_issuer(OWN) as server, pipeline(folder) as flow:
        settings = of(server)
        verifiers = issuers_of(settings)
        door = await authentication_of(
            settings, MemoryKeyStore(), verifiers, listens_on="127.0.0.1"
        )
        async with serving(flow, authenticate=door) as api:
            yield People(api, server)
        for verifier in verifiers:
            await verifier.close()


async def test_what_people_may_do_is_their_role(tmp_path: Path) -> None:
    async with people(tmp_path) as at:
        assert await at.statuses({}) == [401, 401, 401], "an issuer closes the door"
        assert await at.statuses(at.token("readers")) == [200, 403, 403]
        assert await at.statuses(at.token("writers")) == [200, 202, 403]
        assert await at.statuses(at.token("owners")) == [200, 202, 200]
        assert await at.statuses(at.token("guests")) == [403, 403, 403]
        assert await at.statuses(at.token()) == [403, 403, 403]


async def test_people_reach_their_namespaces_only(tmp_path: Path) -> None:
    async with people(tmp_path) as at:
        for team, statuses in (("legal", (202, 403)), ("sales", (403, 202)), ("*", (403, 403))):
            headers = at.token("writers", team=team)
            answers = [
                await at.api.change(insert() | {"namespace": name}, headers=headers)
                for name in ("legal", "sales")
            ]
            assert tuple(status for status, _ in answers) == statuses


async def test_a_refused_token_is_told_why_and_never_shown(tmp_path: Path) -> None:
    async with people(tmp_path) as at:
        strange = at.token("owners", signer=OTHER)
        past = at.token("owners", exp=time.time() - 3600)
        for headers, why in ((strange, "(kid)"), (past, "it expired 36")):
            with capture_logs() as logs:
                async with at.api.client.get(LETTERS, headers=headers) as response:
                    body = await response.json(content_type=None)
            assert is_problem(response.status, body, "unauthenticated")
            assert why in body["detail"]
            assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
            for part in headers["Authorization"].removeprefix("Bearer ").split("."):
                assert part not in json.dumps([body, *logs], default=str)


async def test_two_credentials_are_none(tmp_path: Path) -> None:
    async with people(tmp_path) as at:
        token = at.token("owners")["Authorization"]
        for second in (token, at.token("readers")["Authorization"], "Bearer "):
            twice = [("Authorization", token), ("Authorization", second)]
            assert (await at.api.get(LETTERS, headers=twice))[0] == 401
        assert (await at.api.get(LETTERS, headers=[("Authorization", token)]))[0] == 200
        bare = token.removeprefix("Bearer ")
        assert (await at.api.get(LETTERS, headers={"Authorization": bare}))[0] == 401
        assert (await at.api.get(LETTERS, headers={"Authorization": f"Basic {bare}"}))[0] == 401
        assert (await at.api.get(f"{LETTERS}?access_token={bare}"))[0] == 401


async def test_keys_and_tokens_are_taken_side_by_side(tmp_path: Path) -> None:
    async with an_issuer(OWN) as server, pipeline(tmp_path) as flow:
        settings, keys = of(server), Keys()
        key = keys.made(tokens.issuer().roles["writers"], "docs")
        verifiers = issuers_of(settings)
        door = await authentication_of(settings, keys.store, verifiers, listens_on="0.0.0.0")  # noqa: S104
        async with serving(flow, authenticate=door) as api:
            at = People(api, server)
            assert await at.statuses(bearer(key)) == [200, 202, 403]
            assert await at.statuses(at.token("owners")) == [200, 202, 200]
            assert await at.statuses(bearer(key + "x")) == [401, 401, 401]
            assert await at.statuses({**bearer(key), "X-API-Key": "other"}) == [401, 401, 401]
        await verifiers[0].close()


async def test_an_issuer_that_is_away_closes_the_door_to_its_people_only(tmp_path: Path) -> None:
    async with people(tmp_path) as at:
        await at.server.go_away()
        status, body = await at.api.get(LETTERS, headers=at.token("owners"))
        assert is_problem(status, body, "unavailable")
        assert "send it again" in body["detail"]


async def test_the_webhook_opens_the_issuers_that_the_settings_name(tmp_path: Path) -> None:
    async with an_issuer(OWN) as server:
        settings = of(server).model_copy(update={"data_dir": tmp_path})
        async with open_own(settings, receiver="webhook-1") as own:
            [verifier] = own.issuers
            at = People(None, server)  # type: ignore[arg-type]
            token = at.token("owners")["Authorization"].removeprefix("Bearer ")
            assert (await verifier.principal(token)).id.endswith("#ada")


# --- doctor --------------------------------------------------------------------------------------


async def examined(settings: Settings) -> Finding:
    [check] = [check for check in checks_of(settings) if check.name.startswith("issuer ")]
    return await carried_out(check, timeout_seconds=10)


async def test_doctor_fetches_the_keys() -> None:
    async with an_issuer(OWN, signer("EdDSA")) as server:
        found = await examined(of(server))
        assert found.verdict is Verdict.FINE
        assert found.line == f"2 keys at {server.keys_url}, for RS256, EdDSA"


async def test_doctor_says_what_is_wrong_with_an_issuer() -> None:
    async with an_issuer(OWN) as server:
        other = await examined(of(server, algorithms=["ES256"]))
        assert other.verdict is Verdict.WRONG
        assert "set `algorithms` in BLOOMWEAVER_OIDC_ISSUERS, of RS256" in other.line
        server.answers[KEYS] = says("", 404)
        assert (await examined(of(server))).verdict is Verdict.WRONG
        server.answers[KEYS] = says("", 503)
        assert (await examined(of(server))).verdict is Verdict.UNREACHABLE
    away = await examined(of(server))
    assert (away.verdict, away.name) == (Verdict.UNREACHABLE, f"issuer {server.url[7:]}")
