"""What people and machines see of a running Penstock: its commands, metrics, dashboard and logs."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from installed import Installed, until
from penstock import Client

METRICS_TIMEOUT_S = 40.0  # Ray shows what was recorded about ten seconds later
METRICS = {
    "events_in",
    "events_duplicate",
    "events_rejected",
    "shard_lag_rows",
    "step_seconds",
    "commits",
    "open_items",
    "deltas_waiting",
    "erp_calls",
    "posting_latency_s",
    "governor_rate_per_minute",
    "governor_concurrency",
    "entries_unknown",
}
SECRETS = {
    "event_id": f"id-{uuid.uuid4().hex}",
    "account": f"acct-{uuid.uuid4().hex}",
    "document": f"doc-{uuid.uuid4().hex}",
    "amount_minor": 918_273_645,
}
UNKNOWN_KIND = f"kind-{uuid.uuid4().hex}"


def charge(**columns: object) -> dict:
    """A charge of mercy's."""
    given = {"source": "ehr", "kind": "charge_posted", "entity": "mercy", "facility": "mercy-west", "currency": "USD"}
    return given | {"occurred_at": 1_790_000_000_000, "account": "token-1", "amount_minor": 100} | columns


@pytest.fixture(scope="module", autouse=True)
def sent(installed: Installed, drained: Callable[[], None]) -> Iterator[None]:
    """A charge, a repeat, a conflict, a card that waits, and one event that no rule knows: all told apart by name."""
    rows = [
        charge(**SECRETS),
        charge(**SECRETS),
        charge(**{**SECRETS, "amount_minor": SECRETS["amount_minor"] + 1}),
        charge(event_id="card-1", kind="card_authorised", document="au-1"),
        charge(event_id="unknown-1", kind=UNKNOWN_KIND),
    ]
    with Client(installed.record().gateway) as client:
        answers = [client.submit([row]) for row in rows]
        assert [answer.rejected for answer in answers] == [0, 0, 0, 0, 1]
        client.submit(rows[:2])
    drained()


def test_watch_shows_as_many_looks_as_asked_for_a_line_each(installed):
    """Machines read lines; what is in the log is in the books, as nothing waits."""
    looks = [
        json.loads(line) for line in installed.run("watch", "--times", "2", "--every", "0.3", "--json").splitlines()
    ]
    assert [look["stages"][0]["per_s"] for look in looks] == [None, 0]
    log, books, *_ = looks[1]["stages"]
    assert log["done"] == books["done"] > 0 and books["waiting"] == 0
    assert looks[1]["exceptions"] > 0 and not looks[1]["refusing"]


def test_status_of_a_running_penstock_is_healthy_and_whole(installed):
    """`penstock status` ends with 0 and names every part with its process, every shard, and what lies where."""
    status = installed.json("status")
    assert status["healthy"] is True
    parts = {part["name"]: part for part in status["parts"]}
    assert parts.keys() == {"worker-0", "worker-1", "gateway-0", "feed-card", "poster", "relay", "supervisor"}
    assert all(part["state"] == "running" and part["pid"] for part in parts.values())
    assert parts["feed-card"]["detail"] == {"feed": "card", "held": 0}
    assert [shard["shard"] for shard in status["shards"]] == [0, 1, 2, 3]
    assert {shard["holder"].partition("/")[0] for shard in status["shards"]} == {"worker-0", "worker-1"}
    assert status["posting_sets_waiting"] == 0 and status["journal_entries"]["posted"] > 0
    assert (status["erp"]["health"], status["erp"]["concurrency"]) == ("healthy", 1)
    assert status["erp"]["calls_per_minute"] > 0
    assert status["exceptions"]["event_conflict"] >= 1 and len(status["log"]["shards"]) == 4


def test_exceptions_of_a_running_penstock_have_owner_and_due_time(installed):
    """`penstock exceptions list` lists each with its type, owner, severity and due time."""
    found = installed.json("exceptions", "list", "--type", "event_conflict")
    (conflict,) = (row for row in found if row["event_id"] == SECRETS["event_id"])
    assert conflict["owner"] == "integration_support" and conflict["severity"] == "high"
    assert conflict["due_at"] > conflict["raised_at"] and conflict["state"] == "open"


def test_trace_of_an_event_names_the_document_in_the_erp(installed):
    """`penstock trace` follows an event to Tryton's document, and its conflict to the exception."""
    steps = installed.json("trace", SECRETS["event_id"], "--source", "ehr")
    booked, conflict = sorted(steps, key=lambda step: step["state"])
    assert (booked["state"], conflict["state"]) == ("booked", "excepted")
    assert {line["erp_ref"] for line in booked["postings"]} and conflict["postings"] == []
    assert all(line["erp_ref"] for line in booked["postings"])


def test_trace_of_an_unknown_event_fails(installed):
    """`penstock trace` ends with 1 when nobody has accepted such an event."""
    assert installed.json("trace", "never-sent", status=1) == []


def test_erp_check_of_the_running_tryton_breaks_nothing_and_books_nothing(installed):
    """`penstock erp check tryton --live` asks the Tryton that is posted to, reports, and leaves its accounts alone."""
    before = installed.json("reconcile")
    told = installed.json("erp", "check", "tryton", "--live")
    verdicts = {finding["check"]: finding["verdict"] for finding in told["findings"]}
    assert told["live"] and set(verdicts.values()) == {"kept", "skipped"}
    assert verdicts["is reached, and looks keys up"] == verdicts["refuses what is not balanced"] == "kept"
    assert installed.json("reconcile") == before


def test_metrics_endpoint_shows_what_was_done(installed):
    """Ray's Prometheus endpoint shows every metric that operation needs, under Penstock's names."""
    url = installed.record().metrics_url

    def missing() -> set[str]:
        shown = httpx.get(url, trust_env=False).text
        return {name for name in METRICS if f"\nray_penstock_{name}" not in shown}

    until(lambda: not missing(), METRICS_TIMEOUT_S, "metrics are shown")
    assert missing() == set()


def test_dashboard_of_a_running_penstock_answers(installed):
    """The dashboard is served; what it knows of the actors, by their names, only to whoever has the token."""
    record = installed.record()
    token = Path(record.ray_token_file).read_text()
    actors = f"{record.dashboard_url}/logical/actors"
    with httpx.Client(trust_env=False, timeout=30.0) as browser:
        assert browser.get(record.dashboard_url).status_code == httpx.codes.OK
        assert browser.get(actors).status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
        answer = browser.get(actors, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == httpx.codes.OK and '"worker-0"' in answer.text


def log_files(installed: Installed) -> list[Path]:
    """Every file that a part, a server or Ray logs to."""
    ours = [path for path in installed.data.rglob("*") if path.suffix in (".jsonl", ".log", ".out")]
    rays = [path for path in installed.config.parent.glob("penstock-*/session_*/logs/**/*") if path.is_file()]
    return ours + rays


def test_logs_of_all_parts_hold_no_payload_value(installed):
    """No log, of ours, of the servers or of Ray, holds an id, account, document, amount or bad value that was sent."""
    values = {str(value) for value in SECRETS.values()} | {UNKNOWN_KIND, "9182736.45"}
    logs = log_files(installed)
    assert len(logs) > 10 and any(path.name == "worker-0.jsonl" for path in logs)
    found = {(path.name, value) for path in logs for value in values if value.encode() in path.read_bytes()}
    assert found == set()


def test_up_while_it_runs_refuses_with_the_remedy(installed):
    """A second `penstock up` on the same folder changes nothing and ends with 2."""
    before = installed.record()
    installed.run("up", status=2)
    assert installed.record() == before
