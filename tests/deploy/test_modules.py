"""Every module and environment: its format, its validity, and its own tests."""

from __future__ import annotations

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
