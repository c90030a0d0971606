"""What a token must say, whoever signed it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tokens import NOW, claims, issuer
from webhook.oidc_tokens import TokenError, check_claims


def refusal(given: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(TokenError) as caught:
        check_claims(given, issuer(**settings), NOW)
    return str(caught.value)


def passes(given: dict[str, Any], **settings: Any) -> bool:
    check_claims(given, issuer(**settings), NOW)
    return True


# --- when ----------------------------------------------------------------------------------------


def test_an_expired_token_says_since_when() -> None:
    told = refusal(claims(exp=int(NOW) - 3600))
    assert told == "it expired 3600 s ago, at 2027-01-15T07:00:00Z"


def test_clocks_may_differ_by_the_leeway() -> None:
    assert passes(claims(exp=NOW - 59.5))
    assert "expired" in refusal(claims(exp=NOW - 60))
    assert "expired" in refusal(claims(exp=NOW), leeway_seconds=0)
    for claim in ("nbf", "iat"):
        assert passes(claims(**{claim: NOW + 60}))
        assert f"({claim})" in refusal(claims(**{claim: NOW + 61}))
        assert f"({claim})" in refusal(claims(**{claim: NOW + 1}), leeway_seconds=0)


def test_a_token_that_begins_later_says_when() -> None:
    assert "begins in 3600 s, at 2027-01-15T09:00:00Z (nbf)" in refusal(claims(nbf=NOW + 3600))


def test_a_token_ends_some_day() -> None:
    assert "never expires" in refusal(claims(exp=None))
    assert passes(claims(nbf=None, iat=None))


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value", ["1800000300", True, [1800000300], {}, float("inf"), -1, 1e300, 10**400, -(10**400)]
)
def test_what_is_no_time(claim: str, value: object) -> None:
    assert f"its {claim} is no time" in refusal(claims(**{claim: value}))


# --- whom for ------------------------------------------------------------------------------------


@pytest.mark.parametrize("audience", ["docs", ["docs"], ["other", "docs"]])
def test_a_token_for_this_service(audience: object) -> None:
    assert passes(claims(aud=audience))
    assert passes(claims(aud=audience), audience=["wiki", "docs"])


@pytest.mark.parametrize(
    "audience",
    ["other", ["other", "third"], [], "", "docs,other", "doc", "docs ", [["docs"]], {"docs": 1}],
)
def test_a_token_for_others(audience: object) -> None:
    assert "audience (aud)" in refusal(claims(aud=audience))


def test_a_token_that_says_nothing_of_whom_it_is_for() -> None:
    assert "does not say whom it is for" in refusal(claims(aud=None))
    assert "audience (aud)" in refusal(claims() | {"aud": None})


ONLY_CLIENTS: dict[str, Any] = {"audience": [], "client_ids": ["app"]}
ONLY_PARTIES: dict[str, Any] = {"audience": [], "authorized_parties": ["https://docs.example"]}


def test_a_token_by_its_application() -> None:
    assert passes(claims(aud=None, client_id="app"), **ONLY_CLIENTS)
    assert "client_id is 'other'" in refusal(claims(aud=None, client_id="other"), **ONLY_CLIENTS)
    assert "(client_id)" in refusal(claims(aud=None), **ONLY_CLIENTS)
    assert "audience (aud)" in refusal(claims(aud="docs", client_id="app"), **ONLY_CLIENTS)


def test_both_audience_and_application_have_to_fit() -> None:
    both: dict[str, Any] = {"audience": ["docs"], "client_ids": ["app"]}
    assert passes(claims(), **both)
    assert passes(claims(client_id="app"), **both)
    assert passes(claims(aud=None, client_id="app"), **both)
    assert "client_id" in refusal(claims(client_id="other"), **both)
    assert "client_id" in refusal(claims(aud=None), **both)


def test_a_token_by_its_authorized_party() -> None:
    assert passes(claims(aud=None, azp="https://docs.example"), **ONLY_PARTIES)
    assert "azp is 'https://x.example'" in refusal(
        claims(aud=None, azp="https://x.example"), **ONLY_PARTIES
    )
    assert "azp is 'missing'" in refusal(claims(aud=None), **ONLY_PARTIES)
    assert "audience (aud)" in refusal(claims(azp="https://docs.example"), **ONLY_PARTIES)


def test_an_authorized_party_is_asked_for_beside_the_audience() -> None:
    both: dict[str, Any] = {"authorized_parties": ["web"]}
    assert passes(claims(azp="web"), **both)
    assert "azp" in refusal(claims(), **both)
    assert "azp" in refusal(claims(azp=["web"]), **both)
    assert "does not say whom" in refusal(claims(aud=None, azp="web"), **both)


# --- whose ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subject", [None, "", " ", 7, ["ada"], "a\nb", "a\x00", "\ud800", "a" * 256]
)
def test_a_subject_can_stand_in_a_log(subject: object) -> None:
    assert "sub" in refusal(claims(sub=subject))


def test_subjects_of_the_field() -> None:
    for subject in ("auth0|5f7c", "user_2abc", "f:3c:ada@example.org", "ada lovelace", "a" * 255):
        assert passes(claims(sub=subject))


def test_tokens_that_are_for_something_else() -> None:
    logout: dict[str, Any] = {"http://schemas.openid.net/event/backchannel-logout": {}}
    assert "event" in refusal(claims(events=logout))
    assert "(cnf)" in refusal(claims(cnf={"jkt": "0ZcOCORZNYy"}))
