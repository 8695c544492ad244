"""Masters for the store suites: upstream's of the wheel, and ours of this tree."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "tests" / "peers")]

import wheels  # noqa: E402
from harness.ports import free_port  # noqa: E402
from harness.report import Failed, Skip  # noqa: E402

LOGS = TREE / "build" / "peer-logs"
START_SECONDS = 20
OLD = "0.3.7.post2"


def wheel():
    """The upstream wheel, looked for once; without it the test is skipped."""
    if "wheel" not in PREPARED:
        try:
            PREPARED["wheel"] = wheels.prepare(OLD)
        except wheels.Unavailable as reason:
            PREPARED["wheel"] = Skip(f"no wheel {OLD}: {reason}")
    if isinstance(PREPARED["wheel"], Skip):
        raise PREPARED["wheel"]
    return PREPARED["wheel"]


PREPARED = {}


class Master:
    """One master process on ports of its own; use it in a `with` statement."""

    def __init__(self, kind, prefix=(), label=None, **flags):
        self.kind = kind
        self.log_path = LOGS / f"master-{label or kind}.{os.getpid()}.log"
        self.prefix = prefix
        self.port, self.http_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.flags = {"default_kv_lease_ttl": 300, **flags}
        self.folder = None
        if kind == "ours" and not {"enable_journal", "data_dir"} & set(flags):
            self.folder = tempfile.mkdtemp(prefix="mooncake-master-")
            self.flags["data_dir"] = self.folder
        self.process = None

    def command(self):
        if self.kind == "upstream":
            program = wheel().folder / "mooncake" / "mooncake_master"
            program.chmod(0o755)
        else:
            program = our_program()
        given = {"rpc_port": self.port, "metrics_port": self.http_port, **self.flags}
        return [*self.prefix, str(program), *[f"--{name}={value}" for name, value in given.items()]]

    def start(self):
        LOGS.mkdir(parents=True, exist_ok=True)
        environment = wheel().environment() if self.kind == "upstream" else dict(os.environ)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), env=environment, stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Failed(f"the {self.kind} master ended with {self.process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.02)
        raise Failed(f"the {self.kind} master does not listen")

    def get(self, path):
        url = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode("utf-8", "replace")

    def metric(self, name):
        """The value of one metric without labels."""
        for line in self.get("/metrics").splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise Failed(f"no metric {name}")

    def kill(self):
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def our_program():
    target = os.environ.get("CARGO_TARGET_DIR", str(TREE / "target"))
    program = pathlib.Path(os.environ.get("MOONCAKE_MASTER", pathlib.Path(target) / "release" /
                                          "mooncake_master"))
    if not program.exists():
        raise Skip("mooncake_master was not built")
    return program
