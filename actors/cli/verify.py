"""`penstock verify`: proves that books, archive, journal entries and ERP are what the events say, to the cent.

Owns the options and the look of the answer. Exit status: 0 when everything agrees, 1 when something differs, 2 when it
could not be carried out.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from actors.cli.installation import Installation, NotRunning, books_url
from actors.cli.shard_proofs import Sources
from actors.cli.terminal import AsJson, ConfigFile, err, load, out, print_json, print_table, told
from actors.cli.verification import Verification, rows_to_do, verify
from actors.wiring import Wiring, archive_root, open_erp
from adapters import settings
from adapters.archive.parquet import ParquetArchive
from adapters.books.chain_check import ChainReport, Kept, check
from adapters.log.redis_streams import RedisLogReader
from runtime.errors import ConfigError
from runtime.ledger.rule_file import parse_rulebook
from runtime.ports import ErpGateway

PROCESSES_HELP = "Shards that are derived side by side, each in the memory of a process; 0: as it suits rows and cores."
HEADS_HELP = "With --chain: a file with the --json answer of an earlier run; its heads must still be in the chains."


def command(
    *,
    chain: Annotated[bool, typer.Option("--chain", help="Check the audit trail's hash chains instead.")] = False,
    heads: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help=HEADS_HELP)] = None,
    erp: Annotated[bool, typer.Option("--erp/--no-erp", help="Also read the ERP back.")] = True,
    processes: Annotated[int, typer.Option(min=0, help=PROCESSES_HELP)] = 0,
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Derive everything anew from what came, with a second, naive model, and compare. Fails on any difference.

    Works while Penstock runs: it verifies the books as they were when it began. With --chain it looks for rows of the
    audit trail that were changed, removed or put in.
    """
    with told():
        settled = load(config)
        if chain:
            report = check(_books_url(Installation(settled)), _kept(heads))
        else:
            report = _verified(Installation(settled), erp, processes, quiet=json)
    if json:
        right = report.whole if chain else report.right
        print_json({"right": right, **msgspec.to_builtins(report, str_keys=True)})
    elif chain:
        _show_chain(report)
    else:
        show(report)
    raise typer.Exit(0 if (report.whole if chain else report.right) else 1)


def _kept(path: Path | None) -> Kept | None:
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Kept)
    except msgspec.MsgspecError:
        raise ConfigError(f"--heads: {path.name} is no answer of: penstock verify --chain --json") from None


def _wiring(installation: Installation) -> Wiring | None:
    try:
        return installation.wiring() if installation.is_up() else None
    except NotRunning:
        return None


def _books_url(installation: Installation) -> str:
    wiring = _wiring(installation)
    return wiring.books_url if wiring else books_url(installation.config)


def sources(installation: Installation) -> Sources:
    """Where everything is, whether it runs or not."""
    config, wiring = installation.config, _wiring(installation)
    log_url = wiring.log_url if wiring else config.log.url
    return Sources(
        config=config,
        rulebook=wiring.rulebook() if wiring else parse_rulebook(settings.load_rulebook_text(config)),
        books_url=_books_url(installation),
        archive=ParquetArchive(archive_root(config)),
        open_log=partial(RedisLogReader, log_url) if log_url else None,
    )


def _verified(installation: Installation, with_erp: bool, processes: int, quiet: bool) -> Verification:
    wiring, found_at = _wiring(installation), sources(installation)
    with contextlib.ExitStack() as stack:
        erp: ErpGateway | None = None
        if with_erp and wiring and installation.config.erp.kind != "none":
            erp = stack.enter_context(contextlib.closing(open_erp(wiring)))
        advance = stack.enter_context(_progress(rows_to_do(found_at.books_url), quiet))
        return verify(found_at, erp, processes, advance)


@contextlib.contextmanager
def _progress(rows: int, quiet: bool) -> Iterator:
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=quiet, transient=True) as shown:
        task = shown.add_task("verifying events", total=rows)
        yield lambda done: shown.advance(task, done)


def show(found: Verification) -> None:
    """The comparison as tables."""
    counted = [{"compared": name, "count": count} for name, count in sorted(found.counts.items())]
    print_table("compared", counted, ["compared", "count"])
    if found.uncovered:
        print_table("not covered", [{"what": one} for one in found.uncovered], ["what"])
    if found.differences:
        columns = ["what", "key", "expected", "found", "shard", "position", "event"]
        print_table("differences", msgspec.to_builtins(found.differences), columns)
    out.print("[green]everything agrees[/green]" if found.right else "[red]NOT right[/red]")


def _show_chain(report: ChainReport) -> None:
    heads = [{"ledger": name, "rows": rows, "head": head} for name, (rows, head) in sorted(report.heads.items())]
    print_table("chains", heads, ["ledger", "rows", "head"])
    older = "".join(f", {count:,} older rows of {name}" for name, count in sorted(report.unchained.items()))
    out.print(f"{report.rows:,} rows, {report.posting_sets:,} posting sets{older}")
    if report.breaks:
        print_table("broken", [one._asdict() for one in report.breaks], ["ledger", "table", "row", "what"])
    out.print("[green]whole[/green]" if report.whole else "[red]BROKEN[/red]")
