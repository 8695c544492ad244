"""The table of prototypes: fresh, and compared with the library at import."""

import subprocess
import sys

from common import TREE, child, equal
from harness.report import expect


def is_fresh():
    done = subprocess.run([sys.executable, str(TREE / "python" / "generate.py"), "--check"],
                          capture_output=True, text=True, check=False)
    expect(done.returncode == 0, done.stderr)


def names_every_symbol():
    """What the library exports and what Python knows are the same list."""
    from mooncake._prototypes import FUNCTIONS
    symbols = (TREE / "include" / "mooncake.symbols").read_text(encoding="utf-8").split()
    equal(sorted(FUNCTIONS), sorted(name for name in symbols if name.startswith("mc_")), "names")


REFUSE = """
import mooncake._prototypes as table
{change}
try:
    import mooncake.engine
except ImportError as error:
    print(error)
"""


def refuses_another_library():
    told = child(REFUSE.format(change="table.MC_ABI_VERSION = 9"))
    expect("ABI 0" in told and "ABI 9" in told, told)
    told = child(REFUSE.format(change="table.FUNCTIONS['mc_new'] = (None, [])"))
    expect("lacks mc_new" in told and "this package is" in told, told)
    told = child(REFUSE.format(change=""), MOONCAKE_LIBRARY="/nowhere/libmooncake.so")
    expect("/nowhere/libmooncake.so" in told, told)
    told = child(REFUSE.format(change=""), MOONCAKE_LIBRARY="libc.so.6")
    expect("is not libmooncake" in told, told)


TESTS = (is_fresh, names_every_symbol, refuses_another_library)
