"""sources.yaml: what it may say, how its mistakes are told, and what its rules make of payloads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.settings import Settings
from tests.source_files import (
    RULE,
    SECRET,
    STANDARD,
    VARIABLE,
    delivered,
    headers_of,
    loaded,
    source,
    validated,
)
from webhook.accept import Change
from webhook.problems import Problem
from webhook.signatures import Basic, Headers, StandardWebhooks, StandardWebhooksPublic, Unverified
from webhook.sources.expressions import Expression, ExpressionError, Template
from webhook.sources.loading import SecretReferences, Source, preset_names
from webhook.sources.mapping import Mapped, checked, map_delivery
from webhook.sources.payloads import payload_of
from webhook.sources.remarks import remarks_of
from webhook.sources.yaml_lines import MistakesError, read_yaml

SETTINGS = Settings(_env_file=None)

WHOLE = f"""\
sources:
  wiki:
    description: Our wiki
    namespace: docs
    verify:
      kind: standard-webhooks
      secrets: ["${{{VARIABLE}}}", "${{OTHER}}"]
    ignore: payload.type == 'ping'
    items: payload.pages
    changes:
      - when: item.gone
        change_type: delete
        document_id: "wiki/{{item.id}}"
        source_version: item.n
      - when: "!(item.gone)"
        document_id: "wiki/{{item.id}}"
        content: item.text
        content_type: "text/{{item.kind}}"
        metadata:
          team: item.team
          sender: headers."user-agent"
        source_version: item.n
"""


def mapped(made: Source, payload: Any, **headers: str) -> Mapped:
    return map_delivery(made, delivered(made, json.dumps(payload).encode(), **headers).context)


def mistakes(text: str, **environment: str) -> list[str]:
    with pytest.raises(MistakesError) as refused:
        loaded(text, on_loopback=False, **environment)
    return [str(mistake) for mistake in refused.value.mistakes]


def edited(old: str, new: str) -> str:
    assert WHOLE.count(old) == 1
    return WHOLE.replace(old, new)


# --- the file ------------------------------------------------------------------------------------


def test_a_source_with_everything() -> None:
    wiki = loaded(WHOLE, OTHER=SECRET)["wiki"]
    assert isinstance(wiki.verification, StandardWebhooks)
    assert len(wiki.verification.secrets) == 2
    payload = {
        "pages": [
            {"id": 1, "text": "One", "kind": "markdown", "team": "a", "n": 4.0},
            {"id": "two", "gone": True, "n": 5},
            {"id": 3, "text": "", "kind": "plain", "team": None},
        ]
    }
    found = mapped(wiki, payload, user_agent="Wiki/2")
    assert found == Mapped(
        [
            {
                "change_type": "insert", "namespace": "docs", "document_id": "wiki/1",
                "content": "One", "content_type": "text/markdown",
                "metadata": {"team": "a", "sender": "Wiki/2"}, "source_version": 4,
            },
            {
                "change_type": "delete", "namespace": "docs", "document_id": "wiki/two",
                "source_version": 5,
            },
            {
                "change_type": "insert", "namespace": "docs", "document_id": "wiki/3",
                "content": "", "content_type": "text/plain", "metadata": {"sender": "Wiki/2"},
            },
        ],
        items=3,
    )  # fmt: skip
    assert [change.source_version for change in validated(found, SETTINGS)] == [4, 5, None]
    assert mapped(wiki, {"type": "ping", "pages": [1]}) == Mapped([], ignored=True)


def test_a_file_without_sources_is_fine() -> None:
    assert loaded("") == loaded("sources:") == loaded("sources: {}") == {}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("description: Our wiki", "descripton: x", "3: source wiki: descripton: there is no such"),
        ("namespace: docs", "namespace: a/b", "2: source wiki: 'a/b' is no namespace"),
        ("namespace: docs", "namespaces: [docs]", "with `namespaces`, each rule says which one"),
        ("    namespace: docs\n", "", "2: source wiki: needs `namespace`"),
        ("kind: standard-webhooks", "kind: standard", "5: source wiki: verify: "),
        ("kind: standard-webhooks", "kind: none", "7: source wiki: verify.secrets: there is no"),
        (f"${{{VARIABLE}}}", "${MISSING}", "7: source wiki: verify.secrets.0: the env"),
        (f"${{{VARIABLE}}}", "file:missing", "/nonexistent/missing cannot be read"),
        ("secrets: [", "secret: x\n      secrets: [", "5: source wiki: verify: needs `secret`"),
        ("item.gone\n", "item..gone\n", "11: source wiki: changes.0.when: not a JMESPath"),
        ("item.gone\n", "gone(item)\n", "11: source wiki: changes.0.when: not a JMESPath"),
        ('"!(item.gone)"', '"!item.gone"', "15: source wiki: changes.1.when: not is of the first"),
        ("item.gone\n", "true\n", "11: source wiki: changes.0.when: must be a JMESPath"),
        ("change_type: delete", "change_type: remove", "12: source wiki: changes.0.change_type: "),
        ("change_type: delete", "change_type: delete\n        content: item.x", "11: source wiki"),
        ('"text/{item.kind}"', '"text/{item.kind"', "18: source wiki: changes.1.content_type: '{'"),
        ("content: item.text", "metadata: {}", "'metadata' is there twice"),
        ("content: item.text", "content_url: x\n        content: x", "content is in one place"),
        ("        content: item.text\n", "", "15: source wiki: changes.1: an insert needs one of"),
        ("ignore:", "github_token: abc\n    ignore:", "8: source wiki: github_token: a secret is"),
        ("ignore:", "github_token: ${OTHER}\n    ignore:", "8: source wiki: github_token needs `"),
        ("ignore:", "repositories: ['*']\n    ignore:", "8: source wiki: repositories: '*' is nei"),
        ("- when: item.gone", "- wen: item.gone", "11: source wiki: changes.0.wen: there is no"),
        ("team: item.team", "team: [1]", "20: source wiki: changes.1.metadata.team: must be a"),
        ("sources:\n  wiki:", "sources:\n  Wiki!:", "2: 'Wiki!': a name has small letters"),
        ("sources:\n", "source:\n", "1: the file has one field"),
        ("    items:", "  items:", "sources.yaml:10: not YAML"),
        ("description: Our wiki", "preset: wik", "3: source wiki: there is no preset 'wik'; known"),
        ("description: Our wiki", "2026-01-01: x", "must be put in quotes"),
        ("description: Our wiki", "stopped: maybe", "3: source wiki: stopped: "),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(old: str, new: str, told: str) -> None:
    found = mistakes(edited(old, new), OTHER=SECRET)
    assert any(told in mistake for mistake in found), found
    assert all(re.match(r"sources\.yaml:\d+: ", mistake) for mistake in found)


def test_every_mistake_of_every_source_is_told_at_once() -> None:
    text = WHOLE.replace("ignore:", "ignor:") + WHOLE.replace("sources:\n", "").replace(
        "wiki:", "other:"
    ).replace("items:", "itms:")
    found = mistakes(text, OTHER=SECRET)
    assert [mistake.split(": ", 1)[1] for mistake in found] == [
        "source wiki: ignor: there is no such field",
        "source other: itms: there is no such field",
    ]


def test_a_secret_in_the_clear_is_refused_and_not_repeated() -> None:
    text = edited(f"${{{VARIABLE}}}", "whsec_a-real-secret-by-mistake")
    (told,) = mistakes(text, OTHER=SECRET)
    assert "a secret is never written here" in told
    assert "by-mistake" not in told


def test_a_rule_for_files_that_the_source_may_not_read_is_told_of() -> None:
    file = {"repository": "other/private", "path": "{item}", "ref": "{payload.after}"}
    fields: Any = {
        "github_token": f"${{{VARIABLE}}}",
        "changes": [{"document_id": "{item}", "content_of_github": file}],
    }
    (told,) = remarks_of(source(**fields, repositories=["o/*"]), Settings(_env_file=None))
    assert "reads files of other/private, which is none of its `repositories`" in told
    assert remarks_of(source(**fields, repositories=["other/*"]), Settings(_env_file=None)) == []


def test_what_is_too_short_to_be_a_secret_is_refused() -> None:
    (told,) = mistakes(WHOLE, OTHER="1234567")
    assert "fewer than 8 characters" in told
    assert "1234567" not in told


def test_a_secret_that_is_no_key_of_its_kind_is_refused() -> None:
    (told,) = mistakes(WHOLE, OTHER="not base64 at all")
    assert told.startswith("sources.yaml:5: source wiki: verify: the secret must be base64")


def test_a_secret_may_be_kept_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a password of ours\n")
    found = SecretReferences({}, tmp_path)
    assert found.resolve("file:secret") == "a password of ours"
    assert found.files == {tmp_path / "secret"}
    basic = {"kind": "basic", "username": "u", "secret": f"file:{tmp_path / 'secret'}"}
    verification = source(verify=basic).verification
    assert isinstance(verification, Basic)
    assert verification.secrets == (b"a password of ours",)


def test_public_keys_stand_in_the_file() -> None:
    key = "whpk_" + "A" * 43 + "="
    made = source(verify={"kind": "standard-webhooks-v1a", "public_keys": [key]})
    assert made.verification == StandardWebhooksPublic((bytes(32),))
    assert delivered(made, b"{}", webhook_id="m").id == "m"
    with pytest.raises(MistakesError, match="as the sender shows it: whpk_"):
        source(verify={"kind": "standard-webhooks-v1a", "public_keys": ["whsk_" + key[5:]]})


def test_unverified_sources_are_for_loopback_only() -> None:
    assert source(verify={"kind": "none"}, on_loopback=True).verification == Unverified()
    with pytest.raises(MistakesError, match="kind none is for a service on loopback"):
        source(verify={"kind": "none"})


def test_no_representation_shows_a_secret() -> None:
    assert SECRET not in repr(loaded(WHOLE, OTHER=SECRET))
    assert SECRET not in repr(SecretReferences({"X": SECRET}, Path()))


def test_a_preset_is_overridden_field_by_field() -> None:
    made = source(preset="contentful", verify={"secret": f"${{{VARIABLE}}}", "username": "u"})
    assert made.config.verify.kind == "basic"
    assert made.config.parameters == {"locale": "en-US", "title": "title", "body": "body"}
    other = source(preset="contentful", verify=STANDARD, parameters={"locale": "de-DE"})
    assert other.config.verify.kind == "standard-webhooks"
    assert other.config.parameters == {"locale": "de-DE", "title": "title", "body": "body"}
    assert [rule.document_id.text for rule in other.config.changes] == [
        rule.document_id.text for rule in made.config.changes
    ]


def test_another_mapping_is_another_fingerprint() -> None:
    same = loaded(WHOLE, OTHER=SECRET)["wiki"].fingerprint
    assert loaded(WHOLE, OTHER="YW5vdGhlci1zZWNyZXQtdGhhdC1pcy1sb25n")["wiki"].fingerprint == same
    other = edited("item.n\n      - when", "item.m\n      - when")
    assert loaded(other, OTHER=SECRET)["wiki"].fingerprint != same


def test_a_secret_that_is_replaced_leaves_the_fingerprint_as_it_is() -> None:
    rotated = {"kind": "standard-webhooks", "secrets": ["${NEW}", f"${{{VARIABLE}}}"]}
    given = {"namespace": "docs", "verify": rotated, "changes": [RULE]}
    text = yaml.safe_dump({"sources": {"x": given}})
    assert loaded(text, NEW=SECRET)["x"].fingerprint == source().fingerprint
    fetching = source(github_token=f"${{{VARIABLE}}}", repositories=["o/n"])
    assert fetching.fingerprint != source().fingerprint  # files are fetched from now on


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: &x [*x]", "a: !!python/object:os.system x", "- &a [x]\n- *b", "{[1]: 2}", "\x00"],
)
def test_what_is_no_plain_yaml_is_a_mistake(text: str) -> None:
    with pytest.raises(MistakesError):
        read_yaml(text)


def test_aliases_cannot_make_a_small_file_huge() -> None:
    levels = "\n".join(f"- &l{n + 1} [{', '.join([f'*l{n}'] * 10)}]" for n in range(9))
    with pytest.raises(MistakesError, match="more than"):
        read_yaml(f"- &l0 [x]\n{levels}")


def test_the_example_of_the_documentation_is_a_file_without_mistakes() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()
    example = text.partition("```yaml\n")[2].partition("```")[0]
    names = ("BLOOMWEAVER_SOURCE_WIKI_SECRET", "BLOOMWEAVER_SOURCE_CMS_PASSWORD")
    found = loaded(example, on_loopback=False, **dict.fromkeys(names, SECRET))
    assert sorted(found) == ["cms", "wiki"]
    assert all(f"`{name}`" in text for name in preset_names())
    handbook = text.split("```yaml\n")[2].partition("```")[0]
    named = {f"BLOOMWEAVER_SOURCE_HANDBOOK_{name}": SECRET for name in ("SECRET", "TOKEN")}
    assert loaded(handbook, on_loopback=False, **named)["handbook"].config.may_read(
        "example-org/handbook"
    )
    page = {"id": 7, "body": "Text", "title": "T", "space": {"key": "eng"}, "revision": 3}
    (change,) = mapped(found["wiki"], {"pages": [page]}).changes
    assert (change["document_id"], change["source_version"]) == ("wiki/7.md", 3)


# --- rules ---------------------------------------------------------------------------------------


def test_one_item_may_make_several_changes() -> None:
    made = source(
        changes=[
            {"each": "item.removed", "change_type": "delete", "document_id": "{item}"},
            {"each": "item.added", "document_id": "{item}", "content": "payload.text"},
        ]
    )
    found = mapped(made, {"removed": ["a", "b"], "added": ["c"], "text": "x"})
    assert [(c["change_type"], c["document_id"]) for c in found.changes] == [
        ("delete", "a"),
        ("delete", "b"),
        ("insert", "c"),
    ]
    assert mapped(made, {}) == Mapped([], items=1, unmatched=1)


@pytest.mark.parametrize("field", ["items", "each"])
def test_a_delivery_makes_a_bounded_number_of_changes(field: str) -> None:
    many = [{"id": str(n), "text": "x"} for n in range(11)]
    rule = {"document_id": "{item.id}", "content": "item.text"}
    given: dict[str, Any] = {"items": "payload"}
    if field == "each":
        given = {"changes": [{**rule, "each": "payload"}]}
    made = source(max_changes=10, **given)
    assert len(mapped(made, many[:10]).changes) == 10
    with pytest.raises(Problem) as refused:
        mapped(made, many)
    assert refused.value.kind.status == 413


def test_a_list_beyond_the_bound_is_not_looked_into() -> None:
    rule = {"each": "payload", "document_id": "{item.id}", "content": "item.text"}
    with pytest.raises(Problem) as refused:
        mapped(source(max_changes=10, changes=[rule]), [{}] * 11)
    assert refused.value.kind.status == 413


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"text": "x"}, "rules[0].document_id"),
        ({"id": True, "text": "x"}, "rules[0].document_id"),
        ({"id": ["a"], "text": "x"}, "rules[0].document_id"),
        ("x", "rules[0].document_id"),
        ({"id": "a"}, "changes[0].content"),
        ({"id": "a", "text": {"no": "text"}}, "changes[0].content"),
        ({"id": "a\nb", "text": "x"}, "changes[0].document_id"),
        ({"id": "", "text": "x"}, "changes[0].document_id"),
        ({"id": "a", "text": "nul \0"}, "changes[0].content"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_where_it_does_not(payload: Any, field: str) -> None:
    made = source()
    with pytest.raises(Problem) as refused:
        validated(mapped(made, payload), SETTINGS)
    assert (refused.value.kind.status, refused.value.field) == (422, field)


def test_a_runtime_error_of_an_expression_is_the_payloads() -> None:
    made = source(ignore="starts_with(payload.id, 'x')")
    with pytest.raises(Problem) as refused:
        mapped(made, {"id": 1})
    assert refused.value.field == "ignore"
    assert "starts_with" in refused.value.detail


def test_what_is_wrong_with_one_item_is_no_fault_of_its_neighbours() -> None:
    rule = {"document_id": "{item.id}", "content": "item.text"}
    found = mapped(source(items="payload"), [{"id": "a", "text": "x"}, {"text": "x"}, {"id": "b"}])
    assert [change["document_id"] for change in found.changes] == ["a", "b"]
    assert [problem.field for problem in found.refused] == ["items[1].rules[0].document_id"]
    assert found.unmatched == 0
    first, second = checked(found, SETTINGS)
    assert isinstance(first, Change)
    assert isinstance(second, Problem)
    assert second.field == "changes[1].content"
    each = source(changes=[{**rule, "each": "payload"}])
    found = mapped(each, [{"text": "x"}, {"id": "a", "text": "x"}])
    assert [change["document_id"] for change in found.changes] == ["a"]
    assert [problem.field for problem in found.refused] == ["rules[0].each[0].document_id"]


def test_what_is_refused_counts_among_what_a_delivery_may_make() -> None:
    many = [{"text": "x"}] * 11
    assert len(mapped(source(max_changes=11, items="payload"), many).refused) == 11
    with pytest.raises(Problem) as refused:
        mapped(source(max_changes=10, items="payload"), many)
    assert refused.value.kind.status == 413


def test_warnings_are_told_once_and_never_refuse() -> None:
    warnings = [
        {"when": "item.late", "message": "{item.id} is late"},
        {"when": "length(item.id) > `5`", "message": "long"},
        {"when": "item.late", "message": "{item.nothing}"},
    ]
    made = source(items="payload", warnings=warnings)
    late = {"id": "a", "text": "x", "late": True}
    found = mapped(made, [late, late, {"id": 7, "text": "x"}, {"id": "longer", "text": "x"}])
    assert found.warnings == ["a is late", "long"]
    assert len(found.changes) == 4


def test_reserved_metadata_cannot_be_mapped() -> None:
    rule = {"document_id": "{item.id}", "content": "item.text", "metadata": {"$x": "item.id"}}
    with pytest.raises(Problem) as refused:
        validated(mapped(source(changes=[rule]), {"id": "a", "text": "x"}), SETTINGS)
    assert refused.value.field == "changes[0].metadata.$x"


def test_no_header_that_may_hold_a_secret_reaches_a_mapping() -> None:
    token = {"kind": "token", "header": "X-Our-Token", "secret": f"${{{VARIABLE}}}"}
    made = source(verify=token)
    delivery = delivered(
        made, b"{}", x_our_token=SECRET, authorization="Bearer x", cookie="c", x_event="e"
    )
    assert delivery.context["headers"] == {"x-event": "e"}


def test_delivery_ids() -> None:
    github = source(verify={"kind": "github", "secret": f"${{{VARIABLE}}}"})
    assert delivered(source(), b"{}", webhook_id="m").id == "m"
    assert delivered(github, b"{}", x_github_delivery="g", webhook_id="m").id == "g"
    own = source(delivery_id="[payload.a, payload.b]")
    assert delivered(own, b'{"a": 1, "b": "x"}').id == '[1, "x"]'
    assert delivered(source(), b"{}").id is None
    assert delivered(source(delivery_id="payload.a"), b"{}").id is None
    hashed = delivered(source(), b"{}", webhook_id="x" * 600).id
    assert hashed is not None
    assert re.fullmatch("sha256:[0-9a-f]{64}", hashed)
    assert hashed != delivered(source(), b"{}", webhook_id="x" * 601).id


# --- expressions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value", "found"),
    [
        ("get(a, b)", {"a": {"x": 1}, "b": "x"}, 1),
        ("get(a, 'x')", {}, None),
        ("epoch_ms(@)", "2026-03-02T08:15:30.250Z", 1772439330250),
        ("epoch_ms(@)", "2026-03-02T09:15:30.250+01:00", 1772439330250),
        ("epoch_ms(@)", "2026-03-02 08:15:30", 1772439330000),
        ("epoch_ms(@)", "yesterday", None),
        ("epoch_ms(a)", {}, None),
        ("from_hex(@)", "00ff", 255),
        ("from_hex(@)", "f" * 16, None),
        ("from_hex(@)", "0x1", None),
        ("hex_order(@)", "0x1", None),
        ("hex_order(@)", "8", 1 << 62),
        ("hex_order(@)", "f" * 64, 2**63 - 1),
        ("hex_order(a)", {}, None),
        ("epoch_us(@)", 1772439330, 1772439330000000),
        ("epoch_us(@)", "2026-03-02T08:15:30.250Z", 1772439330250000),
        ("epoch_us(@)", "yesterday", None),
        ("unquote(@)", "a+b%2Fc%C3%BC", "a b/cü"),
        ("lower(@)", "ÄB", "äb"),
        ("split(@, '/')", "a/b", ["a", "b"]),
        ("from_json(@).a", '{"a": 1}', 1),
        ("from_json(@)", "{", None),
        ("texts(@, 'text')", [{"c": [{"text": "a"}, {"text": "b"}]}, {"text": "c"}], "ab\nc"),
        ("texts(@, 'text')", [{"text": "a"}, {"text": "b"}], "ab"),
        ("texts(@, 'text')", {"text": 1}, None),
        ("texts(@, 'text')", "already", "already"),
    ],
)  # fmt: skip
def test_functions_beside_those_of_jmespath(expression: str, value: Any, found: Any) -> None:
    assert Expression(expression).of(value) == found


@pytest.mark.parametrize(
    ("value", "holds"),
    [(0, True), (5, True), (0.0, True), ("", False), ([], False), (None, False), (False, False),
     ("a", True), ({}, False), (True, True)],
)  # fmt: skip
def test_conditions_hold_as_in_jmespath(value: Any, holds: bool) -> None:
    assert Expression("@").holds(value) is holds


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("starts_with(@, 'a')", 1),
        ("contains(@, `1`)", "text"),
        ("@[::0]", [1]),
        ("ceil(from_json(@))", "1e999"),
        ("texts(from_json(@), 'x')", "[" * 900 + "]" * 900),
    ],
)
def test_what_an_expression_stumbles_over_is_told(expression: str, value: Any) -> None:
    with pytest.raises(ExpressionError) as told:
        Expression(expression).of(value)
    assert str(told.value).startswith(f"{expression}: ")


def test_items_that_change_nothing_are_bounded_too() -> None:
    rule = {"when": "item.id", **RULE}
    made = source(items="payload", changes=[rule])
    assert mapped(made, [{}] * 10_000).unmatched == 10_000
    with pytest.raises(Problem) as refused:
        mapped(made, [{}] * 10_001)
    assert (refused.value.kind.status, refused.value.limit) == (413, 10_000)
    assert mapped(source(items="payload", changes=[rule], max_changes=1001), [{}] * 10_010).items


def test_events_are_bounded_as_items_are() -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
    headers = {"content_type": "application/cloudevents-batch+json"}
    made = source(format="cloudevents")
    with pytest.raises(Problem) as refused:
        delivered(made, json.dumps([event] * 10_001).encode(), **headers)
    assert refused.value.kind.status == 413


def test_a_number_that_python_does_not_write_is_the_payloads_fault() -> None:
    template = Template("{epoch_us(n)}")
    assert template.of({"n": 7}) == "7000000"
    with pytest.raises(ExpressionError, match="too large"):
        template.of({"n": 10**4299})


def test_templates() -> None:
    assert Template("{{a}}/{b}/{c[0]}").of({"b": 7, "c": ["x"]}) == "{a}/7/x"
    assert Template("plain {{}}").constant == "plain {}"
    assert Template("{a}").constant is None
    for text in ("{", "}", "{a", "{}", "{a b}"):
        with pytest.raises(ExpressionError):
            Template(text)


# --- bodies --------------------------------------------------------------------------------------

STRUCTURED = {"content_type": "application/cloudevents+json"}
EVENT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


def read(form: str, headers: Headers, body: bytes) -> Any:
    return payload_of(form, headers, body, headers_decide=True)


def event_headers(**more: str) -> dict[str, str]:
    return {f"ce_{name}": value for name, value in EVENT.items()} | more


def test_binary_events_by_the_kind_of_their_data() -> None:
    def event(body: bytes, **headers: str) -> Any:
        return read("cloudevents", headers_of(**event_headers(**headers)), body)[0]

    assert event(b'{"a": 1}', content_type="application/json")["data"] == {"a": 1}
    assert event(b"[1]", content_type="application/vnd.x+json; v=1")["data"] == [1]
    assert event("ü".encode(), content_type="text/plain")["data"] == "ü"
    assert event(b"\xff", content_type="text/plain")["data_base64"] == "/w=="
    assert event(b"%PDF", content_type="application/pdf")["data_base64"] == "JVBERg=="
    assert event(b"", content_type="application/json") == {
        **EVENT, "datacontenttype": "application/json"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content_type": "application/json"}, b"{}", 415),
        ({"content_type": "application/cloudevents+json"}, b"[]", 422),
        (STRUCTURED, json.dumps(EVENT | {"specversion": "0.3"}).encode(), 422),
        ({"content_type": "application/cloudevents+json"}, b'{"specversion": "1.0"}', 422),
        ({"content_type": "application/cloudevents+json"}, b"{", 400),
        ({"content_type": "application/cloudevents-batch+json"}, b"{}", 422),
        ({"content_type": "application/cloudevents-batch+json"}, b"[1]", 422),
        (event_headers(ce_id=""), b"", 422),
        (event_headers(content_type="application/json"), b"{", 400),
    ],
)
def test_what_is_no_cloud_event_is_refused(
    headers: dict[str, str], body: bytes, status: int
) -> None:
    with pytest.raises(Problem) as refused:
        read("cloudevents", headers_of(**headers), body)
    assert refused.value.kind.status == status


def test_lines_and_forms() -> None:
    assert read("ndjson", {}, b'{"a": 1}\n\n[2]\r\n') == [{"a": 1}, [2]]
    assert read("ndjson", headers_of(content_type="application/json"), b"[1]") == [1]
    with pytest.raises(Problem) as refused:
        read("ndjson", {}, b"1\n{")
    assert refused.value.field == "line 2"
    assert read("form", {}, b"payload=%7B%22a%22%3A+1%7D&x=y") == {"a": 1}
    assert read("form", {}, b' {"a": 1}') == {"a": 1}
    for body in (b"", b"x=1", b"payload", b"\xff=1", b"payload=%7B"):
        with pytest.raises(Problem):
            read("form", {}, body)
