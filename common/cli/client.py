"""The client as commands use it: with the settings' key, and without patience of its own, since a
person who asks wants to be told."""

from __future__ import annotations

from common.client.async_client import AsyncClient
from common.client.connection import checked_key
from common.client.errors import NotFoundError
from common.client.results import Document


def connect(url: str, key: str | None = None) -> AsyncClient:
    """`key` None: that of the settings (BLOOMWEAVER_API_KEY), if there is one. Raises
    ConfigurationError, WrongUsageError."""
    return AsyncClient(url, api_key=own_key() if key is None else key, retry_seconds=0)


def own_key() -> str:
    """Of the settings; empty: none. Raises ConfigurationError, WrongUsageError."""
    from common.cli.configuration import load_settings

    secret = load_settings({}).api_key
    return checked_key(secret.get_secret_value().strip() if secret else "")


async def find_document(client: AsyncClient, namespace: str, document_id: str) -> Document | None:
    """None if the service knows none of this name."""
    try:
        return await client.document(document_id, namespace=namespace)
    except NotFoundError:
        return None
