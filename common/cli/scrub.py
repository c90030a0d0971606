"""`bloomweaver scrub`: asks the running service, or opens the data folder that nobody has open, or
compares what servers keep from where it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.client import connect
from common.cli.output import Output, counted, plain, service_url, shorten
from common.cli.problems import JSON, CommandError, ExitCode, WrongUsageError
from common.client.errors import UnreachableError
from common.client.results import ScrubProgress

if TYPE_CHECKING:
    from common.scrubbing import ScrubReport
    from common.settings import Settings

GROUP = "bloomweaver.offline"
ROWS_SHOWN = 200

OnProgress = Callable[[JSON], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubOptions:
    """What the command line says. A `url` or a `data_dir` says which of the two is meant. Without
    either, what servers keep is compared from here, and else the service is asked first."""

    namespace: str | None = None
    repair: bool = False
    url: str | None = None
    data_dir: Path | None = None


async def scrub_command(options: ScrubOptions, out: Output) -> int:
    with _progress(out) as progress:
        report = await _scrub(options, out, progress)
    out.json(report)
    _show(report, out)
    return ExitCode.DONE if report["clean"] else ExitCode.FAILED


async def _scrub(options: ScrubOptions, out: Output, progress: OnProgress) -> JSON:
    if options.url is None and (options.data_dir is not None or _kept_by_servers()):
        return await _open(options, out, progress)
    try:
        return await _ask(service_url(options.url), options, progress)
    except UnreachableError as error:
        folder = None if options.url else _data_folder(options)
        if folder is None:
            raise
        out.note(f"no service answers ({error.reason}): opening {folder}")
        return await _open(options, out, progress)


async def _ask(url: str, options: ScrubOptions, progress: OnProgress) -> JSON:
    """The service's report. Raises ApiError, UnreachableError."""
    began = False

    def tell(so_far: ScrubProgress) -> None:
        nonlocal began
        began = True
        progress(so_far.as_json())

    try:
        async with connect(url) as client:
            report = await client.scrub(
                namespace=options.namespace, repair=options.repair, on_progress=tell
            )
    except UnreachableError as error:
        if began:
            raise CommandError(f"the service went away meanwhile ({error.reason})") from error
        raise
    return report.as_json()


def _kept_by_servers() -> bool:
    """Then none of the services has more at hand than this process."""
    from common.cli.configuration import load_settings
    from common.where_kept import kept_by_servers

    return kept_by_servers(load_settings({}))


def _data_folder(options: ScrubOptions) -> Path | None:
    """The folder the settings name, if there is one."""
    from common.cli.configuration import load_settings

    folder = load_settings({"data_dir": options.data_dir}).data_dir
    return folder if (folder / "FORMAT").exists() else None


async def _open(options: ScrubOptions, out: Output, progress: OnProgress) -> JSON:
    """Scrub in this process. Raises CommandError."""
    from common.cli.configuration import load_settings
    from common.ports.errors import PortError
    from common.scrubbing import NoSuchNamespaceError, report_to_json

    settings = load_settings({"data_dir": options.data_dir})
    if _kept_by_servers():
        if options.data_dir is not None:
            raise WrongUsageError(
                "--data-dir names a folder, and the settings name servers for queue, registry, "
                "blobs and index: leave one of them out"
            )
    elif _data_folder(options) is None:
        raise WrongUsageError(f"{settings.data_dir} is not a data folder")
    try:
        async with _told_of(settings, options, out) as told:
            report = await _offline_scrub()(
                settings,
                namespace=options.namespace,
                repair=options.repair,
                progress=lambda so_far: progress(asdict(so_far)),
            )
            told.append(report)
    except (PortError, NoSuchNamespaceError) as error:
        raise CommandError(str(error)) from error
    return report_to_json(report)


@asynccontextmanager
async def _told_of(
    settings: Settings, options: ScrubOptions, out: Output
) -> AsyncIterator[list[ScrubReport]]:
    """The audit trail is told of a repair before it begins, and of its end. What is put into the
    list is its report. Raises CommandError before anything is repaired."""
    from common.cli.audit_trail import tell_trail
    from common.scrubbing import NoSuchNamespaceError, UnknownNamespacesError
    from common.storage.data_folder import DataFolderError

    done: list[ScrubReport] = []
    if not options.repair:
        yield done
        return
    if settings.audit_url == "none:" and "audit_url" not in settings.model_fields_set:
        out.note("no audit trail is told of this repair: BLOOMWEAVER_AUDIT_URL is not set")
    tell = partial(tell_trail, settings, action="scrub.repair", namespace=options.namespace or "")
    await tell(result="begun")
    try:
        yield done
    except BaseException as error:
        refused = isinstance(error, (DataFolderError, NoSuchNamespaceError, UnknownNamespacesError))
        try:
            await tell(result="refused" if refused else "uncertain")
        except CommandError as untold:
            out.note(f"the audit trail was not told how it ended: {untold}")
        raise
    try:
        await tell(count=done[0].repaired_total)
    except CommandError as untold:
        out.note(f"the audit trail was not told how it ended: {untold}")


def _offline_scrub() -> Callable[..., Any]:
    """Found by name: `common` does not import the packages that import it."""
    for entry in entry_points(group=GROUP, name="scrub"):
        found: Callable[..., Any] = entry.load()
        return found
    raise WrongUsageError(
        "this installation cannot open a data folder; install it again with `pip install -e .`"
    )


@contextmanager
def _progress(out: Output) -> Iterator[OnProgress]:
    with out.progress() as display:
        task = display.add_task("documents", total=None)

        def update(so_far: JSON) -> None:
            display.update(
                task, completed=so_far["documents_checked"], total=so_far["documents_total"]
            )

        yield update


# --- the report ----------------------------------------------------------------------------------


def _show(report: JSON, out: Output) -> None:
    seen = counted(report["documents_checked"], "document")
    records = counted(report["records_checked"], "record")
    out.say(f"{seen} and {records} compared in {report['took_seconds']:.1f} s")
    if moving := report["documents_in_motion"]:
        out.say(f"{counted(moving, 'document')} changed at every look and were not judged")
    total, repaired = report["findings_total"], report["repaired_total"]
    if not total:
        out.say("nothing is wrong", "green")
        return
    _show_findings(report, out)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report["counts"].items()))
    out.say(f"{counted(total, 'finding')} ({kinds}), {repaired:,} repaired", "bold")
    if any(f["repairable"] and not f["repaired"] for f in report["findings"]):
        out.say("`bloomweaver scrub --repair` mends what can be mended")


def _show_findings(report: JSON, out: Output) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("namespace", "document", "finding", "records", "state", "detail",
                  box=None, pad_edge=False)  # fmt: skip
    findings = report["findings"]
    for finding in findings[:ROWS_SHOWN]:
        table.add_row(
            plain(finding["namespace"]),
            Text(plain(finding["document_id"] or "—"), overflow="fold"),
            finding["kind"].replace("_", " "),
            str(finding["record_count"] or ""),
            Text(*_state(finding)),
            Text(shorten(finding["detail"], 300), overflow="fold"),
        )
    out.table(table)
    if (hidden := report["findings_total"] - min(len(findings), ROWS_SHOWN)) > 0:
        out.say(f"… and {hidden:,} more; see --json")


def _state(finding: JSON) -> tuple[str, str]:
    """A word and its style."""
    if finding["repaired"]:
        return "repaired", "green"
    return ("repairable", "yellow") if finding["repairable"] else ("needs you", "bold red")
