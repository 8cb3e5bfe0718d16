"""The tables of the books, as SQLAlchemy Core sees them.

Owns names, types, keys and indexes; the migrations build the same (a test compares them). Holds no query.
Positions lie in two BIGINT columns, milliseconds and sequence, so that the database compares them as numbers.
Instants are BIGINT milliseconds UTC, amounts BIGINT minor units.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)


def _text(name: str, **options: object) -> Column:
    return Column(name, String, nullable=False, **options)


def _int(name: str, **options: object) -> Column:
    return Column(name, Integer, nullable=False, autoincrement=False, **options)


def _bigint(name: str, **options: object) -> Column:
    return Column(name, BigInteger, nullable=False, autoincrement=False, **options)


def _numbered(name: str) -> Column:
    """A key that the database counts up."""
    return Column(name, BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


def _given(name: str) -> Column:
    """A key that counts up and is given by the books."""
    return Column(name, BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False)


# Who owns what: "shard:3" with its place in the log, "erp:main" with an epoch only.
owners = Table(
    "owners",
    metadata,
    _text("owner", primary_key=True),
    _bigint("epoch"),
    _text("holder"),
    _bigint("position_ms"),
    _bigint("position_seq"),
    _bigint("rows_total"),
    Column("committed_at_ms", BigInteger),
    Column("checkpoint_ms", BigInteger),
    Column("checkpoint_seq", BigInteger),
    Column("snapshot", String),
    Column("placed", String),  # the worker that is to host the shard; none: by the default of all workers
)

# Numbers that are given once: entry numbers, mapping versions, the order of sealing.
counters = Table("counters", metadata, _text("name", primary_key=True), _bigint("value"))

commit_marks = Table(
    "commit_marks",
    metadata,
    _int("shard", primary_key=True),
    _bigint("position_ms", primary_key=True),
    _bigint("position_seq", primary_key=True),
    _bigint("after_ms"),
    _bigint("after_seq"),
    _bigint("row_count"),
    _text("digest"),
    Column("totals", LargeBinary),  # what the commit changed of the control totals, until a checkpoint adds it up
)

entries = Table(
    "entries",
    metadata,
    _text("key", primary_key=True),
    _bigint("sealed_no"),
    _text("digest"),
    _text("entity"),
    _text("currency"),
    _text("period"),
    _int("lane"),
    _bigint("debit_minor"),
    _text("body"),  # the whole entry as JSON; it never changes
    _text("state"),
    _int("attempts"),
    _text("erp_ref"),
    _text("detail"),
    _bigint("sealed_at_ms"),
    _bigint("updated_at_ms"),
    Index("ix_entries_state", "state", "lane", "sealed_no"),
)

# A posting set with its lines, as JSON: `posting_rows` owns their form. SQLite keeps the sets in key order without a
# second tree: commits append to its end.
posting_sets = Table(
    "posting_sets",
    metadata,
    _int("shard", primary_key=True),
    _bigint("position_ms", primary_key=True),
    _bigint("position_seq", primary_key=True),
    _int("set_no", primary_key=True),
    _text("entity"),
    _text("currency"),
    _text("period"),
    Column("posted_on", Date, nullable=False),
    _text("mode"),
    _int("lane"),
    _text("kind"),
    _text("document"),
    _bigint("events"),
    _bigint("committed_at_ms"),
    Column("entry_key", String, ForeignKey(entries.c.key)),
    _text("lines", server_default="[]"),
    sqlite_with_rowid=False,
)

# What waits for an entry, in the order in which it is claimed. It stays small however long the history grows.
Index(
    "ix_posting_sets_unclaimed",
    posting_sets.c.lane,
    posting_sets.c.committed_at_ms,
    posting_sets.c.shard,
    posting_sets.c.position_ms,
    posting_sets.c.position_seq,
    posting_sets.c.set_no,
    sqlite_where=posting_sets.c.entry_key.is_(None),
    postgresql_where=posting_sets.c.entry_key.is_(None),
)

# As of each shard's checkpoint: later changes lie with the commits' marks. Keyed by shard as well, so that workers
# never wait for each other's rows.
totals = Table(
    "totals",
    metadata,
    _int("shard", primary_key=True),
    _text("source", primary_key=True),
    _text("entity", primary_key=True),
    _text("facility", primary_key=True),
    _text("currency", primary_key=True),
    _text("kind", primary_key=True),
    _text("state", primary_key=True),
    _bigint("events"),
    _bigint("amount_minor"),
    sqlite_with_rowid=False,
)

exceptions = Table(
    "exceptions",
    metadata,
    _text("exception_id", primary_key=True),
    _text("type"),
    Column("source", String),
    Column("event_id", String),
    Column("entity", String),
    Column("facility", String),
    Column("currency", String),
    Column("amount_minor", BigInteger),
    Column("detail", String),
    _bigint("raised_at_ms"),
    _text("state"),
    Column("resolved_at_ms", BigInteger),
    Index("ix_exceptions_state", "state", "type", "raised_at_ms"),
)

exception_history = Table(
    "exception_history",
    metadata,
    _numbered("change_no"),
    _text("exception_id"),
    _bigint("changed_at_ms"),
    _text("change"),
    _text("changed_by"),
    _text("note"),
    Index("ix_exception_history_exception_id", "exception_id"),
)

mapping_versions = Table(
    "mapping_versions",
    metadata,
    _int("version", primary_key=True),
    _text("rows_json"),
    _text("author"),
    _bigint("added_at_ms"),
)

# What people change. `effect_no` is the mapping version or the decision that an approved change became.
changes = Table(
    "changes",
    metadata,
    _int("change_no", primary_key=True),
    _text("type"),
    _text("body_json"),
    _text("note"),
    _text("prepared_by"),
    _bigint("prepared_at_ms"),
    _text("state"),
    _text("decided_by"),
    Column("decided_at_ms", BigInteger),
    _text("decided_note"),
    Column("effect_no", BigInteger),
    Column("logged_at_ms", BigInteger),
    Index("ix_changes_state", "state", "type", "change_no"),
)

# Derived events on their way into other shards' logs. Rows come and go: their numbers must not be given again.
outbox = Table(
    "outbox",
    metadata,
    _numbered("number"),
    _int("shard"),
    _bigint("position_ms"),
    _bigint("position_seq"),
    Column("body", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

# What consumers outside will be told, in frames, until the relay numbers it.
status_frames = Table("status_frames", metadata, _numbered("number"), Column("body", LargeBinary, nullable=False))

# What consumers outside are told, in the order of its numbers.
statuses = Table(
    "statuses",
    metadata,
    _given("status_no"),
    _text("status_id"),
    *(_text(name) for name in ("flow", "status", "kind", "entity", "document", "counterparty")),
    _bigint("amount_minor"),
    *(_text(name) for name in ("currency", "source", "event_id", "detail")),
    _bigint("occurred_at_ms"),
    Index("ix_statuses_status_id", "status_id", unique=True),
)

# How fast an owner's ERP may be called: what its governor must remember, as JSON.
governors = Table("governors", metadata, _text("owner", primary_key=True), _text("body"))

# When an entry was meant to be sent, first and last. Of entries that were never sent there is no row.
sendings = Table(
    "sendings", metadata, _text("entry_key", primary_key=True), _bigint("first_sent_ms"), _bigint("sent_ms")
)

period_closes = Table(
    "period_closes",
    metadata,
    _text("entity", primary_key=True),
    _text("period", primary_key=True),
    _bigint("due_ms"),
    _text("ordered_by"),
    _text("state"),
    _int("number"),
    Column("opens_on", Date),
    _text("declared_by"),
)

# From which day on a shard posts for an entity, as far as it was told of periods that were cut off.
shard_openings = Table(
    "shard_openings",
    metadata,
    _int("shard", primary_key=True),
    _text("entity", primary_key=True),
    Column("opens_on", Date, nullable=False),
)

# One row a commit, for ever: each holds the hash of the one before it. `postings_digest` is of the commit's posting
# sets and lines as they are stored here, so that a changed line is found.
commit_chain = Table(
    "commit_chain",
    metadata,
    _int("shard", primary_key=True),
    _bigint("position_ms", primary_key=True),
    _bigint("position_seq", primary_key=True),
    _bigint("after_ms"),
    _bigint("after_seq"),
    _bigint("row_count"),
    *(_text(name) for name in ("digest", "postings_digest", "previous", "hash")),
    sqlite_with_rowid=False,
)

# What people and ERPs did, one chain a ledger: "governance", and one for each owner of an ERP connection.
audit_chain = Table(
    "audit_chain",
    metadata,
    _text("ledger", primary_key=True),
    _bigint("number", primary_key=True),
    _text("act"),
    _text("ref"),
    _text("content"),
    _bigint("at_ms"),
    *(_text(name) for name in ("previous", "hash")),
    Index("ix_audit_chain_ref", "ref"),
)

# How far conservation has been checked, by shard and for entries: all before it was right.
conservation_marks = Table(
    "conservation_marks", metadata, _text("name", primary_key=True), _bigint("place_ms"), _bigint("place_seq")
)
