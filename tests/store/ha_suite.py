#!/usr/bin/env python3
"""Masters that elect a leader in etcd, and their clients: ours, upstream's, and both at once.

    ha_suite.py [WORD...]    only the tests whose name contains one of the words

The tests wait for leases most of the time, so they run side by side: one etcd for all, in which each
test has a name of its own for its group of masters.
"""

import concurrent.futures
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "tests" / "store"), str(TREE / "tests" / "interop")]

import masters  # noqa: E402
from client_suite import EXISTS, NO_MASTER, driver_target, eventually, look, same  # noqa: E402
from harness.peer import Peer, PeerFailed  # noqa: E402
from harness.report import Report, expect  # noqa: E402
from services import Etcd  # noqa: E402

MIB = 1 << 20
SEGMENT = 32 * MIB
# The shortest that etcd has; upstream's is fixed.
LEASE_SECONDS, UPSTREAM_LEASE_SECONDS = 2, 5
SIDE_BY_SIDE = 6
ROUNDS = 30 if os.environ.get("MOONCAKE_TEST_LONG") else 3
OBJECTS = 200


class Group:
    """The masters of one test, which share a name in etcd."""

    def __init__(self, name, etcd):
        self.name, self.etcd = name, etcd
        self.members = []

    @property
    def address(self):
        """What clients are given."""
        return self.etcd.url

    @property
    def key(self):
        return f"mooncake-store/{self.name}/master_view"

    def environment(self):
        return {"MC_STORE_CLUSTER_ID": self.name}

    def leader_address(self):
        found = self.etcd.get(self.key)
        return found.decode() if found else None

    def master(self, kind, **flags):
        member = Member(kind, self, **flags)
        self.members.append(member)
        return member.start()

    def leader(self, seconds=30):
        """The member that serves now."""
        found = []

        def serves():
            address = self.leader_address()
            found[:] = [m for m in self.members if m.address == address and m.listens()]
            return bool(found)

        eventually("somebody leads", serves, seconds)
        return found[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for member in self.members:
            member.kill()


class Member(masters.Master):
    """One master of a group; it listens only while it leads."""

    def __init__(self, kind, group, **flags):
        self.group = group
        flags = {"enable_ha": "true", "etcd_endpoints": group.etcd.place,
                 "rpc_address": "127.0.0.1", **flags}
        if kind == "ours":
            flags = {"ha_lease_ttl_sec": LEASE_SECONDS, "enable_journal": "false", **flags}
        super().__init__(kind, **flags)

    def start(self):
        masters.LOGS.mkdir(parents=True, exist_ok=True)
        upstream = self.kind == "upstream"
        environment = masters.wheel().environment() if upstream else dict(os.environ)
        environment.update(self.group.environment())
        self.log = masters.LOGS / f"ha-{self.group.name}-{self.port}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True)
        return self

    def listens(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        except OSError:
            return False

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
        super().kill()

    def wait(self, seconds=15):
        """The status with which it ends by itself."""
        return self.process.wait(seconds)


def client(kind, group, role, segment=SEGMENT, master=None):
    """A process with a client that is set up over the group."""
    environment = masters.wheel().environment() if kind == "upstream" else dict(os.environ)
    environment.update(group.environment())
    command = [sys.executable, str(TREE / "tests" / "store" / "driver.py"), kind]
    peer = Peer(f"ha-{group.name}-{kind}-{role}", command, environment)
    try:
        answer = peer.call("setup", host="127.0.0.1", master=master or group.address,
                           segment=segment, local_buffer=SEGMENT)
        same(answer["code"], 0, f"setup of {role}")
        return peer
    except BaseException:
        peer.stop()
        raise


def put(peer, key, seed=1, length=5000):
    return peer.call("put", key=key, seed=seed, length=length)["code"]


def puts_work(peer, key, seconds=30):
    eventually(f"puts work, of {key}", lambda: put(peer, key) in (0, EXISTS), seconds)


def churn(peer, prefix, seed):
    codes = peer.call("churn", prefix=prefix, count=OBJECTS, length=900, seed=seed)["codes"]
    same(sorted(set(codes)), [0], f"puts of {prefix}")


def survey(peer, prefix, seed):
    return peer.call("survey", prefix=prefix, count=OBJECTS, length=900, seed=seed)


def all_back(peer, prefix, seed):
    """Every object is there again, and at no moment any other bytes."""
    def back():
        found = survey(peer, prefix, seed)
        same(found["wrong"], 0, f"bytes of {prefix}")
        return found["right"] == OBJECTS

    eventually(f"all of {prefix} are back", back)


def held(peer, count):
    eventually("the holder knows",
               lambda: peer.call("health")["health"]["held"] == count)


def killed_under_load(group):
    """kill -9 of the leader while puts run: the cache is there again, and puts work."""
    one, two = group.master("ours"), group.master("ours")
    leader = group.leader()
    other = two if leader is one else one
    with client("ours", group, "holder") as holder, client("ours", group, "writer", 0) as writer:
        churn(writer, "k", 9)
        held(holder, OBJECTS)
        writer.send("churn", prefix="load", count=20 * OBJECTS, length=900, seed=11)
        eventually("puts run", lambda: holder.call("exists", keys=["load50"])["codes"] == [1])
        leader.kill()
        killed = time.monotonic()
        puts_work(holder, "x")
        back = time.monotonic() - killed
        writer.kill()
        all_back(holder, "k", 9)
        same(survey(holder, "load", 11)["wrong"], 0, "bytes of the load")
        expect(group.leader() is other, "the standby leads")
        return f"puts work after {back:.1f} s, with a lease of {LEASE_SECONDS} s"


def files(group):
    """Leader and holder die: the new leader finds the objects in their files, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="mooncake-ha-files-") as root:
        one, two = (group.master("ours", root_fs_dir=root) for _ in range(2))
        leader = group.leader()
        other = two if leader is one else one
        with client("ours", group, "holder") as holder, client("ours", group, "writer", 0) as writer:
            churn(writer, "k", 9)
            eventually("the files are written",
                       lambda: leader.metric("master_put_end_requests_total") >= OBJECTS)
            same(writer.call("remove", key="k0")["code"], 0, "remove")
            found = sorted(pathlib.Path(root).rglob("k*.*"))
            eventually("its file goes", lambda: len(sorted(pathlib.Path(root).rglob("k*.*"))) == OBJECTS - 1)
            torn = next(path for path in found if path.name.startswith("k1."))
            changed = bytearray(torn.read_bytes())
            changed[100] ^= 1
            torn.write_bytes(changed)
            holder.kill()
            leader.kill()
            killed = time.monotonic()

            def back():
                seen = survey(writer, "k", 9)
                same(seen["wrong"], 0, "bytes")
                return seen["right"] == OBJECTS - 2

            eventually("all whole ones are back", back)
            took = time.monotonic() - killed
            expect(group.leader() is other, "the standby leads")
            same(other.metric("mooncake_master_revived_files_total"), OBJECTS - 1, "files taken over")
            same(writer.call("exists", keys=["k0", "k2"])["codes"], [0, 1], "the removed one, and another")
            with client("ours", group, "next"):
                same(put(writer, "k2"), EXISTS, "a put of what is there")
                puts_work(writer, "x")
            same(len(sorted(pathlib.Path(root).rglob("k*.*"))), OBJECTS - 1, "files afterwards")
            return f"{OBJECTS - 2} objects back after {took:.1f} s"


def terminated(group):
    """SIGTERM: the lease is given back, so that nobody waits for its end, and the exit is orderly."""
    group.master("ours"), group.master("ours")
    leader = group.leader()
    with client("ours", group, "holder") as holder:
        churn(holder, "k", 3)
        held(holder, OBJECTS)
        leader.signal(signal.SIGTERM)
        told = time.monotonic()
        same(leader.wait(), 0, "status")
        expect(group.leader_address() != leader.address, "the key outlives the process")
        puts_work(holder, "x")
        taken = time.monotonic() - told
        all_back(holder, "k", 3)
        standby = group.leader()
        standby.signal(signal.SIGTERM)
        same(standby.wait(), 0, "status of the last one")
        same(group.leader_address(), None, "the key at the end")
        return f"puts work after {taken:.1f} s"


def frozen(group):
    """SIGSTOP of the leader past its lease: it must not say anything when it goes on."""
    group.master("ours"), group.master("ours")
    leader = group.leader()
    with client("ours", group, "holder") as holder, \
            client("ours", group, "old", 0, leader.address) as old:
        churn(holder, "k", 5)
        held(holder, OBJECTS)
        leader.signal(signal.SIGSTOP)
        eventually("another one leads", lambda: group.leader_address() not in (None, leader.address))
        puts_work(holder, "x")
        # Asked while it sleeps; the answer is due when it wakes.
        old.send("exists", keys=["k1", "k2", "x"])
        time.sleep(0.3)
        leader.signal(signal.SIGCONT)
        same(old.answer()["codes"], [NO_MASTER] * 3, "answers of the one that was frozen")
        for _ in range(20):
            same(old.call("exists", keys=["k1"])["codes"], [NO_MASTER], "answers afterwards")
        eventually("it stands by", lambda: leader.get("/role") == "standby")
        eventually("it listens no more", lambda: not leader.listens())
        same(leader.process.poll(), None, "it goes on as a candidate")
        all_back(holder, "k", 5)
        # It can lead again.
        now = group.leader()
        now.kill()
        eventually("it leads again", lambda: group.leader_address() == leader.address)
        puts_work(holder, "y")
        all_back(holder, "k", 5)
        same(holder.call("get", key="x")["got"], look(1, 5000), "what the other one took")


def etcd_away(group):
    """etcd is killed: the leader stops before its lease ends; with etcd back one leads again."""
    with Etcd() as etcd:
        group.etcd = etcd
        group.master("ours"), group.master("ours")
        leader = group.leader()
        with client("ours", group, "holder") as holder:
            churn(holder, "k", 7)
            held(holder, OBJECTS)
            etcd.kill()
            eventually("nobody serves", lambda: not any(m.listens() for m in group.members))
            same(leader.get("/health"), "OK", "health without etcd")
            same(put(holder, "x"), NO_MASTER, "put")
            etcd.resume()
            puts_work(holder, "x")
            all_back(holder, "k", 7)
            expect(all(m.process.poll() is None for m in group.members), "both masters live")
            etcd.kill()
            began = time.monotonic()
            holder.call("close")
            return f"closed without etcd and master within {time.monotonic() - began:.1f} s"


def upstream_client(group):
    """Upstream's client over our masters: found in etcd, and again after a fail-over."""
    group.master("ours"), group.master("ours")
    leader = group.leader()
    with client("upstream", group, "one") as one:
        puts_work(one, "a")
        eventually("it is there", lambda: one.call("get", key="a")["got"] == look(1, 5000))
        leader.kill()
        puts_work(one, "b", 60)
        eventually("it is there", lambda: one.call("get", key="b")["got"] == look(1, 5000))


def our_client(group):
    """Our client over upstream's masters, and its close without any."""
    leader = group.master("upstream")
    group.leader()
    with client("ours", group, "one") as one:
        puts_work(one, "a")
        same(one.call("get", key="a")["got"], look(1, 5000), "get")
        same(one.call("health")["health"]["native"], 0, "kind of the master")
        leader.kill()
        same(one.call("exists", keys=["a"])["codes"], [NO_MASTER], "exists without a leader")
        one.call("close")


def mixed(group):
    """Upstream's leads first, ours follows, and nothing of one time is believed in the other."""
    flags = {"ha_lease_ttl_sec": UPSTREAM_LEASE_SECONDS}
    upstream = group.master("upstream")
    same(group.leader().kind, "upstream", "the first leader")
    ours = group.master("ours", **flags)
    with client("ours", group, "one") as one:
        puts_work(one, "a")
        eventually("ours stands by",
                   lambda: json.loads(ours.get("/leader"))["leader_address"] == upstream.address)
        same(ours.get("/role"), "standby", "role")
        expect(ours.get("/metrics").find("\nmooncake_master_leads 0\n") > 0, "metric of a standby")
        upstream.kill()
        expect(group.leader(60) is ours, "ours leads")
        puts_work(one, "b")
        same(one.call("exists", keys=["a", "b"])["codes"], [0, 1], "what each leader knows")
        same(one.call("get", key="b")["got"], look(1, 5000), "get")
        # And back: upstream's finds our key as it finds its own.
        group.master("upstream")
        churn(one, "k", 13)
        held(one, OBJECTS + 1)
        ours.signal(signal.SIGTERM)
        same(ours.wait(), 0, "status")
        same(group.leader(60).kind, "upstream", "the next leader")
        puts_work(one, "c")
        same(survey(one, "k", 13)["missing"], OBJECTS, "upstream knows nothing of before")
        same(one.call("health")["health"]["held"], 0, "what is told to the next one")


def rounds(group):
    """Leaders are killed, frozen and told to end in turn, in seeded disorder, while two clients put
    into a pool that is too small: what is read has the bytes that were put."""
    seed = int(os.environ.get("MOONCAKE_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"# rounds: seed {seed}", flush=True)
    chance = random.Random(seed)
    for _ in range(3):
        group.master("ours", eviction_high_watermark_ratio=0.5)
    right = missing = 0
    # Nobody serves yet: the first client waits for the election.
    with client("ours", group, "a", 16 * MIB) as one, client("ours", group, "b", 16 * MIB) as two:
        for number in range(ROUNDS):
            for name, peer in (("a", one), ("b", two)):
                peer.send("churn", prefix=f"{name}{number}-", count=150, seed=0,
                          length=chance.choice([900, 30_000, 200_000]))
            leader, how = group.leader(), chance.choice(["kill", "freeze", "end"])
            time.sleep(chance.random())
            if how == "kill":
                leader.kill()
            else:
                leader.signal(signal.SIGSTOP if how == "freeze" else signal.SIGTERM)
            for peer in (one, two):
                peer.answer()
            eventually("another view", lambda: group.leader_address() not in (None, leader.address))
            puts_work(one, f"x{number}")
            if how == "freeze":
                leader.signal(signal.SIGCONT)
            else:
                leader.wait()
                group.members.remove(leader)
                group.master("ours", eviction_high_watermark_ratio=0.5)
            for key, index in ((f"{name}{before}-{index}", index) for name in "ab"
                               for before in range(max(0, number - 3), number + 1)
                               for index in range(0, 150, 11)):
                got = one.call("get", key=key)["got"]
                if isinstance(got, int):
                    missing += 1
                    continue
                same(got, look(index, got[0]), f"{key}, round {number}, {how}, seed {seed}")
                right += 1
    expect(right > 0, "nothing was left of anything")
    return f"{ROUNDS} rounds: {right} right, {missing} missing, seed {seed}"


def pages(group):
    """What a leader and a standby show."""
    group.master("ours"), group.master("ours")
    leader = group.leader()
    standby = next(m for m in group.members if m is not leader)
    with client("ours", group, "one") as one, client("upstream", group, "two", SEGMENT):
        puts_work(one, "a")
        same([leader.get(f"/{page}") for page in ("health", "role", "ha_status")],
             ["OK", "leader", "serving"], "pages of the leader")
        view = json.loads(leader.get("/leader"))
        same([view["present"], view["leader_address"]], [True, leader.address], "leader")
        expect(view["view_version"] > 0, f"{view}")
        eventually("clients are counted", lambda: "| Clients: 2 |" in leader.get("/metrics/summary"))
        expect(" Ping=" in leader.get("/metrics/summary"), "pings")
        eventually("the standby has seen it",
                   lambda: json.loads(standby.get("/leader"))["leader_address"] == leader.address)
        same([standby.get(f"/{page}") for page in ("health", "role", "ha_status")],
             ["OK", "standby", "standby"], "pages of the standby")
        try:
            standby.get("/get_all_keys")
            expect(False, "a standby lists no keys")
        except urllib.error.HTTPError as error:
            same(error.code, 503, "status")
            expect(leader.address in error.read().decode(), "it names the leader")


def other_ways_in(group):
    """Upstream's C API, the Python package and the tool take the same address."""
    group.master("ours")
    group.leader()
    library = str(pathlib.Path(driver_target()) / "release" / "libmooncake.so")
    environment = dict(os.environ, MOONCAKE_LIBRARY=library, PYTHONPATH=str(TREE / "python"),
                       **group.environment())
    with client("ours-c", group, "one") as one:
        puts_work(one, "a")
        done = subprocess.run([sys.executable, "-c", PACKAGE, group.address], env=environment,
                              capture_output=True, timeout=60, check=False)
        same(done.stdout.split(), [b"0", b"0", b"5000"], f"package: {done.stderr[-300:]}")
        tool = str(pathlib.Path(driver_target()) / "release" / "mc_store")
        done = subprocess.run([tool, "--master", group.address, "--host", "127.0.0.1", "get", "b"],
                              env=environment, capture_output=True, timeout=60, check=False)
        same((done.returncode, done.stdout), (0, b"package"), f"tool: {done.stderr[-300:]}")


# Setup, a put, the size of what another client has put.
PACKAGE = """
import sys
from mooncake.store import MooncakeDistributedStore
store = MooncakeDistributedStore()
print(store.setup("127.0.0.1", "P2PHANDSHAKE", 0, 16 << 20, "tcp", "", sys.argv[1]))
print(store.put("b", b"package"))
print(len(store.get("a")))
store.close()
"""


def no_leader(group):
    """Nobody leads: setup fails in time, and says why."""
    for address, word in ((group.address, "no master is elected"),
                          (f"etcd://127.0.0.1:{masters.free_port()}", "nobody says which master"),
                          ("redis://127.0.0.1:1", "elected in etcd")):
        began = time.monotonic()
        try:
            client("ours", group, "one", master=address).stop()
            expect(False, f"a client opens over {address}")
        except PeerFailed as error:
            expect(word in str(error), f"{error}")
        expect(time.monotonic() - began < 40, "in time")


def wrong_flags(group):
    """What cannot be is said in one line, with status 1."""
    busy = socket.socket()
    busy.bind(("127.0.0.1", 0))
    busy.listen()
    port = str(busy.getsockname()[1])
    common = {"enable_ha": "true", "metrics_port": "0", "rpc_port": "1"}
    for flags, word in (
            ({}, "needs --etcd_endpoints"),
            ({"etcd_endpoints": "redis://h:1"}, "no list of etcd endpoints"),
            ({"etcd_endpoints": "h:1", "ha_lease_ttl_sec": "1"}, "between 2 and 60"),
            ({"etcd_endpoints": "h:1", "rpc_port": port, "rpc_address": "127.0.0.1"}, port)):
        given = {**common, **flags}
        command = [str(masters.our_program()), *[f"--{n}={v}" for n, v in given.items()]]
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
        text = done.stderr.decode()
        expect(done.returncode == 1 and word in text, f"{flags}: {done.returncode}, {text[-300:]}")
    busy.close()


TESTS = {
    "wrong_flags": wrong_flags,
    "mixed": mixed,
    "our_client_over_upstream": our_client,
    "upstream_client_over_ours": upstream_client,
    "etcd_away": etcd_away,
    "frozen": frozen,
    "terminated": terminated,
    "killed_under_load": killed_under_load,
    "files": files,
    "rounds": rounds,
    "pages": pages,
    "other_ways_in": other_ways_in,
    "no_leader": no_leader,
}


def main():
    report = Report("ha", sys.argv[1:])
    wanted = {name: test for name, test in TESTS.items() if report.wanted(name)}
    if not wanted:
        return report.finish()

    def run(name, test):
        with Group(f"{name}-{os.getpid()}", etcd) as group:
            return test(group)

    with Etcd() as etcd, concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        # The outcomes are taken, and printed, in the order of the list.
        begun = {name: pool.submit(run, name, test) for name, test in wanted.items()}
        for name, future in begun.items():
            report.run(name, future.result)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
