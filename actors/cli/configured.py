"""What the configuration file brings into the books: the installation's own mapping.

Owns that it is as sound as a proposal of people must be, when it is put in force and when it is only proposed.
"""

from typing import Any

import polars as pl

from runtime.config import Config
from runtime.errors import ConfigError, GovernanceError
from runtime.ledger.governance import mapping_rows, master_data, rows_json
from runtime.ledger.rules import Rulebook
from runtime.ports import Books

CONFIGURATION = "configuration"  # who prepares what the configuration file holds


def configured_rows(config: Config) -> list[dict[str, Any]]:
    """The configured crosswalk, row by row."""
    return [row.model_dump(mode="json") for row in config.mapping]


def check_mapping(config: Config, rulebook: Rulebook) -> None:
    """ConfigError for a row that answers nothing that a rule asks, or contradicts another one; it names row and
    field."""
    try:
        if rows := configured_rows(config):
            mapping_rows(rows, master_data(rulebook, config.entities))
    except GovernanceError as error:
        raise ConfigError(f"[[mapping]]: {error}") from None


def bring_mapping(books: Books, config: Config) -> int:
    """Store the configured crosswalk: at the first start as a version, later as a proposal; that one's number, or 0.

    Once is enough, also for one that was refused. The supervisor sends versions on to every shard.
    """
    if not config.mapping:
        return 0
    configured = rows_json(configured_rows(config))
    proposed = books.changes().filter(pl.col("type") == "mapping", pl.col("prepared_by") == CONFIGURATION)
    brought = [v.rows_json for v in books.mapping_versions() if v.author == CONFIGURATION and not v.approved_by]
    brought += proposed["body_json"].to_list()
    if not brought:
        books.add_mapping(configured, CONFIGURATION)
    elif brought[-1] != configured:
        return books.propose_change("mapping", configured, CONFIGURATION, "the configuration file has changed")
    return 0
