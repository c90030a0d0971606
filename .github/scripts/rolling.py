"""What both deployments share: a smoke test in between, and the way back when it fails.

They need botocore, which the project brings, and where the credentials come from is its to find.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CHILD_SECONDS = 25.0
"""For a smoke test that is ended to leave nothing behind: a canary takes 20 to delete."""


class DeployError(Exception):
    """Ends a deployment, which is then taken back."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a deployment ended: its exit code, and whether there was anything to try out."""

    code: int
    tried: bool


class Former:
    """What ran before, in a file, so that a later step of the workflow can go back to it when the
    runner killed this one. The file is there as long as there may be something to go back from."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None

    def keep(self, state: Mapping[str, Any]) -> None:
        if self._path is not None:
            self._path.write_text(json.dumps(state), encoding="utf-8")

    def kept(self) -> dict[str, Any] | None:
        """None: nothing was begun, or it ended."""
        if self._path is None or not self._path.exists():
            return None
        state: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        return state

    def drop(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def words() -> tuple[list[str], list[str]]:
    """What comes before `--`, and the command behind it."""
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    return given[:at], given[at + 1 :]


def client(service: str, config: Config | None = None) -> Any:
    """Region and credentials as every AWS program finds them."""
    return botocore.session.get_session().create_client(service, config=config)


def say(text: str) -> None:
    """On stderr, and into the summary of the run where there is one."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - it is a command's output
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(path, "a", encoding="utf-8") as summary:  # noqa: PTH123 - a name it is given
            summary.write(f"- {text}\n")


def smoke(command: Sequence[str]) -> None:
    """Raises DeployError unless the command ends with 0; without one there is nothing to do."""
    if not command:
        return
    process = subprocess.Popen(command)  # noqa: S603 - the workflow's own words
    try:
        code = process.wait()
    except BaseException:
        _end(process)
        raise
    if code:
        raise DeployError(f"the smoke test ended with {code}: {' '.join(command)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """By SIGTERM first: a canary deletes its document then. A second signal must not cut that."""
    _ignore_signals()
    process.terminate()
    try:
        process.wait(CHILD_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def remember(parameter: str | None, image: str, *, tried: bool) -> None:
    """What Terraform reads: the image that passed, in Systems Manager. One that was not tried,
    because there is nothing yet that runs it, is put only where there is none: another may have
    passed."""
    if not parameter:
        return
    systems = client("ssm")
    try:
        systems.put_parameter(Name=parameter, Value=image, Type="String", Overwrite=tried)
    except systems.exceptions.ParameterAlreadyExists:
        say(f"`{parameter}` stays as it is: nothing tried {image} out")
    else:
        say(f"`{parameter}` is {image}")


def rolled(
    forward: Callable[[], None],
    check: Callable[[], None],
    back: Callable[[], None],
    former: Former,
) -> int:
    """The exit code: 0 when it went forward and the check passed; else 1, and it went back. A
    cancelled run goes back, too."""
    handlers = [signal.signal(number, _interrupted) for number in SIGNALS]
    try:
        forward()
        check()
    except BaseException as error:
        _ignore_signals()
        say(f"failed: {error!s}")
        gone_back(back, former)
        return 1
    finally:
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, handler)
    return 0


def gone_back(back: Callable[[], None], former: Former) -> bool:
    """Whether it went all the way back. Then there is nothing left to go back from."""
    try:
        back()
    except Exception as error:
        say(f"could not go all the way back: {error!s}; look at it by hand")
        return False
    former.drop()
    return True


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _interrupted(number: int, _frame: object) -> None:
    raise DeployError(f"interrupted by signal {number}")
