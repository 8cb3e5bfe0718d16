"""Whether what the sources sent, what the books hold and what the ERP shows are the same, to the cent.

Owns the comparison. Debit turnover is the measure: every booked event debits its amount once for each pair of its rule;
of kinds whose pairs take other amounts, the control totals say what was posted. Never reads anything itself.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec
import polars as pl

from runtime.ports import ErpAccount

Side = tuple[str, str]  # entity, currency


class TotalRow(msgspec.Struct, frozen=True, kw_only=True):
    """One entity and currency. `source_minor`: what its events should have booked; the rest is debit turnover."""

    entity: str
    currency: str
    source_minor: int
    books_minor: int
    erp_minor: int
    waiting_minor: int = 0  # in the books, not yet posted to the ERP
    posts: bool = True  # to this ERP; else its postings gather in the books

    @property
    def balanced(self) -> bool:
        """Whether all agree that hold it."""
        return self.source_minor == self.books_minor and (not self.posts or self.books_minor == self.erp_minor)


class AccountBreak(msgspec.Struct, frozen=True, kw_only=True):
    """An account whose posted turnover in the books differs from the ERP's."""

    entity: str
    currency: str
    account_code: str
    books_debit_minor: int
    books_credit_minor: int
    erp_debit_minor: int
    erp_credit_minor: int


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole comparison."""

    balanced: bool
    totals: list[TotalRow]
    breaks: list[AccountBreak]


def expected(totals: pl.DataFrame, pairs: Mapping[str, int]) -> dict[Side, int]:
    """What the control totals say should be booked: accepted less all that is not booked, times its rule's pairs.

    A kind of 0 pairs does not post its own amount: what it posted counts instead.
    """
    signs = {"accepted": 1, "pending": -1, "excepted": -1, "excluded": -1}
    lines = pl.col("kind").replace_strict(dict(pairs), default=1, return_dtype=pl.Int64())
    weight = pl.col("state").replace_strict(signs, default=0, return_dtype=pl.Int64()) * lines
    weight += ((pl.col("state") == "posted") & (lines == 0)).cast(pl.Int64())
    sums = totals.group_by("entity", "currency").agg((pl.col("amount_minor") * weight).sum().alias("minor"))
    return {(entity, currency): minor for entity, currency, minor in sums.iter_rows()}


def reconcile(
    source: Mapping[Side, int],
    balances: pl.DataFrame,
    erp: Iterable[ErpAccount],
    posting: Collection[str] | None = None,
) -> Reconciliation:
    """Compare. `balances` are Books.balances(); `erp` its trial balance, of the entities `posting` to it (None: all).
    Zero rows on all sides are left out."""
    in_erp = {(line.entity, line.currency, line.account_code): line for line in erp}
    books = {(row["entity"], row["currency"], row["account_code"]): row for row in balances.iter_rows(named=True)}
    compared = sorted(key for key in books | in_erp if posting is None or key[0] in posting)
    breaks = [found for key in compared if (found := _break(key, books.get(key), in_erp.get(key)))]
    sides = sorted({*source, *((entity, currency) for entity, currency, _ in books | in_erp)})
    rows = [_row(side, source.get(side, 0), books, in_erp) for side in sides]
    rows = [msgspec.structs.replace(row, posts=posting is None or row.entity in posting) for row in rows]
    rows = [row for row in rows if row.source_minor or row.books_minor or row.erp_minor]
    return Reconciliation(balanced=not breaks and all(row.balanced for row in rows), totals=rows, breaks=breaks)


def _row(side: Side, source_minor: int, books: Mapping, erp: Mapping) -> TotalRow:
    ours = [row for key, row in books.items() if key[:2] == side]
    booked = sum(row["debit_minor"] for row in ours)
    return TotalRow(
        entity=side[0],
        currency=side[1],
        source_minor=source_minor,
        books_minor=booked,
        erp_minor=sum(line.debit_minor for key, line in erp.items() if key[:2] == side),
        waiting_minor=booked - sum(row["posted_debit_minor"] for row in ours),
    )


def _break(key: tuple[str, str, str], book: Mapping | None, erp: ErpAccount | None) -> AccountBreak | None:
    ours = (book["posted_debit_minor"], book["posted_credit_minor"]) if book else (0, 0)
    theirs = (erp.debit_minor, erp.credit_minor) if erp else (0, 0)
    if ours == theirs:
        return None
    return AccountBreak(
        entity=key[0],
        currency=key[1],
        account_code=key[2],
        books_debit_minor=ours[0],
        books_credit_minor=ours[1],
        erp_debit_minor=theirs[0],
        erp_credit_minor=theirs[1],
    )
