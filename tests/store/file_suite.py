#!/usr/bin/env python3
"""Copies in files (`--root_fs_dir`) with both masters and both clients: who writes, who reads when no memory is
left, and what becomes of the files.

    tests/store/file_suite.py [case ...]
"""

import pathlib
import shutil
import sys
import tempfile

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "tests" / "store")]

import masters  # noqa: E402
from client_suite import LEASE_MS, MIB, SEGMENT, client, eventually, look, past_lease, same  # noqa: E402
from harness.report import Report, expect  # noqa: E402

MISSING = -704
LOCK = ".mooncake_master.lock"
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
    """Without one nobody knows them any more, and they are deleted."""
    with Root() as root, master_of("ours", root, enable_journal="false") as master:
        foreign = root.path / "mooncake_cluster" / "a" / "b" / "of_somebody_else"
        with client("ours", "holder", master) as holder:
            fill(master, holder, "ours")
            foreign.parent.mkdir(parents=True, exist_ok=True)
            foreign.write_bytes(b"x")
            master.kill()
        master.start()
        eventually("the orphans go", lambda: root.files() == [foreign])


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
    report.run("ours_master/broken_file_system", broken_file_system)
    report.run("ours_master/changed_file", changed_file)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
