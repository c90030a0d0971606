"""Whether what an installation keeps lies in its data folder or with servers."""

from __future__ import annotations

from common.settings import Settings

__all__ = ["EMBEDDED", "kept_by_servers", "scheme_of"]

EMBEDDED = frozenset({"sqlite", "folder", "qdrant-edge"})
"""Schemes of adapters that keep what they keep in the data folder."""
WHAT_DOCUMENTS_ARE_IN = ("queue", "registry", "blobs", "index")


def scheme_of(settings: Settings, name: str) -> str:
    """Of the URL of a port, `queue` for example."""
    return str(getattr(settings, f"{name}_url")).partition(":")[0]


def kept_by_servers(settings: Settings) -> bool:
    """Queue, registry, blobs and index: any number of processes may then open them at once."""
    return EMBEDDED.isdisjoint(scheme_of(settings, name) for name in WHAT_DOCUMENTS_ARE_IN)
