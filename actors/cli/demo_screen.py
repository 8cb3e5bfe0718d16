"""What the demonstration's report looks like on a screen: the reconciliation, the queue, what was told.

Owns the look. Gathers nothing: all of it is in the report.
"""

from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from actors.cli.run_record import RunRecord
from actors.cli.terminal import money

CONFIG = ".penstock/demo.toml"
COMMANDS = ("status", "exceptions list", "mapping list", "reconcile", "trace bill-000001", "down")


def show(out: Console, report: dict[str, Any]) -> None:
    """The whole report, as a person reads it."""
    _show_files(out, report["files"])
    _show_told(out, report["told"])
    _show_queue(out, report["queue"])
    _show_proof(out, report)


def _show_files(out: Console, files: list[dict[str, Any]]) -> None:
    out.print("\n[bold]The day's files[/bold] (what they must book was worked out by hand, beside them)")
    table = Table("file", "what it holds", header_style="bold")
    for name in ("events", "must book"):
        table.add_column(name, justify="right")
    for file in files:
        sums = "  ".join(f"{one['entity']} {money(one['minor'])}" for one in file["expected"])
        table.add_row(file["file"], file["title"], str(file["events"]), sums or "nothing")
    out.print(table)


def _show_told(out: Console, told: dict[str, list[str]]) -> None:
    out.print("\n[bold]What the payables platform was told[/bold] (its stream, read back)")
    table = Table("document", "statuses, in the order of telling", header_style="bold")
    for document, statuses in sorted(told.items()):
        table.add_row(document, " → ".join(status.replace("_", " ") for status in statuses))
    out.print(table)


def _show_queue(out: Console, queue: list[dict[str, Any]]) -> None:
    out.print("\n[bold]Open exceptions[/bold]: what is not booked, or needs somebody's eye")
    table = Table("type", "owner", header_style="bold")
    for name in ("count", "amount"):
        table.add_column(name, justify="right")
    for name in ("severity", "age", "due (UTC)", "what the runtime did"):
        table.add_column(name)
    for row in queue:
        due = f"{datetime.fromisoformat(row['due_at']):%m-%d %H:%M}"
        figures = (str(row["count"]), money(row["amount_minor"]) if row["amount_minor"] else "")
        table.add_row(row["type"], row["owner"], *figures, row["severity"], row["standing"], due, row["action"])
    out.print(table)


def _show_proof(out: Console, report: dict[str, Any]) -> None:
    out.print("\n[bold]Every cent: sources = books = ERP[/bold] (debit turnover)")
    table = Table("entity", "currency", header_style="bold")
    for name in ("sources", "Penstock's books", "Tryton's trial balance"):
        table.add_column(name, justify="right")
    for row in report["totals"]:
        figures = (money(row[name], row["currency"]) for name in ("source_minor", "books_minor", "erp_minor"))
        table.add_row(row["entity"], row["currency"], *figures)
    out.print(table)
    out.print("[green]balanced to the cent[/green]" if report["balanced"] else "[red]NOT balanced[/red]")
    events = report["events"]
    out.print(
        f"{events['accepted']:,} events accepted, {events['duplicate']:,} repeats answered as such, "
        f"{events['rejected']:,} refused; {report['journal_entries']:,} journal entries posted; "
        f"{report['seconds']} s",
        highlight=False,
    )


def show_next(out: Console, record: RunRecord | None) -> None:
    """Where to look next, if everything was left running."""
    if record is None:
        out.print("Nothing is left running. To look around: [bold]make demo ARGS=--keep[/bold]")
        return
    out.print("Still up. Where to look next:")
    places = {
        "dashboard": f"{record.dashboard_url} (token in {record.ray_token_file})",
        "metrics": record.metrics_url,
        "Tryton": record.erp_url,
        "gRPC": record.gateway,
    }
    for name, place in places.items():
        out.print(f"  {name:10} {place}", highlight=False)
    for command in COMMANDS:
        out.print(f"  penstock {command} -c {CONFIG}", highlight=False)
