"""Bank references: the texts of a bank entry that travel as they are.

Owns what makes one fit to travel: short, without control characters, and never a card number. Never sees free text.
"""

import re

from adapters.sources.tokens import token

CHARS_MAX = 128
_CARD_DIGITS_MIN = 13
_NONE = frozenset({"", "NOTPROVIDED", "NOT PROVIDED", "NONREF"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_CARD = re.compile(r"(?<!\d)(?:4\d{12}(?:\d{3})?|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6\d{15})(?!\d)")


def trimmed(text: str) -> str:
    """The text as it may travel, empty when it says that there is none."""
    cleaned = _CONTROL.sub(" ", text).strip()[:CHARS_MAX]
    return "" if cleaned.upper() in _NONE else cleaned


def reference(text: str, key: bytes) -> str:
    """The same for a reference that neither bank nor payer has chosen: a card number becomes a token."""
    cleaned = trimmed(text)
    return token(cleaned, key, "card") if holds_card_number(cleaned) else cleaned


def holds_card_number(text: str) -> bool:
    """Whether digits in the text, with or without blanks and hyphens between, make up a valid card number."""
    if len(text) < _CARD_DIGITS_MIN:
        return False
    return any(_is_luhn(found[0]) for found in _CARD.finditer(re.sub(r"(?<=\d)[ -](?=\d)", "", text)))


def _is_luhn(digits: str) -> bool:
    doubled = [int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0
