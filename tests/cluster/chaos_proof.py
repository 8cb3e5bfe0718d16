"""What must hold once everything has healed and drained, whatever was killed before.

Owns the comparison of three independent sides: the client's own record of acknowledged events, what Penstock says of
itself (`penstock verify` with its naive second model, `verify --chain`, `reconcile`), and the ERP, read back past the
proxy.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import polars as pl
import redis
from chaos_load import SHARDS
from chaos_rig import BACK_WITHIN_S, Rig
from installed import POLL_S, until
from penstock import Client

from adapters import embedded
from adapters.archive.parquet import ParquetArchive
from adapters.books.sql import SqlBooks
from adapters.erp.tryton_rpc import Credentials, TrytonSession
from runtime.flow import frames
from simulation.auditor.intake import RUNTIME

UNSETTLED = ("sealed", "in_flight", "unknown")
DRAINED_WITHIN_S = 300.0
STATUSES_MAX = 10**7
PAGE_MOVES = 2_000
FOUND_SHOWN = 5
IDENTITY = ("source", "event_id", "id_hash", "digest")


def prove(rig: Rig) -> None:
    """Stop load and faults, wait until all has drained, demand that everything agrees, and let the load go on."""
    began = time.monotonic()
    rig.load.halt(True)
    rig.lose_answers(0)
    until(rig.all_run, BACK_WITHIN_S, "every part runs")
    drain(rig)
    must_be_empty(rig.load.complaints())
    assert until(lambda: rig.ask("checkpoint"), BACK_WITHIN_S, "the archive holds everything")
    must_be_empty(says(rig, "verify")["differences"])
    must_be_empty(says(rig, "verify", "--chain")["breaks"])
    must_be_empty(says(rig, "reconcile")["breaks"])
    with rig.installed.books() as books:
        found = [*not_as_acknowledged(rig, books), *not_as_delivered(rig, books), *not_as_told(rig, books)]
    must_be_empty(found)
    rig.proofs += 1
    print(
        f"all agrees: {rig.load.answered:,} events; drained and proved in {time.monotonic() - began:.0f} s", flush=True
    )
    rig.load.halt(False)


def must_be_empty(found: list[Any]) -> None:
    """Fail with the first few of what was found."""
    assert not found, f"{len(found)} found, for instance {found[:FOUND_SHOWN]}"


def says(rig: Rig, *words: str) -> dict[str, Any]:
    """What a command of Penstock answers, whatever its verdict; a command that fails to answer fails the test."""
    answer = rig.installed.run(*words, "--json", status=None)
    return json.loads(answer or rig.installed.run(*words, "--json"))


def drain(rig: Rig) -> None:
    """Wait until nothing is on its way; name what is, if it stays so."""
    deadline = time.monotonic() + DRAINED_WITHIN_S
    while stuck := {what: count for what, count in left(rig).items() if count}:
        assert time.monotonic() < deadline, f"not drained within {DRAINED_WITHIN_S:g} s: {stuck}"
        time.sleep(POLL_S)


def left(rig: Rig) -> dict[str, int]:
    """What is still on its way."""
    with Client(rig.installed.record().gateway) as client:
        rows = sum(shard.waiting for shard in client.status().shards)
    with rig.installed.books() as books:
        entries = books.entry_counts()
        return {
            "rows": rows,
            "posting sets": books.unclaimed_count(rig.config.erp_entities()),
            "derived frames": len(books.outbox(1)),
            "statuses": abs(books.statuses(0, STATUSES_MAX).height - len(consumed(rig))),
            **{state: entries.get(state, 0) for state in UNSETTLED},
        }


def not_as_acknowledged(rig: Rig, books: SqlBooks) -> Iterator[str]:
    """Every acknowledged event is accepted once in the control totals and has one history in the archive."""
    sent = rig.load.acknowledged()
    expected = sent.group_by("source", "kind").agg(pl.len(), pl.col("amount_minor").abs().sum())
    totals = books.totals().filter((pl.col("state") == "accepted") & (pl.col("source") != RUNTIME))
    counted = totals.group_by("source", "kind").agg(pl.col("events").sum(), pl.col("amount_minor").sum())
    for row in sorted(set(expected.rows()) ^ set(counted.rows())):
        yield f"acknowledged or accepted, not both: {row}"
    archive = ParquetArchive(rig.installed.wiring().archive_root)
    booked = archive.scan().group_by("id_hash", "digest").agg((pl.col("state") == "booked").sum()).collect()
    by_event = came(archive).join(booked, on=["id_hash", "digest"])
    ids = ["source", "event_id"]
    for wrong, what in (
        (sent.join(by_event, on=ids, how="anti"), "acknowledged, not in the archive"),
        (by_event.join(sent, on=ids, how="anti"), "in the archive, never acknowledged"),
        (by_event.group_by(ids).agg(pl.col("state").sum()).filter(pl.col("state") > 1), "booked twice"),
    ):
        if wrong.height:
            yield f"{what}: {wrong.height}, for instance {wrong.select(ids).row(0)}"


def came(archive: ParquetArchive) -> pl.DataFrame:
    """What the archive holds of every event that came, but for those that follow from others."""
    records = (record for shard in range(SHARDS) for step in archive.steps(shard) for record in step.records)
    found = [frames.decode_sealed(record.body).select(IDENTITY) for record in records if record.type == "events"]
    return pl.concat(found).unique().filter(pl.col("source") != RUNTIME)


def not_as_delivered(rig: Rig, books: SqlBooks) -> Iterator[str]:
    """The ERP holds every entry's key once, posted, and no other."""
    entries = Counter(entry.key for entry in books.entries_in(rig.config.erp_entities(), ["posted"], STATUSES_MAX))
    moves = Counter(moves_of(rig))
    for key, state in sorted(moves.keys() - {(key, "posted") for key in entries}):
        yield f"the ERP holds {key}, which is {state}; the books know of no such posted entry"
    for key in sorted(entries):
        if moves[key, "posted"] != 1:
            yield f"the ERP holds {key} {moves[key, 'posted']} times"


def moves_of(rig: Rig) -> Iterator[tuple[str, str]]:
    """Key and state of every move, read from Tryton itself."""
    password = embedded.tryton_password(rig.tryton_folder)
    session = TrytonSession(Credentials(rig.tryton_url, embedded.TRYTON_DATABASE, embedded.TRYTON_USER, password))
    field, last = "external_ref" if rig.external_ref else "description", 0
    try:
        while page := session.read(
            "model.account.move.search_read", [["id", ">", last]], 0, PAGE_MOVES, [["id", "ASC"]], [field, "state"]
        ):
            yield from ((move[field] or "", move["state"]) for move in page)
            last = page[-1]["id"]
    finally:
        session.close()


def not_as_told(rig: Rig, books: SqlBooks) -> Iterator[str]:
    """The consumer holds every status of the books under its number, each once and in order."""
    if consumed(rig) != [f"{number}-0" for number in books.statuses(0, STATUSES_MAX)["status_no"]]:
        yield "the consumer's stream does not hold the books' statuses, each once and in order"


def consumed(rig: Rig) -> list[str]:
    """The numbers in the consumer's stream."""
    (consumer,) = rig.config.consumer
    with redis.Redis.from_url(rig.installed.wiring().log_url) as client:
        return [number.decode() for number, _ in client.xrange(consumer.stream_name())]
