"""Decimal texts as integers in the minor unit of their currency, exactly.

Owns how many decimals a currency has, and which texts are amounts. Never rounds: a text with more decimals than its
currency has is no amount, unless they are zeros.
"""

import re

import polars as pl

from runtime import limits

_DEFAULT_PLACES = 2
# ISO 4217, where it is not two.
_WITHOUT_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_WITH_THREE, _WITH_FOUR = "BHD IQD JOD KWD LYD OMR TND", "CLF UYW"
_PLACES = {
    **dict.fromkeys(_WITHOUT_DECIMALS.split(), 0),
    **dict.fromkeys(_WITH_THREE.split(), 3),
    **dict.fromkeys(_WITH_FOUR.split(), 4),
}
_DECIMAL = re.compile(r"([+-]?)(\d{1,15})(?:\.(\d{0,17}))?")
_WORK_PLACES = 6
# One separator, and in front of it either plain digits or groups of three marked by the other separator.
_DECIMAL_POINT = r"^[+-]?(?:\d{1,12}|\d{1,3}(?:,\d{3})+)(?:\.\d{1,6})?$"
_DECIMAL_COMMA = r"^[+-]?(?:\d{1,12}|\d{1,3}(?:\.\d{3})+)(?:,\d{1,6})?$"


def places_of(currency: str) -> int:
    """How many decimals this currency has."""
    return _PLACES.get(currency, _DEFAULT_PLACES)


def exact_minor(text: str, currency: str) -> int | None:
    """A decimal text with a point in minor units, or None when it is no amount of this currency."""
    parts = _DECIMAL.fullmatch(text.strip())
    if not parts:
        return None
    places, fraction = places_of(currency), (parts[3] or "").rstrip("0")
    if len(fraction) > places:
        return None
    minor = int(parts[2]) * 10**places + int(fraction.ljust(places, "0") or 0)
    return -minor if parts[1] == "-" else minor


def exact_minor_column(text: pl.Expr, currency: pl.Expr) -> pl.Expr:
    """The same for columns, with a decimal point or a decimal comma; null when it is no amount of its currency.

    What may be either, such as 1,234 in a currency with two decimals, is a whole number of thousands in one reading
    and has too many decimals in the other; it is refused.
    """
    places = currency.replace_strict(_PLACES, default=_DEFAULT_PLACES, return_dtype=pl.Int64())
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
