"""The metadata service over HTTP: a launcher, and a server that runs inside this process.

    python -m mooncake.http_metadata_server --port 8080 --host 0.0.0.0 --log-level INFO

As a program it becomes `mooncake_http_metadata_server` of this package. `KVBootstrapServer` is for
programs that start one themselves; it needs nothing beside the interpreter.
"""

import enum
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from ._programs import become

PROGRAM = "mooncake_http_metadata_server"
PATH = "/metadata"
# Keys that name one process: whoever has the name keeps it.
CLAIMED = "rpc_meta"
DOCUMENT_BYTES_MAX = 64 << 20
DOCUMENTS_MAX = 1 << 20
IDLE_SECONDS_MAX = 60


class KVPoll(enum.IntEnum):
    """How far a KVBootstrapServer is."""

    Failed = 0
    Bootstrapping = 1
    WaitingForInput = 2
    Transferring = 3
    Success = 4


class Handler(BaseHTTPRequestHandler):
    """One connection; threads of their own, so the documents are behind a lock."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS_MAX

    def log_message(self, *_):
        """Nothing is written for a request."""

    def answer(self, status, body=b"", kind="text/plain"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def key(self):
        """The key asked for; None when an answer was given instead."""
        parts = urlsplit(self.path)
        if parts.path == "/health":
            self.answer(200, b"OK")
            return None
        if parts.path != PATH:
            self.answer(404, b"no such path")
            return None
        return parse_qs(parts.query, keep_blank_values=True).get("key", [""])[0]

    def do_GET(self):
        key = self.key()
        if key is None:
            return
        with self.server.lock:
            found = self.server.documents.get(key)
        if found is None:
            self.answer(404, b"no such key")
        else:
            self.answer(200, found, "application/json")

    def do_PUT(self):
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if not 0 <= length <= DOCUMENT_BYTES_MAX:
            self.close_connection = True
            self.answer(413 if length > 0 else 411, b"a document needs its length")
            return
        document = self.rfile.read(length)
        key = self.key()
        if key is None:
            return
        with self.server.lock:
            documents = self.server.documents
            taken = CLAIMED in key and key in documents
            full = key not in documents and len(documents) >= DOCUMENTS_MAX
            if not taken and not full:
                documents[key] = document
        if taken:
            self.answer(400, b"this key is taken")
        elif full:
            self.answer(507, b"too many documents")
        else:
            self.answer(200, b"stored")

    def do_DELETE(self):
        key = self.key()
        if key is None:
            return
        with self.server.lock:
            found = self.server.documents.pop(key, None)
        if found is None:
            self.answer(404, b"no such key")
        else:
            self.answer(200, b"removed")

    def refuse(self):
        self.close_connection = True
        self.answer(405, b"GET, PUT or DELETE")

    do_POST = do_PATCH = do_OPTIONS = do_HEAD = refuse


class KVBootstrapServer:
    """A metadata service in threads of this process; `run()` starts it, `close()` ends it."""

    def __init__(self, port: int, host: str = "0.0.0.0"):
        self.port = port
        self.host = host
        self._server = None
        self._thread = None

    def run(self) -> None:
        """Listens and serves; returns at once. OSError when the port is taken."""
        self._server = ThreadingHTTPServer((self.host, self.port), Handler)
        self._server.daemon_threads = True
        self._server.documents = {}
        self._server.lock = threading.Lock()
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True,
                                        name="mooncake-metadata")
        self._thread.start()

    def close(self) -> None:
        """Stops listening; again does nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()

    def poll(self) -> KVPoll:
        """Success while it serves."""
        serving = self._server is not None and self._thread.is_alive()
        return KVPoll.Success if serving else KVPoll.Failed


def main() -> int:
    """Becomes the program of this package; returns only when it is missing."""
    return become(PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
