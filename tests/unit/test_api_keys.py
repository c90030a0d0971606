"""API keys: their form, what is kept of them, and what a key may do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.access import Principal, PrincipalKind, Scope
from common.api_keys import (
    KEY,
    NoApiKeyError,
    check_namespaces,
    has_expired,
    is_that_of,
    kept,
    looks_like_key,
    new_key,
    parse_key,
    principal_of_key,
)
from common.ports.keys import StoredKey

SAMPLE = "bw_om3re5mar5_HiZhgbR5mNjKylKHEgr1dHhPUujxg01iv5aHaDmANFX21Rlpd"
"""Made once: keys that people have must be read for ever."""


def stored(text: str = SAMPLE, **more: float) -> StoredKey:
    key = parse_key(text)
    return kept(key, name="n", scopes=[Scope.READ], namespaces=["docs"], created_at=1.0, **more)


def test_the_form_is_what_a_scanner_looks_for() -> None:
    key = new_key()
    assert re.fullmatch(r"bw_[a-z2-7]{10}_[0-9A-Za-z]{49}", key.text)
    assert looks_like_key(key.text)
    assert KEY.search(f'{{"key":"{key.text}"}}')
    assert parse_key(key.text) == key
    assert parse_key(SAMPLE).id == "om3re5mar5"


def test_no_two_keys_are_alike() -> None:
    keys = [new_key() for _ in range(200)]
    assert len({key.id for key in keys}) == len({key.text[14:57] for key in keys}) == 200


@given(st.integers(0, len(SAMPLE) - 1), st.sampled_from("abcxyz0189ABCXYZ234567_"))
def test_one_wrong_character_is_noticed(place: int, character: str) -> None:
    mistyped = SAMPLE[:place] + character + SAMPLE[place + 1 :]
    if mistyped != SAMPLE:
        with pytest.raises(NoApiKeyError):
            parse_key(mistyped)


@pytest.mark.parametrize(
    "text", ["", "bw_", SAMPLE[:-1], SAMPLE + "A", " " + SAMPLE, SAMPLE + "\n", SAMPLE.upper()]
)
def test_what_is_no_whole_key_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(NoApiKeyError) as refused:
        parse_key(text)
    assert SAMPLE[14:30] not in str(refused.value)


def test_what_is_kept_knows_its_key_and_no_other() -> None:
    one, other = new_key(), new_key()
    assert is_that_of(one, stored(one.text))
    assert not is_that_of(other, stored(one.text))
    assert not is_that_of(one, replace(stored(one.text), salt=b"another salt"))


def test_what_is_kept_holds_nothing_of_the_secret() -> None:
    told = repr(stored()).encode() + stored().digest + stored().salt
    assert SAMPLE[14:30].encode() not in told
    assert SAMPLE[14:30] not in repr(parse_key(SAMPLE))


def test_a_key_is_salted() -> None:
    assert stored().digest != stored().digest


def test_a_key_expires_at_its_time() -> None:
    key = stored(expires_at=100.0)
    assert [has_expired(key, now) for now in (99.9, 100.0, 200.0)] == [False, True, True]
    assert not has_expired(stored(), 1e12)


def test_a_scope_that_is_not_known_gives_nothing() -> None:
    key = replace(stored(), scopes=("documents:read", "root"))
    assert principal_of_key(key) == Principal(
        id="key:om3re5mar5",
        kind=PrincipalKind.KEY,
        scopes=frozenset({Scope.READ}),
        namespaces=("docs",),
    )


def test_namespaces_are_names_or_beginnings_of_names() -> None:
    check_namespaces(["docs", "acme-*", "*", "A.b_c-1"])
    for wrong in ("", "a b", "*a", "a**", "-a", "a/b", "é"):
        with pytest.raises(ValueError, match="is no namespace"):
            check_namespaces([wrong])


@pytest.mark.parametrize(
    ("patterns", "reached", "not_reached"),
    [
        (("docs",), ["docs"], ["docs2", "doc", "Docs", "", "docs*", "*"]),
        (("acme-*",), ["acme-", "acme-1"], ["acme", "xacme-1", "ACME-1"]),
        (("*",), ["docs", "other"], []),
        ((), [], ["docs", "", "*"]),
        (("a", "b"), ["a", "b"], ["ab", "c"]),
    ],
)
def test_which_namespaces_are_reached(
    patterns: tuple[str, ...], reached: list[str], not_reached: list[str]
) -> None:
    key = replace(stored(), namespaces=patterns)
    principal = principal_of_key(key)
    assert all(principal.reaches(namespace) for namespace in reached)
    assert not any(principal.reaches(namespace) for namespace in not_reached)
    assert principal.reached([*reached, *not_reached]) == reached


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)


@given(names, names)
def test_a_plain_name_reaches_itself_alone(bound: str, asked: str) -> None:
    principal = principal_of_key(replace(stored(), namespaces=(bound,)))
    assert principal.reaches(asked) == (bound == asked)
    assert not principal.reaches_all
