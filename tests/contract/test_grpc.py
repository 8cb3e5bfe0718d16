"""The gRPC door on loopback over a log in memory: what producers are promised, kept by a real server and client."""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import polars as pl
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from penstock import Client, SubmitError, SubmitTimeout
from penstock.v1 import events_pb2 as v1
from penstock.v1.events_pb2_grpc import EventServiceStub
from served_gateway import NOW_MS, SCOPES, SHARDS, Served, SlowLog

from actors.event_service import SERVICE
from runtime.ports import START
from runtime.routing import splitter
from runtime.schema import STAMPED


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served(SlowLog(SHARDS))
    yield server
    server.close()


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.target) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> EventServiceStub:
    return EventServiceStub(channel)


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.target, deadline_s=10) as client:
        yield client


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A good event."""
    return {
        "event_id": f"e{number}",
        "source": "ehr",
        "kind": "charge_posted",
        "entity": "H1",
        "facility": f"F{number % 8}",
        "account": "tok",
        "amount_minor": number,
        "currency": "USD",
        "occurred_at_ms": NOW_MS,
    } | changes


def rows_request(*rows: dict[str, Any], request_id: str = "r1") -> v1.SubmitRequest:
    return v1.SubmitRequest(request_id=request_id, rows=v1.EventRows(events=[v1.FinancialEvent(**r) for r in rows]))


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), infer_schema_length=None).rename({"occurred_at_ms": "occurred_at"})


def arrow_request(frame: pl.DataFrame) -> v1.SubmitRequest:
    sink = io.BytesIO()
    frame.write_ipc_stream(sink)
    return v1.SubmitRequest(request_id="a1", arrow_frame=sink.getvalue())


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, Any]:
    """The status of a call that must fail, and its first detail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)
    for detail in (error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()):
        if status and status.details and status.details[0].Unpack(detail):
            return caught.value.code(), detail
    return caught.value.code(), None


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until the server's background reading has seen a change."""
    done = threading.Event()
    for _ in range(200):
        if holds():
            return
        done.wait(0.02)
    raise AssertionError("it never came about")


# ── answers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_grpc_rows_are_stored_stamped_and_answered_one_by_one(served: Served, stub: EventServiceStub):
    """Rows get one result each, in order, and lie in the log with the stamped columns when the answer comes."""
    answer = stub.Submit(rows_request(row(0), row(1, kind="unheard"), row(2)))
    assert (answer.request_id, answer.accepted, answer.duplicate, answer.rejected) == ("r1", 2, 0, 1)
    assert [(r.row, r.event_id, r.status) for r in answer.results] == [(0, "e0", 1), (1, "e1", 3), (2, "e2", 1)]
    assert (answer.results[1].code, answer.results[1].column) == ("unknown_kind", "kind")
    assert served.events()["event_id"].sort().to_list() == ["e0", "e2"]
    assert dict(served.events().schema) == STAMPED


def test_grpc_arrow_frame_is_stored_and_answered_by_exception(served: Served, stub: EventServiceStub):
    """A frame's answer names only what was not accepted; the rest is counted."""
    answer = stub.Submit(arrow_request(table(row(0), row(1, amount_minor=-5), row(2), row(3, facility="F9"))))
    assert (answer.accepted, answer.rejected, answer.results_truncated) == (2, 2, False)
    assert [(r.row, r.event_id, r.code, r.column) for r in answer.results] == [
        (1, "e1", "negative_amount", "amount_minor"),
        (3, "e3", "unknown_facility", "facility"),
    ]
    assert served.events()["event_id"].sort().to_list() == ["e0", "e2"]


def test_grpc_both_forms_of_an_event_are_the_same_event(stub: EventServiceStub):
    """An event sent as a row and again in a frame is a duplicate, though one form says "" and the other null."""
    assert stub.Submit(rows_request(row(7, reason=""))).accepted == 1
    answer = stub.Submit(arrow_request(table(row(7, reason=None), row(8))))
    assert (answer.accepted, answer.duplicate) == (1, 1)
    assert [(r.row, r.event_id, r.status) for r in answer.results] == [(0, "e7", v1.EVENT_STATUS_DUPLICATE)]


def test_grpc_receipt_names_durability_and_positions(served: Served, stub: EventServiceStub):
    """The receipt says how safe the events are, and its positions add up to what was accepted, shard by shard."""
    receipt = stub.Submit(rows_request(*(row(i) for i in range(20)))).durability
    assert receipt.level == v1.DURABILITY_LEVEL_MEMORY
    records = served.log.read(dict.fromkeys(range(SHARDS), START), 10**9, 0)
    held = {(shard, record.position, record.rows) for shard, given in records.items() for record in given}
    assert {(at.shard, at.position, at.rows) for at in receipt.positions} == held
    assert sum(at.rows for at in receipt.positions) == 20


def test_grpc_request_with_nothing_new_has_no_durability(stub: EventServiceStub):
    """Where nothing was stored, no level is claimed."""
    assert not stub.Submit(rows_request(row(1, amount_minor=-1))).HasField("durability")


def test_grpc_same_id_with_other_content_goes_on_to_the_shard(served: Served, stub: EventServiceStub):
    """The gateway does not swallow a conflict as a duplicate: the shard must see it."""
    stub.Submit(rows_request(row(1)))
    answer = stub.Submit(rows_request(row(1, amount_minor=999)))
    assert (answer.accepted, answer.duplicate) == (1, 0)
    assert sorted(served.events()["amount_minor"].to_list()) == [1, 999]


def test_grpc_lost_answer_then_retry_stores_again_or_answers_duplicate(served: Served, client: Client):
    """An append whose answer was lost is retried by the client; the retry is answered, and a third one is known."""
    served.log.plan("lose_answer")
    assert client.submit([row(1)]).accepted == 1
    assert client.submit([row(1)]).duplicate == 1
    assert set(served.events()["event_id"]) == {"e1"}


def test_grpc_concurrent_single_events_share_appends(served: Served, stub: EventServiceStub):
    """Fifty callers with one event each are served by far fewer than fifty appends, each with its own answer."""
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda i: stub.Submit(rows_request(row(i), request_id=str(i))), range(50)))
    assert [(a.request_id, a.accepted, a.results[0].event_id) for a in answers] == [
        (str(i), 1, f"e{i}") for i in range(50)
    ]
    assert all(sum(at.rows for at in a.durability.positions) == 1 for a in answers)
    assert served.events().height == 50
    assert served.log.appends < 25


def test_grpc_concurrent_good_and_bad_callers_do_not_touch_each_other(stub: EventServiceStub):
    """Requests that are worked on together keep their own faults: rejected rows, unreadable dates, empty requests."""
    cases = [{}, {"kind": "unheard"}, {"effective_on": "soon"}] * 8
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda i: stub.Submit(rows_request(row(i, **cases[i]), row(100 + i))), range(24)))
    codes = [[result.code for result in answer.results] for answer in answers]
    assert codes == [[{0: "", 1: "unknown_kind", 2: "wrong_type"}[i % 3], ""] for i in range(24)]


def test_grpc_stream_answers_each_request_in_order(stub: EventServiceStub):
    """A stream's requests are answered one by one, with their own ids."""
    requests = [rows_request(row(i), row(i), request_id=str(i)) for i in range(5)]
    answers = list(stub.SubmitStream(iter(requests)))
    assert [answer.request_id for answer in answers] == list("01234")
    assert all(answer.accepted == 2 for answer in answers)


def test_grpc_stream_waits_through_pressure(served: Served, stub: EventServiceStub):
    """A stream that meets a lagging shard waits on the server's side, and is answered when the shard has caught up."""
    for shard in range(SHARDS):
        served.lag_behind(shard, 5_000)
    eventually(lambda: stub.Status(v1.StatusRequest()).refusing)
    relief = threading.Timer(0.3, served.log.behind.clear)
    relief.start()
    assert [answer.accepted for answer in stub.SubmitStream(iter([rows_request(row(1))]))] == [1]
    relief.join()


def test_grpc_row_that_can_belong_to_no_shard_gets_its_verdict_while_shards_lag(served: Served, stub: EventServiceStub):
    """A paused shard refuses what touches it; a row without kind or entity touches none."""
    served.lag_behind(0, 5_000)
    eventually(lambda: stub.Status(v1.StatusRequest()).refusing)
    answer = stub.Submit(rows_request(row(1, kind=""), row(2, entity="")))
    assert [result.column for result in answer.results] == ["kind", "entity"]


# ── refusals ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("request_made", "reason", "column"),
    [
        (lambda: v1.SubmitRequest(request_id="x"), "empty_frame", ""),
        (lambda: v1.SubmitRequest(arrow_frame=b"not Arrow"), "malformed_frame", ""),
        (lambda: arrow_request(table(row(0)).head(0)), "empty_frame", ""),
        (lambda: arrow_request(table(row(0, amount_minor=1.5))), "wrong_type", "amount_minor"),
        (lambda: arrow_request(table(row(0)).drop("currency")), "missing_column", "currency"),
        (lambda: arrow_request(table(row(0)).with_columns(zebra=1)), "unknown_column", "zebra"),
        (lambda: rows_request(*(row(i) for i in range(1_001))), "too_many_rows", ""),
        (lambda: v1.SubmitRequest(arrow_frame=bytes(300_001)), "too_large", ""),
    ],
)
def test_grpc_request_that_holds_no_events_is_invalid(
    served: Served, stub: EventServiceStub, request_made, reason, column
):
    """A request that can't be read as events is INVALID_ARGUMENT with the column, and nothing is stored."""
    code, detail = refused(lambda: stub.Submit(request_made()))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert (detail.field_violations[0].reason, detail.field_violations[0].field) == (reason, column)
    assert served.events().is_empty()


def test_grpc_bytes_that_are_no_message_are_invalid(channel: grpc.Channel):
    """Malformed protobuf is the caller's fault, not the server's."""
    call = channel.unary_unary(f"/{SERVICE}/Submit", lambda data: data, v1.SubmitResponse.FromString)
    code, detail = refused(lambda: call(b"\xff\xff\xff"))
    assert (code, detail.field_violations[0].reason) == (grpc.StatusCode.INVALID_ARGUMENT, "malformed_request")


def test_grpc_lagging_shard_refuses_what_touches_it_and_nothing_else(served: Served, stub: EventServiceStub):
    """A paused shard answers RESOURCE_EXHAUSTED with a delay; the other shard goes on; status tells which."""
    owner = {at.shard for at in stub.Submit(rows_request(row(1))).durability.positions}.pop()
    served.lag_behind(owner, 5_000)
    eventually(lambda: stub.Status(v1.StatusRequest()).refusing)
    assert [s.shard for s in stub.Status(v1.StatusRequest()).shards if s.paused] == [owner]
    code, detail = refused(lambda: stub.Submit(rows_request(row(1, event_id="new"))))
    assert (code, detail.retry_delay.ToMilliseconds()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 50)
    shards = [splitter(SCOPES, SHARDS)(table(row(i))).keys() for i in range(8)]
    other = next(i for i, keys in enumerate(shards) if owner not in keys)
    assert stub.Submit(rows_request(row(other, event_id="elsewhere"))).accepted == 1


def test_grpc_client_waits_through_pressure_and_succeeds(served: Served, client: Client):
    """A client that is told to wait does so, and hands everything over when the shard has caught up."""
    for shard in range(SHARDS):
        served.lag_behind(shard, 5_000)
    eventually(lambda: client.status().refusing)
    relief = threading.Timer(0.3, served.log.behind.clear)
    relief.start()
    assert client.submit([row(i) for i in range(10)]).accepted == 10
    relief.join()


def test_grpc_client_gives_up_at_its_deadline_and_tells_what_was_answered(served: Served):
    """When the pressure lasts, the client's deadline ends it with a summary of what was done."""
    for shard in range(SHARDS):
        served.lag_behind(shard, 5_000)
    with Client(served.target, deadline_s=0.5) as client:
        eventually(lambda: client.status().refusing)
        with pytest.raises(SubmitTimeout) as caught:
            client.submit([row(1)])
    assert caught.value.summary.rows == 0


def test_grpc_log_that_refuses_is_exhausted_and_log_that_is_away_unavailable(served: Served, stub: EventServiceStub):
    """A full log and a silent one differ in status, and both say when to retry."""
    served.log.plan("refuse", "lose_call")
    code, detail = refused(lambda: stub.Submit(rows_request(row(1))))
    assert (code, detail.retry_delay.ToMilliseconds()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 50)
    code, detail = refused(lambda: stub.Submit(rows_request(row(1))))
    assert (code, detail.retry_delay.ToMilliseconds()) == (grpc.StatusCode.UNAVAILABLE, 50)
    assert served.events().is_empty()


def test_grpc_fault_of_the_server_is_internal_without_payload(served: Served, stub: EventServiceStub, monkeypatch):
    """An error that nobody foresaw gets an incident id, and none of the payload."""

    async def fail(_entries):
        raise RuntimeError("Jane Doe")

    monkeypatch.setattr(served.log, "append", fail)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Submit(rows_request(row(1)))
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "incident" in caught.value.details() and "Jane" not in caught.value.details()


# ── client ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["rows", "messages", "polars", "arrow"])
def test_grpc_client_takes_every_form_and_counts_over_all_requests(served: Served, form: str):
    """Whatever the form, the summary is over the whole submission, with rows numbered across its requests."""
    given = [row(i, kind="unheard" if i == 77 else "charge_posted") for i in range(100)]
    forms = {
        "rows": lambda: iter(given),
        "messages": lambda: [v1.FinancialEvent(**r) for r in given],
        "polars": lambda: table(*given),
        "arrow": lambda: table(*given).to_arrow(),
    }
    seen: list[int] = []
    with Client(served.target, rows_per_request=30) as client:
        summary = client.submit(forms[form](), progress=seen.append)
    assert (summary.accepted, summary.rejected, summary.durability) == (99, 1, "memory")
    assert [(r.row, r.event_id, r.code) for r in summary.results] == [(77, "e77", "unknown_kind")]
    assert sum(rows for _, _, rows in summary.positions) == 99
    assert seen == [30, 60, 90, 100]
    assert served.events().height == 99


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"amount_minor": 1.5}, "amount_minor"),
        ({"amount_minor": 2**63}, "amount_minor"),
        ({"event_id": 5}, "event_id"),
        ({"surname": "x"}, "surname"),
    ],
)
def test_grpc_client_names_row_and_column_before_sending(served: Served, client: Client, changes: dict, column: str):
    """What no message can hold is refused by the client, with its row and column and without its value."""
    with pytest.raises(SubmitError) as caught:
        client.submit([row(0), row(1), row(2, **changes)])
    assert (caught.value.row, caught.value.column) == (2, column)
    assert served.events().is_empty()


def test_grpc_client_refuses_float_amounts_in_a_frame(client: Client):
    """A frame with floats for amounts does not leave the client."""
    with pytest.raises(SubmitError) as caught:
        client.submit(table(row(0, amount_minor=1.5)))
    assert caught.value.column == "amount_minor"


def test_grpc_client_turns_invalid_requests_into_submit_errors(client: Client):
    """What the server can't read comes back as a typed error with its column and code."""
    with pytest.raises(SubmitError) as caught:
        client.submit(table(row(0)).drop("currency"))
    assert (caught.value.column, caught.value.code) == ("currency", "missing_column")


# ── service ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_grpc_health_follows_the_log(served: Served, channel: grpc.Channel, monkeypatch):
    """Health is SERVING while the log can be read, and NOT_SERVING while it can't."""
    health = health_pb2_grpc.HealthStub(channel)

    def status() -> int:
        return health.Check(health_pb2.HealthCheckRequest(service=SERVICE)).status

    assert status() == health_pb2.HealthCheckResponse.SERVING

    async def away():
        raise TimeoutError

    monkeypatch.setattr(served.log, "lag", away)
    eventually(lambda: status() == health_pb2.HealthCheckResponse.NOT_SERVING)
    code, detail = refused(lambda: EventServiceStub(channel).Submit(rows_request(row(1))))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and detail.retry_delay
    monkeypatch.undo()
    eventually(lambda: status() == health_pb2.HealthCheckResponse.SERVING)


def test_grpc_reflection_names_the_service(channel: grpc.Channel):
    """A generic client can ask what is served."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(stub.ServerReflectionInfo(iter([request])))
    assert SERVICE in [service.name for service in answer.list_services_response.service]


def test_grpc_status_counts_what_was_appended(stub: EventServiceStub):
    """Status tells each shard's rows, and that nothing is under way."""
    stub.Submit(rows_request(*(row(i) for i in range(20))))
    eventually(lambda: sum(s.appended for s in stub.Status(v1.StatusRequest()).shards) == 20)
    status = stub.Status(v1.StatusRequest())
    assert [s.shard for s in status.shards] == [0, 1, 2]
    assert sum(s.waiting for s in status.shards) == 20
    assert (status.inflight_bytes, status.refusing, status.reason) == (0, False, "")
    assert status.version
