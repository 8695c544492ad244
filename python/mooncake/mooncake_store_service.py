"""A store client as a service of its own: memory for the pool, and objects over HTTP.

    python -m mooncake.mooncake_store_service --config FILE -D name=value --port 8080

PUT /api/put {"key", "value"}; GET /api/get/KEY; GET /api/exist/KEY; DELETE /api/remove/KEY;
DELETE /api/remove_all; POST /api/mount {"size"} and /api/unmount {"segment_ids"} give memory to the
pool and take it back. A failure is {"error": ...}. The program tries for --max-wait-time seconds to reach the
master. It ends with status 0 on SIGTERM and SIGINT, and with 1 when it cannot start. Nothing beside
the interpreter is needed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from typing import Any, Dict, List, Optional
from urllib.parse import unquote

import mooncake

from ._http import Request, Response, Server, told
from ._sizes import parse_size
from ._store_rest import Handlers
from .mooncake_config import MooncakeConfig, _parse_bool
from .store import MooncakeDistributedStore

__all__ = ["MooncakeStoreService", "main", "sync_main"]

LOG = logging.getLogger(__name__)
DEFAULT_PORT = 8080
BODY_BYTES_MAX = 100 << 20
# How settings of the command line become what the file has.
KINDS = {"global_segment_size": parse_size, "local_buffer_size": parse_size,
         "enable_ssd_offload": _parse_bool, "enable_client_http_server": _parse_bool,
         "client_http_port": int}
WAIT_SECONDS = 60.0
RETRY_SECONDS = 1.0
# Verb and name of what `/api/NAME` offers, and of what `/api/NAME/KEY` does.
CALLS = (("PUT", "put"), ("DELETE", "remove_all"), ("POST", "mount"), ("POST", "unmount"))
KEY_CALLS = (("GET", "get"), ("GET", "exist"), ("DELETE", "remove"))


class MooncakeStoreService(Handlers):
    """A store client and its HTTP service."""

    port: Optional[int] = None
    _server: Optional[Server] = None

    def __init__(self, config_path: Optional[str] = None,
                 cli_config: Optional[Dict[str, Any]] = None):
        """Settings of the file or the environment, under those of `cli_config`."""
        given = dict(cli_config or {})
        unknown = set(given) - set(MooncakeConfig.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown setting: {', '.join(sorted(unknown))}")
        self.config = self._load(config_path, given)

    @staticmethod
    def _load(config_path: Optional[str], given: Dict[str, Any]) -> MooncakeConfig:
        given = {name: KINDS.get(name, str)(value) for name, value in given.items()}
        if config_path:
            found = vars(MooncakeConfig.from_file(config_path))
        elif os.getenv("MOONCAKE_CONFIG_PATH") or os.getenv("MOONCAKE_MASTER"):
            found = vars(MooncakeConfig.load_from_env())
        elif "master_server_address" in given:
            found = vars(MooncakeConfig("localhost", "P2PHANDSHAKE", 0, 0, "tcp", "",
                                        given["master_server_address"]))
        else:
            found = vars(MooncakeConfig.load_from_env())  # Says what is missing.
        return MooncakeConfig(**{**found, **given})

    async def start_store_service(self, max_wait_time: float = WAIT_SECONDS,
                                  shutdown_event: Optional[asyncio.Event] = None) -> bool:
        """Sets the client up, again and again for `max_wait_time` seconds. False when that failed,
        and the log says why, or when the event came first."""
        loop, end = asyncio.get_running_loop(), time.monotonic() + max_wait_time
        ending = shutdown_event if shutdown_event is not None else asyncio.Event()
        for name in ("enable_ssd_offload", "enable_client_http_server"):
            if getattr(self.config, name, False):
                LOG.warning("%s is not there, the service goes on without", name)
        await asyncio.sleep(0)
        while not ending.is_set():
            reason = await loop.run_in_executor(None, self._start_store)
            await asyncio.sleep(0)
            if reason is None and not ending.is_set():
                return True
            left = end - time.monotonic()
            if reason is not None and left <= 0:
                LOG.error("the store cannot be set up: %s", reason)
                return False
            if reason is not None:
                LOG.warning("the store cannot be set up yet: %s", reason)
            try:
                await asyncio.wait_for(ending.wait(), min(RETRY_SECONDS, max(left, 0)))
            except asyncio.TimeoutError:
                pass
        await self.stop()
        return False

    def _start_store(self) -> Optional[str]:
        """None, or why the store could not be set up."""
        config = self.config
        try:
            store = MooncakeDistributedStore()
            code = store.setup({
                "local_hostname": config.local_hostname,
                "metadata_server": config.metadata_server,
                "global_segment_size": config.global_segment_size,
                "local_buffer_size": config.local_buffer_size,
                "protocol": config.protocol,
                "rdma_devices": config.device_name,
                "master_server_addr": config.master_server_address,
                "enable_ssd_offload": getattr(config, "enable_ssd_offload", False),
                "ssd_offload_path": getattr(config, "ssd_offload_path", ""),
                "tenant_id": getattr(config, "tenant_id", "default"),
                "enable_client_http_server": getattr(config, "enable_client_http_server", False),
                "client_http_port": getattr(config, "client_http_port", 0)})
        except Exception as error:  # Of an argument that the store refuses.
            return f"{type(error).__name__}: {error}"
        if code != 0:
            return f"{code}: {mooncake.last_error()}"
        self.store = store
        return None

    async def start_http_service(self, port: int = DEFAULT_PORT, host: str = "0.0.0.0") -> bool:
        """Serves; False when the port cannot be had."""
        try:
            self._server = Server(host, port, "mooncake-rest", BODY_BYTES_MAX, self._answer)
        except (OSError, OverflowError) as reason:
            LOG.error("%s:%s: %s", host, port, reason)
            return False
        self.port = self._server.port
        return True

    async def _answer(self, request: Request) -> Response:
        """What the path asks for, `/api/NAME` or `/api/NAME/KEY`."""
        parts = request.path.split("/", 3)
        name, key = parts[2] if len(parts) > 2 else "", parts[3] if len(parts) > 3 else None
        known = CALLS if key is None else KEY_CALLS
        if parts[1:2] != ["api"] or name not in [one for _, one in known]:
            return told(404, error="no such path")
        if (request.method, name) not in known:
            return told(405, error="no such method here")
        if key is not None:
            request.match_info = {"key": unquote(key)}
        found: Response = await getattr(self, f"handle_{name}")(request)
        return found

    async def stop(self) -> None:
        """Stops serving and closes the client; again does nothing."""
        server, self._server = self._server, None
        store, self.store = self.store, None
        loop = asyncio.get_running_loop()
        if server is not None:
            await loop.run_in_executor(None, server.end)
        if store is not None:
            code = await loop.run_in_executor(None, store.close)
            if code != 0:
                LOG.warning("the store's close returned %s", code)


def arguments() -> argparse.ArgumentParser:
    """The program's command line."""
    parser = argparse.ArgumentParser(prog="mc_store_rest_server",
                                     description="A store client as a service.")
    parser.add_argument("--config", help="JSON file; default: MOONCAKE_CONFIG_PATH")
    parser.add_argument("-D", "--define", action="append", default=[], metavar="NAME=VALUE",
                        help="a setting that wins over the file")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--max-wait-time", type=float, default=WAIT_SECONDS, metavar="SECONDS",
                        help=f"how long to try to reach the master (default {WAIT_SECONDS:g})")
    return parser


def _install_shutdown_signal_handlers(loop: asyncio.AbstractEventLoop,
                                      shutdown_event: asyncio.Event) -> None:
    """SIGTERM and SIGINT set the event."""
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda _: shutdown_event.set(), number)


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
    _install_shutdown_signal_handlers(asyncio.get_running_loop(), ending)
    try:
        if not await service.start_store_service(given.max_wait_time, ending):
            return 0 if ending.is_set() else 1
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
