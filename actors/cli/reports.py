"""What people ask of a running Penstock: status, reconciliation, the way of one event.

Owns gathering the answers as plain data, the same for tables and for JSON. Never prints and never changes anything.
"""

import contextlib
import threading
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

import msgspec
import polars as pl
from penstock import Client, NoAnswer

from actors.cli.installation import Installation
from actors.wiring import open_erp
from adapters.archive.parquet import ParquetArchive
from adapters.books.sql import SqlBooks
from runtime.errors import PenstockError
from runtime.event_rules import identity
from runtime.flow import frames
from runtime.ledger.reconciliation import Reconciliation, expected, reconcile
from runtime.ports import Archive

PARTS_TIMEOUT_S = 5.0
GATEWAY_TIMEOUT_S = 5.0
CHECKPOINT_TIMEOUT_S = 60.0
RECONCILE_TRIES, RECONCILE_PAUSE_S = 50, 0.2
UNSETTLED = ("sealed", "in_flight", "unknown")  # entry states that end by themselves


def status(installation: Installation) -> dict[str, Any]:
    """Parts, shards, consumers, entries and open exceptions. `healthy`: every part runs and no shard is stuck."""
    record = installation.record()
    with installation.stage(record) as stage:
        health = stage.ping(stage.names, PARTS_TIMEOUT_S)
        parts = [_part(name, health.get(name)) for name in stage.names]
    relay = next((part["detail"] for part in parts if part["name"] == "relay"), None) or {}
    with installation.client() as client:
        log = log_state(client, record.gateway, GATEWAY_TIMEOUT_S)
    books = SqlBooks(installation.wiring().books_url)
    try:
        states = _states(parts)
        shards = [row | {"state": states.get(row["shard"], "nowhere")} for row in books.shard_rows().to_dicts()]
        waiting = books.unclaimed_count(installation.config.erp_entities())
        entries, exceptions = books.entry_counts(), books.exception_counts()
    finally:
        books.close()
    return {
        "healthy": healthy(parts, installation.wiring().config.runtime.shards) and not log["refusing"],
        "gateway": record.gateway,
        "dashboard": record.dashboard_url,
        "metrics": record.metrics_url,
        "parts": parts,
        "log": log,
        "shards": shards,
        "outbox_frames": relay.get("outbox_frames"),
        "consumers": relay.get("consumers", []),
        "erp": erp_state(next((part["detail"] for part in parts if part["name"] == "poster"), None)),
        "posting_sets_waiting": waiting,
        "journal_entries": entries,
        "exceptions": exceptions,
    }


def erp_state(poster: dict[str, Any] | None) -> dict[str, Any]:
    """The governor's and the poster's word on the ERP connection, in one row; empty while no poster answers."""
    if not poster:
        return {}
    governor = poster["governor"]
    left = ", ".join(f"{calls:,} a {window}" for window, calls in governor["left"].items())
    paused_ms = governor["paused_until_ms"]
    return {
        "health": governor["health"],
        "calls_per_minute": round(governor["rate_per_minute"]),
        "concurrency": governor["concurrency"],
        "calls_under_way": governor["in_flight"],
        "calls_left": left,
        "paused_until": datetime.fromtimestamp(paused_ms / 1000, UTC) if paused_ms else None,
        **{name: poster[name] for name in ("sealed", "in_calls", "in_jobs", "unknown", "suspects")},
        "closing": ", ".join(poster["closing"]),
    }


def healthy(parts: list[dict[str, Any]], shards: int) -> bool:
    """Whether every part runs, and every shard in one of the workers."""
    running = {shard for shard, state in _states(parts).items() if state == "running"}
    return running == set(range(shards)) and all(part["state"] == "running" for part in parts)


def _states(parts: list[dict[str, Any]]) -> dict[int, str]:
    """What the workers say of each shard. Of several that know it, the one that runs it counts, then one that recovers
    it: by the order of the words."""
    hosted = [shard for part in parts if isinstance(part["detail"], list) for shard in part["detail"]]
    return {shard["shard"]: shard["state"] for shard in sorted(hosted, key=itemgetter("state"))}


def log_state(client: Client, gateway: str, timeout_s: float) -> dict[str, Any]:
    """The gateway's word on the log: whether events are taken, and how far each shard has come. One that does not
    answer takes none."""
    try:
        status = client.status(timeout_s)
    except NoAnswer:
        return {"refusing": True, "reason": f"no gateway answers at {gateway}", "version": "", "shards": []}
    names = ("shard", "appended", "committed", "waiting", "held", "paused")
    shards = [{name: getattr(shard, name) for name in names} for shard in status.shards]
    return {"refusing": status.refusing, "reason": status.reason, "version": status.version, "shards": shards}


def _part(name: str, health: Any) -> dict[str, Any]:
    if health is None:
        return {"name": name, "state": "silent", "pid": None, "error_type": "", "detail": None}
    return msgspec.to_builtins(health)


def reconciliation(installation: Installation, source: dict | None = None) -> Reconciliation:
    """Source, books and ERP side by side. Without `source` (sums by entity and currency), the control totals stand in
    for it: what was accepted less what waits, is held or is excluded.

    While entries are being posted, books and ERP can't be read at one instant: it is tried again until neither moved.
    """
    wiring = installation.wiring()
    books, erp = SqlBooks(wiring.books_url), open_erp(wiring)
    pause = threading.Event()
    try:
        for left in reversed(range(RECONCILE_TRIES)):
            before = _posted(books)
            if before is None and left:  # an ERP's whole ledger is not read for nothing
                pause.wait(RECONCILE_PAUSE_S)
                continue
            lines, balances, totals = erp.trial_balance(), books.balances(), books.totals()
            if before == _posted(books):
                break
            pause.wait(RECONCILE_PAUSE_S)
    finally:
        books.close()
        erp.close()
    posting = wiring.config.erp_entities()
    return reconcile(source or expected(totals, wiring.rulebook().pairs()), balances, lines, posting)


def _posted(books: SqlBooks) -> int | None:
    """How many entries are posted; None while one is with the ERP."""
    counts = books.entry_counts()
    return None if counts.get("in_flight") or counts.get("unknown") else counts.get("posted", 0)


def trace(installation: Installation, event_id: str, source: str) -> list[dict[str, Any]]:
    """Every state an event has had, and for each booking its lines, its journal entry and the ERP's document number.

    The archive holds what checkpoints have written, so the workers are asked for one first. Without a `source`, every
    one that the books know is tried.
    """
    wiring = installation.wiring()
    checkpoint(installation)
    archive, books = ParquetArchive(wiring.archive_root), SqlBooks(wiring.books_url)
    try:
        sources = [source] if source else books.totals()["source"].unique().sort().to_list()
        found = archive.find([identity(one, event_id) for one in sources])
        events = events_of(archive, found)
        return [_traced(row, events[row["id_hash"], row["digest"]], books) for row in found.iter_rows(named=True)]
    finally:
        books.close()


def events_of(archive: Archive, outcomes: pl.DataFrame) -> dict[tuple[int, int], dict[str, Any]]:
    """The events of these outcomes as they stand in the log's entries, by identity and content: each is in the step
    that its first outcome names."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    came = outcomes.unique(["id_hash", "digest"], keep="first", maintain_order=True)
    for shard, position in came.select("shard", "position").unique(maintain_order=True).iter_rows():
        step = archive.step_at(shard, position)
        for record in step.records if step else ():
            if record.type == "events":
                rows = frames.decode_sealed(record.body).filter(pl.col("id_hash").is_in(came["id_hash"].implode()))
                found |= {(row["id_hash"], row["digest"]): row for row in rows.iter_rows(named=True)}
    return found


def checkpoint(installation: Installation) -> None:
    """Bring the archive up to date, as far as workers answer; what it holds already is worth showing anyway."""
    with installation.stage() as stage:
        for name in stage.names:
            if name.startswith("worker-"):
                with contextlib.suppress(PenstockError):
                    stage.call(name, "checkpoint_now", CHECKPOINT_TIMEOUT_S)


def _traced(row: dict[str, Any], came: dict[str, Any], books: SqlBooks) -> dict[str, Any]:
    place = {name: row[name] for name in ("shard", "position", "state", "set_no")}
    event = {name: came[name] for name in ("source", "event_id", "kind", "entity", "facility", "currency")}
    money = {name: came[name] for name in ("amount_minor", "effective_on", "received_at")}
    lines = books.posting_of(row["shard"], row["position"], row["set_no"]) if row["set_no"] >= 0 else pl.DataFrame()
    return {**event, **money, **place, "postings": lines.to_dicts()}
