"""Commands that run a part of the product: `up`, `webhook`, `worker …`.

The parts are found by name among the installed entry points, because `common` must not import
the packages that import it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from common.cli import options
from common.cli.output import run_plain
from common.cli.problems import WrongUsageError

if TYPE_CHECKING:
    from common.settings import Settings

METRICS_FILE_BYTES = 256 * 1024
GROUP = "bloomweaver.roles"
EMBEDDED_INDEX = "qdrant-edge"


class LogFormat(StrEnum):
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


class WorkerKind(StrEnum):
    EMBED = "embed"
    SERVE = "serve"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    APPLY = "apply"
    SWEEP = "sweep"
    SCRUB = "scrub"
    INTAKE = "intake"


OF_THE_INDEX = {
    WorkerKind.CREATE: "the create consumer",
    WorkerKind.UPDATE: "the update consumer",
    WorkerKind.DELETE: "the delete consumer",
    WorkerKind.APPLY: "the create, update and delete consumers",
    WorkerKind.SWEEP: "the sweeper",
    WorkerKind.SCRUB: "the scrub",
}
"""The workers that need the index, in words."""
ROLE_NAMES = {WorkerKind.SCRUB: "periodic-scrub"}
"""Where the role's entry point is not called as the kind."""
SERVE_OPTIONS = {"serve_host": "--host", "serve_port": "--port", "serve_queue": "--queue"}
"""By the setting that each is."""

Host = Annotated[str | None, typer.Option(show_default=False, help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(show_default=False, help="0 picks a free one.")]
Format = Annotated[LogFormat | None, typer.Option("--log-format", show_default=False)]
Level = Annotated[LogLevel | None, typer.Option("--log-level", show_default=False)]


def up(
    data_dir: options.DataDir = None,
    host: Host = None,
    port: Port = None,
    log_format: Format = None,
    log_level: Level = None,
) -> None:
    """Start everything on this machine and stay up.

    Webhook, search, consumers and index share this process; embedding workers are child
    processes that come and go with the work. Ctrl-C or SIGTERM ends it when the work in hand
    is done. All options are settings too; see `bloomweaver settings`.

    **Example:** `bloomweaver up --data-dir ./data --port 8080`
    """
    run_plain(lambda: run_role("up", _overrides(data_dir, log_format, log_level, host, port)))


def webhook(
    data_dir: options.DataDir = None,
    host: Host = None,
    port: Port = None,
    log_format: Format = None,
    log_level: Level = None,
) -> None:
    """Start the HTTP edge by itself.

    It accepts changes. With the embedded index it cannot search: that index lives in one
    process, which is `bloomweaver up`.

    **Example:** `bloomweaver webhook --host 0.0.0.0 --log-format json`
    """
    run_plain(lambda: run_role("webhook", _overrides(data_dir, log_format, log_level, host, port)))


def worker(
    kind: Annotated[WorkerKind, typer.Argument(help="What it works on.")],
    *,
    data_dir: options.DataDir = None,
    device: Annotated[
        Device | None,
        typer.Option(show_default=False, help="Where embed runs its model: cpu, cuda or auto."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            show_default=False, help="Which of BLOOMWEAVER_EMBEDDING_VARIANTS embed works."
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(show_default=False, help="Address serve listens on.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(show_default=False, help="Port of serve; 0 picks a free one.")
    ] = None,
    queue: Annotated[
        bool | None,
        typer.Option(
            "--queue/--no-queue", show_default=False, help="Whether serve embeds documents too."
        ),
    ] = None,
    log_format: Format = None,
    log_level: Level = None,
) -> None:
    """Start one worker by itself, until Ctrl-C or SIGTERM.

    embed chunks and embeds documents; serve does so too, and answers POST /v1/embeddings in
    OpenAI's shape with the same model. create, update and delete write to the index; apply is the
    three of them in one process. sweep wakes documents that stay behind and removes garbage; scrub
    compares index, registry and packs every BLOOMWEAVER_SCRUB_INTERVAL_SECONDS and reports. intake
    takes in the files of BLOOMWEAVER_LANDING_URL, which `up` does not. On one
    machine `bloomweaver up` runs them all but serve; by themselves those that write to the index
    need one that is a server (BLOOMWEAVER_INDEX_URL). Any number of each may run, except that one
    scrub is enough.

    Exit code 0 after a drain, 1 when something failed, 2 when the settings are wrong, 3 when a
    service did not answer at the start.

    **Example:** `bloomweaver worker embed --data-dir ./data`
    """
    overrides = {**_overrides(data_dir, log_format, log_level), "embedding_variant": variant}
    overrides |= {"serve_host": host, "serve_port": port, "serve_queue": queue}
    run_plain(lambda: run_worker(kind, overrides, device))


def _overrides(
    data_dir: Path | None,
    log_format: LogFormat | None,
    log_level: LogLevel | None,
    host: str | None = None,
    port: int | None = None,
) -> dict[str, Any]:
    return {
        "data_dir": data_dir,
        "log_format": log_format and log_format.value,
        "log_level": log_level and log_level.value,
        "host": host,
        "port": port,
    }


def run_worker(kind: WorkerKind, overrides: dict[str, Any], device: Device | None = None) -> int:
    from common.cli.configuration import load_settings

    if device:
        _refuse_without_model("--device", kind)
        overrides = {**overrides, "device": device.value}
    if overrides.get("embedding_variant"):
        _refuse_without_model("--variant", kind)
    given = [name for name in SERVE_OPTIONS if overrides.get(name) is not None]
    if given and kind is not WorkerKind.SERVE:
        raise WrongUsageError(f"{SERVE_OPTIONS[given[0]]} is for `worker serve`")
    index_url = load_settings(overrides).index_url
    if kind in OF_THE_INDEX and index_url.startswith(EMBEDDED_INDEX):
        raise WrongUsageError(
            f"the embedded index ({index_url}) lives in one process, which is `bloomweaver up`, "
            f"and that process runs {OF_THE_INDEX[kind]}"
        )
    return run_role(ROLE_NAMES.get(kind, kind.value), overrides)


def _refuse_without_model(option: str, kind: WorkerKind) -> None:
    if kind not in (WorkerKind.EMBED, WorkerKind.SERVE):
        raise WrongUsageError(f"{option} is for `worker embed`; the {kind} worker has no model")


def run_role(name: str, overrides: dict[str, Any]) -> int:
    """Run a part until it ends; returns its exit code. Raises WrongUsageError."""
    from common.cli.configuration import load_settings

    settings = load_settings(overrides)
    prepare_metrics(settings.data_dir, clean=name == "up")
    return _load(name)(settings)


def prepare_metrics(data_dir: Path, *, clean: bool) -> None:
    """Where the processes of this machine put their metrics. prometheus_client reads the
    variable when it is imported, so this comes before a role is loaded."""
    from common.storage.data_folder import DataFolder, DataFolderError

    try:
        folder = DataFolder(data_dir).run_path / "metrics"
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir() if clean else ():
            # Those of processes that are gone would be counted for ever. Those of a service that
            # still runs on this folder are left: this one is about to be refused.
            if not _is_alive(file.stem.rpartition("_")[2]):
                file.unlink(missing_ok=True)
        for kind in ("counter", "histogram"):
            _reserve(folder / f"{kind}_{os.getpid()}.db")
    except (OSError, DataFolderError) as error:
        raise WrongUsageError(str(error)) from error
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def _reserve(path: Path) -> None:
    """prometheus_client maps this file into memory. Left sparse, as it makes it, a disk without
    room for a page would end the process by SIGBUS at the first count of something new."""
    if path.exists():
        return
    # Under its name it is whole: one of no bytes, left by a process that found no room for it or
    # was killed, would end every later look at the metrics of all processes.
    unfinished = path.with_suffix(".unfinished")
    try:
        unfinished.write_bytes(bytes(METRICS_FILE_BYTES))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _load(name: str) -> Callable[[Settings], int]:
    found = [*entry_points(group=GROUP, name=name)]
    if not found:
        raise WrongUsageError(
            f"this installation has no role {name!r}; install it again with `pip install -e .`"
        )
    return cast("Callable[[Settings], int]", found[0].load())
