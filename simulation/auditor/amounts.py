"""Sums of names, evaluated term by term for one row."""

import json
from functools import cache
from math import isfinite
from typing import Any

Row = dict[str, Any]
LARGEST = 10**12
DEEPEST = 100


def attributes_of(row: Row) -> Row:
    """The attributes of a row, none where they can't be read."""
    text = row["attributes"] or "{}"
    readers = {"parse_constant": _finite, "parse_float": _finite, "object_pairs_hook": _object}
    try:
        read = {} if _depth(text) > DEEPEST else json.loads(text, **readers)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _object(pairs: list[tuple[str, Any]]) -> Row:
    """An object; half of a pair of surrogates is no text, and raises."""
    json.dumps(pairs, ensure_ascii=False).encode()
    return dict(pairs)


def _finite(text: str) -> float:
    if not isfinite(number := float(text)):
        raise ValueError("no number")
    return number


def _depth(text: str) -> int:
    """How many lists and objects stand within each other, at most."""
    depth = deepest = 0
    is_text = is_escaped = False
    for sign in text:
        if is_text:
            is_text, is_escaped = is_escaped or sign != '"', sign == "\\" and not is_escaped
        elif sign == '"':
            is_text = True
        else:
            depth += (sign in "[{") - (sign in "]}")
            deepest = max(deepest, depth)
    return deepest


def sum_of(text: str, row: Row, measures: Row | None = None) -> int:
    """The value of `a - b + c` for a row: its own numbers, then what a register found, then whole attributes."""
    if text == "amount_minor" and not measures:  # what most rules say
        return row["amount_minor"]
    quantity = row["quantity"] or 0  # in a log from before it had a bound it may be any number
    counted = quantity if abs(quantity) <= LARGEST else 0
    own = {"amount_minor": row["amount_minor"], "quantity": counted, **(measures or {})}
    terms = _terms(text)
    given = {} if all(word in own for _, word in terms) else attributes_of(row)
    total = 0
    for sign, word in terms:
        value = own[word] if word in own else given.get(word, 0)
        sound = isinstance(value, int) and not isinstance(value, bool) and (word in own or abs(value) <= LARGEST)
        total += sign * value if sound else 0
    return total


@cache
def _terms(text: str) -> list[tuple[int, str]]:
    """Each name of a sum with its sign."""
    terms, sign = [], 1
    for word in text.replace("-", " - ").replace("+", " + ").split():
        if word in "+-":
            sign = -1 if word == "-" else 1
        else:
            terms.append((sign, word))
            sign = 1
    return terms
