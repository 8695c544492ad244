"""The console script mooncake_master: becomes the program of that name in this package."""

import sys

from ._programs import become

PROGRAM = "mooncake_master"


def main() -> int:
    """Runs the program with this process's arguments; returns only when it is missing."""
    return become(PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
