"""Governed changes: proposals and decisions, an outbox of derived events, statuses; a history that tells changes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _texts(*names: str) -> list[sa.Column]:
    return [sa.Column(name, sa.String(), nullable=False) for name in names]


def _bigints(*names: str, nullable: bool = False) -> list[sa.Column]:
    return [sa.Column(name, sa.BigInteger(), nullable=nullable, autoincrement=False) for name in names]


def _numbered(name: str) -> sa.Column:
    return sa.Column(name, sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def upgrade() -> None:
    """Make the new tables; in the history, what happened takes the place of the state that it led to."""
    _create_changes()
    _create_outbox()
    _create_statuses()
    op.execute("ALTER TABLE exception_history RENAME COLUMN state TO change")
    op.execute("UPDATE exception_history SET change = 'raised' WHERE change = 'open'")


def _create_changes() -> None:
    op.create_table(
        "changes",
        sa.Column("change_no", sa.Integer(), nullable=False, autoincrement=False),
        *_texts("type", "body_json", "note", "prepared_by"),
        *_bigints("prepared_at_ms"),
        *_texts("state", "decided_by"),
        *_bigints("decided_at_ms", nullable=True),
        *_texts("decided_note"),
        *_bigints("effect_no", "logged_at_ms", nullable=True),
        sa.PrimaryKeyConstraint("change_no"),
    )
    op.create_index("ix_changes_state", "changes", ["state", "type", "change_no"])


def _create_outbox() -> None:
    op.create_table(
        "outbox",
        _numbered("number"),
        sa.Column("shard", sa.Integer(), nullable=False, autoincrement=False),
        *_bigints("position_ms", "position_seq"),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sqlite_autoincrement=True,
    )


def _create_statuses() -> None:
    op.create_table(
        "statuses",
        _numbered("inserted_no"),
        *_bigints("status_no", nullable=True),
        *_texts("status_id", "flow", "status", "kind", "entity", "document", "counterparty"),
        *_bigints("amount_minor"),
        *_texts("currency", "source", "event_id", "detail"),
        *_bigints("occurred_at_ms"),
        sa.PrimaryKeyConstraint("inserted_no"),
    )
    op.create_index("ix_statuses_status_id", "statuses", ["status_id"], unique=True)
    op.create_index("ix_statuses_status_no", "statuses", ["status_no"], unique=True)
