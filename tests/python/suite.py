#!/usr/bin/env python3
"""The Python package: `tests/python/suite.py [WORD...]`, all tests or those whose name has a word.

`--connectors` has the tests of `connectors`, which are most of the time and a suite of their own,
instead of all others; `--long` adds what takes too long for every run.
"""

import importlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import common  # noqa: E402
from harness.report import Report  # noqa: E402

GROUPS = ("table", "signatures", "typed", "imports", "engine_calls", "store_calls", "store_newer",
          "store_groups", "traps", "programs", "standalone", "proxy", "wheel")
CONNECTORS = ("connectors",)
LONG = ("torch_tensors",)


def main(arguments):
    common.library()
    words = [word for word in arguments if not word.startswith("--")]
    suite, groups = "python", GROUPS + (LONG if "--long" in arguments else ())
    if "--connectors" in arguments:
        suite, groups = "connectors", CONNECTORS
    report = Report(suite, words)
    for group in groups:
        module = importlib.import_module(group)
        for test in module.TESTS:
            name, arguments = (test[0], test[1:]) if isinstance(test, tuple) else (test, ())
            label = "/".join([group, name.__name__, *arguments])
            report.run(label, name, *arguments)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
