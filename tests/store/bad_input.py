#!/usr/bin/env python3
"""What a store gets that it should not: odd keys and values, floods, deaths in the middle of a call.

    bad_input.py [WORD...]    only the tests whose name contains one of the words

What only the index, the codec or the port can be asked is tested where they are, in Rust.
"""

import ctypes
import json
import os
import pathlib
import random
import socket
import struct
import sys
import threading
import time
import urllib.parse

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "tests" / "store")]

import masters  # noqa: E402
import our_client  # noqa: E402
from client_suite import EXISTS, INVALID, MIB, MISSING, NO_SPACE, SEGMENT, client, eventually, \
    look, same  # noqa: E402
from harness.report import Report, expect  # noqa: E402
from relay import Elsewhere, Relay  # noqa: E402

LEASE_MS = 200
KEY_BYTES_MAX = 64 << 10
NOT_READY = -703
FLOOD = 2000
KEYS = {
    "nul": b"\0", "nul inside": b"a\0b", "slashes": b"/a//b/../c/", "not utf-8": b"\xff\xfe\x80",
    "newline": b"a\nb\r", "quotes": b"'\"`$(x)%00&key=b", "umlaut": "\u00e4".encode(),
    "longest": b"x" * KEY_BYTES_MAX, "pattern": b".*(",
}
# Errors of the protocol.
UNKNOWN_FUNCTION, WRONG_ARGUMENTS = 11, 4
LOST = {
    "granted": {"answers": ["BatchPutStart"]},
    "ended": {"calls": ["BatchPutEnd"]},
    "revoked": {"calls": ["BatchPutRevoke"]},
}
SHORT = json.dumps({"store_master_timeout_ms": 1500, "transfer_timeout_ms": 4000})
REFUSED = {"empty": b"", "too long": b"x" * (KEY_BYTES_MAX + 1)}


class Bytes(our_client.Ours):
    """The client in this process, with keys as they are."""

    def put(self, key, value, replica_num=1):
        options = self.options({"replica_num": replica_num})
        return self.code(self.library.mc_store_put(self.store, key, len(key), value, len(value),
                                                   ctypes.byref(options)))

    def one(self, key, room):
        """The object as an argument of the calls for batches."""
        piece = our_client.Range(ctypes.addressof(room), len(room))
        entry = our_client.Object(key, len(key), ctypes.pointer(piece), 1)
        return (our_client.Object * 1)(entry)

    def put_by_batch(self, key, value):
        room, status = ctypes.create_string_buffer(value, len(value)), (ctypes.c_int32 * 1)()
        options = self.options({})
        whole = self.library.mc_store_put_batch(self.store, self.one(key, room), 1,
                                                ctypes.byref(options), status)
        return self.code(whole or status[0])

    def get_by_batch(self, key, length):
        room, status = ctypes.create_string_buffer(length), (ctypes.c_int32 * 1)()
        size = (ctypes.c_uint64 * 1)()
        whole = self.library.mc_store_get_batch(self.store, self.one(key, room), 1, 0, size, status)
        return self.code(whole or status[0]) or room.raw[:size[0]]

    def get(self, key):
        buffer = ctypes.c_void_p()
        status = self.library.mc_store_get_buffer(self.store, key, len(key), 0,
                                                  ctypes.byref(buffer))
        if status != 0:
            return self.code(status)
        value = ctypes.string_at(self.library.mc_store_buffer_address(buffer),
                                 self.library.mc_store_buffer_size(buffer))
        self.library.mc_store_buffer_release(buffer)
        return value

    def exists(self, key):
        found, status = (ctypes.c_int32 * 1)(), (ctypes.c_int32 * 1)()
        room = ctypes.create_string_buffer(1)
        whole = self.library.mc_store_exists_batch(self.store, self.one(key, room), 1, 0, found,
                                                   status)
        return self.code(whole or status[0]) or found[0]

    def size(self, key):
        size = ctypes.c_uint64()
        return self.code(self.library.mc_store_size(self.store, key, len(key), 0,
                                                    ctypes.byref(size))) or size.value

    def remove(self, key, force=1):
        return self.code(self.library.mc_store_remove(self.store, key, len(key), force, 0))


def odd_keys():
    """Every path takes every byte in a key, and refuses the empty and the too long one."""
    with masters.Master("ours", default_kv_lease_ttl=LEASE_MS) as master, \
            client("ours", "holder", master):
        store = Bytes()
        store.setup("127.0.0.1", master.address, 0, 16 * MIB)
        try:
            same(store.put(b"a", b"plain"), 0, "put of a")
            for name, key in KEYS.items():
                value = name.encode() * 100
                same(store.put(key, value), 0, f"put {name}")
                same(store.put_by_batch(key, value), EXISTS, f"put again {name}")
                same(store.get(key), value, f"get {name}")
                same(store.get_by_batch(key, 10_000), value, f"get by batch {name}")
                same((store.exists(key), store.size(key)), (1, len(value)), f"look at {name}")
                page = master.get("/query_key?key=" + urllib.parse.quote(key, safe="")) \
                    if len(key) < 1000 else '"size_"'
                expect('"size_"' in page, f"page of {name}: {page[:200]}")
            same(int(master.metric("master_key_count")), len(KEYS) + 1, "keys")
            for name, key in REFUSED.items():
                for what, code in (("put", store.put(key, b"v")),
                                   ("put by batch", store.put_by_batch(key, b"v")),
                                   ("get", store.get(key)),
                                   ("get by batch", store.get_by_batch(key, 10)),
                                   ("exists", store.exists(key)), ("size", store.size(key)),
                                   ("remove", store.remove(key))):
                    same(code, INVALID, f"{what} {name}")
            for name, key in KEYS.items():
                same(store.remove(key), 0, f"remove {name}")
                same(store.exists(key), 0, f"exists {name} after it was removed")
                same(store.put_by_batch(key, b"new"), 0, f"put by batch {name}")
            same(store.get(b"a"), b"plain", "the object beside them")
        finally:
            store.close()


def odd_values():
    """Nothing, more than there is, more copies than segments: a number, and nothing is lost."""
    with masters.Master("ours", default_kv_lease_ttl=LEASE_MS) as master, \
            client("ours", "one", master), client("ours", "two", master):
        store = Bytes()
        store.setup("127.0.0.1", master.address, 0, 16 * MIB)
        try:
            same(store.put(b"a", b"plain"), 0, "put")
            same(store.put(b"b", b""), INVALID, "put of nothing")
            same(store.put(b"b", bytes(SEGMENT + 1)), NO_SPACE, "put of more than a segment")
            for copies in (3, 65, 2 ** 32 - 1):
                same(store.put(b"many", b"copies", replica_num=copies), 0, f"{copies} copies")
                same(store.get(b"many"), b"copies", f"get of {copies}")
                page = master.get("/query_key?key=many")
                same(page.count('"size_"'), 2, f"copies that {copies} came to: {page}")
                same(store.remove(b"many"), 0, "remove")
            same((store.get(b"a"), store.get(b"b")), (b"plain", MISSING), "afterwards")
        finally:
            store.close()


def same_key():
    """Clients that put one key at the same time: one of them does, and everybody reads its bytes."""
    rounds = 100
    with masters.Master("ours", default_kv_lease_ttl=LEASE_MS) as master, \
            client("ours", "one", master) as one, client("ours", "two", master) as two, \
            client("ours", "three", master, 0) as three:
        peers = (one, two, three)
        for number, peer in enumerate(peers):
            peer.send("churn", prefix="k", count=rounds, length=200_000, seed=1000 * number)
        codes = [peer.answer()["codes"] for peer in peers]
        for index in range(rounds):
            ended = [row[index] for row in codes]
            expect(ended.count(0) == 1 and set(ended) <= {0, EXISTS, NOT_READY}, f"k{index}: {ended}")
            wanted = look(1000 * ended.index(0) + index, 200_000)
            for peer in peers:
                same(peer.call("get", key=f"k{index}")["got"], wanted, f"k{index}")
        won = [row.count(0) for row in codes]
        return f"won {won}"


def owner_dies(what):
    """A holder dies while objects are put into it, or got from it: the others go on, every call ends,
    and no byte is wrong."""
    count, length = 300, 500_000
    with masters.Master("ours", client_ttl=2) as master, \
            client("ours", "dying", master, 256 * MIB) as dying, \
            client("ours", "holder", master, 256 * MIB), \
            client("ours", "writer", master, 0) as writer, \
            client("ours", "reader", master, 0) as reader:
        load = {"prefix": "k", "count": count, "length": length, "seed": 3}
        if what == "put":
            writer.send("churn", **load)
            eventually("it puts", lambda: reader.call("exists", keys=["k20"])["codes"] == [1])
            dying.kill()
            codes = writer.answer(120)["codes"]
            # A put whose holder failed is made again elsewhere.
            expect(codes.count(0) >= count - 5, f"{count - codes.count(0)} of {count} puts failed")
        else:
            same(writer.call("churn", **load)["codes"], [0] * count, "puts")
            reader.send("survey", **load)
            time.sleep(0.2)
            dying.kill()
            seen = reader.answer(120)
            expect(seen["wrong"] == 0 and seen["right"] > 0, f"{seen}")
        seen = reader.call("survey", seconds=120, **load)
        expect(seen["wrong"] == 0 and seen["right"] > 0, f"afterwards {seen}")
        same(writer.call("put", key="new", seed=1, length=length)["code"], 0, "a put afterwards")
        return f"{seen}"


def lost_words(what):
    """The answer that grants a put, its end, or that it failed is lost on the way: the put fails, and its
    key is free again soon after the master is heard, not after ten minutes."""
    with masters.Master("ours", client_ttl=120) as master, Relay(master.port) as relay, \
            client("ours", "holder", master) as holder, client("ours", "dying", master) as dying, \
            client("ours", "writer", Elsewhere(relay.address), 0, json=SHORT) as writer:
        config = {"preferred_segment": (dying if what == "revoked" else holder).hostname}
        relay.lose(**LOST[what])
        if what == "revoked":
            dying.kill()
        code = writer.call("put", seconds=120, key="k", seed=1, length=5000, config=config)["code"]
        expect(code < 0 and relay.losses > 0, f"a put whose words are lost: {code}")
        same(int(master.metric("master_key_count")), 1, "the put that nobody makes")
        same(holder.call("put", key="k", seed=2, length=5000)["code"], NOT_READY, "another put")
        relay.mend()
        mended = time.monotonic()
        eventually("the key is free", lambda: holder.call(
            "put", key="k", seed=2, length=5000, config={"preferred_segment": holder.hostname})["code"] == 0)
        took = time.monotonic() - mended
        same(holder.call("get", key="k")["got"], look(2, 5000), "what the other one put")
        same(int(master.metric("mooncake_master_abandoned_puts_total")), 1, "puts given up")
        eventually("the writer goes on", lambda: writer.call(
            "put", key="l", seed=3, length=5000, config={"preferred_segment": holder.hostname})["code"] in (0, EXISTS))
        return f"free after {took:.1f} s"


def frames():
    """Frames of every wrong kind: an answer that says so or the end of the connection, a quiet log, and
    nothing lost."""
    seed = int(os.environ.get("MOONCAKE_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    rng = random.Random(seed)
    folder = TREE / "tests" / "vectors" / "store" / "0.3.7.post2"
    # Not those that may rightly take something away.
    good = [path.read_bytes() for path in sorted(folder.glob("*.req.bin"))
            if not any(word in path.name for word in ("Remove", "Revoke", "Unmount", "Mount"))]
    with masters.Master("ours", label="frames") as master, client("ours", "one", master) as one:
        same(one.call("churn", prefix="k", count=200, length=1000, seed=7)["codes"], [0] * 200, "puts")
        begin, began = master.log_path.stat().st_size, time.monotonic()

        def send(bytes_, wants=None):
            """The error of the answer; `None` where the connection ends without one."""
            with socket.create_connection(("127.0.0.1", master.port), timeout=10) as raw:
                try:
                    raw.sendall(bytes_)
                    raw.shutdown(socket.SHUT_WR)
                    answer = raw.recv(16)
                except OSError:
                    answer = b""
            error = answer[2] if len(answer) >= 3 else None
            if wants is not None:
                same(error, wants, f"answer to {bytes_[:24].hex()}, seed {seed}")
            return error

        proper = next(frame for frame in good if len(frame) > 40)
        body = len(proper) - 20

        def header(function=proper[8:12], length=body):
            return proper[:8] + function + struct.pack("<I", length) + proper[16:20]

        send(header(function=b"\1\2\3\4") + proper[20:], UNKNOWN_FUNCTION)
        send(header() + bytes(4) + proper[24:], WRONG_ARGUMENTS)
        send(header(length=body - 1) + proper[20:-1], WRONG_ARGUMENTS)
        send(header(length=0), WRONG_ARGUMENTS)
        send(proper[:-1])
        send(header(length=0xffffffff) + proper[20:])
        send(b"GET / HTTP/1.0\r\n\r\n")
        kinds = {}
        for _ in range(1000):
            frame = bytearray(rng.choice(good))
            for _ in range(rng.randrange(1, 4)):
                frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
            error = send(bytes(frame[:rng.randrange(1, len(frame) + 1)] if rng.random() < 0.2 else frame))
            kinds[error] = kinds.get(error, 0) + 1
        survey = one.call("survey", prefix="k", count=200, length=1000, seed=7)
        same(survey, {"right": 200, "wrong": 0, "missing": 0}, f"objects afterwards, seed {seed}")
        same(one.call("put", key="new", seed=1, length=10)["code"], 0, "a put afterwards")
        same(master.get("/health"), "OK", "health")
        expect(master.metric("mooncake_master_faulty_calls_total") >= 4, "they are counted")
        lines = master.log_path.read_bytes()[begin:].splitlines()
        seconds = time.monotonic() - began
        expect(len(lines) <= 5 + 2 * seconds, f"{len(lines)} lines in {seconds:.1f} s: {lines[-3:]}")
        return f"seed {seed}, answers {kinds}, {len(lines)} lines in {seconds:.1f} s"


def flood():
    """Thousands of connections, silent or talking nonsense: clients go on, and the log is quiet."""
    with masters.Master("ours", label="flood") as master, client("ours", "one", master) as one:
        begin, began = master.log_path.stat().st_size, time.monotonic()
        sockets, over = [], threading.Event()

        def press():
            while not over.is_set():
                try:
                    raw = socket.create_connection(("127.0.0.1", master.port), timeout=5)
                    raw.sendall(os.urandom(64) if len(sockets) % 2 else b"\x15")
                    sockets.append(raw)
                except OSError:
                    time.sleep(0.01)
                if len(sockets) >= FLOOD:
                    return

        threads = [threading.Thread(target=press, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        codes = one.call("churn", prefix="k", count=500, length=1000, seed=7)["codes"]
        for thread in threads:
            thread.join(60)
        over.set()
        codes += one.call("churn", prefix="l", count=500, length=1000, seed=7)["codes"]
        same(codes, [0] * 1000, "puts during the flood")
        same(one.call("survey", prefix="k", count=500, length=1000, seed=7)["right"], 500, "objects")
        same(master.get("/health"), "OK", "health")
        lines = master.log_path.read_bytes()[begin:].splitlines()
        seconds = time.monotonic() - began
        for raw in sockets:
            raw.close()
        expect(len(lines) <= 5 + 2 * seconds, f"{len(lines)} lines in {seconds:.1f} s: {lines[-3:]}")
        return f"{len(sockets)} connections, {len(lines)} lines in {seconds:.1f} s"


def main():
    report = Report("bad_input", sys.argv[1:])
    report.run("odd_keys", odd_keys)
    report.run("odd_values", odd_values)
    report.run("same_key", same_key)
    report.run("owner_dies_mid_put", owner_dies, "put")
    report.run("owner_dies_mid_get", owner_dies, "get")
    for what in LOST:
        report.run(f"lost_words/{what}", lost_words, what)
    report.run("frames", frames)
    report.run("flood", flood)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
