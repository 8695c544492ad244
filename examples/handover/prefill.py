"""The prefill side: fills a KV cache, tells a decode process where it is, and hands layers over."""

import ctypes
import json
import os
import socket
import sys

import mooncake
from mooncake.engine import TransferEngine

LAYERS, BLOCKS, BLOCK_BYTES = 4, 64, 16 << 10
SECONDS_MAX = 60


def main():
    with open(os.environ["MOONCAKE_CONFIG_PATH"], encoding="utf-8") as file:
        config = json.load(file)
    host, port = config["prefill_url"].rsplit(":", 1)
    engine = TransferEngine()
    if engine.initialize(host, config["metadata_backend"], config["protocol"], "") != 0:
        return f"initialize: {mooncake.last_error()}"
    layers = [(ctypes.c_char * (BLOCKS * BLOCK_BYTES))() for _ in range(LAYERS)]
    bases = [ctypes.addressof(layer) for layer in layers]
    for layer, base in enumerate(bases):
        layers[layer][:] = bytes([layer + 1]) * (BLOCKS * BLOCK_BYTES)
        if engine.register_memory(base, BLOCKS * BLOCK_BYTES) != 0:
            return f"register_memory: {mooncake.last_error()}"

    # What a connector's side channel does: who I am, and which blocks are ready.
    with socket.create_server((host, int(port))) as server:
        server.settimeout(SECONDS_MAX)
        connection, _ = server.accept()
    with connection, connection.makefile("rw", encoding="utf-8") as channel:
        connection.settimeout(SECONDS_MAX)
        offer = {"session": f"{host}:{engine.get_rpc_port()}", "bases": bases,
                 "block_bytes": BLOCK_BYTES, "blocks": list(range(0, BLOCKS, 2))}
        print(json.dumps(offer), file=channel, flush=True)
        # The decode side has read what it wants, and asks for one more block of each layer as it is
        # made: the layer-wise way, in which the prefill side writes.
        asked = json.loads(channel.readline())
        for layer, target in enumerate(asked["targets"]):
            source = bases[layer] + asked["block"] * BLOCK_BYTES
            code = engine.batch_transfer_sync_write(asked["session"], [source], [target],
                                                    [BLOCK_BYTES])
            if code < 0:
                return f"batch_transfer_sync_write: {code}: {mooncake.last_error()}"
        print("{}", file=channel, flush=True)
        channel.readline()
    print("prefill: handed over")
    return 0


if __name__ == "__main__":
    sys.exit(main())
