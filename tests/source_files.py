"""Sources as a file would name them, and recorded deliveries, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from common.settings import Settings
from webhook.accept import Change
from webhook.problems import Problem
from webhook.signatures import Headers
from webhook.sources.deliveries import Delivery, read_delivery
from webhook.sources.loading import SecretReferences, Source, load_sources
from webhook.sources.mapping import Mapped, checked

DELIVERIES = Path(__file__).parent / "data" / "sources"
SECRET = "c2VjcmV0LW9mLWEtc291cmNlLWluLXRlc3Rz"  # base64, as Standard Webhooks needs it
VARIABLE = "BLOOMWEAVER_SOURCE_X_SECRET"
STANDARD = {"kind": "standard-webhooks", "secret": f"${{{VARIABLE}}}"}
RULE = {"document_id": "{item.id}", "content": "item.text"}


def secrets(**more: str) -> SecretReferences:
    return SecretReferences({VARIABLE: SECRET, **more}, Path("/nonexistent"))


def loaded(text: str, *, on_loopback: bool = False, **environment: str) -> dict[str, Source]:
    return load_sources(text, "sources.yaml", secrets(**environment), on_loopback=on_loopback)


def source(name: str = "x", *, on_loopback: bool = False, **fields: Any) -> Source:
    """Bound to the namespace `docs`; one rule that inserts, unless `fields` say otherwise."""
    reach = {} if "namespaces" in fields else {"namespace": "docs"}
    rules = {} if "preset" in fields else {"changes": [RULE]}
    given = {"verify": STANDARD, **reach, **rules, **fields}
    text = yaml.safe_dump({"sources": {name: given}})
    return loaded(text, on_loopback=on_loopback)[name]


def recorded(name: str) -> bytes:
    return (DELIVERIES / name).read_bytes()


def delivered(of: Source, body: bytes, **headers: str) -> Delivery:
    """Underscores in the names of headers stand for dashes."""
    return read_delivery(of, headers_of(**headers), body)


def headers_of(**headers: str) -> Headers:
    return {name.replace("_", "-").lower(): [value] for name, value in headers.items()}


def validated(mapped: Mapped, limits: Settings) -> list[Change]:
    """Of a delivery in which nothing is wrong. Raises the first Problem."""
    found = [*mapped.refused, *checked(mapped, limits)]
    for problem in found:
        if isinstance(problem, Problem):
            raise problem
    return [change for change in found if isinstance(change, Change)]
