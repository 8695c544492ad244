"""What the groups of this suite share: engines in this process, peers beside it, memory, refusals."""

import ctypes
import os
import pathlib
import random
import subprocess
import sys

TREE = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = TREE / "python"
for folder in ("tests", "tests/peers", "tests/store"):
    sys.path.insert(0, str(TREE / folder))
sys.path.insert(0, str(PACKAGE))

import wheels  # noqa: E402
from harness.peer import Peer  # noqa: E402
from harness.report import Failed, Skip, expect  # noqa: E402

PEER = TREE / "tests" / "peers" / "upstream.py"
CHILD_SECONDS = 60
OURS = "ours"
IMPLEMENTATIONS = (OURS, *wheels.VERSIONS)


def library():
    """The library under test; children find it through the environment."""
    target = os.environ.get("CARGO_TARGET_DIR", str(TREE / "target"))
    return os.environ.setdefault("MOONCAKE_LIBRARY",
                                 os.path.join(target, "release", "libmooncake.so"))


def environment(implementation):
    """What a process needs to import this implementation of `mooncake`."""
    if implementation == OURS:
        return dict(os.environ, PYTHONPATH=str(PACKAGE))
    try:
        return wheels.prepare(implementation).environment()
    except wheels.Unavailable as reason:
        raise Skip(f"no wheel {implementation}: {reason}") from None


def peer(implementation):
    """A process with one engine of this implementation; the program is the same for all."""
    return Peer(f"python-{implementation}", [sys.executable, str(PEER)],
                environment(implementation)).create(name="127.0.0.1")


def engine(protocol="tcp"):
    """(TransferEngine, name) of ours in this process."""
    from mooncake.engine import TransferEngine
    made = TransferEngine()
    code = made.initialize("127.0.0.1", "P2PHANDSHAKE", protocol, "")
    expect(code == 0, f"initialize gave {code}: {last()}")
    return made, f"127.0.0.1:{made.get_rpc_port()}"


def last():
    import mooncake
    return mooncake.last_error()


class Memory:
    """Bytes with an address, as a tensor has them."""

    def __init__(self, length, seed=None):
        self.array = (ctypes.c_char * length)()
        self.length = length
        self.address = ctypes.addressof(self.array)
        if seed is not None:
            self.array[:] = random.Random(seed).randbytes(length)

    @property
    def bytes(self):
        return bytes(self.array)


def equal(found, wanted, what):
    expect(found == wanted, f"{what}: {found!r} instead of {wanted!r}; {last()}")


def refused(call, *arguments, name="", **named):
    """The call must raise a TypeError that names the argument."""
    try:
        found = call(*arguments, **named)
    except TypeError as error:
        expect(name in str(error), f"the TypeError does not name {name}: {error}")
        return
    raise Failed(f"{arguments} {named} gave {found!r} instead of a TypeError")


def child(program, status=0, **extra):
    """Runs a program in an interpreter of its own; what it printed."""
    done = subprocess.run([sys.executable, "-c", program], env=dict(environment(OURS), **extra),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=CHILD_SECONDS, check=False)
    expect(done.returncode == status, f"status {done.returncode}: {(done.stdout + done.stderr)[-400:]}")
    return done.stdout.strip()
