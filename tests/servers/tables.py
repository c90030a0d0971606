"""Tables for tests, made as everywhere else from their one definition."""

from __future__ import annotations

import secrets

from common.adapters.registry.dynamodb_table import definition
from common.aws.clients import shared_clients


async def create_table() -> str:
    """A new, empty table; its name."""
    name = f"registry-{secrets.token_hex(6)}"
    clients = shared_clients()
    try:
        client = await clients.client("dynamodb")
        await client.create_table(**definition(name))
    finally:
        await clients.release()
    return name
