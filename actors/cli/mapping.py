"""`penstock mapping`: master data, proposed by one person and put in force by another.

Owns the commands and reading a proposal's file. An approved proposal is a version of the crosswalk; it enters through
the log, and events that are held for want of it book by themselves. Versions are never altered.
"""

import csv
import json as json_module
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from actors.cli import workplace
from actors.cli.second_person import By, Note, add_approve, add_refuse
from actors.cli.terminal import AsJson, ConfigFile, load, out, print_json, print_table, told
from actors.cli.workplace import opened_books, rulebook_of
from runtime.errors import GovernanceError
from runtime.ledger.crosswalk import CrosswalkRow
from runtime.ledger.governance import mapping_rows, master_data, rows_json
from runtime.ports import Books

app = typer.Typer(help="Master data: accounts of roles, policies, classes, partners.", no_args_is_help=True)

_FIELDS = list(CrosswalkRow.__struct_fields__)


@app.command()
def propose(
    file: Annotated[Path, typer.Argument(help="TOML with mapping tables, a JSON list, or CSV with a header.")],
    by: By,
    note: Note = "",
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Propose rows of the crosswalk. Nothing changes until somebody else approves them."""
    with told():
        settled = load(config)
        rows = mapping_rows(read_rows(file), master_data(rulebook_of(settled), settled.entities))
        with opened_books(settled) as books:
            number = books.propose_change("mapping", rows_json(rows), by, note)
    if json:
        print_json({"change": number, "rows": len(rows)})
    else:
        out.print(f"{len(rows):,} rows are proposed as change {number}; somebody else puts them in force with:")
        out.print(f"penstock mapping approve {number} --by NAME")


add_approve(app, "mapping", "mapping version")
add_refuse(app, "mapping")


@app.command("list")
def list_mappings(config: ConfigFile = "", json: AsJson = False) -> None:
    """Show the versions in force with both names, and the rows of each open proposal."""
    with told(), opened_books(load(config)) as books:
        versions, open_ones = _versions(books), workplace.proposed(books, "mapping")
    if json:
        print_json({"versions": versions, "proposed": open_ones})
        return
    counted = [version | {"rows": len(version["rows"])} for version in versions]
    print_table("mapping versions", counted, ["version", "rows", "author", "approved_by"])
    for change in open_ones:
        title = f"change {change['change_no']}, proposed by {change['prepared_by']}"
        print_table(f"{title}: {change['note']}" if change["note"] else title, change["rows"], _FIELDS)
    if not open_ones:
        out.print("no open proposals")


def _versions(books: Books) -> list[dict[str, Any]]:
    return [
        {
            "version": version.version,
            "author": version.author,
            "approved_by": version.approved_by,
            "rows": msgspec.json.decode(version.rows_json),
        }
        for version in books.mapping_versions()
    ]


# ── a proposal's file ──────────────────────────────────────────────────────────────────────────────────────────────


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a proposal as they are in the file, unchecked. GovernanceError for what is no list of rows."""
    readers = {".toml": _toml_rows, ".json": _json_rows, ".csv": _csv_rows}
    if file.suffix.lower() not in readers:
        raise GovernanceError(f"{file}: name a file that ends in {', '.join(readers)}")
    try:
        rows = readers[file.suffix.lower()](file.read_text(encoding="utf-8"))
    except OSError as error:
        raise GovernanceError(f"{file}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, json_module.JSONDecodeError, csv.Error) as error:
        raise GovernanceError(f"{file}: not {file.suffix[1:].upper()}: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise GovernanceError(f"{file}: must be a list of rows, each with the fields {', '.join(_FIELDS)}")
    return rows


def _toml_rows(text: str) -> Any:
    return tomllib.loads(text).get("mapping", [])


def _json_rows(text: str) -> Any:
    return json_module.loads(text)


def _csv_rows(text: str) -> Any:
    reader = csv.DictReader(text.splitlines(), strict=True, restkey="(no column)")
    return [row | {name: value.strip() for name, value in row.items() if isinstance(value, str)} for row in reader]
