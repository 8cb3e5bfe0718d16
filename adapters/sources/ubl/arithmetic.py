"""What the totals of a UBL invoice or credit note must add up to: the rules BR-CO-10 to BR-CO-17 of EN 16931.

Owns the sums. Never repairs one: the first that does not agree is a fault at the element that states it. A total that
the document leaves out (UBL 2.0 demands few) is taken to be what the others make it. Quantity times price is not
among the rules, and published examples break it.
"""

from decimal import Decimal
from typing import NamedTuple

from adapters.sources.ubl.amounts import Money, decimal
from adapters.sources.ubl.xml_documents import Node

TOTAL = "LegalMonetaryTotal"
_TRUE, _FALSE = ("true", "1"), ("false", "0")
_FREIGHT_CODES = ("FC",)  # UNCL 7161


class Sums(NamedTuple):
    """A bill's totals, signed as in the file."""

    payable_minor: int
    inclusive_minor: int
    tax_minor: int
    freight_minor: int
    charge_minor: int  # without freight
    allowance_minor: int
    prepaid_minor: int
    rounding_minor: int


class _Extras(NamedTuple):
    allowance_minor: int
    charge_minor: int
    freight_minor: int


def checked_sums(document: Node, money: Money, lines_minor: int) -> Sums:
    """The totals, with `lines_minor` the sum of the lines. Raises Unfit where one does not agree."""
    total = document.first(TOTAL)
    if total is None or total.first("PayableAmount") is None:
        raise (total or document).unfit("missing_total")
    extras = _extras(document, money)
    tax_minor = _tax(document, money)
    all_charges_minor = extras.charge_minor + extras.freight_minor
    _agree(total, money, "LineExtensionAmount", lines_minor)
    _agree(total, money, "AllowanceTotalAmount", extras.allowance_minor)
    _agree(total, money, "ChargeTotalAmount", all_charges_minor)
    exclusive_minor = lines_minor - extras.allowance_minor + all_charges_minor
    _agree(total, money, "TaxExclusiveAmount", exclusive_minor)
    inclusive_minor = exclusive_minor + tax_minor
    _agree(total, money, "TaxInclusiveAmount", inclusive_minor)
    prepaid_minor = money.minor_at(total, "PrepaidAmount") or 0
    rounding_minor = money.minor_at(total, "PayableRoundingAmount") or 0
    payable_minor = inclusive_minor - prepaid_minor + rounding_minor
    _agree(total, money, "PayableAmount", payable_minor)
    return Sums(
        payable_minor=payable_minor,
        inclusive_minor=inclusive_minor,
        tax_minor=tax_minor,
        freight_minor=extras.freight_minor,
        charge_minor=extras.charge_minor,
        allowance_minor=extras.allowance_minor,
        prepaid_minor=prepaid_minor,
        rounding_minor=rounding_minor,
    )


def tax_totals(document: Node, money: Money) -> list[Node]:
    """The tax totals in the document's own currency. A second one may repeat the tax in the tax authority's."""
    return [total for total in document.all("TaxTotal") if _is_in(total.first("TaxAmount"), money)]


def _is_in(amount: Node | None, money: Money) -> bool:
    return amount is not None and amount.attributes.get("currencyID", money.currency) == money.currency


def _agree(total: Node, money: Money, name: str, computed_minor: int) -> None:
    stated = total.first(name)
    if stated is not None and money.minor(stated) != computed_minor:
        raise stated.unfit("sum_mismatch")


def _extras(document: Node, money: Money) -> _Extras:
    """Allowances and charges of the header; those of lines are within the lines' amounts."""
    extras = _Extras(0, 0, 0)
    for extra in document.all("AllowanceCharge"):
        amount_minor = money.minor_at(extra, "Amount")
        if amount_minor is None:
            raise extra.unfit("missing_amount")
        name = "charge_minor" if _is_charge(extra) else "allowance_minor"
        name = "freight_minor" if name == "charge_minor" and _is_freight(extra) else name
        extras = extras._replace(**{name: getattr(extras, name) + amount_minor})
    return extras


def _is_charge(extra: Node) -> bool:
    indicator = extra.text_at("ChargeIndicator")
    if indicator not in _TRUE + _FALSE:
        raise extra.unfit("missing_indicator")
    return indicator in _TRUE


def _is_freight(charge: Node) -> bool:
    reason = charge.text_at("AllowanceChargeReason").casefold()
    return charge.text_at("AllowanceChargeReasonCode") in _FREIGHT_CODES or "freight" in reason


def _tax(document: Node, money: Money) -> int:
    tax_minor = 0
    for total in tax_totals(document, money):
        stated_minor = money.minor(total.first("TaxAmount"))
        parts = [_subtotal(part, money) for part in total.all("TaxSubtotal")]
        if parts and sum(parts) != stated_minor:
            raise total.first("TaxAmount").unfit("sum_mismatch")
        tax_minor += stated_minor
    return tax_minor


def _subtotal(part: Node, money: Money) -> int:
    tax_minor, taxable_minor = money.minor_at(part, "TaxAmount"), money.minor_at(part, "TaxableAmount")
    if tax_minor is None:
        raise part.unfit("missing_amount")
    percent = part.first("TaxCategory", "Percent") or part.first("Percent")
    if percent is not None and taxable_minor is not None:
        # The norm's own test lets a tax that was summed from rounded lines differ by less than one whole unit.
        due_minor = taxable_minor * decimal(percent) / 100
        if abs(due_minor - tax_minor) >= Decimal(10) ** money.digits:
            raise part.first("TaxAmount").unfit("tax_mismatch")
    return tax_minor
