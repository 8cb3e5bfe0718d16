"""Adyen's settlement detail: batches that tie, balances carried forward, fees, time zones, ragged files.

No settlement file of this processor is among the samples; the batches here are made after the published figures.
"""

from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from adapters.sources import cards
from adapters.sources.bank.patterns import PATTERNS
from adapters.sources.cards import adyen
from adapters.sources.source import Source, SourceSettings
from runtime.errors import ConfigError, FrameError
from runtime.schema import COLUMNS

KEY = b"a key for the tests"
HEADER_LINE = (
    "Company Account,Merchant Account,Psp Reference,Merchant Reference,Payment Method,Creation Date,TimeZone,Type,"
    "Modification Reference,Gross Currency,Gross Debit (GC),Gross Credit (GC),Exchange Rate,Net Currency,"
    "Net Debit (NC),Net Credit (NC),Commission (NC),Markup (NC),Scheme Fees (NC),Interchange (NC),Batch Number,"
    "Modification Merchant Reference,Booking Date"
)
HEADER = HEADER_LINE.split(",")
COLUMNS_OF = {
    "account": "Merchant Account",
    "psp": "Psp Reference",
    "reference": "Merchant Reference",
    "created": "Creation Date",
    "zone": "TimeZone",
    "modification": "Modification Reference",
    "gross_currency": "Gross Currency",
    "gross_debit": "Gross Debit (GC)",
    "gross_credit": "Gross Credit (GC)",
    "currency": "Net Currency",
    "net_debit": "Net Debit (NC)",
    "net_credit": "Net Credit (NC)",
    "commission": "Commission (NC)",
    "markup": "Markup (NC)",
    "scheme": "Scheme Fees (NC)",
    "interchange": "Interchange (NC)",
    "batch": "Batch Number",
    "booked": "Booking Date",
}
USUAL = {
    "account": "Hospital",
    "created": "2026-10-02 10:00:00",
    "zone": "UTC",
    "gross_currency": "EUR",
    "currency": "EUR",
    "batch": "7",
}


def opened(path: Path, **settings: object) -> Source:
    return Source(path, cards.FORMATS["adyen"], SourceSettings(token_key=KEY, entity="hospital", **settings))


def events_of(source: Source) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=COLUMNS), *source.frames()])


def row(kind: str, **cells: str) -> str:
    named = {COLUMNS_OF[name]: value for name, value in (USUAL | cells).items()} | {"Type": kind}
    return ",".join(f'"{named[name]}"' if name in named else "" for name in HEADER)


def settled(number: int = 1, **cells: str) -> str:
    """5.00 gross, 4.88 net, three fees."""
    money = {"gross_credit": "5.00", "net_credit": "4.88", "markup": "0.04", "scheme": "0.01", "interchange": "0.07"}
    named = {"psp": f"88{number:04}", "reference": f"ref-{number}"}
    return row("Settled", **(named | money | cells))


def payout(amount: str, **cells: str) -> str:
    return row("MerchantPayout", net_debit=amount, created="2026-10-04 03:00:00", **cells)


def report(tmp_path: Path, rows: Iterable[str]) -> Path:
    path = tmp_path / "settlement.csv"
    path.write_text("\n".join([HEADER_LINE, *rows]) + "\n")
    return path


def rows_of(events: pl.DataFrame) -> list[tuple]:
    return events.select("kind", "document", "reference", "amount_minor").rows()


def major(minor: int) -> str:
    return f"{minor // 100}.{minor % 100:02}"


def minor_of(text: str) -> int:
    return int(Decimal(text) * 100)


def batch_380() -> list[str]:
    """A batch with the published figures: 220 settled, 6 refunded (two with a fee), a fee of 38.10, a payout."""
    net_credits_minor = 5_643_852
    each, rest = divmod(net_credits_minor, 220)
    rows = []
    for number in range(220):
        net = each + (rest if number == 0 else 0)
        money = {"gross_credit": major(net + 12), "net_credit": major(net)}
        rows.append(settled(number, batch="380", **money))
    refunds_minor = net_credits_minor - 3_810 - 5_530_807
    each, rest = divmod(refunds_minor, 6)
    for number in range(6):
        net, fee = each + (rest if number == 0 else 0), 20 if number < 2 else 0
        money = {"gross_debit": major(net - fee), "net_debit": major(net), "commission": major(fee)}
        rows.append(row("Refunded", psp=f"88{number:04}", modification=f"99{number:04}", batch="380", **money))
    return [*rows, row("Fee", net_debit="38.10", batch="380"), payout("55308.07", batch="380")]


def test_adyen_batch_with_the_published_figures_ties(tmp_path: Path) -> None:
    """228 rows whose net credits are their net debits give a payout of 55,308.07 and members that sum to it."""
    source = opened(report(tmp_path, batch_380()))
    events = events_of(source)
    figures = source.total().figures
    assert (figures["transactions"], figures["payouts"], figures["net_minor"]) == (228, 1, 5_530_807)
    assert figures["credits_minor"] == figures["debits_minor"] == 5_643_852
    kinds = {kind: total[:2] for kind, total in source.total().by_kind().items()}
    assert kinds["card_settled"][0] == 220 and kinds["refund_paid"][0] == 6
    assert kinds["payout_paid"] == (1, 5_530_807)
    members = kinds["card_settled"][1] - kinds["refund_paid"][1] - kinds["card_fee_charged"][1]
    assert members == 5_530_807 and source.quarantined == []
    assert events["event_id"].n_unique() == events.height


def test_adyen_row_becomes_gross_and_fees(tmp_path: Path) -> None:
    """A settlement is its gross by the payment's reference, its four fees one event, on the day of the payout."""
    events = events_of(opened(report(tmp_path, [settled(), payout("4.88")])))
    assert rows_of(events) == [
        ("card_settled", "880001", "Hospital/7", 500),
        ("card_fee_charged", "880001", "Hospital/7", 12),
        ("payout_paid", "Hospital/7", None, 488),
    ]
    assert {str(day) for day in events["effective_on"]} == {"2026-10-04"}
    assert events["reason"].to_list() == ["Settled", "Settled", None]


def test_adyen_payout_is_named_as_the_bank_s_line_names_it(tmp_path: Path) -> None:
    """What the bank's text gives as the payout is what the settlement file calls it."""
    events = events_of(opened(report(tmp_path, batch_380())))
    assert events["document"].to_list()[-1] == PATTERNS.payout(["TX635094301XT batch 380, Hospital"])


TYPES = [  # type, cells, events of its row
    ("Refunded", {"gross_debit": "3.00", "net_debit": "3.20", "commission": "0.20"}, [("refund_paid", "99", 300)]),
    ("RefundedReversed", {"gross_credit": "3.00", "net_credit": "3.00"}, [("refund_returned", "99", 300)]),
    ("Chargeback", {"gross_debit": "349.99", "net_debit": "357.49", "commission": "7.5"}, []),
    ("SecondChargeback", {"gross_debit": "3.00", "net_debit": "3.00"}, [("chargeback_opened", "88/2", 300)]),
    ("ChargebackReversed", {"gross_credit": "3.00", "net_credit": "3.00"}, [("chargeback_won", "88", 300)]),
    ("MiscCosts", {"net_debit": "3.00"}, [("card_fee_charged", "88", 300)]),
    ("AuthorisationSchemeFee", {"net_debit": "3.00"}, [("card_fee_charged", "88", 300)]),
    ("InvoiceDeduction", {"net_debit": "3.00"}, [("card_fee_charged", "88", 300)]),
    ("DepositCorrection", {"net_debit": "3.00"}, [("reserve_held", "88", 300)]),
    ("DepositCorrection", {"net_credit": "3.00"}, [("reserve_released", "88", 300)]),
    ("InternalCompanyPayout", {"net_debit": "3.00"}, [("reserve_held", "88", 300)]),
]


@pytest.mark.parametrize(("kind", "cells", "expected"), TYPES)
def test_adyen_type_becomes_its_kinds(tmp_path: Path, kind: str, cells: dict, expected: list) -> None:
    """Each type has its kinds and the reference by which it is found, and counts in the batch as it says."""
    net_minor = sum(sign * minor_of(cells.get(name, "0")) for name, sign in (("net_credit", 1), ("net_debit", -1)))
    rows = [settled(gross_credit="500.12", net_credit="500.00"), row(kind, psp="88", modification="99", **cells)]
    events = events_of(opened(report(tmp_path, [*rows, payout(major(50_000 + net_minor))])))
    own = [row[:2] + row[3:] for row in rows_of(events)[2:-1]]
    fee = [("card_fee_charged", "99", 20)] if kind == "Refunded" else []
    dispute = [("chargeback_opened", "88", 34_999), ("chargeback_fee_charged", "88", 750)]
    assert own == (dispute if kind == "Chargeback" else expected + fee)
    assert rows_of(events)[-1] == ("payout_paid", "Hospital/7", None, 50_000 + net_minor)


@pytest.mark.parametrize("kind", ["BankInstructionReturned", "MatchedStatement", "ManualCorrected"])
def test_adyen_type_that_a_person_must_judge_sets_its_batch_aside(tmp_path: Path, kind: str) -> None:
    """Money whose meaning the type does not tell is never booked by itself."""
    rows = [settled(), row(kind, net_credit="1.00"), payout("5.88"), settled(batch="8"), payout("4.88", batch="8")]
    source = opened(report(tmp_path, rows))
    assert set(events_of(source)["reference"].drop_nulls()) == {"Hospital/8"}
    assert source.quarantined == [(1, 3, 8, "needs_review")]


def test_adyen_carried_forward_balance_has_no_payout(tmp_path: Path) -> None:
    """A batch whose balance the next one takes over closes with nothing to be paid; the next one pays for both."""
    first = [settled(), row("Balancetransfer", net_debit="4.88")]
    second = [row("Balancetransfer", net_credit="4.88", batch="8"), settled(2, batch="8"), payout("9.76", batch="8")]
    source = opened(report(tmp_path, [*first, *second]))
    events = events_of(source)
    assert source.total().figures["payouts"] == 1 and source.quarantined == []
    carried = events.filter(pl.col("reason") == "Balancetransfer")
    assert carried.select("kind", "reference", "amount_minor").rows() == [
        ("reserve_held", "Hospital/7", 488),
        ("reserve_released", "Hospital/8", 488),
    ]
    closed = events.filter(kind="payout_paid").select("document", "amount_minor", "reason").rows()
    assert closed == [("Hospital/7", 0, "carried_forward"), ("Hospital/8", 976, None)]


def test_adyen_batch_that_does_not_tie_is_set_aside_whole(tmp_path: Path) -> None:
    """A batch with a payout that its rows don't make up, or with none at all, has no events; the others go on."""
    rows = [
        *(settled(), payout("4.87")),
        settled(batch="8"),
        *(settled(batch="9"), payout("4.88", batch="9")),
    ]
    source = opened(report(tmp_path, rows))
    assert events_of(source).filter(kind="payout_paid")["document"].to_list() == ["Hospital/9"]
    assert source.quarantined == [(1, 3, 16, "payout_total"), (2, 4, 16, "payout_total")]


@pytest.mark.parametrize(
    ("bad", "place", "faults"),
    [
        (settled(2, markup="0.05"), (1, 3, 16, "row_total"), 0),
        (settled(2, net_credit="4,888"), (1, 3, 16, "wrong_type"), 1),
        (settled(2, zone="Nowhere/Atall"), (1, 3, 6, "wrong_type"), 1),
        (settled(2, created="2 October"), (1, 3, 6, "wrong_type"), 1),
        (row("Surprise", net_credit="4.88"), (1, 3, 8, "unmapped_category"), 0),
        (settled(2, currency="USD", gross_currency="USD"), (1, 4, 16, "mixed_currencies"), 0),
    ],
)
def test_adyen_bad_row_sets_its_batch_aside_alone(tmp_path: Path, bad: str, place: tuple, faults: int) -> None:
    """A row that is not to be booked sets its batch aside, by line and column; the next batch is booked."""
    rows = [settled(), bad, payout("9.76"), settled(batch="8"), payout("4.88", batch="8")]
    source = opened(report(tmp_path, rows))
    assert events_of(source).filter(kind="payout_paid")["document"].to_list() == ["Hospital/8"]
    assert source.quarantined == [place]
    assert len(source.faults) == faults


def test_adyen_merchant_accounts_number_their_batches_each_for_itself(tmp_path: Path) -> None:
    """The same batch number under two merchant accounts is two payouts."""
    rows = [settled(), settled(2, account="Clinic"), payout("4.88"), payout("4.88", account="Clinic")]
    events = events_of(opened(report(tmp_path, rows)))
    assert events.filter(kind="payout_paid")["document"].to_list() == ["Hospital/7", "Clinic/7"]


def test_adyen_foreign_gross_is_settled_in_the_payout_s_currency(tmp_path: Path) -> None:
    """Where the buyer paid in another currency, the amount is the net with its fees, as only that ties."""
    foreign = settled(gross_currency="JPY", gross_credit="812")
    events = events_of(opened(report(tmp_path, [foreign, payout("4.88")])))
    assert events.filter(kind="card_settled").select("amount_minor", "currency").row(0) == (500, "EUR")


@pytest.mark.parametrize(
    ("zone", "utc"),
    [
        ("CET", "2026-07-02T08:00:00"),
        ("PST", "2026-07-02T17:00:00"),
        ("Asia/Tokyo", "2026-07-02T01:00:00"),
        ("", "2026-07-02T10:00:00"),
    ],
)
def test_adyen_time_is_read_in_the_row_s_zone(tmp_path: Path, zone: str, utc: str) -> None:
    """Each row's local time counts in the zone that it names, summer time included."""
    rows = [settled(created="2026-07-02 10:00:00", zone=zone), payout("4.88")]
    events = events_of(opened(report(tmp_path, rows)))
    assert events["occurred_at"][0].isoformat() == f"{utc}+00:00"


def test_adyen_ragged_and_blank_lines_are_read(tmp_path: Path) -> None:
    """Rows that end early or have empty cells too many, and blank lines, change nothing; text too many is a fault."""
    ragged = settled().rstrip(",")
    rows = ["", ragged, ",,,", payout("4.88") + ",,,", ragged + "," * 3 + "surplus"]
    source = opened(report(tmp_path, rows))
    assert rows_of(events_of(source))[-1] == ("payout_paid", "Hospital/7", None, 488)
    assert [(fault.line, fault.code) for fault in source.faults] == [(6, "malformed")]


def test_adyen_decimal_commas_are_exact(tmp_path: Path) -> None:
    """Amounts with decimal commas are the same amounts."""
    money = {"gross_credit": "1.250,12", "net_credit": "1250,00", "markup": "0,04"}
    source = opened(report(tmp_path, [settled(**money), payout("1.250,00")]))
    assert rows_of(events_of(source))[0][3] == 125_012
    assert source.quarantined == []


def test_adyen_equal_rows_stay_apart_however_the_file_is_cut(tmp_path: Path) -> None:
    """Rows that look the same are two events, with ids that don't depend on the frames' size."""
    rows = [settled(), settled(), settled(2), payout("14.64")]
    whole, cut = opened(report(tmp_path, rows)), opened(report(tmp_path, rows), rows_max=1)
    frames = list(cut.frames())
    assert [frame.height for frame in frames] == [1] * 7
    assert pl.concat(frames).equals(events_of(whole))
    assert pl.concat(frames)["event_id"].n_unique() == 7


def test_adyen_file_without_a_column_or_key_is_refused(tmp_path: Path) -> None:
    """A header that lacks a column is refused by its name; without a token key nothing is read."""
    path = report(tmp_path, [])
    with pytest.raises(ConfigError, match="token_key"):
        list(Source(path, cards.FORMATS["adyen"], SourceSettings()).frames())
    path.write_text(path.read_text().replace("Batch Number", "Number"))
    with pytest.raises(FrameError, match="missing_column: batch number"):
        list(opened(path).frames())


def test_adyen_header_is_recognised_whatever_its_separator() -> None:
    """Its header is known with commas and semicolons, and no other table is taken for it."""
    assert cards.recognise(HEADER_LINE.encode()) == "adyen"
    assert cards.recognise(b"\xef\xbb\xbf" + ";".join(HEADER).encode()) == "adyen"
    assert cards.recognise(b"event_id,source,kind") == ""
    assert set(adyen.FORM.categories) >= {kind for kind, *_ in TYPES}


def test_adyen_people_and_references_stay_inside(tmp_path: Path) -> None:
    """Merchant references leave as tokens; texts and card numbers where an id should be do not leave at all."""
    canaries = ("Zoe Canary", "MRN-77", "4111111111111111", "4111 1111")
    rows = [
        settled(reference="MRN-77", modification="Zoe Canary"),
        row("Fee", psp="4111 1111 1111 1111", modification="Zoe Canary", net_debit="1.00"),
        payout("3.88"),
        settled(2, created="Zoe Canary", batch="8"),
        settled(3, batch="Zoe Canary"),
    ]
    source = opened(report(tmp_path, rows))
    events = events_of(source)
    held = f"{events.rows()} {source.faults} {source.quarantined} {source.total()}"
    assert events["correlation_id"].drop_nulls().str.contains(r"^[0-9a-f]{16}$").all()
    assert events.height == 4 and len(source.faults) == 2
    assert not [canary for canary in canaries if canary in held]
