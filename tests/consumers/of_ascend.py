"""vllm-ascend: imports, the pooled store in its three shapes, both connectors."""

import time

from common import OURS, PACKAGE
from harness.ports import free_port
from harness.report import expect
from masters import OLD
from process import Consumer, arrived, checksum, master

FIRST, MIDDLE, LAST = "0.11.0", "0.13.0", "0.23.0"
BLOCK, BLOCKS, LAYERS, SEED = 8192, 12, 4, 71


def side(version, kind, **variables):
    return Consumer("ascend_side", "vllm-ascend", version, kind, **variables)


def whole(blocks=BLOCKS):
    return [checksum(blocks * BLOCK, SEED + layer) for layer in range(LAYERS)]


def imports(version, cast):
    """Every connector of the release can be imported and has an engine."""
    with side(version, cast.one) as one:
        found = one.ask("imports")
        expect(set(found) == {"mooncake.engine"}, f"{found}")
        # The suite is about nothing if the processes import another package.
        found = one.ask("implementation")
        expect((str(PACKAGE) in found) == (cast.one == OURS), found)


def pool(version, cast, how):
    """The threads of the pooled store: a request saved, seen, loaded by another worker. `direct`
    shares the engine with the connectors, `ports` is the fork that has a port for each card."""
    if how == "ports":
        cast.only(OURS, "the calls are of a fork, not in the wheels")
    with master(cast) as owner:
        with side(version, cast.one, VLLM_BASE_PORT=str(free_port())) as one, \
                side(version, cast.other, VLLM_BASE_PORT=str(free_port())) as other:
            for process in (one, other):
                process.ask("settings", use_ascend_direct=how == "direct",
                            master_server_address=owner.address)
                process.ask("start_pool", blocks=BLOCKS, layers=LAYERS, block_bytes=BLOCK,
                            seed=SEED if process is one else None)
            one.check("found", [0] * BLOCKS, blocks=BLOCKS)
            one.ask("save", blocks=BLOCKS)
            one.check("found", [1] * BLOCKS, blocks=BLOCKS)
            other.ask("load", blocks=BLOCKS)
            arrived(lambda: other.ask("layer_bytes"), whole(), cast)
            one.ask("clear_layers")
            one.ask("load", blocks=BLOCKS)
            arrived(lambda: one.ask("layer_bytes"), whole(), cast)
            one.ask("close_pool")


def backend(version, cast):
    """The later backend: blocks over all layers put, seen and read by another worker."""
    if version == LAST:
        cast.without(OLD, "gives -800 without the fourth argument")
    keys = [f"k{index}" for index in range(BLOCKS)]
    with master(cast) as owner, side(version, cast.one) as one, side(version, cast.other) as other:
        for process in (one, other):
            process.ask("settings", master_server_address=owner.address)
            process.ask("start_backend", blocks=BLOCKS, layers=LAYERS, block_bytes=BLOCK,
                        seed=SEED if process is one else None)
        one.check("backend_exists", [0] * BLOCKS, keys=keys)
        one.ask("backend_put", keys=keys)
        one.check("backend_exists", [1] * BLOCKS, keys=keys)
        found = other.ask("backend_get", keys=keys)
        expect(found in (None, [0] * BLOCKS), f"get gave {found}")
        arrived(lambda: (other.ask("backend_get", keys=keys), other.ask("layer_bytes"))[1], whole(), cast)
        if version == LAST:
            other.check("backend_get", [0, -704], keys=["k0", "nothing"])


def reads(version, cast):
    """The connector: decode asks prefill over ZeroMQ where its blocks are, reads them, and tells it
    when it has them."""
    port = free_port()
    local, remote = [1, 2, 5, 7], [3, 4, 8, 0]
    with side(version, cast.one) as prefill, side(version, cast.other) as decode:
        for process in (prefill, decode):
            process.ask("engine")
            process.ask("caches", blocks=BLOCKS, layers=LAYERS, block_bytes=BLOCK,
                        seed=SEED if process is prefill else None)
        prefill.ask("serve", port=port, blocks=BLOCKS)
        decode.ask("pull", port=port, local=local, remote=remote)
        decode.check("blocks_seen", prefill.ask("blocks_seen", blocks=remote), blocks=local)
        eventually_released(prefill)


def eventually_released(prefill):
    """The later threads tell prefill after they count a request as done."""
    found = []
    for _ in range(200):
        found += prefill.ask("released")
        if found:
            break
        time.sleep(0.02)
    expect(found == ["r1"], f"prefill may free {found}")


def writes(version, cast):
    """The layer-wise connector: a thread writes one layer after the other into decode."""
    local, remote = [0, 1, 2, 6], [4, 5, 9, 11]
    with side(version, cast.one) as prefill, side(version, cast.other) as decode:
        prefill.ask("engine")
        port = decode.ask("engine")
        prefill.ask("caches", blocks=BLOCKS, layers=LAYERS, block_bytes=BLOCK, seed=SEED)
        there = decode.ask("caches", blocks=BLOCKS, layers=LAYERS, block_bytes=BLOCK)
        prefill.ask("push_layers", session_port=port, remote=there, local_blocks=local,
                    remote_blocks=remote)
        wanted = prefill.ask("blocks_seen", blocks=local)
        arrived(lambda: decode.ask("blocks_seen", blocks=remote), wanted, cast)


TESTS = ((imports, FIRST), (imports, MIDDLE), (imports, LAST), (pool, FIRST, "direct"), (pool, FIRST, "ports"),
         (backend, MIDDLE), (backend, LAST), (reads, FIRST), (reads, MIDDLE), (reads, LAST),
         (writes, FIRST))
ENGINES = ((reads, FIRST), (reads, LAST), (writes, FIRST))
STORES = ((pool, FIRST, "direct"), (backend, MIDDLE))
