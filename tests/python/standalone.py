"""`mooncake_client`, a store client as a process of its own, and programs that attach to it."""

import ctypes
import json
import signal
import subprocess

import mooncake
from common import OURS, PACKAGE, Memory, environment, equal, refused
from harness.ports import free_port
from harness.report import expect
from masters import Master
from pool import MIB
from programs import Program, ask, until_served

INVALID = -600


class Standalone:
    """A master, and a `mooncake_client` that gives it memory."""

    def __init__(self, *flags):
        self.master, self.port, self.http = Master("ours"), free_port(), free_port()
        self.flags = flags

    def __enter__(self):
        self.master.start()
        # All the forms in which gflags takes a flag.
        self.program = Program(
            "cli_client", "--host=127.0.0.1", f"--port={self.port}", "--metadata_server",
            "P2PHANDSHAKE", "-global_segment_size", "32 MB", "--local-buffer-size=1mb",
            f"--master_server_address={self.master.address}", "--enable_http_server", "-threads=2",
            f"--http_port={self.http}", "--nostart_offload_rpc_server", *self.flags)
        for port in (self.port, self.http):  # One after the other they begin.
            until_served(self.program, f"http://127.0.0.1:{port}/health")
        return self

    def __exit__(self, *_):
        self.program.__exit__()
        self.master.kill()

    def attached(self):
        from mooncake.store import MooncakeDistributedStore
        store = MooncakeDistributedStore()
        code = store.setup_dummy(4 * MIB, MIB, f"127.0.0.1:{self.port}")
        equal(code, 0, f"setup_dummy: {mooncake.last_error()}")
        return store


def serves_and_ends():
    with Standalone() as there:
        for port in (there.port, there.http):
            equal(ask("GET", f"http://127.0.0.1:{port}/health"),
                  (200, b'{"status": "healthy", "code": 0}'), "health")
        status, text = ask("GET", f"http://127.0.0.1:{there.http}/metrics")
        expect(status == 200 and b"# TYPE" in text, text[:200])
        equal(ask("GET", f"http://127.0.0.1:{there.http}/metrics/summary")[0], 200, "summary")
        equal(ask("GET", f"http://127.0.0.1:{there.http}/nothing")[0], 404, "nothing")
        told = json.loads(ask("GET", f"http://127.0.0.1:{there.port}/attach")[1])
        equal((told["master_server_address"], told["metadata_server"], told["protocol"]),
              (there.master.address, "P2PHANDSHAKE", "tcp"), "attach")
        equal(there.master.get("/get_all_segments").split(), [told["hostname"]], "one segment")
        there.master.kill()
        equal(there.program.end(signal.SIGINT), 0, "SIGINT, without its master")


def programs_attach():
    """SGLang's stand-alone mode: memory of the allocator, registered, pages put and got by address;
    the pages stay when the program is gone, and the segment goes with the client."""
    from mooncake.store import MooncakeHostMemAllocator
    with Standalone() as there:
        store = there.attached()
        equal(len(there.master.get("/get_all_segments").split()), 1, "a dummy gives no memory")
        told = json.loads(ask("GET", f"http://127.0.0.1:{there.port}/attach")[1])["hostname"]
        equal(store.get_hostname().rpartition(":")[0], told.rpartition(":")[0], "the client's host")
        allocator, page = MooncakeHostMemAllocator(), Memory(8192, seed=31)
        place = allocator.alloc(1 << 20)
        equal(store.register_buffer(place, 1 << 20), 0, "register")
        memory = (ctypes.c_char * 8192).from_address(place)
        memory[:] = page.bytes
        keys = ["page_k", "page_v"]
        equal(store.batch_put_from(keys, [place, place + 4096], [4096] * 2), [0, 0], "put")
        equal(store.batch_get_into(keys, [place + 8192, place + 12288], [4096] * 2), [4096] * 2, "get")
        pool = store.alloc_from_mem_pool(5000)
        expect(pool > 0 and pool % 64 == 0, pool)
        equal(store.get_into("page_k", pool, 4096), 4096, "into it")
        # It is registered already; programs of 0.3.13 register what they took of it all the same.
        equal([store.register_buffer(pool, 5000) for _ in range(2)], [0, INVALID], "register a piece")
        equal([store.get_into_ranges([pool], [["page_k"]], [[[904]]], [[[0]]], [[[size]]])
               for size in (4096, 4097)], [[[[4096]]], [[[INVALID]]]], "to the end of the piece")
        equal([store.unregister_buffer(pool) for _ in range(2)], [0, INVALID], "unregister the piece")
        equal(store.get_into("page_k", pool, 4096), 4096, "the pool is registered still")
        equal((store.alloc_from_mem_pool(4 * MIB), store.alloc_from_mem_pool(0)), (0, 0), "too much")
        equal((store.put("v", b"value"), store.get("v"), store.batch_get_buffer(["v"])[0].size()),
              (0, b"value", 5), "values")
        equal((store.close(), allocator.free(place)), (0, 0), "close")
        other = there.attached()
        equal(other.get("page_v"), page.bytes[4096:], "another program")
        equal(there.program.end(), 0, "SIGTERM")
        equal(there.master.get("/get_all_segments").strip(), "", "the memory is gone")
        equal((other.get("page_v"), other.is_exist("page_v")), (b"", 0), "and the objects")
        other.close()


def attaching_to_nothing():
    from mooncake.store import MooncakeDistributedStore
    store = MooncakeDistributedStore()
    with Master("ours") as master:
        for address in (f"127.0.0.1:{free_port()}", f"127.0.0.1:{master.http_port}", "nonsense",
                        "127.0.0.1:99999", "127.0.0.1:x", ""):
            equal(store.setup_dummy(MIB, MIB, address), INVALID, address)
            expect("setup_dummy" in mooncake.last_error(), mooncake.last_error())
    refused(store.setup_dummy, -1, MIB, "a:1", name="mem_pool_size")
    refused(store.setup_dummy, MIB, 1.5, "a:1", name="local_buffer_size")
    refused(store.setup_dummy, MIB, MIB, 7, name="server_address")


def wrong_flags_end_with_one():
    nobody = f"--master_server_address=127.0.0.1:{free_port()}"
    for flags, word in ((("--no_such_flag=1",), "no_such_flag"), (("--port=x",), "port"),
                        (("--enable_offload",), "enable_offload"), (("--tenant_id=x",), "tenant"),
                        (("--global_segment_size=much", "--host=127.0.0.1"), "much"),
                        (("--enable_http_server=perhaps",), "perhaps"),
                        ((nobody, "--metadata_server=P2PHANDSHAKE", "--host=127.0.0.1",
                          "--global_segment_size=0"), "cannot be set up")):
        with Program("cli_client", *flags) as wrong:
            status, told = wrong.failed()
            expect(status == 1 and word in told, f"{flags}: {status} {told[-300:]}")


def the_file_in_the_package():
    """Scripts start it by its path."""
    done = subprocess.run([str(PACKAGE / "mooncake" / "mooncake_client"), "--help"],
                          env=environment(OURS), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=60, check=False)
    expect(done.returncode == 0 and "--master_server_address" in done.stdout, done.stderr)


TESTS = (serves_and_ends, programs_attach, attaching_to_nothing, wrong_flags_end_with_one,
         the_file_in_the_package)
