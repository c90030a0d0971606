"""Who an API key speaks for, and what is said when it speaks for nobody."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from common.access import Role, Scope
from common.api_keys import new_key
from common.ports.errors import TransientError
from common.ports.keys import StoredKey
from tests.access import Keys
from tests.fakes.keys import MemoryKeyStore
from tests.pipeline import Clock
from webhook.key_verifier import REMEMBERED_SECONDS, KeyVerifier
from webhook.problems import Problem


def verifier(keys: Keys, clock: Clock | None = None, timeout_seconds: float = 5) -> KeyVerifier:
    return KeyVerifier(
        keys.store,
        timeout_seconds=timeout_seconds,
        clock=keys.clock,
        monotonic=clock or Clock(),
    )


async def refusal(door: KeyVerifier, key: str) -> Problem:
    with pytest.raises(Problem) as refused:
        await door.principal(key)
    assert refused.value.headers["WWW-Authenticate"] == "Bearer"
    assert refused.value.kind.status == 401
    return refused.value


async def test_a_known_key_is_who_it_was_made_for() -> None:
    keys = Keys()
    key = keys.made(Role.EDITOR, "docs", "acme-*")
    principal = await verifier(keys).principal(key)
    assert principal.id == f"key:{key[3:13]}"
    assert principal.scopes == {Scope.READ, Scope.SEARCH, Scope.WRITE}
    assert principal.namespaces == ("docs", "acme-*")


async def test_unknown_and_wrong_are_the_same_in_words() -> None:
    keys = Keys()
    key = keys.made(Role.READER, "docs")
    unknown = new_key()
    (known,) = keys.store.kept.values()
    keys.store.kept[unknown.id] = known  # Its secret is another's.
    wrong = await refusal(verifier(keys), unknown.text)
    del keys.store.kept[unknown.id]
    missing = await refusal(verifier(keys), unknown.text)
    assert wrong.body() == missing.body()
    assert unknown.text[14:30] not in str(wrong.body())
    assert key != unknown.text


async def test_who_has_the_secret_is_told_that_it_was_revoked_or_has_expired() -> None:
    keys = Keys()
    revoked, expired = keys.made(Role.READER), keys.made(Role.READER, expires_at=1000.0)
    await keys.store.revoke(revoked[3:13], at=5.0)
    assert "was revoked" in (await refusal(verifier(keys), revoked)).detail
    assert "has expired" in (await refusal(verifier(keys), expired)).detail


async def test_nobody_else_is_told_that_it_was_revoked() -> None:
    keys = Keys()
    revoked, other = keys.made(Role.READER), new_key()
    await keys.store.revoke(revoked[3:13], at=5.0)
    keys.store.kept[other.id] = keys.store.kept[revoked[3:13]]
    assert "not known here" in (await refusal(verifier(keys), other.text)).detail


async def test_a_mistyped_key_is_told_without_asking_the_store() -> None:
    keys = Keys()
    key = keys.made(Role.READER)
    mistyped = key[:-1] + ("A" if key[-1] != "A" else "B")
    problem = await refusal(verifier(keys), mistyped)
    assert "a character of the API key is wrong" in problem.detail
    assert keys.store.looks == 0


async def test_a_key_is_looked_up_once_in_a_moment() -> None:
    keys, clock = Keys(), Clock()
    door, key = verifier(keys, clock), keys.made(Role.READER)
    for _ in range(5):
        await door.principal(key)
    assert keys.store.looks == 1
    clock.now += REMEMBERED_SECONDS
    await door.principal(key)
    assert keys.store.looks == 2


async def test_a_revoked_key_is_refused_once_the_moment_is_over() -> None:
    keys, clock = Keys(), Clock()
    door, key = verifier(keys, clock), keys.made(Role.READER)
    await door.principal(key)
    await keys.store.revoke(key[3:13], at=1.0)
    clock.now += REMEMBERED_SECONDS
    await refusal(door, key)
    assert REMEMBERED_SECONDS <= 5


async def test_a_key_expires_while_it_is_remembered() -> None:
    now = Clock()
    keys = Keys(clock=now)
    door, key = verifier(keys), keys.made(Role.READER, expires_at=now.now + 1)
    await door.principal(key)
    now.now += 1
    assert "has expired" in (await refusal(door, key)).detail


async def test_a_secret_is_compared_also_while_the_key_is_remembered() -> None:
    keys = Keys()
    door, key, other = verifier(keys), keys.made(Role.READER), new_key()
    keys.store.kept[other.id] = keys.store.kept[key[3:13]]
    await door.principal(key)
    door._lately.put(other.id, (keys.store.kept[key[3:13]], float("inf")), 1)
    await refusal(door, other.text)


async def test_ids_that_nobody_has_push_no_known_key_out() -> None:
    keys = Keys()
    door = verifier(keys)
    for _ in range(3):
        await refusal(door, new_key().text)
    assert len(door._lately) == 0


async def test_a_store_out_of_reach_lets_nobody_in_and_turns_nobody_away() -> None:
    keys = Keys()
    key = keys.made(Role.READER)
    keys.store.out_of_reach = True
    with pytest.raises(TransientError):
        await verifier(keys).principal(key)


class HangingStore(MemoryKeyStore):
    async def get(self, key_id: str) -> StoredKey | None:
        await asyncio.Event().wait()
        raise AssertionError("it never answers")


async def test_a_store_that_hangs_is_503_in_time() -> None:
    keys = Keys(HangingStore())
    async with asyncio.timeout(10):
        with pytest.raises(Problem) as late:
            await verifier(keys, timeout_seconds=0.01).principal(keys.made(Role.READER))
    assert late.value.kind.status == 503


async def test_no_key_is_in_the_logs() -> None:
    keys = Keys()
    door, key = verifier(keys), keys.made(Role.READER)
    with capture_logs() as told:
        await door.principal(key)
        await refusal(door, new_key().text)
        await keys.store.revoke(key[3:13], at=1.0)
    assert key[14:] not in str(told)
