"""API keys: how they are made, told from other text, and compared. Pure but for randomness.

    bw_k3v7tq2mzd_2vYy…(43 characters)…Qx01ABcd…(6 characters)
    └┬┘└────┬────┘ └─────────┬────────┘ └──────┬──────┘
   prefix  id             secret           checksum

The id is ten of a-z and 2-7 (50 random bits); it is no secret, and names the key in lists, logs and
the audit trail. The secret is 256 random bits in base62 (0-9A-Za-z). The checksum is the CRC-32 of
everything before it, in base62: a key that was mistyped or cut off is told from an unknown one
without asking anybody, and a scanner of leaked secrets can tell a key from text that looks alike.
No character needs quoting in a shell, a URL or a header, and a double click selects everything.

What is kept is a random salt and the SHA-256 of salt and key. A slow hash (argon2, bcrypt, scrypt)
protects secrets that people think up, of which a machine can try the likely ones; of 256 random
bits none is likely, so that a slow hash would add nothing but its cost to every request. The salt
is there so that equal digests never say that two stores hold the same key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.access import EVERYWHERE, Principal, PrincipalKind, Scope
from common.ports.keys import StoredKey

PREFIX = "bw_"
KEY = re.compile(r"bw_([a-z2-7]{10})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})")
"""What a scanner of secrets looks for; groups: id, secret, checksum."""
NAMESPACE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\*?|\*")
MAX_NAME_CHARACTERS = 200

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARACTERS, _SECRET_CHARACTERS, _CHECKSUM_CHARACTERS = 10, 43, 6
_SALT_BYTES = 16


class NoApiKeyError(ValueError):
    """The text is no API key, or not a whole one. The message holds nothing of it."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """`text` is the secret thing itself: never log it, nor this."""

    id: str
    text: str

    def __repr__(self) -> str:
        return f"ApiKey({self.id})"


def new_key() -> ApiKey:
    """Of the operating system's randomness."""
    key_id = "".join(secrets.choice(_BASE32) for _ in range(_ID_CHARACTERS))
    secret = _base62(secrets.randbits(256), _SECRET_CHARACTERS)
    start = f"{PREFIX}{key_id}_{secret}"
    return ApiKey(key_id, start + _checksum(start))


def looks_like_key(text: str) -> bool:
    return text.startswith(PREFIX)


def parse_key(text: str) -> ApiKey:
    """Raises NoApiKeyError. Says nothing of whether anybody knows it."""
    found = KEY.fullmatch(text)
    if found is None:
        raise NoApiKeyError("an API key has the form bw_…_…, and this has another length or form")
    start, checksum = text[:-_CHECKSUM_CHARACTERS], found[3]
    if _checksum(start) != checksum:
        raise NoApiKeyError("a character of the API key is wrong or missing: copy it again")
    return ApiKey(found[1], text)


def kept(
    key: ApiKey,
    *,
    name: str,
    scopes: Iterable[Scope],
    namespaces: Iterable[str],
    created_at: float,
    expires_at: float | None = None,
) -> StoredKey:
    """What is stored of a new key; nothing of it can be used as one."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return StoredKey(
        id=key.id,
        name=name,
        salt=salt,
        digest=_digest(salt, key),
        scopes=tuple(sorted(scopes)),
        namespaces=tuple(dict.fromkeys(namespaces)),
        created_at=created_at,
        expires_at=expires_at,
    )


def is_that_of(key: ApiKey, stored: StoredKey) -> bool:
    """In a time that does not depend on how much of it is right."""
    return hmac.compare_digest(_digest(stored.salt, key), stored.digest)


def has_expired(stored: StoredKey, now: float) -> bool:
    return stored.expires_at is not None and now >= stored.expires_at


def principal_of_key(stored: StoredKey) -> Principal:
    """Scopes that this version does not know give nothing."""
    known = set(Scope)
    return Principal(
        id=f"{PrincipalKind.KEY}:{stored.id}",
        kind=PrincipalKind.KEY,
        scopes=frozenset(Scope(scope) for scope in stored.scopes if scope in known),
        namespaces=stored.namespaces,
    )


def check_namespaces(patterns: Sequence[str]) -> None:
    """Raises ValueError for one that is neither a namespace nor the beginning of some."""
    for pattern in patterns:
        if NAMESPACE_PATTERN.fullmatch(pattern) is None:
            raise ValueError(
                f"{pattern!r} is no namespace: give a name, the beginning of names with an "
                f"asterisk behind it (acme-{EVERYWHERE}), or {EVERYWHERE} for all"
            )


def _digest(salt: bytes, key: ApiKey) -> bytes:
    return hashlib.sha256(salt + key.text.encode()).digest()


def _checksum(start: str) -> str:
    return _base62(zlib.crc32(start.encode()), _CHECKSUM_CHARACTERS)


def _base62(number: int, characters: int) -> str:
    """The lowest digits, the highest of them first, zeros in front."""
    digits = []
    for _ in range(characters):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
