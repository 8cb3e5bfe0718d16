"""How fast an ERP may be called, when each entry was sent, and which periods are to be closed."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add governors, sendings and period closes."""
    op.create_table(
        "governors",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("owner"),
    )
    op.create_table(
        "period_closes",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("entity", "period")),
        sa.Column("due_ms", sa.BigInteger(), nullable=False, autoincrement=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("ordered_by", "state")),
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("opens_on", sa.Date()),
        sa.Column("declared_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("entity", "period"),
    )
    op.create_table(
        "sendings",
        sa.Column("entry_key", sa.String(), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False, autoincrement=False)
            for name in ("first_sent_ms", "sent_ms")
        ),
        sa.PrimaryKeyConstraint("entry_key"),
    )
