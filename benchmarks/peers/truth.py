"""What the task gives, worked out naively in plain Python over all rows at once: what every peer is compared with.

Shares no code with any peer but the tables of `task`. Never timed.
"""

from collections import Counter

import polars as pl

from benchmarks.peers.rows import plain
from benchmarks.peers.task import ACCOUNTS, name_of, period_of


def outcome(rows: pl.DataFrame) -> dict:
    """The outcome in the form in which peers write theirs."""
    first: dict[tuple[str, str], dict] = {}
    repeats, conflicts = 0, []
    for row in plain(rows).iter_rows(named=True):
        known = first.setdefault((row["source"], row["event_id"]), row)
        if known is not row:
            if known == row:
                repeats += 1
            else:
                conflicts.append(name_of(row["source"], row["event_id"]))
    held = _held(list(first.values()))
    lines: Counter[str] = Counter()
    for key, row in first.items():
        if key not in held and ACCOUNTS[row["kind"]]:
            debit, credit = ACCOUNTS[row["kind"]]
            lines[_line(debit, row)] += row["amount_minor"]
            lines[_line(credit, row)] -= row["amount_minor"]
    return {
        "repeats": repeats,
        "conflicts": sorted(conflicts),
        "held": sorted(name_of(*key) for key in held),
        "lines": dict(lines),
    }


def _held(rows: list[dict]) -> set[tuple[str, str]]:
    of_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("card_captured", "card_settled")}
    authorised = {row["document"] for row in rows if row["kind"] == "card_authorised"}
    captured = {row["document"] for row in of_kind["card_captured"]}
    waiting = [row for row in of_kind["card_captured"] if row["reference"] not in authorised]
    waiting += [row for row in of_kind["card_settled"] if row["document"] not in captured]
    return {(row["source"], row["event_id"]) for row in waiting}


def _line(account: str, row: dict) -> str:
    parts = (row["entity"], row["facility"] or "", row["department"] or "", period_of(row["effective_on"]), row["kind"])
    return "|".join((account, *parts))


def faults(found: dict, truth: dict) -> str:
    """What is wrong with an outcome; "" when it is exact."""
    wrong = []
    if found["repeats"] != truth["repeats"]:
        wrong.append(f"{found['repeats']} repeats instead of {truth['repeats']}")
    for what in ("conflicts", "held"):
        if found[what] != truth[what]:
            lost = len(set(truth[what]) - set(found[what]))
            wrong.append(f"{len(found[what])} {what} instead of {len(truth[what])}, {lost} of them missing")
    mine, right = ({k: v for k, v in of["lines"].items() if v} for of in (found, truth))
    if mine != right:
        differing = sum(mine.get(key, 0) != right.get(key, 0) for key in mine.keys() | right.keys())
        wrong.append(f"{differing} of {len(right)} sums differ")
    return "; ".join(wrong)
