"""Prints which network adapters are near which memory of this host."""

import sys

from ._programs import become

PROGRAM = "transfer_engine_topology_dump"


def main() -> int:
    """Runs the program with this process's arguments; returns only when it is missing."""
    return become(PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
