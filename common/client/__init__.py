"""A typed client of the service: `AsyncClient` for asyncio, `Client` for everything else.

    from common.client import Client

    with Client() as client:  # BLOOMWEAVER_URL, BLOOMWEAVER_API_KEY
        client.insert("guide/start.md", "# Start\\n\\nPlug it in.", wait=True)
        for hit in client.search("how do I begin?").hits:
            print(hit.score, hit.document_id, hit.text)

docs/clients.md is the tour; the docstrings of `AsyncClient` are the reference of both.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.client.async_client import AsyncClient
    from common.client.changes import AnyChange, Change, Delete, Insert, Update
    from common.client.errors import (
        ApiError,
        BloomWeaverError,
        ConfigurationError,
        DocumentFailedError,
        NoAnswerInTimeError,
        NotFoundError,
        PreconditionFailedError,
        Problem,
        UnreachableError,
        WaitTimeoutError,
    )
    from common.client.patience import Patience
    from common.client.results import (
        AuditEntry,
        ChangeRefused,
        ChangeResult,
        Chunk,
        Content,
        DeadLetter,
        Document,
        Event,
        Finding,
        Hit,
        ScrubProgress,
        ScrubReport,
        ScrubState,
        SearchAnswer,
        Stats,
        Summary,
    )
    from common.client.sync_client import Client
    from common.model import Status
    from common.transitions import Outcome

_HOMES = {
    "async_client": ("AsyncClient",),
    "changes": ("AnyChange", "Change", "Delete", "Insert", "Update"),
    "errors": (
        "ApiError", "BloomWeaverError", "ConfigurationError", "DocumentFailedError",
        "NoAnswerInTimeError", "NotFoundError", "PreconditionFailedError", "Problem",
        "UnreachableError", "WaitTimeoutError",
    ),
    "patience": ("Patience",),
    "results": (
        "AuditEntry", "Chunk", "Content", "DeadLetter", "Document", "Event", "Finding", "Hit",
        "Outcome", "ChangeRefused", "ChangeResult", "ScrubProgress", "ScrubReport", "ScrubState",
        "SearchAnswer", "Stats", "Status", "Summary",
    ),
    "sync_client": ("Client",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AnyChange",
    "ApiError",
    "AsyncClient",
    "AuditEntry",
    "BloomWeaverError",
    "Change",
    "ChangeRefused",
    "ChangeResult",
    "Chunk",
    "Client",
    "ConfigurationError",
    "Content",
    "DeadLetter",
    "Delete",
    "Document",
    "DocumentFailedError",
    "Event",
    "Finding",
    "Hit",
    "Insert",
    "NoAnswerInTimeError",
    "NotFoundError",
    "Outcome",
    "Patience",
    "PreconditionFailedError",
    "Problem",
    "ScrubProgress",
    "ScrubReport",
    "ScrubState",
    "SearchAnswer",
    "Stats",
    "Status",
    "Summary",
    "UnreachableError",
    "Update",
    "WaitTimeoutError",
]


def __getattr__(name: str) -> object:
    """Loaded when it is asked for: who only catches errors does not pay for HTTP."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
