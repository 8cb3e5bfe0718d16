"""The pattern table: what in a bank's text names a claim payment or a card payout, and which way a type code goes.

Owns reading `patterns.toml` and searching texts with it. Never lets anything of a text out but the named groups.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from runtime.errors import ConfigError

LOCKBOX, CHECK_PAID = "lockbox", "check_paid"  # what a type code may mean besides a direction
_DIRECTIONS = {"credit": 1, LOCKBOX: 1, "debit": -1, CHECK_PAID: -1, "silent": 0}
TABLE = Path(__file__).with_name("patterns.toml")


class Trace(NamedTuple):
    """The trace of a claim payment: TRN02 and, where it was found, the payer's TRN03."""

    reference: str
    payer: str = ""


class PayoutPattern(NamedTuple):
    """How one processor's payout is written, and how the payout's id is made of it."""

    pattern: re.Pattern[str]
    reference: str


class TypeTable(NamedTuple):
    """BAI2 type codes: ranges of the specification, and what single banks add."""

    credit: range
    debit: range
    silent: frozenset[str]
    meanings: Mapping[str, str]  # code -> LOCKBOX or CHECK_PAID
    banks: Mapping[str, Mapping[str, str]]  # sender id -> code -> what it is there: a key of the table

    def direction(self, sender: str, code: str) -> int | None:
        """1 for money in, -1 for money out, 0 for none; None when nobody knows."""
        own = self.banks.get(sender, {}).get(code)
        if own is not None:
            return _DIRECTIONS[own]
        if code in self.silent:
            return 0
        number = int(code) if code.isdecimal() else -1
        return 1 if number in self.credit else -1 if number in self.debit else None

    def meant(self, sender: str, code: str) -> str:
        """LOCKBOX or CHECK_PAID where the code says so, otherwise nothing."""
        word = self.banks.get(sender, {}).get(code) or self.meanings.get(code, "")
        return word if word in (LOCKBOX, CHECK_PAID) else ""


class Patterns(NamedTuple):
    """The whole table."""

    traces: Sequence[re.Pattern[str]]
    claim_payments: Sequence[re.Pattern[str]]
    companies: Sequence[re.Pattern[str]]
    payouts: Sequence[PayoutPattern]
    types: TypeTable

    def trace(self, texts: Sequence[str]) -> Trace | None:
        """The first trace in the texts."""
        found = _first(self.traces, texts)
        return Trace(found["reference"], found.groupdict().get("payer") or "") if found else None

    def is_claim_payment(self, texts: Sequence[str]) -> bool:
        """Whether the texts say so in words."""
        return _first(self.claim_payments, texts) is not None

    def company(self, texts: Sequence[str]) -> str:
        """The originator's company id, or nothing."""
        found = _first(self.companies, texts)
        return found["company"] if found else ""

    def payout(self, texts: Sequence[str]) -> str:
        """The id of the card payout that the texts name, or nothing."""
        for payout in self.payouts:
            if found := _first([payout.pattern], texts):
                return payout.reference.format(**found.groupdict())
        return ""


def load(path: Path = TABLE) -> Patterns:
    """Read and check a table. Raises ConfigError naming the key."""
    with path.open("rb") as file:
        table = tomllib.load(file)
    try:
        return Patterns(
            traces=_compiled(table, "trace"),
            claim_payments=_compiled(table, "claim_payment"),
            companies=_compiled(table, "company"),
            payouts=[PayoutPattern(re.compile(row["pattern"]), row["reference"]) for row in table["payout"]],
            types=_types(table["bai2"]),
        )
    except (KeyError, re.error, TypeError, ValueError) as error:
        raise ConfigError(f"{path.name}: {type(error).__name__}: {error}") from None


def _compiled(table: Mapping, name: str) -> list[re.Pattern[str]]:
    return [re.compile(row["pattern"]) for row in table[name]]


def _types(table: Mapping) -> TypeTable:
    (credit_from, credit_to), (debit_from, debit_to) = table["credit"], table["debit"]
    banks = {bank: dict(_words(codes, _DIRECTIONS)) for bank, codes in table.get("bank", {}).items()}
    meanings = dict(_words(table, (LOCKBOX, CHECK_PAID)))
    return TypeTable(
        range(credit_from, credit_to + 1), range(debit_from, debit_to + 1), frozenset(table["silent"]), meanings, banks
    )


def _words(codes: Mapping[str, Sequence[str]], words: Iterable[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        yield from ((code, word) for code in codes.get(word, ()))


def _first(patterns: Sequence[re.Pattern[str]], texts: Sequence[str]) -> re.Match[str] | None:
    """The first pattern that is found at all, in a line before across lines."""
    if not texts:
        return None
    searched = ["\n".join(texts), "".join(texts)] if len(texts) > 1 else texts
    ways: list[Callable[[str], re.Match[str] | None]] = [pattern.search for pattern in patterns]
    return next((found for search in ways for text in searched if (found := search(text))), None)


PATTERNS = load()
