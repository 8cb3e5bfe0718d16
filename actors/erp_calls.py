"""Blocking calls to one ERP, several at once: each thread has a gateway of its own.

Owns the calls that there are, the threads and their gateways. Decides neither what is called nor when, and keeps no
answer after handing it out.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, Protocol

from runtime.flow.outcomes import Call
from runtime.ports import Clock, ErpGateway, ErpTerms

TOO_LATE = object()  # the answer of a call that was not made


def post(call: Call, clock: Clock, latest_ms: int, gateway: ErpGateway) -> object:
    """Outcomes, or TOO_LATE. Whoever took over waits for this long and then trusts a lookup: a sender that was frozen
    must not call after it."""
    return gateway.post(call) if clock.now_ms() <= latest_ms else TOO_LATE


def look_up(keys: Sequence[str], gateway: ErpGateway) -> object:
    """What is found, or the one outcome that tells why nothing could be asked."""
    found = gateway.lookup(keys)
    return gateway.unasked if found is None else found


def ask(jobs: Sequence[str], gateway: ErpGateway) -> object:
    """Outcomes of the jobs' entries."""
    return gateway.progress(jobs)


class Answered(NamedTuple):
    """A call that ended: what it was started as, and what it returned, or what it raised."""

    ticket: object
    answer: object
    error: BaseException | None = None


class Callers(Protocol):
    """Makes calls and hands out answers, to one thread that asks."""

    def terms(self) -> ErpTerms: ...

    def start(self, ticket: object, call: Callable[[ErpGateway], object]) -> None:
        """Make this call with a gateway that nobody else uses meanwhile."""
        ...

    def ended(self) -> list[Answered]:
        """Calls that ended since the last time."""
        ...

    def wait(self, seconds: float) -> None:
        """Return when a call has ended, at the latest after so long."""
        ...

    def close(self) -> None:
        """Let go of the gateways. Calls under way end by themselves and are not heard of."""
        ...


class InlineCallers:
    """One gateway, called by whoever starts a call."""

    def __init__(self, gateway: ErpGateway) -> None:
        self._gateway = gateway
        self._ended: list[Answered] = []

    def terms(self) -> ErpTerms:
        """What the ERP states of itself."""
        return self._gateway.terms()

    def start(self, ticket: object, call: Callable[[ErpGateway], object]) -> None:
        """Make the call at once. What it raises is raised here."""
        self._ended.append(Answered(ticket, call(self._gateway)))

    def ended(self) -> list[Answered]:
        """See Callers."""
        ended, self._ended = self._ended, []
        return ended

    def wait(self, seconds: float) -> None:
        """Nothing is ever under way."""

    def close(self) -> None:
        """See Callers."""
        self._gateway.close()


class ThreadCallers:
    """As many threads and gateways as the ERP bears calls, made when they are first needed."""

    def __init__(self, open_gateway: Callable[[], ErpGateway]) -> None:
        self._open = open_gateway
        self._idle: queue.LifoQueue[ErpGateway] = queue.LifoQueue()
        first = open_gateway()
        self._terms = first.terms()
        self._idle.put(first)
        self._ended: queue.SimpleQueue[Answered] = queue.SimpleQueue()
        self._news = threading.Event()
        self._closed = False
        self._pool = ThreadPoolExecutor(self._terms.concurrency, thread_name_prefix="erp-call")

    def terms(self) -> ErpTerms:
        """What the ERP states of itself."""
        return self._terms

    def start(self, ticket: object, call: Callable[[ErpGateway], object]) -> None:
        """See Callers. With more calls than threads, the last ones wait, so the caller keeps to the concurrency."""
        self._pool.submit(self._run, ticket, call)

    def ended(self) -> list[Answered]:
        """See Callers."""
        self._news.clear()
        ended = []
        while not self._ended.empty():
            ended.append(self._ended.get())
        return ended

    def wait(self, seconds: float) -> None:
        """See Callers."""
        self._news.wait(seconds)

    def close(self) -> None:
        """See Callers."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._let_go()

    def _run(self, ticket: object, call: Callable[[ErpGateway], object]) -> None:
        try:
            gateway = self._taken()
            try:
                answered = Answered(ticket, call(gateway))
            finally:
                self._idle.put(gateway)
        except BaseException as error:
            answered = Answered(ticket, None, error)
        self._ended.put(answered)
        self._news.set()
        if self._closed:
            self._let_go()

    def _taken(self) -> ErpGateway:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._open()

    def _let_go(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()
