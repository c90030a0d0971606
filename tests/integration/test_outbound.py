"""The guarded client against servers that would lead it astray, wear it out or listen in."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.outbound import MAX_REDIRECTS, OutboundClient, client_of
from common.outbound_addresses import is_public
from common.outbound_rules import RefusedError, TooLargeError, host_pattern
from common.ports.errors import PortError, TransientError
from common.settings import Settings
from tests.servers.strangers import (
    LIMIT,
    PRIVATE,
    Asked,
    Internet,
    answer,
    redirect,
)


@pytest.fixture
async def internet() -> AsyncIterator[Internet]:
    async with AsyncExitStack() as stack:
        yield Internet(stack)


async def refused(client: OutboundClient, url: str, why: str) -> RefusedError:
    with pytest.raises(RefusedError, match=why) as caught:
        await client.fetch(url)
    return caught.value


async def failed(client: OutboundClient, url: str, why: str) -> TransientError:
    with pytest.raises(TransientError, match=why) as caught:
        await client.fetch(url)
    return caught.value


# --- what is fetched -----------------------------------------------------------------------------


async def test_content_and_its_type(internet: Internet) -> None:
    server = await internet.stranger("a.example", answer(b"hello", "Content-Type: text/markdown"))
    fetched = await internet.client().fetch("http://a.example/x%2Fy?q=1#part")
    assert (fetched.content, fetched.content_type) == (b"hello", "text/markdown")
    assert [asked.path for asked in server.asked] == ["/x%2Fy?q=1"]


async def test_the_name_is_asked_for_once_and_connected_to_as_it_was_judged(
    internet: Internet,
) -> None:
    """A name that is public when it is judged and private the next time (DNS rebinding)."""
    public = await internet.stranger("a.example", answer(b"public"))
    inside = await internet.stranger("inside.example", answer(b"inside"), address=PRIVATE)
    internet.names.asked.clear()
    internet.names.name("a.example", [(public.address, public.port)], [(PRIVATE, inside.port)])
    client = internet.client()
    assert (await client.fetch("http://a.example/")).content == b"public"
    assert internet.names.asked == ["a.example"]
    await refused(client, "http://a.example/", "not at an address that may be fetched from")
    assert inside.connections == 0


async def test_tls_is_verified_for_the_name(internet: Internet) -> None:
    await internet.with_tls("a.example", answer(b"secure"))
    await internet.with_tls("b.example", answer(b"another's"), known_as="a.example")
    client = internet.client()
    assert (await client.fetch("https://a.example/")).content == b"secure"
    await refused(client, "https://b.example/", "certificate of b.example is not to be trusted")
    strangers_own = internet.client(tls=None)
    await refused(strangers_own, "https://a.example/", "certificate")


# --- where it does not go ------------------------------------------------------------------------


async def test_a_host_that_is_not_allowed_is_not_even_looked_up(internet: Internet) -> None:
    server = await internet.stranger("a.example", answer(b"x"))
    await refused(internet.client(["b.example"]), "http://a.example/", "a.example is not allowed")
    await refused(internet.client([]), "http://a.example/", "no host is allowed")
    assert (server.connections, internet.names.asked) == (0, [])


@pytest.mark.parametrize(
    "addresses", [[PRIVATE], ["127.0.0.2", PRIVATE], [PRIVATE, "127.0.0.2"], ["10.0.0.1"],
                  ["169.254.169.254"], ["::1"], ["::ffff:127.0.0.1"], ["fe80::1%lo"]],
)  # fmt: skip
async def test_one_private_address_of_a_name_is_enough_to_refuse_it(
    internet: Internet, addresses: list[str]
) -> None:
    outside = await internet.stranger("outside.example", answer(b"x"))
    internet.names.name("a.example", [(address, outside.port) for address in addresses])
    error = await refused(internet.client(), "http://a.example/", "a.example is not at an address")
    assert not any(address in str(error) for address in addresses)
    assert outside.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254"])
async def test_an_address_in_a_url_is_judged_too(internet: Internet, host: str) -> None:
    await refused(internet.client(), f"http://{host}/", "not at an address that may be fetched")


async def test_a_literal_address_of_this_machine_is_not_connected_to(internet: Internet) -> None:
    inside = await internet.stranger("inside.example", answer(b"inside"), address=PRIVATE)
    client = internet.client([f"{PRIVATE}:{inside.port}"])
    await refused(client, f"http://{PRIVATE}:{inside.port}/", "not at an address")
    assert inside.connections == 0


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://inside.example/", "inside.example is not at an address"),
        ("http://127.0.0.1/", "127.0.0.1 is not at an address"),
        ("http://[::1]/", "::1 is not at an address"),
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254 is not at an address"),
        ("http://2130706433/", "no host"),
        ("http://elsewhere.test/", "elsewhere.test is not allowed"),
        ("http://user:word@b.example/", "user or password"),
        ("file:///etc/passwd", "must begin with"),
        ("//[", "redirects to"),
    ],
)
async def test_a_redirect_is_judged_as_the_first_url_was(
    internet: Internet, location: str, why: str
) -> None:
    await internet.stranger("a.example", redirect(location))
    inside = await internet.stranger("inside.example", answer(b"inside"), address=PRIVATE)
    internet.names.of("elsewhere.test", inside)
    await refused(internet.client(), "http://a.example/", why)
    assert inside.connections == 0


async def test_redirects_are_followed_so_many_times(internet: Internet) -> None:
    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        number = int(asked.path[1:])
        writer.write(redirect(f"/{number - 1}") if number else answer(b"there"))

    server = await internet.stranger("a.example", say)
    client = internet.client()
    assert (await client.fetch(f"http://a.example/{MAX_REDIRECTS}")).content == b"there"
    await refused(client, f"http://a.example/{MAX_REDIRECTS + 1}", "redirects more than 5 times")
    assert len(server.asked) == 2 * (MAX_REDIRECTS + 1)


async def test_a_redirect_in_a_circle_ends(internet: Internet) -> None:
    await internet.stranger("a.example", redirect("http://b.example/"))
    await internet.stranger("b.example", redirect("http://a.example/"))
    await refused(internet.client(), "http://a.example/", "redirects more than 5 times")


async def test_a_redirect_never_leads_from_https_to_http(internet: Internet) -> None:
    await internet.with_tls("a.example", redirect("http://b.example/"))
    plain = await internet.stranger("b.example", answer(b"plain"))
    await refused(internet.client(), "https://a.example/", "redirects from https to http")
    assert plain.connections == 0


# --- what goes along -----------------------------------------------------------------------------

CREDENTIALS = {"Authorization": "Bearer word", "Cookie": "a=b", "X-Key": "word", "Accept": "a/b"}


async def test_what_is_given_for_an_origin_is_sent_to_no_other(internet: Internet) -> None:
    first = await internet.stranger("a.example", redirect("http://b.example/"))
    second = await internet.stranger("b.example", redirect("http://a.example/again"))
    with suppress(RefusedError):
        await internet.client().fetch("http://a.example/", CREDENTIALS)
    sent = {name.lower(): value for name, value in CREDENTIALS.items()}
    assert sent.items() <= first.asked[0].headers.items()
    for asked in (*second.asked, *first.asked[1:]):  # nor to the first, once another had a say
        assert sent.keys() & asked.headers.keys() == {"accept"}
    assert len(second.asked) == 3


async def test_another_port_is_another_origin(internet: Internet) -> None:
    await internet.stranger("a.example", redirect("http://a.example:8080/"))
    first = internet.names.known["a.example"]
    other = await internet.stranger("a.example", answer(b"x"))
    internet.names.known["a.example"] = [*first, *internet.names.known["a.example"]]
    client = internet.client(["a.example", "a.example:8080"])
    await client.fetch("http://a.example/", CREDENTIALS)
    assert "authorization" not in other.asked[0].headers


async def test_what_is_given_stays_within_its_origin(internet: Internet) -> None:
    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(redirect("/there") if asked.path == "/" else answer(b"x"))

    server = await internet.stranger("a.example", say)
    await internet.client().fetch("http://a.example/", CREDENTIALS)
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer word"] * 2


async def test_a_cookie_is_not_kept(internet: Internet) -> None:
    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        there = asked.path == "/there"
        writer.write(answer(b"x") if there else redirect("/there", "Set-Cookie: a=b; Path=/"))

    server = await internet.stranger("a.example", say)
    await internet.client().fetch("http://a.example/")
    assert ["cookie" in asked.headers for asked in server.asked] == [False, False]


async def test_no_proxy_and_no_password_of_this_machine_is_used(
    internet: Internet, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    proxy = await internet.stranger("proxy.example", answer(b"proxy"))
    server = await internet.stranger("a.example", answer(b"server"))
    (tmp_path / "netrc").write_text("machine a.example login me password word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{proxy.address}:{proxy.port}")
    assert (await internet.client().fetch("http://a.example/")).content == b"server"
    assert (proxy.connections, "authorization" in server.asked[0].headers) == (0, False)


# --- how much and how long -----------------------------------------------------------------------


async def test_the_limit_holds_for_what_is_announced_sent_and_inflated(internet: Internet) -> None:
    whole = bytes(LIMIT)

    async def without_end(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"200\r\n" + bytes(0x200) + b"\r\n")
            await writer.drain()

    async def announced(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")
        await writer.drain()
        await asyncio.Event().wait()

    bomb = gzip.compress(bytes(16 * 1024 * 1024))[:LIMIT]
    await internet.stranger("fits.example", answer(whole))
    await internet.stranger(
        "zipped.example", answer(gzip.compress(whole), "Content-Encoding: gzip")
    )
    await internet.stranger("endless.example", without_end)
    await internet.stranger("announced.example", announced)
    await internet.stranger("bomb.example", answer(bomb, "Content-Encoding: gzip"))
    client = internet.client()
    assert (await client.fetch("http://fits.example/")).content == whole
    assert (await client.fetch("http://zipped.example/")).content == whole
    for host in ("endless", "announced", "bomb"):
        with pytest.raises(TooLargeError, match="more than 1000 bytes"):
            await client.fetch(f"http://{host}.example/")


async def test_it_asks_for_gzip_only_and_takes_nothing_else(internet: Internet) -> None:
    server = await internet.stranger("a.example", answer(b"x", "Content-Encoding: br"))
    await refused(internet.client(), "http://a.example/", "encoding that was not asked for")
    assert server.asked[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
             b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"nonsense\r\n\r\n",
             b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
             b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
             b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"],
)  # fmt: skip
async def test_an_answer_that_is_broken_is_told_as_one_that_is_missing(
    internet: Internet, said: bytes
) -> None:
    await internet.stranger("a.example", said)
    await failed(internet.client(), "http://a.example/", "cannot be reached, or broke off")
    await failed(internet.client(), "http://none.example/", "cannot be reached, or broke off")


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\n", answer(b"x" * 10)[:-1]])
async def test_a_server_that_stalls_is_given_up(internet: Internet, begin: bytes) -> None:
    async def stall(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        await writer.drain()
        await asyncio.Event().wait()

    await internet.stranger("a.example", stall)
    client = internet.client(timeout_seconds=0.2)
    await failed(client, "http://a.example/", "a.example did not answer within 0.2 s")


async def test_a_server_that_trickles_is_given_up(internet: Internet) -> None:
    async def trickle(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    await internet.stranger("a.example", trickle)
    client = internet.client(timeout_seconds=0.3)
    await failed(client, "http://a.example/", "did not answer within 0.3 s")


async def test_a_name_that_does_not_resolve_in_time_is_given_up(internet: Internet) -> None:
    async def resolve(_: str, __: int) -> list[tuple[str, int]]:
        await asyncio.Event().wait()
        return []

    client = internet.client(timeout_seconds=0.1, resolve=resolve)
    await failed(client, "http://a.example/", "did not answer within 0.1 s")


async def test_a_busy_server_is_told_with_when_to_come_back(internet: Internet) -> None:
    said = answer(b"secrets", "Retry-After: 30", status="429 Too Many Requests")
    await internet.stranger("a.example", said)
    error = await failed(internet.client(), "http://a.example/", "a.example answers 429")
    assert error.retry_after_seconds == 30.0


async def test_what_an_error_says_of_itself_is_not_repeated(internet: Internet) -> None:
    await internet.stranger("a.example", answer(b"secrets", status="404 secrets"))
    error = await refused(internet.client(), "http://a.example/secrets?key=secrets", "answers 404")
    assert (error.status, "secrets" in str(error)) == (404, False)


async def test_a_cancelled_fetch_lets_its_place_go(internet: Internet) -> None:
    here = asyncio.Event()

    async def stall(_: Asked, __: asyncio.StreamWriter) -> None:
        here.set()
        await asyncio.Event().wait()

    await internet.stranger("a.example", stall)
    await internet.stranger("b.example", answer(b"x"))
    client = internet.client()
    for _ in range(20):
        here.clear()
        task = asyncio.create_task(client.fetch("http://a.example/"))
        await here.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await client.fetch("http://b.example/")).content == b"x"


# --- any URL, any answer of a name server --------------------------------------------------------

HOSTS = st.one_of(
    st.ip_addresses().map(lambda a: f"[{a}]" if a.version == 6 else str(a)),
    st.ip_addresses(v=4).map(lambda a: str(int(a))),
    st.ip_addresses(v=4).map(lambda a: hex(int(a))),
    st.ip_addresses(v=4).map(lambda a: ".".join(oct(n).replace("o", "") for n in a.packed)),
    st.sampled_from(["localhost", "127.1", "0", "0x7f.1", "a.example", "x.nip.io", "１２７.1"]),
    st.from_regex(r"[a-z0-9.\-]{1,20}", fullmatch=True),
)
ANSWERS = st.lists(
    st.one_of(
        st.ip_addresses().map(str),
        st.sampled_from(["127.0.0.1", "10.1.1.1", "169.254.169.254", "::1", "::ffff:10.0.0.1",
                         "64:ff9b::7f00:1", "2002:7f00:1::", "8.8.8.8", "2606:4700::1111"]),
    ),
    max_size=3,
)  # fmt: skip


@given(HOSTS, ANSWERS)
@settings(deadline=None, max_examples=150)
def test_no_connection_is_ever_tried_to_what_is_not_public(host: str, found: list[str]) -> None:
    tried: list[str] = []

    async def connect(addr_infos: Any, **_: Any) -> socket.socket:
        tried.extend(info[4][0] for info in addr_infos)
        raise OSError("nobody is there")

    async def resolve(name: str, port: int) -> list[tuple[str, int]]:
        """As the system does: it reads every notation of an address."""
        with suppress(OSError):
            return [(socket.inet_ntoa(socket.inet_aton(name)), port)]
        return [(address, port) for address in found]

    async def fetch() -> None:
        try:
            host_pattern(host)
        except ValueError:
            return
        client = OutboundClient([host], max_bytes=10, timeout_seconds=30.0, resolve=resolve)
        with pytest.raises(PortError):
            await client.fetch(f"http://{host}/")
        await client.close()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", connect)
        asyncio.run(fetch())
    assert all(is_public(address) for address in tried)


# --- the client of the service -------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_the_service_itself_never_asks_this_machine(internet: Internet, host: str) -> None:
    inside = await internet.stranger("inside.example", answer(b"inside"), address=PRIVATE)
    allowed = [f"{host}:{inside.port}"]
    client = client_of(Settings(_env_file=None, fetch_allowed_hosts=allowed), allowed)
    await refused(client, f"http://{host}:{inside.port}/", "not at an address")
    await client.close()
    assert inside.connections == 0
