"""Documents that go the whole way into Chroma, in one process and by `bloomweaver up`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from common.adapters.index.chroma import connect
from common.model import Status
from common.settings import Settings
from tests.acceptance.service import Service
from tests.conformance.test_index import ids
from tests.pipeline import NAMESPACE, pipeline
from tests.servers.chroma import chroma_url

TEXT = """# Lighthouses

The keeper lights the lamp at dusk.

# Ferries

The ferry leaves at nine.
"""


async def test_a_document_is_found_edited_and_deleted(tmp_path: Path) -> None:
    index = connect(chroma_url(), Settings(), "test")
    try:
        async with pipeline(tmp_path) as made:
            made.index = cast("Any", index)
            await made.insert("a.md", TEXT, metadata={"lang": "en"})
            await made.run()
            assert (await made.row("a.md")).status is Status.COMPLETED
            assert await found(made, "The keeper lights the lamp at dusk.") == ["a.md"]
            first = await ids(index)

            await made.insert("a.md", TEXT.replace("nine", "ten"), metadata={"lang": "en"})
            await made.run()
            assert await found(made, "The ferry leaves at ten.") == ["a.md"]
            assert await ids(index) != first

            await made.delete("a.md")
            await made.run()
            assert await found(made, "The ferry leaves at ten.") == []
            assert await ids(index) == set()
    finally:
        await index.close()


async def found(made: Any, query: str) -> list[str]:
    hits = await made.searcher.search(NAMESPACE, query, top_k=1)
    return [hit.document_id for hit in hits]


@pytest.mark.slow
def test_up_serves_documents_out_of_chroma(tmp_path: Path) -> None:
    url = chroma_url()
    service = Service(tmp_path, index_url=url)
    try:
        service.start()
        service.put("a.md", TEXT.encode(), "text/markdown")
        assert searched(service) == ["a.md"]
        assert service.stop() == 0
        assert asyncio.run(held(url)) == ["a.md"]
    finally:
        service.close()


async def held(url: str) -> list[str]:
    """The document of each record that Chroma holds, once."""
    index = connect(url, Settings(), "test")
    try:
        names = [record_id async for record_id in index.list_ids("default")]
        return sorted({record.document_id for record in await index.fetch("default", names)})
    finally:
        await index.close()


def searched(service: Service) -> list[str]:
    """`wait`: for the documents that are behind."""
    body = {"query": "when does the ferry leave", "top_k": 1, "wait": 60}
    hits = service.post("/v1/namespaces/default/search", body)["hits"]
    return [hit["document_id"] for hit in hits]
