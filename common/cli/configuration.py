"""Settings for commands: mistakes named by their variable, and the list of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined
from pydantic_settings import SettingsError

from common.cli.output import Output
from common.cli.problems import JSON, ExitCode, OutOfReachError, WrongUsageError
from common.ports.errors import PermanentError, TransientError
from common.secret_environment import ids_set
from common.secrets import without_read_secrets
from common.settings import Settings, mistakes_in


def load_settings(overrides: Mapping[str, Any]) -> Settings:
    """The environment's settings, with what its secrets hold, under the command line's. Raises
    WrongUsageError, and OutOfReachError where secrets cannot be read now."""
    _read_secrets()
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except (ValidationError, SettingsError) as error:
        raise WrongUsageError(without_read_secrets(mistakes_in(error))) from None


def _read_secrets() -> None:
    if not ids_set():
        return
    from common.aws.secret_values import read_secrets_once

    try:
        read_secrets_once()
    except PermanentError as error:
        raise WrongUsageError(" ".join(str(error).split())) from None
    except TransientError as error:
        raise OutOfReachError(" ".join(str(error).split())) from None


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"BLOOMWEAVER_{name.upper()}"


def list_settings(out: Output) -> int:
    """Print every setting: variable, value, default, description."""
    described = describe(load_settings({}))
    out.json(described)
    _print(out, described)
    return ExitCode.DONE


def describe(settings: Settings) -> list[JSON]:
    values = settings.model_dump(mode="json")
    return [
        {
            "name": name,
            "variable": variable(name),
            "default": _default(name),
            "value": _without_secrets(values[name]),
            "description": field.description or "",
        }
        for name, field in Settings.model_fields.items()
    ]


def _without_secrets(value: object) -> object:
    return without_read_secrets(value) if isinstance(value, str) else value


def _default(name: str) -> object:
    """As JSON; a default that the machine decides is stated as it is on this one."""
    default = Settings.model_fields[name].get_default(call_default_factory=True, validated_data={})
    simple = isinstance(default, str | int | float | bool) or default is None
    return default if simple and default is not PydanticUndefined else str(default)


def _print(out: Output, described: list[JSON]) -> None:
    """In full and not as a table: values are paths and addresses, to be copied."""
    for setting in described:
        changed = setting["value"] != setting["default"]
        was = f"  (default: {_shown(setting['default'])})" if changed else ""
        style = "bold yellow" if changed else "bold"
        out.say(f"{setting['variable']}={_shown(setting['value'])}{was}", style)
        out.say(f"    {setting['description'] or setting['name'].replace('_', ' ')}", "dim")


def _shown(value: object) -> str:
    return "" if value is None else str(value)
