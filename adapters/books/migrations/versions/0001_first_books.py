"""The first books: owners, postings, totals, exceptions, entries, mappings."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_POSITION = ("position_ms", "position_seq")


def _texts(*names: str) -> list[sa.Column]:
    return [sa.Column(name, sa.String(), nullable=False) for name in names]


def _ints(*names: str) -> list[sa.Column]:
    return [sa.Column(name, sa.Integer(), nullable=False, autoincrement=False) for name in names]


def _bigints(*names: str, nullable: bool = False) -> list[sa.Column]:
    return [sa.Column(name, sa.BigInteger(), nullable=nullable, autoincrement=False) for name in names]


def upgrade() -> None:
    """Make every table."""
    _create_owners()
    _create_entries()
    _create_postings()
    _create_exceptions()
    op.create_table(
        "totals",
        *_ints("shard"),
        *_texts("source", "entity", "facility", "currency", "kind", "state"),
        *_bigints("events", "amount_minor"),
        sa.PrimaryKeyConstraint("shard", "source", "entity", "facility", "currency", "kind", "state"),
    )
    op.create_table(
        "mapping_versions",
        *_ints("version"),
        *_texts("rows_json", "author"),
        *_bigints("added_at_ms"),
        sa.PrimaryKeyConstraint("version"),
    )


def _create_owners() -> None:
    op.create_table(
        "owners",
        *_texts("owner"),
        *_bigints("epoch"),
        *_texts("holder"),
        *_bigints(*_POSITION, "rows_total"),
        *_bigints("committed_at_ms", "checkpoint_ms", "checkpoint_seq", nullable=True),
        sa.Column("snapshot", sa.String()),
        sa.PrimaryKeyConstraint("owner"),
    )
    op.create_table("counters", *_texts("name"), *_bigints("value"), sa.PrimaryKeyConstraint("name"))
    op.create_table(
        "commit_marks",
        *_ints("shard"),
        *_bigints(*_POSITION, "after_ms", "after_seq", "row_count"),
        *_texts("digest"),
        sa.PrimaryKeyConstraint("shard", *_POSITION),
    )


def _create_entries() -> None:
    op.create_table(
        "entries",
        *_texts("key"),
        *_bigints("sealed_no"),
        *_texts("digest", "entity", "currency", "period"),
        *_ints("lane"),
        *_bigints("debit_minor"),
        *_texts("body", "state"),
        *_ints("attempts"),
        *_texts("erp_ref", "detail"),
        *_bigints("sealed_at_ms", "updated_at_ms"),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_entries_state", "entries", ["state", "lane", "sealed_no"])


def _create_postings() -> None:
    op.create_table(
        "posting_sets",
        *_ints("shard"),
        *_bigints(*_POSITION),
        *_ints("set_no"),
        *_texts("entity", "currency", "period"),
        sa.Column("posted_on", sa.Date(), nullable=False),
        *_texts("mode"),
        *_ints("lane"),
        *_texts("kind", "document"),
        *_bigints("events", "committed_at_ms"),
        sa.Column("entry_key", sa.String(), sa.ForeignKey("entries.key")),
        sa.PrimaryKeyConstraint("shard", *_POSITION, "set_no"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_posting_sets_unclaimed",
        "posting_sets",
        ["lane", "committed_at_ms", "shard", *_POSITION, "set_no"],
        sqlite_where=sa.text("entry_key IS NULL"),
        postgresql_where=sa.text("entry_key IS NULL"),
    )
    op.create_table(
        "posting_lines",
        *_ints("shard"),
        *_bigints(*_POSITION),
        *_ints("set_no", "line_no"),
        *_texts("facility", "department", "role", "account_code"),
        *_ints("mapping_version"),
        *_texts("side"),
        *_bigints("amount_minor"),
        sa.PrimaryKeyConstraint("shard", *_POSITION, "set_no", "line_no"),
        sqlite_with_rowid=False,
    )


def _create_exceptions() -> None:
    op.create_table(
        "exceptions",
        *_texts("exception_id", "type"),
        *(sa.Column(name, sa.String()) for name in ("source", "event_id", "entity", "facility", "currency")),
        *_bigints("amount_minor", nullable=True),
        sa.Column("detail", sa.String()),
        *_bigints("raised_at_ms"),
        *_texts("state"),
        *_bigints("resolved_at_ms", nullable=True),
        sa.PrimaryKeyConstraint("exception_id"),
    )
    op.create_index("ix_exceptions_state", "exceptions", ["state", "type", "raised_at_ms"])
    op.create_table(
        "exception_history",
        sa.Column("change_no", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        *_texts("exception_id"),
        *_bigints("changed_at_ms"),
        *_texts("state", "changed_by", "note"),
        sa.PrimaryKeyConstraint("change_no"),
    )
    op.create_index("ix_exception_history_exception_id", "exception_history", ["exception_id"])
