"""The processes of a fault run: a master, providers, writers, readers; what can be done to them, and
what must hold when nothing is done to them any more.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

import masters
from fault_value import LEAST_BYTES, Board
from harness.peer import Peer, PeerFailed
from harness.report import expect

TREE = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
LEASE_MS = 250
CLIENT_TTL_SECONDS = 2
# An unfinished put of which nobody says any more how it ended.
RELEASE_SECONDS = 8
TRANSFER_MS, MASTER_MS = 4000, 1500
# A put: the question, the transfers, a second try, the word about it. Then the slack of a machine
# that does much else.
CALL_SECONDS = 3 * MASTER_MS / 1000 + 2 * TRANSFER_MS / 1000 + 2 + 15
CLOSE_SECONDS = 5 + 15
HEAL_SECONDS = 40
LOCAL_BUFFER = 48 * MIB


class Actor:
    """A worker process, which may be replaced by another one after a death."""

    def __init__(self, world, number, label, kind="ours", segment=0, prefix=(), host=None):
        self.world, self.number, self.label, self.kind = world, number, label, kind
        self.segment, self.prefix, self.host = segment, prefix, host or world.host
        self.role = None
        self.peer = None
        self.frozen_at = None
        # When it did not run, through no fault of its own.
        self.frozen = []
        self.is_away = False

    def start(self):
        kind = self.kind
        environment = masters.wheel().environment() if kind == "upstream" else dict(os.environ)
        command = [sys.executable, str(TREE / "tests" / "store" / "fault_worker.py"), kind,
                   str(self.number), self.world.board.path, str(self.world.board.keys)]
        self.peer = Peer(f"fault-{self.label}", command, environment, self.prefix)
        options = {"host": self.host, "master": self.world.address, "segment": self.segment,
                   "local_buffer": LOCAL_BUFFER}
        if kind == "ours":
            options["json"] = json.dumps({"transfer_timeout_ms": self.world.transfer_ms,
                                          "store_master_timeout_ms": MASTER_MS})
        return options

    def begin(self):
        """Starts it, sets it up, and gives it the work that it had before."""
        try:
            answer = self.peer_call("setup", CALL_SECONDS, **self.start())
            expect(answer["code"] == 0, f"setup of {self.label}: {answer['code']}")
        except PeerFailed:
            self.peer.stop()
            raise
        self.is_away = False
        if self.role:
            self.run(**self.role)
        return self

    def run(self, role, seed, **options):
        self.role = dict(options, role=role, seed=seed + 1)
        self.peer_call("run", role=role, seed=seed, **options)

    def peer_call(self, what, seconds=CALL_SECONDS, **arguments):
        return self.peer.call(what, seconds, **arguments)

    def kill(self):
        self.is_away = True
        self.peer.kill()
        self.peer.stop()
        # It died in a call; that one has no end.
        self.world.board.leave(self.number)

    def freeze(self):
        if self.frozen_at is None:
            self.frozen_at = time.monotonic()
            self.signal(signal.SIGSTOP)

    def thaw(self):
        if self.frozen_at is not None:
            self.signal(signal.SIGCONT)
            self.frozen.append((self.frozen_at, time.monotonic()))
            self.frozen_at = None

    def signal(self, number):
        try:
            os.killpg(self.peer.process.pid, number)
        except ProcessLookupError:
            pass

    def frozen_seconds(self, start, end):
        """How much of that time it was not allowed to run."""
        running = [(self.frozen_at, time.monotonic())] if self.frozen_at else []
        return sum(max(0, min(end, until) - max(start, since))
                   for since, until in self.frozen + running)


class World:
    """A master and its clients; use it in a `with` statement."""

    def __init__(self, seed, keys=120, size_max=MIB, journal=True, transfer_ms=TRANSFER_MS,
                 lease_ms=LEASE_MS, host="127.0.0.1", release_seconds=RELEASE_SECONDS, **flags):
        self.seed, self.host = seed, host
        self.rng = random.Random(seed)
        self.size_max, self.transfer_ms = size_max, transfer_ms
        if not journal:
            flags["enable_journal"] = "false"
        self.journal = journal
        self.folder = tempfile.mkdtemp(prefix="mooncake-faults-")
        self.board = Board(pathlib.Path(self.folder) / "board", keys, create=True)
        self.master = masters.Master(
            "ours", default_kv_lease_ttl=lease_ms, client_ttl=CLIENT_TTL_SECONDS,
            put_start_discard_timeout_sec=release_seconds,
            put_start_release_timeout_sec=release_seconds, **flags)
        self.master_is_away = False
        self.actors = []
        self.events = []
        self.started = time.monotonic()

    def __enter__(self):
        self.master.start()
        return self

    def __exit__(self, *_):
        for actor in self.actors:
            actor.thaw()
        self.master_signal(signal.SIGCONT)
        for actor in self.actors:
            if actor.peer:
                actor.peer.kill()
                actor.peer.stop()
        self.master.__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self):
        return f"{self.host}:{self.master.port}"

    def log(self, text):
        self.events.append(f"{time.monotonic() - self.started:.2f} {text}")

    def add(self, label, **options):
        actor = Actor(self, len(self.actors), label, **options)
        self.actors.append(actor)
        actor.begin()
        return actor

    def providers(self, count, segment, **options):
        return [self.add(f"provider{index}", segment=segment, **options)
                for index in range(count)]

    def writer(self, label, first, keys, copies_max=2, sizes=None, **options):
        actor = self.add(label, **options)
        size_min, size_max = sizes or (LEAST_BYTES, self.size_max)
        actor.run("write", self.rng.getrandbits(32), first=first, keys=keys, size_min=size_min,
                  size_max=size_max, copies_max=copies_max)
        return actor

    def reader(self, label, first=0, checked=True, **options):
        """Reads the keys from `first` on."""
        actor = self.add(label, **options)
        actor.run("read", self.rng.getrandbits(32), keys=self.board.keys, first=first,
                  checked=checked, size_max=self.size_max)
        return actor

    # What is done to the master.

    def kill_master(self):
        if not self.journal:
            self.board.forget()
            time.sleep(0.05)
        self.master_is_away = True
        self.master.kill()

    def start_master(self):
        self.master.start()
        self.master_is_away = False

    def master_signal(self, number):
        if self.master.process and self.master.process.poll() is None:
            os.killpg(self.master.process.pid, number)

    def master_freeze(self):
        self.master_is_away = True
        self.master_signal(signal.SIGSTOP)

    def master_thaw(self):
        self.master_signal(signal.SIGCONT)
        self.master_is_away = False

    # What must hold.

    def look_for_hangs(self):
        """A call of a process that runs is over within its time."""
        now = time.monotonic()
        for actor in self.actors:
            since = self.board.inside_since(actor.number) / 1e9
            if since == 0:
                continue
            took = now - since - actor.frozen_seconds(since, now)
            self.expect(took < CALL_SECONDS, f"{actor.label} is in a call for {took:.1f} s")

    def check(self, actor, report):
        self.expect(not report["wrong"], f"{actor.label} read wrong bytes: {report['wrong'][:3]}")
        self.expect(not report["errors"], f"{actor.label}: {report['errors'][:3]}")
        for what, start, end in report["slow"]:
            took = end - start - actor.frozen_seconds(start, end)
            self.expect(took < CALL_SECONDS, f"{actor.label}: {what} took {took:.1f} s")

    def expect(self, condition, text):
        if not condition:
            moments = " | ".join(self.events)
            expect(False, f"{text}; MOONCAKE_TEST_SEED={self.seed}; at "
                          f"{time.monotonic() - self.started:.2f}; {moments}")

    def watch(self, seconds):
        """Lets it run; looks for hangs meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
            self.look_for_hangs()

    def settle(self):
        """No more faults: loops end, new objects are put and read by everybody, the books are
        right, everything closes and leaves nothing behind. Returns what was counted."""
        self.log("no more faults")
        counts = {}
        for actor in self.actors:
            actor.thaw()
        for actor in self.actors:
            if not actor.role:
                continue
            report = actor.peer_call("halt", CALL_SECONDS + 60)
            self.check(actor, report)
            actor.role = None
            for name, count in report["counts"].items():
                counts[name] = counts.get(name, 0) + count
        began = time.monotonic()
        for actor in self.actors:
            key = f"{actor.label}-{self.rng.getrandbits(32)}"
            answer = actor.peer_call("probe", 2 * HEAL_SECONDS, key=key, within=HEAL_SECONDS)
            self.expect(answer["seconds"] is not None,
                        f"{actor.label} cannot put after the faults: {answer}")
            for other in self.actors:
                code = other.peer_call("get_probe", 2 * HEAL_SECONDS, key=key,
                                       within=HEAL_SECONDS)["code"]
                self.expect(code == 0, f"{other.label} reads what {actor.label} put: {code}")
        counts["heal_ms"] = int(1000 * (time.monotonic() - began))
        self.check_books()
        for actor in self.actors:
            self.close(actor)
        return counts

    def close(self, actor):
        answer = actor.peer_call("close", CLOSE_SECONDS + 10)
        self.expect(answer["seconds"] < CLOSE_SECONDS,
                    f"{actor.label} took {answer['seconds']:.1f} s to close")
        if actor.kind == "ours":
            self.expect(answer["after"] == answer["before"],
                        f"{actor.label} leaves threads or descriptors: {answer}")

    def check_books(self):
        """The master counts as allocated what the copies of its objects take."""
        end = time.monotonic() + HEAL_SECONDS
        while True:
            allocated = self.master.metric("master_allocated_bytes")
            living = self.living_bytes()
            if living == allocated == self.master.metric("master_allocated_bytes"):
                return
            if time.monotonic() > end:
                self.expect(False, f"{allocated} bytes allocated, {living} in living objects")
            time.sleep(0.1)

    def living_bytes(self):
        keys = self.master.get("/get_all_keys").split()
        total = 0
        for at in range(0, len(keys), 50):
            text = self.master.get("/batch_query_keys?keys=" + ",".join(keys[at:at + 50]))
            total += sum(int(size) for size in sizes_in(json.loads(text)))
        return total


def sizes_in(value):
    """Every `size_` of a JSON value: one for each range of each copy."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name == "size_":
                yield part
            else:
                yield from sizes_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from sizes_in(part)
