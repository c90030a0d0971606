"""What a month of an installation is taken to cost: `python -m tests.bench.month_costs` prints the
tables of docs/costs.md. Computed, not measured: requests are those that `--only costs` counted, all
else are prices times what terraform/ makes. Nothing of AWS's free tier is taken off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HOURS = 730.0
"""Of a month, as AWS counts them."""
MILLION = 1e6
GB = 1e9

PRICES = {
    "interface endpoint, hour and zone": 0.01,
    "interface endpoint, GB": 0.01,
    "NAT gateway, hour": 0.045,
    "NAT gateway, GB": 0.045,
    "to the internet, GB": 0.09,
    "Lambda, million requests": 0.20,
    "Lambda, GB-second": 0.0000166667,
    "HTTP API, million requests": 1.00,
    "SQS, million requests": 0.40,
    "DynamoDB, million read units": 0.125,
    "DynamoDB, GB": 0.25,
    "DynamoDB point-in-time recovery, GB": 0.20,
    "S3, GB": 0.023,
    "S3, million GETs": 0.40,
    "ECR, GB": 0.10,
    "logs taken in, GB": 0.50,
    "logs kept, GB": 0.03,
    "metric": 0.30,
    "alarm, each metric of it": 0.10,
    "dashboard": 3.00,
    "KMS key": 1.00,
    "secret": 0.40,
    "c7i.large, hour": 0.08925,
    "c7i.large spot, hour": 0.036,
    "c7i.xlarge, hour": 0.1785,
    "c7i.xlarge spot, hour": 0.071,
    "g6.xlarge, hour": 0.8048,
    "g6.xlarge spot, hour": 0.32,
    "gp3 volume, GB": 0.08,
    "Pinecone, million read units": 16.0,
    "Pinecone, GB": 0.33,
    "Pinecone standard plan, at least": 50.0,
    "db.t4g.micro, hour": 0.016,
    "RDS gp3, GB": 0.115,
    "web ACL": 5.00,
    "rule of a web ACL": 1.00,
    "hosted zone": 0.50,
}
"""US dollars, us-east-1 and Pinecone's standard plan, as published in 2025; spot as seen then."""

CENTS_OF_1000 = {"inserts": 7.1, "edits": 9.3, "deletes": 3.0}
"""Requests to SQS, DynamoDB, S3 and Pinecone; docs/costs.md, first tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What the numbers of an environment make of it."""

    name: str
    zones: int
    instance: str
    spot: bool
    point_in_time_recovery: bool
    endpoints: int = 5
    log_days: int = 7
    alarm_metrics: int = 36
    """14 of the queues, 7 of a fleet's scaling and its workers, 15 of error rates, freshness, seven
    functions and the sweeper's schedule. Above 19 workers a fleet has a second alarm: 3 more."""
    secrets: int = 3
    images_gb: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Changes of a month, and the documents that are held."""

    name: str
    inserts: int = 0
    edits: int = 0
    deletes: int = 0
    documents: int = 0
    worker_hours: float = 0.0

    @property
    def changes(self) -> int:
        return self.inserts + self.edits + self.deletes


DEV = Installation(
    name="dev", zones=1, instance="c7i.large", spot=True, point_in_time_recovery=False
)
PROD = Installation(
    name="prod",
    zones=3,
    instance="c7i.xlarge",
    spot=False,  # on_demand_base = 1: the first instance
    point_in_time_recovery=True,
    log_days=90,
    alarm_metrics=39,
)
IDLE = Load(name="idle")
BUSY = Load(
    name="busy",
    inserts=50_000,
    edits=900_000,
    deletes=50_000,
    documents=100_000,
    worker_hours=HOURS,
)

DOCUMENT_KB, PACK_KB, ROW_KB, RECORD_KB = 3.0, 8.0, 1.5, 3.0
RECORDS_OF_A_DOCUMENT = 3
RECORDS_SENT_FOR_A_CHANGE, SENT_RECORD_KB = 1.2, 8.0
LOG_KB_OF_A_CHANGE, LOG_KB_OF_A_RUN = 5.0, 1.0
KEPT_VERSIONS_DAYS = 30.0
"""Noncurrent and superseded contents, until the bucket's lifecycle and the sweeper remove them."""
FETCHED_TOGETHER, LISTED_TOGETHER = 10, 100
"""Records of one read unit of Pinecone."""

SCHEDULED_RUNS = {"sweep rows": 8_760, "sweep blobs": 730, "intake listing": 2_920, "scrub": 30}
RUN_SECONDS, RUN_GB = 0.5, 1.0
SCRUB_SECONDS_OF_A_DOCUMENT, LONGEST_RUN_SECONDS = 0.005, 900.0
WEBHOOK_SECONDS, WEBHOOK_GB = 0.1, 1.0
CONSUMER_SECONDS, CONSUMER_GB, CONSUMER_BATCH = 0.15, 0.5, 2.0
"""Three to five times what was measured warm on a whole core; Lambda gives less than one."""
POLLERS, POLLS_AN_HOUR, MAPPINGS = 5, 180, 4
"""A mapping asks its queue with five long polls of 20 s, work or not; of create, update, delete
and intake."""
LINE_METRICS, SILENT_WITHOUT_WORK = 6, 1
ROUTES, METRICS_OF_A_ROUTE = 2, 6


def month(installation: Installation, load: Load) -> dict[str, float]:
    """US dollars by what they are for."""
    return {
        "interface endpoints": _endpoints(installation, load),
        "instances and their volumes": _instances(installation, load),
        "requests of the changes": _requests(load),
        "functions and API": _functions(load),
        "polls of the mappings": _polls(),
        "nightly scrub": _scrub(load),
        "storage: rows, contents, packs, images": _storage(installation, load),
        "logs": _logs(installation, load),
        "metrics and dashboard": _metrics(load),
        "alarms": installation.alarm_metrics * PRICES["alarm, each metric of it"],
        "secrets and the alarms' key": installation.secrets * PRICES["secret"] + PRICES["KMS key"],
        "Pinecone's storage": _pinecone_storage(load),
        "to Pinecone, over the internet": _sent_gb(load) * PRICES["to the internet, GB"],
    }


def _endpoints(installation: Installation, load: Load) -> float:
    standing = installation.endpoints * installation.zones * HOURS
    return (
        standing * PRICES["interface endpoint, hour and zone"]
        + load.changes * 10e3 / GB * PRICES["interface endpoint, GB"]
    )


def _instances(installation: Installation, load: Load) -> float:
    kind = f"{installation.instance}{' spot' if installation.spot else ''}, hour"
    volumes = 30 * PRICES["gp3 volume, GB"] * load.worker_hours / HOURS
    return load.worker_hours * PRICES[kind] + volumes


def _requests(load: Load) -> float:
    counts = {"inserts": load.inserts, "edits": load.edits, "deletes": load.deletes}
    return sum(counts[kind] / 1000 * cents / 100 for kind, cents in CENTS_OF_1000.items())


def _functions(load: Load) -> float:
    runs = sum(SCHEDULED_RUNS.values())
    batches = load.changes / CONSUMER_BATCH
    gb_seconds = (
        runs * RUN_SECONDS * RUN_GB
        + load.changes * WEBHOOK_SECONDS * WEBHOOK_GB
        + batches * CONSUMER_SECONDS * CONSUMER_GB
    )
    calls = (runs + load.changes + batches) / MILLION
    return (
        gb_seconds * PRICES["Lambda, GB-second"]
        + calls * PRICES["Lambda, million requests"]
        + load.changes / MILLION * PRICES["HTTP API, million requests"]
    )


def _polls() -> float:
    polls = MAPPINGS * POLLERS * POLLS_AN_HOUR * HOURS
    return polls / MILLION * PRICES["SQS, million requests"]


def _scrub(load: Load) -> float:
    """Every row, pack and record is read, once a day."""
    nights = SCHEDULED_RUNS["scrub"]
    records = load.documents * RECORDS_OF_A_DOCUMENT
    units = records / FETCHED_TOGETHER + records / LISTED_TOGETHER
    seconds = min(load.documents * SCRUB_SECONDS_OF_A_DOCUMENT, LONGEST_RUN_SECONDS)
    return nights * (
        units / MILLION * PRICES["Pinecone, million read units"]
        + load.documents / MILLION * PRICES["S3, million GETs"]
        + load.documents * ROW_KB / 4 / MILLION * PRICES["DynamoDB, million read units"]
        + seconds * RUN_GB * PRICES["Lambda, GB-second"]
    )


def _storage(installation: Installation, load: Load) -> float:
    rows = load.documents * ROW_KB * 1e3 / GB
    kept_months = KEPT_VERSIONS_DAYS / 30
    versions = load.documents + (load.inserts + load.edits) * kept_months
    files = versions * (DOCUMENT_KB + PACK_KB) * 1e3 / GB
    recovery = PRICES["DynamoDB point-in-time recovery, GB"]
    row_price = PRICES["DynamoDB, GB"] + (recovery if installation.point_in_time_recovery else 0.0)
    return rows * row_price + files * PRICES["S3, GB"] + installation.images_gb * PRICES["ECR, GB"]


def _logs(installation: Installation, load: Load) -> float:
    lines_kb = load.changes * LOG_KB_OF_A_CHANGE + sum(SCHEDULED_RUNS.values()) * LOG_KB_OF_A_RUN
    taken_in = lines_kb * 1e3 / GB
    kept = taken_in * installation.log_days / 30
    return taken_in * PRICES["logs taken in, GB"] + kept * PRICES["logs kept, GB"]


def _metrics(load: Load) -> float:
    routes = ROUTES * METRICS_OF_A_ROUTE if load.changes else 0
    lines = LINE_METRICS - (0 if load.changes else SILENT_WITHOUT_WORK)
    return (lines + routes) * PRICES["metric"] + PRICES["dashboard"]


def _pinecone_storage(load: Load) -> float:
    stored = load.documents * RECORDS_OF_A_DOCUMENT * RECORD_KB * 1e3 / GB
    return stored * PRICES["Pinecone, GB"]


def _sent_gb(load: Load) -> float:
    changed = load.inserts * RECORDS_OF_A_DOCUMENT + load.edits * RECORDS_SENT_FOR_A_CHANGE
    return changed * SENT_RECORD_KB * 1e3 / GB


def options() -> dict[str, float]:
    """US dollars of a month for what is not in the tables, or would be there instead."""
    spot_hours = 8 * 30
    return {
        "a NAT gateway in place of the endpoints, without its 0.045 $ a GB": (
            HOURS * PRICES["NAT gateway, hour"]
        ),
        "a further zone of endpoints": 5 * HOURS * PRICES["interface endpoint, hour and zone"],
        "a further c7i.xlarge round the clock, spot": HOURS * PRICES["c7i.xlarge spot, hour"],
        "one c7i.xlarge for eight hours of each day, spot": (
            spot_hours * PRICES["c7i.xlarge spot, hour"]
        ),
        "one g6.xlarge (GPU) for eight hours of each day, spot": (
            spot_hours * PRICES["g6.xlarge spot, hour"]
        ),
        "the same, on demand": spot_hours * PRICES["g6.xlarge, hour"],
        "the audit trail's PostgreSQL, db.t4g.micro and 20 GB": (
            HOURS * PRICES["db.t4g.micro, hour"] + 20 * PRICES["RDS gp3, GB"]
        ),
        "the frontend's web ACL with its four rules": (
            PRICES["web ACL"] + 4 * PRICES["rule of a web ACL"]
        ),
        "a hosted zone for domains": PRICES["hosted zone"],
        "a customer key for everything": PRICES["KMS key"],
        "Pinecone's standard plan, where less than that is used": (
            PRICES["Pinecone standard plan, at least"]
        ),
    }


def tables() -> str:
    """As they stand in docs/costs.md."""
    columns = [(where, load) for where in (DEV, PROD) for load in (IDLE, BUSY)]
    months = [month(where, load) for where, load in columns]
    heads = [f"{where.name}, {load.name}" for where, load in columns]
    lines = [_row("US dollars a month", heads), _row("---", ["---"] * len(heads))]
    lines += [_row(what, [_dollars(m[what]) for m in months]) for what in months[0]]
    lines.append(_row("**all**", [f"**{sum(m.values()):,.0f}**" for m in months]))
    return "\n\n".join(["\n".join(lines), _options_table(options()), _prices()])


def _prices() -> str:
    return "; ".join(f"{what} {dollars:g}" for what, dollars in PRICES.items()) + "."


def _options_table(more: Mapping[str, float]) -> str:
    lines = [_row("more, or instead", ["US dollars a month"]), _row("---", ["---"])]
    return "\n".join([*lines, *[_row(what, [_dollars(cost)]) for what, cost in more.items()]])


def _row(first: str, cells: list[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def _dollars(amount: float) -> str:
    return "0" if amount == 0 else f"{amount:,.2f}"


if __name__ == "__main__":
    print(tables())
