"""Posts journal entries into Example over its REST API.

Owns the form of a journal, and what Example's answers mean. The key is the journal's reference, which Example does not
keep unique but can search. How long a request may run there is not documented; `settle_s` is the careful guess.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from adapters.erp.http.amounts import json_amount
from adapters.erp.http.dialect import Dialect, Reply, Rule, VendorError
from adapters.erp.http.gateway import ErpConnection, HttpGateway
from adapters.erp.http.naming import line_text
from adapters.erp.http.transport import Request
from runtime.ports import ErpTerms, JournalEntry, Outcome

TERMS = ErpTerms(
    native_key="none", settle_s=60, atomicity="per_item", lines_max=500, entries_max=20, concurrency=2, per_minute=300
)


class _Journal(msgspec.Struct):
    reference: str
    number: str = ""
    state: str = ""
    message: str = ""


class _Answer(msgspec.Struct):
    results: list[_Journal] = []
    data: list[_Journal] = []
    error: dict[str, str] = {}


def error_of(reply: Reply) -> VendorError:
    error = reply.read(_Answer).error
    return VendorError(error["code"], error["message"])


DIALECT = Dialect("example", (Rule("throttled", 400, error="too_many"),), error_of)


class ExampleGateway(HttpGateway):
    """One connection to Example; each entity is a company, by `erp.companies`."""

    def __init__(self, connection: ErpConnection) -> None:
        super().__init__(connection, dialect=DIALECT, terms=TERMS)

    def deliver(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        body = {"journals": [self._journal(entry) for entry in entries]}
        reply = self.http.send(Request("POST", "/api/journals/batch", body))
        return [_outcome(journal) for journal in reply.read(_Answer).results]

    def find(self, keys: Sequence[str]) -> dict[str, Outcome]:
        asked = Request("GET", "/api/journals", params={"references": ",".join(keys)}, reads=True)
        found = self.http.send(asked).read(_Answer).data
        return {one.reference: Outcome(one.reference, "posted", one.number) for one in reversed(found)}

    def _journal(self, entry: JournalEntry) -> dict[str, Any]:
        lines = []
        for line in entry.lines:
            side, amount = "debit" if line.side == "D" else "credit", json_amount(line.amount_minor, entry.currency)
            amounts = {"debit": 0, "credit": 0, side: amount}
            lines.append({"account": line.account_code, "text": line_text(line)[:1000], **amounts})
        head = {"reference": entry.key, "company": self.companies[entry.entity], "date": entry.posted_on}
        return {**head, "currency": entry.currency, "lines": lines}


def _outcome(journal: _Journal) -> Outcome:
    if journal.state == "booked":
        return Outcome(journal.reference, "posted", journal.number)
    code = "rejected" if journal.state == "refused" else "unknown"
    return Outcome(journal.reference, code, detail=journal.message)


def open_gateway(connection: ErpConnection) -> ExampleGateway:
    """The adapter of `erp.kind = "example"`, if this file is adapters/erp/example.py; nothing else registers it."""
    return ExampleGateway(connection)
