"""What engine tests are made of: events, log records, and a shard whose effects are added up as books would.

Owns a naive second sum of everything: `Run.step` checks balance and conservation by itself, and compares nothing with
the engine's own code.
"""

import json
from collections import Counter
from collections.abc import Mapping
from datetime import date

import polars as pl

from adapters.settings import standard_rulebook_text
from runtime import schema, validation
from runtime.effects import Effects
from runtime.flow import frames
from runtime.ledger.rule_file import parse_rulebook
from runtime.ledger.rules import Rulebook
from runtime.ports import LogRecord
from runtime.shard import ShardEngine

DAY_MS = 86_400_000
NOW_MS = 1_790_000_000_000  # 2026-09-21, 14:13:20 UTC
OPENS_ON = {"mercy": date(2026, 7, 1), "grace": date(2026, 7, 1)}
STANDARD = standard_rulebook_text()
RULEBOOK = parse_rulebook(STANDARD)
MAPPING = [{"role": role, "account": f"GL-{role}"} for role in sorted(RULEBOOK.roles())]
ENTITIES = {name: schema.EntityTerms(currencies=frozenset(["USD", "EUR"])) for name in OPENS_ON}
VOCABULARY = schema.Vocabulary(kinds=RULEBOOK.kind_terms(), entities=ENTITIES)
DERIVED_VOCABULARY = schema.Vocabulary(kinds=RULEBOOK.kind_terms(derived=True), entities=ENTITIES)
BILLING_KINDS = (
    "charge_posted",
    "charge_reversed",
    "adjustment_posted",
    "responsibility_transferred",
    "responsibility_transferred_out",
    "responsibility_transferred_in",
    "payment_received",
)
KEPT_STATES = ("booked", "pending", "excepted", "excluded")


def event(
    event_id: str,
    kind: str,
    amount_minor: int = 0,
    *,
    person: str = "",
    attributes: Mapping[str, object] | str | None = None,
    **columns: object,
) -> dict:
    """One row as a source sends it. `person` signs it."""
    if person or isinstance(attributes, Mapping):
        attributes = json.dumps({**(attributes or {}), **({"person": person} if person else {})})
    if attributes is not None:
        columns["attributes"] = attributes
    given = {"source": "ehr", "entity": "mercy", "facility": "north", "account": "token-1", "currency": "USD"}
    return given | {"event_id": event_id, "kind": kind, "amount_minor": amount_minor, "occurred_at": NOW_MS} | columns


def charge(event_id: str, amount_minor: int = 100, **columns: object) -> dict:
    """A charge of a patient's account."""
    return event(event_id, "charge_posted", amount_minor, **columns)


def stamped(*rows: dict, at_ms: int = NOW_MS, vocabulary: schema.Vocabulary = VOCABULARY) -> pl.DataFrame:
    """Rows as a gateway puts them into the log; every one of them must be valid."""
    frame = pl.DataFrame(list(rows), infer_schema_length=None)
    validated = validation.validate(schema.conform(frame), vocabulary, at_ms)
    assert validated.rejected.is_empty(), validated.rejected
    return validated.accepted.drop("row")


def events(*rows: dict, at_ms: int = NOW_MS, position: str = "1-0") -> LogRecord:
    """A log record that holds these rows."""
    return LogRecord(position, "events", len(rows), frames.encode(stamped(*rows, at_ms=at_ms)))


def relayed(*rows: dict, at_ms: int = NOW_MS, position: str = "1-0") -> LogRecord:
    """A log record that holds derived rows, which the relay alone may send."""
    frame = stamped(*rows, at_ms=at_ms, vocabulary=DERIVED_VOCABULARY)
    return LogRecord(position, "events", len(rows), frames.encode(frame))


def control(message: dict, position: str = "1-0") -> LogRecord:
    """A log record that holds a control message."""
    return LogRecord(position, "control", 0, frames.encode_control(message))


def mapping(version: int, rows: list[dict] = MAPPING) -> LogRecord:
    """A mapping version in the log."""
    return control({"type": "mapping", "version": version, "rows": rows})


def tick(now_ms: int) -> LogRecord:
    """Time in the log."""
    return control({"type": "tick", "now_ms": now_ms})


def decision(number: int, action: str, *exceptions: str) -> LogRecord:
    """What people decided of exceptions, in the log."""
    return control({"type": "decision", "number": number, "action": action, "exceptions": list(exceptions)})


def period(opens_on: str, entity: str = "mercy") -> LogRecord:
    """A closed period, in the log."""
    return control({"type": "period", "entity": entity, "opens_on": opens_on})


class Run:
    """A shard, and what its effects add up to: balances, totals, open exceptions, the state of each event."""

    def __init__(self, mapped: bool = True, rulebook: Rulebook = RULEBOOK, open_items_max: int = 1000) -> None:
        self._rulebook, self._open_items_max = rulebook, open_items_max
        self.engine = self._new_engine()
        self.balances: Counter[tuple[str, str, str]] = Counter()
        self.variances: Counter[tuple[str, str, str, str]] = Counter()
        self.totals: Counter[tuple] = Counter()
        self.open: dict[str, tuple[str, str]] = {}  # exception id -> its type and event
        self.raised: set[tuple[str, str, str]] = set()
        self.digests: list[str] = []
        self.counts: Counter[str] = Counter()
        self.statuses: list[tuple[str, str, str]] = []  # status, document, detail
        self.relayed_rows: list[dict] = []
        self._derived: list[dict] = []
        self._first: dict[int, tuple[str, int]] = {}  # id hash -> event, and the digest of its first content
        self._states: dict[str, str] = {}
        if mapped:
            self.step(mapping(1))

    def _new_engine(self) -> ShardEngine:
        return ShardEngine(self._rulebook, OPENS_ON, self._open_items_max)

    def take(self, *rows: dict, at_ms: int = NOW_MS) -> Effects:
        """One step of one frame."""
        return self.step(events(*rows, at_ms=at_ms))

    def step(self, *records: LogRecord) -> Effects:
        """One step; its effects are added up and checked."""
        for record in records:
            if record.type == "events":
                named = frames.decode_sealed(record.body).select("id_hash", "event_id", "digest")
                for id_hash, *first in named.iter_rows():
                    self._first.setdefault(id_hash, tuple(first))
        effects = self.engine.step(records)
        self._add_deltas(effects.deltas)
        self._add_totals(effects.totals)
        self._add_exceptions(effects)
        for id_hash, digest, state in effects.outcomes.select("id_hash", "digest", "state").iter_rows():
            event_id, first = self._first[id_hash]
            if digest == first:
                self._states[event_id] = state
        self.digests.append(effects.digest())
        self.counts.update(effects.counts._asdict())
        self.statuses += effects.statuses.select("status", "document", "detail").rows()
        self._derived += effects.derived.to_dicts()
        return effects

    def relay(self, at_ms: int = NOW_MS) -> list[tuple[str, str]]:
        """Send back what was derived until nothing more follows; the kind and entity of each event that did."""
        sent: list[tuple[str, str]] = []
        while self._derived:
            rows, self._derived = self._derived, []
            self.relayed_rows += rows
            sent += [(row["kind"], row["entity"]) for row in rows]
            self.step(relayed(*rows, at_ms=at_ms))
        return sent

    def restart(self) -> None:
        """Go on with another engine that knows nothing but the snapshot."""
        frozen = self.engine.freeze(f"{len(self.digests)}-0")
        self.engine = self._new_engine()
        self.engine.restore(frozen.body(), frozen.run)

    def _add_deltas(self, deltas: pl.DataFrame) -> None:
        net: Counter[tuple] = Counter()
        for line in deltas.iter_rows(named=True):
            assert line["amount_minor"] > 0
            signed = line["amount_minor"] if line["side"] == "D" else -line["amount_minor"]
            net[line["set_no"], line["entity"], line["currency"], line["period"]] += signed
            account = (line["entity"], line["currency"], line["account_code"])
            self.balances[account] += signed
            self.variances[*account, line["variance"]] += signed
        assert not any(net.values()), "a posting set does not balance"
        assert len({key[0] for key in net}) == len(net), "a posting set spans entities, currencies or periods"

    def _add_totals(self, totals: pl.DataFrame) -> None:
        for row in totals.iter_rows(named=True):
            place = (row["source"], row["entity"], row["facility"], row["currency"], row["kind"])
            self.totals[(*place, row["state"], "events")] += row["events"]
            self.totals[(*place, row["state"], "minor")] += row["amount_minor"]
        for *place, _, unit in list(self.totals):
            kept = sum(self.totals[(*place, state, unit)] for state in KEPT_STATES)
            assert self.totals[(*place, "accepted", unit)] == kept, f"{unit} are lost between states"

    def _add_exceptions(self, effects: Effects) -> None:
        for id, *what in effects.exceptions.select("exception_id", "type", "event_id").iter_rows():
            self.open[id] = tuple(what)
            self.raised.add((id, *what))
        for id in effects.resolved:
            assert self.open.pop(id, None), "an exception ended that never began"

    def state(self, event_id: str) -> str:
        """What became of an event's first content, "" when it never came."""
        return self._states.get(event_id, "")

    def states(self) -> dict[str, str]:
        """What became of each event's first content."""
        return dict(self._states)

    def balance(self, role: str) -> int:
        """Debits less credits of a role's account over all entities and currencies, in minor units."""
        return sum(net for (_, _, account), net in self.balances.items() if account == f"GL-{role}")

    def accounts(self) -> dict[tuple[str, str, str], int]:
        """Every balance that is not zero."""
        return {account: net for account, net in self.balances.items() if net}

    def total(self, state: str, unit: str = "events") -> int:
        """How many events, or minor units, stand in a state."""
        return sum(count for key, count in self.totals.items() if key[-2:] == (state, unit))

    def ids(self, *types: str) -> list[str]:
        """The ids of all open exceptions of these types."""
        return sorted(id for id, (type, _) in self.open.items() if type in types)

    def balances_of(self, entity: str) -> dict[str, int]:
        """Every balance of an entity that is not zero, by role."""
        return {account[3:]: net for (owner, _, account), net in self.accounts().items() if owner == entity}

    def open_types(self) -> list[str]:
        """The types of all open exceptions, sorted."""
        return sorted(type for type, _ in self.open.values())

    def end(self) -> tuple:
        """All that must not depend on the order of arrival: balances, totals, states, variances, exceptions.

        Duplicates are left out, and debits by kind (`posted`): where an amount divides, the last comer posts the rest.
        """
        kept = {key: count for key, count in self.totals.items() if key[-2] not in ("duplicate", "posted") and count}
        variances = {key: net for key, net in self.variances.items() if key[-1] and net}
        return self.accounts(), kept, self.states(), variances, sorted(self.open.values())
