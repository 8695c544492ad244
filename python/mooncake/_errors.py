"""The text of the last failure of each thread, for callers that get numbers.

No module of this package but those that load the library is needed here, so `mooncake.last_error`
works before anything was loaded.
"""

import threading

TEXT_BYTES = 4096

_thread = threading.local()


class Refused(Exception):
    """A call that is answered with upstream's number, without asking the library."""


def last():
    """The text, empty when nothing failed yet."""
    return getattr(_thread, "text", "")


def tell(text):
    """Keeps a text as the last failure of this thread."""
    _thread.text = text


def tell_native(lib, status, call):
    """Keeps what the library says about its failure `status`; right after the failed call."""
    _thread.text = f"{call}: {native_text(lib, status)}"


def native_text(lib, status):
    """Name and text of a failure of the library."""
    from ctypes import create_string_buffer
    buffer = create_string_buffer(TEXT_BYTES)
    lib.mc_last_error_message(buffer, TEXT_BYTES)
    text = buffer.value.decode("utf-8", "replace")
    return f"{text} ({lib.mc_status_name(status).decode()})"
