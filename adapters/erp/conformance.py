"""The part of an ERP's contract that is safe to try against a live system, as a list of checks.

Owns what is tried and what counts as kept. Books nothing, unless an account is named to book a cent on both sides of.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from adapters.erp.http.fault import NoTrialBalance
from runtime.errors import ErpError
from runtime.ports import Clock, ErpGateway, JournalEntry, JournalLine, Outcome

ABSENT_ACCOUNT = "no-such-account"
JOB_ASKS_MAX, JOB_ASK_S = 60, 5.0
SEEN_EVERY_S, SEEN_ASKS_MAX = 1.0, 10  # a trial balance may lag behind what is posted

Verdict = Literal["kept", "broken", "skipped"]


class Subject(NamedTuple):
    """What is checked: a gateway, one entity and its currency, and the account to book a cent on ("" for none)."""

    gateway: ErpGateway
    clock: Clock
    entity: str
    currency: str
    account: str = ""

    def entry(self, suffix: str, debit: str, credit: str, credit_minor: int = 1) -> JournalEntry:
        """One cent from an account to another, under a key of this moment, today."""
        now_ms = self.clock.now_ms()
        today = datetime.fromtimestamp(now_ms / 1000, UTC).date()
        lines = (
            JournalLine(debit, "D", 1, "", "", "connection check"),
            JournalLine(credit, "C", credit_minor, "", "", "connection check"),
        )
        key = f"PS-check-{now_ms}-{suffix}"
        return JournalEntry(
            key=key,
            digest=key,
            entity=self.entity,
            currency=self.currency,
            period=f"{today:%Y-%m}",
            posted_on=today,
            mode="summary",
            lane=0,
            document="",
            lines=lines,
            sets=(),
        )


class Finding(NamedTuple):
    """One check and what came of it."""

    check: str
    verdict: Verdict
    detail: str


class _Skipped(Exception):
    """There is nothing to check; says why."""


class _Broken(Exception):
    """The contract is not kept; says how."""


def findings(subject: Subject) -> Iterator[Finding]:
    """Every check, one after another; nothing is raised."""
    for name, check in CHECKS:
        try:
            yield Finding(name, "kept", check(subject))
        except _Skipped as skipped:
            yield Finding(name, "skipped", str(skipped))
        except (_Broken, ErpError) as broken:
            yield Finding(name, "broken", str(broken))


def _states_terms(subject: Subject) -> str:
    terms = subject.gateway.terms()
    if terms.native_key == "windowed" and not terms.key_life_s:
        raise _Broken("a windowed key needs its life (key_life_s)")
    if min(terms.lines_max, terms.entries_max, terms.concurrency, terms.requests_max) < 1:
        raise _Broken("a call carries at least one entry, one line, one request")
    return (
        f"key {terms.native_key}, {terms.atomicity}, {terms.entries_max} entries and {terms.lines_max} lines a call, "
        f"{terms.concurrency} calls at a time, settles in {terms.settle_s:g} s"
    )


def _answers_lookup(subject: Subject) -> str:
    if not subject.gateway.terms().lookup:
        raise _Skipped("this ERP can't be asked for a key")
    entry = subject.entry("absent", ABSENT_ACCOUNT, ABSENT_ACCOUNT)
    found = subject.gateway.lookup([entry.key])
    if found is None:
        why = subject.gateway.unasked.detail
        raise _Broken(f"the ERP can't be asked: {why or 'address, credentials or permissions'}")
    if found:
        raise _Broken("a key that nobody used is found")
    return "a key that nobody used is not found"


def _reads_trial_balance(subject: Subject) -> str:
    try:
        accounts = subject.gateway.trial_balance()
    except NoTrialBalance as none:
        raise _Skipped(none.detail) from None
    gaps: Counter[tuple[str, str]] = Counter()
    for account in accounts:
        gaps[account.entity, account.currency] += account.debit_minor - account.credit_minor
    if any(gaps.values()):
        raise _Broken(f"debits and credits differ for {', '.join(entity for (entity, _), gap in gaps.items() if gap)}")
    return f"{len(accounts)} accounts with turnover, balanced"


def _refuses_unbalanced(subject: Subject) -> str:
    entry = subject.entry("unbalanced", ABSENT_ACCOUNT, ABSENT_ACCOUNT, credit_minor=2)
    return _refused(subject, entry)


def _refuses_absent_account(subject: Subject) -> str:
    _account(subject)
    return _refused(subject, subject.entry("account", ABSENT_ACCOUNT, ABSENT_ACCOUNT))


def _posts_once(subject: Subject) -> str:
    account = _account(subject)
    before = _turnover(subject)
    entry = subject.entry("cent", account, account)
    outcome = _sent(subject, entry)
    if outcome.code != "posted" or not outcome.erp_ref:
        raise _Broken(f"{outcome.code}: {outcome.detail}")
    _expect_found(subject, outcome)
    if subject.gateway.terms().native_key != "none":
        again = _sent(subject, entry)
        if again.code != "posted":
            raise _Broken(f"sent again: {again.code}: {again.detail}")
    _expect_one_cent(subject, before)
    return f"document {outcome.erp_ref}, found by its key, booked once"


def _expect_found(subject: Subject, outcome: Outcome) -> None:
    if not subject.gateway.terms().lookup:
        return
    found = subject.gateway.lookup([outcome.key]) or {}
    if outcome.key not in found or found[outcome.key].erp_ref != outcome.erp_ref:
        raise _Broken("what was posted is not found by its key under its number")


def _expect_one_cent(subject: Subject, before: tuple[int, int] | None) -> None:
    if before is None:
        return
    for _ in range(SEEN_ASKS_MAX):
        after = _turnover(subject) or before
        if (after[0] - before[0], after[1] - before[1]) == (1, 1):
            return
        subject.clock.sleep(SEEN_EVERY_S)
    raise _Broken("the trial balance did not grow by one cent on both sides")


def _account(subject: Subject) -> str:
    if not subject.account:
        raise _Skipped("name an account with --post to send entries")
    return subject.account


def _turnover(subject: Subject) -> tuple[int, int] | None:
    try:
        accounts = subject.gateway.trial_balance()
    except ErpError:
        return None
    own = [a for a in accounts if (a.entity, a.account_code) == (subject.entity, subject.account)]
    return sum(a.debit_minor for a in own), sum(a.credit_minor for a in own)


def _refused(subject: Subject, entry: JournalEntry) -> str:
    outcome = _sent(subject, entry)
    if outcome.code != "rejected" or not outcome.detail:
        raise _Broken(f"{outcome.code} {outcome.detail}".rstrip())
    return outcome.detail


def _sent(subject: Subject, entry: JournalEntry) -> Outcome:
    """The outcome of one entry; of a job, when it has ended."""
    [outcome] = subject.gateway.post([entry])
    if outcome.code != "accepted":
        return outcome
    for _ in range(JOB_ASKS_MAX):
        subject.clock.sleep(JOB_ASK_S)
        ended = [each for each in subject.gateway.progress([outcome.erp_ref]) if each.key == entry.key]
        if ended:
            return ended[0]
    raise _Broken(f"job {outcome.erp_ref} did not end within {JOB_ASKS_MAX * JOB_ASK_S:g} s")


CHECKS: tuple[tuple[str, Callable[[Subject], str]], ...] = (
    ("states its terms", _states_terms),
    ("is reached, and looks keys up", _answers_lookup),
    ("reads a trial balance", _reads_trial_balance),
    ("refuses what is not balanced", _refuses_unbalanced),
    ("refuses an unknown account", _refuses_absent_account),
    ("books an entry once, and finds it", _posts_once),
)
