"""What every double does: who asks, limits, trouble on order, then the vendor's own part.

Owns the order of these. A vendor's double is a subclass with routes, bodies as types, and the form of its errors.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

from adapters.erp.doubles.access import Access
from adapters.erp.doubles.exchange import Answer, Malformed, Request
from adapters.erp.doubles.ledger import Ledger
from adapters.erp.doubles.limits import Over, RequestLimits
from adapters.erp.doubles.trouble import SLOW_COMMIT_S, TROUBLE_S, Fault, Trouble
from runtime.ports import Clock


class Route(NamedTuple):
    """Requests of this method whose path matches `pattern` as a whole go to the method `handler`.

    The pattern's groups are its arguments after the request. `writes`: this is where trouble strikes.
    """

    method: str
    pattern: str
    handler: str
    writes: bool = False


class Double:
    """One ERP. `ledger` holds what is booked, `limits` what was counted, `trouble` what goes wrong."""

    name: ClassVar[str]
    routes: ClassVar[tuple[Route, ...]]

    def __init__(
        self, ledger: Ledger, *, clock: Clock, access: Access, limits: RequestLimits, trouble: Trouble | None = None
    ) -> None:
        self.ledger, self.access, self.limits = ledger, access, limits
        self.trouble = trouble or Trouble()
        self.requests: Counter[str] = Counter()  # by handler
        self.dwell_s = 0.0  # of real time, that a request takes at least: so that requests overlap
        self.partial = False  # while set, a vendor that takes items one by one fails every other item
        self._clock, self._lock = clock, threading.RLock()
        self._in_flight = 0
        self._closed_until_ms = self._down_until_ms = self._cut_until_ms = 0
        self._late: list[tuple[int, Callable[[], object]]] = []
        self._late_ms: int | None = None

    # what a vendor gives

    def section(self, url: str) -> dict:
        """What `[erp]` must say to reach this double, secrets by the variables of `SECRETS` (in `doubles.server`)."""
        raise NotImplementedError

    def limited(self, over: Over) -> Answer:
        """The answer to a request beyond a limit."""
        raise NotImplementedError

    def failed(self, status: int, text: str) -> Answer:
        """Any other error: 400 malformed, 401 not known, 404 no such thing, 503 maintenance."""
        raise NotImplementedError

    def malformed(self, error: Malformed) -> Answer:
        """The answer to a body that breaks the contract, where a vendor has more to say than `failed`."""
        return self.failed(400, str(error))

    # the common part

    def now_ms(self) -> int:
        """The double's time; of what is done late, the time when it was due."""
        return self._clock.now_ms() if self._late_ms is None else self._late_ms

    def later(self, seconds: float, work: Callable[[], object]) -> None:
        """Do this once that much time has passed, before the next request is answered."""
        self._late.append((self.now_ms() + round(seconds * 1000), work))

    def handle(self, request: Request) -> Answer | None:
        """Answer a request; None breaks the connection."""
        with self._lock:
            self._in_flight += 1
            in_flight = self._in_flight
        try:
            time.sleep(self.dwell_s)
            with self._lock:
                self._pass_time()
                return self._answer(request, in_flight)
        finally:
            with self._lock:
                self._in_flight -= 1

    def settle(self) -> None:
        """Finish now what was still running."""
        with self._lock:
            while self._late:
                self._late.pop(0)[1]()

    def _pass_time(self) -> None:
        """Do what was due since the last request, each at its own time, earliest first."""
        now_ms = self._clock.now_ms()
        while due := [each for each in self._late if each[0] <= now_ms]:
            first = min(due, key=lambda each: each[0])
            self._late.remove(first)
            self._set_time(first[0])
            first[1]()
        self._set_time(now_ms)
        self._late_ms = None

    def _set_time(self, at_ms: int) -> None:
        self._late_ms = at_ms
        self.ledger.closed = at_ms < self._closed_until_ms
        self.limits.share = 0.5 if at_ms < self._cut_until_ms else 1.0

    def _answer(self, request: Request, in_flight: int) -> Answer | None:
        if given := self.access.token(request, self.now_ms()):
            return given
        found = self._route(request)
        if found is None:
            return self.failed(404, f"no route for {request.method} {request.path}")
        route, arguments = found
        self.requests[route.handler] += 1
        fault = self.trouble.next() if route.writes else "none"
        self._begin(fault)
        if self.now_ms() < self._down_until_ms:
            return self.failed(503, "down for maintenance")
        if not self.access.admits(request, self.now_ms()):
            return self.failed(401, "not authorised")
        over = self.limits.admit(self.now_ms(), in_flight)
        if over is None and fault == "throttle":
            over = Over("throttle", 1.0)
        if over:
            return self.limited(over)
        return self._worked(fault, lambda: self._handled(route, request, arguments))

    def _begin(self, fault: Fault) -> None:
        until_ms = self.now_ms() + round(TROUBLE_S * 1000)
        if fault == "maintenance":
            self._down_until_ms = until_ms
        elif fault == "closed_period":
            self._closed_until_ms, self.ledger.closed = until_ms, True
        elif fault == "quota_cut":
            self._cut_until_ms, self.limits.share = until_ms, 0.5
        elif fault == "expired_token":
            self.access.expire()

    def _worked(self, fault: Fault, work: Callable[[], Answer]) -> Answer | None:
        if fault == "lose_request":
            return None
        if fault == "slow_commit":
            self.later(SLOW_COMMIT_S, work)
            return None
        self.partial = fault == "partial_batch"
        answer = work()
        self.partial = False
        return None if fault == "lose_answer" else answer

    def _handled(self, route: Route, request: Request, arguments: Mapping[str, str]) -> Answer:
        try:
            return getattr(self, route.handler)(request, **arguments)
        except Malformed as error:
            return self.malformed(error)

    def _route(self, request: Request) -> tuple[Route, dict[str, str]] | None:
        for route in self.routes:
            if route.method == request.method and (match := re.fullmatch(route.pattern, request.path)):
                return route, match.groupdict()
        return None
