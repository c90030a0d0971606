"""What is taken from secrets, and what it does to the environment."""

from __future__ import annotations

import json

import pytest

from common.diagnosis import checks_of
from common.secret_environment import (
    SecretEnvironment,
    SecretRead,
    UnusableSecretError,
    ids_set,
    variables_in,
)
from common.settings import Settings


def test_ids_come_with_commas_between_them_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOOMWEAVER_SECRET_IDS", " a, arn:aws:secretsmanager:x ,,a")
    assert ids_set() == ["a", "arn:aws:secretsmanager:x"]
    monkeypatch.setenv("BLOOMWEAVER_SECRET_IDS", "")
    assert ids_set() == []


@pytest.mark.parametrize(
    "name",
    ["BLOOMWEAVER_API_KEY", "PINECONE_API_KEY", "GITHUB_SECRET", "cms_secret", "Lda", "MY_PATH"],
)  # fmt: skip
def test_sources_may_refer_to_variables_of_any_name(name: str) -> None:
    assert variables_in("s", json.dumps({name: "hush"})) == {name: "hush"}


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "PATH", "LD_PRELOAD", "PYTHONPATH",
        "PYTHONHOME", "HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
        "LAMBDA_TASK_ROOT",
        "_HANDLER", "HOME", "BLOOMWEAVER_SECRET_IDS", "PROMETHEUS_MULTIPROC_DIR",
    ],
)  # fmt: skip
def test_what_decides_what_runs_is_not_taken(name: str) -> None:
    with pytest.raises(UnusableSecretError, match=f"{name} is not taken from a secret"):
        variables_in("s", json.dumps({name: "hush-hush"}))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hush-hush", "it is not JSON"),
        ('["hush-hush"]', "it is no JSON object"),
        ('{"BLOOMWEAVER_API_KEY": ["hush-hush"]}', "the value of BLOOMWEAVER_API_KEY is no string"),
        ('{"BLOOMWEAVER_API_KEY": "hush-hush\\u0000"}', "holds a NUL"),
        ('{"hush-hush": "x"}', "one of its names"),
        ('{"": "hush-hush"}', "one of its names"),
    ],
)
def test_what_is_no_object_of_strings_is_refused_without_telling_it(text: str, why: str) -> None:
    with pytest.raises(UnusableSecretError, match=why) as refused:
        variables_in("team/bloomweaver", text)
    assert "team/bloomweaver" in str(refused.value)
    assert "hush-hush" not in str(refused.value)


def test_what_the_environment_has_counts_before_what_secrets_hold() -> None:
    environment = {"A": "mine"}
    secrets = SecretEnvironment(environment)
    secrets.place({"one": {"A": "theirs", "B": "b"}})
    assert environment == {"A": "mine", "B": "b"}
    assert secrets.read == [SecretRead("one", placed=("B",), kept=("A",))]
    assert secrets.values == ["b"]


def test_a_secret_that_is_read_again_replaces_what_it_gave_and_nothing_else() -> None:
    environment = {"A": "mine"}
    secrets = SecretEnvironment(environment)
    secrets.place({"one": {"B": "old", "C": "gone", "D": "placed"}})
    environment["D"] = "changed by somebody"
    secrets.place({"one": {"B": "new", "D": "placed"}})
    assert environment == {"A": "mine", "B": "new", "D": "changed by somebody"}
    assert secrets.has_read(["one"])
    assert not secrets.has_read(["one", "two"])


def test_two_secrets_that_disagree_are_refused_and_nothing_is_changed() -> None:
    environment: dict[str, str] = {}
    secrets = SecretEnvironment(environment)
    secrets.place({"one": {"A": "a"}})
    with pytest.raises(
        UnusableSecretError, match="A has one value in one and another in two"
    ) as no:
        secrets.place({"one": {"A": "hush-hush"}, "two": {"A": "other-hush"}})
    assert "hush" not in str(no.value)
    assert environment == {"A": "a"}
    secrets.place({"one": {"A": "same"}, "two": {"A": "same"}})
    assert environment == {"A": "same"}


def test_the_doctor_looks_at_secrets_only_where_some_are_named() -> None:
    with_secrets = Settings(_env_file=None, secret_ids="one")
    assert "secrets" in [check.name for check in checks_of(with_secrets)]
    assert "secrets" not in [check.name for check in checks_of(Settings(_env_file=None))]
