"""What of a receivable is in dispute, as a dimension of posting lines."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the dimension; lines that are there have none."""
    op.add_column("posting_lines", sa.Column("variance", sa.String(), nullable=False, server_default=""))
