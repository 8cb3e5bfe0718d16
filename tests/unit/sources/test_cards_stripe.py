"""Stripe's itemised reports: rows into events, payouts that tie and payouts that don't, and what stays inside."""

import json
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pytest

from adapters.sources import cards
from adapters.sources.cards import kinds, stripe
from adapters.sources.source import Source, SourceSettings
from runtime.errors import ConfigError, FrameError
from runtime.schema import COLUMNS

# How each kind counts in its payout; the opposite direction is a negative amount of the same kind.
SIGNS = {
    "card_settled": 1,
    "card_fee_charged": -1,
    "refund_paid": -1,
    "refund_returned": 1,
    "chargeback_opened": -1,
    "chargeback_fee_charged": -1,
    "chargeback_won": 1,
    "reserve_held": -1,
    "reserve_released": 1,
}
HEADER = (
    "automatic_payout_id,automatic_payout_effective_at_utc,balance_transaction_id,created_utc,currency,gross,fee,net,"
    "reporting_category,source_id,charge_id,payment_intent_id,description,dispute_reason,trace_id,payment_metadata[mrn]"
)
PUBLISHED_PAYOUT = "po_1Nzr7YKh5QAlWt1CBKvGMVAL"


def opened(path: Path, **settings: object) -> Source:
    return Source(path, cards.FORMATS["stripe"], SourceSettings(entity="hospital", **settings))


def events_of(source: Source) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=COLUMNS), *source.frames()])


def row(number: int, gross: str, fee: str, net: str, category: str = "charge", **more: str) -> str:
    payout = more.get("payout", "po_1")
    paid_at = "2026-10-05 00:00:00" if payout else ""
    ids = [more.get(name, "") for name in ("source_id", "charge_id", "intent_id")]
    texts = [more.get(name, "") for name in ("description", "dispute_reason", "trace", "metadata")]
    money = [f'"{cell}"' for cell in (gross, fee, net)]
    when = f"2026-10-02 10:00:{number:02}"
    cells = [payout, paid_at, f"txn_{number}", when, more.get("currency", "usd"), *money, category, *ids, *texts]
    return ",".join(cells)


def report(tmp_path: Path, rows: Iterable[str], header: str = HEADER) -> Path:
    path = tmp_path / "report.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def payout_sums(events: pl.DataFrame) -> dict[str, int]:
    """What each payout's members sum to, by hand."""
    sums: dict[str, int] = {}
    for kind, reference, minor in events.select("kind", "reference", "amount_minor").iter_rows():
        if kind != "payout_paid":
            sums[reference] = sums.get(reference, 0) + SIGNS[kind] * minor
    return sums


def payouts(events: pl.DataFrame) -> dict[str, int]:
    return dict(events.filter(kind="payout_paid").select("document", "amount_minor").iter_rows())


def test_stripe_published_report_ties_and_leaves_the_rest_open(shared_data) -> None:
    """The published report: one payout of 593.04 with its reserves, and 98.15 that no payout has yet."""
    path = shared_data("stripe/stripe_itemized_balance_2023.csv")
    source = opened(path)
    events = events_of(source)
    figures = source.total().figures
    assert (figures["transactions"], figures["payouts"], figures["net_minor"]) == (12, 1, 59_304)
    assert (figures["unsettled"], figures["unsettled_minor"]) == (3, 9_815)
    assert {kind: total[:2] for kind, total in source.total().by_kind().items()} == {
        "card_settled": (3, 51_595),
        "card_fee_charged": (3, 1_673),
        "reserve_held": (1, 2_375),
        "reserve_released": (5, 11_757),
        "payout_paid": (1, 59_304),
    }
    assert payout_sums(events) == payouts(events) == {PUBLISHED_PAYOUT: 59_304}
    assert source.quarantined == [] and source.faults == []
    assert cards.recognise(path.read_bytes()[:4096]) == "stripe"


def test_stripe_published_reports_of_another_processor_are_not_taken_for_one(shared_data) -> None:
    """Reports of a processor that is not supported are not recognised, and refused when they are forced."""
    for name in ("sumup_csv_example_format2_20250324.csv", "sumup_csv_example_format2_20251014.csv"):
        path = shared_data(f"card_other/{name}")
        assert cards.recognise(path.read_bytes()[:4096]) == ""
        with pytest.raises(FrameError, match="missing_column"):
            list(opened(path).frames())


def test_stripe_charge_becomes_settlement_and_fee(tmp_path: Path) -> None:
    """A charge is settled gross by its charge id, its fee apart, both on the payout's day; the payout is their net."""
    ids = {"source_id": "ch_1", "charge_id": "ch_1", "intent_id": "pi_1", "trace": "91000012345"}
    events = events_of(opened(report(tmp_path, [row(1, "250.00", "7.55", "242.45", **ids)])))
    settled, fee, payout = events.to_dicts()
    assert (settled["kind"], settled["amount_minor"], settled["currency"]) == ("card_settled", 25_000, "USD")
    assert (settled["document"], settled["reference"], settled["correlation_id"]) == ("ch_1", "po_1", "pi_1")
    assert (fee["kind"], fee["amount_minor"], fee["document"]) == ("card_fee_charged", 755, "ch_1")
    assert (payout["kind"], payout["amount_minor"], payout["document"]) == ("payout_paid", 24_245, "po_1")
    assert payout["correlation_id"] == "91000012345"
    assert settled["occurred_at"].isoformat() == "2026-10-02T10:00:01+00:00"
    assert {str(day) for day in events["effective_on"]} == {"2026-10-05"}
    assert events["source"].unique().to_list() == ["stripe"]


CATEGORIES = [  # category, gross, fee, net, the events of its row
    ("charge", "100.00", "3.20", "96.80", [("card_settled", 10_000), ("card_fee_charged", 320)]),
    ("payment", "100.00", "0.80", "99.20", [("card_settled", 10_000), ("card_fee_charged", 80)]),
    ("charge_failure", "-100.00", "-3.20", "-96.80", [("card_settled", -10_000), ("card_fee_charged", -320)]),
    ("partial_capture_reversal", "-20.00", "0.00", "-20.00", [("card_settled", -2_000)]),
    ("refund", "-30.00", "0.00", "-30.00", [("refund_paid", 3_000)]),
    ("refund", "-30.00", "-1.00", "-29.00", [("refund_paid", 3_000), ("card_fee_charged", -100)]),
    ("refund_failure", "30.00", "0.00", "30.00", [("refund_returned", 3_000)]),
    ("dispute", "-250.00", "15.00", "-265.00", [("chargeback_opened", 25_000), ("chargeback_fee_charged", 1_500)]),
    ("dispute_reversal", "250.00", "0.00", "250.00", [("chargeback_won", 25_000)]),
    (
        "dispute_reversal",
        "250.00",
        "-15.00",
        "265.00",
        [("chargeback_won", 25_000), ("chargeback_fee_charged", -1_500)],
    ),
    ("fee", "-5.00", "0.00", "-5.00", [("card_fee_charged", 500)]),
    ("network_cost", "-5.00", "0.00", "-5.00", [("card_fee_charged", 500)]),
    ("risk_reserved_funds", "-60.00", "0.00", "-60.00", [("reserve_held", 6_000)]),
    ("risk_reserved_funds", "60.00", "0.00", "60.00", [("reserve_released", 6_000)]),
]


@pytest.mark.parametrize(("category", "gross", "fee", "net", "expected"), CATEGORIES)
def test_stripe_category_becomes_its_kinds(
    tmp_path: Path, category: str, gross: str, fee: str, net: str, expected: list
) -> None:
    """Each category has its kinds, money the other way a negative amount, and the payout is what they sum to."""
    events = events_of(opened(report(tmp_path, [row(1, gross, fee, net, category)])))
    rows = events.filter(pl.col("kind") != "payout_paid").select("kind", "amount_minor").rows()
    assert rows == expected
    assert payouts(events) == payout_sums(events) == {"po_1": int(net.replace(".", ""))}


def test_stripe_dispute_and_its_reversal_meet_by_the_dispute(tmp_path: Path) -> None:
    """A dispute makes a payout negative; won, it is found again by the dispute's own id, whatever its charge."""
    lost = row(
        1, "-250.00", "15.00", "-265.00", "dispute", source_id="du_1", charge_id="ch_1", dispute_reason="fraudulent"
    )
    won = row(2, "250.00", "0.00", "250.00", "dispute_reversal", payout="po_2", source_id="du_1", charge_id="ch_1")
    events = events_of(opened(report(tmp_path, [lost, won])))
    disputes = events.filter(pl.col("kind").str.starts_with("chargeback"))
    assert set(disputes["document"]) == {"du_1"}
    assert events.filter(kind="chargeback_opened")["reason"].to_list() == ["fraudulent"]
    assert payouts(events) == {"po_1": -26_500, "po_2": 25_000}


def test_stripe_published_api_objects_keep_the_rules_of_the_report(shared_data, tmp_path: Path) -> None:
    """The API's own dispute and balance transaction, written as report rows, give the amounts that they state."""
    objects = json.loads(shared_data("stripe/stripe_api_fixtures3.json").read_text())["resources"]
    dispute, moved = objects["dispute"], objects["balance_transaction"]
    lost_minor, fee_minor = dispute["amount"], 1_500
    major = [f"{minor / 100:.2f}" for minor in (-lost_minor, fee_minor, -lost_minor - fee_minor)]
    charged = [f"{moved[name] / 100:.2f}" for name in ("amount", "fee", "net")]
    rows = [
        row(1, *major, "dispute", source_id=dispute["id"], charge_id=dispute["charge"], currency=dispute["currency"]),
        row(2, *charged, moved["reporting_category"], source_id=moved["source"], currency=moved["currency"]),
    ]
    events = events_of(opened(report(tmp_path, rows)))
    (opening,) = events.filter(kind="chargeback_opened").to_dicts()
    (settled,) = events.filter(kind="card_settled").to_dicts()
    assert (opening["document"], opening["amount_minor"]) == (dispute["id"], lost_minor)
    assert (settled["document"], settled["amount_minor"]) == (moved["source"], moved["net"])
    assert payouts(events) == {"po_1": moved["net"] - lost_minor - fee_minor}


def test_stripe_payout_that_its_rows_don_t_make_up_is_set_aside_whole(tmp_path: Path) -> None:
    """Where a row states the payout, the others must sum to it; another payout in the same file goes on."""
    rows = [
        row(1, "10.00", "0.00", "10.00"),
        row(2, "-9.99", "0.00", "-9.99", "payout"),
        row(3, "7.00", "1.00", "6.00", payout="po_2"),
        row(4, "-6.00", "0.00", "-6.00", "payout", payout="po_2"),
    ]
    source = opened(report(tmp_path, rows))
    events = events_of(source)
    assert set(events["reference"].drop_nulls()) == {"po_2"} and payouts(events) == {"po_2": 600}
    assert source.quarantined == [(1, 3, 8, "payout_total")]
    assert source.total().figures["net_minor"] == 999 + 600


@pytest.mark.parametrize(
    ("bad", "place", "faults"),
    [
        (row(2, "10.00", "1.00", "9.01"), (1, 3, 8, "row_total"), 0),
        (row(2, "10.001", "0.00", "10.001"), (1, 3, 6, "wrong_type"), 1),
        (row(2, "ten", "0.00", "10.00"), (1, 3, 6, "wrong_type"), 1),
        (row(2, "10.00", "0.00", "10.00", "climate_order"), (1, 3, 9, "unmapped_category"), 0),
        (row(2, "10.00", "0.00", "10.00", "other_adjustment"), (1, 3, 9, "needs_review"), 0),
        (row(2, "-9.00", "1.00", "-10.00", "payout"), (1, 3, 9, "payout_fee"), 0),
        (row(2, "10.00", "0.00", "10.00", currency="eur"), (1, 3, 8, "mixed_currencies"), 0),
        (row(1, "10.00", "0.00", "10.00"), (1, 2, 0, "repeated_row"), 0),
        (row(2, "10.00", "0.00", "10.00").replace("2026-10-02", "yesterday"), (1, 3, 4, "wrong_type"), 1),
    ],
)
def test_stripe_bad_row_sets_its_payout_aside_alone(tmp_path: Path, bad: str, place: tuple, faults: int) -> None:
    """A row that is not to be booked sets its payout aside, by line and column; the next payout is booked."""
    rows = [row(1, "10.00", "0.00", "10.00"), bad, row(9, "5.00", "0.00", "5.00", payout="po_2")]
    source = opened(report(tmp_path, rows))
    assert payouts(events_of(source)) == {"po_2": 500}
    assert source.quarantined == [place]
    assert len(source.faults) == faults


def test_stripe_row_of_nobody_knows_which_payout_leaves_no_sum_certain(tmp_path: Path) -> None:
    """A row that can't be cut may have been any payout's: those whose amount is only a sum are set aside."""
    rows = [
        row(1, "10.00", "0.00", "10.00"),
        'po_1,2026-10-05 00:00:00,"txn_2"broken,,,,,',
        row(3, "7.00", "1.00", "6.00", payout="po_2"),
        row(4, "-6.00", "0.00", "-6.00", "payout", payout="po_2"),
    ]
    source = opened(report(tmp_path, rows))
    assert payouts(events_of(source)) == {"po_2": 600}
    assert [(place.transaction, place.code) for place in source.quarantined] == [(1, "unreadable_row")]
    assert [fault.line for fault in source.faults] == [3]


def test_stripe_bad_row_of_no_payout_harms_none(tmp_path: Path) -> None:
    """A row that no payout has yet makes no event, and when it can't be read it is a fault of its own."""
    rows = [row(1, "10.00", "0.00", "10.00"), row(2, "x", "0", "0", payout=""), row(3, "1.00", "0", "1.00", payout="")]
    source = opened(report(tmp_path, rows))
    assert payouts(events_of(source)) == {"po_1": 1_000}
    assert (len(source.faults), source.quarantined, source.total().figures["unsettled_minor"]) == (1, [], 100)


def test_stripe_decimal_commas_and_currencies_without_decimals_are_exact(tmp_path: Path) -> None:
    """Reports may be made with decimal commas; minor units are those of each currency."""
    rows = [
        row(1, "1.250,50", "0,50", "1250,00"),
        row(2, "500", "20", "480", payout="po_2", currency="jpy"),
        row(3, "1,234.50", "0.00", "1234.50", payout="po_3"),
    ]
    assert payouts(events_of(opened(report(tmp_path, rows)))) == {"po_1": 125_000, "po_2": 480, "po_3": 123_450}


def test_stripe_columns_are_found_by_name_and_optional_ones_may_lack(tmp_path: Path) -> None:
    """The older header, in another order and with semicolons, gives the same amounts."""
    header = "net;fee;gross;reporting_category;currency;created;balance_transaction_id;automatic_payout_id"
    source = opened(report(tmp_path, ["9,00;1,00;10,00;charge;eur;2026-10-02 10:00:00;txn_1;po_1"], header))
    events = events_of(source)
    assert events["document"].to_list() == ["txn_1", "txn_1", "po_1"]
    assert payouts(events) == {"po_1": 900}


def test_stripe_events_are_the_same_however_the_file_is_cut(tmp_path: Path) -> None:
    """The size of frames changes no event, no payout and no place."""
    rows = [row(n, "10.00", "1.00", "9.00", payout=f"po_{n % 3}") for n in range(1, 20)]
    rows += [row(30, "1.00", "0.00", "2.00", payout="po_1")]
    whole, cut = opened(report(tmp_path, rows)), opened(report(tmp_path, rows), rows_max=2)
    frames = list(cut.frames())
    assert max(frame.height for frame in frames) <= 2
    assert pl.concat(frames).equals(events_of(whole))
    assert cut.quarantined == whole.quarantined == [(1, 21, 8, "row_total")]
    assert cut.total() == whole.total()


def test_stripe_file_without_a_column_is_refused(tmp_path: Path) -> None:
    """A header that lacks a column is refused by the column's name."""
    with pytest.raises(FrameError, match="missing_column: net"):
        list(opened(report(tmp_path, [], HEADER.replace(",net,", ",brutto,"))).frames())


def test_stripe_names_descriptors_and_metadata_stay_inside(tmp_path: Path) -> None:
    """Descriptions, metadata and what is no id where an id should be are in no event, fault or quarantine."""
    canaries = ("Zoe Canary", "zoe@canary.example", "MRN-77", "4111111111111111")
    private = {"description": "Zoe Canary zoe@canary.example", "metadata": "MRN-77"}
    rows = [
        row(1, "10.00", "0.00", "10.00", source_id="Zoe Canary", charge_id="zoe@canary.example", **private),
        row(2, "-5.00", "0.00", "-5.00", "dispute", payout="po_2", dispute_reason="Zoe Canary", **private),
        row(3, "Zoe Canary", "0.00", "1.00", payout="po_3", **private),
        row(4, "1.00", "0.00", "1.00", "Zoe Canary", payout="po_4", trace="4111 1111 1111 1111", **private),
    ]
    source = opened(report(tmp_path, rows))
    events = events_of(source)
    held = f"{events.rows()} {source.faults} {source.quarantined} {source.total()}"
    assert set(payouts(events)) == {"po_1", "po_2"} and len(source.faults) == 2
    assert not [canary for canary in canaries if canary in held]


def test_stripe_table_of_categories_is_checked_when_it_is_loaded(tmp_path: Path) -> None:
    """A category that does not say what it is, is refused by its name."""
    table = tmp_path / "kinds.toml"
    table.write_text('[stripe.charge]\nkind = "card_settled"\n')
    with pytest.raises(ConfigError, match=r"stripe\.charge"):
        kinds.load("stripe", table)
    assert set(stripe.FORM.categories) >= {category for category, *_ in CATEGORIES}
