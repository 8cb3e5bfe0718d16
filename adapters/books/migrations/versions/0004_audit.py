"""The audit trail's hash chains, and how far conservation has been checked."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# What was there before the chains began, so that it is told from what was put in past them.
_BEGUN = (
    ("chained_after:entries", "sealed_no", "entries"),
    ("chained_after:mapping_versions", "version", "mapping_versions"),
    ("chained_after:changes", "change_no", "changes"),
    ("chained_after:period_closes", "number", "period_closes"),
)


def _texts(*names: str) -> list[sa.Column]:
    return [sa.Column(name, sa.String(), nullable=False) for name in names]


def _bigints(*names: str) -> list[sa.Column]:
    return [sa.Column(name, sa.BigInteger(), nullable=False, autoincrement=False) for name in names]


def upgrade() -> None:
    """Add the chains and the marks; note where the chains begin."""
    op.create_table(
        "commit_chain",
        sa.Column("shard", sa.Integer(), nullable=False, autoincrement=False),
        *_bigints("position_ms", "position_seq", "after_ms", "after_seq", "row_count"),
        *_texts("digest", "postings_digest", "previous", "hash"),
        sa.PrimaryKeyConstraint("shard", "position_ms", "position_seq"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "audit_chain",
        *_texts("ledger"),
        *_bigints("number"),
        *_texts("act", "ref", "content"),
        *_bigints("at_ms"),
        *_texts("previous", "hash"),
        sa.PrimaryKeyConstraint("ledger", "number"),
    )
    op.create_index("ix_audit_chain_ref", "audit_chain", ["ref"])
    op.create_table(
        "conservation_marks",
        *_texts("name"),
        *_bigints("place_ms", "place_seq"),
        sa.PrimaryKeyConstraint("name"),
    )
    for name, column, table in _BEGUN:
        op.execute(f"INSERT INTO counters (name, value) SELECT '{name}', COALESCE(MAX({column}), 0) FROM {table}")
    for part in ("ms", "seq"):
        op.execute(
            f"INSERT INTO counters (name, value) SELECT 'chained_after:' || owner || '/{part}', position_{part} "
            "FROM owners WHERE owner LIKE 'shard%'"
        )
