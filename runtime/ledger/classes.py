"""Which rule an event falls under, where its kind alone does not say: by a code that the event carries.

Owns reading code tables. A table's codes may end in `*`; the longest fitting one counts. Never guesses a class for a
code that no table knows: such an event has no rule, and is held.
"""

import polars as pl

from runtime.ledger.crosswalk import Crosswalk, Place
from runtime.ledger.rules import Rule, Rulebook

CODES_MAX = 100_000  # remembered answers; far more than the codes in use


OVERRIDE = "CLASS_"  # a mapping of the role CLASS_<table>/<code> classifies a code by entity, payer and date


class Classes:
    """Names each event's rule: its kind, or `kind/class` for kinds that are classified."""

    def __init__(self, rulebook: Rulebook, crosswalk: Crosswalk) -> None:
        self._classified = {name: kind.classify for name, kind in rulebook.kind.items() if kind.classify}
        self._cases = {name: frozenset(kind.case) for name, kind in rulebook.kind.items()}
        self._tables = {name: table.codes for name, table in rulebook.table.items()}
        self._crosswalk = crosswalk
        self._known: dict[tuple[str, str], str] = {}
        self._overridden = False

    def mapping_changed(self) -> None:
        """Called after the crosswalk took a version."""
        self._overridden = any(row.role.startswith(OVERRIDE) for _, row in self._crosswalk.dump())

    @property
    def told_apart(self) -> dict[str, set[str]]:
        """Columns that classes look at for some kinds, and these kinds."""
        return {"reason": set(self._classified), "counterparty": set(self._classified if self._overridden else ())}

    def rules_of(self, events: pl.DataFrame) -> pl.Series:
        """The rule of each event; "" where its code is in no table."""
        kinds = events["kind"]
        concerned = kinds.is_in(list(self._classified))
        if not concerned.any():
            return kinds.alias("rule")
        by = ["kind", "_code", *(_PLACE if self._overridden else ())]
        codes = events.select("kind", pl.col("reason").fill_null("").alias("_code"), *(by[2:]))
        found = codes.filter(concerned).unique()
        named = found.with_columns(pl.Series("rule", [self._rule(*row) for row in found.iter_rows()], pl.String()))
        return (
            codes.join(named, on=by, how="left", maintain_order="left", nulls_equal=True)
            .select(pl.coalesce("rule", "kind").alias("rule"))
            .to_series()
        )

    def _rule(self, kind: str, code: str, *place: object) -> str:
        chosen = self._override(f"{self._classified[kind]}/{code}", place) if place else ""
        if chosen in self._cases[kind]:
            return f"{kind}/{chosen}"
        if len(self._known) > CODES_MAX:
            self._known.clear()
        if (kind, code) not in self._known:
            found = look_up(self._tables[self._classified[kind]], code)
            self._known[kind, code] = f"{kind}/{found}" if found else ""
        return self._known[kind, code]

    def _override(self, code: str, place: tuple) -> str:
        entity, facility, counterparty, on = place
        chosen = self._crosswalk.resolve(OVERRIDE + code, Place(entity, facility or "", "", on, counterparty or ""))
        return chosen.account if chosen else ""


_PLACE = ("entity", "facility", "counterparty", "effective_on")


def look_up(codes: dict[str, str], code: str) -> str:
    """The class of a code: its own entry, else the longest one with a `*` that fits, else ""."""
    if code in codes:
        return codes[code]
    fitting = [key for key in codes if key.endswith("*") and code.startswith(key[:-1])]
    return codes[max(fitting, key=len)] if fitting else ""


def rules(rulebook: Rulebook) -> dict[str, Rule]:
    """Every rule by its name: kinds, and the cases of classified kinds."""
    named: dict[str, Rule] = {name: kind for name, kind in rulebook.kind.items() if not kind.classify}
    for name, kind in rulebook.kind.items():
        for case, rule in kind.case.items():
            named[f"{name}/{case}"] = rule
    return named
