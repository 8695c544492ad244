#!/usr/bin/env python3
"""What a call from Python costs: ours and both upstream wheels, at 1 to 16384 entries a call.

    bench/python_boundary.py [ROUNDS]

Two columns. "refused" is a batch whose lists do not fit: every implementation converts all
arguments and then answers -1, so this is the binding alone. "moved" writes entries of 8 bytes to an
engine of the same kind in the same process: over TCP, and with ours also the way that it chooses by
itself, which is without sockets. Runs of all take turns; medians and extremes are told. No speed is
asserted.
"""

import ctypes
import pathlib
import statistics
import subprocess
import sys
import time

TREE = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TREE / "tests" / "python"))

ENTRIES = (1, 32, 1024, 16384)
SECONDS_OF_A_RUN = 0.3
ROUNDS = 5


def measure():
    """In a process of its own: prints calls per second, a line for each size and kind."""
    from mooncake.engine import TransferEngine
    a, b = TransferEngine(), TransferEngine()
    for made in (a, b):
        if made.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") != 0:
            sys.exit("initialize failed")
    size = 8 * max(ENTRIES)
    here, there = (ctypes.c_char * size)(), (ctypes.c_char * size)()
    a.register_memory(ctypes.addressof(here), size)
    b.register_memory(ctypes.addressof(there), size)
    name = f"127.0.0.1:{b.get_rpc_port()}"
    for count in ENTRIES:
        lists = [[ctypes.addressof(array) + 8 * place for place in range(count)]
                 for array in (here, there)] + [[8] * count]
        for what, lengths in (("refused", lists[2][:-1]), ("moved", lists[2])):
            call, arguments = a.batch_transfer_sync_write, (name, lists[0], lists[1], lengths)
            wanted = 0 if what == "moved" else -1
            if call(*arguments) != wanted:
                sys.exit(f"{what} with {count} entries is not {wanted}")
            calls, start = 0, time.perf_counter()
            while (passed := time.perf_counter() - start) < SECONDS_OF_A_RUN:
                call(*arguments)
                calls += 1
            print(count, what, calls / passed, flush=True)


def main(rounds):
    import common
    common.library()
    found = {}
    for _ in range(rounds):
        for kind in (f"{common.OURS}, TCP", *common.IMPLEMENTATIONS):
            try:
                environment = common.environment(kind.partition(",")[0])
            except common.Skip as reason:
                print(reason)
                continue
            if kind != common.OURS:
                environment = dict(environment, MC_SAME_HOST="0")
            done = subprocess.run([sys.executable, __file__, "--measure"], env=environment,
                                  capture_output=True, text=True, timeout=120, check=False)
            if done.returncode != 0:
                # What it measured before it gave up still counts.
                print(f"{kind}: {(done.stderr.strip().splitlines() or ['no reason'])[-1][-200:]}")
            for line in done.stdout.splitlines():
                words = line.split()
                # 0.3.7 prints on the same stream.
                if len(words) == 3 and words[1] in ("refused", "moved"):
                    found.setdefault((words[1], int(words[0]), kind), []).append(float(words[2]))
    print("| kind | entries | implementation | calls/s: median | lowest | highest |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for (what, count, kind), rates in sorted(found.items()):
        print(f"| {what} | {count} | {kind} | {statistics.median(rates):,.0f} | {min(rates):,.0f} "
              f"| {max(rates):,.0f} |")


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure"]:
        measure()
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else ROUNDS)
