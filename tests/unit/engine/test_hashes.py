"""Hashes that are stored and compared for years: pinned, so that a library that changes them is caught."""

from datetime import date

import polars as pl
import xxhash
from unit.engine.builders import Run, charge, events, mapping, stamped

from runtime import schema
from runtime.flow import frames

SAMPLE = charge(
    "evt-0001",
    12_345,
    department="surgery",
    counterparty="payer-9",
    reference="réf",
    quantity=1_500,
    effective_on=date(2026, 9, 20),
    attributes='{"x":1}',
)


def test_hashes_of_sample_row_are_pinned():
    """The identity and the digest of a known row are what they were when this was written."""
    row = stamped(SAMPLE).row(0, named=True)
    assert row["id_hash"] == 16298288038734525794
    assert row["digest"] == 13732929748878144805


def test_hashes_identity_is_plain_xxhash64():
    """Any xxHash64 gives the same identity, so an id can be looked up without this runtime."""
    row = stamped(SAMPLE).row(0, named=True)
    assert row["id_hash"] == xxhash.xxh64_intdigest(b"ehr\x1fevt-0001")


def test_hashes_digest_is_a_sum_of_plain_xxhash64_over_all_columns():
    """Any xxHash64 gives the same digest: the identity plus each column's number times a factor made of its name."""
    frame = stamped(SAMPLE)
    numbers = pl.selectors.by_dtype(schema.UTC_MS, pl.Date())
    event = frame.select(*schema.COLUMNS).with_columns(numbers.to_physical()).row(0, named=True)
    digest = frame["id_hash"][0]
    for name in schema.COLUMNS:
        if name not in ("source", "event_id"):
            value = "" if event[name] is None else event[name]
            number = xxhash.xxh64_intdigest(value.encode()) if isinstance(value, str) else value
            digest += number * (xxhash.xxh64_intdigest(name.encode()) | 1)
    assert frame["digest"][0] == digest % 2**64


def test_hashes_digest_changes_with_every_column():
    """No column is left out of the digest."""
    digest = stamped(SAMPLE)["digest"][0]
    other = {"amount_minor": 12_346, "quantity": 1, "occurred_at": 1_790_000_000_001, "effective_on": date(2026, 9, 19)}
    other |= {"entity": "grace", "kind": "charge_reversed", "currency": "EUR"}
    for name in schema.COLUMNS:
        if name != "schema_version":
            assert stamped(SAMPLE | {name: other.get(name, "other")})["digest"][0] != digest, name


def test_hashes_of_effects_are_pinned():
    """The digest of a known step's effects is what it was: replays are compared with it across versions."""
    run = Run(mapped=False)
    assert run.step(events(charge("e1"), charge("e1", 7)), mapping(1)).digest() == "597e4765e3d96f537dfca49fc163004a"


def test_hashes_frame_written_before_is_read_as_the_same():
    """A frame that went through the log keeps every hash."""
    frame = stamped(SAMPLE)
    assert frames.decode_sealed(frames.encode(frame)).equals(frame)
