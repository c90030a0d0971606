"""Scrubs: the index compared with the registry and the packs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypeAliasType

from common.api.base import Answer, Body
from common.api.problems import Problem
from common.scrubbing import FINDINGS_KEPT, FindingKind


class ScrubRequest(Body):
    """What to compare, and whether to mend it."""

    repair: bool | None = Field(None, description="Otherwise the scrub only reports.")
    namespace: str | None = Field(None, description="All of them if left out.")


class Finding(Answer):
    """What is wrong with one document; `document_id` is empty where none can be told."""

    namespace: str
    document_id: str
    kind: FindingKind
    detail: str
    record_count: int = Field(description="How many records it is about.")
    repairable: bool
    repaired: bool = Field(description="The repair is done, or on its way.")


class ScrubReport(Answer):
    """What a scrub found. `started_at` is seconds since the epoch."""

    started_at: float
    took_seconds: float
    repair: bool
    namespaces: list[str]
    documents_checked: int
    documents_in_motion: int = Field(description="Changed at every look, which is no finding.")
    records_checked: int
    findings: Annotated[list[Finding], Field(max_length=FINDINGS_KEPT)]
    findings_total: int
    repaired_total: int
    counts: dict[str, int] = Field(description="All findings by kind.")
    remaining: dict[str, int] = Field(description="Those that are not repaired, by kind.")
    clean: bool = Field(description="Nothing is left unrepaired.")


class LastScrub(Answer):
    """`report` is null before there was a scrub."""

    running: bool
    report: ScrubReport | None


class ScrubCounts(Answer):
    """So far. `documents_total` is what the registry counted at the start."""

    namespace: str
    documents_checked: int
    documents_total: int
    findings_total: int


class ScrubProgress(Answer):
    """A line while a scrub goes on."""

    progress: ScrubCounts | None


class ScrubEnded(Answer):
    """The last line of a scrub."""

    report: ScrubReport


class ScrubFailed(Answer):
    """The last line of a scrub that did not come to its end."""

    error: Problem


ScrubLine = TypeAliasType("ScrubLine", ScrubProgress | ScrubEnded | ScrubFailed)
