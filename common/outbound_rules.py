"""What the service fetches, and what it makes of the answer: the rules. Pure.

Addresses are judged elsewhere (`common.outbound_addresses`), when a name has been resolved.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address

from yarl import URL

from common.ports.errors import PermanentError, TransientError

MAX_URL_CHARACTERS = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_RETRY_AFTER_SECONDS = 86_400.0
ALLOWED_BY = "BLOOMWEAVER_FETCH_ALLOWED_HOSTS"

_MAY_PASS = frozenset({408, 425, 429})
_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029]")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NOT_IN_A_HOST = re.compile(r"[/?#@\s]")


class RefusedError(PermanentError):
    """It is not fetched, and asking again changes nothing. Fit for whoever named the URL: says
    nothing of what is at an address. `status` is the answer's, where it was the answer."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


# --- where to ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that can be asked for. `host` is in lower case and ASCII, as a resolver takes it."""

    url: URL
    host: str
    port: int

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.url.scheme, self.host, self.port

    @property
    def is_at_default_port(self) -> bool:
        return self.port == DEFAULT_PORTS[self.url.scheme]

    @property
    def name(self) -> str:
        """For people: a path or a query may hold what is not theirs."""
        return self.host if self.is_at_default_port else f"{self.host}:{self.port}"


def target_of(text: str) -> Target:
    """Raises RefusedError, which says what is wrong with the URL."""
    if len(text) > MAX_URL_CHARACTERS:
        raise RefusedError(f"is longer than {MAX_URL_CHARACTERS} characters")
    if _NOT_IN_A_URL.search(text):
        raise RefusedError("has a blank, a backslash or a control character")
    return _target(_parsed(text))


def _parsed(text: str) -> URL:
    try:
        return URL(text)
    except (ValueError, TypeError):
        raise RefusedError("is no URL") from None


def _target(url: URL) -> Target:
    if url.scheme not in DEFAULT_PORTS:
        raise RefusedError("must begin with https:// or http://")
    if "@" in url.raw_authority:
        raise RefusedError("must not have a user or password")
    host = _host(url)
    port = url.port
    if not port:
        raise RefusedError("has no port that can be asked")
    return Target(url.with_fragment(None), host, port)


def _host(url: URL) -> str:
    """Names, and addresses in their one canonical notation: 127.1, 0x7f000001 and 2130706433 are
    names to some parsers and addresses to others."""
    host = url.raw_host or ""
    if is_address(host):
        return host
    is_name = len(host) <= 253 and _NAME.fullmatch(host)
    if not is_name or _NUMBER.fullmatch(host.rpartition(".")[2]):
        raise RefusedError("has no host that can be asked")
    return host


def is_address(host: str) -> bool:
    """In canonical notation and without a zone."""
    try:
        return "%" not in host and str(ip_address(host)) == host
    except ValueError:
        return False


def redirected(target: Target, location: str | None) -> Target:
    """Where an answer sends us to. Raises RefusedError."""
    if not location or _NOT_IN_A_URL.search(location):
        raise RefusedError(f"{target.name} redirects to nowhere")
    try:
        there = target_of(str(target.url.join(_parsed(location))))
    except RefusedError as error:
        raise RefusedError(f"{target.name} redirects to what {error}") from None
    except ValueError:
        raise RefusedError(f"{target.name} redirects to nowhere") from None
    if target.url.scheme == "https" and there.url.scheme != "https":
        raise RefusedError(f"{target.name} redirects from https to http")
    return there


# --- allowed hosts -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostPattern:
    """`subdomains`: those of `name`, at any depth, and not the name itself. `port` None: the
    scheme's own."""

    name: str
    subdomains: bool
    port: int | None

    def matches(self, target: Target) -> bool:
        if self.port is None and not target.is_at_default_port:
            return False
        if self.port is not None and self.port != target.port:
            return False
        if self.subdomains:
            return target.host.endswith(f".{self.name}")
        return target.host == self.name


def host_pattern(entry: str) -> HostPattern:
    """Of `docs.example.com`, `docs.example.com:8443`, `*.example.com`. Raises ValueError."""
    name = entry.removeprefix("*.")
    wrong = f"{entry!r} is no host: docs.example.com, docs.example.com:8443 or *.example.com"
    if _NOT_IN_A_HOST.search(entry):
        raise ValueError(wrong)
    try:
        target = target_of(f"https://{name}")
    except RefusedError:
        raise ValueError(wrong) from None
    if name != entry and is_address(target.host):
        raise ValueError(f"{entry!r}: an address has no subdomains")
    return HostPattern(target.host, name != entry, target.url.explicit_port)


class HostList:
    """The hosts that may be fetched from. Raises ValueError for an entry that is no host."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._patterns = tuple(host_pattern(entry) for entry in entries)

    def require(self, target: Target) -> None:
        """Raises RefusedError."""
        if not self._patterns:
            raise RefusedError(f"nothing is fetched here: no host is allowed ({ALLOWED_BY})")
        if not any(pattern.matches(target) for pattern in self._patterns):
            raise RefusedError(f"the host {target.name} is not allowed ({ALLOWED_BY})")


# --- the answer ----------------------------------------------------------------------------------


def require_success(target: Target, status: int, headers: Mapping[str, str], now: float) -> None:
    """Raises TransientError for what may pass, RefusedError for every other answer but a 200.

    `headers` is looked into without regard to case, as aiohttp's is.
    """
    if status == 200:
        return
    line = f"{target.name} answers {status}"
    if status >= 500 or status in _MAY_PASS or (status == 403 and _is_limit(headers)):
        raise TransientError(line, retry_after_seconds=retry_after(headers, now))
    raise RefusedError(line, status=status)


def _is_limit(headers: Mapping[str, str]) -> bool:
    """GitHub's limits are also a 403."""
    return "Retry-After" in headers or headers.get("X-RateLimit-Remaining") == "0"


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds from now, a day at most; None where nothing legible is said."""
    said = headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit() and len(said) <= 12:
        seconds = float(said)
    else:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - now
        except (ValueError, OverflowError, OSError):
            return _until_reset(headers, now)
    return min(max(seconds, 0.0), MOST_RETRY_AFTER_SECONDS)


def _until_reset(headers: Mapping[str, str], now: float) -> float | None:
    said = headers.get("X-RateLimit-Reset", "")
    if headers.get("X-RateLimit-Remaining") != "0" or not re.fullmatch(r"[0-9]{1,12}", said):
        return None
    return min(max(float(said) - now, 0.0), MOST_RETRY_AFTER_SECONDS)


def is_compressed(target: Target, encoding: str) -> bool:
    """Raises RefusedError for a Content-Encoding that was not asked for."""
    name = encoding.strip().lower()
    if name not in ("", "identity", "gzip", "x-gzip"):
        raise RefusedError(f"{target.name} answers in an encoding that was not asked for")
    return name.endswith("gzip")


def inflated(target: Target, data: bytes, max_bytes: int) -> bytes:
    """What gzip's `data` stands for. Never makes more than one byte beyond the limit of it.

    Raises RefusedError when it is larger or no gzip, TransientError when it breaks off.
    """
    whole = bytearray()
    inflater = zlib.decompressobj(wbits=31)
    try:
        while data:
            whole += inflater.decompress(data, max_bytes - len(whole) + 1)
            require_size(target, len(whole), max_bytes)
            data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            if inflater.eof and data:  # another member
                inflater = zlib.decompressobj(wbits=31)
    except zlib.error:
        raise RefusedError(f"{target.name} answers what is not the gzip that it says") from None
    if not inflater.eof:
        raise TransientError(f"the answer of {target.name} breaks off")
    return bytes(whole)


def require_size(target: Target, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TooLargeError(f"{target.name} answers more than {max_bytes} bytes")


class TooLargeError(RefusedError):
    """More than may be kept."""
