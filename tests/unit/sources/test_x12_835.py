"""835 as events: exact sums, sets that hold or are set aside alone, identities that survive another envelope."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from unit.engine.builders import Run
from unit.sources.x12_texts import (
    SETTINGS,
    claim,
    claim_token,
    found,
    interchange,
    of_kind,
    payer_claim_token,
    read,
    remittance,
    transaction,
    write,
)

from adapters.settings import standard_rulebook_text
from adapters.sources import x12
from adapters.sources.source import Source, SourceSettings
from runtime.ledger.rule_file import parse_rulebook
from runtime.schema import COLUMNS, EntityTerms, Vocabulary
from runtime.validation import validate

COLLECTED = [
    "affect_emedny.835",
    "affect_nevada_medicaid.835",
    "gunajii_sample.835",
    "k835_bcbs_nc.835",
    "k835_uhc_legacy.835",
    "lfh_cob-contractural-adjustment.835",
    "lfh_managed-care.835",
    "lfh_medicare-part-a.835",
    "lfh_secondary-payment.835",
    "pyx12_835id.835",
    "pyx12_mult_isa.835",
    "stupidedi_case1.835",
    "stupidedi_case2.835",
    "stupidedi_case3a.835",
    "stupidedi_era-sample.835",
    "stupidedi_multiple-claims-single-check.835",
    "stupidedi_notes_recover.835",
    "stupidedi_secondary-payment-with-higher-fee-schedule.835",
    "stupidedi_tertiary-payments.835",
]
MERCY = SourceSettings(entity="mercy", token_key=SETTINGS.token_key)
FIRST = remittance("540.00", *claim("A1", "1", "1000*540*160", "CO*45*300", "PR*1*100**2*60"))
TAKEBACK = remittance(
    "0",
    *claim("A1", "22", "-1000*-540*-160", "CO*45*-300", "PR*1*-100**2*-60"),
    *claim("A1", "1", "1000*400*160", "CO*45*300**97*140", "PR*1*100**2*60"),
    "PLB*1234567893*20241231*FB:ICN-A1*-140",
    trace="TRACE2",
)
RECOVERY = remittance("760", *claim("B2", "1", "900*900*0"), "PLB*1234567893*20241231*FB:ICN-A1*140", trace="TRACE3")
UNBALANCED = remittance("100.01", *claim("C3", "1", "100*100*0"), trace="TRACE4")


def minor(text: str) -> int:
    whole, _, cents = text.partition(".")
    size = int(whole.lstrip("-")) * 100 + int(cents.ljust(2, "0"))
    return -size if text.startswith("-") else size


def category(figures: dict[str, int]) -> str:
    if figures["structurally_wrong"] or figures.get("envelope_findings"):
        return "malformed"
    if figures["unbalanced"]:
        return "unbalanced"
    return (
        "transaction_balanced_claims_not" if figures["claims_unbalanced"] + figures["lines_unbalanced"] else "balanced"
    )


@pytest.mark.parametrize("name", COLLECTED)
def test_835_collected_file_holds_what_is_expected(name: str, shared_data: Callable[[str], Path]) -> None:
    """Each collected file gives the counts, sums and balance that independent parsers agree on."""
    files = json.loads(shared_data("835_expected.json").read_text())["files"]
    expected = next(file for file in files if file["file"] == f"835/{name}")
    events, source = read(shared_data(f"835/{name}"))
    figures = dict(source.total().figures)
    assert figures["transactions"] == expected["transactions"]
    assert (figures["claims"], figures["lines"]) == (expected["claims"], expected["service_lines"])
    assert figures["paid_minor"] == minor(expected["total_paid_bpr02"])
    assert figures["claims_paid_minor"] == minor(expected["sum_clp04"])
    assert figures["charged_minor"] == minor(expected["sum_clp03"])
    assert figures["plb_minor"] == minor(expected["plb_total"])
    assert category(figures) == expected["category"]
    assert figures["claims_unbalanced"] == expected["claims_out_of_balance"]
    assert figures["lines_unbalanced"] == expected["service_lines_out_of_balance"]
    assert (figures["reversals"], figures["denied"]) == (expected["reversals_clp02_22"], expected["denied_clp02_4"])
    assert figures["zero_paid"] == expected["zero_paid_claims"]
    sets = expected["per_transaction"]
    assert figures["patient_responsibility_differs"] == sum(s["claims_where_clp05_differs_from_pr_cas"] for s in sets)
    assert_events_tie(events)


def test_835_collected_files_are_all_in_the_table(shared_data: Callable[[str], Path]) -> None:
    """No file of the folder is left out of the test above."""
    assert sorted(path.name for path in shared_data("835").iterdir()) == COLLECTED


def filled(events: pl.DataFrame) -> list[dict]:
    """Events as an engine's test takes them: without the columns that they leave empty."""
    return [{name: value for name, value in row.items() if value is not None} for row in events.to_dicts()]


def assert_events_tie(events: pl.DataFrame) -> None:
    """Whatever was accepted ties by its events alone: each remit is its claims less its provider amounts."""
    for remit in of_kind(events, "remittance_received"):
        own = events.filter(reference=remit["document"])
        sums = dict(own.group_by("kind").agg(pl.col("amount_minor").sum()).iter_rows())
        assert remit["amount_minor"] == sums.get("claim_paid", 0) - sums.get("provider_adjusted", 0)
        for number, charged in own.filter(kind="claim_adjudicated").select("event_id", "amount_minor").iter_rows():
            start = number.removesuffix("adjudicated:0")
            parts = own.filter(pl.col("event_id").str.starts_with(start), pl.col("event_id") != number)
            assert charged == parts["amount_minor"].sum()


def test_835_first_payment_becomes_events(tmp_path: Path) -> None:
    """A paid claim gives its adjudication, its payment, each adjustment by group and reason, and the remittance."""
    events, source = read(write(tmp_path, interchange(FIRST)))
    assert not source.quarantined
    remit = of_kind(events, "remittance_received")[0]
    assert (remit["amount_minor"], remit["reference"], remit["counterparty"]) == (54_000, "TRACE1", "1512345678")
    assert (remit["reason"], str(remit["effective_on"])) == ("ACH", "2024-01-05")
    assert remit["occurred_at"].isoformat() == "2024-01-04T00:00:00+00:00"
    paid = of_kind(events, "claim_paid")[0]
    assert (paid["amount_minor"], paid["reason"], paid["document"]) == (54_000, "1", claim_token("A1"))
    assert (paid["reference"], paid["correlation_id"]) == (remit["document"], payer_claim_token("ICN-A1"))
    assert of_kind(events, "claim_adjudicated")[0]["amount_minor"] == 100_000
    adjusted = [(row["reason"], row["amount_minor"]) for row in of_kind(events, "claim_adjusted")]
    assert adjusted == [("CO-45", 30_000), ("PR-1", 10_000), ("PR-2", 6_000)]
    assert events["event_id"].n_unique() == events.height
    assert set(events["source"]) == {"835"} and set(events["entity"]) == {"north"}


def test_835_takeback_over_three_remits_nets_to_nothing(tmp_path: Path) -> None:
    """Payment, reversal with correction and forwarded balance, and its recovery: 1300 paid, nothing left forwarded."""
    events, source = read(write(tmp_path, interchange(FIRST, TAKEBACK, RECOVERY)))
    assert not source.quarantined
    assert_events_tie(events)
    remits = of_kind(events, "remittance_received")
    assert [row["amount_minor"] for row in remits] == [54_000, 0, 76_000]
    assert remits[1]["reason"] == "NON"
    assert [row["amount_minor"] for row in of_kind(events, "provider_adjusted")] == [-14_000, 14_000]
    assert {row["reason"] for row in of_kind(events, "provider_adjusted")} == {"FB"}
    assert {row["document"] for row in of_kind(events, "provider_adjusted")} == {payer_claim_token("ICN-A1")}
    figures = source.total().figures
    assert (figures["reversals"], figures["paid_minor"], figures["plb_minor"]) == (1, 130_000, 0)
    assert figures["claims_paid_minor"] == 130_000


def test_835_reversal_is_exact_inverse_of_original(tmp_path: Path) -> None:
    """A reversed claim repeats the first adjudication, adjustments included, with all signs turned."""
    first, _ = read(write(tmp_path, interchange(FIRST)))
    second, _ = read(write(tmp_path, interchange(TAKEBACK)))
    reversal = second.filter(pl.col("event_id").str.contains(r"^[0-9a-f]{16}:1:"))
    original = first.filter(pl.col("event_id").str.contains(r"^[0-9a-f]{16}:1:"))
    turned = original.with_columns(-pl.col("amount_minor"))
    columns = ["kind", "document", "amount_minor", "correlation_id"]
    assert reversal.select(columns).equals(turned.select(columns))


def test_835_correction_is_the_newest_status_of_its_claim(tmp_path: Path) -> None:
    """What follows a claim's reversal in the same remittance corrects it, and is no older status of the same day."""
    events, _ = read(write(tmp_path, interchange(TAKEBACK)), MERCY)
    run = Run()
    run.take(*filled(events))
    assert [status for status, _, _ in run.statuses] == ["reversed", "corrected"]
    assert "late_out_of_order" not in [type for _, type, _ in run.raised]


def test_835_prior_payer_amount_stays_apart(tmp_path: Path) -> None:
    """OA-23 is an adjustment with its own reason, so that it can balance the claim and still not be posted."""
    text = interchange(remittance("34", *claim("D4", "2", "541*34*0", "OA*23*516", "OA*94*-9")))
    events, source = read(write(tmp_path, text))
    assert not source.quarantined
    adjusted = [(row["reason"], row["amount_minor"]) for row in of_kind(events, "claim_adjusted")]
    assert adjusted == [("OA-23", 51_600), ("OA-94", -900)]


def test_835_remark_codes_go_with_their_level(tmp_path: Path) -> None:
    """Remarks of the claim and of a line travel with the adjustments of that level, which they follow in the file."""
    body = [
        "CLP*E5*1*100*60*10*12*ICN", "CAS*CO*45*20", "MOA***MA02*MA18", "SVC*HC:99213*100*80", "CAS*CO*97*10",
        "CAS*PR*1*10", "LQ*HE*N130", "LQ*HE*M15",
    ]  # fmt: skip
    events, source = read(write(tmp_path, interchange(remittance("60", *body))))
    assert not source.quarantined
    attributes = [json.loads(row["attributes"]) for row in of_kind(events, "claim_adjusted")]
    assert attributes == [
        {"line": 0, "remarks": ["MA02", "MA18"]},
        {"line": 1, "remarks": ["N130", "M15"]},
        {"line": 1, "remarks": ["N130", "M15"]},
    ]


def test_835_remarks_beyond_the_standard_are_counted_and_left_out(tmp_path: Path) -> None:
    """More remarks than a level may have, or one that is a text, leave no trace but a count."""
    body = ["CLP*E5*1*100*60*40*12*ICN", "SVC*HC:99213*100*60", "CAS*PR*1*40", *["LQ*HE*N130"] * 120, "LQ*HE*in words"]
    events, source = read(write(tmp_path, interchange(remittance("60", *body))))
    assert not source.quarantined
    assert json.loads(of_kind(events, "claim_adjusted")[0]["attributes"])["remarks"] == ["N130"] * 99
    assert source.total().figures["remarks_left_out"] == 22


def test_835_provider_amounts_come_in_pairs(tmp_path: Path) -> None:
    """Each pair of a PLB is one event, with or without a reference, and two that cancel are still two."""
    plb = "PLB*1234567893*20241231*WO:FCN1*50*72:FCN1*-50*L6*-1.27"
    events, source = read(write(tmp_path, interchange(remittance("1.27", plb))))
    assert not source.quarantined
    rows = [(row["reason"], row["amount_minor"], row["document"]) for row in of_kind(events, "provider_adjusted")]
    fcn = payer_claim_token("FCN1")
    assert rows == [("WO", 5_000, fcn), ("72", -5_000, fcn), ("L6", -127, None)]


def test_835_debit_is_negative(tmp_path: Path) -> None:
    """BPR03 D is money from payee to payer: the remittance is negative."""
    body = claim("F6", "22", "-100*-100*0")
    text = interchange(remittance("100", *body)).replace("*100*C*", "*100*D*")
    events, source = read(write(tmp_path, text))
    assert not source.quarantined
    assert of_kind(events, "remittance_received")[0]["amount_minor"] == -10_000
    assert source.total().figures["paid_minor"] == -10_000


@pytest.mark.parametrize(("currency", "paid_minor"), [("JPY", 540), ("USD", 54_000), ("KWD", 540_000)])
def test_835_amounts_are_minor_units_of_the_currency_that_the_set_names(
    currency: str, paid_minor: int, tmp_path: Path
) -> None:
    """CUR comes behind the payment and counts for it, too; where there is none, the settings' currency does."""
    named = FIRST.replace("DTM*405*20240104~", f"CUR*PR*{currency}~DTM*405*20240104~").replace("SE*11*", "SE*12*")
    for text, settings in (
        (named, SETTINGS),
        (FIRST, SourceSettings(entity="north", token_key=SETTINGS.token_key, currency=currency)),
    ):
        events, source = read(write(tmp_path, interchange(text)), settings)
        assert not source.quarantined and set(events["currency"]) == {currency}
        for kind in ("remittance_received", "claim_paid"):
            assert [row["amount_minor"] for row in of_kind(events, kind)] == [paid_minor]


@pytest.mark.parametrize(("tag", "code"), [("BPR", "missing_bpr"), ("TRN", "missing_trn")])
def test_835_payment_or_trace_behind_the_claims_sets_it_aside(tag: str, code: str, tmp_path: Path) -> None:
    """Their ids would lack it: the same remittance in its order would book a second time."""
    segments = FIRST.split("~")
    late = segments.pop(next(place for place, segment in enumerate(segments) if segment.startswith(tag)))
    segments.insert(-2, late)
    events, source = read(write(tmp_path, interchange("~".join(segments))))
    assert events.is_empty() and (1, 1, 0, code) in found(source)


def test_835_predetermination_is_adjudicated_and_not_paid(tmp_path: Path) -> None:
    """CLP02 25 gives neither a payment nor adjustments: nothing of it can be posted."""
    asked = claim("G7", "25", "80*0*0", "CO*45*50", "PR*1*30")
    events, source = read(write(tmp_path, interchange(remittance("0", *asked))))
    assert not source.quarantined
    assert sorted(events["kind"]) == ["claim_adjudicated", "remittance_received"]


def test_835_unbalanced_set_between_good_ones_is_set_aside_alone(tmp_path: Path) -> None:
    """A set that is a cent off gives no event and names its BPR02; the sets round it are accepted, sums hold all."""
    text = interchange(FIRST, UNBALANCED, RECOVERY)
    events, source = read(write(tmp_path, text))
    assert found(source) == [(2, 2, 2, "transaction_unbalanced")]
    assert [row["reference"] for row in of_kind(events, "remittance_received")] == ["TRACE1", "TRACE3"]
    figures = source.total().figures
    assert (figures["transactions"], figures["claims"], figures["transactions_quarantined"]) == (3, 3, 1)
    assert figures["paid_minor"] == 54_000 + 10_001 + 76_000
    assert (figures["unbalanced"], figures["structurally_wrong"]) == (1, 0)


BROKEN = {  # what is changed in a good remittance of one claim with one line -> where it is found, and as what
    "line": ("SVC*HC:99213*100*80", "SVC*HC:99213*100*81", (10, 3, "line_unbalanced")),
    "lines": ("SVC*HC:99213*100*80", "SVC*HC:99213*90*70", (8, 3, "lines_differ_from_claim")),
    "claim": ("CLP*H8*1*100*75", "CLP*H8*1*100*76", (8, 4, "claim_unbalanced")),
    "masked amount": ("CAS*CO*45*5", "CAS*CO*45*XXX", (9, 3, "bad_amount")),
    "third decimal": ("CAS*CO*45*5", "CAS*CO*45*5.001", (9, 3, "bad_amount")),
    "exponent": ("CAS*CO*45*5", "CAS*CO*45*5e0", (9, 3, "bad_amount")),
    "absurd amount": ("CAS*CO*45*5", "CAS*CO*45*99999999999999999999", (9, 3, "bad_amount")),
    "no paid amount": ("CLP*H8*1*100*75", "CLP*H8*1*100*", (8, 4, "bad_amount")),
    "no claim number": ("CLP*H8*", "CLP**", (8, 1, "missing_element")),
    "group is a text": ("CAS*CO*45*5", "CAS*Co pay*45*5", (9, 1, "bad_code")),
    "reason is a text": ("CAS*CO*45*5", "CAS*CO*too much*5", (9, 2, "bad_code")),
    "status is a text": ("CLP*H8*1*", "CLP*H8*paid*", (8, 2, "bad_code")),
    "signed payment": ("BPR*I*75*C", "BPR*I*-75*C", (2, 2, "negative_payment")),
    "direction": ("BPR*I*75*C", "BPR*I*75*X", (2, 3, "bad_code")),
    "no trace": ("TRN*1*TRACE1*1512345678", "REF*1*2", (1, 0, "missing_trn")),
    "empty trace": ("TRN*1*TRACE1*1512345678", "TRN*1**1512345678", (3, 2, "missing_element")),
    "no payment": ("BPR*I*75", "XPR*I*75", (1, 0, "missing_bpr")),
    "two payments": ("DTM*405*20240104", "BPR*I*0*C*NON", (4, 0, "repeated_segment")),
    "adjustment before claim": ("LX*1", "CAS*CO*45*1", (7, 0, "orphan_segment")),
    "count": ("SE*12*", "SE*11*", (12, 1, "wrong_segment_count")),
    "control number": ("SE*12*0001", "SE*12*0002", (12, 2, "wrong_set_number")),
    "no end": ("SE*12*0001~", "", (12, 0, "missing_se")),
}


@pytest.mark.parametrize("case", BROKEN)
def test_835_broken_set_is_set_aside_with_place(case: str, tmp_path: Path) -> None:
    """What is wrong is named by set, segment, element and code; no event of that set leaves, those of others do."""
    good, bad, place = BROKEN[case]
    body = ["CLP*H8*1*100*75*20*12*ICN", "CAS*CO*45*5", "SVC*HC:99213*100*80", "CAS*PR*2*20"]
    whole = remittance("75", *body)
    assert good in whole
    events, source = read(write(tmp_path, interchange(FIRST, whole.replace(good, bad), RECOVERY)))
    assert (2, *place) in found(source)
    assert {transaction for transaction, *_ in found(source)} == {2}
    assert [row["reference"] for row in of_kind(events, "remittance_received")] == ["TRACE1", "TRACE3"]
    _, whole_source = read(write(tmp_path, interchange(FIRST, whole, RECOVERY)))
    assert not whole_source.quarantined


def test_835_patient_responsibility_that_differs_is_only_counted(tmp_path: Path) -> None:
    """CLP05 against the PR adjustments is a warning: the set is accepted."""
    events, source = read(write(tmp_path, interchange(remittance("80", *claim("I9", "1", "100*80*5", "CO*45*20")))))
    assert not source.quarantined and events.height
    assert source.total().figures["patient_responsibility_differs"] == 1


def test_835_unreadable_payment_date_falls_back_to_production_date(tmp_path: Path) -> None:
    """A BPR16 that is no date leaves the set whole; the production date stands in, and without any it is set aside."""
    text = interchange(remittance("0", paid_on="20240231"))
    events, source = read(write(tmp_path, text))
    assert not source.quarantined
    assert str(events["effective_on"][0]) == "2024-01-04"
    _, undated = read(write(tmp_path, text.replace("DTM*405*20240104", "DTM*405*")))
    assert found(undated) == [(1, 2, 16, "missing_date")]


def test_835_in_other_envelopes_gives_the_same_events(tmp_path: Path) -> None:
    """Other control numbers, separators, line ends and neighbours change neither ids nor content."""
    one, _ = read(write(tmp_path, interchange(FIRST) + interchange(TAKEBACK, number=2)))
    renumbered = [text.replace("*0001~", "*77~") for text in (FIRST, TAKEBACK)]
    wrapped = interchange(*renumbered, number=4711, separators="|>\n")
    other, source = read(write(tmp_path, wrapped.replace("\n", "\r\n")))
    assert not source.quarantined
    assert other.equals(one)


def test_835_repeat_with_other_body_has_same_id_and_other_digest(tmp_path: Path) -> None:
    """The same identity with another content gives the same remittance id with another body hash: a conflict."""
    other_adjustment = FIRST.replace("CAS*CO*45*300", "CAS*CO*253*300")
    (one,), (other,) = (
        of_kind(read(write(tmp_path, interchange(text)))[0], "remittance_received")
        for text in (FIRST, other_adjustment)
    )
    assert one["event_id"] == other["event_id"]
    assert one["attributes"] != other["attributes"]


def test_835_repeat_with_other_body_books_nothing_of_it(tmp_path: Path) -> None:
    """Of a remittance that comes again with other adjustments nothing is booked, not even what is new in it."""
    once = remittance("100", *claim("A1", "1", "200*100", "CO*45*100"))
    again = remittance("100", *claim("A1", "1", "200*100", "CO*45*60", "CO*59*40"))
    run = Run()
    for text in (once, again):
        run.take(*filled(read(write(tmp_path, interchange(text)), MERCY)[0]))
    assert run.balances_of("mercy") == {"REMIT_CLEARING": 10_000, "CONTRACTUAL": 10_000, "AR_INS": -20_000}
    assert set(run.open_types()) == {"remit_conflict"}
    assert sorted(run.states().values()) == ["booked", "booked", "excluded", "excluded", "pending"]


def test_835_large_set_is_read_twice_with_the_same_outcome(tmp_path: Path) -> None:
    """A set with more events than may be held gives the same events, in frames of the size asked for."""
    claims = [segment for n in range(40) for segment in claim(f"N{n}", "1", "10*7*1", "CO*45*2", "PR*3*1")]
    text = interchange(FIRST, remittance("280", *claims, trace="BIG"), UNBALANCED, RECOVERY)
    path = write(tmp_path, text)
    whole, source = read(path)
    small = SourceSettings(entity="north", token_key=SETTINGS.token_key, rows_max=7)
    again = Source(path, lambda path, settings: x12.read(path, settings, "835", rows_held_max=5), small)
    frames = list(again.frames())
    assert max(frame.height for frame in frames) <= 7
    assert pl.concat(frames).sort("event_id").equals(whole.sort("event_id"))
    assert again.total().figures == source.total().figures
    assert found(again) == found(source)


def test_835_events_pass_the_gateways_validation(tmp_path: Path) -> None:
    """Every event has the canonical columns, and validation with the standard rulebook refuses none."""
    text = interchange(FIRST, TAKEBACK, RECOVERY, remittance("3", "PLB*1234567893*20241231*L6*-3", trace="TRACE5"))
    events, _ = read(write(tmp_path, text))
    assert events.schema == pl.Schema(COLUMNS)
    assert_valid(events)


def assert_valid(events: pl.DataFrame) -> None:
    """No row is rejected."""
    rulebook = parse_rulebook(standard_rulebook_text())
    terms = {"north": EntityTerms(currencies=frozenset({"USD"}))}
    judged = validate(events, Vocabulary(kinds=rulebook.kind_terms(), entities=terms), 1_780_000_000_000)
    assert judged.rejected.is_empty(), judged.rejected


def test_835_set_of_another_kind_beside_it_is_read_under_its_own_name(tmp_path: Path) -> None:
    """Sets of other kinds in the file are counted apart; one that nobody reads is set aside."""
    acknowledgement = transaction("999", "AK1*HC*7", "AK9*A*1*1*1")
    events, source = read(write(tmp_path, interchange(FIRST, acknowledgement, transaction("278", "BHT*0078"))))
    assert found(source) == [(3, 1, 1, "unread_set")]
    figures = source.total().figures
    assert (figures["transactions"], figures["999_transactions"], figures["unread_transactions"]) == (1, 1, 1)
    assert set(events["source"]) == {"835", "999"}
