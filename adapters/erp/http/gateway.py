"""What every ERP behind HTTP has in common as an ErpGateway: a vendor's adapter is a subclass with payloads and terms.

Owns the shell of each method of the port: faults become outcomes, entries that can't be right are refused before they
are sent, outcomes stand in the entries' order. Never paces, repeats or remembers a call.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, ClassVar, NamedTuple, TypeVar

import msgspec
from pydantic import AfterValidator, BaseModel, ValidationError

from adapters.erp.http.amounts import signed_minor
from adapters.erp.http.auth import Auth
from adapters.erp.http.dialect import Dialect
from adapters.erp.http.fault import ErpFault, NoTrialBalance
from adapters.erp.http.transport import HttpTransport
from runtime.config import ErpSection, wrong_of
from runtime.errors import ConfigError
from runtime.ports import Clock, ErpAccount, ErpTerms, JournalEntry, Outcome
from runtime.sections import Section

MANY_BEGIN_S = 60.0  # `begins_s` of calls that make one request after another

UNASKED = Outcome("", "unavailable")  # of a gateway that has looked up nothing yet

_SETTINGS = TypeVar("_SETTINGS", bound=BaseModel)
_ASKED = TypeVar("_ASKED")
_TOLD = TypeVar("_TOLD")


class ErpConnection(NamedTuple):
    """What an adapter is opened with: its section of the configuration, the entities it posts for, the time, and the
    currency in which each entity keeps its books."""

    section: ErpSection
    entities: tuple[str, ...]
    clock: Clock
    currencies: Mapping[str, str] = {}


class HttpGateway:
    """One ERP connection over HTTP. A vendor gives `deliver` and, where its ERP can do so, the methods after it.

    `own_settings` is what `[erp.settings]` may hold: nothing, unless a vendor says otherwise.

    They talk through `self.http` and may raise ErpFault at any time. What a fault says then holds for all entries of
    the call, so a vendor that has applied some of a call must catch it and say what is known of each.
    """

    own_settings: ClassVar[type[BaseModel]] = Section

    def __init__(
        self, connection: ErpConnection, *, dialect: Dialect, terms: ErpTerms, auth: Auth | None = None
    ) -> None:
        section = connection.section
        settings_of(self.own_settings, section)
        self.unasked = UNASKED
        self.companies = {
            entity: section.companies[entity] for entity in connection.entities if entity in section.companies
        }
        self.clock, self.currencies = connection.clock, dict(connection.currencies)
        self.http = HttpTransport(section, connection.clock, dialect, auth)
        self._terms = with_limits(terms, section)

    # what a vendor gives

    def deliver(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        """Send entries in one call; an outcome for each, in any order."""
        raise NotImplementedError

    def refusal(self, entry: JournalEntry) -> str:
        """Why this entry is not even sent; "" when it may be. Extend it by what the ERP would take and should not."""
        if sum(signed_minor(line) for line in entry.lines):
            return f"entry {entry.key}: debits and credits differ"
        if entry.entity not in self.companies:
            return f"entry {entry.key}: no company; set erp.companies.{entry.entity}"
        own = self.currencies.get(entry.entity, entry.currency)
        if entry.currency != own and not self.takes_currency(entry.currency):
            return f"entry {entry.key}: not in its company's currency {own}"
        return ""

    def takes_currency(self, currency: str) -> bool:
        """Whether the payload names this currency, so that an entry may be in another than its company's."""
        return False

    def find(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """What the ERP holds under these keys, as ErpGateway.lookup has it."""
        raise ErpFault("unavailable", "this ERP can't be asked for a key")

    def see(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """What of it is posted already, changing nothing. Leave it out where `find` changes nothing."""
        return self.find(keys)

    def report(self, jobs: Sequence[str]) -> list[Outcome]:
        """Outcomes of the entries of ended jobs, as ErpGateway.progress has it. Only where calls make jobs."""
        return []

    def turnover(self) -> list[ErpAccount]:
        """The trial balance. Leave it out where the vendor has none."""
        raise NoTrialBalance

    def transports(self) -> Iterable[HttpTransport]:
        """All connections that this one is made of, where there are more than `self.http`."""
        return (self.http,)

    # ErpGateway

    def terms(self) -> ErpTerms:
        return self._terms

    def post(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        refused = {entry.key: reason for entry in entries if (reason := self.refusal(entry))}
        if refused and self._terms.atomicity == "all_or_nothing":
            return ErpFault("rejected", next(iter(refused.values()))).outcomes(entries)
        sent = [entry for entry in entries if entry.key not in refused]
        latest_ms = self.clock.now_ms() + round(self._terms.begins_s * 1000)
        for transport in self.transports():
            transport.books_until_ms = latest_ms
        outcomes = [Outcome(key, "rejected", detail=reason) for key, reason in refused.items()]
        by_key = {outcome.key: outcome for outcome in (*outcomes, *self._delivered(sent))}
        untold = Outcome("", "unknown", detail="the ERP's answer does not name this entry")
        return [by_key.get(entry.key, untold._replace(key=entry.key)) for entry in entries]

    def progress(self, jobs: Sequence[str]) -> list[Outcome]:
        try:
            return self.report(jobs)
        except ErpFault as fault:
            return [fault.outcome("")]

    def lookup(self, keys: Sequence[str]) -> dict[str, Outcome] | None:
        return self._unless_unasked(self.find, keys)

    def shown(self, keys: Sequence[str]) -> dict[str, Outcome] | None:
        return self._unless_unasked(self.see, keys)

    def trial_balance(self) -> list[ErpAccount]:
        return self.turnover()

    def close(self) -> None:
        for transport in self.transports():
            transport.close()

    def _unless_unasked(
        self, ask: Callable[[Sequence[str]], dict[str, Outcome]], keys: Sequence[str]
    ) -> dict[str, Outcome] | None:
        try:
            return ask(keys) if keys else {}
        except ErpFault as fault:
            self.unasked = fault.outcome("")
            return None

    def _delivered(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        try:
            return self.deliver(entries) if entries else []
        except ErpFault as fault:
            return fault.outcomes(entries)


def told_of_each(asked: Iterable[_ASKED], ask: Callable[[_ASKED], list[Outcome]]) -> list[Outcome]:
    """What is told of each of these jobs, whatever another one raises. ErpFault when none told anything."""
    outcomes: list[Outcome] = []
    faults: list[ErpFault] = []
    for each in asked:
        try:
            outcomes += ask(each)
        except ErpFault as fault:
            faults.append(fault)
    if faults and not outcomes:
        raise faults[0]
    return outcomes


def asked_of_each(companies: Collection[str], ask: Callable[[str], list[_TOLD]]) -> tuple[list[_TOLD], ErpFault | None]:
    """What each of these companies tells, and the refusal of one that does not serve us, if others do."""
    told: list[_TOLD] = []
    refusals: list[ErpFault] = []
    for company in companies:
        try:
            told += ask(company)
        except ErpFault as fault:
            if fault.code not in ("unauthorised", "throttled", "rejected"):
                raise
            refusals.append(fault)
    if refusals and len(refusals) == len(companies):
        raise refusals[0]
    return told, refusals[0] if refusals else None


def unless_refused(keys: Sequence[str], found: dict[str, Outcome], refusal: ErpFault | None) -> dict[str, Outcome]:
    """What was found; what was not is in doubt once more where a company could not be asked."""
    doubted = Outcome("", "unknown", detail=refusal.detail) if refusal else None
    return found | {key: doubted._replace(key=key) for key in keys if doubted and key not in found}


def with_limits(terms: ErpTerms, section: ErpSection) -> ErpTerms:
    """The terms of this account: what the adapter declares, with `[erp.limits]` over it."""
    given = section.limits.model_dump(exclude_none=True)
    return msgspec.structs.replace(terms, **given)


def settings_of(model: type[_SETTINGS], section: ErpSection) -> _SETTINGS:
    """The adapter's own settings, checked; ConfigError names the key."""
    try:
        return model.model_validate(section.settings)
    except ValidationError as error:
        raise ConfigError(wrong_of(error, "erp.settings")) from None


def _is_a_pattern(given: str) -> str:
    try:
        re.compile(given)
    except re.error as error:
        raise ValueError(f"no pattern: {error}") from None
    return given


PatternText = Annotated[str, AfterValidator(_is_a_pattern)]  # of a setting: a regular expression
