"""`bloomweaver keys`: who may call the service. Works on the key store itself, also while the
service runs: it sees a new key at once and a revoked one within seconds."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.access import EVERYWHERE, SCOPES_OF, Role, Scope
from common.cli import options
from common.cli.audit_trail import tell_trail
from common.cli.output import Output, run, time_of
from common.cli.problems import JSON, CommandError, ExitCode, WrongUsageError

if TYPE_CHECKING:
    from common.ports.keys import KeyStore, StoredKey
    from common.settings import Settings

_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_DURATION = re.compile(r"(\d{1,5})([mhdw])")
_TRIES = 10
"""Of an id that nobody has; the second is needed once in 2^50 keys."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help=(
        "API keys: who may call the service, and what for.\n\n"
        "A key has **scopes** (changes:write, documents:read, search, admin) and is bound to "
        "**namespaces**; it reaches no other. Only a hash of it is kept: it is shown once, when it "
        "is made. The commands work on the store that BLOOMWEAVER_KEYS_URL names, also while the "
        "service runs.\n\n"
        "While there is no key at all, a service on loopback lets in everybody on this machine, "
        "and one that listens elsewhere does not start. From the first key on everybody needs one."
    ),
)


class StoreUnreachableError(CommandError):
    exit_code = ExitCode.UNREACHABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What is asked for; `seconds` None: it never expires."""

    name: str
    scopes: frozenset[Scope]
    namespaces: tuple[str, ...]
    seconds: float | None


@app.command()
def create(
    *,
    name: Annotated[str, typer.Option(help="Whose it is or what for; lists show it.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(show_default=False, help="What it may do; repeat for more. Or give --role."),
    ] = None,
    role: Annotated[
        Role | None,
        typer.Option(
            show_default=False,
            help="reader: documents:read and search. editor (the default): changes:write too. "
            "admin: also dead letters, scrubs and metrics.",
        ),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            "--namespace",
            "-n",
            show_default=False,
            help="What it reaches: a name, or the beginning of names as 'acme-*'; repeat for more. "
            "Else all.",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(show_default=False, help="After so long: 12h, 90d, 52w. Else never."),
    ] = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Make a key and print it, this once.

    The key alone goes to standard output, so that a script can take it; what it may do and how it
    is used goes to standard error. Clients send it as `Authorization: Bearer KEY`, or as
    `X-API-Key: KEY`; the `bloomweaver` commands take it from BLOOMWEAVER_API_KEY.

    **Example:** `bloomweaver keys create --name wiki-import --scope changes:write -n wiki`

    **Example:** `export BLOOMWEAVER_API_KEY="$(bloomweaver keys create --name me --role admin)"`
    """
    out = Output(as_json=as_json)

    async def made() -> int:
        new = _new_key(name, scope or [], role, namespace or [], expires)
        return await create_command(new, data_dir, out)

    run(made)


@app.command("list")
def list_keys(data_dir: options.DataDir = None, as_json: options.Json = False) -> None:
    """List the keys, the oldest first: what they may do, where, and until when. Never the secrets.

    A revoked key stays in the list, so that its id in the audit trail keeps its name.

    **Example:** `bloomweaver keys list`
    """
    out = Output(as_json=as_json)
    run(lambda: list_command(data_dir, out))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` prints it.")],
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Refuse a key from now on, for good. A running service follows within a few seconds.

    To replace a key without an interruption make the new one first, have it used, then revoke the
    old one.

    **Example:** `bloomweaver keys revoke k3v7tq2mzd`
    """
    out = Output(as_json=as_json)
    run(lambda: revoke_command(key_id, data_dir, out))


# --- what is asked for ---------------------------------------------------------------------------


def _new_key(
    name: str,
    scopes: Sequence[Scope],
    role: Role | None,
    namespaces: Sequence[str],
    expires: str | None,
) -> NewKey:
    """Raises WrongUsageError."""
    from common.api_keys import MAX_NAME_CHARACTERS, check_namespaces

    if scopes and role:
        raise WrongUsageError("give --scope or --role: a role is a name for scopes")
    if not name.strip() or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise WrongUsageError(f"--name must be 1 to {MAX_NAME_CHARACTERS} printable characters")
    try:
        check_namespaces(namespaces)
    except ValueError as error:
        raise WrongUsageError(f"--namespace: {error}") from None
    return NewKey(
        name=name.strip(),
        scopes=frozenset(scopes) or SCOPES_OF[role or Role.EDITOR],
        namespaces=tuple(namespaces) or (EVERYWHERE,),
        seconds=None if expires is None else seconds_of(expires),
    )


def seconds_of(duration: str) -> float:
    """`90d` as seconds. Raises WrongUsageError."""
    found = _DURATION.fullmatch(duration.strip())
    if found is None or not int(found[1]):
        raise WrongUsageError(
            f"--expires: {duration!r} is no duration: a number and m, h, d or w, as in 90d"
        )
    return int(found[1]) * _SECONDS[found[2]]


# --- what is done --------------------------------------------------------------------------------


@asynccontextmanager
async def _store_of(settings: Settings) -> AsyncIterator[KeyStore]:
    """Raises CommandError, also for what fails inside."""
    from common.composition import connect
    from common.ports.errors import PermanentError, TransientError
    from common.secrets import without_secrets

    try:
        store: KeyStore = connect("keys", settings.keys_url, settings, "keys")
        try:
            yield store
        finally:
            await store.close()
    except PermanentError as error:
        raise WrongUsageError(without_secrets(str(error), settings)) from error
    except TransientError as error:
        raise StoreUnreachableError(without_secrets(str(error), settings)) from error


def _settings(data_dir: Path | None) -> Settings:
    from common.cli.configuration import load_settings

    return load_settings({"data_dir": data_dir})


async def create_command(new: NewKey, data_dir: Path | None, out: Output) -> int:
    from common.clock import system_clock

    settings = _settings(data_dir)
    now = system_clock()
    async with _store_of(settings) as store:
        first = not await store.list()
        text, stored = await _made(store, new, now)
        await tell_trail(settings, action="key.create", subject=stored.id)
    out.json({"key": text, **_as_json(stored, now)})
    out.say(text, "bold")
    for line in _told(stored, settings, first=first):
        out.note(line)
    return ExitCode.DONE


async def _made(store: KeyStore, new: NewKey, now: float) -> tuple[str, StoredKey]:
    """The key, and what is kept of it."""
    from common.api_keys import kept, new_key

    for _ in range(_TRIES):
        key = new_key()
        stored = kept(
            key,
            name=new.name,
            scopes=new.scopes,
            namespaces=new.namespaces,
            created_at=now,
            expires_at=None if new.seconds is None else now + new.seconds,
        )
        if await store.add(stored):
            return key.text, stored
    raise CommandError("every id that was tried is taken: look at the key store")


async def list_command(data_dir: Path | None, out: Output) -> int:
    from common.clock import system_clock

    settings = _settings(data_dir)
    async with _store_of(settings) as store:
        keys = await store.list()
    now = system_clock()
    out.json({"keys": [_as_json(key, now) for key in keys]})
    if keys:
        _show(keys, now, out)
    else:
        out.say(f"no API keys in {_where(settings)}; `bloomweaver keys create` makes one")
    return ExitCode.DONE


async def revoke_command(key_id: str, data_dir: Path | None, out: Output) -> int:
    from common.clock import system_clock

    now = system_clock()
    settings = _settings(data_dir)
    key_id = _id_in(key_id)
    async with _store_of(settings) as store:
        if not await store.revoke(key_id, at=now):
            raise CommandError(
                f"there is no key {key_id!r} in {_where(settings)}: `bloomweaver keys list` "
                "names them"
            )
        await tell_trail(settings, action="key.revoke", subject=key_id)
        stored = await store.get(key_id)
    if stored is not None:
        out.json(_as_json(stored, now))
        out.say(f"{key_id} ({stored.name}) is revoked")
    return ExitCode.DONE


def _id_in(text: str) -> str:
    """Of an id, or of a whole key, where that is what somebody has at hand."""
    from common.api_keys import PREFIX

    return text.removeprefix(PREFIX).partition("_")[0]


# --- what is told --------------------------------------------------------------------------------


def _told(stored: StoredKey, settings: Settings, *, first: bool) -> list[str]:
    reach = _reach(stored)
    until = f", until {_time(stored.expires_at)}" if stored.expires_at else ""
    lines = [
        f"{stored.id} ({stored.name}): {', '.join(stored.scopes)} in {reach}{until}",
        f"kept, as a hash, in {_where(settings)}; it is not shown again",
        "  export BLOOMWEAVER_API_KEY=…   for the bloomweaver commands",
        f'  curl -H "Authorization: Bearer $BLOOMWEAVER_API_KEY" {settings.url}/v1/stats',
    ]
    if settings.auth == "off":
        lines.append("BLOOMWEAVER_AUTH=off: with it a service asks nobody for a key")
    elif first:
        lines.append("it is the first: from now on the service asks everybody for a key")
    return lines


def _where(settings: Settings) -> str:
    """The store, for people: what was made in another folder is what nobody finds."""
    if settings.keys_url.startswith("sqlite:"):
        return str(settings.data_dir.absolute() / "access.sqlite")
    return settings.keys_url


def _show(keys: Sequence[StoredKey], now: float, out: Output) -> None:
    """A few lines each: scopes and namespaces make rows that no terminal is wide enough for."""
    styles = {"active": "bold", "expired": "yellow", "revoked": "dim"}
    for key in keys:
        state = _state(key, now)
        out.say(f"{key.id}  {key.name}  {state}", styles[state])
        out.say(f"  {', '.join(key.scopes)} in {_reach(key)}")
        times = [f"made {_time(key.created_at)}"]
        times += [f"expires {_time(key.expires_at)}"] if key.expires_at else []
        times += [f"revoked {_time(key.revoked_at)}"] if key.revoked_at else []
        out.say(f"  {', '.join(times)}")


def _reach(key: StoredKey) -> str:
    return "all namespaces" if EVERYWHERE in key.namespaces else ", ".join(key.namespaces)


def _state(key: StoredKey, now: float) -> str:
    from common.api_keys import has_expired

    if key.revoked_at is not None:
        return "revoked"
    return "expired" if has_expired(key, now) else "active"


def _as_json(key: StoredKey, now: float) -> JSON:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": list(key.scopes),
        "namespaces": list(key.namespaces),
        "created_at": _iso(key.created_at),
        "expires_at": _iso(key.expires_at),
        "revoked_at": _iso(key.revoked_at),
        "state": _state(key, now),
    }


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _time(seconds: float | None) -> str:
    return time_of(_iso(seconds))
