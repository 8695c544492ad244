"""Where the library and the executables of this package are."""

import os
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parent


def folders():
    """The package, then the folder of the library that MOONCAKE_LIBRARY names."""
    named = os.environ.get("MOONCAKE_LIBRARY")
    return [PACKAGE] + ([pathlib.Path(named).resolve().parent] if named else [])
