"""When entries that an ERP rejected are tried again without anybody's order: what was wrong may have been mended there.

Owns the schedule. A period that was reopened, or an account that was opened, is told to nobody; so of all entries that
were refused for the same reason one is sent again, ever less often, and when the ERP takes it the others follow. The
schedule follows from instants that the books hold, so it survives everything, and ends by itself.
"""

from collections.abc import Iterable, Sequence

from runtime.ports import Delivery

FIRST_S, LONGEST_S = 900.0, 86_400.0  # between two tries of one reason: as long again as it lasts, within these
TRIED_FOR_S = 40 * 86_400.0  # after the first refusal; then a person must
PROBE_EVERY_S = 60.0  # between two tries, whatever their reasons: other entries need the ERP, too

Reason = tuple[str, str, str]  # entity, period, what the ERP said without naming the entry


def alike(rejected: Iterable[Delivery]) -> dict[Reason, list[Delivery]]:
    """Rejected entries by why they were."""
    groups: dict[Reason, list[Delivery]] = {}
    for delivery in rejected:
        said = delivery.detail.replace(delivery.entry.key, "")
        groups.setdefault((delivery.entry.entity, delivery.entry.period, said), []).append(delivery)
    return groups


def due_ms(group: Sequence[Delivery]) -> int | None:
    """When the next one of a reason is sent again; None when it was tried long enough."""
    last_ms = max(delivery.sent_ms for delivery in group)
    first_ms = min(delivery.first_sent_ms or _first_at_the_latest_ms(delivery) for delivery in group)
    if last_ms - first_ms > TRIED_FOR_S * 1000:
        return None
    return last_ms + round(min(LONGEST_S, max(FIRST_S, (last_ms - first_ms) / 1000)) * 1000)


def _first_at_the_latest_ms(delivery: Delivery) -> int:
    """Of an entry of restored books nobody knows when it was sent first: as if once in the longest time between two."""
    return delivery.sent_ms - round(delivery.attempts * LONGEST_S * 1000)


def probe(groups: dict[Reason, list[Delivery]], now_ms: int) -> tuple[Reason, Delivery] | None:
    """The entry to try now, for the reason that is due first: the one that was tried least, then the oldest."""
    due = [(at_ms, reason) for reason, group in groups.items() if (at_ms := due_ms(group)) is not None]
    at_ms, reason = min(due, default=(now_ms + 1, ("", "", "")))
    if at_ms > now_ms:
        return None
    return reason, min(groups[reason], key=lambda delivery: (delivery.attempts, delivery.sent_ms))
