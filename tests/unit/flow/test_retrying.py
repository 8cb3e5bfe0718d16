"""When entries that were rejected are tried again: by instants alone, ever less often, and not for ever."""

from datetime import date

from runtime.flow.retrying import FIRST_S, LONGEST_S, TRIED_FOR_S, alike, due_ms
from runtime.ports import Delivery, JournalEntry

T0 = 1_800_000_000_000
DAY = date(2026, 10, 3)


def rejected(key: str, attempts: int, first_sent_ms: int, sent_ms: int) -> Delivery:
    """An entry that its ERP would not have."""
    told = {"entity": "north", "currency": "USD", "period": "2026-10", "posted_on": DAY, "mode": "summary", "lane": 3}
    entry = JournalEntry(key=key, digest="", document="", lines=(), sets=(), **told)
    return Delivery(entry, "rejected", attempts, "", first_sent_ms, sent_ms, f"{key}: the period is closed")


def test_reason_waits_as_long_again_as_it_lasts_and_ends() -> None:
    """From the first refusal on, the time until the next try is the time since, within bounds; then a person must."""
    one = rejected("J1", 1, T0, T0)
    assert due_ms([one]) == T0 + FIRST_S * 1000
    hour_ms = T0 + 3_600_000
    assert due_ms([one, rejected("J2", 2, hour_ms, hour_ms)]) == hour_ms + 3_600_000
    assert due_ms([rejected("J1", 9, T0, T0 + round(TRIED_FOR_S * 1000) + 1)]) is None


def test_reason_of_an_entry_from_restored_books_is_tried_too_and_ends() -> None:
    """An entry that was sent first nobody knows when ends nobody's tries; counted by its own, they end as well."""
    restored, known = rejected("J1", 2, 0, T0), rejected("J2", 1, T0, T0)
    [(_, group)] = alike([restored, known]).items()
    assert due_ms(group) == T0 + LONGEST_S * 1000
    assert due_ms([rejected("J1", 2 + int(TRIED_FOR_S // LONGEST_S), 0, T0)]) is None
