"""The ready-made mappings, each with deliveries as its sender makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from common.settings import Settings
from tests.source_files import (
    DELIVERIES,
    STANDARD,
    VARIABLE,
    delivered,
    recorded,
    source,
    validated,
)
from webhook.accept import Change
from webhook.problems import Problem
from webhook.sources.expressions import Expression
from webhook.sources.loading import Source, preset_names
from webhook.sources.mapping import Mapped, checked, map_delivery

EVENTS = Path(__file__).parents[1] / "events"
BUCKET_HOST = "example-docs.s3.eu-central-1.amazonaws.com"
SETTINGS = Settings(_env_file=None, fetch_allowed_hosts=[BUCKET_HOST, "cdn.example.test"])
SECRET = {"secret": f"${{{VARIABLE}}}"}
OWN_VERIFICATION = {"contentful", "sanity", "strapi", "wordpress", "notion", "github-push"}

Told = tuple[str | None, list[dict[str, Any]]]
"""The delivery's id and its changes."""


def told(
    preset: str,
    file: str,
    parameters: dict[str, Any] | None = None,
    verify: dict[str, Any] | None = None,
    **headers: str,
) -> Told:
    """Every change is one that would be accepted."""
    verify = verify or (SECRET if preset in OWN_VERIFICATION else STANDARD)
    made = source(preset=preset, verify=verify, parameters=parameters or {})
    delivery = delivered(made, recorded(file), **headers)
    mapped = map_delivery(made, delivery.context)
    assert len(validated(mapped, SETTINGS)) == len(mapped.changes)
    return delivery.id, [_in_short(change) for change in mapped.changes]


def _in_short(change: dict[str, Any]) -> dict[str, Any]:
    assert change.pop("namespace") == "docs"
    kind, name = change.pop("change_type"), change.pop("document_id")
    return {kind: name, **change}


def test_every_preset_has_a_recorded_delivery_here() -> None:
    prefixes = {path.name.partition("-")[0] for path in DELIVERIES.iterdir()}
    assert {name.partition("-")[0] for name in preset_names()} == prefixes


# --- CloudEvents ---------------------------------------------------------------------------------


def test_a_structured_cloud_event() -> None:
    delivery_id, changes = told(
        "cloudevents",
        "cloudevents-structured.json",
        content_type="application/cloudevents+json; charset=utf-8",
    )
    event_id = "b71d2a04-4f0e-4c39-9d2e-5a1f0c6e7b10"
    assert delivery_id == f'[["https://wiki.example.test/spaces/eng", "{event_id}"]]'
    assert changes == [
        {
            "insert": "https://wiki.example.test/spaces/eng#eng/on-call",
            "content": "# On call\n\nThe pager is handed over on Mondays at ten.",
            "content_type": "text/markdown",
            "metadata": {
                "event_type": "test.example.wiki.page.updated",
                "event_source": "https://wiki.example.test/spaces/eng",
            },
        }
    ]


def test_a_batch_of_cloud_events() -> None:
    delivery_id, changes = told(
        "cloudevents",
        "cloudevents-batch.json",
        content_type="application/cloudevents-batch+json",
    )
    assert delivery_id == '[["/wiki", "1"], ["/wiki", "2"], ["/wiki", "3"]]'
    metadata = {"event_type": "test.example.wiki.page.created", "event_source": "/wiki"}
    assert changes == [
        {
            "insert": "/wiki#a", "content": "The first page.", "content_type": "text/markdown",
            "metadata": metadata,
        },
        {
            "insert": "/wiki#b.md", "content": "IyBCCgpUaGUgc2Vjb25kIHBhZ2Uu",
            "content_encoding": "base64", "content_type": "text/markdown", "metadata": metadata,
        },
        {"delete": "/wiki#c"},
    ]  # fmt: skip


def test_a_binary_cloud_event_is_headers_and_a_body() -> None:
    delivery_id, changes = told(
        "cloudevents",
        "cloudevents-binary.md",
        verify={"kind": "token", **SECRET},
        content_type="text/markdown",
        ce_specversion="1.0",
        ce_id="42",
        ce_source="/runbooks",
        ce_type="test.example.runbook.saved",
        ce_subject="Warteschlange%20%C3%BC.md",
    )
    assert delivery_id == '[["/runbooks", "42"]]'
    (change,) = changes
    assert change["insert"] == "/runbooks#Warteschlange ü.md"
    assert change["content"] == recorded("cloudevents-binary.md").decode()


def test_a_binary_cloud_event_is_none_where_its_headers_are_not_signed() -> None:
    event: Any = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/s", "ce_type": "t.deleted"}
    with pytest.raises(Problem, match="trust_unsigned_headers") as refused:
        told("cloudevents", "cloudevents-binary.md", ce_subject="a", **event)
    assert refused.value.kind.status == 422
    trusting = source(preset="cloudevents", verify=STANDARD, trust_unsigned_headers=True)
    context = delivered(trusting, b"", ce_subject="a", **event).parts[0].context
    assert map_delivery(trusting, context).changes == [
        {"change_type": "delete", "namespace": "docs", "document_id": "/s#a"}
    ]


def cloud_event(made: Source, **attributes: Any) -> str:
    """The document that it names."""
    event = {"specversion": "1.0", "id": "1", "type": "t.saved", **attributes}
    body = json.dumps(event).encode()
    delivery = delivered(made, body, content_type="application/cloudevents+json")
    (change,) = map_delivery(made, delivery.parts[0].context).changes
    return str(change["document_id"])


def test_two_sources_of_cloud_events_may_use_the_same_subject() -> None:
    made, page = source(preset="cloudevents"), {"subject": "7", "data": "Text"}
    names = {cloud_event(made, source=name, **page) for name in ("/tickets", "/wiki")}
    assert names == {"/tickets#7", "/wiki#7"}
    binary = {"subject": "7", "data_base64": "VGV4dA==", "source": "/wiki"}
    assert cloud_event(made, **binary) == "/wiki#7"
    assert cloud_event(made, source="/wiki", data={"id": 7, "content": "Text"}) == "/wiki#7"
    alone = source(preset="cloudevents", parameters={"with_source": False})
    assert {cloud_event(alone, **one) for one in (page | {"source": "/a"}, binary)} == {"7"}


# --- databases -----------------------------------------------------------------------------------


def test_debezium_creates_with_schema() -> None:
    _, changes = told("debezium", "debezium-create-with-schema.json")
    assert changes == [
        {
            "insert": "kb/public/articles/1007",
            "content": "Refunds take five working days.",
            "content_type": "text/markdown",
            "metadata": {"table": "articles", "schema": "public"},
            "source_version": 34837776,
        }
    ]


def test_debezium_updates_without_schema() -> None:
    _, (change,) = told("debezium", "debezium-update.json")
    assert change["insert"] == "kb/articles/1007"
    assert change["content"] == "Refunds take three working days."
    assert change["metadata"] == {"table": "articles", "schema": "kb"}
    assert change["source_version"] == 1772435790204155671


def test_debezium_deletes_after_what_it_deletes() -> None:
    _, changes = told("debezium", "debezium-delete-with-schema.json")
    assert changes == [{"delete": "kb/public/articles/1007", "source_version": 34901224}]


def test_debezium_snapshots_and_what_is_no_row() -> None:
    _, changes = told("debezium", "debezium-snapshot-batch.json")
    assert [(c["insert"], c["content"]) for c in changes] == [
        ("kb/public/articles/1", "One."),
        ("kb/public/articles/2", "Two."),
    ]


@pytest.mark.parametrize("body", [b"", b"null", recorded("debezium-tombstone-with-schema.json")])
def test_debezium_tombstones_change_nothing(body: bytes) -> None:
    made = source(preset="debezium")
    assert map_delivery(made, delivered(made, body).context).changes == []


def debezium(file: str, content: Any, **parameters: Any) -> Mapped:
    """The recorded row with another content; `...`: without the column."""
    event = json.loads(recorded(file))
    row = event.get("payload", event)["after"]
    row["content"] = content
    if content is ...:
        del row["content"]
    made = source(preset="debezium", parameters=parameters)
    return map_delivery(made, delivered(made, json.dumps(event).encode()).context)


ROWS = ("debezium-create-with-schema.json", "debezium-update.json")
NAMES = dict(zip(ROWS, ("kb/public/articles/1007", "kb/articles/1007"), strict=True))


@pytest.mark.parametrize("file", ROWS)
def test_debezium_rows_without_content_are_deleted_or_left_alone(file: str) -> None:
    (change,) = debezium(file, None).changes
    assert (change["change_type"], change["document_id"]) == ("delete", NAMES[file])
    assert change["source_version"] == debezium(file, "x").changes[0]["source_version"]
    ignored = debezium(file, None, null_content="ignore")
    assert (ignored.changes, ignored.unmatched) == ([], 1)
    (change,) = debezium(file, "").changes
    assert (change["change_type"], change["content"]) == ("insert", "")


@pytest.mark.parametrize("file", ROWS)
def test_a_debezium_column_that_is_not_there_is_a_mistake_and_deletes_nothing(file: str) -> None:
    (problem,) = checked(debezium(file, ...), SETTINGS)
    assert isinstance(problem, Problem)
    assert problem.field == "changes[0].content"


def test_debezium_values_that_postgres_leaves_out_overwrite_nothing() -> None:
    created, updated = (debezium(file, "__debezium_unavailable_value") for file in ROWS)
    assert (updated.changes, updated.unmatched, updated.warnings) == ([], 1, [])
    assert created.changes == []
    (warning,) = created.warnings
    assert warning.startswith("the new row kb/public/articles/1007 came without its content")
    assert debezium(ROWS[1], "n/a", unavailable="n/a").changes == []


def test_a_debezium_row_that_does_not_fit_is_no_fault_of_its_neighbours() -> None:
    batch = [json.loads(recorded(file)) for file in ROWS]
    batch[0]["payload"]["after"]["content"] = 7
    made = source(preset="debezium")
    found = map_delivery(made, delivered(made, json.dumps(batch).encode()).context)
    wrong, right = checked(found, SETTINGS)
    assert isinstance(wrong, Problem)
    assert isinstance(right, Change)


def test_debezium_rows_are_told_apart_by_database_and_schema() -> None:
    event = json.loads(recorded("debezium-create-with-schema.json"))
    made, names = source(preset="debezium"), set()
    for operation in ("c", "d"):
        for where in ({"db": "a"}, {"db": "b"}, {"schema": "s"}, {"db": None, "schema": None}):
            told = {**event["payload"], "op": operation, "before": event["payload"]["after"]}
            told["source"] = told["source"] | where
            delivery = delivered(made, json.dumps(told).encode())
            (change,) = map_delivery(made, delivery.context).changes
            names.add(change["document_id"])
    assert names == {
        "a/public/articles/1007", "b/public/articles/1007", "kb/s/articles/1007", "articles/1007",
    }  # fmt: skip


def test_debezium_columns_by_other_names() -> None:
    _, (change,) = told("debezium", "debezium-update.json", {"content": "title"})
    assert change["content"] == "Refunds"


def test_airbyte_records() -> None:
    _, changes = told("airbyte", "airbyte-records.ndjson", content_type="application/x-ndjson")
    assert changes == [
        {
            "insert": "public/articles/7", "content": "How to reset a password.",
            "content_type": "text/markdown", "metadata": {"stream": "articles"},
        },
        {"delete": "public/articles/8", "source_version": 34837776},
    ]  # fmt: skip
    without = recorded("airbyte-records.ndjson").replace(b'"namespace":"public",', b"")
    made = source(preset="airbyte")
    found = map_delivery(made, delivered(made, without).context).changes
    assert [change["document_id"] for change in found] == ["articles/7", "articles/8"]


# --- content management --------------------------------------------------------------------------


def test_contentful_publishes() -> None:
    delivery_id, changes = told(
        "contentful",
        "contentful-publish.json",
        content_type="application/vnd.contentful.management.v1+json",
        x_contentful_topic="ContentManagement.Entry.publish",
        x_contentful_idempotency_key="0f9a",
    )
    assert delivery_id == "0f9a"
    assert changes == [
        {
            "insert": "master/5gRf0exampleEntry",
            "content": "Changing your plan\n\nBefore you begin\nA plan changes at once.",
            "content_type": "text/markdown",
            "metadata": {
                "title": "Changing your plan", "content_model": "helpArticle", "locale": "en-US"
            },
            "source_version": 1772439330417,
        }
    ]  # fmt: skip


def test_contentful_unpublishes_and_deletes() -> None:
    for action in ("unpublish", "delete"):
        topic = f"ContentManagement.Entry.{action}"
        _, changes = told("contentful", "contentful-unpublish.json", x_contentful_topic=topic)
        version = 1772532000000
        assert changes == [{"delete": "master/5gRf0exampleEntry", "source_version": version}]


@pytest.mark.parametrize("topic", ["Entry.auto_save", "Entry.save", "Asset.publish"])
def test_contentful_saves_change_nothing(topic: str) -> None:
    topic = f"ContentManagement.{topic}"
    assert told("contentful", "contentful-publish.json", x_contentful_topic=topic)[1] == []


SANITY_ID = "3c1f2e7a-0000-4a6b-9b1d-0d3a7a1b2c3d"


def test_sanity_updates() -> None:
    delivery_id, changes = told(
        "sanity",
        "sanity-update.json",
        # Not signed, and not looked at.
        sanity_operation="delete",
        sanity_document_id="another",
        sanity_transaction_time="2036-03-02T08:15:30.112Z",
        idempotency_key="a-key",
    )
    assert delivery_id == "a-key"
    assert changes == [
        {
            "insert": SANITY_ID,
            "content": "Opening hours\n\nWe are open every day.\nOn holidays from ten.",
            "content_type": "text/markdown",
            "metadata": {"title": "Opening hours", "document_type": "article"},
            "source_version": 1772439330112,
        }
    ]


def test_sanity_deletes_and_its_drafts() -> None:
    made = source(preset="sanity", verify=SECRET)
    gone = {"_id": SANITY_ID, "operation": "delete"}
    deleted = {"change_type": "delete", "namespace": "docs", "document_id": SANITY_ID}

    def mapped(payload: Any) -> Mapped:
        return map_delivery(made, delivered(made, json.dumps(payload).encode()).context)

    assert mapped(gone).changes == [deleted]
    timed = gone | {"transaction_time": "2026-03-02T08:15:30.112Z"}
    assert mapped(timed).changes == [deleted | {"source_version": 1772439330112}]
    assert mapped(gone | {"_id": f"drafts.{SANITY_ID}"}).ignored


@pytest.mark.parametrize("payload", [b"null", b'{"_id": "a"}', b'{"_id": "a", "operation": 1}'])
def test_sanitys_unsigned_headers_decide_only_where_the_source_says_so(payload: bytes) -> None:
    headers = {"sanity_operation": "delete", "sanity_document_id": "a"}
    made = source(preset="sanity", verify=SECRET)
    with pytest.raises(Problem, match="delta::operation"):
        map_delivery(made, delivered(made, payload, **headers).context)
    trusting = source(preset="sanity", verify=SECRET, trust_unsigned_headers=True)
    context = delivered(trusting, payload.replace(b', "operation": 1', b""), **headers).context
    (change,) = map_delivery(trusting, context).changes
    assert (change["change_type"], change["document_id"]) == ("delete", "a")
    token = {"kind": "token", **SECRET}
    known = source(preset="sanity", verify=token)
    assert map_delivery(known, delivered(known, b"null", **headers).context).changes


def test_strapi_publishes_and_drafts_stay_where_they_are() -> None:
    assert told("strapi", "strapi-publish.json")[1] == [
        {
            "insert": "article/q7w3exampledocument0001/en",
            "content": "Opening hours\n\nWe are open every day.",
            "content_type": "text/markdown",
            "metadata": {"title": "Opening hours", "model": "article", "locale": "en"},
            "source_version": 1772439330612,
        }
    ]
    assert told("strapi", "strapi-draft.json")[1] == []


def test_strapi_4_deletes() -> None:
    deleted = {"delete": "article/12/any", "source_version": 1772442000000}
    assert told("strapi", "strapi-4-delete.json")[1] == [deleted]


def test_wordpress_publishes_as_a_plugin_sends_it() -> None:
    assert told("wordpress", "wordpress-plugin-post.json")[1] == [
        {
            "insert": "post/73",
            "content": "<h1>Closed on Friday</h1><!-- wp:paragraph -->\n"
            "<p>The office is closed on Friday.</p>\n<!-- /wp:paragraph -->",
            "content_type": "text/html",
            "metadata": {
                "title": "Closed on Friday", "url": "https://blog.example.test/?p=73",
                "slug": "closed-on-friday",
            },
        }
    ]  # fmt: skip


def test_wordpress_takes_away_what_is_trashed_or_deleted() -> None:
    assert told("wordpress", "wordpress-rest-trashed.json")[1] == [{"delete": "post/73"}]
    _, changes = told("wordpress", "wordpress-plugin-post.json", x_wp_webhook_name="post_delete")
    assert changes == [{"delete": "post/73"}]


@pytest.mark.parametrize(
    "hidden",
    [{"post_status": "draft"}, {"post_status": "private"}, {"post_status": "pending"},
     {"post_status": "future"}, {"post_status": "trash"}, {"post_password": "word"}],
)  # fmt: skip
def test_wordpress_posts_that_not_everybody_may_read_are_deleted(hidden: dict[str, str]) -> None:
    plugin = json.loads(recorded("wordpress-plugin-post.json"))
    plugin["post"] |= hidden
    made = source(preset="wordpress", verify=SECRET)
    delivery = delivered(made, json.dumps(plugin).encode())
    (change,) = map_delivery(made, delivery.context).changes
    assert (change["change_type"], change["document_id"]) == ("delete", "post/73")


@pytest.mark.parametrize(
    "hidden",
    [{"status": "draft"}, {"status": "private"}, {"password": "word"},
     {"content": {"rendered": "", "protected": True}}],
)  # fmt: skip
def test_wordpress_posts_of_the_rest_api_that_not_everybody_may_read(
    hidden: dict[str, Any],
) -> None:
    post = json.loads(recorded("wordpress-rest-trashed.json")) | {"status": "publish"}
    made = source(preset="wordpress", verify=SECRET)
    kinds = []
    for body in (post, post | hidden):
        delivery = delivered(made, json.dumps(body).encode())
        (change,) = map_delivery(made, delivery.context).changes
        kinds.append((change["change_type"], change["document_id"]))
    assert kinds == [("insert", "post/73"), ("delete", "post/73")]


def wordpress(payload: Any, **headers: str) -> Mapped:
    made = source(preset="wordpress", verify=SECRET)
    return map_delivery(made, delivered(made, json.dumps(payload).encode(), **headers).context)


def gone(mapped: Mapped) -> list[str]:
    assert {change["change_type"] for change in mapped.changes} <= {"delete"}
    return [change["document_id"] for change in mapped.changes]


@pytest.mark.parametrize(
    "other",
    [
        {"id": 73, "name": "Ada", "slug": "ada"},
        {"id": 73, "taxonomy": "category", "name": "News"},
        {"ID": 73, "data": {"user_login": "ada", "user_status": "0"}, "roles": ["editor"]},
        {"post_id": 73, "post": {"ID": 73, "post_title": "Closed", "post_content": "<p>…</p>"}},
        {"id": 73, "status": "completed", "total": "9.00", "line_items": []},
    ],
)
def test_what_wordpress_tells_without_a_posts_status_changes_nothing(other: Any) -> None:
    """Users, categories and orders are numbered as posts are."""
    found = wordpress(other, x_wp_webhook_name="user_update")
    assert (found.changes, found.refused) == ([], [])
    assert "says no status" in found.warnings[0]


@pytest.mark.parametrize(
    ("payload", "documents"),
    [
        ({"post_id": 9, "post": {"ID": 9, "post_type": "page"}}, ["page/9"]),
        ({"id": 9, "type": "page", "status": "publish"}, ["page/9"]),
        ({"id": 9, "type": "post"}, ["post/9"]),
        ({"post_id": 9, "post": False}, ["post/9", "page/9"]),
        ({"ID": 9}, ["post/9", "page/9"]),
    ],
)
def test_wordpress_deletes_of_the_type_that_is_told(payload: Any, documents: list[str]) -> None:
    """Where none is told, what has the number: posts and pages have no number in common."""
    found = wordpress(payload, x_wp_webhook_name="post_delete")
    assert (gone(found), found.warnings) == (documents, [])


def test_wordpress_drafts_of_an_unknown_type_are_deleted_as_either() -> None:
    assert gone(wordpress({"ID": 9, "post_status": "draft"})) == ["post/9", "page/9"]
    assert gone(wordpress({"ID": 9, "post_status": "draft", "post_type": "page"})) == ["page/9"]


def refusal(mapped: Mapped) -> str:
    """Of a delivery of which nothing is left."""
    assert mapped.changes == []
    (problem,) = mapped.refused
    assert (problem.kind.status, problem.field) == (422, "rules[0].refuse[0]")
    return problem.detail


def text_of(mapped: Mapped) -> str:
    assert mapped.refused == []
    (change,) = mapped.changes
    assert change["change_type"] == "insert"
    return str(change["content"])


def test_a_published_wordpress_post_without_its_content_is_not_emptied() -> None:
    plugin = json.loads(recorded("wordpress-plugin-post.json"))
    plugin["post"]["post_content"] = ""
    assert text_of(wordpress(plugin)) == "<h1>Closed on Friday</h1>"
    del plugin["post"]["post_content"]
    made = source(preset="wordpress", verify=SECRET)
    found = map_delivery(made, delivered(made, json.dumps(plugin).encode()).context)
    assert found.changes == []
    assert "without its content" in found.refused[0].detail


def content(preset: str, payload: Any, parameters: Any = None, **headers: str) -> Mapped:
    made = source(preset=preset, verify=SECRET, parameters=parameters or {})
    return map_delivery(made, delivered(made, json.dumps(payload).encode(), **headers).context)


def test_a_notion_page_without_its_texts_is_not_emptied() -> None:
    page = json.loads(recorded("notion-automation-page.json"))
    properties = page["data"]["properties"]
    whole = dict(properties)

    def with_only(*names: str) -> Any:
        kept = {name: whole[name] for name in names}
        return page | {"data": page["data"] | {"properties": kept}}

    for names in (("Status",), ("Name", "Status"), ("Summary",)):
        assert "would be emptied" in refusal(content("notion", with_only(*names)))
    title = {"title_only": True}
    assert text_of(content("notion", with_only("Name"), title)) == "Travel policy"
    assert "would be emptied" in refusal(content("notion", with_only("Status"), title))
    whole["Summary"], whole["Name"] = {"rich_text": []}, {"title": []}
    assert text_of(content("notion", with_only("Name", "Summary"))) == ""


@pytest.mark.parametrize(
    ("preset", "file", "within", "headers"),
    [
        ("contentful", "contentful-publish.json", "fields",
         {"x_contentful_topic": "ContentManagement.Entry.publish"}),
        ("sanity", "sanity-update.json", None, {}),
        ("strapi", "strapi-publish.json", "entry", {}),
    ],
)  # fmt: skip
def test_a_field_that_is_not_there_empties_no_document(
    preset: str, file: str, within: str | None, headers: dict[str, str]
) -> None:
    payload = json.loads(recorded(file))
    fields = payload[within] if within else payload
    whole = text_of(content(preset, payload, **headers))
    for name in ("boddy", "__proto__"):
        told = refusal(content(preset, payload, {"body": name}, **headers))
        assert "parameters.body names" in told
    untitled = content(preset, payload, {"title": "tittle"}, **headers)
    assert whole.endswith(text_of(untitled))
    assert untitled.warnings == ["what tittle names is not there: the text stands without a title"]
    title = whole.partition("\n")[0]
    assert text_of(content(preset, payload, {"body": ""}, **headers)) == title
    empty: Any = {"en-US": ""} if preset == "contentful" else None
    fields["body"] = empty
    assert text_of(content(preset, payload, **headers)) == title
    fields["title"] = empty
    found = content(preset, payload, **headers)
    assert (text_of(found), found.warnings) == ("", [])
    del fields["body"]
    assert "would be emptied" in refusal(content(preset, payload, **headers))


def test_a_contentful_entry_in_another_locale_alone_is_not_emptied() -> None:
    entry = json.loads(recorded("contentful-publish.json"))
    topic = "ContentManagement.Entry.publish"
    told = refusal(content("contentful", entry, {"locale": "de-DE"}, x_contentful_topic=topic))
    assert "in the locale of parameters.locale" in told


def test_notion_pages_as_an_automation_sends_them() -> None:
    delivery_id, changes = told("notion", "notion-automation-page.json")
    assert delivery_id == "1a000000-0000-4000-8000-0000000000a3"
    page = "2b000000-0000-4000-8000-0000000000b1"
    url = f"https://www.notion.so/Travel-policy-{page.replace('-', '')}"
    assert changes == [
        {
            "insert": page,
            "content": "Travel policy\n\nTrains before planes.",
            "content_type": "text/markdown",
            "metadata": {"title": "Travel policy", "url": url},
        }
    ]


def test_notion_pages_that_are_deleted() -> None:
    delivery_id, changes = told("notion", "notion-page-deleted.json")
    assert delivery_id == "3c000000-0000-4000-8000-0000000000c1"
    assert changes == [{"delete": "2b000000-0000-4000-8000-0000000000b1"}]


# --- files ---------------------------------------------------------------------------------------


CREATED_AT, REMOVED_AT = 0x0069A5480213AB77 >> 1, 0x0069A5482013AB77 >> 1
"""The sequencers' first 63 bit."""


def test_s3_events_as_they_are() -> None:
    assert told("s3", "s3-records.json")[1] == [
        {
            "insert": "example-docs/guides/Rückgabe und Umtausch.md",
            "content_url": f"https://{BUCKET_HOST}/guides/R%C3%BCckgabe%20und%20Umtausch.md",
            "metadata": {"bucket": "example-docs"},
            "source_version": CREATED_AT,
        },
        {"delete": "example-docs/guides/old.md", "source_version": REMOVED_AT},
    ]


def test_s3_events_through_sns_and_eventbridge() -> None:
    deleted = {"delete": "example-docs/guides/old.md", "source_version": REMOVED_AT}
    _, changes = told("s3", "s3-through-sns.json", content_type="text/plain; charset=UTF-8")
    assert changes == [deleted]
    base = {"base_url": "https://cdn.example.test/docs"}
    (change,) = told("s3", "s3-eventbridge.json", base)[1]
    assert change["insert"] == "example-docs/guides/a b.md"
    assert change["content_url"] == "https://cdn.example.test/docs/guides/a%20b.md"
    assert told("s3", "s3-test-event.json")[1] == []


@pytest.mark.parametrize(
    "key",
    ["../private/secret.md", "a/../../b.md", "..", "./a.md", "a/.", "a/%2e%2e/b.md", "a/.%2E/b.md",
     "%2e%2e/b.md", "..%2Fb.md", "..%5cb.md", "..\\b.md", ".%09./b.md", ".\n./b.md"],
)  # fmt: skip
def test_no_key_leads_out_of_the_urls_path(key: str) -> None:
    rule = {
        "document_id": "x",
        "content_url": "https://cdn.example.test/docs/{item.key}?v={item.q}",
    }
    made = source(changes=[rule])

    def found(payload: Any) -> Mapped:
        return map_delivery(made, delivered(made, json.dumps(payload).encode()).context)

    (problem,) = found({"key": key, "q": "x"}).refused
    assert (problem.kind.status, problem.field) == (422, "rules[0].content_url")
    assert found({"key": "a..b/..c/d...md/.e", "q": f"/{key}"}).refused == []


def test_s3_keys_with_dots_are_refused_and_their_neighbours_are_not() -> None:
    event = json.loads(recorded("s3-records.json"))
    event["Records"][0]["s3"]["object"]["key"] = "../private/secret.md"
    made = source(preset="s3", parameters={"base_url": "https://cdn.example.test/docs"})
    found = map_delivery(made, delivered(made, json.dumps(event).encode()).context)
    assert [change["change_type"] for change in found.changes] == ["delete"]
    assert [problem.field for problem in found.refused] == ["items[0].rules[0].content_url"]


def s3(event: Any) -> list[tuple[str, str]]:
    made = source(preset="s3")
    found = map_delivery(made, delivered(made, json.dumps(event).encode()).context)
    assert found.unmatched == (not found.changes)
    assert found.refused == []
    return [(change["change_type"], change["document_id"]) for change in found.changes]


@pytest.mark.parametrize(
    ("name", "version", "deletes"),
    [
        ("ObjectRemoved:Delete", None, True),
        ("s3:ObjectRemoved:Delete", None, True),
        ("ObjectRemoved:Delete", "XLEZI5EkIBtnC7tnmODUVhEK32yk0mHk", False),
        ("ObjectRemoved:DeleteMarkerCreated", "XLEZI5EkIBtnC7tnmODUVhEK32yk0mHk", True),
        ("LifecycleExpiration:Delete", None, True),
        ("LifecycleExpiration:Delete", "m4cqH_E1gq3Iu7wJttniYN0JKx0EgtNm", False),
        ("LifecycleExpiration:DeleteMarkerCreated", "m4cqH_E1gq3Iu7wJttniYN0JKx0EgtNm", True),
        ("ObjectTagging:Delete", None, False),
    ],
)
def test_an_old_version_that_s3_removes_leaves_the_document(
    name: str, version: str | None, deletes: bool
) -> None:
    event = json.loads((EVENTS / "s3_object_removed.json").read_text())
    (record,) = event["Records"]
    record["eventName"] = name
    record["s3"]["object"] |= {"versionId": version}
    document = "bloomweaver-landing/processed/docs/old.md"
    assert s3(event) == ([("delete", document)] if deletes else [])


@pytest.mark.parametrize(
    ("file", "version", "deletes"),
    [
        ("eventbridge_s3_deleted.json", "5oZORVHpndr0Z39DCGn5wRyS23B7_PCz", True),
        ("eventbridge_s3_expired.json", None, True),
        ("eventbridge_s3_expired.json", "5oZORVHpndr0Z39DCGn5wRyS23B7_PCz", False),
    ],
)
def test_an_old_version_of_which_eventbridge_tells_leaves_the_document(
    file: str, version: str | None, deletes: bool
) -> None:
    event = json.loads((EVENTS / file).read_text())
    if version:
        event["detail"]["object"]["version-id"] = version
    found = s3(event)
    assert [kind for kind, _ in found] == (["delete"] if deletes else [])


def test_a_subscription_of_sns_is_to_be_confirmed_by_a_person() -> None:
    topic = "arn:aws:sns:eu-central-1:000000000000:example-docs"
    url = (
        "https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription"
        f"&TopicArn={topic}&Token={'2336412f37' * 30}"
    )
    event = {
        "Type": "SubscriptionConfirmation", "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
        "Token": "2336412f37" * 30, "TopicArn": topic,
        "Message": f"You have chosen to subscribe to the topic {topic}.\nTo confirm the "
        "subscription, visit the SubscribeURL included in this message.",
        "SubscribeURL": url, "Timestamp": "2026-03-02T08:15:30.123Z", "SignatureVersion": "1",
    }  # fmt: skip
    made = source(preset="s3")

    def told_of(value: Any) -> list[str]:
        return map_delivery(made, delivered(made, json.dumps(value).encode()).context).warnings

    (warning,) = told_of(event)
    assert warning.endswith(f" {url}")
    assert told_of(event | {"SubscribeURL": "https://evil.example/"}) == []
    assert told_of(json.loads(recorded("s3-through-sns.json"))) == []


SEQUENCERS = [
    "0055AED6DCD90281E5", "0055AED6DCD903", "0055AED6DD", "0055aed6dd00", "0069A5480213AB77C1",
    "617f08299329d189", "7", "F" * 16, "F" * 40,
]  # fmt: skip


@pytest.mark.parametrize("earlier", SEQUENCERS)
@pytest.mark.parametrize("later", SEQUENCERS)
def test_sequencers_are_ordered_as_s3_says(earlier: str, later: str) -> None:
    """The shorter one padded with zeros on its right, and then by their digits."""
    width = max(len(earlier), len(later))
    first, second = (text.upper().ljust(width, "0") for text in (earlier, later))
    found = [Expression("hex_order(@)").of(text) for text in (earlier, later)]
    assert all(0 <= number < 2**63 for number in found)
    if first[:15] < second[:15]:
        assert found[0] < found[1]
    elif first == second:
        assert found[0] == found[1]


def github(payload: bytes, event: str = "push", **fields: Any) -> Mapped:
    made = source(preset="github-push", verify=SECRET, **fields)
    delivery = delivered(made, payload, x_github_event=event, x_github_delivery="d")
    assert delivery.id == "d"
    return map_delivery(made, delivery.context)


PUSH = recorded("github-push.json")
TOKEN: dict[str, Any] = {
    "github_token": f"${{{VARIABLE}}}", "repositories": ["example-org/handbook"],
}  # fmt: skip


def test_github_pushes_name_what_is_to_be_looked_at() -> None:
    found = github(PUSH, **TOKEN)
    assert {change["document_id"] for change in found.changes} == {
        "example-org/handbook/docs/draft.md",
        "example-org/handbook/docs/Travel & costs.md",
        "example-org/handbook/docs/old.md",
        "example-org/handbook/README.md",
    }
    assert all("source_version" not in change for change in found.changes)
    assert {file.path: file.gone for file in found.files.values()} == {
        "README.md": False, "docs/Travel & costs.md": False, "docs/old.md": False,
        "docs/draft.md": True,
    }  # fmt: skip
    places = {(f.repository, f.branch, f.ref, f.before) for f in found.files.values()}
    assert places == {("example-org/handbook", "main", "3" * 40, "1" * 40)}
    for index, file in found.files.items():
        assert found.changes[index]["document_id"].endswith(file.path)


@pytest.mark.parametrize(
    ("name", "allowed", "reads"),
    [
        ("example-org/handbook", "example-org/handbook", True),
        ("Example-Org/handbook", "example-org/HANDBOOK", True),
        ("example-org/handbook", "example-org/*", True),
        ("example-org/private", "example-org/handbook", False),
        ("other/handbook", "example-org/*", False),
        ("example-org/x/../../other/private", "example-org/*", False),
        ("example-org", "example-org/*", False),
    ],
)
def test_a_push_reads_the_sources_repositories_alone(name: str, allowed: str, reads: bool) -> None:
    push = json.loads(PUSH)
    push["repository"]["full_name"] = name
    found = github(json.dumps(push).encode(), **{**TOKEN, "repositories": [allowed]})
    assert len(found.files) == (4 if reads else 0)
    assert len(found.changes) == (4 if reads else 0), "nothing is deleted there, either"
    assert {problem.kind.status for problem in found.refused} == (set() if reads else {403})


def test_github_pushes_without_a_token_delete_only() -> None:
    found = github(PUSH)
    (change,) = found.changes
    assert change["change_type"] == "delete"
    assert change["document_id"].endswith("docs/draft.md")
    assert change["source_version"] == 1772439330_000_000
    assert not found.files


def test_github_pushes_elsewhere_are_ignored() -> None:
    push = json.loads(PUSH)
    assert github(b'{"zen": "x", "hook_id": 1}', "ping").ignored
    assert github(json.dumps(push | {"ref": "refs/heads/feature/x"}).encode()).ignored
    assert github(json.dumps(push | {"ref": "refs/tags/main"}).encode()).ignored
    assert github(json.dumps(push | {"deleted": True}).encode()).ignored
    assert github(PUSH, parameters={"branch": "release"}).ignored
    release = json.dumps(push | {"ref": "refs/heads/release"}).encode()
    found = github(release, parameters={"branch": "release"}, **TOKEN)
    assert {file.branch for file in found.files.values()} == {"release"}


def test_github_pushes_may_be_forms() -> None:
    body = urlencode({"payload": PUSH.decode()}).encode()
    made = source(preset="github-push", verify=SECRET, **TOKEN)
    delivery = delivered(
        made, body, x_github_event="push", content_type="application/x-www-form-urlencoded"
    )
    assert map_delivery(made, delivery.context) == github(PUSH, **TOKEN)


def _commit(**files: int) -> dict[str, list[str]]:
    return {kind: [f"{n}.txt" for n in range(count)] for kind, count in files.items()}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, None),
        ({"forced": True}, "a force push"),
        ({"forced": True, "commits": []}, "a force push"),
        ({"created": True, "commits": []}, "names no commits"),
        ({"commits": [_commit(added=1)] * 2047}, None),
        ({"commits": [_commit(added=1)] * 2048}, "GitHub cuts lists"),
        ({"commits": [_commit(added=2998, modified=1)]}, None),
        ({"commits": [_commit(added=1000, removed=1000, modified=1000)]}, "GitHub cuts lists"),
    ],
)
def test_github_pushes_that_do_not_tell_everything_are_warned_of(
    fields: dict[str, Any], words: str | None
) -> None:
    found = github(json.dumps(json.loads(PUSH) | fields).encode())
    assert len(found.warnings) == (words is not None)
    assert not words or words in found.warnings[0]
    assert found.refused == []
