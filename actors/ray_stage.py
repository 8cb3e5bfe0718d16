"""Ray as the stage that parts run on: named, detached actors in one namespace.

Owns how an actor is asked for, found, pinged and killed. Never builds a part: it is given a builder for each name.
"""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayError

from actors.parts import AsyncShell, ThreadShell
from runtime.errors import PenstockError

NAMESPACE = "penstock"
CALLS_AT_ONCE = 8  # pings and calls that a thread shell answers side by side
STOP_TIMEOUT_S = 30.0
CONTROL = "control"  # the resource of the parts that a cluster needs from the start: its head offers it


class PartSpec(NamedTuple):
    """How to run one part: its shell, its builder, and the custom resource that places it where a cluster has one."""

    shell: type[ThreadShell] | type[AsyncShell]
    build: Callable
    resource: str


class RayStage:
    """Parts as detached actors. Safe to make again: parts are found by name."""

    def __init__(self, specs: Mapping[str, PartSpec]) -> None:
        self._specs = specs
        self.names = list(specs)
        self._asked: dict[str, ray.ObjectRef] = {}  # pings that nobody has answered yet
        self._resources = ray.cluster_resources()

    @property
    def address(self) -> str:
        """The host:port of this Ray's head."""
        return ray.get_runtime_context().gcs_address

    def present(self) -> list[str]:
        """The parts of whatever Penstock runs here, by name."""
        return sorted(ray.util.list_named_actors())

    def exists(self, name: str) -> bool:
        """Whether an actor of that name is known to Ray, answering or not."""
        try:
            ray.get_actor(name, NAMESPACE)
        except ValueError:
            return False
        return True

    def start(self, name: str) -> None:
        """Ask for the part; one that is there already is left alone."""
        spec = self._specs[name]
        ray.remote(spec.shell).options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=CALLS_AT_ONCE,
            enable_task_events=False,
            **held(spec.resource, self._resources),
        ).remote(name, spec.build)

    def kill(self, name: str) -> None:
        """End a part that does not answer; Ray starts it anew."""
        ray.kill(ray.get_actor(name, NAMESPACE), no_restart=False)

    def ping(self, names: list[str], timeout_s: float) -> dict[str, object]:
        """The health of each part that answers in time; None of one whose process has ended, which Ray starts again.

        Who is silent is not asked anew: the next call waits on for its answer, or its end, which Ray tells late.
        """
        for name in names:
            if name not in self._asked and self.exists(name):
                self._asked[name] = ray.get_actor(name, NAMESPACE).health.remote()
        asked = {self._asked[name]: name for name in names if name in self._asked}
        if not asked:
            return {}
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
        return {asked[answer]: _result(self._asked.pop(asked[answer])) for answer in answered}

    def call(self, name: str, method: str, timeout_s: float) -> object:
        """One of a part's methods, run between two of its steps. PenstockError when the part does not do it."""
        try:
            return ray.get(ray.get_actor(name, NAMESPACE).call.remote(method), timeout=timeout_s)
        except (RayError, ValueError) as error:
            raise PenstockError(f"{name} did not answer ({type(error).__name__}); see its log") from None

    def stop(self, names: list[str]) -> None:
        """Let parts finish and close, then end their actors for good."""
        handles = [ray.get_actor(name, NAMESPACE) for name in names if self.exists(name)]
        stopping = [handle.stop.remote() for handle in handles]
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=STOP_TIMEOUT_S)
        for handle in handles:
            ray.kill(handle, no_restart=True)


def held(resource: str, offered: Collection[str]) -> dict[str, object]:
    """What a part's actor holds of its node; always something, as the autoscaler removes nodes whose actors hold
    nothing. The part's own resource, and no CPU beside it, as a head has none to give; a little CPU on a Ray that knows
    no such resources. One that offers CONTROL knows them all: the nodes with the others may still be on their way.
    """
    if resource in offered or CONTROL in offered:
        return {"num_cpus": 0, "resources": {resource: 1}}
    return {"num_cpus": 0.01}


def _result(answer: ray.ObjectRef) -> object:
    try:
        return ray.get(answer, timeout=0)
    except (RayError, GetTimeoutError):
        return None
