"""What `bloomweaver sources` shows: the sources, their mistakes, and what a payload would change.

Found by entry point, since the command line imports nothing of the webhook. It asks no service:
everything is told from the file, tokens that wait for their operator excepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.access import Principal
from common.clock import system_clock
from common.composition import connect
from common.door import is_loopback
from common.ports.errors import PermanentError
from common.ports.receipts import Receipts
from common.settings import Settings
from webhook.problems import Problem
from webhook.signatures import Headers, SignatureError
from webhook.sources.arrivals import principal_of_source
from webhook.sources.deliveries import read_delivery
from webhook.sources.directory import process_environment, read_source_file
from webhook.sources.handshake import tokens_of
from webhook.sources.loading import (
    SecretReferences,
    Source,
    load_sources,
    preset_names,
    with_preset,
)
from webhook.sources.mapping import map_delivery
from webhook.sources.remarks import remarks_of
from webhook.sources.yaml_lines import MistakesError
from webhook.validation import change_of

JSON = dict[str, Any]
SHOWN_CHARACTERS = 2000
"""Of each content."""
TRIED_ID = "tried-from-the-command-line"


class NoSuchSourceError(PermanentError):
    """The message names those there are."""


@dataclass(frozen=True, slots=True)
class SourceCommands:
    """Blocking. Methods raise MistakesError for a file that cannot be used."""

    settings: Settings

    def mistakes(self) -> list[str]:
        """One line each; none: the file is fine, or there is none."""
        try:
            self._sources()
        except MistakesError as error:
            return [str(mistake) for mistake in error.mistakes]
        return []

    def remarks(self) -> list[str]:
        """What is no mistake, and may not be meant either; one line each."""
        found = sorted(self._sources().items())
        return [remark for _, source in found for remark in remarks_of(source, self.settings)]

    def presets(self) -> list[JSON]:
        return [
            {"preset": name, "description": with_preset({"preset": name})["description"].strip()}
            for name in preset_names()
        ]

    def sources(self) -> list[JSON]:
        return [_told_of(source) for _, source in sorted(self._sources().items())]

    def attempt(
        self, name: str, body: bytes, headers: Mapping[str, str], *, sign: bool, verify: bool
    ) -> JSON:
        """What a delivery of the body would do. `problem` says what it would be answered with
        instead. Raises NoSuchSourceError."""
        source = self._source(name)
        given = {key.lower(): [value] for key, value in headers.items()}
        told: JSON = {"source": name, "verified": None}
        try:
            if sign:
                signed = source.verification.sign(body, delivery_id=TRIED_ID, now=system_clock())
                given |= {key: [value] for key, value in signed.items()}
            if sign or verify:
                source.verification.verify(given, body, now=system_clock())
                told["verified"] = True
            return {**told, **_mapped(source, given, body, self.settings)}
        except SignatureError as error:
            return {**told, "verified": False, "problem": {"status": 401, "detail": str(error)}}
        except Problem as problem:
            return {**told, "problem": problem.body()}

    def tokens(self, name: str) -> list[str]:
        """That Notion, or somebody else, has sent to a source that waits for one. Raises
        NoSuchSourceError, TransientError and what the receipts raise at opening."""
        self._source(name)
        return asyncio.run(self._kept_tokens(name))

    async def _kept_tokens(self, name: str) -> list[str]:
        url = self.settings.receipts_url
        receipts: Receipts = connect("receipts", url, self.settings, "bloomweaver-sources")
        try:
            async with asyncio.timeout(self.settings.request_timeout_seconds):
                return await tokens_of(receipts, name)
        finally:
            await receipts.close()

    def _source(self, name: str) -> Source:
        sources = self._sources()
        if (source := sources.get(name)) is None:
            known = ", ".join(sorted(sources)) or "none"
            raise NoSuchSourceError(f"there is no source {name!r}; there are: {known}")
        return source

    def _sources(self) -> dict[str, Source]:
        path = self.settings.sources_file
        if not path.exists():
            return {}
        secrets = SecretReferences(process_environment(), path.parent)
        here = is_loopback(self.settings.host)
        on_loopback = here and self.settings.auth != "required"
        return load_sources(read_source_file(path), str(path), secrets, on_loopback=on_loopback)


def _told_of(source: Source) -> JSON:
    config = source.config
    return {
        "name": source.name,
        "address": f"/v1/sources/{source.name}",
        "preset": config.preset,
        "verify": config.verify.kind,
        "namespaces": list(config.reach),
        "stopped": config.stopped,
        "description": config.description.strip(),
    }


def _mapped(source: Source, headers: Headers, body: bytes, settings: Settings) -> JSON:
    """Raises Problem."""
    delivery = read_delivery(source, headers, body)
    mapped = map_delivery(source, delivery.context)
    if mapped.refused and not mapped.changes:
        raise mapped.refused[0]
    principal = principal_of_source(source)
    return {
        "delivery_id": delivery.id,
        "ignored": mapped.ignored,
        "items": mapped.items,
        "unmatched": mapped.unmatched,
        "changes": [
            _checked(change, principal, settings, fetched=index in mapped.files)
            for index, change in enumerate(mapped.changes)
        ],
        "refused": [problem.body() for problem in mapped.refused],
        "warnings": mapped.warnings,
        "to_be_fetched": [asdict(file) for file in mapped.files.values()],
    }


def _checked(change: JSON, principal: Principal, settings: Settings, *, fetched: bool) -> JSON:
    """The change as it would be accepted, or with what is wrong with it. `fetched`: its content
    would be, and is not here."""
    problem: JSON | None = None
    try:
        whole = {**change, "content": ""} if fetched else change
        namespace = change_of(whole, settings).key.namespace
        if not principal.reaches(namespace):
            problem = {"status": 403, "detail": f"namespace {namespace!r} is not the source's"}
    except Problem as error:
        problem = error.body()
    content = change.get("content")
    if isinstance(content, str) and len(content) > SHOWN_CHARACTERS:
        change = {**change, "content": content[:SHOWN_CHARACTERS] + "…"}
    return {**change, "problem": problem} if problem else change
