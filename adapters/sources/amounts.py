"""Decimal texts as integers in the minor unit of their currency, exactly.

Owns which texts are amounts. Never rounds: a text with more decimals than its
currency has is no amount, unless they are zeros.
"""

import re

import polars as pl

from runtime import limits
from runtime.currencies import UNUSUAL_DIGITS, USUAL_DIGITS, currency_digits

_DECIMAL = re.compile(r"([+-]?)(\d{1,15})(?:\.(\d{0,17}))?")
_WORK_PLACES = 6
# One separator, and in front of it either plain digits or groups of three marked by the other separator.
_DECIMAL_POINT = r"^[+-]?(?:\d{1,12}|\d{1,3}(?:,\d{3})+)(?:\.\d{1,6})?$"
_DECIMAL_COMMA = r"^[+-]?(?:\d{1,12}|\d{1,3}(?:\.\d{3})+)(?:,\d{1,6})?$"


def exact_minor(text: str, currency: str) -> int | None:
    """A decimal text with a point in minor units, or None when it is no amount of this currency."""
    parts = _DECIMAL.fullmatch(text.strip())
    if not parts:
        return None
    places, fraction = currency_digits(currency), (parts[3] or "").rstrip("0")
    if len(fraction) > places:
        return None
    minor = int(parts[2]) * 10**places + int(fraction.ljust(places, "0") or 0)
    return -minor if parts[1] == "-" else minor


def exact_minor_column(text: pl.Expr, currency: pl.Expr) -> pl.Expr:
    """The same for columns, with a decimal point or a decimal comma; null when it is no amount of its currency.

    What may be either, such as 1,234 in a currency with two decimals, is a whole number of thousands in one reading
    and has too many decimals in the other; it is refused.
    """
    places = currency.replace_strict(UNUSUAL_DIGITS, default=USUAL_DIGITS, return_dtype=pl.Int64())
    ambiguous = text.str.contains(r"^[+-]?\d{1,3}[.,]\d{3}$") & (places != 3)
    with_zeros = text.str.contains(r"^[+-]?\d{1,3}\.\d{2}0$") & (places == 2)
    plain = (
        pl.when(ambiguous & ~with_zeros)
        .then(None)
        .when(text.str.contains(_DECIMAL_COMMA) & text.str.contains(",", literal=True))
        .then(text.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True))
        .when(text.str.contains(_DECIMAL_POINT))
        .then(text.str.replace_all(",", "", literal=True))
    )
    parts = plain.str.extract_groups(r"^([+-]?)(\d{1,12})(?:\.(\d{1,6}))?$")
    fraction = parts.struct.field("3").fill_null("").str.pad_end(_WORK_PLACES, "0").cast(pl.Int64())
    fine = parts.struct.field("2").cast(pl.Int64()) * 10**_WORK_PLACES + fraction
    step = pl.lit(10, pl.Int64()).pow(_WORK_PLACES - places).cast(pl.Int64())
    sign = pl.when(parts.struct.field("1") == "-").then(-1).otherwise(1)
    minor = fine // step
    return pl.when((fine % step == 0) & (minor <= limits.AMOUNT_MINOR_MAX)).then(sign * minor)
