"""Tensors of real torch put by one implementation and read by the other. Long: torch is 3 GB.

It is fetched by name as the wheels are, version 1.13.1, the newest that is small. It lacks types
that upstream 0.3.7 looks up by name for every tensor; stand-ins for these are put into the module.
"""

import json
import os
import subprocess
import sys

import wheels
from common import OURS, environment, equal
from harness.report import Failed, Skip, expect
from masters import OLD, Master
from pool import MIB

SECONDS = 120
TORCH = ["torch==1.13.1", "numpy<2"]

PROGRAM = """
import json, os, sys, zlib
import torch
for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"):
    if not hasattr(torch, name):
        setattr(torch, name, object())
from mooncake.store import MooncakeDistributedStore

def tensors():
    torch.manual_seed(5)
    for dtype in ("float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool", "float16",
                  "bfloat16"):
        for shape in ((7,), (2, 3), (2, 3, 4), (2, 1, 3, 5), (1, 1, 1, 1), (300, 400), (), (0, 3)):
            values = (torch.rand(shape) * 100 - 20) if dtype != "bool" else torch.rand(shape) > 0.5
            yield f"{dtype}/{shape}", values.to(getattr(torch, dtype))
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    yield "transposed", base.t()
    yield "strided", base[:, ::2]
    yield "offset", base[2:]

def seen(tensor):
    if tensor is None:
        return None
    flat = tensor.contiguous()
    data = bytes(flat.numpy().tobytes()) if flat.dtype != torch.bfloat16 \\
        else flat.view(torch.int16).numpy().tobytes()
    return [str(tensor.dtype).partition(".")[2], list(tensor.shape), zlib.crc32(data)]

what, master, others = sys.argv[1:4]
store = MooncakeDistributedStore()
assert store.setup("127.0.0.1", "P2PHANDSHAKE", 0, 32 << 20, "tcp", "", master) == 0
found = {}
for name, tensor in tensors():
    found[name] = [seen(tensor)]
    if what == "put":
        # Upstream takes the memory as it lies there, so that it is given whole.
        found[name].append(store.put_tensor(name, tensor if others == "ours" else tensor.contiguous()))
    else:
        try:
            found[name].append(seen(store.get_tensor(name)))
        except Exception as error:
            found[name].append(repr(error))
if others == "ours" and what == "put":
    one = dict(tensors())["float32/(300, 400)"]
    found["shards"] = [None, store.put_tensor_with_tp("shards", one, 0, 4, 1)]
    parts = [store.get_tensor_with_tp("shards", rank, 4, 1) for rank in range(4)]
    assert torch.equal(torch.cat(parts, 1), one)
    memory = torch.empty(one.numel() * 4 + 24, dtype=torch.uint8)
    assert torch.equal(store.get_tensor_into("float32/(300, 400)", memory.data_ptr(), memory.numel()), one)
print(json.dumps(found), flush=True)
os._exit(0)
"""


def torch_folder():
    """Where torch is unpacked."""
    folder = wheels.CACHE / f"torch-1.13.1-{sys.implementation.cache_tag}"
    try:
        if not folder.is_dir():
            wheels.fetch(TORCH, folder)
        wheels.run([sys.executable, "-c", "import torch"], wheels.IMPORT_SECONDS_MAX,
                   dict(os.environ, PYTHONPATH=str(folder)))
    except wheels.Unavailable as reason:
        raise Skip(f"no torch: {reason}") from None
    return folder


def run(kind, what, master):
    """What a process with this implementation put, or got."""
    extra = environment(kind)
    extra["PYTHONPATH"] = os.pathsep.join([extra["PYTHONPATH"], str(torch_folder())])
    done = subprocess.run([sys.executable, "-c", PROGRAM, what, master, kind], env=extra, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise Failed(f"{kind} {what}: status {done.returncode}: {done.stderr[-400:]}")
    return json.loads(lines[-1])


def meet(writer, reader, kind):
    """All types and shapes that both know: the same type, shape and bytes, or as the reader shows
    them."""
    from mooncake.store import MooncakeDistributedStore
    with Master(kind) as master:
        holder = MooncakeDistributedStore()
        equal(holder.setup("127.0.0.1", "P2PHANDSHAKE", 64 * MIB, MIB, "tcp", "", master.address), 0,
              "setup")
        put = run(writer, "put", master.address)
        refused = [name for name, (_, code) in put.items() if code != 0]
        expect(not refused, f"not put: {refused}")
        got = run(reader, "get", master.address)
        wrong, read = {}, 0
        for name, (wanted, found) in got.items():
            if reader == OLD:
                wanted = as_old_shows(*wanted)
            read += found is not None
            if found != wanted:
                wrong[name] = (wanted, found)
        expect(not wrong, f"{len(wrong)}: {wrong}")
        holder.close()
        return f"{len(put)} tensors put, {read} read"


def as_old_shows(dtype, shape, checksum):
    """How 0.3.7 gives a tensor out: one without dimensions has one, one without elements is none,
    and half floats are whole numbers, for which this torch has no type, so that they are none."""
    if 0 in shape or dtype in ("float16", "bfloat16"):
        return None
    return [dtype, shape or [1], checksum]


TESTS = tuple((meet, *pair, kind) for pair in ((OURS, OURS), (OURS, OLD), (OLD, OURS))
              for kind in (OURS, "upstream"))
