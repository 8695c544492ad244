"""The metadata service over HTTP: a launcher, and a server that runs inside this process.

    python -m mooncake.http_metadata_server --port 8080 --host 0.0.0.0 --log-level INFO

As a program it becomes `mooncake_http_metadata_server` of this package. `KVBootstrapServer` is for
programs that start one themselves; it needs nothing beside the interpreter.
"""

from __future__ import annotations

import enum
import sys
import threading
from typing import Dict, Optional

from ._http import JSON, Request, Response, Server
from ._programs import become

PROGRAM = "mooncake_http_metadata_server"
PATH = "/metadata"
# Keys that name one process: whoever has the name keeps it.
CLAIMED = "rpc_meta"
# By the first word of this answer engines know that a name is taken.
DUPLICATE = "Duplicate rpc_meta key not allowed"
DOCUMENT_BYTES_MAX = 64 << 20
DOCUMENTS_MAX = 1 << 20


class KVPoll(enum.IntEnum):
    """How far a KVBootstrapServer is."""

    Failed = 0
    Bootstrapping = 1
    WaitingForInput = 2
    Transferring = 3
    Success = 4


class KVBootstrapServer:
    """A metadata service in threads of this process; `run()` starts it, `close()` ends it.

    `store` has the documents by key.
    """

    def __init__(self, port: int, host: str = "0.0.0.0"):
        self.port = port
        self.host = host
        self.store: Dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._server: Optional[Server] = None

    def run(self) -> None:
        """Listens and serves; returns at once. OSError when the port is taken."""
        self._server = Server(self.host, self.port, "mooncake-metadata", DOCUMENT_BYTES_MAX,
                              self._answer)
        self.port = self._server.port

    def close(self) -> None:
        """Stops listening; again does nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.end()

    def poll(self) -> KVPoll:
        """Success while it serves."""
        serving = self._server is not None and self._server.thread.is_alive()
        return KVPoll.Success if serving else KVPoll.Failed

    async def _answer(self, request: Request) -> Response:
        if request.path == "/health":
            return Response(200, "OK")
        if request.path != PATH:
            return Response(404, "no such path")
        return await self._handle_metadata(request)

    async def _handle_metadata(self, request: Request) -> Response:
        """GET, PUT or DELETE of the document that the query names; blanks around a key are none of
        it."""
        key = request.query.get("key", "").strip()
        if not key:
            return Response(400, "metadata key is required")
        if request.method == "GET":
            with self._lock:
                found = self.store.get(key)
            return Response(200, body=found, content_type=JSON) if found is not None else missing()
        if request.method == "PUT":
            return self._put(key, await request.read())
        if request.method == "DELETE":
            with self._lock:
                found = self.store.pop(key, None)
            return Response(200, "removed") if found is not None else missing()
        return Response(405, "GET, PUT or DELETE")

    def _put(self, key: str, document: bytes) -> Response:
        with self._lock:
            known = key in self.store
            if known and CLAIMED in key:
                return Response(400, DUPLICATE)
            if not known and len(self.store) >= DOCUMENTS_MAX:
                return Response(507, "too many documents")
            self.store[key] = document
        return Response(200, "stored")


def missing() -> Response:
    """The answer about a key that has no document."""
    return Response(404, "no such key")


def main() -> int:
    """Becomes the program of this package; returns only when it is missing."""
    return become(PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
