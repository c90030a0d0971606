"""Fleets' way forward and back. Neither emulator has versions of launch templates that come of one
another or that can be deleted, so that the services are a fake of their documented answers."""

from __future__ import annotations

import base64
import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.deploy.workflows import ROOT

GROUP = "bloomweaver-dev-worker-default"
REGISTRY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/bloomweaver-dev"
OLD, NEW = (f"{REGISTRY}/worker-cpu@sha256:{digit * 64}" for digit in "ab")
PASSES, FAILS = [sys.executable, "-c", ""], [sys.executable, "-c", "raise SystemExit(3)"]
OVERRIDES = [{"InstanceType": "c7i.large"}, {"InstanceType": "c6i.large"}]


def user_data(image: str) -> str:
    return f"#!/bin/bash\npull {image}\nrun {image} worker embed\n"


@dataclass
class Aws:
    """EC2, Auto Scaling and Systems Manager. `refreshes` end one after the other as `ends` says."""

    instances: int = 0
    running: str = "1"
    """The version that they run."""
    ends: list[str] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    described: dict[str, str] = field(default_factory=dict)
    default: str = "1"
    policy: dict[str, Any] = field(default_factory=dict)
    started_from: list[str] = field(default_factory=list)
    """The version of each refresh."""
    cancelled: set[str] = field(default_factory=set)
    parameters: dict[str, str] = field(default_factory=dict)
    ended: bool = True
    """Whether the last refresh has."""
    there: bool = True
    looks: int = 0
    slowness: int = 3
    """At which look a refresh has ended."""

    def __post_init__(self) -> None:
        text = base64.b64encode(user_data(OLD).encode()).decode()
        self.versions["1"] = {"ImageId": "resolve:ssm:/ami", "UserData": text}
        named = {"LaunchTemplateId": "lt-1", "LaunchTemplateName": GROUP, "Version": "1"}
        self.policy = {
            "LaunchTemplate": {"LaunchTemplateSpecification": named, "Overrides": OVERRIDES},
            "InstancesDistribution": {"OnDemandBaseCapacity": 1},
        }

    @property
    def version(self) -> str:
        return str(self.policy["LaunchTemplate"]["LaunchTemplateSpecification"]["Version"])

    def runs(self) -> str:
        return base64.b64decode(self.versions[self.version]["UserData"]).decode()

    # --- EC2

    def describe_launch_template_versions(self, **asked: Any) -> dict[str, Any]:
        assert asked["LaunchTemplateId"] == "lt-1"
        least = int(asked.get("MinVersion", 1))
        told = [
            {"VersionNumber": int(number), "LaunchTemplateData": version, **self.made(number)}
            for number, version in self.versions.items()
            if number in asked.get("Versions", self.versions) and int(number) >= least
        ]
        return {"LaunchTemplateVersions": told}

    def made(self, number: str) -> dict[str, str]:
        by = self.described.get(number)
        return {"VersionDescription": by} if by else {}

    def create_launch_template_version(self, **asked: Any) -> dict[str, Any]:
        number = str(1 + max(map(int, self.versions)))
        self.versions[number] = {
            **self.versions[asked["SourceVersion"]], **asked["LaunchTemplateData"]
        }  # fmt: skip
        self.described[number] = asked["VersionDescription"]
        return {"LaunchTemplateVersion": {"VersionNumber": int(number)}}

    def modify_launch_template(self, **asked: Any) -> None:
        assert asked["DefaultVersion"] in self.versions
        self.default = asked["DefaultVersion"]

    def delete_launch_template_versions(self, **asked: Any) -> None:
        for number in asked["Versions"]:
            assert number not in (self.default, self.version)
            del self.versions[number]

    # --- Auto Scaling

    def describe_auto_scaling_groups(self, **asked: Any) -> dict[str, Any]:
        assert asked == {"AutoScalingGroupNames": [GROUP]}
        instance = {"LaunchTemplate": {"Version": self.running}, "LifecycleState": "InService"}
        group = {"Instances": [instance] * self.instances, "MixedInstancesPolicy": self.policy}
        return {"AutoScalingGroups": [group] if self.there else []}

    def update_auto_scaling_group(self, **asked: Any) -> None:
        self.policy = asked["MixedInstancesPolicy"]

    def start_instance_refresh(self, **asked: Any) -> dict[str, str]:
        assert asked["Preferences"]["ScaleInProtectedInstances"] == "Refresh"
        assert self.ended, "a group has one refresh at a time"
        self.started_from.append(self.version)
        self.looks, self.ended, self.running = 0, False, self.version
        return {"InstanceRefreshId": str(len(self.started_from))}

    def describe_instance_refreshes(self, **asked: Any) -> dict[str, Any]:
        refresh = str(len(self.started_from))
        if "InstanceRefreshIds" in asked:
            assert asked["InstanceRefreshIds"] == [refresh]
        elif self.ended:
            return {"InstanceRefreshes": []}
        else:
            told = {"InstanceRefreshId": refresh, "Status": "InProgress"}
            return {"InstanceRefreshes": [told]}
        self.looks += 1
        end = "Cancelled" if refresh in self.cancelled else self.ends[int(refresh) - 1]
        self.ended = self.looks >= self.slowness and end != "InProgress"
        return {"InstanceRefreshes": [{"Status": end if self.ended else "InProgress"}]}

    def cancel_instance_refresh(self, **asked: Any) -> None:
        assert asked == {"AutoScalingGroupName": GROUP}
        self.cancelled.add(str(len(self.started_from)))
        self.looks = 0

    # --- Systems Manager

    class exceptions:  # noqa: N801 - botocore's name
        class ParameterAlreadyExists(Exception): ...  # noqa: N818 - botocore's name

    def put_parameter(self, **asked: Any) -> None:
        if asked["Name"] in self.parameters and not asked["Overwrite"]:
            raise self.exceptions.ParameterAlreadyExists
        self.parameters[asked["Name"]] = asked["Value"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / ".github/scripts"))
    for name in ("rolling", "roll_workers"):
        sys.modules.pop(name, None)
    module = importlib.import_module("roll_workers")
    monkeypatch.setattr(module, "LOOK_AGAIN_SECONDS", 0.0)
    return module


def roll(
    script: Any,
    aws: Aws,
    monkeypatch: pytest.MonkeyPatch,
    *command: str,
    image: str = NEW,
    patience: float = 60,
    former: str = "",
) -> int:
    told = ["--image", image, "--remember", "/images/worker-cpu"]
    told += ["--patience-seconds", str(patience)]
    return run(script, aws, monkeypatch, *told, *(["--former-file", former] if former else []),
               "--", *command)  # fmt: skip


def run(script: Any, aws: Aws, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(script, "client", lambda _service: aws)
    monkeypatch.setattr(sys.modules["rolling"], "client", lambda _service: aws)
    monkeypatch.setattr(sys, "argv", ["roll_workers.py", "--group", GROUP, *words])
    return int(script.main())


def test_a_fleet_at_zero_starts_from_what_passed(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert roll(script, aws := Aws(), monkeypatch, *PASSES) == 0
    assert (aws.version, aws.default, aws.runs()) == ("2", "2", user_data(NEW))
    assert aws.started_from == []
    assert aws.parameters == {"/images/worker-cpu": NEW}
    # All that Terraform wrote besides is still there.
    assert aws.versions["2"]["ImageId"] == "resolve:ssm:/ami"
    assert aws.policy["LaunchTemplate"]["Overrides"] == OVERRIDES
    assert aws.policy["InstancesDistribution"] == {"OnDemandBaseCapacity": 1}


def test_instances_that_run_are_replaced_before_the_trial(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws(instances=2, ends=["Successful"])
    assert roll(script, aws, monkeypatch, *PASSES) == 0
    assert (aws.started_from, aws.looks) == (["2"], 3)


def test_a_trial_that_fails_brings_the_former_instances_back(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws(instances=2, ends=["Successful", "Successful"])
    assert roll(script, aws, monkeypatch, *FAILS) == 1
    assert (aws.version, aws.default, aws.runs()) == ("1", "1", user_data(OLD))
    assert aws.started_from == ["2", "1"]
    # Terraform takes the latest version.
    assert list(aws.versions) == ["1"]
    assert aws.parameters == {}


@pytest.mark.parametrize("end", ["Failed", "Cancelled", "RollbackSuccessful"])
def test_a_refresh_that_fails_goes_back_without_a_trial(
    script: Any, monkeypatch: pytest.MonkeyPatch, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    aws = Aws(instances=1, ends=[end, "Successful"])
    assert roll(script, aws, monkeypatch, sys.executable, "-c", "print('tried')") == 1
    assert (aws.version, aws.started_from, aws.parameters) == ("1", ["2", "1"], {})
    told = capsys.readouterr()
    assert f"ended as {end}" in told.err
    assert "tried" not in told.out


def test_a_refresh_that_does_not_end_is_cancelled(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws(instances=1, ends=["InProgress", "Successful"], slowness=1)
    assert roll(script, aws, monkeypatch, *PASSES, patience=0) == 1
    assert (aws.cancelled, aws.started_from) == ({"1"}, ["2", "1"])
    assert (aws.version, list(aws.versions), aws.parameters) == ("1", ["1"], {})


def test_one_that_cannot_be_cancelled_still_goes_back(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "CANCEL_SECONDS", 0.0)
    aws = Aws(instances=1, ends=["InProgress", "Failed"], slowness=1)
    monkeypatch.setattr(aws, "cancel_instance_refresh", lambda **_asked: None)
    assert roll(script, aws, monkeypatch, *PASSES, patience=0) == 1
    assert (aws.version, aws.default, list(aws.versions)) == ("1", "1", ["1"])
    assert "could not go all the way back" in capsys.readouterr().err


def test_the_same_image_makes_no_version(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    aws = Aws(instances=1)
    assert roll(script, aws, monkeypatch, *PASSES, image=OLD) == 0
    assert (list(aws.versions), aws.started_from) == (["1"], [])


def test_user_data_without_an_image_is_left_alone(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws()
    aws.versions["1"]["UserData"] = base64.b64encode(b"#!/bin/bash\nrun worker:latest\n").decode()
    assert roll(script, aws, monkeypatch, *PASSES) == 1
    assert list(aws.versions) == ["1"]


def test_a_fleet_that_is_not_there_is_terraforms(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws(there=False)
    assert roll(script, aws, monkeypatch, *FAILS) == 0
    assert aws.parameters == {"/images/worker-cpu": NEW}


def test_what_nothing_tried_does_not_displace_what_passed(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws(there=False, parameters={"/images/worker-cpu": OLD})
    assert roll(script, aws, monkeypatch, *PASSES) == 0
    assert aws.parameters == {"/images/worker-cpu": OLD}


def test_what_passed_displaces_what_passed_before(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws(parameters={"/images/worker-cpu": OLD})
    assert roll(script, aws, monkeypatch, *PASSES) == 0
    assert aws.parameters == {"/images/worker-cpu": NEW}


def test_the_same_image_in_a_newer_template_reaches_the_instances(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws(instances=1, running="7", ends=["Successful"])
    assert roll(script, aws, monkeypatch, *PASSES, image=OLD) == 0
    assert (list(aws.versions), aws.started_from, aws.running) == (["1"], ["1"], "1")


def test_a_refresh_of_terraform_ends_first(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    aws = Aws(instances=1, ends=["Successful", "Successful"], started_from=["1"], ended=False)
    assert roll(script, aws, monkeypatch, *PASSES) == 0
    assert (aws.started_from, aws.cancelled) == (["1", "2"], set())


def test_a_refresh_of_terraform_that_does_not_end_is_left_alone(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws(instances=1, ends=["InProgress"], started_from=["1"], ended=False)
    assert roll(script, aws, monkeypatch, *PASSES, patience=0) == 1
    assert (aws.cancelled, list(aws.versions), aws.parameters) == (set(), ["1"], {})


def test_the_template_is_right_again_before_the_cancelled_refresh_has_ended(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitHub leaves a cancelled step ten seconds, and a refresh takes minutes to end."""
    aws = Aws(instances=1, ends=["InProgress", "Successful"])
    seen = []

    def cancel(**asked: Any) -> None:
        Aws.cancel_instance_refresh(aws, **asked)
        described = Aws.describe_instance_refreshes

        def look(**asked: Any) -> dict[str, Any]:
            seen.append((aws.version, aws.default, list(aws.versions)))
            return described(aws, **asked)

        monkeypatch.setattr(aws, "describe_instance_refreshes", look)

    monkeypatch.setattr(aws, "cancel_instance_refresh", cancel)
    assert roll(script, aws, monkeypatch, *PASSES, patience=0) == 1
    assert seen[0] == ("1", "1", ["1"])


def test_a_refresh_that_ended_by_itself_meanwhile_keeps_nothing_from_going_back(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws(instances=1, ends=["InProgress", "Successful"])

    def ended(**_asked: Any) -> None:
        aws.ends[0] = "Successful"
        told: Any = {"Error": {"Code": "ActiveInstanceRefreshNotFound", "Message": "none"}}
        raise ClientError(told, "CancelInstanceRefresh")

    monkeypatch.setattr(aws, "cancel_instance_refresh", ended)
    assert roll(script, aws, monkeypatch, *PASSES, patience=0) == 1
    assert (aws.version, aws.started_from) == ("1", ["2", "1"])


class Killed(BaseException):
    """As SIGKILL ends a script: it does nothing more."""


@pytest.fixture
def killed(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Aws, str]:
    """A deployment that was killed in the middle of its refresh, and the file that it left."""
    aws, former = Aws(instances=1, ends=["InProgress", "Successful"]), str(tmp_path / "former.json")

    def kill(*_: Any) -> int:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["rolling"], "gone_back", kill)
        with pytest.raises(Killed):
            roll(script, aws, patched, *PASSES, patience=0, former=former)
    assert (aws.version, aws.running, aws.ended) == ("2", "2", False)
    return aws, former


def test_a_later_step_goes_back_from_what_was_killed(
    script: Any, monkeypatch: pytest.MonkeyPatch, killed: tuple[Aws, str]
) -> None:
    aws, former = killed
    assert run(script, aws, monkeypatch, "--former-file", former, "--back") == 0
    assert (aws.version, aws.default, list(aws.versions)) == ("1", "1", ["1"])
    assert (aws.cancelled, aws.started_from, aws.running) == ({"1"}, ["2", "1"], "1")
    # Once is enough.
    assert run(script, aws, monkeypatch, "--former-file", former, "--back") == 0
    assert aws.started_from == ["2", "1"]


def test_instances_go_back_where_the_template_did_already(
    script: Any, monkeypatch: pytest.MonkeyPatch, killed: tuple[Aws, str]
) -> None:
    aws, former = killed
    aws.policy["LaunchTemplate"]["LaunchTemplateSpecification"]["Version"] = "1"
    assert run(script, aws, monkeypatch, "--former-file", former, "--back") == 0
    assert (aws.started_from, aws.running) == (["2", "1"], "1")


def test_going_back_that_does_not_succeed_can_be_tried_again(
    script: Any, monkeypatch: pytest.MonkeyPatch, killed: tuple[Aws, str]
) -> None:
    aws, former = killed
    aws.ends = ["InProgress", "Failed", "Successful"]
    assert run(script, aws, monkeypatch, "--former-file", former, "--back") == 1
    aws.running = "2"
    assert run(script, aws, monkeypatch, "--former-file", former, "--back") == 0
    assert aws.started_from == ["2", "1", "1"]


@pytest.mark.parametrize("command", [PASSES, FAILS], ids=["passed", "went back"])
def test_after_a_deployment_that_ended_there_is_nothing_to_go_back_from(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    former = tmp_path / "former.json"
    roll(script, aws := Aws(), monkeypatch, *command, former=str(former))
    version = aws.version
    assert run(script, aws, monkeypatch, "--former-file", str(former), "--back") == 0
    assert (aws.version, former.exists()) == (version, False)


def test_a_tag_is_no_image_to_deploy(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        roll(script, aws := Aws(), monkeypatch, image=f"{REGISTRY}/worker-cpu:latest")
    assert list(aws.versions) == ["1"]


def test_what_changes_is_what_the_fleet_starts_from_now(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws()
    aws.versions["2"] = {**aws.versions["1"], "ImageId": "ami-newer"}
    aws.policy["LaunchTemplate"]["LaunchTemplateSpecification"]["Version"] = "2"
    assert roll(script, aws, monkeypatch, *PASSES) == 0
    assert (aws.version, aws.versions["3"]["ImageId"]) == ("3", "ami-newer")
