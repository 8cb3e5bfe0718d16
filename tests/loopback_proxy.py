"""A proxy on loopback that spoils single answers of a JSON-RPC server, by the name of the method called."""

import json
import sys
import threading
from collections.abc import Sequence
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Spoiling = Literal["lose_answer"] | int  # an integer answers with that status, and does not forward

_OF_ONE_CONNECTION = ("connection", "content-length", "transfer-encoding")


class LoopbackProxy:
    """Forwards to 127.0.0.1:`port`. `spoil` arms one spoiled answer; `close` makes connections be refused."""

    def __init__(self, port: int) -> None:
        self._armed: list[tuple[str, Spoiling, str]] = []
        self._server = _Server(port, self._armed)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def forward_to(self, port: int) -> None:
        """From the next call on, the server is at another port."""
        self._server.target = port

    def spoil(self, method: str, how: Spoiling, text: str = "") -> None:
        """Spoil the next answer to a method whose name ends so; the page of a status says `text`."""
        self._armed.append((method, how, text))

    def lose_every(self, nth: int, methods: Sequence[str]) -> None:
        """Lose every nth answer to methods whose names end so, after the call was made."""
        self._server.nth, self._server.methods = nth, tuple(methods)

    @property
    def lost(self) -> int:
        """How many answers were lost so."""
        return self._server.lost

    def close(self) -> None:
        """Stop listening. Closing twice is closing once."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


class _Server(ThreadingHTTPServer):
    def __init__(self, target: int, armed: list[tuple[str, Spoiling, str]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.armed = target, armed
        self.nth, self.methods = 0, tuple[str, ...]()
        self.counted = self.lost = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that was killed meanwhile takes no answer: that is nobody's fault."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def spoiling_of(self, method: str) -> tuple[Spoiling | None, str]:
        for each in self.armed:
            if method.endswith(each[0]):
                self.armed.remove(each)
                return each[1:]
        if not (self.nth and method.endswith(self.methods)):
            return None, ""
        self.counted += 1
        if self.counted % self.nth:
            return None, ""
        self.lost += 1
        return "lose_answer", ""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        spoiling, text = self.server.spoiling_of(json.loads(body)["method"])
        if isinstance(spoiling, int):
            self.send_error(spoiling, explain=text or None)
            return
        self.close_connection = True
        try:
            status, headers, answer = self._forward(body)
        except OSError:  # the server is not there: nobody answers
            return
        if spoiling != "lose_answer":
            self._answer(status, headers, answer)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection("127.0.0.1", self.server.target, timeout=60)
        try:
            connection.request("POST", self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], answer: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _OF_ONE_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""
