"""What of a receivable is in dispute, as a dimension of posting lines."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the dimension; lines that are there have none. SQLite makes the table anew, as the code declares it."""
    variance = sa.Column("variance", sa.String(), nullable=False, server_default="")
    if op.get_bind().dialect.name != "sqlite":
        op.add_column("posting_lines", variance)
        return
    with op.batch_alter_table("posting_lines", recreate="always", table_kwargs={"sqlite_with_rowid": False}) as table:
        table.add_column(variance, insert_after="department")
