"""Tokens with real keys and signatures; only the issuer's answer is made here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from common.access import Principal, PrincipalKind, Scope
from common.oidc_issuers import OidcIssuer
from common.oidc_keys import PublishedKeys, SigningKey, keys_in
from common.ports.errors import TransientError
from tests.tokens import (
    ISSUER,
    NOW,
    Signer,
    by_secret,
    claims,
    issuer,
    part,
    signer,
    unsigned,
)
from webhook import oidc
from webhook.oidc import REMEMBERED_SECONDS, OidcVerifier
from webhook.oidc_key_cache import KeyCache
from webhook.oidc_tokens import MAX_TOKEN_CHARACTERS, looks_like_token
from webhook.problems import Problem

FIRST = signer()


def published(*jwks: dict[str, Any]) -> PublishedKeys:
    keys = keys_in(json.dumps({"keys": jwks}).encode(), "the issuer")
    return PublishedKeys(keys, "the issuer", fresh_seconds=300.0)


def verifier(*jwks: dict[str, Any], of: OidcIssuer | None = None) -> OidcVerifier:
    known = of or issuer()

    async def fetch(_: OidcIssuer) -> PublishedKeys:
        return published(*(jwks or (FIRST.jwk,)))

    return OidcVerifier([(known, KeyCache(known, fetch=fetch))], clock=lambda: NOW)


async def refused(token: str, by: OidcVerifier | None = None, status: int = 401) -> str:
    """Why, as whoever sent it is told."""
    with pytest.raises(Problem) as caught:
        await (by or verifier()).principal(token)
    assert caught.value.kind.status == status
    if status == 401:
        assert caught.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    for piece in token.split("."):
        assert len(piece) < 12 or piece not in json.dumps(caught.value.body())
    return caught.value.detail


async def test_a_person_is_known_by_a_token() -> None:
    assert await verifier().principal(FIRST.token(claims())) == Principal(
        id="user:id.example/realms/docs#ada",
        kind=PrincipalKind.PERSON,
        scopes=frozenset({Scope.READ, Scope.SEARCH, Scope.WRITE}),
        namespaces=("handbook",),
    )


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
@pytest.mark.parametrize("states_its_algorithm", [True, False])
async def test_keys_of_every_kind(algorithm: str, states_its_algorithm: bool) -> None:
    own, other = signer(algorithm), signer(algorithm, "second")
    jwks = [own.jwk, other.jwk]
    if not states_its_algorithm:
        jwks = [{k: v for k, v in jwk.items() if k not in ("alg", "use")} for jwk in jwks]
    asked = verifier(*jwks)
    assert (await asked.principal(own.token(claims()))).id.endswith("#ada")
    wrong = Signer("first", algorithm, other.private)
    assert "signature is not" in await refused(wrong.token(claims()), asked)


@pytest.mark.parametrize("name", ["bw_8f2k_secret", "bw_a.b.c ", "a.b", "a.b.c.d", "a b.c.d", ""])
def test_other_credentials_are_left_to_others(name: str) -> None:
    assert not verifier().recognises(name)


def test_tokens_are_recognised_signed_or_not() -> None:
    assert verifier().recognises(FIRST.token(claims()))
    assert verifier().recognises(unsigned(claims(), alg="none"))


# --- who signed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
async def test_nobody_signs_nothing(name: str) -> None:
    assert "(alg)" in await refused(unsigned(claims(), alg=name, kid="first"))


async def test_a_public_key_is_no_secret() -> None:
    """Algorithm confusion: what everybody may read would make tokens."""
    public = FIRST.private.public_key()
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(FIRST.jwk).encode(),
        FIRST.jwk["n"].encode(),
    ]
    for secret in secrets:
        assert "'HS256' (alg)" in await refused(by_secret(claims(), secret))


async def test_a_published_secret_is_no_key() -> None:
    shared = {"kty": "oct", "k": part(b"s" * 32), "kid": "shared", "alg": "HS256"}
    asked = verifier(FIRST.jwk, shared)
    assert "(alg)" in await refused(by_secret(claims(), b"s" * 32, "shared"), asked)


async def test_only_algorithms_that_the_settings_name() -> None:
    own = signer("ES256")
    asked = verifier(own.jwk, of=issuer(algorithms=["RS256"]))
    assert "taken to sign by RS256" in await refused(own.token(claims()), asked)


async def test_a_key_is_for_the_algorithm_that_it_states() -> None:
    """The same RSA key could make both signatures."""
    other = Signer("first", "PS256", FIRST.private)
    assert "does not publish for PS256" in await refused(other.token(claims()))


async def test_a_key_of_another_type_is_not_tried() -> None:
    own = signer("ES256")
    asked = verifier(own.jwk, signer("RS256", "rsa").jwk)
    told = await refused(FIRST.token(claims(), kid=own.kid), asked)
    assert "does not publish for RS256" in told


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": signer("RS256", "thief").jwk},
        {"jku": "https://thief.example/jwks"},
        {"x5u": "https://thief.example/chain"},
        {"x5c": ["MIIB"]},
        {"kid": "first", "jwk": signer("RS256", "thief").jwk},
    ],
)
async def test_a_token_does_not_bring_its_own_key(header: dict[str, Any]) -> None:
    thief = signer("RS256", "thief")
    await refused(thief.token(claims(), **header))


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "/dev/null",
        "first'; --",
        "first\x00",
        "http://thief.example",
        "",
        "FIRST",
    ],
)
async def test_a_kid_is_a_name_and_nothing_else(kid: str) -> None:
    assert "(kid)" in await refused(FIRST.token(claims(), kid=kid))


@pytest.mark.parametrize("kid", [["first"], {"first": 1}, 1, True, 0])
async def test_a_kid_is_a_string(kid: object) -> None:
    assert "strings" in await refused(FIRST.token(claims(), kid=kid))


async def test_without_a_kid_the_only_key_is_meant() -> None:
    token = FIRST.token(claims(), kid=None)
    beside = signer("ES256", "curve").jwk
    assert (await verifier(FIRST.jwk, beside).principal(token)).id.endswith("#ada")
    several = verifier(FIRST.jwk, signer("RS256", "second").jwk)
    assert "with which" in await refused(token, several)


async def test_keys_for_other_uses_verify_nothing() -> None:
    for change in ({"use": "enc"}, {"key_ops": ["encrypt"]}, {"alg": "RSA-OAEP"}):
        asked = verifier(FIRST.jwk | change, signer("RS256", "second").jwk)
        assert "does not publish" in await refused(FIRST.token(claims()), asked)


async def test_weak_keys_verify_nothing() -> None:
    weak = Signer("weak", "RS256", rsa.generate_private_key(65537, 1024))  # noqa: S505
    asked = verifier(weak.jwk, FIRST.jwk)
    assert "does not publish" in await refused(weak.token(claims()), asked)


async def test_a_curve_is_that_of_its_algorithm() -> None:
    made = Signer("curve", "ES256", ec.generate_private_key(ec.SECP256R1()))
    odd = made.jwk | {"crv": "P-384"}
    asked = verifier(odd, FIRST.jwk)
    assert "does not publish" in await refused(made.token(claims()), asked)


# --- what is signed ------------------------------------------------------------------------------


async def test_an_issuer_that_nobody_named() -> None:
    told = await refused(FIRST.token(claims(iss="https://thief.example")))
    assert "'https://thief.example'" in told
    for near in (ISSUER + "/", ISSUER.upper(), ISSUER + "#", " " + ISSUER):
        assert "is not known here" in await refused(FIRST.token(claims(iss=near)))
    others: list[object] = [[ISSUER], None, {}, 7]
    for nobody in others:
        assert "who issued it" in await refused(FIRST.token(claims(iss=nobody)))


async def test_one_issuers_key_does_not_sign_for_another() -> None:
    thief = issuer(issuer="https://thief.example")
    theirs = signer("RS256", "thief")

    async def fetch(of: OidcIssuer) -> PublishedKeys:
        return published(theirs.jwk if of is thief else FIRST.jwk)

    honest = issuer()
    asked = OidcVerifier(
        [(one, KeyCache(one, fetch=fetch)) for one in (thief, honest)], clock=lambda: NOW
    )
    assert (await asked.principal(theirs.token(claims(iss=thief.issuer)))).id.startswith(
        "user:thief.example#"
    )
    assert "does not publish" in await refused(theirs.token(claims()), asked)
    assert "signature" in await refused(theirs.token(claims(), kid="first"), asked)


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"]}, {"crit": []}, {"crit": None, "typ": "logout+jwt"}, {"typ": "dpop+jwt"},
        {"typ": "secevent+jwt"}, {"typ": 7}, {"crit": ["b64"], "b64": False}, {"b64": False},
        {"crit": ["b64"], "b64": True}, {"crit": "exp"}, {"crit": {}},
    ],
)  # fmt: skip
async def test_headers_that_mean_something_else(header: dict[str, Any]) -> None:
    told = await refused(FIRST.token(claims(), **header))
    assert not header.get("crit") or "(crit)" in told


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "at+jwt", "application/at+jwt"])
async def test_headers_of_tokens_to_call_with(typ: str | None) -> None:
    assert (await verifier().principal(FIRST.token(claims(), typ=typ))).id.endswith("#ada")


async def test_a_member_that_is_there_twice() -> None:
    head = '{"alg":"RS256","kid":"first","typ":"JWT"}'
    said = json.dumps(claims())
    assert (await verifier().principal(FIRST.signed(head, said))).id.endswith("#ada")
    twice = head.replace("{", '{"alg":"none",')
    assert "header" in await refused(FIRST.signed(twice, said))
    for again in ('{"sub":"eve",', '{"exp":9999999999,', '{"iss":"https://thief.example",'):
        assert "payload" in await refused(FIRST.signed(head, said.replace("{", again, 1)))
    deep = said.replace("{", '{"realm_access":{"roles":["a"],"roles":["b"]},', 1)
    assert "payload" in await refused(FIRST.signed(head, deep))


@pytest.mark.parametrize(
    "said",
    ["[]", '"text"', "7", "null", "{", '{"a":NaN}', '{"a":-Infinity}', "[" * 5000, "{" * 5000,
     '{"exp":' + "9" * 5000 + "}"],
)  # fmt: skip
async def test_payloads_that_are_no_object(said: str) -> None:
    head = '{"alg":"RS256","kid":"first"}'
    assert "payload" in await refused(FIRST.signed(head, said))
    assert "header" in await refused(FIRST.signed(said, json.dumps(claims())))


async def test_a_token_of_ten_megabytes_is_not_even_decoded() -> None:
    long = FIRST.token(claims(note="x" * 10_000_000))
    assert looks_like_token(long)
    assert f"{MAX_TOKEN_CHARACTERS:,}" in await refused(long)


@pytest.mark.parametrize("around", ["{}=", "{}==", "{}.", ".{}", "{} ", " {}", "{}\n", "{}%0a"])
async def test_nothing_around_a_token(around: str) -> None:
    await refused(around.format(FIRST.token(claims())))


# --- what nobody may change -----------------------------------------------------------------------

GOOD = {name: signer(name).token(claims()) for name in ("RS256", "ES256", "EdDSA")}


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(GOOD)), st.data())
async def test_no_change_of_a_valid_token_is_verified(name: str, data: st.DataObject) -> None:
    token = GOOD[name].encode()
    at = data.draw(st.integers(0, len(token)))
    gone = data.draw(st.integers(0, 3))
    put = data.draw(st.binary(max_size=4) | st.sampled_from([b"=", b".", b"A", b"_", b"-"]))
    changed = token[:at] + put + token[at + gone :]
    if changed == token:
        return
    asked = verifier(signer(name).jwk)
    with pytest.raises(Problem) as caught:
        await asked.principal(changed.decode("latin-1"))
    assert caught.value.kind.status == 401


@pytest.mark.parametrize("name", sorted(GOOD))
async def test_no_other_last_character_is_verified(name: str) -> None:
    """Its unused bits would let several texts stand for one signature."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for last in set(alphabet) - {GOOD[name][-1]}:
        await refused(GOOD[name][:-1] + last, verifier(signer(name).jwk))


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet="eyJ.-_A0=", max_size=40) | st.text(max_size=60))
async def test_any_text_is_refused_and_breaks_nothing(text: str) -> None:
    with pytest.raises(Problem) as caught:
        await verifier().principal(text)
    assert caught.value.kind.status == 401


# --- what is remembered of a token ----------------------------------------------------------------


class Watched:
    """One issuer with a clock, and how often its keys were looked for."""

    def __init__(self, *signers: Signer) -> None:
        self.signers = signers
        self.now = NOW
        self.looked = 0
        known = issuer()
        cache = KeyCache(known, fetch=self._fetch, clock=lambda: self.now)
        look = cache.key

        async def key(kid: str | None, algorithm: str) -> SigningKey:
            self.looked += 1
            return await look(kid, algorithm)

        cache.key = key  # type: ignore[method-assign]
        self.verifier = OidcVerifier([(known, cache)], clock=lambda: self.now)

    async def _fetch(self, _: OidcIssuer) -> PublishedKeys:
        return published(*(one.jwk for one in self.signers))

    async def opens(self, token: str) -> bool:
        try:
            await self.verifier.principal(token)
        except Problem:
            return False
        return True


async def test_a_token_that_is_sent_again_is_not_verified_again() -> None:
    at = Watched(FIRST)
    token = FIRST.token(claims())
    for _ in range(20):
        assert await at.opens(token)
    assert at.looked == 1
    at.now += REMEMBERED_SECONDS
    assert await at.opens(token)
    assert at.looked == 2
    assert not await at.opens(token[:-4] + "AAAA")


async def test_a_remembered_token_expires() -> None:
    at = Watched(FIRST)
    token = FIRST.token(claims(exp=NOW - 50))
    assert await at.opens(token)
    at.now += 9.5
    assert await at.opens(token)
    at.now = NOW + 10
    assert not await at.opens(token)


async def test_a_token_is_not_remembered_for_long_beyond_its_key() -> None:
    at = Watched(FIRST)
    token = FIRST.token(claims(exp=NOW + 10**6))
    assert await at.opens(token)
    at.signers = (signer("RS256", "second"),)
    at.now += 299
    assert await at.opens(token)
    at.now += REMEMBERED_SECONDS
    assert not await at.opens(token)


async def test_what_was_refused_is_looked_at_again() -> None:
    at = Watched(FIRST)
    token = FIRST.token(claims(nbf=NOW + 100))
    assert not await at.opens(token)
    at.now += 50
    assert await at.opens(token)


async def test_only_so_many_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "MAX_REMEMBERED", 2)
    at = Watched(FIRST)
    several = [FIRST.token(claims(sub=str(n))) for n in range(3)]
    for token in several:
        assert await at.opens(token)
    assert await at.opens(several[2])
    assert at.looked == 3
    assert await at.opens(several[0])
    assert at.looked == 4


# --- the issuer's silence -------------------------------------------------------------------------


async def test_nobody_is_refused_for_an_issuer_that_does_not_answer() -> None:
    known = issuer()

    async def fetch(_: OidcIssuer) -> PublishedKeys:
        raise TransientError("away")

    asked = OidcVerifier([(known, KeyCache(known, fetch=fetch))], clock=lambda: NOW)
    assert "send it again" in await refused(FIRST.token(claims()), asked, status=503)


async def test_whoever_may_do_nothing_is_told_so() -> None:
    told = await refused(FIRST.token(claims(roles=["guests"])), status=403)
    assert "claim roles" in told
    assert "guests" not in told
