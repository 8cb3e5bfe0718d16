"""Owners: who was told first, for a time, and what of it fills an event."""

import polars as pl

from runtime.ledger.fading import DAY_MS
from runtime.ledger.owners import OWNED_FACILITY, Owner, Owners, OwnerTerms, owned

ANN, BOB = Owner("a1", None, "lab", "north"), Owner("a2", "blue", None, "south")


def owners(*told: tuple[str, str, Owner]) -> Owners:
    """Owners of whom these were told: entity, document and owner."""
    register = Owners(OwnerTerms(keep_days=10))
    register.note([row[:2] for row in told], [row[2] for row in told])
    return register


def test_owner_is_the_first_of_a_document_in_an_entity():
    """A second one changes nothing; the same name in another entity is another document."""
    register = owners(("mercy", "c1", ANN), ("mercy", "c1", BOB), ("grace", "c1", BOB))
    assert (register.of("mercy", "c1"), register.of("grace", "c1"), register.of("mercy", "c2")) == (ANN, BOB, None)
    assert len(register) == 2


def test_owner_is_known_from_its_days_on_to_twice_as_many():
    """Whoever is told again in the second time stays the first one, and is forgotten with him."""
    register = owners()
    register.age(DAY_MS)
    register.note([("mercy", "c1")], [ANN])
    register.age(12 * DAY_MS)
    register.note([("mercy", "c1")], [BOB])
    assert register.of("mercy", "c1") == ANN
    register.age(22 * DAY_MS)
    assert register.of("mercy", "c1") == ANN
    register.age(23 * DAY_MS)
    assert register.of("mercy", "c1") is None


def test_owners_reloaded_go_on_alike():
    """A dump keeps both times and when the present one began."""
    register, again = owners(("mercy", "c1", ANN)), owners()
    register.age(DAY_MS)
    register.age(12 * DAY_MS)
    register.note([("mercy", "c2")], [BOB])
    again.load(register.dump())
    assert again.dump() == register.dump()
    again.age(23 * DAY_MS)
    assert (again.of("mercy", "c1"), again.of("mercy", "c2")) == (None, BOB)


def test_owner_fills_only_what_an_event_leaves_open():
    """Rows that name an account are not looked at; a facility stands beside the row's own."""
    rows = pl.DataFrame(
        {
            "account": ["a9", None, None],
            "counterparty": [None, None, "acme"],
            "department": [None, None, "surgery"],
            "facility": [None, None, "west"],
        }
    )
    filled = owned(rows, rows["account"].is_null(), [ANN, BOB])
    assert filled.select("account", "counterparty", "department").rows() == [
        ("a9", None, None),
        ("a1", None, "lab"),
        ("a2", "acme", "surgery"),
    ]
    assert filled.select("facility", OWNED_FACILITY).rows() == [(None, None), (None, "north"), ("west", "south")]
