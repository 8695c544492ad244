"""The loop every peer is measured with: same memory, same requests, same clock.

A peer's file defines two classes and calls `main`:

    class Target:     __init__(region, options); info() -> dict sent to the initiator
    class Initiator:  __init__(region, options, info)
                      prepare(op, pairs, block_bytes, thread) -> plan; pairs: (local, remote)
                      run(plan): returns when done, raises on failure

The initiator process starts the target process and talks to it over its standard input and output,
one JSON object per line. It reads commands the same way and prints one JSON line per measurement,
so that a caller can interleave the peers it compares. Blocks are scattered: neither side's
addresses are consecutive, so that no engine can merge what a real block table would not let it
merge.
"""

import argparse
import ctypes
import json
import mmap
import os
import random
import resource
import subprocess
import sys
import threading
import time
import zlib

REGION_BYTES = 256 << 20
VERIFY_BYTES_MAX = 64 << 20
BLOCKS_PREPARED = 8192  # By all threads together; with 4 KiB blocks far beyond a core's own cache.
SAMPLES_MAX = 1_000_000
READY_TIMEOUT_S = 30


class Region:
    """Memory both sides register: mapped, touched, filled with bytes that differ by place."""

    def __init__(self, size_bytes, seed):
        self.size_bytes = size_bytes
        self.map = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.fill(0, size_bytes, seed)

    def fill(self, offset, length, seed):
        noise = random.Random(seed).randbytes(min(length, (1 << 20) - 1))
        while length:
            part = min(length, len(noise))
            self.map[offset : offset + part] = noise[:part]
            offset, length = offset + part, length - part

    def checksum(self, offset, length):
        return zlib.crc32(memoryview(self.map)[offset : offset + length])


def usage_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def serve_target(target_class, options):
    region = Region(options.region, seed=1)
    target = target_class(region, options)
    say({"address": region.address, **target.info()})
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "usage":
            say({"cpu_seconds": usage_seconds()})
        elif command["do"] == "checksums":
            length = command["length"]
            say({"checksums": [region.checksum(offset, length) for offset in command["offsets"]]})


class TargetProcess:
    """The other process; ends when its standard input closes, and is killed if it does not."""

    def __init__(self, arguments):
        self.process = subprocess.Popen(
            [sys.executable, *arguments, "--role", "target"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.info = self.read()

    def read(self):
        # A peer's own library may print to standard output; only JSON objects are ours.
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError("the target process ended early")

    def ask(self, command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        try:
            self.process.stdin.close()
            self.process.wait(timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


class Bench:
    def __init__(self, initiator_class, options):
        self.options = options
        self.target = TargetProcess(sys.argv)
        self.region = Region(options.region, seed=2)
        self.remote = self.target.info["address"]
        self.initiator = initiator_class(self.region, options, self.target.info)
        self.verified = set()
        self.plans = {}

    def offsets(self, block, batch, thread, threads):
        """Scattered (local, remote) offsets of each plan of one thread, the same for every peer."""
        slots = self.options.region // block
        order = random.Random(block)
        local, remote = list(range(slots)), list(range(slots))
        order.shuffle(local)
        order.shuffle(remote)
        plan_count = max(1, min(BLOCKS_PREPARED, slots) // (batch * threads))
        first = thread * plan_count * batch
        plans = []
        for plan in range(plan_count):
            start = first + plan * batch
            plans.append([
                (local[(start + i) % slots] * block, remote[(start + i) % slots] * block)
                for i in range(batch)
            ])
        return plans

    def prepared(self, op, block, batch, thread, threads):
        key = (op, block, batch, thread, threads)
        if key not in self.plans:
            self.plans[key] = [
                self.initiator.prepare(
                    op,
                    [(self.region.address + mine, self.remote + theirs) for mine, theirs in plan],
                    block,
                    thread,
                )
                for plan in self.offsets(block, batch, thread, threads)
            ]
        return self.plans[key]

    def verify(self, op, block, batch):
        """A rate counts only if the bytes arrived: one plan is run and compared."""
        if (op, block, batch) in self.verified:
            return
        pairs = self.offsets(block, batch, 0, 1)[0][: max(1, VERIFY_BYTES_MAX // block)]
        for number, (mine, _) in enumerate(pairs):
            self.region.fill(mine, block, seed=1000 + number + (op == "read"))
        self.initiator.run(self.prepared(op, block, batch, 0, 1)[0])
        # A dialect without acknowledgement returns before the last byte is stored.
        for _ in range(50):
            mine = [self.region.checksum(offset, block) for offset, _ in pairs]
            theirs = self.target.ask(
                {"do": "checksums", "length": block, "offsets": [offset for _, offset in pairs]}
            )["checksums"]
            if mine == theirs:
                self.verified.add((op, block, batch))
                return
            time.sleep(0.02)
        raise RuntimeError(f"{op} of {batch} x {block} bytes: the bytes did not arrive")

    def measure(self, op, block, batch, threads, seconds):
        self.verify(op, block, batch)
        plans = [self.prepared(op, block, batch, thread, threads) for thread in range(threads)]
        self.run_threads(plans, min(0.15, seconds / 2))
        cpu = usage_seconds()
        cpu_target = self.target.ask({"do": "usage"})["cpu_seconds"]
        samples_ns, elapsed = self.run_threads(plans, seconds)
        cpu = usage_seconds() - cpu
        cpu_target = self.target.ask({"do": "usage"})["cpu_seconds"] - cpu_target
        samples_ns.sort()
        operations = len(samples_ns)
        gigabytes = operations * batch * block * 1e-9
        return {
            "peer": self.options.peer, "op": op, "block_bytes": block, "batch": batch,
            "threads": threads, "operations": operations, "seconds": round(elapsed, 4),
            "gb_per_s": round(gigabytes / elapsed, 4),
            "blocks_per_s": round(operations * batch / elapsed, 1),
            "p50_us": round(percentile(samples_ns, 0.5) * 1e-3, 2),
            "p99_us": round(percentile(samples_ns, 0.99) * 1e-3, 2),
            "cpu_s_per_gb_initiator": round(cpu / gigabytes, 4),
            "cpu_s_per_gb_target": round(cpu_target / gigabytes, 4),
        }

    def run_threads(self, plans, seconds):
        """Runs each thread's plans in turn until the time is over; samples and wall time."""
        results, failures = [[] for _ in plans], []
        start_line = threading.Barrier(len(plans) + 1)

        def work(thread):
            run, mine, samples = self.initiator.run, plans[thread], results[thread]
            clock, count = time.perf_counter_ns, len(plans[thread])
            start_line.wait()
            try:
                before = clock()
                end, turn = before + int(seconds * 1e9), 0
                while before < end and len(samples) < SAMPLES_MAX:
                    run(mine[turn % count])
                    after = clock()
                    samples.append(after - before)
                    before, turn = after, turn + 1
            except Exception as failure:  # Told to the caller of the measurement.
                failures.append(failure)

        workers = [threading.Thread(target=work, args=(thread,)) for thread in range(len(plans))]
        for worker in workers:
            worker.start()
        start_line.wait()
        start = time.perf_counter()
        for worker in workers:
            worker.join()
        elapsed = time.perf_counter() - start
        if failures:
            raise failures[0]
        return [sample for result in results for sample in result], elapsed


def serve_initiator(initiator_class, options):
    bench = Bench(initiator_class, options)
    try:
        say({"ready": options.peer})
        for line in sys.stdin:
            command = json.loads(line)
            try:
                say(bench.measure(**command))
            except Exception as failure:
                text = f"{type(failure).__name__}: {failure}"
                say({"peer": options.peer, **command, "error": text})
    finally:
        bench.target.close()


def measure_once(initiator_class, options):
    bench = Bench(initiator_class, options)
    try:
        for op in options.op.split(","):
            for block in (int(text) for text in options.block.split(",")):
                for batch in (int(text) for text in options.batch.split(",")):
                    say(bench.measure(op, block, batch, options.threads, options.seconds))
    finally:
        bench.target.close()


def main(target_class, initiator_class, add_options=None, prepare_process=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=["initiator", "target", "serve"], default="initiator",
                        help="serve: commands as JSON lines on standard input")
    parser.add_argument("--region", type=int, default=REGION_BYTES,
                        help="bytes registered on each side")
    parser.add_argument("--op", default="write,read")
    parser.add_argument("--block", default="4096,1048576", help="bytes, comma separated")
    parser.add_argument("--batch", default="1,32", help="blocks per request list, comma separated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5)
    if add_options:
        add_options(parser)
    options = parser.parse_args()
    if prepare_process:
        prepare_process(options)
    if options.role == "target":
        serve_target(target_class, options)
    elif options.role == "serve":
        serve_initiator(initiator_class, options)
    else:
        measure_once(initiator_class, options)
    sys.stdout.flush()
    # Some peers' libraries crash or hang in their exit handlers; nothing is left to do here.
    os._exit(0)
