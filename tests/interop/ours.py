"""A peer process around one engine of `libmooncake.so`, through the C API by ctypes.

See `harness/driver.py` for the commands. The library is the file named by MOONCAKE_LIBRARY, or the
release build of this tree.
"""

import ctypes
import json
import os
import pathlib
import sys
from ctypes import POINTER, Structure, byref, c_char_p, c_int32, c_size_t, c_uint16, c_uint32, \
    c_uint64, c_void_p

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests"))

from harness import driver  # noqa: E402

OPERATIONS = {"read": 0, "write": 1}
TEXT_BYTES_MAX = 1024
BATCH_WAIT_MS = 120_000
# What a dump may grow by between asking for its length and taking it.
DUMP_SLACK_BYTES = 1 << 16


class Options(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("reserved", c_uint32), ("metadata", c_char_p),
        ("local_name", c_char_p), ("protocol", c_char_p), ("bind_address", c_char_p),
        ("rpc_port", c_uint16), ("data_port", c_uint16), ("io_threads", c_uint32),
        ("lanes_per_peer", c_uint32), ("transfer_timeout_ms", c_uint32), ("spin_us", c_uint32),
        ("json", c_char_p),
    ]


class Buffer(Structure):
    _fields_ = [("address", c_void_p), ("length_bytes", c_size_t), ("location", c_char_p),
                ("access", c_uint32), ("reserved", c_uint32)]


class Request(Structure):
    _fields_ = [("operation", c_int32), ("reserved", c_uint32), ("local", c_void_p),
                ("segment", c_uint64), ("remote_address", c_uint64), ("length_bytes", c_uint64)]


class SubmitOptions(Structure):
    _fields_ = [("struct_size", c_uint32), ("timeout_ms", c_uint32), ("notify_name", c_char_p),
                ("notify_name_len", c_size_t), ("notify_message", c_char_p),
                ("notify_message_len", c_size_t)]


class TaskStatus(Structure):
    _fields_ = [("state", c_int32), ("status", c_int32), ("transferred_bytes", c_uint64)]


# Name -> argument types; every one of these returns a status.
PROTOTYPES = {
    "mc_engine_create": [POINTER(Options), POINTER(c_void_p)],
    "mc_engine_destroy": [c_void_p],
    "mc_engine_local_name": [c_void_p, c_char_p, c_size_t, POINTER(c_size_t)],
    "mc_engine_dump": [c_void_p, c_char_p, c_size_t, POINTER(c_size_t)],
    "mc_engine_ports": [c_void_p, POINTER(c_uint16), POINTER(c_uint16)],
    "mc_buffer_register": [c_void_p, POINTER(Buffer)],
    "mc_buffer_unregister": [c_void_p, c_void_p],
    "mc_segment_open": [c_void_p, c_char_p, POINTER(c_uint64)],
    "mc_segment_probe": [c_void_p, c_uint64, c_uint32],
    "mc_batch_create": [c_void_p, c_size_t, POINTER(c_void_p)],
    "mc_batch_destroy": [c_void_p],
    "mc_batch_submit": [c_void_p, POINTER(Request), c_size_t],
    "mc_batch_submit_with": [c_void_p, POINTER(Request), c_size_t, POINTER(SubmitOptions)],
    "mc_batch_wait": [c_void_p, c_uint32, c_void_p],
    "mc_batch_task_status": [c_void_p, c_size_t, POINTER(TaskStatus)],
    "mc_batch_task_error": [c_void_p, c_size_t, c_char_p, c_size_t, POINTER(c_size_t)],
    "mc_read": [c_void_p, c_uint64, c_void_p, c_uint64, c_uint64, c_uint32],
    "mc_write": [c_void_p, c_uint64, c_void_p, c_uint64, c_uint64, c_uint32],
    "mc_notify_send": [c_void_p, c_uint64, c_char_p, c_size_t, c_char_p, c_size_t, c_uint32],
    "mc_notify_take": [c_void_p, POINTER(c_void_p)],
    "mc_notifications_get": [c_void_p, c_size_t, POINTER(c_void_p), POINTER(c_size_t),
                             POINTER(c_void_p), POINTER(c_size_t)],
}


def default_library():
    target = os.environ.get("CARGO_TARGET_DIR", str(TREE / "target"))
    return os.environ.get("MOONCAKE_LIBRARY", os.path.join(target, "release", "libmooncake.so"))


def load(path):
    library = ctypes.CDLL(path)
    for name, arguments in PROTOTYPES.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = c_int32
    library.mc_status_name.argtypes = [c_int32]
    library.mc_status_name.restype = c_char_p
    library.mc_last_error_message.argtypes = [c_char_p, c_size_t]
    library.mc_last_error_message.restype = c_size_t
    library.mc_notifications_count.argtypes = [c_void_p]
    library.mc_notifications_count.restype = c_size_t
    library.mc_notifications_destroy.argtypes = [c_void_p]
    library.mc_notifications_destroy.restype = c_int32
    return library


class Ours:
    """The backend of the driver."""

    def __init__(self, library):
        self.library = library
        self.engine = c_void_p()
        self.segments = {}

    def create(self, name, metadata="P2PHANDSHAKE", protocol="tcp", json=None,
               transfer_timeout_ms=0):
        options = Options(
            struct_size=ctypes.sizeof(Options), metadata=metadata.encode(),
            local_name=name.encode(), protocol=protocol.encode(),
            transfer_timeout_ms=transfer_timeout_ms,
            json=None if json is None else json.encode())
        self.check(self.library.mc_engine_create(byref(options), byref(self.engine)))
        text = ctypes.create_string_buffer(TEXT_BYTES_MAX)
        self.check(self.library.mc_engine_local_name(
            self.engine, text, TEXT_BYTES_MAX, byref(c_size_t())))
        rpc, data = c_uint16(), c_uint16()
        self.check(self.library.mc_engine_ports(self.engine, byref(rpc), byref(data)))
        return {"name": text.value.decode(), "port": rpc.value, "data_port": data.value}

    def register(self, address, length):
        self.check(self.library.mc_buffer_register(
            self.engine, byref(Buffer(address=address, length_bytes=length))))

    def unregister(self, address):
        self.check(self.library.mc_buffer_unregister(self.engine, address))

    def transfer(self, peer, operation, group):
        # Opening here, not before, puts a dead or restarted peer's failure into the count.
        segment = self.segment(peer)
        if len(group) == 1:
            local, remote, length = group[0]
            call = self.library.mc_write if operation == "write" else self.library.mc_read
            status = call(self.engine, segment, local, remote, length, 0)
            return None if status == 0 else self.error(status)
        return self.batch(segment, operation, group, None)

    def batch(self, segment, operation, group, options):
        requests = (Request * len(group))(*(
            Request(operation=OPERATIONS[operation], local=local, segment=segment,
                    remote_address=remote, length_bytes=length)
            for local, remote, length in group))
        batch = c_void_p()
        self.check(self.library.mc_batch_create(self.engine, len(group), byref(batch)))
        try:
            if options is None:
                status = self.library.mc_batch_submit(batch, requests, len(group))
            else:
                status = self.library.mc_batch_submit_with(
                    batch, requests, len(group), byref(options))
            if status != 0:
                return self.error(status)
            status = self.library.mc_batch_wait(batch, BATCH_WAIT_MS, None)
            return None if status == 0 else self.task_errors(batch, len(group), status)
        finally:
            self.library.mc_batch_destroy(batch)

    def task_errors(self, batch, count, status):
        """The text of the first failed task, which is made on another thread than ours."""
        task = TaskStatus()
        for index in range(count):
            self.check(self.library.mc_batch_task_status(batch, index, byref(task)))
            if task.status < 0:
                text = ctypes.create_string_buffer(TEXT_BYTES_MAX)
                self.library.mc_batch_task_error(
                    batch, index, text, TEXT_BYTES_MAX, byref(c_size_t()))
                name = self.library.mc_status_name(task.status).decode()
                return f"task {index} {name}: {text.value.decode('utf-8', 'replace')}"
        return self.error(status)

    def notify(self, peer, name, message, request):
        """The notification travels behind the write, as one submission."""
        name, message = name.encode(), message.encode()
        options = SubmitOptions(
            struct_size=ctypes.sizeof(SubmitOptions), notify_name=name, notify_name_len=len(name),
            notify_message=message, notify_message_len=len(message))
        return self.batch(self.segment(peer), "write", [request], options)

    def notifications(self):
        handle = c_void_p()
        self.check(self.library.mc_notify_take(self.engine, byref(handle)))
        try:
            count = self.library.mc_notifications_count(handle)
            return [self.notification(handle, index) for index in range(count)]
        finally:
            self.library.mc_notifications_destroy(handle)

    def notification(self, handle, index):
        name, message = c_void_p(), c_void_p()
        name_len, message_len = c_size_t(), c_size_t()
        self.check(self.library.mc_notifications_get(
            handle, index, byref(name), byref(name_len), byref(message), byref(message_len)))
        return [ctypes.string_at(name, name_len.value).decode(),
                ctypes.string_at(message, message_len.value).decode()]

    def extra_notify(self, peer, name, message):
        """A notification alone, without a transfer."""
        name, message = name.encode(), message.encode()
        self.check(self.library.mc_notify_send(
            self.engine, self.segment(peer), name, len(name), message, len(message), 0))
        return {}

    def extra_probe(self, peer):
        return {"status": self.library.mc_segment_probe(self.engine, self.segment(peer), 5000)}

    def extra_dump(self):
        """Everything found and chosen, and why."""
        length = c_size_t()
        self.check(self.library.mc_engine_dump(self.engine, None, 0, byref(length)))
        text = ctypes.create_string_buffer(length.value + DUMP_SLACK_BYTES)
        self.check(self.library.mc_engine_dump(self.engine, text, len(text), byref(length)))
        return {"dump": json.loads(text.value)}

    def segment(self, peer):
        # One handle per name for the life of the engine, as the programs around us do it: finding a
        # restarted peer again is the engine's work.
        if peer not in self.segments:
            handle = c_uint64()
            self.check(self.library.mc_segment_open(self.engine, peer.encode(), byref(handle)))
            self.segments[peer] = handle.value
        return self.segments[peer]

    def destroy(self):
        self.check(self.library.mc_engine_destroy(self.engine))
        self.engine = c_void_p()

    def error(self, status):
        text = ctypes.create_string_buffer(TEXT_BYTES_MAX)
        self.library.mc_last_error_message(text, TEXT_BYTES_MAX)
        name = self.library.mc_status_name(status).decode()
        return f"{name} ({status}): {text.value.decode('utf-8', 'replace')}"

    def check(self, status):
        if status != 0:
            raise RuntimeError(self.error(status))


if __name__ == "__main__":
    driver.serve(Ours(load(default_library())))
