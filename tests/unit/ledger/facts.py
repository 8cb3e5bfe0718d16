"""Facts for register tests."""

from datetime import date

from runtime.ledger.registers import Fact, Marks, Policy

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000
TODAY = date(2026, 9, 21)


def fact(part: str, key: str, amount_minor: int = 0, **columns: object) -> Fact:
    """A fact as a register sees it; its event is named by part, key and amount."""
    given = {
        "id": 1,
        "kind": f"kind_{part}",
        "entity": "mercy",
        "currency": "USD",
        "quantity": None,
        "document": key,
        "reference": "",
        "counterparty": "blue",
        "correlation_id": "",
        "reason": "",
        "facility": "",
        "department": "",
        "effective_on": TODAY,
        "occurred_ms": NOW_MS,
        "source": "ehr",
        "event_id": f"{part}-{key}-{amount_minor}",
        "attributes": {},
    }
    return Fact(**{**given, "part": part, "key": key, "amount_minor": amount_minor, **columns})


def policy(**answers: str) -> Policy:
    """Policies that answer the same everywhere."""
    return lambda name, place: answers.get(name, "")


def flagged(marks: Marks) -> list[tuple[str, str, int, bool]]:
    """Flags as exception, event, amount, and whether it begins."""
    return [(flag.fault, flag.event_id, flag.residual_minor, flag.raised) for flag in marks.flags]
