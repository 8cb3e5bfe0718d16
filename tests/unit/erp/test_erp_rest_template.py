"""Templates of requests: what they become, and how a wrong one is named."""

from datetime import date

import msgspec
import pytest

from adapters.erp.doubles.rest import BATCH_SETTINGS, CSV_SETTINGS, SINGLE_SETTINGS
from adapters.erp.http.gateway import ErpConnection
from adapters.erp.rest import open_gateway
from adapters.erp.rest_template import CALL, ENTRY, KEY, LINE, Template, at, text_at, values_of
from runtime.config import ErpSection
from runtime.errors import ConfigError
from runtime.ports import JournalEntry, JournalLine

SIDES = {"D": "debit", "C": "credit"}


class NoClock:
    """A clock that stands still."""

    def now_ms(self) -> int:
        return 0

    def sleep(self, seconds: float) -> None:
        """Stand still."""


def entry() -> JournalEntry:
    """Two lines of 9,007,199,254,740,993 minor units, which no float holds."""
    amount = 9_007_199_254_740_993
    return JournalEntry(
        key="PS-north-0000000001",
        digest="d",
        entity="north",
        currency="USD",
        period="2026-03",
        posted_on=date(2026, 3, 5),
        mode="summary",
        lane=3,
        document="",
        lines=(
            JournalLine("1200", "D", amount, "f1", "lab", "charges"),
            JournalLine("4000", "C", amount, "f1", "lab", "charges"),
        ),
        sets=(),
    )


def filled(template: object, scope: object = ENTRY) -> object:
    """The template filled with the entry, as JSON would be read."""
    values = values_of(entry(), entry().key, "c-1", SIDES)
    given = {"entries": [values]} if scope is CALL else values
    return msgspec.json.decode(msgspec.json.encode(Template(template, scope, "body")(given)))


def test_template_fills_texts_dates_and_amounts() -> None:
    """Texts, dates in a form, and amounts as text and in minor units are filled in; other values stay as they are."""
    template = {
        "ref": "journal {key}",
        "day": "{date:%d.%m.%Y}",
        "total": "{total}",
        "units": "{total:minor}",
        "draft": False,
        "tags": ["{entity}", 7, None],
        "braces": "{{key}}",
    }
    assert filled(template) == {
        "ref": "journal PS-north-0000000001",
        "day": "05.03.2026",
        "total": "90071992547409.93",
        "units": 9_007_199_254_740_993,
        "draft": False,
        "tags": ["north", 7, None],
        "braces": "{key}",
    }


def test_template_writes_a_json_number_digit_by_digit() -> None:
    """An amount as a JSON number keeps every cent, as no float is between."""
    body = Template({"amount": "{total:number}"}, ENTRY, "body")(values_of(entry(), "k", "c", SIDES))
    assert msgspec.json.encode(body) == b'{"amount":90071992547409.93}'


def test_template_repeats_over_lines_and_entries() -> None:
    """A loop over lines knows the entry's names too; a loop over entries holds one over lines."""
    lines = {"$each": "lines", "$of": {"ref": "{key}/{line_no}", "side": "{side}", "signed": "{signed}"}}
    assert filled({"$each": "entries", "$of": {"lines": lines}}, CALL) == [
        {
            "lines": [
                {"ref": "PS-north-0000000001/1", "side": "debit", "signed": "90071992547409.93"},
                {"ref": "PS-north-0000000001/2", "side": "credit", "signed": "-90071992547409.93"},
            ]
        }
    ]


def test_template_of_a_key_that_is_too_long_is_a_short_name() -> None:
    """A key that has no room becomes a stable short name, not a part of itself that others share."""
    short = Template("{key:24}", KEY, "key")
    first, second = short({"key": "PS-" + "a" * 60 + "1"}), short({"key": "PS-" + "a" * 60 + "2"})
    assert len(first) == len(second) == 24
    assert first != second
    assert short({"key": "PS-north-1"}) == "PS-north-1"


@pytest.mark.parametrize(
    ("template", "scope", "said"),
    [
        ("{amount}", ENTRY, r"body: there is no {amount} here; known are key"),
        ({"a": ["{nobody}"]}, LINE, r"body\.a\.0: there is no {nobody}"),
        ({"$each": "entries", "$of": "x"}, ENTRY, "can repeat over lines here"),
        ({"$each": "lines"}, ENTRY, r"needs \$each and \$of"),
        ("{total:number} USD", ENTRY, "must stand alone"),
        ("{total:2}", ENTRY, "number or minor"),
        ("{key:8}", ENTRY, "room for 16"),
        ("{entity:short}", ENTRY, "number of characters"),
        ("{key", ENTRY, "body: "),
        ({"rate": 0.5}, ENTRY, r"body\.rate: write numbers with a fraction as text"),
    ],
)
def test_template_that_is_wrong_is_named_with_its_place(template: object, scope: object, said: str) -> None:
    """A template that could fail later fails when it is read, and the error says where and what would be right."""
    with pytest.raises(ConfigError, match=said):
        Template(template, scope, "body")


def test_paths_find_what_is_there_and_nothing_else() -> None:
    """A path goes through objects and lists; where it leads nowhere there is nothing."""
    answer = {"data": [{"id": 7, "ok": True}], "name": None}
    assert at(answer, "data.0.id") == 7
    assert [text_at(answer, path) for path in ("data.0.id", "data.0.ok", "data.1.id", "name.x", "data")] == [
        "7",
        "true",
        "",
        "",
        "",
    ]


def opened(settings: dict) -> None:
    """Open and close a gateway of these settings."""
    section = ErpSection(kind="rest", url="http://127.0.0.1:1", companies={"north": "1"}, settings=settings)
    open_gateway(ErpConnection(section, ("north",), NoClock())).close()


@pytest.mark.parametrize("settings", [SINGLE_SETTINGS, BATCH_SETTINGS, CSV_SETTINGS], ids=["single", "batch", "csv"])
def test_rest_description_that_is_right_opens(settings: dict) -> None:
    """The examples are valid."""
    opened(settings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"terms": {}}, r"terms: .*settle_s"),
        ({"terms": {"settle_s": 1, "speed": 3}}, r"terms: speed is not possible"),
        ({"terms": {"settle_s": 1, "atomicity": "job"}}, r"terms: atomicity job is not possible"),
        ({"terms": {"settle_s": 1, "entries_max": 5}}, r"terms\.entries_max: .*so it is 1"),
        ({"post": {"path": "/j", "body": {"total": "{total}"}}}, r"post: nothing of the request holds {key}"),
        ({"post": {"path": "/j"}}, r"post: needs a body or csv"),
        ({"post": {"path": "j", "body": "{key}"}}, r"post\.path"),
        ({"post": {"path": "/j", "body": "{key}", "colour": 1}}, r"post\.colour"),
        ({"lookup": {"path": "/j", "items": {"key": "ref"}}}, r"lookup: nothing of the request holds {key}"),
        ({"errors": {"duplicate": {"text": "("}}}, r"errors\.duplicate\.text: .*no pattern"),
        ({"sides": {"D": "S"}}, r"sides: name both D and C"),
    ],
)
def test_rest_description_that_is_wrong_does_not_open(change: dict, said: str) -> None:
    """Each mistake is found at the start, under its key."""
    with pytest.raises(ConfigError, match=r"erp\.settings\." + said):
        opened({**SINGLE_SETTINGS, **change})
