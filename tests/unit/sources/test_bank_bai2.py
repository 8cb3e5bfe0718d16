"""BAI2 files: records however they are wrapped, control sums and counts, type codes, traces in text."""

from pathlib import Path

import polars as pl
import pytest

from adapters.sources import bank
from adapters.sources.bank import patterns
from adapters.sources.source import Source, SourceSettings
from runtime.errors import ConfigError, FrameError
from runtime.schema import COLUMNS

KEY = b"a key for the tests"


def opened(path: Path, **settings: object) -> Source:
    return Source(path, bank.FORMATS["bai2"], SourceSettings(token_key=KEY, entity="hospital", **settings))


def events_of(source: Source) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=COLUMNS), *source.frames()])


def account(*records: str, total_minor: int, name: str = "123", counted: int | None = None) -> list[str]:
    """An account with its trailer; every record is one of the format's."""
    return [f"03,{name},USD,,,,/", *records, f"49,{total_minor},{counted or len(records) + 2}/"]


def file(tmp_path: Path, *accounts: list[str], group: str = "02,H,B,1,261001,2359,USD,2/", **said: int) -> Path:
    """One group of these accounts; `said` overrides what the trailers say."""
    records = [record for part in accounts for record in part]
    total = said.get("total", sum(int(part[-1].split(",")[1]) for part in accounts))
    lines = [
        "01,BANK,H,261002,0600,1,,,2/",
        group,
        *records,
        f"98,{total},{said.get('parts', len(accounts))},{len(records) + 2}/",
        f"99,{total},1,{said.get('records', len(records) + 4)}/",
    ]
    path = tmp_path / "file.bai"
    path.write_text("\n".join(lines))
    return path


PUBLISHED = {  # accounts, transactions, credits, debits, opening, closing, what is set aside, events
    "moj_citi_example.bai2": (1, 1, 1, 0, 10_000, 10_000, [], 1),
    "moj_svb_us_example.bai2": (2, 2, 1_395_996, 0, 69_944_154, 71_340_150, [], 2),
    "moov_sample1.txt": (2, 17, 320_000, 320_000, None, None, [], 17),
    "moov_sample2.txt": (5, 4, 30_950_000, 0, 15_150_000, None, [(5, 27, 1, "group_status")], 4),
    "moov_sample3.txt": (15, 26, 39_713, 59_418, 587_397, 567_692, [], 26),
    "moov_sample4-continuations-newline-delimited.txt": (
        *(5, 17, 600_731, 31_349_055, 159_581_194, 159_381_194),
        [
            (2, 22, 2, "control_total"),
            (2, 22, 3, "record_count"),
            (3, 110, 2, "control_total"),
            (3, 110, 3, "record_count"),
            (0, 115, 2, "control_total"),
            (0, 115, 3, "part_count"),
            (0, 115, 4, "record_count"),
            (0, 116, 4, "record_count"),
        ],
        0,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_bai2_published_file_gives_its_figures(shared_data, name: str) -> None:
    """Each published file gives its counts and sums, and says which of its own totals do not hold."""
    path = shared_data(f"bai2/{name}")
    accounts, transactions, credits_minor, debits_minor, opening, closing, set_aside, events = PUBLISHED[name]
    source = opened(path)
    assert events_of(source).height == events
    figures = source.total().figures
    assert (figures["statements"], figures["transactions"]) == (accounts, transactions)
    assert (figures["credits_minor"], figures["debits_minor"]) == (credits_minor, debits_minor)
    assert (figures.get("opening_minor"), figures.get("closing_minor")) == (opening, closing)
    assert source.quarantined == set_aside and source.faults == []
    assert bank.recognise(path.read_bytes()[:4096]) == "bai2"


def test_bai2_published_file_with_broken_header_is_refused(shared_data) -> None:
    """The published malformed header is not recognised, and reading it is refused at its line."""
    path = shared_data("bai2/moov_sample-parseError.txt")
    assert bank.recognise(path.read_bytes()) == ""
    with pytest.raises(FrameError, match="line 1: not a BAI2 file header"):
        list(opened(path).frames())


@pytest.mark.parametrize(
    "records",
    [
        ["16,142,54000,,BR1,CR1,TRN*1*0012345678*1512345678/"],
        ["16,142,54000,,BR1,CR1,HCCLAIMPMT", "88,TRN*1*0012345678*1512345678"],
        ["16,142,54000,,BR1,CR1,/", "88,TRN*1*00123456", "88,78*1512345678/"],
        ["16,142,54000,V,261001,,BR1,CR1,PAYMENT/", "88,ORIG TRN*1*0012345678*15123", "88,45678"],
        ["16,142,54000,S,54000,0,0,BR1,CR1,TRN|1|0012345678|1512345678\\/"],
        ["16,142,54000,D,2,0,50000,1,4000,BR1,CR1,TRN*1*0012345678*1512345678/"],
    ],
)
def test_bai2_trace_is_found_wherever_text_is_broken(tmp_path: Path, records: list[str]) -> None:
    """An EFT is known by the TRN in its text or continuations, also where a line break runs through it."""
    path = file(tmp_path, account(*records, total_minor=54_000))
    (event,) = events_of(opened(path)).to_dicts()
    assert (event["kind"], event["reference"], event["counterparty"]) == ("eft_received", "0012345678", "1512345678")
    assert (event["document"], event["amount_minor"], event["reason"]) == ("BR1", 54_000, "142")


def test_bai2_claim_payment_without_trace_names_its_payer(tmp_path: Path) -> None:
    """A credit that says HCCLAIMPMT is an EFT without a trace, by the company id that the text names."""
    record = "16,165,100,,BR1,,ORIG CO NAME:PAYER ORIG ID:1411289245 ENTRY DESCR:HCCLAIMPMT/"
    (event,) = events_of(opened(file(tmp_path, account(record, total_minor=100)))).to_dicts()
    assert (event["kind"], event["reference"], event["counterparty"]) == ("untraced_eft_received", None, "1411289245")


def test_bai2_debit_with_a_trace_is_what_a_payer_takes_back(tmp_path: Path) -> None:
    """A debit with a remittance's trace is a negative EFT; one that says HCCLAIMPMT alone is a debit like any other."""
    taken = account("16,455,20000,,BR1,,HCCLAIMPMT/", "88,TRN*1*T7*1512345678/", total_minor=20_000)
    other = account("16,455,300,,BR2,,HCCLAIMPMT/", total_minor=300)
    events = events_of(opened(file(tmp_path, taken, other)))
    assert events.select("kind", "reference", "counterparty", "amount_minor").rows() == [
        ("eft_received", "T7", "1512345678", -20_000),
        ("bank_debit_made", None, None, 300),
    ]


def test_bai2_check_paid_clears_the_payment_of_its_number(tmp_path: Path) -> None:
    """A check paid answers the payment that its customer reference names; without a number it is a debit."""
    records = ["16,475,1000,,BR1,0004711,CHECK PAID/", "16,475,5,,BR2,,/", "16,475,6,,BR3,0000000,/"]
    events = events_of(opened(file(tmp_path, account(*records, total_minor=1011))))
    assert events.select("kind", "document", "reference", "amount_minor").rows() == [
        ("payment_cleared", "BR1", "0004711", 1000),
        ("bank_debit_made", "BR2", None, 5),
        ("bank_debit_made", "BR3", "0000000", 6),
    ]


def test_bai2_lockbox_deposit_is_named_by_its_number(tmp_path: Path) -> None:
    """A lockbox deposit is named by its customer reference, as a feed of checks does; without one it is money in."""
    records = ["16,115,35000,,BR1,BOX1,/", "16,115,5,,BR2,,/", "16,175,7,,BR3,BOX3,/"]
    events = events_of(opened(file(tmp_path, account(*records, total_minor=35_012))))
    assert events.select("kind", "document").rows() == [
        ("lockbox_deposited", "BOX1"),
        ("bank_credit_received", "BR2"),
        ("bank_credit_received", "BR3"),
    ]


def test_bai2_value_date_and_currency_are_the_record_s_own(tmp_path: Path) -> None:
    """The value date of a funds type V becomes the accounting date; the account's currency wins over the group's."""
    records = ["03,9,CAD,/", "16,195,500,V,261003,,BR1,CR1,/", "16,495,200,,BR2,,/", "49,700,4/"]
    events = events_of(opened(file(tmp_path, records)))
    assert [str(day) for day in events["effective_on"]] == ["2026-10-03", "2026-10-01"]
    assert events["kind"].to_list() == ["bank_credit_received", "bank_debit_made"]
    assert set(events["currency"]) == {"CAD"}
    assert events["reference"].to_list() == ["CR1", None]


def test_bai2_count_of_days_that_is_none_ends_nothing(tmp_path: Path) -> None:
    """A number of thousands of digits in the place of a count is read as no count."""
    records = ["03,9,USD,/", f"16,195,500,D,{'9' * 5_000}/", "49,500,3/"]
    assert events_of(opened(file(tmp_path, records)))["amount_minor"].to_list() == [500]


@pytest.mark.parametrize(
    ("total_minor", "counted", "place"),
    [(101, None, (1, 5, 2, "control_total")), (100, 9, (1, 5, 3, "record_count"))],
)
def test_bai2_account_that_does_not_tie_is_set_aside_whole(
    tmp_path: Path, total_minor: int, counted: int | None, place: tuple
) -> None:
    """An account whose trailer is wrong is quarantined at its trailer's field; the next account goes on."""
    wrong = account("16,142,100,,BR1,,/", total_minor=total_minor, counted=counted)
    right = account("16,142,7,,BR2,,/", total_minor=7)
    source = opened(file(tmp_path, wrong, right))
    assert events_of(source)["document"].to_list() == ["BR2"]
    assert source.quarantined == [place]
    assert source.total().figures["credits_minor"] == 107


@pytest.mark.parametrize(
    ("said", "places"),
    [
        ({"total": 8}, [(0, 6, 2, "control_total")]),
        ({"parts": 3}, [(0, 6, 3, "part_count")]),
        ({"records": 99}, [(0, 7, 4, "record_count")]),
    ],
)
def test_bai2_envelope_that_does_not_tie_is_told_and_accounts_go_on(tmp_path: Path, said: dict, places: list) -> None:
    """A group's or the file's trailer that is wrong is a fault of the envelope; an account that ties is booked."""
    source = opened(file(tmp_path, account("16,142,7,,BR1,,/", total_minor=7), **said))
    assert events_of(source).height == 1
    assert source.quarantined == places


def test_bai2_file_that_ends_early_keeps_what_has_ended(tmp_path: Path) -> None:
    """An account without its trailer proves nothing and is set aside; the one before it is booked."""
    whole = file(tmp_path, account("16,142,7,,BR1,,/", total_minor=7), account("16,142,8,,BR2,,/", total_minor=8))
    lines = whole.read_text().splitlines()
    whole.write_text("\n".join(lines[: lines.index("16,142,8,,BR2,,/") + 1]))
    source = opened(whole)
    assert events_of(source)["document"].to_list() == ["BR1"]
    assert [(place.transaction, place.code) for place in source.quarantined] == [
        (2, "missing_trailer"),
        (0, "missing_trailer"),
        (0, "missing_trailer"),
    ]


def test_bai2_record_without_end_is_refused(tmp_path: Path) -> None:
    """Continuations count like the text before them: no record is kept that is longer than a record may be."""
    path = file(tmp_path, account("16,142,7,,BR1,,/", *["88," + "x" * 60_000] * 20, total_minor=7))
    with pytest.raises(FrameError, match="too_long: line 22"):
        list(opened(path).frames())


def test_bai2_group_that_is_no_update_needs_a_person(tmp_path: Path) -> None:
    """Deletions, corrections and tests are never booked as new money."""
    for status in "234":
        path = file(tmp_path, account("16,142,7,,B,,/", total_minor=7), group=f"02,H,B,{status},261001,,USD,/")
        source = opened(path)
        assert events_of(source).is_empty()
        assert [place.code for place in source.quarantined] == ["group_status"]


def test_bai2_unknown_type_is_a_fault_of_its_record_alone(tmp_path: Path) -> None:
    """A type code that no table knows is a fault at its line; one without money is passed over; the rest goes on."""
    records = ["16,951,5,,B1,,/", "16,890,0,,B2,,/", "16,142,7,,B3,,/"]
    source = opened(file(tmp_path, account(*records, total_minor=12)))
    assert events_of(source)["document"].to_list() == ["B3"]
    assert [(fault.line, fault.code) for fault in source.faults] == [(4, "unknown_type")]


@pytest.mark.parametrize("record", ["16,142,1.00,,B,,/", "16,ACH,100,,B,,/", "16,142,,BAD,/ 16,14/"])
def test_bai2_record_that_can_t_be_read_sets_its_account_aside(tmp_path: Path, record: str) -> None:
    """An amount with a decimal point or a type that is no code leaves the account without a sum."""
    source = opened(file(tmp_path, account(record, total_minor=100)))
    assert events_of(source).is_empty()
    assert source.quarantined[0].transaction == 1


def test_bai2_amount_beyond_all_scale_sets_its_account_aside(tmp_path: Path) -> None:
    """An amount that could make sums overflow is no money: its account is quarantined, the next one goes on."""
    huge = 10**17
    source = opened(
        file(
            tmp_path,
            account(f"16,142,{huge},,B1,,/", total_minor=huge),
            account("16,142,7,,B2,,/", total_minor=7),
        )
    )
    assert events_of(source)["document"].to_list() == ["B2"]
    assert source.quarantined == [(1, 0, 0, "amount_limit")]


@pytest.mark.parametrize(
    "head", [b"", b"event_id,source\n", b"ISA*00*", b"01,only one field", b'{"a": 1}', b"<Invoice/>"]
)
def test_bai2_other_files_are_not_taken_for_a_bank_s(head: bytes) -> None:
    """What is no bank format is recognised as none."""
    assert bank.recognise(head) == ""


def test_bai2_bank_s_own_codes_win_over_the_ranges(tmp_path: Path) -> None:
    """A table may give single banks codes of their own; other banks keep the specification's ranges."""
    table = tmp_path / "patterns.toml"
    own = '[bai2.bank."BANK"]\ncredit = ["951"]\ndebit = ["142"]\nsilent = ["195"]\n'
    table.write_text(patterns.TABLE.read_text() + own)
    types = patterns.load(table).types
    assert [types.direction("BANK", code) for code in ("951", "142", "195", "475")] == [1, -1, 0, -1]
    assert [types.direction("OTHER", code) for code in ("951", "142", "195", "890")] == [None, 1, 1, 0]


def test_bai2_bank_s_own_codes_may_be_lockboxes_and_checks(tmp_path: Path) -> None:
    """A bank's own codes say what is a lockbox or a check there, and what is none although others have it so."""
    table = tmp_path / "patterns.toml"
    own = '[bai2.bank."BANK"]\nlockbox = ["175"]\ncheck_paid = ["951"]\ndebit = ["475"]\n'
    table.write_text(patterns.TABLE.read_text() + own)
    types = patterns.load(table).types
    codes = ("175", "951", "475", "115", "195")
    assert [types.meant("BANK", code) for code in codes] == ["lockbox", "check_paid", "", "lockbox", ""]
    assert [types.meant("OTHER", code) for code in codes] == ["", "", "check_paid", "lockbox", ""]
    assert [types.direction("BANK", code) for code in codes] == [1, -1, -1, 1, 1]


def test_bai2_table_that_is_broken_names_the_fault(tmp_path: Path) -> None:
    """A pattern table without a part, or with a pattern that is none, is refused when it is loaded."""
    table = tmp_path / "patterns.toml"
    table.write_text(patterns.TABLE.read_text().replace("[bai2]", "[bai3]"))
    with pytest.raises(ConfigError, match=r"patterns\.toml: KeyError"):
        patterns.load(table)


def test_bai2_equal_movements_stay_apart_however_the_file_is_cut(tmp_path: Path) -> None:
    """Movements without a reference that look the same keep ids of their own, in every reading."""
    path = file(tmp_path, account(*["16,142,5,,,,/"] * 3, total_minor=15), account("16,142,5,,,,/", total_minor=5))
    whole, cut = events_of(opened(path)), events_of(opened(path, rows_max=1))
    assert whole["event_id"].n_unique() == 4
    assert cut.equals(whole)


def test_bai2_same_movement_in_a_later_file_is_the_same_event(tmp_path: Path) -> None:
    """Intraday and prior-day files tell of a movement under one id, by the bank's reference."""
    first = events_of(opened(file(tmp_path, account("16,142,5,,B1,,/", total_minor=5))))
    later = file(tmp_path, account("16,142,9,,B0,,/", "16,142,5,,B1,,/", total_minor=14), parts=1)
    assert events_of(opened(later)).filter(document="B1").equals(first)


def test_bai2_names_and_text_stay_inside(tmp_path: Path) -> None:
    """Free text, names and account numbers are in no event, fault or quarantine."""
    canaries = ("Zoe Canary", "knee surgery", "987654321012")
    records = ["16,165,100,,BR1,,Zoe Canary knee surgery/", "88,PAYER: Zoe Canary", "16,951,1,,B,,Zoe Canary/"]
    bad = account("16,142,Zoe Canary,,,,/", total_minor=1)
    source = opened(file(tmp_path, account(*records, total_minor=101, name="987654321012"), bad))
    events = events_of(source)
    held = f"{events.rows()} {source.faults} {source.quarantined} {source.total()}"
    assert events.height == 1 and source.faults and source.quarantined
    assert not [canary for canary in canaries if canary in held]
