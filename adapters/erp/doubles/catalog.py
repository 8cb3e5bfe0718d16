"""Which doubles there are: each module of this folder that holds a subclass of Double, by its name.

Owns finding them, what reaches one, and an example company to serve one with.
"""

import importlib
import pkgutil
from datetime import date
from pathlib import Path
from typing import Any

import adapters.erp.doubles
from adapters.erp.doubles.access import REFRESH_TOKEN
from adapters.erp.doubles.double import Double
from adapters.erp.doubles.ledger import Company, Ledger

EXAMPLE_COMPANY = "1"
EXAMPLE_ACCOUNTS = ("1010", "1200", "2100", "4000", "5000")


def doubles() -> dict[str, type[Double]]:
    """Every double by name."""
    for module in pkgutil.iter_modules(adapters.erp.doubles.__path__):
        if not module.name.startswith("__"):
            importlib.import_module(f"adapters.erp.doubles.{module.name}")
    return {double.name: double for double in Double.__subclasses__()}


def example_ledger() -> Ledger:
    """One company in USD, open from 2026 on."""
    return Ledger({EXAMPLE_COMPANY: Company("USD", frozenset(EXAMPLE_ACCOUNTS), date(2026, 1, 1))})


def section_to(double: Double, url: str, folder: Path) -> dict[str, Any]:
    """What `[erp]` must say to reach a double; a first refresh token, where it takes one, is put into the folder."""
    section = double.section(url)
    if section["auth"]["kind"] == "oauth2_refresh":
        token = folder / "refresh.token"
        token.write_text(REFRESH_TOKEN)
        section["auth"]["refresh_token_file"] = str(token)
    return section
