"""Whether a delivery comes from who it says: signatures of webhooks. Pure.

Everything is decided on the body's raw bytes, before anything of it is parsed. Digests are compared
in constant time, and every secret is tried whether or not one has matched, so that the time tells
neither where a signature differs nor which of several secrets it was made with.

The functions are our own and not those of the `standardwebhooks` package: that one knows one scheme
and one secret, takes the clock from the system, signs another timestamp than the one that was sent
where that has a fraction, and fails with errors of any kind where a header or a body is no text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

Headers = Mapping[str, Sequence[str]]
"""By name in lower case, each value as it came."""
Encoding = Literal["hex", "base64", "base64url"]
Digest = Literal["sha1", "sha256", "sha512"]

TOLERANCE_SECONDS = 300.0
MAX_HEADER_CHARACTERS = 8192
MAX_SIGNATURES = 32
"""In one header: each is compared with every secret's."""

_DIGITS = re.compile(r"[0-9]{1,16}")
SHORTEST_KEY_BYTES = 16
_STANDARD_PREFIX, _PUBLIC_PREFIX = "whsec_", "whpk_"
ED25519_KEY_BYTES, ED25519_SIGNATURE_BYTES = 32, 64
_GITHUB_HEADER, _GITHUB_MARK = "x-hub-signature-256", "sha256="


class SignatureError(Exception):
    """The delivery is not shown to come from its source. The message holds no secret, and no
    signature that would have been right. `challenge`: of the WWW-Authenticate header."""

    def __init__(self, detail: str, challenge: str = "Webhook-Signature") -> None:
        super().__init__(detail)
        self.challenge = challenge


class Verification(Protocol):
    """One way of showing who sends, with the secrets that are good for it."""

    signs_body: ClassVar[bool]
    """False: the headers show by themselves who sends, and speak for all of the request. True: what
    the signature is not of, other headers above all, may have been put there by anybody."""

    def check_headers(self, headers: Headers, *, now: float) -> None:
        """Whether the body is worth reading: all that can be refused without it is refused.
        Raises SignatureError."""

    def signed_beside_body(self, headers: Headers) -> tuple[str, ...]:
        """What else the signature is of, as far as it stays the same in a replay. Never raises;
        of headers that do not verify it says nothing."""

    def verify(self, headers: Headers, body: bytes, *, now: float) -> None:
        """Raises SignatureError."""

    def sign(self, body: bytes, *, delivery_id: str, now: float) -> dict[str, str]:
        """The headers a sender would add, made with the first secret."""


@dataclass(frozen=True, slots=True)
class StandardWebhooks:
    """Standard Webhooks 1.0, symmetric: HMAC-SHA256 of id, timestamp and body.

    `prefix` of the three headers' names; Svix says `svix-`.
    """

    secrets: tuple[bytes, ...] = field(repr=False)
    tolerance_seconds: float = TOLERANCE_SECONDS
    prefix: str = "webhook-"
    signs_body: ClassVar[bool] = True

    def check_headers(self, headers: Headers, *, now: float) -> None:
        self._read(headers, now)

    def signed_beside_body(self, headers: Headers) -> tuple[str, ...]:
        return tuple(headers.get(self.prefix + "id", ()))

    def verify(self, headers: Headers, body: bytes, *, now: float) -> None:
        before, signatures = self._read(headers, now)
        _require_match(self.secrets, before + body, signatures)

    def _read(self, headers: Headers, now: float) -> tuple[bytes, list[bytes]]:
        """What is signed before the body, and the signatures."""
        before, texts = _standard_parts(headers, self.prefix, "v1", now, self.tolerance_seconds)
        return before, _readable(texts, "base64", header=self.prefix + "signature")

    def sign(self, body: bytes, *, delivery_id: str, now: float) -> dict[str, str]:
        timestamp = str(int(now))
        signed = f"{delivery_id}.{timestamp}.".encode() + body
        signature = _encoded(_digest(self.secrets[0], signed), "base64")
        return {
            self.prefix + "id": delivery_id,
            self.prefix + "timestamp": timestamp,
            self.prefix + "signature": f"v1,{signature}",
        }


@dataclass(frozen=True, slots=True)
class StandardWebhooksPublic:
    """Standard Webhooks 1.0, asymmetric (`v1a`): Ed25519 over the same. Nothing here is secret."""

    keys: tuple[bytes, ...]
    """32 bytes each."""
    tolerance_seconds: float = TOLERANCE_SECONDS
    prefix: str = "webhook-"
    signs_body: ClassVar[bool] = True

    def check_headers(self, headers: Headers, *, now: float) -> None:
        self._read(headers, now)

    def signed_beside_body(self, headers: Headers) -> tuple[str, ...]:
        return tuple(headers.get(self.prefix + "id", ()))

    def verify(self, headers: Headers, body: bytes, *, now: float) -> None:
        before, signatures = self._read(headers, now)
        signed = before + body
        if not any(_ed25519(key, one, signed) for key in self.keys for one in signatures):
            raise SignatureError(
                "the signature is not of this body with any public key of this source: the key "
                "differs, or something between changed the body"
            )

    def _read(self, headers: Headers, now: float) -> tuple[bytes, list[bytes]]:
        """What is signed before the body, and the signatures."""
        before, texts = _standard_parts(headers, self.prefix, "v1a", now, self.tolerance_seconds)
        header = self.prefix + "signature"
        return before, _of_size(_decoded(texts, "base64"), ED25519_SIGNATURE_BYTES, header)

    def sign(self, body: bytes, *, delivery_id: str, now: float) -> dict[str, str]:
        del body, delivery_id, now
        raise SignatureError("a public key signs nothing: only the sender can sign for this source")


@dataclass(frozen=True, slots=True)
class PlainHmac:
    """An HMAC of the body alone. It tells nothing of when it was made: what is sent again later
    is known by its delivery id and its source version."""

    secrets: tuple[bytes, ...] = field(repr=False)
    header: str
    mark: str = ""
    """Put before the signature."""
    encoding: Encoding = "hex"
    digest: Digest = "sha256"
    signs_body: ClassVar[bool] = True

    def check_headers(self, headers: Headers, *, now: float) -> None:
        del now
        self._signatures(headers)

    def signed_beside_body(self, headers: Headers) -> tuple[str, ...]:
        del headers
        return ()

    def verify(self, headers: Headers, body: bytes, *, now: float) -> None:
        del now
        _require_match(self.secrets, body, self._signatures(headers), self.digest)

    def _signatures(self, headers: Headers) -> list[bytes]:
        given = _single(headers, self.header)
        if not given.startswith(self.mark):
            raise SignatureError(f"the header {self.header} must begin with {self.mark}")
        texts = [given[len(self.mark) :]]
        return _readable(texts, self.encoding, self.digest, header=self.header)

    def sign(self, body: bytes, *, delivery_id: str, now: float) -> dict[str, str]:
        del delivery_id, now
        signature = _encoded(_digest(self.secrets[0], body, self.digest), self.encoding)
        return {self.header: self.mark + signature}


def github(secrets: tuple[bytes, ...]) -> PlainHmac:
    return PlainHmac(secrets, header=_GITHUB_HEADER, mark=_GITHUB_MARK)


@dataclass(frozen=True, slots=True)
class TimestampedHmac:
    """As Stripe does it: `t=TIME,v1=SIGNATURE`, an HMAC-SHA256 of time and body.

    Sanity's times are milliseconds and its signatures base64url.
    """

    secrets: tuple[bytes, ...] = field(repr=False)
    header: str = "stripe-signature"
    encoding: Encoding = "hex"
    milliseconds: bool = False
    tolerance_seconds: float = TOLERANCE_SECONDS
    signs_body: ClassVar[bool] = True

    def check_headers(self, headers: Headers, *, now: float) -> None:
        self._read(headers, now)

    def signed_beside_body(self, headers: Headers) -> tuple[str, ...]:
        try:
            time, _ = self._parts(headers)
        except SignatureError:
            return ()
        return (time,)

    def verify(self, headers: Headers, body: bytes, *, now: float) -> None:
        before, signatures = self._read(headers, now)
        _require_match(self.secrets, before + body, signatures)

    def _read(self, headers: Headers, now: float) -> tuple[bytes, list[bytes]]:
        """What is signed before the body, and the signatures."""
        time, texts = self._parts(headers)
        unit = 1000.0 if self.milliseconds else 1.0
        _check_time(time, now, self.tolerance_seconds, unit=unit)
        return f"{time}.".encode(), _readable(texts, self.encoding, header=self.header)

    def _parts(self, headers: Headers) -> tuple[str, list[str]]:
        """The time, and the signatures as they are written."""
        parts = [part.strip().partition("=") for part in _single(headers, self.header).split(",")]
        times = [value for name, _, value in parts if name == "t"]
        if len(times) != 1:
            raise SignatureError(f"the header {self.header} must have one t=")
        return times[0], [value for name, _, value in parts if name == "v1"]

    def sign(self, body: bytes, *, delivery_id: str, now: float) -> dict[str, str]:
        del delivery_id
        timestamp = str(int(now * 1000 if self.milliseconds else now))
        signed = f"{timestamp}.".encode() + body
        signature = _encoded(_digest(self.secrets[0], signed), self.encoding)
        return {self.header: f"t={timestamp},v1={signature}"}


@dataclass(frozen=True, slots=True)
class SharedToken:
    """A header that holds the secret itself, for senders that can sign nothing."""

    secrets: tuple[bytes, ...] = field(repr=False)
    header: str = "authorization"
    mark: str = "Bearer "
    signs_body: ClassVar[bool] = False

    def verify(self, headers: Headers, body: bytes, *, now: float) -> None:
        del body
        self.check_headers(headers, now=now)

    def signed_beside_body(self, headers: Headers) -> tuple[str, ...]:
        del headers
        return ()

    def check_headers(self, headers: Headers, *, now: float) -> None:
        del now
        given = _single(headers, self.header)
        if not given.startswith(self.mark):
            raise SignatureError(f"the header {self.header} is not as this source sends it")
        if not _one_of(self.secrets, _utf8(given[len(self.mark) :])):
            raise SignatureError(f"the header {self.header} is not as this source sends it")

    def sign(self, body: bytes, *, delivery_id: str, now: float) -> dict[str, str]:
        del body, delivery_id, now
        return {self.header: self.mark + self.secrets[0].decode()}


@dataclass(frozen=True, slots=True)
class Basic:
    """HTTP Basic. Each secret is a password of the one user."""

    secrets: tuple[bytes, ...] = field(repr=False)
    username: str
    signs_body: ClassVar[bool] = False

    def verify(self, headers: Headers, body: bytes, *, now: float) -> None:
        del body
        self.check_headers(headers, now=now)

    def signed_beside_body(self, headers: Headers) -> tuple[str, ...]:
        del headers
        return ()

    def check_headers(self, headers: Headers, *, now: float) -> None:
        del now
        try:
            scheme, _, token = _single(headers, "authorization").partition(" ")
            given = base64.b64decode(token.strip().encode(), validate=True)
        except (SignatureError, ValueError, binascii.Error):
            scheme, given = "", b""
        if scheme.lower() != "basic" or not _one_of(self._credentials(), given):
            challenge = 'Basic realm="bloomweaver", charset="UTF-8"'
            raise SignatureError("the user or the password is not right", challenge)

    def sign(self, body: bytes, *, delivery_id: str, now: float) -> dict[str, str]:
        del body, delivery_id, now
        return {"authorization": "Basic " + base64.b64encode(self._credentials()[0]).decode()}

    def _credentials(self) -> tuple[bytes, ...]:
        return tuple(f"{self.username}:".encode() + secret for secret in self.secrets)


@dataclass(frozen=True, slots=True)
class Unverified:
    """Takes every delivery; only where nobody but this machine can send one."""

    signs_body: ClassVar[bool] = False

    def verify(self, headers: Headers, body: bytes, *, now: float) -> None:
        pass

    def check_headers(self, headers: Headers, *, now: float) -> None:
        pass

    def signed_beside_body(self, headers: Headers) -> tuple[str, ...]:
        del headers
        return ()

    def sign(self, body: bytes, *, delivery_id: str, now: float) -> dict[str, str]:
        del body, delivery_id, now
        return {}


@dataclass(frozen=True, slots=True)
class NobodyYet:
    """Takes nothing: the secret that deliveries will be signed with is not known."""

    signs_body: ClassVar[bool] = True

    def check_headers(self, headers: Headers, *, now: float) -> None:
        raise SignatureError("this source has no secret yet, and takes nothing")

    def signed_beside_body(self, headers: Headers) -> tuple[str, ...]:
        del headers
        return ()

    def verify(self, headers: Headers, body: bytes, *, now: float) -> None:
        self.check_headers(headers, now=now)

    def sign(self, body: bytes, *, delivery_id: str, now: float) -> dict[str, str]:
        del body, delivery_id, now
        raise SignatureError("this source has no secret yet to sign with")


def standard_secret(text: str) -> bytes:
    """The key of a Standard Webhooks secret, with or without `whsec_` and padding. Raises
    ValueError when it is no base64, or so short that it could be guessed."""
    encoded = text.removeprefix(_STANDARD_PREFIX).rstrip("=")
    key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    if len(key) < SHORTEST_KEY_BYTES:
        raise ValueError(f"the secret holds fewer than {SHORTEST_KEY_BYTES} bytes")
    return key


def standard_public_key(text: str) -> bytes:
    """Of `whpk_…`, with or without padding. Raises ValueError."""
    encoded = text.removeprefix(_PUBLIC_PREFIX).rstrip("=")
    key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    if not text.startswith(_PUBLIC_PREFIX) or len(key) != ED25519_KEY_BYTES:
        raise ValueError("not a public key")
    return key


# --- parts ---------------------------------------------------------------------------------------


def _single(headers: Headers, name: str) -> str:
    """Two of them could be read one way here and another way behind a proxy."""
    found = headers.get(name, ())
    if len(found) != 1 or not found[0]:
        what = "is missing" if not any(found) else "must be sent once"
        raise SignatureError(f"the header {name} {what}")
    if len(found[0]) > MAX_HEADER_CHARACTERS:
        raise SignatureError(f"the header {name} is longer than {MAX_HEADER_CHARACTERS} characters")
    return found[0]


def _standard_parts(
    headers: Headers, prefix: str, version: str, now: float, tolerance_seconds: float
) -> tuple[bytes, list[str]]:
    """What Standard Webhooks sign before the body, and the signatures of one version."""
    delivery_id = _single(headers, prefix + "id")
    timestamp = _single(headers, prefix + "timestamp")
    given = _single(headers, prefix + "signature").split(" ")
    _check_time(timestamp, now, tolerance_seconds)
    if "." in delivery_id:  # it parts what is signed: `a.1` and 2 would be `a` and 1.2
        raise SignatureError(f"the header {prefix}id must have no dot")
    texts = [text for mark, _, text in (s.partition(",") for s in given) if mark == version]
    return _utf8(f"{delivery_id}.{timestamp}."), texts


def _check_time(text: str, now: float, tolerance_seconds: float, *, unit: float = 1.0) -> None:
    if _DIGITS.fullmatch(text) is None:
        raise SignatureError("the signature's time is no number")
    age = now - int(text) / unit
    if abs(age) > tolerance_seconds:
        when = "ago" if age > 0 else "in the future"
        raise SignatureError(
            f"the signature was made {abs(age):.0f} s {when}, and {tolerance_seconds:g} s are "
            "allowed: look at both clocks"
        )


def _require_match(
    secrets: Iterable[bytes], signed: bytes, given: list[bytes], digest: Digest = "sha256"
) -> None:
    matched = False
    for secret in secrets:
        expected = _digest(secret, signed, digest)
        for signature in given:
            matched |= hmac.compare_digest(expected, signature)
    if not matched:
        raise SignatureError(
            "the signature is not of this body with any secret of this source: the secret differs, "
            "or something between changed the body"
        )


def _digest(secret: bytes, signed: bytes, digest: Digest = "sha256") -> bytes:
    return hmac.digest(secret, signed, digest)


def _ed25519(key: bytes, signature: bytes, signed: bytes) -> bool:
    # Loaded where a source needs it: it takes as long as all the rest of the module.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def _one_of(secrets: Iterable[bytes], given: bytes) -> bool:
    """Compared as digests: lengths would show."""
    digest = hashlib.sha256(given).digest()
    matched = False
    for secret in secrets:
        matched |= hmac.compare_digest(hashlib.sha256(secret).digest(), digest)
    return matched


def _utf8(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _readable(
    signatures: Sequence[str], encoding: Encoding, digest: Digest = "sha256", *, header: str
) -> list[bytes]:
    """Those that could be right by their looks. Raises SignatureError when there are none."""
    return _of_size(_decoded(signatures, encoding), hashlib.new(digest).digest_size, header)


def _of_size(signatures: Iterable[bytes], size: int, header: str) -> list[bytes]:
    found = [one for one in signatures if len(one) == size]
    if not found:
        raise SignatureError(f"the header {header} has no signature of the form this source sends")
    return found


def _decoded(signatures: Sequence[str], encoding: Encoding) -> Iterator[bytes]:
    """Those that can be read: what cannot matches nothing."""
    for signature in signatures[:MAX_SIGNATURES]:
        try:
            yield _DECODE[encoding](signature)
        except ValueError:  # binascii.Error, too
            continue


def _from_hex(text: str) -> bytes:
    return binascii.unhexlify(text.encode("ascii"))


def _from_base64(text: str) -> bytes:
    """Exactly one text stands for one signature: the last character's spare bits must be none."""
    data = base64.b64decode(text.encode("ascii"), validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not the one way to write it")
    return data


def _from_base64url(text: str) -> bytes:
    padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
    if "+" in text or "/" in text:
        raise ValueError("not base64url")
    return _from_base64(padded.replace("-", "+").replace("_", "/"))


def _encoded(data: bytes, encoding: Encoding) -> str:
    if encoding == "hex":
        return data.hex()
    if encoding == "base64":
        return base64.b64encode(data).decode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


_DECODE: dict[Encoding, Callable[[str], bytes]] = {
    "hex": _from_hex,
    "base64": _from_base64,
    "base64url": _from_base64url,
}
