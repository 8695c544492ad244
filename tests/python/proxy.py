"""The proxy of prefill and decode, with model servers that only say what they were asked."""

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from common import equal
from harness.ports import free_port
from harness.report import expect
from programs import Program, ask, until_served

KEY = "secret"


class Model(BaseHTTPRequestHandler):
    """Streams three pieces when it is asked to decode; holds the second until it is told."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Quiet."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        params = asked.get("kv_transfer_params") or {}
        self.send_response(200)
        if params.get("do_remote_decode"):
            body = json.dumps({"kv_transfer_params": {"remote_host": self.server.name}}).encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for turn, piece in enumerate((b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n")):
            if turn == 1 and not self.server.go.wait(30):
                return
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    """A model server in a thread."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Model)
        self.name = f"127.0.0.1:{self.server_address[1]}"
        self.asked, self.go = [], threading.Event()
        self.go.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def end(self):
        self.shutdown()
        self.server_close()


def completes(port, prompt="hello"):
    body = json.dumps({"prompt": prompt, "stream": True, "max_tokens": 9}).encode()
    return ask("POST", f"http://127.0.0.1:{port}/v1/completions", body)


def round_robin_and_instances_that_come_and_go():
    prefill, first, second = Server(), Server(), Server()
    port = free_port()
    with Program("vllm_v1_proxy_server", "--host", "127.0.0.1", "--port", str(port), "--prefill",
                 f"http://{prefill.name}", "--decode", f"http://{first.name}",
                 ADMIN_API_KEY=KEY) as proxy:
        base = f"http://127.0.0.1:{port}"
        until_served(proxy, f"{base}/status")
        equal(completes(port), (200, b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"), "through")
        equal((prefill.asked[0]["max_tokens"], prefill.asked[0]["stream"]), (1, False), "prefill")
        equal((first.asked[0]["max_tokens"], first.asked[0]["kv_transfer_params"]),
              (9, {"remote_host": prefill.name}), "decode")
        add(port, second.name)
        for _ in range(6):
            equal(completes(port)[0], 200, "in turn")
        equal((len(first.asked), len(second.asked)), (4, 3), "in turn")
        first.end()
        for _ in range(4):
            equal(completes(port)[0], 200, "one is down")
        status = json.loads(ask("GET", f"{base}/status")[1])
        equal(status["decode_node_count"], 2, "count")
        equal([node["up"] for node in status["decode_nodes"]], [False, True], "up")
        second.end()
        code, told = completes(port)
        expect(code == 503 and b"decode" in told, f"{code} {told}")
        back = Server(int(first.name.rpartition(":")[2]))
        equal(completes(port)[0], 200, "it came back")
        back.end()
        equal(ask("POST", f"{base}/v1/completions", b"no json")[0], 400, "no json")
        equal(ask("GET", f"{base}/nonsense")[0], 404, "path")
        equal(proxy.end(), 0, "SIGTERM")
    prefill.end()


def add(port, name):
    """Needs the key."""
    for key, wanted in ((None, 403), ("wrong", 403), (KEY, 200)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        body = json.dumps({"type": "decode", "instance": name})
        connection.request("POST", "/instances/add", body, {"X-API-Key": key} if key else {})
        equal(connection.getresponse().status, wanted, f"key {key}")
        connection.close()


def pieces_come_as_they_are_made():
    """The first piece arrives while the second is not made yet."""
    prefill, decode = Server(), Server()
    decode.go.clear()
    port = free_port()
    with Program("vllm_v1_proxy_server", "--host", "127.0.0.1", "--port", str(port), "--prefill",
                 prefill.name, "--decode", decode.name) as proxy:
        until_served(proxy, f"http://127.0.0.1:{port}/status")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "p", "stream": True}))
        answer = connection.getresponse()
        equal(answer.read1(100), b"data: 1\n\n", "the first piece")
        decode.go.set()
        equal(answer.read(), b"data: 2\n\ndata: [DONE]\n\n", "the rest")
        equal(answer.headers["Content-Type"], "text/event-stream", "kind")
    prefill.end()
    decode.end()


def flags_of_the_guides():
    """The proxies of the guides for vLLM and vllm-ascend are started with these words."""
    prefill, decode = Server(), Server()
    for words in (
            ("--model", "m", "--prefill", prefill.name, "--decode", decode.name, "--scheduling",
             "round_robin"),
            ("-p", f"http://{prefill.name}", "-d", f"http://{decode.name}"),
            ("--prefiller-hosts", "127.0.0.1", "--prefiller-ports", prefill.name.split(":")[1],
             "--decoder-hosts", "127.0.0.1", "--decoder-ports", decode.name.split(":")[1])):
        port = free_port()
        with Program("vllm_v1_proxy_server", "--host", "localhost", "--port", str(port),
                     *words) as proxy:
            until_served(proxy, f"http://127.0.0.1:{port}/status")
            equal(completes(port)[0], 200, words)
            equal(proxy.end(), 0, "SIGTERM")
    with Program("vllm_v1_proxy_server", "--prefiller-hosts", "a", "b", "--prefiller-ports",
                 "1") as wrong:
        status, told = wrong.failed()
        expect(status == 1 and "2 hosts and 1 ports of prefill" in told, f"{status} {told}")
    prefill.end()
    decode.end()


TESTS = (flags_of_the_guides, round_robin_and_instances_that_come_and_go, pieces_come_as_they_are_made)
