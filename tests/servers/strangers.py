"""Web servers of strangers: each says byte for byte what a test wants, and notes what it was asked.

They stand on this machine. To the client under test they are hosts with names, on an address that
it takes for a public one; another address of this machine stands for what must never be reached.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import trustme

from common.outbound import OutboundClient
from common.outbound_addresses import is_public

PUBLIC = "127.0.0.2"
"""Stands for a public address."""
PRIVATE = "127.0.0.1"
ANYWHERE = ["*.example", "127.0.0.1", "[::1]", "169.254.169.254"]
LIMIT = 1000
"""Of the content that a client fetches, in bytes."""

Say = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


def is_public_here(address: str) -> bool:
    return address == PUBLIC or is_public(address)


@dataclass(frozen=True)
class Asked:
    path: str
    headers: dict[str, str]


@dataclass
class Stranger:
    """`say` answers each request; the connection is closed afterwards."""

    say: Say
    address: str = PUBLIC
    tls: ssl.SSLContext | None = None
    port: int = 0
    connections: int = 0
    asked: list[Asked] = field(default_factory=list)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Stranger]:
        serving: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving.add(asyncio.create_task(self._serve(reader, writer)))

        server = await asyncio.start_server(connected, self.address, self.port, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request, *lines = head.rstrip().split("\r\n")
            named = (line.split(": ", 1) for line in lines)
            asked = Asked(request.split(" ")[1], {name.lower(): value for name, value in named})
            self.asked.append(asked)
            await self.say(asked, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass  # The client has heard enough.
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def saying(data: bytes) -> Say:
    async def say(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return say


def answer(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def redirect(location: str, *headers: str) -> bytes:
    return answer(b"", f"Location: {location}", *headers, status="302 Found")


@dataclass
class Names:
    """Resolves the names of strangers; each may have several answers, given one after the other."""

    known: dict[str, list[list[tuple[str, int]]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def name(self, host: str, *answers: list[tuple[str, int]]) -> None:
        self.known[host] = list(answers)

    def of(self, host: str, stranger: Stranger) -> None:
        self.name(host, [(stranger.address, stranger.port)])

    async def resolve(self, host: str, _: int) -> list[tuple[str, int]]:
        self.asked.append(host)
        if host not in self.known:
            raise OSError("no such host")
        answers = self.known[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


class Authority:
    """Signs certificates that only its own clients trust."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    def server(self, host: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert(host).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context


AUTHORITY = Authority()


class Internet:
    """Strangers with names, and a client that is allowed to ask them all."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self.names = Names()
        self.authority = AUTHORITY

    async def stranger(self, host: str, say: Say | bytes, **more: Any) -> Stranger:
        said = saying(say) if isinstance(say, bytes) else say
        stranger = Stranger(said, **more)
        await self._stack.enter_async_context(stranger.listening())
        self.names.of(host, stranger)
        return stranger

    async def with_tls(self, host: str, say: Say | bytes, *, known_as: str = "") -> Stranger:
        return await self.stranger(host, say, tls=self.authority.server(known_as or host))

    def client(self, allowed: list[str] = ANYWHERE, **more: Any) -> OutboundClient:
        given_too = {
            "max_bytes": LIMIT,
            "timeout_seconds": 30.0,
            "tls": self.authority.client(),
            "resolve": self.names.resolve,
        }
        client = OutboundClient(allowed, address_rule=is_public_here, **{**given_too, **more})
        self._stack.push_async_callback(client.close)
        return client
