"""Templates of requests, as data from the configuration: JSON, addresses, headers and CSV columns with placeholders.

Owns the placeholders, what each may be followed by, and that a wrong one is found at the start. A template is any JSON
value whose texts hold `{name}` or `{name:form}`; `{"$each": "lines", "$of": template}` stands for one value a line.
Forms: of a date, a strftime format; of an amount, `number` (a JSON number, alone in its text) or `minor` (the same in
minor units); of a text, the characters that there is room for: a longer key becomes a short name, other texts are cut.
"""

from collections.abc import Callable, Mapping
from datetime import date
from string import Formatter
from typing import Any, NamedTuple

import msgspec

from adapters.erp.http.amounts import decimal_text, signed_minor
from adapters.erp.http.naming import short_name
from runtime.errors import ConfigError
from runtime.ports import JournalEntry, JournalLine

SHORT_NAME_CHARS_MIN = 16  # 70 bits and more, so that two keys don't meet in one
EACH, OF = "$each", "$of"

Values = Mapping[str, Any]
Render = Callable[[Values], Any]


class Amount(NamedTuple):
    """Money on its way into a template."""

    minor: int
    currency: str


class Scope(NamedTuple):
    """What a template may name at one place: texts, amounts and dates by name, and what it may repeat over."""

    names: Mapping[str, type]
    loops: Mapping[str, "Scope"]


_ENTRY = {
    **dict.fromkeys(("key", "full_key", "digest", "document"), str),
    **dict.fromkeys(("entity", "company", "currency", "period", "mode"), str),
    "date": date,
    "total": Amount,
}
_LINE = {
    **dict.fromkeys(("account", "side", "facility", "department", "variance", "text", "line_no"), str),
    **dict.fromkeys(("amount", "debit", "credit", "signed"), Amount),
}
LINE = Scope({**_ENTRY, **_LINE}, {})
ENTRY = Scope(_ENTRY, {"lines": LINE})
CALL = Scope({}, {"entries": ENTRY})
KEY = Scope({"key": str}, {})
KEYS = Scope({"keys": str}, {})


class Template:
    """One template, checked for a scope. `uses` holds the names and loops that it has."""

    def __init__(self, value: Any, scope: Scope, place: str, escape: Callable[[str], str] = str) -> None:
        self.uses: set[str] = set()
        self._escape = escape
        self._render = self._compiled(value, scope, place)

    def __call__(self, values: Values) -> Any:
        """The template filled in."""
        return self._render(values)

    def _compiled(self, value: Any, scope: Scope, place: str) -> Render:
        if isinstance(value, str):
            return self._text(value, scope, place)
        if isinstance(value, Mapping) and EACH in value:
            return self._loop(value, scope, place)
        if isinstance(value, Mapping):
            parts = {name: self._compiled(each, scope, f"{place}.{name}") for name, each in value.items()}
            return lambda values: {name: render(values) for name, render in parts.items()}
        if isinstance(value, list | tuple):
            listed = [self._compiled(each, scope, f"{place}.{i}") for i, each in enumerate(value)]
            return lambda values: [render(values) for render in listed]
        if isinstance(value, float):
            raise ConfigError(f"{place}: write numbers with a fraction as text")
        return lambda values: value

    def _loop(self, value: Mapping[str, Any], scope: Scope, place: str) -> Render:
        over = value[EACH]
        if value.keys() != {EACH, OF} or over not in scope.loops:
            known = ", ".join(scope.loops) or "nothing"
            raise ConfigError(f"{place}: needs {EACH} and {OF}, and can repeat over {known} here")
        self.uses.add(over)
        each = self._compiled(value[OF], scope.loops[over], f"{place}.{OF}")
        return lambda values: [each({**values, **inner}) for inner in values[over]]

    def _text(self, text: str, scope: Scope, place: str) -> Render:
        parts = _parsed(text, place)
        for _, name, form in parts:
            if name:
                _check(name, form, scope, place)
        self.uses.update(name for _, name, _ in parts if name)
        numbers = [name for _, name, form in parts if form in _NUMBER_FORMS and scope.names.get(name) is Amount]
        if numbers and len(parts) > 1:
            raise ConfigError(f"{place}: a number must stand alone in its text")
        if numbers:
            [(_, name, form)] = parts
            return lambda values: msgspec.Raw(_formatted(name, values[name], form).encode())
        return lambda values: "".join(
            literal + (self._escape(_formatted(name, values[name], form)) if name else "")
            for literal, name, form in parts
        )


_NUMBER_FORMS = ("number", "minor")


def _parsed(text: str, place: str) -> list[tuple[str, str, str]]:
    """(literal, name, form) for each part; the last name may be empty."""
    try:
        parts = [(literal, name or "", form or "") for literal, name, form, _ in Formatter().parse(text)]
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from None
    return parts or [("", "", "")]


def _check(name: str, form: str, scope: Scope, place: str) -> None:
    if name not in scope.names:
        known = ", ".join(scope.names) or "no placeholder"
        raise ConfigError(f"{place}: there is no {{{name}}} here; known are {known}")
    kind = scope.names[name]
    if kind is Amount and form not in ("", *_NUMBER_FORMS):
        raise ConfigError(f"{place}: {{{name}}} takes the form number or minor")
    if kind is str and form and not form.isdigit():
        raise ConfigError(f"{place}: {{{name}}} takes a number of characters")
    if name == "key" and form and int(form) < SHORT_NAME_CHARS_MIN:
        raise ConfigError(f"{place}: a key needs room for {SHORT_NAME_CHARS_MIN} characters")


def _formatted(name: str, value: Any, form: str) -> str:
    if isinstance(value, Amount):
        return str(value.minor) if form == "minor" else decimal_text(*value)
    if isinstance(value, date):
        return value.strftime(form) if form else value.isoformat()
    if form and len(value) > int(form):
        return short_name(value, int(form)) if name == "key" else value[: int(form)]
    return value


def values_of(entry: JournalEntry, name: str, company: str, sides: Mapping[str, str]) -> dict[str, Any]:
    """What an entry's templates are filled with; `name` is its key as it is sent."""
    debits = sum(line.amount_minor for line in entry.lines if line.side == "D")
    return {
        "key": name,
        "full_key": entry.key,
        "digest": entry.digest,
        "document": entry.document,
        "entity": entry.entity,
        "company": company,
        "currency": entry.currency,
        "period": entry.period,
        "mode": entry.mode,
        "date": entry.posted_on,
        "total": Amount(debits, entry.currency),
        "lines": [_line_values(i, line, entry.currency, sides) for i, line in enumerate(entry.lines, 1)],
    }


def _line_values(number: int, line: JournalLine, currency: str, sides: Mapping[str, str]) -> dict[str, Any]:
    debit = line.amount_minor if line.side == "D" else 0
    return {
        "account": line.account_code,
        "side": sides[line.side],
        "facility": line.facility,
        "department": line.department,
        "variance": line.variance,
        "text": line.text,
        "line_no": str(number),
        "amount": Amount(line.amount_minor, currency),
        "debit": Amount(debit, currency),
        "credit": Amount(line.amount_minor - debit, currency),
        "signed": Amount(signed_minor(line), currency),
    }


def at(value: Any, path: str) -> Any:
    """What lies at a path like `data.0.id`; None where there is nothing, the value itself at ""."""
    for step in path.split(".") if path else ():
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def text_at(value: Any, path: str) -> str:
    """The same as text: "" where there is nothing, true and false as JSON has them."""
    found = at(value, path)
    if found is None or isinstance(found, dict | list):
        return ""
    return str(found).lower() if isinstance(found, bool) else str(found)
