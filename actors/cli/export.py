"""The books as a file for other programs.

Owns the way from the books to a stream of bytes, a page at a time. Reads the database alone, so it needs nothing
running, and may run beside everything else: all that is written shows the books at one instant.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Literal

from actors.cli.installation import books_url
from adapters.books.sql import SqlBooks
from adapters.export import hledger
from runtime.config import Config
from runtime.currencies import currency_digits
from runtime.errors import ConfigError

Format = Literal["hledger"]
JOURNALS = {"hledger": hledger.Journal}
SETS_PER_PAGE = 5_000
_SQLITE = "sqlite:///"


def export(config: Config, format: Format, into: BinaryIO) -> Iterator[int]:
    """Write all posting sets; after each page, how many there are so far."""
    journal = JOURNALS[format](currency_digits)
    with closing(SqlBooks(existing_url(config))) as books, closing(books.posting_pages(SETS_PER_PAGE)) as pages:
        into.write(journal.opening().encode())
        for page in pages:
            into.write(journal.page(page).encode())
            yield journal.sets
        into.write(journal.closing().encode())


def existing_url(config: Config) -> str:
    """Where the books are; ConfigError when there are none yet, as SQLite would make an empty file of that name."""
    url = books_url(config)
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).exists():
        raise ConfigError(f"no books in {config.runtime.data_dir} yet; penstock up makes them")
    return url
