"""The one client for everything that the service fetches because somebody else said so.

A name is resolved once, every address it has is judged, and the connection goes to one of exactly
those: a name that answers differently the next time (DNS rebinding) gains nothing. Redirects are
followed by hand, each judged as the first URL was. No proxy, no cookie and no credential of this
machine goes along; what is given for one origin is sent to no other.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from common.clock import Clock, system_clock
from common.outbound_addresses import is_public
from common.outbound_rules import (
    REDIRECTS,
    HostList,
    RefusedError,
    Target,
    inflated,
    is_address,
    is_compressed,
    redirected,
    require_size,
    require_success,
    target_of,
)
from common.ports.errors import TransientError
from common.settings import Settings

MAX_REDIRECTS = 5
CONCURRENT_FETCHES = 8
"""The content of so many is in memory at once; the others wait, within their own time."""
CONNECT_SECONDS = 10.0
SENT_ELSEWHERE = frozenset({"accept"})
"""Of the headers given, those that another origin may see after a redirect."""

AddressRule = Callable[[str], bool]
"""Whether an address may be connected to."""
Resolve = Callable[[str, int], Awaitable[list[tuple[str, int]]]]
"""The addresses of a host and a port. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Fetched:
    content: bytes
    content_type: str | None
    """As the answer says it, with parameters."""


class OutboundClient:
    """Fetches from the allowed hosts only. Belongs to one event loop; call `close` at the end.

    `address_rule`, `resolve` and `tls` are other than the defaults in tests, whose servers are on
    this machine.
    """

    def __init__(
        self,
        allowed_hosts: Iterable[str],
        *,
        max_bytes: int,
        timeout_seconds: float,
        address_rule: AddressRule = is_public,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        clock: Clock = system_clock,
    ) -> None:
        self._hosts = HostList(allowed_hosts)
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._may_connect = address_rule
        self._resolve = resolve or resolved_by_system
        self._tls = tls
        self._clock = clock
        self._slots = asyncio.Semaphore(CONCURRENT_FETCHES)
        self._opened: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    def target(self, url: str) -> Target:
        """What can be judged before anything is asked. Raises RefusedError."""
        target = target_of(url)
        self._hosts.require(target)
        return target

    async def fetch(self, url: str, headers: Mapping[str, str] | None = None) -> Fetched:
        """The content at `url`. `headers` go to its origin only.

        Raises RefusedError when it is not fetched whenever it is asked for, and TransientError when
        it may be later.
        """
        target = self.target(url)
        try:
            async with asyncio.timeout(self._timeout_seconds), self._slots:
                return await self._follow(target, dict(headers or {}))
        except TimeoutError:
            line = f"{target.name} did not answer within {self._timeout_seconds:g} s"
            raise TransientError(line) from None

    async def _follow(self, first: Target, headers: dict[str, str]) -> Fetched:
        target = first
        for _ in range(MAX_REDIRECTS + 1):
            async with self._asked(target, headers) as answer:
                if answer.status not in REDIRECTS:
                    return await self._read(target, answer)
                there = redirected(target, answer.headers.get("Location"))
            self._hosts.require(there)
            if there.origin != target.origin:
                headers = {n: v for n, v in headers.items() if n.lower() in SENT_ELSEWHERE}
            target = there
        raise RefusedError(f"{first.name} redirects more than {MAX_REDIRECTS} times")

    @asynccontextmanager
    async def _asked(
        self, target: Target, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Translates what goes wrong until the answer was read."""
        if is_address(target.host):
            require_addresses(target.host, [target.host], self._may_connect)
        try:
            get = self._session().get(target.url, headers=headers, allow_redirects=False)
            async with get as answer:
                yield answer
        except aiohttp.ClientConnectorCertificateError:
            raise RefusedError(f"the certificate of {target.name} is not to be trusted") from None
        except (aiohttp.ClientError, OSError, ValueError):
            # Not what it was: that would tell a stranger what is where.
            raise TransientError(f"{target.name} cannot be reached, or broke off") from None

    async def _read(self, target: Target, answer: aiohttp.ClientResponse) -> Fetched:
        require_success(target, answer.status, answer.headers, self._clock())
        compressed = is_compressed(target, answer.headers.get("Content-Encoding", ""))
        content = await self._body(target, answer)
        if compressed:
            content = await asyncio.to_thread(inflated, target, content, self._max_bytes)
        return Fetched(content, answer.headers.get("Content-Type"))

    async def _body(self, target: Target, answer: aiohttp.ClientResponse) -> bytes:
        """As it was sent."""
        require_size(target, answer.content_length or 0, self._max_bytes)
        body = bytearray()
        async for piece in answer.content.iter_any():
            body += piece
            require_size(target, len(body), self._max_bytes)
        return bytes(body)

    def _session(self) -> aiohttp.ClientSession:
        """Opened with the first fetch. It decompresses nothing by itself: that has no bound."""
        if self._opened is None:
            connector = aiohttp.TCPConnector(
                resolver=JudgingResolver(self._resolve, self._may_connect),
                use_dns_cache=False,
                ssl=self._tls or True,
                limit=CONCURRENT_FETCHES,
            )
            self._opened = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "BloomWeaver", "Accept-Encoding": "gzip"},
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            )
        return self._opened


def client_of(settings: Settings, allowed_hosts: Iterable[str]) -> OutboundClient:
    """For content of documents, by the strict rules. Close it at the end."""
    return OutboundClient(
        allowed_hosts,
        max_bytes=settings.max_document_bytes,
        timeout_seconds=settings.request_timeout_seconds,
    )


class JudgingResolver(AbstractResolver):
    """What it returns is what aiohttp connects to; no name is resolved after this."""

    def __init__(self, resolve: Resolve, may_connect: AddressRule) -> None:
        self._resolve = resolve
        self._may_connect = may_connect

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Of both families. Raises OSError, and RefusedError."""
        found = await self._resolve(host, port)
        if not found:
            raise OSError("the name has no address")
        require_addresses(host, [address for address, _ in found], self._may_connect)
        return [_result(host, address, at) for address, at in found]

    async def close(self) -> None:
        return None


def require_addresses(host: str, addresses: Iterable[str], may_connect: AddressRule) -> None:
    """One that may not be connected to is enough: whoever answers so is not to be trusted with the
    others. Raises RefusedError, which names none of them."""
    if not all(may_connect(address) for address in addresses):
        raise RefusedError(f"{host} is not at an address that may be fetched from")


def _result(host: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )


async def resolved_by_system(host: str, port: int) -> list[tuple[str, int]]:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(str(address[0]), int(address[1])) for *_, address in found]
