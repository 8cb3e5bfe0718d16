"""What goes wrong in operation, and how it ends: clear, owned by somebody, with nothing lost."""

import contextlib
import json
import os
import signal
import uuid
from collections.abc import Iterator

import grpc
import polars as pl
import pytest
import redis
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from installed import Installed, until
from penstock import Client, SubmitTimeout
from penstock.v1 import events_pb2 as v1
from penstock.v1.events_pb2_grpc import EventServiceStub

SEEN_TIMEOUT_S = 30.0
STREAM = "penstock:feed:card"
# A feed's writer that may write although memory is full, as if its stream lay on another server.
ADD = "#!lua flags=allow-oom\nreturn redis.call('XADD', KEYS[1], '*', unpack(ARGV))"


def event(kind: str = "charge_posted", **columns: object) -> dict:
    """An event of lakeside's with an id of its own."""
    given = {"source": "ehr", "kind": kind, "entity": "lakeside", "facility": "lakeside-main", "currency": "USD"}
    given |= {"event_id": uuid.uuid4().hex, "account": "token-1", "amount_minor": 100}
    return given | {"occurred_at": 1_790_000_000_000} | columns


@pytest.fixture
def valkey(installed: Installed) -> Iterator[redis.Redis]:
    """The log's own server, with room again at the end."""
    with redis.Redis.from_url(installed.wiring().log_url) as server:
        try:
            yield server
        finally:
            server.config_set("maxmemory", "0")


def open_exceptions(installed: Installed, type: str) -> pl.DataFrame:
    """Open exceptions of a type."""
    with installed.books() as books:
        return books.exceptions(types=[type])


def state_of(installed: Installed, event_id: str) -> str:
    """What became of an event at last."""
    return installed.json("trace", event_id)[-1]["state"]


# ── missing mapping ────────────────────────────────────────────────────────────────────────────────────────────────


def test_event_without_a_mapping_is_held_and_books_when_it_is_approved(installed, client, drained, tmp_path):
    """An event whose role has no account waits as an exception, and posts by itself once a mapping is approved."""
    held = event("adjustment_posted", department="night-clinic", reason="CO-45")
    assert client.submit([held]).accepted == 1

    def held_ids() -> list[str]:
        return open_exceptions(installed, "mapping_missing")["event_id"].to_list()

    until(lambda: held["event_id"] in held_ids(), SEEN_TIMEOUT_S, "the event is held")
    rows = tmp_path / "rows.csv"
    rows.write_text("entity,role,account,department\nlakeside,CONTRACTUAL,4120,night-clinic\n")
    change = str(installed.json("mapping", "propose", str(rows), "--by", "the steward")["change"])
    installed.run("mapping", "approve", change, "--by", "The Steward", status=2)
    assert held["event_id"] in held_ids()
    installed.run("mapping", "approve", change, "--by", "the controller")
    until(lambda: held["event_id"] not in held_ids(), SEEN_TIMEOUT_S, "the event is booked")
    drained()
    states = installed.json("trace", held["event_id"])
    assert [step["state"] for step in states] == ["excepted", "booked"]
    assert {line["account_code"] for line in states[-1]["postings"]} >= {"4120"}
    assert all(line["erp_ref"] for line in states[-1]["postings"])


def test_held_event_is_excluded_by_two_persons(installed, client):
    """An event that should never have come leaves the books when two persons say so, and the history names both."""
    held = event("adjustment_posted", department="no-such-clinic", reason="CO-45")
    assert client.submit([held]).accepted == 1

    def exceptions() -> list[dict]:
        found = open_exceptions(installed, "mapping_missing").filter(pl.col("event_id") == held["event_id"])
        return found.to_dicts()

    until(lambda: len(exceptions()), SEEN_TIMEOUT_S, "the event is held")
    (exception,) = (row["exception_id"] for row in exceptions())
    change = str(installed.json("exceptions", "exclude", exception, "--by", "the clerk")["changes"][0])
    installed.run("exceptions", "approve", change, "--by", "the controller")
    until(lambda: not exceptions(), SEEN_TIMEOUT_S, "the exception ends")
    assert [step["state"] for step in installed.json("trace", held["event_id"])] == ["excepted", "excluded"]
    history = installed.json("exceptions", "show", exception)["history"]
    assert [(row["change"], row["changed_by"].partition(":")[0]) for row in history] == [
        ("raised", "shard"),
        ("exclude proposed", "the clerk"),
        ("exclude approved", "the controller"),
        ("resolved", "shard"),
    ]


def test_mapping_of_an_unknown_entity_is_refused_before_it_is_stored(installed, tmp_path):
    """A mapping that names nobody is refused with a sentence, and is not even proposed."""
    with installed.books() as books:
        before = books.changes()
        rows = tmp_path / "rows.csv"
        rows.write_text("entity,role,account\nnobody,CONTRACTUAL,4120\n")
        installed.run("mapping", "propose", str(rows), "--by", "the steward", status=2)
        assert books.changes().equals(before)


# ── ERP ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def restart_poster(installed: Installed) -> None:
    """End the poster's process; Ray starts another one, which reads the password file anew."""
    os.kill(installed.pids()["poster"], signal.SIGKILL)


def test_erp_with_a_wrong_password_keeps_entries_until_it_is_mended(installed, client, drained):
    """With a wrong password entries stay sealed under an exception; with the right one they post, and it ends."""
    file = os.fspath(installed.wiring().erp_password_file)
    with open(file) as opened:
        right = opened.read()
    try:
        write(file, "wrong")
        restart_poster(installed)
        client.submit([event()])
        until(lambda: len(open_exceptions(installed, "erp_unauthorised")), SEEN_TIMEOUT_S, "the ERP refuses the login")
        with installed.books() as books:
            assert books.entry_counts().get("sealed", 0) > 0 and not books.entry_counts().get("rejected")
        found = installed.json("exceptions", "list", "--type", "erp_unauthorised")
        assert found[0]["owner"] == "integration_support"
        assert "wrong" not in json.dumps(found)
    finally:
        write(file, right)
        restart_poster(installed)
    drained()
    until(lambda: not len(open_exceptions(installed, "erp_unauthorised")), SEEN_TIMEOUT_S, "the exception ends")
    assert installed.json("reconcile")["balanced"] is True


def write(file: str, text: str) -> None:
    """Replace what a file holds."""
    with open(file, "w") as opened:
        opened.write(text)


# ── gateway ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_status_while_the_gateway_hangs_says_so_and_shows_all_else(installed):
    """Whoever looks then needs the rest most: parts, shards, entries; and it answers again by itself. Beside it hangs
    who would replace it while one looks."""
    pids = installed.pids()
    hanging = {name: pids[name] for name in ("gateway-0", "supervisor")}
    for pid in hanging.values():
        os.kill(pid, signal.SIGSTOP)
    try:
        status = installed.json("status", status=1)
        assert (status["log"]["refusing"], status["healthy"]) == (True, False)
        assert "no gateway answers" in status["log"]["reason"]
        assert {part["name"] for part in status["parts"] if part["state"] == "silent"} == set(hanging)
        assert [shard["state"] for shard in status["shards"]] == ["running"] * 4
    finally:
        for pid in hanging.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    until(lambda: installed.json("status", status=None)["healthy"], SEEN_TIMEOUT_S, "the gateway answers")


# ── log ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def refusal(gateway: str, row: dict) -> grpc.RpcError:
    """What a single request is answered while the log takes nothing."""
    names = {"occurred_at": "occurred_at_ms"}
    message = v1.FinancialEvent(**{names.get(name, name): value for name, value in row.items()})
    with grpc.insecure_channel(gateway) as channel, pytest.raises(grpc.RpcError) as refused:
        EventServiceStub(channel).Submit(v1.SubmitRequest(rows=v1.EventRows(events=[message])), timeout=10)
    return refused.value


def held_by_feed(valkey: redis.Redis) -> int:
    """Messages that the feed reader has read and could not hand on."""
    return valkey.xpending(STREAM, "penstock")["pending"]


def test_log_without_room_refuses_and_takes_all_once_there_is_room(installed, valkey, drained):
    """While the log can't store, producers are told to come again and the feed stops; then everything goes through."""
    gateway, rows = installed.record().gateway, [event() for _ in range(3)]
    from_feed = event(source="card", kind="card_authorised", document="au-full", entity="mercy", facility="mercy-west")
    valkey.config_set("maxmemory", "1mb")
    error = refusal(gateway, rows[0])
    retry = error_details_pb2.RetryInfo()
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert any(detail.Unpack(retry) for detail in rpc_status.from_call(error).details)
    assert retry.retry_delay.ToMilliseconds() > 0
    with Client(gateway, deadline_s=1.5) as impatient, pytest.raises(SubmitTimeout):
        impatient.submit(rows)
    valkey.eval(ADD, 1, STREAM, "event", json.dumps(from_feed))
    assert until(lambda: held_by_feed(valkey), SEEN_TIMEOUT_S, "the feed reader holds what it read") == 1
    with installed.books() as books:
        assert books.exceptions(types=["feed_rejected"]).is_empty()
    valkey.config_set("maxmemory", "0")
    with Client(gateway) as patient:
        assert patient.submit(rows).accepted == len(rows)
    drained()
    assert held_by_feed(valkey) == 0
    assert state_of(installed, from_feed["event_id"]) == "excluded"


def test_feed_with_malformed_messages_sets_them_aside_and_goes_on(installed, valkey, drained):
    """Messages that are no event move to the dead letters under an exception each; the good one among them books."""
    good = event(source="card", kind="bank_credit_received", document="bank-1", entity="mercy", facility="mercy-west")
    before = len(open_exceptions(installed, "feed_malformed"))
    dead = valkey.xlen(f"{STREAM}:dead")
    for message in (b"{no json", json.dumps(good).encode(), json.dumps({**good, "amount_minor": 1.5}).encode()):
        valkey.xadd(STREAM, {"event": message})
    drained()
    assert valkey.xlen(f"{STREAM}:dead") == dead + 2
    letters = [letter for _, letter in valkey.xrevrange(f"{STREAM}:dead", count=2)]
    assert {letter[b"penstock_column"] for letter in letters} == {b"", b"amount_minor"}
    assert all(letter[b"event"] and letter[b"penstock_code"] and letter[b"penstock_reason"] for letter in letters)
    assert len(open_exceptions(installed, "feed_malformed")) == before + 2
    assert state_of(installed, good["event_id"]) == "booked"
