"""Gives a group of embedding workers an image, replaces its instances, tries it out, and goes back
to the former launch template if any of that fails.

    roll_workers.py --group bloomweaver-dev-worker-default --image HOST/REPOSITORY@sha256:… \\
        --remember /bloomweaver-dev/images/worker-cpu --former-file FILE \\
        -- bloomweaver canary --url …
    roll_workers.py --group bloomweaver-dev-worker-default --former-file FILE --back

The second form is for a step behind a failed or cancelled one: it goes back to what FILE tells, if
it is there.

The image is the one thing in the user data that changes; the rest of it is Terraform's, which makes
the same text of the same image.
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
import time
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError
from rolling import (
    DeployError,
    Ended,
    Former,
    client,
    gone_back,
    remember,
    rolled,
    say,
    smoke,
    words,
)

IMAGE = re.compile(r"[0-9]{12}\.dkr\.ecr\.[A-Za-z0-9.-]+/[A-Za-z0-9._/-]+@sha256:[0-9a-f]{64}")
LOOK_AGAIN_SECONDS = 15.0
CANCEL_SECONDS = 600.0
MADE_HERE = "an image of a deployment"
"""What describes a version of the template that no Terraform made."""
UNDER_WAY = {"Pending", "InProgress", "Baking", "Cancelling", "RollbackInProgress"}


@dataclass(frozen=True)
class Template:
    id: str
    version: str


class Group:
    """An Auto Scaling group with a mixed instances policy, and its launch template."""

    def __init__(self, name: str, patience_seconds: float) -> None:
        self.name = name
        self._patience_seconds = patience_seconds
        self._groups = client("autoscaling")
        self._machines = client("ec2")

    def described(self) -> dict[str, Any] | None:
        """None: there is no such group."""
        found = self._groups.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])
        return next(iter(found["AutoScalingGroups"]), None)

    def policy(self) -> dict[str, Any]:
        """Raises DeployError where it is not as the module `workers` makes it."""
        policy: dict[str, Any] | None = (self.described() or {}).get("MixedInstancesPolicy")
        if policy is None:
            raise DeployError(f"{self.name} has no mixed instances policy")
        return policy

    def template(self) -> Template:
        """The version that it starts instances from now, by number."""
        named = self.policy()["LaunchTemplate"]["LaunchTemplateSpecification"]
        asked = {"LaunchTemplateId": named["LaunchTemplateId"]}
        [version] = self._machines.describe_launch_template_versions(
            **asked, Versions=[str(named["Version"])]
        )["LaunchTemplateVersions"]
        return Template(named["LaunchTemplateId"], str(version["VersionNumber"]))

    def user_data(self, template: Template) -> str:
        [version] = self._machines.describe_launch_template_versions(
            LaunchTemplateId=template.id, Versions=[template.version]
        )["LaunchTemplateVersions"]
        return base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()

    def with_user_data(self, template: Template, text: str) -> Template:
        """A version that differs in nothing else."""
        made = self._machines.create_launch_template_version(
            LaunchTemplateId=template.id,
            SourceVersion=template.version,
            VersionDescription=MADE_HERE,
            LaunchTemplateData={"UserData": base64.b64encode(text.encode()).decode()},
        )["LaunchTemplateVersion"]
        return Template(template.id, str(made["VersionNumber"]))

    def start_from(self, template: Template) -> None:
        """From now on; instances that run stay until they are replaced."""
        policy = self.policy()
        policy["LaunchTemplate"]["LaunchTemplateSpecification"] = {
            "LaunchTemplateId": template.id,
            "Version": template.version,
        }
        self._groups.update_auto_scaling_group(
            AutoScalingGroupName=self.name, MixedInstancesPolicy=policy
        )
        self._machines.modify_launch_template(
            LaunchTemplateId=template.id, DefaultVersion=template.version
        )

    def forget_later_than(self, template: Template) -> None:
        """What deployments made, so that Terraform, which takes the latest version, finds the one
        that works."""
        later = self._machines.describe_launch_template_versions(
            LaunchTemplateId=template.id, MinVersion=str(int(template.version) + 1)
        )["LaunchTemplateVersions"]
        made = [one for one in later if one.get("VersionDescription") == MADE_HERE]
        if made:
            self._machines.delete_launch_template_versions(
                LaunchTemplateId=template.id, Versions=[str(one["VersionNumber"]) for one in made]
            )

    def instances_differ(self, template: Template) -> bool:
        """Whether one that stays runs another version, as a killed deployment leaves it."""
        return any(
            instance.get("LaunchTemplate", {}).get("Version") != template.version
            for instance in (self.described() or {}).get("Instances", [])
            if not instance["LifecycleState"].startswith("Terminat")
        )

    def replace_instances(self) -> None:
        """Each is drained by its lifecycle hook. Without instances there is nothing to replace.
        Raises DeployError unless it ends well."""
        if not (self.described() or {}).get("Instances"):
            say(f"`{self.name}` has no instance now: the next one starts from the new template")
            return
        refresh = str(
            self._groups.start_instance_refresh(
                AutoScalingGroupName=self.name,
                Preferences={"MinHealthyPercentage": 50, "ScaleInProtectedInstances": "Refresh"},
            )["InstanceRefreshId"]
        )
        status = self._until_ended(refresh, self._patience_seconds)
        if status != "Successful":
            raise DeployError(f"the instance refresh of {self.name} ended as {status}")

    def _until_ended(self, refresh: str, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while True:
            [told] = self._groups.describe_instance_refreshes(
                AutoScalingGroupName=self.name, InstanceRefreshIds=[refresh]
            )["InstanceRefreshes"]
            status = str(told["Status"])
            if status not in UNDER_WAY:
                return status
            if time.monotonic() > deadline:
                raise DeployError(f"the instance refresh of {self.name} is still {status}")
            time.sleep(LOOK_AGAIN_SECONDS)

    def refresh_under_way(self) -> str | None:
        """Of whomever: a group has one at a time."""
        told = self._groups.describe_instance_refreshes(AutoScalingGroupName=self.name)
        under_way = (one for one in told["InstanceRefreshes"] if one["Status"] in UNDER_WAY)
        return next((str(one["InstanceRefreshId"]) for one in under_way), None)

    def until_quiet(self) -> None:
        """Terraform begins a refresh where it changes the template, and does not wait for its end.
        Raises DeployError when it takes too long."""
        if (refresh := self.refresh_under_way()) is not None:
            say(f"`{self.name}` is replacing its instances already: waiting for that")
            self._until_ended(refresh, self._patience_seconds)

    def cancel_replacing(self) -> str | None:
        """Also a refresh of a deployment that was killed. Does not wait for its end."""
        if (refresh := self.refresh_under_way()) is not None:
            self._cancel()
        return refresh

    def _cancel(self) -> None:
        """One that ends by itself meanwhile, or ends already, must not keep us from going back."""
        try:
            self._groups.cancel_instance_refresh(AutoScalingGroupName=self.name)
        except ClientError as error:
            say(f"the instance refresh of {self.name} could not be cancelled: {error}")

    def go_back(self, former: Template) -> None:
        """What makes new instances right comes first, for there may be seconds only; what takes
        minutes last."""
        cancelled = self.cancel_replacing()
        self.start_from(former)
        self.forget_later_than(former)
        say(f"`{self.name}` starts version {former.version} of its template again")
        if cancelled is not None:
            self._until_ended(cancelled, CANCEL_SECONDS)
        self.replace_instances()


def with_image(user_data: str, image: str) -> str:
    """Raises DeployError when no image is named in it by its digest."""
    changed, count = IMAGE.subn(image, user_data)
    if not count:
        raise DeployError("the user data names no image of ECR by its digest")
    return changed


def roll(group: Group, image: str, command: list[str], kept: Former) -> Ended:
    if group.described() is None:
        say(f"`{group.name}` is not there yet: apply Terraform, which makes it of this image")
        return Ended(0, tried=False)
    try:
        group.until_quiet()
    except DeployError as error:
        say(f"failed, and nothing was changed: {error}")
        return Ended(1, tried=False)
    former = group.template()

    def forward() -> None:
        before = group.user_data(former)
        after = with_image(before, image)
        kept.keep({"id": former.id, "version": former.version})
        if after != before:
            made = group.with_user_data(former, after)
            group.start_from(made)
            say(f"`{group.name}` started version {former.version} of its template")
            say(f"`{group.name}` starts version {made.version} of its template, with {image}")
            group.replace_instances()
        elif group.instances_differ(former):
            say(f"`{group.name}` names {image} already, and instances of it run another version")
            group.replace_instances()

    code = rolled(forward, lambda: smoke(command), lambda: go_back(group, former), kept)
    return Ended(code, tried=True)


def go_back(group: Group, former: Template) -> None:
    """Unless all is as it was."""
    if group.template() != former or group.instances_differ(former):
        group.go_back(former)
    else:
        group.cancel_replacing()
        group.forget_later_than(former)


def back(group: Group, kept: Former) -> int:
    """From what an earlier step of the workflow could not go back from."""
    state = kept.kept()
    if state is None:
        say("there is nothing to go back from")
        return 0
    former = Template(state["id"], state["version"])
    return 0 if gone_back(lambda: go_back(group, former), kept) else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--group", required=True)
    parser.add_argument("--image", help="by its digest")
    parser.add_argument("--remember", help="the parameter that Terraform reads")
    parser.add_argument("--patience-seconds", type=float, default=1800.0, help="of a refresh")
    parser.add_argument("--former-file", help="where it is kept what ran before")
    parser.add_argument("--back", action="store_true", help="to what --former-file tells")
    own, command = words()
    given = parser.parse_args(own)
    group, kept = Group(given.group, given.patience_seconds), Former(given.former_file)
    if given.back:
        return back(group, kept)
    if not IMAGE.fullmatch(given.image or ""):
        parser.error("--image must be one of ECR, by its digest")
    ended = roll(group, given.image, command, kept)
    if ended.code == 0:
        remember(given.remember, given.image, tried=ended.tried)
        kept.drop()
    return ended.code


if __name__ == "__main__":
    sys.exit(main())
