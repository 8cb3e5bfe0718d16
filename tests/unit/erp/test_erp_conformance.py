"""The safe checks of a connection: what keeps its contract passes, and each breach is found by its check."""

from collections.abc import Sequence

import msgspec
import pytest

from adapters.erp.conformance import CHECKS, Subject, findings
from adapters.erp.http.fault import NoTrialBalance
from adapters.erp.memory import TERMS, MemoryCompany, MemoryErp
from runtime.errors import ErpError
from runtime.ports import ErpAccount, ErpTerms, JournalEntry, Outcome

ACCOUNT = "1010"
POSTS = "books an entry once, and finds it"
MONTHS = frozenset(f"{year}-{month:02}" for year in (2026, 2027) for month in range(1, 13))


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def now_ms(self) -> int:
        """The present."""
        return self.ms

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.ms += round(seconds * 1000)


class Honest(MemoryErp):
    """An ERP of one company that keeps its contract."""

    def __init__(self, clock: Clock, terms: ErpTerms = TERMS) -> None:
        company = MemoryCompany(currency="USD", accounts=frozenset({ACCOUNT}), periods=MONTHS)
        super().__init__(terms, companies={"north": company}, now_ms=clock.now_ms)


class Deaf(Honest):
    """Can't be asked."""

    def lookup(self, keys: Sequence[str]) -> None:
        """No answer."""


class Forgetful(Honest):
    """Finds nothing."""

    def lookup(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """Never there."""
        return {}


class Careless(Honest):
    """Takes whatever it is given."""

    def post(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        """Posted, it says."""
        return [Outcome(entry.key, "posted", "1") for entry in entries]


class Lopsided(Honest):
    """Its books do not balance."""

    def trial_balance(self) -> list[ErpAccount]:
        """A debit alone."""
        return [ErpAccount("north", "USD", ACCOUNT, 1, 0)]


class Doubling(Honest):
    """Books everything twice."""

    def post(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        """Once more."""
        super().post(entries)
        return super().post(entries)


class Closed(Honest):
    """Reads nothing."""

    def trial_balance(self) -> list[ErpAccount]:
        """An error."""
        raise ErpError("no permission")


class Bookless(Honest):
    """Has no trial balance."""

    def trial_balance(self) -> list[ErpAccount]:
        """None."""
        raise NoTrialBalance


def verdicts(erp: MemoryErp, clock: Clock, account: str = ACCOUNT) -> dict[str, str]:
    found = list(findings(Subject(erp, clock, "north", "USD", account)))
    assert [each.check for each in found] == [name for name, _ in CHECKS]
    assert all(each.detail for each in found)
    return {each.check: each.verdict for each in found}


@pytest.mark.parametrize("atomicity", ["all_or_nothing", "per_item", "job"])
@pytest.mark.parametrize("native_key", ["permanent", "none"])
def test_findings_of_an_erp_that_keeps_its_contract_are_all_kept(atomicity: str, native_key: str) -> None:
    """Whatever its shape, an ERP that does what its terms say passes every check, and one cent is booked once."""
    clock = Clock()
    erp = Honest(clock, msgspec.structs.replace(TERMS, atomicity=atomicity, native_key=native_key))
    assert set(verdicts(erp, clock).values()) == {"kept"}
    assert len(erp.moves) == 1


def test_findings_without_an_account_send_nothing_that_could_be_booked() -> None:
    """Without an account to post to, what books is skipped, and the ERP's books stay as they were."""
    clock = Clock()
    erp = Honest(clock)
    found = verdicts(erp, clock, account="")
    assert found[POSTS] == found["refuses an unknown account"] == "skipped"
    assert not erp.moves


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Deaf, {"is reached, and looks keys up", POSTS}),
        (Forgetful, {POSTS}),
        (Careless, {"refuses what is not balanced", "refuses an unknown account", POSTS}),
        (Lopsided, {"reads a trial balance", POSTS}),
        (Doubling, {POSTS}),
        (Closed, {"reads a trial balance"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_findings_of_a_breach_name_its_check(kind: type[Honest], broken: set[str]) -> None:
    """Each breach is found by the checks that are about it, and by no other."""
    clock = Clock()
    found = verdicts(kind(clock), clock)
    assert {check for check, verdict in found.items() if verdict == "broken"} == broken


def test_findings_of_an_erp_without_trial_balance_skip_it() -> None:
    """What an ERP does not have is not broken."""
    clock = Clock()
    found = verdicts(Bookless(clock), clock)
    assert found["reads a trial balance"] == "skipped"
    assert found[POSTS] == "kept"


def test_findings_of_an_erp_that_is_away_are_broken_and_nothing_is_raised() -> None:
    """A stopped ERP gives findings, not an exception."""
    clock = Clock()
    erp = Honest(clock)
    erp.state = "stopped"
    assert list(verdicts(erp, clock).values()).count("broken") >= 3
