"""Texts of X12 elements as exact values: amounts, days, codes, identifiers.

Owns what counts as one, strictly: an amount is an integer of minor units or it is none. Never guesses and never
raises, so that no value can travel in an exception.
"""

import re
from datetime import date
from functools import lru_cache

import xxhash

from runtime import limits
from runtime.currencies import USUAL_DIGITS

DAY_MS = 86_400_000
TEXT_CHARS_MAX = 128

_DECIMAL = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?")
_DIGITS_MAX = 15
_FAST_DIGITS_MAX = len(str(limits.AMOUNT_MINOR_MAX)) - 1  # of a minor unit: whatever they are, it is below the limit
_POWERS = (1, 10, 100, 1000, 10_000)
_PARTY_NUMBER = re.compile(r"\d[\d-]{5,14}")  # NPI, TIN, plan's number
_CODE = re.compile(r"[A-Z0-9]{1,6}")
_EPOCH_DAY = date(1970, 1, 1).toordinal()


def minor_units(text: str, places: int = USUAL_DIGITS) -> int | None:
    """A decimal with at most so many places (further zeros add nothing) in minor units; None for anything else."""
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    # What nearly every amount looks like, before the general form. In Latin-1 only 0 to 9 are decimal.
    if len(fraction) <= places and len(whole) + places <= _FAST_DIGITS_MAX and digits.isdecimal():
        return int(digits) * _POWERS[places - len(fraction)]
    return _minor_units(text, places)


def _minor_units(text: str, places: int) -> int | None:
    match = _DECIMAL.fullmatch(text.strip())
    if not match or not (match[2] or match[3]) or len(match[2]) > _DIGITS_MAX:
        return None
    fraction = (match[3] or "").rstrip("0")
    if len(fraction) > places:
        return None
    size = int(match[2] or 0) * _POWERS[places] + int(fraction.ljust(places, "0") or 0)
    return None if size > limits.AMOUNT_MINOR_MAX else -size if match[1] == "-" else size


@lru_cache(maxsize=4096)
def day(text: str) -> int | None:
    """CCYYMMDD, YYMMDD or the first day of a range, in days since 1970; None for anything else."""
    digits = text.strip().partition("-")[0]
    if len(digits) == 6:
        digits = "20" + digits
    if len(digits) != 8 or not digits.isdecimal():
        return None
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).toordinal() - _EPOCH_DAY
    except ValueError:
        return None


def clock_ms(text: str) -> int:
    """HHMM or HHMMSS within a day; midnight for anything else."""
    digits = text.strip()[:6].ljust(6, "0")
    if not digits.isdecimal():
        return 0
    hours, minutes, seconds = int(digits[:2]), int(digits[2:4]), int(digits[4:])
    return (hours * 3600 + minutes * 60 + seconds) * 1000 if max(hours - 23, minutes - 59, seconds - 59) <= 0 else 0


@lru_cache(maxsize=4096)
def is_code(text: str) -> bool:
    """Whether a text has the form of a code: what leaves as a code can be no name and no sentence."""
    return bool(_CODE.fullmatch(text))


def party_number(text: str) -> str:
    """The number of an organisation that may travel as it is; empty for anything else, which may be a name."""
    number = text.strip()
    return number if _PARTY_NUMBER.fullmatch(number) else ""


def text(raw: str) -> str:
    """An element as text, with the letters that UTF-8 bytes stand for."""
    stripped = raw.strip(" ")
    return stripped if stripped.isascii() else stripped.encode("latin-1").decode("utf-8", "replace")


def clipped(value: str) -> str | None:
    """An identifier that may travel as it is; None when empty."""
    return value[:TEXT_CHARS_MAX] or None


def element(elements: list[str], index: int) -> str:
    """An element by its number; empty when the segment is shorter."""
    return elements[index] if index < len(elements) else ""


def identity_of(*parts: str) -> str:
    """16 hex digits that stand for these texts."""
    return xxhash.xxh64_hexdigest("\x1f".join(parts).encode())


def number(text: str) -> int | None:
    """A count or control number; None for anything else."""
    digits = text.strip()
    return int(digits) if digits.isdecimal() and len(digits) <= _DIGITS_MAX else None
