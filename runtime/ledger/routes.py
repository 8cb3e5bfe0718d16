"""Where postings go: the accounts that a rule's roles are, for each combination of what the crosswalk can tell apart.

Owns looking roles up, and remembering the answers. Never sums an amount.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import NamedTuple

import polars as pl

from runtime.ledger.cells import grouped
from runtime.ledger.classes import rules
from runtime.ledger.crosswalk import NEWEST, Crosswalk, Mapped, Place, basis_of
from runtime.ledger.rules import BY_CODE, KNOWN, REASON, Role, Rule, Rulebook, uncoded

ANSWERS_MAX = 200_000  # remembered crosswalk answers and routes; more than a shard's real combinations

_ROUTE_LINES = {
    "route": pl.Int32(),
    "line_no": pl.Int16(),
    "role": pl.String(),
    "account_code": pl.String(),
    "mapping_version": pl.Int32(),
    "variance": pl.String(),
    "debit": pl.Boolean(),
    "measure": pl.Int8(),
}


class Spot(NamedTuple):
    """Everything that decides on accounts. What no mapping of the rule's roles asks for is left empty; `era` counts
    the days until then on which a mapping began, `drawn` tells which pairs of a measured rule have an amount, `basis`
    as of when it is decided on instead ("" for now)."""

    entity: str
    rule: str
    payer: bool
    facility: str
    department: str
    counterparty: str
    era: int
    code: str
    drawn: str
    basis: str


_SPOT = [  # but for the era
    *(pl.col(name) for name in ("entity", "rule", "payer", "counterparty", "code", "basis")),
    pl.when("_by_facility").then("facility").otherwise(pl.lit("")).alias("facility"),
    pl.when("_by_department").then("department").otherwise(pl.lit("")).alias("department"),
    pl.when("_is_measured").then("drawn").otherwise(pl.lit("")).alias("drawn"),
]


class Line(NamedTuple):
    """One line of a route: the account of a role, its variance, and which of the event's measures it takes."""

    role: str
    mapped: Mapped
    variance: str
    measure: int
    debit: bool


class Route(NamedTuple):
    """Where a combination of dimensions posts: the accounts of each line, None where `missing` has no account."""

    number: int
    missing: str


class Routes:
    """The routes of a rulebook under a crosswalk."""

    def __init__(self, rulebook: Rulebook, crosswalk: Crosswalk) -> None:
        self._rules, self._roles = rules(rulebook), rulebook.role
        self._crosswalk = crosswalk
        self._routes: dict[Spot, Route] = {}
        self._lines: list[tuple] = []
        self._numbers: dict[tuple[Line, ...], int] = {}
        self._line_frame: pl.DataFrame | None = None  # of what is in these, until there is more
        self._names: pl.Series | None = None
        self.coded = [name for name, rule in self._rules.items() if self._by_reason(rule)]
        self.mapping_changed()

    def mapping_changed(self) -> None:
        """Forget remembered routes; called after the crosswalk took a version."""
        self._routes.clear()
        self._numbers.clear()
        self._lines.clear()
        self._line_frame = self._names = None
        rows = [row for _, row in self._crosswalk.dump()]
        self._eras = pl.Series(sorted({date.min, *(row.valid_from for row in rows)}), dtype=pl.Date())
        of = {
            column: {uncoded(row.role) for row in rows if getattr(row, column)}
            for column in ("facility", "department", "counterparty")
        }
        asked = {name: self._asked_of(rule) for name, rule in self._rules.items()}
        self.by_partner = [name for name in self._rules if not of["counterparty"].isdisjoint(asked[name])]
        self.rules = _rule_frame(
            (name, rule, not of["facility"].isdisjoint(asked[name]), not of["department"].isdisjoint(asked[name]))
            for name, rule in self._rules.items()
        )

    def routed(self, sums: pl.DataFrame) -> pl.DataFrame:
        """Each sum with its route. Distinct spots are few, however many sums there are: only they are looked up."""
        era = self._eras.search_sorted(sums["posted_on"], side="right").cast(pl.Int64()).alias("era")
        spots = grouped(sums.select(era, *_SPOT), list(Spot._fields))
        routes = [self._route(Spot(*spot)) for spot in spots.frame[list(Spot._fields)].iter_rows()]
        found = pl.DataFrame(routes, {"route": pl.Int32(), "missing": pl.String()}, orient="row")
        return sums.hstack(found[spots.of])

    def forget_when_many(self) -> None:
        """Keep answers bounded. Only between calls: route numbers must not change their meaning within one."""
        if len(self._routes) > ANSWERS_MAX:
            self.mapping_changed()
            self._crosswalk.forget_answers()

    def _route(self, spot: Spot) -> Route:
        if spot not in self._routes:
            self._routes[spot] = self._find_route(spot)
        return self._routes[spot]

    def _find_route(self, spot: Spot) -> Route:
        for where in self._places(spot):
            route = self._route_at(spot, where)
            if not route.missing:
                break
        return route

    def _places(self, spot: Spot) -> Iterable[Place]:
        """Where and as of when roles are asked for: now, or from the version on that its basis names."""
        on, versions = self._eras[spot.era - 1], [NEWEST]
        if spot.basis:
            basis = basis_of(spot.basis)
            on, versions = basis.posted_on, self._crosswalk.since(basis.version)
        return (Place(spot.entity, spot.facility, spot.department, on, spot.counterparty, at) for at in versions)

    def _route_at(self, spot: Spot, where: Place) -> Route:
        rule = self._rules[spot.rule]
        lines = []
        for measure, name, variance, debit in _lines_of(rule, spot.drawn):
            role = self._actual(name, spot, where)
            account = self._crosswalk.resolve(role, where)
            if account is None:
                return Route(-1, role)
            lines.append(Line(role, account, variance, measure, debit))
        needed = self._needed(rule)
        missing = next((role for role in needed if self._crosswalk.resolve(role, where) is None), "")
        return Route(-1, missing) if missing else Route(self._number(tuple(lines)), "")

    def _needed(self, rule: Rule) -> list[str]:
        """Roles that must be mapped though nothing is posted to them. Partners are none: they were asked for before."""
        return [name for name in rule.maps if name not in self._roles or self._roles[name].by != KNOWN]

    def _actual(self, name: str, spot: Spot, where: Place) -> str:
        """The role that a name stands for here; the name itself where its cases do not tell, or one of the code."""
        role = self._roles.get(name)
        if role is None:
            return name
        fact = self._fact(role, spot, where)
        if role.by == REASON:
            return role.cases.get(fact, role.default or f"{name}{BY_CODE}{fact}")
        return role.cases.get(fact, name)

    def _fact(self, role: Role, spot: Spot, where: Place) -> str:
        if role.by == "payer":
            return "insurer" if spot.payer else "patient"
        if role.by == REASON:
            return spot.code
        chosen = self._crosswalk.resolve(role.policy, where)  # a policy is mapped, dated and versioned like a role
        return chosen.account if chosen else role.default

    def _asked_of(self, rule: Rule) -> set[str]:
        """Every role that the crosswalk may be asked for by this rule, policies among them."""
        named = {role for pair in rule.post for role in (pair.debit, pair.credit)} | set(self._needed(rule))
        chosen = [self._roles[name] for name in named if name in self._roles]
        return named.union(*({role.policy, *role.cases.values()} for role in chosen))

    def _by_reason(self, rule: Rule) -> bool:
        roles = [self._roles.get(role) for pair in rule.post for role in (pair.debit, pair.credit)]
        return any(role is not None and role.by == REASON for role in roles)

    def _number(self, lines: tuple[Line, ...]) -> int:
        if lines not in self._numbers:
            number = self._numbers[lines] = len(self._numbers)
            self._line_frame = self._names = None
            self._lines += [
                (number, line_no, role, mapped.account, mapped.version, variance, debit, measure)
                for line_no, (role, mapped, variance, measure, debit) in enumerate(lines)
            ]
        return self._numbers[lines]

    def lines(self) -> pl.DataFrame:
        """The lines of every route."""
        if self._line_frame is None:
            self._line_frame = pl.DataFrame(self._lines, schema=_ROUTE_LINES, orient="row")
        return self._line_frame

    def names(self) -> pl.Series:
        """What each route stands for, whatever was seen before, by their numbers."""
        if self._names is None:
            self._names = pl.Series("_accounts", map(_named, self._numbers), pl.String())
        return self._names


def _named(lines: Sequence[Line]) -> str:
    named = "\x1f".join(f"{line.role}\x1f{line.mapped.account}\x1f{line.mapped.version}" for line in lines)
    # Two rules may post alike but for the variance. It comes last, so that it orders only what is otherwise alike.
    return f"{named}\x1e{varied}" if (varied := "\x1f".join(line.variance for line in lines).strip("\x1f")) else named


def _lines_of(rule: Rule, drawn: str) -> Iterable[tuple[int, str, str, bool]]:
    """Measure, role, variance and side of each line of a rule; of a measured one, without pairs that have no amount."""
    for number, pair in enumerate(rule.post):
        measure = number if rule.measured else 0
        if not rule.measured or drawn[number] != "0":
            yield measure, pair.debit, pair.variance, True
            yield measure, pair.credit, "", False


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
