#!/usr/bin/env python3
"""Store clients of ours and of upstream around masters of both kinds, in all mixtures.

    client_suite.py [WORD...]    only the tests whose name contains one of the words

Every test starts its own master and clients; objects are compared by length and checksum.
"""

import os
import pathlib
import subprocess
import sys
import time
import zlib

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "tests" / "store")]

import driver  # noqa: E402
import masters  # noqa: E402
from harness.peer import Peer  # noqa: E402
from harness.report import Report, expect  # noqa: E402

MIB = 1 << 20
SEGMENT = 64 * MIB
LOCAL_BUFFER = 48 * MIB
LEASE_MS = 300
# Where upstream cuts an object: below, at and above.
CUT = 16_777_200
WAIT_SECONDS = 30
LOAD_OBJECTS = 100_000 if os.environ.get("MOONCAKE_TEST_LONG") else 5_000
LOAD_SECONDS = 300
FULL_POOL = 512 * MIB
FULL_PUTS = 10_000 if os.environ.get("MOONCAKE_TEST_LONG") else 1_000
EXISTS, MISSING, LEASED, INVALID, NO_SPACE, NO_MASTER = -705, -704, -706, -600, -200, -900


def client(kind, role, master, segment=SEGMENT, local_buffer=LOCAL_BUFFER, prefix=(), **options):
    """A process with a client that is set up; `prefix` starts it somewhere else."""
    environment = masters.wheel().environment() if kind == "upstream" else dict(os.environ)
    command = [sys.executable, str(TREE / "tests" / "store" / "driver.py"), kind]
    peer = Peer(f"store-{kind}-{role}", command, environment, prefix)
    try:
        answer = peer.call("setup", host="127.0.0.1", master=master.address, segment=segment,
                           local_buffer=local_buffer, **options)
        expect(answer["code"] == 0, f"setup of {role}: {answer['code']}")
        peer.hostname = answer["hostname"]
        return peer
    except BaseException:
        peer.stop()
        raise


def look(seed, length):
    value = driver.made(seed, length)
    return [length, zlib.crc32(value)]


def same(got, wanted, what):
    expect(got == wanted, f"{what}: {got}, not {wanted}")


def eventually(what, condition, seconds=WAIT_SECONDS):
    end = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < end, f"{what}: not within {seconds} s")
        time.sleep(0.05)


def past_lease():
    time.sleep(2 * LEASE_MS / 1000)


def everything(master_kind, writer_kind, reader_kind, segments):
    """The whole list of operations, one client writing, another one reading. `segments`: how much
    memory each of the two gives."""
    with masters.Master(master_kind, default_kv_lease_ttl=LEASE_MS) as master, \
            client(writer_kind, "writer", master, segments[0]) as writer, \
            client(reader_kind, "reader", master, segments[1]) as reader:
        singles(writer, reader)
        batches(writer, reader)
        removals(writer, reader)
        return f"{writer.hostname}"


def settle(writer, reader, *objects):
    """Upstream over TCP says that a put is done when the bytes have left, not when they are there.
    After its puts the right bytes are waited for; everybody else is held to the word."""
    if "-upstream-" not in writer.label:
        return
    for key, wanted in zip(objects[::2], objects[1::2]):
        eventually(f"{key} has settled", lambda: reader.call("get", key=key)["got"] == wanted)


def gets(peer, key, wanted, what):
    """What upstream's client has copied when its lease is over it does not give out: on a busy
    machine it is asked again. Ours reads again on its own."""
    if "-upstream-" in peer.label:
        eventually(what, lambda: peer.call("get", key=key)["got"] == wanted)
    else:
        same(peer.call("get", key=key)["got"], wanted, what)


def singles(writer, reader):
    for number, length in enumerate([1, 17, 4096, 100_000, MIB, CUT - 1, CUT, CUT + 1]):
        key = f"single/{number}/ä {length}"
        same(writer.call("put", key=key, seed=number, length=length)["code"], 0, f"put {length}")
        settle(writer, reader, key, look(number, length))
        for peer in (reader, writer):
            gets(peer, key, look(number, length), f"get {length}")
        same(reader.call("size", key=key)["code"], length, "size")
        # Putting again is accepted or refused, and changes nothing.
        again = writer.call("put", key=key, seed=99, length=5)["code"]
        expect(again in (0, EXISTS), f"put again: {again}")
        gets(reader, key, look(number, length), f"get {length} again")
        if length > MIB:
            past_lease()
            same(writer.call("remove", key=key)["code"], 0, "remove")
    for peer in (writer, reader):
        missing = peer.call("get", key="absent")["got"]
        expect(missing in (MISSING, look(0, 0)), f"get of nothing: {missing}")
        same(peer.call("size", key="absent")["code"], MISSING, "size of nothing")
        same(peer.call("exists", keys=["absent", "single/0/ä 1"])["codes"], [0, 1], "exists")
        same(peer.call("remove", key="absent")["code"], MISSING, "remove of nothing")
        same(peer.call("put", key="empty", seed=0, length=0)["code"], INVALID, "put of nothing")


def batches(writer, reader):
    keys = [f"batch/{index}" for index in range(32)]
    sizes = [[1000 + 777 * index] for index in range(32)]
    codes = writer.call("put_batch", keys=keys, seeds=list(range(32)), parts=sizes)["codes"]
    same(codes, [0] * 32, "put_batch")
    wanted = [look(seed, size[0]) for seed, size in enumerate(sizes)]
    settle(writer, reader, *[part for pair in zip(keys, wanted) for part in pair])
    same(reader.call("get_batch", keys=keys, parts=sizes)["got"], wanted, "get_batch")
    room = [[size[0] + 100] for size in sizes]
    asked = [*keys[:3], "absent", keys[4]]
    got = reader.call("get_batch", keys=asked, parts=[*room[:3], [10], [3]])["got"]
    same(got, [*wanted[:3], MISSING, INVALID], "get_batch with a miss and too little room")
    same(reader.call("exists", keys=asked)["codes"], [1, 1, 1, 0, 1], "batch exists")
    same(reader.call("exists", keys=[])["codes"], [], "exists of no keys")
    for index in (0, 31):
        same(reader.call("get", key=keys[index])["got"], wanted[index], "get of a batch")


def removals(writer, reader):
    same(writer.call("remove", key="batch/0")["code"], LEASED, "remove with a lease")
    past_lease()
    same(writer.call("remove", key="batch/0")["code"], 0, "remove")
    same(reader.call("remove_by_regex", pattern="^batch/1[0-9]$")["code"], 10, "regex")
    same(reader.call("remove_by_regex", pattern="(")["code"], INVALID, "a wrong regex")
    same(reader.call("exists", keys=["batch/0", "batch/10", "batch/1"])["codes"], [0, 0, 1], "rest")
    past_lease()
    left = writer.call("remove_all")["code"]
    expect(left == 26, f"remove_all: {left}, not 26")
    same(reader.call("exists", keys=["batch/1"])["codes"], [0], "after remove_all")


def multi_buffer(master_kind, writer_kind, reader_kind):
    """Objects of several parts, read in the same cut, in one piece, and by single reads."""
    with masters.Master(master_kind, default_kv_lease_ttl=LEASE_MS) as master, \
            client(writer_kind, "writer", master) as writer, \
            client(reader_kind, "reader", master, 0) as reader:
        keys = [f"multi/{index}" for index in range(8)]
        parts = [[100 + index, 5000, 1, 65_536 * (1 + index)] for index in range(8)]
        codes = writer.call("put_batch", keys=keys, seeds=list(range(8)), parts=parts)["codes"]
        same(codes, [0] * 8, "put")
        wanted = [look(seed, sum(sizes)) for seed, sizes in enumerate(parts)]
        if reader_kind != "upstream":
            settle(writer, reader, *[part for pair in zip(keys, wanted) for part in pair])
        cuts = {"the same cut": parts}
        if reader_kind != "upstream":
            # Upstream's reader cannot do these.
            cuts["one piece"] = [[sum(sizes)] for sizes in parts]
            cuts["another cut"] = [[sum(sizes) - 77, 30, 47] for sizes in parts]
        for name, cut in cuts.items():
            got = reader.call("get_batch", keys=keys, parts=cut, same_node=True)["got"]
            if reader_kind == "upstream" and got != wanted:
                # It reads several buffers of one replica only when asked in the other way.
                got = reader.call("get_batch", keys=keys, parts=cut, same_node=False)["got"]
            same(got, wanted, name)


def replicas(master_kind, kind, other):
    """Two copies, and a reader that does not notice that one holder was killed."""
    with masters.Master(master_kind, default_kv_lease_ttl=LEASE_MS) as master, \
            client(kind, "holder1", master) as one, client(other, "holder2", master) as two, \
            client("ours", "reader", master, 0) as reader:
        for index in range(20):
            code = reader.call("put", key=f"r{index}", seed=index, length=50_000,
                               config={"replica_num": 2})["code"]
            same(code, 0, "put")
        one.kill()
        for index in range(20):
            same(reader.call("get", key=f"r{index}")["got"], look(index, 50_000), f"r{index}")
        expect(two.process.poll() is None, "the other holder lives")


def preferred(master_kind, kind):
    """The segment that is asked for is the one that is used."""
    with masters.Master(master_kind) as master, client(kind, "one", master) as one, \
            client(kind, "two", master) as two, client("ours", "writer", master, 0) as writer:
        for peer, name in ((one, "one"), (two, "two")):
            for index in range(5):
                code = writer.call("put", key=f"{name}{index}", seed=1, length=1000,
                                   config={"preferred_segment": peer.hostname})["code"]
                same(code, 0, "put")
        two.kill()
        for index in range(5):
            same(writer.call("get", key=f"one{index}")["got"], look(1, 1000), "of the living")
            lost = writer.call("get", key=f"two{index}")["got"]
            expect(isinstance(lost, int) and lost < 0, f"of the dead: {lost}")


def eviction(master_kind):
    """More than fits: soft-pinned objects stay, what is read is right."""
    flags = {"default_kv_lease_ttl": 50, "eviction_high_watermark_ratio": 0.8, "eviction_ratio": 0.2}
    with masters.Master(master_kind, **flags) as master, \
            client("ours", "writer", master) as writer:
        for index in range(10):
            code = writer.call("put", key=f"pin{index}", seed=index, length=MIB,
                               config={"with_soft_pin": True})["code"]
            same(code, 0, "pinned put")
        done = 0
        for index in range(200):
            code = writer.call("put", key=f"plain{index}", seed=index, length=MIB)["code"]
            expect(code in (0, NO_SPACE), f"put: {code}")
            done += code == 0
            if code != 0:
                time.sleep(0.05)
        expect(done > 100, f"only {done} of 200 puts found room")
        for index in range(10):
            same(writer.call("get", key=f"pin{index}")["got"], look(index, MIB), "pinned")
        survey = writer.call("survey", prefix="plain", count=200, length=MIB, seed=0)
        expect(survey["wrong"] == 0 and survey["missing"] > 0, f"{survey}")
        return f"{done}/200 puts, {survey['right']} left"


def full(master_kind):
    """No room is a number, not a hang, and what was there stays."""
    with masters.Master(master_kind, default_kv_lease_ttl=60_000) as master, \
            client("ours", "one", master, 16 * MIB) as one:
        same(one.call("put", key="a", seed=1, length=10 * MIB)["code"], 0, "put")
        # A lease keeps it; without one it would make room.
        same(one.call("exists", keys=["a"])["codes"], [1], "exists")
        same(one.call("put", key="b", seed=1, length=10 * MIB)["code"], NO_SPACE, "second put")
        same(one.call("put", key="c", seed=1, length=40 * MIB)["code"], NO_SPACE, "larger than all")
        same(one.call("get", key="a")["got"], look(1, 10 * MIB), "get")


def always_full():
    """Puts of mixed sizes into a pool that is full all the time: they find room, and it stays full."""
    flags = {"eviction_high_watermark_ratio": 0.99, "eviction_ratio": 0.002}
    with masters.Master("ours", **flags) as master, \
            client("ours", "holder", master, FULL_POOL) as holder, \
            client("ours", "writer", master, 0) as writer:
        # Fills it first, then stays at it.
        sizes = {"least": 4 << 10, "most": 16 * MIB, "seconds": LOAD_SECONDS}
        writer.call("mixed", prefix="first", count=FULL_PUTS // 4, seed=13, **sizes)
        done = writer.call("mixed", prefix="then", count=FULL_PUTS, seed=17, **sizes)
        used = master.metric("master_allocated_bytes") / master.metric("master_total_capacity_bytes")
        refused = FULL_PUTS - done["codes"].get("0", 0)
        expect(refused <= FULL_PUTS // 1000, f"{refused} of {FULL_PUTS} puts refused: {done}")
        expect(used >= 0.95, f"{used:.3f} of the pool in use")
        expect(done["bytes"] > 2 * FULL_POOL, "the pool was written over more than twice")
        same(holder.call("exists", keys=["first0"])["codes"], [0], "the oldest object")
        return f"{refused} of {FULL_PUTS} puts refused, {used:.1%} in use, {done['bytes'] >> 20} MiB put"


def master_restart(master_kind, keeps, **flags):
    """The master is killed and comes back: calls say so quickly meanwhile, and work afterwards."""
    with masters.Master(master_kind, **flags) as master, client("ours", "one", master) as one:
        same(one.call("churn", prefix="k", count=50, length=10_000, seed=3)["codes"], [0] * 50,
             "puts")
        master.kill()
        began = time.monotonic()
        same(one.call("put", key="x", seed=1, length=10)["code"], NO_MASTER, "put without a master")
        same(one.call("get", key="k1")["got"], NO_MASTER, "get without a master")
        same(one.call("exists", keys=["k1"])["codes"], [NO_MASTER], "exists without a master")
        expect(time.monotonic() - began < 20, "answers come within their deadlines")
        master.start()
        opened = time.monotonic()
        eventually("puts work again",
                   lambda: one.call("put", key="x", seed=1, length=10)["code"] in (0, EXISTS))
        back = time.monotonic() - opened
        same(one.call("get", key="x")["got"], look(1, 10), "get")
        survey = one.call("survey", prefix="k", count=50, length=10_000, seed=3)
        expect(survey["wrong"] == 0, f"{survey}")
        if keeps:
            eventually("everything is back", lambda: one.call(
                "survey", prefix="k", count=50, length=10_000, seed=3)["right"] == 50)
        return f"puts work after {back:.2f} s"


def restart_without_journal():
    """What living clients report is enough."""
    return master_restart("ours", True, enable_journal="false")


def groups_without_journal():
    """The master is killed and knows nothing afterwards: living clients tell of the groups, of what they put
    themselves and of what others put into their memory. One read leases all of its group, and nothing else."""
    keys = [f"k{index}" for index in range(8)]
    groups = ["g", "g", "h", "", "g", "", "h", "g"]
    with masters.Master("ours", enable_journal="false", default_kv_lease_ttl=60_000) as master, \
            client("ours", "one", master) as one, client("ours", "two", master) as two:
        for half in (slice(0, 4), slice(4, 8)):
            config = {"groups": groups[half],
                      "preferred_segment": (one if half.start == 0 else two).hostname}
            codes = one.call("put_batch", keys=keys[half], seeds=[1] * 4, parts=[[MIB]] * 4,
                             config=config)["codes"]
            same(codes, [0] * 4, "puts")
        for peer in (one, two):
            eventually("the holder knows", lambda: peer.call("health")["health"]["held"] == 4)
        master.kill()
        master.start()
        reported = "mooncake_master_reported_objects_total"
        eventually("all is reported", lambda: master.metric(reported) == len(keys))
        same(two.call("exists", keys=keys[:1])["codes"], [1], "one of a group")
        time.sleep(0.01)
        codes = [one.call("remove", key=key)["code"] for key in keys]
        same(codes, [LEASED if group == "g" else 0 for group in groups], "removals")
        got = two.call("get_batch", keys=keys, parts=[[MIB]] * 8)["got"]
        same(got, [look(1, MIB) if group == "g" else MISSING for group in groups], "what is left")


def killed_under_load(**flags):
    """The master is killed while puts run: what was complete before is there again, whole."""
    count = LOAD_OBJECTS
    with masters.Master("ours", **flags) as master, \
            client("ours", "holder", master, 512 * MIB) as holder, \
            client("ours", "writer", master, 0) as writer:
        codes = writer.call("churn", prefix="k", count=count, length=900, seed=9,
                            seconds=LOAD_SECONDS)["codes"]
        same(codes.count(0), count, "puts")
        # The holder hears of the last ones within milliseconds; with a journal nobody needs to.
        eventually("the holder knows", lambda: holder.call("health")["health"]["held"] == count)
        writer.send("churn", prefix="load", count=count, length=900, seed=11)
        eventually("puts run", lambda: holder.call("exists", keys=["load50"])["codes"] == [1])
        master.kill()
        master.start()
        opened = time.monotonic()
        eventually("puts work again",
                   lambda: holder.call("put", key="x", seed=1, length=10)["code"] in (0, EXISTS))
        back = time.monotonic() - opened
        writer.kill()
        eventually("the last one is back",
                   lambda: holder.call("exists", keys=[f"k{count - 1}"])["codes"] == [1])
        survey = holder.call("survey", prefix="k", count=count, length=900, seed=9,
                             seconds=LOAD_SECONDS)
        same([survey["right"], survey["wrong"]], [count, 0], "afterwards")
        load = holder.call("survey", prefix="load", count=count, length=900, seed=11,
                           seconds=LOAD_SECONDS)
        same(load["wrong"], 0, f"of those under way: {load}")
        return f"{count} objects whole; puts work after {back:.2f} s; {load['right']} more of the load"


def owner_killed(master_kind):
    """A holder dies: reads fail in time and never give other bytes; its objects go away."""
    with masters.Master(master_kind) as master, client("ours", "holder", master) as holder, \
            client("ours", "reader", master, 0) as reader:
        same(reader.call("churn", prefix="k", count=20, length=MIB, seed=5)["codes"], [0] * 20,
             "puts")
        holder.kill()
        began = time.monotonic()
        survey = reader.call("survey", prefix="k", count=20, length=MIB, seed=5, seconds=120)
        same([survey["right"], survey["wrong"]], [0, 0], "after the death")
        took = time.monotonic() - began
        code = reader.call("put", key="new", seed=1, length=10)["code"]
        expect(code < 0, f"a put without holders: {code}")
        return f"20 reads failed in {took:.2f} s"


def writer_killed(master_kind):
    """A writer dies while it writes: nothing that can be read is wrong."""
    with masters.Master(master_kind) as master, client("ours", "holder", master) as holder, \
            client("ours", "writer", master, 0) as writer:
        writer.send("churn", prefix="k", count=10_000, length=200_000, seed=7)
        eventually("it writes", lambda: holder.call("exists", keys=["k20"])["codes"] == [1])
        writer.kill()
        survey = holder.call("survey", prefix="k", count=60, length=200_000, seed=7)
        expect(survey["wrong"] == 0 and survey["right"] > 15, f"{survey}")
        # A key that was being written is refused or free, never a false success.
        for index in range(survey["right"] - 1, survey["right"] + 3):
            code = holder.call("put", key=f"k{index}", seed=7 + index, length=200_000)["code"]
            if code in (0, EXISTS):
                same(holder.call("get", key=f"k{index}")["got"], look(7 + index, 200_000), "put")


def command_line(master_kind):
    """`mc_store` does what it says, with exit statuses."""
    program = pathlib.Path(driver_target()) / "release" / "mc_store"
    expect(program.exists(), f"{program} was not built")
    with masters.Master(master_kind, default_kv_lease_ttl=LEASE_MS) as master, \
            client("ours", "holder", master):
        def run(*words, given=b""):
            done = subprocess.run([str(program), "--master", master.address, *words], input=given,
                                  capture_output=True, timeout=WAIT_SECONDS, check=False)
            return done.returncode, done.stdout

        value = driver.made(5, 100_000)
        same(run("put", "a/1", given=value), (0, b""), "put")
        same(run("put", "a/1", given=b"x")[0], 1, "put again")
        same(run("get", "a/1"), (0, value), "get")
        same(run("get", "a/2")[0], 3, "get of nothing")
        same(run("ls", "^a"), (0, b"a/1\n"), "ls")
        expect(b'"size_bytes": 100000' in run("stat", "a/1")[1], "stat")
        same(run("exists", "a/1", "a/2"), (3, b"1\ta/1\n0\ta/2\n"), "exists")
        same(run("exists", "a/1")[0], 0, "exists")
        same(run("rm", "a/2")[0], 3, "rm of nothing")
        past_lease()
        same(run("rm", "--regex", "^a"), (0, b"1\n"), "rm")
        same(run("rm")[0], 1, "rm without names")
        same(run("no_such_command")[0], 2, "a wrong command")
        code, lines = run("bench", "--size", "4096", "--batch", "4", "--time-ms", "50")
        expect(code == 0 and len(lines.splitlines()) == 3, f"bench: {code}, {lines}")


def driver_target():
    return os.environ.get("CARGO_TARGET_DIR", str(TREE / "target"))


def native(_):
    """Our client notices that the master is ours."""
    with masters.Master("ours") as master, client("ours", "one", master) as one:
        health = one.call("health")["health"]
        expect(health["native"] == 1 and health["reachable"] == 1, f"{health}")
        same(one.call("put", key="k", seed=1, length=10)["code"], 0, "put")
        eventually("it is told of it", lambda: one.call("health")["health"]["held"] == 1)


def main():
    report = Report("store_client", sys.argv[1:])
    for kind in ("upstream", "ours"):
        place = f"{kind}_master"
        for writer, reader in (("ours", "ours"), ("ours-c", "ours-c"), ("ours", "upstream"),
                               ("upstream", "ours"), ("upstream", "upstream")):
            if kind == "upstream" and (writer, reader) == ("upstream", "upstream"):
                continue
            report.run(f"{place}/{writer}_holds_{reader}_reads", everything, kind, writer, reader,
                       (SEGMENT, 0))
            if (writer, reader) != ("ours", "ours"):
                report.run(f"{place}/{writer}_writes_{reader}_holds", everything, kind, writer,
                           reader, (0, SEGMENT))
        report.run(f"{place}/ours_both_hold", everything, kind, "ours", "ours", (SEGMENT, SEGMENT))
        for writer, reader in (("ours", "ours"), ("ours", "upstream"), ("upstream", "ours")):
            report.run(f"{place}/multi_buffer/{writer}_to_{reader}", multi_buffer, kind, writer,
                       reader)
        for one, two in (("ours", "ours"), ("upstream", "ours"), ("ours", "upstream")):
            report.run(f"{place}/replicas/{one}_and_{two}", replicas, kind, one, two)
        for holder in ("ours", "upstream"):
            report.run(f"{place}/preferred/{holder}", preferred, kind, holder)
        report.run(f"{place}/eviction", eviction, kind)
        report.run(f"{place}/full", full, kind)
        report.run(f"{place}/master_restart", master_restart, kind, kind == "ours")
        report.run(f"{place}/owner_killed", owner_killed, kind)
        report.run(f"{place}/writer_killed", writer_killed, kind)
        report.run(f"{place}/mc_store", command_line, kind)
    report.run("ours_master/native", native, None)
    report.run("ours_master/master_restart_without_journal", restart_without_journal)
    report.run("ours_master/groups_without_journal", groups_without_journal)
    report.run("ours_master/always_full", always_full)
    report.run("ours_master/killed_under_load", killed_under_load)
    report.run("ours_master/killed_under_load_without_journal",
               lambda: killed_under_load(enable_journal="false"))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
