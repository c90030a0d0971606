"""Gives Lambda functions an image, tries it out, and gives them their former one if that fails.

    roll_function.py --function bloomweaver-dev-webhook --image HOST/REPOSITORY@sha256:… \\
        --remember /bloomweaver-dev/images/functions --former-file FILE \\
        -- bloomweaver canary --url …
    roll_function.py --function bloomweaver-dev-webhook --former-file FILE --back

A function that is not there yet is Terraform's to make: it is told, and left out. The second form
is for a step behind a failed or cancelled one: it goes back to what FILE tells, if it is there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
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

LONGEST_EVENT = Config(read_timeout=910, retries={"total_max_attempts": 1})
"""A function may take 15 minutes; a call that is made again would run it beside itself."""
BUSY_SECONDS = 960.0
"""For a scheduled run to end where a function has a concurrency of one."""
LOOK_AGAIN_SECONDS = 10.0


def former_image(functions: Any, name: str) -> str | None:
    """By its digest. None: there is no such function. Raises ClientError, and DeployError for one
    that is no image."""
    try:
        code = functions.get_function(FunctionName=name)["Code"]
    except functions.exceptions.ResourceNotFoundException:
        return None
    if not code.get("ImageUri"):
        raise DeployError(f"{name} runs a zip: it is Terraform's to change (functions_zip)")
    named = str(code["ImageUri"])
    return named if "@sha256:" in named else str(code["ResolvedImageUri"])


def give(functions: Any, name: str, image: str) -> None:
    """Publishes a version, so that what ran when can be looked up. A change under way, as an
    interruption leaves one, ends first. Raises WaiterError."""
    updated = functions.get_waiter("function_updated_v2")
    updated.wait(FunctionName=name)
    functions.update_function_code(FunctionName=name, ImageUri=image, Publish=True)
    updated.wait(FunctionName=name)
    say(f"`{name}` runs {image}")


def give_back(functions: Any, former: Mapping[str, str | None]) -> None:
    """To each that runs another image. Raises DeployError when one could not have its own."""
    failed = []
    for name, before in former.items():
        try:
            if before is not None and former_image(functions, name) != before:
                give(functions, name, before)
        except (BotoCoreError, ClientError) as error:
            failed.append(f"`{name}` could not be given {before} again: {error}")
    if failed:
        raise DeployError("; ".join(failed))


def trial_event(name: str, namespace: str) -> dict[str, Any] | None:
    """What tries out a function that no request of the canary reaches, and changes nothing that a
    schedule would not; None for the others."""
    events: dict[str, dict[str, Any]] = {
        "sweep": {},
        "scrub": {"namespace": namespace},
        "intake": {"Records": []},
    }
    return events.get(name.rpartition("-")[2])


def call(caller: Any, name: str, event: Mapping[str, Any]) -> None:
    """Raises DeployError when the function does, and ClientError."""
    answer = _answered(caller, name, json.dumps(event).encode())
    told = answer["Payload"].read().decode()
    if answer.get("FunctionError"):
        raise DeployError(f"{name} failed at {json.dumps(event)}: {told}")
    say(f"`{name}` answers {json.dumps(event)} with {told}")


def _answered(caller: Any, name: str, payload: bytes) -> Any:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return caller.invoke(FunctionName=name, Payload=payload)
        except caller.exceptions.TooManyRequestsException:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_AGAIN_SECONDS)


def roll(names: list[str], image: str, command: list[str], namespace: str, kept: Former) -> Ended:
    functions = client("lambda")
    former: dict[str, str | None] = {}

    def forward() -> None:
        former.update({name: former_image(functions, name) for name in names})
        kept.keep(former)
        for name, before in former.items():
            if before is None:
                say(f"`{name}` is not there yet: apply Terraform, which makes it of this image")
            elif before != image:
                say(f"`{name}` ran {before}")
                give(functions, name, image)

    def check() -> None:
        there = [name for name, before in former.items() if before is not None]
        for name in there:
            if (event := trial_event(name, namespace)) is not None:
                call(client("lambda", LONGEST_EVENT), name, event)
        if there:
            smoke(command)

    code = rolled(forward, check, lambda: give_back(functions, former), kept)
    return Ended(code, tried=any(former.values()))


def back(kept: Former) -> int:
    former = kept.kept()
    if former is None:
        say("there is nothing to go back from")
        return 0
    return 0 if gone_back(lambda: give_back(client("lambda"), former), kept) else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--function", action="append", required=True, dest="functions")
    parser.add_argument("--image", help="by its digest")
    parser.add_argument("--remember", help="the parameter that Terraform reads")
    parser.add_argument(
        "--namespace", default=os.environ.get("CANARY_NAMESPACE") or "canary", help="for the scrub"
    )
    parser.add_argument("--former-file", help="where it is kept what ran before")
    parser.add_argument("--back", action="store_true", help="to what --former-file tells")
    own, command = words()
    given = parser.parse_args(own)
    kept = Former(given.former_file)
    if given.back:
        return back(kept)
    if "@sha256:" not in (given.image or ""):
        parser.error("--image must name a digest: a tag may be another image tomorrow")
    ended = roll(given.functions, given.image, command, given.namespace, kept)
    if ended.code == 0:
        remember(given.remember, given.image, tried=ended.tried)
        kept.drop()
    return ended.code


if __name__ == "__main__":
    sys.exit(main())
