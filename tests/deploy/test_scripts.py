"""The shell scripts of the workflows, with `aws` and others as programs that note their words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.workflows import ROOT

# Where everything is checked a missing jq is a failure; GitHub's machines have it.
pytestmark = pytest.mark.skipif(
    shutil.which("jq") is None and os.environ.get("CI") != "true",
    reason="jq is not on this machine: the scripts of the workflows were not checked",
)

KEY = "bw_abc_very-secret"
SECRET = json.dumps({"BLOOMWEAVER_API_KEY": KEY, "BLOOMWEAVER_AUDIT_KEY": "other-secret"})
SETTINGS = json.dumps(
    {"BLOOMWEAVER_QUEUE_URL": "sqs:", "BLOOMWEAVER_INDEX_URL": "pinecone:a b", "TZ": "UTC"}
)


class Programs:
    """A folder of programs before all others on the path; each call is a line of `calls`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "calls.log"
        self.log.touch()

    def add(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>"{self.log}"\n{body}\n')
        path.chmod(0o755)

    def run(
        self, script: str, *words: str, given: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder}:{os.environ['PATH']}"
        return subprocess.run(
            [str(ROOT / ".github/scripts" / script), *words], cwd=ROOT, text=True,
            env={**os.environ, "PATH": path, **environment}, input=given, capture_output=True,
            check=False,
        )  # fmt: skip

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@pytest.fixture
def deployed(programs: Programs) -> Programs:
    programs.add(
        "aws",
        f"""case "$1" in
  secretsmanager) echo '{SECRET}' ;;
  lambda) echo '{SETTINGS}' ;;
esac""",
    )
    programs.add("bloomweaver", 'env | grep "^BLOOMWEAVER_" | sed "s/^/  /" >>"$0.$1"')
    return programs


def seen(programs: Programs, command: str) -> set[str]:
    text = (programs.folder / f"bloomweaver.{command}").read_text()
    return {line.strip() for line in text.splitlines()}


def test_the_trial_asks_the_doctor_and_then_flies_a_canary(deployed: Programs) -> None:
    ended = deployed.run("smoke.sh", "bloomweaver-dev", "https://api", "canary-large")
    assert ended.returncode == 0, ended.stderr
    asked = [call.split()[1] for call in deployed.calls if call.startswith("bloomweaver")]
    assert asked == ["doctor", "canary"]
    assert "--namespace canary-large --search required " in deployed.calls[-1]
    assert seen(deployed, "doctor") >= {
        "BLOOMWEAVER_QUEUE_URL=sqs:", "BLOOMWEAVER_INDEX_URL=pinecone:a b",
        "BLOOMWEAVER_URL=https://api", f"BLOOMWEAVER_API_KEY={KEY}",
    }  # fmt: skip
    assert f"BLOOMWEAVER_API_KEY={KEY}" in seen(deployed, "canary")
    assert "--secret-id bloomweaver-dev/operator" in deployed.calls[0]


def test_the_key_is_told_to_be_hidden_and_is_not_told_besides(deployed: Programs) -> None:
    ended = deployed.run("smoke.sh", "bloomweaver-dev", "https://api", "canary")
    told = ended.stdout.splitlines()
    assert {f"::add-mask::{KEY}", "::add-mask::other-secret"} <= set(told)
    others = [line for line in told if not line.startswith("::add-mask::")]
    assert KEY not in "".join(others) + ended.stderr + "".join(deployed.calls)


@pytest.mark.parametrize("failing", ["doctor", "canary"])
def test_the_trial_fails_when_one_of_them_does(deployed: Programs, failing: str) -> None:
    deployed.add("bloomweaver", f"[[ $1 != {failing} ]]")
    assert deployed.run("smoke.sh", "bloomweaver-dev", "https://api", "canary").returncode == 1


def test_the_doctor_can_be_left_out(deployed: Programs) -> None:
    words = ("smoke.sh", "bloomweaver-dev", "https://api", "canary")
    assert deployed.run(*words, SMOKE_DOCTOR="off").returncode == 0
    assert not any(call.startswith("bloomweaver doctor") for call in deployed.calls)


def test_a_webhook_without_a_model_need_not_search(deployed: Programs) -> None:
    words = ("smoke.sh", "bloomweaver-dev", "https://api", "canary")
    assert deployed.run(*words, SMOKE_SEARCH="auto").returncode == 0
    assert "--search auto " in deployed.calls[-1]


def test_without_an_address_there_is_no_trial(deployed: Programs) -> None:
    ended = deployed.run("smoke.sh", "bloomweaver-dev", "", "canary")
    assert (ended.returncode, "API_URL" in ended.stderr) == (2, True)
    assert deployed.calls == []


def test_an_operator_without_a_key_is_no_trial(deployed: Programs) -> None:
    deployed.add("aws", 'echo \'{"OTHER": "x"}\'')
    assert deployed.run("smoke.sh", "bloomweaver-dev", "https://api", "canary").returncode != 0
    assert not any(call.startswith("bloomweaver") for call in deployed.calls)


def test_terraform_is_given_the_images_that_passed(programs: Programs, tmp_path: Path) -> None:
    found = [
        {"Name": f"/bloomweaver-dev/images/{name}", "Value": f"host/{name}@sha256:1"}
        for name in ("functions", "functions/webhook", "worker-cpu/default")
    ]
    programs.add("aws", f"[[ $* == *--recursive* ]] && echo '{json.dumps({'Parameters': found})}'")
    ended = programs.run(
        "terraform_inputs.sh", "bloomweaver-dev", str(tmp_path),
        INSTALLATION_TFVARS='region = "eu-central-1"\nindex_url = "$(id)"',
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    told = json.loads((tmp_path / "images.auto.tfvars.json").read_text())
    assert told == {
        "images": {
            "functions": "host/functions@sha256:1",
            "functions/webhook": "host/functions/webhook@sha256:1",
            "worker-cpu/default": "host/worker-cpu/default@sha256:1",
        }
    }  # fmt: skip
    written = (tmp_path / "installation.auto.tfvars").read_text()
    assert written == 'region = "eu-central-1"\nindex_url = "$(id)"\n'


def plan_json(*changes: tuple[str, list[str]], images: dict[str, str] | None = None) -> str:
    told = [
        {"address": f"{kind}.one", "type": kind, "change": {"actions": actions}}
        for kind, actions in changes
    ]
    return json.dumps({"resource_changes": told, "variables": {"images": {"value": images}}})


FUNCTION, FLEET = "aws_lambda_function", "aws_autoscaling_group"


@pytest.mark.parametrize(
    ("kind", "actions", "code"),
    [
        (FUNCTION, ["delete"], 1),
        (FLEET, ["delete"], 1),
        (FUNCTION, ["delete", "create"], 0),
        (FUNCTION, ["update"], 0),
        ("aws_sns_topic", ["delete"], 0),
    ],
)
def test_a_plan_that_takes_away_what_runs_is_refused(
    programs: Programs, kind: str, actions: list[str], code: int
) -> None:
    ended = programs.run("plan_removals.sh", given=plan_json((FLEET, ["no-op"]), (kind, actions)))
    assert ended.returncode == code, ended.stderr
    assert (f"{kind}.one" in ended.stderr) == bool(code)


def test_a_plan_may_take_away_what_is_said_to_go(programs: Programs) -> None:
    given = plan_json((FLEET, ["delete"]))
    assert programs.run("plan_removals.sh", given=given, ALLOW_REMOVALS="true").returncode == 0
    assert programs.run("plan_removals.sh", given=given, ALLOW_REMOVALS="").returncode == 1


def test_what_is_no_plan_is_not_passed(programs: Programs) -> None:
    assert programs.run("plan_removals.sh", given="Error: no plan").returncode != 0


@pytest.mark.parametrize(
    ("planned", "code"),
    [
        ({"functions/webhook": "host@sha256:1", "functions": "host@sha256:0"}, 0),
        ({"functions/webhook": "host@sha256:2", "functions": "host@sha256:0"}, 1),
        ({"functions": "host@sha256:0"}, 1),
        (None, 1),
    ],
)
def test_a_plan_of_other_images_than_those_that_run_is_not_applied(
    programs: Programs, planned: dict[str, str] | None, code: int
) -> None:
    now = {"functions": "host@sha256:0", "functions/webhook": "host@sha256:1"}
    found = [{"Name": f"/dev/images/{name}", "Value": value} for name, value in now.items()]
    programs.add("aws", f"echo '{json.dumps({'Parameters': found})}'")
    ended = programs.run("plan_images.sh", "dev", given=plan_json(images=planned))
    assert ended.returncode == code, ended.stderr
    assert ("start the workflow terraform again" in ended.stderr) == bool(code)


HOST = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (f"{HOST}/bloomweaver-dev/functions@sha256:{64 * 'a'}", 0),
        (f"{HOST}/bloomweaver-prod/functions@sha256:{64 * 'a'}", 1),
        (f"{HOST}/bloomweaver-dev/functions-old@sha256:{64 * 'a'}", 1),
        (f"{HOST}/other/bloomweaver-dev/functions@sha256:{64 * 'a'}", 1),
        (f"{HOST}/bloomweaver-dev/functions:latest", 1),
        (f"example.com/bloomweaver-dev/functions@sha256:{64 * 'a'}", 1),
        ("", 1),
    ],
)
def test_an_image_of_another_installation_is_refused(
    programs: Programs, image: str, code: int
) -> None:
    ended = programs.run("own_image.sh", "bloomweaver-dev/functions", image)
    assert ended.returncode == code
    assert ("HOST/bloomweaver-dev/functions@sha256" in ended.stderr) == bool(code)


BASE = f"python:3.12-slim-bookworm@sha256:{64 * '1'}"


def asked_for_tag(
    programs: Programs, tmp_path: Path, *, model: str = "", base: str = BASE
) -> subprocess.CompletedProcess[str]:
    output = tmp_path / "output"
    output.write_text("")
    return programs.run(
        "image_tag.sh", HOST, "bloomweaver-dev/functions", "docker/functions.Dockerfile",
        model, base, GITHUB_OUTPUT=str(output), GITHUB_SHA="abc",
    )  # fmt: skip


def tagged(programs: Programs, tmp_path: Path, *, model: str = "", base: str = BASE) -> str:
    ended = asked_for_tag(programs, tmp_path, model=model, base=base)
    assert ended.returncode == 0, ended.stderr
    return (tmp_path / "output").read_text()


def test_the_same_source_is_the_same_image(programs: Programs, tmp_path: Path) -> None:
    programs.add("aws", "exit 0")
    first = tagged(programs, tmp_path)
    assert first == tagged(programs, tmp_path)
    assert "there=true" in first
    assert "--registry-id 123456789012" in programs.calls[0]
    tags = {
        text.splitlines()[0]
        for text in (
            first, tagged(programs, tmp_path, model="s3://b/m"),
            tagged(programs, tmp_path, base=f"python@sha256:{64 * '2'}"),
        )
    }  # fmt: skip
    assert len(tags) == 3


def test_an_image_that_is_not_there_is_built_with_its_model(
    programs: Programs, tmp_path: Path
) -> None:
    programs.add("aws", "echo 'An error occurred (ImageNotFoundException) when …' >&2; exit 254")
    told = tagged(programs, tmp_path, model="s3://bucket/models/bge-large/")
    assert "there=false" in told
    assert f"\nBASE_IMAGE={BASE}\nMODEL_FOLDER=docker/model\nMODEL_NAME=bge-large\n" in told


@pytest.mark.parametrize("why", ["AccessDeniedException", "RepositoryNotFoundException"])
def test_what_cannot_be_asked_is_not_taken_for_missing(
    programs: Programs, tmp_path: Path, why: str
) -> None:
    programs.add("aws", f"echo 'An error occurred ({why}) when …' >&2; exit 254")
    ended = asked_for_tag(programs, tmp_path)
    assert ended.returncode == 1
    assert why in ended.stderr
    assert (tmp_path / "output").read_text() == ""


@pytest.mark.parametrize("base", ["", "python:3.12-slim-bookworm", "python@sha256:1"])
def test_a_base_that_may_be_another_one_tomorrow_is_refused(
    programs: Programs, tmp_path: Path, base: str
) -> None:
    ended = asked_for_tag(programs, tmp_path, base=base)
    assert (ended.returncode, "BASE_IMAGE" in ended.stderr) == (1, True)
    assert programs.calls == []


INDEX = {
    "manifests": [
        {"digest": f"sha256:{'c' * 64}", "platform": {"os": "unknown", "architecture": "unknown"}},
        {"digest": f"sha256:{'d' * 64}", "platform": {"os": "linux", "architecture": "amd64"}},
    ]
}


@pytest.mark.parametrize(
    ("raw", "digest"), [(INDEX, "d" * 64), ({"config": {}}, "e" * 64)], ids=["index", "manifest"]
)
def test_what_lambda_takes_is_the_manifest_in_the_index(
    programs: Programs, raw: object, digest: str
) -> None:
    whole = json.dumps({"digest": f"sha256:{'e' * 64}"})
    programs.add(
        "docker", f"if [[ $* == *--raw* ]]; then echo '{json.dumps(raw)}'; else echo '{whole}'; fi"
    )
    ended = programs.run("image_digest.sh", "host/name:src-1")
    assert ended.stdout == f"host/name@sha256:{digest}\n", ended.stderr


def test_pages_come_after_what_they_name(programs: Programs, tmp_path: Path) -> None:
    programs.add("aws", "echo I1")
    pages = tmp_path / "pages"
    pages.mkdir()
    assert programs.run("publish_frontend.sh", str(pages), "bucket", "D1").returncode == 1
    assert programs.calls == []
    (pages / "index.html").touch()
    assert programs.run("publish_frontend.sh", str(pages), "bucket", "D1").returncode == 0
    assets, others, html, invalidation, wait = programs.calls
    assert "--exclude * --include assets/*-????????.*" in assets
    assert "immutable" in assets
    # favicon.ico, robots.txt and the like change under their name.
    assert "--exclude assets/*-????????.* --exclude *.html" in others
    assert "immutable" not in others
    assert "--include *.html" in html
    assert "no-cache" in html
    assert "--distribution-id D1" in invalidation
    assert "--id I1" in wait
