"""This engine through its C API and ctypes; `--dialect` chooses the wire.

The request structures are built once. One blocking request is `mc_write` or `mc_read`; a batch is
submit, wait and reset of one batch object, which is what a connector that keeps its batches does.
"""

import ctypes
import json
import os
from pathlib import Path

import driver
import places

READ, WRITE = 0, 1
TIMEOUT_MS = 20_000
BATCH_CAPACITY = 32


class Buffer(ctypes.Structure):
    _fields_ = [
        ("address", ctypes.c_void_p), ("length_bytes", ctypes.c_size_t),
        ("location", ctypes.c_char_p), ("access", ctypes.c_uint32), ("reserved", ctypes.c_uint32),
    ]


class Request(ctypes.Structure):
    _fields_ = [
        ("operation", ctypes.c_int32), ("reserved", ctypes.c_uint32), ("local", ctypes.c_void_p),
        ("segment", ctypes.c_uint64), ("remote_address", ctypes.c_uint64),
        ("length_bytes", ctypes.c_uint64),
    ]


PROTOTYPES = {
    "mc_engine_create_json": [ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)],
    "mc_engine_local_name": [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t),
    ],
    "mc_buffer_register": [ctypes.c_void_p, ctypes.POINTER(Buffer)],
    "mc_segment_open": [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint64)],
    "mc_batch_create": [ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)],
    "mc_batch_submit": [ctypes.c_void_p, ctypes.POINTER(Request), ctypes.c_size_t],
    "mc_batch_wait": [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p],
    "mc_batch_reset": [ctypes.c_void_p],
    "mc_read": [
        ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64,
        ctypes.c_uint32,
    ],
    "mc_write": [
        ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64,
        ctypes.c_uint32,
    ],
    "mc_last_error_message": [ctypes.c_char_p, ctypes.c_size_t],
}


class Library:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        for name, arguments in PROTOTYPES.items():
            function = getattr(self.library, name)
            function.argtypes = arguments
            setattr(self, name, function)

    def check(self, status):
        if status:
            text = ctypes.create_string_buffer(1024)
            self.mc_last_error_message(text, len(text))
            raise RuntimeError(f"status {status}: {text.value.decode(errors='replace')}")


class Engine:
    def __init__(self, region, options):
        self.mc = Library(options.library)
        self.engine = ctypes.c_void_p()
        settings = {
            "metadata": "P2PHANDSHAKE", "local_name": "127.0.0.1", "protocol": options.protocol,
        }
        if options.dialect:
            settings["tcp_dialect"] = options.dialect
        settings.update(json.loads(options.json))
        text = json.dumps(settings).encode()
        self.mc.check(self.mc.mc_engine_create_json(text, len(text), ctypes.byref(self.engine)))
        buffer = Buffer(region.address, region.size_bytes, None, 0, 0)
        self.mc.check(self.mc.mc_buffer_register(self.engine, ctypes.byref(buffer)))


class Target(Engine):
    def info(self):
        name = ctypes.create_string_buffer(256)
        self.mc.check(self.mc.mc_engine_local_name(self.engine, name, len(name), None))
        return {"name": name.value.decode()}


class Initiator(Engine):
    def __init__(self, region, options, info):
        super().__init__(region, options)
        segment = ctypes.c_uint64()
        self.mc.check(
            self.mc.mc_segment_open(self.engine, info["name"].encode(), ctypes.byref(segment)))
        self.segment = segment.value
        self.batches = {}

    def batch(self, thread):
        if thread not in self.batches:
            batch = ctypes.c_void_p()
            self.mc.check(
                self.mc.mc_batch_create(self.engine, BATCH_CAPACITY, ctypes.byref(batch)))
            self.batches[thread] = batch
        return self.batches[thread]

    def prepare(self, op, pairs, block, thread):
        if len(pairs) == 1:
            call = self.mc.mc_write if op == "write" else self.mc.mc_read
            return call, (self.engine, self.segment, *pairs[0], block, TIMEOUT_MS)
        operation = WRITE if op == "write" else READ
        requests = (Request * len(pairs))(*(
            Request(operation, 0, local, self.segment, remote, block) for local, remote in pairs))
        return None, (self.batch(thread), requests, len(pairs))

    def run(self, plan):
        call, arguments = plan
        if call:
            self.mc.check(call(*arguments))
            return
        batch = arguments[0]
        self.mc.check(self.mc.mc_batch_submit(*arguments))
        self.mc.check(self.mc.mc_batch_wait(batch, TIMEOUT_MS, None))
        self.mc.check(self.mc.mc_batch_reset(batch))


def default_library():
    target = Path(os.environ.get("CARGO_TARGET_DIR", places.ROOT / "target"))
    return str(target / "release" / "libmooncake.so")


def add_options(parser):
    parser.add_argument("--library", default=default_library())
    parser.add_argument("--protocol", default="tcp")
    parser.add_argument("--dialect", choices=["native", "v2", "v1", "auto"], default="native")
    parser.add_argument("--json", default="{}", help="further engine settings, a JSON object")


def prepare_process(options):
    options.peer = f"ours {options.dialect}"


driver.main(Target, Initiator, add_options, prepare_process)
