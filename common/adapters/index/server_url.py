"""`qdrant:http://HOST:6333?prefix=team-a`: an index server's address, and how we use it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec

from yarl import URL

from common.adapters.index.collection_names import CollectionNames
from common.ports.errors import PermanentError


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """`base` has neither query nor fragment; `options` are the query's parameters but `prefix`."""

    base: URL
    names: CollectionNames
    options: dict[str, str]


def parse_server_url(url: str, *, options: Collection[str] = ()) -> ServerUrl:
    """Raises PermanentError naming what is wrong. `options`: the parameters that are known."""
    scheme, _, address = url.partition(":")
    try:
        parsed = URL(address)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise PermanentError(
            f"BLOOMWEAVER_INDEX_URL must be {scheme}:http://HOST:PORT or {scheme}:https://HOST"
        )
    if parsed.user or parsed.password:
        raise PermanentError("BLOOMWEAVER_INDEX_URL must hold no secret: there is a setting for it")
    given = dict(parsed.query)
    names = CollectionNames(given.pop("prefix")) if "prefix" in given else CollectionNames()
    if unknown := given.keys() - set(options):
        known = ", ".join(["prefix", *options])
        raise PermanentError(
            f"BLOOMWEAVER_INDEX_URL: unknown parameter {sorted(unknown)[0]!r}; known: {known}"
        )
    return ServerUrl(parsed.with_query(None).with_fragment(None), names, given)


def require_library(module: str, extra: str) -> None:
    """Raises PermanentError with the command that installs it; imports nothing."""
    if find_spec(module) is None:
        raise PermanentError(
            f"BLOOMWEAVER_INDEX_URL={extra}:… needs the library {module!r}: "
            f"pip install 'bloomweaver[{extra}]'"
        )
