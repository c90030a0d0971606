"""The workflows of GitHub: linted, pinned, least allowed, and started by what they deploy."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.workflows import (
    FOLDER,
    ROOT,
    Workflow,
    composite_actions,
    expanded,
    pattern,
    workflows,
)

BIN = Path(sys.executable).parent
ALL = workflows()
EACH = pytest.mark.parametrize("workflow", ALL.values(), ids=list(ALL))
FUNCTIONS = {
    name: flow for name, flow in ALL.items() if "function.yml" in flow.text and not flow.reusable
}
WORKERS = {
    name: flow for name, flow in ALL.items() if "worker.yml" in flow.text and not flow.reusable
}
CALLERS = pytest.mark.parametrize(
    "flow", [*FUNCTIONS.values(), *WORKERS.values()], ids=lambda flow: flow.name
)
CALLEES = pytest.mark.parametrize(
    ("name", "script"), [("function", "roll_function"), ("worker", "roll_workers")]
)
DEPLOYED_FUNCTIONS = {"webhook", "create", "update", "delete", "intake", "clock"}
ALL_FUNCTIONS = DEPLOYED_FUNCTIONS
ALL_WORKERS = {"worker-default", "worker-large", "worker-gpu"}
CPU_WORKERS = ALL_WORKERS - {"worker-gpu"}
OF_WORKERS = {"create", "update", "delete", "clock"}

PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def linted(*command: str) -> None:
    environment = {**os.environ, "NO_COLOR": "1"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_actionlint_finds_nothing() -> None:
    linted(str(BIN / "actionlint"), *sorted(map(str, FOLDER.glob("*.yml"))))


def test_zizmor_finds_nothing() -> None:
    linted(str(BIN / "zizmor"), "--offline", "--no-progress", "--quiet", ".github")


@pytest.mark.parametrize("script", sorted((ROOT / ".github/scripts").glob("*.sh")), ids=str)
def test_scripts_are_bash_that_stops_at_errors(script: Path) -> None:
    linted("bash", "-n", str(script))
    assert "set -euo pipefail" in script.read_text()
    assert os.access(script, os.X_OK)


def used() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / ".github").glob("*/**/*.yml")):
        for line in path.read_text().splitlines():
            if found := re.match(r"\s*-?\s*uses:\s*(.+)", line):
                yield path.name, found[1]


def test_each_action_is_pinned_by_its_commit_and_names_its_release() -> None:
    loose = [(file, uses) for file, uses in used() if not uses.startswith("./.github/")]
    assert len(loose) > 10
    assert [(file, uses) for file, uses in loose if not PINNED.fullmatch(uses)] == []


def test_a_release_is_one_commit_everywhere() -> None:
    pins = {uses for _, uses in used() if not uses.startswith("./")}
    assert len(pins) == len({uses.partition("@")[0] for uses in pins}), sorted(pins)


@EACH
def test_nothing_is_allowed_but_what_a_job_asks_for(workflow: Workflow) -> None:
    assert workflow.content["permissions"] == {}
    allowed = {"contents": "read", "id-token": "write"}
    for job in workflow.jobs.values():
        assert job["permissions"].items() <= allowed.items()
        assert job["permissions"]["contents"] == "read"


@EACH
def test_only_jobs_with_an_environment_are_given_an_identity(workflow: Workflow) -> None:
    for job in workflow.jobs.values():
        if job["permissions"].get("id-token"):
            assert "environment" in job or str(job["uses"]).startswith("./.github/workflows/")


def concurrencies(workflow: Workflow) -> list[dict[str, Any]]:
    """Its own and those of its jobs."""
    told = [workflow.content, *workflow.jobs.values()]
    return [each["concurrency"] for each in told if "concurrency" in each]


@EACH
def test_no_deployment_is_cut_short_and_none_is_replaced_by_a_later_one(workflow: Workflow) -> None:
    for told in concurrencies(workflow):
        if workflow.name != "check":
            assert told["cancel-in-progress"] is False
            # Else the one that waits is dropped when a third one comes: a rollback, say.
            assert told["queue"] == "max"


def test_only_what_deploys_to_one_environment_is_waited_for() -> None:
    """A workflow's group is held while a job of it waits for its approval."""
    assert {flow.name for flow in ALL.values() if concurrencies(flow)} == {
        "check", "frontend", "function", "terraform-environment", "worker",
    }  # fmt: skip
    assert not ALL["frontend"].content.get("concurrency")


def deployments(environment: str) -> Iterator[tuple[str, str]]:
    """The thing that is changed, and the group that its deployment on main waits for."""
    for flow in (*FUNCTIONS.values(), *WORKERS.values()):
        callee = ALL["function" if flow in FUNCTIONS.values() else "worker"]
        context = {f"inputs.{name}": str(value) for name, value in flow.inputs().items()}
        context |= {"inputs.environment": environment, "matrix.environment": environment}
        yield flow.name, expanded(callee.content["concurrency"]["group"], context)
    context = {"inputs.environment": environment, "matrix.environment": environment}
    apply = ALL["terraform-environment"].jobs["apply"]["concurrency"]["group"]
    yield "terraform", expanded(apply, context)
    publish = ALL["frontend"].jobs["publish"]["concurrency"]["group"]
    yield "frontend", expanded(publish, context)


def test_what_changes_one_thing_waits_for_each_other_and_for_nothing_else() -> None:
    groups = dict(deployments("prod"))
    # Both make versions of the launch templates, Terraform with the image of its plan.
    together = {*ALL_WORKERS, "terraform"}
    assert len({groups[name] for name in together}) == 1
    assert len(set(groups.values())) == len(groups) - len(together) + 1
    assert not set(groups.values()) & set(dict(deployments("dev")).values())


def test_no_workflow_waits_for_its_own_group() -> None:
    """A workflow that calls another one holds its group meanwhile."""
    context = {
        "inputs.environment": "prod",
        "github.ref": "refs/heads/main",
        "inputs.apply": "true",
    }
    flow = ALL["terraform-environment"]
    own = expanded(flow.content["concurrency"]["group"], context)
    assert own != expanded(flow.jobs["apply"]["concurrency"]["group"], context)
    plans = {
        expanded(flow.content["concurrency"]["group"], {**context, **other})
        for other in ({}, {"inputs.apply": ""}, {"inputs.environment": "dev"})
    }
    assert len(plans) == 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a-${{ inputs.x }}-b", "a-1-b"),
        ("${{ inputs.none || inputs.x }}", "1"),
        ("${{ inputs.x && 'yes' || inputs.y }}", "yes"),
        ("${{ inputs.none && 'yes' || 'no' }}", "no"),
    ],
)
def test_expressions_are_read_as_github_reads_them(text: str, value: str) -> None:
    assert expanded(text, {"inputs.x": "1", "inputs.y": "2"}) == value


@EACH
def test_each_job_ends(workflow: Workflow) -> None:
    for job in workflow.jobs.values():
        # One that calls a workflow has the limits of that one's jobs, and may set none.
        assert "uses" in job or 0 < job["timeout-minutes"] <= 120


@EACH
def test_shells_are_bash_and_take_no_words_from_strangers(workflow: Workflow) -> None:
    commands = [step["run"] for step in workflow.steps() if "run" in step]
    assert not commands or workflow.content["defaults"]["run"]["shell"] == "bash"
    assert [command for command in commands if "${{" in command] == []
    assert "pull_request_target" not in workflow.triggers


def test_actions_of_our_own_take_no_words_from_strangers() -> None:
    for action in composite_actions().values():
        commands = [step["run"] for step in action["runs"]["steps"] if "run" in step]
        assert [command for command in commands if "${{" in command] == []


@EACH
def test_checkouts_keep_no_credentials(workflow: Workflow) -> None:
    for step in workflow.steps():
        if str(step.get("uses", "")).startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_no_key_is_stored() -> None:
    told = "".join(flow.text for flow in ALL.values())
    assert "secrets." not in told
    assert "secrets: inherit" not in told
    assert "aws-access-key-id" not in told
    assert told.count("role-to-assume: ${{ vars.") == told.count("aws-actions/configure-aws")


# --- what starts what ----------------------------------------------------------------------------


def filters() -> Iterator[tuple[str, str]]:
    for flow in ALL.values():
        for event in ("push", "pull_request"):
            for path in flow.paths(event) or ():
                yield flow.name, path


@pytest.mark.parametrize(("name", "path"), sorted(set(filters())))
def test_filters_name_what_is_there(name: str, path: str) -> None:
    root = path.split("/", maxsplit=1)[0]
    needed = "terraform" if name == "terraform" else root
    if needed in ("docker", "terraform") and not (ROOT / needed).exists():
        pytest.skip(f"there is no {needed}/ in this tree")
    matches = pattern(path)
    there = (str(p.relative_to(ROOT)) for p in (ROOT / root).rglob("*") if p.is_file())
    files = [path] if (ROOT / path).is_file() else there
    assert any(matches.fullmatch(file) for file in files), f"{name}: {path} matches no file"


@pytest.mark.parametrize(
    ("file", "started"),
    [
        ("webhook/app.py", {"webhook", "intake"}),
        ("webhook/sources/presets/github.yaml", {"webhook", "intake"}),
        ("workers/apply.py", OF_WORKERS | ALL_WORKERS),
        ("workers/sweep.py", OF_WORKERS | ALL_WORKERS),
        ("common/model.py", ALL_FUNCTIONS | ALL_WORKERS),
        ("common/adapters/queue/sqs.py", ALL_FUNCTIONS | ALL_WORKERS),
        ("pyproject.toml", ALL_FUNCTIONS | ALL_WORKERS),
        ("docker/functions.Dockerfile", ALL_FUNCTIONS),
        ("docker/worker-cpu.Dockerfile", CPU_WORKERS),
        ("docker/worker-gpu.Dockerfile", {"worker-gpu"}),
        ("docker/requirements-functions.txt", ALL_FUNCTIONS),
        ("docker/requirements-worker-gpu.txt", {"worker-gpu"}),
        ("frontend/client/src/client.ts", {"frontend"}),
        ("terraform/modules/sqs/main.tf", {"terraform"}),
        ("terraform/envs/prod/terraform.tfvars", {"terraform"}),
        (".github/workflows/update.yml", {"update"}),
        (".github/workflows/worker-gpu.yml", {"worker-gpu"}),
        (".github/workflows/worker.yml", ALL_WORKERS),
        (".github/workflows/function.yml", ALL_FUNCTIONS),
        (".github/workflows/terraform-environment.yml", {"terraform"}),
        (".github/actions/image/action.yml", ALL_FUNCTIONS | ALL_WORKERS),
        ("README.md", set()),
        ("docs/aws.md", set()),
        ("tests/unit/test_pack.py", set()),
    ],
)
def test_a_change_starts_what_it_changes(file: str, started: set[str]) -> None:
    on_main = {name for name, flow in ALL.items() if flow.started_by("push", file)}
    assert on_main == {"check", *started}


@pytest.mark.parametrize(
    ("file", "started"),
    [
        ("terraform/modules/sqs/main.tf", {"check", "terraform"}),
        ("webhook/app.py", {"check"}),
        ("docs/aws.md", {"check"}),
    ],
)
def test_a_pull_request_starts_checks_and_plans_only(file: str, started: set[str]) -> None:
    assert {n for n, flow in ALL.items() if flow.started_by("pull_request", file)} == started


@pytest.mark.parametrize(
    ("path", "file", "matches"),
    [
        ("common/**", "common/a/b.py", True),
        ("common/**", "commoner/a.py", False),
        ("docker/*.txt", "docker/a.txt", True),
        ("docker/*.txt", "docker/a/b.txt", False),
        ("a.yml", "aXyml", False),
    ],
)
def test_filters_are_read_as_github_reads_them(path: str, file: str, *, matches: bool) -> None:
    assert bool(pattern(path).fullmatch(file)) is matches


# --- what is deployed ----------------------------------------------------------------------------


def handlers(package: str) -> set[str]:
    """Of Lambda functions: what takes an event and a context."""
    tree = ast.parse((ROOT / package / "lambda_entry.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    taking = {node.name: [argument.arg for argument in node.args.args] for node in functions}
    return {name for name, taken in taking.items() if taken == ["event", "context"]}


def test_each_function_there_is_has_a_workflow_that_deploys_it() -> None:
    there = (handlers("webhook") - {"handler"}) | {"webhook"} | handlers("workers")
    deployed = [role for flow in FUNCTIONS.values() for role in flow.inputs()["roles"].split()]
    assert set(FUNCTIONS) == DEPLOYED_FUNCTIONS
    assert sorted(deployed) == sorted(there)


def test_each_variant_has_a_workflow_and_a_canary_of_its_own() -> None:
    assert set(WORKERS) == ALL_WORKERS
    inputs = {flow.inputs()["variant"]: flow.inputs() for flow in WORKERS.values()}
    assert set(inputs) == {"default", "large", "gpu"}
    # The namespace of the default one is a variable of the environment, which a call cannot see.
    namespaces = {name: told.get("namespace", "") for name, told in inputs.items()}
    assert namespaces == {"default": "", "large": "canary-large", "gpu": "canary-gpu"}
    [rolled] = [step for step in ALL["worker"].steps() if "--remember" in step.get("run", "")]
    told = rolled["env"]["CANARY_NAMESPACE"]
    assert expanded(told, {"vars.CANARY_NAMESPACE": "mine"}) == "mine"
    assert expanded(told, {"vars.CANARY_NAMESPACE": "mine", "inputs.namespace": "x"}) == "x"
    assert expanded(told, {}) == "canary"
    assert inputs["gpu"]["repository"] == "worker-gpu"


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_each_variant_of_an_environment_has_a_workflow(environment: str) -> None:
    numbers = ROOT / "terraform/envs" / environment / "terraform.tfvars"
    if not numbers.exists():
        pytest.skip("there is no terraform/ in this tree")
    block = re.search(r"^variants = \{\n(.*?)^\}", numbers.read_text(), re.DOTALL | re.MULTILINE)
    assert block
    named = set(re.findall(r"^  (\w+) += \{", block[1], re.MULTILINE))
    assert named
    assert {f"worker-{name}" for name in named} <= set(WORKERS)


@CALLERS
def test_each_deployable_is_called_as_its_workflow_and_only_on_main(flow: Workflow) -> None:
    told, [job] = flow.inputs(), flow.jobs.values()
    name = told.get("deployable") or f"worker-{told['variant']}"
    assert (name, flow.content["name"]) == (flow.name, flow.name)
    assert "github.ref == 'refs/heads/main'" in job["if"]
    # One environment after the other, and none after one that failed.
    assert (job["strategy"]["max-parallel"], job["strategy"]["fail-fast"]) == (1, True)


def called(flow: Workflow, script: str) -> list[str]:
    return [step["run"] for step in flow.steps() if script in step.get("run", "")]


@CALLEES
def test_a_deployment_is_tried_out_before_it_is_remembered(name: str, script: str) -> None:
    command, _ = called(ALL[name], script)
    assert "-- .github/scripts/smoke.sh" in command
    assert command.index("own_image.sh") < command.index("roll_")
    smoke = (ROOT / ".github/scripts/smoke.sh").read_text()
    assert smoke.index("bloomweaver doctor") < smoke.index("bloomweaver canary")
    assert smoke.index("::add-mask::") < smoke.index("export BLOOMWEAVER_API_KEY")


@CALLEES
def test_each_deployable_remembers_an_image_of_its_own(name: str, script: str) -> None:
    """As the composition looks it up: functions/DEPLOYABLE, REPOSITORY/VARIANT."""
    command, _ = called(ALL[name], script)
    own = {"function": "functions/$DEPLOYABLE", "worker": "$REPOSITORY/$VARIANT"}[name]
    assert f'--remember "/$INSTALLATION/images/{own}"' in command


def test_terraform_looks_up_the_images_that_deployments_remember() -> None:
    composition = (ROOT / "terraform/modules/bloomweaver/main.tf").read_text()
    block = re.search(r"deployables = \{(.*?)\}", composition, re.DOTALL)
    assert block
    told = dict(re.findall(r'(\w+) *= "(\w+)"', block[1]))
    assert told == {
        role: flow.inputs()["deployable"]
        for flow in FUNCTIONS.values()
        for role in flow.inputs()["roles"].split()
    }


@CALLEES
def test_what_was_killed_goes_back_all_the_same(name: str, script: str) -> None:
    *_, last = ALL[name].steps()
    assert last["if"] == "failure() || cancelled()"
    forward, back = called(ALL[name], script)
    assert back == last["run"]
    assert back.rstrip().endswith("--back")
    [file] = re.findall(r'--former-file "(.+?)"', forward)
    assert f"former={file}" in back


@CALLERS
def test_by_hand_one_environment_is_given_an_image(flow: Workflow) -> None:
    given = flow.triggers["workflow_dispatch"]["inputs"]
    assert (given["environment"]["required"], given["environment"]["type"]) == (True, "environment")
    [job] = flow.jobs.values()
    assert job["strategy"]["matrix"]["environment"] == (
        "${{ fromJSON(inputs.environment && format('[{0}]', toJSON(inputs.environment))"
        " || vars.DEPLOY_ENVIRONMENTS || '[]') }}"
    )


@pytest.mark.parametrize("flow", WORKERS.values(), ids=WORKERS)
def test_a_fleet_is_deployed_where_there_is_one(flow: Workflow) -> None:
    [job] = flow.jobs.values()
    named, variant = "vars.DEPLOY_VARIANTS || '[\"default\"]'", flow.inputs()["variant"]
    assert f"contains(fromJSON({named}), '{variant}')" in job["if"]


def test_what_is_installed_beside_credentials_is_locked() -> None:
    [install] = [
        step["run"] for step in composite_actions()["commands"]["runs"]["steps"] if "run" in step
    ]
    assert "--only-binary :all: --require-hashes" in install
    assert "--no-deps" in install
    assert "--no-build-isolation ." in install


def test_what_was_planned_is_what_is_applied() -> None:
    flow = ALL["terraform-environment"]
    plan, apply = flow.jobs["plan"], flow.jobs["apply"]
    [applied] = [step["run"] for step in apply["steps"] if "terraform apply" in step.get("run", "")]
    assert "terraform plan" not in str(apply)
    steps = ("sha256sum --check", "-lockfile=readonly", "plan_images.sh", "terraform apply -lock")
    assert sorted(steps, key=applied.index) == list(steps)
    planned = [step["run"] for step in plan["steps"] if "terraform plan" in step.get("run", "")]
    assert planned[0].rstrip().endswith('| "$scripts/plan_removals.sh"')
    assert applied.rstrip().endswith("tfplan")
    assert apply["if"].startswith("inputs.apply && ")
    assert (plan["environment"], apply["environment"]) == (
        "${{ inputs.environment }}-plan", "${{ inputs.environment }}",
    )  # fmt: skip
    roles = [role_of(job) for job in (plan, apply)]
    assert roles == ["${{ vars.PLAN_ROLE_ARN }}", "${{ vars.APPLY_ROLE_ARN }}"]
    # The plan holds what is sensitive: nobody who may only read the repository gets it.
    [kept] = [s["with"]["path"] for s in plan["steps"] if "upload-artifact" in s.get("uses", "")]
    assert kept.endswith("/plan.txt")


def role_of(job: dict[str, Any]) -> str:
    [role] = [s["with"]["role-to-assume"] for s in job["steps"] if "configure-aws" in str(s)]
    return str(role)


def test_only_main_is_applied_and_forks_plan_nothing() -> None:
    [job] = ALL["terraform"].jobs.values()
    assert "head.repo.full_name == github.repository" in job["if"]
    assert job["with"]["apply"] == (
        "${{ github.event_name != 'pull_request' && github.ref == 'refs/heads/main' }}"
    )


def test_images_carry_their_provenance_and_their_contents() -> None:
    steps = composite_actions()["image"]["runs"]["steps"]
    [build] = [step for step in steps if "build-push" in str(step.get("uses"))]
    assert (build["with"]["provenance"], build["with"]["sbom"]) == ("mode=max", True)


def test_check_does_what_ci_does() -> None:
    told = (ROOT / ".ci/run").read_text()
    makes = set(re.findall(r"^make [a-z-]+$", told, re.MULTILINE))
    assert makes == {step["run"] for step in ALL["check"].steps() if "run" in step}


def test_locks_are_not_changed_by_themselves() -> None:
    """`make locks` writes those of docker/, all together."""
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    [pip] = [update for update in updates if update["package-ecosystem"] == "pip"]
    assert pip["directory"] == "/"
    assert "directories" not in pip


def test_newer_releases_are_waited_for() -> None:
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    told = {update["package-ecosystem"]: update["cooldown"]["default-days"] for update in updates}
    assert set(told) == {"github-actions", "pip", "npm", "terraform", "docker"}
    assert all(days >= 7 for days in told.values())
