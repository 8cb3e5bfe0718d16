"""Routing: which shard owns what, and how a frame is parted."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from unit.engine.builders import RULEBOOK, charge, event, stamped

from runtime.routing import ENTITY_SCOPE, shard_of, splitter
from runtime.schema import to_arrow

SHARDS = 8
FACILITIES = [f"facility-{number}" for number in range(40)]
split = splitter(RULEBOOK.scopes(), SHARDS)


def test_routing_known_scopes_have_the_shards_that_they_always_had():
    """Owners are pinned: a change of them would part an event from its own memory in every running log."""
    pinned = {("mercy", "north"): 0, ("mercy", "south"): 3, ("mercy", "*"): 2, ("grace", "north"): 2, ("grace", "*"): 7}
    assert {scope: shard_of(*scope, SHARDS) for scope in pinned} == pinned
    assert shard_of("mercy", "north", 4096) == 552


def test_routing_one_shard_owns_everything():
    """With one shard there is nothing to choose."""
    assert {shard_of("mercy", facility, 1) for facility in FACILITIES} == {0}


def test_routing_many_facilities_use_all_shards():
    """The hash spreads an entity's facilities over every shard."""
    assert {shard_of("mercy", facility, SHARDS) for facility in FACILITIES} == set(range(SHARDS))


def test_routing_facility_scoped_rows_go_to_their_facility():
    """Each row lies in the part of its facility's owner, rows in their order, every row once."""
    frame = stamped(*(charge(f"e{i}", facility=facility) for i, facility in enumerate(FACILITIES * 3)))
    parts = split(frame)
    for shard, part in parts.items():
        assert {shard_of("mercy", facility, SHARDS) for facility in part["facility"]} == {shard}
        assert_frame_equal(part, frame.filter(pl.col("event_id").is_in(part["event_id"].implode())))
    assert sum(map(len, parts.values())) == len(frame)


def test_routing_entity_scoped_rows_meet_whatever_their_facility():
    """All rows of an entity's card flow go to one shard, with a facility or without."""
    rows = [event(f"e{i}", "card_authorised", 1, document=f"d{i}", facility=f) for i, f in enumerate(FACILITIES)]
    frame = stamped(*rows, event("e99", "card_authorised", 1, document="d99", facility=None))
    assert {shard: len(part) for shard, part in split(frame).items()} == {shard_of("mercy", ENTITY_SCOPE, SHARDS): 41}


def test_routing_mixed_frame_keeps_the_columns():
    """Parts have the columns of the frame, none added and none lost."""
    frame = stamped(*(charge(f"e{i}", facility=facility) for i, facility in enumerate(FACILITIES)))
    assert {tuple(part.columns) for part in split(frame).values()} == {tuple(frame.columns)}


def test_routing_frame_of_one_owner_is_passed_on_untouched():
    """A frame that belongs to one shard is not copied."""
    frame = stamped(charge("e1"), charge("e2"))
    (part,) = split(frame).values()
    assert part is frame


def test_routing_owner_does_not_depend_on_how_many_ask():
    """Each event of a large batch has the owner that it has alone, whichever way owners are found."""
    kinds = ("card_authorised", "charge_posted")
    rows = [event(f"e{i}", kinds[i % 2], 1, document=f"d{i}", facility=f) for i, f in enumerate(FACILITIES * 3)]
    frame = stamped(*rows).with_columns(entity=pl.Series(["mercy", "grace", "mercy"] * 40))
    given = to_arrow(frame.with_columns(facility=pl.when(pl.col("kind") == kinds[1]).then("facility")))
    assert split.owners(given).tolist() == [split.owners(given.slice(i, 1)).item() for i in range(len(rows))]


def test_routing_empty_frame_has_no_parts():
    """No rows go to no shard."""
    assert split(stamped(charge("e1")).clear()) == {}


@given(entity=st.text(), facility=st.text(), shards=st.integers(1, 4096))
def test_routing_any_scope_has_one_owner_in_range(entity, facility, shards):
    """Every scope has an owner among the shards, the same each time."""
    owner = shard_of(entity, facility, shards)
    assert 0 <= owner < shards
    assert owner == shard_of(entity, facility, shards)
