"""`penstock erp`: what the connection to an ERP is worth.

Owns the commands. What is checked is `adapters.erp.conformance`'s; a rehearsal runs against the double of that ERP.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from actors.cli.installation import Installation
from actors.cli.terminal import AsJson, ConfigFile, load, out, print_json, print_table, told
from actors.wiring import open_erp
from adapters.clock import WallClock
from adapters.erp.conformance import Subject, findings
from adapters.erp.doubles.catalog import EXAMPLE_ACCOUNTS, EXAMPLE_COMPANY, doubles, example_ledger, section_to
from adapters.erp.doubles.server import SECRETS, DoubleServer
from adapters.erp.http.gateway import ErpConnection
from adapters.erp.registry import open_gateway_of
from runtime.config import Config, ErpSection
from runtime.errors import ConfigError
from runtime.ports import ErpGateway

app = typer.Typer(help="The ERP: check its connection.", no_args_is_help=True)

_ENTITY, _CURRENCY = "general", "USD"  # of a rehearsal


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


@contextlib.contextmanager
def _configured(config: Config, name: str, entity: str, account: str) -> Iterator[Subject]:
    if config.erp.kind != name:
        raise ConfigError(f"erp.kind: {config.erp.kind!r} is configured, not {name!r}; leave out --live to rehearse")
    chosen = entity or config.erp_entities()[0]
    if chosen not in config.erp_entities():
        raise ConfigError(
            f"--entity: {chosen!r} does not post to this ERP; known are {', '.join(config.erp_entities())}"
        )
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
