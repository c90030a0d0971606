"""Every module and environment: its format, its validity, and its own tests."""

from __future__ import annotations

import re

import pytest

from tests.deploy.terraform import SOURCE, folders, formatted, workspace

pytestmark = pytest.mark.deploy
MODULES = folders("modules")
ENVIRONMENTS = folders("envs")


def test_the_source_is_formatted() -> None:
    assert formatted() == []


@pytest.mark.parametrize("module", MODULES)
def test_module(module: str) -> None:
    """`terraform test` validates the module before its runs."""
    assert list((SOURCE / module / "tests").glob("*.tftest.hcl")), f"{module} has no tests"
    ran = workspace().test(module)
    assert ran.failed == 0, ran.output
    assert ran.skipped == 0, ran.output
    assert ran.passed > 0, ran.output


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environment_is_valid(environment: str) -> None:
    """With all modules that it calls; a warning (a deprecated argument) counts."""
    assert workspace().validate(environment) == []


@pytest.mark.parametrize("module", MODULES)
def test_module_is_made_like_the_others(module: str) -> None:
    """A lock file would bind who calls the module to one provider."""
    here = SOURCE / module
    for name in ("versions.tf", "variables.tf", "main.tf", "outputs.tf", "README.md"):
        assert (here / name).is_file(), f"{module} has no {name}"
    assert not (here / ".terraform.lock.hcl").exists()
    texts = "\n".join(path.read_text() for path in here.glob("*.tf"))
    assert 'provider "' not in texts, f"{module} brings its own provider"


@pytest.mark.parametrize("module", MODULES)
def test_the_example_of_a_module_is_one_of_it(module: str) -> None:
    """What its README shows gives all that the module needs, and nothing that it does not know."""
    here = SOURCE / module
    shown = _blocks("module", (here / "README.md").read_text())
    assert shown, f"{module}/README.md shows no example"
    declared = _blocks("variable", "\n".join(path.read_text() for path in here.glob("*.tf")))
    needed = {name for name, body in declared.items() if "default" not in _arguments(body)}
    for name, body in shown.items():
        given = _arguments(body) - {"source", "providers"}
        assert given <= declared.keys(), f"{name}: the module has no {given - declared.keys()}"
        assert needed <= given, f"{name}: the module needs {needed - given}"


def _blocks(kind: str, text: str) -> dict[str, str]:
    """Bodies by name, of text as `terraform fmt` leaves it."""
    return dict(re.findall(rf'^{kind} "(\w+)" \{{\n(.*?)^\}}', text, re.DOTALL | re.MULTILINE))


def _arguments(body: str) -> set[str]:
    return set(re.findall(r"^  (\w+)\s*=", body, re.MULTILINE))
