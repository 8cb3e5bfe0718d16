"""From events to posting sets: rules and crosswalk joined in, sums by account and dimensions, whole columns at a time.

Owns the arithmetic of a set: every set is balanced because each pair of a rule takes the same amount on both sides.
Never books an event in part: if one role of it has no account, the whole event is handed back as unmapped.
"""

from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

import polars as pl

from runtime.effects import DELTAS, empty
from runtime.ledger import amounts
from runtime.ledger.classes import rules
from runtime.ledger.crosswalk import Crosswalk
from runtime.ledger.registers import Finding
from runtime.ledger.routes import Routes
from runtime.ledger.rules import Rulebook

_DRAWN = {1: "+", 0: "0", -1: "-"}


class Posted(NamedTuple):
    """`deltas`: lines in DELTAS columns. `set_of`: set number of each booked row (`row`, `set_no`; -1 when it posts
    nothing). `unmapped`: `row` and the `role` that has no account. `turnover`: what each measured row debits (`row`,
    `turnover_minor`)."""

    deltas: pl.DataFrame
    set_of: pl.DataFrame
    unmapped: pl.DataFrame
    turnover: pl.DataFrame


class PostingRules:
    """Posts events by a rulebook, a crosswalk and each entity's first open day."""

    def __init__(self, rulebook: Rulebook, crosswalk: Crosswalk, opens_on: Mapping[str, date]) -> None:
        self._routes = Routes(rulebook, crosswalk)
        named = rules(rulebook)
        self._by_column = {
            column: [name for name, rule in named.items() if rule.entry_by == column]
            for column in ("document", "reference", "correlation_id")
        }
        self._pairs = {
            name: tuple(amounts.terms(pair.amount) for pair in rule.post)
            for name, rule in named.items()
            if rule.measured
        }
        self.open(opens_on)

    def open(self, opens_on: Mapping[str, date]) -> None:
        """Set each entity's first open day: what is dated before it is posted on it."""
        self._opening = pl.DataFrame(
            {"entity": list(opens_on), "opens_on": list(opens_on.values())},
            schema={"entity": pl.String(), "opens_on": pl.Date()},
        )

    def mapping_changed(self) -> None:
        """Forget remembered routes; called after the crosswalk took a version."""
        self._routes.mapping_changed()

    def post(self, events: pl.DataFrame, first_set_no: int, findings: Mapping[int, Finding] | None = None) -> Posted:
        """Post rows (canonical columns plus `row`, `rule`, `id_hash`); set numbers go up from first_set_no.

        `findings`: what registers found of rows, by id_hash; rules with measures draw on them.
        """
        if events.is_empty():
            return _NOTHING
        self._routes.forget_when_many()
        concerned = events["rule"].is_in(list(self._pairs))
        if not concerned.any():
            return self._post_drawn(_drawn_plainly(events), first_set_no)
        measured = self._measured(events.filter(concerned), findings or {})
        plain = (
            _NOTHING if concerned.all() else self._post_drawn(_drawn_plainly(events.filter(~concerned)), first_set_no)
        )
        rest = self._post_drawn(measured, first_set_no + plain.deltas["set_no"].n_unique())
        turnover = measured.select("row", pl.sum_horizontal(pl.col(_measures(measured)).abs()).alias("turnover_minor"))
        return Posted(*(pl.concat(both) for both in zip(plain[:3], rest[:3], strict=True)), turnover)

    def _post_drawn(self, events: pl.DataFrame, first_set_no: int) -> Posted:
        """Post rows whose measures are drawn: columns m0, m1, ... and what they tell apart."""
        routed = self._routes.routed(self._sums(events))
        unmapped = routed.filter(pl.col("missing") != "").select("rows", role="missing").explode("rows")
        sets = self._sets(routed.filter(pl.col("missing") == ""), first_set_no)
        return Posted(
            self._deltas(sets),
            sets.select("rows", "set_no").explode("rows").rename({"rows": "row"}),
            unmapped.rename({"rows": "row"}),
            _NOTHING.turnover,
        )

    def _measured(self, events: pl.DataFrame, findings: Mapping[int, Finding]) -> pl.DataFrame:
        """Rows with the amount of each pair of their rule, and the dimensions that their register knows."""
        columns = ("id_hash", "rule", "amount_minor", "quantity", "attributes", "facility", "department")
        width = max(map(len, self._pairs.values()))
        drawn, places = [], []
        for id, rule, amount_minor, quantity, attributes, facility, department in events.select(columns).iter_rows():
            finding = findings.get(id, _UNFOUND)
            own = {"amount_minor": amount_minor, "quantity": quantity or 0, **finding.measures}
            given = amounts.attributes_of(attributes)
            found = [_evaluated(pair, own, given) for pair in self._pairs[rule]]
            drawn.append((*found, *(0 for _ in range(width - len(found)))))
            places.append((facility or finding.facility or None, department or finding.department or None))
        measures = pl.DataFrame(drawn, schema={f"m{n}": pl.Int64() for n in range(width)}, orient="row")
        dimensions = pl.DataFrame(places, schema={"facility": pl.String(), "department": pl.String()}, orient="row")
        signs = pl.concat_str(pl.all().sign().replace_strict(_DRAWN, return_dtype=pl.String()))
        told_apart = measures.select(signs.alias("drawn"))
        return events.with_columns(*dimensions, *measures, *told_apart)

    def _sums(self, events: pl.DataFrame) -> pl.DataFrame:
        """One row for each combination that a rule or the crosswalk can tell apart; `rows` lists its events."""
        partner = pl.col("counterparty").fill_null("")
        sums = events.group_by(
            "entity",
            "rule",
            "facility",
            "department",
            "currency",
            "effective_on",
            _chosen(events, self._routes.coded, pl.col("reason"), pl.lit("")).alias("code"),
            _chosen(events, self._routes.by_partner, partner, pl.lit("")).alias("counterparty"),
            self._document(events).alias("document"),
            (pl.col("counterparty").is_not_null()).alias("payer"),
            "drawn",
        ).agg(
            pl.col(_measures(events)).sum(),
            pl.len().cast(pl.Int64()).alias("events"),
            pl.col("row").alias("rows"),
        )
        return (
            sums.join(self._routes.rules, on="rule", how="left")
            .join(self._opening, on="entity", how="left")
            .with_columns(
                pl.col("facility", "department").fill_null(""),
                pl.max_horizontal("effective_on", "opens_on").alias("posted_on"),
            )
        )

    def _document(self, events: pl.DataFrame) -> pl.Expr:
        """What an event's entry is made by, empty for those that are summed up."""
        chosen = pl.lit("")
        for column, named in self._by_column.items():
            chosen = _chosen(events, named, pl.col(column), chosen)
        return chosen

    def _sets(self, routed: pl.DataFrame, first_set_no: int) -> pl.DataFrame:
        """Merge what differs only in what the rule drops, and number the sets in a stable order."""
        keys = [
            "entity",
            "currency",
            "month",
            "lane",
            "kind",
            "document",
            "facility",
            "department",
            "route",
            "drawn",
        ]
        measures = _measures(routed)
        merged = (
            routed.with_columns(
                pl.col("posted_on").dt.month_start().alias("month"),
                pl.when("_keep_facility").then("facility").otherwise(pl.lit("")).alias("facility"),
                pl.when("_keep_department").then("department").otherwise(pl.lit("")).alias("department"),
            )
            .group_by([*keys, "mode"])
            .agg(
                pl.col(measures).sum(),
                pl.col("events").sum(),
                pl.col("posted_on").max(),
                pl.col("rows").explode(),
            )
        )
        # Route numbers depend on what was seen before, so the order is by the roles and accounts they stand for.
        named = merged.join(self._routes.names(), on="route", how="left").sort(
            *(key for key in keys if key != "route"), "_accounts"
        )
        booked = (pl.col("mode") != "none") & pl.any_horizontal(pl.col(measures) != 0)
        return named.with_columns(
            pl.when(booked).then(booked.cast(pl.Int32()).cum_sum() + (first_set_no - 1)).otherwise(-1).alias("set_no"),
            pl.col("month").dt.strftime("%Y-%m").alias("period"),
        )

    def _deltas(self, sets: pl.DataFrame) -> pl.DataFrame:
        lines = sets.filter(pl.col("set_no") >= 0).drop("rows").join(self._routes.lines(), on="route")
        taken = pl.coalesce(pl.when(pl.col("measure") == n).then(name) for n, name in enumerate(_measures(sets)))
        side = pl.when(pl.col("debit") == (taken > 0)).then(pl.lit("D")).otherwise(pl.lit("C"))
        return (
            lines.with_columns(side.alias("side"), taken.abs().alias("amount_minor"))
            .select(pl.col(name).cast(dtype) for name, dtype in DELTAS.items())
            .sort("set_no", "line_no")
        )


_UNFOUND = Finding()
_NOTHING = Posted(
    empty(DELTAS),
    pl.DataFrame(schema={"row": pl.Int64(), "set_no": pl.Int32()}),
    pl.DataFrame(schema={"row": pl.Int64(), "role": pl.String()}),
    pl.DataFrame(schema={"row": pl.Int64(), "turnover_minor": pl.Int64()}),
)


def _drawn_plainly(events: pl.DataFrame) -> pl.DataFrame:
    """Rows whose rule takes their own amount: one measure, told apart by its sign."""
    sign = pl.when(pl.col("amount_minor") < 0).then(pl.lit("-")).otherwise(pl.lit("+"))
    return events.with_columns(pl.col("amount_minor").alias("m0"), sign.alias("drawn"))


def _measures(frame: pl.DataFrame) -> list[str]:
    """The names of a frame's measures, in order."""
    return [name for name in frame.columns if name[0] == "m" and name[1:].isdigit()]


def _evaluated(pair: amounts.Terms, own: Mapping[str, int], given: Mapping[str, object]) -> int:
    return amounts.evaluate(pair, lambda name: own[name] if name in own else amounts.whole(given.get(name)))


def _chosen(events: pl.DataFrame, rules: list[str], value: pl.Expr, other: pl.Expr) -> pl.Expr:
    """A value where the rule is one of these, the other one elsewhere; mostly, no row's is."""
    concerned = events["rule"].is_in(rules)
    return pl.when(concerned).then(value).otherwise(other) if concerned.any() else other
