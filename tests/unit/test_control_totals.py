"""Control totals as they are shown: complete, and without a word that is not ours."""

import json
from pathlib import Path

from actors.cli.control_totals import UNKNOWN, shown_totals
from adapters.sources import open_source
from runtime.config import parse


def test_control_totals_of_slipped_cells_are_counted_and_not_named(tmp_path: Path) -> None:
    """A kind, entity or currency that nobody configured is summed under one name, as it may be a payload value."""
    usual = {"source": "ehr", "kind": "charge_posted", "entity": "mercy", "currency": "USD", "amount_minor": 5}
    slips = ({}, {}, {"kind": "Jane Doe"}, {"kind": "John Doe"}, {"entity": "Jane Doe"}, {"currency": "JANE"})
    rows = [usual | slip | {"event_id": str(n), "occurred_at": 1} for n, slip in enumerate(slips)]
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = open_source(path)
    list(source.frames())
    config = parse({"entities": {"mercy": {"name": "Mercy", "opens_on": "2026-01-01"}}})
    shown = {(one["entity"], one["currency"], one["kind"]): one["events"] for one in shown_totals(config, source)}
    assert shown == {
        ("mercy", "USD", "charge_posted"): 2,
        ("mercy", "USD", UNKNOWN): 2,
        (UNKNOWN, "USD", "charge_posted"): 1,
        ("mercy", UNKNOWN, "charge_posted"): 1,
    }
