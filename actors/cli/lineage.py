"""`penstock lineage`: all events of the chain that a document or an event stands in, each with what became of it.

Owns reading the archive for them and joining what the books know. Which event belongs to a chain is the rulebook's
(`runtime.ledger.lineage`). Reads archive and database alone, so it needs nothing running; what runs is asked for a
checkpoint first, as the archive holds what checkpoints have written.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from typing import Annotated, Any

import polars as pl
import typer

from actors.cli.export import existing_url
from actors.cli.installation import Installation
from actors.cli.reports import checkpoint
from actors.cli.terminal import AsJson, ConfigFile, load, out, print_json, print_table, told
from actors.wiring import archive_root
from adapters import settings
from adapters.archive.parquet import ParquetArchive
from adapters.books.sql import SqlBooks
from runtime.config import Config
from runtime.flow import frames
from runtime.ledger.line_matching import plain
from runtime.ledger.lineage import NAMES, PART, Lineage, Row, identity, meant
from runtime.ledger.rule_file import parse_rulebook
from runtime.ledger.rules import Rulebook
from runtime.ports import Archive, Books

SAID = ("source", "event_id", "entity", "facility", "amount_minor", "currency", "quantity")
ENTRY = ("entry_key", "entry_state", "erp_ref")
COLUMNS = ["on", "kind", "document", "reference", "amount_minor", "currency", "units", "state", "entry_key", "erp_ref"]


def command(
    *,
    document: Annotated[str, typer.Argument(help="An order, receipt, case, charge, bill, payment, or an event's id.")],
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Show the whole chain that a document stands in: order, receipt, use, charge, bill, payment. Fails if unknown.

    Of each event: its documents, date, amount, state, journal entry and the number that the ERP gave it. What stands
    together is what the documents themselves name: a bill's other lines, and a payment's other bills, are left out
    unless it is the bill or the payment that is asked for.
    """
    with told():
        found = lineage(load(config), document)
    if json:
        print_json(found)
    elif found:
        print_table(f"lineage of {document}", [_shown(row) for row in found], COLUMNS)
    else:
        out.print("no accepted event has this id or document")
    raise typer.Exit(0 if found else 1)


def lineage(config: Config, name: str) -> list[dict[str, Any]]:
    """The chain of whatever bears that name, oldest event first; empty when nothing does."""
    installation = Installation(config)
    url, rulebook = existing_url(config), parse_rulebook(settings.load_rulebook_text(config))
    if installation.is_up():
        checkpoint(installation)
    with closing(SqlBooks(url)) as books:
        return lineage_of(ParquetArchive(archive_root(config)), books, rulebook, range(config.runtime.shards), name)


def lineage_of(
    archive: Archive, books: Books, rulebook: Rulebook, shards: Iterable[int], name: str
) -> list[dict[str, Any]]:
    """The same, of this archive and these books.

    Links never leave a shard, so only those are read again in which something bears the name. An archive has no index
    by document: each round of links reads through what came, in bounded memory.
    """
    near_it = pl.col("document").str.starts_with(name + PART) | pl.any_horizontal(pl.col("event_id", *NAMES) == name)
    near = {shard: list(_events(archive, shard, near_it)) for shard in shards}
    begin = meant([row for rows in near.values() for row in rows], name)
    concerned = [shard for shard, rows in near.items() if rows]

    def read(keys: Collection[str]) -> Iterator[Row]:
        wanted = pl.lit(pl.Series(list(keys), dtype=pl.String()).implode())
        bears = pl.any_horizontal(pl.col(NAMES).is_in(wanted).fill_null(value=False))
        for shard in concerned:
            yield from _events(archive, shard, bears)

    chain = Lineage(rulebook).chain(begin, read)
    outcomes = archive.find([row["id_hash"] for row in chain])
    fates = {identity(fate): fate for fate in outcomes.iter_rows(named=True)}  # the last of each
    return [_told(row, fates[identity(row)], books) for row in chain if identity(row) in fates]


def _events(archive: Archive, shard: int, chosen: pl.Expr) -> Iterator[Row]:
    """The chosen events of a shard, repeats too, as they stand in the log's entries."""
    for step in archive.steps(shard):
        for record in step.records:
            if record.type == "events":
                yield from frames.decode_sealed(record.body).filter(chosen).iter_rows(named=True)


def _told(row: Row, fate: dict[str, Any], books: Books) -> dict[str, Any]:
    place = (fate["shard"], fate["position"], fate["set_no"])
    lines = books.posting_of(*place) if fate["set_no"] >= 0 else pl.DataFrame()
    entry = lines.row(0, named=True) if len(lines) else {}
    event = {"kind": row["kind"], "on": row["effective_on"], **{name: row[name] for name in (*NAMES, *SAID)}}
    return {**event, "state": fate["state"], **{name: entry.get(name, "") for name in ENTRY}}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row for people: thousandths as units."""
    return {**row, "units": "" if row["quantity"] is None else plain(row["quantity"])}
