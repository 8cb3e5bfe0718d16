"""A commit's postings as rows of the books' tables, and back.

Owns their form: a posting set is one row, whose lines are a JSON array of arrays in the order of LINE. A row for each
line costs a commit twice as much. Stores nothing.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec
import numpy as np
import polars as pl

from adapters.books import frames
from runtime.effects import DELTAS

LINE = tuple(name for name in frames.LINE_COLUMNS if name != "set_no")
ROWS_AT_ONCE = 10_000  # stored sets that are unpacked together

_ACCOUNT = ("entity", "currency", "account_code")
_BALANCED = {
    **{name: pl.String() for name in (*_ACCOUNT, "side")},
    "posted": pl.Int32(),
    "amount_minor": pl.Int64(),
}
_TEXTS = tuple(name for name in LINE if DELTAS[name] == pl.String())
_FORM = ",".join('"{}"' if name in _TEXTS else "{}" for name in LINE)
_IN_JSON = pl.format(f"[{_FORM}]", *LINE)
_ESCAPED = re.compile(r'["\\\x00-\x1f]')  # what JSON does not take as it is
_Line = tuple[int, str, str, str, str, str, int, str, int]
_READ, _READ_ALL = msgspec.json.Decoder(list[_Line]), msgspec.json.Decoder(list[list[_Line]])


def posting_rows(deltas: pl.DataFrame, place: dict[str, int], now_ms: int) -> pl.DataFrame:
    """The rows of posting_sets. ValueError for a set whose lines contradict each other."""
    ordered = frames.without_gaps(deltas).sort("set_no", "line_no")
    sets = ordered.select(frames.SET_COLUMNS).unique(maintain_order=True)
    lines = _escaped(ordered).select("set_no", _IN_JSON.alias("lines"))
    gathered = lines.group_by("set_no", maintain_order=True).agg("lines")
    if _has_line_twice(ordered) or not sets["set_no"].equals(gathered["set_no"]):
        raise ValueError("posting sets: a set has a line twice, or lines that do not agree in what is the set's")
    return sets.with_columns(
        pl.format("[{}]", gathered["lines"].list.join(",", ignore_nulls=False)).alias("lines"),
        *(pl.lit(value).alias(name) for name, value in place.items()),
        pl.col("posted_on").cast(pl.String()),
        pl.lit(now_ms).alias("committed_at_ms"),
    )


def read_lines(stored: str) -> list[tuple]:
    """The lines of one set, as tuples in the order of LINE."""
    return _READ.decode(stored)


def unpacked(rows: Iterable[tuple], columns: dict[str, pl.DataType]) -> pl.DataFrame:
    """A frame of these columns with a row for each line, from rows of sets.

    A row has, in order, the columns that do not belong to a line, and then `lines` as they are stored.
    """
    of_set = {name: dtype for name, dtype in columns.items() if name not in LINE}
    sets = frames.frame_of(rows, {**of_set, "lines": pl.String()})
    held = _READ_ALL.decode(f"[{','.join(sets['lines'].to_list())}]")
    by_column = dict(zip(LINE, zip(*chain.from_iterable(held), strict=True), strict=False))  # no columns of no lines
    lines = pl.DataFrame(by_column, schema={name: DELTAS[name] for name in LINE})
    place = np.repeat(np.arange(len(held)), [len(lines) for lines in held])
    return sets[place].hstack(lines.get_columns()).select(*columns)


def balances_of(parts: Iterable[Sequence[tuple]]) -> pl.DataFrame:
    """Columns BALANCES from many sets, a part of them at a time, as `queries.balances` gives them."""
    debit, posted, amount = pl.col("side") == "D", pl.col("posted") == 1, pl.col("amount_minor")
    chosen = {
        "debit_minor": debit,
        "credit_minor": ~debit,
        "posted_debit_minor": posted & debit,
        "posted_credit_minor": posted & ~debit,
    }
    sums = [amount.filter(lines).sum().alias(name) for name, lines in chosen.items()]
    held = [unpacked(part, _BALANCED).group_by(_ACCOUNT).agg(sums) for part in parts]
    whole = pl.concat([pl.DataFrame(schema=frames.BALANCES), *held])
    return whole.group_by(_ACCOUNT).agg(pl.col(list(chosen)).sum()).sort(_ACCOUNT)


def nets_of(role: str, lines: Iterable[tuple]) -> dict[tuple[str, str], int]:
    """Debits less credits of a role by account and currency, of lines in the order of LINE behind their currency."""
    nets: Counter[tuple[str, str]] = Counter()
    for currency, *line in lines:
        of = dict(zip(LINE, line, strict=True))
        if of["role"] == role:
            nets[of["account_code"], currency] += of["amount_minor"] if of["side"] == "D" else -of["amount_minor"]
    return {place: net for place, net in sorted(nets.items()) if net}


def _has_line_twice(ordered: pl.DataFrame) -> bool:
    key = pl.col("set_no", "line_no")
    return ordered.select(pl.all_horizontal(key == key.shift()).any()).item()


def _escaped(lines: pl.DataFrame) -> pl.DataFrame:
    """Lines whose texts may stand in JSON. They are made of few words, nearly all of which may as they are."""
    words = chain.from_iterable(lines[name].unique().drop_nulls() for name in _TEXTS)
    if not any(map(_ESCAPED.search, words)):
        return lines
    return lines.with_columns(pl.col(_TEXTS).map_elements(_in_json, return_dtype=pl.String()))


def _in_json(text: str) -> str:
    return msgspec.json.encode(text).decode()[1:-1]
