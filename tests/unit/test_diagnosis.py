"""What `bloomweaver doctor` makes of what it sees."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from common.checks import Verdict
from common.diagnosis import checks_of, clock_finding, disk_finding, unknown_variables
from common.secrets import without_secrets
from common.settings import Settings

GIB = 2**30
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
STATED = "Sun, 01 Mar 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("free", "least", "verdict"),
    [
        (10 * GIB, GIB, Verdict.FINE),
        (3 * GIB, GIB, Verdict.NOTE),
        (GIB - 1, GIB, Verdict.WRONG),
        (1, 0, Verdict.FINE),
    ],
)
def test_disks(free: int, least: int, verdict: Verdict) -> None:
    assert disk_finding(free, least).verdict is verdict


@pytest.mark.parametrize(
    ("ahead", "verdict"),
    [
        (0, Verdict.FINE),
        (45, Verdict.NOTE),
        (-45, Verdict.NOTE),
        (300, Verdict.WRONG),
        (-300, Verdict.WRONG),
    ],
)
def test_clocks(ahead: float, verdict: Verdict) -> None:
    found = clock_finding(STATED, NOON + ahead)
    assert found.verdict is verdict
    assert f"{abs(ahead)} s {'ahead of' if ahead > 0 else 'behind'}" in found.line


@pytest.mark.parametrize("stated", ["", "yesterday"])
def test_a_service_without_a_date_tells_nothing_of_the_clock(stated: str) -> None:
    assert clock_finding(stated, NOON).verdict is Verdict.NOTE


def test_misspelt_settings_are_noticed() -> None:
    environment = {
        "BLOOMWEAVER_QUEU_URL": "sqs:",
        "BLOOMWEAVER_PORT": "1",
        "BLOOMWEAVER_RECEIVER": "embed-1",
        "BLOOMWEAVER_ZZZ": "1",
        "HOME": "/",
    }
    assert unknown_variables(environment) == [
        "BLOOMWEAVER_QUEU_URL is no setting: is it BLOOMWEAVER_QUEUE_URL?",
        "BLOOMWEAVER_ZZZ is no setting; `bloomweaver settings` lists them all",
    ]


def test_only_what_is_configured_is_looked_at() -> None:
    def names(**given: str) -> list[str]:
        settings = Settings(_env_file=None, **given)  # type: ignore[arg-type]
        return [check.name for check in checks_of(settings)]

    embedded = ["settings", "data folder", "queue", "registry", "blobs", "vectors", "index"]
    assert names() == [*embedded, "keys", "audit", "embedder", "disk", "webhook"]
    outside = names(
        queue_url="sqs:", registry_url="dynamodb:t", blobs_url="s3://b", vectors_url="none:",
        index_url="pinecone:i", landing_url="s3://b",
    )  # fmt: skip
    assert outside == [
        "settings", "queue", "registry", "blobs", "vectors", "index", "landing",
        "keys", "audit", "intake queue", "embedder", "disk", "clock", "webhook",
    ]  # fmt: skip


def test_secrets_are_hidden_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-and-more")
    settings = Settings(
        _env_file=None,
        pinecone_api_key=SecretStr("token"),
        chroma_token=SecretStr("a"),
    )
    said = "a token-and-more, token and http://user:word@host:1/a@b of x@y"
    assert without_secrets(said, settings) == "a ***, *** and http://***@host:1/a@b of x@y"
