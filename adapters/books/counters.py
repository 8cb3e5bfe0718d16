"""Numbers that are given once, in SQL: entry numbers, mapping versions, decisions.

Owns the table `counters`. Who takes a number holds the counter until its transaction ends, so numbers become visible
in their order.
"""

from sqlalchemy import Connection

from adapters.books import tables
from adapters.books.database import Database


def reserve(database: Database, connection: Connection, name: str, count: int = 1) -> int:
    """Count up by `count`; the first of the numbers that are now taken."""
    value = tables.counters.c.value
    counted = (
        database.insert(tables.counters)
        .values(name=name, value=count)
        .on_conflict_do_update(index_elements=["name"], set_={"value": value + count})
        .returning(value)
    )
    return connection.scalar(counted) - count + 1
