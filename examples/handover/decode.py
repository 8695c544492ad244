"""The decode side: reads the blocks that the prefill process offers, and takes the layers it writes."""

import ctypes
import json
import os
import socket
import sys
import time

import mooncake
from mooncake.engine import TransferEngine

SECONDS_MAX = 60


def connected(host, port):
    """The side channel, once the prefill process is there."""
    end = time.monotonic() + SECONDS_MAX
    while True:
        try:
            return socket.create_connection((host, int(port)), SECONDS_MAX)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def main():
    with open(os.environ["MOONCAKE_CONFIG_PATH"], encoding="utf-8") as file:
        config = json.load(file)
    host, port = config["prefill_url"].rsplit(":", 1)
    own = config["decode_url"].rsplit(":", 1)[0]
    engine = TransferEngine()
    if engine.initialize(own, config["metadata_backend"], config["protocol"], "") != 0:
        return f"initialize: {mooncake.last_error()}"
    with connected(host, port) as connection, \
            connection.makefile("rw", encoding="utf-8") as channel:
        offer = json.loads(channel.readline())
        size, blocks = offer["block_bytes"], offer["blocks"]
        # One place for each block that is read, and one more for the block that is written here.
        length = (len(blocks) + 1) * size
        layers = [(ctypes.c_char * length)() for _ in offer["bases"]]
        bases = [ctypes.addressof(layer) for layer in layers]
        if engine.batch_register_memory(bases, [length] * len(bases)) != 0:
            return f"batch_register_memory: {mooncake.last_error()}"

        mine = [base + place * size for base in bases for place in range(len(blocks))]
        theirs = [base + block * size for base in offer["bases"] for block in blocks]
        started = time.monotonic()
        code = engine.batch_transfer_sync_read(offer["session"], mine, theirs, [size] * len(mine))
        if code < 0:
            return f"batch_transfer_sync_read: {code}: {mooncake.last_error()}"
        took = time.monotonic() - started

        targets = [base + len(blocks) * size for base in bases]
        asked = {"session": f"{own}:{engine.get_rpc_port()}", "block": 1, "targets": targets}
        print(json.dumps(asked), file=channel, flush=True)
        channel.readline()
    for layer, memory in enumerate(layers):
        if bytes(memory) != bytes([layer + 1]) * length:
            return f"layer {layer} is not what prefill has"
    print(f"decode: {len(mine)} blocks read in {took * 1e3:.1f} ms, {len(layers)} written by "
          "prefill, all right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
