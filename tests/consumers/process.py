"""A consumer's process seen from the suite, with one implementation of `mooncake` in it."""

import os
import random
import sys
import time
import zlib

import common
import packages
import wheels
from harness.peer import Peer
from harness.report import Skip, expect
from masters import OLD, Master

CHILD = common.TREE / "tests" / "consumers" / "child.py"


class Cast:
    """Which implementation of `mooncake` each of two processes has."""

    def __init__(self, one, other):
        self.one, self.other = one, other
        self.kinds = {one, other}
        # What 0.3.7 cannot do is asked of others only.
        self.old = OLD in self.kinds

    @property
    def name(self):
        return self.one if self.one == self.other else f"{self.one}_to_{self.other}"

    def only(self, kind, reason):
        """Skips what cannot be between others."""
        if self.kinds != {kind}:
            raise Skip(reason)

    def without(self, kind, reason):
        """Skips what this implementation of upstream does not do."""
        if kind in self.kinds:
            raise Skip(f"{kind}: {reason}")


class Consumer(Peer):
    """One process; `ask` makes one call of its side and gives the result."""

    def __init__(self, side, name, version, kind, **variables):
        if sys.version_info < (3, 10):
            raise Skip("serving engines need Python 3.10")
        environment = common.environment(kind)
        try:
            folder, libraries = packages.folder_of(name, version), packages.libraries()
        except wheels.Unavailable as reason:
            raise Skip(f"no {name} {version}: {reason}") from None
        if kind != common.OURS:
            # Some engines ask for `rdma` in any case, which upstream would use where there is an adapter.
            environment["MC_FORCE_TCP"] = "1"
        environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(libraries)])
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        environment.update(variables)
        super().__init__(f"consumer-{name}-{version}-{kind}",
                         [sys.executable, str(CHILD), side, str(folder), version], environment)

    def ask(self, what, seconds=60, **arguments):
        return self.call(what, seconds, **arguments)["found"]

    def check(self, what, wanted, **arguments):
        """The call must give this."""
        found = self.ask(what, **arguments)
        expect(found == wanted, f"{what} gave {found!r} instead of {wanted!r}")


def checksum(length, seed):
    """What a side says of a tensor filled from this seed."""
    return [length, zlib.crc32(random.Random(seed).randbytes(length))]


def arrived(look, wanted, cast, what="the bytes differ"):
    """Compares; 0.3.7 says a write is done before its bytes are there, and only it gets a moment."""
    for _ in range(200 if cast.old else 0):
        if look() == wanted:
            return
        time.sleep(0.02)
    found = look()
    expect(found == wanted, f"{what}: {str(found)[:200]} instead of {str(wanted)[:200]}")


class NewMaster(Master):
    """The master of the wheel of 0.3.13, whose clients need it."""

    def command(self):
        try:
            program = wheels.prepare(self.kind).folder / "mooncake" / "mooncake_master"
        except wheels.Unavailable as reason:
            raise Skip(f"no wheel {self.kind}: {reason}") from None
        program.chmod(0o755)
        given = {"rpc_port": self.port, "metrics_port": self.http_port, **self.flags}
        return [str(program), *[f"--{name}={value}" for name, value in given.items()]]


def master(cast):
    """A master that both know: ours, if no process is upstream's."""
    if cast.kinds == {common.OURS}:
        return Master("ours")
    return Master("upstream") if cast.old else NewMaster(cast.one)
