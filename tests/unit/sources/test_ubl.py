"""UBL as events: exact sums, whole documents set aside where sums disagree, chains of documents that meet in keys."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from adapters.sources import ubl
from adapters.sources.purchasing import normalised_number
from adapters.sources.source import ControlTotal, Source, SourceSettings
from runtime.schema import COLUMNS, conform

NAMESPACES = (
    'xmlns:a="urn:oasis:names:specification:ubl:schema:xsd:CommonAggregateComponents-2" '
    'xmlns:b="urn:oasis:names:specification:ubl:schema:xsd:CommonBasicComponents-2"'
)
PUBLISHED = [
    "en16931_guide-example1.xml",
    "en16931_guide-example2.xml",
    "en16931_guide-example3.xml",
    "en16931_ubl-tc434-creditnote1.xml",
    "en16931_ubl-tc434-example1.xml",
    "en16931_ubl-tc434-example10.xml",
    "en16931_ubl-tc434-example3.xml",
    "en16931_ubl-tc434-example4.xml",
    "en16931_ubl-tc434-example5.xml",
    "en16931_ubl-tc434-example6.xml",
    "en16931_ubl-tc434-example7.xml",
    "en16931_ubl-tc434-example8.xml",
]
SUPPLIER = "<a:{role}><b:CustomerAssignedAccountID>V-7</b:CustomerAssignedAccountID></a:{role}>"
ORDERED = "<a:OrderReference><b:ID>PO-9</b:ID></a:OrderReference>"
LINE_1 = "<a:OrderLineReference><b:LineID>1</b:LineID></a:OrderLineReference>"


def document(root: str, body: str, number: str = "D-1", role: str = "AccountingSupplierParty") -> str:
    """A document of our own: a header with number, date and supplier, and what the test adds."""
    namespace = f"urn:oasis:names:specification:ubl:schema:xsd:{root}-2"
    head = f"<b:ID>{number}</b:ID><b:IssueDate>2026-03-04</b:IssueDate>{SUPPLIER.format(role=role)}"
    return f'<?xml version="1.0"?><{root} xmlns="{namespace}" {NAMESPACES}>{head}{body}</{root}>'


def money(name: str, amount: str, currency: str = "USD") -> str:
    return f'<b:{name} currencyID="{currency}">{amount}</b:{name}>'


def total(payable: str, **others: str) -> str:
    inner = "".join(money(name, amount) for name, amount in others.items())
    return f"<a:LegalMonetaryTotal>{inner}{money('PayableAmount', payable)}</a:LegalMonetaryTotal>"


def tax(amount: str, taxable: str, percent: str) -> str:
    part = f"{money('TaxableAmount', taxable)}{money('TaxAmount', amount)}"
    rate = f"<a:TaxCategory><b:Percent>{percent}</b:Percent></a:TaxCategory>"
    return f"<a:TaxTotal>{money('TaxAmount', amount)}<a:TaxSubtotal>{part}{rate}</a:TaxSubtotal></a:TaxTotal>"


def charge(is_charge: bool, amount: str, reason: str = "Packing") -> str:
    indicator = f"<b:ChargeIndicator>{str(is_charge).lower()}</b:ChargeIndicator>"
    told = f"<b:AllowanceChargeReason>{reason}</b:AllowanceChargeReason>"
    return f"<a:AllowanceCharge>{indicator}{told}{money('Amount', amount)}</a:AllowanceCharge>"


def billed(amount: str, quantity: str = "1", price: str = "1.00", kind: str = "Invoice", number: str = "1") -> str:
    verb = {"Invoice": "InvoicedQuantity", "CreditNote": "CreditedQuantity"}[kind]
    inner = f"<b:ID>{number}</b:ID><b:{verb}>{quantity}</b:{verb}>{money('LineExtensionAmount', amount)}{LINE_1}"
    return f"<a:{kind}Line>{inner}<a:Price>{money('PriceAmount', price)}</a:Price></a:{kind}Line>"


def written(tmp_path: Path, content: str | bytes, name: str = "one.xml") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def opened(path: Path, rows_max: int = 50_000) -> Source:
    return Source(path, ubl.read, SourceSettings(entity="north", rows_max=rows_max), "ubl")


def events_of(source: Source) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=COLUMNS), *source.frames()])


def read(tmp_path: Path, content: str | bytes) -> tuple[pl.DataFrame, Source]:
    source = opened(written(tmp_path, content))
    return events_of(source), source


def totals(source: Source) -> ControlTotal:
    return source.total()


def codes(source: Source) -> list[str]:
    return [aside.code for aside in source.quarantined]


def attributes(row: dict) -> dict:
    return json.loads(row["attributes"] or "{}")


def cents(text: str) -> int:
    return int(Decimal(text) * 100)


@pytest.mark.parametrize("name", PUBLISHED)
def test_ubl_published_file_gives_what_is_expected(shared_data: Callable[[str], Path], name: str) -> None:
    """Each published file gives the kind, lines, totals, references and consistency that its table says."""
    expected = json.loads(shared_data("ubl_expected.json").read_text())[name]
    path = shared_data(f"ubl/{name}")
    source = opened(path)
    header, *lines = events_of(source).to_dicts()
    figures, told = source.total().figures, attributes(header)
    kind = {"Invoice": "invoice_received", "CreditNote": "credit_memo_received"}[expected["root"]]
    assert ubl.recognise(path.read_bytes()[:4096]) == "ubl"
    assert (header["kind"], len(lines), figures["lines"]) == (kind, expected["lines"], expected["lines"])
    assert header["amount_minor"] == figures["payable_minor"] == cents(expected["payable"])
    assert figures["tax_exclusive_minor"] == cents(expected["tax_exclusive"])
    assert sum(line["amount_minor"] for line in lines) == figures["lines_minor"] == cents(expected["line_sum"])
    assert header["document"].endswith("/" + normalised_number(expected["id"]))
    references = [told.get(name, "") for name in ("order", "despatch", "receipt")]
    assert references == [expected["order_ref"], expected["despatch_ref"], expected["receipt_ref"]]
    assert told.get("billing", "").endswith(normalised_number(expected["billing_ref"]))
    assert (not source.quarantined) == expected["totals_consistent"]


def test_ubl_published_folder_is_wholly_in_the_table(shared_data: Callable[[str], Path]) -> None:
    """No published file and no expectation lacks its row."""
    assert sorted(path.name for path in shared_data("ubl").iterdir()) == sorted(PUBLISHED)
    assert sorted(json.loads(shared_data("ubl_expected.json").read_text())) == sorted(PUBLISHED)


def test_ubl_chain_of_four_documents_meets_in_one_order_line(tmp_path: Path) -> None:
    """Order, despatch, receipt and invoice of one line carry the same key, and 100 billed stand against 90 received."""
    item = f"<b:ID>1</b:ID><b:Quantity>100</b:Quantity>{money('LineExtensionAmount', '100.00')}"
    price = f"<a:Price>{money('PriceAmount', '1.00')}</a:Price>"
    order = document(
        "Order", f"<a:OrderLine><a:LineItem>{item}{price}</a:LineItem></a:OrderLine>", "PO-9", "SellerSupplierParty"
    )
    sent = "<b:DeliveredQuantity>90</b:DeliveredQuantity><b:BackorderQuantity>10</b:BackorderQuantity>"
    despatch = document(
        "DespatchAdvice", f"{ORDERED}<a:DespatchLine><b:ID>1</b:ID>{sent}{LINE_1}</a:DespatchLine>", "S-3"
    )
    received = "<b:ReceivedQuantity>90</b:ReceivedQuantity><b:RejectedQuantity>2.5</b:RejectedQuantity>"
    receipt = document(
        "ReceiptAdvice", f"{ORDERED}<a:ReceiptLine><b:ID>1</b:ID>{received}{LINE_1}</a:ReceiptLine>", "R-4"
    )
    invoice = document(
        "Invoice", f"{ORDERED}{tax('17.50', '100.00', '17.5')}{total('117.50')}{billed('100.00', '100')}"
    )
    rows = [row for text in (order, despatch, receipt, invoice) for row in read(tmp_path, text)[0].to_dicts()]
    told = {row["kind"]: row for row in rows}
    assert told["po_line_approved"]["document"] == "PO-9/1"
    assert {told[k]["reference"] for k in ("despatch_announced", "goods_received", "invoice_line_billed")} == {"PO-9/1"}
    assert [row["quantity"] for row in rows] == [100_000, 90_000, 90_000, None, 100_000]
    assert told["goods_received"]["document"] == "R-4/1"
    assert attributes(told["goods_received"]) == {"rejected": 2_500}
    assert attributes(told["despatch_announced"]) == {"backorder": 10_000}
    assert attributes(told["po_line_approved"]) == {"price_minor": 100}
    assert {row["counterparty"] for row in rows} == {"V-7"}


def test_ubl_receipt_line_without_reference_takes_its_own_number_and_says_so(tmp_path: Path) -> None:
    """A receipt that names only the order answers the line of the same number, marked as assumed."""
    line = "<a:ReceiptLine><b:ID>2</b:ID><b:ReceivedQuantity>3</b:ReceivedQuantity></a:ReceiptLine>"
    events, _ = read(tmp_path, document("ReceiptAdvice", ORDERED + line))
    assert events["reference"].to_list() == ["PO-9/2"]
    assert attributes(events.row(0, named=True)) == {"order_line": "assumed"}


def test_ubl_header_sums_travel_with_the_invoice(tmp_path: Path) -> None:
    """Tax, freight, other charges, allowances and prepayments are told apart; the amount is what is left to pay."""
    extras = charge(True, "5.00", "Freight charge") + charge(True, "2.00") + charge(False, "7.00", "Discount")
    sums = total("80.00", TaxExclusiveAmount="100.00", TaxInclusiveAmount="120.00", PrepaidAmount="40.00")
    text = document("Invoice", extras + tax("20.00", "100.00", "20") + sums + billed("100.00"), "inv-00 42")
    events, source = read(tmp_path, text)
    header = events.row(0, named=True)
    told = attributes(header)
    assert (header["document"], header["amount_minor"]) == ("V-7/INV0042", 80_00)
    assert len(told.pop("body")) == 64
    assert told == {
        "tax_minor": 2000,
        "freight_minor": 500,
        "charge_minor": 200,
        "allowance_minor": 700,
        "prepaid_minor": 4000,
    }
    assert totals(source).figures["tax_minor"] == 2000


def test_ubl_negative_invoice_and_credit_note_give_the_same_credit(tmp_path: Path) -> None:
    """Both forms of a correction become a credit memo of the same positive amounts and key."""
    negative = tax("-25.00", "-100.00", "25") + total("-125.00") + billed("-100.00", "-7")
    positive = tax("25.00", "100.00", "25") + total("125.00") + billed("100.00", "7", kind="CreditNote")
    first, _ = read(tmp_path, document("Invoice", negative))
    second, _ = read(tmp_path, document("CreditNote", positive))
    columns = ["kind", "document", "counterparty", "amount_minor", "quantity", "event_id"]
    assert first.select(columns).rows() == second.select(columns).rows()
    assert first["amount_minor"].to_list() == [125_00, 100_00]
    assert attributes(first.row(0, named=True))["form"] == "negative_invoice"


def test_ubl_negative_credit_note_is_set_aside(tmp_path: Path) -> None:
    """Whether a negative credit note is a slip of the sign or takes a credit back is not for a reader to say."""
    text = document("CreditNote", total("-5.00") + billed("-5.00", kind="CreditNote"))
    events, source = read(tmp_path, text)
    assert events.is_empty()
    assert codes(source) == ["negative_credit"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (total("107.50", LineExtensionAmount="100.00", TaxExclusiveAmount="90.00"), "sum_mismatch"),
        (total("117.50", LineExtensionAmount="99.00"), "sum_mismatch"),
        (total("117.50", TaxInclusiveAmount="118.00"), "sum_mismatch"),
        (total("117.50", AllowanceTotalAmount="1.00"), "sum_mismatch"),
        (total("117.50", ChargeTotalAmount="1.00"), "sum_mismatch"),
        (total("117.51"), "sum_mismatch"),
        (total("117.505"), "too_precise_or_large"),
        (total("1,17.50"), "not_a_number"),
        (total("NaN"), "not_a_number"),
        (total("1e9"), "not_a_number"),
        (total("1" * 17 + ".00"), "too_precise_or_large"),
        ("", "missing_total"),
        (total("117.50", PrepaidAmount="0.00") + charge(True, "x"), "not_a_number"),
    ],
)
def test_ubl_invoice_whose_sums_disagree_is_set_aside_whole(tmp_path: Path, body: str, code: str) -> None:
    """One wrong total sets the whole document aside: no event, one code, and the figures still count what it states."""
    text = document("Invoice", f"<b:DocumentCurrencyCode>USD</b:DocumentCurrencyCode>{tax('17.50', '100.00', '17.5')}")
    text = text.replace("</Invoice>", f"{body}{billed('100.00', '100')}</Invoice>")
    events, source = read(tmp_path, text)
    assert events.is_empty()
    assert codes(source) == [code]
    assert totals(source).figures["documents"] == totals(source).figures["lines"] == 1
    assert totals(source).figures["tax_minor"] == 1750


@pytest.mark.parametrize(
    ("taxes", "code"),
    [
        (tax("18.50", "100.00", "17.5"), "tax_mismatch"),
        (tax("17.50", "100.00", "17.5").replace("17.50", "17.00", 1), "sum_mismatch"),
        (tax("17.50", "100.00", "17.5").replace("USD", "EUR", 1), "sum_mismatch"),
        (tax("17.50", "100.00", "17.5").replace('b:TaxableAmount currencyID="USD"', 'b:TaxableAmount currencyID="EUR"'),
         "currency_mismatch"),
    ],
)  # fmt: skip
def test_ubl_invoice_whose_tax_disagrees_is_set_aside(tmp_path: Path, taxes: str, code: str) -> None:
    """A tax that is not its rate's, not the sum of its parts, or in another currency is not booked."""
    events, source = read(tmp_path, document("Invoice", taxes + total("117.50") + billed("100.00", "100")))
    assert events.is_empty()
    assert codes(source) == [code]


def test_ubl_order_whose_lines_miss_its_total_is_set_aside(tmp_path: Path) -> None:
    """An order's stated sum must be its lines'."""
    item = f"<b:ID>1</b:ID><b:Quantity>2</b:Quantity>{money('LineExtensionAmount', '10.00')}"
    line = f"<a:OrderLine><a:LineItem>{item}</a:LineItem></a:OrderLine>"
    stated = f"<a:AnticipatedMonetaryTotal>{money('LineExtensionAmount', '11.00')}</a:AnticipatedMonetaryTotal>"
    _, source = read(tmp_path, document("Order", stated + line))
    assert codes(source) == ["sum_mismatch"]


def test_ubl_order_line_without_total_is_worth_quantity_times_price(tmp_path: Path) -> None:
    """A price of fractions of a cent for a thousand is multiplied exactly and rounded once."""
    price = f"<a:Price>{money('PriceAmount', '1.2345')}<b:BaseQuantity>1000</b:BaseQuantity></a:Price>"
    item = f"<b:ID>1</b:ID><b:Quantity>81000.5</b:Quantity><b:AccountingCost>OR-2</b:AccountingCost>{price}"
    events, _ = read(tmp_path, document("Order", f"<a:OrderLine><a:LineItem>{item}</a:LineItem></a:OrderLine>"))
    row = events.row(0, named=True)
    assert (row["amount_minor"], row["quantity"], row["department"]) == (100_00, 81_000_500, "OR-2")
    assert attributes(row) == {"price_minor": 0, "price": "1.2345", "price_per": "1000"}


@pytest.mark.parametrize(("currency", "amount", "minor"), [("JPY", "1200", 1200), ("KWD", "1.234", 1234)])
def test_ubl_amounts_have_the_places_of_their_currency(tmp_path: Path, currency: str, amount: str, minor: int) -> None:
    """Yen have no minor unit and dinars have a thousand."""
    text = document("Invoice", total(amount) + billed(amount)).replace('"USD"', f'"{currency}"')
    events, _ = read(tmp_path, text)
    assert events["amount_minor"].to_list() == [minor, minor]
    assert set(events["currency"]) == {currency}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (document("Invoice", total("1.00") + billed("1.00")).replace("V-7", ""), "missing_supplier"),
        (document("Invoice", total("1.00") + billed("1.00"), number=""), "missing_number"),
        (document("Invoice", total("1.00") + billed("1.00"), number="9" * 81), "too_long"),
        (document("Invoice", total("1.00") + billed("1.00")).replace("2026-03-04", "2026-02-30"), "not_a_date"),
        (document("Invoice", total("0.00")), "no_lines"),
        (document("Invoice", total("2.00") + billed("1.00") + billed("1.00")), "duplicate_line"),
        (document("Invoice", total("1.00") + billed("1.00", quantity="1.0001")), "too_precise_or_large"),
        (document("Invoice", billed("1.00")).replace(' currencyID="USD"', ""), "missing_currency"),
        (document("ReceiptAdvice", "<a:ReceiptLine><b:ReceivedQuantity>1</b:ReceivedQuantity></a:ReceiptLine>"),
         "missing_order"),
        (document("ReceiptAdvice", ORDERED + "<a:ReceiptLine><b:ID>1</b:ID></a:ReceiptLine>"), "missing_quantity"),
    ],
)  # fmt: skip
def test_ubl_document_without_its_identity_is_set_aside(tmp_path: Path, text: str, code: str) -> None:
    """What identifies a document or a line is there, once, and fits into a key, or nothing of it is taken."""
    events, source = read(tmp_path, text)
    assert events.is_empty()
    assert codes(source) == [code]


def test_ubl_place_of_a_fault_is_the_line_and_the_number_of_its_element(tmp_path: Path) -> None:
    """A place leads to the element in the file and holds nothing of what is written there."""
    text = document("Invoice", "\n\n" + total("99.99") + billed("1.00"))
    _, source = read(tmp_path, text)
    assert source.quarantined == [(1, 3, 7, "sum_mismatch")]


def test_ubl_same_document_in_another_envelope_gives_the_same_events(tmp_path: Path) -> None:
    """Another prefix, another layout and a business envelope around it change no column of any event."""
    plain = document("Invoice", ORDERED + total("1.00") + billed("1.00"))
    inner = (
        plain.removeprefix('<?xml version="1.0"?>').replace("b:", "x:").replace(":b=", ":x=").replace("><", ">\n  <")
    )
    wrapped = (
        f"<!-- again --><StandardBusinessDocument><StandardBusinessDocumentHeader/>{inner}</StandardBusinessDocument>"
    )
    assert read(tmp_path, plain)[0].equals(read(tmp_path, wrapped)[0])


def test_ubl_same_number_with_another_content_has_the_same_ids_and_another_body(tmp_path: Path) -> None:
    """A changed document under the same number keeps its event ids, so that dedupe sees the conflict."""
    text = document("Invoice", "<b:Note>a</b:Note>" + total("1.00") + billed("1.00"))
    first, second = read(tmp_path, text)[0], read(tmp_path, text.replace("<b:Note>a", "<b:Note>b"))[0]
    assert first["event_id"].equals(second["event_id"])
    assert attributes(first.row(0, named=True))["body"] != attributes(second.row(0, named=True))["body"]


def test_ubl_many_documents_in_one_file_are_read_one_by_one(tmp_path: Path) -> None:
    """A document that is set aside holds none of its neighbours back."""
    good = [document("Invoice", total("1.00") + billed("1.00"), number=f"N{i}") for i in range(3)]
    bad = document("Invoice", total("2.00") + billed("1.00"))
    inner = "".join(text.removeprefix('<?xml version="1.0"?>') for text in (good[0], bad, *good[1:]))
    events, source = read(tmp_path, f"<Batch>{inner}</Batch>")
    assert events.filter(kind="invoice_received")["document"].to_list() == ["V-7/N0", "V-7/N1", "V-7/N2"]
    assert [(aside.transaction, aside.code) for aside in source.quarantined] == [(2, "sum_mismatch")]
    assert totals(source).figures["documents"] == 4


def test_ubl_long_document_leaves_in_frames_of_bounded_rows(tmp_path: Path) -> None:
    """No frame is longer than the settings allow, and none is lost between them."""
    lines = "".join(billed("1.00", number=str(i)) for i in range(25))
    source = opened(written(tmp_path, document("Invoice", total("25.00") + lines)), rows_max=10)
    frames = list(source.frames())
    assert [frame.height for frame in frames] == [10, 10, 6]
    assert pl.concat(frames)["event_id"].n_unique() == 26


def test_ubl_events_are_canonical_rows(tmp_path: Path) -> None:
    """The frames conform to the schema as they are, with the settings' entity and the format's source."""
    events, _ = read(tmp_path, document("Invoice", total("1.00") + billed("1.00")))
    assert conform(events).equals(events)
    assert set(events["entity"]) == {"north"}
    assert set(events["source"]) == {"ubl"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_ubl_file_in_any_usual_encoding_is_recognised_and_read(tmp_path: Path, encoding: str) -> None:
    """The encoding that a file declares or starts with is followed."""
    text = document("Invoice", total("1.00") + billed("1.00"), number="Ä1")
    declared = text.replace('version="1.0"', f'version="1.0" encoding="{encoding.removesuffix("-sig")}"')
    content = declared.encode(encoding)
    events, _ = read(tmp_path, content)
    assert ubl.recognise(content[:4096]) == "ubl"
    assert events["document"][0] == "V-7/Ä1"


HOSTILE = {
    "internal entities": '<!DOCTYPE Invoice [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Invoice><ID>&b;</ID></Invoice>',
    "external entity": '<!DOCTYPE Invoice [<!ENTITY a SYSTEM "file:///etc/passwd">]><Invoice><ID>&a;</ID></Invoice>',
    "external subset": '<!DOCTYPE Invoice SYSTEM "http://192.0.2.1/a.dtd"><Invoice/>',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_ubl_document_type_declaration_ends_the_reading(tmp_path: Path, text: str) -> None:
    """No declaration of entities is followed, inside the file or outside."""
    events, source = read(tmp_path, text)
    assert events.is_empty()
    assert codes(source) == ["doctype"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("<Invoice>" + "<x>" * 60 + "</x>" * 60 + "</Invoice>", "too_deep"),
        ("<Invoice><ID>1</ID>", "malformed"),
        ("<Invoice><ID>&unknown;</ID></Invoice>", "malformed"),
        ("<Invoice><ID>" + "9" * 70_000 + "</ID></Invoice>", "too_large"),
        ('<Invoice><ID scheme="' + "9" * 2_000_000 + '"/></Invoice>', "too_large"),
        ("<Document/>", "no_document"),
        ("", "malformed"),
        ("not xml", "malformed"),
        ('<?xml version="1.0" encoding="no-such"?><Invoice/>', "malformed"),
    ],
    ids=["deep", "cut off", "entity", "long text", "long token", "other root", "empty", "text", "encoding"],
)
def test_ubl_file_that_can_not_be_trusted_is_set_aside(tmp_path: Path, text: str, code: str) -> None:
    """Depth, tokens and texts have limits, and a broken file is one code and no event."""
    events, source = read(tmp_path, text)
    assert events.is_empty()
    assert codes(source) == [code]


def test_ubl_document_beyond_the_element_limit_is_set_aside_and_the_next_is_read(tmp_path: Path, monkeypatch) -> None:
    """A document that is too large gives up what was kept of it; the reading goes on behind it."""
    monkeypatch.setattr("adapters.sources.ubl.xml_documents.ELEMENTS_MAX", 40)
    small = document("Invoice", total("1.00") + billed("1.00"))
    large = document("Invoice", total("9.00") + "".join(billed("1.00", number=str(i)) for i in range(9)))
    inner = "".join(text.removeprefix('<?xml version="1.0"?>') for text in (large, small))
    events, source = read(tmp_path, f"<Batch>{inner}</Batch>")
    assert codes(source) == ["too_large"]
    assert events.height == 2


def test_ubl_attachments_and_notes_are_not_kept(tmp_path: Path) -> None:
    """An attachment of any size passes by, and no word of a note, item or contact is in an event."""
    content = f"<b:EmbeddedDocumentBinaryObject>{'QUJD' * 50_000}</b:EmbeddedDocumentBinaryObject>"
    marked = "<b:Note>MARK</b:Note><a:Contact><b:Name>MARK</b:Name></a:Contact>"
    attached = f"<a:AdditionalDocumentReference><a:Attachment>{content}</a:Attachment></a:AdditionalDocumentReference>"
    events, _ = read(tmp_path, document("Invoice", attached + marked + total("1.00") + billed("1.00")))
    assert events.height == 2
    assert "MARK" not in events.write_json()


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b'<Document xmlns="urn:iso:std:iso:20022:tech:xsd:camt.053.001.02">', ""),
        (b'{"xmlns":"urn:oasis:names:specification:ubl:schema:xsd:Invoice-2"}', ""),
        (b'<Quotation xmlns="urn:oasis:names:specification:ubl:schema:xsd:Quotation-2">', ""),
        (b'\n <n:Order xmlns:n="urn:oasis:names:specification:ubl:schema:xsd:Order-2">', "ubl"),
    ],
)
def test_ubl_recognition_asks_for_xml_of_its_own_namespaces(head: bytes, name: str) -> None:
    """Other XML, other UBL and other files that name UBL are left to others."""
    assert ubl.recognise(head) == name


@pytest.mark.parametrize(
    ("number", "normalised"),
    [
        ("inv-00 42", "INV0042"),
        ("00042", "42"),
        ("018304 / 28865", "1830428865"),
        ("A.B_c/1", "ABC1"),
        ("000", "000"),
        ("--", "--"),
    ],
)
def test_purchasing_invoice_number_normalised_for_duplicates(number: str, normalised: str) -> None:
    """Case, blanks, punctuation and leading zeros make no other invoice."""
    assert normalised_number(number) == normalised
