"""Our store client through `libmooncake.so`, as backends of `driver.py`: `mc_store_*`, and upstream's
`store_c.h` from the same library.
"""

import ctypes
import os
import pathlib
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32, \
    c_uint64, c_void_p

TREE = pathlib.Path(__file__).resolve().parents[2]
TEXT_BYTES_MAX = 16 << 10
LOG_WARN = 2
SOFT_PIN = 1
NO_BYTES = 2 ** 64 - 1


class Options(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("reserved", c_uint32), ("local_hostname", c_char_p),
        ("metadata_server", c_char_p), ("protocol", c_char_p), ("device_name", c_char_p),
        ("master_server_address", c_char_p), ("global_segment_bytes", c_uint64),
        ("local_buffer_bytes", c_uint64), ("json", c_char_p),
    ]


class PutOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("replica_num", c_uint32), ("flags", c_uint32),
        ("timeout_ms", c_uint32), ("soft_pin_ttl_ms", c_uint64),
        ("preferred_segments", POINTER(c_char_p)), ("preferred_segment_count", c_size_t),
        ("groups", POINTER(c_char_p)), ("group_count", c_size_t),
    ]


class Range(Structure):
    _fields_ = [("address", c_void_p), ("length_bytes", c_size_t)]


class Object(Structure):
    _fields_ = [("key", c_char_p), ("key_len", c_size_t), ("ranges", POINTER(Range)),
                ("range_count", c_size_t)]


class Health(Structure):
    _fields_ = [("struct_size", c_uint32), ("master_is_reachable", c_int32),
                ("master_is_native", c_int32), ("last_failure", c_int32), ("failures", c_uint64),
                ("since_answer_ms", c_uint64), ("objects_held", c_uint64)]


class ReplicateConfig(Structure):
    _fields_ = [("replica_num", c_size_t), ("with_soft_pin", c_int), ("with_hard_pin", c_int),
                ("preferred_segments", POINTER(c_char_p)), ("preferred_segments_count", c_size_t)]


KEY = [c_void_p, c_char_p, c_size_t]
BATCH = [c_void_p, POINTER(Object), c_size_t]
PROTOTYPES = {
    "mc_store_open": [POINTER(Options), c_void_p, POINTER(c_void_p)],
    "mc_store_close": [c_void_p],
    "mc_store_hostname": [c_void_p, c_char_p, c_size_t, POINTER(c_size_t)],
    "mc_store_put": KEY + [c_char_p, c_size_t, POINTER(PutOptions)],
    "mc_store_put_batch": BATCH + [POINTER(PutOptions), POINTER(c_int32)],
    "mc_store_get_batch": BATCH + [c_uint32, POINTER(c_uint64), POINTER(c_int32)],
    "mc_store_get_buffer": KEY + [c_uint32, POINTER(c_void_p)],
    "mc_store_buffer_release": [c_void_p],
    "mc_store_exists_batch": BATCH + [c_uint32, POINTER(c_int32), POINTER(c_int32)],
    "mc_store_size": KEY + [c_uint32, POINTER(c_uint64)],
    "mc_store_remove": KEY + [c_int32, c_uint32],
    "mc_store_remove_by_pattern": KEY + [c_int32, POINTER(c_uint64)],
    "mc_store_remove_all": [c_void_p, c_int32, POINTER(c_uint64)],
    "mc_store_health": [c_void_p, POINTER(Health)],
    "mc_store_upstream_code": [c_int32],
}
UPSTREAM = {
    "mooncake_store_create": (c_void_p, []),
    "mooncake_store_destroy": (None, [c_void_p]),
    "mooncake_store_setup": (c_int, [c_void_p, c_char_p, c_char_p, c_uint64, c_uint64, c_char_p,
                                     c_char_p, c_char_p]),
    "mooncake_store_put": (c_int, [c_void_p, c_char_p, c_char_p, c_size_t,
                                   POINTER(ReplicateConfig)]),
    "mooncake_store_batch_put_from": (c_int, [
        c_void_p, POINTER(c_char_p), POINTER(c_void_p), POINTER(c_size_t), c_size_t,
        POINTER(ReplicateConfig), POINTER(c_int)]),
    "mooncake_store_get_into": (c_int64, [c_void_p, c_char_p, c_void_p, c_size_t]),
    "mooncake_store_batch_get_into": (c_int, [
        c_void_p, POINTER(c_char_p), POINTER(c_void_p), POINTER(c_size_t), c_size_t,
        POINTER(c_int64)]),
    "mooncake_store_batch_is_exist": (c_int, [c_void_p, POINTER(c_char_p), c_size_t,
                                              POINTER(c_int)]),
    "mooncake_store_get_size": (c_int64, [c_void_p, c_char_p]),
    "mooncake_store_get_hostname": (c_int, [c_void_p, c_char_p, c_size_t]),
    "mooncake_store_remove": (c_int, [c_void_p, c_char_p, c_int]),
    "mooncake_store_remove_by_regex": (c_int64, [c_void_p, c_char_p, c_int]),
    "mooncake_store_remove_all": (c_int64, [c_void_p, c_int]),
    "mooncake_store_health_check": (c_int, [c_void_p]),
}


def load():
    target = os.environ.get("CARGO_TARGET_DIR", str(TREE / "target"))
    path = os.environ.get("MOONCAKE_LIBRARY", os.path.join(target, "release", "libmooncake.so"))
    library = ctypes.CDLL(path)
    for name, arguments in PROTOTYPES.items():
        getattr(library, name).argtypes = arguments
        getattr(library, name).restype = c_int32
    for name, (result, arguments) in UPSTREAM.items():
        getattr(library, name).argtypes = arguments
        getattr(library, name).restype = result
    library.mc_store_buffer_address.argtypes = [c_void_p]
    library.mc_store_buffer_address.restype = c_void_p
    library.mc_store_buffer_size.argtypes = [c_void_p]
    library.mc_store_buffer_size.restype = c_size_t
    library.mc_last_error_message.argtypes = [c_char_p, c_size_t]
    library.mc_last_error_message.restype = c_size_t
    return library


def texts(values):
    return (c_char_p * max(1, len(values)))(*[value.encode() for value in values])


class Ours:
    """`mc_store_*`."""

    def __init__(self):
        self.library = load()
        self.store = c_void_p()

    def code(self, status):
        return self.library.mc_store_upstream_code(status)

    def setup(self, host, master, segment, local_buffer, metadata="P2PHANDSHAKE", json=None,
              warnings=False):
        if warnings:
            # Of the whole process, to its log.
            self.library.mc_log_set(c_int32(LOG_WARN), None, None)
        options = Options()
        options.struct_size = ctypes.sizeof(options)
        options.local_hostname = host.encode()
        options.metadata_server = metadata.encode()
        options.master_server_address = master.encode()
        options.global_segment_bytes = segment or NO_BYTES
        options.local_buffer_bytes = local_buffer or NO_BYTES
        options.json = json.encode() if json else None
        status = self.library.mc_store_open(byref(options), None, byref(self.store))
        if status != 0:
            text = ctypes.create_string_buffer(TEXT_BYTES_MAX)
            self.library.mc_last_error_message(text, TEXT_BYTES_MAX)
            raise RuntimeError(f"mc_store_open: {text.value.decode()}")
        return 0

    def hostname(self):
        text = ctypes.create_string_buffer(TEXT_BYTES_MAX)
        self.library.mc_store_hostname(self.store, text, TEXT_BYTES_MAX, None)
        return text.value.decode()

    @staticmethod
    def options(config):
        options = PutOptions()
        options.struct_size = ctypes.sizeof(options)
        options.replica_num = config.get("replica_num", 1)
        options.flags = SOFT_PIN if config.get("with_soft_pin") else 0
        if config.get("preferred_segment"):
            names = texts([config["preferred_segment"]])
            options.preferred_segments = names
            options.preferred_segment_count = 1
        if config.get("groups"):
            options.groups = texts(config["groups"])
            options.group_count = len(config["groups"])
        return options

    @staticmethod
    def objects(keys, memory=None):
        objects = (Object * max(1, len(keys)))()
        for index, key in enumerate(keys):
            name = key.encode()
            objects[index].key, objects[index].key_len = name, len(name)
            pieces = memory[index] if memory else []
            ranges = (Range * max(1, len(pieces)))()
            for place, piece in zip(ranges, pieces):
                place.address, place.length_bytes = piece.address, piece.length
            objects[index].ranges, objects[index].range_count = ranges, len(pieces)
        return objects

    def put(self, key, value, config):
        name = key.encode()
        return self.code(self.library.mc_store_put(
            self.store, name, len(name), value, len(value), byref(self.options(config))))

    def put_batch(self, keys, memory, config):
        statuses = (c_int32 * max(1, len(keys)))()
        whole = self.library.mc_store_put_batch(self.store, self.objects(keys, memory), len(keys),
                                                byref(self.options(config)), statuses)
        return [self.code(whole or status) for status in statuses[:len(keys)]]

    def get(self, key):
        name = key.encode()
        buffer = c_void_p()
        status = self.library.mc_store_get_buffer(self.store, name, len(name), 0, byref(buffer))
        if status != 0:
            return self.code(status)
        address = self.library.mc_store_buffer_address(buffer)
        value = ctypes.string_at(address, self.library.mc_store_buffer_size(buffer))
        self.library.mc_store_buffer_release(buffer)
        return value

    def get_batch(self, keys, memory, same_node):
        statuses = (c_int32 * max(1, len(keys)))()
        sizes = (c_uint64 * max(1, len(keys)))()
        whole = self.library.mc_store_get_batch(self.store, self.objects(keys, memory), len(keys),
                                                0, sizes, statuses)
        return [self.code(whole or status) or size
                for status, size in zip(statuses[:len(keys)], sizes)]

    def exists(self, keys):
        statuses = (c_int32 * max(1, len(keys)))()
        found = (c_int32 * max(1, len(keys)))()
        whole = self.library.mc_store_exists_batch(self.store, self.objects(keys), len(keys), 0,
                                                   found, statuses)
        return [self.code(whole or status) or one
                for status, one in zip(statuses[:len(keys)], found)]

    def size(self, key):
        size, name = c_uint64(), key.encode()
        status = self.library.mc_store_size(self.store, name, len(name), 0, byref(size))
        return self.code(status) or size.value

    def remove(self, key):
        name = key.encode()
        return self.code(self.library.mc_store_remove(self.store, name, len(name), 0, 0))

    def remove_by_regex(self, pattern):
        count, text = c_uint64(), pattern.encode()
        status = self.library.mc_store_remove_by_pattern(self.store, text, len(text), 0,
                                                         byref(count))
        return self.code(status) or count.value

    def remove_all(self):
        count = c_uint64()
        return self.code(self.library.mc_store_remove_all(self.store, 0, byref(count))) \
            or count.value

    def metric(self, name):
        """One counter of the client."""
        text = ctypes.create_string_buffer(TEXT_BYTES_MAX)
        self.library.mc_store_metrics_text(self.store, text, c_size_t(TEXT_BYTES_MAX), None)
        for line in text.value.decode().splitlines():
            if line.startswith(f"mooncake_store_{name}_total "):
                return int(line.split()[1])
        raise RuntimeError(f"no counter {name}")

    def health(self):
        health = Health()
        health.struct_size = ctypes.sizeof(health)
        status = self.library.mc_store_health(self.store, byref(health))
        return {"status": status, "native": health.master_is_native,
                "reachable": health.master_is_reachable, "held": health.objects_held}

    def close(self):
        self.library.mc_store_close(self.store)


class OursC:
    """`mooncake_store_*`; objects in several parts and reads without a size are not in it."""

    def __init__(self):
        self.library = load()
        self.store = self.library.mooncake_store_create()

    def setup(self, host, master, segment, local_buffer, metadata="P2PHANDSHAKE"):
        return self.library.mooncake_store_setup(
            self.store, host.encode(), metadata.encode(), segment, local_buffer, b"tcp", b"",
            master.encode())

    def hostname(self):
        text = ctypes.create_string_buffer(TEXT_BYTES_MAX)
        self.library.mooncake_store_get_hostname(self.store, text, TEXT_BYTES_MAX)
        return text.value.decode()

    @staticmethod
    def config(wanted):
        config = ReplicateConfig()
        config.replica_num = wanted.get("replica_num", 1)
        config.with_soft_pin = int(bool(wanted.get("with_soft_pin")))
        return config

    def put(self, key, value, config):
        return self.library.mooncake_store_put(self.store, key.encode(), value, len(value),
                                               byref(self.config(config)))

    def arrays(self, keys, memory):
        if any(len(pieces) != 1 for pieces in memory):
            raise ValueError("store_c.h has no objects in parts")
        count = max(1, len(keys))
        return (texts(keys), (c_void_p * count)(*[pieces[0].address for pieces in memory]),
                (c_size_t * count)(*[pieces[0].length for pieces in memory]), len(keys))

    def put_batch(self, keys, memory, config):
        results = (c_int * max(1, len(keys)))()
        code = self.library.mooncake_store_batch_put_from(
            self.store, *self.arrays(keys, memory), byref(self.config(config)), results)
        return [code or result for result in results[:len(keys)]]

    def get(self, key):
        size = self.size(key)
        if size < 0:
            return size
        room = ctypes.create_string_buffer(size)
        got = self.library.mooncake_store_get_into(self.store, key.encode(), room, size)
        return room.raw[:got] if got >= 0 else got

    def get_batch(self, keys, memory, same_node):
        results = (c_int64 * max(1, len(keys)))()
        code = self.library.mooncake_store_batch_get_into(self.store, *self.arrays(keys, memory),
                                                          results)
        return [code or result for result in results[:len(keys)]]

    def exists(self, keys):
        results = (c_int * max(1, len(keys)))()
        code = self.library.mooncake_store_batch_is_exist(self.store, texts(keys), len(keys),
                                                          results)
        return [code or result for result in results[:len(keys)]]

    def size(self, key):
        return self.library.mooncake_store_get_size(self.store, key.encode())

    def remove(self, key):
        return self.library.mooncake_store_remove(self.store, key.encode(), 0)

    def remove_by_regex(self, pattern):
        return self.library.mooncake_store_remove_by_regex(self.store, pattern.encode(), 0)

    def remove_all(self):
        return self.library.mooncake_store_remove_all(self.store, 0)

    def health(self):
        return {"status": self.library.mooncake_store_health_check(self.store)}

    def close(self):
        self.library.mooncake_store_destroy(self.store)
