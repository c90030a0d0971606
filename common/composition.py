"""Opens the adapters that the settings name. An adapter is found by its URL's scheme: the module
`common.adapters.<port>.<scheme>` with a function `connect(url, settings, receiver)`."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import AsyncIterator
from typing import Any

from common.parts import Ports
from common.ports.errors import PermanentError
from common.secrets import without_passwords
from common.settings import Settings
from common.variants import check_variants, own_variant, variants_of


class ConfigurationError(PermanentError):
    """A setting names something that does not exist."""


@contextlib.asynccontextmanager
async def open_ports(settings: Settings, *, receiver: str, own_index: bool) -> AsyncIterator[Ports]:
    """`receiver` names this process in the leases it takes; `own_index` opens the index too.

    Raises ConfigurationError and what the adapters raise at opening (PermanentError).
    """
    check_variants(settings)
    async with contextlib.AsyncExitStack() as stack:

        async def opened(port: str, url: str) -> Any:
            adapter = connect(port, url, settings, receiver)
            stack.push_async_callback(adapter.close)
            return adapter

        # Models are loaded when they are first used, so that those of others cost nothing here.
        embedders = {
            variant.name: await opened("embedder", variant.embedder_url)
            for variant in variants_of(settings)
        }
        yield Ports(
            settings=settings,
            queue=await opened("queue", settings.queue_url),
            registry=await opened("registry", settings.registry_url),
            blobs=await opened("blobs", settings.blobs_url),
            vectors=await opened("vectors", settings.vectors_url),
            embedder=embedders[own_variant(settings).name],
            index=await opened("index", settings.index_url) if own_index else None,
            variants=embedders,
        )


def connect(port: str, url: str, settings: Settings, receiver: str) -> Any:
    """The adapter for `url`; raises ConfigurationError for a scheme nobody knows."""
    scheme, colon, _ = url.partition(":")
    module_name = f"common.adapters.{port}.{scheme.replace('-', '_')}"
    if not colon or not scheme.replace("-", "").isalnum():
        raise ConfigurationError(
            f"BLOOMWEAVER_{port.upper()}_URL={without_passwords(url)!r} is not of the form SCHEME:…"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise ConfigurationError(
            f"BLOOMWEAVER_{port.upper()}_URL={without_passwords(url)!r}: there is no {port} "
            f"adapter {scheme!r}; `bloomweaver settings` lists the known ones"
        ) from None
    return module.connect(url, settings, receiver)
