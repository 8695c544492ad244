"""Stands in for a vLLM server, so that the examples run on a laptop: its flags, its completions over HTTP, its
connectors' calls (connectors.py). There is no model.

    python3 examples/stand_in/server.py --port 8100 --kv-transfer-config '{"kv_connector": ...}'

What vLLM computes for a block of a prompt, 16 characters here, is a function of the prompt up to there; so two
instances agree on it, and an answer can tell the checksum of the blocks that it was made from, wherever
they came from. Flags of vLLM that are not known here are ignored.
"""

import argparse
import ctypes
import hashlib
import json
import os
import signal
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from connectors import connect

BLOCK_CHARACTERS = 16
BLOCK_BYTES = 32 << 10
BLOCKS = 256
LAYERS = 2
BODY_BYTES_MAX = 1 << 20


class Cache:
    """A KV cache: one array of blocks for each layer. Used under the server's lock."""

    def __init__(self):
        self.block_bytes, self.layer_bytes = BLOCK_BYTES, BLOCKS * BLOCK_BYTES
        self.arrays = [(ctypes.c_char * self.layer_bytes)() for _ in range(LAYERS)]
        self.bases = [ctypes.addressof(array) for array in self.arrays]
        self.next = 0

    def take(self, count):
        """Blocks in a ring: the oldest are used again."""
        taken = [(self.next + place) % BLOCKS for place in range(count)]
        self.next = (self.next + count) % BLOCKS
        return taken

    def address(self, layer, block):
        return self.bases[layer] + block * BLOCK_BYTES

    def compute(self, key, block):
        """The work of a model."""
        for layer in range(LAYERS):
            value = hashlib.shake_128(f"{key}/{layer}".encode()).digest(BLOCK_BYTES)
            ctypes.memmove(self.address(layer, block), value, BLOCK_BYTES)

    def checksum(self, blocks):
        """Of the bytes that are there."""
        found = 0
        for block in blocks:
            for layer in range(LAYERS):
                found = zlib.crc32(ctypes.string_at(self.address(layer, block), BLOCK_BYTES), found)
        return found


def keys_of(model, prompt):
    """The name of each block: the prompt up to its end, and what makes the model."""
    ends = range(BLOCK_CHARACTERS, len(prompt) + BLOCK_CHARACTERS, BLOCK_CHARACTERS)
    return [f"{os.path.basename(model)}@{hashlib.sha256(prompt[:end].encode()).hexdigest()}"
            for end in ends][:BLOCKS // 2]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Quiet."""

    def do_GET(self):
        self.answer({"object": "list", "data": [{"id": self.server.model}]})

    def do_POST(self):
        length = int(self.headers.get("Content-Length", "0"))
        request = json.loads(self.rfile.read(min(length, BODY_BYTES_MAX)))
        if request.get("model") not in (None, self.server.model):
            self.answer({"error": f"the model {request['model']} is not served here"}, 404)
            return
        try:
            text, params = self.server.complete(request)
        except (RuntimeError, ValueError, KeyError) as reason:
            self.answer({"error": str(reason)}, 500)
            return
        if request.get("stream"):
            self.stream(text)
        else:
            self.answer({"object": "text_completion", "kv_transfer_params": params,
                         "choices": [{"index": 0, "text": text, "finish_reason": "stop"}]})

    def answer(self, body, status=200):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, text):
        """A piece for each word, as a model makes them."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        events = [json.dumps({"choices": [{"index": 0, "text": f"{word} "}]}) for word in text.split()]
        for event in [*events, "[DONE]"]:
            piece = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    """One instance."""

    daemon_threads = True

    def __init__(self, given):
        self.model, self.cache, self.lock = given.model, Cache(), threading.Lock()
        self.peer = self.pooled = None
        if given.kv_transfer_config:
            self.peer, self.pooled = connect(json.loads(given.kv_transfer_config), self.cache,
                                             given.host, given.mooncake_protocol)
        super().__init__((given.host, given.port), Handler)

    def complete(self, request):
        """(text, kv_transfer_params): the blocks of the prompt from a peer, the pool, or made here."""
        params = request.get("kv_transfer_params") or {}
        keys = keys_of(self.model, str(request["prompt"]))
        with self.lock:
            blocks, fetched, loaded = self.cache.take(len(keys)), 0, 0
            if params.get("do_remote_prefill") and self.peer:
                self.peer.fetch(params, blocks)
                fetched = len(blocks)
            elif self.pooled:
                loaded = self.pooled.load(keys, blocks)
            for key, block in list(zip(keys, blocks))[fetched + loaded:]:
                self.cache.compute(key, block)
            if self.pooled and not fetched:
                self.pooled.save(keys, blocks)
            text = (f"{len(keys)} blocks: {fetched} from a peer, {loaded} from the pool, "
                    f"{len(keys) - fetched - loaded} computed; checksum {self.cache.checksum(blocks):08x}")
            offered = self.peer.offer(blocks) if self.peer and params.get("do_remote_decode") else None
        return text, offered


def arguments():
    parser = argparse.ArgumentParser(description="Stands in for a vLLM server.", allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="stand-in")
    parser.add_argument("--kv-transfer-config", metavar="JSON")
    parser.add_argument("--mooncake-protocol", default="tcp", help="of the peer-to-peer engine")
    return parser


def main():
    given, ignored = arguments().parse_known_args()
    server = Server(given)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"stand-in at {given.host}:{given.port}, without effect: {' '.join(ignored) or 'nothing'}",
          file=sys.stderr, flush=True)
    server.serve_forever()
    server.server_close()
    if server.pooled:
        server.pooled.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
