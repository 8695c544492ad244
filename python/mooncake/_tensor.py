"""Tensors as upstream 0.3.7 stores them: six numbers, then the elements.

torch is imported only when a tensor is put or asked for.
"""

import struct

HEADER = struct.Struct("<6i")
DIMENSIONS_MAX = 4
NO_DIMENSION = -1

# Place in this list is the code of upstream. Types that torch lacks are read as what holds them.
DTYPES = ("float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
          "uint64", "bool", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
WIDTHS = (4, 8, 1, 1, 2, 2, 4, 4, 8, 8, 1, 2, 2, 1, 1)
W8A8 = 15


def is_tensor(value):
    """Whether this is a torch tensor, without importing torch for anything else."""
    return all(hasattr(value, name) for name in ("dtype", "shape", "data_ptr", "element_size"))


def header_of(tensor):
    """The header of a tensor; None when it cannot be stored."""
    return header(str(tensor.dtype).rpartition(".")[2], tuple(tensor.shape))


def header(name, shape):
    """The header for a dtype and a shape; None when these cannot be stored."""
    if name not in DTYPES or len(shape) > DIMENSIONS_MAX:
        return None
    padded = shape + (NO_DIMENSION,) * (DIMENSIONS_MAX - len(shape))
    return HEADER.pack(DTYPES.index(name), len(shape), *padded)


def parse(data):
    """(name of the dtype, shape) of a stored tensor; None when it is none."""
    if len(data) < HEADER.size:
        return None
    code, dimensions, *shape = HEADER.unpack_from(data)
    if not 0 <= dimensions <= DIMENSIONS_MAX or min(shape[:dimensions], default=0) < 0:
        return None
    if code == W8A8:
        return "uint8", tuple(shape[:dimensions])
    if not 0 <= code < len(DTYPES):
        return None
    return DTYPES[code], tuple(shape[:dimensions])


def size_of(name, shape):
    """Bytes of the elements."""
    count = WIDTHS[DTYPES.index(name)]
    for length in shape:
        count *= length
    return count


def view(memory):
    """A tensor over memory that holds a stored one, which it keeps; None when it holds none."""
    import torch
    found = parse(memoryview(memory).cast("B"))
    if found is None:
        return None
    name, shape = found
    dtype = getattr(torch, name, None)
    length = size_of(name, shape)
    if dtype is None or len(memoryview(memory).cast("B")) != HEADER.size + length:
        return None
    if length == 0:
        return torch.empty(shape, dtype=dtype)
    count = length // WIDTHS[DTYPES.index(name)]
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=HEADER.size).reshape(shape)


def load(data):
    """A tensor over memory of its own from what was stored; None when it is none."""
    return view(bytearray(memoryview(data)))
