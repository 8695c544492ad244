#!/usr/bin/env python3
"""Measures the store: our client and master against upstream's, in one run.

    bench/store.py                 about two minutes
    bench/store.py --time-ms 2000  longer
    bench/store.py --size 4096     only objects of so many bytes; may be given again

Each pairing has a master of its own, a process that gives the memory, and one client that puts,
looks up and gets through the C API (ours) or the wheel (upstream's). The pairings take turns, so that
a disturbance of the machine meets all of them; the figures are medians over the rounds, with minimum
and maximum: objects a second, the median time of a call, and processor time of the measured process for
an object, all its threads together. What comes back is compared with what was put.
"""

import argparse
import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

TREE = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "tests" / "store")]

import masters  # noqa: E402
from harness.report import Skip  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
SIZES = [4 * KIB, 64 * KIB, MIB, 4 * MIB, 16 * MIB]
BATCHES = [1, 32]
POOL = 512 * MIB
IN_POOL = 128 * MIB
LEASE_MS = 20
START_SECONDS = 60
MEASURE_SECONDS = 120
# Client, master. All processes are on one host, so ours go without sockets unless told not to.
PAIRINGS = [("ours", "ours"), ("ours tcp", "ours"), ("ours", "upstream"), ("upstream", "upstream"),
            ("upstream", "ours")]


class Worker:
    """The process of one pairing that is measured, and the one that gives the memory."""

    def __init__(self, kind, master):
        self.holder = self.start(kind, "hold", master)
        self.client = self.start(kind, "measure", master)

    @staticmethod
    def start(kind, role, master):
        environment = masters.wheel().environment() if kind == "upstream" else dict(os.environ)
        environment["MC_SAME_HOST"] = "1" if kind == "ours" else "0"
        log = open(masters.LOGS / f"bench-store-{kind.replace(' ', '-')}-{role}.log", "ab")
        process = subprocess.Popen(
            [sys.executable, __file__, "--role", role, "--kind", kind, "--master", master.address],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            start_new_session=True)
        if json.loads(process.stdout.readline() or "{}").get("ready") is not True:
            raise Skip(f"the {kind} client did not start")
        return process

    def measure(self, **cell):
        self.client.stdin.write(json.dumps(cell) + "\n")
        self.client.stdin.flush()
        return json.loads(self.client.stdout.readline())

    def stop(self):
        for process in (self.client, self.holder):
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


# ---- Inside the measured process ----------------------------------------------------------------


def serve(kind, role, master):
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if kind == "upstream":
        import upstream_client
        backend = upstream_client.Upstream()
    else:
        import our_client
        backend = our_client.Ours()
    code = backend.setup(host="127.0.0.1", master=master, segment=POOL if role == "hold" else 0,
                         local_buffer=64 * MIB)
    answers.write(json.dumps({"ready": code == 0}) + "\n")
    answers.flush()
    if role == "measure":
        calls = (UpstreamCalls if kind == "upstream" else OurCalls)(backend)
        for line in sys.stdin:
            answers.write(json.dumps(measure(calls, **json.loads(line))) + "\n")
            answers.flush()
    else:
        sys.stdin.read()
    backend.close()
    answers.close()
    os._exit(0)


class OurCalls:
    """Calls whose arguments are made before the clock starts."""

    def __init__(self, backend):
        self.backend = backend
        self.library = backend.library
        self.library.mc_store_register_buffer.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self.library.mc_store_unregister_buffer.argtypes = [ctypes.c_void_p, ctypes.c_void_p]

    def register(self, address, length):
        self.library.mc_store_register_buffer(self.backend.store, address, length)

    def unregister(self, address):
        self.library.mc_store_unregister_buffer(self.backend.store, address)

    def prepare(self, keys, address, size):
        from our_client import Object, Range

        count = len(keys)
        objects, names = (Object * count)(), [key.encode() for key in keys]
        ranges = (Range * count)()
        for index, name in enumerate(names):
            ranges[index].address, ranges[index].length_bytes = address + index * size, size
            objects[index].key, objects[index].key_len = name, len(name)
            objects[index].ranges = ctypes.pointer(ranges[index])
            objects[index].range_count = 1
        statuses, sizes = (ctypes.c_int32 * count)(), (ctypes.c_uint64 * count)()
        found = (ctypes.c_int32 * count)()
        return objects, count, statuses, sizes, found, (ranges, names)

    def put(self, made):
        objects, count, statuses, *_ = made
        return self.library.mc_store_put_batch(self.backend.store, objects, count, None,
                                               statuses) or any(statuses)

    def get(self, made):
        objects, count, statuses, sizes, *_ = made
        return self.library.mc_store_get_batch(self.backend.store, objects, count, 0, sizes,
                                               statuses) or any(statuses)

    def exists(self, made):
        objects, count, statuses, _, found, _ = made
        return self.library.mc_store_exists_batch(self.backend.store, objects, count, 0, found,
                                                  statuses) or not all(found)

    def clean(self):
        return self.backend.remove_by_regex("^bench/")


class UpstreamCalls:
    def __init__(self, backend):
        self.backend = backend
        self.store = backend.store

    def register(self, address, length):
        self.store.register_buffer(address, length)

    def unregister(self, address):
        self.store.unregister_buffer(address)

    def prepare(self, keys, address, size):
        count = len(keys)
        return keys, [address + index * size for index in range(count)], [size] * count

    def put(self, made):
        if len(made[0]) == 1:
            return self.store.put_from(made[0][0], made[1][0], made[2][0])
        return any(self.store.batch_put_from(*made))

    def get(self, made):
        if len(made[0]) == 1:
            return self.store.get_into(made[0][0], made[1][0], made[2][0]) < 0
        return any(code < 0 for code in self.store.batch_get_into(*made))

    def exists(self, made):
        if len(made[0]) == 1:
            return self.store.is_exist(made[0][0]) != 1
        return any(code != 1 for code in self.store.batch_is_exist(made[0]))

    def clean(self):
        return self.store.remove_by_regex("^bench/")


def measure(calls, size, batch, time_ms, turn):
    """Of each operation: objects a second, the median time of one call, processor time of an object."""
    length = size * batch
    source = (ctypes.c_char * length).from_buffer_copy(os.urandom(min(length, MIB))
                                                       * (length // min(length, MIB)))
    target = (ctypes.c_char * length)()
    places = {"put": ctypes.addressof(source), "get": ctypes.addressof(target)}
    for address in places.values():
        calls.register(address, length)
    rounds = max(1, min(64, IN_POOL // length))
    times = {"put": [], "exists": [], "get": []}
    spent = dict.fromkeys(times, 0.0)
    failures = number = 0
    end = time.monotonic() + time_ms / 1000
    while True:
        keys = [[f"bench/{turn}/{size}/{batch}/{number + r}/{i}" for i in range(batch)]
                for r in range(rounds)]
        number += rounds
        for operation in ("put", "exists", "get"):
            place = places.get(operation, places["put"])
            made = [calls.prepare(some, place, size) for some in keys]
            call = getattr(calls, operation)
            processor = time.process_time()
            for one in made:
                began = time.perf_counter()
                failed = call(one)
                times[operation].append(time.perf_counter() - began)
                failures += bool(failed)
            spent[operation] += time.process_time() - processor
        left = rounds * batch
        clean_end = time.monotonic() + 10
        while left > 0 and time.monotonic() < clean_end:
            time.sleep(2 * LEASE_MS / 1000)
            left -= max(0, calls.clean())
        if time.monotonic() >= end:
            break
    right = ctypes.string_at(places["put"], length) == ctypes.string_at(places["get"], length)
    for address in places.values():
        calls.unregister(address)
    rates = {name: [batch * len(some) / sum(some), statistics.median(some) * 1e6,
                    spent[name] / (batch * len(some)) * 1e6]
             for name, some in times.items()}
    return {"rates": rates, "failures": failures, "right": right}


# ---- The run -------------------------------------------------------------------------------------


def run(options):
    masters.LOGS.mkdir(parents=True, exist_ok=True)
    workers, started = {}, []
    try:
        for client, master_kind in PAIRINGS:
            name = f"{client} client, {master_kind} master"
            try:
                master = masters.Master(master_kind, default_kv_lease_ttl=LEASE_MS)
                started.append(master)
                master.start()
                workers[name] = Worker(client, master)
            except Skip as reason:
                print(f"skipped: {name}: {reason}")
        figures = {}
        for turn in range(options.rounds):
            for size in options.size or SIZES:
                for batch in BATCHES:
                    if size * batch > IN_POOL:
                        continue
                    for name, worker in workers.items():
                        got = worker.measure(size=size, batch=batch, time_ms=options.time_ms,
                                             turn=turn)
                        if got["failures"] or not got["right"]:
                            print(f"{name}: {size} B x {batch}: {got['failures']} failures, "
                                  f"content right: {got['right']}")
                        for operation, figure in got["rates"].items():
                            key = (size, batch, operation)
                            figures.setdefault(key, {}).setdefault(name, []).append(figure)
        show(figures, list(workers))
        show_same_host(figures)
    finally:
        for worker in workers.values():
            worker.stop()
        for master in started:
            master.__exit__()


def show(figures, names):
    heads = [f"{name}, objects/s (p50 us; processor us)" for name in names]
    print("| object | batch | operation | " + " | ".join(heads) + " | ours / upstream, processor time |")
    print("| --- | --- | --- |" + " --- |" * (len(names) + 1))
    for (size, batch, operation), by_name in figures.items():
        cells, medians, costs = [], {}, {}
        for name in names:
            rates = [rate for rate, *_ in by_name.get(name, [])]
            if not rates:
                cells.append("-")
                continue
            medians[name] = statistics.median(rates)
            middle = statistics.median(p50 for _, p50, _ in by_name[name])
            costs[name] = statistics.median(cost for *_, cost in by_name[name])
            cells.append(f"{medians[name]:,.0f} [{min(rates):,.0f}..{max(rates):,.0f}] "
                         f"({middle:,.0f}; {costs[name]:.1f})")
        # On the same wire.
        names_compared = ("ours tcp client, ours master", "upstream client, upstream master")
        ours, theirs = (medians.get(name) for name in names_compared)
        ratio = "-"
        if ours and theirs:
            cost, other = (costs[name] for name in names_compared)
            ratio = f"{ours / theirs:.1f}, {cost / other:.2f}" if other else f"{ours / theirs:.1f}"
        label = f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"
        print(f"| {label} | {batch} | {operation} | " + " | ".join(cells) + f" | {ratio} |")


def memcpy_rate(size):
    """Bytes per second of one core that walks through memory, as the objects are walked through."""
    source, target = (ctypes.create_string_buffer(IN_POOL) for _ in range(2))
    best = 0
    for _ in range(5):
        start = time.perf_counter()
        for at in range(0, IN_POOL, size):
            ctypes.memmove(ctypes.addressof(target) + at, ctypes.addressof(source) + at, size)
        best = max(best, IN_POOL / (time.perf_counter() - start))
    return best


def show_same_host(figures):
    """Our client without sockets, as a share of memcpy and of itself over TCP."""
    print("\n| object | batch | operation | GB/s without sockets | / memcpy | / over TCP |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (size, batch, operation), by_name in figures.items():
        here, tcp = (by_name.get(f"{name} client, ours master") for name in ("ours", "ours tcp"))
        if size < MIB or not here or not tcp or operation not in ("put", "get"):
            continue
        rate, other = (statistics.median(r for r, *_ in found) * size for found in (here, tcp))
        print(f"| {size // MIB} MiB | {batch} | {operation} | {rate / 1e9:.2f} | "
              f"{rate / memcpy_rate(size):.2f} | {rate / other:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--time-ms", type=int, default=500)
    parser.add_argument("--size", type=int, action="append")
    parser.add_argument("--role", choices=["hold", "measure"])
    parser.add_argument("--kind")
    parser.add_argument("--master")
    options = parser.parse_args()
    if options.role:
        serve(options.kind, options.role, options.master)
    run(options)


if __name__ == "__main__":
    main()
