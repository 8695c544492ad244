"""Metadata services as processes of a test: on a free port, in a folder of their own, ended by pid.

A service is killed and resumed at one place, as an operator's would be. What cannot run here raises
`Skip` with the reason. The programs of this tree come from the folder of the library under test.
"""

import base64
import concurrent.futures
import ctypes
import json
import os
import pathlib
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import kinds
from harness.ports import free_port
from harness.report import Skip

START_SECONDS = 60
CALL_SECONDS = 10
PR_SET_PDEATHSIG = 1
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def enter(namespace):
    """Moves the calling thread into a network namespace made by `ip netns add`."""
    with open(f"/var/run/netns/{namespace}", "rb") as handle:
        if LIBC.setns(handle.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the namespace {namespace}")


def bracketed(host):
    return f"[{host}]" if ":" in host else host


class Service:
    """A running metadata service; `with` ends it. `prefix` puts it into a network namespace."""

    scheme = ""
    path = ""

    def __init__(self, host="127.0.0.1", prefix=(), port=None):
        self.host = host
        self.prefix = tuple(prefix)
        # In a namespace of its own every port is free.
        self.port = port or free_port(host)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mooncake-service-"))
        self.process = None

    def __enter__(self):
        try:
            self.resume()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self):
        """The command, and variables beyond this process's own."""
        raise NotImplementedError

    @property
    def place(self):
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def url(self):
        """What engines are configured with."""
        return f"{self.scheme}://{self.place}{self.path}"

    def resume(self):
        command, environment = self.command()
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *command], env=environment, cwd=self.folder, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
        deadline = time.monotonic() + START_SECONDS
        while not self.listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = (self.folder / "log").read_text(errors="replace")[-600:]
                raise RuntimeError(f"{command[0]} does not serve at {self.place}: {tail}")
            time.sleep(0.02)

    def listens(self):
        try:
            self.near(socket.create_connection, (self.host, self.port), CALL_SECONDS).close()
            return True
        except OSError:
            return False

    def near(self, call, *arguments):
        """What `call` gives where the service is: in its network namespace, if it has one."""
        if not self.prefix:
            return call(*arguments)
        # A namespace belongs to a thread, so one that ends with the call leaves nothing behind.
        with concurrent.futures.ThreadPoolExecutor(1, initializer=enter,
                                                   initargs=(self.prefix[-1],)) as pool:
            return pool.submit(call, *arguments).result(2 * CALL_SECONDS)

    def kill(self):
        """SIGKILL, as a crash."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def get(self, key):
        """The bytes under `key`, asked for without our own client; None where there are none."""
        return self.near(self.ask, key)

    def ask(self, key):
        raise NotImplementedError


class Http(Service):
    scheme = "http"
    path = "/metadata"
    ends_with_newline = False

    def ask(self, key):
        escaped = "".join(c if c.isalnum() or c in "-._~" else f"%{ord(c):02X}" for c in key)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}?key={escaped}", timeout=CALL_SECONDS) as reply:
                return reply.read()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise


class OwnHttp(Http):
    """`mooncake_http_metadata_server` of this tree."""

    label = "http"

    def command(self):
        target = os.environ.get("CARGO_TARGET_DIR", str(kinds.TREE / "target"))
        program = os.path.join(target, "release", "mooncake_http_metadata_server")
        if not os.path.exists(program):
            raise Skip(f"{program} is not built")
        return [program, "--host", self.host, "--port", str(self.port)], dict(os.environ)


class UpstreamHttp(Http):
    """The metadata server in one of upstream's wheels."""

    version = ""

    def command(self):
        try:
            return kinds.wheels.http_metadata_server(self.version, self.host, self.port)
        except kinds.wheels.Unavailable as reason:
            raise Skip(f"no upstream HTTP server {self.version}: {reason}") from None


class OldHttp(UpstreamHttp):
    label = "http-0.3.7"
    version = "0.3.7.post2"


class NewHttp(UpstreamHttp):
    label = "http-0.3.13"
    version = "0.3.13.post1"


class Etcd(Service):
    label = "etcd"
    scheme = "etcd"
    ends_with_newline = True

    def command(self):
        require("etcd")
        client, peer = f"http://{self.place}", f"http://{bracketed(self.host)}:{self.peer_port()}"
        command = ["etcd", "--name=one", f"--data-dir={self.folder / 'data'}",
                   f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
                   f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                   f"--initial-cluster=one={peer}", "--log-level=warn"]
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
        return command, dict(os.environ, ETCD_UNSUPPORTED_ARCH=machine)

    def peer_port(self):
        if self.prefix:
            return self.port + 1
        if not hasattr(self, "peer"):
            self.peer = free_port(self.host)
        return self.peer

    def ask(self, key):
        body = json.dumps({"key": base64.b64encode(key.encode()).decode()}).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.place}/v3/kv/range", body, timeout=CALL_SECONDS) as reply:
            found = json.load(reply).get("kvs", [])
        return base64.b64decode(found[0]["value"]) if found else None


class Redis(Service):
    label = "redis"
    scheme = "redis"
    ends_with_newline = True

    def command(self):
        require("redis-server")
        return ["redis-server", "--bind", self.host, "--port", str(self.port), "--save", "",
                "--appendonly", "no", "--protected-mode", "no"], dict(os.environ)

    def ask(self, key):
        name = key.encode()
        with socket.create_connection((self.host, self.port), CALL_SECONDS) as connection:
            connection.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(name), name))
            reply = connection.makefile("rb")
            length = int(reply.readline()[1:])
            return None if length < 0 else reply.read(length)


def require(program):
    if shutil.which(program) is None:
        raise Skip(f"the program {program} is not installed")
