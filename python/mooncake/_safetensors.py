"""Files in the format of safetensors with one tensor: eight bytes of length, JSON, elements.

Neither torch nor the package of that name is needed for it.
"""

import json
import struct

LENGTH = struct.Struct("<Q")
HEADER_BYTES_MAX = 100 << 20
ALIGNMENT = 8

# Name in the file for each name of a dtype.
NAMES = {"float32": "F32", "float64": "F64", "int8": "I8", "uint8": "U8", "int16": "I16",
         "uint16": "U16", "int32": "I32", "uint32": "U32", "int64": "I64", "uint64": "U64",
         "bool": "BOOL", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
         "float8_e5m2": "F8_E5M2"}
DTYPES = {short: name for name, short in NAMES.items()}


def write(path, key, name, shape, elements):
    """Writes a file; what was there is replaced."""
    header = json.dumps({key: {"dtype": NAMES[name], "shape": list(shape),
                               "data_offsets": [0, len(elements)]}}).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(LENGTH.pack(len(header)))
        file.write(header)
        file.write(elements)


def read(path, key):
    """(name of the dtype, shape, elements) of `key`, or of the first tensor without such a one.

    A file that cannot be right is a ValueError.
    """
    with open(path, "rb") as file:
        prefix = file.read(LENGTH.size)
        length = LENGTH.unpack(prefix)[0] if len(prefix) == LENGTH.size else 0
        if not 0 < length <= HEADER_BYTES_MAX:
            raise ValueError("this is no file of safetensors")
        entries = json.loads(file.read(length))
        if not isinstance(entries, dict):
            raise ValueError("its header is no table")
        entries.pop("__metadata__", None)
        entry = entries.get(key) or next(iter(entries.values()), None)
        try:
            name, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
            start, end = entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise ValueError("no tensor in it that is known here") from None
        numbers = (*shape, start, end)
        if not all(isinstance(number, int) and number >= 0 for number in numbers) or start > end:
            raise ValueError("numbers that cannot be right")
        file.seek(LENGTH.size + length + start)
        elements = file.read(end - start)
        if len(elements) != end - start:
            raise ValueError("it ends too early")
        return name, shape, elements
