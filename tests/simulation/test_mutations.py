"""Deliberate bugs in the real code: the simulator finds each within a bounded number of seeds."""

from collections.abc import Callable

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from actors.feed_reader import FeedReader
from actors.gateway import Gateway
from actors.poster import Poster
from actors.shard_worker import HostedShard, ShardWorker
from actors.supervisor import Supervisor
from adapters.books.memory import MemoryBooks
from runtime.flow import frames
from runtime.flow.dedupe import DedupeMemory
from runtime.ledger import classes
from runtime.ledger.claims import Claims
from runtime.ledger.denials import Denials
from runtime.ledger.matching import Matching
from runtime.ledger.open_items import OpenItems
from runtime.ledger.step_matching import StepMatching
from runtime.ledger.tolerances import Tolerance
from runtime.shard import ShardEngine
from simulation.simulator import simulate

SEEDS_MAX = 200
EVENTS = 60

Patch = pytest.MonkeyPatch


def skip_the_fence_check(patch: Patch) -> None:
    """The books take writes of any epoch."""
    patch.setattr(MemoryBooks, "_held", lambda self, owner, epoch: self._owners[owner])


def trim_before_the_snapshot(patch: Patch) -> None:
    """The log forgets what no checkpoint holds yet."""
    begin = ShardWorker._begin_checkpoint

    def early(self: ShardWorker, hosted: HostedShard) -> None:
        self._log_reader.trim(hosted.shard, hosted.position)
        begin(self, hosted)

    patch.setattr(ShardWorker, "_begin_checkpoint", early)


def drop_one_dedupe_entry(patch: Patch) -> None:
    """A snapshot forgets the last id of the memory."""
    dump = DedupeMemory.dump
    patch.setattr(DedupeMemory, "dump", lambda self: [(ids[:-1], digests[:-1]) for ids, digests in dump(self)])


def send_again_without_a_lookup(patch: Patch) -> None:
    """A lost answer counts as "nothing was applied"."""
    record = Poster._record

    def trusting(self: Poster, outcomes: list) -> None:
        record(self, [o._replace(code="unavailable") if o.code == "unknown" else o for o in outcomes])

    patch.setattr(Poster, "_record", trusting)


def acknowledge_before_the_append(patch: Patch) -> None:
    """A feed's messages are acknowledged as soon as they are read."""
    settle = FeedReader._settle

    async def early(self: FeedReader, batch: object) -> None:
        await self._feed.acknowledge([message.id for message in batch.messages])
        await settle(self, batch)

    patch.setattr(FeedReader, "_settle", early)


def lose_a_residual(patch: Patch) -> None:
    """Using a part of an item uses it up."""
    use = OpenItems._use

    def whole(self: OpenItems, key: tuple, item: object, rule: object, amount_minor: int) -> None:
        use(self, key, item, rule, item.residual_minor if 0 < amount_minor < item.residual_minor else amount_minor)

    patch.setattr(OpenItems, "_use", whole)


def remember_before_the_append(patch: Patch) -> None:
    """A door answers a repeat as a duplicate although the first one's append failed."""
    store = Gateway.store

    async def early(self: Gateway, parsed: object) -> object:
        checked = self._check(parsed).accepted
        known = self._recent.known(checked["id_hash"].to_numpy(), checked["digest"].to_numpy())
        answer = store(self, parsed)
        if not known.any():
            try:
                return await answer
            except BaseException:
                self._recent.remember(checked["id_hash"].to_numpy(), checked["digest"].to_numpy())
                raise
        return await answer

    patch.setattr(Gateway, "store", early)


def forget_outcomes_of_committed_steps(patch: Patch) -> None:
    """What a shard has committed never reaches the archive."""
    remember = HostedShard.remember

    def forgetful(self: HostedShard, *given: object) -> None:
        remember(self, *given)
        self.outcomes.clear()

    patch.setattr(HostedShard, "remember", forgetful)


def leave_waiting_rows_out_of_the_snapshot(patch: Patch) -> None:
    """A restored shard does not know who waited for an item."""
    load = OpenItems.load

    def forgetful(self: OpenItems, state: bytes) -> None:
        load(self, state)
        self._consumers = {}

    patch.setattr(OpenItems, "load", forgetful)


def write_items_as_they_are_by_then(patch: Patch) -> None:
    """A checkpoint holds the items that are open when it is written, not those of its position."""
    patch.setattr(OpenItems, "freeze", lambda self: self.dump)


def keep_held_rows_held(patch: Patch) -> None:
    """A mapping that arrives books nothing that was held for want of it."""
    patch.setattr(ShardEngine, "_retry_held", lambda self, chosen, step: None)


def leave_orphaned_shards_alone(patch: Patch) -> None:
    """The supervisor looks at processes only, not at what they have lost."""
    patch.setattr(Supervisor, "_note_orphans", lambda self, now_ms: None)


def add_up_different_currencies(patch: Patch) -> None:
    """Money is money, whatever it is called."""
    fits = OpenItems._fits
    patch.setattr(OpenItems, "_fits", lambda self, name, item, minor, _: fits(self, name, item, minor, item.currency))


def match_whole_columns_without_using_up(patch: Patch) -> None:
    """Steps of many rows leave what is used open."""
    use_plain = StepMatching._use_plain

    def leave(self: StepMatching, progress: object) -> None:
        before = self.items.used_minor.copy()
        use_plain(self, progress)
        self.items.used_minor[:] = before

    patch.setattr(StepMatching, "_use_plain", leave)


def ignore_a_tolerance(patch: Patch) -> None:
    """Nothing too much is let pass, whatever a policy says."""
    patch.setattr(Tolerance, "ceiling", lambda self, due: due)


def mix_up_documents(patch: Patch) -> None:
    """Of two entries that are posted at once, each is told under the other's number."""
    flush = Poster._flush

    def mixed(self: Poster) -> None:
        first, second, *others = [*self._unrecorded, None, None]
        if second and first.code == second.code == "posted":
            swapped = [first._replace(erp_ref=second.erp_ref), second._replace(erp_ref=first.erp_ref)]
            self._unrecorded = [*swapped, *others[:-2]]
        flush(self)

    patch.setattr(Poster, "_flush", mixed)


def let_a_bill_in_doubt_be_paid(patch: Patch) -> None:
    """A match that fails raises its exception, and holds nothing."""
    patch.setattr(OpenItems, "hold", lambda self, hold: None)


def believe_a_lookup_too_early(patch: Patch) -> None:
    """A negative lookup is trusted while the ERP may still commit."""
    patch.setattr(Poster, "start", _impatient(Poster.start))


def _impatient(start: Callable) -> Callable:
    def begin(self: Poster) -> None:
        terms = self._callers.terms()
        self._callers.terms = lambda: msgspec.structs.replace(terms, settle_s=0.001)
        start(self)

    return begin


def declare_a_close_at_once(patch: Patch) -> None:
    """A period is declared closed while shards may still book into it."""
    patch.setattr(MemoryBooks, "_behind", lambda self, close, shards: [])


def count_reversals_as_denials(patch: Patch) -> None:
    """What a payer takes back of a denial is denied once more."""
    take = Denials.take
    patch.setattr(
        Denials, "take", lambda self, fact, at: take(self, fact._replace(amount_minor=abs(fact.amount_minor)), at)
    )


def pay_what_is_not_booked(patch: Patch) -> None:
    """A bill may be paid although its lines are held."""
    patch.setattr(OpenItems, "_hold_unbooked", lambda self, key, rule: None)


def act_on_what_was_not_granted(patch: Patch) -> None:
    """What a request or an approval opens may be used although it has not what it needs itself."""
    patch.setattr(OpenItems, "_hold_unmatched", lambda self, key, opener: None)


def leave_claims_of_a_rejected_batch(patch: Patch) -> None:
    """A batch that was not taken changes nothing of its claims."""
    patch.setattr(Claims, "_reject", lambda self, fact, now_ms: None)


def overlook_remarks(patch: Patch) -> None:
    """The class of an adjustment is its code's, whatever is remarked."""
    patch.setattr(classes, "_remarks", lambda attributes, name: None)


def take_money_told_twice_for_another_sum(patch: Patch) -> None:
    """The same money again is taken for a difference in the amount."""
    patch.setattr(Matching, "_is_spent", lambda self, item, waiter: False)


def read_coded_words_by_the_first_dictionary(patch: Patch) -> None:
    """Of entries that are read together, each is read with the words of the first."""
    written_out = frames._written_out

    def by_the_first(chunks: list[pa.DictionaryArray]) -> pa.Array:
        words = max((chunk.dictionary for chunk in chunks), key=len)
        last = max(len(words) - 1, 0)
        codes = [pc.min_element_wise(chunk.indices.cast(pa.int32()), last, skip_nulls=False) for chunk in chunks]
        return written_out([pa.DictionaryArray.from_arrays(one, words) for one in codes])

    patch.setattr(frames, "_written_out", by_the_first)


# Each with a seed that caught it before: it is tried first, and then all others in turn.
MUTATIONS = {
    skip_the_fence_check: 10,
    trim_before_the_snapshot: 1,
    drop_one_dedupe_entry: 1,
    send_again_without_a_lookup: 19,
    acknowledge_before_the_append: 1,
    lose_a_residual: 1,
    remember_before_the_append: 0,
    forget_outcomes_of_committed_steps: 0,
    leave_waiting_rows_out_of_the_snapshot: 1,
    write_items_as_they_are_by_then: 1,
    keep_held_rows_held: 2,
    leave_orphaned_shards_alone: 1,
    add_up_different_currencies: 1,
    match_whole_columns_without_using_up: 11,
    ignore_a_tolerance: 22,
    mix_up_documents: 0,
    let_a_bill_in_doubt_be_paid: 1,
    believe_a_lookup_too_early: 88,
    declare_a_close_at_once: 12,
    count_reversals_as_denials: 12,
    pay_what_is_not_booked: 2,
    act_on_what_was_not_granted: 4,
    leave_claims_of_a_rejected_batch: 4,
    overlook_remarks: 51,
    take_money_told_twice_for_another_sum: 47,
    read_coded_words_by_the_first_dictionary: 3,
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_mutation_of_the_real_code_is_caught(mutation, monkeypatch, record_property):
    """A simulator that runs beside this bug says so within so many seeds."""
    mutation(monkeypatch)
    seeds = sorted(range(SEEDS_MAX), key=lambda seed: seed != MUTATIONS[mutation])
    caught = next((seed for seed in seeds if simulate(seed, EVENTS).finding), None)
    record_property("caught_by_seed", caught)
    assert caught is not None, f"{SEEDS_MAX} seeds did not notice: {mutation.__doc__}"


def test_mutation_free_code_passes_the_first_seeds():
    """What the mutations are measured by: without any of them, the same seeds hold."""
    failed = [seed for seed in range(12) if simulate(seed, EVENTS).finding]
    assert not failed
