"""What goes wrong, when, and the count of how often it really did.

Owns every decision that makes a run a bad day, drawn from the seed. Never touches what a process or a port holds: a
fault is an error raised, a process that ends, a process that hangs, or time that passes.
"""

import random
from collections import Counter
from typing import Protocol

from runtime.errors import BooksUnavailable, LogRefused, LogUnavailable
from simulation.clock import VirtualClock
from simulation.edges import Edge
from simulation.history import History
from simulation.scenario import Scenario

# How each port fails, as its contract says; the second kind means that nothing was done, and comes before the call.
FAILURES: dict[str, tuple[type[Exception], ...]] = {
    "log_writer": (LogUnavailable, LogRefused),
    "log_reader": (LogUnavailable,),
    "books": (BooksUnavailable,),
    "archive": (OSError,),
    "feed": (LogUnavailable, LogRefused),
    "outlet": (LogUnavailable, LogRefused),
    "erp": (),  # answers with outcomes; `simulation.erp` chooses them
}
OUTAGES = (
    "log away",
    "log full",
    "books away",
    "archive full",
    "feed away",
    "consumer away",
    "ERP away",
    "ERP locked",
)
OUTAGE_S = (0.5, 5.0, 40.0)
JUMPS_MS = (-60_000, -1_000, 1_000, 60_000, 3_600_000)
DELAYS_S = (0.01, 0.3, 4.0)
_PORTS_OF = {
    "log away": ("log_writer", "log_reader"),
    "log full": ("log_writer",),
    "books away": ("books",),
    "archive full": ("archive",),
    "feed away": ("feed",),
    "consumer away": ("outlet",),
}


# Calls that change nothing. They are made again and again, and most of a run's trouble would befall them.
READS = frozenset(
    (
        "read",
        "lag",
        "poll",
        "terms",
        "newest",
        "closes",
        "outbox",
        "statuses",
        "deliveries",
        "exceptions",
        "unclaimed",
        "unclaimed_count",
        "mapping_versions",
        "unlogged_decisions",
        "number_statuses",
    )
)
READS_SHARE = 0.1  # of the rates
# Calls of which most runs make none, and the others one or two.
SELDOM = frozenset(("correct_entry", "declare_closed", "retry_rejected"))
SELDOM_SHARE = 50.0


class CrashedError(BaseException):
    """The process ends here: nothing in it may catch this."""


class Process(Protocol):
    """What faults need to know of a process."""

    name: str
    dead: bool
    pausable: bool


class Meanwhile(Protocol):
    """Lets the rest of the world go on while a process hangs."""

    def __call__(self, paused: Process) -> None: ...


class Faults:
    """The observer at every edge. `heal` ends all trouble; what runs then must drain."""

    def __init__(self, scenario: Scenario, clock: VirtualClock, history: History, meanwhile: Meanwhile) -> None:
        self._rates, self._targets = scenario.rates, scenario.targets
        self._clock, self._history, self._meanwhile = clock, history, meanwhile
        self.rng = random.Random(f"faults {scenario.seed}")
        self.crossings: Counter[Edge] = Counter()
        self._outages: dict[str, int] = {}  # outage -> elapsed_ms at which it ends
        self._paused = False
        self.healed = False
        self.sometimes: Counter[str] = Counter()

    def heal(self) -> None:
        """From now on nothing goes wrong."""
        self.healed = True
        self._outages.clear()

    def happened(self, what: str, who: str = "world") -> None:
        """Count a fault."""
        self.sometimes[what] += 1
        self._history.fault(self._clock.elapsed_ms, who, what)

    def chance(self, rate: float) -> bool:
        """Whether something that happens so often happens now."""
        return not self.healed and rate > 0 and self.rng.random() < rate

    # ── at the edges ───────────────────────────────────────────────────────────────────────────────────────────────

    def cross(self, process: Process, edge: Edge, args: tuple) -> None:
        """A process passes an edge; it may not come out at the other side."""
        if process.dead:
            raise CrashedError
        self._history.note(self._clock.elapsed_ms, process.name, str(edge), *args)
        self.crossings[edge] += 1
        if self.healed:
            return
        share = _share(edge)
        if self.chance(self._rates.jump * share):
            self._clock.jump(self.rng.choice(JUMPS_MS))
            self.happened("clock jump", process.name)
        if process.pausable and not self._paused and self.chance(self._rates.pause * share) and not _too_late(edge):
            self._hang(process, edge)
        self._break_down(process, edge, share)

    def _break_down(self, process: Process, edge: Edge, share: float) -> None:
        planned = [t.what for t in self._targets if t.edge == edge and t.crossing == self.crossings[edge]]
        if "crash" in planned or self.chance(self._rates.crash * share):
            process.dead = True
            self.happened(f"crash {edge}", process.name)
            raise CrashedError
        failures = FAILURES[edge.port][: 1 if edge.when == "after" else None]
        if away := self._out(edge):
            self.happened(f"hit by {away}", process.name)
            raise failures[-1 if away == "log full" else 0]
        if failures and ("fail" in planned or self.chance(self._rates.fail * share)):
            self.happened(f"fail {edge}", process.name)
            raise self.rng.choice(failures)

    def _hang(self, process: Process, edge: Edge) -> None:
        self._paused = True
        self.happened(f"zombie {edge.port}", process.name)
        self._meanwhile(process)
        self._paused = False
        self._history.fault(self._clock.elapsed_ms, process.name, f"wakes up {edge}")

    def delay_s(self, process: Process, edge: Edge) -> float:
        """How long an answer is under way."""
        if not self.chance(self._rates.delay):
            return 0.0
        self.happened("delayed answer", process.name)
        return self.rng.choice(DELAYS_S)

    # ── outages ────────────────────────────────────────────────────────────────────────────────────────────────────

    def begin_outage(self) -> None:
        """A port is away, or takes nothing more, for a while."""
        what = self.rng.choice(OUTAGES)
        self._outages[what] = self._clock.elapsed_ms + round(self.rng.choice(OUTAGE_S) * 1000)
        self.happened(what)

    def is_out(self, what: str) -> bool:
        """Whether this outage lasts."""
        return self._outages.get(what, -1) >= self._clock.elapsed_ms

    def _out(self, edge: Edge) -> str:
        if edge.when == "after":
            return ""
        return next((what for what, ports in _PORTS_OF.items() if edge.port in ports and self.is_out(what)), "")


def _share(edge: Edge) -> float:
    """How much likelier trouble is at an edge than the rates say."""
    if edge.method in SELDOM:
        return SELDOM_SHARE
    return READS_SHARE if edge.method in READS else 1.0


def _too_late(edge: Edge) -> bool:
    """A sender that hangs between its intent and its call can be fenced by nobody but the ERP's own key."""
    return edge == Edge("erp", "post", "before")
