"""Posts journal entries to any ERP with a plain REST interface, JSON or CSV, described in the configuration alone.

Owns how a request is made and an answer read by that description (`rest_settings`). All of it is checked at the start,
and an error names its key. What such an ERP promises can't be known here, so `terms` state it, and their defaults are
the safe ones: one entry a call, no key, one call at a time. An ERP whose calls make jobs needs an adapter of its own.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from adapters.erp.http.dialect import Dialect, Reply, Rule, VendorError, fault_of
from adapters.erp.http.fault import ErpFault, shortened
from adapters.erp.http.gateway import ErpConnection, HttpGateway, settings_of
from adapters.erp.http.transport import JSON, Request
from adapters.erp.rest_settings import Errors, Items, Lookup, Post, Settings
from adapters.erp.rest_template import CALL, EACH, ENTRY, KEY, KEYS, LINE, Template, at, text_at, values_of
from runtime.errors import ConfigError
from runtime.ports import TWICE, ErpTerms, JournalEntry, Outcome

_PLACE = "erp.settings"
_HEADER = "header:"
_KNOWN = "the key is known"  # begins the detail of a refusal that says so
_DEFAULT_TERMS = {"native_key": "none", "lines_max": 1000, "entries_max": 1, "concurrency": 1}


class RestGateway(HttpGateway):
    """One ERP by its description."""

    own_settings = Settings

    def __init__(self, connection: ErpConnection) -> None:
        self._settings = settings = settings_of(Settings, connection.section)
        if settings.sides.keys() != {"D", "C"}:
            raise ConfigError(f"{_PLACE}.sides: name both D and C")
        self._dialect = _dialect(settings.errors)
        super().__init__(connection, dialect=self._dialect, terms=_terms(settings))
        self._compile_post(settings.post)
        if settings.lookup:
            self._compile_lookup(settings.lookup)

    def takes_currency(self, currency: str) -> bool:
        return self._settings.foreign_currencies

    def deliver(self, entries: Sequence[JournalEntry]) -> list[Outcome]:
        filled = [self._values(entry) for entry in entries]
        if self._of_call:
            return self._sent(entries, {"entries": filled})
        return [outcome for each in zip(entries, filled, strict=True) for outcome in self._sent_alone(*each)]

    def find(self, keys: Sequence[str]) -> dict[str, Outcome]:
        lookup = self._settings.lookup
        if lookup is None:
            raise ErpFault("unavailable", "this ERP can't be asked for a key")
        names = {self._name(key): key for key in keys}
        ask = self._asked_together if self._together else self._asked_singly
        found: dict[str, list[str]] = {}
        for item in ask(lookup, names):
            key, state = names.get(text_at(item, lookup.items.key)), text_at(item, lookup.items.state)
            if key and (not lookup.items.state or state in lookup.items.posted):
                found.setdefault(key, []).append(text_at(item, lookup.items.reference))
        return {key: Outcome(key, "posted", refs[0], TWICE if refs[1:] else "") for key, refs in found.items()}

    # posting

    def _values(self, entry: JournalEntry) -> dict[str, Any]:
        return values_of(entry, self._name(entry.key), self.companies[entry.entity], self._settings.sides)

    def _name(self, key: str) -> str:
        """The key as it is sent."""
        return self._key({"key": key})

    def _sent_alone(self, entry: JournalEntry, values: Mapping[str, Any]) -> list[Outcome]:
        try:
            return self._sent([entry], values)
        except ErpFault as fault:  # holds for this request and no others
            return fault.outcomes([entry])

    def _sent(self, entries: Sequence[JournalEntry], values: Mapping[str, Any]) -> list[Outcome]:
        post = self._settings.post
        headers = {name: template(values) for name, template in self._headers.items()}
        content_type = post.content_type or ("text/csv" if post.csv else JSON)
        request = Request(post.method, self._path(values), self._body(values), headers, content_type=content_type)
        reply = self.http.send(request, also=range(400, 600))
        if reply.status >= 400:
            return self._refused(entries, reply)
        if post.items is None:
            reference = _reference(reply, post.reference)
            if post.reference and not reference:  # a success by its status alone: its body may say anything
                return self._refused(entries, reply)
            return [Outcome(entry.key, "posted", reference) for entry in entries]
        return self._each(entries, post.items, reply)

    def _refused(self, entries: Sequence[JournalEntry], reply: Reply) -> list[Outcome]:
        """A fault, of which nothing is known where neither status nor error tells; where it says that the key is known,
        what is there is posted and the rest was not applied."""
        fault = fault_of(reply, self._dialect, self.clock.now_ms())
        if self._settings.lookup is None or not fault.mentions(f"^{_KNOWN}"):
            raise fault
        found = self.find([entry.key for entry in entries])
        if not found:
            raise ErpFault("unknown", f"refused as known, but not found: {fault.detail}")
        left = "not sent: another entry of the call is known"
        return [found.get(entry.key) or Outcome(entry.key, "unavailable", detail=left) for entry in entries]

    def _each(self, entries: Sequence[JournalEntry], items: Items, reply: Reply) -> list[Outcome]:
        names = {self._name(entry.key): entry.key for entry in entries}
        listed = at(reply.read(Any), items.at)
        told = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
        return [
            _outcome(names[text_at(item, items.key)], item, items) for item in told if text_at(item, items.key) in names
        ]

    # finding

    def _asked_singly(self, lookup: Lookup, names: Iterable[str]) -> Iterable[Any]:
        for name in names:
            yield from self._asked(lookup, {"key": name})

    def _asked_together(self, lookup: Lookup, names: Iterable[str]) -> Iterable[Any]:
        """An answer may be a page of several, which says nothing of keys that it lacks: they are asked for again, until
        an answer names none of them."""
        left = dict.fromkeys(names)
        while left:
            items = self._asked(lookup, {"keys": lookup.separator.join(left)})
            yield from items
            told = {text_at(item, lookup.items.key) for item in items} & left.keys()
            left = {name: None for name in left if told and name not in told}

    def _asked(self, lookup: Lookup, values: Mapping[str, str]) -> list[Any]:
        params = {name: template(values) for name, template in self._lookup_params.items()}
        body = self._lookup_body(values) if self._lookup_body else None
        request = Request(lookup.method, self._lookup_path(values), body, params=params, reads=True)
        reply = self.http.send(request, also=lookup.absent)
        if reply.status in lookup.absent:
            return []
        listed = at(reply.read(Any), lookup.items.at)
        items = listed if isinstance(listed, list) else [listed]
        # An answer that is not as described must not look like a key that is not there: it would be sent again.
        if not all(text_at(item, lookup.items.key) for item in items):
            raise ErpFault("unavailable", "the answer to a lookup is not as erp.settings.lookup.items says")
        return items

    # templates

    def _compile_post(self, post: Post) -> None:
        place = f"{_PLACE}.post"
        if (post.body is None) == (post.csv is None):
            raise ConfigError(f"{place}: needs a body or csv, one of the two")
        self._key = Template(post.key, KEY, f"{place}.key")
        self._of_call = _takes_many(post)
        scope = CALL if self._of_call else ENTRY
        self._path = Template(post.path, scope, f"{place}.path", _quoted)
        self._headers = {name: Template(text, scope, f"{place}.headers.{name}") for name, text in post.headers.items()}
        parts = [self._path, *self._headers.values()]
        if post.csv:
            self._columns = [
                Template(column.value, LINE, f"{place}.csv.columns.{i}") for i, column in enumerate(post.csv.columns)
            ]
            self._body = self._csv
            parts += self._columns
        else:
            self._body = Template(post.body, scope, f"{place}.body")
            parts.append(self._body)
        if not any("key" in part.uses for part in parts):
            raise ConfigError(f"{place}: nothing of the request holds {{key}}, so an entry could not be found again")
        if self._terms.entries_max > 1 and not self._of_call:
            raise ConfigError(f'{_PLACE}.terms.entries_max: the body has no {{"$each": "entries"}}, so it is 1')

    def _compile_lookup(self, lookup: Lookup) -> None:
        place = f"{_PLACE}.lookup"
        self._together = _asks_together(lookup)
        scope = KEYS if self._together else KEY
        self._lookup_path = Template(lookup.path, scope, f"{place}.path", _quoted)
        self._lookup_params = {
            name: Template(text, scope, f"{place}.params.{name}") for name, text in lookup.params.items()
        }
        self._lookup_body = Template(lookup.body, scope, f"{place}.body") if lookup.body is not None else None
        parts = (self._lookup_path, *self._lookup_params.values(), *([self._lookup_body] if self._lookup_body else []))
        if not any(part.uses for part in parts):
            raise ConfigError(f"{place}: nothing of the request holds {{key}} or {{keys}}")

    def _csv(self, values: Mapping[str, Any]) -> bytes:
        table = self._settings.post.csv
        assert table is not None
        file = io.StringIO()
        writer = csv.writer(file, delimiter=table.separator, lineterminator="\r\n")
        if table.heading:
            writer.writerow([column.name for column in table.columns])
        for entry in values["entries"]:
            for line in entry["lines"]:
                writer.writerow([column({**entry, **line}) for column in self._columns])
        return file.getvalue().encode()


def _asks_together(lookup: Lookup) -> bool:
    """Whether one request asks for many keys."""
    return "{keys" in f"{lookup.path}{lookup.params}{lookup.body}"


def _takes_many(post: Post) -> bool:
    """Whether one request holds all entries of a call."""
    return post.csv is not None or _repeats_entries(post.body)


def _repeats_entries(template: Any) -> bool:
    if isinstance(template, Mapping):
        return template.get(EACH) == "entries" or any(map(_repeats_entries, template.values()))
    return isinstance(template, list | tuple) and any(map(_repeats_entries, template))


def _outcome(key: str, item: dict[str, Any], items: Items) -> Outcome:
    state, reason = text_at(item, items.state), text_at(item, items.reason)
    if not items.state or state in items.posted:
        return Outcome(key, "posted", text_at(item, items.reference))
    return Outcome(key, "rejected" if state in items.rejected else "unknown", detail=shortened(f"{state} {reason}"))


def _reference(reply: Reply, path: str) -> str:
    if path.startswith(_HEADER):
        return reply.header(path.removeprefix(_HEADER)).rpartition("/")[2]
    return text_at(reply.read(Any), path) if path else ""


def _dialect(errors: Errors) -> Dialect:
    def error_of(reply: Reply) -> VendorError:
        body = reply.read(Any)
        return VendorError(text_at(body, errors.code), text_at(body, errors.text))

    again = errors.duplicate
    known = [Rule("rejected", again.status, again.code, again.text, _KNOWN)] if again else []
    told = [Rule(m.means, m.status, m.code, m.text, m.detail, m.retry_after_s) for m in errors.meanings]
    return Dialect("rest", (*known, *told), error_of)


def _terms(settings: Settings) -> ErpTerms:
    apart = settings.post.items is not None or not _takes_many(settings.post)
    shape = {"lookup": settings.lookup is not None, "atomicity": "per_item" if apart else "all_or_nothing"}
    # Where each key costs a request, a lookup is for one, so that it counts as one in the limits.
    asked = {} if settings.lookup is None or _asks_together(settings.lookup) else {"lookup_keys_max": 1}
    try:
        terms = msgspec.convert({**_DEFAULT_TERMS, **shape, **asked, **settings.terms}, ErpTerms)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{_PLACE}.terms: {error}") from None
    unknown = settings.terms.keys() - set(ErpTerms.__struct_fields__)
    if unknown or terms.atomicity == "job":
        raise ConfigError(f"{_PLACE}.terms: {', '.join(sorted(unknown)) or 'atomicity job'} is not possible here")
    return terms


def _quoted(text: str) -> str:
    return quote(text, safe="")


def open_gateway(connection: ErpConnection) -> RestGateway:
    """The adapter of `erp.kind = "rest"`."""
    return RestGateway(connection)
