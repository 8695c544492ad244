"""Binds a thread to a NUMA node: its processors, and where its new memory comes from."""

import ctypes
import os
import platform

SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
MPOL_PREFERRED = 1
NODES_MAX = 1024


def processors(node):
    """The processors of a node, from a list such as 0-3,8."""
    with open(f"/sys/devices/system/node/node{node}/cpulist", encoding="ascii") as file:
        found = set()
        for part in filter(None, file.read().strip().split(",")):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found


def bind(node):
    """Does what the host allows, and nothing for a node that does not exist."""
    if not 0 <= node < NODES_MAX:
        return
    try:
        there = processors(node)
        if there:
            os.sched_setaffinity(0, there & os.sched_getaffinity(0) or there)
    except (OSError, ValueError):
        return
    number = SET_MEMPOLICY.get(platform.machine())
    if number is not None:
        mask = (ctypes.c_ulong * (NODES_MAX // 64))()
        mask[node // 64] = 1 << node % 64
        # Refused in some containers; then memory comes from where it is touched, as always.
        ctypes.CDLL(None).syscall(ctypes.c_long(number), ctypes.c_int(MPOL_PREFERRED), mask,
                                  ctypes.c_ulong(NODES_MAX))
