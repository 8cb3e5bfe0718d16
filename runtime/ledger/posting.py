"""From events to posting sets: rules and crosswalk joined in, sums by account and dimensions, whole columns at a time.

Owns the arithmetic of a set: every set is balanced because each pair of a rule takes the same amount on both sides.
Never books an event in part: if one role of it has no account, the whole event is handed back as unmapped.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import NamedTuple

import polars as pl

from runtime.effects import DELTAS, empty
from runtime.ledger import amounts
from runtime.ledger.classes import rules
from runtime.ledger.crosswalk import Crosswalk, Mapped, Place
from runtime.ledger.registers import Finding
from runtime.ledger.rules import Role, Rule, Rulebook

ANSWERS_MAX = 200_000  # remembered crosswalk answers and routes; more than a shard's real combinations

_ROUTE_LINES = {
    "route": pl.Int32(),
    "line_no": pl.Int16(),
    "role": pl.String(),
    "account_code": pl.String(),
    "mapping_version": pl.Int32(),
    "debit": pl.Boolean(),
    "measure": pl.Int8(),
}
_DRAWN = {1: "+", 0: "0", -1: "-"}


class Posted(NamedTuple):
    """`deltas`: lines in DELTAS columns. `set_of`: set number of each booked row (`row`, `set_no`; -1 when it posts
    nothing). `unmapped`: `row` and the `role` that has no account. `turnover`: what each measured row debits (`row`,
    `turnover_minor`)."""

    deltas: pl.DataFrame
    set_of: pl.DataFrame
    unmapped: pl.DataFrame
    turnover: pl.DataFrame


class Spot(NamedTuple):
    """Everything that decides on accounts. What no mapping of the rule's roles asks for is left empty; `era` counts
    the days until then on which a mapping began, `drawn` tells which pairs of a measured rule have an amount."""

    entity: str
    rule: str
    payer: bool
    facility: str
    department: str
    counterparty: str
    era: int
    code: str
    drawn: str


class Line(NamedTuple):
    """One line of a route: the account of a role, and which of the event's measures it takes."""

    role: str
    mapped: Mapped
    measure: int
    debit: bool


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
        self._by_column = {
            column: [name for name, rule in self._rules.items() if rule.entry_by == column]
            for column in ("document", "reference", "correlation_id")
        }
        self._pairs = {
            name: tuple(amounts.terms(pair.amount) for pair in rule.post)
            for name, rule in self._rules.items()
            if rule.measured
        }
        self.open(opens_on)
        self.mapping_changed()

    def open(self, opens_on: Mapping[str, date]) -> None:
        """Set each entity's first open day: what is dated before it is posted on it."""
        self._opening = pl.DataFrame(
            {"entity": list(opens_on), "opens_on": list(opens_on.values())},
            schema={"entity": pl.String(), "opens_on": pl.Date()},
        )

    def mapping_changed(self) -> None:
        """Forget remembered routes; called after the crosswalk took a version."""
        self._routes.clear()
        self._numbers.clear()
        self._lines.clear()
        rows = [row for _, row in self._crosswalk.dump()]
        self._eras = pl.Series(sorted({date.min, *(row.valid_from for row in rows)}), dtype=pl.Date())
        self._listed = {row.role for row in rows}
        of = {
            column: {row.role for row in rows if getattr(row, column)}
            for column in ("facility", "department", "counterparty")
        }
        asked = {name: self._asked_of(rule) for name, rule in self._rules.items()}
        self._by_partner = [name for name in self._rules if not of["counterparty"].isdisjoint(asked[name])]
        self._rule_frame = _rule_frame(
            (name, rule, not of["facility"].isdisjoint(asked[name]), not of["department"].isdisjoint(asked[name]))
            for name, rule in self._rules.items()
        )

    def post(self, events: pl.DataFrame, first_set_no: int, findings: Mapping[int, Finding] | None = None) -> Posted:
        """Post rows (canonical columns plus `row`, `rule`, `id_hash`); set numbers go up from first_set_no.

        `findings`: what registers found of rows, by id_hash; rules with measures draw on them.
        """
        if events.is_empty():
            return _NOTHING
        self._forget_when_many()
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
        routed = self._routed(self._sums(events))
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
        sums = events.group_by(
            "entity",
            "rule",
            "facility",
            "department",
            "currency",
            "effective_on",
            _chosen(events, self._coded, pl.col("reason"), pl.lit("")).alias("code"),
            _chosen(events, self._by_partner, pl.col("counterparty").fill_null(""), pl.lit("")).alias("counterparty"),
            self._document(events).alias("document"),
            (pl.col("counterparty").is_not_null()).alias("payer"),
            "drawn",
        ).agg(
            pl.col(_measures(events)).sum(),
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
        chosen = pl.lit("")
        for column, named in self._by_column.items():
            chosen = _chosen(events, named, pl.col(column), chosen)
        return chosen

    def _routed(self, sums: pl.DataFrame) -> pl.DataFrame:
        """Each sum with its route. Distinct spots are few, however many sums there are: only they are looked up."""
        spotted = sums.with_columns(
            _era=self._eras.search_sorted(sums["posted_on"], side="right").cast(pl.Int64()),
            _facility=pl.when("_by_facility").then("facility").otherwise(pl.lit("")),
            _department=pl.when("_by_department").then("department").otherwise(pl.lit("")),
            _drawn=pl.when("_is_measured").then("drawn").otherwise(pl.lit("")),
        )
        on = ["entity", "rule", "payer", "_facility", "_department", "counterparty", "_era", "code", "_drawn"]
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
        rule = self._rules[spot.rule]
        where = Place(spot.entity, spot.facility, spot.department, self._eras[spot.era - 1], spot.counterparty)
        lines = []
        for measure, name, debit in _lines_of(rule, spot.drawn):
            role = self._actual(name, spot, where)
            account = self._crosswalk.resolve(role, where)
            if account is None:
                return Route(-1, role)
            lines.append(Line(role, account, measure, debit))
        missing = next((role for role in rule.maps if not self._is_known(role, where)), "")
        return Route(-1, missing) if missing else Route(self._number(tuple(lines)), "")

    def _is_known(self, role: str, where: Place) -> bool:
        """Whether a role that is only asked for is mapped; one that this house lists nowhere is not asked for."""
        optional = role in self._roles and self._roles[role].by == "known"
        return (optional and role not in self._listed) or self._crosswalk.resolve(role, where) is not None

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
        named = {role for pair in rule.post for role in (pair.debit, pair.credit)} | set(rule.maps)
        chosen = [self._roles[name] for name in named if name in self._roles]
        return named.union(*({role.policy, *role.cases.values()} for role in chosen))

    def _by_reason(self, rule: Rule) -> bool:
        roles = [self._roles.get(role) for pair in rule.post for role in (pair.debit, pair.credit)]
        return any(role is not None and role.by == "reason" for role in roles)

    def _number(self, lines: tuple[Line, ...]) -> int:
        if lines not in self._numbers:
            number = self._numbers[lines] = len(self._numbers)
            self._lines += [
                (number, line_no, line.role, line.mapped.account, line.mapped.version, line.debit, line.measure)
                for line_no, line in enumerate(lines)
            ]
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
        named = merged.join(self._route_names(), on="route", how="left").sort(
            *(key for key in keys if key != "route"), "_accounts"
        )
        booked = (pl.col("mode") != "none") & pl.any_horizontal(pl.col(measures) != 0)
        return named.with_columns(
            pl.when(booked).then(booked.cast(pl.Int32()).cum_sum() + (first_set_no - 1)).otherwise(-1).alias("set_no"),
            pl.col("month").dt.strftime("%Y-%m").alias("period"),
        )

    def _route_lines(self) -> pl.DataFrame:
        return pl.DataFrame(self._lines, schema=_ROUTE_LINES, orient="row")

    def _route_names(self) -> pl.DataFrame:
        names = {
            number: "\x1f".join(f"{line.role}\x1f{line.mapped.account}\x1f{line.mapped.version}" for line in lines)
            for lines, number in self._numbers.items()
        }
        return pl.DataFrame(
            {"route": list(names), "_accounts": list(names.values())},
            schema={"route": pl.Int32(), "_accounts": pl.String()},
        )

    def _deltas(self, sets: pl.DataFrame) -> pl.DataFrame:
        lines = sets.filter(pl.col("set_no") >= 0).drop("rows").join(self._route_lines(), on="route")
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


def _lines_of(rule: Rule, drawn: str) -> Iterable[tuple[int, str, bool]]:
    """Measure, role and side of each line of a rule; of a measured one, without the pairs that have no amount."""
    for number, pair in enumerate(rule.post):
        measure = number if rule.measured else 0
        if not rule.measured or drawn[number] != "0":
            yield measure, pair.debit, True
            yield measure, pair.credit, False


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
                rule.measured,
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
            "_is_measured": pl.Boolean(),
            "_by_facility": pl.Boolean(),
            "_by_department": pl.Boolean(),
        },
        orient="row",
    )
