"""Memory of Python objects by address: values that are put, and objects that were got.

The buffer protocol gives an object's address without a copy, also when it is read-only; only the
interpreter itself can ask for that, so this file calls it through `ctypes.pythonapi`.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import c_char_p, c_int, c_ssize_t, c_void_p, py_object
from typing import TYPE_CHECKING, Any

from . import _errors
from ._convert import wrong
from ._library import lib


class PyBuffer(ctypes.Structure):
    """Py_buffer of the interpreter; the same in 3.9 to 3.14."""
    _fields_ = [("buf", c_void_p), ("obj", c_void_p), ("len", c_ssize_t), ("itemsize", c_ssize_t),
                ("readonly", c_int), ("ndim", c_int), ("format", c_char_p), ("shape", c_void_p),
                ("strides", c_void_p), ("suboffsets", c_void_p), ("internal", c_void_p)]


SIMPLE = 0

_get = ctypes.pythonapi.PyObject_GetBuffer
_get.argtypes, _get.restype = [py_object, c_void_p, c_int], c_int
_release = ctypes.pythonapi.PyBuffer_Release
_release.argtypes, _release.restype = [c_void_p], None
_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes, _new_bytes.restype = [c_void_p, c_ssize_t], py_object


class Value:
    """Address and length of an object with the buffer protocol, which it keeps in place."""

    __slots__ = ("view", "address", "length")

    def __init__(self, name, value):
        self.view = None
        view = PyBuffer()
        try:
            _get(value, ctypes.addressof(view), SIMPLE)
        except (TypeError, BufferError):
            raise wrong(name, "contiguous bytes", value) from None
        self.view = view
        self.address, self.length = view.buf or 0, view.len

    def __del__(self):
        if self.view is not None:
            _release(ctypes.addressof(self.view))


def empty_bytes(length):
    """(bytes, address): an object whose content is to be written before anybody else sees it."""
    fresh = _new_bytes(None, length)
    view = Value("value", fresh)
    return fresh, view.address


class BufferHandle:
    """An object's bytes in memory of the store, readable and writable through the buffer protocol.

    The memory stays as long as this or a view of it lives, also after the store was closed.
    """

    __slots__ = ()
    _address: int
    _length: int

    def __new__(cls, *_: Any, **__: Any) -> BufferHandle:
        if cls is BufferHandle:
            raise TypeError("a BufferHandle comes from get_buffer()")
        return super().__new__(cls)

    def ptr(self) -> int:
        """ptr() -> int: address of the first byte."""
        return self._address

    def size(self) -> int:
        """size() -> int: how many bytes."""
        return self._length

    def len(self) -> int:
        """len() -> int: the same as size()."""
        return self._length

    def __len__(self) -> int:
        return self._length

    if TYPE_CHECKING:
        def __buffer__(self, flags: int) -> memoryview:
            """The memory; how it is given out depends on the interpreter, see below."""

    def __repr__(self) -> str:
        return f"<BufferHandle of {self._length} bytes at {self._address:#x}>"

    def __del__(self) -> None:
        handle, self._handle = getattr(self, "_handle", None), None
        if handle is not None:
            lib.mc_store_buffer_release(handle)


def _detached(handle):
    """Who has a handle may write, as with upstream's, so it must not be the object itself."""
    status = lib.mc_store_buffer_detach(handle)
    if status == 0:
        return True
    _errors.tell_native(lib, status, "a copy of the object")
    lib.mc_store_buffer_release(handle)
    return False


if sys.version_info >= (3, 12):
    class _Handle(BufferHandle):
        """A handle that gives its memory out itself."""

        __slots__ = ("_handle", "_address", "_length")

        def __buffer__(self, _flags):
            memory = (ctypes.c_ubyte * self._length).from_address(self._address)
            return memoryview(memory).cast("B")

    def make_handle(handle):
        """A BufferHandle that owns `handle` of the library; None where there is no room."""
        if not _detached(handle):
            return None
        made = _Handle()
        made._handle = handle
        made._address = lib.mc_store_buffer_address(handle) or 0
        made._length = lib.mc_store_buffer_size(handle)
        return made
else:
    _classes = {}
    CLASSES_MAX = 256

    def _class_of(length):
        """Before 3.12 only C types give buffers out: an array type, one for each size in use."""
        found = _classes.get(length)
        if found is None:
            members = {"__slots__": ("_handle", "_address", "_length")}
            found = type("BufferHandle", (BufferHandle, ctypes.c_ubyte * length), members)
            if len(_classes) >= CLASSES_MAX:
                _classes.clear()
            _classes[length] = found
        return found

    def make_handle(handle):
        """A BufferHandle that owns `handle` of the library; None where there is no room."""
        if not _detached(handle):
            return None
        address = lib.mc_store_buffer_address(handle) or 0
        length = lib.mc_store_buffer_size(handle)
        made = _class_of(length).from_address(address)
        made._handle, made._address, made._length = handle, address, length
        return made
