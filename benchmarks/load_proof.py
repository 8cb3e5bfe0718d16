"""The proof after a load: the client's own record against the books, the books against the ERP, and everything anew.

Owns what is compared. What producers were told is stored must be in the books once, by kind, in number and in cents;
repeats count nowhere. Changes nothing.
"""

import contextlib
from typing import NamedTuple

import polars as pl

from actors.cli.draining import Left
from actors.cli.installation import Installation
from actors.cli.verification import verify
from actors.cli.verify import sources
from actors.wiring import open_erp
from adapters.books.sql import SqlBooks
from benchmarks import prepared, workload
from benchmarks.load_record import Client

DIFFERENCES_TOLD = 10


class Proof(NamedTuple):
    """What was compared; everything held when `differences` is empty."""

    differences: list[str]
    figures: dict[str, float]


def proved(installation: Installation, client: Client, erp: dict, left: Left, *, derive: bool) -> Proof:
    """Compare, when nothing is `left` on the way; with `derive` the whole of the books is derived anew, which takes a
    naive model a while."""
    if any(left):
        return Proof([f"not drained: {left}"], {})
    books = SqlBooks(installation.wiring().books_url)
    with contextlib.closing(books):
        differences = [*_unanswered(client), *_against_books(client, books), *_against_erp(books, erp)]
        figures: dict[str, float] = {"requests": len(client.answered), "entries": sum(books.entry_counts().values())}
    if derive:
        wiring = installation.wiring()
        with contextlib.closing(open_erp(wiring)) as gateway:
            verification = verify(sources(installation), gateway)
        differences += [str(difference) for difference in verification.differences[:DIFFERENCES_TOLD]]
        figures["verified_events"] = verification.counts.get("events", 0)
    return Proof(differences, figures)


def _unanswered(client: Client) -> list[str]:
    lost = {asked.asked for asked in client.asked} - {answer.answered for answer in client.answered}
    return [f"{len(lost)} requests were never answered: what became of them is not known"] if lost else []


def _against_books(client: Client, books: SqlBooks) -> list[str]:
    """Every event that was answered as stored is accepted in the books once, whoever found its repeats."""
    derived = [name for name, kind in prepared.rulebook(workload.configuration()).kind.items() if kind.derived]
    found = books.totals().filter((pl.col("state") == "accepted") & ~pl.col("kind").is_in(derived))
    by_kind = found.group_by("kind").agg(pl.col("events").sum(), pl.col("amount_minor").sum())
    both = _sent(client).join(by_kind, on="kind", how="full", coalesce=True).fill_null(0).sort("kind")
    wrong = both.filter(
        (pl.col("events") != pl.col("events_right")) | (pl.col("amount_minor") != pl.col("amount_minor_right"))
    )
    return [
        f"{kind}: sent {events:,} of {minor:,}, the books have {events_found:,} of {minor_found:,}"
        for kind, events, minor, events_found, minor_found in wrong.iter_rows()
    ]


def _sent(client: Client) -> pl.DataFrame:
    """By kind, what the answered requests hold: distinct events and conflicting contents, their number and sizes."""
    frames = workload.month_end(client.begun.events, client.begun.seed).frames(client.begun.frame_rows)
    of_turn: dict[int, list[int]] = {}
    for answer in client.answered:
        turn, index = divmod(answer.answered, len(frames))
        of_turn.setdefault(turn, []).append(index)
    sums = [_sums(frames, indexes) for indexes in of_turn.values()]
    return pl.concat(sums).group_by("kind").agg(pl.col("events").sum(), pl.col("amount_minor").sum())


def _sums(frames: list[pl.DataFrame], indexes: list[int]) -> pl.DataFrame:
    rows = pl.concat([frames[index].select("event_id", "kind", "amount_minor") for index in indexes])
    distinct = rows.unique(["event_id", "amount_minor"])
    return distinct.group_by("kind").agg(pl.len().cast(pl.Int64()).alias("events"), pl.col("amount_minor").abs().sum())


def _against_erp(books: SqlBooks, erp: dict) -> list[str]:
    """Every entry is posted, and the ERP has booked as much as the books: in cents, and nothing under a key twice."""
    counts = books.entry_counts()
    unposted = {state: count for state, count in counts.items() if state != "posted" and count}
    differences = [f"entries not posted: {unposted}"] if unposted else []
    balances = books.balances()
    debit_minor = int(balances["debit_minor"].sum())
    if erp["debit_minor"] != debit_minor:
        differences.append(f"the books have debits of {debit_minor:,}, the ERP of {erp['debit_minor']:,}")
    if erp["keys_twice"]:
        differences.append(f"{erp['keys_twice']} entries stand in the ERP twice")
    return differences
