#!/usr/bin/env python3
"""Unmodified clients of `mooncake.store` 0.3.7.post2 against our `mooncake_master`.

    tests/master/suite.py                all of it, after `cargo build --release`
    tests/master/suite.py evict          tests with that in their names

MOONCAKE_MASTER names another executable. Every process listens on 127.0.0.1, on ports that the
system or upstream chooses.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "tests" / "peers"),
                str(pathlib.Path(__file__).resolve().parent)]

import wheels  # noqa: E402
from client import sight, value  # noqa: E402
from harness.peer import LOGS, Peer  # noqa: E402
from harness.report import Report, Skip, expect  # noqa: E402

VERSION = "0.3.7.post2"
MIB = 1 << 20
START_SECONDS = 20
# Generous: what is waited for takes a time limit of the master, and the machine may be busy.
WAIT_SECONDS = 60
OBJECT_NOT_FOUND = -704
OBJECT_HAS_LEASE = -706
STARTED = re.compile(r"Master service started on port (\d+), .* metrics_port=(\d+),")


class Master:
    """Our master in a folder of its own; use it in a `with` statement."""

    def __init__(self, *flags, port=0, folder=None):
        self.flags = flags
        self.folder = folder or tempfile.TemporaryDirectory(prefix="mc-master-")
        self.start(port)

    def start(self, port):
        LOGS.mkdir(parents=True, exist_ok=True)
        path = LOGS / f"master.{os.getpid()}.log"
        target = os.environ.get("CARGO_TARGET_DIR", TREE / "target")
        program = os.environ.get("MOONCAKE_MASTER", f"{target}/release/mooncake_master")
        if not pathlib.Path(program).is_file():
            raise Skip(f"{program} is not built")
        with open(path, "ab") as log:
            at = log.tell()
            self.process = subprocess.Popen(
                [program, f"--port={port}", "--metrics_port=0", *self.flags], stderr=log,
                stdout=log, env=dict(os.environ, XDG_STATE_HOME=self.folder.name,
                                     STATE_DIRECTORY=""))
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            found = STARTED.search(path.read_bytes()[at:].decode(errors="replace"))
            if found:
                self.port, self.metrics_port = map(int, found.groups())
                self.address = f"127.0.0.1:{self.port}"
                return
            time.sleep(0.05)
        self.kill()
        tail = path.read_bytes()[at:].decode(errors="replace")[-400:]
        raise RuntimeError(f"the master did not start: {tail}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.folder.cleanup()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def page(self, path):
        """Status and body of a page."""
        url = f"http://127.0.0.1:{self.metrics_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.page("/metrics")[1], re.MULTILINE)
        expect(found, f"no metric {name}")
        return float(found.group(1))

    def endpoints(self, key):
        """Where the copies of an object are."""
        status, body = self.page(f"/query_key?key={urllib.parse.quote(key)}")
        if status != 200:
            return []
        return re.findall(r'"transport_endpoint_":"([^"]+)"', body)


WHEEL = None


def client(master, label, segment=64 * MIB, **options):
    """A client process that has been set up."""
    peer = Peer(f"store-{label}", [sys.executable, str(TREE / "tests" / "master" / "client.py")],
                WHEEL.environment({"MC_MS_AUTO_DISC": "0"}))
    try:
        answer = peer.call("create", master=master.address, segment=segment, **options)
        expect(answer["status"] == 0, f"setup of {label} gave {answer['status']}")
        return peer
    except BaseException:
        peer.stop()
        raise


def do(peer, what, seconds=60, **arguments):
    return peer.call("extra", seconds, what=what, **arguments)


def wait_for(condition, what):
    """Waits for something that a time limit of the master brings; returns the seconds."""
    started = time.monotonic()
    while not condition():
        expect(time.monotonic() - started < WAIT_SECONDS, f"{what} did not come about")
        time.sleep(0.1)
    return time.monotonic() - started


def expected(seed, length):
    return sight(value(seed, length))


def basic():
    """One client: put, get, exists, size, remove, by pattern, all; leases keep what was read."""
    with Master("--default_kv_lease_ttl=1s") as master, client(master, "one") as one:
        expect(do(one, "put", key="a", seed=1, length=1000)["status"] == 0, "put")
        # An existing key is success, and nothing is written.
        expect(do(one, "put", key="a", seed=2, length=1000)["status"] == 0, "second put")
        expect(do(one, "get", key="a")["sight"] == expected(1, 1000), "get")
        expect(do(one, "size", key="a")["size"] == 1000, "size")
        expect(do(one, "size", key="none")["size"] == OBJECT_NOT_FOUND, "size of nothing")
        expect(do(one, "get", key="none")["sight"] == [0, 0], "get of nothing")
        expect(do(one, "put_parts", key="parts", seeds=[3, 4], length=500)["status"] == 0, "parts")
        whole = sight(value(3, 500) + value(4, 500))
        expect(do(one, "get", key="parts")["sight"] == whole, "get of parts")
        found = do(one, "exists", keys=["a", "none"])
        expect(found == {"single": [1, 0], "batch": [1, 0]}, found)
        expect(do(one, "remove", key="a")["status"] == OBJECT_HAS_LEASE, "remove under a lease")
        time.sleep(1.2)
        expect(do(one, "remove", key="a")["status"] == 0, "remove")
        expect(do(one, "remove", key="a")["status"] == OBJECT_NOT_FOUND, "remove of nothing")
        keys = ["x/1", "x/2", "y/1"]
        status = do(one, "put_batch", keys=keys, seeds=[1, 2, 3], length=64)["status"]
        expect(status == 0, f"put_batch {status}")
        expect(do(one, "remove_by_regex", pattern="^x/")["count"] == 2, "remove_by_regex")
        expect(do(one, "get_batch", keys=keys)["sights"] == [[0, 0], [0, 0], expected(3, 64)],
               "get_batch after remove_by_regex")
        time.sleep(1.2)
        expect(do(one, "remove_all")["count"] == 2, "remove_all")
        expect(master.page("/get_all_keys") == (200, ""), "keys are left")
        expect(do(one, "close")["status"] == 0, "close")
        wait_for(lambda: master.page("/get_all_segments") == (200, ""), "unmount at close")


def batches(count=200, length=4096):
    """Batches, and objects from and into several ranges, read by another client."""
    with Master() as master, client(master, "holder") as holder, \
            client(master, "reader", segment=0) as reader:
        keys = [f"b{at}" for at in range(count)]
        seeds = list(range(count))
        expect(do(holder, "put_batch", keys=keys, seeds=seeds, length=length)["status"] == 0, "put")
        sights = do(reader, "get_batch", keys=keys)["sights"]
        good = sum(sight == expected(seed, length) for sight, seed in zip(sights, seeds))
        expect(good == count, f"{good}/{count}")
        pieces, names = 3, [f"p{at}" for at in range(20)]
        statuses = do(holder, "put_pieces", keys=names, pieces=pieces, length=length)["statuses"]
        expect(statuses == [0] * len(names), statuses)
        answer = do(reader, "get_pieces", keys=names, pieces=pieces, length=length)
        expect(answer["statuses"] == [pieces * length] * len(names), answer["statuses"])
        for key, row in enumerate(answer["sights"]):
            wanted = [expected(100 * key + piece, length) for piece in range(pieces)]
            expect(row == wanted, f"object {key} differs")
        # Half of a batch is there: the others are told apart.
        found = do(reader, "exists", keys=["b0", "none", "p0", "none2"])["batch"]
        expect(found == [1, 0, 1, 0], found)
        return f"{good + len(names)} objects"


def large(length=12 * MIB):
    """An object of many megabytes."""
    with Master() as master, client(master, "holder") as holder, \
            client(master, "reader", segment=0) as reader:
        expect(do(holder, "put", key="big", seed=5, length=length)["status"] == 0, "put")
        expect(do(reader, "get", key="big")["sight"] == expected(5, length), "get")


def replicas():
    """Two copies are in two segments, and one of them is enough when a holder is killed."""
    with Master("--client_ttl=2") as master, client(master, "one") as one, \
            client(master, "two") as two, client(master, "reader", segment=0) as reader:
        count, options = 20, {"replica_num": 2}
        answer = do(one, "put_many", prefix="r", first=0, count=count, length=10_000,
                    options=options)
        expect(answer["statuses"] == [0] * count, answer)
        for at in range(count):
            places = master.endpoints(f"r{at}")
            expect(len(places) == len(set(places)) == 2, f"r{at}: {places}")
        two.kill()
        wait_for(lambda: len(master.page("/get_all_segments")[1].splitlines()) == 1,
                 "end of the killed holder's segment")
        sights = do(reader, "get_many", prefix="r", first=0, count=count)["sights"]
        good = sum(sight == expected(at, 10_000) for at, sight in enumerate(sights))
        expect(good == count, f"{good}/{count} after the death of one holder")
        return f"{good}/{count}"


def preferred():
    """A preferred segment is taken while it has room."""
    with Master() as master, client(master, "one") as one, client(master, "two"):
        detail = json.loads(master.page("/get_segments_detail")[1])["segments"]
        endpoints = {one["segment_name"]: one["te_endpoint"] for one in detail}
        expect(len(endpoints) == 2, detail)
        for name, endpoint in endpoints.items():
            do(one, "put_many", prefix=name, first=0, count=10, length=1000,
               options={"preferred_segment": name})
            places = {place for at in range(10) for place in master.endpoints(f"{name}{at}")}
            expect(places == {endpoint}, f"{places}, wanted {endpoint}")


def eviction():
    """Far more is put than there is room for; what was used lately and what is pinned stays."""
    length, room = 512 * 1024, 32 * MIB
    flags = ["--default_kv_lease_ttl=200ms", "--eviction_high_watermark_ratio=0.8"]
    with Master(*flags) as master, client(master, "one", segment=room) as one:
        pinned = do(one, "put_many", prefix="pin", first=0, count=4, length=length,
                    options={"with_soft_pin": True})["statuses"]
        expect(pinned == [0] * 4, pinned)
        count, failed = 400, 0
        for first in range(0, count, 20):
            statuses = do(one, "put_many", prefix="e", first=first, count=20,
                          length=length)["statuses"]
            failed += sum(status != 0 for status in statuses)
        expect(failed <= count // 100, f"{failed} of {count} puts failed")
        sights = do(one, "get_many", prefix="pin", first=0, count=4)["sights"]
        expect(sights == [expected(at, length) for at in range(4)], "a soft-pinned object is gone")
        sights = do(one, "get_many", prefix="e", first=0, count=count)["sights"]
        left = [at for at, sight in enumerate(sights) if sight != [0, 0]]
        wrong = [at for at in left if sights[at] != expected(at, length)]
        expect(not wrong, f"wrong bytes in {wrong}")
        expect(count - 20 in left or count - 1 in left, f"the newest are gone: {left[-5:]}")
        expect(0 not in left, "the oldest is still there")
        evicted = master.metric("master_evicted_key_count")
        expect(evicted >= count - 70, f"{evicted} evicted")
        used = master.metric("master_allocated_bytes") / room
        return f"{count - failed}/{count} puts, {int(evicted)} evicted, {used:.0%} in use"


def killed_writer():
    """A client killed in the middle of its puts leaves nothing that blocks the keys for others."""
    flags = ["--client_ttl=2", "--put_start_discard_timeout_sec=2"]
    with Master(*flags) as master, client(master, "holder") as holder:
        with client(master, "writer", segment=0) as writer:
            writer.send("extra", what="put_many", prefix="k", first=0, count=100_000, length=2000)
            wait_for(lambda: "\nk50\n" in master.page("/get_all_keys")[1], "fifty objects")
            writer.kill()
        # A put that was under way may hold its key until its owner is given up.
        keys = set(master.page("/get_all_keys")[1].split())
        last = max(int(key[1:]) for key in keys)
        sights = do(holder, "get_many", prefix="k", first=0, count=last)["sights"]
        wrong = [at for at, sight in enumerate(sights) if sight != expected(at, 2000)]
        expect(not wrong, f"{len(wrong)} of {last} differ: {wrong[:5]}")

        def is_put_and_whole(key):
            do(holder, "put", key=key, seed=int(key[1:]), length=2000)
            return do(holder, "get", key=key)["sight"] == expected(int(key[1:]), 2000)

        for key in (f"k{last}", f"k{last + 1}"):
            wait_for(lambda: is_put_and_whole(key), f"a put of {key}")
        return f"{last} objects of the killed writer are whole, and its last key can be put"


def restart(journal):
    """A master that was killed and comes back: clients mount again by themselves, puts work."""
    with tempfile.TemporaryDirectory(prefix="mc-journal-") as folder:
        flags = [f"--data_dir={folder}"] if journal else ["--noenable_journal"]
        with Master("--client_ttl=5", *flags) as master, client(master, "one") as one:
            count = 500
            statuses = do(one, "put_many", prefix="a", first=0, count=count,
                          length=1000)["statuses"]
            expect(statuses == [0] * count, "a put failed")
            master.kill()
            master.start(master.port)
            seconds = wait_for(lambda: master.page("/get_all_segments")[1].strip() != "", "remount")
            started = time.monotonic()
            wait_for(lambda: do(one, "put", key=f"n{time.monotonic()}", seed=1,
                                length=1000)["status"] == 0, "a put")
            waited = time.monotonic() - started
            sights = do(one, "get_many", prefix="a", first=0, count=count)["sights"]
            wrong = [at for at, sight in enumerate(sights)
                     if sight not in ([0, 0], expected(at, 1000))]
            expect(not wrong, f"wrong bytes in {wrong}")
            kept = sum(sight != [0, 0] for sight in sights)
            # Without a journal it is as with upstream: an empty pool.
            expect(kept == (count if journal else 0), f"{kept}/{count} kept")
            return f"mounted after {seconds:.1f} s, put {waited:.1f} s later, {kept}/{count} kept"


def drain():
    """SIGTERM under load ends the master with status 0 within a few seconds; a second one at once."""
    with Master() as master, client(master, "one") as one:
        one.send("extra", what="put_many", prefix="d", first=0, count=2000, length=1000)
        wait_for(lambda: "d10\n" in master.page("/get_all_keys")[1], "some objects")
        started = time.monotonic()
        master.process.send_signal(signal.SIGTERM)
        status = master.process.wait(WAIT_SECONDS)
        seconds = time.monotonic() - started
        expect(status == 0, f"status {status}")
        one.kill()
        return f"{seconds:.1f} s"


def pages():
    """The pages while objects are there."""
    with Master("--enable_http_metadata_server", "--http_metadata_server_port=0") as master, \
            client(master, "one") as one:
        expect(master.page("/health") == (200, "OK"), "health")
        expect(do(one, "put", key="a/b", seed=1, length=5)["status"] == 0, "put")
        name = master.page("/get_all_segments")[1].strip()
        expect(name, "no segment")
        quoted = urllib.parse.quote(name)
        for spelled in (name, quoted):
            expect(master.page(f"/query_segment?segment={spelled}")
                   == (200, f"{name}\nUsed(bytes): 5\nCapacity(bytes) : {64 * MIB}\n"),
                   f"query_segment {spelled}")
        status, line = master.page("/query_key?key=a/b")
        expect(status == 200 and re.fullmatch(
            r'\{"size_":5,"buffer_address_":\d+,"transport_endpoint_":"[^"]+"\}\n', line), line)
        expect(master.page("/query_key?key=a%2Fb") == (200, line), "escaped key")
        expect(master.page("/query_key?key=none") == (404, "OBJECT_NOT_FOUND"), "no key")
        expect(master.page("/get_all_keys") == (200, "a/b\n"), "keys")
        summary = master.page("/metrics/summary")[1]
        expect("Mem Storage: 5 B / 64.00 MB (0.0%)" in summary and "PutStart=1/1" in summary,
               summary)
        expect(master.metric("master_put_end_requests_total") == 1, "put_end")
        expect(master.metric('master_value_size_bytes_bucket{le="4096.000000"}') == 1, "sizes")


def concurrency(clients=4, count=300):
    """Several clients put the same keys at once: every key has one value, and all read the same."""
    with Master() as master:
        peers = [client(master, f"c{at}", segment=16 * MIB) for at in range(clients)]
        try:
            failures = []

            def work(peer):
                answer = do(peer, "put_many", prefix="s", first=0, count=count, length=3000)
                failures.extend(status for status in answer["statuses"] if status != 0)

            threads = [threading.Thread(target=work, args=(peer,)) for peer in peers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            expect(not failures, f"{len(failures)} failures: {failures[:5]}")
            for peer in peers:
                sights = do(peer, "get_many", prefix="s", first=0, count=count)["sights"]
                good = sum(sight == expected(at, 3000) for at, sight in enumerate(sights))
                expect(good == count, f"{good}/{count}")
            return f"{clients} clients, {count} keys"
        finally:
            for peer in peers:
                peer.stop()


TESTS = {
    "basic": basic,
    "batches": batches,
    "large": large,
    "replicas": replicas,
    "preferred": preferred,
    "eviction": eviction,
    "killed_writer": killed_writer,
    "restart/journal": lambda: restart(journal=True),
    "restart/forgets": lambda: restart(journal=False),
    "drain": drain,
    "pages": pages,
    "concurrency": concurrency,
}


def main(only):
    report = Report("master", only)
    global WHEEL
    try:
        WHEEL = wheels.prepare(VERSION)
    except wheels.Unavailable as reason:
        for name in TESTS:
            report.skip(name, f"no wheel {VERSION}: {reason}")
        return report.finish()
    for name, test in TESTS.items():
        report.run(name, test)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
