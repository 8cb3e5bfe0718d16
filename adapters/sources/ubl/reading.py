"""UBL documents as documents of purchasing: who, which order's line, how many, how much.

Owns where in a document each of them stands. Never reads names, addresses, items, notes or bank accounts of anybody;
a supplier is known by an identifier, and by its name only when the document holds none.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from adapters.sources.purchasing import (
    REFERENCE_CHARS_MAX,
    Document,
    Form,
    Line,
    Unfit,
    bill_key,
    identifier,
    order_line_key,
)
from adapters.sources.ubl.amounts import Money, day, decimal, key_part, money_of, price, quantity, required_day
from adapters.sources.ubl.arithmetic import TOTAL, Sums, checked_sums, tax_totals
from adapters.sources.ubl.xml_documents import Node

ORDER_TOTAL = "AnticipatedMonetaryTotal"
_SUPPLIERS = ("AccountingSupplierParty", "SellerSupplierParty", "DespatchSupplierParty")
_SUPPLIER_IDS = (  # where no identification was assigned to the party
    ("PartyLegalEntity", "CompanyID"),
    ("PartyTaxScheme", "CompanyID"),
    ("EndpointID",),
    ("PartyLegalEntity", "RegistrationName"),
    ("PartyName", "Name"),
)
_BANK_SCHEME = "SEPA"  # PartyIdentification also holds what a bank calls the creditor
_UNKNOWN_ORDER = ("NA", "N/A")  # Peppol's word where only the seller's order number is known
_LINES = {
    "Order": "OrderLine",
    "DespatchAdvice": "DespatchLine",
    "ReceiptAdvice": "ReceiptLine",
    "Invoice": "InvoiceLine",
    "CreditNote": "CreditNoteLine",
}
_BILLED = {"Invoice": "InvoicedQuantity", "CreditNote": "CreditedQuantity"}
_CREDIT_TYPES = ("81", "83", "261", "262", "296", "308", "381", "396", "420", "458", "532")  # UNCL 1001
_STATED = {
    "payable_minor": "PayableAmount",
    "tax_exclusive_minor": "TaxExclusiveAmount",
    "lines_minor": "LineExtensionAmount",
}


class References(NamedTuple):
    """The other documents that a bill names, as the file writes them; "" where it names none."""

    order: str
    despatch: str
    receipt: str
    billing: str


def references_of(document: Node) -> References:
    """What a bill answers. A credit note may name the invoice in its lines only."""
    invoice = ("BillingReference", "InvoiceDocumentReference", "ID")
    line = document.first(_LINES[document.name])
    return References(
        order=_order_number(document),
        despatch=_reference(document, "DespatchDocumentReference", "ID"),
        receipt=_reference(document, "ReceiptDocumentReference", "ID"),
        billing=_reference(document, *invoice) or (_reference(line, *invoice) if line else ""),
    )


def figures_of(document: Node) -> dict[str, int]:
    """The document's own counts and totals as it states them, whether or not it can be taken."""
    figures = {"documents": 1, "lines": sum(1 for _ in document.all(_LINES[document.name]))}
    total = document.first(TOTAL) or document.first(ORDER_TOTAL)
    try:
        money = money_of(document, _priced(document))
    except Unfit:
        return figures
    stated = {name: _stated_minor(money, total, path) for name, path in _STATED.items()} if total else {}
    tax_minor = sum(_stated_minor(money, tax, "TaxAmount") for tax in tax_totals(document, money))
    return figures | stated | {"tax_minor": tax_minor}


def _stated_minor(money: Money, total: Node, path: str) -> int:
    try:
        return money.minor_at(total, path) or 0
    except Unfit:
        return 0


def order(document: Node) -> Document:
    """An order: each line as approved, at its own total or, without one, at quantity times price. Raises Unfit."""
    money = money_of(document, _priced(document))
    department = _department(document)
    items = (item for line in document.all("OrderLine") if (item := line.first("LineItem")))
    lines = [_order_line(item, name, money, department) for name, item in _numbered(document, items)]
    stated = document.first(ORDER_TOTAL, "LineExtensionAmount")
    if stated is not None and money.minor(stated) != sum(line.amount_minor for line in lines):
        raise stated.unfit("sum_mismatch")
    return _document(document, "order", lines, money.currency)


def _order_line(item: Node, name: str, money: Money, department: str) -> Line:
    thousandths, each = _moved(item, "Quantity"), price(item)
    amount_minor = money.minor_at(item, "LineExtensionAmount")
    if amount_minor is None and each is None:
        raise item.unfit("missing_price")
    if amount_minor is None:
        amount_minor = each.minor_for(decimal(item.first("Quantity")), money.digits)
    if amount_minor is None:
        raise item.unfit("too_precise_or_large")
    return Line(name, thousandths, amount_minor, each, department=_department(item) or department)


def despatch(document: Node) -> Document:
    """A despatch advice: what of each order's line is on its way. Raises Unfit."""
    notes = {"backorder": "BackorderQuantity"}
    return _movement(document, "despatch", "DeliveredQuantity", notes)


def receipt(document: Node) -> Document:
    """A receipt advice: what of each order's line has come, with the rejected part of it named. Raises Unfit."""
    notes = {"rejected": "RejectedQuantity", "short": "ShortQuantity"}
    return _movement(document, "receipt", "ReceivedQuantity", notes)


def _movement(document: Node, form: Form, moved: str, notes: Mapping[str, str]) -> Document:
    lines = []
    for name, line in _numbered(document, document.all(_LINES[document.name])):
        noted = {note: quantity(line.first(path)) for note, path in notes.items()}
        attributes: dict[str, object] = {note: value for note, value in noted.items() if value is not None}
        answered = _answered(document, line)
        if not answered:
            # UBL 2.0 chains number their lines alike and name none; said aloud, as it is a guess.
            answered, attributes["order_line"] = order_line_key(_order_number(document), name), "assumed"
        if not answered:
            raise line.unfit("missing_order")
        arrived = day(line, "ReceivedDate")
        lines.append(Line(name, _moved(line, moved), order_line=answered, day=arrived, attributes=attributes))
    return _document(document, form, lines)


def bill(document: Node) -> Document:
    """An invoice or a credit note, told apart by what it does to the debt and not by its name. Raises Unfit.

    A negative invoice is the credit note for the same fact. A negative credit note is either a slip of the sign or
    takes a credit back; nothing in it tells which.
    """
    money = money_of(document, _priced(document))
    lines = [_billed(document, line, name, money) for name, line in _numbered(document, document.all(_lines(document)))]
    sums = checked_sums(document, money, sum(line.amount_minor for line in lines))
    is_negative = (sums.inclusive_minor or sums.payable_minor) < 0
    if is_negative and _is_credit(document):
        raise document.first(TOTAL, "PayableAmount").unfit("negative_credit")
    sign = -1 if is_negative else 1
    form: Form = "credit" if is_negative or _is_credit(document) else "invoice"
    signed = [line._replace(amount_minor=sign * line.amount_minor, quantity=_times(sign, line)) for line in lines]
    made = _document(document, form, signed, money.currency)
    return made._replace(
        amount_minor=sign * sums.payable_minor,
        attributes=_bill_attributes(document, made.supplier, sums, sign),
    )


def _billed(document: Node, line: Node, name: str, money: Money) -> Line:
    amount_minor = money.minor_at(line, "LineExtensionAmount")
    if amount_minor is None:
        raise line.unfit("missing_amount")
    thousandths = quantity(line.first(_BILLED[document.name]))
    return Line(name, thousandths, amount_minor, price(line), order_line=_answered(document, line))


def _times(sign: int, line: Line) -> int | None:
    return None if line.quantity is None else sign * line.quantity


def _is_credit(document: Node) -> bool:
    return document.name == "CreditNote" or document.text_at("InvoiceTypeCode") in _CREDIT_TYPES


def _bill_attributes(document: Node, supplier: str, sums: Sums, sign: int) -> dict[str, object]:
    """Tax and freight always, other sums and references where there are any."""
    rest = ("charge_minor", "allowance_minor", "prepaid_minor", "rounding_minor")
    others = {name: sign * getattr(sums, name) for name in rest if getattr(sums, name)}
    references = references_of(document)
    named = {name: text for name, text in references._asdict().items() if text}
    if references.billing:
        named["billing"] = bill_key(supplier, references.billing)
    form = {"form": "negative_invoice"} if sign < 0 else {}
    totals = {"tax_minor": sign * sums.tax_minor, "freight_minor": sign * sums.freight_minor}
    return totals | others | named | form | {"body": document.body}


def _document(document: Node, form: Form, lines: list[Line], currency: str = "") -> Document:
    number, supplier = key_part(document, "ID"), _supplier(document)
    if not number:
        raise document.unfit("missing_number")
    if not supplier and form in ("order", "invoice", "credit"):
        raise document.unfit("missing_supplier")
    if not lines:
        raise document.unfit("no_lines")
    return Document(form, number, supplier, required_day(document, "IssueDate"), currency, tuple(lines))


def _supplier(document: Node) -> str:
    role = next((found for name in _SUPPLIERS if (found := document.first(name))), None)
    return next(filter(None, _supplier_names(role)), "") if role else ""


def _supplier_names(role: Node) -> Iterator[str]:
    """What a supplier is known by. The buyer's own number for it first: it is the same in every document."""
    yield key_part(role, "CustomerAssignedAccountID")
    for party in role.all("Party"):
        for identification in party.all("PartyIdentification"):
            named = identification.first("ID")
            if named and named.attributes.get("schemeID") != _BANK_SCHEME:
                yield key_part(named)
        yield from (key_part(party, *path) for path in _SUPPLIER_IDS)


def _numbered(document: Node, lines: Iterable[Node]) -> Iterator[tuple[str, Node]]:
    """Each line with its number, or its place where it has none. Raises Unfit for a number that comes twice."""
    seen = set()
    for place, line in enumerate(lines, start=1):
        number = key_part(line, "ID") or str(place)
        if number in seen:
            raise line.unfit("duplicate_line")
        seen.add(number)
        yield number, line


def _moved(line: Node, name: str) -> int:
    thousandths = quantity(line.first(name))
    if thousandths is None:
        raise line.unfit("missing_quantity")
    return thousandths


def _answered(document: Node, line: Node) -> str:
    """The key of the order's line that a line names; "" when it names none, or of an unknown order."""
    named = line.first("OrderLineReference")
    if named is None:
        return ""
    return order_line_key(_order_number(named) or _order_number(document), key_part(named, "LineID"))


def _order_number(node: Node) -> str:
    number = key_part(node, "OrderReference", "ID")
    return "" if number in _UNKNOWN_ORDER else number


def _reference(node: Node, *path: str) -> str:
    return identifier(node.text_at(*path))[:REFERENCE_CHARS_MAX]


def _department(node: Node) -> str:
    return _reference(node, "AccountingCostCode") or _reference(node, "AccountingCost")


def _lines(document: Node) -> str:
    return _LINES[document.name]


def _priced(document: Node) -> list[Node]:
    """Amounts that may name the document's currency, the best witness first."""
    line = document.first(_lines(document))
    paths = [(TOTAL, "PayableAmount"), (ORDER_TOTAL, "PayableAmount"), (ORDER_TOTAL, "LineExtensionAmount")]
    found = [document.first(*path) for path in paths]
    if line is not None:
        found += [line.first("LineItem", "LineExtensionAmount"), line.first("LineItem", "Price", "PriceAmount")]
    return [node for node in found if node is not None]


READERS: dict[str, Callable[[Node], Document]] = {
    "Order": order,
    "DespatchAdvice": despatch,
    "ReceiptAdvice": receipt,
    "Invoice": bill,
    "CreditNote": bill,
}
