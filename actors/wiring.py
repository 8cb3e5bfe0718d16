"""Where everything of one Penstock is, once it runs: plain data that actors and commands are built from.

Owns that record's shape, and opening the ERP that it names. Imports no Ray, whose environment a command must settle
first.
"""

from pathlib import Path

import msgspec

from adapters.clock import WallClock
from adapters.erp.http.auth import check_secrets
from adapters.erp.http.gateway import ErpConnection
from adapters.erp.registry import open_gateway_of, opener
from runtime.config import Config
from runtime.errors import ConfigError
from runtime.ledger.rule_file import parse_rulebook
from runtime.ledger.rules import Rulebook
from runtime.ports import ErpGateway

SUPERVISOR = "supervisor"


class Wiring(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is, once it runs: what a part is built from in its own process."""

    config: Config
    rulebook_text: str
    log_url: str
    books_url: str
    archive_root: str
    erp_url: str
    erp_password_file: str
    gateway_port: int
    logs_folder: str
    run_folder: str = ""  # where the run record lies, on the machine that embedded servers run on

    def rulebook(self) -> Rulebook:
        """The rules in force."""
        return parse_rulebook(self.rulebook_text)

    def check(self) -> None:
        """Read the rules and the ERP's settings, so that a command names what is wrong, not an actor. ConfigError."""
        if self.config.erp.kind != "none":
            open_erp(self).close()
        flows = {kind.flow for kind in self.rulebook().kind.values()}
        for consumer in self.config.consumer:
            for name in consumer.flows:
                if name not in flows:
                    known = ", ".join(sorted(flows))
                    raise ConfigError(f"consumer {consumer.name}: no kind has the flow {name!r}; known are {known}")

    def plain(self) -> dict:
        """As JSON types, for the run record."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {**fields, "config": self.config.model_dump(mode="json")}


def wiring_from(plain: dict) -> Wiring:
    """The wiring that a run record holds."""
    return Wiring(**{**plain, "config": Config.model_validate(plain["config"])})


def archive_root(config: Config) -> str:
    """Where archive, snapshots and payloads are: as configured, or in the data folder."""
    return str(Path(config.archive.root or Path(config.runtime.data_dir) / "archive").absolute())


def check_erp(config: Config) -> None:
    """Read what `[erp]` says of somebody's own ERP, so that a command names what is wrong, not entry after entry.
    ConfigError."""
    section = config.erp
    if section.kind != "none":
        opener(section.kind)
    if not section.url or section.kind in ("none", "tryton"):
        return  # Tryton finds its companies by itself, and has a password of its own
    if without := [entity for entity in config.erp_entities() if entity not in section.companies]:
        raise ConfigError(
            f"erp.companies: {', '.join(without)} has none; name what the ERP calls it, or leave it out of erp.entities"
        )
    check_secrets(section.auth)
    currencies = {name: entity.currency for name, entity in config.entities.items()}
    open_gateway_of(ErpConnection(section, config.erp_entities(), WallClock(), currencies)).close()


def open_erp(wiring: Wiring) -> ErpGateway:
    """The adapter of the configured ERP, at the address where it is now. Raises ConfigError."""
    if wiring.config.erp.kind == "none":
        raise ConfigError("erp.kind: with 'none' there is no ERP to ask; for sources and books: penstock verify")
    here = {"url": wiring.erp_url, "password_file": wiring.erp_password_file}
    section = wiring.config.erp.model_copy(update=here)
    currencies = {name: entity.currency for name, entity in wiring.config.entities.items()}
    return open_gateway_of(ErpConnection(section, wiring.config.erp_entities(), WallClock(), currencies))
