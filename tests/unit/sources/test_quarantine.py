"""Parts of files that are set aside become events that somebody owns."""

from pathlib import Path

import polars as pl
import pytest

from adapters.settings import standard_rulebook_text
from adapters.sources import Chunk, Quarantined, Source, SourceSettings
from adapters.sources.quarantine import quarantine_events
from runtime import limits
from runtime.ledger.rule_file import parse_rulebook
from runtime.schema import COLUMNS, EntityTerms, Vocabulary, conform
from runtime.validation import validate

PARTS = [
    Quarantined(1, 4, 2, "claim_unbalanced"),
    Quarantined(1, 9, 1, "bad_amount"),
    Quarantined(3, 1, 0, "missing_trn"),
]
NOW_MS = 1_790_000_000_000


def events(file: Path, parts=PARTS):
    return quarantine_events(file, "835", parts, "mercy", "USD")


def test_quarantined_parts_become_one_valid_event_each(tmp_path: Path) -> None:
    """A transaction with two findings is one event, named by its first code; the gateway takes all of them."""
    file = tmp_path / "remit.835"
    file.write_bytes(b"ISA*secret")
    found = events(file)
    assert found["reason"].to_list() == ["claim_unbalanced", "missing_trn"]
    kinds = parse_rulebook(standard_rulebook_text()).kind_terms()
    vocabulary = Vocabulary(kinds=kinds, entities={"mercy": EntityTerms(currencies=frozenset({"USD"}))})
    assert validate(conform(found), vocabulary, NOW_MS).rejected.is_empty()


def test_quarantined_parts_of_the_same_content_are_the_same_events(tmp_path: Path) -> None:
    """A copy of a file gives equal events, another content gives others."""
    first, copy, other = (tmp_path / name for name in "abc")
    first.write_bytes(b"ISA*1")
    copy.write_bytes(b"ISA*1")
    other.write_bytes(b"ISA*2")
    assert events(first).equals(events(copy))
    assert set(events(first)["event_id"]).isdisjoint(events(other)["event_id"])


def test_quarantined_nothing_reads_nothing(tmp_path: Path) -> None:
    """A file with nothing set aside is not even opened again."""
    assert events(tmp_path / "absent", []).is_empty()


def test_quarantined_parts_are_all_told_although_their_details_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where more is wrong than an answer holds, further findings of a part are left out, and never a part."""
    monkeypatch.setattr(limits, "REJECTS_REPORTED_MAX", 4)
    found = [Quarantined(part, place, 0, "bad_amount") for part in range(1, 6) for place in range(1, 4)]
    chunks = [Chunk(pl.DataFrame(schema=COLUMNS), [], found[:7]), Chunk(pl.DataFrame(schema=COLUMNS), [], found[7:])]
    source = Source(tmp_path, lambda path, settings: iter(chunks), SourceSettings())
    assert list(source.frames()) == []
    assert [(part.transaction, part.segment) for part in source.quarantined] == [
        (1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (4, 1), (5, 1)
    ]  # fmt: skip
