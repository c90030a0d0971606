"""Functions' way forward and back, on an emulator: what runs after a trial that passed, one
that failed, and one that was interrupted."""

from __future__ import annotations

import importlib
import io
import itertools
import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import botocore.session
import pytest

from tests.acceptance.service import wait_until
from tests.deploy.workflows import ROOT
from tests.servers.aws import REGION, aws_environment, moto, use

pytestmark = pytest.mark.deploy

HOST = f"123456789012.dkr.ecr.{REGION}.amazonaws.com"
OLD, NEW = (f"{HOST}/bloomweaver/functions@sha256:{digit * 64}" for digit in "ab")
PASSES, FAILS = [sys.executable, "-c", ""], [sys.executable, "-c", "raise SystemExit(3)"]


@pytest.fixture(autouse=True)
def _emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, moto())


def client(service: str) -> Any:
    return botocore.session.get_session().create_client(service)


def script(name: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(ROOT / ".github/scripts" / name), *words],
        env=aws_environment(moto().url), text=True,
        stdin=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(name: str, *words: str) -> tuple[int, str]:
    process = script(name, *words)
    _, told = process.communicate(timeout=120)
    return process.returncode, told


def parameter(name: str) -> str | None:
    systems = client("ssm")
    try:
        return str(systems.get_parameter(Name=name)["Parameter"]["Value"])
    except systems.exceptions.ParameterNotFound:
        return None


def role() -> str:
    trust = {"Version": "2012-10-17", "Statement": []}
    made = client("iam").create_role(
        RoleName=f"role-{uuid4().hex}", AssumeRolePolicyDocument=json.dumps(trust)
    )
    return str(made["Role"]["Arn"])


@pytest.fixture
def functions() -> list[str]:
    names = [f"bloomweaver-{uuid4().hex[:8]}-{role}" for role in ("create", "update")]
    arn = role()
    for name in names:
        client("lambda").create_function(
            FunctionName=name, Role=arn, PackageType="Image", Code={"ImageUri": OLD}
        )
    return names


def images(names: list[str]) -> list[str]:
    return [client("lambda").get_function(FunctionName=name)["Code"]["ImageUri"] for name in names]


def named(names: list[str]) -> list[str]:
    return [word for name in names for word in ("--function", name)]


def roll_functions(names: list[str], *command: str, image: str = NEW) -> tuple[int, str]:
    words = named(names)
    told = ["--image", image, "--remember", f"/{names[0]}/images/functions"]
    return run("roll_function.py", *words, *told, "--", *command)


def test_functions_run_what_passed_its_trial(functions: list[str]) -> None:
    code, told = roll_functions(functions, *PASSES)
    assert (code, images(functions)) == (0, [NEW, NEW]), told
    assert parameter(f"/{functions[0]}/images/functions") == NEW


def test_all_functions_run_what_they_did_when_the_trial_fails(functions: list[str]) -> None:
    code, told = roll_functions(functions, *FAILS)
    assert (code, images(functions)) == (1, [OLD, OLD])
    assert "the smoke test ended with 3" in told
    assert parameter(f"/{functions[0]}/images/functions") is None


def test_the_trial_is_of_the_new_image(functions: list[str]) -> None:
    """Not before it runs: the trial asks what does."""
    looks = "import sys, botocore.session as s; f = s.get_session().create_client('lambda'); "
    looks += (
        f"sys.exit(f.get_function(FunctionName='{functions[1]}')['Code']['ImageUri'] != '{NEW}')"
    )
    code, told = roll_functions(functions, sys.executable, "-W", "ignore", "-c", looks)
    assert code == 0, told


def test_an_interrupted_deployment_goes_back(functions: list[str], tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    waits = f"import pathlib, time; pathlib.Path('{begun}').touch(); time.sleep(60)"
    words = [*named(functions), "--image", NEW, "--former-file", str(tmp_path / "former.json")]
    process = script("roll_function.py", *words, "--", sys.executable, "-c", waits)
    wait_until("the trial began", begun.exists)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, images(functions)) == (1, [OLD, OLD]), told
    assert "interrupted" in told
    assert not (tmp_path / "former.json").exists()


def test_the_trial_may_clean_up_before_an_interrupted_deployment_goes_back(
    functions: list[str], tmp_path: Path
) -> None:
    begun, cleaned = tmp_path / "begun", tmp_path / "cleaned"
    waits = f"""import pathlib, signal, time
def clean_up(*_):
    pathlib.Path({str(cleaned)!r}).touch()
    raise SystemExit(143)
signal.signal(signal.SIGTERM, clean_up)
pathlib.Path({str(begun)!r}).touch()
time.sleep(60)"""
    words = [*named(functions), "--image", NEW, "--", sys.executable, "-c", waits]
    process = script("roll_function.py", *words)
    wait_until("the trial began", begun.exists)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, images(functions)) == (1, [OLD, OLD]), told
    assert cleaned.exists()


def test_a_later_step_goes_back_from_what_was_killed(functions: list[str], tmp_path: Path) -> None:
    begun, former = tmp_path / "begun", ["--former-file", str(tmp_path / "former.json")]
    waits = f"import pathlib, sys; pathlib.Path({str(begun)!r}).touch(); sys.stdin.read()"
    words = [*named(functions), "--image", NEW, *former, "--", sys.executable, "-c", waits]
    process = script("roll_function.py", *words)
    wait_until("the trial began", begun.exists)
    process.kill()
    process.communicate(timeout=60)
    assert images(functions) == [NEW, NEW]
    code, told = run("roll_function.py", *named(functions), *former, "--back")
    assert (code, images(functions)) == (0, [OLD, OLD]), told
    code, told = run("roll_function.py", *named(functions), *former, "--back")
    assert (code, "nothing to go back from" in told) == (0, True)


def test_a_function_that_is_not_there_is_terraforms(functions: list[str]) -> None:
    code, told = roll_functions(["bloomweaver-nothing-there"], *FAILS)
    assert (code, "apply Terraform" in told) == (0, True)
    assert parameter("/bloomweaver-nothing-there/images/functions") == NEW


def test_what_nothing_tried_does_not_displace_what_passed() -> None:
    name = "bloomweaver-never-there"
    path = f"/{name}/images/functions"
    client("ssm").put_parameter(Name=path, Value=OLD, Type="String")
    code, told = roll_functions([name], *PASSES)
    assert (code, parameter(path)) == (0, OLD), told
    assert "stays as it is" in told


def test_what_passed_displaces_what_passed_before(functions: list[str]) -> None:
    path = f"/{functions[0]}/images/functions"
    client("ssm").put_parameter(Name=path, Value=OLD, Type="String")
    code, told = roll_functions([*functions, "bloomweaver-never-there"], *PASSES)
    assert (code, parameter(path)) == (0, NEW), told


def test_a_tag_is_no_image_to_deploy(functions: list[str]) -> None:
    code, _ = roll_functions(functions, *PASSES, image=f"{HOST}/bloomweaver/functions:latest")
    assert (code, images(functions)) == (2, [OLD, OLD])


def test_a_zip_is_left_as_it_is() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.py", "def b(event, context): ...")
    name = f"bloomweaver-{uuid4().hex[:8]}-webhook"
    client("lambda").create_function(
        FunctionName=name, Role=role(), Runtime="python3.12", Handler="a.b",
        Code={"ZipFile": packed.getvalue()},
    )  # fmt: skip
    code, told = roll_functions([name], *PASSES)
    assert (code, "functions_zip" in told) == (1, True)


# No emulator runs images, so that what is invoked is a fake of Lambda's documented answers.


class Lambda:
    """Functions that answer an event with what `answers` says, in turn."""

    class exceptions:  # noqa: N801 - botocore's name
        class ResourceNotFoundException(Exception): ...  # noqa: N818 - botocore's name

        class TooManyRequestsException(Exception): ...  # noqa: N818 - botocore's name

    def __init__(self, *names: str, answers: Sequence[dict[str, Any] | Exception] = ()) -> None:
        self.images = dict.fromkeys(names, OLD)
        self.answers = list(answers)
        self.asked: list[tuple[str, Any, str]] = []

    def get_function(self, *, FunctionName: str) -> Any:  # noqa: N803 - botocore's name
        if FunctionName not in self.images:
            raise self.exceptions.ResourceNotFoundException
        return {"Code": {"ImageUri": self.images[FunctionName]}}

    def update_function_code(self, **asked: Any) -> None:
        self.images[asked["FunctionName"]] = asked["ImageUri"]

    def get_waiter(self, _name: str) -> Any:
        return SimpleNamespace(wait=lambda **_asked: None)

    def invoke(self, *, FunctionName: str, Payload: bytes) -> Any:  # noqa: N803 - botocore's name
        self.asked.append((FunctionName, json.loads(Payload), self.images[FunctionName]))
        answer = self.answers.pop(0) if self.answers else {}
        if isinstance(answer, Exception):
            raise answer
        return {"Payload": io.BytesIO(b'{"told": 1}'), **answer}


def roll_faked(functions: Lambda, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.syspath_prepend(str(ROOT / ".github/scripts"))
    for name in ("rolling", "roll_function"):
        sys.modules.pop(name, None)
    module = importlib.import_module("roll_function")
    monkeypatch.setattr(module, "LOOK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(module, "client", lambda *_: functions)
    told = ["roll_function.py", *named(list(functions.images)), "--image", NEW, *words]
    monkeypatch.setattr(sys, "argv", told)
    return int(module.main())


def test_functions_that_no_request_reaches_are_tried_by_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"bloomweaver-dev-{role}" for role in ("sweep", "scrub", "intake", "create")]
    functions = Lambda(*names)
    monkeypatch.setenv("CANARY_NAMESPACE", "canary-dev")
    assert roll_faked(functions, monkeypatch, "--", *PASSES) == 0
    events: list[Any] = [{}, {"namespace": "canary-dev"}, {"Records": []}]
    assert functions.asked == [
        (name, event, NEW) for name, event in zip(names, events, strict=False)
    ]


def test_a_function_that_fails_at_its_event_goes_back_without_a_trial(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failed = {"FunctionError": "Unhandled", "Payload": io.BytesIO(b'{"errorMessage": "no index"}')}
    functions = Lambda("bloomweaver-dev-scrub", answers=[failed])
    tried = [sys.executable, "-c", "print('tried')"]
    assert roll_faked(functions, monkeypatch, "--", *tried) == 1
    assert functions.images == {"bloomweaver-dev-scrub": OLD}
    told = capfd.readouterr()
    assert "no index" in told.err
    assert "tried" not in told.out


def test_a_function_that_is_busy_with_its_schedule_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = Lambda.exceptions.TooManyRequestsException()
    functions = Lambda("bloomweaver-dev-sweep", answers=[busy, busy])
    assert roll_faked(functions, monkeypatch, "--", *PASSES) == 0
    assert len(functions.asked) == 3


def test_a_function_that_is_always_busy_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = Lambda.exceptions.TooManyRequestsException()
    functions = Lambda("bloomweaver-dev-sweep", answers=[busy] * 1000)
    times = itertools.count(step=100)
    monkeypatch.setattr("time.monotonic", lambda: float(next(times)))
    assert roll_faked(functions, monkeypatch, "--", *PASSES) == 1
    assert functions.images == {"bloomweaver-dev-sweep": OLD}
