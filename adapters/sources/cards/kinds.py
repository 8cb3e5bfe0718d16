"""The table of categories: what each row of a settlement file is, as events and in the payout's sum.

Owns reading `kinds.toml`. Never looks at an amount.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from runtime.errors import ConfigError

TABLE = Path(__file__).with_name("kinds.toml")
FEE_KIND = "card_fee_charged"

Role = Literal["member", "payout", "review"]


class Category(NamedTuple):
    """A category by the direction of its money: the kinds, and the factors that make the event's amount of `gross`."""

    role: Role
    kind_in: str = ""
    kind_out: str = ""
    sign_in: int = 1
    sign_out: int = 1
    fee_kind: str = FEE_KIND


def load(name: str, path: Path = TABLE) -> dict[str, Category]:
    """The categories of one format. Raises ConfigError naming the category."""
    return {category: _category(name, category, row) for category, row in _table(path)[name].items()}


def zones(path: Path = TABLE) -> dict[str, str]:
    """Time zones by the abbreviations that files use."""
    return _table(path)["zones"]


def _table(path: Path) -> dict:
    with path.open("rb") as file:
        return tomllib.load(file)


def _category(name: str, category: str, row: Mapping) -> Category:
    fee_kind = row.get("fee", FEE_KIND)
    if row.get("closes"):
        return Category("payout")
    if row.get("review"):
        return Category("review")
    if "held" in row:
        return Category("member", row["released"], row["held"], 1, -1, fee_kind)
    if "kind" in row and row.get("sign") in (1, -1):
        return Category("member", row["kind"], row["kind"], row["sign"], row["sign"], fee_kind)
    raise ConfigError(f"{TABLE.name}: {name}.{category}: needs kind and sign, held and released, closes, or review")


def with_categories(rows: pl.DataFrame, categories: Mapping[str, Category]) -> pl.DataFrame:
    """Add `role`, `kind`, `sign` and `fee_kind` to rows with `category` and `gross_minor`; role is null if unmapped."""
    comes_in = pl.col("gross_minor") >= 0
    return rows.with_columns(
        _looked_up(categories, "role", pl.String()).alias("role"),
        pl.when(comes_in)
        .then(_looked_up(categories, "kind_in", pl.String()))
        .otherwise(_looked_up(categories, "kind_out", pl.String()))
        .alias("kind"),
        pl.when(comes_in)
        .then(_looked_up(categories, "sign_in", pl.Int64()))
        .otherwise(_looked_up(categories, "sign_out", pl.Int64()))
        .alias("sign"),
        _looked_up(categories, "fee_kind", pl.String()).alias("fee_kind"),
    )


def _looked_up(categories: Mapping[str, Category], field: str, dtype: pl.DataType) -> pl.Expr:
    known = {name: getattr(category, field) for name, category in categories.items()}
    return pl.col("category").replace_strict(known, default=None, return_dtype=dtype)
