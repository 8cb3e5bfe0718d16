"""Sending a file's events through the gateway, with its control total.

Owns the comparison of what the file holds with what was answered. Never keeps more of the file than a frame.
"""

from pathlib import Path
from typing import Any

import polars as pl
from penstock import Client, SubmitError, SubmitFailed, SubmitSummary, SubmitTimeout
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from actors.cli import payload
from actors.cli.control_totals import shown_totals
from actors.cli.installation import Installation
from adapters import settings
from adapters.sources import Source, open_source
from adapters.sources.quarantine import quarantine_events
from runtime.config import Config
from runtime.errors import PenstockError
from runtime.limits import REJECTS_REPORTED_MAX


def send_file(
    config: Config, file: Path, format: str, entity: str, target: str, *, quiet: bool, keep_raw: bool = False
) -> dict[str, Any]:
    """Send a file; its control total, and what became of its rows.

    With `keep_raw` its bytes are kept first, whether they can be read as events or not, and `payload` is their id.
    """
    with Installation(config).client(target) as client:
        kept = payload.keep_file(config, file) if keep_raw else None
        currency = config.entities[entity].currency if entity in config.entities else "USD"
        told = {"entity": entity, "currency": currency, "payees": config.payees()}
        source = open_source(file, format or None, token_key=settings.token_key(config), **told)
        sent = send(source, client, quiet=quiet, label=file.name)
        aside = quarantine_events(file, source.format, source.quarantined, entity, currency)
        refused = _send_quarantined(aside, client)
    sent["rejected"] += len(refused)
    sent["rejects"] += refused
    sent["quarantined"] = aside.height
    sent["set_aside"] = [part._asdict() for part in source.quarantined]
    sent["kinds"] = shown_totals(config, source)
    if kept:
        payload.note_total(config, file, kept, {"format": source.format, "rows": sent["rows"], "kinds": sent["kinds"]})
    return sent | ({"payload": kept.payload_id} if kept else {})


def _send_quarantined(aside: pl.DataFrame, client: Client) -> list[dict[str, Any]]:
    """Send what was set aside, as events that become exceptions; those that were refused."""
    if aside.is_empty():
        return []
    return [_reject(result) for result in submit(client, aside).results]


def send(source: Source, client: Client, *, quiet: bool, label: str) -> dict[str, Any]:
    """Send a source's frames, showing progress; how many of its rows came to what."""
    counts = {"accepted": 0, "duplicate": 0, "rejected": 0}
    rejects: list[dict[str, Any]] = []
    durability = ""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} events"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, disable=quiet, transient=True) as progress:
        bar = progress.add_task(escape(label), total=None)
        for frame in source.frames():
            sent = submit(client, frame)
            for name in counts:
                counts[name] += getattr(sent, name)
            rejects += [_reject(result) for result in sent.results[: REJECTS_REPORTED_MAX - len(rejects)]]
            durability = sent.durability or durability
            progress.advance(bar, len(frame))
    rejects += [
        {"place": f"line {fault.line}", "column": fault.column, "code": fault.code, "message": fault.message}
        for fault in source.faults
    ]
    total = source.total()
    counts["rejected"] += total.rejected
    return {"rows": total.rows, **counts, "durability": durability, "rejects": rejects}


def submit(client: Client, frame: pl.DataFrame) -> SubmitSummary:
    """One frame; what can't be repeated with success ends the command with a sentence."""
    try:
        return client.submit(frame)
    except (SubmitError, SubmitTimeout, SubmitFailed) as error:
        raise PenstockError(f"the gateway did not take the events: {error}") from None


def _reject(result: Any) -> dict[str, Any]:
    return {
        "place": f"event {result.event_id}",
        "column": result.column,
        "code": result.code,
        "message": result.message,
    }
