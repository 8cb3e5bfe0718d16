"""People who decide: on exceptions, two by two, and on closing periods.

Owns what they sign and when, drawn from the seed. Whatever the books refuse them must be what the rules forbid; what
they should have refused is a complaint.
"""

import random
from collections.abc import Iterator

import msgspec

from runtime.errors import SameSigner
from runtime.flow.closing import first_day_after
from runtime.ledger.governance import holding_types, holds_event, needs_approval, proposals
from runtime.ledger.rules import Rulebook
from simulation.workload.rows import ENTITIES
from simulation.world import World

PREPARER, APPROVER = "ada", "grace"
PERIODS = ("2026-07", "2026-08")  # all but the newest of a run's
LOOKED_AT_MAX = 200
DECIDED_MAX = 4
ACTIONS = ("retry", "retry", "release", "exclude")
CLOSE_WITHIN_MS = 3_600_000


class Deciders:
    """One errand between turns, until healing: then nobody decides any more."""

    def __init__(self, world: World, rulebook: Rulebook) -> None:
        self._world, self._rulebook = world, rulebook
        self._types = holding_types(rulebook)
        self._rng = random.Random(f"people {world.scenario.seed}")
        self.complaints: list[str] = []

    def __call__(self) -> None:
        """Now and then, decide something."""
        rates = self._world.scenario.rates
        if self._world.faults.chance(rates.decide):
            self._decide()
        if self._world.faults.chance(rates.close):
            self._close(self._rng.choice(sorted(ENTITIES)), self._rng.choice(PERIODS))

    def _decide(self) -> None:
        found = self._world.books.exceptions(state="open", limit=LOOKED_AT_MAX).iter_rows(named=True)
        held = [exception for exception in found if holds_event(exception, self._types)]
        chosen = self._rng.sample(held, k=min(len(held), self._rng.randrange(1, DECIDED_MAX)))
        action = self._rng.choice(ACTIONS)
        if not chosen:
            return
        (proposal,) = proposals(action, [exception["exception_id"] for exception in chosen])
        types = {exception["type"] for exception in chosen}
        signed = needs_approval(action, types, self._rulebook.exception)
        body = msgspec.json.encode(proposal).decode()
        number = self._world.books.propose_change("decision", body, PREPARER, needs_approval=signed)
        self._world.faults.happened(f"decision {action}", PREPARER)
        if signed:
            self._approve(number)

    def _approve(self, number: int) -> None:
        """The other one signs; who prepared it tries to, now and then, in vain."""
        if self._rng.random() < 0.3:
            try:
                self._world.books.approve_change(number, PREPARER.upper())
                self.complaints.append(f"change {number} was approved by who prepared it")
            except SameSigner:
                pass
        if self._rng.random() < 0.9:
            self._world.books.approve_change(number, APPROVER)
        else:
            self._world.books.refuse_change(number, APPROVER)

    def reopened(self) -> Iterator[str]:
        """Periods that were declared closed and have something left, so that it came later."""
        books = self._world.books
        for close in books.closes():
            if close.state == "declared":
                self._world.faults.happened("close declared", APPROVER)
                if not books.period_left(close.entity, close.period).nothing:
                    yield f"{close.entity} {close.period}: declared closed, and something is left of it"

    def _close(self, entity: str, period: str) -> None:
        """Order a close, or cut off one that was ordered: the books refuse while anything is left."""
        books, now_ms = self._world.books, self._world.clock.wall_ms
        known = {(close.entity, close.period): close.state for close in books.closes()}
        state = known.get((entity, period))
        if state is None:
            books.order_close(entity, period, now_ms + CLOSE_WITHIN_MS, PREPARER)
            self._world.faults.happened("close ordered", PREPARER)
            return
        if state != "ordered":
            return
        nothing_left = books.period_left(entity, period).nothing
        try:
            books.cut_off(entity, period, first_day_after(period), APPROVER)
        except ValueError:
            if nothing_left:
                self.complaints.append(f"{entity} {period}: refused to be cut off, though nothing is left")
            return
        if not nothing_left:
            self.complaints.append(f"{entity} {period}: cut off, though something is left")
        self._world.faults.happened("period cut off", APPROVER)
