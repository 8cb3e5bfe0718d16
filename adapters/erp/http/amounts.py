"""Amounts between integer minor units and what ERPs write: exact decimals, never floats.

Owns how many decimals a currency has at an ERP.
"""

from decimal import Decimal
from typing import Any

import msgspec

from adapters.erp.http.fault import ErpFault
from runtime.ports import JournalLine

# ISO 4217 currencies whose minor unit is not a hundredth.
_DIGITS = {
    **dict.fromkeys(("CLP", "ISK", "JPY", "KRW", "PYG", "UGX", "VND", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}


def decimal_text(amount_minor: int, currency: str) -> str:
    """Minor units as the decimal that an ERP reads: 12345 USD is "123.45", -5 USD is "-0.05", 7 JPY is "7"."""
    digits = _DIGITS.get(currency, 2)
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
    units = Decimal(amount or 0).scaleb(_DIGITS.get(currency, 2))
    if units != units.to_integral_value():
        raise ErpFault("unavailable", f"the ERP gave an amount with more decimals than {currency} has")
    return int(units)
