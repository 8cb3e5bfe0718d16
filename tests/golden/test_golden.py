"""Recorded histories and their exact journals, byte for byte.

NAME.jsonl holds the steps of a history, one a line: `events` (rows, times as ISO texts), `mapping` (rows), `tick`, or
`relay` (the time at which all that was derived so far comes back).
NAME.json holds what each step must do and how the accounts stand in the end. After a change that is meant to change
them, `pytest tests/golden --record` writes the .json files anew and prints the difference, which belongs into review.
"""

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest
from unit.engine.builders import RULEBOOK, Run, control, event, events, relayed, tick

from runtime.effects import TOTALS, Effects
from runtime.ledger.reconciliation import expected
from runtime.ports import LogRecord

FOLDER = Path(__file__).parent
HISTORIES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))
DERIVED_COLUMNS = ("kind", "event_id", "entity", "facility", "document", "reference", "counterparty", "amount_minor")
STATUS_COLUMNS = ("flow", "status", "entity", "document", "amount_minor", "event_id", "detail")
LINE_COLUMNS = ("line_no", "role", "account_code", "mapping_version", "side", "amount_minor")


def milliseconds(moment: str) -> int:
    """An ISO time as UTC milliseconds."""
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def record_of(step: dict, derived: list[dict]) -> LogRecord:
    """One line of a history as a log record. `derived`: what was derived and not relayed yet."""
    if "relay" in step:
        return relayed(*derived, at_ms=milliseconds(step["relay"]))
    if "events" in step:
        return events(*(row_of(row) for row in step["events"]), at_ms=milliseconds(step["received_at"]))
    if "mapping" in step:
        return control({"type": "mapping", "version": step["version"], "rows": step["mapping"]})
    return tick(milliseconds(step["tick"]))


def row_of(row: dict) -> dict:
    """A row of a history with its times and dates as such."""
    times = {"occurred_at": milliseconds(row["occurred_at"])}
    if "effective_on" in row:
        times["effective_on"] = date.fromisoformat(row["effective_on"])
    return event(**(row | times))


def journal(name: str) -> str:
    """What a history leads to, as readable JSON: one line for each row, set, line, total and exception."""
    run, parts, derived = Run(mapped=False), [], []
    for line in (FOLDER / f"{name}.jsonl").read_text().splitlines():
        step = json.loads(line)
        effects = run.step(record_of(step, derived))
        derived = ([] if "relay" in step else derived) + effects.derived.to_dicts()
        parts.append(section(step["step"], rows_of(effects)))
    parts.append(section("balances in the end", [[*account, net] for account, net in sorted(run.accounts().items())]))
    parts.append(section("states in the end", sorted(run.states().items())))
    parts.append(section("exceptions open in the end", sorted(run.open.values())))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def section(title: str, rows: Iterable) -> str:
    """A titled list, one row a line."""
    told = ",\n".join(f"  {json.dumps(row, default=str)}" for row in rows)
    return f" {json.dumps(title)}: [\n{told}\n ]"


def rows_of(effects: Effects) -> Iterator[dict]:
    """The effects of one step, one thing at a time."""
    yield from sets_of(effects.deltas)
    yield from ({"total": list(row)} for row in effects.totals.iter_rows())
    yield from ({"exception": list(row)} for row in effects.exceptions.iter_rows())
    yield from ({"resolved": id} for id in effects.resolved)
    yield from ({"derived": [row[name] for name in DERIVED_COLUMNS]} for row in effects.derived.to_dicts())
    yield from ({"status": list(row)} for row in effects.statuses.select(STATUS_COLUMNS).iter_rows())
    yield {"counts": effects.counts._asdict()}


def sets_of(deltas: pl.DataFrame) -> Iterator[dict]:
    """Posting sets, each followed by its lines."""
    for lines in deltas.partition_by("set_no", maintain_order=True):
        of_set = lines.drop(*LINE_COLUMNS, "variance")
        yield {"set": of_set.row(0, named=True)}
        assert of_set.n_unique() == 1, "lines of a set differ in what belongs to the set"
        for *line, variance in lines.select(*LINE_COLUMNS, "variance").iter_rows():
            yield {"line": [*line, variance] if variance else line}


@pytest.mark.parametrize("name", HISTORIES)
def test_golden_history_gives_its_recorded_journal(name, records):
    """A recorded history leads to exactly the recorded sets, totals and exceptions."""
    path, found = FOLDER / f"{name}.json", journal(name)
    recorded = path.read_text() if path.exists() else ""
    texts = (recorded.splitlines(), found.splitlines())
    difference = "\n".join(difflib.unified_diff(*texts, f"{name}.json recorded", f"{name}.json found", lineterm=""))
    if records:
        path.write_text(found)
        print(difference or f"{name}.json: no difference")  # noqa: T201
    else:
        assert found == recorded, f"\n{difference}"


@pytest.mark.parametrize("name", HISTORIES)
def test_golden_journal_is_readable_json(name):
    """A recorded journal can be read by any JSON reader."""
    recorded = json.loads((FOLDER / f"{name}.json").read_text())
    assert recorded["balances in the end"]


@pytest.mark.parametrize("name", HISTORIES)
def test_golden_journal_debits_what_its_control_totals_say(name):
    """What the totals say should be booked is what was debited, so that `penstock reconcile` finds no difference."""
    recorded = json.loads((FOLDER / f"{name}.json").read_text())
    rows = [row for section in recorded.values() for row in section if isinstance(row, dict)]
    totals = pl.DataFrame([row["total"] for row in rows if "total" in row], schema=TOTALS, orient="row")
    debits, side = Counter(), ("", "")
    for row in rows:
        side = (row["set"]["entity"], row["set"]["currency"]) if "set" in row else side
        if "line" in row and row["line"][4] == "D":
            debits[side] += row["line"][5]
    assert Counter(expected(totals, RULEBOOK.pairs())) == debits
