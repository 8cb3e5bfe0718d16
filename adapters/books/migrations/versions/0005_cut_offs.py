"""Periods are cut off before they are declared closed: how far each shard has come, and numbers of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add how far shards are, and count on from the closes that were declared."""
    op.create_table(
        "shard_openings",
        sa.Column("shard", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("entity", sa.String(), nullable=False),
        sa.Column("opens_on", sa.Date(), nullable=False),
        sa.PrimaryKeyConstraint("shard", "entity"),
    )
    op.execute(
        "INSERT INTO counters (name, value) SELECT 'close_no', MAX(number) FROM period_closes HAVING MAX(number) > 0"
    )
