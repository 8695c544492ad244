"""A client that gives no memory: reads mooncake.json, puts a page, gets it, removes it."""

import ctypes
import sys
import time

import mooncake
from mooncake.mooncake_config import MooncakeConfig
from mooncake.store import MooncakeDistributedStore

PAGE_BYTES = 1 << 20
# What is read is under a lease of the master for a moment, and cannot be removed until then.
LEASE_SECONDS = 1.5


def main():
    config = MooncakeConfig.load_from_env()
    with MooncakeDistributedStore() as store:
        code = store.setup(config.local_hostname, config.metadata_server,
                           config.global_segment_size, config.local_buffer_size, config.protocol,
                           config.device_name, config.master_server_address)
        if code != 0:
            return f"setup: {code}: {mooncake.last_error()}"
        page, back = (ctypes.c_char * PAGE_BYTES)(), (ctypes.c_char * PAGE_BYTES)()
        page[:] = bytes(range(256)) * (PAGE_BYTES // 256)
        addresses = [ctypes.addressof(page), ctypes.addressof(back)]
        for address in addresses:
            store.register_buffer(address, PAGE_BYTES)
        put = store.batch_put_from(["page"], addresses[:1], [PAGE_BYTES])
        got = store.batch_get_into(["page"], addresses[1:], [PAGE_BYTES])
        if put != [0] or got != [PAGE_BYTES] or bytes(page) != bytes(back):
            return f"put {put}, got {got}: {mooncake.last_error()}"
        time.sleep(LEASE_SECONDS)
        print(f"{PAGE_BYTES} bytes put and got; removed: {store.remove('page')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
