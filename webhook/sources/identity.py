"""What a delivery is known by when it comes again. Pure.

The names that a delivery is remembered under say what its content is as well as how its sender
calls it: another content under a known id is another delivery. Where a signature is of the body and
not of the id, whoever has seen a delivery could send it again under an id of their own. So such a
delivery is also known by what is signed: its body, and what the signature is of beside it. Not so
where nothing that is signed may tell a text that is changed back from one that is sent again: that
change is not to be lost. Of CloudEvents each is known by itself, however they are put together.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from webhook.signatures import Headers
from webhook.sources.config import GitHubConfig
from webhook.sources.loading import Source
from webhook.sources.mapping import JSON, check_items, headers_decide


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Of a delivery, what is worked and remembered by itself."""

    context: JSON
    """What the source's expressions are asked of."""
    names: tuple[str, ...]
    """Each is enough to know it by; none: it is worked whenever it comes."""


def parts_of(
    source: Source, headers: Headers, body: bytes, context: JSON, delivery_id: str | None
) -> tuple[Part, ...]:
    """Each event of CloudEvents; else the delivery as a whole. Raises Problem (413)."""
    if source.config.format == "cloudevents":
        check_items(source, len(context["payload"]))
        return tuple(_part_of_event(source, context, event) for event in context["payload"])
    names = _known_by(source, headers, delivery_id)
    digest = hashlib.sha256(body).hexdigest()
    return (Part(context=context, names=tuple(_named(source, digest, *name) for name in names)),)


def _part_of_event(source: Source, context: JSON, event: JSON) -> Part:
    digest = hashlib.sha256(json.dumps(event, sort_keys=True).encode()).hexdigest()
    name = _named(source, digest, "event", event["source"], event["id"])
    return Part(context={**context, "payload": [event]}, names=(name,))


def _known_by(source: Source, headers: Headers, delivery_id: str | None) -> list[tuple[str, ...]]:
    by_id: list[tuple[str, ...]] = [] if delivery_id is None else [("id", delivery_id)]
    signed = source.verification.signed_beside_body(headers)
    if headers_decide(source) or not (signed or _body_tells_order(source)):
        return by_id
    # Who is known by the signed id or by the body alone is known under any other name.
    needs_id = bool(signed) and delivery_id not in signed
    return [("signed", *signed), *(by_id if needs_id else [])]


def _body_tells_order(source: Source) -> bool:
    """Whether no two changes are of the same bytes. GitHub's bodies hold commits and times."""
    versions = [rule.source_version for rule in source.config.changes]
    return isinstance(source.config.verify, GitHubConfig) or None not in versions


def _named(source: Source, digest: str, *name: Any) -> str:
    """`digest`: of the content. Another mapping makes other changes of the same."""
    told = json.dumps([source.fingerprint, digest, *name])
    return f"sha256:{hashlib.sha256(told.encode(errors='surrogatepass')).hexdigest()}"
