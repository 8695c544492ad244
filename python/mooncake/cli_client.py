"""The console script mooncake_client: a store client as a process of its own.

    mooncake_client --master_server_address HOST:PORT --global_segment_size "4 GB" --port 50052

It gives memory to the pool. Programs on its host attach with `setup_dummy(..., "HOST:50052")`: they
are told here which master and which metadata server there are, and then are clients without memory
in the pool. The program ends with status 0 on SIGTERM and SIGINT, with 1 when it cannot start.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import threading
from typing import Any, Dict, List, Optional, Tuple

import mooncake

from ._http import TEXT, Request, Response, Server
from ._sizes import parse_size

PROGRAM = "mooncake_client"
WILDCARDS = ("", "0.0.0.0", "::")
# Flags: default, and what it is for.
FLAGS: Dict[str, Tuple[Any, str]] = {
    "host": ("0.0.0.0", "name or address of this client, also with a port for data"),
    "port": (50052, "where programs of this host attach"),
    "global_segment_size": ("4 GB", "memory given to the pool"),
    "local_buffer_size": ("0", "memory for values"),
    "master_server_address": ("127.0.0.1:50051", "the master"),
    "metadata_server": ("http://127.0.0.1:8080/metadata", "where engines find each other"),
    "protocol": ("tcp", "transport"),
    "device_names": ("", "adapters, separated by commas"),
    "threads": (1, "taken, and changes nothing"),
    "tenant_id": ("default", "only this one is there"),
    "enable_offload": (False, "refused: there is no offload"),
    "start_offload_rpc_server": (True, "taken, and changes nothing"),
    "enable_http_server": (False, "serve /health and /metrics"),
    "http_port": (9300, "port for these"),
}
TRUE, FALSE = ("true", "1", "t", "yes", "y"), ("false", "0", "f", "no", "n")


def boolean(text: str) -> bool:
    """A value of a flag as gflags reads it."""
    if text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    raise argparse.ArgumentTypeError(f"{text} is not true or false")


class Parser(argparse.ArgumentParser):
    """Flags in the forms of gflags; what is wrong is status 1."""

    def error(self, message: str) -> Any:
        print(f"{PROGRAM}: {message}", file=sys.stderr)
        raise SystemExit(1)


def parse(arguments: List[str]) -> argparse.Namespace:
    """The flags; `-x` is `--x`, `--nox` is `--x=false`, and a dash within is an underscore."""
    parser = Parser(prog=PROGRAM, allow_abbrev=False, description="A store client as a process.")
    for name, (default, meaning) in FLAGS.items():
        kind = boolean if isinstance(default, bool) else type(default)
        parser.add_argument(f"--{name}", default=default, type=kind, help=f"{meaning} ({default})")
    given = []
    for argument in arguments:
        if argument.startswith("-") and argument not in ("-h", "--help"):
            name, equals, value = argument.lstrip("-").partition("=")
            name = name.replace("-", "_")
            if not equals and isinstance(FLAGS.get(name, ("",))[0], bool):
                equals, value = "=", "true"
            elif not equals and isinstance(FLAGS.get(name[2:], ("",))[0], bool) \
                    and name.startswith("no"):
                name, equals, value = name[2:], "=", "false"
            argument = f"--{name}{equals}{value}"
        given.append(argument)
    return parser.parse_args(given)


def serve(host: str, port: int, pages: Dict[str, Any]) -> Server:
    """A server of these pages; OSError when the port cannot be had."""
    async def answer(request: Request) -> Response:
        page = pages.get(request.path) if request.method == "GET" else None
        status, kind, body = page() if page else (404, TEXT, b"404: Not Found")
        return Response(status, body=body, content_type=kind)
    return Server(host, port, "mooncake-client", 0, answer)


def towards(address: str) -> str:
    """The address of this host from which `address`, a host and a port, is reached."""
    host, _, port = address.split(",")[0].rpartition("://")[2].rpartition(":")
    family, kind, protocol, _, target = socket.getaddrinfo(
        host.strip("[]") or "127.0.0.1", int(port or 0) or 1, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


class Client:
    """The store of this process and its pages."""

    def __init__(self, given: argparse.Namespace):
        from .store import MooncakeDistributedStore
        self.given = given
        self.store = MooncakeDistributedStore()
        # "HOST" or "HOST:PORT"; an address of IPv6 with a port is in brackets.
        host, _, port = given.host.rpartition(":") if given.host.count(":") == 1 \
            or given.host.startswith("[") and not given.host.endswith("]") \
            else (given.host, "", "")
        self.bind = host.strip("[]") or "0.0.0.0"
        own = towards(given.master_server_address) if self.bind in WILDCARDS else self.bind
        own = f"[{own}]" if ":" in own else own
        self.name = f"{own}:{port}" if port else own

    def start(self) -> int:
        """Sets the store up: 0 or negative."""
        given = self.given
        return self.store.setup(self.name, given.metadata_server,
                                parse_size(given.global_segment_size),
                                parse_size(given.local_buffer_size), given.protocol,
                                given.device_names, given.master_server_address)

    def attach(self) -> Tuple[int, str, bytes]:
        """What a program needs to be a client of the same pool."""
        given = self.given
        told = {"master_server_address": given.master_server_address,
                "metadata_server": given.metadata_server, "protocol": given.protocol,
                "device_names": given.device_names, "hostname": self.store.get_hostname()}
        return 200, "application/json", json.dumps(told).encode()

    def health(self) -> Tuple[int, str, bytes]:
        """200 while the master answers, else 503."""
        code = self.store.health_check()
        told = {"status": "healthy" if code == 0 else "unhealthy", "code": code}
        return 200 if code == 0 else 503, "application/json", json.dumps(told).encode()

    def metrics(self) -> Tuple[int, str, bytes]:
        """Counters for Prometheus."""
        return 200, "text/plain; version=0.0.4", self.store._metrics_text().encode()

    def summary(self) -> Tuple[int, str, bytes]:
        """The counters that are not zero, in one line."""
        lines = [line for line in self.store._metrics_text().splitlines()
                 if line and not line.startswith("#") and not line.endswith(" 0")]
        return 200, "text/plain", (", ".join(lines) or "nothing yet").encode()


def main(argv: Optional[List[str]] = None) -> int:
    """Runs until SIGTERM or SIGINT; the exit status."""
    given = parse(sys.argv[1:] if argv is None else argv)
    if given.enable_offload or given.tenant_id != "default":
        print(f"{PROGRAM}: enable_offload and tenants are not there", file=sys.stderr)
        return 1
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    servers = []
    client = None
    try:
        client = Client(given)
        code = client.start()
        if code != 0:
            print(f"{PROGRAM}: the store cannot be set up ({code}): {mooncake.last_error()}",
                  file=sys.stderr)
            return 1
        servers.append(serve(client.bind, given.port, {"/attach": client.attach,
                                                       "/health": client.health}))
        if given.enable_http_server:
            servers.append(serve(client.bind, given.http_port, {
                "/health": client.health, "/metrics": client.metrics,
                "/metrics/summary": client.summary}))
        ports = ", ".join(str(server.port) for server in servers)
        print(f"{PROGRAM}: {client.store.get_hostname()} serves at {ports}", flush=True)
        ending.wait()
        return 0
    except (OSError, OverflowError, ValueError, TypeError) as reason:
        print(f"{PROGRAM}: {reason}", file=sys.stderr)
        return 1
    finally:
        for server in servers:
            server.end()
        if client is not None:
            client.store.close()


if __name__ == "__main__":
    sys.exit(main())
