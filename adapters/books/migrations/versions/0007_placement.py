"""Which worker is to host a shard, where that was decided."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column; what is there stays where it is. SQLite makes the table anew, as the code declares it."""
    recreate = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    with op.batch_alter_table("owners", recreate=recreate) as table:
        table.add_column(sa.Column("placed", sa.String()))
