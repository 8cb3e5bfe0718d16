"""The demonstration: the whole way once, with real parts, ending in a proof that every cent arrived.

Owns the story. Everything it tells is read back: the sources' own sums, the books, Tryton's trial balance over its API,
and the stream of the platform that is told. Leaves nothing running, unless it is asked to.
"""

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from actors.cli import demo_screen, reports, workplace
from actors.cli.draining import Left, drain, wait_until
from actors.cli.installation import Installation
from actors.cli.local_ray import free_port
from actors.cli.submission import send_file, submit
from adapters import settings
from adapters.books.sql import SqlBooks
from adapters.outlets import redis_outlet
from adapters.sources import open_source
from adapters.sources.card_processor import CardDay, card_messages, send_messages
from adapters.sources.hospital_day import DayFile, HospitalDay, hospital_day
from adapters.sources.month import TRIAL_UNIT_MAPPING, billing_month
from adapters.sources.source import ControlTotal
from runtime.config import Config
from runtime.errors import PenstockError
from runtime.ledger.governance import rows_json
from runtime.ledger.reconciliation import Reconciliation, Side

SEED = 20261031
MONTH = "2026-10"
REPEATED_ROWS = 2_000  # what the biller sends again, as if an answer had been lost
TOLD_TIMEOUT_S = 15.0
STEWARD, CONTROLLER = "the steward", "the controller"
CARD_ENTITY, CARD_FACILITIES = "mercy", ("mercy-general", "mercy-west")
UNMAPPED, SHORT = "mapping_missing", "match_failed_receipt"  # the exceptions that are worked live
QUEUE_MAX = 1_000


class Sent(NamedTuple):
    """What doors sent: what should come of it by the sources' own count, how it was answered, and each file of it."""

    expected: dict[Side, int]
    duplicate: int = 0
    rejected: int = 0
    files: tuple[dict[str, Any], ...] = ()


def configuration() -> Config:
    """The demonstration's configuration, on free ports."""
    text = (files("adapters") / "demo.toml").read_text(encoding="utf-8")
    config = settings.parse_text(text)
    gateway = config.gateway.model_copy(update={"port": free_port(config.gateway.port)})
    return config.model_copy(update={"gateway": gateway})


def run(out: Console, *, events: int, keep: bool, synthea: Path | None) -> dict[str, Any]:
    """Run it; the report as JSON types."""
    began = time.monotonic()
    config, day = configuration(), hospital_day()
    installation = Installation(config)
    _make_room(installation)
    out.print("[bold]Penstock[/bold]: starting a durable log, books, a real ERP and the actors")
    installation.up(lambda ready: out.print(f"  ✓ {ready}", highlight=False))
    books = SqlBooks(installation.wiring().books_url)
    try:
        sent = _feed(installation, books, out, [(events,), (), (synthea,), (day,)])
        mapped = _map(installation, books, out)
        late, matched = _match(installation, books, out, day)
        report = _report(installation, books, _together(sent, late))
        report |= {"mapped": mapped, "matched": matched, "seconds": round(time.monotonic() - began, 1)}
    except BaseException:
        installation.down()
        raise
    finally:
        books.close()
    demo_screen.show(out, report)
    demo_screen.show_next(out, installation.record() if keep else None)
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


# ── four doors ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _feed(installation: Installation, books: SqlBooks, out: Console, arguments: list[tuple]) -> Sent:
    """Feed all doors side by side, and wait until everything is booked and posted."""
    columns = TextColumn("{task.description:34}"), BarColumn(), TaskProgressColumn(show_speed=True), TimeElapsedColumn()
    with Progress(*columns, console=out) as progress:
        doors: list[Callable[..., Sent]] = [_billing, _cards, _ledger, _day]
        with ThreadPoolExecutor(len(doors)) as pool:
            running = [
                pool.submit(door, installation, progress, *own) for door, own in zip(doors, arguments, strict=True)
            ]
            sent = [one.result() for one in running]
        bar = progress.add_task("posting to Tryton", total=None)

        def show(left: Left) -> None:
            done = books.entry_counts().get("posted", 0)
            progress.update(bar, completed=done, total=done + left.entries + (1 if any(left) else 0))

        drain(installation.wiring(), books, show)
    return _together(*sent)


def _billing(installation: Installation, progress: Progress, events: int) -> Sent:
    """Door 1: a month of three hospitals' billing over gRPC, as Arrow frames; some of it sent twice."""
    month, duplicate, rejected = billing_month(SEED, MONTH, events), 0, 0
    bar = progress.add_task("gRPC: a month of billing", total=events)
    with installation.client() as client:
        for number, frame in enumerate(month.frames()):
            for part in (frame, frame.head(REPEATED_ROWS) if number == 0 else frame.clear()):
                if part.is_empty():
                    continue
                answer = submit(client, part)
                duplicate, rejected = duplicate + answer.duplicate, rejected + answer.rejected
            progress.advance(bar, len(frame))
    return Sent(_turnover(month.total()), duplicate, rejected)


def _cards(installation: Installation, progress: Progress) -> Sent:
    """Door 2: a card processor writes its events into a Redis stream, row by row, repeated and out of order."""
    day = card_messages(SEED, CARD_ENTITY, CARD_FACILITIES)
    bar = progress.add_task("Redis stream: card payments", total=len(day.messages))
    wiring = installation.wiring()
    (feed,) = wiring.config.feeds
    send_messages(wiring.log_url, feed.stream, day.messages, lambda count: progress.advance(bar, count))
    return Sent(_card_turnover(day), 0, day.truth.malformed)


def _ledger(installation: Installation, progress: Progress, synthea: Path | None) -> Sent:
    """Door 3: a patient ledger in Synthea's format, decades of it."""
    path = synthea or Path(str(files("adapters.sources") / "samples" / "claims_transactions.csv"))
    source = open_source(path, "synthea", token_key=settings.token_key(installation.config))
    bar = progress.add_task("file: Synthea's patient ledger", total=None)
    duplicate = rejected = 0
    with installation.client() as client:
        for frame in source.frames():
            answer = submit(client, frame)
            duplicate, rejected = duplicate + answer.duplicate, rejected + answer.rejected
            progress.advance(bar, len(frame))
    progress.update(bar, total=source.total().events)
    return Sent(_turnover(source.total()), duplicate, rejected + source.total().rejected)


def _day(installation: Installation, progress: Progress, day: HospitalDay) -> Sent:
    """Door 4: a day's files as payer, bank, supplier and staff send them, one after the other; the last is late."""
    bar = progress.add_task("files: a hospital's day", total=len(day.file) - 1)
    sent = []
    for file in day.file[:-1]:
        sent.append(_submit(installation, day, file))
        progress.advance(bar)
    return _together(*sent)


def _submit(installation: Installation, day: HospitalDay, file: DayFile) -> Sent:
    """What `penstock submit FILE --entity ENTITY` does."""
    answer = send_file(installation.config, file.path, "", file.entity, "", quiet=True)
    expected = day.turnover(file)
    told = {
        "file": file.name,
        "title": file.title,
        "events": answer["rows"],
        "quarantined": answer["quarantined"],
        "expected": [{"entity": side[0], "currency": side[1], "minor": minor} for side, minor in expected.items()],
    }
    return Sent(expected, answer["duplicate"], answer["rejected"], (told,))


def _turnover(total: ControlTotal) -> dict[Side, int]:
    """A source's own debit turnover: every event of it books its amount."""
    return _added(*({(entity, currency): s.turnover_minor} for (entity, currency, _), s in total.sums.items()))


def _card_turnover(day: CardDay) -> dict[Side, int]:
    return {(CARD_ENTITY, "USD"): sum(kind.turnover_minor for kind in day.truth.booked.values())}


def _together(*sent: Sent) -> Sent:
    return Sent(
        _added(*(one.expected for one in sent)),
        sum(one.duplicate for one in sent),
        sum(one.rejected for one in sent),
        tuple(file for one in sent for file in one.files),
    )


def _added(*parts: dict[Side, int]) -> dict[Side, int]:
    sums: dict[Side, int] = {}
    for part in parts:
        for side, minor in part.items():
            sums[side] = sums.get(side, 0) + minor
    return sums


# ── exceptions, worked ─────────────────────────────────────────────────────────────────────────────────────────────


def _map(installation: Installation, books: SqlBooks, out: Console) -> dict[str, Any]:
    """Two persons map what some events are held for, which then book. How many did, and who signed."""
    held = books.exception_counts().get(UNMAPPED, 0)
    out.print(f"\n[bold]{UNMAPPED}[/bold]: {held} events of a new trial unit have no account", highlight=False)
    change = books.propose_change("mapping", rows_json([TRIAL_UNIT_MAPPING]), STEWARD, "a new trial unit")
    books.approve_change(change, CONTROLLER)
    _await_end(books, UNMAPPED)
    drain(installation.wiring(), books)
    newest = books.mapping_versions()[-1]
    out.print(
        f"  ✓ {newest.author} proposed a mapping, {newest.approved_by} approved it (version {newest.version}): "
        f"all {held} booked by themselves",
        highlight=False,
    )
    return {"events": held, "version": newest.version, "author": newest.author, "approved_by": newest.approved_by}


def _match(installation: Installation, books: SqlBooks, out: Console, day: HospitalDay) -> tuple[Sent, dict[str, Any]]:
    """A receipt that comes late ends the hold on a bill, and the payment that waited goes out. What ended, and how."""
    held = books.exceptions("open", [SHORT]).row(0, named=True)
    bill = next(one["document"] for one in _told(installation) if one["status"] == "match_failed")
    out.print(f"\n[bold]{SHORT}[/bold]: {held['detail']}. The payment of {bill} is held", highlight=False)
    late = day.file[-1]
    sent = _submit(installation, day, late)
    _await_end(books, SHORT)
    drain(installation.wiring(), books)
    wait_until(
        lambda: ("paid", bill) in {(one["status"], one["document"]) for one in _told(installation)},
        lambda: f"the payables platform was not told that {bill} is paid",
        TOLD_TIMEOUT_S,
    )
    ended = books.exceptions("resolved", ids=[held["exception_id"]]).row(0, named=True)
    out.print(
        f"  ✓ {late.name} came ({late.title}): the hold ended by itself, and the payment went out", highlight=False
    )
    return sent, {"document": bill, "file": late.name, **{name: ended[name] for name in ("type", "detail", "state")}}


def _await_end(books: SqlBooks, type: str) -> None:
    """Wait until no exception of this type stands."""
    wait_until(lambda: not books.exception_counts().get(type, 0), lambda: f"{type}: did not end by itself")


def _told(installation: Installation) -> list[dict[str, Any]]:
    """What the payables platform finds in its stream."""
    wiring = installation.wiring()
    (consumer,) = wiring.config.consumer
    bodies = redis_outlet.told(consumer.url or wiring.log_url, consumer.stream_name())
    return [msgspec.json.decode(body) for body in bodies]


# ── the proof ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _report(installation: Installation, books: SqlBooks, sent: Sent) -> dict[str, Any]:
    result: Reconciliation = reports.reconciliation(installation, sent.expected)
    states, entries = dict(_events_by_state(books)), books.entry_counts()
    return {
        "balanced": result.balanced,
        "totals": [
            {name: getattr(row, name) for name in ("entity", "currency", "source_minor", "books_minor", "erp_minor")}
            for row in result.totals
        ],
        "breaks": msgspec.to_builtins(result.breaks),
        "files": list(sent.files),
        "events": {
            "accepted": states.get("accepted", 0),
            "duplicate": states.get("duplicate", 0) + sent.duplicate,
            "rejected": sent.rejected,
        },
        "states": states,
        "exceptions": books.exception_counts(),
        "queue": _queue(installation, books),
        "told": _told_by_document(installation),
        "journal_entries": entries.get("posted", 0),
    }


def _events_by_state(books: SqlBooks) -> list[tuple[str, int]]:
    return books.totals().group_by("state").agg(pl.col("events").sum()).sort("state").rows()


def _queue(installation: Installation, books: SqlBooks) -> list[dict[str, Any]]:
    """The open exceptions of each type, as `penstock exceptions list` tells them."""
    rulebook = installation.wiring().rulebook()
    found = workplace.listed(books, rulebook, workplace.Choice(), QUEUE_MAX, workplace.now_ms())
    queue: dict[str, dict[str, Any]] = {}
    for row in found:
        of_type = ("type", "owner", "severity", "standing", "due_at", "action")
        one = queue.setdefault(row["type"], {name: row[name] for name in of_type} | {"count": 0, "amount_minor": 0})
        one["count"] += 1
        one["amount_minor"] += row["amount_minor"]
    return [row | {"due_at": row["due_at"].isoformat()} for _, row in sorted(queue.items())]


def _told_by_document(installation: Installation) -> dict[str, list[str]]:
    """Each document's statuses, in the order of telling."""
    told: dict[str, list[str]] = {}
    for status in _told(installation):
        told.setdefault(status["document"], []).append(status["status"])
    return told
