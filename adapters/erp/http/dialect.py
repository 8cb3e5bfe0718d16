"""How an ERP says no: from an HTTP answer to a fault, by tables.

Owns what every vendor's statuses mean, and the order in which a vendor's own rules come before that.
Never sends anything.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple, TypeVar

import msgspec

from adapters.erp.http.fault import ErpFault, shortened
from runtime.ports import OutcomeCode

RETRY_AFTER_S_MAX = 86_400.0  # what an ERP asks for beyond a day is a mistake of form
_TYPE = TypeVar("_TYPE")


class Reply(NamedTuple):
    """An answer, whole. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def read(self, type: type[_TYPE]) -> _TYPE:
        """The JSON body as this msgspec type (Decimal fields are exact; unknown fields are passed over).

        A body that is not so is a fault `unknown`: what the call did is not told.
        """
        try:
            return msgspec.json.decode(self.body, type=type, strict=False)
        except (ValueError, RecursionError) as error:  # what is no UTF-8 is another ValueError than msgspec's own
            raise ErpFault("unknown", f"HTTP {self.status}: the answer can't be read: {_place(error)}") from None

    def header(self, name: str) -> str:
        """A header's value, "" when it is not there."""
        return self.headers.get(name.lower(), "")


class VendorError(NamedTuple):
    """What a vendor's error body says: its code and its text, each may be empty."""

    code: str = ""
    text: str = ""


class Rule(NamedTuple):
    """One line of a dialect: an answer with this status, whose error code and text match, means this outcome.

    `status` 0 is any, `error` and `text` are patterns searched for ("" is any). `detail` is said before the vendor's
    own text. `retry_after_s` is for vendors that name no delay.
    """

    meaning: OutcomeCode
    status: int = 0
    error: str = ""
    text: str = ""
    detail: str = ""
    retry_after_s: float = 0.0


class Dialect(NamedTuple):
    """How one vendor says no. `rules` come before the common ones, the first that matches counts.

    `error_of` reads the vendor's error body; it may raise anything on a body that is not the vendor's (a proxy's page),
    which then says nothing. `delay_of` is for delays outside Retry-After; 0 when there is none.
    """

    vendor: str
    rules: tuple[Rule, ...] = ()
    error_of: Callable[[Reply], VendorError] = lambda reply: VendorError()
    delay_of: Callable[[Reply], float] = lambda reply: 0.0


# Promises are few: refused, throttled, unavailable and unauthorised say that nothing was applied. A 5xx proves nothing
# unless a vendor's rule says so, because a proxy may have written it after the ERP had committed. 503 with a delay is
# an answer of the server's own admission control.
COMMON: tuple[Rule, ...] = (
    *(Rule("unauthorised", status) for status in (401, 403, 407)),
    *(Rule("rejected", status) for status in (400, 405, 406, 409, 410, 411, 412, 413, 414, 415, 422)),
    Rule("unavailable", 404),
    Rule("unavailable", 421),
    Rule("throttled", 425),
    Rule("throttled", 429),
)


def fault_of(reply: Reply, dialect: Dialect, now_ms: int) -> ErpFault:
    """What an answer that is no success says of its call."""
    error = _error_of(reply, dialect)
    delay_s = retry_after_s(reply, now_ms) or _bounded(dialect.delay_of(reply))
    said = shortened(" ".join(part for part in (error.code, error.text) if part))
    for rule in (*dialect.rules, *COMMON):
        if _matches(rule, reply, error):
            detail = " ".join(part for part in (rule.detail, said) if part)
            return ErpFault(rule.meaning, detail or f"HTTP {reply.status}", delay_s or rule.retry_after_s)
    if reply.status == 503 and delay_s:
        return ErpFault("throttled", said or "HTTP 503", delay_s)
    # To be sent elsewhere applied nothing; but 303 names where the result of what was done is to be read.
    code: OutcomeCode = "unavailable" if 300 <= reply.status < 400 and reply.status != 303 else "unknown"
    return ErpFault(code, f"HTTP {reply.status} {said}".rstrip(), delay_s)


def retry_after_s(reply: Reply, now_ms: int) -> float:
    """Retry-After in either form, seconds or a date; 0 when there is none or it can't be read."""
    value = reply.header("retry-after").strip()
    if value.isdecimal():
        return _bounded(float(value))
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # a year of twelve digits is one, too
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return _bounded((until - datetime.fromtimestamp(now_ms / 1000, UTC)).total_seconds())


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX)


def _error_of(reply: Reply, dialect: Dialect) -> VendorError:
    try:
        return dialect.error_of(reply)
    except Exception:  # noqa: BLE001  a foreign page in the place of the vendor's error says nothing
        return VendorError()


def _matches(rule: Rule, reply: Reply, error: VendorError) -> bool:
    return (
        rule.status in (0, reply.status)
        and (not rule.error or re.search(rule.error, error.code) is not None)
        and (not rule.text or re.search(rule.text, error.text, re.IGNORECASE) is not None)
    )


def _place(error: Exception) -> str:
    """Where a body is wrong, without what stands there."""
    text = str(error)
    return text[text.index("$") :].rstrip("`") if "$" in text else type(error).__name__
