"""What must stand in the place of journal entries that were put right: the same money by role, under other accounts.

Owns the comparison of correcting posting sets with the sets of the entry that each names, and what they move in the
balances. No event stands behind them, so their accounts are the mapping's business, and the sums are ours.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from runtime.ports import CORRECTED_KINDS, CORRECTIONS

PAGE_SETS = 10_000
_REVERSED, _RESTATED = CORRECTED_KINDS
_OTHER_SIDE = {"D": "C", "C": "D"}
Row = dict[str, Any]


def sets_of(books: Any) -> dict[tuple[int, str, int], list[Row]]:
    """The lines of every posting set, by its place."""
    sets: dict[tuple[int, str, int], list[Row]] = defaultdict(list)
    for page in books.posting_pages(PAGE_SETS):
        for row in page.iter_rows(named=True):
            sets[row["shard"], row["position"], row["set_no"]].append(row)
    return sets


def moved(sets: dict[tuple[int, str, int], list[Row]]) -> Counter[tuple]:
    """What corrections add to the balances of events, by entity, currency, account and side; an entry that is replaced
    counts no more."""
    sums: Counter[tuple] = Counter()
    for row in (row for rows in sets.values() for row in rows):
        key = (row["entity"], row["currency"], row["account_code"], row["side"])
        corrects, replaced = row["shard"] == CORRECTIONS, row["entry_state"] == "replaced"
        sums[key] += row["amount_minor"] * (corrects - replaced)
    return sums


def correction_differences(sets: dict[tuple[int, str, int], list[Row]], books: Any) -> Iterator[str]:
    """Corrections that are not what they correct, or that were made twice."""
    corrections = [rows for (shard, *_), rows in sets.items() if shard == CORRECTIONS]
    for document, count in Counter(rows[0]["document"] for rows in corrections).items():
        if count > 1:
            yield f"{document}: {count} times"
    for rows in corrections:
        document, kind = rows[0]["document"], rows[0]["kind"]
        key = document.rpartition(" ")[2]
        held = [row for place in books.entry(key).sets for row in sets[place]]
        if _by_role(rows, swapped=kind == _REVERSED) != _by_role(held):
            yield f"{document}: it is not what the entry held"
        if kind == _RESTATED and any(row["entry_state"] not in ("replaced", "posted") for row in held):
            yield f"{document}: the entry itself may still be sent"


def _by_role(rows: list[Row], swapped: bool = False) -> Counter[tuple]:
    sums: Counter[tuple] = Counter()
    for row in rows:
        side = _OTHER_SIDE[row["side"]] if swapped else row["side"]
        sums[row["entity"], row["currency"], row["role"], row["facility"], row["department"], side] += row[
            "amount_minor"
        ]
    return sums
