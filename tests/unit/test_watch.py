"""`watch`: what a look shows, and the rates between two."""

from datetime import UTC, datetime

import pytest

from actors.cli.watch import BookCounts, Look, flow

AT = datetime(2026, 10, 31, 23, 0, tzinfo=UTC)


def shard(number: int, appended: int, committed: int) -> dict:
    """A shard as the gateway tells of it."""
    return {"shard": number, "appended": appended, "committed": committed, "waiting": appended - committed} | {
        "held": appended,
        "paused": False,
    }


def look(at_s: float, *shards: dict, books: BookCounts | None = None, reason: str = "") -> Look:
    """One look."""
    return Look(at_s, AT, {"refusing": bool(reason), "reason": reason, "shards": list(shards)}, books)


def rates(shown: dict, name: str = "per_s") -> dict:
    """A column of the stages."""
    return {stage["stage"]: stage[name] for stage in shown["stages"]}


BEFORE = look(10.0, shard(0, 100, 90), shard(1, 50, 50), books=BookCounts(140, 3, {"posted": 4, "sealed": 2}, 1))
NOW = look(12.0, shard(0, 300, 190), shard(1, 50, 50), books=BookCounts(240, 7, {"posted": 8, "unknown": 1}, 2))


def test_stages_show_what_is_done_how_fast_and_what_waits() -> None:
    """Two seconds lie between the looks."""
    shown = flow(BEFORE, NOW)
    assert rates(shown, "done") == {"log": 350, "books": 240, "entries": 9, "ERP": 8}
    assert rates(shown) == {"log": 100, "books": 50, "entries": 2, "ERP": 2}
    assert rates(shown, "waiting") == {"log": None, "books": 110, "entries": 7, "ERP": 1}
    assert [(one["appended_per_s"], one["committed_per_s"]) for one in shown["shards"]] == [(100, 50), (0, 0)]
    assert (shown["exceptions"], shown["reason"]) == (2, "")


def test_first_look_has_no_rates() -> None:
    """Nothing to compare with."""
    shown = flow(None, NOW)
    assert set(rates(shown).values()) == {None} and shown["shards"][0]["appended_per_s"] is None


@pytest.mark.parametrize(
    ("now", "unknown", "reason"),
    [
        (look(12.0, books=NOW.books, reason="no gateway answers"), {"log"}, "no gateway answers"),
        (look(12.0, *NOW.log["shards"]), {"books", "entries", "ERP"}, "the books do not answer"),
        (look(12.0, shard(0, 5, 5), books=NOW.books), {"log"}, ""),
    ],
    ids=["no gateway", "no books", "a log that counts anew"],
)
def test_what_is_not_known_has_no_rate_and_the_rest_is_shown(now: Look, unknown: set[str], reason: str) -> None:
    """Whoever watches is told why, and sees all else."""
    shown = flow(BEFORE, now)
    assert {stage for stage, rate in rates(shown).items() if rate is None} == unknown
    assert shown["reason"] == reason
