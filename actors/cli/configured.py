"""What the configuration file brings into the books: the installation's own mapping.

Owns when that is put in force and when it is only proposed.
"""

import polars as pl

from runtime.config import Config
from runtime.ledger.governance import rows_json
from runtime.ports import Books

CONFIGURATION = "configuration"  # who prepares what the configuration file holds


def bring_mapping(books: Books, config: Config) -> int:
    """Store the configured crosswalk: at the first start as a version, later as a proposal; that one's number, or 0.

    Once is enough, also for one that was refused. The supervisor sends versions on to every shard.
    """
    if not config.mapping:
        return 0
    configured = rows_json([row.model_dump(mode="json") for row in config.mapping])
    proposed = books.changes().filter(pl.col("type") == "mapping", pl.col("prepared_by") == CONFIGURATION)
    brought = [v.rows_json for v in books.mapping_versions() if v.author == CONFIGURATION and not v.approved_by]
    brought += proposed["body_json"].to_list()
    if not brought:
        books.add_mapping(configured, CONFIGURATION)
    elif brought[-1] != configured:
        return books.propose_change("mapping", configured, CONFIGURATION, "the configuration file has changed")
    return 0
