"""One logged-in JSON-RPC session with a Tryton server.

Owns the wire format, logging in again, and what each failure says of a call: applied, not applied, or not known.
Never knows a model or a journal; callers name the methods.
"""

import base64
import json
import re
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

import httpx

from adapters.clock import WallClock
from adapters.erp.http.dialect import Reply, retry_after_s
from adapters.erp.http.fault import ErpFault, shortened
from adapters.erp.http.transport import http_client, refuse_after, whole_reply
from runtime.config import ErpHttpSection
from runtime.ports import Clock, OutcomeCode

_HTTP = ErpHttpSection()
_CLOCK = WallClock()

# Nothing is ever applied by a login: what is not about credentials is about reaching the server.
_LOGIN_STATUS: dict[int, OutcomeCode] = {401: "unauthorised", 403: "unauthorised", 429: "unauthorised"}
_CALL_STATUS: dict[int, OutcomeCode] = {
    400: "rejected",
    401: "unauthorised",
    403: "unauthorised",
    404: "unavailable",
    413: "rejected",
    429: "throttled",
}
# Tryton answers 503 to any error of its database and quotes it. These were rolled back, or never began: a lock of the
# number sequence that was not got, transactions that met, no free connection. A 503 without such words may be a
# proxy's, or tell of a connection that was lost while committing: it proves nothing.
_ROLLED_BACK = re.compile(
    "could not obtain lock|lock timeout|deadlock detected|could not serialize|database is locked"
    "|get a connection|remaining connection slots",
    re.IGNORECASE,
)

# (error class, pattern in its text, meaning), first match wins. An error in a 200 answer was rolled back.
_ERRORS: tuple[tuple[str, str, OutcomeCode], ...] = (
    ("LoginException", "", "unauthorised"),
    ("ConcurrencyException", "", "throttled"),
    ("UserError", "not allowed to access", "unauthorised"),
    ("", _ROLLED_BACK.pattern, "throttled"),
    ("", "^EXTREF_DUPLICATE", "throttled"),  # another call has just booked it: the next one is told so
    ("", "", "rejected"),
)
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
# Tryton quotes values and record names; amounts and texts stay out of what we store and log.
_QUOTED_VALUE = re.compile(r'\b(value|record) "[^"]*"')


class Credentials(NamedTuple):
    """Which server, which database, who."""

    url: str
    database: str
    user: str
    password: str


class TrytonSession:
    """Calls methods as one user. Logs in when first needed, and again once when the server says 401."""

    def __init__(self, credentials: Credentials, http: ErpHttpSection = _HTTP, clock: Clock = _CLOCK) -> None:
        self._credentials, self._clock = credentials, clock
        self._http, self._answer_s = http_client(http), http.answer_timeout_s
        self._authorization = ""
        self._preferences: dict[str, Any] = {}

    @property
    def user(self) -> str:
        return self._credentials.user

    def now_ms(self) -> int:
        """The time that `latest_ms` is told by."""
        return self._clock.now_ms()

    def preferences(self) -> dict[str, Any]:
        """The user's context: companies, company_filter, language. Raises ErpFault."""
        if not self._authorization:
            self._login()
        return self._preferences

    def refresh(self) -> None:
        """Read the user's context again after it was changed."""
        self._preferences = self._invoke("model.res.user.get_preferences", [True, {}])

    def call(self, method: str, *params: Any, latest_ms: int | None = None, **context: Any) -> Any:
        """Call a method, its context being the user's plus `context`. With `latest_ms` it is not called later, however
        long a log-in took. Raises ErpFault."""
        preferences = self.preferences()
        try:
            refuse_after(latest_ms, self._clock)
            return self._invoke(method, [*params, {**preferences, **context}])
        except ErpFault as fault:
            if fault.code != "unauthorised":
                raise
        self._login()
        refuse_after(latest_ms, self._clock)
        return self._invoke(method, [*params, {**self._preferences, **context}])

    def read(self, method: str, *params: Any, **context: Any) -> Any:
        """The same for a method that changes nothing."""
        try:
            return self.call(method, *params, **context)
        except ErpFault as fault:
            raise fault.nothing_applied() from None

    def close(self) -> None:
        self._http.close()

    def _login(self) -> None:
        self._authorization = ""
        user, password = self._credentials.user, self._credentials.password
        try:
            # English, as what an error means is read from its text.
            answer = self._send("common.db.login", [user, {"password": password}, "en"], _LOGIN_STATUS)
            user_id, token = answer[:2]
            self._authorization = "Session " + base64.b64encode(f"{user}:{user_id}:{token}".encode()).decode()
            self.refresh()
        except ErpFault as fault:
            raise fault.nothing_applied() from None

    def _invoke(self, method: str, params: list[Any]) -> Any:
        return self._send(method, params, _CALL_STATUS)

    def _send(self, method: str, params: list[Any], meanings: dict[int, OutcomeCode]) -> Any:
        body = json.dumps({"id": 0, "method": method, "params": params}, default=_encode)
        reply = self._exchange(method, body)
        if reply.status != httpx.codes.OK:
            raise fault_of_status(method, reply, self._clock.now_ms(), meanings)
        return result_of(method, reply)

    def _exchange(self, method: str, body: str) -> Reply:
        url = f"{self._credentials.url}/{self._credentials.database}/rpc/"
        headers = {"Content-Type": "application/json", "Authorization": self._authorization}
        request = self._http.build_request("POST", url, content=body, headers={k: v for k, v in headers.items() if v})
        try:
            return whole_reply(self._http, request, self._clock, self._answer_s)
        except _NEVER_SENT as error:
            raise ErpFault("unavailable", f"{method}: {type(error).__name__}") from None
        except httpx.HTTPError as error:
            raise ErpFault("unknown", f"{method}: {type(error).__name__}") from None


def fault_of_status(
    method: str, reply: Reply, now_ms: int, meanings: dict[int, OutcomeCode] = _CALL_STATUS
) -> ErpFault:
    """What an answer that is not 200 says of a call."""
    delay_s = retry_after_s(reply, now_ms)
    code = meanings.get(reply.status, "unknown")
    # A delay is asked for by what admits requests, before anything is done.
    if reply.status == 503 and (delay_s or _ROLLED_BACK.search(reply.body.decode(errors="replace"))):
        code = "throttled"
    return ErpFault(code, f"{method}: HTTP {reply.status}", delay_s)


def result_of(method: str, reply: Reply) -> Any:
    """What a 200 answer gives. Raises ErpFault when it is an error, or nobody can tell what it is."""
    try:
        answer = json.loads(reply.body, object_hook=_decode)
    except ValueError:
        raise ErpFault("unknown", f"{method}: the answer is not JSON") from None
    if not isinstance(answer, dict) or not {"result", "error"} & answer.keys():
        raise ErpFault("unknown", f"{method}: the answer is not Tryton's")
    if "error" in answer:
        raise _fault_of(answer["error"])
    return answer["result"]


def _fault_of(error: Any) -> ErpFault:
    """The outcome of an error body: `[class, [texts]]` or `[class, text]` from Tryton, else `[text, traceback]`."""
    name, details = (error[0], error[1]) if isinstance(error, list) and len(error) > 1 else (str(error), [])
    text = " ".join(part for part in details if isinstance(part, str)) if isinstance(details, list) else ""
    for error_class, pattern, code in _ERRORS:
        if error_class in ("", name) and re.search(pattern, text or name):
            return ErpFault(code, _without_values(text) or "the server failed; its log says why")
    raise AssertionError("the last rule matches everything")


def _without_values(text: str) -> str:
    return shortened(_QUOTED_VALUE.sub(r"\1 …", text))


def _encode(value: Any) -> dict[str, Any]:
    if isinstance(value, Decimal):
        return {"__class__": "Decimal", "decimal": str(value)}
    if isinstance(value, date):
        return {"__class__": "date", "year": value.year, "month": value.month, "day": value.day}
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _decode(value: dict[str, Any]) -> Any:
    if value.get("__class__") == "Decimal":
        return Decimal(value["decimal"])
    if value.get("__class__") == "date":
        return date(value["year"], value["month"], value["day"])
    return value
