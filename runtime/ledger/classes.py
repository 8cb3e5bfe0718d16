"""Which rule an event falls under, where its kind alone does not say: by a code that the event carries, or by whether
it names an account.

Owns reading code tables. A table's codes may end in `*`; the longest fitting one counts. A code may be refined by a
remark of the same event, where there is a row for the pair (`CODE/REMARK`). Never guesses a class for a code that no
table knows: such an event has no rule, and is held.
"""

from collections.abc import Iterable, Iterator

import msgspec
import polars as pl

from runtime.ledger.amounts import attributes_of
from runtime.ledger.crosswalk import NEWEST, Crosswalk, Place, basis_of
from runtime.ledger.rules import Rule, Rulebook
from runtime.schema import among, where, with_texts

CODES_MAX = 100_000  # remembered answers; far more than the codes in use

FILLED, EMPTY = "filled", "empty"  # the codes of events that are classified by whether they name an account
PAIR = "/"  # between a code and the remark that refines it
OVERRIDE = "CLASS_"  # a mapping of the role CLASS_<table>/<code> classifies a code by entity, payer and date


class Classes:
    """Names each event's rule: its kind, or `kind/class` for kinds that are classified."""

    def __init__(self, rulebook: Rulebook, crosswalk: Crosswalk) -> None:
        self._classified = {name: kind.classify for name, kind in rulebook.kind.items() if kind.classify}
        self._refined = {name: kind.refined_by for name, kind in rulebook.kind.items() if kind.refined_by}
        self._owned = [name for name, kind in rulebook.kind.items() if kind.classify_by == "account"]
        self._cases = {name: frozenset(kind.case) for name, kind in rulebook.kind.items()}
        self._tables = {name: table.codes for name, table in rulebook.table.items()}
        self._is_owned, self._is_refined = among(self._owned), among(self._refined)
        self._is_classified = among(self._classified)
        self._code = pl.when(self._is_owned).then("owner").otherwise("reason").fill_null("").alias("_code")
        self._crosswalk = crosswalk
        self._known: dict[tuple[str, str], str] = {}
        self.mapping_changed()

    def mapping_changed(self) -> None:
        """Called after the crosswalk took a version."""
        roles = (row.role for _, row in self._crosswalk.dump())
        overrides = [role.removeprefix(OVERRIDE) for role in roles if role.startswith(OVERRIDE)]
        self._overridden = bool(overrides)
        self._may_be_refined = (self._is_refined & among(self._codes_in_pairs(overrides), "reason")).fill_null(False)

    def _codes_in_pairs(self, overrides: Iterable[str]) -> Iterator[str]:
        """The codes that some remark refines."""
        told = (code.partition(PAIR)[2] for code in overrides)
        for code in (*told, *(code for codes in self._tables.values() for code in codes)):
            before, pair, _ = code.partition(PAIR)
            if pair:
                yield before

    @property
    def told_apart(self) -> dict[str, set[str]]:
        """Columns that classes look at for some kinds, and these kinds."""
        return {
            "reason": set(self._classified).difference(self._owned),
            "remarks": set(self._refined),
            "counterparty": set(self._classified if self._overridden else ()),
            "owner": set(self._owned),
        }

    def described(self, events: pl.DataFrame) -> pl.DataFrame:
        """Events with what classes look at beside canonical columns: `owner`, whether an account is named, and
        `remarks`; as they are where no class of theirs does."""
        if where(events, self._is_owned).any():
            owner = pl.when(pl.col("account").is_null()).then(pl.lit(EMPTY)).otherwise(pl.lit(FILLED))
            events = events.with_columns(owner.alias("owner"))
        return self._remarked(events)

    def _remarked(self, events: pl.DataFrame) -> pl.DataFrame:
        """Events with the `remarks` (a JSON list) of those whose code may be refined; as they are where none may."""
        may = where(events, self._may_be_refined)
        if not may.any():
            return events
        given = events.filter(may).select("kind", "attributes")
        told = [_remarks(attributes, self._refined[kind]) for kind, attributes in given.iter_rows()]
        return with_texts(events, "remarks", may, told)

    def rules_of(self, events: pl.DataFrame) -> pl.Series:
        """The rule of each event (with `remarks` and `owner`, null for none); "" where its code is in no table."""
        concerned = where(events, self._is_classified)
        if not concerned.any():
            return events["kind"].alias("rule")
        by = ["kind", "_code", "remarks", *(_PLACE if self._overridden else ())]
        codes = events.select("kind", self._code, *(by[2:]))
        found = codes.filter(concerned).unique()
        named = found.with_columns(pl.Series("rule", [self._rule(*row) for row in found.iter_rows()], pl.String()))
        return (
            codes.join(named, on=by, how="left", maintain_order="left", nulls_equal=True)
            .select(pl.coalesce("rule", "kind").alias("rule"))
            .to_series()
        )

    def _rule(self, kind: str, code: str, remarks: str | None, *place: object) -> str:
        """The rule now, or the first one that there was from the version on that its basis names."""
        found = (self._rule_at(kind, code, remarks, at) for at in self._places(*place))
        return next((rule for rule in found if rule), "")

    def _places(self, *place: object) -> Iterable[Place | None]:
        """Where and as of when mappings of a code are asked for; None where there are none."""
        if not place:
            return [None]
        entity, facility, counterparty, on, basis = place
        versions = [NEWEST]
        if basis:
            on, versions = basis_of(basis).on, self._crosswalk.since(basis_of(basis).version)
        return (Place(entity, facility or "", "", on, counterparty or "", at) for at in versions)

    def _rule_at(self, kind: str, code: str, remarks: str | None, place: Place | None) -> str:
        """What is mapped counts before the table; in both a pair counts before its code, and of pairs the first
        remark's."""
        table = self._classified[kind]
        pairs = [f"{code}{PAIR}{remark}" for remark in msgspec.json.decode(remarks)] if remarks else []
        mapped = (self._override(f"{table}/{one}", place) for one in (*pairs, code) if place)
        of_pairs = (self._tables[table].get(pair, "") for pair in pairs)
        chosen = next((one for one in (*mapped, *of_pairs) if one in self._cases[kind]), "")
        if chosen:
            return f"{kind}/{chosen}"
        if len(self._known) > CODES_MAX:
            self._known.clear()
        if (kind, code) not in self._known:
            found = look_up(self._tables[table], code)
            self._known[kind, code] = f"{kind}/{found}" if found else ""
        return self._known[kind, code]

    def _override(self, code: str, place: Place) -> str:
        chosen = self._crosswalk.resolve(OVERRIDE + code, place)
        return chosen.account if chosen else ""


def _remarks(attributes: str | None, name: str) -> str | None:
    """The texts that stand under a name among an event's attributes, as a JSON list; None for none."""
    given = attributes_of(attributes).get(name)
    told = [one for one in given if isinstance(one, str)] if isinstance(given, list) else []
    return msgspec.json.encode(told).decode() if told else None


_PLACE = ("entity", "facility", "counterparty", "effective_on", "basis")


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
