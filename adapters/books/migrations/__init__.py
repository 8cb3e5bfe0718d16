"""The books' schema through time.

Owns the order of changes to the tables: one file in `versions` a change, never edited after its release. Run in
process by `upgrade`; holds no data of its own.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text

from adapters.books.database import Database
from runtime.errors import ConfigError

_LOCK = 7_217_317  # any number, as long as every upgrade takes the same


def upgrade(url: str, revision: str = "head") -> None:
    """Bring a database to the newest schema, from nothing or from any earlier one, in one transaction.

    `revision` is where to stop, for whoever needs books of an earlier version. Several processes may do so at once: one
    works, the others wait and find it done. Raises BooksUnavailable, and ConfigError for books of a newer version.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    database = Database(url)
    try:
        with database.writing() as connection:
            database.unhurried(connection)
            _wait_for_others(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    except CommandError:  # its revision is none of ours
        raise ConfigError("books.url: these books were made by a newer version of penstock; use that one") from None
    finally:
        database.close()


def _wait_for_others(connection: Connection) -> None:
    """SQLite's writing transaction has waited already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
