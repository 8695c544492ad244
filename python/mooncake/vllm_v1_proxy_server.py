"""A proxy in front of prefill and decode instances of a model server.

    python -m mooncake.vllm_v1_proxy_server --port 8000 --prefill http://HOST:PORT ... \\
        --decode http://HOST:PORT ...

POST /v1/completions and /v1/chat/completions go to a prefill instance first, with one token, and
then to a decode instance whose answer is passed through as it comes; both in turn. An instance that
does not answer is left out for a while and tried again. GET /status tells the instances; POST
/instances/add {"type": "prefill"|"decode", "instance": "HOST:PORT"} adds one, under the header
X-API-Key, whose value is the variable ADMIN_API_KEY; without that variable nothing can be added.

Only the interpreter is needed. Requests run in threads of their own.
"""

import argparse
import hmac
import http.client
import itertools
import json
import os
import signal
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import List, Optional
from urllib.parse import urlsplit

PATHS = ("/v1/completions", "/v1/chat/completions")
KINDS = ("prefill", "decode")
BODY_BYTES_MAX = 64 << 20
PIECE_BYTES = 16 << 10
CONNECT_SECONDS = 5
ANSWER_SECONDS = 6 * 3600
IDLE_SECONDS = 60
# How long an instance that failed is left out, if there are others.
PAUSE_SECONDS = 5
INSTANCES_MAX = 1024


class Unreachable(Exception):
    """No instance of a kind answers."""


class Instance:
    """One model server."""

    def __init__(self, address):
        address = address if "://" in address else f"http://{address}"
        parts = urlsplit(address)
        if parts.scheme != "http" or not parts.hostname or not parts.port:
            raise ValueError(f"{address}: http://HOST:PORT expected")
        self.host, self.port = parts.hostname, parts.port
        self.name = parts.netloc
        self.down_until = 0.0
        self.served = self.failed = 0

    def post(self, path, body, headers):
        """(connection, answer); OSError or HTTPException when it is not there."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=CONNECT_SECONDS)
        try:
            connection.connect()
            connection.sock.settimeout(ANSWER_SECONDS)
            connection.request("POST", path, body, headers)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise


class Pool:
    """The instances of one kind, in turn."""

    def __init__(self, kind, addresses):
        self.kind = kind
        self.instances = [Instance(address) for address in addresses]
        self.turn = itertools.count()
        self.lock = threading.Lock()

    def add(self, address):
        """False when it is there already."""
        fresh = Instance(address)
        with self.lock:
            if any(one.name == fresh.name for one in self.instances):
                return False
            if len(self.instances) >= INSTANCES_MAX:
                raise ValueError("too many instances")
            self.instances.append(fresh)
        return True

    def order(self):
        """All instances, the one whose turn it is first, those that failed just now last."""
        with self.lock:
            known = list(self.instances)
        if not known:
            return []
        start, now = next(self.turn) % len(known), time.monotonic()
        turned = known[start:] + known[:start]
        return sorted(turned, key=lambda one: one.down_until > now)

    def post(self, path, body, headers):
        """(instance, connection, answer) of the first that takes the request."""
        reasons = []
        for instance in self.order():
            try:
                connection, answer = instance.post(path, body, headers)
            except (OSError, http.client.HTTPException) as reason:
                with self.lock:
                    instance.failed += 1
                instance.down_until = time.monotonic() + PAUSE_SECONDS
                reasons.append(f"{instance.name}: {reason}")
                continue
            instance.down_until = 0.0
            with self.lock:
                instance.served += 1
            return instance, connection, answer
        raise Unreachable(f"no {self.kind} instance answers ({'; '.join(reasons) or 'none known'})")

    def status(self):
        now = time.monotonic()
        return [{"instance": one.name, "up": one.down_until <= now, "served": one.served,
                 "failed": one.failed} for one in list(self.instances)]


class Handler(BaseHTTPRequestHandler):
    """One connection of a user."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def log_message(self, *_):
        """Nothing is written for a request."""

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path != "/status":
            self.answer(404, {"error": "no such path"})
            return
        pools = self.server.pools
        self.answer(200, {f"{kind}_{what}": value for kind in KINDS for what, value in (
            ("node_count", len(pools[kind].instances)), ("nodes", pools[kind].status()))})

    def body(self):
        """The JSON object of a request; None when it was refused."""
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            length = -1
        if not 0 <= length <= BODY_BYTES_MAX:
            self.close_connection = True
            self.answer(413, {"error": "a body with its length expected"})
            return None
        try:
            found = json.loads(self.rfile.read(length))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            self.answer(400, {"error": "a JSON object expected"})
            return None
        return found

    def do_POST(self):
        found = self.body()
        if found is None:
            return
        if self.path == "/instances/add":
            self.add(found)
        elif self.path in PATHS:
            self.complete(found)
        else:
            self.answer(404, {"error": "no such path"})

    def add(self, found):
        wanted = self.server.admin_key
        given = self.headers.get("X-API-Key", "")
        if not wanted or not hmac.compare_digest(given.encode(), wanted.encode()):
            self.answer(403, {"error": "X-API-Key is not right"})
            return
        kind, address = found.get("type"), found.get("instance")
        if kind not in KINDS or not isinstance(address, str):
            self.answer(400, {"error": 'a "type" of prefill or decode, and an "instance"'})
            return
        try:
            fresh = self.server.pools[kind].add(address)
        except ValueError as reason:
            self.answer(400, {"error": str(reason)})
            return
        self.answer(200, {"message": f"{kind} {address} " + ("added" if fresh else "is known")})

    def complete(self, request):
        pools = self.server.pools
        headers = {"Content-Type": "application/json", "X-Request-Id": str(uuid.uuid4())}
        if "Authorization" in self.headers:
            headers["Authorization"] = self.headers["Authorization"]
        try:
            decoding = self.prefill(pools["prefill"], request, headers)
            if decoding is None:
                return
            _, connection, answer = pools["decode"].post(self.path, json.dumps(decoding).encode(),
                                                         headers)
        except Unreachable as reason:
            self.answer(503, {"error": str(reason)})
            return
        try:
            self.pass_on(answer)
        finally:
            connection.close()

    def prefill(self, pool, request, headers):
        """What the decode instance is asked; None when the user has an answer already."""
        first = dict(request, stream=False, max_tokens=1, kv_transfer_params={
            "do_remote_decode": True, "do_remote_prefill": False, "remote_engine_id": None,
            "remote_block_ids": None, "remote_host": None, "remote_port": None})
        first.pop("stream_options", None)
        if "max_completion_tokens" in first:
            first["max_completion_tokens"] = 1
        _, connection, answer = pool.post(self.path, json.dumps(first).encode(), headers)
        try:
            if answer.status != 200:
                self.pass_on(answer)
                return None
            found = json.loads(answer.read(BODY_BYTES_MAX))
        except (OSError, ValueError, http.client.HTTPException) as reason:
            raise Unreachable(f"the prefill instance broke off: {reason}") from None
        finally:
            connection.close()
        params = found.get("kv_transfer_params") if isinstance(found, dict) else None
        return dict(request, kv_transfer_params=params) if params else dict(request)

    def pass_on(self, answer):
        """Hands an answer on piece by piece, as it comes."""
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while piece := answer.read1(PIECE_BYTES):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except (OSError, http.client.HTTPException):
            # One of both sides has gone; without the last chunk the user sees that.
            self.close_connection = True


class Proxy(ThreadingHTTPServer):
    """The proxy with its instances."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address, prefill, decode, admin_key=None):
        self.pools = {"prefill": Pool("prefill", prefill), "decode": Pool("decode", decode)}
        self.admin_key = admin_key
        super().__init__(address, Handler)


def arguments():
    parser = argparse.ArgumentParser(prog="vllm_v1_proxy_server",
                                     description="A proxy for prefill and decode instances.")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=8000)
    # The second spelling is that of vllm-ascend's proxies.
    for kind, actor in zip(KINDS, ("prefiller", "decoder")):
        parser.add_argument(f"-{kind[0]}", f"--{kind}", nargs="*", default=[], metavar="URL")
        parser.add_argument(f"--{actor}-hosts", nargs="*", default=[], metavar="HOST",
                            dest=f"{kind}_hosts")
        parser.add_argument(f"--{actor}-ports", nargs="*", type=int, default=[], metavar="PORT",
                            dest=f"{kind}_ports")
    parser.add_argument("--model", help="accepted; the instances know their model")
    parser.add_argument("--scheduling", choices=["round_robin"], default="round_robin")
    return parser


def instances(given: argparse.Namespace, kind: str) -> List[str]:
    """The addresses of a kind, however they were given."""
    hosts, ports = getattr(given, f"{kind}_hosts"), getattr(given, f"{kind}_ports")
    if len(hosts) != len(ports):
        raise ValueError(f"{len(hosts)} hosts and {len(ports)} ports of {kind} instances")
    named = [f"[{host}]" if ":" in host and not host.startswith("[") else host for host in hosts]
    listed: List[str] = getattr(given, kind)
    return listed + [f"{host}:{port}" for host, port in zip(named, ports)]


def main(argv: Optional[List[str]] = None) -> int:
    """Serves until SIGTERM or SIGINT; the exit status."""
    given = arguments().parse_args(argv)
    try:
        proxy = Proxy((given.host, given.port), *(instances(given, kind) for kind in KINDS),
                      admin_key=os.environ.get("ADMIN_API_KEY"))
    except (OSError, OverflowError, ValueError) as reason:
        print(f"cannot serve: {reason}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=proxy.shutdown).start())
    print(f"serving at {given.host}:{proxy.server_address[1]}", flush=True)
    proxy.serve_forever()
    proxy.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
