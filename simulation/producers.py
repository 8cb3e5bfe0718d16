"""Sources and operators: they hand in what the workload says, until each event is acknowledged.

Owns what a good client does: the same ids again after a lost answer, a pause when it is told to wait. Keeps the list
of what was acknowledged, which the auditor holds against the log.
"""

import random
from typing import Any, NamedTuple

import msgspec
import polars as pl

from runtime.errors import LogError, Pressure
from runtime.ledger.order_lines import LEVELS, OrderTerms
from runtime.ledger.rules import KNOWN, Rulebook
from runtime.schema import COLUMNS
from simulation.processes import GatewayProcess
from simulation.workload.deliveries import Delivery, Workload
from simulation.workload.rows import ENTITIES, PARTNERS, UNKNOWN_CODE, Row
from simulation.world import GATEWAY, World

UNDER_WAY_MAX = 3
RETRY_MS = 300
MALFORMED = b"{not json"
SET = 0.3  # of policies: somebody has answered them
UNMATCHED_CLAIM, AS_KNOWN, UNAPPLIED = "POLICY_UNMATCHED_CLAIM", "AR", "UNAPPLIED"
ALIASES = ("PAYER_ALIAS", "SUPPLIER_ALIAS")
UNREADABLE = "OTHER"
PERCENTS = ("0", "2.5", "60", "unlimited", UNREADABLE)
EXCESSES = ("0", "7", "600", "20000", "unlimited", UNREADABLE)  # in minor units, or in thousandths
BEGINNINGS = ("2026-08-01", "2026-09-10")  # of mappings; events are of days before, between and after them
_SENT = {name: type for name, type in COLUMNS.items() if name != "schema_version"} | {"occurred_at": pl.Int64()}


class Attempt(NamedTuple):
    """A request under way."""

    delivery: Delivery
    process: GatewayProcess
    task: Any
    until_ms: int


class Producers:
    """All sources, as one errand between turns."""

    def __init__(self, world: World, workload: Workload) -> None:
        self._world, self._left = world, list(workload.deliveries)
        self._spoilt = {row["event_id"] for row in workload.spoilt}
        self._rng = random.Random(f"producers {world.scenario.seed}")
        self._chance = random.Random(f"singly {world.scenario.seed}")
        self._under_way: list[Attempt] = []
        self._retry_ms: dict[int, int] = {}
        self.acknowledged: list[Row] = []
        self.complaints: list[str] = []  # answers that are wrong
        self.messages: dict[str, Row | None] = {}  # feed message -> its row, None for what is no event

    @property
    def done(self) -> bool:
        """Whether everything was handed in and answered."""
        return not self._left and not self._under_way

    def unanswered(self) -> list[int]:
        """Deliveries that are not done."""
        return [d.number for d in self._left] + [a.delivery.number for a in self._under_way]

    def __call__(self) -> None:
        """Look after what is under way, begin what is due."""
        self._under_way = [attempt for attempt in self._under_way if not self._ended(attempt)]
        now_ms = self._world.clock.elapsed_ms
        for delivery in self._left[: UNDER_WAY_MAX - len(self._under_way)]:
            if max(delivery.not_before_ms, self._retry_ms.get(delivery.number, 0)) <= now_ms:
                self._begin(delivery)

    def _begin(self, delivery: Delivery) -> None:
        if delivery.way == "feed":
            self._left.remove(delivery)
            self._write(delivery)
            return
        doors = [p for n, p in sorted(self._world.processes.items()) if n.startswith(GATEWAY) and not p.dead]
        if doors:
            self._left.remove(delivery)
            door = self._rng.choice(doors)
            until_ms = self._world.clock.elapsed_ms + round(self._world.scenario.answer_limit_s * 1000)
            frame = pl.DataFrame([{name: row.get(name) for name in _SENT} for row in delivery.rows], schema=_SENT)
            singly = self._chance.random() < self._world.scenario.singly
            self._under_way.append(Attempt(delivery, door, door.submit(frame, singly=singly), until_ms))

    def _write(self, delivery: Delivery) -> None:
        """Write to the feed's stream, where nobody answers."""
        for row in delivery.rows:
            given = {name: value for name, value in row.items() if value is not None}
            self.messages[self._world.stream.add({b"event": msgspec.json.encode(given)})] = row
            if self._world.faults.chance(self._world.scenario.rates.invalid / 2):
                self.messages[self._world.stream.add({b"event": MALFORMED})] = None

    def _ended(self, attempt: Attempt) -> bool:
        """Whether a request has ended, one way or another."""
        now_ms, delivery = self._world.clock.elapsed_ms, attempt.delivery
        if attempt.process.dead or now_ms > attempt.until_ms:
            self._world.faults.happened("sent again after no answer")
            return self._again(delivery, now_ms)
        if not attempt.task.done():
            return False
        error = attempt.task.exception()
        if isinstance(error, Pressure | LogError):
            if isinstance(error, Pressure):
                self._world.faults.happened("told to wait")
            return self._again(delivery, now_ms + RETRY_MS)
        if error is not None:
            self.complaints.append(f"delivery {delivery.number} was answered with {type(error).__name__}: {error}")
            return True
        self._take_receipt(delivery, attempt.task.result())
        return True

    def _again(self, delivery: Delivery, at_ms: int) -> bool:
        self._retry_ms[delivery.number] = at_ms
        self._left.insert(self._rng.randrange(min(len(self._left), UNDER_WAY_MAX) + 1), delivery)
        return True

    def _take_receipt(self, delivery: Delivery, receipt: Any) -> None:
        refused = set(receipt.rejected["row"].to_list())
        answered = sorted([*receipt.accepted.tolist(), *receipt.duplicates.tolist(), *refused])
        if answered != list(range(len(delivery.rows))):
            self.complaints.append(f"delivery {delivery.number}: not each row was answered once")
        for number, row in enumerate(delivery.rows):
            if (row["event_id"] in self._spoilt) != (number in refused):
                self.complaints.append(f"{row['event_id']}: {'refused' if number in refused else 'taken'} wrongly")
            elif number not in refused:
                self.acknowledged.append(row)


class Operator:
    """Whoever maintains the crosswalk: a first version before the start, others while everything runs."""

    def __init__(self, world: World, rulebook: Rulebook) -> None:
        self._world, self._rng = world, random.Random(f"operator {world.scenario.seed}")
        roles = sorted(rulebook.roles())
        late = set(self._rng.sample(roles, k=min(len(roles), self._rng.choice((0, 2, 5)))))
        versions = [[mapping_row(role) for role in roles if role not in late] + self._particular(roles)]
        for _ in range(world.scenario.mapping_versions - 1):
            versions.append([mapping_row(role) for role in sorted(late)] + self._particular(roles))
            versions[-1] += self._of_inverses(rulebook)
            late = set()
        versions[0] += self._partners(rulebook, first=True) + self._policies(rulebook)
        versions[-1] += self._partners(rulebook, first=False) + self._policies(rulebook)
        versions[-1] += [mapping_row(f"{role}/{UNKNOWN_CODE}") for role in sorted(rulebook.by_code())]
        versions[0] += self._of_inverses(rulebook)
        gaps_ms = [0, *(self._rng.choice((500, 5_000, 60_000)) for _ in versions[1:])]
        self._left = [(sum(gaps_ms[: i + 1]), rows) for i, rows in enumerate(versions)]
        self()

    @property
    def done(self) -> bool:
        """Whether every version was proposed."""
        return not self._left

    def __call__(self) -> None:
        """Propose what is due."""
        while self._left and self._left[0][0] <= self._world.clock.elapsed_ms:
            _, rows = self._left.pop(0)
            self._world.books.add_mapping(msgspec.json.encode(rows).decode(), "operator")

    def _partners(self, rulebook: Rulebook, *, first: bool) -> list[Row]:
        """Partners whom some entities know: none or one at first, and all of them in the end."""
        rows = []
        for name in sorted(name for name, role in rulebook.role.items() if role.by == KNOWN):
            known = self._rng.sample(PARTNERS, k=self._rng.choice((0, 0, 1))) if first else PARTNERS
            rows += [
                mapping_row(name, counterparty=partner, entity=self._rng.choice(("*", *ENTITIES))) for partner in known
            ]
        return rows

    def _policies(self, rulebook: Rulebook) -> list[Row]:
        """Answers to some of the policies, everywhere or at one entity; and who is another name of whom."""
        names = {name: answers for name, answers in policy_answers(rulebook).items() if self._rng.random() < SET}
        rows = [
            mapping_row(name, self._rng.choice(answers), entity=self._rng.choice(("*", *ENTITIES)))
            for name, answers in sorted(names.items())
        ]
        for name in (name for name in ALIASES if self._rng.random() < SET):
            one, other = self._rng.sample(PARTNERS, 2)
            rows.append(mapping_row(name, other, counterparty=one))
        return rows

    def _of_inverses(self, rulebook: Rulebook) -> list[Row]:
        """Another account, from some day on, of what is taken back where it was posted."""
        kinds = [rulebook.kind[name] for name in sorted(rulebook.inverting())]
        rules = [rule for kind in kinds for rule in (kind, *kind.case.values())]
        roles = sorted({pair.credit for rule in rules for pair in rule.post})
        return [
            mapping_row(role, f"GL-{role}-{self._rng.randrange(3)}", valid_from=self._rng.choice(BEGINNINGS))
            for role in roles
            if self._rng.random() < SET
        ]

    def _particular(self, roles: list[str]) -> list[Row]:
        """Mappings that hold for some places or from some day."""
        rows = []
        for role in self._rng.sample(roles, k=min(len(roles), 6)):
            entity = self._rng.choice(("*", *ENTITIES))
            facility = self._rng.choice(("", *ENTITIES.get(entity, ("north",))))
            chosen = {
                "entity": entity,
                "facility": facility,
                "department": self._rng.choice(("", "", "lab")),
                "valid_from": self._rng.choice(("1900-01-01", *BEGINNINGS)),
            }
            rows.append(mapping_row(role, account=f"GL-{role}-{self._rng.randrange(3)}", **chosen))
        return rows


def policy_answers(rulebook: Rulebook) -> dict[str, tuple[str, ...]]:
    """What each policy may be answered with, but aliases; now and then something that no rule knows."""
    answers = {role.policy: (*sorted(role.cases), UNREADABLE) for role in rulebook.role.values() if role.policy}
    answers[UNMATCHED_CLAIM] = (AS_KNOWN, UNAPPLIED)
    for terms in (terms for terms in rulebook.register.values() if isinstance(terms, OrderTerms)):
        answers[terms.level_policy] = (*LEVELS, UNREADABLE)
        answers |= {check.percent: PERCENTS for check in terms.checks}
        answers |= {check.most: EXCESSES for check in terms.checks}
    return answers


def mapping_row(role: str, account: str = "", **columns: str) -> Row:
    """A row of a mapping version: a role's account, for all that the other columns leave open."""
    return {"role": role, "account": account or f"GL-{role}", **columns}
