#!/usr/bin/env python3
"""Released serving engines over our package: `tests/consumers/suite.py [WORD...]`.

Their unmodified modules run in processes of their own; see README.md for what is stood in for. Then the
newest of each run with our package in one process and a wheel of upstream in the other. `--with VERSION`
runs all with that wheel in place of our package, which shows that the stand-ins are right; it is not part
of a run of all suites.
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "python")]

import common  # noqa: E402
import masters  # noqa: E402
import of_ascend  # noqa: E402
import of_lmcache  # noqa: E402
import of_sglang  # noqa: E402
import of_vllm  # noqa: E402
import wheels  # noqa: E402
from harness.report import Report  # noqa: E402
from process import Cast  # noqa: E402

GROUPS = {"sglang": of_sglang, "lmcache": of_lmcache, "vllm-ascend": of_ascend, "vllm": of_vllm}


def main(arguments):
    common.library()
    kind = common.OURS
    if "--with" in arguments:
        at = arguments.index("--with")
        kind = arguments[at + 1]
        del arguments[at:at + 2]
        if kind not in wheels.VERSIONS:
            print(f"unknown version {kind}; known: {', '.join(wheels.VERSIONS)}")
            return 2
    words = [word for word in arguments if not word.startswith("--")]
    report = Report("consumers", words)
    for name, module in GROUPS.items():
        run_all(report, name, module.TESTS, Cast(kind, kind))
    for version in wheels.VERSIONS if kind == common.OURS else ():
        for cast in (Cast(common.OURS, version), Cast(version, common.OURS)):
            for name, module in GROUPS.items():
                run_all(report, name, module.ENGINES, cast)
                # Clients of 0.3.13 need a master of 0.3.13, ours one of 0.3.7 or of ours.
                if version == masters.OLD:
                    run_all(report, name, module.STORES, cast)
    return report.finish()


def run_all(report, name, tests, cast):
    for test, version, *more in tests:
        label = "/".join([f"{name}-{version}", test.__name__, *more, cast.name])
        report.run(label, test, version, cast, *more)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
