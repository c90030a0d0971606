"""LangChain: index() with incremental cleanup and a record manager in SQLite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from langchain_classic.indexes import SQLRecordManager
from langchain_community.embeddings import FastEmbedEmbeddings
from langchain_core.documents import Document
from langchain_core.indexing import index
from langchain_qdrant import QdrantVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter
from qdrant_client.models import Distance, VectorParams

from tests.bench.peers.child_embedding import DIMENSION, NAME
from tests.bench.peers.child_system import COLLECTION, CountingClient

WHOLE = 100_000
"""More chunks than anything here has."""


def splitter(chunk_size: int) -> RecursiveCharacterTextSplitter:
    return RecursiveCharacterTextSplitter(chunk_size=chunk_size, chunk_overlap=0)


def split(text: str, chunk_size: int) -> list[str]:
    """`chunk_size` in characters."""
    return [str(chunk) for chunk in splitter(chunk_size).split_text(text)]


class LangChain:
    """Implements System.

    index() works through chunks in batches of 100 unless it is told otherwise, and cleans up after
    each: of a longer document, a first batch deletes what the second then embeds anew. Its
    documentation advises batches as large as possible, so a run at the best batch size of the model
    gets them; at its defaults it does not.
    """

    def __init__(
        self, folder: Path, client: CountingClient, chunk_size: int, batch: int | None
    ) -> None:
        self._client = client
        self._chunk_size = chunk_size
        self._splitter = splitter(chunk_size)
        own = {} if batch is None else {"batch_size": batch}
        embeddings = FastEmbedEmbeddings(model_name=NAME, **own)
        self._index_options = {} if batch is None else {"batch_size": WHOLE}
        client.create_collection(
            COLLECTION, vectors_config=VectorParams(size=DIMENSION, distance=Distance.COSINE)
        )
        self._store = QdrantVectorStore(client, COLLECTION, embeddings)
        self._records = SQLRecordManager("bench", db_url=f"sqlite:///{folder}/records.sqlite")
        self._records.create_schema()

    def upsert(self, documents: Mapping[str, str]) -> None:
        whole = [
            Document(page_content=content, metadata={"source": name})
            for name, content in documents.items()
        ]
        chunks = self._splitter.split_documents(whole)
        emptied = set(documents) - {chunk.metadata["source"] for chunk in chunks}
        for name in sorted(emptied):  # index() sees no chunk of theirs, and so cleans nothing up
            self.delete(name)
        index(
            chunks,
            self._records,
            self._store,
            cleanup="incremental",
            source_id_key="source",
            **self._index_options,
        )

    def delete(self, document_id: str) -> None:
        """Incremental cleanup leaves documents that are gone alone: the caller looks their records
        up in the record manager and takes them out of the store and of it."""
        keys = self._records.list_keys(group_ids=[document_id])
        if keys:
            self._store.delete(keys)
            self._records.delete_keys(keys)

    def records(self) -> Iterator[tuple[str, str]]:
        for payload in self._client.payloads():
            yield payload["metadata"]["source"], payload["page_content"]

    def split(self, text: str) -> list[str]:
        return split(text, self._chunk_size)

    def close(self) -> None:
        self._client.close()


connect = LangChain
