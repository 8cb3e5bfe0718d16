"""X12 purchasing as events: totals that add up, lines that meet in keys, sets that are set aside alone."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from adapters.sources import ubl, x12_procurement
from adapters.sources.source import Source, SourceSettings
from runtime.errors import FrameError
from runtime.schema import COLUMNS, conform

ISA = "ISA*00*          *00*          *ZZ*SELLER         *ZZ*BUYER          *260304*1200*U*00401*000000001*0*T*>~"
GS = "GS*IN*SELLER*BUYER*20260304*1200*1*X*004010~"


def transaction(code: str, *segments: str, count: int | None = None, control: str = "0001") -> str:
    """One set with its trailer; `count` is a wrong SE01."""
    inner = "".join(f"{segment}~" for segment in segments)
    return f"ST*{code}*{control}~{inner}SE*{len(segments) + 2 if count is None else count}*{control}~"


def enveloped(*transactions: str, ge: int | None = None) -> str:
    sets = len(transactions) if ge is None else ge
    return f"{ISA}{GS}{''.join(transactions)}GE*{sets}*1~IEA*1*000000001~"


def read(tmp_path: Path, text: str) -> tuple[pl.DataFrame, Source]:
    path = tmp_path / "one.edi"
    path.write_text(text)
    source = Source(path, x12_procurement.read, SourceSettings(entity="north"), "x12_procurement")
    return pl.concat([pl.DataFrame(schema=COLUMNS), *source.frames()]), source


def codes(source: Source) -> list[str]:
    return [aside.code for aside in source.quarantined]


def attributes(row: dict) -> dict:
    return json.loads(row["attributes"] or "{}")


def invoice(*segments: str, opening: str = "BIG*20260304*A-007*20260301*PO-9") -> str:
    return transaction("810", opening, "N1*SE*ACME*92*V-7", *segments)


ORDER = transaction("850", "BEG*00*NE*PO-9**20260301", "N1*SU*ACME*92*V-7", "PO1*1*100*EA*1.00", "CTT*1*100")
DESPATCH = transaction(
    "856",
    "BSN*00*S-3*20260302*0900",
    "HL*1**S",
    "N1*SF*ACME*92*V-7",
    "HL*2*1*O",
    "PRF*PO-9",
    "HL*3*2*P",
    "HL*4*3*I",
    "LIN*1*VN*123",
    "SN1**90*EA",
    "CTT*4",
)
RECEIPT = transaction(
    "861", "BRA*R-4*20260303*00*1", "N1*VN*ACME*92*V-7", "RCD*1*90*EA*2.5*EA", "LIN*1*VN*123", "PRF*PO-9", "CTT*1*90"
)
INVOICE = invoice("IT1*1*100*EA*1.00", "TDS*10000", "CTT*1*100")


@pytest.mark.parametrize(
    ("name", "figures", "booked_minor", "aside"),
    [
        (
            "810_850_staedi_dual.edi",
            {"documents": 3, "lines": 13, "payable_minor": 510876, "tax_minor": 0},
            [("A99999-01", 255438, 7)],
            # The second invoice's total is the first one's, and the order has no prices.
            [(2, 18, 1, "sum_mismatch"), (3, 12, 4, "missing_price")],
        ),
        (
            "810_stupidedi_credit-card-invoice.edi",
            {"documents": 1, "lines": 1, "payable_minor": 17060, "tax_minor": 0},
            [("767124", 17060, 1)],
            [],
        ),
    ],
)
def test_x12_published_file_gives_its_known_sums(
    shared_data: Callable[[str], Path], name: str, figures: dict, booked_minor: list, aside: list
) -> None:
    """Each published file's figures, booked invoices and sets that are set aside are as counted by hand."""
    path = shared_data(f"x12_procurement/{name}")
    source = Source(path, x12_procurement.read, SourceSettings(entity="north"))
    rows = [row for frame in source.frames() for row in frame.to_dicts()]
    headers = [row for row in rows if row["kind"] == "invoice_received"]
    lines = [row for row in rows if row["kind"] == "invoice_line_billed"]
    assert x12_procurement.recognise(path.read_bytes()[:4096]) == "x12_procurement"
    assert source.total().figures == figures
    assert [(attributes(row)["order"], row["amount_minor"], len(lines)) for row in headers] == booked_minor
    assert sum(line["amount_minor"] for line in lines) == sum(row["amount_minor"] for row in headers)
    assert source.quarantined == aside


def test_x12_published_folder_is_wholly_in_the_table(shared_data: Callable[[str], Path]) -> None:
    """No published purchasing file lacks its row above."""
    names = {path.name for path in shared_data("x12_procurement").iterdir()}
    assert names == {"810_850_staedi_dual.edi", "810_stupidedi_credit-card-invoice.edi"}


def test_x12_chain_of_four_sets_meets_in_one_order_line(tmp_path: Path) -> None:
    """Order, despatch, receipt and invoice of one line carry the same key, and 100 billed stand against 90 received."""
    events, source = read(tmp_path, enveloped(ORDER, DESPATCH, RECEIPT, INVOICE))
    told = {row["kind"]: row for row in events.to_dicts()}
    assert not source.quarantined
    assert told["po_line_approved"]["document"] == "PO-9/1"
    assert {told[k]["reference"] for k in ("despatch_announced", "goods_received", "invoice_line_billed")} == {"PO-9/1"}
    assert events["quantity"].to_list() == [100_000, 90_000, 90_000, None, 100_000]
    assert (told["goods_received"]["document"], told["despatch_announced"]["document"]) == ("R-4/1", "S-3/1")
    assert attributes(told["goods_received"]) == {"rejected": 2_500}
    assert told["invoice_line_billed"]["document"] == "V-7/A007/1"
    assert set(events["counterparty"]) == {"V-7"}
    assert conform(events).equals(events)


def test_x12_invoice_and_ubl_invoice_of_one_number_are_the_same_document(tmp_path: Path) -> None:
    """The same invoice over two channels has one key and one amount, so that duplicates are found over both."""
    events, _ = read(tmp_path, enveloped(INVOICE))
    party = "<SellerSupplierParty><CustomerAssignedAccountID>V-7</CustomerAssignedAccountID></SellerSupplierParty>"
    line = '<InvoiceLine><LineExtensionAmount currencyID="USD">100</LineExtensionAmount></InvoiceLine>'
    total = '<LegalMonetaryTotal><PayableAmount currencyID="USD">100.00</PayableAmount></LegalMonetaryTotal>'
    path = tmp_path / "one.xml"
    path.write_text(f"<Invoice><ID>a007</ID><IssueDate>2026-03-04</IssueDate>{party}{total}{line}</Invoice>")
    other = pl.concat(Source(path, ubl.read, SourceSettings(entity="north")).frames())
    columns = ["kind", "document", "counterparty", "amount_minor", "currency", "occurred_at"]
    assert events.select(columns).row(0) == other.select(columns).row(0)


def test_x12_invoice_with_charges_and_taxes_adds_up_to_its_total(tmp_path: Path) -> None:
    """Line charges go into the line, freight, charges, allowances and taxes of the header beside it."""
    text = invoice(
        "IT1*1*2000*EA*12.505*HP*PL*31",
        "SAC*A*F050***1000",
        "TXI*ST*4.10",
        "IT1*2*3*EA*.333",
        "TDS*26320",
        "TXI*ST*2.00",
        "TXI*ST*9.99*****O",
        "SAC*C*D240***1500",
        "SAC*C*D500***300",
        "SAC*A*F800***200",
        "SAC*N*F900***77700",
        "CTT*2",
    )
    events, source = read(tmp_path, enveloped(text))
    header, first, second = events.to_dicts()
    told = attributes(header)
    del told["body"]
    assert codes(source) == []
    assert (header["amount_minor"], first["amount_minor"], second["amount_minor"]) == (263_20, 240_10, 1_00)
    assert first["reference"] == "PO-9/31"
    assert attributes(first) == {"price_minor": 13, "price": "12.505", "price_per": "100"}
    assert told == {
        "tax_minor": 610,
        "freight_minor": 1500,
        "charge_minor": 300,
        "allowance_minor": 200,
        "order": "PO-9",
    }
    assert source.total().figures["tax_minor"] == 610


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("kind", ["CR", "DI"])
def test_x12_credit_memo_of_either_sign_is_positive(tmp_path: Path, sign: str, kind: str) -> None:
    """A credit memo is one by its code or by its sign, and its amounts leave positive."""
    opening = f"BIG*20260304*C1*20260301*PO-9***{kind}"
    text = invoice(f"IT1*1*{sign}4*EA*2.50", f"TDS*{sign}1000", opening=opening)
    events, _ = read(tmp_path, enveloped(text))
    is_credit = kind == "CR" or sign == "-"
    assert events["kind"][0] == ("credit_memo_received" if is_credit else "invoice_received")
    assert events["amount_minor"].to_list() == [10_00, 10_00]
    assert events["quantity"].to_list() == [None, 4_000]


@pytest.mark.parametrize(
    ("segments", "place", "code"),
    [
        (["IT1*1*100*EA*1.00", "TDS*10001"], (5, 1), "sum_mismatch"),
        (["IT1*1*100*EA*1.00", "TDS*100.00"], (5, 1), "bad_amount"),
        (["IT1*1*100*EA*1.00", "TDS*MASKED"], (5, 1), "bad_amount"),
        (["IT1*1*100*EA*1.00"], (1, 0), "missing_tds"),
        (["IT1*1*100*EA*1.00", "TDS*10000", "TDS*10000"], (6, 0), "repeated_segment"),
        (["IT1*1*100*EA*1.00", "TDS*10000", "CTT*2"], (6, 1), "wrong_line_count"),
        (["IT1*1*100*EA*1.00", "TDS*10000", "CTT*1*99"], (6, 2), "wrong_hash_total"),
        (["IT1*1*100*EA", "TDS*10000"], (4, 4), "missing_price"),
        (["IT1*1**EA*1.00", "TDS*10000"], (4, 2), "bad_amount"),
        (["IT1*1*1*EA*1.00", "IT1*1*1*EA*1.00", "TDS*200"], (5, 1), "duplicate_line"),
        (["IT1*1*99999999*EA*999999999", "TDS*100"], (4, 4), "bad_amount"),
        (["IT1*1*1*EA*999999999999999999", "TDS*100"], (4, 4), "bad_amount"),
        (["IT1*1*1*EA*1.00", "TDS*100", "SAC*X*D240***1"], (6, 1), "bad_code"),
        (["TDS*0"], (1, 0), "no_lines"),
    ],
)
def test_x12_invoice_that_does_not_add_up_is_set_aside_alone(
    tmp_path: Path, segments: list[str], place: tuple[int, int], code: str
) -> None:
    """One wrong total, count or element sets its set aside, with the place counted from ST; the next set goes on."""
    events, source = read(tmp_path, enveloped(invoice(*segments), ORDER))
    assert source.quarantined == [(1, *place, code)]
    assert events["kind"].to_list() == ["po_line_approved"]
    assert source.total().figures["documents"] == 2


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (transaction("850", "BEG*01*NE*PO-9**20260301", "PO1*1*1*EA*1.00"), "unread_purpose"),
        (transaction("850", "BEG*00*NE***20260301", "PO1*1*1*EA*1.00"), "missing_element"),
        (transaction("850", "BEG*00*NE*PO-9**20260231", "PO1*1*1*EA*1.00"), "missing_date"),
        (transaction("850", "BEG*00*NE*PO-9**20260301", "PO1*1*2*EA*1.00", "CTT*1", "AMT*TT*3.00"), "sum_mismatch"),
        (transaction("850", "PO1*1*1*EA*1.00"), "missing_beg"),
        (transaction("855", "BAK*00*AC*PO-9*20260302", "PO1*1*1*EA*1.00", "CTT*2"), "wrong_line_count"),
        (transaction("856", "BSN*00*S-3*20260302*0900", "HL*1**I", "SN1*1*5*EA"), "missing_order"),
        (transaction("856", "BSN*00*S-3*20260302*0900", "HL*1**S"), "no_lines"),
        (transaction("861", "BRA*R-4*20260303*00*1", "RCD*1*5*EA"), "missing_order"),
        (transaction("861", "BRA*R-4*20260303*01*1", "RCD*1*5*EA", "PRF*PO-9"), "unread_purpose"),
        (transaction("850", "BEG*00*NE*PO-9**20260301", "PO1*1*1*EA*1.00", count=9), "wrong_segment_count"),
        (transaction("850", "BEG*00*NE*PO-9**20260301").replace("SE*3*0001", "SE*3*0002"), "wrong_set_number"),
        (transaction("850", "BEG*00*NE*PO-9**20260301").partition("SE*")[0], "missing_se"),
        (transaction("832", "BCT*PC"), "unread_set"),
    ],
)
def test_x12_set_that_can_not_be_taken_is_set_aside_alone(tmp_path: Path, bad: str, code: str) -> None:
    """What a set lacks, or says that none of our kinds does, is one code; its neighbours are read."""
    events, source = read(tmp_path, enveloped(bad, RECEIPT))
    assert codes(source) == [code]
    assert events["kind"].to_list() == ["goods_received"]


def test_x12_confirmation_is_counted_and_books_nothing(tmp_path: Path) -> None:
    """An 855 shows in the figures and gives no event."""
    text = transaction("855", "BAK*00*AC*PO-9*20260302", "PO1*1*100*EA*1.00", "ACK*IA*100*EA", "CTT*1*100")
    events, source = read(tmp_path, enveloped(text))
    assert events.is_empty()
    assert not source.quarantined
    assert source.total().figures == {"documents": 1, "lines": 1}


def test_x12_file_that_lost_a_set_says_so(tmp_path: Path) -> None:
    """A group that counts more sets than there are is a finding of the envelope, which holds nothing back."""
    events, source = read(tmp_path, enveloped(INVOICE, ge=2))
    assert events.height == 2
    assert [(aside.transaction, aside.element, aside.code) for aside in source.quarantined] == [
        (0, 1, "wrong_set_count")
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (enveloped(INVOICE).partition("GE*")[0], ["missing_ge", "missing_iea"]),
        (enveloped(INVOICE).partition("IEA*")[0], ["missing_iea"]),
        (enveloped(INVOICE).replace("IEA*1*", "IEA*2*"), ["wrong_group_count"]),
        (enveloped(INVOICE).replace("GE*1*1", "GE*1*2"), ["wrong_group_number"]),
    ],
)
def test_x12_file_that_was_cut_between_sets_says_so(text: str, found: list[str], tmp_path: Path) -> None:
    """Sets that are whole are taken; an envelope that doesn't end, or counts more, tells that some may be missing."""
    events, source = read(tmp_path, text)
    assert events.height == 2
    assert [(aside.transaction, aside.code) for aside in source.quarantined] == [(0, code) for code in found]


def test_x12_file_without_a_set_says_so(tmp_path: Path) -> None:
    """An envelope round nothing is no file of purchasing that was read."""
    _, source = read(tmp_path, enveloped())
    assert codes(source) == ["no_transaction_set"]


def test_x12_same_set_in_another_envelope_gives_the_same_events(tmp_path: Path) -> None:
    """Other control numbers, separators and line ends change no column of any event."""
    plain, _ = read(tmp_path, enveloped(INVOICE, RECEIPT))
    other = (
        enveloped(INVOICE.replace("0001", "0077"), RECEIPT).replace("000000001", "000000555").replace("*1*X", "*9*X")
    )
    rewrapped, source = read(tmp_path, other.replace("GE*2*1", "GE*2*9").replace("*", "|").replace("~", "'\r\n"))
    assert not source.quarantined
    assert plain.equals(rewrapped)


def test_x12_partner_of_the_group_stands_in_for_an_unnamed_supplier(tmp_path: Path) -> None:
    """Where no party is named as the seller, the group's sender of an invoice is one."""
    text = transaction("810", "BIG*20260304*A7", "IT1*1*1*EA*1.00", "TDS*100")
    events, _ = read(tmp_path, enveloped(text))
    assert events["document"].to_list() == ["SELLER/A7", "SELLER/A7/1"]
    assert events["reference"].to_list() == [None, None]


def test_x12_currency_of_the_set_is_followed(tmp_path: Path) -> None:
    """TDS01 has two implied decimals in every currency, also where the currency has none."""
    text = invoice("CUR*SE*JPY", "IT1*1*3*EA*400", "TDS*120000")
    events, _ = read(tmp_path, enveloped(text))
    assert events["amount_minor"].to_list() == [1200, 1200]
    assert set(events["currency"]) == {"JPY"}


def test_x12_names_and_addresses_of_people_are_not_read(tmp_path: Path) -> None:
    """No word of an address, a contact or a description is in an event."""
    text = invoice("N3*MARK", "PER*BD*MARK", "IT1*1*1*EA*1.00", "PID*F****MARK", "N1*ST*MARK", "TDS*100")
    events, _ = read(tmp_path, enveloped(text))
    assert events.height == 2
    assert "MARK" not in events.write_json()


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (enveloped(INVOICE), "x12_procurement"),
        (enveloped(DESPATCH).replace("*", "|"), "x12_procurement"),
        (enveloped(transaction("835", "BPR*I*1*C"), INVOICE), ""),
        ("<Invoice/>", ""),
        ("BEST*810*1", ""),
    ],
)
def test_x12_recognition_goes_by_the_first_set(head: str, name: str) -> None:
    """Purchasing sets are ours, claims and everything else are left to others."""
    assert x12_procurement.recognise(head.encode()) == name


def test_x12_file_without_any_header_is_refused(tmp_path: Path) -> None:
    """What is no X12 at all is an error of the file and not of a set."""
    with pytest.raises(FrameError):
        read(tmp_path, "nothing of the kind")
