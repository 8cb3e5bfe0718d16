"""From cells of events to posting sets: rules and crosswalk joined in, sums by account and dimensions.

Owns the arithmetic of a set: every set is balanced because each pair of a rule takes the same amount on both sides.
Never books an event in part: if one role of it has no account, its whole cell is handed back as unmapped.
"""

from collections.abc import Mapping
from datetime import date
from functools import cache
from typing import NamedTuple

import numpy as np
import polars as pl

from runtime.effects import DELTAS
from runtime.ledger import amounts
from runtime.ledger.cells import NEGATIVE, Cells, grouped
from runtime.ledger.classes import rules
from runtime.ledger.crosswalk import Crosswalk
from runtime.ledger.owners import OWNED_FACILITY
from runtime.ledger.registers import Finding
from runtime.ledger.routes import Routes
from runtime.ledger.rules import Rule, Rulebook
from runtime.schema import among, tuples_of, where

_NUMBERS = ["amount_minor", "quantity", "attributes"]
_DRAWN = {1: "+", 0: "0", -1: "-"}
_FOUND = {"found_facility": pl.String(), "found_department": pl.String()}

_RULED, _NUMBERED = pl.col("rule") != "", pl.col("set_no") >= 0
_PERIOD = pl.col("month").dt.strftime("%Y-%m").alias("period")
_AS_IT_IS = ("cell", "rule", "entity", "currency", "payer", "drawn", "events")  # of a cell
_DIFFERS = ["_is_measured", "entity", "currency", "month", "lane", "kind", "document", "facility", "department"]
_KEPT = {  # what a rule drops is alike in all
    "month": pl.col("posted_on").dt.month_start(),
    "facility": pl.when("_keep_facility").then("facility").otherwise(pl.lit("")),
    "department": pl.when("_keep_department").then("department").otherwise(pl.lit("")),
}
_SET = [_KEPT.get(name, pl.col(name)).alias(name) for name in (*_DIFFERS, "route", "drawn", "mode")]
_IN_ORDER = [*_DIFFERS, "drawn", "_accounts"]


class Posted(NamedTuple):
    """`deltas`: lines in DELTAS columns. `set_no`: of each cell, -1 when it posts nothing, null when it is not booked.
    `missing`: the role of each cell that has no account, else ""."""

    deltas: pl.DataFrame
    set_no: pl.Series
    missing: pl.Series


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
        self._is_measured = among(self._pairs, "rule")
        self._plainly = _plainly(_turned(rulebook, named))
        self._inverting, self._owned = set(rulebook.inverting()), set(rulebook.owning()[1])
        self._looked_at = self._dimensions()
        self.open(opens_on)

    @property
    def told_apart(self) -> dict[str, set[str]]:
        """Columns that rules or the crosswalk look at for some kinds, and these kinds."""
        by_rule = {"reason": self._routes.coded, "counterparty": self._routes.by_partner, **self._by_column}
        kinds = {column: {name.partition("/")[0] for name in names} for column, names in by_rule.items()}
        return kinds | {"basis": self._inverting, OWNED_FACILITY: self._owned}

    def open(self, opens_on: Mapping[str, date]) -> None:
        """Set each entity's first open day: what is dated before it is posted on it."""
        opening = pl.col("entity").replace_strict(dict(opens_on), default=None, return_dtype=pl.Date())
        self._posted_on = pl.max_horizontal("effective_on", opening).alias("posted_on")

    def mapping_changed(self) -> None:
        """Forget remembered routes; called after the crosswalk took a version."""
        self._routes.mapping_changed()
        self._looked_at = self._dimensions()

    def _dimensions(self) -> list[pl.Expr]:
        """The columns that decide where a cell posts, empty where its rule does not look at them."""
        rule, document = pl.col("rule"), pl.lit("")
        for column, named in self._by_column.items():
            document = pl.when(rule.is_in(named)).then(column).otherwise(document)
        partner = pl.when(rule.is_in(self._routes.by_partner)).then(pl.col("counterparty").fill_null(""))
        code = pl.when(rule.is_in(self._routes.coded)).then(pl.col("reason").fill_null(""))
        return [
            pl.coalesce(pl.col("facility", OWNED_FACILITY, "found_facility"), pl.lit("")).alias("facility"),
            pl.coalesce(pl.col("department"), pl.col("found_department"), pl.lit("")).alias("department"),
            partner.otherwise(pl.lit("")).alias("counterparty"),
            code.otherwise(pl.lit("")).alias("code"),
            document.alias("document"),
            pl.col("basis").fill_null(""),
        ]

    # ── measures ───────────────────────────────────────────────────────────────────────────────────────────────────

    def measured(self, cells: Cells, events: pl.DataFrame, findings: Mapping[int, Finding]) -> Cells:
        """Cells (with their `rule`) with what they post: measures m0, m1, ..., which of them there are (`drawn`), and
        `turnover_minor`, what is debited where their kind alone does not tell.

        `findings`: what registers found of events, by id_hash. Rules with measures draw on them, so their cells are
        divided by what was found.
        """
        concerned = where(cells.frame, self._is_measured)
        if not concerned.any():
            return cells._replace(frame=cells.frame.with_columns(self._plainly))
        plain = cells.frame.filter(~concerned).with_columns(self._plainly)
        rows = cells.rows(concerned)
        place = cells.of[rows]
        found = self._found(events[["id_hash", *_NUMBERS]].filter(rows), cells.frame["rule"].gather(place), findings)
        by = ["cell", *_FOUND, "drawn"]
        sums = pl.col("amount_minor", "turnover_minor", *_measures(found)).sum()
        divided = grouped(found.with_columns(pl.Series("cell", place)), by, sums)
        kept = cells.frame[divided.frame["cell"]].drop("events", "amount_minor")
        of = (np.cumsum(~concerned.to_numpy()) - 1)[cells.of]
        of[rows] = len(plain) + divided.of
        frame = pl.concat([plain, kept.hstack(divided.frame.drop("cell"))], how="diagonal")
        return Cells(frame.with_columns(pl.col(_measures(frame)).fill_null(0)), of)

    def _found(self, events: pl.DataFrame, ruled: pl.Series, findings: Mapping[int, Finding]) -> pl.DataFrame:
        """The amount of each pair of each row's rule, and the dimensions that its register knows."""
        found = [findings.get(id, _UNFOUND) for id in events["id_hash"].to_list()]
        drawn = self._drawn_alike(events, ruled)
        rows = zip(found, tuples_of(events[_NUMBERS]), ruled.to_list(), strict=True)
        for number, (finding, (amount_minor, quantity, attributes), rule) in enumerate(rows):
            if attributes or any(finding.measures.values()):
                own = {"amount_minor": amount_minor, "quantity": amounts.whole(quantity), **finding.measures}
                given = amounts.attributes_of(attributes)
                evaluated = [amounts.evaluate(pair, own, given) for pair in self._pairs[rule]]
                drawn[: len(evaluated), number] = evaluated
        measures = [f"m{n}" for n in range(len(drawn))]
        frame = pl.DataFrame(
            {
                "found_facility": [finding.facility or None for finding in found],
                "found_department": [finding.department or None for finding in found],
                "amount_minor": events["amount_minor"],
                **dict(zip(measures, drawn, strict=True)),
            },
            schema_overrides=_FOUND,
        )
        return frame.with_columns(_turnover(len(measures)))

    def _drawn_alike(self, events: pl.DataFrame, ruled: pl.Series) -> np.ndarray:
        """The amount of each pair (rows) of each event (columns) where nothing but the event's own numbers counts."""
        drawn = np.zeros((max(map(len, self._pairs.values())), len(events)), np.int64)
        own = {
            "amount_minor": events["amount_minor"].to_numpy(),
            "quantity": amounts.wholes(events["quantity"].fill_null(0).to_numpy()),
        }
        for rule in ruled.unique():
            rows = np.flatnonzero((ruled == rule).to_numpy())
            own_here = {name: numbers[rows] for name, numbers in own.items()}
            for number, pair in enumerate(self._pairs[rule]):
                drawn[number, rows] = amounts.evaluate(pair, own_here, {})
        return drawn

    # ── posting ────────────────────────────────────────────────────────────────────────────────────────────────────

    def post(self, cells: pl.DataFrame, first_set_no: int) -> Posted:
        """Post cells with their rule and measures; set numbers go up from first_set_no. Cells without a rule are left
        out."""
        self._routes.forget_when_many()
        ruled = cells.with_row_index("cell")
        if (cells["rule"] == "").any():
            ruled = ruled.filter(_RULED)
        routed = self._routes.routed(self._placed(ruled))
        is_mapped = routed["missing"] == ""
        unmapped = routed[["cell", "missing"]].filter(~is_mapped)
        sets = self._sets(routed if is_mapped.all() else routed.filter(is_mapped), first_set_no)
        numbered = sets[["cell", "set_no"]].explode("cell")
        set_no = pl.Series("set_no", [None], pl.Int32()).new_from_index(0, len(cells))
        missing = pl.Series("missing", [""]).new_from_index(0, len(cells))
        return Posted(
            self._deltas(sets),
            set_no.scatter(numbered["cell"], numbered["set_no"]),
            missing.scatter(unmapped["cell"], unmapped["missing"]) if len(unmapped) else missing,
        )

    def _placed(self, cells: pl.DataFrame) -> pl.DataFrame:
        """Cells with their rule's terms, their posting day, and nothing that their rule does not look at."""
        placed = cells.select(*_AS_IT_IS, *_measures(cells), self._posted_on, *self._looked_at)
        return placed.join(self._routes.rules, on="rule", how="left")

    def _sets(self, routed: pl.DataFrame, first_set_no: int) -> pl.DataFrame:
        """Merge what differs only in what the rule drops, and number the sets in a stable order."""
        measures = _measures(routed)
        merged = routed.group_by(_SET).agg(pl.col(*measures, "events").sum(), pl.col("posted_on").max(), "cell")
        # Route numbers depend on what was seen before, so the order is by the roles and accounts they stand for.
        named = merged.hstack([self._routes.names()[merged["route"]]]).sort(_IN_ORDER)
        booked = (pl.col("mode") != "none") & pl.any_horizontal(pl.col(measures) != 0)
        return named.with_columns(
            pl.when(booked).then(booked.cast(pl.Int32()).cum_sum() + (first_set_no - 1)).otherwise(-1).alias("set_no"),
            _PERIOD,
        )

    def _deltas(self, sets: pl.DataFrame) -> pl.DataFrame:
        some = [name for name in sets.columns if name != "cell"]
        lines = sets[some].filter(_NUMBERED).join(self._routes.lines(), on="route")
        return lines.select(_as_deltas(len(_measures(sets)))).sort("set_no", "line_no")


_UNFOUND = Finding()
_NOT_FOUND = [pl.lit(None, dtype).alias(name) for name, dtype in _FOUND.items()]


def _turned(rulebook: Rulebook, named: Mapping[str, Rule]) -> dict[str, int]:
    """Rules that take the events' own amount while the kind alone does not tell how often: name -> pairs."""
    pairs = rulebook.pairs()
    plain = {name: len(rule.post) for name, rule in named.items() if rule.post and not rule.measured}
    return {name: count for name, count in plain.items() if not pairs[name.partition("/")[0]]}


def _plainly(turned: Mapping[str, int]) -> list[pl.Expr]:
    """What cells post whose rule takes the events' own amount: one measure, told apart by its sign."""
    often = pl.col("rule").replace_strict(dict(turned), default=None, return_dtype=pl.Int64())
    return [
        pl.col("amount_minor").alias("m0"),
        pl.when(NEGATIVE).then(pl.lit("-")).otherwise(pl.lit("+")).alias("drawn"),
        *_NOT_FOUND,
        (often * pl.col("amount_minor").abs()).alias("turnover_minor"),
    ]


@cache
def _turnover(measures: int) -> list[pl.Expr]:
    """Which of so many measures there are, and what they come to."""
    drawn = pl.col(*(f"m{n}" for n in range(measures)))
    signs = pl.concat_str(drawn.sign().replace_strict(_DRAWN, return_dtype=pl.String()))
    return [signs.alias("drawn"), pl.sum_horizontal(drawn.abs()).alias("turnover_minor")]


@cache
def _as_deltas(measures: int) -> list[pl.Expr]:
    """Lines of sets with so many measures in DELTAS columns."""
    taken = pl.coalesce(pl.when(pl.col("measure") == n).then(f"m{n}") for n in range(measures))
    side = pl.when(pl.col("debit") == (taken > 0)).then(pl.lit("D")).otherwise(pl.lit("C"))
    made = {"side": side, "amount_minor": taken.abs()}
    return [made.get(name, pl.col(name)).cast(dtype).alias(name) for name, dtype in DELTAS.items()]


def _measures(frame: pl.DataFrame) -> list[str]:
    """The names of a frame's measures, in order."""
    return [name for name in frame.columns if name[0] == "m" and name[1:].isdigit()]
