"""How requests prove who sends them: tokens renewed in time, refresh tokens kept, signatures by the standard."""

from pathlib import Path

import msgspec
import pytest

from adapters.erp.doubles.access import CLIENT_ID, SECRET, TOKEN_ID, TOKEN_SECRET, BearerAccess, SignedAccess
from adapters.erp.doubles.exchange import Request
from adapters.erp.http.auth import Auth, auth_of
from adapters.erp.http.dialect import Reply
from adapters.erp.http.fault import ErpFault
from adapters.erp.http.oauth1 import signature_base
from runtime.config import ErpAuthSection

URL = "https://erp.example.org/journals"


class Clock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def now_ms(self) -> int:
        """The present."""
        return self.ms

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.ms += round(seconds * 1000)


class TokenServer:
    """Answers forms as a token server does, without a wire."""

    def __init__(self, clock: Clock, rotating: bool = False) -> None:
        self.access, self._clock = BearerAccess(600.0, rotating), clock
        self.asked, self.status = 0, 0

    def post_form(self, url: str, fields: dict[str, str], headers: dict[str, str]) -> Reply:
        """One form."""
        self.asked += 1
        if self.status:
            return Reply(self.status, {}, b"")
        body = "&".join(f"{name}={value}" for name, value in fields.items()).encode()
        lowered = {name.lower(): value for name, value in headers.items()}
        answer = self.access.token(Request("POST", "/oauth2/token", {}, lowered, body), self._clock.now_ms())
        assert answer is not None
        return Reply(answer.status, {}, answer.body)


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERP_SECRET", SECRET)
    monkeypatch.setenv("ERP_TOKEN_SECRET", TOKEN_SECRET)


def auth(kind: str, clock: Clock, server: TokenServer | None = None, **more: object) -> Auth:
    given = {"kind": kind, "client_id": CLIENT_ID, "secret": {"env": "ERP_SECRET"}, "user": "u", **more}
    if kind.startswith("oauth2"):
        given["token_url"] = "https://login.example.org/oauth2/token"
    section = ErpAuthSection.model_validate(given)
    return auth_of(section, clock, (server or TokenServer(clock)).post_form)


def test_auth_fixed_headers_are_as_the_standards_say() -> None:
    """Basic is user and password in base 64; a key stands in its header after its prefix; none sends nothing."""
    clock = Clock()
    assert auth("basic", clock).headers("GET", URL) == {"Authorization": "Basic dTpkb3VibGUtc2VjcmV0"}
    assert auth("header", clock, header="X-Key").headers("GET", URL) == {"X-Key": SECRET}
    assert auth("header", clock, prefix="token").headers("GET", URL) == {"Authorization": f"token {SECRET}"}
    assert auth("none", clock).headers("GET", URL) == {}


def test_auth_token_is_kept_and_renewed_before_its_end() -> None:
    """One token serves until shortly before its end; then the next one comes without a refusal in between."""
    clock = Clock()
    server = TokenServer(clock)
    subject = auth("oauth2_client", clock, server)
    first = subject.headers("GET", URL)
    clock.sleep(500)
    assert subject.headers("GET", URL) == first
    clock.sleep(60)
    assert subject.headers("GET", URL) != first
    assert server.asked == 2


def test_auth_token_that_was_refused_is_fetched_anew() -> None:
    """After a 401 the next request carries a new token; what never changes says that a second try is useless."""
    clock = Clock()
    server = TokenServer(clock)
    subject = auth("oauth2_client", clock, server)
    first = subject.headers("GET", URL)
    assert subject.renew()
    assert subject.headers("GET", URL) != first
    assert not auth("basic", clock).renew()


def test_auth_refresh_token_that_was_replaced_is_on_disk_for_the_next_process(tmp_path: Path) -> None:
    """Each use replaces the refresh token; a second connection goes on with the one in the file."""
    clock, file = Clock(), tmp_path / "refresh.token"
    file.write_text("refresh-0\n")
    server = TokenServer(clock, rotating=True)
    for used in (1, 2):
        subject = auth("oauth2_refresh", clock, server, refresh_token_file=str(file))
        assert subject.headers("GET", URL)["Authorization"] == f"Bearer access-{used}"
        assert file.read_text() == f"refresh-{used}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["refresh.token", "refresh.token.lock"]


@pytest.mark.parametrize(("status", "code"), [(400, "unauthorised"), (401, "unauthorised"), (503, "unavailable")])
def test_auth_token_server_that_refuses_leaves_nothing_in_doubt(status: int, code: str) -> None:
    """What fails while a token is fetched has applied nothing, whoever is to blame."""
    clock = Clock()
    server = TokenServer(clock)
    server.status = status
    with pytest.raises(ErpFault) as caught:
        auth("oauth2_client", clock, server).headers("POST", URL)
    assert caught.value.code == code


@pytest.mark.parametrize("kind", ["basic", "header", "oauth1", "oauth2_client"])
def test_auth_secret_that_is_gone_is_told_by_its_place(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that can't be read is a refusal that names the setting."""
    clock, more = Clock(), {"token_id": TOKEN_ID, "token_secret": {"env": "ERP_TOKEN_SECRET"}}
    subject = auth(kind, clock, **more)
    monkeypatch.delenv("ERP_SECRET")
    with pytest.raises(ErpFault, match="erp.auth.secret.env") as caught:
        subject.headers("POST", URL)
    assert caught.value.code == "unauthorised"


def test_oauth1_signature_base_is_the_one_of_the_standard() -> None:
    """RFC 5849, 3.4.1.1: the example's request has the example's base string."""
    url = "http://EXAMPLE.COM/request?b5=%3D%253D&a3=a&c%40=&a2=r%20b"
    fields = [
        ("c2", ""),
        ("a3", "2 q"),
        ("oauth_consumer_key", "9djdj82h48djs9d2"),
        ("oauth_token", "kkk9d7dh3k39sjv7"),
        ("oauth_signature_method", "HMAC-SHA1"),
        ("oauth_timestamp", "137131201"),
        ("oauth_nonce", "7d8f3e4a"),
    ]
    assert signature_base("post", url, fields) == (
        "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D%25253D%26c%2540%3D%26"
        "c2%3D%26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a%26oauth_signature_method%3DHMAC-SHA1%26"
        "oauth_timestamp%3D137131201%26oauth_token%3Dkkk9d7dh3k39sjv7"
    )


def test_oauth1_signed_request_is_admitted_once_and_not_when_changed() -> None:
    """Whoever knows the secrets admits the request as it was signed, once; another path, or the same again, is not."""
    clock, server = Clock(), SignedAccess()
    subject = auth("oauth1", clock, token_id=TOKEN_ID, token_secret={"env": "ERP_TOKEN_SECRET"}, realm="1_SB1")
    url = "http://127.0.0.1:8080/record/eid:a-b?limit=10&q=a%20b"

    def request(path: str) -> Request:
        signed = subject.headers("GET", url)["Authorization"]
        headers = {"authorization": signed, "host": "127.0.0.1:8080"}
        return Request("GET", path, {"limit": "10", "q": "a b"}, headers, b"")

    good = request("/record/eid:a-b")
    assert server.admits(good, clock.now_ms())
    assert not server.admits(good, clock.now_ms())
    assert not server.admits(request("/record/eid:a-c"), clock.now_ms())


def test_auth_errors_and_headers_never_hold_a_secret_in_clear() -> None:
    """A signed request shows neither of its secrets."""
    subject = auth("oauth1", Clock(), token_id=TOKEN_ID, token_secret={"env": "ERP_TOKEN_SECRET"})
    signed = msgspec.json.encode(subject.headers("GET", URL)).decode()
    assert SECRET not in signed
    assert TOKEN_SECRET not in signed
