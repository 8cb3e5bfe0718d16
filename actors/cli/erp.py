"""`penstock erp`: what the connection to an ERP is worth, and journal entries that are put right.

Owns the commands. What is checked is `adapters.erp.conformance`'s; a rehearsal runs against the double of that ERP.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.cli import corrections
from actors.cli.installation import Installation
from actors.cli.second_person import By, ChangeNo, Note, add_refuse
from actors.cli.terminal import AsJson, ConfigFile, load, out, print_json, print_table, told
from actors.cli.workplace import opened_books, rulebook_of
from actors.wiring import check_erp, open_erp
from adapters.clock import WallClock
from adapters.erp.conformance import Subject, findings
from adapters.erp.doubles.catalog import EXAMPLE_ACCOUNTS, EXAMPLE_COMPANY, doubles, example_ledger, section_to
from adapters.erp.doubles.server import SECRETS, DoubleServer
from adapters.erp.http.gateway import ErpConnection
from adapters.erp.registry import open_gateway_of
from runtime.config import Config, ErpSection
from runtime.errors import ConfigError
from runtime.flow.closing import first_day_of
from runtime.ports import ErpGateway

app = typer.Typer(help="The ERP: check its connection, put entries right.", no_args_is_help=True)

RETRIES_MAX = 10_000  # entries that one command releases
_ENTITY, _CURRENCY = "general", "USD"  # of a rehearsal
_NOT_THERE = "You have looked, and the ERP does not hold them: entries of unknown outcome, too."


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="The kind of ERP, as in erp.kind.")],
    *,
    live: Annotated[bool, typer.Option("--live", help="The configured ERP, not a double of it.")] = False,
    post: Annotated[str, typer.Option(help="Book one cent on both sides of this account. For a sandbox.")] = "",
    entity: Annotated[str, typer.Option(help="For this entity; the first one by default.")] = "",
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Try what an ERP and its adapter promise, and say what is kept. Fails when anything is broken.

    Without --live the other side is a double on the loopback interface, and entries are booked there. With --live it is
    the configured ERP: it is only asked and given an entry that no adapter sends on, unless --post names an account.
    """
    with told(), _configured(load(config), name, entity, post) if live else _rehearsed(name) as subject:
        found = [finding._asdict() for finding in findings(subject)]
    broken = sum(finding["verdict"] == "broken" for finding in found)
    if json:
        print_json({"erp": name, "live": live, "findings": found})
    else:
        print_table(f"{name}, {'live' if live else 'a double of it'}", found, ["check", "verdict", "detail"])
        out.print(f"[red]{broken} broken[/red]" if broken else "[green]nothing broken[/green]")
    raise typer.Exit(1 if broken else 0)


@app.command()
def retry(
    keys: Annotated[list[str] | None, typer.Argument(help="Journal entries by their keys.")] = None,
    *,
    by: By,
    rejected: Annotated[bool, typer.Option("--rejected", help="All rejected ones, too.")] = False,
    entity: Annotated[str, typer.Option(help="Of the rejected ones, only those of this entity.")] = "",
    period: Annotated[str, typer.Option(help="Of the rejected ones, only those of this period (2026-10).")] = "",
    not_there: Annotated[bool, typer.Option("--not-there", help=_NOT_THERE)] = False,
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Send rejected or parked entries again as they are, once the ERP's period, account or document was mended.

    A parked one is in doubt: look in the ERP for its key first, as nothing else keeps it from being booked twice. One
    whose outcome is unknown is looked up by itself; where that never succeeds, look, and say so with --not-there.
    """
    with told():
        settled = load(config)
        with opened_books(settled) as books:
            entities = [_posting(settled, entity)] if entity else settled.erp_entities()
            chosen = list(dict.fromkeys(keys or []))
            if not chosen and not rejected:
                raise ConfigError("name entries by their keys, or all of them: --rejected")
            if period:
                first_day_of(period)
            corrections.release(books, chosen, by, not_there)
            if rejected:
                found = books.deliveries(entities, ["rejected"], RETRIES_MAX, period)
                # The poster tries rejected ones by itself meanwhile.
                chosen += books.release_rejected([delivery.entry.key for delivery in found], by)
    if json:
        print_json({"released": chosen})
    else:
        out.print(f"{len(chosen):,} entries will be sent again")


@app.command()
def settle(
    key: Annotated[str, typer.Argument(help="A parked journal entry, or one of unknown outcome, by its key.")],
    number: Annotated[str, typer.Argument(help="The number under which the ERP holds it.")],
    *,
    by: Annotated[str, typer.Option("--by", help="Who has seen it there; the name stays in the history.")],
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Say that an entry in doubt is in the ERP. What is not there goes on with: penstock erp retry."""
    with told():
        settled = load(config)
        with opened_books(settled, rulebook_of(settled).told_kinds()) as books:
            books.settle_entry(key, number, by)
    if json:
        print_json({"settled": {key: number}})
    else:
        out.print(f"{key} is posted as {number}", highlight=False)


@app.command()
def repost(
    keys: Annotated[list[str], typer.Argument(help="Journal entries by their keys.")],
    *,
    by: By,
    opens_on: Annotated[str, typer.Option(help="Only the day: the ERP's first open one (YYYY-MM-DD).")] = "",
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Book entries anew that stand under a wrong account or, with --opens-on, in a closed period.

    Under the mapping of now: a posted entry is reversed by a new one, and what it held is booked again; a rejected one
    is replaced, as the ERP never held it. With --opens-on a rejected entry is replaced by one of the open period with
    the same lines. The old entry stays as it was, and events keep their own dates.
    """
    with told():
        settled = load(config)
        with opened_books(settled) as books:
            day, opened = _day(opens_on) if opens_on else None, corrections.opened_of(books, settled)
            with _shown("replaced", "{}: {}", json) as done:
                for key in keys:
                    if day:
                        done[key] = corrections.redate(books, key, day, by)
                    else:
                        done[key] = corrections.restate(books, key, opened, by)


@app.command()
def reverse(
    keys: Annotated[list[str], typer.Argument(help="Posted journal entries by their keys.")],
    *,
    by: Annotated[str, typer.Option("--by", help="Who asks for it; somebody else approves.")],
    note: Note = "",
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Propose to reverse posted entries, with nothing in their place: their documents were cancelled."""
    said = "{}: somebody else approves it: penstock erp approve {} --by NAME"
    with told(), opened_books(load(config)) as books, _shown("changes", said, json) as done:
        for key in keys:
            done[key] = corrections.propose_reversal(books, key, by, note)


@app.command()
def approve(
    number: ChangeNo,
    *,
    by: Annotated[str, typer.Option("--by", help="Who approves: not who proposed.")],
    config: ConfigFile = "",
    json: AsJson = False,
) -> None:
    """Reverse a posted entry as somebody else proposed. Its reversal goes to the ERP like any entry."""
    with told():
        settled = load(config)
        with opened_books(settled) as books:
            key = corrections.reverse(books, number, corrections.opened_of(books, settled), by)
    if json:
        print_json({"change": number, "reversed": key})
    else:
        out.print(f"{key} will be reversed", highlight=False)


add_refuse(app, "reversal")


@contextlib.contextmanager
def _shown(name: str, line: str, json: bool) -> Iterator[dict[str, Any]]:
    """What is done key by key, and shown at the end, also where a later key could not be done."""
    done: dict[str, Any] = {}
    try:
        yield done
    finally:
        if json and done:
            print_json({name: done})
        for key, what in done.items() if not json else ():
            out.print(line.format(key, what), highlight=False)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--opens-on: {text!r} is no day (2026-11-01)") from None


def _posting(config: Config, entity: str) -> str:
    """The entity itself, if it posts to the ERP."""
    if entity not in config.erp_entities():
        known = ", ".join(config.erp_entities())
        raise ConfigError(f"--entity: {entity!r} does not post to this ERP; known are {known}")
    return entity


@contextlib.contextmanager
def _configured(config: Config, name: str, entity: str, account: str) -> Iterator[Subject]:
    if config.erp.kind != name:
        raise ConfigError(f"erp.kind: {config.erp.kind!r} is configured, not {name!r}; leave out --live to rehearse")
    chosen = _posting(config, entity or config.erp_entities()[0])
    check_erp(config)
    gateway = open_erp(Installation(config).wiring()) if not config.erp.url else _opened(config)
    try:
        yield Subject(gateway, WallClock(), chosen, config.entities[chosen].currency, account)
    finally:
        gateway.close()


def _opened(config: Config) -> ErpGateway:
    currencies = {each: entity.currency for each, entity in config.entities.items()}
    return open_gateway_of(ErpConnection(config.erp, config.erp_entities(), WallClock(), currencies))


@contextlib.contextmanager
def _rehearsed(name: str) -> Iterator[Subject]:
    known = doubles()
    if name not in known:
        raise ConfigError(f"no double of {name!r}; there are {', '.join(sorted(known))}; use --live for the real one")
    double = known[name](example_ledger(), clock=WallClock())
    os.environ.update(SECRETS)  # of this process alone
    with DoubleServer(double) as server, tempfile.TemporaryDirectory() as folder:
        given = {**section_to(double, server.url, Path(folder)), "companies": {_ENTITY: EXAMPLE_COMPANY}}
        section = ErpSection.model_validate(given)
        gateway = open_gateway_of(ErpConnection(section, (_ENTITY,), WallClock(), {_ENTITY: _CURRENCY}))
        try:
            yield Subject(gateway, WallClock(), _ENTITY, _CURRENCY, EXAMPLE_ACCOUNTS[0])
        finally:
            gateway.close()
