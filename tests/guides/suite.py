#!/usr/bin/env python3
"""The guides by which upstream is deployed: their commands and settings, word for word, on what is built here.

In a network namespace of its own with the addresses of the guides, so that ports and addresses are theirs too.
docs/guides.md is the table of what each guide says; every test named there is one of these.
"""

import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests"))

from harness.own_network import prefix  # noqa: E402
from harness.report import Failed, Report, Skip, expect  # noqa: E402

INSIDE = "MOONCAKE_TEST_OWN_NETWORK"
HOST, HOST6 = "192.168.0.137", "fd00::137"
SECONDS = 60
PROGRAMS = ("mooncake_master", "mooncake_http_metadata_server", "transfer_engine_bench",
            "transfer_engine_topology_dump")
STAND_IN = f"{sys.executable} {TREE}/examples/stand_in/server.py"
PROXY = f"{sys.executable} -m mooncake.vllm_v1_proxy_server"
QWEN = "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4"

# What the guides for NPUs export beside paths: for HCCL, CANN, vLLM and Mooncake's own.
ASCEND_VARIABLES = {
    "HCCL_EXEC_TIMEOUT": "204", "HCCL_CONNECT_TIMEOUT": "120", "HCCL_IF_IP": "localhost",
    "GLOO_SOCKET_IFNAME": "lo", "TP_SOCKET_IFNAME": "lo", "HCCL_SOCKET_IFNAME": "lo",
    "ASCEND_RT_VISIBLE_DEVICES": "0,1,2,3", "OMP_PROC_BIND": "false", "OMP_NUM_THREADS": "100",
    "VLLM_USE_V1": "1", "VLLM_BASE_PORT": "9700", "ASCEND_TRANSPORT_PRINT": "1",
    "ACL_OP_INIT_MODE": "1", "ASCEND_AGGREGATE_ENABLE": "1"}
LIBRARY_PATH = {"LD_LIBRARY_PATH": "/usr/local/lib64:"}


class Place:
    """What an installation would leave: the package with its files, and programs on PATH."""

    def __init__(self, folder):
        built = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TREE / "target")) / "release"
        self.folder = pathlib.Path(folder)
        package, programs = self.folder / "site" / "mooncake", self.folder / "bin"
        shutil.copytree(TREE / "python" / "mooncake", package,
                        ignore=shutil.ignore_patterns("__pycache__"))
        programs.mkdir()
        for name in ("libmooncake.so", *PROGRAMS):
            (package / name).symlink_to(built / name)
        for name in PROGRAMS:
            (programs / name).symlink_to(built / name)

    def environment(self, **extra):
        found = {name: value for name, value in os.environ.items() if name != "MOONCAKE_LIBRARY"}
        return dict(found, PYTHONPATH=str(self.folder / "site"), PYTHONDONTWRITEBYTECODE="1",
                    PATH=f"{self.folder / 'bin'}:{os.environ['PATH']}", HOME=str(self.folder),
                    **extra)

    def write(self, name, content):
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content),
                        encoding="utf-8")
        return str(path)


PLACE = None


class Running:
    """A command of a guide, in the background until the end of the `with`."""

    def __init__(self, command, ports, **extra):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(shlex.split(command), env=PLACE.environment(**extra),
                                        cwd=PLACE.folder, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, start_new_session=True)
        self.ports = ports

    def __enter__(self):
        end = time.monotonic() + SECONDS
        try:
            for host, port in self.ports:
                while not answers(host, port):
                    expect(self.process.poll() is None, f"ended: {self.told()[-400:]}")
                    expect(time.monotonic() < end, f"{host} {port}: {self.told()[-400:]}")
                    time.sleep(0.05)
        except Failed:
            self.kill()
            raise
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def told(self):
        self.log.seek(0)
        return self.log.read()

    def end(self):
        """Its status after a SIGTERM."""
        self.process.terminate()
        return self.process.wait(SECONDS)


def answers(host, port):
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def ask(url, body=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body and json.dumps(body).encode(),
                                     {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return answer.read().decode()


def python(program, **extra):
    """Runs a Python program as an installed one would run."""
    done = subprocess.run([sys.executable, "-c", program], env=PLACE.environment(**extra), text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS,
                          check=False, cwd=PLACE.folder)
    expect(done.returncode == 0, (done.stdout + done.stderr)[-500:])
    return done.stdout.strip()


MASTERS = {
    # name: (command, ports of RPC, metrics and metadata, host, variables)
    "ec_ipv4": ("mooncake_master --rpc_port 50051 --enable_http_metadata_server=true "
                "--http_metadata_server_host=0.0.0.0 --http_metadata_server_port=8081 "
                "--metrics_port 9004 --rpc_thread_num 8 --eviction_ratio 0.05 "
                "--eviction_high_watermark_ratio 0.9", (50051, 9004, 8081), HOST, LIBRARY_PATH),
    "ec_ipv6": ("mooncake_master --rpc_port 50051 --rpc_address=:: --enable_http_metadata_server=true "
                "--http_metadata_server_host=:: --http_metadata_server_port=8080 --metrics_port 9003 "
                "--rpc_thread_num 8 --eviction_ratio 0.05 --eviction_high_watermark_ratio 0.9 "
                "--default_kv_lease_ttl=5000", (50051, 9003, 8080), HOST6,
                {**LIBRARY_PATH, "MC_USE_IPV6": "1"}),
    "pooling": ("mooncake_master --port 50088", (50088, 9003, None), HOST, {}),
    "sglang": ("mooncake_master --rpc_port=50051 --config_path=mooncake_config.yaml "
               "--enable_http_metadata_server=1 -v=1", (50051, 9003, 8080), HOST, {}),
    "vllm": (f"{sys.executable} master.py --port 50001", (50001, 9003, None), HOST, {}),
    "vllm_gc": (f"{sys.executable} master.py --port 50001 --max_threads 8 --enable_gc",
                (50001, 9003, None), HOST, {}),
}

# What vLLM's guide tells to write: the program of the package, made executable and run.
MASTER_PY = """
import argparse, os, subprocess, sys
from importlib.resources import files
from mooncake import *
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=50051)
parser.add_argument("--max_threads", type=int, default=4)
parser.add_argument("--enable_gc", action="store_true")
given = parser.parse_args()
path = files("mooncake") / "mooncake_master"
os.chmod(path, 0o755)
command = [path, "--port", str(given.port), "--max_threads", str(given.max_threads)]
sys.exit(subprocess.run(command + ["--enable_gc"] * given.enable_gc).returncode)
"""


def started(name):
    """The master of a guide."""
    PLACE.write("master.py", MASTER_PY)
    PLACE.write("mooncake_config.yaml", "default_kv_lease_ttl: 5000\nmetrics_port: 9003\n")
    command, (rpc, metrics, metadata), host, extra = MASTERS[name]
    # The pages have an address of their own, which no guide sets: 0.0.0.0.
    ports = [(host, rpc), (HOST, metrics)] + [(host, metadata)] * bool(metadata)
    return Running(command, ports, **extra)


def masters(name):
    """It serves where the guide says, says nothing alarming, and ends when it is asked to."""
    _, (_, metrics, metadata), host, _ = MASTERS[name]
    netloc = f"[{host}]" if ":" in host else host
    with started(name) as master:
        expect(ask(f"http://{HOST}:{metrics}/health"), "no health")
        expect("master_" in ask(f"http://{HOST}:{metrics}/metrics"), "no metrics")
        if metadata:
            url = f"http://{netloc}:{metadata}/metadata?key=k"
            urllib.request.urlopen(urllib.request.Request(url, b"v", method="PUT"), timeout=SECONDS)
            expect(ask(url) == "v", "metadata")
        if "master.py" not in MASTERS[name][0]:  # There the script has the signal.
            expect(master.end() == 0, "SIGTERM")
        bad = [line for line in master.told().splitlines() if line[:1] in "EF"
               or "without effect" in line and "enable_gc" not in line]
        expect(not bad, bad)


# A client as connectors make it: seven arguments by position, from a file's fields.
CLIENT = """
import json, mooncake, sys
from mooncake.store import MooncakeDistributedStore
def client(f):
    s = MooncakeDistributedStore()
    code = s.setup(f["local_hostname"], f["metadata_server"], f["global_segment_size"],
                   f["local_buffer_size"], f["protocol"], f["device_name"],
                   f["master_server_address"])
    assert code == 0, (code, mooncake.last_error())
    return s
"""
USE = CLIENT + """
from mooncake.mooncake_config import MooncakeConfig
one, other = client({one!r}), client({other!r})
assert one.put("key", b"value") == 0, mooncake.last_error()
assert other.get("key") == b"value", mooncake.last_error()
other.close(); one.close()
print("moved")
"""
FROM_FILE = CLIENT + """
from mooncake.mooncake_config import MooncakeConfig
one, other = [client(vars(MooncakeConfig.load_from_env())) for _ in range(2)]
assert one.put("key", b"value") == 0, mooncake.last_error()
assert other.get("key") == b"value", mooncake.last_error()
other.close(); one.close()
print("moved")
"""


def ec_connector(family):
    """The fields of --ec-transfer-config: a producer with 30 GiB, a consumer with none."""
    host, port = (HOST, 8081) if family == "ipv4" else (HOST6, 8080)
    netloc = host if family == "ipv4" else f"[{host}]"
    fields = {"local_hostname": host, "metadata_server": f"http://{netloc}:{port}/metadata",
              "global_segment_size": 32212254720, "local_buffer_size": 1073741824,
              "protocol": "tcp", "device_name": "", "master_server_address": f"{netloc}:50051",
              "replica_num": 1, "transfer_timeout": 5, "fast_transfer": True,
              "fast_transfer_buffer_size": 1, "ec_max_num_scheduled_tokens": "1000000000000000000"}
    extra = {"MC_MS_AUTO_DISC": "0", "MC_TCP_BIND_ADDRESS": host}
    if family == "ipv6":
        extra["MC_USE_IPV6"] = "1"
    with started(f"ec_{family}"):
        program = USE.format(one=fields, other=dict(fields, global_segment_size=0))
        expect(python(program, **extra) == "moved", "nothing moved")


def kv_pool_beside_ec():
    """MooncakeConnectorStoreV1 with its settings in kv_connector_extra_config."""
    fields = {"local_hostname": HOST, "metadata_server": f"http://{HOST}:8081/metadata",
              "protocol": "tcp", "device_name": "", "master_server_address": f"{HOST}:50051",
              "global_segment_size": 30000000000, "local_buffer_size": 1 << 30}
    with started("ec_ipv4"):
        expect(python(USE.format(one=fields, other=fields)) == "moved", "nothing moved")


METADATA = ("192.168.0.137:2379", "etcd://192.168.0.137:2379",
            "etcd://192.168.0.137:2379,192.168.0.138:2379", "redis://192.168.0.137:6379",
            "http://192.168.0.137:8080/metadata")


def metadata_servers(server):
    """Every form of "metadata_server" in vLLM's guide, with its file for RDMA and its file for TCP."""
    if "2379" in server:
        command, port = ("etcd --listen-client-urls http://0.0.0.0:2379 "
                         "--advertise-client-urls http://localhost:2379"), 2379
    elif "redis" in server:
        command, port = "redis-server --protected-mode no --save ''", 6379
    else:
        command, port = f"{sys.executable} -m mooncake.http_metadata_server", 8080
    if shutil.which(command.split()[0]) is None:
        raise Skip(f"{command.split()[0]} is not installed")
    with Running(command, [(HOST, port)]), started("vllm"):
        for protocol, device in (("rdma", "erdma_0,erdma_1"), ("rdma", "erdma_0"), ("tcp", "")):
            path = PLACE.write("mooncake.json", {
                "local_hostname": HOST, "metadata_server": server, "protocol": protocol,
                "device_name": device, "master_server_address": f"{HOST}:50001"})
            expect(python(FROM_FILE, MOONCAKE_CONFIG_PATH=path) == "moved", protocol)


def vllm_instances():
    """Prefill and decode of vLLM's guide through etcd, its proxy's flags, instances added by key."""
    if shutil.which("etcd") is None:
        raise Skip("etcd is not installed")
    config = PLACE.write("mooncake.json", {
        "local_hostname": HOST, "metadata_server": f"etcd://{HOST}:2379", "protocol": "rdma",
        "device_name": "erdma_0", "master_server_address": f"{HOST}:50001"})

    def instance(port, role):
        flags = json.dumps({"kv_connector": "MooncakeStoreConnector", "kv_role": role})
        return Running(f"{STAND_IN} --model {QWEN} --port {port} --max-model-len 10000 "
                       f"--gpu-memory-utilization 0.8 --kv-transfer-config '{flags}'",
                       [("127.0.0.1", port)], MOONCAKE_CONFIG_PATH=config, VLLM_USE_V1="0",
                       CUDA_VISIBLE_DEVICES="1")

    with Running("etcd --listen-client-urls http://0.0.0.0:2379 "
                 "--advertise-client-urls http://localhost:2379", [(HOST, 2379)]), \
            started("vllm"), instance(8100, "kv_producer"), instance(8101, "kv_producer"), \
            instance(8200, "kv_consumer"), instance(8201, "kv_consumer"), \
            Running(f"{PROXY} --model {QWEN} --prefill localhost:8100 localhost:8101 "
                    "--decode localhost:8200 localhost:8201 --port 8000 --scheduling round_robin",
                    [("127.0.0.1", 8000)], ADMIN_API_KEY="xxxxxxxx"):
        body = {"model": QWEN, "prompt": "San Francisco is a", "max_tokens": 1000}
        for _ in range(2):
            told = ask("http://localhost:8000/v1/completions", body)
            expect("2 from the pool, 0 computed" in told, told)
        for kind, port in (("prefill", 8102), ("decode", 8202)):
            ask("http://localhost:8000/instances/add",
                {"type": kind, "instance": f"localhost:{port}"}, X_API_Key="xxxxxxxx")
        status = json.loads(ask("http://localhost:8000/status"))
        expect((status["prefill_node_count"], status["decode_node_count"]) == (3, 3), status)


def pooling_on_npus(layout):
    """The guide for pooling on NPUs: protocol "ascend", both connectors or the pool alone."""
    config = PLACE.write("mooncake.json", {
        "local_hostname": HOST, "metadata_server": "P2PHANDSHAKE", "protocol": "ascend",
        "device_name": "", "master_server_address": f"{HOST}:50088",
        "global_segment_size": 30000000000})

    def instance(port, connector):
        return Running(f"{STAND_IN} --model /xxxxx/Qwen2.5-7B-Instruct --port {port} "
                       "--trust-remote-code --enforce-eager --no_enable_prefix_caching "
                       "--tensor-parallel-size 1 --data-parallel-size 1 --max-model-len 10000 "
                       "--block-size 128 --max-num-batched-tokens 4096 --mooncake-protocol ascend "
                       f"--kv-transfer-config '{json.dumps(connector)}'", [("127.0.0.1", port)],
                       MOONCAKE_CONFIG_PATH=config, **ASCEND_VARIABLES)

    body = {"model": "/xxxxx/Qwen2.5-7B-Instruct", "prompt": "Hello. I have a question.",
            "max_tokens": 200, "temperature": 0}
    if layout == "mixed":
        alone = {"kv_connector": "MooncakeConnectorStoreV1", "kv_role": "kv_both",
                 "kv_connector_extra_config": {"use_layerwise": False, "mooncake_rpc_port": "0",
                                               "load_async": True, "register_buffer": True}}
        with started("pooling"), instance(8100, alone):
            told = [ask("http://localhost:8100/v1/completions", body) for _ in range(2)]
        expect("0 from the pool" in told[0] and "2 from the pool" in told[1], told)
        return

    def both(role, port, rpc):
        sizes = {"prefill": {"dp_size": 1, "tp_size": 1}, "decode": {"dp_size": 1, "tp_size": 1}}
        return {"kv_connector": "MultiConnector", "kv_role": role, "kv_connector_extra_config": {
            "use_layerwise": False, "connectors": [
                {"kv_connector": "MooncakeConnectorV1", "kv_role": role, "kv_port": port,
                 "kv_connector_extra_config": sizes},
                {"kv_connector": "MooncakeConnectorStoreV1", "kv_role": role,
                 "mooncake_rpc_port": rpc}]}}

    with started("pooling"), instance(8100, both("kv_producer", "20001", "0")), \
            instance(8200, both("kv_consumer", "20002", "1")), \
            Running(f"{PROXY} --host localhost --prefiller-hosts localhost --prefiller-ports 8100 "
                    "--decoder-hosts localhost --decoder-ports 8200", [("127.0.0.1", 8000)]):
        told = ask("http://localhost:8000/v1/completions", body)
        expect("2 from a peer" in told, told)
        told = ask("http://localhost:8200/v1/completions", body)
        expect("2 from the pool" in told, told)


def connector_on_npus():
    """mooncake.json of MooncakeConnectorV1's guide, and its variables: no warning, and a transfer."""
    path = PLACE.write("mooncake.json", {"prefill_url": "localhost:15272",
                                         "decode_url": "localhost:14012",
                                         "metadata_backend": "http", "protocol": "ascend"})
    program = """
import json, os, mooncake
from mooncake.engine import TransferEngine
from mooncake.native import Engine
file = json.load(open(os.environ["MOONCAKE_CONFIG_PATH"]))
one, other = TransferEngine(), TransferEngine()
assert one.initialize("localhost", "P2PHANDSHAKE", file["protocol"], "") == 0, mooncake.last_error()
# The first connector of vLLM gave the backend beside an address without a scheme.
assert other.initialize_ext(file["decode_url"], "localhost:8080/metadata", file["protocol"], "",
                            file["metadata_backend"]) == 0, mooncake.last_error()
third = TransferEngine()
assert third.initialize_ext(file["prefill_url"], "localhost:8080/metadata", file["protocol"], "",
                            file["metadata_backend"]) == 0, mooncake.last_error()
mine, theirs = third.allocate_managed_buffer(64), other.allocate_managed_buffer(64)
assert third.write_bytes_to_buffer(mine, b"hello", 5) == 0
assert third.transfer_sync_write(file["decode_url"], mine, theirs, 5) == 0, mooncake.last_error()
assert other.read_bytes_from_buffer(theirs, 5) == b"hello"
with Engine("localhost") as engine:
    print(engine.dump()["warnings"])
"""
    with Running(f"{sys.executable} -m mooncake.http_metadata_server", [(HOST, 8080)]):
        told = python(program, MOONCAKE_CONFIG_PATH=path, MC_TCP_BIND_ADDRESS="127.0.0.1",
                      **ASCEND_VARIABLES)
    expect(told == "[]", f"warnings: {told}")


def store_service_of_sglang():
    """A service of its own, from variables and from a file; SGLang's client gives no memory."""
    fields = {"local_hostname": HOST, "metadata_server": f"http://{HOST}:8080/metadata",
              "protocol": "tcp", "device_name": "", "master_server_address": f"{HOST}:50051",
              "global_segment_size": "4gb", "local_buffer_size": 0}
    path = PLACE.write("service.json", fields)
    variables = {"MOONCAKE_MASTER": f"{HOST}:50051", "MOONCAKE_PROTOCOL": "tcp",
                 "MOONCAKE_TE_META_DATA_SERVER": f"http://{HOST}:8080/metadata",
                 "MOONCAKE_GLOBAL_SEGMENT_SIZE": "4294967296", "MOONCAKE_DEVICE": "",
                 "MOONCAKE_LOCAL_HOSTNAME": HOST}
    service = f"{sys.executable} -m mooncake.mooncake_store_service"
    for command, extra in ((f"{service} --config={path} --port=8081", {}),
                           (f"{service} --port 8081", variables)):
        with started("sglang"), Running(command, [(HOST, 8081)], **extra):
            end = time.monotonic() + SECONDS
            while not ask(f"http://{HOST}:9003/get_all_segments").strip():
                expect(time.monotonic() < end, "no segment")
            client = dict(fields, global_segment_size=0, local_buffer_size=16 << 20)
            expect(python(USE.format(one=client, other=client)) == "moved", "nothing moved")


def cmake_options():
    """The options of the guides for a build from source are known to nobody here, and no obstacle."""
    if shutil.which("cmake") is None:
        raise Skip("cmake is not installed")
    options = ("-DUSE_TCP=ON -DUSE_MNNVL=OFF -DUSE_HIP=OFF -DUSE_NVMEOF=OFF -DUSE_CXL=OFF "
               "-DUSE_INTRA_NVLINK=OFF -DUSE_EFA=OFF -DUSE_BAREX=OFF -DSTORE_USE_ETCD=ON -DWITH_TE=ON "
               "-DWITH_STORE=ON -DCMAKE_POLICY_VERSION_MINIMUM=4.0 -DBUILD_UNIT_TESTS=OFF "
               "-DBUILD_EXAMPLES=OFF")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["cmake", "-S", str(TREE), "-B", folder, *options.split()], text=True,
                              capture_output=True, check=False, timeout=SECONDS * 3)
        expect(done.returncode == 0, (done.stdout + done.stderr)[-400:])
        installs = (pathlib.Path(folder) / "cmake_install.cmake").read_text()
        expect("mooncake_master" in installs, "make install leaves mooncake_master out")


def main(words):
    global PLACE
    report = Report("guides", words)
    tests = [(masters, name) for name in MASTERS]
    tests += [(ec_connector, "ipv4"), (ec_connector, "ipv6"), (kv_pool_beside_ec,)]
    tests += [(metadata_servers, server) for server in METADATA]
    tests += [(vllm_instances,), (pooling_on_npus, "multi"), (pooling_on_npus, "mixed"),
              (connector_on_npus,), (store_service_of_sglang,), (cmake_options,)]
    with tempfile.TemporaryDirectory() as folder:
        PLACE = Place(folder)
        for test, *arguments in tests:
            report.run("/".join([test.__name__, *arguments]), test, *arguments)
    return report.finish()


def in_a_network_of_its_own(words):
    addresses = " ".join((f"{HOST}/32", "192.168.0.138/32", f"{HOST6}/128"))
    before = prefix(addresses)
    if not before:
        print("skip guides this user may not make a network namespace with addresses of its own")
        print("end guides 0 passed, 0 failed, 1 skipped")
        return 0
    os.environ[INSIDE] = "1"
    os.execvp(before[0], [*before, sys.executable, "-u", __file__, *words])
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) if os.environ.get(INSIDE) else in_a_network_of_its_own(sys.argv[1:]))
