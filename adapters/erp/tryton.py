"""Posts journal entries into Tryton (8.x, module `account`) over JSON-RPC.

Owns how an entry becomes an account move, and how a key is found again: as the move's description, or as its external
reference where Tryton has our module `external_ref`.
Never decides when to post, look up or repeat; that is the delivery's. Takes the ERP's accounts and periods as they are.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import date
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from pydantic import Field

from adapters.erp.http.amounts import decimal_text, minor_of
from adapters.erp.http.fault import ErpFault
from adapters.erp.http.gateway import UNASKED, ErpConnection, settings_of, with_limits
from adapters.erp.http.naming import line_text
from adapters.erp.tryton_company import Companies, Company, period_of
from adapters.erp.tryton_rpc import Credentials, TrytonSession
from runtime.errors import ConfigError
from runtime.ports import TWICE, ErpAccount, ErpTerms, JournalEntry, JournalLine, Outcome
from runtime.sections import Section

PASSWORD_VARIABLE = "PENSTOCK_ERP_PASSWORD"
STOCK_TERMS = ErpTerms(
    native_key="none",
    atomicity="all_or_nothing",
    settle_s=20.0,  # forty times what a full call takes: one that outlives its caller on a busy machine ends by then
    lines_max=200,  # a call costs about 2 ms a line; beyond half a second there is nothing to gain
    entries_max=50,
    concurrency=1,  # moves of a fiscal year take their numbers one after the other
)
REF_TERMS: ErpTerms = msgspec.structs.replace(STOCK_TERMS, native_key="permanent")
_PAGE_ROWS = 1000
_FIRST_DAY = date(1, 1, 1)


class MoveLine(NamedTuple):
    """One posted line, as Tryton holds it."""

    key: str
    account_code: str
    side: str
    amount_minor: int
    text: str


class TrytonGateway:
    """One Tryton connection: the companies of `entities`, found by the identifier `penstock:<entity>`.

    One transaction creates the moves of a call. A second one posts them, for each company its own, as Tryton can't post
    those of several at once; what it then refuses is tried again move by move. Drafts that can't be posted are deleted:
    one left behind would keep its period from being closed.
    """

    key_field = "description"  # of a move: where its entry's key is looked up
    stated_terms = STOCK_TERMS

    def __init__(self, session: TrytonSession, entities: Sequence[str], terms: ErpTerms | None = None) -> None:
        self._session, self._entities = session, tuple(entities)
        self._terms = terms or self.stated_terms
        self._companies = Companies(self._session, self.key_field)
        self.unasked = UNASKED

    def terms(self) -> ErpTerms:
        return self._terms

    def post(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        try:
            ids = self._made("model.account.move.create", entries)
        except ErpFault as fault:
            self._companies.forget_after(fault)
            return fault.outcomes(entries)
        drafts: dict[str, dict[int, str]] = defaultdict(dict)
        for move, entry in zip(ids, entries, strict=True):
            drafts[entry.entity][move] = entry.key
        outcomes = {outcome.key: outcome for each in drafts.values() for outcome in self._post_drafts(each)}
        return [outcomes[entry.key] for entry in entries]

    def progress(self, jobs: Sequence[str]) -> list[Outcome]:
        return []  # calls make no jobs

    def lookup(self, keys: Sequence[str]) -> dict[str, Outcome] | None:
        try:
            moves = [move for page in _pages(keys) for move in self._moves_of(page)]
            left = self._left_of(moves)
        except ErpFault as fault:
            self.unasked = fault.outcome("")
            return None
        return self._posted_of(moves) | self._post_left(left)

    def shown(self, keys: Sequence[str]) -> dict[str, Outcome] | None:
        try:
            return self._posted_of([move for page in _pages(keys) for move in self._moves_of(page)])
        except ErpFault as fault:
            self.unasked = fault.outcome("")
            return None

    def trial_balance(self) -> list[ErpAccount]:
        return [account for entity in self._entities for account in self._turnover(entity)]

    def move_lines(self, entity: str) -> list[MoveLine]:
        """Every posted line of the entity's company, in the order of their creation. Raises ErpError."""
        company = self._companies.of(entity)
        codes = {account: code for code, account in company.accounts.items()}
        return [
            _move_line(row, codes.get(row["account"], ""), company.currency) for row in self._posted_lines(company.id)
        ]

    def close(self) -> None:
        self._session.close()

    # posting

    def _post_drafts(self, drafts: dict[int, str]) -> list[Outcome]:
        """Post the drafts of one company, given with the keys that they hold."""
        try:
            self._session.call("model.account.move.post", list(drafts))
        except ErpFault as fault:
            if fault.code == "rejected" and len(drafts) > 1:
                return [self._post_drafts({move: key})[0] for move, key in drafts.items()]
            self._companies.forget_after(fault)
            undone = self._undone(list(drafts), fault)
            return [undone.outcome(key) for key in drafts.values()]
        return self._posted(drafts)

    def _made(self, method: str, entries: Sequence[JournalEntry]) -> list[Any]:
        """What this method makes of the entries' moves, if it begins in time: what is left as a draft is found."""
        latest_ms = self._session.now_ms() + round(self._terms.begins_s * 1000)
        moves = [self._move(entry, self._companies.of(entry.entity)) for entry in entries]
        return self._session.call(method, moves, latest_ms=latest_ms)

    def _move(self, entry: JournalEntry, company: Company) -> dict[str, Any]:
        if entry.currency != company.currency:
            raise ErpFault("rejected", f"entry {entry.key}: not in its company's currency {company.currency}")
        # On SQLite, Tryton 8.2 posts an unbalanced move: it compares the difference with a text.
        if sum(line.amount_minor if line.side == "D" else -line.amount_minor for line in entry.lines):
            raise ErpFault("rejected", f"entry {entry.key}: debits and credits differ")
        return {
            "company": company.id,
            "journal": self._companies.journal(),
            "period": period_of(entry, company),
            "date": entry.posted_on,
            "description": entry.key,
            "lines": [["create", [_line_values(entry, line, company) for line in entry.lines]]],
        }

    def _undone(self, drafts: list[int], fault: ErpFault) -> ErpFault:
        """What a failed posting comes to: its own code once the drafts are gone, unknown while they may be there."""
        if fault.code != "unknown":
            with suppress(ErpFault):
                self._session.call("model.account.move.delete", drafts)
                return fault
        return ErpFault("unknown", fault.detail)

    def _posted(self, drafts: dict[int, str]) -> list[Outcome]:
        try:
            rows = self._session.read("model.account.move.read", list(drafts), ["number"])
        except ErpFault:
            rows = []
        numbers = {row["id"]: row["number"] for row in rows}
        unread = "posted; its number could not be read"
        return [
            Outcome(key, "posted", numbers.get(move, ""), "" if move in numbers else unread)
            for move, key in drafts.items()
        ]

    # finding

    def _moves_of(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        companies = [self._companies.of(entity).id for entity in self._entities]
        domain = [[self.key_field, "in", list(keys)], ["company", "in", companies]]
        fields = [self.key_field, "state", "number", "company"]
        return self._session.read("model.account.move.search_read", domain, 0, None, [["id", "ASC"]], fields)

    def _posted_of(self, moves: Sequence[dict[str, Any]]) -> dict[str, Outcome]:
        """What is posted under each key."""
        posted = [move for move in moves if move["state"] == "posted"]
        times = Counter(move[self.key_field] for move in posted)
        numbers = {move[self.key_field]: move["number"] for move in reversed(posted)}
        doubled = {key: TWICE for key, found in times.items() if found > 1}
        return {key: Outcome(key, "posted", number, doubled.get(key, "")) for key, number in numbers.items()}

    def _left_of(self, moves: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of the keys under which nothing is posted, one draft each. All other drafts are deleted."""
        known = {move[self.key_field] for move in moves if move["state"] == "posted"}
        drafts = [move for move in moves if move["state"] != "posted"]
        left = {move[self.key_field]: move for move in reversed(drafts) if move[self.key_field] not in known}
        if spare := [move["id"] for move in drafts if left.get(move[self.key_field]) is not move]:
            self._session.call("model.account.move.delete", spare)
        return sorted(left.values(), key=itemgetter("id"))

    def _post_left(self, drafts: Iterable[dict[str, Any]]) -> dict[str, Outcome]:
        """What becomes of drafts that were left behind: posted, or unknown once more. Those that Tryton will not have
        are deleted, so nothing is there under their keys."""
        by_company: dict[int, dict[int, str]] = defaultdict(dict)
        for move in drafts:
            by_company[move["company"]][move["id"]] = move[self.key_field]
        outcomes = [outcome for keys in by_company.values() for outcome in self._post_drafts(keys)]
        return {outcome.key: outcome for outcome in outcomes if outcome.code in ("posted", "unknown")}

    # reading

    def _turnover(self, entity: str) -> list[ErpAccount]:
        company = self._companies.of(entity)
        domain = [["company", "=", company.id], ["type", "!=", None]]
        fields = ["code", "debit", "credit"]
        # With a first day Tryton sums over all years, closed ones too; without, over the open ones only.
        context = {"company": company.id, "posted": True, "from_date": _FIRST_DAY, "active_test": False}
        order = [["code", "ASC"]]
        rows = self._session.read("model.account.account.search_read", domain, 0, None, order, fields, **context)
        accounts = [
            ErpAccount(
                entity,
                company.currency,
                row["code"] or "",
                minor_of(row["debit"], company.currency),
                minor_of(row["credit"], company.currency),
            )
            for row in rows
        ]
        return [account for account in accounts if account.debit_minor or account.credit_minor]

    def _posted_lines(self, company: int) -> Iterable[dict[str, Any]]:
        fields = ["move.description", "account", "debit", "credit", "description"]
        last = 0
        while True:
            domain = [["move.company", "=", company], ["move.state", "=", "posted"], ["id", ">", last]]
            order = [["id", "ASC"]]
            page = self._session.read("model.account.move.line.search_read", domain, 0, _PAGE_ROWS, order, fields)
            if not page:
                return
            yield from page
            last = page[-1]["id"]


class TrytonRefGateway(TrytonGateway):
    """One connection to a Tryton that has the module `external_ref`: a key names one move of a company, for ever.

    One transaction creates and posts the moves of a call, or answers what their references name already. A reference
    that names other content is rejected: the ERP holds another entry under this key.
    """

    key_field = "external_ref"
    stated_terms = REF_TERMS

    def post(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        try:
            booked = self._made("model.account.move.post_batch", entries)
        except ErpFault as fault:
            self._companies.forget_after(fault)
            return fault.outcomes(entries)
        return [Outcome(entry.key, "posted", move["number"]) for entry, move in zip(entries, booked, strict=True)]

    def _move(self, entry: JournalEntry, company: Company) -> dict[str, Any]:
        return {**super()._move(entry, company), "external_ref": entry.key, "external_digest": entry.digest}


class TrytonSettings(Section):
    """`[erp.settings]` of a Tryton."""

    external_ref: bool = Field(default=False, description="the database has our module external_ref; embedded: gets it")


def open_gateway(connection: ErpConnection) -> TrytonGateway:
    """The gateway that the configuration names. Raises ConfigError."""
    section = connection.section
    kind = TrytonRefGateway if settings_of(TrytonSettings, section).external_ref else TrytonGateway
    credentials = Credentials(section.url, section.database, section.user, _password(section.password_file))
    session = TrytonSession(credentials, section.http, connection.clock)
    return kind(session, connection.entities, with_limits(kind.stated_terms, section))


def _password(path: str) -> str:
    if given := os.environ.get(PASSWORD_VARIABLE):
        return given
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(f"erp.password_file: {type(error).__name__}; or set {PASSWORD_VARIABLE}") from None


def _line_values(entry: JournalEntry, line: JournalLine, company: Company) -> dict[str, Any]:
    account = company.accounts.get(line.account_code)
    if account is None:
        raise ErpFault("rejected", f"entry {entry.key}: {entry.entity} has no one account {line.account_code}")
    amount, zero = Decimal(decimal_text(line.amount_minor, entry.currency)), Decimal(0)
    debit, credit = (amount, zero) if line.side == "D" else (zero, amount)
    return {"account": account, "debit": debit, "credit": credit, "description": line_text(line)}


def _move_line(row: dict[str, Any], account_code: str, currency: str) -> MoveLine:
    debit, credit = minor_of(row["debit"], currency), minor_of(row["credit"], currency)
    key, text = row["move."]["description"] or "", row["description"] or ""
    return MoveLine(key, account_code, "C" if credit else "D", debit + credit, text)


def _pages(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[at : at + _PAGE_ROWS] for at in range(0, len(keys), _PAGE_ROWS))
