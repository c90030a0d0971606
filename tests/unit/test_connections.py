"""When a client that takes nothing of its answer is taken for gone, and how many may come from one
address."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from webhook.connections import Connection, ConnectionLimits, Server


class Transport:
    """What waits to be sent is up to the test."""

    def __init__(self, peer: object = None) -> None:
        self.waiting = 100
        self.aborted = False
        self.peer = peer
        self.written = b""
        self.closed = False

    def get_extra_info(self, name: str) -> object:
        return self.peer if name == "peername" else None

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def abort(self) -> None:
        self.aborted = True


async def unused(request: web.BaseRequest) -> web.StreamResponse:
    raise NotImplementedError


@pytest.fixture
async def connection() -> Connection:
    limits = ConnectionLimits(
        connections=0, connections_per_address=0, idle_seconds=60, write_stall_seconds=60
    )
    return Server(web.Server(unused), limits)()


async def test_who_takes_something_between_two_looks_is_waited_for(connection: Connection) -> None:
    transport: Any = Transport()
    connection.transport = transport
    connection.pause_writing()
    for waiting in (99, 50, 1):
        transport.waiting = waiting
        connection._look()
        assert not transport.aborted
    connection._look()
    assert transport.aborted


async def test_who_has_caught_up_is_not_looked_at(connection: Connection) -> None:
    transport: Any = Transport()
    connection.transport = transport
    connection.pause_writing()
    timer = connection._stall
    assert isinstance(timer, asyncio.TimerHandle)
    connection.resume_writing()
    assert timer.cancelled()


# --- by address ----------------------------------------------------------------------------------


class Door:
    """A server that lets two in from each address."""

    def __init__(self, **more: int) -> None:
        limits = {"connections": 0, "connections_per_address": 2, **more}
        self.server = Server(
            web.Server(unused),
            ConnectionLimits(idle_seconds=60, write_stall_seconds=60, **limits),
        )

    def come(self, address: str) -> tuple[Connection, Transport]:
        connection, transport = self.server(), Transport((address, 4711))
        known: Any = transport
        self.server.connection_made(connection, known)
        return connection, transport

    def is_let_in(self, address: str) -> bool:
        transport = self.come(address)[1]
        assert transport.closed == (b"503 Service Unavailable" in transport.written)
        return not transport.closed


async def test_one_address_has_a_share_of_the_connections() -> None:
    door = Door()
    assert [door.is_let_in("203.0.113.7") for _ in range(3)] == [True, True, False]
    _, refused = door.come("203.0.113.7")
    assert b"there are 2 connections from 203.0.113.7 already" in refused.written
    assert door.is_let_in("203.0.113.8")


async def test_addresses_of_one_network_are_one() -> None:
    door = Door()
    peers = [f"2001:db8:1:2::{number}" for number in (1, 2, 3)]
    assert [door.is_let_in(peer) for peer in peers] == [True, True, False]
    assert door.is_let_in("2001:db8:1:3::1")


async def test_who_goes_makes_room() -> None:
    door = Door()
    first, _ = door.come("203.0.113.7")
    assert door.is_let_in("203.0.113.7")
    refused, _ = door.come("203.0.113.7")
    door.server.connection_lost(refused)
    assert not door.is_let_in("203.0.113.7")
    for connection in list(door.server.connections):
        door.server.connection_lost(connection)
    door.server.connection_lost(first)  # a second time counts nothing twice
    assert [door.is_let_in("203.0.113.7") for _ in range(3)] == [True, True, False]


async def test_this_machine_itself_is_not_counted() -> None:
    door = Door()
    for address in ("127.0.0.1", "::1"):
        assert all(door.is_let_in(address) for _ in range(5))


async def test_0_is_no_limit() -> None:
    door = Door(connections_per_address=0)
    assert all(door.is_let_in("203.0.113.7") for _ in range(5))
