"""The supervisor: sees that every part runs and answers, that every shard is some worker's, and lets into the log what
every shard must know.

Owns nothing that must survive it: what should run comes from the configuration, what runs is asked of Ray; mapping
versions, decisions and period closes lie in the books; time is the clock's. Looks now and then whether the books
contradict themselves. Never touches an event, and never decides on a plan; `runtime.topology` does.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
import structlog

from runtime.effects import of_the_runtime
from runtime.errors import BooksUnavailable, LogError
from runtime.flow import frames
from runtime.ports import Books, Clock, LogEntry, Metrics, PeriodClose, ShardLag
from runtime.topology import Action, Observed, by_rows, hosts, plan, relief

PAUSE_S = 1.0
PATIENCE_MS_MAX = 60_000  # beyond the usual silence, for a part that was started again and again and never answered
DECISIONS_A_ROUND = 20
CUT_OFF_AGAIN_S = 10.0
RELIEF_EVERY_S = 15.0  # between looks whether a worker has too much to do: at most one shard moves in that time
EXCEPTIONS_EVERY_S = 10.0  # between counts; Ray forgets a gauge that nobody has set for half a minute
CONSERVATION_EVERY_S = 60.0
CONSERVATION_SETS_MAX = 100_000  # new posting sets of a shard that one look takes; more wait for the next
BROKEN = "conservation_break"


class Stage(Protocol):
    """Where parts run: Ray, or a twin of it."""

    def exists(self, name: str) -> bool: ...

    def start(self, name: str) -> None: ...

    def kill(self, name: str) -> None: ...

    def ping(self, names: list[str], timeout_s: float) -> dict[str, object]:
        """The health of those that answer in time; None of those whose process has ended, which is started again."""
        ...


class LogLine(Protocol):
    """The log as the supervisor uses it: blocking, from its one thread."""

    shards: int

    def append(self, entries: list[LogEntry]) -> None: ...

    def lag(self) -> dict[int, ShardLag]: ...

    def close(self) -> None: ...


class Supervisor:
    """Keeps the target running. `step` is one round."""

    def __init__(
        self,
        target: list[str],
        *,
        workers: list[str],
        stage: Stage,
        log: LogLine,
        books: Books,
        clock: Clock,
        metrics: Metrics,
        silence_s: float,
        tick_s: float,
        mend: Callable[[], object] = lambda: None,
    ) -> None:
        """`mend` looks after the servers that this installation brought along; called every round, it never waits."""
        self._target, self._workers, self._stage = target, workers, stage
        self._log, self._books, self._mend = log, books, mend
        self._clock, self._metrics = clock, metrics
        self._silence_ms, self._tick_ms = int(silence_s * 1000), int(tick_s * 1000)
        self._answered: dict[str, int] = {}
        self._started: dict[str, int] = {}
        self._tries: dict[str, int] = {}  # how often each part was started since it last answered
        self._health: dict[str, object] = {}
        self._lacking: dict[str, int] = {}  # workers that lost a shard which nobody runs now, and since when
        self._ticked_ms, self._mapping_sent, self._conserved_ms, self._counted_ms = 0, 0, 0, 0
        self._types: set[str] = set()  # of exceptions that were open at some time
        self._busy_ms: dict[int, int] = {}  # of each shard, when it was last looked whether a worker needs relief
        self._steps: dict[int, int] = {}  # the same of how many steps it took
        self._relieved_ms = 0
        self._closes_sent: dict[tuple[str, str], int] = {}  # and when
        self._logger = structlog.get_logger("supervisor")

    def start(self) -> None:
        """Take what runs already as just started, so that a new supervisor replaces nothing at once."""
        now_ms = self._clock.now_ms()
        self._started = dict.fromkeys(self._target, now_ms)

    def step(self) -> float:
        """Ping, plan, act; then let in what every shard must know."""
        self._mend()
        observed = self._observe()
        self._metrics.gauge("parts_down", len(self._target) - len(self._health))
        for action in plan(self._target, observed, self._clock.now_ms(), self._silence_ms):
            self._act(action)
        try:
            self._send_mappings()
            self._send_decisions()
            self._close_periods()
            self._tick()
            self._measure()
            self._relieve()
            self._check_conservation()
        except (LogError, BooksUnavailable) as error:
            self._logger.warning("control_delayed", error_type=type(error).__name__)
        return PAUSE_S

    def _observe(self) -> Mapping[str, Observed]:
        present = [name for name in self._target if self._stage.exists(name)]
        answers = self._stage.ping(present, PAUSE_S)
        now_ms = self._clock.now_ms()
        self._health = {name: health for name, health in answers.items() if health is not None}
        # A start that is under way already must not be cut short: it gets its time from when the end was told.
        self._started.update(dict.fromkeys(answers.keys() - self._health.keys(), now_ms + self._silence_ms))
        self._answered.update(dict.fromkeys(self._health, now_ms))
        self._tries = {name: tries for name, tries in self._tries.items() if name not in self._health}
        self._note_orphans(now_ms)
        return {
            name: Observed(
                name in present, self._answered.get(name, 0), self._started.get(name, 0), self._lacking.get(name, 0)
            )
            for name in self._target
        }

    def _note_orphans(self, now_ms: int) -> None:
        """A worker that was fenced lets a shard go for good; if its other owner ends, only a new worker takes it."""
        shards = {name: _shards(answer) for name, answer in self._health.items()}
        kept = {shard for states in shards.values() for shard, state in states.items() if state != "lost"}
        for name, states in shards.items():
            if states.keys() <= kept:
                self._lacking.pop(name, None)
            else:
                self._lacking.setdefault(name, now_ms)

    def _act(self, action: Action) -> None:
        self._logger.warning("part_acted_on", method=action.what, owner=action.name)
        if action.what == "replace":
            self._stage.kill(action.name)
        else:
            self._stage.start(action.name)
        self._started[action.name] = self._clock.now_ms() + self._patience_ms(action.name)

    def _patience_ms(self, name: str) -> int:
        """How much longer to wait for this start than for the first one: on a slow machine a start that is cut short
        again and again would never end."""
        tries = self._tries[name] = self._tries.get(name, 0) + 1
        return min(self._silence_ms * (2 ** min(tries - 1, 10) - 1), PATIENCE_MS_MAX)

    def _send_mappings(self) -> None:
        """Bring new mapping versions to every shard. After a restart all are sent again; shards know them."""
        for mapping in self._books.mapping_versions():
            if mapping.version > self._mapping_sent:
                rows = msgspec.json.decode(mapping.rows_json)
                self._broadcast({"type": "mapping", "version": mapping.version, "rows": rows})
                self._mapping_sent = mapping.version

    def _send_decisions(self) -> None:
        """Bring decisions in force to every shard. One is sent again when nobody could note that it was sent."""
        for decision in self._books.unlogged_decisions(DECISIONS_A_ROUND):
            self._broadcast({"type": "decision", **decision._asdict()})
            self._books.mark_logged([decision.number])

    def _close_periods(self) -> None:
        """Tell every shard which periods are cut off, and declare those that all have left behind.

        What is declared was told, but a new supervisor tells it once more; what is only cut off is told again and
        again, as a log may lose its newest entries. To the engine a repeat is nothing.
        """
        for close in self._books.closes():
            if close.state != "ordered":
                self._send_close(close)
            if close.state == "cut_off":
                with contextlib.suppress(ValueError):  # something is on its way still
                    self._books.declare_closed(close.entity, close.period, self._log.shards)

    def _send_close(self, close: PeriodClose) -> None:
        now_ms, name = self._clock.now_ms(), (close.entity, close.period)
        sent_ms = self._closes_sent.get(name)
        if sent_ms is None or (close.state == "cut_off" and now_ms - sent_ms >= CUT_OFF_AGAIN_S * 1000):
            told = {"entity": close.entity, "period": close.period, "opens_on": close.opens_on.isoformat()}
            self._broadcast({"type": "period", **told})
            self._closes_sent[name] = now_ms

    def _tick(self) -> None:
        """Tell every shard the time, so that what waits too long is seen without new events."""
        now_ms = self._clock.now_ms()
        if now_ms - self._ticked_ms >= self._tick_ms:
            self._broadcast({"type": "tick", "now_ms": now_ms})
            self._ticked_ms = now_ms

    def _broadcast(self, message: dict) -> None:
        body = frames.encode_control(message)
        self._log.append([LogEntry(shard, "control", 0, body) for shard in range(self._log.shards)])

    def _measure(self) -> None:
        for shard, lag in self._log.lag().items():
            self._metrics.gauge("shard_lag_rows", lag.waiting, shard=str(shard))
        now_ms = self._clock.now_ms()
        if now_ms - self._counted_ms < EXCEPTIONS_EVERY_S * 1000:
            return
        counts = self._books.exception_counts()
        self._types |= counts.keys()
        for name in self._types:
            self._metrics.gauge("exceptions_open", counts.get(name, 0), type=name)
        self._counted_ms = now_ms

    def _relieve(self) -> None:
        """Have a shard of a worker that has too much to do hosted by the one that has least, if all shards run where
        they were placed. What moves is stopped for as long as its recovery takes."""
        now_ms = self._clock.now_ms()
        elapsed_ms = now_ms - self._relieved_ms
        if elapsed_ms < RELIEF_EVERY_S * 1000:
            return
        told = {name: _told(self._health.get(name)) for name in self._workers}
        busy_ms = {one["shard"]: one["busy_ms"] for shards in told.values() for one in shards}
        steps = {one["shard"]: one["steps"] for shards in told.values() for one in shards}
        busy = {shard: ms / elapsed_ms for shard, ms in _more(busy_ms, self._busy_ms).items()}
        steps_per_s = {shard: more * 1000 / elapsed_ms for shard, more in _more(steps, self._steps).items()}
        self._busy_ms, self._steps, self._relieved_ms = busy_ms, steps, now_ms
        hosted = hosts(self._books.placements(), self._workers, self._log.shards)
        running = {name: [one["shard"] for one in shards if one["state"] == "running"] for name, shards in told.items()}
        if any(sorted(running[name]) != shards for name, shards in hosted.items()):
            return
        if move := relief(by_rows(busy, steps_per_s), hosted):
            self._books.place(*move)
            self._logger.info("shard_placed", shard=move.shard, owner=move.worker)

    def _check_conservation(self) -> None:
        """Look whether the books contradict themselves: what they do stands as an exception until they don't."""
        now_ms = self._clock.now_ms()
        if now_ms - self._conserved_ms < CONSERVATION_EVERY_S * 1000:
            return
        breaks = self._books.conservation_breaks(CONSERVATION_SETS_MAX)
        raised = of_the_runtime([(BROKEN, one.cause, one.detail) for one in breaks], "penstock", now_ms)
        told = self._books.exceptions(types=[BROKEN])["exception_id"].to_list()
        if fresh := set(raised["exception_id"]) - set(told):
            self._books.raise_exceptions(raised.filter(raised["exception_id"].is_in(list(fresh))))
            self._logger.error("conservation_broken", count=len(breaks))
        if ended := set(told) - set(raised["exception_id"]):
            self._books.resolve_exceptions(sorted(ended))
        self._conserved_ms = now_ms

    def health(self) -> dict[str, object]:
        """The last answer of every part, None for those that did not answer."""
        return {name: self._health.get(name) for name in self._target}

    def close(self) -> None:
        self._log.close()
        self._books.close()


def _more(now: Mapping[int, int], before: Mapping[int, int]) -> dict[int, int]:
    """By how much each shard's number has grown; 0 for one that was not there before, or has begun anew."""
    return {shard: max(0, count - before.get(shard, count)) for shard, count in now.items()}


def _shards(answer: object) -> dict[int, str]:
    """The states of the shards that a part tells of; none of a part that has no shards."""
    return {one["shard"]: one["state"] for one in _told(answer)}


def _told(answer: object) -> list[dict]:
    """What a part tells of each of its shards."""
    told = getattr(answer, "detail", None)
    told = told if isinstance(told, list) else []
    return [one for one in told if isinstance(one, dict) and "shard" in one]
