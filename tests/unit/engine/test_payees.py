"""Who is paid: from an 835's N1*PE to the entity, facility and check that it decides on."""

import itertools

import msgspec
import pytest
from unit.engine.builders import DAY_MS, NOW_MS, RULEBOOK, Run, mapping, tick
from unit.sources.x12_texts import KEY, claim, interchange, read, remittance, write

from adapters.books.memory import MemoryBooks
from adapters.sources.source import SourceSettings
from runtime.errors import GovernanceError
from runtime.ledger.governance import mapping_rows, master_data, rows_json

MERCY, GRACE = "1234567893", "1987654321"
SETTINGS = SourceSettings(entity="mercy", token_key=KEY)
ROUTED = SourceSettings(entity="mercy", token_key=KEY, payees={MERCY: ("mercy", "north"), GRACE: ("grace", "east")})
HEADER = "remittance_received"


def payee_row(number: str, entity: str = "*") -> dict:
    """A payee as a mapping knows it."""
    return {"role": "PAYEE", "account": "known", "counterparty": number, "entity": entity}


def to(payee: str, paid: str = "540", trace: str = "TRACE1", control: str = "0001") -> str:
    """A remittance to this payee (N103, N104), of one claim."""
    whole = remittance(paid, *claim(f"A{trace}", "1", f"{paid}*{paid}*0"), trace=trace, control=control)
    return whole.replace(f"XX*{MERCY}", payee)


def rows_of(path, settings: SourceSettings = SETTINGS) -> list[dict]:
    """The events of a file as a gateway would be sent them."""
    return [
        {name: value for name, value in row.items() if value is not None} for row in read(path, settings)[0].to_dicts()
    ]


def test_payee_of_a_file_that_nobody_knows_holds_its_remittance_until_the_mapping_is_approved(tmp_path):
    """From the 835 to the books: held under unknown_payee with nothing booked, then booked by the approved mapping."""
    run, books = Run(), MemoryBooks()
    run.step(mapping(2, [payee_row("1000000004")]))
    rows = rows_of(write(tmp_path, interchange(to(f"XX*{GRACE}"))))
    run.take(*rows)
    assert run.open_types() == ["unknown_payee"]
    assert (run.accounts(), run.total("excepted"), run.total("pending")) == ({}, 1, 1)
    proposed = mapping_rows([payee_row(GRACE, "mercy")], master_data(RULEBOOK, ["mercy"]))
    number = books.propose_change("mapping", rows_json(proposed), "ada")
    with pytest.raises(GovernanceError):
        books.approve_change(number, "Ada")
    books.approve_change(number, "grace")
    (version,) = books.mapping_versions()
    run.step(mapping(3, msgspec.json.decode(version.rows_json)))
    assert (run.open, run.total("booked"), run.total("excluded")) == ({}, 1, 2)
    assert (run.balance("REMIT_CLEARING"), run.balance("AR_INS")) == (54000, -54000)
    again = run.take(*rows)
    assert (again.counts.duplicate, again.deltas.height) == (3, 0)


def test_payees_are_asked_for_only_where_the_entity_lists_some(tmp_path):
    """Another entity's list of payees holds nothing here, and a remittance without a number passes as well."""
    run = Run()
    run.step(mapping(2, [payee_row("1000000004", "grace")]))
    run.take(*rows_of(write(tmp_path, interchange(to(f"XX*{GRACE}"), to("XX*", trace="T2", control="0002")))))
    assert (run.open, run.balance("REMIT_CLEARING")) == ({}, 108000)


def test_payee_without_a_number_is_unknown_where_payees_are_listed(tmp_path):
    """What names nobody is nobody's: held, too."""
    run = Run()
    run.step(mapping(2, [payee_row(MERCY)]))
    run.take(*rows_of(write(tmp_path, interchange(to("XX*")))))
    assert run.open_types() == ["unknown_payee"]


@pytest.mark.parametrize(
    ("payee", "known"),
    [(f"XX*{MERCY}", MERCY), ("FI*12-3456789", "12-3456789"), ("XX*~REF*TJ*123456789", "123456789")],
    ids=["NPI", "TIN", "REF*TJ"],
)
def test_payee_is_known_by_npi_tin_or_reference(tmp_path, payee, known):
    """N1*PE gives the number, REF*TJ where it does not; the mapping of that very number lets the remittance pass."""
    text = to(payee)
    if "REF" in payee:
        text = text.replace("SE*9*", "SE*10*")
    rows = rows_of(write(tmp_path, interchange(text)))
    run = Run()
    run.step(mapping(2, [payee_row(known)]))
    run.take(*rows)
    assert (run.open, run.balance("REMIT_CLEARING")) == ({}, 54000)


def test_payee_text_that_is_no_number_does_not_leave_the_file(tmp_path):
    """A name in the number's place is not told."""
    assert "CANARY" not in str(rows_of(write(tmp_path, interchange(to("XX*CANARY DOE")))))


def test_payees_of_one_file_are_booked_to_their_entities_and_facilities(tmp_path):
    """One file, one set a payee: each is booked where the table says; a number that is in no table goes to the entity
    that the file was submitted for."""
    sets = [
        to(f"XX*{number}", f"{at}00", f"T{at}", f"000{at}") for at, number in enumerate((MERCY, GRACE, "1000000004"), 1)
    ]
    rows = rows_of(write(tmp_path, interchange(*sets)), ROUTED)
    assert {(row["entity"], row.get("facility")) for row in rows} == {
        ("mercy", "north"),
        ("grace", "east"),
        ("mercy", None),
    }
    run = Run()
    run.take(*rows)
    assert run.balances_of("mercy") == {"REMIT_CLEARING": 40000, "AR_INS": -40000}
    assert run.balances_of("grace") == {"REMIT_CLEARING": 20000, "AR_INS": -20000}


def test_payee_that_stays_unknown_keeps_its_one_exception(tmp_path):
    """A mapping that names others neither ends nor repeats the exception, and a retry does not either."""
    run = Run()
    run.step(mapping(2, [payee_row(MERCY)]))
    run.take(*rows_of(write(tmp_path, interchange(to(f"XX*{GRACE}")))))
    effects = run.step(mapping(3, [payee_row("1000000004")]))
    assert (effects.exceptions.height, effects.outcomes.height, run.open_types()) == (0, 0, ["unknown_payee"])
    run.restart()
    run.step(mapping(4, [payee_row(GRACE)]))
    assert (run.open, run.balance("REMIT_CLEARING")) == ({}, 54000)


def test_payee_check_ends_alike_in_any_order(tmp_path):
    """Header, claim, bank's money and mapping in every order, with time between: the same books, nothing open."""
    rows = rows_of(write(tmp_path, interchange(to(f"XX*{GRACE}"))))
    header = next(row for row in rows if row["kind"] == HEADER)
    money = {
        **header,
        "event_id": "bank",
        "source": "bank",
        "kind": "eft_received",
        "attributes": None,
        "document": "d1",
    }
    ends = []
    for order in itertools.permutations(range(4)):
        run = Run()
        run.step(mapping(2, [payee_row("1000000004")]))
        groups = ([header], [row for row in rows if row is not header], [money])
        for day, at in enumerate(order, 1):
            run.step(mapping(3, [payee_row(GRACE)])) if at == 3 else run.take(*groups[at], at_ms=NOW_MS + day * DAY_MS)
            run.step(tick(NOW_MS + 2 * day * DAY_MS))
        ends.append(run.end())
    assert all(end == ends[0] for end in ends)
    assert ends[0][-1] == []
    assert dict(ends[0][0]) == {("mercy", "USD", "GL-CASH"): 54000, ("mercy", "USD", "GL-AR_INS"): -54000}
