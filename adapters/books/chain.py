"""The audit trail: hash chains that are written in the same transaction as what they tell of.

Owns the tables `commit_chain` (one row a commit of a shard, kept for ever) and `audit_chain` (what people decided, and
what was sealed for an ERP and answered by it), and what a row's hash covers. A row's hash is the BLAKE2b-256 of the
JSON array of all its other columns, with the hash of the row before it first. Never checks a chain: `chain_check` does.

The hashes have no key: who may write to the database can write a consistent end. What was seen elsewhere (a printed
head, a backup's) can't be rewritten unnoticed, as every later hash follows from it.
"""

import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec
import polars as pl
from sqlalchemy import Connection, Row, insert, select

from adapters.books import frames, tables
from adapters.books.counters import reserve
from adapters.books.database import Database
from adapters.books.posting_rows import unpacked
from runtime.effects import DELTAS

GOVERNANCE = "governance"
_OF_SETS = "sets:"
BEGIN = ""  # what the first row has for the hash of its predecessor
ENDED = ("posted", "rejected", "parked", "replaced")  # states of an entry that are told

_commits, _audit, _entries = tables.commit_chain.c, tables.audit_chain.c, tables.entries.c
SEALED = ("key", "sealed_no", "digest", "entity", "currency", "period", "lane", "debit_minor", "body")
ANSWERED = ("key", "state", "erp_ref", "detail")
PROPOSED = ("change_no", "type", "body_json", "note", "prepared_by", "prepared_at_ms")
DECIDED = ("change_no", "state", "decided_by", "decided_at_ms", "decided_note", "effect_no")
VERSION = ("version", "rows_json", "author", "added_at_ms")
CLOSED = ("entity", "period", "number", "opens_on", "declared_by")


class Act(NamedTuple):
    """One thing that happened: what, to which row of which table, and the hash of the row's content."""

    act: str
    ref: str
    content: str


def hash_of(*values: object) -> str:
    """BLAKE2b-256 of the JSON array of these values, in hexadecimal digits."""
    return hashlib.blake2b(msgspec.json.encode(values), digest_size=32).hexdigest()


# ── commits ──


def digest_of_sets(sets: pl.DataFrame) -> str:
    """The digest of a commit's posting sets as they are stored: the CSV of what is a set's and its lines, by set; empty
    for none."""
    if sets.is_empty():
        return ""
    stored = sets.select(*frames.SET_COLUMNS, "lines").sort("set_no")
    return _OF_SETS + hashlib.blake2b(stored.write_csv().encode(), digest_size=32).hexdigest()


def digest_like(told: str, sets: pl.DataFrame) -> str:
    """The digest of stored sets in the form of one that was told: commits from before sets held their lines told
    another."""
    if told.startswith(_OF_SETS):
        return digest_of_sets(sets)
    try:
        return _digest_of_lines(unpacked(sets.select(*frames.SET_COLUMNS, "lines").iter_rows(), DELTAS))
    except msgspec.DecodeError:
        return "unreadable"


def _digest_of_lines(deltas: pl.DataFrame) -> str:
    """The CSV of DELTAS by set and line. A variance that no line has is left out: earlier commits knew none."""
    stored = deltas.select(*DELTAS).with_columns(pl.col(frames.DIMENSIONS).fill_null("")).sort("set_no", "line_no")
    if (stored["variance"] == "").all():
        stored = stored.drop("variance")
    return hashlib.blake2b(stored.write_csv().encode(), digest_size=32).hexdigest()


def append_commit(connection: Connection, mark: dict, postings_digest: str) -> None:
    """One row for a commit, whose mark it is told by. The shard's owner row is locked."""
    of_shard = select(_commits.hash).where(_commits.shard == mark["shard"])
    newest = of_shard.order_by(_commits.position_ms.desc(), _commits.position_seq.desc()).limit(1)
    row = {**mark, "postings_digest": postings_digest, "previous": connection.scalar(newest) or BEGIN}
    connection.execute(insert(tables.commit_chain), {**row, "hash": commit_hash(row)})


def commit_hash(row: dict) -> str:
    """The hash of a commit's row."""
    told = ("shard", "after_ms", "after_seq", "position_ms", "position_seq", "row_count", "digest", "postings_digest")
    return hash_of(row["previous"], *(row[name] for name in told))


# ── what people and ERPs did ──


def append(database: Database, connection: Connection, ledger: str, acts: Sequence[Act], at_ms: int) -> None:
    """Acts of one ledger, in order. Taking their numbers makes others wait, so the chain never forks."""
    if not acts:
        return
    first = reserve(database, connection, f"chain:{ledger}", len(acts))
    before = select(_audit.hash).where(_audit.ledger == ledger, _audit.number == first - 1)
    previous, rows = connection.scalar(before) or BEGIN, []
    for number, act in enumerate(acts, first):
        row = {"ledger": ledger, "number": number, **act._asdict(), "at_ms": at_ms, "previous": previous}
        previous = act_hash(row)
        rows.append({**row, "hash": previous})
    connection.execute(insert(tables.audit_chain), rows)


def act_hash(row: dict) -> str:
    """The hash of an act's row."""
    return hash_of(row["previous"], *(row[name] for name in ("ledger", "number", "act", "ref", "content", "at_ms")))


def content(row: Row | dict, columns: Sequence[str]) -> str:
    """The hash of a table's row, by these columns. Days are told as ISO dates."""
    values = row if isinstance(row, dict) else row._mapping
    return hash_of(*(values[name] for name in columns))


def sealed(row: dict) -> Act:
    """An entry was sealed; its row."""
    return Act("sealed", row["key"], content(row, SEALED))


def released(key: str, by: str) -> Act:
    """Somebody sent an entry back to be delivered again."""
    return Act("released", key, hash_of(key, by))


def ended(connection: Connection, keys: Collection[str]) -> list[Act]:
    """What the ERP or a person made of these entries, of those that have come to an end."""
    wanted = select(*(_entries[name] for name in ANSWERED)).where(_entries.key.in_(keys), _entries.state.in_(ENDED))
    rows = connection.execute(wanted.order_by(_entries.key)).all()
    return [Act(row.state, row.key, content(row, ANSWERED)) for row in rows]


def ledger_of(connection: Connection, key: str) -> str:
    """The ledger in which an entry was sealed; that of people for one that is older than the chain."""
    wanted = select(_audit.ledger).where(_audit.ref == key, _audit.act == "sealed").limit(1)
    return connection.scalar(wanted) or GOVERNANCE


def governed(database: Database, connection: Connection, act: str, row: Row | dict, at_ms: int) -> None:
    """Something that people did: "proposed", "decided", "mapping" or "closed", with the row that it made."""
    table, columns, key = GOVERNED[act]
    values = row if isinstance(row, dict) else row._mapping
    ref = f"{table}:{'/'.join(str(values[name]) for name in key)}"
    append(database, connection, GOVERNANCE, [Act(act, ref, content(row, columns))], at_ms)


# act -> the table that holds its row, the columns that count, and its key
GOVERNED: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "proposed": ("changes", PROPOSED, ("change_no",)),
    "decided": ("changes", DECIDED, ("change_no",)),
    "mapping": ("mapping_versions", VERSION, ("version",)),
    "closed": ("period_closes", CLOSED, ("entity", "period")),
}
