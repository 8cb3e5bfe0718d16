"""The books as a plain-text journal for hledger, which adds them up again with code that is not ours.

Owns how a posting set is written: one transaction a set, one posting a line, nothing summed and nothing left out.
Never reads the books, and holds no more than one page of them and the names of the accounts.

An account is named entity:account:role. So hledger's own `--depth 2` gives the trial balance, by the account codes
that the ERP knows, and the full depth tells what each of these accounts consists of. Declarations stand at the end:
the accounts are known only when all sets are written, and a journal that was cut short fails `check --strict`.
"""

from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple
from urllib.parse import quote

import polars as pl

_MARKS = {"": "", "posted": "* "}  # by the state of the set's entry, if it is in one
_PENDING = "! "  # in all other states
_OPENING = "; The books of Penstock, a posting set a transaction. Accounts: entity:account:role.\n\ndecimal-mark .\n\n"


class _Line(NamedTuple):
    """What is read of a posting line. The first three name its set."""

    shard: int
    position: str
    set_no: int
    entity: str
    currency: str
    period: str
    posted_on: str
    mode: str
    kind: str
    document: str
    events: int
    entry_key: str
    entry_state: str
    erp_ref: str
    facility: str
    department: str
    variance: str
    role: str
    account_code: str
    mapping_version: int
    side: str
    amount_minor: int


class Journal:
    """One journal in the making: the opening, a text for each page, the closing. `places` tells how many decimals a
    currency has."""

    def __init__(self, places: Callable[[str], int]) -> None:
        self._places = places
        self._accounts: set[str] = set()
        self._currencies: set[str] = set()
        self.sets = 0

    def opening(self) -> str:
        """What stands before the first set."""
        return _OPENING

    def page(self, lines: pl.DataFrame) -> str:
        """The transactions of whole posting sets: columns as `Books.posting_pages` gives them. What a replaced entry
        keeps is left out: other postings stand instead."""
        kept = lines.filter(pl.col("entry_state") != "replaced")
        rows = map(_Line._make, kept.select(_Line._fields).iter_rows())
        return "".join(self._transaction(list(of_set)) for _, of_set in groupby(rows, itemgetter(slice(3))))

    def closing(self) -> str:
        """The declarations of all that was used, and how many sets there were."""
        currencies = [f"commodity {self._sample(currency)} {currency}\n" for currency in sorted(self._currencies)]
        accounts = [f"account {account}\n" for account in sorted(self._accounts)]
        return "".join([*currencies, "\n", *accounts, f"\n; posting sets: {self.sets}\n"])

    def _transaction(self, lines: list[_Line]) -> str:
        self.sets += 1
        return "".join([_head(lines[0]), *map(self._posting, lines), "\n"])

    def _posting(self, line: _Line) -> str:
        account = ":".join(plain(part) for part in (line.entity, line.account_code, line.role))
        self._accounts.add(account)
        self._currencies.add(line.currency)
        signed_minor = line.amount_minor if line.side == "D" else -line.amount_minor
        amount = decimal_text(signed_minor, self._places(line.currency))
        dimensions = {"facility": line.facility, "department": line.department, "variance": line.variance}
        tags = _tags(**dimensions, mapping=line.mapping_version)
        return f"    {account:<40}  {amount:>18} {line.currency}  ; {tags}\n"

    def _sample(self, currency: str) -> str:
        """An amount that shows the currency's decimals; hledger wants the mark even if none follow."""
        places = self._places(currency)
        return f"1000.{'0' * places}"


def decimal_text(minor: int, places: int) -> str:
    """Minor units as an exact decimal."""
    return f"{Decimal(minor).scaleb(-places):f}"


@lru_cache(maxsize=100_000)
def plain(text: str) -> str:
    """A text that hledger can't take for syntax, in ASCII so that it reads it in every locale. Other characters than
    letters, digits and _ . - ~ / are percent-encoded, so different texts stay different."""
    return quote(text)


def _head(line: _Line) -> str:
    mark = _MARKS.get(line.entry_state, _PENDING)
    tags = _tags(
        period=line.period,
        mode=line.mode,
        document=line.document,
        events=line.events,
        entry=line.entry_key,
        state=line.entry_state,
        erp=line.erp_ref,
    )
    code = f"{line.shard}/{line.position}/{line.set_no}"
    return f"{line.posted_on} {mark}({code}) {plain(line.kind)}  ; {tags}\n"


def _tags(**values: object) -> str:
    """hledger's tags; an empty value is none."""
    return ", ".join(f"{name}:{plain(str(value))}" for name, value in values.items() if value != "")
