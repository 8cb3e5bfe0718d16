"""What a commit stores lies packed: lines in their posting set, changes of totals in the commit's mark, statuses in a
frame until they are numbered."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_LINE = "line_no, facility, department, variance, role, account_code, mapping_version, side, amount_minor"
_KEY = ("shard", "position_ms", "position_seq", "set_no")
_SAME_SET = " AND ".join(f"posting_lines.{name} = posting_sets.{name}" for name in _KEY)
_PACKED = {
    "sqlite": f"SELECT json_group_array(json_array({_LINE})) FROM "
    f"(SELECT {_LINE} FROM posting_lines WHERE {_SAME_SET} ORDER BY line_no)",
    "postgresql": f"SELECT CAST(json_agg(json_build_array({_LINE}) ORDER BY line_no) AS TEXT) FROM posting_lines "
    f"WHERE {_SAME_SET}",
}
_NEWEST = "(SELECT COALESCE(MAX(status_no), 0) FROM statuses)"
_NUMBER_ALL = (
    f"UPDATE statuses SET status_no = waiting.number + {_NEWEST} FROM (SELECT inserted_no, ROW_NUMBER() OVER "
    "(ORDER BY inserted_no) AS number FROM statuses WHERE status_no IS NULL) AS waiting "
    "WHERE statuses.inserted_no = waiting.inserted_no"
)


def upgrade() -> None:
    """Pack what is there. SQLite makes the tables anew, as the code declares them."""
    lines = sa.Column("lines", sa.String(), nullable=False, server_default="[]")
    totals = sa.Column("totals", sa.LargeBinary())
    if (dialect := op.get_bind().dialect.name) == "sqlite":
        _anew("posting_sets", lines, sqlite_with_rowid=False)
        _anew("totals", sqlite_with_rowid=False)
        _anew("commit_marks", totals)
    else:
        op.add_column("posting_sets", lines)
        op.add_column("commit_marks", totals)
    op.execute(f"UPDATE posting_sets SET lines = COALESCE(({_PACKED[dialect]}), '[]')")
    op.drop_table("posting_lines")
    _number_statuses()


def _anew(name: str, *added: sa.Column, **options: object) -> None:
    with op.batch_alter_table(name, recreate="always", table_kwargs=options) as table:
        for column in added:
            table.add_column(column)


def _number_statuses() -> None:
    """From here on a row of statuses has its number from the beginning."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.execute(_NUMBER_ALL)
    op.drop_index("ix_statuses_status_no", "statuses")
    with op.batch_alter_table("statuses") as table:
        table.drop_column("inserted_no")  # and the primary key with it
        table.alter_column("status_no", nullable=False, type_=number)
        table.create_primary_key("pk_statuses", ["status_no"])
    op.create_table(
        "status_frames",
        sa.Column("number", number, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
