"""From events to posting sets: rules and crosswalk joined in, sums by account and dimensions, whole columns at a time.

Owns the arithmetic of a set: every set is balanced because each pair of a rule takes the same amount on both sides.
Never books an event in part: if one role of it has no account, the whole event is handed back as unmapped.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import NamedTuple

import polars as pl

from runtime.effects import DELTAS, empty
from runtime.ledger.classes import rules
from runtime.ledger.crosswalk import Crosswalk, Mapped, Place
from runtime.ledger.rules import Role, Rule, Rulebook

ANSWERS_MAX = 200_000  # remembered crosswalk answers and routes; more than a shard's real combinations

_SPOT = ("entity", "rule", "payer", "facility", "department", "era", "code")
_ROUTE_LINES = {
    "route": pl.Int32(),
    "line_no": pl.Int16(),
    "role": pl.String(),
    "account_code": pl.String(),
    "mapping_version": pl.Int32(),
    "debit": pl.Boolean(),
}


class Posted(NamedTuple):
    """`deltas`: lines in DELTAS columns. `set_of`: set number of each booked row (`row`, `set_no`; -1 when its amount
    is zero). `unmapped`: `row` and the `role` that has no account."""

    deltas: pl.DataFrame
    set_of: pl.DataFrame
    unmapped: pl.DataFrame


class Spot(NamedTuple):
    """Everything that decides on accounts. What no mapping of the rule's roles asks for is left empty; `era` counts
    the days until then on which a mapping began."""

    entity: str
    rule: str
    payer: bool
    facility: str
    department: str
    era: int
    code: str


class Route(NamedTuple):
    """Where a combination of dimensions posts: the accounts of each line, None where `missing` has no account."""

    number: int
    missing: str


class PostingRules:
    """Posts events by a rulebook, a crosswalk and each entity's first open day."""

    def __init__(self, rulebook: Rulebook, crosswalk: Crosswalk, opens_on: Mapping[str, date]) -> None:
        self._rules, self._roles = rules(rulebook), rulebook.role
        self._crosswalk = crosswalk
        self._routes: dict[tuple, Route] = {}
        self._lines: list[tuple] = []
        self._numbers: dict[tuple, int] = {}
        self._coded = [name for name, rule in self._rules.items() if self._by_reason(rule)]
        self._by_document = [name for name, rule in self._rules.items() if rule.entry_by == "document"]
        self._by_reference = [name for name, rule in self._rules.items() if rule.entry_by == "reference"]
        self._opening = pl.DataFrame(
            {"entity": list(opens_on), "opens_on": list(opens_on.values())},
            schema={"entity": pl.String(), "opens_on": pl.Date()},
        )
        self.mapping_changed()

    def mapping_changed(self) -> None:
        """Forget remembered routes; called after the crosswalk took a version."""
        self._routes.clear()
        self._numbers.clear()
        self._lines.clear()
        rows = [row for _, row in self._crosswalk.dump()]
        self._eras = pl.Series(sorted({date.min, *(row.valid_from for row in rows)}), dtype=pl.Date())
        of_facility = {row.role for row in rows if row.facility}
        of_department = {row.role for row in rows if row.department}
        self._rule_frame = _rule_frame(
            (name, rule, not of_facility.isdisjoint(asked), not of_department.isdisjoint(asked))
            for name, rule in self._rules.items()
            for asked in [self._asked_of(rule)]
        )

    def post(self, events: pl.DataFrame, first_set_no: int) -> Posted:
        """Post rows (canonical columns plus `row` and `rule`); set numbers go up from first_set_no."""
        if events.is_empty():
            return Posted(empty(DELTAS), _SET_OF, _UNMAPPED)
        self._forget_when_many()
        sums = self._sums(events)
        routed = self._routed(sums)
        unmapped = routed.filter(pl.col("missing") != "").select("rows", role="missing").explode("rows")
        sets = self._sets(routed.filter(pl.col("missing") == ""), first_set_no)
        return Posted(
            self._deltas(sets),
            sets.select("rows", "set_no").explode("rows").rename({"rows": "row"}),
            unmapped.rename({"rows": "row"}),
        )

    def _sums(self, events: pl.DataFrame) -> pl.DataFrame:
        """One row for each combination that a rule or the crosswalk can tell apart; `rows` lists its events."""
        sums = events.group_by(
            "entity",
            "rule",
            "facility",
            "department",
            "currency",
            "effective_on",
            _chosen(events, self._coded, pl.col("reason"), pl.lit("")).alias("code"),
            self._document(events).alias("document"),
            (pl.col("counterparty").is_not_null()).alias("payer"),
            (pl.col("amount_minor") < 0).alias("flipped"),
        ).agg(
            pl.col("amount_minor").abs().sum(),
            pl.len().cast(pl.Int64()).alias("events"),
            pl.col("row").alias("rows"),
        )
        return (
            sums.join(self._rule_frame, on="rule", how="left")
            .join(self._opening, on="entity", how="left")
            .with_columns(
                pl.col("facility", "department").fill_null(""),
                pl.max_horizontal("effective_on", "opens_on").alias("posted_on"),
            )
        )

    def _document(self, events: pl.DataFrame) -> pl.Expr:
        """What an event's entry is made by, empty for those that are summed up."""
        by_document = _chosen(events, self._by_document, pl.col("document"), pl.lit(""))
        return _chosen(events, self._by_reference, pl.col("reference"), by_document)

    def _routed(self, sums: pl.DataFrame) -> pl.DataFrame:
        """Each sum with its route. Distinct spots are few, however many sums there are: only they are looked up."""
        spotted = sums.with_columns(
            _era=self._eras.search_sorted(sums["posted_on"], side="right").cast(pl.Int64()),
            _facility=pl.when("_by_facility").then("facility").otherwise(pl.lit("")),
            _department=pl.when("_by_department").then("department").otherwise(pl.lit("")),
        )
        on = ["entity", "rule", "payer", "_facility", "_department", "_era", "code"]
        spots = spotted.select(on).unique(maintain_order=True)
        routes = [self._route(Spot(*spot)) for spot in spots.iter_rows()]
        found = spots.with_columns(
            pl.Series("route", [route.number for route in routes], pl.Int32()),
            pl.Series("missing", [route.missing for route in routes], pl.String()),
        )
        return spotted.join(found, on=on)

    def _forget_when_many(self) -> None:
        """Keep answers bounded. Only between calls: route numbers must not change their meaning within one."""
        if len(self._routes) > ANSWERS_MAX:
            self.mapping_changed()
            self._crosswalk.forget_answers()

    def _route(self, spot: Spot) -> Route:
        if spot not in self._routes:
            self._routes[spot] = self._find_route(spot)
        return self._routes[spot]

    def _find_route(self, spot: Spot) -> Route:
        where = Place(spot.entity, spot.facility, spot.department, self._eras[spot.era - 1])
        named = [role for pair in self._rules[spot.rule].post for role in (pair.debit, pair.credit)]
        lines = []
        for name in named:
            role = self._actual(name, spot, where)
            account = self._crosswalk.resolve(role, where)
            if account is None:
                return Route(-1, role)
            lines.append((role, account))
        return Route(self._number(tuple(lines)), "")

    def _actual(self, name: str, spot: Spot, where: Place) -> str:
        """The role that a name stands for here; the name itself where its cases do not tell."""
        role = self._roles.get(name)
        if role is None:
            return name
        return role.cases.get(self._fact(role, spot, where), name)

    def _fact(self, role: Role, spot: Spot, where: Place) -> str:
        if role.by == "payer":
            return "insurer" if spot.payer else "patient"
        if role.by == "reason":
            return spot.code
        chosen = self._crosswalk.resolve(role.policy, where)  # a policy is mapped, dated and versioned like a role
        return chosen.account if chosen else role.default

    def _asked_of(self, rule: Rule) -> set[str]:
        """Every role that the crosswalk may be asked for by this rule, policies among them."""
        named = {role for pair in rule.post for role in (pair.debit, pair.credit)}
        chosen = [self._roles[name] for name in named if name in self._roles]
        return named.union(*({role.policy, *role.cases.values()} for role in chosen))

    def _by_reason(self, rule: Rule) -> bool:
        roles = [self._roles.get(role) for pair in rule.post for role in (pair.debit, pair.credit)]
        return any(role is not None and role.by == "reason" for role in roles)

    def _number(self, lines: tuple[tuple[str, Mapped], ...]) -> int:
        if lines not in self._numbers:
            number = self._numbers[lines] = len(self._numbers)
            for line_no, (role, account) in enumerate(lines):
                self._lines.append((number, line_no, role, account.account, account.version, line_no % 2 == 0))
        return self._numbers[lines]

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
            "flipped",
        ]
        merged = (
            routed.with_columns(
                pl.col("posted_on").dt.month_start().alias("month"),
                pl.when("_keep_facility").then("facility").otherwise(pl.lit("")).alias("facility"),
                pl.when("_keep_department").then("department").otherwise(pl.lit("")).alias("department"),
            )
            .group_by([*keys, "mode"])
            .agg(
                pl.col("amount_minor").sum(),
                pl.col("events").sum(),
                pl.col("posted_on").max(),
                pl.col("rows").explode(),
            )
        )
        # Route numbers depend on what was seen before, so the order is by the roles and accounts they stand for.
        named = merged.join(self._route_names(), on="route", how="left").sort(
            *(key for key in keys if key != "route"), "_accounts"
        )
        booked = pl.col("amount_minor") > 0
        return named.with_columns(
            pl.when(booked).then(booked.cast(pl.Int32()).cum_sum() + (first_set_no - 1)).otherwise(-1).alias("set_no"),
            pl.col("month").dt.strftime("%Y-%m").alias("period"),
        )

    def _route_lines(self) -> pl.DataFrame:
        return pl.DataFrame(self._lines, schema=_ROUTE_LINES, orient="row")

    def _route_names(self) -> pl.DataFrame:
        names = {
            number: "\x1f".join(f"{role}\x1f{mapped.account}\x1f{mapped.version}" for role, mapped in lines)
            for lines, number in self._numbers.items()
        }
        return pl.DataFrame(
            {"route": list(names), "_accounts": list(names.values())},
            schema={"route": pl.Int32(), "_accounts": pl.String()},
        )

    def _deltas(self, sets: pl.DataFrame) -> pl.DataFrame:
        lines = sets.filter(pl.col("set_no") >= 0).drop("rows").join(self._route_lines(), on="route")
        side = pl.when(pl.col("debit") != pl.col("flipped")).then(pl.lit("D")).otherwise(pl.lit("C"))
        return (
            lines.with_columns(side.alias("side"))
            .select(pl.col(name).cast(dtype) for name, dtype in DELTAS.items())
            .sort("set_no", "line_no")
        )


_SET_OF = pl.DataFrame(schema={"row": pl.Int64(), "set_no": pl.Int32()})
_UNMAPPED = pl.DataFrame(schema={"row": pl.Int64(), "role": pl.String()})


def _chosen(events: pl.DataFrame, rules: list[str], value: pl.Expr, other: pl.Expr) -> pl.Expr:
    """A value where the rule is one of these, the other one elsewhere; mostly, no row's is."""
    concerned = events["rule"].is_in(rules)
    return pl.when(concerned).then(value).otherwise(other) if concerned.any() else other


def _rule_frame(rules: Iterable[tuple[str, Rule, bool, bool]]) -> pl.DataFrame:
    """Rules by name with their kind, and whether their accounts differ by facility and by department."""
    return pl.DataFrame(
        [
            (
                name,
                name.partition("/")[0],
                rule.mode,
                rule.lane,
                "facility" in rule.keep,
                "department" in rule.keep,
                *differs,
            )
            for name, rule, *differs in rules
        ],
        schema={
            "rule": pl.String(),
            "kind": pl.String(),
            "mode": pl.String(),
            "lane": pl.Int16(),
            "_keep_facility": pl.Boolean(),
            "_keep_department": pl.Boolean(),
            "_by_facility": pl.Boolean(),
            "_by_department": pl.Boolean(),
        },
        orient="row",
    )
