"""Facilities, departments and service lines as master data: what nobody listed is held until it is."""

import orjson
import pytest
from unit.engine.builders import Run, event, mapping

UNIT, WING = "north", "surgery"
ROLES = {
    "FACILITY": ({"facility": UNIT}, {"facility": "south"}),
    "DEPARTMENT": ({"department": WING}, {"department": "cardiology"}),
    "SERVICE_LINE": ({"counterparty": "imaging"}, {"counterparty": "oncology"}),
}


def listed(role: str, columns: dict) -> dict:
    """A row that lists a place."""
    return {"role": role, "entity": "mercy", "account": "listed", **columns}


def charge() -> dict:
    """A charge of the second place of each sort."""
    line = orjson.dumps({"service_line": "oncology"}).decode()
    return event("c-1", "charge_posted", 700, facility="south", department="cardiology", attributes=line)


@pytest.mark.parametrize("role", ROLES)
def test_place_that_nobody_listed_holds_its_events_until_it_is_listed(role):
    """A charge of an unlisted place waits under the place's own exception and books by itself when it is listed."""
    known, missing = ROLES[role]
    run = Run()
    run.step(mapping(2, [listed(role, known)]))
    run.take(charge())
    assert (run.open_types(), run.balance("GROSS_REV")) == ([f"unknown_{role.lower()}"], 0)
    run.step(mapping(3, [listed(role, missing)]))
    assert (run.open_types(), run.balance("GROSS_REV")) == ([], -700)


ELSEWHERE = {"facility": "south", "department": WING}
CHARGED = {"document": "d", "reference": "a/1", "quantity": 1000}
SIGNED = {"document": "w", "reason": "CHARITY", "person": "Ann"}


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("lab_charged", CHARGED),
        ("implant_charged", CHARGED),
        ("bad_debt_transferred", {}),
        ("bad_debt_recovered", {}),
        ("contractual_estimated", {}),
        ("responsibility_transferred", {}),
        ("responsibility_transferred_out", {}),
        ("responsibility_transferred_in", {}),
        ("credit_balance_moved", {}),
        ("write_off_requested", SIGNED),
        ("write_off_approved", SIGNED),
    ],
)
def test_whatever_concerns_an_account_s_facility_waits_until_it_is_listed(kind, columns):
    """Not charges and payments alone: no book of a facility opens that nobody listed."""
    run = Run()
    run.step(mapping(2, [listed("FACILITY", {"facility": UNIT})]))
    run.take(event("e", kind, 700, **columns, **ELSEWHERE))
    assert (run.state("e"), run.open_types()) == ("excepted", ["unknown_facility"])
    run.step(mapping(3, [listed("FACILITY", {"facility": "south"})]))
    assert run.state("e") in ("booked", "excluded", "pending")


def test_places_are_not_asked_for_where_the_entity_lists_none():
    """Without a list every place is taken."""
    run = Run()
    run.take(charge())
    assert (run.open_types(), run.balance("GROSS_REV")) == ([], -700)
