"""What an ERP's terms allow when nobody knows what became of a call, and what its answers mean.

Owns the states of an entry, the steps out of doubt, and the reading of a call's outcomes, driven by `ErpTerms` alone.
Plain functions: they keep nothing, read no clock and call nobody.

    sealed ──► in_flight ──► posted          the ERP holds it
      ▲            │  ▲ └──► rejected        the ERP will not have it; a person or a mended mapping goes on from there
      │            ▼  │ └──► parked          nothing can prove what became of it; a person looks
      └──────── unknown ───► (posted, rejected, parked, or sealed when it is proven absent)
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from runtime.ports import EntryState, ErpTerms, JournalEntry, Outcome, OutcomeCode

CALL_START_WITHIN_S = 5.0  # after its intent became durable; a call that would start later is not made
KEY_MARGIN_S = 30.0  # before a windowed key's end, within which it is not relied on

Call = tuple[JournalEntry, ...]
Step = Literal["wait", "send_again", "look_up", "park"]

MOVES: dict[EntryState, frozenset[EntryState]] = {
    "sealed": frozenset({"in_flight"}),
    "in_flight": frozenset({"posted", "rejected", "unknown", "parked", "sealed", "in_flight"}),
    "unknown": frozenset({"posted", "rejected", "parked", "sealed", "in_flight", "unknown"}),
    "parked": frozenset({"sealed", "posted"}),  # by a person
    "rejected": frozenset({"sealed", "replaced"}),  # by a person or by itself, when what was wrong is mended
    "posted": frozenset(),  # corrected by other entries, if it must be
    "replaced": frozenset(),  # by another entry
}
NOT_APPLIED: tuple[OutcomeCode, ...] = ("throttled", "unavailable", "unauthorised")
# Of outcomes that differ within a call, the one that the governor must hear.
_GRAVEST: tuple[OutcomeCode, ...] = (
    "unauthorised",
    "throttled",
    "unavailable",
    "unknown",
    "parked",
    "rejected",
    "accepted",
    "posted",
)


class Doubt(NamedTuple):
    """An entry of which a call's answer was lost at `lost_ms` at the latest.

    `first_sent_ms` is when its key was first used, 0 when that is not known. `proof_needed`: it was sent again and
    refused, which says nothing of the first time, so only a lookup can tell.
    """

    key: str
    lost_ms: int
    first_sent_ms: int = 0
    resends: int = 0
    proof_needed: bool = False


class Judged(NamedTuple):
    """What becomes of a call: the outcomes to record, whether its entries must be tried apart, and which of them must
    be looked up before anything else."""

    outcomes: list[Outcome]
    isolate: bool = False
    proof_needed: frozenset[str] = frozenset()


def protected(terms: ErpTerms, doubt: Doubt, now_ms: int) -> bool:
    """Whether the ERP itself keeps a second call under this key from being booked twice."""
    if doubt.proof_needed:
        return False
    if terms.native_key == "windowed":
        ends_ms = doubt.first_sent_ms + (terms.key_life_s - KEY_MARGIN_S) * 1000
        return doubt.first_sent_ms > 0 and now_ms < ends_ms
    return terms.native_key == "permanent"


def next_step(terms: ErpTerms, doubt: Doubt, now_ms: int) -> Step:
    """The step out of a doubt.

    Under a key that the ERP still knows, sending again costs one call, waits for nothing, and both tells and mends
    what became of the first; a lookup would cost that call too for each entry that is not there. Without such a key
    only a lookup proves anything, and only after settling. Without either, a person must look.
    """
    if protected(terms, doubt, now_ms):
        return "send_again"
    if not terms.lookup:
        return "park"
    return "look_up" if now_ms >= settled_ms(terms, doubt) else "wait"


def settled_ms(terms: ErpTerms, doubt: Doubt) -> int:
    """When a negative lookup first proves something."""
    return doubt.lost_ms + round(terms.settle_s * 1000)


def judge(terms: ErpTerms, call: Call, answered: Sequence[Outcome], doubted: Collection[str] = ()) -> Judged:
    """What to record of a call's outcomes, or of those of the job that it became.

    An all-or-nothing call of several that is refused says nothing of any one of them, and applied nothing. So does a
    job that refuses all it has for one and the same reason. Of an entry that was in doubt before this call, an answer
    that this call applied nothing leaves the doubt as it is.
    """
    by_key = {outcome.key: outcome for outcome in answered}
    outcomes = [by_key.get(e.key) or Outcome(e.key, "unknown", detail="the call gave no outcome") for e in call]
    if _refused_together(terms, outcomes):
        back = [outcome._replace(code="unavailable") for outcome in outcomes]
        return Judged([_still_doubted(outcome, doubted) for outcome in back], isolate=True)
    refused_again = frozenset(o.key for o in outcomes if o.code == "rejected" and o.key in doubted)
    outcomes = [_refused_again(terms, o) if o.key in refused_again else _still_doubted(o, doubted) for o in outcomes]
    return Judged(outcomes, proof_needed=refused_again if terms.lookup else frozenset())


def _refused_together(terms: ErpTerms, outcomes: Sequence[Outcome]) -> bool:
    if len(outcomes) < 2 or any(outcome.code != "rejected" for outcome in outcomes):
        return False
    one_reason = len({outcome.detail for outcome in outcomes}) == 1
    return terms.atomicity == "all_or_nothing" or (terms.atomicity == "job" and one_reason)


def _still_doubted(outcome: Outcome, doubted: Collection[str]) -> Outcome:
    if outcome.code in NOT_APPLIED and outcome.key in doubted:
        return outcome._replace(code="unknown")
    return outcome


def _refused_again(terms: ErpTerms, outcome: Outcome) -> Outcome:
    code: OutcomeCode = "unknown" if terms.lookup else "parked"
    return outcome._replace(code=code, detail=f"sent again and refused: {outcome.detail}")


def not_sent(call: Call, doubted: Collection[str], detail: str) -> list[Outcome]:
    """What to record of a call that was not made after all."""
    return [_still_doubted(Outcome(entry.key, "unavailable", detail=detail), doubted) for entry in call]


def after_lookup(keys: Sequence[str], found: Mapping[str, Outcome] | None) -> list[Outcome]:
    """What a lookup made after settling proves: found is found, or in doubt anew; absent may be sent again; no answer
    proves nothing."""
    if found is None:
        return []
    absent = "looked up after its time limit: not there"
    return [found.get(key) or Outcome(key, "unavailable", detail=absent) for key in keys]


def gravest(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a call as a whole, with the longest delay that any part of it asks for."""
    worst = min(outcomes, key=lambda outcome: _GRAVEST.index(outcome.code))
    return worst._replace(retry_after_s=max(outcome.retry_after_s for outcome in outcomes))
