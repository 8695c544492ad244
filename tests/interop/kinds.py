"""The kinds of engine a test can put on either side, and how a process of each is started."""

import json
import os
import pathlib
import sys

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "tests" / "peers")]

import wheels  # noqa: E402
from harness.peer import Peer  # noqa: E402
from harness.report import Skip  # noqa: E402

LOOPBACK = "127.0.0.1"


class Kind:
    """One way to run an engine; `settles_late` marks initiators whose WRITE returns early.

    Upstream over v1 reports a WRITE when the bytes have left, not when they are stored, so what the
    target holds is looked at until it is right or a deadline passes. Everybody else is held to the
    word: complete means stored.
    """

    def __init__(self, label, settles_late=False):
        self.label = label
        self.settles_late = settles_late

    def start(self, role, name=LOOPBACK, variables=None, prefix=(), **options):
        """A process with a created engine; `options` go to its create command."""
        peer = Peer(f"{self.label}-{role}", self.command(), self.environment(variables or {}),
                    prefix)
        try:
            return peer.create(name=name, **self.options(options))
        except BaseException:
            peer.stop()
            raise

    def options(self, options):
        return options


class Upstream(Kind):
    def __init__(self, label, version, variables=None, settles_late=False):
        super().__init__(label, settles_late)
        self.version = version
        self.variables = variables or {}

    def command(self):
        return [sys.executable, str(TREE / "tests" / "peers" / "upstream.py")]

    def environment(self, variables):
        # The wheel is looked for once per process; its absence is a reason to skip.
        if self.version not in PREPARED:
            try:
                PREPARED[self.version] = wheels.prepare(self.version)
            except wheels.Unavailable as reason:
                PREPARED[self.version] = Skip(f"no wheel {self.version}: {reason}")
        wheel = PREPARED[self.version]
        if isinstance(wheel, Skip):
            raise wheel
        return wheel.environment({**self.variables, **variables})


class Ours(Kind):
    def __init__(self, label, settings=None):
        super().__init__(label)
        self.settings = settings or {}

    def command(self):
        return [sys.executable, str(TREE / "tests" / "interop" / "ours.py")]

    def environment(self, variables):
        # These suites are about what goes over wires.
        return {"MC_SAME_HOST": "0", **os.environ, **variables}

    def options(self, options):
        settings = {**self.settings, **options.pop("settings", {})}
        return dict(options, json=json.dumps(settings)) if settings else options


PREPARED = {}

OURS = Ours("ours")
OURS_V1 = Ours("ours-v1", {"tcp_dialect": "v1"})
OURS_V2 = Ours("ours-v2", {"tcp_dialect": "v2"})
OLD = Upstream("0.3.7", "0.3.7.post2", settles_late=True)
NEW = Upstream("0.3.13", "0.3.13.post1")
NEW_V1 = Upstream("0.3.13-v1", "0.3.13.post1", {"MC_TCP_PROTO": "1"}, settles_late=True)
NEW_UNPOOLED = Upstream("0.3.13-unpooled", "0.3.13.post1", {"MC_TCP_ENABLE_CONNECTION_POOL": "0"})
