"""Requests and answers of the small HTTP services of this package, and the server under them.

A service is a coroutine that takes a Request and gives a Response, so it can be called without a
socket too. Every connection has a thread, which drives the coroutine to its end: it may block in
the library, but has nothing to wait for in an event loop.
"""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Coroutine, Dict, Optional
from urllib.parse import parse_qs, urlsplit

IDLE_SECONDS_MAX = 60
QUERY_FIELDS_MAX = 64
# Digits of a length: more than any body that is taken.
LENGTH_DIGITS_MAX = 15
# How often a server looks whether it is to end.
POLL_SECONDS = 0.1
JSON, TEXT, BYTES = "application/json", "text/plain", "application/octet-stream"
WITH_BODY = ("PUT", "POST", "PATCH")


class Request:
    """What was asked; ValueError for a target that is none."""

    def __init__(self, method: str, target: str, body: bytes = b""):
        parts = urlsplit(target)
        found = parse_qs(parts.query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
        self.method, self.path, self._body = method, parts.path, body
        self.query = {name: values[0] for name, values in found.items()}
        # Parts of the path that have a name.
        self.match_info: Dict[str, str] = {}

    async def read(self) -> bytes:
        """The body."""
        return self._body

    async def json(self) -> Any:
        """The body as JSON; ValueError when it is none."""
        return json.loads(self._body)


class Response:
    """What is answered: a status and a body, which may be given as text."""

    def __init__(self, status: int = 200, text: Optional[str] = None, body: bytes = b"",
                 content_type: str = TEXT):
        self.status, self.content_type = status, content_type
        self.body = body if text is None else text.encode("utf-8", "replace")

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")


def told(code: int, /, **members: Any) -> Response:
    """An answer in JSON, with this status."""
    return Response(code, json.dumps(members), content_type=JSON)


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits; RuntimeError when it does."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("this handler waits, and nothing here would wake it")


class Server(ThreadingHTTPServer):
    """Listens at once; OSError or OverflowError when the port cannot be had."""

    daemon_threads = True

    def __init__(self, host: str, port: int, name: str, body_bytes_max: int,
                 answer: Callable[[Request], Coroutine[Any, Any, Response]]):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.answer, self.body_bytes_max = answer, body_bytes_max
        super().__init__((host, port), Handler)
        self.port: int = self.server_address[1]
        self.thread = threading.Thread(target=self.serve_forever, args=(POLL_SECONDS,),
                                       daemon=True, name=name)
        self.thread.start()

    def end(self) -> None:
        """Stops listening."""
        self.shutdown()
        self.server_close()
        self.thread.join()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS_MAX
    server: Server

    def log_message(self, *_: object) -> None:
        """Nothing is written for a request."""

    def exchange(self) -> None:
        """Reads a request, however it is called, and answers it."""
        try:
            response = self.respond()
            if response is not None:
                self.write(response)
        except OSError:  # The peer is gone, or does not read.
            self.close_connection = True

    def respond(self) -> Optional[Response]:
        """The answer; None when the request broke off."""
        length = self.body_length()
        if length is None:
            self.close_connection = True
            return Response(411, "a body needs its length")
        if length > self.server.body_bytes_max:
            self.close_connection = True
            return Response(413, f"a body has at most {self.server.body_bytes_max} bytes")
        body = self.rfile.read(length)
        if len(body) != length:
            self.close_connection = True
            return None
        try:
            request = Request(self.command, self.path, body)
        except ValueError as reason:
            return Response(400, str(reason))
        try:
            found: Response = drive(self.server.answer(request))
            return found
        except Exception as error:  # A defect is this request's, not the service's.
            return told(500, error=f"{type(error).__name__}: {error}")

    def body_length(self) -> Optional[int]:
        """Bytes that follow; None when that is not said."""
        given = self.headers.get("Content-Length", "" if self.command in WITH_BODY else "0")
        fits = given.isascii() and given.isdecimal() and len(given) <= LENGTH_DIGITS_MAX
        return int(given) if fits and "Transfer-Encoding" not in self.headers else None

    def write(self, response: Response) -> None:
        """Sends an answer; one to HEAD has no body."""
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = exchange
