"""Modules that are programs: launchers, the metadata service, the store service, the settings."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

from common import CHILD_SECONDS, OURS, Memory, child, engine, environment, equal, last, peer
from harness.ports import free_port
from harness.report import Failed, expect
from masters import Master

MIB = 1 << 20


class Program:
    """`python -m mooncake.NAME`, ended with its group."""

    def __init__(self, module, *arguments, **extra):
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"mooncake.{module}", *arguments],
            env=dict(environment(OURS), **extra), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate()

    def end(self, number=signal.SIGTERM):
        """Asks it to end; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(CHILD_SECONDS)

    def failed(self):
        """(status, output) of a program that ends by itself."""
        told, _ = self.process.communicate(timeout=CHILD_SECONDS)
        return self.process.returncode, told


def ask(verb, url, body=None):
    """(status, body) of a request, an error status too."""
    request = urllib.request.Request(url, data=body, method=verb)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def until_served(program, url):
    """Waits for the first answer."""
    end = time.monotonic() + CHILD_SECONDS
    while time.monotonic() < end:
        if program.process.poll() is not None:
            raise Failed(f"ended: {program.failed()}")
        try:
            return ask("GET", url)
        except OSError:
            time.sleep(0.02)
    raise Failed(f"{url} does not answer")


def launchers_become_the_program():
    """Signals reach the program, and its exit status comes back."""
    port, http = free_port(), free_port()
    with Program("cli", f"--rpc_port={port}", f"--metrics_port={http}", "--enable_gc") as master:
        until_served(master, f"http://127.0.0.1:{http}/health")
        equal(master.end(), 0, "SIGTERM")
    for module in ("cli", "cli_bench", "http_metadata_server", "transfer_engine_topology_dump"):
        with Program(module, "--no_such_flag=1") as wrong:
            status, told = wrong.failed()
            expect(status not in (0, None) and "no_such_flag" in told.replace("-", "_"),
                   f"{module}: {status} {told[-200:]}")
    with Program("transfer_engine_topology_dump") as dump:
        status, told = dump.failed()
        expect(status == 0 and "cpu:0" in told, told)


def metadata(base):
    url = f"{base}/metadata?key=mooncake%2Fx"
    equal(ask("GET", url)[0], 404, "missing")
    equal(ask("PUT", url, b"{1}")[0], 200, "put")
    equal(ask("PUT", url, b"{2}")[0], 200, "again")
    equal(ask("GET", url), (200, b"{2}"), "get")
    equal(ask("DELETE", url)[0], 200, "delete")
    equal(ask("DELETE", url)[0], 404, "delete again")
    claimed = f"{base}/metadata?key=mooncake/rpc_meta/h"
    equal(ask("PUT", claimed, b"a")[0], 200, "claim")
    # By the first word engines know that a name is taken, and whether it was their own once.
    status, told = ask("PUT", claimed, b"b")
    expect(status == 400 and told.startswith(b"Duplicate"), f"claimed: {status} {told}")
    equal(ask("GET", claimed)[1], b"a", "the first stays")
    equal(ask("POST", url, b"x")[0], 405, "another verb")
    for verb, body in (("GET", None), ("PUT", b"x"), ("DELETE", None)):
        for query in ("", "?key=", "?other=k"):
            equal(ask(verb, f"{base}/metadata{query}", body)[0], 400, f"{verb} of no key")


def metadata_service():
    """As a program, and inside a process; two engines find each other through it."""
    from mooncake.engine import TransferEngine
    from mooncake.http_metadata_server import KVBootstrapServer, KVPoll
    port = free_port()
    with Program("http_metadata_server", "--port", str(port), "--host", "127.0.0.1",
                 "--log-level", "INFO") as service:
        until_served(service, f"http://127.0.0.1:{port}/health")
        metadata(f"http://127.0.0.1:{port}")
        equal(service.end(), 0, "SIGTERM")
    server = KVBootstrapServer(0, "127.0.0.1")
    equal(server.poll(), KVPoll.Failed, "before")
    server.run()
    base = f"http://127.0.0.1:{server.port}"
    metadata(base)
    equal(ask("PUT", f"{base}/metadata?key=%20k%20", b"v")[0], 200, "blanks around a key")
    equal((ask("GET", f"{base}/metadata?key=k"), server.store["k"]), ((200, b"v"), b"v"), "stripped")
    equal(ask("GET", f"{base}/metadata?key=%20%20")[0], 400, "blanks alone")
    again(f"{base}/metadata")
    a, b = TransferEngine(), TransferEngine()
    for made, name in ((a, "a"), (b, "b")):
        code = made.initialize(f"127.0.0.1:{free_port()}", f"{base}/metadata", "tcp", "")
        equal(code, 0, name)
    memory = Memory(64, seed=1)
    a.register_memory(memory.address, 64)
    name = name_of(b)
    place = b.allocate_managed_buffer(64)
    equal(a.transfer_sync_write(name, memory.address, place, 64), 0, "write")
    equal(b.read_bytes_from_buffer(place, 64), memory.bytes, "bytes")
    equal(a.get_first_buffer_address(name), place, "first buffer")
    a.close()
    b.close()
    equal(server.poll(), KVPoll.Success, "while it serves")
    server.close()
    server.close()


def again(server):
    """An engine that was killed is found under its name again, although its old entry is there."""
    name = f"127.0.0.1:{free_port()}"
    for _ in range(2):
        program = ("import os\nfrom mooncake.engine import TransferEngine\nmade = TransferEngine()\n"
                   f"print(made.initialize({name!r}, {server!r}, 'tcp', ''), flush=True)\n"
                   "os._exit(0)\n")
        equal(child(program), "0", "initialize")


def name_of(made):
    return made._core.name


def store_service():
    """The REST service with a file of settings; a second client reads what it put."""
    import tempfile
    from mooncake.store import MooncakeDistributedStore
    with Master("ours") as master, tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "mooncake.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"local_hostname": "127.0.0.1", "metadata_server": "P2PHANDSHAKE",
                       "global_segment_size": "16mb", "local_buffer_size": "4mb",
                       "master_server_address": master.address}, file)
        port = free_port()
        with Program("mooncake_store_service", "--config", path, "-D", "protocol=tcp",
                     "--port", str(port), "--host", "127.0.0.1") as service:
            base = f"http://127.0.0.1:{port}/api"
            until_served(service, f"{base}/exist/k")
            body = json.dumps({"key": "a/b c", "value": "wört"}).encode()
            equal(ask("PUT", f"{base}/put", body)[0], 200, "put")
            equal(ask("GET", f"{base}/get/a%2Fb%20c"), (200, "wört".encode()), "get")
            equal(ask("GET", f"{base}/get/none")[0], 404, "missing")
            equal(json.loads(ask("GET", f"{base}/exist/a/b%20c")[1]), {"exists": True}, "exist")
            client = MooncakeDistributedStore()
            equal(client.setup("127.0.0.1", "P2PHANDSHAKE", 0, MIB, "tcp", "", master.address), 0,
                  "client")
            equal(client.get("a/b c"), "wört".encode(), "the client")
            client.close()
            equal(ask("DELETE", f"{base}/remove/none")[0], 500, "remove nothing")
            time.sleep(0.4)  # The lease of the reads above.
            equal(ask("DELETE", f"{base}/remove/a%2Fb%20c")[0], 200, "remove")
            status, told = ask("DELETE", f"{base}/remove_all")
            equal((status, json.loads(told)["removed"]), (200, 0), "remove all")
            for wrong in (b"no json", b"[]", b"{}", b'{"key": 1, "value": "x"}', b'{"key": "k"}'):
                equal(ask("PUT", f"{base}/put", wrong)[0], 400, wrong)
            equal((ask("GET", f"{base}/nonsense")[0], ask("POST", f"{base}/put", b"{}")[0]),
                  (404, 405), "no such path, no such method")
            memory_comes_and_goes(base, master)
            equal(service.end(), 0, "SIGTERM")
        with Program("mooncake_store_service", "-D", "local_hostname=127.0.0.1", "-D",
                     "master_server_address=127.0.0.1:1", "--port", str(port),
                     "--max-wait-time", "1.5") as lost:
            status, told = lost.failed()
            expect(status == 1 and told.count("127.0.0.1:1") >= 2, f"{status} {told}")
        # The master may come later, and SIGTERM earlier.
        with Program("mooncake_store_service", "-D", "local_hostname=127.0.0.1", "-D",
                     "master_server_address=127.0.0.1:1", "--port", str(port)) as waiting:
            while "cannot be set up yet" not in waiting.process.stdout.readline():
                pass
            equal(waiting.end(), 0, "SIGTERM while it waits")
        with Program("mooncake_store_service", "-D", "local_hostname=127.0.0.1", "-D", "tenant_id=x",
                     "-D", f"master_server_address={master.address}", "--port", str(port),
                     "--max-wait-time", "0") as other:
            status, told = other.failed()
            expect(status == 1 and "tenants" in told, f"{status} {told}")
        with Program("mooncake_store_service", "-D", "colour=red") as wrong:
            status, told = wrong.failed()
            expect(status == 1 and "colour" in told, f"{status} {told}")


def memory_comes_and_goes(base, master):
    """POST /api/mount and /api/unmount: the pool grows and shrinks by it."""
    def post(call, /, **members):
        status, told = ask("POST", f"{base}/{call}", json.dumps(members).encode())
        return status, json.loads(told)

    before = master.metric("master_total_capacity_bytes")
    status, told = post("mount", size=32 * MIB)
    equal((status, told["status"], told["allocated_size"]), (200, "success", 32 * MIB), "mount")
    equal(master.metric("master_total_capacity_bytes"), before + 32 * MIB, "the pool")
    equal(post("unmount", segment_ids=["none"])[0], 500, "an unknown segment")
    equal(post("unmount", segment_ids=told["segment_ids"])[0], 200, "unmount")
    equal(master.metric("master_total_capacity_bytes"), before, "the pool again")
    for size in (0, -1, 1.5, "1", True, None):
        equal(post("mount", size=size)[0], 400, f"mount {size}")
    for wrong in ([], None, 1, [1]):
        equal(post("unmount", segment_ids=wrong)[0], 400, f"unmount {wrong}")
    equal(post("mount_shm", name="a", size=1)[0], 404, "memory of others")


def settings():
    """mooncake.mooncake_config: a file, the environment, sizes, what is missing."""
    import tempfile
    from mooncake.mooncake_config import DEFAULT_LOCAL_BUFFER_SIZE, MooncakeConfig
    needed = {"local_hostname": "h", "metadata_server": "P2PHANDSHAKE",
              "master_server_address": "m:1"}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        def written(content):
            file.seek(0)
            file.truncate()
            json.dump(content, file)
            file.flush()
            return MooncakeConfig.from_file(file.name)

        found = written(dict(needed, global_segment_size="4gb"))
        equal((found.global_segment_size, found.local_buffer_size, found.protocol,
               found.device_name), (4 << 30, DEFAULT_LOCAL_BUFFER_SIZE, "tcp", ""), "file")
        for name in needed:
            less = {key: value for key, value in needed.items() if key != name}
            raises(ValueError, f"Missing required config field: {name}", written, less)
        raises(ValueError, "much", written, dict(needed, global_segment_size="much"))
        for given, size in ((1.5, 1), ("1e9", 10 ** 9), ("1.5", 1), (" 3 gb ", 3 << 30)):
            equal(written(dict(needed, local_buffer_size=given)).local_buffer_size, size, given)
        for wrong in (-1, "-1", True, "", "gb", "inf", [1]):
            raises(ValueError, "", written, dict(needed, local_buffer_size=wrong))
        for given, meant in (("false", False), ("Off", False), ("1", True), (True, True), (None, False)):
            equal(written(dict(needed, enable_ssd_offload=given)).enable_ssd_offload, meant, given)
        raises(ValueError, "boolean", written, dict(needed, enable_ssd_offload="perhaps"))
        found = written(dict(needed, protocol=" TCP ", tenant_id=None, ssd_offload_path=None))
        equal((found.protocol, found.tenant_id, found.ssd_offload_path, found.client_http_port),
              ("tcp", "default", "", 9300), "of 0.3.13")
        for name in (*needed, "protocol"):
            raises(ValueError, name, written, dict(needed, **{name: " "}))
        before = dict(os.environ)
        try:
            os.environ["MOONCAKE_CONFIG_PATH"] = file.name
            written(needed)
            equal(MooncakeConfig.load_from_env().local_hostname, "h", "path")
            del os.environ["MOONCAKE_CONFIG_PATH"]
            raises(ValueError, "MOONCAKE_MASTER", MooncakeConfig.load_from_env)
            raises(ValueError, "MOONCAKE_CONFIG_PATH", MooncakeConfig.load_from_env)
            os.environ.update(MOONCAKE_MASTER="m:2", MOONCAKE_GLOBAL_SEGMENT_SIZE="1024",
                              LOCAL_HOSTNAME="l")
            found = MooncakeConfig.load_from_env()
            equal((found.master_server_address, found.metadata_server, found.global_segment_size,
                   found.local_hostname), ("m:2", "P2PHANDSHAKE", 1024, "l"), "variables")
        finally:
            os.environ.clear()
            os.environ.update(before)


def raises(kind, words, call, *arguments):
    try:
        call(*arguments)
    except kind as error:
        expect(words in str(error), f"{words} is not in: {error}")
        return
    raise Failed(f"no {kind.__name__} about {words}")


def a_peer_of_our_own_package():
    """The same test program that drives the wheels drives our package unchanged."""
    with peer(OURS) as there:
        made, _ = engine()
        equal(made.send_probe(there.name), 0, f"probe {last()}")


TESTS = (launchers_become_the_program, metadata_service, store_service, settings,
         a_peer_of_our_own_package)
