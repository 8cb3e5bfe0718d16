"""Where everything of one Penstock is, once it runs: plain data that actors and commands are built from.

Owns that record's shape, and opening the ERP that it names. Imports no Ray, whose environment a command must settle
first.
"""

import os
from pathlib import Path

import msgspec

from adapters.erp.tryton import TrytonGateway
from runtime.config import Config
from runtime.errors import ConfigError
from runtime.ledger.rules import Rulebook, parse_rulebook
from runtime.ports import ErpGateway

SUPERVISOR = "supervisor"
ERP_PASSWORD_VARIABLE = "PENSTOCK_ERP_PASSWORD"


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

    def rulebook(self) -> Rulebook:
        """The rules in force."""
        return parse_rulebook(self.rulebook_text)

    def plain(self) -> dict:
        """As JSON types, for the run record."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {**fields, "config": self.config.model_dump(mode="json")}


def wiring_from(plain: dict) -> Wiring:
    """The wiring that a run record holds."""
    return Wiring(**{**plain, "config": Config.model_validate(plain["config"])})


def open_erp(wiring: Wiring) -> ErpGateway:
    """The adapter of the configured ERP. Its password comes from a file, or from the environment."""
    section, password = wiring.config.erp, _password(wiring.erp_password_file)
    return TrytonGateway(wiring.erp_url, section.database, section.user, password, wiring.config.erp_entities())


def _password(path: str) -> str:
    if given := os.environ.get(ERP_PASSWORD_VARIABLE):
        return given
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(f"erp.password_file: {type(error).__name__}; or set {ERP_PASSWORD_VARIABLE}") from None
