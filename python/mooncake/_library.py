"""Finds libmooncake.so, loads it, and checks it against the table of prototypes.

The library is the file that MOONCAKE_LIBRARY names, else the one in this package, else that of the
system. `CDLL` gives the interpreter lock free during every call. Loading starts no thread and opens
no socket and no device.
"""

import ctypes
import os

from . import _prototypes
from ._library_paths import PACKAGE

FILE = "libmooncake.so"


def candidates():
    """What is tried, in order; only the first that exists counts."""
    named = os.environ.get("MOONCAKE_LIBRARY")
    if named:
        return [named]
    beside = PACKAGE / FILE
    if beside.exists():
        return [str(beside)]
    return [f"{FILE}.{_prototypes.MC_ABI_VERSION}", FILE]


def load():
    """The library with the prototypes of all its functions set."""
    failures = []
    for path in candidates():
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            failures.append(f"{path}: {error}")
            continue
        check(library, path)
        return library
    raise ImportError(f"{FILE} cannot be loaded ({'; '.join(failures)}); MOONCAKE_LIBRARY names "
                      "a file to use")


def check(library, path):
    """Refuses a library that this package was not made for, naming both versions."""
    ours = f"this package is {_prototypes.MC_VERSION_STRING}, ABI {_prototypes.MC_ABI_VERSION}"
    try:
        library.mc_version_string.restype = ctypes.c_char_p
        library.mc_abi_version.restype = ctypes.c_uint32
        version, abi = library.mc_version_string().decode(), library.mc_abi_version()
    except AttributeError:
        raise ImportError(f"{path} is not libmooncake; {ours}") from None
    theirs = f"{path} is {version}, ABI {abi}"
    if abi != _prototypes.MC_ABI_VERSION:
        raise ImportError(f"{theirs}; {ours}")
    for name, (returns, parameters) in _prototypes.FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise ImportError(f"{theirs} and lacks {name}; {ours}") from None
        function.restype = returns
        function.argtypes = parameters


lib = load()
