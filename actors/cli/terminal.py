"""How the commands speak with whoever calls them: shared options, errors as sentences, tables and JSON.

Owns the look of answers. Knows no command and gathers nothing.
"""

import contextlib
import errno
import sys
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, NoReturn

import msgspec
import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adapters import settings
from runtime.config import Config
from runtime.currencies import currency_digits
from runtime.errors import PenstockError

ConfigFile = Annotated[str, typer.Option("--config", "-c", help="Configuration file; ./penstock.toml by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
WIDE = 140  # columns where there is no terminal to ask
out, err = Console(width=None if sys.stdout.isatty() else WIDE), Console(stderr=True)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Errors of ours, and a disk that refuses, end the command with a sentence and status 2, not with a traceback."""
    try:
        yield
    except PenstockError as error:
        _end(str(error))
    except OSError as error:
        if error.errno not in DISK_REFUSES:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _end(f"{place}{error.strerror}; see that there is room, and that this user may read and write there")


def _end(sentence: str) -> NoReturn:
    err.print(f"[red]error:[/red] {escape(sentence)}", highlight=False, soft_wrap=True)
    raise typer.Exit(2) from None


def load(path: str) -> Config:
    """The configuration, from the file named or the usual one."""
    return settings.load(path or None)


def print_json(data: Any) -> None:
    """Data for machines."""
    typer.echo(orjson.dumps(msgspec.to_builtins(data, builtin_types=(date,)), option=orjson.OPT_INDENT_2, default=str))


def print_table(title: str, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Rows as a table; columns that end in _minor are money, shown with the decimals of the row's currency."""
    out.print(f"\n[bold]{escape(title)}[/bold]" + ("" if rows else ": none"))
    if rows:
        out.print(table_of(rows, columns))


def table_of(rows: list[dict[str, Any]], columns: list[str]) -> Table:
    """The same without a title. Rows may be none."""
    table = Table(header_style="bold")
    for name in columns:
        number = name.endswith("_minor") or any(isinstance(row.get(name), int) for row in rows)
        table.add_column(name.removesuffix("_minor").replace("_", " "), justify="right" if number else "left")
    for row in rows:
        table.add_row(*(_cell(name, row.get(name), row.get("currency") or "") for name in columns))
    return table


def _cell(name: str, value: Any, currency: str) -> str:
    if value is None:
        return ""
    if name.endswith("_minor"):
        return money(value, currency)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def money(minor: int, currency: str = "") -> str:
    """Minor units for people: 1,234.56, or as many decimals as the currency has."""
    return f"{Decimal(minor).scaleb(-currency_digits(currency)):,f}"
