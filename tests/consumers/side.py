"""What all sides share: memory with known bytes, and how it is told."""

import json
import os
import random
import tempfile
import zlib

import torch


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


def made(length, seed):
    """What `seen` says of `filled` with this seed."""
    return [length, zlib.crc32(random.Random(seed).randbytes(length))]


def config_file(**fields):
    """Writes the settings that consumers read from `MOONCAKE_CONFIG_PATH`."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(fields, file)
    os.environ["MOONCAKE_CONFIG_PATH"] = file.name
    return file.name


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
