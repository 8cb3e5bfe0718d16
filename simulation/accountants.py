"""People who look after journal entries: those that the ERP refused, and those that nobody can say anything of.

Owns what they send again, what they post into another period or give another account, and what they leave alone
because they found it in the ERP; drawn from the seed. While all fails they come now and then; after healing they work
through everything.
"""

import random

import msgspec

from runtime.errors import GovernanceError
from runtime.flow.closing import first_day_after
from runtime.flow.outcomes import CALL_START_WITHIN_S
from runtime.ledger.compensation import redated
from runtime.ledger.journal import numbered
from runtime.ports import Books, Delivery, JournalEntry
from simulation.erp import SimulatedErp
from simulation.faults import Faults
from simulation.scenario import Scenario
from simulation.workload.mappings import mapping_row
from simulation.workload.rows import ENTITIES
from simulation.world import World

WHO = "joan"
LOOKED_AT_MAX = 100
REPLACED = 0.3  # of refused entries that somebody looks at: posted into the next period instead
REMAPPED = 0.5  # of them: what is wrong is thought to be an account
REMAPPED_MAX = 3  # in a run; while all fails, as held events go on by it, too


class Accountants:
    """One errand between turns."""

    def __init__(self, world: World) -> None:
        self._books: Books = world.books
        self._erp: SimulatedErp = world.erp
        self._faults: Faults = world.faults
        self._scenario: Scenario = world.scenario
        self._clock = world.clock
        self._rng = random.Random(f"accountants {world.scenario.seed}")
        self._clears_up = self._rng.random() < 0.5  # after healing: refused entries, too
        self._remapped = 0
        self._seen_ms: dict[tuple[str, int], int] = {}  # entries in doubt as often as sent, and when seen first

    def __call__(self) -> None:
        """Now and then, look after one entry; after healing, after each that is left."""
        rate = 0.05 if self._faults.healed else self._scenario.mend
        if self._rng.random() >= rate:
            return
        parked = self._waiting("parked")
        doubted = [] if self._faults.healed else self._waiting("unknown")
        refused = [] if self._faults.healed and not self._clears_up else self._waiting("rejected")
        for delivery in parked if self._faults.healed else [*parked[:1], *doubted]:
            self._look_for(delivery)
        for delivery in refused if self._faults.healed else refused[:1]:
            self._mend(delivery)

    def _waiting(self, state: str) -> list[Delivery]:
        found = self._books.deliveries(tuple(ENTITIES), [state], LOOKED_AT_MAX)
        self._rng.shuffle(found)
        return found

    def _look_for(self, delivery: Delivery) -> None:
        """Send an entry in doubt again once the ERP, asked after its own time limit and when no sender that was stopped
        may still call it, does not show it."""
        key, now_ms, terms = delivery.entry.key, self._clock.elapsed_ms, self._scenario.erp_terms
        looks_after_ms = round((terms.settle_s + terms.begins_s + CALL_START_WITHIN_S) * 1000)
        if now_ms - self._seen_ms.setdefault((key, delivery.attempts), now_ms) <= looks_after_ms:
            return
        if self._erp.shows(key):
            self._tell(delivery)
            return
        self._books.release_entry(key, WHO, not_there=True)
        self._faults.happened(f"{delivery.state} entry released", WHO)

    def _tell(self, delivery: Delivery) -> None:
        """The books learn of what is there; a parked one is left alone, as one may. Neither is sent again: even an ERP
        that knows its keys may then refuse it for another reason."""
        if delivery.state == "unknown":
            key = delivery.entry.key
            number = next(number for number, entry in self._erp.twin.moves if entry.key == key)
            self._books.settle_entry(key, number, WHO)
            self._faults.happened("unknown entry settled", WHO)

    def _mend(self, delivery: Delivery) -> None:
        """Send a refused entry again as it is, put another one in its place, in the next period, or map one of its
        accounts anew, by which the poster replaces it."""
        entry = delivery.entry
        if not self._faults.healed and self._remapped < REMAPPED_MAX and self._rng.random() < REMAPPED:
            self._map_anew(entry)
            return
        if self._rng.random() >= REPLACED:
            self._books.release_entry(entry.key, WHO)
            self._faults.happened("refused entry released", WHO)
            return
        later = numbered(redated(entry, first_day_after(entry.period)), 0)
        try:
            self._books.replace_entry(entry.key, later, WHO)
        except GovernanceError:  # that period is closed, too
            return
        self._faults.happened("refused entry replaced", WHO)

    def _map_anew(self, entry: JournalEntry) -> None:
        self._remapped += 1
        role = self._rng.choice(sorted(self._books.postings_of(entry)["role"].unique()))
        account = f"GL-{role}-{self._rng.randrange(3)}"
        row = mapping_row(role, account, entity=entry.entity, valid_from=entry.posted_on.isoformat())
        self._books.add_mapping(msgspec.json.encode([row]).decode(), WHO)
        self._faults.happened("refused entry's account mapped anew", WHO)
