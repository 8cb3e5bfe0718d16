"""What a file would do, without anything running: its control total, and what the engine would make of its events.

Owns running the same validation and the same engine in memory. Never sends and never stores anything.
"""

from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from actors.cli.configured import check_mapping, configured_rows
from actors.cli.control_totals import shown_totals
from adapters import settings
from adapters.clock import utc_now_ms
from adapters.sources import Source, open_source
from runtime.config import Config
from runtime.effects import CONSERVED
from runtime.flow import frames
from runtime.ledger.governance import rows_json
from runtime.ledger.rule_file import parse_rulebook
from runtime.ledger.rules import Rulebook
from runtime.ports import LogRecord
from runtime.schema import Vocabulary, conform
from runtime.shard import ShardEngine
from runtime.validation import validate

TOKEN_KEY = b"a dry run's tokens"  # seen by nobody


def dry_run(config: Config, file: Path, format: str, entity: str) -> dict[str, Any]:
    """Read the whole file and step an engine of one shard through it."""
    currency = config.entities[entity].currency
    told = {"entity": entity, "currency": currency, "payees": config.payees()}
    source = open_source(file, format or None, token_key=TOKEN_KEY, **told)
    rulebook = parse_rulebook(settings.load_rulebook_text(config))
    check_mapping(config, rulebook)
    rehearsal = Rehearsal(config, rulebook)
    for frame in source.frames():
        rehearsal.take(frame)
    return {**_control_total(config, source), **rehearsal.findings()}


def _control_total(config: Config, source: Source) -> dict[str, Any]:
    total, kinds = source.total(), shown_totals(config, source)
    by_kind = {name: [sums for sums in kinds if sums["kind"] == name] for name in sorted({s["kind"] for s in kinds})}
    return {
        "format": source.format,
        **total.figures,
        "rows": total.rows,
        "events": {kind: sum(one["events"] for one in sums) for kind, sums in by_kind.items()},
        "sums_minor": {kind: sum(one["amount_minor"] for one in sums) for kind, sums in by_kind.items()},
        "quarantined": [part._asdict() for part in source.quarantined],
        "faults": [fault._asdict() for fault in source.faults],
    }


class Rehearsal:
    """One engine, fed as a worker would feed it."""

    def __init__(self, config: Config, rulebook: Rulebook) -> None:
        self._vocabulary = Vocabulary(kinds=rulebook.kind_terms(), entities=config.entity_terms())
        opens_on = {name: section.opens_on for name, section in config.entities.items()}
        self._engine = ShardEngine(rulebook, opens_on, config.bounds().open_items_max)
        self._steps = 0
        self._rejected: dict[str, int] = {}
        self._totals: list[pl.DataFrame] = []
        self._deltas: list[pl.DataFrame] = []
        self._exceptions: dict[str, str] = {}
        if config.mapping:
            self._step("control", 0, frames.encode_control(_mapping(config)))

    def take(self, frame: pl.DataFrame) -> None:
        """Validate a frame and step the engine through what is valid."""
        checked = validate(conform(frame), self._vocabulary, utc_now_ms())
        for code, count in checked.rejected.group_by("code").len().iter_rows():
            self._rejected[code] = self._rejected.get(code, 0) + count
        if checked.accepted.height:
            self._step("events", checked.accepted.height, frames.encode(checked.accepted.drop("row")))

    def _step(self, type: str, rows: int, body: bytes) -> None:
        self._steps += 1
        effects = self._engine.step([LogRecord(f"{self._steps}-0", type, rows, body)])
        self._totals.append(effects.totals)
        self._deltas.append(effects.deltas)
        self._exceptions |= dict(effects.exceptions.select("exception_id", "type").iter_rows())
        for ended in effects.resolved:
            self._exceptions.pop(ended, None)

    def findings(self) -> dict[str, Any]:
        """What would be accepted, waiting, held and posted."""
        fates = pl.concat(self._totals).filter(pl.col("state").is_in(("accepted", "duplicate", *CONSERVED)))
        totals = fates.group_by("state").agg(pl.col("events").sum()).sort("state")
        types = list(self._exceptions.values())
        return {
            "rejected": self._rejected,
            "states": dict(totals.iter_rows()),
            "exceptions": {name: types.count(name) for name in sorted(set(types))},
            "postings": _by_account(pl.concat(self._deltas)).to_dicts(),
        }


def _mapping(config: Config) -> dict[str, Any]:
    rows = rows_json(configured_rows(config))
    return {"type": "mapping", "version": 1, "rows": msgspec.json.decode(rows)}


def _by_account(deltas: pl.DataFrame) -> pl.DataFrame:
    debit, credit = (pl.col("amount_minor").filter(pl.col("side") == side).sum() for side in "DC")
    return (
        deltas.group_by("entity", "currency", "role", "account_code")
        .agg(debit.alias("debit_minor"), credit.alias("credit_minor"))
        .sort("entity", "currency", "role", "account_code")
    )
