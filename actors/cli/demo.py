"""The demonstration: the whole way once, with real parts, ending in a proof that every cent arrived.

Owns the story and its table. Everything it shows is read back: the sources' own sums, the books, and Tryton's trial
balance over its API. Leaves nothing running, unless it is asked to.
"""

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl
from penstock import Client
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from actors.cli import reports
from actors.cli.installation import Installation, free_port
from actors.cli.submission import submit
from actors.cli.terminal import money
from adapters import settings
from adapters.books.sql import SqlBooks
from adapters.feeds.redis_feed import undelivered
from adapters.sources import open_source
from adapters.sources.card_processor import CardDay, card_messages, send_messages
from adapters.sources.month import TRIAL_UNIT_MAPPING, billing_month
from adapters.sources.source import ControlTotal
from runtime.config import Config
from runtime.errors import PenstockError
from runtime.ledger.governance import rows_json
from runtime.ledger.reconciliation import Reconciliation, Side

SEED = 20261031
MONTH = "2026-10"
REPEATED_ROWS = 2_000  # what the biller sends again, as if an answer had been lost
DRAIN_TIMEOUT_S = 150.0
STEWARD, CONTROLLER = "the steward", "the controller"
CARD_ENTITY, CARD_FACILITIES = "mercy", ("mercy-general", "mercy-west")


class Sent(NamedTuple):
    """What the three doors sent: what should come of it by the sources' own count, and how it was answered."""

    expected: dict[Side, int]
    duplicate: int
    rejected: int


def configuration() -> Config:
    """The demonstration's configuration, on free ports."""
    text = (files("adapters") / "demo.toml").read_text(encoding="utf-8")
    config = settings.parse_text(text)
    gateway = config.gateway.model_copy(update={"port": free_port(config.gateway.port)})
    return config.model_copy(update={"gateway": gateway})


def run(out: Console, *, events: int, keep: bool, synthea: Path | None) -> dict[str, Any]:
    """Run it; the report as JSON types."""
    began = time.monotonic()
    config = configuration()
    installation = Installation(config)
    _make_room(installation)
    out.print("[bold]Penstock[/bold]: starting a durable log, books, a real ERP and the actors")
    installation.up(lambda ready: out.print(f"  ✓ {ready}", highlight=False))
    try:
        sent = _feed(installation, out, events, synthea)
        held = _heal(installation, out)
        report = _report(installation, sent, held, began)
    except BaseException:
        installation.down()
        raise
    _show(out, report, installation, keep)
    if not keep:
        installation.down()
    return report


def _make_room(installation: Installation) -> None:
    """Start from an empty data folder; refuse while an earlier demonstration is up."""
    if installation.is_up():
        raise PenstockError("an earlier demonstration is still up; stop it with: penstock down -c .penstock/demo.toml")
    shutil.rmtree(installation.folder, ignore_errors=True)
    installation.folder.mkdir(parents=True)
    (installation.folder.parent / "demo.toml").write_text((files("adapters") / "demo.toml").read_text())


# ── three doors ────────────────────────────────────────────────────────────────────────────────────────────────────


def _feed(installation: Installation, out: Console, events: int, synthea: Path | None) -> Sent:
    """Feed all three doors side by side, and wait until everything is booked and posted."""
    columns = TextColumn("{task.description:34}"), BarColumn(), TaskProgressColumn(show_speed=True), TimeElapsedColumn()
    with Progress(*columns, console=out) as progress:
        doors: list[Callable[..., Sent]] = [_billing, _cards, _file]
        arguments = [(events,), (), (synthea,)]
        with ThreadPoolExecutor(len(doors)) as pool:
            running = [
                pool.submit(door, installation, progress, *own) for door, own in zip(doors, arguments, strict=True)
            ]
            sent = [one.result() for one in running]
        _drain(installation, progress)
    return Sent(
        _added(*(one.expected for one in sent)), sum(one.duplicate for one in sent), sum(one.rejected for one in sent)
    )


def _billing(installation: Installation, progress: Progress, events: int) -> Sent:
    """Door 1: a month of three hospitals' billing over gRPC, as Arrow frames; some of it sent twice."""
    month, duplicate, rejected = billing_month(SEED, MONTH, events), 0, 0
    bar = progress.add_task("gRPC: a month of billing", total=events)
    with Client(installation.record().gateway) as client:
        for number, frame in enumerate(month.frames()):
            for part in (frame, frame.head(REPEATED_ROWS) if number == 0 else frame.clear()):
                if part.is_empty():
                    continue
                answer = submit(client, part)
                duplicate, rejected = duplicate + answer.duplicate, rejected + answer.rejected
            progress.advance(bar, len(frame))
    return Sent(_expected(month.total()), duplicate, rejected)


def _cards(installation: Installation, progress: Progress) -> Sent:
    """Door 2: a card processor writes its events into a Redis stream, row by row, repeated and out of order."""
    day = card_messages(SEED, CARD_ENTITY, CARD_FACILITIES)
    bar = progress.add_task("Redis stream: card payments", total=len(day.messages))
    wiring = installation.wiring()
    (feed,) = wiring.config.feeds
    send_messages(wiring.log_url, feed.stream, day.messages, lambda count: progress.advance(bar, count))
    return Sent(_expected_cards(day), 0, day.truth.malformed)


def _file(installation: Installation, progress: Progress, synthea: Path | None) -> Sent:
    """Door 3: a patient ledger in Synthea's format, decades of it."""
    path = synthea or Path(str(files("adapters.sources") / "samples" / "claims_transactions.csv"))
    source = open_source(path, "synthea", token_key=settings.token_key(installation.config))
    bar = progress.add_task("file: Synthea's patient ledger", total=None)
    duplicate = rejected = 0
    with Client(installation.record().gateway) as client:
        for frame in source.frames():
            answer = submit(client, frame)
            duplicate, rejected = duplicate + answer.duplicate, rejected + answer.rejected
            progress.advance(bar, len(frame))
    progress.update(bar, total=source.total().events)
    return Sent(_expected(source.total()), duplicate, rejected + source.total().rejected)


def _expected(total: ControlTotal) -> dict[Side, int]:
    """A source's own debit turnover: every event of it books its amount."""
    return _added(*({(entity, currency): s.turnover_minor} for (entity, currency, _), s in total.sums.items()))


def _expected_cards(day: CardDay) -> dict[Side, int]:
    return {(CARD_ENTITY, "USD"): sum(kind.turnover_minor for kind in day.truth.booked.values())}


def _added(*parts: dict[Side, int]) -> dict[Side, int]:
    sums: dict[Side, int] = {}
    for part in parts:
        for side, minor in part.items():
            sums[side] = sums.get(side, 0) + minor
    return sums


# ── waiting ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Left(NamedTuple):
    """What is not at its end: feed messages, log rows, posting sets, journal entries."""

    messages: int
    rows: int
    sets: int
    entries: int


def _left(installation: Installation, books: SqlBooks, gateway: Client) -> Left:
    """Asked in the order of the way, so that what moves on meanwhile is seen further along."""
    wiring = installation.wiring()
    (feed,) = wiring.config.feeds
    messages = undelivered(wiring.log_url, feed.stream, feed.group)
    rows = sum(shard.waiting for shard in gateway.status().shards)
    sets = books.unclaimed_count(wiring.config.erp_entities())
    entries = books.entry_counts()
    return Left(messages, rows, sets, sum(entries.get(state, 0) for state in reports.UNSETTLED))


def _drain(installation: Installation, progress: Progress | None) -> None:
    """Wait until nothing is left on the way."""
    books, gateway = SqlBooks(installation.wiring().books_url), Client(installation.record().gateway)
    bar = progress.add_task("posting to Tryton", total=None) if progress else None
    deadline, pause = time.monotonic() + DRAIN_TIMEOUT_S, threading.Event()
    try:
        while any(left := _left(installation, books, gateway)):
            if time.monotonic() > deadline:
                raise PenstockError(f"not drained after {DRAIN_TIMEOUT_S:g} s: {left}; see the logs folder")
            if progress:
                done = books.entry_counts().get("posted", 0)
                progress.update(bar, completed=done, total=done + left.entries + (1 if left.sets else 0))
            pause.wait(0.2)
        if progress:
            done = books.entry_counts().get("posted", 0)
            progress.update(bar, completed=done, total=done)
    finally:
        books.close()
        gateway.close()


def _heal(installation: Installation, out: Console) -> int:
    """Add the mapping that some events are held for, and see them book. How many were held."""
    books = SqlBooks(installation.wiring().books_url)
    try:
        held = books.exception_counts().get("mapping_missing", 0)
        if held:
            out.print(f"  {held} events are held for want of a mapping; {STEWARD} proposes it, {CONTROLLER} approves …")
            change = books.propose_change("mapping", rows_json([TRIAL_UNIT_MAPPING]), STEWARD, "a new trial unit")
            books.approve_change(change, CONTROLLER)
        deadline, pause = time.monotonic() + DRAIN_TIMEOUT_S, threading.Event()
        while books.exception_counts().get("mapping_missing", 0):
            if time.monotonic() > deadline:
                raise PenstockError("held events did not book after their mapping came; see the logs folder")
            pause.wait(0.2)
    finally:
        books.close()
    _drain(installation, None)
    if held:
        out.print(f"  ✓ all {held} booked by themselves")
    return held


# ── the proof ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _report(installation: Installation, sent: Sent, held: int, began: float) -> dict[str, Any]:
    result: Reconciliation = reports.reconciliation(installation, sent.expected)
    books = SqlBooks(installation.wiring().books_url)
    try:
        states = dict(_events_by_state(books))
        exceptions, entries = books.exception_counts(), books.entry_counts()
    finally:
        books.close()
    return {
        "balanced": result.balanced,
        "totals": [
            {name: getattr(row, name) for name in ("entity", "currency", "source_minor", "books_minor", "erp_minor")}
            for row in result.totals
        ],
        "breaks": msgspec.to_builtins(result.breaks),
        "events": {
            "accepted": states.get("accepted", 0),
            "duplicate": states.get("duplicate", 0) + sent.duplicate,
            "rejected": sent.rejected,
        },
        "states": states,
        "held_then_booked": held,
        "exceptions": exceptions,
        "journal_entries": entries.get("posted", 0),
        "seconds": round(time.monotonic() - began, 1),
    }


def _events_by_state(books: SqlBooks) -> list[tuple[str, int]]:
    return books.totals().group_by("state").agg(pl.col("events").sum()).sort("state").rows()


def _show(out: Console, report: dict[str, Any], installation: Installation, keep: bool) -> None:
    out.print("\n[bold]Every cent: sources = books = ERP[/bold] (debit turnover)")
    table = Table(header_style="bold")
    for name in ("entity", "currency"):
        table.add_column(name)
    for name in ("sources", "Penstock's books", "Tryton's trial balance"):
        table.add_column(name, justify="right")
    for row in report["totals"]:
        figures = (money(row[name]) for name in ("source_minor", "books_minor", "erp_minor"))
        table.add_row(row["entity"], row["currency"], *figures)
    out.print(table)
    out.print("[green]balanced to the cent[/green]" if report["balanced"] else "[red]NOT balanced[/red]")
    events = report["events"]
    out.print(
        f"{events['accepted']:,} events accepted, {events['duplicate']:,} repeats answered as such, "
        f"{events['rejected']:,} refused; {report['journal_entries']:,} journal entries posted; "
        f"{report['seconds']} s",
        highlight=False,
    )
    out.print("\n[bold]Open exceptions[/bold]")
    types = installation.wiring().rulebook().exception
    queue = Table("type", "owner", "what the runtime did", header_style="bold")
    queue.add_column("count", justify="right")
    for name, count in sorted(report["exceptions"].items()):
        queue.add_row(name, types[name].owner, types[name].action, str(count))
    out.print(queue)
    _show_next(out, installation, keep)


def _show_next(out: Console, installation: Installation, keep: bool) -> None:
    if not keep:
        out.print("Nothing is left running. To look around: [bold]make demo ARGS=--keep[/bold]")
        return
    record = installation.record()
    out.print("Still up. Where to look next:")
    places = {
        "dashboard": f"{record.dashboard_url} (token in {record.ray_token_file})",
        "metrics": record.metrics_url,
        "Tryton": record.erp_url,
        "gRPC": record.gateway,
    }
    for name, place in places.items():
        out.print(f"  {name:10} {place}", highlight=False)
    for command in ("status", "exceptions list", "reconcile", "trace bill-000001", "down"):
        out.print(f"  penstock {command} -c .penstock/demo.toml", highlight=False)
