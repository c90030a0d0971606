"""What a push has to send: local files against the documents the service has."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Generator
from dataclasses import dataclass, field

from common.cli.files import LocalFile, Scan
from common.cli.problems import JSON, WrongUsageError
from common.cli.sending import Line
from common.client.async_client import AsyncClient
from common.client.changes import encoded
from common.client.results import Summary
from common.client.waiting import shared_prefix
from common.extraction.content_types import is_text
from common.model import Status

Metadata = dict[str, str]


@dataclass(slots=True)
class Plan:
    """Files to add and to change, documents to delete; `same` stays as it is."""

    namespace: str
    metadata: Metadata | None = None
    add: list[LocalFile] = field(default_factory=list)
    change: list[LocalFile] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    same: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    """Document ids, and why their file could not be read."""

    def __len__(self) -> int:
        return len(self.add) + len(self.change) + len(self.delete)

    def lines(self) -> Generator[Line, None, None]:
        """The changes. Files are read as they are sent. Deletions come last, so that a renamed
        document is never without either name."""
        steps: list[LocalFile | str] = [*self.add, *self.change, *self.delete]
        for number, step in enumerate(steps, 1):
            if isinstance(step, str):
                yield Line(number, step, encoded(deletion(self.namespace, step)))
                continue
            kind = "insert" if number <= len(self.add) else "update"
            try:
                payload = encoded(self._upload(step, kind))
            except OSError as error:
                self.unreadable[step.document_id] = error.strerror or str(error)
            else:
                yield Line(number, step.document_id, payload)

    def _upload(self, file: LocalFile, kind: str) -> JSON:
        change: JSON = {
            "change_type": kind,
            "namespace": self.namespace,
            "document_id": file.document_id,
            "content_type": file.content_type,
            **content_members(file.path.read_bytes(), file.content_type),
        }
        # Without metadata an update keeps what others, an editor say, gave the document.
        if self.metadata is not None:
            change["metadata"] = self.metadata
        return change

    def as_json(self) -> JSON:
        return {
            "namespace": self.namespace,
            "add": [file.document_id for file in self.add],
            "change": [file.document_id for file in self.change],
            "delete": self.delete,
            "unchanged": self.same,
        }


def deletion(namespace: str, document_id: str) -> JSON:
    return {"change_type": "delete", "namespace": namespace, "document_id": document_id}


def content_members(raw: bytes, content_type: str) -> JSON:
    """The bytes as members of a change, unaltered. What should be text and is not UTF-8 is
    sent as it is too: the service knows what to say about it."""
    if is_text(content_type):
        try:
            return {"content": raw.decode("utf-8")}
        except UnicodeDecodeError:
            pass
    return {"content": base64.b64encode(raw).decode("ascii"), "content_encoding": "base64"}


async def make_plan(
    client: AsyncClient,
    found: Scan,
    *,
    namespace: str,
    prefix: str = "",
    metadata: Metadata | None = None,
    delete_missing: bool = False,
) -> Plan:
    """Compare by SHA-256, so that only what changed is sent."""
    plan = Plan(namespace, metadata, unreadable=dict(found.unnameable))
    covering = prefix if delete_missing else shared_prefix(found.files)
    known = await _known(client, namespace, covering) if found.files or delete_missing else {}
    for file in found.files.values():
        row = known.get(file.document_id)
        try:
            same = row is not None and await _is_same(file, row, metadata)
        except OSError as error:
            plan.unreadable[file.document_id] = error.strerror or str(error)
            continue
        if same:
            plan.same += 1
        elif row is None:
            plan.add.append(file)
        else:
            plan.change.append(file)
    if delete_missing:
        # A file of unknown type is there all the same: its document is not missing.
        present = found.files.keys() | found.unsupported.keys()
        plan.delete = sorted(known.keys() - present)
    return plan


async def _known(client: AsyncClient, namespace: str, prefix: str) -> dict[str, Summary]:
    """The living documents; a tombstone has no content hash."""
    return {
        row.document_id: row
        async for row in client.documents(namespace=namespace, prefix=prefix)
        if row.status != Status.DELETED and row.content_hash
    }


async def _is_same(file: LocalFile, row: Summary, metadata: Metadata | None) -> bool:
    if row.status == Status.FAILED or row.content_type not in ("", file.content_type):
        return False
    if metadata is not None and row.metadata != metadata:
        return False
    return bool(row.content_hash == await asyncio.to_thread(file.sha256))


def parse_metadata(pairs: list[str]) -> Metadata | None:
    """`k=v` pairs; None when there are none. Raises WrongUsageError."""
    parsed: Metadata = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise WrongUsageError(f"--metadata takes key=value, not {pair!r}")
        parsed[name] = value
    return parsed or None
