"""NACHA files: claim payments with their traces, control totals, returns and what moves no money.

No CCD+ file with claim payments is published anywhere, so these are made here, after the layout of CORE rule 370.
"""

from pathlib import Path

import polars as pl
import pytest

from adapters.sources import bank
from adapters.sources.source import Source, SourceSettings
from runtime.errors import FrameError
from runtime.schema import COLUMNS

KEY = b"a key for the tests"
BANK = 23138010
PAYER = "1512345678"


def opened(path: Path, **settings: object) -> Source:
    return Source(path, bank.FORMATS["nacha"], SourceSettings(token_key=KEY, entity="hospital", **settings))


def events_of(source: Source) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=COLUMNS), *source.frames()])


def entry(amount_minor: int, number: int = 1, code: str = "22", identification: str = "ID1", addenda: int = 0) -> str:
    name = "ZOE CANARY".ljust(22)
    account = "987654321012".ljust(17)
    return f"6{code}{BANK:08}4{account}{amount_minor:010}{identification:15}{name}  {addenda}03130001{number:07}"


def addenda(text: str, kind: str = "05") -> str:
    return f"7{kind}{text:80}00010000001"


def returned(code: str, original: str = "091000017611242") -> str:
    return f"799{code}{original}      {BANK:08}{'':44}031300010000001"


def batch(
    *records: str, entry_class: str = "CCD", description: str = "HCCLAIMPMT", name: str = "PAYER", **said: int
) -> list[str]:
    """A batch with its control record; `said` overrides what that says."""
    entries = [record for record in records if record[0] == "6"]
    credit = sum(int(record[29:39]) for record in entries if record[2] < "5")
    debit = sum(int(record[29:39]) for record in entries if record[2] > "5")
    header = f"5200{name:16}{'':20}{PAYER}{entry_class}{description:10}{'':6}261002   103130001{1:07}"
    counted, total_hash = said.get("count", len(records)), said.get("hash", BANK * len(entries))
    debits, credits_ = said.get("debit", debit), said.get("credit", credit)
    return [header, *records, f"8200{counted:06}{total_hash:010}{debits:012}{credits_:012}{PAYER}{'':25}03130001{1:07}"]


def file(tmp_path: Path, *batches: list[str], separator: str = "\n", **said: int) -> Path:
    """A file of these batches, filled up to blocks of ten records."""
    controls = [part[-1] for part in batches]
    sums = [sum(int(control[cut]) for control in controls) for cut in (slice(4, 10), slice(10, 20))]
    debit, credit = (sum(int(control[cut]) for control in controls) for cut in (slice(20, 32), slice(32, 44)))
    counted = said.get("batches", len(batches))
    control = f"9{counted:06}{1:06}{sums[0]:08}{sums[1]:010}{debit:012}{said.get('credit', credit):012}"
    header = "101 231380104 0313000122610010600A094101HOSPITAL               BANK"
    records = [header, *(record for part in batches for record in part), control]
    records += ["9" * 94] * (-len(records) % 10)
    path = tmp_path / "file.ach"
    path.write_text(separator.join(record.ljust(94) for record in records))
    return path


PUBLISHED = {  # batches, entries, credits, debits, events, what is set aside
    "moov_20110805A.ach": (4, 48, 200, 5_101_000, 48, [(0, 93, 2, "batch_count")]),
    "moov_Iat-invalidAddenda13.ach": (1, 1, 100_000, 0, 1, []),
    "moov_ccd-debit.ach": (1, 2, 0, 500_125, 2, []),
    "moov_iat-addenda99.ach": (1, 1, 100_000, 0, 1, []),
    "moov_iat-invalidAddenda10.ach": (2, 2, 100_000, 2_000, 2, []),
    "moov_iat-invalidAddenda11.ach": (1, 1, 100_000, 0, 1, []),
    "moov_iat-invalidAddenda14.ach": (1, 1, 100_000, 0, 1, []),
    "moov_iat-invalidAddenda15.ach": (1, 1, 100_000, 0, 1, []),
    "moov_iat-invalidAddenda17.ach": (1, 1, 100_000, 0, 1, []),
    "moov_iat-invalidAddenda18.ach": (1, 1, 100_000, 0, 1, []),
    "moov_iat-invalidAddenda99.ach": (1, 1, 100_000, 0, 1, []),
    "moov_pos-invalidReturnFile.ach": (1, 1, 0, 25_000, 1, []),
    "moov_return-PPD-custom-reason-code.ach": (1, 1, 106_161, 0, 1, []),
    "moov_return-no-batch-header.ach": (
        *(0, 0, 0, 0, 0),
        [(0, line, 1, "missing_batch_header") for line in (1, 2, 3, 4)]
        + [(0, 4, 1, "missing_header"), (0, 4, 1, "missing_control")],
    ),
    "moov_return-no-file-header-control.ach": (
        *(1, 1, 0, 12_354, 1),
        [(0, 4, 1, "missing_header"), (0, 4, 1, "missing_control")],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_nacha_published_file_gives_its_figures(shared_data, name: str) -> None:
    """Each published file gives its counts and sums, and says which of its envelope's totals do not hold."""
    path = shared_data(f"ach/{name}")
    batches, entries, credits_minor, debits_minor, events, set_aside = PUBLISHED[name]
    source = opened(path)
    assert events_of(source).height == events
    figures = source.total().figures
    assert (figures.get("statements", 0), figures.get("transactions", 0)) == (batches, entries)
    assert (figures.get("credits_minor", 0), figures.get("debits_minor", 0)) == (credits_minor, debits_minor)
    assert source.quarantined == set_aside and source.faults == []
    assert bank.recognise(path.read_bytes()[:4096]) == "nacha"


def test_nacha_claim_payment_carries_its_trace(tmp_path: Path) -> None:
    """A CCD+ credit with a TRN addendum is an EFT: TRN02, TRN03, the amount and the effective date of CORE rule 370."""
    trace = addenda("TRN*1*0012345678*1999999999*extra\\")
    path = file(tmp_path, batch(entry(54_000, addenda=1), trace))
    (event,) = events_of(opened(path)).to_dicts()
    assert (event["kind"], event["amount_minor"], event["currency"]) == ("eft_received", 54_000, "USD")
    assert (event["document"], event["reference"], event["counterparty"]) == (
        *("031300010000001", "0012345678", "1999999999"),
    )
    assert (str(event["effective_on"]), event["reason"], event["source"]) == ("2026-10-02", "CCD-22", "nacha")


def test_nacha_claim_payment_without_addenda_names_its_payer(tmp_path: Path) -> None:
    """HCCLAIMPMT alone makes an EFT, without a trace, by the company id of the batch."""
    (event,) = events_of(opened(file(tmp_path, batch(entry(1))))).to_dicts()
    assert (event["kind"], event["reference"], event["counterparty"]) == ("untraced_eft_received", None, PAYER)


def test_nacha_trace_split_over_addenda_is_found(tmp_path: Path) -> None:
    """The trace of a CTX entry may run over two addenda."""
    head = "ST*835*0001\\BPR*I*1*C*ACH".ljust(69, "~") + "TRN*1*00123"
    records = [entry(1, addenda=1), addenda(head), addenda("45678*1512345678\\")]
    (event,) = events_of(opened(file(tmp_path, batch(*records, entry_class="CTX", description="")))).to_dicts()
    assert (event["kind"], event["reference"], event["counterparty"]) == ("eft_received", "0012345678", PAYER)


def test_nacha_other_entries_are_money_in_and_out(tmp_path: Path) -> None:
    """Company entries carry their identification number; a person's does not leave."""
    company = batch(entry(5, code="32"), entry(7, 2, code="27"), description="VENDOR")
    person = batch(entry(9, 3), entry_class="PPD", description="PAYROLL")
    events = events_of(opened(file(tmp_path, company, person)))
    assert events.select("kind", "reference", "amount_minor").rows() == [
        ("bank_credit_received", "ID1", 5),
        ("bank_debit_made", "ID1", 7),
        ("bank_credit_received", None, 9),
    ]


def test_nacha_card_payout_answers_its_payout(tmp_path: Path) -> None:
    """A card processor's transfer is a deposit by the trace in its identification number."""
    paid = batch(entry(24_245, identification="ST-A1B2C3D4E5"), name="STRIPE", description="TRANSFER")
    (event,) = events_of(opened(file(tmp_path, paid))).to_dicts()
    assert (event["kind"], event["reference"], event["amount_minor"]) == ("deposit_received", "ST-A1B2C3D4E5", 24_245)


def test_nacha_return_gives_its_money_back(tmp_path: Path) -> None:
    """What comes back of money we sent is a credit, what is taken back of money we drew a debit, by the return code."""
    records = [entry(5, 1, "21"), returned("R03"), entry(7, 2, "26"), returned("R01")]
    events = events_of(opened(file(tmp_path, batch(*records))))
    assert events.select("kind", "reason", "reference", "amount_minor").rows() == [
        ("bank_credit_received", "R03", "091000017611242", 5),
        ("bank_debit_made", "R01", "091000017611242", 7),
    ]


def test_nacha_entries_without_money_are_counted_only(tmp_path: Path) -> None:
    """Prenotes, zero-dollar entries and notifications of change make no event."""
    records = [entry(0, 1, "23"), entry(0, 2, "24"), addenda("TRN*1*1*1512345678"), entry(0, 3, "21")]
    source = opened(file(tmp_path, batch(*records, addenda("C01091000017611242", "98"))))
    assert events_of(source).is_empty()
    figures = source.total().figures
    assert (figures["transactions"], figures["zero_amounts"], figures["notifications"]) == (0, 2, 1)


@pytest.mark.parametrize(
    ("said", "column", "code"),
    [
        ({"count": 3}, 5, "entry_count"),
        ({"hash": 1}, 11, "entry_hash"),
        ({"debit": 1}, 21, "debit_total"),
        ({"credit": 2}, 33, "credit_total"),
    ],
)
def test_nacha_batch_that_does_not_tie_is_set_aside_whole(tmp_path: Path, said: dict, column: int, code: str) -> None:
    """A batch whose control record is wrong is quarantined at that record's column; the next batch goes on."""
    source = opened(file(tmp_path, batch(entry(5), **said), batch(entry(7, 2))))
    assert events_of(source)["amount_minor"].to_list() == [7]
    assert source.quarantined == [(1, 4, column, code)]
    assert source.total().figures["credits_minor"] == 12


def test_nacha_control_record_that_holds_control_bytes_is_a_fault(tmp_path: Path) -> None:
    """Separators that Python calls blanks in front of a sum make it no number, or nothing; they end no reading."""
    path = file(tmp_path, batch(entry(5)))
    path.write_text(path.read_text().replace("\n900000", "\n9\x1d\x1e\x1f00"))
    source = opened(path)
    assert events_of(source).height == 1
    assert not source.faults


@pytest.mark.parametrize(
    ("said", "place"), [({"batches": 2}, (0, 5, 2, "batch_count")), ({"credit": 9}, (0, 5, 44, "credit_total"))]
)
def test_nacha_file_control_that_does_not_tie_is_told(tmp_path: Path, said: dict, place: tuple) -> None:
    """A file control that is wrong is a fault of the envelope; a batch that ties is booked."""
    source = opened(file(tmp_path, batch(entry(5)), **said))
    assert events_of(source).height == 1
    assert source.quarantined == [place]


def test_nacha_batch_that_can_t_be_read_is_set_aside(tmp_path: Path) -> None:
    """No amount, another layout, or no control record at the end: none of these batches is booked."""
    broken = batch(entry(5))
    broken[1] = broken[1].replace("0000000005", "00000A0005")
    advice = batch(entry(6), entry_class="ADV")
    path = file(tmp_path, broken, advice, batch(entry(7)))
    path.write_text("\n".join(path.read_text().splitlines()[:9]))
    source = opened(path)
    assert events_of(source).is_empty()
    codes = {(place.transaction, place.code) for place in source.quarantined}
    assert {(1, "amount"), (2, "unsupported_entry_class"), (3, "missing_control")} <= codes


@pytest.mark.parametrize("separator", ["\n", "\r\n", ""])
def test_nacha_records_are_read_on_lines_and_in_blocks(tmp_path: Path, separator: str) -> None:
    """Line ends change nothing, nor does their absence."""
    path = file(tmp_path, batch(*(entry(1, number) for number in range(250))), separator=separator)
    source = opened(path)
    assert events_of(source).height == 250
    assert source.quarantined == []


def test_nacha_same_entry_in_another_file_is_the_same_event(tmp_path: Path) -> None:
    """An entry is named by its trace number, whatever file it comes in, and however that is cut."""
    first = events_of(opened(file(tmp_path, batch(entry(5)))))
    path = file(tmp_path, batch(entry(6, 9)), batch(entry(5)))
    assert events_of(opened(path)).filter(amount_minor=5).equals(first)
    assert events_of(opened(path, rows_max=1)).equals(events_of(opened(path)))


def test_nacha_what_is_no_record_is_refused(tmp_path: Path) -> None:
    """A file that begins with something else is refused whole."""
    path = tmp_path / "other"
    path.write_text("ISA*00*")
    with pytest.raises(FrameError, match="not a NACHA record"):
        list(opened(path).frames())


def test_nacha_names_and_accounts_stay_inside(tmp_path: Path) -> None:
    """Receivers' names, account numbers, a person's id and addenda texts are in no event, fault or quarantine."""
    canaries = ("CANARY", "987654321012", "MRN-77", "knee surgery")
    person = batch(entry(9, identification="MRN-77"), addenda("knee surgery ZOE CANARY"), entry_class="PPD")
    source = opened(file(tmp_path, person, batch(entry(1), addenda("ZOE CANARY"), count=9)))
    events = events_of(source)
    held = f"{events.rows()} {source.faults} {source.quarantined} {source.total()}"
    assert events.height == 1 and source.quarantined
    assert not [canary for canary in canaries if canary in held]
