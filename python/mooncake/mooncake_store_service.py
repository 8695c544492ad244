"""A store client as a service of its own: memory for the pool, and objects over HTTP.

    python -m mooncake.mooncake_store_service --config FILE -D name=value --port 8080

PUT /api/put {"key", "value"}; GET /api/get/KEY; GET /api/exist/KEY; DELETE /api/remove/KEY;
DELETE /api/remove_all. A failure is status 500 with {"error": ...}. The program ends with status 0
on SIGTERM and SIGINT, and with 1 when it cannot start. Nothing beside the interpreter is needed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Dict, List, Optional
from urllib.parse import unquote, urlsplit

import mooncake

from ._sizes import parse_size
from .mooncake_config import MooncakeConfig

DEFAULT_PORT = 8080
BODY_BYTES_MAX = 100 << 20
IDLE_SECONDS_MAX = 60
SIZES = ("global_segment_size", "local_buffer_size")


class Handler(BaseHTTPRequestHandler):
    """One connection, in a thread of its own; the store takes calls from any thread."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS_MAX

    def log_message(self, *_):
        """Nothing is written for a request."""

    def answer(self, status, body, kind="application/json"):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def fail(self, text, status=500):
        self.answer(status, {"error": text})

    def route(self, verbs):
        """Calls what the path asks for, `/api/NAME` or `/api/NAME/KEY`."""
        parts = urlsplit(self.path).path.split("/", 3)
        name, key = parts[2] if len(parts) > 2 else "", parts[3] if len(parts) > 3 else None
        handler = verbs.get((name, key is not None)) if parts[1:2] == ["api"] else None
        if handler is None:
            self.close_connection = True
            self.fail("no such path", 404)
            return
        try:
            handler(*([unquote(key)] if key is not None else []))
        except (BrokenPipeError, ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:  # A defect is this request's, not the service's.
            self.fail(f"{type(error).__name__}: {error}")

    def do_GET(self):
        self.route({("get", True): self.get, ("exist", True): self.exist})

    def do_PUT(self):
        self.route({("put", False): self.put})

    def do_DELETE(self):
        self.route({("remove", True): self.remove, ("remove_all", False): self.remove_all})

    def put(self):
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if not 0 <= length <= BODY_BYTES_MAX:
            self.close_connection = True
            self.fail("a body of at most 100 MB, with its length", 413)
            return
        try:
            body = json.loads(self.rfile.read(length))
            key, value = body["key"], body["value"]
        except (ValueError, KeyError, TypeError):
            self.fail('a JSON object with "key" and "value" expected', 400)
            return
        if not isinstance(key, str) or not isinstance(value, str) or not key or not value:
            self.fail('"key" and "value" are texts that are not empty', 400)
            return
        code = self.server.store.put(key, value.encode("utf-8", "surrogatepass"))
        if code != 0:
            self.fail(f"PUT failed: {code}: {mooncake.last_error()}")
        else:
            self.answer(200, {"status": "success"})

    def get(self, key):
        value = self.server.store.get(key)
        if value:
            self.answer(200, value, "application/octet-stream")
        else:
            self.fail("no such object", 404)

    def exist(self, key):
        found = self.server.store.is_exist(key)
        if found < 0:
            self.fail(f"EXIST failed: {found}: {mooncake.last_error()}")
        else:
            self.answer(200, {"exists": bool(found)})

    def remove(self, key):
        code = self.server.store.remove(key)
        if code != 0:
            self.fail(f"REMOVE failed: {code}: {mooncake.last_error()}")
        else:
            self.answer(200, {"status": "success"})

    def remove_all(self):
        count = self.server.store.remove_all()
        if count < 0:
            self.fail(f"REMOVE_ALL failed: {count}: {mooncake.last_error()}")
        else:
            self.answer(200, {"status": "success", "removed": count})


class MooncakeStoreService:
    """A store client and its HTTP service. Its coroutines block in threads, not in the loop."""

    def __init__(self, config_path: Optional[str] = None,
                 cli_config: Optional[Dict[str, Any]] = None):
        """Settings of the file or the environment, under those of `cli_config`."""
        given = dict(cli_config or {})
        unknown = set(given) - set(MooncakeConfig.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown setting: {', '.join(sorted(unknown))}")
        self.config = self._load(config_path, given)
        self.store = None
        self.port = None
        self._server = None

    @staticmethod
    def _load(config_path, given):
        given = {name: parse_size(value) if name in SIZES else value
                 for name, value in given.items()}
        if config_path:
            found = vars(MooncakeConfig.from_file(config_path))
        elif os.getenv("MOONCAKE_CONFIG_PATH") or os.getenv("MOONCAKE_MASTER"):
            found = vars(MooncakeConfig.load_from_env())
        elif "master_server_address" in given:
            found = vars(MooncakeConfig("localhost", "P2PHANDSHAKE", 0, 0, "tcp", "", ""))
        else:
            found = vars(MooncakeConfig.load_from_env())  # Says what is missing.
        return MooncakeConfig(**{**found, **given})

    async def start_store_service(self) -> bool:
        """Sets the client up; False when that failed, and mooncake.last_error() is told."""
        return await asyncio.get_running_loop().run_in_executor(None, self._start_store)

    def _start_store(self):
        from .store import MooncakeDistributedStore
        store, config = MooncakeDistributedStore(), self.config
        code = store.setup(config.local_hostname, config.metadata_server,
                           config.global_segment_size, config.local_buffer_size, config.protocol,
                           config.device_name, config.master_server_address)
        if code != 0:
            print(f"the store cannot be set up ({code}): {mooncake.last_error()}",
                  file=sys.stderr, flush=True)
            return False
        self.store = store
        return True

    async def start_http_service(self, port: int = DEFAULT_PORT, host: str = "0.0.0.0") -> bool:
        """Serves; False when the port cannot be had."""
        try:
            server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as reason:
            print(f"{host}:{port}: {reason}", file=sys.stderr, flush=True)
            return False
        server.daemon_threads = True
        server.store = self.store
        self.port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, daemon=True, name="mooncake-rest").start()
        return True

    async def stop(self) -> None:
        """Stops serving and closes the client; again does nothing."""
        server, self._server = self._server, None
        store, self.store = self.store, None
        loop = asyncio.get_running_loop()
        if server is not None:
            await loop.run_in_executor(None, server.shutdown)
            server.server_close()
        if store is not None:
            await loop.run_in_executor(None, store.close)


def arguments():
    parser = argparse.ArgumentParser(prog="mc_store_rest_server",
                                     description="A store client as a service.")
    parser.add_argument("--config", help="JSON file; default: MOONCAKE_CONFIG_PATH")
    parser.add_argument("-D", "--define", action="append", default=[], metavar="NAME=VALUE",
                        help="a setting that wins over the file")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--host", default="0.0.0.0")
    return parser


async def main(argv: Optional[List[str]] = None) -> int:
    """The service until SIGTERM or SIGINT; the exit status."""
    parser = arguments()
    given = parser.parse_args(argv)
    defined = {}
    for item in given.define:
        name, equals, value = item.partition("=")
        if not equals:
            parser.error(f"-D {item}: NAME=VALUE expected")
        defined[name] = value
    try:
        service = MooncakeStoreService(given.config, defined)
    except (OSError, ValueError, TypeError) as reason:
        print(f"settings: {reason}", file=sys.stderr)
        return 1
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    try:
        if not await service.start_store_service():
            return 1
        if not await service.start_http_service(given.port, given.host):
            return 1
        print(f"serving at {given.host}:{service.port}", flush=True)
        await ending.wait()
        return 0
    finally:
        await service.stop()


def sync_main() -> int:
    """The console script."""
    return asyncio.run(main())


if __name__ == "__main__":
    sys.exit(sync_main())
