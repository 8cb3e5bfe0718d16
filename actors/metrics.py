"""Penstock's metrics over Ray's: a declared table, and the shell that records into it.

Owns every metric's name, meaning, tags and buckets. Ray exports each as `ray_penstock_<name>` on its Prometheus
endpoint, within about ten seconds. Tags are shards, feeds and outcomes, never accounts or ids: their number is bounded.
Never accepts a name that is not in the table; a misspelt metric would be one that nobody watches.
"""

from typing import Literal, NamedTuple

from ray.util.metrics import Counter, Gauge, Histogram

PREFIX = "penstock_"


class Declared(NamedTuple):
    """One metric as the table declares it. Only a histogram has buckets."""

    type: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_STEP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_POSTING_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)

METRICS: dict[str, Declared] = {
    "events_in": Declared("counter", "Events received at a door, before any check."),
    "events_duplicate": Declared("counter", "Events that were known already, answered as duplicates."),
    "events_rejected": Declared("counter", "Events refused at a door with a code and a column."),
    "gateway_inflight_bytes": Declared("gauge", "Bytes taken for appending and not yet acknowledged."),
    "gateway_refused": Declared("counter", "Submits told to come again later."),
    "shard_lag_rows": Declared("gauge", "Rows appended to a shard's log and not yet committed.", ("shard",)),
    "step_seconds": Declared("histogram", "Time of one engine step with its commit.", buckets=_STEP_BUCKETS_S),
    "commits": Declared("counter", "Steps committed to the books."),
    "events_committed": Declared("counter", "Events whose effects are in the books."),
    "open_items": Declared("gauge", "Items that wait for their counterpart.", ("shard",)),
    "waiting_events": Declared("gauge", "Events held until a counterpart or a mapping arrives.", ("shard",)),
    "parts_down": Declared("gauge", "Parts that should run and did not answer the supervisor's last question."),
    "exceptions_open": Declared("gauge", "Exceptions that are open.", ("type",)),
    "deltas_waiting": Declared("gauge", "Posting sets that no journal entry has claimed."),
    "entries_restated": Declared("counter", "Rejected entries replaced by postings under a newer mapping."),
    "entries_retried": Declared("counter", "Rejected entries sent again by themselves."),
    "entries_sealed": Declared("counter", "Journal entries sealed for an ERP."),
    "erp_calls": Declared("counter", "Calls to an ERP by what came of them.", ("outcome",)),
    "posting_latency_s": Declared(
        "histogram", "From a commit to the ERP's confirmation of its entry.", buckets=_POSTING_BUCKETS_S
    ),
    "governor_rate_per_minute": Declared("gauge", "Calls that the governor allows an ERP in a minute now."),
    "governor_concurrency": Declared("gauge", "Calls that the governor allows an ERP at a time now."),
    "governor_paused_s": Declared("gauge", "Seconds for which the governor lets an ERP rest from now on."),
    "governor_calls_left": Declared("gauge", "Calls that may start before an ERP's window is full.", ("window",)),
    "entries_unknown": Declared("gauge", "Entries of which no one knows yet what became of them."),
    "feed_messages": Declared("counter", "Messages read from a feed.", ("feed",)),
    "feed_dead_letters": Declared("counter", "Messages moved to a feed's dead-letter stream.", ("feed",)),
    "outbox_frames": Declared(
        "gauge", "Frames of derived events in the outbox, at most one round's and those passed over."
    ),
    "derived_relayed": Declared("counter", "Derived events brought to the log of the shard that they belong to."),
    "derived_rejected": Declared("counter", "Derived events that no door would let in, each an exception."),
    "statuses_told": Declared("counter", "Statuses brought to a consumer's stream.", ("consumer",)),
    "statuses_waiting": Declared("gauge", "Statuses read for a consumer, not yet told, at most a page.", ("consumer",)),
    "checkpoints": Declared("counter", "Checkpoints made durable."),
    "checkpoint_seconds": Declared("histogram", "Time until one checkpoint is durable.", buckets=_STEP_BUCKETS_S),
    "checkpoint_stop_seconds": Declared(
        "histogram", "Time for which a checkpoint stops its shard.", buckets=_STEP_BUCKETS_S
    ),
}


class RayMetrics:
    """Records into Ray's metrics. One a process; cheap enough to call once a frame, not once an event."""

    def __init__(self) -> None:
        self._made = {name: _make(name, declared) for name, declared in METRICS.items()}

    def count(self, name: str, value: float = 1, **tags: object) -> None:
        """Add to a counter. Zero adds nothing, so that callers need not ask first."""
        metric = self._metric(name, "counter", tags)
        if value:
            metric.inc(value, tags=_texts(tags))

    def gauge(self, name: str, value: float, **tags: object) -> None:
        """Set a gauge."""
        self._metric(name, "gauge", tags).set(value, tags=_texts(tags))

    def observe(self, name: str, value: float, **tags: object) -> None:
        """Put one measurement into a histogram."""
        self._metric(name, "histogram", tags).observe(value, tags=_texts(tags))

    def _metric(self, name: str, type: str, tags: dict[str, object]) -> Counter | Gauge | Histogram:
        declared = METRICS.get(name)
        if declared is None or declared.type != type:
            raise ValueError(f"{name} is no declared {type}; see METRICS in actors/metrics.py")
        if set(tags) != set(declared.tags):
            raise ValueError(f"{name} takes the tags {declared.tags}, got {tuple(tags)}")
        return self._made[name]


def _make(name: str, declared: Declared) -> Counter | Gauge | Histogram:
    full = PREFIX + name
    if declared.type == "histogram":
        return Histogram(full, declared.description, list(declared.buckets), declared.tags)
    kind = Counter if declared.type == "counter" else Gauge
    return kind(full, declared.description, declared.tags)


def _texts(tags: dict[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in tags.items()}
