"""Moves real bytes to a target process through libmooncake.so, from Python, with ctypes alone.

    python3 examples/demo.py LIBRARY NAME

LIBRARY is the path of libmooncake.so, NAME what `transfer target` (examples/transfer.c) printed.
Writes, asks the target to check (by a notification that carries the CRC-32), reads everything back.
"""

import ctypes
import random
import sys
import time
import zlib

MIB = 1 << 20
REGION_BYTES = 64 * MIB
REQUEST_BYTES = 4 * MIB
ROUNDS = 16
TIMEOUT_MS = 30_000


class Options(ctypes.Structure):
    """mc_engine_options_t; zero is the default of every member."""
    _fields_ = [
        ("struct_size", ctypes.c_uint32), ("reserved", ctypes.c_uint32),
        ("metadata", ctypes.c_char_p), ("local_name", ctypes.c_char_p),
        ("protocol", ctypes.c_char_p), ("bind_address", ctypes.c_char_p),
        ("rpc_port", ctypes.c_uint16), ("data_port", ctypes.c_uint16),
        ("io_threads", ctypes.c_uint32), ("lanes_per_peer", ctypes.c_uint32),
        ("transfer_timeout_ms", ctypes.c_uint32), ("spin_us", ctypes.c_uint32),
        ("json", ctypes.c_char_p),
    ]


class Buffer(ctypes.Structure):
    """mc_buffer_t."""
    _fields_ = [("address", ctypes.c_void_p), ("length_bytes", ctypes.c_size_t),
                ("location", ctypes.c_char_p), ("access", ctypes.c_uint32),
                ("reserved", ctypes.c_uint32)]


class SegmentBuffer(ctypes.Structure):
    """mc_segment_buffer_t."""
    _fields_ = [("address", ctypes.c_uint64), ("length_bytes", ctypes.c_uint64),
                ("location", ctypes.c_char * 64)]


class Mooncake:
    """The few calls this program needs; each raises with the library's own words."""

    VOID, SIZE, U64, U32 = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint32)
    VECTOR = [VOID, U64, ctypes.POINTER(VOID), ctypes.POINTER(U64), ctypes.POINTER(U64), SIZE, U32]
    PROTOTYPES = {
        "mc_engine_create": [ctypes.POINTER(Options), ctypes.POINTER(VOID)],
        "mc_engine_destroy": [VOID],
        "mc_buffer_register": [VOID, ctypes.POINTER(Buffer)],
        "mc_segment_open": [VOID, ctypes.c_char_p, ctypes.POINTER(U64)],
        "mc_segment_buffers": [VOID, U64, ctypes.POINTER(SegmentBuffer), SIZE,
                               ctypes.POINTER(SIZE)],
        "mc_write_vector": VECTOR,
        "mc_read_vector": VECTOR,
        "mc_notify_send": [VOID, U64, ctypes.c_char_p, SIZE, ctypes.c_char_p, SIZE, U32],
    }

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.mc_status_name.restype = ctypes.c_char_p
        self.library.mc_last_error_message.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
        for name, arguments in self.PROTOTYPES.items():
            getattr(self.library, name).argtypes = arguments

    def call(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        if status != 0:
            text = ctypes.create_string_buffer(512)
            self.library.mc_last_error_message(text, len(text))
            raise RuntimeError(f"{name}: {self.library.mc_status_name(status).decode()}: "
                               f"{text.value.decode()}")


def address_of(memory):
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def main(path, target):
    mooncake = Mooncake(path)
    engine = ctypes.c_void_p()
    options = Options(struct_size=ctypes.sizeof(Options), local_name=b"127.0.0.1")
    mooncake.call("mc_engine_create", options, engine)

    source = bytearray(random.Random(7).randbytes(REGION_BYTES))
    copy = bytearray(REGION_BYTES)
    for memory in (source, copy):
        mooncake.call("mc_buffer_register", engine,
                      Buffer(address=address_of(memory), length_bytes=len(memory)))

    segment, remote, count = ctypes.c_uint64(), SegmentBuffer(), ctypes.c_size_t()
    mooncake.call("mc_segment_open", engine, target.encode(), segment)
    mooncake.call("mc_segment_buffers", engine, segment, remote, 1, count)

    offsets = range(0, REGION_BYTES, REQUEST_BYTES)
    lengths = (ctypes.c_uint64 * len(offsets))(*[REQUEST_BYTES] * len(offsets))
    there = (ctypes.c_uint64 * len(offsets))(*[remote.address + offset for offset in offsets])
    for word, call, memory in (("wrote", "mc_write_vector", source),
                               ("read", "mc_read_vector", copy)):
        here = (ctypes.c_void_p * len(offsets))(
            *[address_of(memory) + offset for offset in offsets])
        started = time.monotonic()
        for _ in range(ROUNDS):
            mooncake.call(call, engine, segment, here, there, lengths, len(offsets), TIMEOUT_MS)
        rate = ROUNDS * REGION_BYTES / (time.monotonic() - started) / 1e9
        print(f"initiator (Python): {word} {ROUNDS * REGION_BYTES // MIB} MiB at {rate:.2f} GB/s")

    name, message = b"written", b"%08x" % zlib.crc32(source)
    mooncake.call("mc_notify_send", engine, segment, name, len(name), message, len(message),
                  TIMEOUT_MS)
    equal = source == copy
    print(f"initiator (Python): read back {'equal bytes' if equal else 'DIFFERENT bytes'}")
    mooncake.call("mc_engine_destroy", engine)
    return 0 if equal else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
