"""Claims by their number: the newest status, money of claims that nobody submitted, and what a contract promised.

Owns the life of a claim as its messages tell it, in any order: an older status never overwrites a newer one (by day,
then by rank, domain 2; up to a verdict by the time of the day, where there is one). Never posts and never decides what
is a denial: code tables do.
"""

from collections.abc import Callable
from datetime import date
from functools import lru_cache
from typing import ClassVar, NamedTuple

import msgspec

from runtime.ledger.crosswalk import NEWEST, Place
from runtime.ledger.registers import Fact, Finding, ItemFlag, Marks, Policy, Told, usual_name
from runtime.ledger.resting import Resting

DAY_MS = 86_400_000
KNOWN, UNAPPLIED = "AR", "UNAPPLIED"  # answers to POLICY_UNMATCHED_CLAIM
_NEVER = -1
_PAYERS_REMEMBERED = 4096  # on a day each

# What a payer owes beyond what it paid, by how much of its promise that is: all, a tenth or more, less.
VARIANCES = UNPAID, SHORT_TENTH, SHORT = "unpaid", "short_tenth", "short"

# Ranks of one day's statuses: a claim can't be accepted before it is submitted, nor be paid before it is accepted. A
# rejection stands before an acceptance of the same moment, as somebody must look at it.
RANKS = {
    "submitted": 10,
    "acknowledged": 20,
    "accepted": 30,
    "rejected": 31,
    "status": 40,
    "adjudicated": 50,
    "denied": 55,
    "appealed": 60,
    "reversed": 70,
    "corrected": 80,
}
_VERDICTS = ("accepted", "rejected")  # the last of what may come once more: a claim is sent again after a rejection
_REVERSAL = "22"  # CLP02
BATCH_REJECTED = "batch_rejected"  # what becomes of a submission whose batch was not taken
_WHOLE_GROUP = "*"  # stands for a set's number where its whole group is answered

_Key = tuple[str, str]  # entity, and the number of a claim or of a group of batches
_At = tuple[int, int, int, int, str, str]  # where a status stands: see `_standing`


class ClaimTerms(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="claims", forbid_unknown_fields=True):
    """Names of exceptions, and how long an untouched claim is remembered."""

    PARTS: ClassVar[frozenset[str]] = frozenset({*RANKS, "paid", "adjusted", "expected", BATCH_REJECTED})
    MEASURES: ClassVar[frozenset[str]] = frozenset(("unapplied", "identified", *VARIANCES))

    unmatched: str
    underpaid: str
    late: str
    keep_days: int
    answer_days: int  # an acknowledgement answers batches that were sent at most so many days before it
    patient_codes: str = "PR-"  # adjustments whose code begins so are the patient's part, not missing

    def exceptions(self) -> set[str]:
        """Exception types that it may raise."""
        return {self.unmatched, self.underpaid, self.late}


class _Outline(msgspec.Struct, array_like=True, gc=False):
    """What is asked of every claim there is."""

    touched_ms: int = 0
    flagged: tuple[ItemFlag, ...] = ()
    batch: str = ""  # GS06/ST02 of the submission that the status tells of; "" once it tells of something else


class Claim(_Outline, array_like=True, gc=False):
    """What is known of one claim. Amounts are sums over all its messages."""

    status: str = ""
    at: _At = (_NEVER, 0, 0, 0, "", "")
    is_submitted: bool = False
    payer: str | None = None  # the first that was heard of
    settled_minor: int = 0  # what it paid and left to the patient
    unapplied_minor: int = 0  # paid while nobody had submitted it
    expected_minor: int | None = None
    payment: tuple[str, str, str] = ("", "", "")  # source, event and currency of the least payment by name
    promise: tuple[int, str, str] = (_NEVER, "", "")  # milliseconds, source and event of the newest promise
    others: tuple[tuple[str, int], ...] = ()  # further payers, and what each has settled


class _Rejection(NamedTuple):
    """A batch that was not taken: the set's number, the day of the answer, and when it was heard of."""

    control: str
    day: int
    heard_ms: int


class _Wrong(NamedTuple):
    fault: str
    amount_minor: int
    detail: str


class Claims:
    """Every claim of a shard's entities."""

    def __init__(self, terms: ClaimTerms, policy: Policy) -> None:
        self._terms, self._policy = terms, policy
        self._claims: Resting[_Key, Claim] = Resting(_Key, Claim)
        self._sent: dict[_Key, dict[_Key, None]] = {}  # by entity and group: claims whose status is its submission
        self._rejections: dict[_Key, list[_Rejection]] = {}  # by entity and group
        self._next_pass_ms = 0
        self._marks = Marks([], [], [], [])

    def take(self, fact: Fact, now_ms: int) -> Finding:
        """Keep what an event says of its claim. Measures: `unapplied` of a payment, `identified` of a submission, and
        by how much each variance of the claim changes."""
        key = (fact.entity, fact.key)
        if fact.part == BATCH_REJECTED:
            self._reject(fact, now_ms)
            return _UNCHANGED
        claim = self._claims.get(key)
        if claim is None:
            claim = self._claims.put(key, Claim())
        claim.touched_ms = now_ms
        before = _wanting(claim)
        if fact.part in RANKS:
            self._take_status(claim, fact)
        elif fact.part == "paid":
            self._take_payment(claim, fact)
        elif fact.part == "adjusted" and fact.reason.startswith(self._terms.patient_codes):
            self._settle(claim, fact)
        elif fact.part == "expected":
            _promise(claim, fact)
        now = _wanting(claim)
        if claim.flagged or now != _NOTHING:
            self._reflag(claim, fact.entity)
        return _UNCHANGED if now == before else Finding(_changes(before, now))

    def _take_status(self, claim: Claim, fact: Fact) -> None:
        claim.is_submitted |= fact.part == "submitted"
        name = "reversed" if fact.part == "adjudicated" and fact.reason == _REVERSAL else fact.part
        at = _standing(name, fact)
        if at < claim.at:
            who = (self._terms.late, fact.entity, fact.source, fact.event_id, fact.currency, fact.amount_minor)
            self._marks.flags.append(ItemFlag(*who, raised=True, detail=f"{name} came after {claim.status}"))
            self._marks.flags.append(ItemFlag(*who, raised=False))
            return
        claim.at, claim.status = at, name
        batch = fact.reference if name == "submitted" else ""
        if batch or claim.batch:
            self._await_answer(claim, (fact.entity, fact.key), batch)
        if batch and self._is_rejected(claim, fact.entity):
            self._undo(claim, fact, fact.key)
            return
        self._tell(name, fact, fact.key)

    def _is_rejected(self, claim: Claim, entity: str) -> bool:
        """Whether the batch of its submission is known not to have been taken."""
        rejections = self._rejections.get(_group(entity, claim.batch), ())
        return any(self._answers(rejection, claim) for rejection in rejections)

    def _reject(self, fact: Fact, now_ms: int) -> None:
        """A batch, or a whole group, was not taken: submissions in it count no more, as far as they are the newest
        that is known of their claims. Batch numbers come again, so an answer goes a few days back, and no further."""
        group, control = _group(fact.entity, fact.key), fact.key.partition("/")[2]
        rejection = _Rejection(control, fact.occurred_ms // DAY_MS, now_ms)
        self._rejections.setdefault(group, []).append(rejection)
        for key in sorted(self._sent.get(group, ())):
            claim = self._claims.get(key)
            if self._answers(rejection, claim):
                self._undo(claim, fact, key[1])

    def _answers(self, rejection: _Rejection, claim: Claim) -> bool:
        named = bool(claim.batch) and rejection.control in (_WHOLE_GROUP, claim.batch.partition("/")[2])
        return named and 0 <= rejection.day - claim.at[0] <= self._terms.answer_days

    def _undo(self, claim: Claim, fact: Fact, number: str) -> None:
        """It stands where the submission stood in time, so that whatever is newer than that stays."""
        claim.status = BATCH_REJECTED
        self._await_answer(claim, (fact.entity, number), "")
        self._tell(BATCH_REJECTED, fact, number)

    def _tell(self, status: str, fact: Fact, number: str) -> None:
        """Tell consumers where the claim of that number stands by this fact."""
        who = (fact.kind, fact.entity, number, fact.counterparty)
        money = (fact.currency, fact.amount_minor, fact.source, fact.event_id)
        self._marks.told.append(Told(status, *who, *money, fact.reason))

    def _await_answer(self, claim: Claim, key: _Key, batch: str) -> None:
        """Know which claims a batch's answer would concern; `batch` is "" for those that no answer concerns."""
        if claim.batch:
            group = _group(key[0], claim.batch)
            del self._sent[group][key]
            if not self._sent[group]:
                del self._sent[group]
        claim.batch = batch
        if batch:
            self._note_sent(key, batch)

    def _note_sent(self, key: _Key, batch: str) -> None:
        self._sent.setdefault(_group(key[0], batch), {})[key] = None

    def _take_payment(self, claim: Claim, fact: Fact) -> None:
        self._settle(claim, fact)
        payment = (fact.source, fact.event_id, fact.currency)
        claim.payment = min(claim.payment, payment) if claim.payment[1] else payment
        if self._policy("POLICY_UNMATCHED_CLAIM", fact.place()) == UNAPPLIED:
            claim.unapplied_minor += fact.amount_minor

    def _settle(self, claim: Claim, fact: Fact) -> None:
        """Add to what a payer, by its usual name, says of the claim."""
        on, newest = (fact.basis.on, fact.basis.version) if fact.basis else (fact.effective_on, NEWEST)
        payer = usual_name(self._policy, "PAYER_ALIAS", _anywhere(fact.entity, on, fact.counterparty, newest))
        if claim.payer is None:
            claim.payer = payer
        if payer == claim.payer:
            claim.settled_minor += fact.amount_minor
            return
        others = dict(claim.others)
        others[payer] = others.get(payer, 0) + fact.amount_minor
        claim.others = tuple(sorted(others.items()))

    def _reflag(self, claim: Claim, entity: str) -> None:
        """Raise what has become wrong, end what is right again. Exceptions name a payment that is always the same one,
        in whatever order the payments came."""
        source, event_id, currency = claim.payment
        now = tuple(
            ItemFlag(one.fault, entity, source, event_id, currency, one.amount_minor, raised=True, detail=one.detail)
            for one in self._wrong(claim)
        )
        if now == claim.flagged:
            return
        self._marks.flags.extend(flag._replace(raised=False) for flag in claim.flagged)
        self._marks.flags.extend(now)
        claim.flagged = now

    def _wrong(self, claim: Claim) -> list[_Wrong]:
        unapplied_minor, name, short_minor = _wanting(claim)
        found = []
        if unapplied_minor:
            found.append(_Wrong(self._terms.unmatched, unapplied_minor, "no claim of that number was submitted"))
        if name:
            found.append(_Wrong(self._terms.underpaid, short_minor, f"variance {name}"))
        return found

    def age(self, now_ms: int) -> None:
        """Forget claims that nothing has touched for long and that nothing is wrong with; looked for once a day."""
        if now_ms < self._next_pass_ms:
            return
        self._next_pass_ms, old = now_ms + DAY_MS, now_ms - self._terms.keep_days * DAY_MS
        for key in [key for key, claim in self._claims.seen(_Outline) if claim.touched_ms < old and not claim.flagged]:
            self._await_answer(self._claims.get(key), key, "")
            self._claims.forget(key)
        kept = {group: [one for one in some if one.heard_ms >= old] for group, some in self._rejections.items()}
        self._rejections = {group: some for group, some in kept.items() if some}

    def drain(self) -> Marks:
        """The marks since the last call."""
        marks, self._marks = self._marks, Marks([], [], [], [])
        return marks

    def dump(self) -> bytes:
        """Everything, for a snapshot."""
        return self.freeze()()

    def freeze(self) -> Callable[[], bytes]:
        """What gives everything for a snapshot, whatever happens here meanwhile."""
        next_pass_ms, claims = self._next_pass_ms, self._claims.freeze()
        rejections = [(group, tuple(some)) for group, some in self._rejections.items()]
        return lambda: msgspec.msgpack.encode((next_pass_ms, claims(), rejections))

    def load(self, state: bytes) -> None:
        """Start from a snapshot."""
        self._next_pass_ms, claims, rejections = msgspec.msgpack.decode(state, type=_STATE)
        self._claims.load(claims)
        self._rejections, self._sent = dict(rejections), {}
        for key, claim in self._claims.seen(_Outline):
            if claim.batch:
                self._note_sent(key, claim.batch)

    def __len__(self) -> int:
        return len(self._claims)


_STATE = tuple[int, list[bytes], list[tuple[_Key, list[_Rejection]]]]
_NOTHING = (0, "", 0)
_UNCHANGED = Finding(dict.fromkeys(("unapplied", "identified", *VARIANCES), 0))


@lru_cache(_PAYERS_REMEMBERED)
def _anywhere(entity: str, on: date, payer: str, newest: int) -> Place:
    """Where a payer's usual name is asked for."""
    return Place(entity, "", "", on, payer, newest)


def _promise(claim: Claim, fact: Fact) -> None:
    """What the contract promises, as it was told last in time, whichever came last."""
    promise = (fact.occurred_ms, fact.source, fact.event_id)
    if promise >= claim.promise:
        claim.promise, claim.expected_minor = promise, fact.amount_minor


def _group(entity: str, batch: str) -> _Key:
    return entity, batch.partition("/")[0]


def _standing(name: str, fact: Fact) -> _At:
    """Where a status stands among a claim's others: day, rank (0 for all up to a verdict), time of the day, rank, and,
    that no two stand alike, its event. Up to a verdict time comes before rank, so that a claim that is sent again after
    a rejection counts. A date without a time is midnight: of a verdict it counts as the end of its day."""
    day, time_ms = divmod(fact.occurred_ms, DAY_MS)
    rank = RANKS[name]
    if rank > RANKS["rejected"]:
        return day, rank, time_ms, rank, fact.source, fact.event_id
    end_ms = DAY_MS if name in _VERDICTS and not time_ms else time_ms
    return day, 0, end_ms, rank, fact.source, fact.event_id


def _wanting(claim: Claim) -> tuple[int, str, int]:
    """What of a claim's money is not applied; and what of the contract's promise it still lacks if it was paid at all,
    under its name, "" for nothing. A further payer pays of what the first one has left to the patient, so that no two
    of them add up: the one that has settled most is held to the promise."""
    unapplied_minor, promised = 0 if claim.is_submitted else claim.unapplied_minor, claim.expected_minor
    if promised is None or not claim.payment[1]:
        return (unapplied_minor, "", 0) if unapplied_minor else _NOTHING
    received = max([claim.settled_minor, *(minor for _, minor in claim.others)])
    if received >= promised:
        return unapplied_minor, "", 0
    share = SHORT_TENTH if 10 * received <= 9 * promised else SHORT
    return unapplied_minor, share if received > 0 else UNPAID, promised - received


def _changes(before: tuple[int, str, int], now: tuple[int, str, int]) -> dict[str, int]:
    """By how much each measure changes."""
    change = now[0] - before[0]
    changes = {name: now[2] * (name == now[1]) - before[2] * (name == before[1]) for name in VARIANCES}
    return {"unapplied": change, "identified": -change, **changes}
