#!/usr/bin/env python3
"""Copies in files (`--root_fs_dir`) with both masters and both clients: who writes, who reads when no memory is
left, and what becomes of the files.

    tests/store/file_suite.py [case ...]
"""

import ctypes
import json
import os
import pathlib
import select
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "tests" / "store")]

import masters  # noqa: E402
from client_suite import LEASE_MS, MIB, SEGMENT, client, eventually, look, past_lease, same  # noqa: E402
from fault_disk import SmallDisk  # noqa: E402
from harness.report import Report, Skip, expect  # noqa: E402
from relay import Elsewhere, Relay  # noqa: E402

MISSING = -704
LOCK = ".mooncake_master.lock"
SHORT = json.dumps({"store_master_timeout_ms": 1500})
LENGTHS = [1, 4096, 3 * MIB + 5]


class Root:
    """A root of the tier that goes away in the end."""

    def __enter__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="mooncake-files-"))
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def files(self):
        return sorted(path for path in self.path.rglob("*") if path.is_file() and path.name != LOCK)


def master_of(kind, root, **flags):
    return masters.Master(kind, default_kv_lease_ttl=LEASE_MS, root_fs_dir=root.path, **flags)


def written(master, writer_kind, count):
    """Waits until the master was told of that many files. Upstream's client ends memory in the same call, ours
    in the batched one."""
    calls = 2 * count if writer_kind == "upstream" else count

    def told():
        lines = master.get("/metrics").splitlines()
        counts = [line.split()[1] for line in lines if line.startswith("master_put_end_requests_total ")]
        return bool(counts) and float(counts[0]) >= calls
    eventually("the files are written", told)


def key_of(index):
    return f"../file:{index}/ä"


def fill(master, writer, writer_kind):
    for index, length in enumerate(LENGTHS):
        same(writer.call("put", key=key_of(index), seed=index, length=length)["code"], 0, "put")
    written(master, writer_kind, len(LENGTHS))


def check(reader):
    for index, length in enumerate(LENGTHS):
        same(reader.call("size", key=key_of(index))["code"], length, "size")
        same(reader.call("get", key=key_of(index))["got"], look(index, length), f"get of {length} bytes")


def left_over(kind, writer_kind, reader_kind):
    """The memory goes away with its owner; the reader reads the files."""
    with Root() as root, master_of(kind, root) as master, client("ours", "holder", master) as holder, \
            client(writer_kind, "writer", master, 0) as writer, client(reader_kind, "reader", master, 0) as reader:
        fill(master, writer, writer_kind)
        same(len(root.files()), len(LENGTHS), "files")
        expect(all(root.path in path.resolve().parents for path in root.files()), f"{root.files()}")
        check(reader)
        holder.call("close")
        check(reader)
        # Several at once, of which one is in no file.
        keys = [key_of(0), "absent", key_of(1)]
        got = reader.call("get_batch", keys=keys, parts=[[1], [1], [4096]])["got"]
        if reader_kind == "ours":
            same(got, [look(0, 1), MISSING, look(1, 4096)], "get_batch")


def removed():
    """Files go with their objects: removed, or evicted when there are too many bytes of them."""
    with Root() as root, master_of("ours", root, global_file_segment_size=8 * MIB) as master, \
            client("ours", "holder", master) as holder:
        fill(master, holder, "ours")
        past_lease()
        for index in range(len(LENGTHS)):
            same(holder.call("remove", key=key_of(index))["code"], 0, "remove")
        eventually("the files go", lambda: not root.files())
        same(master.metric("master_allocated_file_size_bytes"), 0, "bytes of files")
        for index in range(30):
            same(holder.call("put", key=f"k{index}", seed=index, length=MIB)["code"], 0, "put")
            same(holder.call("get", key=f"k{index}")["got"], look(index, MIB), "get")
        expect(master.metric("master_allocated_file_size_bytes") <= 8 * MIB, "too many bytes of files")
        eventually("old files go", lambda: len(root.files()) <= 8)


def restarted():
    """With a journal the files outlive the master and every client."""
    with Root() as root, master_of("ours", root) as master:
        with client("ours", "holder", master) as holder:
            fill(master, holder, "ours")
            master.kill()
        master.start()
        with client("ours", "reader", master, 0) as reader:
            check(reader)
        same(len(root.files()), len(LENGTHS), "files")


def restarted_without_journal():
    """Without one the files say whose they are; those that do not, or are not whole, are deleted."""
    with Root() as root, master_of("ours", root, enable_journal="false") as master:
        foreign = root.path / "mooncake_cluster" / "a" / "b" / "of_somebody_else"
        with client("ours", "holder", master) as holder:
            fill(master, holder, "ours")
            same(holder.call("put", key="cut", seed=9, length=MIB)["code"], 0, "put")
            written(master, "ours", len(LENGTHS) + 1)
            good = root.files()
            cut = next(path for path in good if path.name.startswith("cut."))
            good.remove(cut)
            os.truncate(cut, cut.stat().st_size - 1)
            foreign.parent.mkdir(parents=True, exist_ok=True)
            foreign.write_bytes(b"x")
            master.kill()
        master.start()
        eventually("the files are taken over",
                   lambda: master.metric("mooncake_master_revived_files_total") == len(LENGTHS))
        eventually("the rest goes", lambda: root.files() == sorted([foreign, *good]))
        with client("ours", "reader", master, 0) as reader:
            check(reader)
            same(reader.call("get", key="cut")["got"], MISSING, "the one that was cut")


def lost_words(journal):
    """The words about files are lost, and the master is killed before they can be said again. The next one, with
    a journal or without, hears them or finds the files by itself; in any case they serve readers."""
    flags = {} if journal else {"enable_journal": "false"}
    with Root() as root, master_of("ours", root, **flags) as master, Relay(master.port) as relay, \
            client("ours", "holder", master) as holder, \
            client("ours", "writer", Elsewhere(relay.address), 0, json=SHORT) as writer:
        relay.lose(calls=["PutEnd"])
        indices = range(len(LENGTHS))
        codes = writer.call("put_batch", keys=[key_of(index) for index in indices], seeds=list(indices),
                            parts=[[length] for length in LENGTHS])["codes"]
        same(codes, [0] * len(LENGTHS), "puts")
        # So are the words that come again, once the first ones are given up.
        relay.lose(calls=["PutEnd", "BatchPutEnd"])
        eventually("the files are there", lambda: len(root.files()) == len(LENGTHS))
        eventually("words are lost again", lambda: relay.losses > 2)
        same(master.metric("master_put_end_requests_total"), 0, "words that arrived")
        master.kill()
        master.start()
        if not journal:
            eventually("the files are taken over",
                       lambda: master.metric("mooncake_master_revived_files_total") == len(LENGTHS))
        relay.mend()
        eventually("the words are said again", lambda: count(writer, "file_words_repeated") == len(LENGTHS))
        same((count(writer, "file_writes"), count(writer, "file_writes_failed")), (len(LENGTHS), 0), "files")
        same(len(root.files()), len(LENGTHS), "files")
        holder.kill()
        with client("ours", "reader", master, 0) as reader:
            check(reader)


def frozen_master():
    """The words are lost, and the master stands still when they are said again: it hears them when it goes on,
    those of before and those that are said once more, which changes nothing."""
    total = 16
    with Root() as root, master_of("ours", root) as master, Relay(master.port) as relay, \
            client("ours", "holder", master) as holder, \
            client("ours", "writer", Elsewhere(relay.address), 0, json=SHORT) as writer:
        relay.lose(calls=["PutEnd"])
        keys = [f"k{index}" for index in range(total)]
        codes = writer.call("put_batch", keys=keys, seeds=[1] * total, parts=[[MIB]] * total)["codes"]
        same(codes, [0] * total, "puts")
        os.kill(master.process.pid, signal.SIGSTOP)
        try:
            eventually("the files are there", lambda: len(root.files()) == total)
            eventually("it is silent", lambda: not writer.call("health")["health"]["reachable"])
        finally:
            os.kill(master.process.pid, signal.SIGCONT)
        relay.mend()
        eventually("it hears of all files", lambda: count(writer, "file_writes") == total)
        same((count(writer, "file_words_repeated"), count(writer, "file_writes_failed")), (total, 0), "words")
        same(len(root.files()), total, "files")
        holder.kill()
        with client("ours", "reader", master, 0) as reader:
            got = reader.call("get_batch", keys=keys, parts=[[MIB]] * total)["got"]
            same(got, [look(1, MIB)] * total, "of files")


def count(peer, name):
    return peer.call("metric", name=name)["value"]


def limits():
    """`--quota_bytes` and `--enable_disk_eviction`: the oldest files go, or a full tier takes no more."""
    for evict in ("true", "false"):
        with Root() as root, master_of("ours", root, quota_bytes=8 * MIB, enable_disk_eviction=evict) as master, \
                client("ours", "holder", master, 256 * MIB) as holder:
            same(master.metric("master_total_file_capacity_bytes"), 8 * MIB, "the limit")
            for index in range(30):
                same(holder.call("put", key=f"k{index}", seed=index, length=MIB)["code"], 0, "put")
                time.sleep(0.02)
            evicted = master.metric("mooncake_master_evicted_files_total")
            refused = master.metric("mooncake_master_refused_files_total")
            expect(master.metric("master_allocated_file_size_bytes") <= 8 * MIB, "bytes of files")
            expect((evicted > 0) == (evict == "true"), f"evicted {evicted} with eviction {evict}")
            expect(evict == "true" or refused == 22, f"refused {refused} with eviction {evict}")
            eventually("no more files than that", lambda: len(root.files()) <= 8)
            survey = holder.call("survey", prefix="k", count=30, length=MIB, seed=0)
            same(survey["right"], 30, "objects in memory")


def share_of_the_disk():
    """Without a number it is 90 % of the file system."""
    with Root() as root, master_of("ours", root) as master:
        size = os.statvfs(root.path)
        share = master.metric("master_total_file_capacity_bytes") / (size.f_blocks * size.f_frsize)
        expect(0.899 < share < 0.901, f"{share}")


def full_disk():
    """No room on the disk of the tier: puts succeed in memory, without a copy in a file; nobody finds half
    of one, and the log says so once a second at most."""
    count = 40
    with SmallDisk() as root:
        flags = {"global_file_segment_size": 1 << 40, "quota_bytes": 1 << 40}
        with masters.Master("ours", prefix=root.prefix, label="full-tier", default_kv_lease_ttl=LEASE_MS,
                            root_fs_dir=root.path, **flags) as master, \
                client("ours", "holder", master, 256 * MIB, prefix=root.prefix, warnings=True) as holder, \
                client("ours", "reader", master, 0, prefix=root.prefix) as reader:
            begin, began = holder.log_bytes(), time.monotonic()
            codes = holder.call("churn", prefix="k", count=count, length=MIB, seed=5)["codes"]
            same(codes, [0] * count, "puts")
            calls = ("master_put_end_requests_total", "master_put_revoke_requests_total")
            eventually("each file is written or taken back",
                       lambda: sum(master.metric(name) for name in calls) >= count)
            written_files, taken_back = (master.metric(name) for name in calls)
            expect(0 < written_files < count and taken_back > 0, f"{written_files}, {taken_back}")
            same(master.metric("mooncake_master_files"), written_files, "copies that the master knows")
            inside = [path for path in root.inside.rglob("*") if path.is_file() and path.name != LOCK]
            same(len(inside), written_files, "files")
            expect(not [path for path in inside if ".part" in path.name], f"{inside}")
            survey = {"prefix": "k", "count": count, "length": MIB, "seed": 5}
            same(reader.call("survey", **survey), {"right": count, "wrong": 0, "missing": 0}, "objects")
            same(holder.call("metric", name="file_writes_failed")["value"], taken_back, "the counter")
            lines = [line for line in holder.log_bytes()[len(begin):].splitlines() if b"not written" in line]
            seconds = time.monotonic() - began
            expect(1 <= len(lines) <= 1 + seconds, f"{len(lines)} lines in {seconds:.1f} s")
            # Their memory goes: what has a file is there, whole, and the rest is not.
            holder.kill()
            eventually("only files are left", lambda: len(master.get("/get_all_keys").split()) == written_files)
            seen = reader.call("survey", **survey)
            same(seen, {"right": written_files, "wrong": 0, "missing": count - written_files}, "of files")
            return f"{written_files:.0f} of {count} in files, {len(lines)} lines in {seconds:.1f} s"


def hung_file_system():
    """Opening a file stands still: the caller gets its error in time, objects in memory are read, other files
    are, puts go on, and the client can be closed."""
    with Root() as root, master_of("ours", root) as master, client("ours", "holder", master) as holder, \
            client("ours", "other", master) as other, \
            client("ours", "reader", master, 0, json=json.dumps({"transfer_timeout_ms": 2000})) as reader:
        for key, seed, where in (("hung", 1, holder), ("well", 2, holder), ("memory", 3, other)):
            config = {"preferred_segment": where.hostname}
            same(holder.call("put", key=key, seed=seed, length=MIB, config=config)["code"], 0, "put")
        written(master, "ours", 3)
        holder.call("close")
        same(reader.call("get", key="hung")["got"], look(1, MIB), "before it hangs")
        with Hang(next(path for path in root.files() if path.name.startswith("hung."))) as hang:
            for round_ in range(12):
                began = time.monotonic()
                got = reader.call("get", seconds=30, key="hung")["got"]
                expect(isinstance(got, int) and got < 0, f"a file that hangs: {got}")
                expect(time.monotonic() - began < 10, "in time")
                if round_ == 0:
                    # All eight threads stand still soon; a ninth caller is refused at once.
                    same(reader.call("get", key="well")["got"], look(2, MIB), "another file")
                    got = reader.call("get_batch", keys=["memory", "hung"], parts=[[MIB], [MIB]])["got"]
                    expect(got[0] == look(3, MIB) and got[1] < 0, f"a batch of both: {got}")
            same(reader.call("get", key="memory")["got"], look(3, MIB), "an object in memory")
            same(reader.call("put", key="new", seed=4, length=MIB)["code"], 0, "a put")
            expect(hang.caught > 0, "nobody was kept")
            hang.release()
            eventually("it is read again", lambda: reader.call("get", key="hung")["got"] == look(1, MIB))
            return f"{hang.caught} opened it"


def hung_write():
    """Making a file stands still: puts go on, what is not written after ten seconds is taken back at the master,
    who comes back leaves nothing behind, and closing does not wait for it."""
    keys, more = ["a", "b"], [f"more{index}" for index in range(20)]
    with Root() as root, master_of("ours", root) as master, client("ours", "holder", master) as holder, \
            client("ours", "writer", master, 0) as writer:
        def put(names):
            codes = writer.call("put_batch", keys=names, seeds=[1] * len(names),
                                parts=[[MIB]] * len(names))["codes"]
            same(codes, [0] * len(names), "puts")

        def removed_all():
            eventually("all is removed", lambda: writer.call("remove_all") and not root.files())

        put(keys)
        written(master, "ours", len(keys))
        folders = {path.parent for path in root.files()}
        removed_all()
        with Hang(*folders, flags=Hang.ON_CHILD) as hang:
            put(keys)
            eventually("both writers are kept", lambda: hang.caught >= len(keys))
            put(more)
            eventually("they are taken back", lambda: master.metric("mooncake_master_files") == 0)
            same(count(writer, "file_timeouts"), len(keys), "writers that are kept")
            same(count(writer, "file_writes_failed"), len(keys + more), "files that are not written")
            put(["late"])
            same(count(writer, "file_writes_failed"), len(keys + more) + 1, "one that is not queued")
            got = writer.call("get_batch", keys=[*keys, *more], parts=[[MIB]] * 22)["got"]
            same(got, [look(1, MIB)] * 22, "objects in memory")
            hang.release()
        eventually("files are written again", lambda: put([f"again{time.monotonic()}"]) or root.files())
        eventually("nothing else is left", lambda: len(root.files()) == count(writer, "file_writes") - len(keys))
        past_lease()
        removed_all()
        with Hang(*folders, flags=Hang.ON_CHILD) as hang:
            put(keys)
            eventually("both writers are kept", lambda: hang.caught >= len(keys))
            put(more)
            began = time.monotonic()
            writer.call("close", seconds=30)
            took = time.monotonic() - began
            expect(took < 20, f"closing took {took:.1f} s")
            eventually("they are taken back", lambda: master.metric("mooncake_master_files") == 0)
        eventually("nothing is left", lambda: not [path for path in root.files() if path.parent in folders])
        return f"closed in {took:.1f} s"


class Hang:
    """While it lasts whoever opens these files stands still: the kernel asks this process, which is silent."""

    ACCESS_PERMISSION = 0x10000
    ON_CHILD = 0x08000000
    EVENT = struct.Struct("<IBBHQii")

    def __init__(self, *paths, flags=0):
        self.caught = 0
        self.waiting = []
        libc = ctypes.CDLL(None, use_errno=True)
        # Of the class that may refuse; closed in children.
        self.group = libc.fanotify_init(0x4 | 0x1, os.O_RDONLY | os.O_LARGEFILE)
        if self.group < 0:
            raise Skip(f"no fanotify here: {os.strerror(ctypes.get_errno())}")
        add, here, mask = 0x1, ctypes.c_int(-100), ctypes.c_uint64(self.ACCESS_PERMISSION | flags)
        for path in paths:
            if libc.fanotify_mark(self.group, add, mask, here, os.fsencode(path)):
                reason = os.strerror(ctypes.get_errno())
                os.close(self.group)
                raise Skip(f"the kernel does not ask before a file is opened: {reason}")
        self.is_over = False
        self.thread = threading.Thread(target=self._catch, daemon=True)
        self.thread.start()

    def _catch(self):
        while not self.is_over:
            if not select.select([self.group], [], [], 0.05)[0]:
                continue
            for _, _, _, _, _, descriptor, _ in self.EVENT.iter_unpack(os.read(self.group, 24)):
                self.caught += 1
                self.waiting.append(descriptor)

    def release(self):
        if self.is_over:
            return
        self.is_over = True
        self.thread.join()
        for descriptor in self.waiting:
            os.write(self.group, struct.pack("<iI", descriptor, 1))
            os.close(descriptor)
        # Nobody is asked any more.
        os.close(self.group)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()


def broken_file_system():
    """A file that cannot be written is taken back; the object is fine in memory."""
    with Root() as root, master_of("ours", root) as master, client("ours", "holder", master) as holder:
        shutil.rmtree(root.path / "mooncake_cluster")
        (root.path / "mooncake_cluster").write_bytes(b"no folder")
        same(holder.call("put", key="k", seed=1, length=MIB)["code"], 0, "put")
        eventually("it is taken back", lambda: master.metric("master_put_revoke_requests_total") >= 1)
        same(holder.call("get", key="k")["got"], look(1, MIB), "get")
        same(master.metric("master_allocated_file_size_bytes"), 0, "bytes of files")


def changed_file():
    """Other bytes in a file are never given out."""
    with Root() as root, master_of("ours", root) as master, client("ours", "holder", master) as holder, \
            client("ours", "reader", master, 0) as reader:
        same(holder.call("put", key="k", seed=1, length=MIB)["code"], 0, "put")
        written(master, "ours", 1)
        holder.call("close")
        file = root.files()[0]
        whole = bytearray(file.read_bytes())
        for at in (0, MIB // 2, MIB - 1, len(whole) - 1):
            whole[at] ^= 1
            file.write_bytes(whole)
            got = reader.call("get", key="k")["got"]
            expect(isinstance(got, int) and got < 0, f"byte {at}: {got}")
            whole[at] ^= 1
        file.write_bytes(whole)
        same(reader.call("get", key="k")["got"], look(1, MIB), "get")


def main():
    report = Report("store_files", sys.argv[1:])
    for kind in ("upstream", "ours"):
        for writer, reader in (("ours", "ours"), ("ours", "upstream"), ("upstream", "ours")):
            report.run(f"{kind}_master/{writer}_writes_{reader}_reads", left_over, kind, writer, reader)
    report.run("ours_master/upstream_writes_upstream_reads", left_over, "ours", "upstream", "upstream")
    report.run("ours_master/removed", removed)
    report.run("ours_master/restarted", restarted)
    report.run("ours_master/restarted_without_journal", restarted_without_journal)
    report.run("ours_master/lost_words_with_journal", lost_words, True)
    report.run("ours_master/lost_words_without_journal", lost_words, False)
    report.run("ours_master/frozen_master", frozen_master)
    report.run("ours_master/limits", limits)
    report.run("ours_master/share_of_the_disk", share_of_the_disk)
    report.run("ours_master/full_disk", full_disk)
    report.run("ours_master/hung_file_system", hung_file_system)
    report.run("ours_master/hung_write", hung_write)
    report.run("ours_master/broken_file_system", broken_file_system)
    report.run("ours_master/changed_file", changed_file)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
