"""The durable edges, read off the port protocols: before and after each method of each port.

Owns the list, which is made by introspection, so that a new method can't be forgotten; and the wrapper that a process
is given instead of a port, which passes every call by an observer. Decides nothing: the observer does.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from runtime import ports

PORTS: dict[str, type] = {
    "log_writer": ports.LogWriter,
    "log_reader": ports.LogReader,
    "books": ports.Books,
    "archive": ports.Archive,
    "feed": ports.Feed,
    "erp": ports.ErpGateway,
    "outlet": ports.Outlet,
}
# Protocols that no process crosses: time, counting, and the payload store, which only commands use.
NO_PORTS = (ports.Clock, ports.Metrics, ports.PayloadStore)


class Edge(NamedTuple):
    """A point before or after one call of a port's method."""

    port: str
    method: str
    when: str  # "before" | "after"

    def __str__(self) -> str:
        return f"{self.when} {self.port}.{self.method}"


class Observer(Protocol):
    """Who is told of each edge that a process crosses. It may raise, or let other things happen first."""

    def cross(self, process: Any, edge: Edge, args: tuple) -> None: ...

    def delay_s(self, process: Any, edge: Edge) -> float:
        """How long an awaited answer takes."""
        ...


def methods_of(port: str) -> dict[str, bool]:
    """A port's methods, and whether each is awaited."""
    found = inspect.getmembers(PORTS[port], inspect.isfunction)
    return {name: inspect.iscoroutinefunction(f) for name, f in found if not name.startswith("_")}


def edges() -> tuple[Edge, ...]:
    """Every edge there is."""
    return tuple(
        Edge(port, method, when) for port in PORTS for method in methods_of(port) for when in ("before", "after")
    )


class Edged:
    """A port as one process holds it."""

    def __init__(self, port: str, target: Any, process: Any, observer: Observer) -> None:
        self._port, self._target, self._process, self._observer = port, target, process, observer
        self._methods = methods_of(port)

    def __getattr__(self, name: str) -> Callable:
        if name not in self._methods:
            raise AttributeError(f"{name} is no method of the port {self._port}")
        call = self._awaited if self._methods[name] else self._called
        return lambda *args, **named: call(name, args, named)

    def _called(self, name: str, args: tuple, named: dict) -> Any:
        given = (*args, *named.values())
        self._observer.cross(self._process, Edge(self._port, name, "before"), given)
        answer = getattr(self._target, name)(*args, **named)
        self._observer.cross(self._process, Edge(self._port, name, "after"), given)
        return answer

    async def _awaited(self, name: str, args: tuple, named: dict) -> Any:
        given = (*args, *named.values())
        self._observer.cross(self._process, Edge(self._port, name, "before"), given)
        answer = await getattr(self._target, name)(*args, **named)
        if delay_s := self._observer.delay_s(self._process, Edge(self._port, name, "after")):
            await asyncio.sleep(delay_s)
        self._observer.cross(self._process, Edge(self._port, name, "after"), given)
        return answer
