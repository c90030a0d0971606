"""Whatever a verified sender sends, a mapping gives changes that can be accepted, or a Problem."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.settings import Settings
from tests.source_files import DELIVERIES, STANDARD, VARIABLE, source
from webhook.problems import Problem
from webhook.signatures import Headers
from webhook.sources.deliveries import read_delivery
from webhook.sources.expressions import Expression, ExpressionError, Template
from webhook.sources.loading import Source, preset_names
from webhook.sources.mapping import checked, map_delivery
from webhook.sources.yaml_lines import MistakesError, read_yaml

SETTINGS = Settings(_env_file=None)
SECRET = {"secret": f"${{{VARIABLE}}}"}
OWN = source(
    ignore="payload.type == 'ping' || contains(not_null(payload.tags, ''), 'x')",
    items="payload.items[] || payload",
    delivery_id="payload.id",
    changes=[
        {
            "document_id": "{item.id}/{not_null(item.name, 'x')}",
            "content": "join('', [item.text, texts(item.body, 'text')][?@])",
            "content_type": "{not_null(item.type, 'text/plain')}",
            "metadata": {"a": "item.a", "b": "item.b[*].c", "t": "epoch_ms(item.at)"},
            "source_version": "to_number(item.version)",
        },
        {
            "when": "sort(keys(item))[0] == 'gone' && max(item.gone) > `1`",
            "each": "item.gone",
            "change_type": "delete",
            "document_id": "{item}",
            "source_version": "from_hex(item)",
        },
    ],
)


def _presets() -> dict[str, Source]:
    found = {}
    for name in preset_names():
        try:
            found[name] = source(preset=name, verify=SECRET)
        except MistakesError:  # one without a verification of its own
            found[name] = source(preset=name, verify=STANDARD)
    return found


SOURCES = {"own": OWN, **_presets()}

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
names = st.sampled_from(
    [
        "id", "type", "items", "payload", "before", "after", "op", "source", "data", "sys", "entry",
        "fields", "body", "title", "text", "gone", "version", "object", "properties", "event",
        "record", "Records", "s3", "commits", "at", "a", "b", "c", "tags", "name", "content",
    ]
) | st.text(max_size=4)  # fmt: skip
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
    max_leaves=25,
)
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30)
headers = st.dictionaries(
    st.sampled_from(
        [
            "content-type", "webhook-id", "ce-specversion", "ce-id", "ce-source", "ce-type",
            "ce-subject", "x-contentful-topic", "sanity-operation", "sanity-document-id",
            "x-github-event", "x-wp-webhook-name",
        ]
    ),
    st.lists(
        header_values
        | st.sampled_from(
            ["1.0", "application/cloudevents+json", "application/cloudevents-batch+json",
             "application/json", "update", "delete", "push",
             "ContentManagement.Entry.publish", "ContentManagement.Entry.delete"]
        ),
        min_size=1,
        max_size=2,
    ),
)  # fmt: skip
recorded = [path.read_bytes() for path in sorted(DELIVERIES.iterdir())]


def _mapped(of: Source, given_headers: Headers, body: bytes) -> None:
    """Raises nothing but Problem; what comes out of it is what a delivery may make."""
    try:
        delivery = read_delivery(of, given_headers, body)
        assert delivery.id is None or 0 < len(delivery.id.encode()) <= 512
        mapped = map_delivery(of, delivery.context)
        assert len(mapped.changes) <= of.config.max_changes
        found = [*mapped.refused, *checked(mapped, SETTINGS)]
    except Problem as error:
        found = [error]
    for one in found:
        if isinstance(one, Problem):
            assert one.kind.status in (400, 413, 415, 422)
            json.dumps(one.body()).encode()
        else:
            assert one.key.namespace == "docs"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(of=st.sampled_from(sorted(SOURCES)), value=values, given_headers=headers)
@example("own", {"items": [{"id": "\ud800", "text": "x"}]}, {})
@example("own", {"id": float("inf")}, {})
@example("own", {"items": [{"id": 1, "text": "x", "version": "1e400"}]}, {})
@example("own", {"items": [{"gone": ["a", 1]}]}, {})
def test_no_payload_breaks_a_mapping(of: str, value: Any, given_headers: Headers) -> None:
    _mapped(SOURCES[of], given_headers, json.dumps(value).encode())


@settings(deadline=None)
@given(of=st.sampled_from(sorted(SOURCES)), body=st.binary(max_size=200), given_headers=headers)
def test_no_body_breaks_a_mapping(of: str, body: bytes, given_headers: Headers) -> None:
    _mapped(SOURCES[of], given_headers, body)


@settings(deadline=None)
@given(
    of=st.sampled_from(sorted(SOURCES)),
    body=st.sampled_from(recorded),
    place=st.integers(0, 10_000),
    new=st.sampled_from([b"null", b"[]", b"{}", b'""', b"0", b"-1e9", b'"', b"\x00", b"\xff"]),
    given_headers=headers,
)
def test_no_damaged_delivery_breaks_a_mapping(
    of: str, body: bytes, place: int, new: bytes, given_headers: Headers
) -> None:
    at = place % (len(body) + 1)
    _mapped(SOURCES[of], given_headers, body[:at] + new + body[at + 1 :])


@pytest.mark.parametrize("of", sorted(SOURCES))
@pytest.mark.parametrize("opening", ["[", '{"a":', '{"items":', '{"payload":', '{"data":'])
def test_no_depth_breaks_a_mapping(of: str, opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    for depth in (100, 900, 100_000):
        _mapped(SOURCES[of], {}, (opening * depth + "1" + closing * depth).encode())


@given(text=st.text(max_size=40), value=values)
def test_any_text_is_an_expression_or_a_mistake(text: str, value: Any) -> None:
    for kind in (Expression, Template):
        with contextlib.suppress(ExpressionError):
            kind(text).of(value)


@given(text=st.text(max_size=80) | st.text("-:{}[]&*!|> \n'\"a#?%@`<", max_size=60))
def test_any_text_is_yaml_or_a_mistake(text: str) -> None:
    with contextlib.suppress(MistakesError):
        json.dumps(read_yaml(text).value)
