"""What is wrong with an issuer in the settings is one line at the start."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from common.cli.configuration import load_settings
from common.cli.problems import WrongUsageError

GOOD: dict[str, Any] = {
    "issuer": "https://id.example", "audience": ["docs"], "default_role": "reader",
    "namespaces": ["*"],
}  # fmt: skip


def load(*issuers: object, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setenv("BLOOMWEAVER_OIDC_ISSUERS", json.dumps(issuers))
    return list(load_settings({}).oidc_issuers)


def test_what_has_to_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    [issuer] = load(GOOD, monkeypatch=monkeypatch)
    assert issuer.algorithms == ["RS256"]
    assert issuer.leeway_seconds == 60
    assert issuer.jwks_url is None


@pytest.mark.parametrize(
    "url",
    ["https://id.example/", "https://id.example:8443/realms/docs", "http://localhost:8080/realms/a",
     "http://127.0.0.1:9000", "http://[::1]:9000/x"],
)  # fmt: skip
def test_addresses(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [issuer] = load(GOOD | {"issuer": url, "jwks_url": url}, monkeypatch=monkeypatch)
    assert issuer.issuer == url


@pytest.mark.parametrize("field", ["issuer", "jwks_url"])
@pytest.mark.parametrize(
    "url",
    ["http://id.example", "ftp://id.example", "file:///etc/passwd", "id.example", "", "https://",
     "https://ada:pw@id.example", "https://id.example?a=b", "https://id.example#a", "https://[",
     "http://localhost.thief.example", "http://127.0.0.1.thief.example"],
)  # fmt: skip
def test_addresses_that_keys_are_not_fetched_from(
    field: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WrongUsageError, match=f"OIDC_ISSUERS.0.{field.upper()}: .*address"):
        load(GOOD | {field: url}, monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"audience": []}, "for any other application"),
        ({"algorithms": ["HS256"]}, "ALGORITHMS.0"),
        ({"algorithms": ["none"]}, "ALGORITHMS.0"),
        ({"algorithms": []}, "ALGORITHMS"),
        ({"default_role": None}, "nobody may do anything"),
        ({"default_role": "owner"}, "DEFAULT_ROLE"),
        ({"roles": {"a": "owner"}, "role_claim": "r"}, "ROLES.A"),
        ({"roles": {"a": "admin"}}, "need each other"),
        ({"role_claim": "r"}, "need each other"),
        ({"namespaces": []}, "nobody reaches anything"),
        ({"namespaces": ["a*b"]}, "NAMESPACES.0"),
        ({"namespaces": [""]}, "NAMESPACES.0"),
        ({"namespace_map": {"a": ["b"]}}, "need namespaces_claim"),
        ({"namespace_template": "t-{value}"}, "need namespaces_claim"),
        ({"namespaces_claim": "o", "namespace_template": "t"}, "{value} in it"),
        ({"namespaces_claim": "o", "namespace_template": "{value}{value}"}, "{value} in it"),
        ({"namespaces_claim": "o", "namespace_template": "*{value}"}, "NAMESPACE_TEMPLATE"),
        ({"namespaces_claim": "o", "namespace_map": {"a": ["*b"]}}, "NAMESPACE_MAP.A.0"),
        ({"namespaces_claim": []}, "NAMESPACES_CLAIM"),
        ({"leeway_seconds": -1}, "LEEWAY_SECONDS"),
        ({"leeway_seconds": 3600}, "LEEWAY_SECONDS"),
        ({"audiences": ["docs"]}, "AUDIENCES"),
        ({"issuer": None}, "ISSUER"),
    ],
)
def test_mistakes(change: dict[str, Any], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WrongUsageError) as caught:
        load(GOOD | change, monkeypatch=monkeypatch)
    told = str(caught.value)
    assert line in told
    assert told.startswith("BLOOMWEAVER_OIDC_ISSUERS.0")
    assert "\n" not in told


def test_an_issuer_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WrongUsageError, match=r"more than one issuer id\.example"):
        load(GOOD, GOOD | {"issuer": "https://id.example/"}, monkeypatch=monkeypatch)
    other = GOOD | {"issuer": "https://id.example/realms/other"}
    assert len(load(GOOD, other, monkeypatch=monkeypatch)) == 2


def test_what_is_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOOMWEAVER_OIDC_ISSUERS", "https://id.example")
    with pytest.raises(WrongUsageError, match="oidc_issuers"):
        load_settings({})


def test_the_examples_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path("docs/access.md").read_text()
    examples = re.findall(r"```json\n(\[\{.*?)```", text, re.DOTALL)
    names = [load(*json.loads(example), monkeypatch=monkeypatch)[0].name for example in examples]
    assert [name.partition(".")[0] for name in names] == ["login", "cognito-idp", "clerk"]
