"""Which URLs are asked for at all, where a redirect may lead, and what an answer means."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from common.outbound_rules import (
    HostList,
    RefusedError,
    TooLargeError,
    host_pattern,
    inflated,
    is_address,
    is_compressed,
    redirected,
    require_success,
    retry_after,
    target_of,
)
from common.ports.errors import TransientError
from common.settings import Settings

NOW = 1_700_000_000.0
HERE = target_of("https://docs.example.com/a/b?c")

ACCEPTED = [
    ("https://docs.example.com/a%2Fb?q=1%26#part", "docs.example.com", 443),
    ("HTTP://Docs.Example.COM:80/", "docs.example.com", 80),
    ("https://docs.example.com:8443/x", "docs.example.com", 8443),
    ("https://bücher.example/", "xn--bcher-kva.example", 443),
    ("https://a_b.example", "a_b.example", 443),
    ("http://8.8.8.8/", "8.8.8.8", 80),
    ("http://[2606:4700:0:0::1]:81/", "2606:4700::1", 81),
    # What some parsers would read as an address is one here, to be judged as such.
    ("http://１２７.０.０.１/", "127.0.0.1", 80),
    ("http://①②⑦.0.0.1/", "127.0.0.1", 80),
]

NOT_ASKED = [
    ("file:///etc/passwd", "must begin with"),
    ("ftp://docs.example.com/", "must begin with"),
    ("gopher://docs.example.com/", "must begin with"),
    ("javascript:alert(1)", "must begin with"),
    ("//docs.example.com/", "must begin with"),
    ("docs.example.com/", "must begin with"),
    ("", "must begin with"),
    ("https://user@docs.example.com/", "user or password"),
    ("https://user:word@docs.example.com/", "user or password"),
    ("https://:word@docs.example.com/", "user or password"),
    ("https:///x", "no host"),
    ("https:docs.example.com", "no host"),
    ("https://docs.example.com./", "no host"),
    ("https://docs..example.com/", "no host"),
    ("https://-docs.example.com/", "no host"),
    ("https://" + "a" * 64 + ".example/", "no host|no URL"),
    ("https://docs.example.com%2f.evil.example/", "no host|no URL"),
    ("https://docs.example.com:0/", "no port"),
    ("https://docs.example.com:99999/", "no URL"),
    ("https://docs.example.com:80:90/", "no URL"),
    ("http://127.1/", "no host"),
    ("http://0x7f000001/", "no host"),
    ("http://0x7f.0.0.1/", "no host"),
    ("http://0177.0.0.1/", "no host"),
    ("http://2130706433/", "no host"),
    ("http://127.0.0.1./", "no host"),
    ("http://127.0.0.0x1/", "no host"),
    ("http://[fe80::1%25eth0]/", "no host"),
    ("http://[::1/", "no URL"),
    ("https://docs.example.com\\@evil.example/", "backslash"),
    ("https://docs.example.com/\r\nHost: evil", "control"),
    ("https://docs.example.com/\tx", "control"),
    ("https://docs.example.com/ x", "blank"),
    (" https://docs.example.com/", "blank"),
    ("https://docs.example.com/\x00", "control"),
    ("https://docs.example.com/\x85", "control"),
    ("https://docs.example.com/" + "x" * 2048, "2048"),
]


@pytest.mark.parametrize(("url", "host", "port"), ACCEPTED)
def test_where_a_url_leads(url: str, host: str, port: int) -> None:
    target = target_of(url)
    assert (target.host, target.port, target.url.fragment) == (host, port, "")


@pytest.mark.parametrize(("url", "why"), NOT_ASKED)
def test_what_is_not_asked_for(url: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        target_of(url)


@given(st.text(max_size=60))
def test_a_host_is_a_name_or_a_canonical_address_whatever_the_text(text: str) -> None:
    for url in (text, f"https://{text}", f"http://{text}/x"):
        try:
            target = target_of(url)
        except RefusedError:
            continue
        last = target.host.rpartition(".")[2]
        assert is_address(target.host) or not (last.isdigit() or last.startswith("0x"))
        assert target.host == target.host.lower()
        assert target.url.user is None
        assert target_of(str(target.url)) == target


# --- allowed hosts -------------------------------------------------------------------------------

ALLOWED = ["docs.example.com", "*.example.org", "cdn.example:8443", "8.8.8.8", "Bücher.example"]


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://docs.example.com/", True),
        ("http://docs.example.com/", True),
        ("https://DOCS.example.com/", True),
        ("https://docs.example.com:8443/", False),
        ("https://docs.example.com:80/", False),
        ("https://x.docs.example.com/", False),
        ("https://docs.example.com.evil.example/", False),
        ("https://evildocs.example.com/", False),
        ("https://a.example.org/", True),
        ("https://b.a.example.org/", True),
        ("https://example.org/", False),
        ("https://evilexample.org/", False),
        ("https://cdn.example:8443/", True),
        ("https://cdn.example/", False),
        ("http://8.8.8.8/", True),
        ("http://8.8.4.4/", False),
        ("https://xn--bcher-kva.example/", True),
    ],
)
def test_which_hosts_are_allowed(url: str, allowed: bool) -> None:
    hosts = HostList(ALLOWED)
    if allowed:
        hosts.require(target_of(url))
        return
    with pytest.raises(RefusedError, match="BLOOMWEAVER_FETCH_ALLOWED_HOSTS"):
        hosts.require(target_of(url))


def test_nothing_is_fetched_unless_a_host_is_allowed() -> None:
    assert Settings(_env_file=None).fetch_allowed_hosts == []
    with pytest.raises(RefusedError, match=r"nothing is fetched.*BLOOMWEAVER_FETCH_ALLOWED_HOSTS"):
        HostList([]).require(HERE)


@pytest.mark.parametrize(
    "entry", ["*", "*.", "", "https://x.example", "x.example/y", "a b", "u@x.example", "*.*.x",
              "x.*", "*.8.8.8.8", "127.1", "x:99999"],
)  # fmt: skip
def test_what_is_no_host_is_refused_at_the_start(entry: str) -> None:
    with pytest.raises(ValueError, match=r"is no host|has no subdomains"):
        host_pattern(entry)
    with pytest.raises(ValueError, match="fetch_allowed_hosts"):
        Settings(_env_file=None, fetch_allowed_hosts=[entry])


def test_no_setting_makes_private_addresses_fetchable() -> None:
    named = {name for name in Settings.model_fields if "fetch" in name}
    assert named == {"fetch_allowed_hosts"}


# --- redirects -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/x", "https://docs.example.com/x"),
        ("x", "https://docs.example.com/a/x"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("https://cdn.example:8443/x#y", "https://cdn.example:8443/x"),
    ],
)
def test_where_a_redirect_leads(location: str, url: str) -> None:
    assert str(redirected(HERE, location).url) == url


@pytest.mark.parametrize(
    "location",
    [None, "", "http://docs.example.com/", "ftp://docs.example.com/", "file:///etc/passwd",
     "https://u:p@docs.example.com/", "http://127.1/", "//[::1", "https://x/\r\nA: b", "data:,x"],
)  # fmt: skip
def test_where_it_may_not_lead(location: str | None) -> None:
    with pytest.raises(RefusedError, match=r"docs\.example\.com redirects"):
        redirected(HERE, location)


def test_a_redirect_may_lead_from_http_to_https() -> None:
    there = redirected(target_of("http://docs.example.com/"), "https://docs.example.com/")
    assert there.url.scheme == "https"


# --- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass(status: int) -> None:
    with pytest.raises(TransientError, match=str(status)) as caught:
        require_success(HERE, status, CIMultiDict({"retry-after": "7"}), NOW)
    assert caught.value.retry_after_seconds == 7.0


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 400, 401, 403, 404, 410, 451])
def test_what_does_not(status: int) -> None:
    with pytest.raises(RefusedError, match=str(status)) as caught:
        require_success(HERE, status, CIMultiDict(), NOW)
    assert caught.value.status == status


def test_a_limit_that_is_told_as_a_403_may_pass() -> None:
    spent = CIMultiDict({"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{int(NOW) + 90}"})
    with pytest.raises(TransientError) as caught:
        require_success(HERE, 403, spent, NOW)
    assert caught.value.retry_after_seconds == 90.0


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("999999999999", 86_400.0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tue, 14 Nov 2000 22:14:20 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("", None),
        ("9" * 400, None),
    ],
)
def test_when_to_come_back(said: str, seconds: float | None) -> None:
    assert retry_after(CIMultiDict({"Retry-After": said}), NOW) == seconds


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "zstd"])
def test_an_encoding_that_was_not_asked_for_is_refused(encoding: str) -> None:
    with pytest.raises(RefusedError, match="encoding"):
        is_compressed(HERE, encoding)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3), st.integers(0, 600))
def test_gzip_is_read_up_to_the_limit_and_no_further(parts: list[bytes], limit: int) -> None:
    whole = b"".join(parts)
    sent = b"".join(gzip.compress(part) for part in parts)
    if len(whole) <= limit:
        assert inflated(HERE, sent, limit) == whole
        return
    with pytest.raises(TooLargeError):
        inflated(HERE, sent, limit)


def test_a_bomb_is_given_up_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    class Counting:
        def __init__(self) -> None:
            self._inner = _decompressobj(wbits=31)

        def decompress(self, data: bytes, most: int) -> bytes:
            nonlocal made
            out = self._inner.decompress(data, most)
            made += len(out)
            return out

    _decompressobj = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", lambda **_: Counting())
    with pytest.raises(TooLargeError):
        inflated(HERE, gzip.compress(bytes(64 * 1024 * 1024)), 1000)
    assert made == 1001


def test_gzip_that_is_none_is_refused_and_half_of_it_may_pass() -> None:
    sent = gzip.compress(b"hello")
    with pytest.raises(RefusedError, match="not the gzip"):
        inflated(HERE, b"hello", 100)
    with pytest.raises(RefusedError, match="not the gzip"):
        inflated(HERE, sent + b"hello", 100)
    with pytest.raises(TransientError, match="breaks off"):
        inflated(HERE, sent[:-3], 100)
    with pytest.raises(TransientError, match="breaks off"):
        inflated(HERE, b"", 100)
