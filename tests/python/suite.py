#!/usr/bin/env python3
"""The Python package: `tests/python/suite.py [WORD...]`, all tests or those whose name has a word."""

import importlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import common  # noqa: E402
from harness.report import Report  # noqa: E402

GROUPS = ("table", "signatures", "imports", "engine_calls", "store_calls", "connectors", "programs",
          "proxy", "wheel")


def main(words):
    common.library()
    report = Report("python", words)
    for group in GROUPS:
        module = importlib.import_module(group)
        for test in module.TESTS:
            name, arguments = (test[0], test[1:]) if isinstance(test, tuple) else (test, ())
            label = "/".join([group, name.__name__, *arguments])
            report.run(label, name, *arguments)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
