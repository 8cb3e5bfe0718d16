"""The commands of `penstock` and how their answers look.

Owns options, tables and exit statuses: 0 only when what was asked for holds, 1 when it does not, 2 when the command
can't be carried out. Every command gives the same data as a table for people and as JSON for machines (`--json`).
"""

import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
import typer
from rich.console import Console

from actors.cli import (
    backup,
    close,
    erp,
    exceptions,
    lineage,
    mapping,
    payload,
    reports,
    simulate,
    submission,
    verify,
    watch,
)
from actors.cli import demo as demonstration
from actors.cli import dry_run as rehearsal
from actors.cli import export as exporting
from actors.cli.installation import Installation
from actors.cli.terminal import AsJson, ConfigFile, load, money, out, print_json, print_table, told
from adapters import settings
from adapters.sources import FORMATS, NAMES_ENTITIES, recognise
from runtime.config import Config
from runtime.errors import ConfigError

ENDS = (signal.SIGTERM, signal.SIGHUP)


def _end_in_order() -> None:
    """Let a command that is told to end take back what it began, as Ctrl-C does; a signal that is ignored stays so."""
    for number in ENDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda given, _frame: sys.exit(128 + given))


app = typer.Typer(
    name="penstock",
    callback=_end_in_order,
    help="Takes the money events of a health system and feeds its ERPs balanced journals, each event once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("close")(close.close)
app.command("verify")(verify.command)
app.command("watch")(watch.command)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.add_typer(erp.app, name="erp")
app.add_typer(exceptions.app, name="exceptions")
app.add_typer(mapping.app, name="mapping")
app.add_typer(payload.app, name="payload")
app.command("lineage")(lineage.command)
app.command("simulate")(simulate.command)
SET_ASIDE = ["transaction", "segment", "element", "code"]  # how a part that is set aside is shown
KEEP_RAW_HELP = "Keep the file as it is, encrypted; as the configuration says. A dry run keeps nothing."

ACCEPT_LOSS_HELP = "Go on where the books stand although the log has lost what they took from it."

# ── running ────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def up(
    *,
    config: ConfigFile = "",
    address: Annotated[str, typer.Option(help="Join this Ray cluster instead of starting a local one.")] = "",
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help=ACCEPT_LOSS_HELP)] = False,
    json: AsJson = False,
) -> None:
    """Start Penstock in the background: the parts that no URL is configured for, Ray, and the actors."""
    with told():
        settled = load(config)
        if address:
            joined = settled.runtime.model_copy(update={"ray_address": address})
            settled = settled.model_copy(update={"runtime": joined})
        say = (lambda ready: None) if json else (lambda ready: out.print(f"  ✓ {ready}"))
        record = Installation(settled).up(say, accept_loss=accept_loss)
    where = {
        "gateway": record.gateway,
        "dashboard": record.dashboard_url,
        "dashboard_token": record.ray_token_file,
        "metrics": record.metrics_url,
        "erp": record.erp_url,
    }
    if json:
        print_json(where)
        return
    for name, place in where.items():
        out.print(f"  {name.replace('_', ' '):16}{place}", highlight=False)


@app.command()
def down(config: ConfigFile = "", json: AsJson = False) -> None:
    """Stop what `up` started, after a last checkpoint."""
    with told():
        Installation(load(config)).down()
    if json:
        print_json({"stopped": True})
    else:
        out.print("stopped")


@app.command()
def status(config: ConfigFile = "", json: AsJson = False) -> None:
    """Show parts, lag, journal entries and open exceptions. Fails when a part does not run."""
    with told():
        found = reports.status(Installation(load(config)))
    if json:
        print_json(found)
    else:
        print_table("parts", found["parts"], ["name", "state", "pid", "steps", "error_type"])
        lag = {shard["shard"]: shard["waiting"] for shard in found["log"]["shards"]}
        shards = [row | {"lag": lag.get(row["shard"])} for row in found["shards"]]
        print_table("shards", shards, ["shard", "state", "holder", "epoch", "position", "rows_total", "lag"])
        print_table("journal entries", _counts(found["journal_entries"]), ["state", "count"])
        print_table("open exceptions", _counts(found["exceptions"], "type"), ["type", "count"])
        if found["consumers"]:
            print_table("consumers", found["consumers"], ["name", "state", "newest", "error_type"])
        waiting = f"posting sets waiting: {found['posting_sets_waiting']:,}   outbox frames: {found['outbox_frames']}"
        if found["erp"]:
            erp = [
                {"ERP": name.replace("_", " "), "now": _to_the_second(value)} for name, value in found["erp"].items()
            ]
            print_table("ERP", erp, ["ERP", "now"])
        out.print(f"{waiting}   gateway: {found['gateway']}")
        if found["log"]["refusing"]:
            out.print(f"[red]events are not taken:[/red] {found['log']['reason']}", highlight=False)
    raise typer.Exit(0 if found["healthy"] else 1)


def _to_the_second(value: Any) -> Any:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else value


def _counts(counts: dict[str, int], name: str = "state") -> list[dict[str, Any]]:
    return [{name: key, "count": count} for key, count in sorted(counts.items())]


# ── events ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def submit(
    *,
    file: Annotated[Path, typer.Argument(help="The file to send.")],
    format: Annotated[str, typer.Option(help=f"One of {', '.join(FORMATS)}; seen from the content.")] = "",
    entity: Annotated[str, typer.Option(help="The entity, for formats that do not name one.")] = "",
    target: Annotated[str, typer.Option(help="host:port of the gateway; that of the running Penstock.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing: show what it would do.")] = False,
    keep_raw: Annotated[bool | None, typer.Option("--keep-raw/--no-keep-raw", help=KEEP_RAW_HELP)] = None,
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Send a file's events and show its control total beside what was accepted. Fails when a row was rejected.

    Sending the same file again is harmless: every event that is known is answered as a duplicate, or found to be one.
    A dry run needs nothing running, and no configuration: without one, every role stands for an account of its name.
    """
    with told():
        if dry_run:
            found = _rehearse(settings.load_or_blank(config or None, entity), file, format, entity, json)
            raise typer.Exit(1 if found["rejected"] or found["faults"] else 0)
        settled = load(config)
        named, keep = _entity(settled, entity, file, format), settled.payloads.keep if keep_raw is None else keep_raw
        sent = submission.send_file(settled, file, format, named, target, quiet=json, keep_raw=keep)
    if json:
        print_json(sent)
    else:
        print_table(
            f"{file.name}: control total", sent["kinds"], ["entity", "currency", "kind", "events", "amount_minor"]
        )
        counts = "accepted", "duplicate", "rejected"
        out.print("   ".join(f"{name}: {sent[name]:,}" for name in counts) + f"   durability: {sent['durability']}")
        if "payload" in sent:
            out.print(f"kept as payload {sent['payload']}")
        if sent["rejects"]:
            print_table("rejected", sent["rejects"][:20], ["place", "column", "code", "message"])
        if sent["set_aside"]:
            out.print(f"set aside: {sent['quarantined']:,}, each under an exception; see: penstock exceptions list")
            print_table("set aside", sent["set_aside"][:20], SET_ASIDE)
    raise typer.Exit(1 if sent["rejected"] else 0)


def _check_entity(config: Config, entity: str) -> None:
    if entity not in config.entities:
        raise ConfigError(f"--entity: {entity!r} is not under [entities]; known are {', '.join(config.entities)}")


def _entity(config: Config, entity: str, file: Path, format: str) -> str:
    """The entity asked for; else the only one, or the one that is named like the file's format."""
    if entity:
        _check_entity(config, entity)
    named = format or recognise(file)
    fitting = [entity] if entity else [name for name in config.entities if name == named] or list(config.entities)
    if len(fitting) > 1 and named in FORMATS and named not in NAMES_ENTITIES:
        raise ConfigError(
            f"--entity: a {named} file does not name its entity; give one of {', '.join(config.entities)}"
        )
    return fitting[0]


def _rehearse(config: Config, file: Path, format: str, entity: str, json: bool) -> dict[str, Any]:
    found = rehearsal.dry_run(config, file, format, _entity(config, entity, file, format))
    if json:
        print_json(found)
    else:
        _print_rehearsal(found, file.name)
    return found


def _print_rehearsal(found: dict[str, Any], file: str) -> None:
    figures = [{"figure": name, "value": value} for name, value in found.items() if isinstance(value, int)]
    print_table(f"{file}: {found['format']}", figures, ["figure", "value"])
    kinds = [{"kind": k, "events": n, "amount_minor": found["sums_minor"][k]} for k, n in found["events"].items()]
    print_table("events", kinds, ["kind", "events", "amount_minor"])
    print_table("would become", _counts(found["states"]), ["state", "count"])
    print_table("exceptions", _counts(found["exceptions"], "type"), ["type", "count"])
    print_table(
        "postings", found["postings"], ["entity", "currency", "role", "account_code", "debit_minor", "credit_minor"]
    )
    if found["faults"]:
        print_table("can't be read", found["faults"][:20], ["line", "column", "code", "message"])
    if found["rejected"]:
        print_table("would be rejected", _counts(found["rejected"], "code"), ["code", "count"])
    if found["quarantined"]:
        print_table("quarantined", found["quarantined"], SET_ASIDE)


@app.command()
def trace(
    *,
    event_id: Annotated[str, typer.Argument(help="The event's id.")],
    source: Annotated[str, typer.Option(help="Its source, if several use that id.")] = "",
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Show the way of one event: log position, state, postings, journal entry, ERP document. Fails if unknown."""
    with told():
        steps = reports.trace(Installation(load(config)), event_id, source)
    if json:
        print_json(steps)
    elif not steps:
        out.print("no accepted event has this id")
    for step in [] if json else steps:
        amount = money(step["amount_minor"], step["currency"])
        out.print(
            f"[bold]{step['kind']}[/bold] {amount} {step['currency']} of {step['source']}, "
            f"shard {step['shard']} position {step['position']}: [bold]{step['state']}[/bold]",
            highlight=False,
        )
        if step["postings"]:
            columns = ["role", "account_code", "side", "amount_minor", "events", "entry_key", "entry_state", "erp_ref"]
            posted = [row | {"currency": step["currency"]} for row in step["postings"]]
            print_table("posted with others of its set", posted, columns)
    raise typer.Exit(0 if steps else 1)


@app.command()
def reconcile(config: ConfigFile = "", json: AsJson = False) -> None:
    """Compare sources, books and the ERP's trial balance, to the cent. Fails on any difference."""
    with told():
        result = reports.reconciliation(Installation(load(config)))
    if json:
        print_json(result)
    else:
        show_reconciliation(result)
    raise typer.Exit(0 if result.balanced else 1)


def show_reconciliation(result: Any) -> None:
    """The comparison as tables."""
    columns = ["entity", "currency", "source_minor", "books_minor", "erp_minor", "waiting_minor"]
    print_table("source = books = ERP (debit turnover)", msgspec.to_builtins(result.totals), columns)
    if result.breaks:
        print_table(
            "accounts that differ", msgspec.to_builtins(result.breaks), list(msgspec.to_builtins(result.breaks[0]))
        )
    out.print("[green]balanced[/green]" if result.balanced else "[red]NOT balanced[/red]")


@app.command()
def export(
    *,
    format: Annotated[exporting.Format, typer.Option(help="hledger: a plain-text journal.")] = "hledger",
    into: Annotated[typer.FileBinaryWrite, typer.Option("--out", metavar="FILE", help="Where to; - is stdout.")] = "-",
    config: ConfigFile = "",
) -> None:
    """Write the books, every posting set with all its lines, for a program that adds them up by itself.

    Reads the database alone, at one instant, and needs nothing running. A transaction is a posting set: posted to the
    ERP (*), in an entry that is not posted (!), or in none yet. Accounts are entity:account:role, so this checks the
    journal and gives the trial balance:

        penstock export --out books.journal
        hledger -f books.journal check --strict
        hledger -f books.journal balance --depth 2
    """
    progress = Console(stderr=True, quiet=into.isatty())
    written = 0
    with told(), progress.status("reading the books") as shown:
        for written in exporting.export(load(config), format, into):
            shown.update(f"{written:,} posting sets")
    progress.print(f"{written:,} posting sets written")


# ── demo ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def demo(
    *,
    report: Annotated[Path | None, typer.Option(help="Write the result to this file as JSON.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running.")] = False,
    events: Annotated[int, typer.Option(min=1000, help="Events of the generated month.")] = 300_000,
    synthea: Annotated[Path | None, typer.Option(help="Another claims_transactions.csv.")] = None,
    json: AsJson = False,
) -> None:
    """Run the whole way once: four doors, durable log, books, a real ERP, and the proof that they agree."""
    with told():
        result = demonstration.run(Console(quiet=True) if json else out, events=events, keep=keep, synthea=synthea)
    if report:
        report.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    if json:
        print_json(result)
    raise typer.Exit(0 if result["balanced"] else 1)
