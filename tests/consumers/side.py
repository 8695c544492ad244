"""What all sides share: memory with known bytes, and how it is told."""

import json
import os
import random
import time
import zlib

import torch

# How long a thread of a connector may take, on a machine that does much else.
ENDS = 50


def filled(length, seed=None):
    """A tensor of bytes, zero or random."""
    made = torch.empty(length, dtype=torch.uint8)
    if seed is not None:
        made.copy_(torch.frombuffer(bytearray(random.Random(seed).randbytes(length)), dtype=torch.uint8))
    return made


def seen(tensor):
    """Length and checksum of the bytes of a tensor."""
    data = torch.string_at(tensor)
    return [len(data), zlib.crc32(data)]


def config_file(**fields):
    """Writes the settings that consumers read from `MOONCAKE_CONFIG_PATH`: a file of this process only,
    so that none is left over."""
    file = os.memfd_create("settings")
    os.write(file, json.dumps(fields).encode())
    os.environ["MOONCAKE_CONFIG_PATH"] = f"/proc/self/fd/{file}"


def until(done, what):
    """Waits for a thread of a connector."""
    end = time.monotonic() + ENDS
    while not done():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not happen within {ENDS} s")
        time.sleep(0.005)


class Buffers:
    """Tensors of a side by name."""

    def __init__(self):
        self.tensors = {}

    def buffer(self, name, length, seed=None):
        """A new tensor; its address."""
        self.tensors[name] = filled(length, seed)
        return self.tensors[name].data_ptr()

    def bytes_of(self, name):
        return seen(self.tensors[name])

    def clear(self, name):
        self.tensors[name].zero_()
