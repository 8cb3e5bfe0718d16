"""The contract of ErpGateway, held against the twin in memory and a real Tryton."""

from collections import Counter
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Protocol

import pytest
from loopback_proxy import LoopbackProxy

from adapters.embedded import (
    TRYTON_DATABASE,
    TRYTON_USER,
    EmbeddedPart,
    start_tryton,
    stop,
    tryton_password,
)
from adapters.erp.http.fault import ErpFault
from adapters.erp.memory import MemoryCompany, MemoryErp
from adapters.erp.tryton import MoveLine, TrytonGateway
from adapters.erp.tryton_rpc import Credentials, TrytonSession
from adapters.erp.tryton_setup import CompanySpec
from runtime.errors import ErpError
from runtime.ports import ErpAccount, ErpGateway, JournalEntry, JournalLine

OPENS_ON = date(2026, 2, 1)
ACCOUNTS = (("AR_INS", "1200"), ("CASH", "1010"), ("GROSS_REV", "4000"), ("REFUND_PAYABLE", "2100"))
COMPANIES = tuple(
    CompanySpec(entity=entity, name=name, currency=currency, opens_on=opens_on, years=years, accounts=ACCOUNTS)
    for entity, name, currency, opens_on, years in (
        ("north", "Northern Clinics", "USD", OPENS_ON, (2026,)),
        ("south", "Southern Clinics", "EUR", date(2025, 1, 1), (2025, 2026)),
    )
)
CURRENCIES = {"north": "USD", "south": "EUR"}
LOCKED = 'could not obtain lock on row in relation "ir_sequence_strict"'


class Erp(Protocol):
    """One ERP under test, and how to trouble it."""

    gateway: ErpGateway

    def lose_answer(self) -> None: ...
    def lose_answer_after_draft(self) -> None: ...
    def throttle(self) -> None: ...
    def stop(self) -> None: ...
    def with_wrong_password(self) -> ErpGateway: ...
    def close(self) -> None: ...


class InMemory:
    """The twin."""

    def __init__(self) -> None:
        months = {f"2026-{month:02}" for month in range(2, 13)}
        accounts = frozenset(code for _, code in ACCOUNTS)
        years = {"north": months, "south": months | {"2026-01"} | {f"2025-{month:02}" for month in range(1, 13)}}
        self._companies = {
            entity: MemoryCompany(currency=currency, accounts=accounts, periods=frozenset(years[entity]))
            for entity, currency in CURRENCIES.items()
        }
        self.gateway = MemoryErp(companies=self._companies)

    def lose_answer(self) -> None:
        self.gateway.plan("lose_answer_after_commit")

    def lose_answer_after_draft(self) -> None:
        self.gateway.plan("lose_answer_after_draft")

    def throttle(self) -> None:
        self.gateway.plan("throttle")

    def stop(self) -> None:
        self.gateway.state = "stopped"

    def with_wrong_password(self) -> ErpGateway:
        locked = MemoryErp(companies=self._companies)
        locked.state = "locked"
        return locked

    def close(self) -> None:
        """Nothing was started."""


class RealTryton:
    """A Tryton that the module shares, behind a proxy of the test's own."""

    def __init__(self, part: EmbeddedPart, password: str) -> None:
        self._password = password
        self.proxy = LoopbackProxy(int(part.url.rpartition(":")[2]))
        self.gateway = self.connect(password)
        self.session = TrytonSession(Credentials(part.url, TRYTON_DATABASE, TRYTON_USER, password))
        self._opened = [self.gateway, self.session]

    def connect(self, password: str) -> TrytonGateway:
        return TrytonGateway(
            TrytonSession(Credentials(self.proxy.url, TRYTON_DATABASE, TRYTON_USER, password)), tuple(CURRENCIES)
        )

    def another(self) -> TrytonGateway:
        """A second gateway, which remembers nothing of the first."""
        gateway = self.connect(self._password)
        self._opened.append(gateway)
        return gateway

    def lose_answer(self) -> None:
        self.proxy.spoil("account.move.post", "lose_answer")

    def lose_answer_after_draft(self) -> None:
        self.proxy.spoil("account.move.create", "lose_answer")

    def throttle(self) -> None:
        self.proxy.spoil("account.move.create", 503, LOCKED)

    def stop(self) -> None:
        self.proxy.close()

    def with_wrong_password(self) -> ErpGateway:
        gateway = self.connect("not the password")
        self._opened.append(gateway)
        return gateway

    def drafts(self) -> list[int]:
        """Every move that is not posted."""
        return self.session.read("model.account.move.search", [["state", "!=", "posted"]], 0, None, None)

    def close(self) -> None:
        for each in self._opened:
            each.close()
        self.proxy.close()


@pytest.fixture(scope="module")
def running_tryton(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    """A Tryton with two companies. The initialised database is kept in pytest's cache for the next run."""
    folder = tmp_path_factory.mktemp("tryton")
    part = start_tryton(folder, COMPANIES, Path(request.config.cache.mkdir("tryton")))
    try:
        yield part, tryton_password(folder)
    finally:
        stop(part)


@pytest.fixture
def tryton(running_tryton: tuple[EmbeddedPart, str]) -> Iterator[RealTryton]:
    erp = RealTryton(*running_tryton)
    yield erp
    erp.close()


@pytest.fixture(params=["memory", "tryton"])
def erp(request: pytest.FixtureRequest) -> Iterator[Erp]:
    if request.param == "tryton":
        yield request.getfixturevalue("tryton")
    else:
        yield InMemory()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key prefix that no other test uses: the real ERP outlives the test."""
    return request.node.name


def entry(
    key: str,
    amounts: tuple[int, ...] = (10_001, -10_001),
    entity: str = "north",
    posted_on: date = date(2026, 3, 5),
    codes: tuple[str, ...] = ("1200", "4000"),
) -> JournalEntry:
    """An entry whose lines are debits where the amount is positive."""
    lines = tuple(
        JournalLine(codes[i % len(codes)], "D" if amount > 0 else "C", abs(amount), "f1", "lab", f"charges ({i})")
        for i, amount in enumerate(amounts)
    )
    return JournalEntry(
        key=key,
        digest="d",
        entity=entity,
        currency=CURRENCIES[entity],
        period=posted_on.strftime("%Y-%m"),
        posted_on=posted_on,
        mode="summary",
        lane=3,
        document="",
        lines=lines,
        sets=(),
    )


def codes_of(outcomes: list) -> list[str]:
    return [outcome.code for outcome in outcomes]


def sums(accounts: list[ErpAccount]) -> Counter:
    """Minor units by entity, currency, account and side."""
    return Counter(
        {
            (*account[:3], side): amount
            for account in accounts
            for side, amount in (("D", account.debit_minor), ("C", account.credit_minor))
            if amount
        }
    )


# ── posting and finding again ──────────────────────────────────────────────────────────────────────────────────────


def test_post_one_balanced_entry_gives_it_a_document_number(erp: Erp, key: str) -> None:
    """A balanced entry is posted, under a number of the ERP."""
    [outcome] = erp.gateway.post([entry(key)])
    assert (outcome.key, outcome.code) == (key, "posted")
    assert outcome.erp_ref


def test_post_many_of_two_entities_answers_each_in_order(erp: Erp, key: str) -> None:
    """Entries of several entities go in one call; the outcomes come in the entries' order, each with its own number."""
    entries = [entry(f"{key}/{i}", entity="south" if i % 3 else "north") for i in range(12)]
    outcomes = erp.gateway.post(entries)
    assert [outcome.key for outcome in outcomes] == [each.key for each in entries]
    assert set(codes_of(outcomes)) == {"posted"}
    numbers = {(each.entity, outcome.erp_ref) for each, outcome in zip(entries, outcomes, strict=True)}
    assert len(numbers) == 12


def test_lookup_of_posted_keys_gives_the_same_answer_each_time(erp: Erp, key: str) -> None:
    """What was posted is found under its key with the number that the post gave, however often one asks."""
    posted = {o.key: o for o in erp.gateway.post([entry(f"{key}/a"), entry(f"{key}/b", entity="south")])}
    assert erp.gateway.lookup(list(posted)) == posted
    assert erp.gateway.lookup(list(posted)) == posted


def test_lookup_of_unknown_key_is_absent(erp: Erp, key: str) -> None:
    """A key that the ERP does not hold is left out of the answer, beside one that it holds."""
    erp.gateway.post([entry(key)])
    found = erp.gateway.lookup([key, f"{key}/never"])
    assert found is not None
    assert set(found) == {key}


def test_lookup_of_no_keys_is_empty(erp: Erp) -> None:
    """Asking for nothing gives nothing."""
    assert erp.gateway.lookup([]) == {}


def test_trial_balance_grows_by_exactly_what_was_posted(erp: Erp, key: str) -> None:
    """Turnover of each account and side grows by the posted amounts, to the cent, and by nothing else."""
    before = sums(erp.gateway.trial_balance())
    erp.gateway.post(
        [
            entry(f"{key}/a", (1, 33, -34), codes=("1200", "1010", "4000")),
            entry(f"{key}/b", (999_999_999_99, -999_999_999_99), codes=("4000", "1200")),
            entry(f"{key}/c", (7, -7), entity="south", codes=("1010", "2100")),
        ]
    )
    grown = sums(erp.gateway.trial_balance())
    grown.subtract(before)
    assert {account: amount for account, amount in grown.items() if amount} == {
        ("north", "USD", "1200", "D"): 1,
        ("north", "USD", "1010", "D"): 33,
        ("north", "USD", "4000", "C"): 34,
        ("north", "USD", "4000", "D"): 99_999_999_999,
        ("north", "USD", "1200", "C"): 99_999_999_999,
        ("south", "EUR", "1010", "D"): 7,
        ("south", "EUR", "2100", "C"): 7,
    }


def test_post_history_into_the_opening_period_is_accepted(erp: Erp, key: str) -> None:
    """An entry for what happened before the ERP opened is posted on the first open day."""
    assert codes_of(erp.gateway.post([entry(key, posted_on=OPENS_ON)])) == ["posted"]


# ── rejections ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fault",
    [
        {"amounts": (100, -99)},
        {"codes": ("1200", "9999")},
        {"posted_on": date(2026, 1, 31)},
        {"posted_on": date(2019, 5, 5)},
    ],
    ids=["unbalanced", "unknown_account", "closed_period", "no_period"],
)
def test_post_a_faulty_entry_rejects_it_and_leaves_nothing(erp: Erp, key: str, fault: dict) -> None:
    """An entry that the ERP can't have is rejected with a reason, and neither found nor in the balance afterwards."""
    before = erp.gateway.trial_balance()
    [outcome] = erp.gateway.post([entry(key, **fault)])
    assert outcome.code == "rejected"
    assert outcome.detail
    assert erp.gateway.lookup([key]) == {}
    assert erp.gateway.trial_balance() == before


def test_post_with_one_unknown_account_applies_none_of_the_call(erp: Erp, key: str) -> None:
    """One bad entry rejects its whole call with one reason that names the account; the others can be sent again."""
    good, bad = entry(f"{key}/good"), entry(f"{key}/bad", codes=("1200", "9999"))
    refused = erp.gateway.post([good, bad])
    assert codes_of(refused) == ["rejected", "rejected"]
    assert refused[0].detail == refused[1].detail
    assert "9999" in refused[0].detail
    assert erp.gateway.lookup([good.key, bad.key]) == {}
    assert codes_of(erp.gateway.post([good])) == ["posted"]


def test_post_in_another_currency_than_the_companys_is_rejected(erp: Erp, key: str) -> None:
    """An entry's currency is the company's, or the entry is rejected."""
    foreign = entry(key, entity="south")
    [outcome] = erp.gateway.post([type(foreign)(**{**_fields(foreign), "currency": "USD"})])
    assert outcome.code == "rejected"


def _fields(given: JournalEntry) -> dict:
    return {name: getattr(given, name) for name in given.__struct_fields__}


# ── failures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_post_with_wrong_password_is_unauthorised(erp: Erp, key: str) -> None:
    """Refused credentials apply nothing, and say so; reading with them raises."""
    locked = erp.with_wrong_password()
    assert codes_of(locked.post([entry(key)])) == ["unauthorised"]
    with pytest.raises(ErpError):
        locked.trial_balance()
    assert erp.gateway.lookup([key]) == {}


def test_post_to_a_stopped_server_is_unavailable(erp: Erp, key: str) -> None:
    """A server that refuses connections has applied nothing; it can't be asked either."""
    erp.gateway.post([entry(f"{key}/before")])
    erp.stop()
    assert codes_of(erp.gateway.post([entry(key), entry(f"{key}/2")])) == ["unavailable", "unavailable"]
    assert erp.gateway.lookup([key]) is None
    with pytest.raises(ErpError):
        erp.gateway.trial_balance()


def test_post_to_a_busy_server_is_throttled_and_applies_nothing(erp: Erp, key: str) -> None:
    """A server that says it is busy has applied nothing: the same entry is posted by the next call."""
    erp.throttle()
    assert codes_of(erp.gateway.post([entry(key)])) == ["throttled"]
    assert erp.gateway.lookup([key]) == {}
    assert codes_of(erp.gateway.post([entry(key)])) == ["posted"]


def test_post_with_a_lost_answer_is_unknown_until_looked_up(erp: Erp, key: str) -> None:
    """An answer lost after the ERP has posted is unknown; the lookup finds the entry posted, and booked once."""
    before = sums(erp.gateway.trial_balance())
    erp.lose_answer()
    assert codes_of(erp.gateway.post([entry(key)])) == ["unknown"]
    found = erp.gateway.lookup([key])
    assert found is not None
    assert found[key].code == "posted"
    assert found[key].erp_ref
    assert _growth(erp, before) == {("north", "USD", "1200", "D"): 10_001, ("north", "USD", "4000", "C"): 10_001}


def test_lookup_of_a_draft_left_behind_posts_it(erp: Erp, key: str) -> None:
    """An answer lost between creating and posting leaves a draft, which the lookup posts, once."""
    before = sums(erp.gateway.trial_balance())
    erp.lose_answer_after_draft()
    assert codes_of(erp.gateway.post([entry(key)])) == ["unknown"]
    assert erp.gateway.shown([key]) == {} and _growth(erp, before) == {}
    first, second = erp.gateway.lookup([key]), erp.gateway.lookup([key])
    assert first == second == erp.gateway.shown([key])
    assert first is not None
    assert first[key].code == "posted"
    assert _growth(erp, before) == {("north", "USD", "1200", "D"): 10_001, ("north", "USD", "4000", "C"): 10_001}


def _growth(erp: Erp, before: Counter) -> dict:
    grown = sums(erp.gateway.trial_balance())
    grown.subtract(before)
    return {account: amount for account, amount in grown.items() if amount}


def test_lookup_of_a_key_posted_twice_says_so(erp: Erp, key: str) -> None:
    """An ERP without native keys takes a key twice; the lookup makes that visible."""
    first, _ = erp.gateway.post([entry(key)]), erp.gateway.post([entry(key)])
    assert erp.gateway.lookup([key]) == {key: first[0]._replace(detail="duplicate key in ERP")}


# ── Tryton alone ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_post_refused_after_creating_deletes_its_drafts(tryton: RealTryton, key: str) -> None:
    """When Tryton creates a move but will not post it, nothing of it stays, and the others of the call are posted."""
    entries = [entry(f"{key}/a"), entry(f"{key}/empty", amounts=()), entry(f"{key}/b", entity="south")]
    assert codes_of(tryton.gateway.post(entries)) == ["posted", "rejected", "posted"]
    assert tryton.drafts() == []


def test_post_after_the_session_expired_logs_in_again(tryton: RealTryton, key: str) -> None:
    """A 401 between creating and posting, as an idle session gets, costs a login and no entry."""
    tryton.proxy.spoil("account.move.post", 401)
    assert codes_of(tryton.gateway.post([entry(key)])) == ["posted"]
    found = tryton.gateway.lookup([key])
    assert found is not None
    assert found[key].detail == ""


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (502, "", "unknown"),
        (503, LOCKED, "throttled"),
        (503, "no server is available", "unknown"),
        (504, "", "unknown"),
        (404, "", "unavailable"),
    ],
)
def test_post_answered_with_a_status_is_what_the_status_proves(
    tryton: RealTryton, key: str, status: int, text: str, code: str
) -> None:
    """Of a server error between creating and posting, only those that prove a rollback count as not applied."""
    tryton.proxy.spoil("account.move.post", status, text)
    assert codes_of(tryton.gateway.post([entry(key)])) == [code]
    assert len(tryton.drafts()) == (code == "unknown")
    found = tryton.gateway.lookup([key])
    assert found is not None
    assert (key in found) == (code == "unknown")
    assert tryton.drafts() == []


def test_lookup_of_a_draft_that_tryton_refuses_deletes_it(tryton: RealTryton, key: str) -> None:
    """A left draft that can't be posted is no answer to its key, and does not stay to block the period's close."""
    tryton.lose_answer_after_draft()
    assert codes_of(tryton.gateway.post([entry(key, amounts=())])) == ["unknown"]
    assert tryton.gateway.lookup([key]) == {}
    assert tryton.drafts() == []


def test_lookup_of_many_drafts_posts_those_of_a_company_in_one_call(tryton: RealTryton, key: str) -> None:
    """A lost answer to that leaves its drafts in doubt, not what was found beside them; the next lookup finds them."""
    there = entry(f"{key}/there")
    left = [entry(f"{key}/{n}") for n in range(5)] + [entry(f"{key}/south", entity="south")]
    assert codes_of(tryton.gateway.post([there])) == ["posted"]
    tryton.lose_answer_after_draft()
    assert set(codes_of(tryton.gateway.post(left))) == {"unknown"}
    tryton.lose_answer()
    found = tryton.gateway.lookup([there.key, *(each.key for each in left)])
    assert {each: outcome.code for each, outcome in found.items()} == {
        there.key: "posted",
        **{each.key: "unknown" for each in left[:5]},
        left[5].key: "posted",
    }
    again = tryton.gateway.lookup([each.key for each in left])
    assert [again[each.key].code for each in left] == ["posted"] * 6
    assert tryton.drafts() == []


def test_lookup_of_drafts_of_which_one_is_refused_posts_the_others(tryton: RealTryton, key: str) -> None:
    """One that Tryton will not post is deleted, and is not there; it does not hold up the others."""
    tryton.lose_answer_after_draft()
    tryton.gateway.post([entry(f"{key}/a"), entry(f"{key}/empty", amounts=()), entry(f"{key}/b")])
    found = tryton.gateway.lookup([f"{key}/a", f"{key}/empty", f"{key}/b"])
    assert {each: outcome.code for each, outcome in found.items()} == {f"{key}/a": "posted", f"{key}/b": "posted"}
    assert tryton.drafts() == []


def test_post_with_credentials_locked_out_is_unauthorised(tryton: RealTryton, key: str) -> None:
    """Tryton answers 429 to a login after too many wrong ones: that is about the credentials, not about load."""
    tryton.proxy.spoil("common.db.login", 429)
    assert codes_of(tryton.another().post([entry(key)])) == ["unauthorised"]


def test_post_by_a_user_who_does_not_see_all_companies_is_unauthorised(tryton: RealTryton, key: str) -> None:
    """A user who sees one company would miss keys in the others: such a user must not post."""
    [user] = tryton.session.read("model.res.user.search", [["login", "=", TRYTON_USER]], 0, 1, None)
    tryton.session.call("model.res.user.write", [user], {"company_filter": "one"})
    try:
        outcomes = tryton.another().post([entry(f"{key}/a"), entry(f"{key}/b", entity="south")])
    finally:
        tryton.session.call("model.res.user.write", [user], {"company_filter": "all"})
    assert codes_of(outcomes) == ["unauthorised", "unauthorised"]


def test_post_after_a_missing_account_was_added_succeeds(tryton: RealTryton, key: str) -> None:
    """What the gateway remembers of the chart is read again after a rejection."""
    late = entry(key, codes=("1200", "4777"))
    assert codes_of(tryton.gateway.post([late])) == ["rejected"]
    domain = [["company.party.identifiers.code", "=", "penstock:north"], ["code", "=", "4000"]]
    [sibling] = tryton.session.read("model.account.account.search", domain, 0, 1, None)
    tryton.session.call("model.account.account.copy", [sibling], {"code": "4777"})
    assert codes_of(tryton.gateway.post([late])) == ["posted"]


def test_trial_balance_counts_a_closed_fiscal_year(tryton: RealTryton, key: str) -> None:
    """Turnover covers all years, whether Tryton still has them open or not."""
    tryton.gateway.post([entry(key, entity="south", posted_on=date(2025, 6, 1), codes=("1010", "2100"))])
    before = tryton.gateway.trial_balance()
    domain = [["company.party.identifiers.code", "=", "penstock:south"], ["name", "=", "2025"]]
    years = tryton.session.read("model.account.fiscalyear.search", domain, 0, None, None)
    tryton.session.call("model.account.fiscalyear.close", years)
    assert tryton.gateway.trial_balance() == before
    assert codes_of(tryton.gateway.post([entry(f"{key}/late", entity="south", posted_on=date(2025, 6, 1))])) == [
        "rejected"
    ]


def test_move_lines_give_back_what_was_posted(tryton: RealTryton, key: str) -> None:
    """Posted lines are read back with key, account, side, amount and text."""
    tryton.gateway.post([entry(key, (1_234, -1_234))])
    assert [line for line in tryton.gateway.move_lines("north") if line.key == key] == [
        MoveLine(key, "1200", "D", 1_234, "charges (0) f1 lab"),
        MoveLine(key, "4000", "C", 1_234, "charges (1) f1 lab"),
    ]


def test_amounts_are_the_currency_s_own_whatever_digits_tryton_shows(tryton: RealTryton, key: str) -> None:
    """Tryton's own list of currencies gives each two digits, also yen and dinar: a cent stays a cent nevertheless."""
    [dollar] = tryton.session.read("model.currency.currency.search", [["code", "=", "USD"]], 0, None, None)
    tryton.session.call("model.currency.currency.write", [dollar], {"digits": 3})
    try:
        shown = tryton.another()
        before = sums(shown.trial_balance())
        assert codes_of(shown.post([entry(key)])) == ["posted"]
        domain = [["move.description", "=", key], ["debit", ">", Decimal(0)]]
        [line] = tryton.session.read("model.account.move.line.search_read", domain, 0, None, None, ["debit"])
        assert line["debit"] == Decimal("100.01")
        assert (sums(shown.trial_balance()) - before)["north", "USD", "1200", "D"] == 10_001
    finally:
        tryton.session.call("model.currency.currency.write", [dollar], {"digits": 2})


def test_fault_of_a_refused_amount_does_not_quote_it(tryton: RealTryton) -> None:
    """Tryton quotes values in its errors; what we keep of them does not."""
    line = {"account": 1, "debit": Decimal("424.242"), "credit": Decimal(0)}
    with pytest.raises(ErpFault) as refused:
        tryton.session.call("model.account.move.create", [{"lines": [["create", [line]]]}])
    assert refused.value.code == "rejected"
    assert "424" not in refused.value.detail


class SlowFirst:
    """A clock on which the first log-in takes a minute."""

    def __init__(self) -> None:
        self.passed_ms = 0

    def now_ms(self) -> int:
        return self.passed_ms

    def sleep(self, seconds: float) -> None:
        self.passed_ms += round(seconds * 1000)


def test_tryton_post_after_a_slow_login_creates_nothing(tryton: RealTryton, key: str) -> None:
    """What comes before the moves are created may take so long that somebody else has sent the entry meanwhile."""
    gateway, clock = tryton.another(), SlowFirst()
    session = gateway._session
    login, session._clock = session._login, clock
    session._login = lambda: (clock.sleep(60), login())
    [outcome] = gateway.post([entry(key)])
    assert (outcome.code, gateway.lookup([key])) == ("unavailable", {})
    assert codes_of(gateway.post([entry(key)])) == ["posted"]


# ── the twin alone ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_memory_post_that_commits_late_is_absent_until_it_settles() -> None:
    """A negative lookup before the server has finished proves nothing: afterwards the entry is there."""
    erp = MemoryErp(faults=["commit_late"])
    assert codes_of(erp.post([entry("k")])) == ["unknown"]
    assert erp.lookup(["k"]) == {}
    erp.settle()
    assert set(erp.lookup(["k"]) or {}) == {"k"}


def test_memory_refuses_a_named_entry_for_ever() -> None:
    """A poisonous entry is rejected whenever it is sent, and takes its call along as the terms say."""
    erp = MemoryErp(faults=["reject:bad"])
    assert codes_of(erp.post([entry("good"), entry("bad")])) == ["rejected", "rejected"]
    assert codes_of(erp.post([entry("bad")])) == ["rejected"]
    assert codes_of(erp.post([entry("good")])) == ["posted"]
