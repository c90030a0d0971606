"""Names of collections on a server that others may use too: a namespace's name can be read back.

    bloomweaver.docs                 namespace "docs"
    bloomweaver.team_2fa_5f1         namespace "team/a_1": what is no letter, digit or dash, in hex
    bloomweaver..mfrggzdfmztwq2lk…   a long one, in base32

The names are of lower-case ASCII letters, digits, "_", "-" and ".", begin and end with a letter or
a digit, and differ in more than their case.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from common.ports.errors import PermanentError

DEFAULT_PREFIX: Final = "bloomweaver"
LONGEST_NAME: Final = 255
"""What Qdrant allows; Chroma allows 512."""

_PREFIX: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?")
_ESCAPED: Final = re.compile(rb"[^a-z0-9-]|^-|-$")
_CODED: Final = re.compile(r"_([0-9a-f]{2})|([a-z0-9-])")


@dataclass(frozen=True, slots=True)
class CollectionNames:
    """`prefix` names the installation; collections without it are others'."""

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise PermanentError(
                f"the collection prefix {self.prefix!r} must be 1 to 32 characters of a-z, 0-9, "
                "- and _, the first and the last a letter or a digit"
            )

    def of(self, namespace: str) -> str:
        name = f"{self.prefix}.{_escaped(namespace)}"
        return name if len(name) <= LONGEST_NAME else f"{self.prefix}..{_base32(namespace)}"

    def namespace_of(self, name: str) -> str | None:
        """None: not one of ours."""
        coded = name[len(self.prefix) + 1 :]
        namespace = _from_base32(coded[1:]) if coded.startswith(".") else _unescaped(coded)
        return namespace if namespace is not None and self.of(namespace) == name else None


def _escaped(namespace: str) -> str:
    return _ESCAPED.sub(lambda m: b"_%02x" % m[0][0], namespace.encode()).decode("ascii")


def _unescaped(coded: str) -> str | None:
    if _CODED.sub("", coded):
        return None
    return _text(
        b"".join(bytes.fromhex(m[1]) if m[1] else m[2].encode() for m in _CODED.finditer(coded))
    )


def _base32(namespace: str) -> str:
    return base64.b32encode(namespace.encode()).decode("ascii").rstrip("=").lower()


def _from_base32(coded: str) -> str | None:
    try:
        return _text(base64.b32decode(coded.upper() + "=" * (-len(coded) % 8)))
    except ValueError:
        return None


def _text(encoded: bytes) -> str | None:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return None
