"""The console script transfer_engine_bench: becomes the program of that name in this package."""

import sys

from ._programs import become

PROGRAM = "transfer_engine_bench"


def main() -> int:
    """Runs the program with this process's arguments; returns only when it is missing."""
    return become(PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
