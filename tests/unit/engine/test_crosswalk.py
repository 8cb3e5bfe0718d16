"""The crosswalk: which row answers when several fit, and what versions and dates do to that."""

from datetime import date
from itertools import permutations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from runtime.ledger.crosswalk import Crosswalk, CrosswalkRow, Mapped, Place

AUTUMN = date(2026, 10, 1)
HERE = Place("mercy", "north", "surgery", AUTUMN)


def row(account: str, role: str = "CASH", **scope: object) -> CrosswalkRow:
    """A mapping of CASH."""
    return CrosswalkRow(role=role, account=account, **scope)


def crosswalk(*rows: CrosswalkRow) -> Crosswalk:
    """A crosswalk that was given these rows as version 1."""
    given_rows = Crosswalk()
    given_rows.apply(1, list(rows))
    return given_rows


def answer(from_crosswalk: Crosswalk, place: Place = HERE) -> str | None:
    """The account that CASH is at a place."""
    found = from_crosswalk.resolve("CASH", place)
    return found and found.account


def test_crosswalk_several_rows_fit_most_specific_answers():
    """Entity outweighs facility, facility outweighs department, whatever the order of the rows."""
    ladder = [
        row("any"),
        row("department", department="surgery"),
        row("facility", facility="north"),
        row("facility+department", facility="north", department="surgery"),
        row("entity", entity="mercy"),
        row("entity+department", entity="mercy", department="surgery"),
        row("entity+facility", entity="mercy", facility="north"),
        row("all", entity="mercy", facility="north", department="surgery"),
    ]
    for count in range(1, len(ladder) + 1):
        assert answer(crosswalk(*ladder[:count])) == ladder[count - 1].account
        assert answer(crosswalk(*reversed(ladder[:count]))) == ladder[count - 1].account


def test_crosswalk_row_of_another_place_never_answers():
    """A row that names another entity, facility or department does not fit, and nothing is guessed."""
    others = [row("a", entity="grace"), row("b", facility="south"), row("c", department="lab"), row("d", role="TAX")]
    assert crosswalk(*others).resolve("CASH", HERE) is None


def test_crosswalk_before_effective_date_older_row_answers():
    """A row counts from its day on, that day included."""
    dated = crosswalk(row("old"), row("new", valid_from=AUTUMN))
    assert answer(dated, HERE) == "new"
    assert answer(dated, msgspec.structs.replace(HERE, on=date(2026, 9, 30))) == "old"


def test_crosswalk_only_later_rows_answers_none():
    """A role whose only row is not yet valid has no account."""
    assert answer(crosswalk(row("new", valid_from=date(2026, 10, 2)))) is None


def test_crosswalk_specific_old_row_outweighs_general_new_one():
    """Being specific counts for more than being new."""
    dated = crosswalk(row("general", valid_from=AUTUMN), row("specific", facility="north"))
    assert answer(dated) == "specific"


def test_crosswalk_newer_version_of_equal_row_answers_with_its_number():
    """Of equal rows the newest version counts, and the answer says which version that was."""
    versioned = crosswalk(row("first"))
    assert versioned.resolve("CASH", HERE) == Mapped("first", 1)
    versioned.apply(2, [row("second")])
    assert versioned.resolve("CASH", HERE) == Mapped("second", 2)


def test_crosswalk_repeated_version_is_ignored():
    """A version that the log carries twice counts once, even if the second one says something else."""
    versioned = crosswalk(row("first"))
    assert not versioned.apply(1, [row("other")])
    assert answer(versioned) == "first"
    assert versioned.version == 1


def test_crosswalk_versions_in_any_order_answer_alike():
    """Versions that overtake each other on their way are all applied, and the newest one counts."""
    for order in permutations((1, 2, 3)):
        versioned = Crosswalk()
        for version in order:
            assert versioned.apply(version, [row(f"v{version}"), row(str(version), f"R{version}")])
        assert answer(versioned) == "v3"
        assert [versioned.resolve(f"R{version}", HERE).account for version in (1, 2, 3)] == ["1", "2", "3"]
        assert versioned.version == 3


def test_crosswalk_restored_from_dump_answers_alike():
    """A crosswalk that was dumped and loaded gives the same answers and knows the same versions."""
    original = crosswalk(row("any"), row("here", facility="north"))
    original.apply(2, [])
    restored = Crosswalk()
    restored.load(original.version, original.dump())
    assert restored.resolve("CASH", HERE) == original.resolve("CASH", HERE)
    assert restored.version == 2
    assert not restored.apply(1, [row("again")])
    assert not restored.apply(2, [row("again")])


def test_crosswalk_new_version_replaces_remembered_absence():
    """That a role had no account is not remembered beyond the next version."""
    growing = crosswalk()
    assert answer(growing) is None
    growing.apply(2, [row("late")])
    assert answer(growing) == "late"


SCOPES = st.builds(
    CrosswalkRow,
    entity=st.sampled_from(["*", "mercy", "grace"]),
    role=st.just("CASH"),
    account=st.sampled_from("abcdef"),
    facility=st.sampled_from(["", "north", "south"]),
    department=st.sampled_from(["", "surgery", "lab"]),
    valid_from=st.sampled_from([date(1900, 1, 1), date(2026, 1, 1), AUTUMN, date(2027, 1, 1)]),
)


def naive_answer(versions: list[list[CrosswalkRow]], place: Place) -> str | None:
    """The rule as told in words: narrow down by entity, facility, department, date, version, in this order."""
    fitting = [
        (row.entity == place.entity, row.facility != "", row.department != "", row.valid_from, number, -at, row.account)
        for number, rows in enumerate(versions, 1)
        for at, row in enumerate(rows)
        if row.entity in ("*", place.entity)
        and row.facility in ("", place.facility)
        and row.department in ("", place.department)
        and row.valid_from <= place.on
    ]
    return sorted(fitting)[-1][-1] if fitting else None


@given(versions=st.lists(st.lists(SCOPES, max_size=5), max_size=4))
def test_crosswalk_random_rows_answer_as_the_naive_rule(versions):
    """Whatever rows and versions there are, the answer is the one that the rule's words give."""
    built = Crosswalk()
    for number, rows in enumerate(versions, 1):
        built.apply(number, rows)
    assert answer(built) == naive_answer(versions, HERE)
