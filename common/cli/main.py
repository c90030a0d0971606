"""The console command `bloomweaver`: what the commands are called and what they take.

Nothing heavy is imported here, so that `--help` answers at once; and nothing that imports
prometheus_client, because a role has to set its environment before (roles.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.cli import audit, dlq, keys, options, roles, sources
from common.cli import optimize as optimizing
from common.cli.canary_search import Search
from common.cli.output import Output, run, run_plain, service_url
from common.cli.problems import ExitCode

SERVICE, CLIENT, ABOUT = "Run the service", "Use a service", "Find out"

app = typer.Typer(
    name="bloomweaver",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help=(
        "Keeps a vector index true to documents that change.\n\n"
        "**First steps:** start the service with `bloomweaver up`, send a folder from "
        "another terminal with `bloomweaver push docs/`, and ask with "
        '`bloomweaver search "your question"`.\n\n'
        "Exit codes: 0 done; 1 something failed; 2 wrong usage or configuration; 3 the service "
        "could not be reached; 130 interrupted."
    ),
)
app.command(rich_help_panel=SERVICE)(roles.up)
app.command(rich_help_panel=SERVICE)(roles.webhook)
app.command(rich_help_panel=SERVICE)(roles.worker)

Paths = Annotated[list[str], typer.Argument(help="Files, folders, or globs.", metavar="PATH…")]


@app.command(rich_help_panel=CLIENT)
def push(
    paths: Paths,
    *,
    namespace: options.Namespace = "default",
    prefix: options.Prefix = "",
    metadata: options.Metadata = None,
    delete_missing: Annotated[
        bool, typer.Option("--delete-missing", help="Delete documents whose file is gone.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Let --delete-missing delete everything.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")
    ] = False,
    wait: options.Wait = True,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Send files and folders; only what changed since the last time is sent.

    Takes text, Markdown, reStructuredText, HTML, PDF and DOCX. A document is called as its
    path within the pushed folder. Hidden files are left out. With --delete-missing, documents
    of the namespace (under --prefix) that are not among the files are deleted.

    **Example:** `bloomweaver push docs/ --delete-missing --metadata team=platform`
    """
    from common.cli.plan import parse_metadata
    from common.cli.push import PushOptions, push_command

    out = Output(as_json=as_json)
    run(
        lambda: push_command(
            service_url(url),
            PushOptions(
                paths=paths,
                namespace=namespace,
                prefix=prefix,
                metadata=parse_metadata(metadata or []),
                delete_missing=delete_missing,
                force=force,
                dry_run=dry_run,
                wait=wait,
            ),
            out,
        )
    )


@app.command(rich_help_panel=CLIENT)
def watch(
    paths: Paths,
    *,
    namespace: options.Namespace = "default",
    prefix: options.Prefix = "",
    metadata: options.Metadata = None,
    debounce: Annotated[
        int, typer.Option(help="Milliseconds in which changes are taken together.", min=50)
    ] = 300,
    wait: options.Wait = True,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Push, then follow the files: what is saved is sent, what is removed is deleted.

    Ctrl-C ends it. While the service is away, changes are kept and sent when it is back.

    **Example:** `bloomweaver watch docs/`
    """
    from common.cli.plan import parse_metadata
    from common.cli.push import PushOptions
    from common.cli.watch import watch_command

    out = Output(as_json=as_json)
    run(
        lambda: watch_command(
            service_url(url),
            PushOptions(
                paths=paths,
                namespace=namespace,
                prefix=prefix,
                metadata=parse_metadata(metadata or []),
                wait=wait,
            ),
            debounce,
            out,
        ),
        interrupted=ExitCode.DONE,
    )


@app.command(rich_help_panel=CLIENT)
def replay(
    feed: Annotated[Path, typer.Argument(help="NDJSON, plain or gzip.", metavar="FEED.jsonl[.gz]")],
    *,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="For lines that name none.")
    ] = "default",
    limit: Annotated[
        int | None, typer.Option(help="Stop after so many lines.", min=0, show_default=False)
    ] = None,
    retry_seconds: Annotated[
        float, typer.Option(help="How long a service that went away is waited for.", min=0)
    ] = 60.0,
    wait: options.Wait = True,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Send a feed: one change a line, in order, in constant memory.

    A bad line is reported with its number and stops nothing. When the connection is lost on the
    way, sending goes on from the first line that has no result. Fields the service does not know
    are left out; a missing content type is taken from the document id's suffix.

    **Example:** `bloomweaver replay changes.jsonl.gz --namespace handbook`
    """
    from common.cli.replay import ReplayOptions, replay_command

    out = Output(as_json=as_json)
    run(
        lambda: replay_command(
            service_url(url),
            ReplayOptions(
                path=feed, namespace=namespace, wait=wait, limit=limit, retry_seconds=retry_seconds
            ),
            out,
        )
    )


@app.command(rich_help_panel=CLIENT)
def search(
    query: Annotated[str, typer.Argument(help="A question, or words.")],
    *,
    namespace: options.Namespace = "default",
    top_k: Annotated[int, typer.Option(help="How many hits.", min=1)] = 5,
    where: Annotated[
        str | None,
        typer.Option("--filter", metavar="JSON", show_default=False, help="On metadata."),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="SECONDS",
            show_default=False,
            help="First wait until all that was accepted so far is visible.",
        ),
    ] = None,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Find the passages nearest in meaning, best first.

    **Example:** `bloomweaver search "how deletes stay deleted" --filter '{"team": "platform"}'`
    """
    from common.cli.search import SearchOptions, search_command

    out = Output(as_json=as_json)
    found = SearchOptions(
        query=query, namespace=namespace, top_k=top_k, where=where, wait_seconds=wait
    )
    run(lambda: search_command(service_url(url), found, out))


@app.command(rich_help_panel=CLIENT)
def status(
    document_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A document.", show_default=False)
    ] = None,
    *,
    history: Annotated[
        bool, typer.Option("--history", help="What happened to the document, and when.")
    ] = False,
    namespace: options.Namespace = "default",
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Show where things stand: the whole service, or one document.

    With --history, a document's life: each change, attempt, error and failure, and each version
    that became visible. The newest 2,000 events are kept, until a deleted document is forgotten.

    **Example:** `bloomweaver status guides/quickstart.md`
    """
    from common.cli.status import history_command, status_command

    out = Output(as_json=as_json)
    if history:
        run(lambda: history_command(service_url(url), document_id, namespace, out))
    else:
        run(lambda: status_command(service_url(url), document_id, namespace, out))


@app.command(rich_help_panel=CLIENT)
def scrub(
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended without its source.")
    ] = False,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", show_default=False, help="Only this one; else all."),
    ] = None,
    url: options.Url = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Compare the index with the registry and the packs, record by record.

    Finds records that no document has, records that are missing or say something else, damaged
    packs and contents, and rows that contradict themselves. The service may work meanwhile: what
    is only on its way is no finding. --repair removes what is left over, corrects rows, and has
    damaged documents written anew.

    Where queue, registry, blobs and index are servers (on AWS, say), they are compared from here,
    with the settings that the workers have. Else the service is asked; when none answers, the data
    folder is opened instead; with --data-dir, at once (it must be nobody's just then).

    Exit code 0 when nothing is wrong, or all of it is repaired; 1 when findings remain.

    **Example:** `bloomweaver scrub --repair`
    """
    from common.cli.scrub import ScrubOptions, scrub_command

    out = Output(as_json=as_json)
    wanted = ScrubOptions(namespace=namespace, repair=repair, url=url, data_dir=data_dir)
    run(lambda: scrub_command(wanted, out))


@app.command(rich_help_panel=SERVICE)
def optimize(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            show_default=False,
            help="As behind `fastembed:` in BLOOMWEAVER_EMBEDDER_URL: the packaged model's name "
            "or a model folder. Else the configured one.",
        ),
    ] = None,
    *,
    graph: Annotated[
        optimizing.GraphKind,
        typer.Option(help="int8: most speed, other vectors. fused: some speed, the same vectors."),
    ] = optimizing.GraphKind.INT8,
    target: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            show_default=False,
            help="What to write. Else beside the model: its name and `-int8` or `-fused`.",
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Documents to compare on, files or folders; repeat for more. Else a handbook.",
        ),
    ] = None,
    texts: Annotated[int, typer.Option(help="Chunks of the sample to compare, at most.", min=1)] = (
        200
    ),
    min_cosine: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            show_default=False,
            help="Ask for more agreement than the least: 0.995 takes the more careful int8 graph.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite what this command wrote before.")
    ] = False,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Make a faster graph of the model, if its vectors agree with the original's.

    Writes a model folder beside the original, which stays as it is. The agreement is measured on
    real text through the whole embedding path: a mean cosine under 0.99 (fused: 0.9999) is
    refused, and then nothing is written. The graph is an embedding profile of its own, since its
    vectors are: a namespace keeps to the profile it began with. Make int8 graphs on a machine like
    the one that will run them. A fused graph is what the product makes for itself on a CPU
    (BLOOMWEAVER_FUSE_GRAPH): make one by hand for images and for models over 700 MB.

    **Example:** `bloomweaver optimize --graph int8 --sample docs/`
    """
    out = Output(as_json=as_json)
    wanted = optimizing.OptimizeOptions(
        model=model,
        graph=graph,
        target=target,
        sample=tuple(sample or ()),
        texts=texts,
        min_cosine=min_cosine,
        force=force,
        data_dir=data_dir,
    )
    run_plain(lambda: optimizing.optimize_command(wanted, out))


app.add_typer(dlq.app, name="dlq", rich_help_panel=CLIENT)
app.add_typer(keys.app, name="keys", rich_help_panel=SERVICE)
app.add_typer(audit.app, name="audit", rich_help_panel=SERVICE)
app.add_typer(sources.app, name="sources", rich_help_panel=SERVICE)


@app.command(rich_help_panel=ABOUT)
def doctor(
    *,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", show_default=False, help="For each; else 10."),
    ] = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Try out everything the settings name, and say in a line each what is wrong.

    Makes a real call to queue, registry, blobs, index and whatever else is configured, embeds a
    sentence, and looks at the data folder, the disk, the clock and the webhook. It changes nothing.

    Exit code 0 when nothing is wrong (notes are marked with !), 1 otherwise, 2 when the settings
    themselves cannot be read.

    **Example:** `BLOOMWEAVER_QUEUE_URL=sqs: bloomweaver doctor`
    """
    from common.cli.doctor import doctor_command

    out = Output(as_json=as_json)
    run(lambda: doctor_command(data_dir, timeout, out))


@app.command(rich_help_panel=ABOUT)
def canary(
    *,
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace", "-n", help="Where its document goes; name one of each variant's, too."
        ),
    ] = "canary",
    timeout_seconds: Annotated[
        float,
        typer.Option(min=0.1, help="For all steps together; workers at zero need minutes."),
    ] = 300.0,
    search: Annotated[
        Search, typer.Option(help="required: a service that cannot search is a failure.")
    ] = Search.AUTO,
    url: options.Url = None,
    as_json: options.Json = False,
) -> None:
    """Try out a running service with a document of its own, from accept to gone.

    Puts a document with a text that no other has, waits until a search finds it, replaces it, waits
    until a search finds the new text and not the old, deletes it, and waits until it is gone. A
    service that cannot search (its webhook has no model) is asked for the document and its chunks
    instead, and the steps say so; with `--search required` that is a failure. What canaries left
    that were killed, more than an hour ago, is deleted at the start.

    The document is deleted whatever happens, also at Ctrl-C and when the time is up. The key
    (BLOOMWEAVER_API_KEY) must be able to read and write the namespace.

    Exit code 0 when every step was taken; 1 when one failed, with what to look at; 3 when nothing
    answers.

    **Example:** `bloomweaver canary --url https://api.example.org --timeout-seconds 600`
    """
    from common.cli.canary import CanaryOptions, canary_command

    out = Output(as_json=as_json)
    wanted = CanaryOptions(namespace=namespace, timeout_seconds=timeout_seconds, search=search)
    run(lambda: canary_command(service_url(url), wanted, out))


@app.command(rich_help_panel=SERVICE)
def profile(
    variant: Annotated[
        str | None,
        typer.Option(show_default=False, help="One of BLOOMWEAVER_EMBEDDING_VARIANTS."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print the configured model's profile, for processes that never embed.

    A webhook that only accepts, and the consumers, need to know which vectors a namespace holds
    and not the model. Set their BLOOMWEAVER_EMBEDDER_URL to what this prints; searching, in such a
    process, says that it has no model.

    **Example:** `export BLOOMWEAVER_EMBEDDER_URL="$(bloomweaver profile)"`
    """
    from common.cli.profile import profile_command

    out = Output(as_json=as_json)
    run_plain(lambda: profile_command(variant, out))


@app.command(rich_help_panel=ABOUT)
def settings(as_json: options.Json = False) -> None:
    """List every setting: its variable, value, default and what it is for.

    Settings come from the environment or a .env file.

    **Example:** `BLOOMWEAVER_WORKERS_MAX=2 bloomweaver settings`
    """
    from common.cli.configuration import list_settings

    run_plain(lambda: list_settings(Output(as_json=as_json)))


@app.command(rich_help_panel=ABOUT)
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the data folder.")] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", show_default=False, help="An empty folder to use; else a temporary one."
        ),
    ] = None,
) -> None:
    """See it run: a small handbook with its later edits and deletions, and three searches.

    Starts a service of its own on a free port and an empty folder, and removes both.

    **Example:** `bloomweaver demo`
    """
    from common.cli.demo import demo_command

    run(lambda: demo_command(data_dir, keep=keep, out=Output()))


def main() -> None:
    """Ctrl-C before or after a command is as quiet as during one."""
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(int(ExitCode.INTERRUPTED)) from None


if __name__ == "__main__":
    main()
