"""How soon each vendor's pace is whole again after it throttled, by its own words and its own stated limits."""

import heapq
import random
from typing import Literal, NamedTuple

import pytest

from adapters.erp import business_central, fusion, netsuite, quickbooks, tryton, tryton_rpc, xero
from adapters.erp.http.dialect import Dialect, Reply, fault_of
from adapters.erp.http.fault import ErpFault
from runtime.flow.governor import BACKOFF_MAX_S, DECREASE, MINUTE_MS, RECOVERY_S, Governor, quota_of
from runtime.ports import ErpTerms

T0 = 1_800_000_000_000
CALL_MS = 300
THROTTLED_MS = 10 * MINUTE_MS
CONFIGURED = 600.0


class Throttle(NamedTuple):
    """A vendor's way to say that it is too much."""

    name: str
    terms: ErpTerms
    dialect: Dialect | Literal["tryton"]  # whose answers are not by status alone
    reply: Reply

    def fault(self, now_ms: int) -> ErpFault:
        """What the adapter makes of it."""
        if self.dialect != "tryton":
            return fault_of(self.reply, self.dialect, now_ms)
        if self.reply.status != 200:
            return tryton_rpc.fault_of_status("post", self.reply, now_ms)
        with pytest.raises(ErpFault) as refused:
            tryton_rpc.result_of("post", self.reply)
        return refused.value


def answer(status: int, body: str = "", **headers: str) -> Reply:
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode())


TOO_MANY = answer(429, '{"error": {"code": "Application_TooManyRequests", "message": "too many"}}')
BUSY = answer(503, '{"error": {"code": "Internal_ServerBusy", "message": "the queue is full"}}')
LIMIT = answer(400, '{"status": 400, "o:errorDetails": [{"detail": "", "o:errorCode": "SSS_REQUEST_LIMIT_EXCEEDED"}]}')
SOON = "Fri, 15 Jan 2027 08:05:00 GMT"
LOCKED = "<p>could not obtain lock on row in relation &#34;ir_sequence_strict&#34;</p>"
CONFLICT = '{"id": 0, "error": ["ConcurrencyException", "account.move"]}'
REST_TERMS = ErpTerms(
    native_key="none", settle_s=5, atomicity="per_item", lines_max=1000, entries_max=1, concurrency=1, per_minute=120
)
PLAIN = Dialect("rest")
THROTTLES = [
    Throttle("business_central window", business_central.TERMS, business_central.DIALECT, TOO_MANY),
    Throttle("business_central queue", business_central.TERMS, business_central.DIALECT, BUSY),
    Throttle("netsuite concurrency", netsuite._JOB_TERMS, netsuite.DIALECT, LIMIT),
    Throttle("netsuite rest", netsuite._JOB_TERMS, netsuite.DIALECT, answer(429)),
    Throttle("quickbooks", quickbooks._BATCH_TERMS, quickbooks.DIALECT, answer(429)),
    Throttle("xero", xero.TERMS, xero.DIALECT, answer(429, retry_after="33", x_rate_limit_problem="minute")),
    Throttle("fusion", fusion.TERMS, fusion.DIALECT, answer(429, retry_after="5")),
    Throttle("tryton lock", tryton.STOCK_TERMS, "tryton", answer(503, LOCKED)),
    Throttle("tryton with references, lock", tryton.REF_TERMS, "tryton", answer(503, LOCKED)),
    Throttle("tryton conflict", tryton.STOCK_TERMS, "tryton", answer(200, CONFLICT)),
    Throttle("tryton, a delay", tryton.STOCK_TERMS, "tryton", answer(503, "workers are busy", retry_after="20")),
    Throttle("tryton, a date", tryton.STOCK_TERMS, "tryton", answer(429, retry_after=SOON)),
    Throttle("tryton, too many", tryton.STOCK_TERMS, "tryton", answer(429)),
    Throttle("rest, a delay", REST_TERMS, PLAIN, answer(503, retry_after="20")),
    Throttle("rest, a date", REST_TERMS, PLAIN, answer(429, retry_after=SOON)),
]
IDS = [throttle.name for throttle in THROTTLES]


class Pace:
    """A governor and an ERP in virtual time: the ERP throttles for a while, then takes every call."""

    def __init__(self, throttle: Throttle) -> None:
        self._throttle, self._rng = throttle, random.Random(7)
        self.quota = quota_of(throttle.terms, CONFIGURED)
        self._governor = Governor(self.quota)
        self.answered: list[int] = []  # when calls were started that the ERP took
        self.refused_ms = 0  # when the last call ended that it did not
        self.delay_s = 0.0  # that the ERP asked for last

    def run(self, until_ms: int) -> None:
        """Call whenever the governor lets a call start."""
        now_ms, ends = T0, []
        while now_ms < until_ms:
            ready_ms = self._governor.ready_at(now_ms)
            if ends and ends[0] <= ready_ms:
                now_ms = heapq.heappop(ends)
                self._end(now_ms)
            else:
                now_ms = ready_ms
                self._governor.started(now_ms)
                heapq.heappush(ends, now_ms + CALL_MS)

    def _end(self, now_ms: int) -> None:
        if now_ms - T0 >= THROTTLED_MS:
            self._governor.finished(now_ms, "posted")
            self.answered.append(now_ms)
            return
        fault = self._throttle.fault(now_ms)
        assert fault.code == "throttled"
        self.refused_ms, self.delay_s = now_ms, fault.retry_after_s
        self._governor.finished(now_ms, fault.code, fault.retry_after_s, self._rng.random())


@pytest.mark.parametrize("throttle", THROTTLES, ids=IDS)
def test_pace_is_whole_again_soon_after_a_vendor_stops_throttling(throttle: Throttle) -> None:
    """After the delay that was asked for, one call of the slowest pace and the recovery, five minutes see nine tenths
    of what the vendor's limits, the configuration and the calls' own time allow."""
    pace = Pace(throttle)
    pace.run(T0 + THROTTLED_MS + 20 * MINUTE_MS)
    delay_s = pace.delay_s or BACKOFF_MAX_S
    back_ms = max(pace.refused_ms + round(delay_s * 1000), T0 + THROTTLED_MS)
    back_ms += MINUTE_MS + round(RECOVERY_S * 1000)
    possible = min(pace.quota.calls_per_minute, pace.quota.concurrency * MINUTE_MS / CALL_MS)
    seen = [at_ms for at_ms in pace.answered if back_ms <= at_ms < back_ms + 5 * MINUTE_MS]
    assert len(seen) >= 0.9 * 5 * possible


def test_pace_is_halved_by_throttles_and_untouched_by_rejections() -> None:
    """A locked number sequence slows the calls to Tryton; a refused move, however often, does not."""
    governor = Governor(quota_of(tryton.STOCK_TERMS, CONFIGURED))
    whole = governor.state(T0).rate_per_minute
    refused = answer(200, '{"id": 0, "error": ["UserError", ["the period is closed", ""]]}')
    throttles = [Throttle("refused", tryton.STOCK_TERMS, "tryton", refused)] * 5
    for now_ms, throttle in enumerate(throttles, T0):
        governor.started(now_ms)
        assert throttle.fault(now_ms).code == "rejected"
        governor.finished(now_ms, "rejected")
    assert governor.state(T0).rate_per_minute == whole
    governor.started(T0)
    governor.finished(T0, Throttle("lock", tryton.STOCK_TERMS, "tryton", answer(503, LOCKED)).fault(T0).code)
    assert governor.state(T0).rate_per_minute == whole * DECREASE
