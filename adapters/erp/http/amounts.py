"""Amounts between integer minor units and what ERPs write: exact decimals, never floats.

Owns the form of an amount at an ERP.
"""

from decimal import Decimal
from typing import Any

import msgspec

from adapters.erp.http.fault import ErpFault
from runtime.currencies import currency_digits
from runtime.ports import JournalLine


def decimal_text(amount_minor: int, currency: str) -> str:
    """Minor units as the decimal that an ERP reads: 12345 USD is "123.45", -5 USD is "-0.05", 7 JPY is "7"."""
    digits = currency_digits(currency)
    whole, part = divmod(abs(amount_minor), 10**digits)
    sign = "-" if amount_minor < 0 else ""
    return f"{sign}{whole}.{part:0{digits}}" if digits else f"{sign}{whole}"


def json_amount(amount_minor: int, currency: str) -> msgspec.Raw:
    """The same as a JSON number, written digit by digit: `msgspec.json.encode` takes it over as it is."""
    return msgspec.Raw(decimal_text(amount_minor, currency).encode())


def signed_minor(line: JournalLine) -> int:
    """A line's amount: debits positive, credits negative."""
    return line.amount_minor if line.side == "D" else -line.amount_minor


def minor_of(amount: Any, currency: str) -> int:
    """Minor units of an ERP's decimal (a Decimal, its text, or None for nothing), or a fault when it has a fraction."""
    units = Decimal(amount or 0).scaleb(currency_digits(currency))
    if units != units.to_integral_value():
        raise ErpFault("unavailable", f"the ERP gave an amount with more decimals than {currency} has")
    return int(units)
