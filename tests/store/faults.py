#!/usr/bin/env python3
"""Seeded faults around a master of ours and its clients; readers check every byte.

    faults.py [WORD...]    only the tests whose name contains one of the words

Every number is drawn from one seed, which is printed; MOONCAKE_TEST_SEED=N takes that one.
MOONCAKE_TEST_LONG=1 runs longer and with more seeds.
"""

import os
import pathlib
import random
import subprocess
import sys
import threading
import time

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "tests" / "store"),
                str(TREE / "tests" / "namespaces")]

import masters  # noqa: E402
from client_suite import client, eventually, same  # noqa: E402
from fault_disk import SmallDisk  # noqa: E402
from fault_plan import carry_out, draw  # noqa: E402
from fault_world import MIB, World  # noqa: E402
from harness.report import Failed, Report, expect  # noqa: E402
from network import ADDRESSES, Network  # noqa: E402

LONG = bool(os.environ.get("MOONCAKE_TEST_LONG"))
SEEDS = 6 if LONG else 1
SECONDS = 40 if LONG else 4
ROUNDS = 8 if LONG else 2
# Longer than the pause between two tries to begin a journal anew.
TRIES_SECONDS = 8 if LONG else 0
LATE_WRITERS = 6
INSIDE_SECONDS = SECONDS + 240


def mixture(seed, journal):
    """Three providers, two writers, two readers, a pool that is too small for all objects, and
    faults of every kind."""
    with World(seed, keys=400, journal=journal) as world:
        world.providers(3, 16 * MIB)
        half = world.board.keys // 2
        world.writer("writer0", 0, half)
        world.writer("writer1", half, half)
        world.reader("reader0")
        world.reader("reader1")
        plan = draw(world.rng, SECONDS, [actor.label for actor in world.actors])
        carry_out(world, plan)
        return summary(world.settle(), len(plan))


def with_upstream(seed):
    """The same beside unmodified clients of upstream, one of each kind. They themselves can read and
    leave wrong bytes, so faults strike ours only, and what ours put is read by ours."""
    with World(seed, keys=400, release_seconds=600) as world:
        world.providers(2, 16 * MIB)
        world.add("their-provider", segment=16 * MIB, kind="upstream")
        half = world.board.keys // 2
        world.writer("their-writer", 0, half, kind="upstream")
        world.writer("writer", half, half)
        world.reader("their-reader", checked=False, kind="upstream")
        world.reader("reader", first=half)
        ours = [actor.label for actor in world.actors if actor.kind == "ours"]
        plan = draw(world.rng, SECONDS, ours)
        carry_out(world, plan)
        return summary(world.settle(), len(plan))


def late_readers(seed):
    """Readers stop in the middle of their copies, for longer than leases and rests, while what they
    read is replaced all the time."""
    with World(seed, keys=60, size_max=2 * MIB) as world:
        world.providers(2, 32 * MIB)
        late = [world.reader(f"late{index}") for index in range(4)]
        for index in range(3):
            world.writer(f"writer{index}", 20 * index, 20, sizes=(MIB // 2, 2 * MIB))
        return again_and_again(world, late, (0.3, 2.0))


def late_holders(seed):
    """Holders stop for longer than their time to live, while they are written to by calls with a
    long deadline; then they are mounted again, with these writes still under way."""
    with World(seed, keys=100, size_max=2 * MIB, transfer_ms=30_000) as world:
        late = world.providers(2, 32 * MIB)
        for index in range(4):
            world.writer(f"writer{index}", 20 * index, 20, sizes=(MIB // 2, 2 * MIB))
        world.writer("small", 80, 20)
        world.reader("reader")
        return again_and_again(world, late, (2.3, 3.5))


def again_and_again(world, late, seconds):
    world.watch(0.5)
    for _ in range(ROUNDS):
        for actor in late:
            world.log(f"freeze {actor.label}")
            actor.freeze()
            world.watch(world.rng.uniform(0, 0.2))
        world.watch(world.rng.uniform(*seconds))
        for actor in late:
            actor.thaw()
        world.log("all go on")
        world.watch(1)
    return summary(world.settle(), ROUNDS * len(late))


def late_writers(seed, freeze_seconds=9):
    """Writers stop in the middle of their puts, are given up, and their ranges are given to others;
    then they go on as if nothing had been. Their calls have a long deadline."""
    with World(seed, keys=160, size_max=2 * MIB, transfer_ms=30_000) as world:
        world.providers(1, 32 * MIB)
        late = [world.writer(f"late{index}", 10 * index, 10, sizes=(MIB, 2 * MIB))
                for index in range(LATE_WRITERS)]
        world.writer("writer", 60, 100)
        world.reader("reader")
        world.watch(1)
        for actor in late:
            world.log(f"freeze {actor.label}")
            actor.freeze()
            world.watch(world.rng.uniform(0, 0.2))
        world.watch(freeze_seconds)
        for actor in late:
            actor.thaw()
        world.log("all go on")
        world.watch(2)
        return summary(world.settle(), len(late))


def partition(seed):
    """One provider, one writer and one reader at the other end of a cable that is cut and slow at
    times, beside the other faults. The suite itself runs at the near end."""
    with Network() as network:
        command = [*network.prefix(0), sys.executable, __file__, "--inside", str(seed)]
        done = subprocess.run([*command, *network.names], capture_output=True, text=True,
                              timeout=INSIDE_SECONDS, check=False)
        expect(done.returncode == 0, done.stdout + done.stderr)
        return done.stdout


def inside(seed, names):
    """The run of `partition`, inside the network."""
    network = Network(names=names)
    with World(seed, keys=400, host=ADDRESSES[0]) as world:
        world.providers(2, 16 * MIB)
        far = {"prefix": network.prefix(1), "host": ADDRESSES[1]}
        world.add("far-provider", segment=16 * MIB, **far)
        half = world.board.keys // 2
        world.writer("writer", 0, half)
        world.writer("far-writer", half, half, **far)
        world.reader("reader")
        world.reader("far-reader", **far)
        plan = draw(world.rng, SECONDS, [actor.label for actor in world.actors],
                    ("cut", "cut", "cut", "narrow", "narrow"))
        carry_out(world, plan, network)
        return summary(world.settle(), len(plan))


def disk_full():
    """The disk under the journal fills up: the master goes on without one, says so, and begins anew
    when there is room; it is killed in both states, and what is read afterwards is right."""
    with SmallDisk() as disk:
        with masters.Master("ours", prefix=disk.prefix, label="disk", data_dir=disk.path / "journal",
                            default_kv_lease_ttl=200) as master, \
                client("ours", "holder", master) as holder, \
                client("ours", "writer", master, 0) as writer:
            begin = master.log_path.stat().st_size

            def put(prefix):
                codes = writer.call("churn", prefix=prefix, count=300, length=900, seed=5)["codes"]
                same(codes, [0] * 300, f"puts {prefix}")

            def survey(*prefixes):
                for prefix in prefixes:
                    seen = writer.call("survey", prefix=prefix, count=300, length=900, seed=5)
                    same(seen, {"right": 300, "wrong": 0, "missing": 0}, f"objects {prefix}")

            def works():
                return master.metric("mooncake_master_journal_works")

            put("before")
            same(works(), 1, "the journal works")
            disk.fill()
            began = time.monotonic()
            put("full")
            same(works(), 0, "the metric of the journal")
            same(master.get("/health"), "OK", "health")
            put("still")
            lines = master.log_path.read_bytes()[begin:].decode("utf-8", "replace").splitlines()
            counted = len([line for line in lines if "journal" in line])
            expect(counted <= 2 + time.monotonic() - began, f"{counted} lines about the journal")
            eventually("all are known", lambda: holder.call("health")["health"]["held"] == 900)
            restart(master, writer, 900)
            same(works(), 0, "the metric of the journal after a start without room")
            survey("before", "full", "still")
            time.sleep(TRIES_SECONDS)
            same(works(), 0, "the metric of the journal after a try without room")
            disk.clear()
            eventually("the journal works again", lambda: works() == 1)
            put("room")
            restart(master, writer, 1200)
            same(works(), 1, "the journal works")
            survey("before", "full", "still", "room")
            return f"{counted} lines about it in {time.monotonic() - began:.0f} s"


def restart(master, reader, count):
    """Kills the master and waits until what was there is there again."""
    master.kill()
    master.start()
    eventually("the pool is back", lambda: len(master.get("/get_all_keys").split()) == count)
    eventually("the first is read",
               lambda: isinstance(reader.call("get", key="before0")["got"], list))


def summary(counts, faults):
    whole = counts.get("get whole", 0)
    puts = counts.get("put 0", 0)
    heal = counts.pop("heal_ms")
    rest = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())
                     if name not in ("get whole", "put 0"))
    return f"{faults} faults, {puts} puts, {whole} reads whole, healed in {heal} ms; {rest}"


def main():
    if sys.argv[1:2] == ["--inside"]:
        try:
            print(inside(int(sys.argv[2]), sys.argv[3:]))
            return 0
        except Failed as error:
            print(error)
            return 1
    report = Report("faults", sys.argv[1:])
    first = os.environ.get("MOONCAKE_TEST_SEED")
    seed = int(first) if first else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    side_by_side(report, lanes(seed, sys.argv[1:]))
    return report.finish()


def lanes(seed, words):
    """What runs one after the other in each lane: name, test, arguments. Words choose from all."""
    once = [
        [("mixture/journal/0", mixture, seed, True), ("mixture/no_journal/0", mixture, seed, False)],
        [("late_writers/0", late_writers, seed), ("late_readers/0", late_readers, seed)],
        [("disk_full", disk_full), ("partition/0", partition, seed)],
    ]
    if not LONG and not words:
        return once
    # One after the other, so that each has the machine.
    rest = [("late_holders/0", late_holders, seed), ("with_upstream/0", with_upstream, seed)]
    for index in range(1, SEEDS):
        more = seed + index
        rest += [(f"mixture/journal/{index}", mixture, more, True),
                 (f"mixture/no_journal/{index}", mixture, more, False),
                 (f"partition/{index}", partition, more),
                 (f"late_writers/{index}", late_writers, more),
                 (f"late_readers/{index}", late_readers, more),
                 (f"late_holders/{index}", late_holders, more),
                 (f"with_upstream/{index}", with_upstream, more)]
    return [sum(once, []) + rest]


def side_by_side(report, all_lanes):
    """Most of these tests wait most of their time."""
    def run(tests):
        for test in tests:
            report.run(*test)

    threads = [threading.Thread(target=run, args=(tests,), daemon=True) for tests in all_lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
