"""As much of torch as connectors need to hand out addresses: tensors over memory of numpy.

Every tensor is a view of one flat array of bytes, as a contiguous tensor of torch is, so that slices,
`view` and `data_ptr` agree about where the bytes are. What is not here is blank, see `loading`.
"""

import ctypes

import numpy

import blank


class dtype:  # noqa: N801  The names are torch's.
    def __init__(self, name, itemsize, kind=None):
        self.name, self.itemsize = name, itemsize
        # numpy knows no bfloat16; its bytes are what is moved.
        self.numpy = numpy.dtype(kind or name)

    def __repr__(self):
        return f"torch.{self.name}"


uint8, int8, int16 = dtype("uint8", 1), dtype("int8", 1), dtype("int16", 2)
int32, int64, uint32 = dtype("int32", 4), dtype("int64", 8), dtype("uint32", 4)
uint16, uint64 = dtype("uint16", 2), dtype("uint64", 8)
float32, float64, float16 = dtype("float32", 4), dtype("float64", 8), dtype("float16", 2)
bfloat16, bool = dtype("bfloat16", 2, "uint16"), dtype("bool", 1)
float8_e4m3fn, float8_e5m2 = dtype("float8_e4m3fn", 1, "uint8"), dtype("float8_e5m2", 1, "uint8")
half, float, double, long, int = float16, float32, float64, int64, int32
_TYPES = {one.name: one for one in (uint8, int8, int16, uint16, int32, uint32, int64, uint64, float16,
                                    float32, float64, bool)}


class device:  # noqa: N801
    def __init__(self, name="cpu", index=None):
        if isinstance(name, device):
            name, index = name.type, name.index
        self.type, _, number = str(name).partition(":")
        self.index = _int(number) if number else index

    def __str__(self):
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __eq__(self, other):
        return str(self) == str(other)

    def __hash__(self):
        return hash(str(self))


_int = type(0)


class Size(tuple):
    def numel(self):
        return _int(numpy.prod(self, dtype=numpy.int64))


class _Storage:
    def __init__(self, owner):
        self.owner = owner

    def data_ptr(self):
        return self.owner.ctypes.data

    def nbytes(self):
        return self.owner.nbytes


class Tensor:
    """A view of memory: an array of numpy, the type torch would have, and the memory itself."""

    def __init__(self, array, kind=None, memory=None):
        self.array = array
        self.dtype = kind or _TYPES[array.dtype.name]
        self.memory = array if memory is None else memory
        self.device = device("cpu")

    def _like(self, array, kind=None):
        return Tensor(array, kind or self.dtype, self.memory)

    shape = property(lambda self: Size(self.array.shape))
    ndim = property(lambda self: self.array.ndim)
    nbytes = property(lambda self: self.array.nbytes)
    itemsize = property(lambda self: self.dtype.itemsize)
    is_cuda = is_cpu = requires_grad = False
    size = lambda self, at=None: self.shape if at is None else self.shape[at]  # noqa: E731
    dim = lambda self: self.array.ndim  # noqa: E731

    def data_ptr(self):
        return self.array.ctypes.data

    def numel(self):
        return _int(self.array.size)

    def element_size(self):
        return self.dtype.itemsize

    def storage_offset(self):
        return (self.array.ctypes.data - self.memory.ctypes.data) // self.dtype.itemsize

    def untyped_storage(self):
        return _Storage(self.memory)

    def stride(self, at=None):
        steps = tuple(step // self.dtype.itemsize for step in self.array.strides)
        return steps if at is None else steps[at]

    def is_contiguous(self):
        return self.array.flags["C_CONTIGUOUS"]

    def contiguous(self):
        return self if self.is_contiguous() else self._like(numpy.ascontiguousarray(self.array))

    def detach(self):
        return self

    cpu = cuda = pin_memory = lambda self, *_, **__: self  # noqa: E731

    def clone(self):
        return Tensor(self.array.copy(), self.dtype)

    def to(self, *places, dtype=None, **_):
        kinds = [place for place in (*places, dtype) if type(place).__name__ == "dtype"]
        if not kinds or kinds[0] is self.dtype:
            return self
        return Tensor(self.array.astype(kinds[0].numpy), kinds[0])

    def view(self, *shape):
        if len(shape) == 1 and type(shape[0]).__name__ == "dtype":
            return self._like(self.array.view(shape[0].numpy), shape[0])
        return self.reshape(*shape)

    def reshape(self, *shape):
        if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
            shape = tuple(shape[0])
        return self._like(self.array.reshape(shape))

    flatten = ravel = lambda self: self._like(self.array.reshape(-1))  # noqa: E731

    def permute(self, *order):
        return self._like(self.array.transpose(*order))

    def unsqueeze(self, at):
        return self._like(numpy.expand_dims(self.array, at))

    def squeeze(self, at=None):
        return self._like(numpy.squeeze(self.array, at))

    def copy_(self, other, **_):
        self.array[...] = other.array.reshape(self.array.shape)
        return self

    def zero_(self):
        self.array[...] = 0
        return self

    fill_ = lambda self, value: self.array.fill(value) or self  # noqa: E731

    def numpy(self):
        return self.array

    tolist = lambda self: self.array.tolist()  # noqa: E731
    item = lambda self: self.array.item()  # noqa: E731
    sum = lambda self: Tensor(numpy.asarray(self.array.sum()))  # noqa: E731

    def __getitem__(self, key):
        if isinstance(key, Tensor):
            key = key.array
        found = self.array[key]
        return self._like(found if isinstance(found, numpy.ndarray) else numpy.asarray(found))

    def __setitem__(self, key, value):
        self.array[key] = value.array if isinstance(value, Tensor) else value

    def __len__(self):
        return len(self.array)

    def __iter__(self):
        return (self[at] for at in range(len(self.array)))

    def __index__(self):
        return _int(self.array)

    __int__ = __index__

    def __bytes__(self):
        return self.array.tobytes()


def _made(how, shape, dtype=None, **_):
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    kind = dtype or float32
    return Tensor(how(shape, dtype=kind.numpy), kind)


def empty(*shape, **options):
    return _made(numpy.zeros, shape, **options)


zeros = empty


def ones(*shape, **options):
    return _made(numpy.ones, shape, **options)


def randn(*shape, dtype=None, **_):
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    kind = dtype or float32
    return Tensor(numpy.random.default_rng(5).standard_normal(shape).astype(kind.numpy), kind)


rand = randn


def tensor(values, dtype=None, device=None):
    if dtype is not None:
        return Tensor(numpy.array(values, dtype=dtype.numpy), dtype)
    array = numpy.array(values)
    return Tensor(array.astype("float32") if array.dtype == "float64" else array)


def arange(*limits, dtype=None, **_):
    return Tensor(numpy.arange(*limits, dtype=(dtype or int64).numpy), dtype or int64)


def frombuffer(buffer, dtype, count=-1, offset=0):
    array = numpy.frombuffer(buffer, dtype=dtype.numpy, count=count, offset=offset)
    return Tensor(array, dtype, array)


def from_numpy(array):
    return Tensor(array)


def equal(one, other):
    return numpy.array_equal(one.array, other.array)


def allclose(one, other, atol=1e-8, **_):
    return numpy.allclose(one.array, other.array, atol=atol)


def cat(parts, dim=0):
    return Tensor(numpy.concatenate([part.array for part in parts], axis=dim), parts[0].dtype)


def string_at(one):
    """The bytes at the address of a tensor, whatever numpy thinks of them."""
    return ctypes.string_at(one.data_ptr(), one.nbytes)


def __getattr__(name):
    return blank.attribute(f"torch.{name}", name)


# `import torch.distributed` and the like find blank modules.
__path__ = []
