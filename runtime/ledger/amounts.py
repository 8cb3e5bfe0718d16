"""Sums of named amounts, as rules write them: `amount_minor - tax_minor + prepaid_minor`.

Owns reading such a sum and evaluating it. A name is the event's own `amount_minor` or `quantity`, a measure that a
register found, or a whole number among the event's attributes; what is absent counts as zero.
"""

import re
from collections.abc import Mapping
from itertools import accumulate

import msgspec
import numpy as np

from runtime.errors import RulebookError
from runtime.limits import AMOUNT_MINOR_MAX, ATTRIBUTES_DEPTH_MAX

AMOUNT = "amount_minor"

_SUM = re.compile(r"\s*([+-]?)\s*([a-z][a-z0-9_]*)")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_DEEPER = {"[": 1, "{": 1, "]": -1, "}": -1}

Terms = tuple[tuple[int, str], ...]  # (1 or -1, name)


def terms(text: str) -> Terms:
    """The terms of a sum. Raises RulebookError."""
    found, at = [], 0
    while at < len(text):
        term = _SUM.match(text, at)
        if not term or (found and not term[1]):
            raise RulebookError(f"amount {text!r}: expected names joined by + and -")
        found.append((-1 if term[1] == "-" else 1, term[2]))
        at = term.end()
    if not found:
        raise RulebookError("amount: empty")
    return tuple(found)


def attributes_of(text: str | None) -> Mapping[str, object]:
    """An event's attributes; empty when there are none, or none that can be read."""
    if not text or _is_too_deep(text):
        return {}
    try:
        read = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return read if isinstance(read, dict) else {}


def _is_too_deep(text: str) -> bool:
    """Whether values stand within each other too often. How deep the parser itself goes depends on the stack of its
    caller: it would raise in one process what it reads in another."""
    if text.count("[") + text.count("{") <= ATTRIBUTES_DEPTH_MAX:
        return False
    steps = (_DEEPER.get(sign, 0) for sign in _STRING.sub("", text))
    return max(accumulate(steps, initial=0)) > ATTRIBUTES_DEPTH_MAX


def whole(value: object) -> int:
    """A quantity, or a number among attributes; what is no whole number in the range of amounts counts as zero. No
    door takes such a quantity, but a log may hold one from before that was so."""
    sound = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= AMOUNT_MINOR_MAX
    return value if sound else 0


def wholes(numbers: np.ndarray) -> np.ndarray:
    """The same of a column of integers."""
    return np.where((numbers >= -AMOUNT_MINOR_MAX) & (numbers <= AMOUNT_MINOR_MAX), numbers, 0)


def evaluate(sum_of: Terms, own: Mapping[str, int], given: Mapping[str, object]) -> int:
    """A sum: each name is one of an event's own numbers, or stands among its attributes."""
    total = 0
    for sign, name in sum_of:
        total += sign * (own[name] if name in own else whole(given.get(name)))
    return total
