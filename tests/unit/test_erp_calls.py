"""Calls to an ERP in threads: each with a gateway of its own, none lost."""

import threading

import msgspec
import pytest

from actors.erp_calls import ThreadCallers
from adapters.erp.memory import TERMS, MemoryErp
from runtime.ports import ErpGateway

PATIENCE_S = 10.0


class Opened:
    """Opens gateways and counts them."""

    def __init__(self, concurrency: int) -> None:
        self.gateways: list[MemoryErp] = []
        self._terms = msgspec.structs.replace(TERMS, concurrency=concurrency)

    def __call__(self) -> ErpGateway:
        """One more."""
        self.gateways.append(MemoryErp(self._terms))
        return self.gateways[-1]


def heard(callers: ThreadCallers, count: int) -> dict[object, object]:
    """Wait for so many calls; what each returned or raised."""
    ended: dict[object, object] = {}
    while len(ended) < count:
        callers.wait(PATIENCE_S)
        ended |= {each.ticket: each.error or each.answer for each in callers.ended()}
    return ended


def test_calls_at_once_never_share_a_gateway() -> None:
    """Three calls that wait for each other run side by side, each with its own gateway, which is used again."""
    opened, meeting = Opened(3), threading.Barrier(3, timeout=PATIENCE_S)
    callers = ThreadCallers(opened)
    for round_no in range(2):
        for n in range(3):
            callers.start((round_no, n), lambda gateway: (meeting.wait(), gateway)[1])
        used = heard(callers, 3)
        assert len({id(gateway) for gateway in used.values()}) == 3
    assert len(opened.gateways) == 3
    callers.close()


def test_call_that_raises_is_heard_of() -> None:
    """An error of an adapter reaches the poster, and the gateway is free again."""
    opened = Opened(1)
    callers = ThreadCallers(opened)
    callers.start("bad", lambda gateway: gateway.no_such_thing)
    assert isinstance(heard(callers, 1)["bad"], AttributeError)
    callers.start("good", lambda gateway: gateway.lookup([]))
    assert heard(callers, 1) == {"good": {}}
    assert len(opened.gateways) == 1
    callers.close()


def test_gateway_that_cannot_be_opened_is_heard_of() -> None:
    """A second connection that fails is an error of its call, not a silence."""
    opened, meeting = Opened(2), threading.Barrier(2, timeout=PATIENCE_S)
    callers = ThreadCallers(lambda: opened() if not opened.gateways else pytest.fail("no second one"))
    callers.start("first", lambda gateway: meeting.wait())
    callers.start("second", lambda gateway: None)
    ended = heard_error(callers)
    meeting.wait()
    assert ended == "second"
    callers.close()


def heard_error(callers: ThreadCallers) -> object:
    """The ticket of the first call that raised."""
    while True:
        callers.wait(PATIENCE_S)
        for each in callers.ended():
            if each.error is not None:
                return each.ticket
