"""LlamaIndex: IngestionPipeline with the docstore strategy UPSERTS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from llama_index.core import Document
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.utils import metadata_dict_to_node
from llama_index.embeddings.fastembed import FastEmbedEmbedding
from llama_index.vector_stores.qdrant import QdrantVectorStore

from tests.bench.peers.child_embedding import NAME
from tests.bench.peers.child_system import COLLECTION, CountingClient


def splitter(chunk_size: int) -> SentenceSplitter:
    return SentenceSplitter(chunk_size=chunk_size, chunk_overlap=0)


def split(text: str, chunk_size: int) -> list[str]:
    """`chunk_size` in the tokens of its own default tokenizer."""
    nodes = splitter(chunk_size)([Document(text=text)])
    return [node.get_content(MetadataMode.EMBED) for node in nodes]


class LlamaIndex:
    """Implements System.

    The docstore and the cache live in memory and are written to disk by `close` only: writing them
    after each edit, as surviving a crash would take, rewrites all of both each time.

    The cache is on, as by default. Where a document moves it answers with the nodes of the old one,
    which carry the old document's id: those are the stale and missing records of a replay with
    moves. With `disable_cache=True` there are none, and more is embedded.
    """

    def __init__(
        self, folder: Path, client: CountingClient, chunk_size: int, batch: int | None
    ) -> None:
        self._folder = folder
        self._client = client
        self._chunk_size = chunk_size
        own = {} if batch is None else {"embed_batch_size": batch}
        self._store = QdrantVectorStore(client=client, collection_name=COLLECTION)
        self._docstore = SimpleDocumentStore()
        self._pipeline = IngestionPipeline(
            transformations=[splitter(chunk_size), FastEmbedEmbedding(model_name=NAME, **own)],
            vector_store=self._store,
            docstore=self._docstore,
            docstore_strategy=DocstoreStrategy.UPSERTS,
        )

    def upsert(self, documents: Mapping[str, str]) -> None:
        self._pipeline.run(
            documents=[Document(id_=name, text=content) for name, content in documents.items()]
        )

    def delete(self, document_id: str) -> None:
        """What the strategy UPSERTS_AND_DELETE does for a document that is gone."""
        self._docstore.delete_document(document_id, raise_error=False)
        self._store.delete(document_id)

    def records(self) -> Iterator[tuple[str, str]]:
        for payload in self._client.payloads():
            node = metadata_dict_to_node(payload)
            yield str(node.ref_doc_id), node.get_content(MetadataMode.EMBED)

    def split(self, text: str) -> list[str]:
        return split(text, self._chunk_size)

    def close(self) -> None:
        self._pipeline.persist(str(self._folder / "pipeline"))
        self._client.close()


connect = LlamaIndex
