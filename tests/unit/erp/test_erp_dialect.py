"""What an HTTP answer says of a call: the common table, vendors' rules over it, and delays in every form."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest

from adapters.erp.business_central import DIALECT as BUSINESS_CENTRAL
from adapters.erp.http.dialect import RETRY_AFTER_S_MAX, Dialect, Reply, Rule, VendorError, fault_of
from adapters.erp.http.fault import DETAIL_CHARS_MAX, ErpFault
from adapters.erp.netsuite import DIALECT as NETSUITE
from adapters.erp.tryton_rpc import fault_of_status

NOW_MS = 1_800_000_000_000
PLAIN = Dialect("plain")


def reply(status: int, body: object = None, **headers: str) -> Reply:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, given, b"" if body is None else msgspec.json.encode(body))


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "rejected"),
        (401, "unauthorised"),
        (403, "unauthorised"),
        (404, "unavailable"),
        (408, "unknown"),
        (409, "rejected"),
        (413, "rejected"),
        (422, "rejected"),
        (429, "throttled"),
        (302, "unavailable"),
        (303, "unknown"),
        (308, "unavailable"),
        (500, "unknown"),
        (502, "unknown"),
        (503, "unknown"),
        (504, "unknown"),
        (520, "unknown"),
    ],
)
def test_dialect_status_alone_gives_the_careful_meaning(status: int, code: str) -> None:
    """Without a vendor's proof a server error is a doubt, and only a refusal promises that nothing was applied."""
    assert fault_of(reply(status), PLAIN, NOW_MS).code == code


@pytest.mark.parametrize("status", [429, 503])
def test_dialect_delay_in_seconds_or_as_a_date_is_the_same(status: int) -> None:
    """Retry-After of 90 seconds and of the instant 90 seconds ahead both say: throttled, for 90 seconds."""
    at = format_datetime(datetime.fromtimestamp(NOW_MS / 1000, UTC) + timedelta(seconds=90), usegmt=True)
    for value in ("90", at):
        fault = fault_of(reply(status, retry_after=value), PLAIN, NOW_MS)
        assert (fault.code, fault.retry_after_s) == ("throttled", 90.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", 0.0),
        ("soon", 0.0),
        ("-5", 0.0),
        ("²", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 999999999999 00:00:00 GMT", 0.0),
        ("9" * 12, RETRY_AFTER_S_MAX),
    ],
)
def test_dialect_delay_that_makes_no_sense_is_bounded(value: str, seconds: float) -> None:
    """A delay that can't be read or lies in the past is none, and one beyond a day is a day."""
    assert fault_of(reply(429, retry_after=value), PLAIN, NOW_MS).retry_after_s == seconds


def test_dialect_vendor_rules_come_before_the_common_ones() -> None:
    """A vendor's own rule decides, with its detail before the vendor's text, and its delay where none is told."""
    rules = (Rule("throttled", 400, error="BUSY", detail="at its limit", retry_after_s=7.0),)
    vendor = Dialect("vendor", rules, lambda _: VendorError("TOO_BUSY", "wait\n a  little"))
    fault = fault_of(reply(400), vendor, NOW_MS)
    assert (fault.code, fault.detail, fault.retry_after_s) == ("throttled", "at its limit TOO_BUSY wait a little", 7.0)


def test_dialect_body_of_somebody_else_says_nothing() -> None:
    """A proxy's page where the vendor's error should be is no error of its own; the status decides."""
    page = Reply(503, {}, b"<html>Service unavailable</html>")
    assert fault_of(page, NETSUITE, NOW_MS).code == "unknown"
    assert fault_of(page, BUSINESS_CENTRAL, NOW_MS).code == "unknown"


def test_dialect_long_texts_are_cut() -> None:
    """What a vendor writes is kept to one line of bounded length."""
    vendor = Dialect("vendor", (), lambda _: VendorError("", "x" * 5000))
    assert len(fault_of(reply(400), vendor, NOW_MS).detail) == DETAIL_CHARS_MAX


def test_netsuite_limit_told_as_400_is_throttled() -> None:
    """NetSuite's 400 for too many requests at a time is no refusal of the entry."""
    body = {"o:errorDetails": [{"detail": "x", "o:errorCode": "SSS_REQUEST_LIMIT_EXCEEDED"}]}
    assert fault_of(reply(400, body), NETSUITE, NOW_MS).code == "throttled"
    assert (
        fault_of(reply(400, {"o:errorDetails": [{"o:errorCode": "USER_ERROR"}]}), NETSUITE, NOW_MS).code == "rejected"
    )


@pytest.mark.parametrize(
    ("status", "page", "code"),
    [
        (503, "could not obtain lock on row in relation &#34;ir_sequence_strict&#34;", "throttled"),
        (503, "could not serialize access due to concurrent update", "throttled"),
        (503, "database is locked", "throttled"),
        (503, "couldn&#39;t get a connection after 30.00 sec", "throttled"),
        (503, "server closed the connection unexpectedly", "unknown"),
        (503, "", "unknown"),
        (504, "", "unknown"),
        (500, "could not obtain lock", "unknown"),
    ],
)
def test_tryton_503_is_throttled_only_where_it_says_what_was_rolled_back(status: int, page: str, code: str) -> None:
    """Tryton's 503 quotes its database: a lock that was not got applied nothing, a connection lost may have."""
    told = fault_of_status("model.account.move.post", Reply(status, {}, page.encode()), NOW_MS)
    assert told.code == code
    assert page not in told.detail or not page


def test_tryton_delay_in_seconds_or_as_a_date_is_the_same() -> None:
    """What stands before Tryton may ask for a delay in either form; a 503 with one was not let in."""
    at = format_datetime(datetime.fromtimestamp(NOW_MS / 1000, UTC) + timedelta(seconds=90), usegmt=True)
    for value in ("90", at):
        told = fault_of_status("model.account.move.post", reply(503, retry_after=value), NOW_MS)
        assert (told.code, told.retry_after_s) == ("throttled", 90.0)


def test_business_central_503_of_its_own_queue_is_throttled() -> None:
    """A 503 with Business Central's error body comes from its queue, so the request never ran."""
    body = {"error": {"code": "Internal_ServerBusy", "message": "queued too long  CorrelationId:  1234."}}
    fault = fault_of(reply(503, body), BUSINESS_CENTRAL, NOW_MS)
    assert fault.code == "throttled"
    assert "1234" not in fault.detail


def test_reply_that_is_not_its_type_is_unknown_and_names_no_value() -> None:
    """A body that can't be read leaves open what the call did, and the reason names a place, not a payload."""
    with pytest.raises(ErpFault) as caught:
        reply(200, {"id": ["secret-account"]}).read(_Named)
    assert caught.value.code == "unknown"
    assert "$.id" in caught.value.detail
    assert "secret-account" not in caught.value.detail


@pytest.mark.parametrize(
    "body", [b'{"id":"\xe9t\xe9"}', b'{"id":"x", "more":' + b"[" * 100_000], ids=["latin-1", "deep"]
)
@pytest.mark.parametrize("kind", ["named", "any"])
def test_reply_that_is_not_even_a_text_is_unknown(body: bytes, kind: str) -> None:
    """Bytes of another encoding, or lists without end, are a body that can't be read, and end no sender."""
    with pytest.raises(ErpFault) as caught:
        Reply(200, {}, body).read(_Named if kind == "named" else dict[str, Any])
    assert caught.value.code == "unknown"


class _Named(msgspec.Struct):
    id: str
