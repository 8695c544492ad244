"""The table of all suites: what each runs, who reads its output, and what it needs.

Used by `tests/run`. A suite of the first stage runs alone, in the order written: those that compile
want every core, and the later ones test what they built. The rest share the machine, see
`harness/lanes.py`.
"""

import shutil
import subprocess
import sys

from harness import totals

COMPILE_SECONDS_MAX = 1500


class Step:
    """One command of a suite and the reader of its output."""

    def __init__(self, arguments, reader, seconds_max):
        self.arguments = [str(argument) for argument in arguments]
        self.reader = reader
        self.seconds_max = seconds_max


class Suite:
    """Steps in order; the first preparing step that fails ends the suite."""

    def __init__(self, name, steps, needs=(), after_build=False, alone=False):
        self.name = name
        self.steps = steps
        self.needs = needs
        self.after_build = after_build
        self.alone = alone

    def missing(self, tree):
        """The reason why this suite cannot run here, if there is one."""
        for program in self.needs:
            if not is_installed(program.split(), tree):
                return f"{program} is not installed"
        return None


def is_installed(program, tree):
    """`cargo clippy` is a program behind cargo, and rustup puts a stub where it is absent: ask it."""
    if shutil.which(program[0]) is None:
        return False
    if len(program) == 1:
        return True
    asked = subprocess.run([*program, "--version"], cwd=tree, capture_output=True, check=False)
    return asked.returncode == 0


def script(name, path, seconds_max, long_seconds_max=None, long=False):
    """A suite that is one Python program of ours, run against the built library."""
    limit = long_seconds_max if long and long_seconds_max else seconds_max
    steps = [Step([sys.executable, "-u", *path.split()], totals.Lines(name), limit)]
    return Suite(name, steps, after_build=True)


def suites(tree, build, long):
    """All suites; times are for two slow cores and a cold cache."""
    return prepare(long) + rust(long) + [
        # The longest first: the lanes are even at the end.
        script("store_client", "tests/store/client_suite.py", 1200),
        script("store_files", "tests/store/file_suite.py", 600),
        c_programs(tree, build, long),
        script("interop", "tests/interop/matrix.py", 900, 7200, long),
        script("namespaces", "tests/namespaces/suite.py", 600, 3600, long),
        script("metadata", "tests/interop/metadata.py", 600),
        script("faults", "tests/store/faults.py", 600, 7200, long),
        script("bad_input", "tests/store/bad_input.py", 300),
        script("python", "tests/python/suite.py" + (" --long" if long else ""), 900, 3600, long),
        script("connectors", "tests/python/suite.py --connectors", 900),
        script("consumers", "tests/consumers/suite.py", 900),
        script("ha", "tests/store/ha_suite.py", 300),
        script("master", "tests/master/suite.py", 600),
        script("examples", "tests/examples/suite.py", 600),
        script("guides", "tests/guides/suite.py", 600),
        script("readme", "tests/readme/suite.py", 120),
    ] + (only_long() if long else [])


def prepare(long):
    """The cheap ones that spare a long run, then all that compiles for the others."""
    lines, status, silent = totals.Lines, totals.Status, totals.Silent
    return [
        Suite("harness", [Step([sys.executable, "-u", "tests/harness/self_test.py"],
                               lines("harness"), 60)], alone=True),
        Suite("format", [Step(["cargo", "fmt", "--check"], status("format"), 120)],
              needs=["cargo", "cargo fmt"], alone=True),
        Suite("build", [Step(["cargo", "build", "--release"], status("build"),
                             COMPILE_SECONDS_MAX)],
              needs=["cargo", "cc"], alone=True),
        # Here, because a compiler beside them would stretch the deadlines of other suites.
        Suite("rust_build", [Step(["cargo", "test", "--no-run"], silent("rust_build"),
                                  COMPILE_SECONDS_MAX)],
              needs=["cargo", "cc"], alone=True),
        Suite("lint", [Step(["cargo", "clippy", "--all-targets", "--", "--deny", "warnings"],
                            status("lint"), 900)],
              needs=["cargo", "cargo clippy"], alone=True),
        # What the suites below test against; the rust suite looks for it in the cache only.
        Suite("peers", [Step([sys.executable, "-u", "tests/peers/fetch"], lines("peers"), 900)],
              alone=True),
    ]


def rust(long):
    return [
        Suite("rust", [Step([sys.executable, "-u", "tests/harness/rust_tests.py"],
                            totals.Cargo("rust"), 7200 if long else 900)],
              needs=["cargo", "cc"]),
        # Pure modules only: Miri knows neither sockets nor epoll.
        Suite("miri", [Step(["cargo", "miri", "test", "--lib", "--", "engine::failover",
                             "engine::plan", "engine::remote", "transport::tcp::health",
                             "transport::tcp::wire", "time::", "error::"], totals.Cargo("miri"),
                            1800)],
              needs=["cargo", "cargo miri"]),
    ]


def c_programs(tree, build, long):
    silent = totals.Silent
    junit = build / "ctest.xml"
    ctest = ["ctest", "--test-dir", build, "--output-on-failure", "--timeout", "600",
             "--parallel", "2", "--output-junit", junit]
    return Suite("c", [Step(["cmake", "-S", tree, "-B", build, "-DCMAKE_BUILD_TYPE=Release"],
                            silent("c configure"), 300),
                       Step(["cmake", "--build", build, "--parallel", "2"], silent("c build"),
                            COMPILE_SECONDS_MAX),
                       Step(ctest + ([] if long else ["--label-exclude", "long"]),
                            totals.CTest("c", junit), 7200 if long else 900)],
                 needs=["cargo", "cmake", "cc", "c++"], after_build=True)


def only_long():
    """What takes too long for `make test` even in a short form."""
    lines = totals.Lines
    return [
        Suite("fuzz", [Step(["fuzz/run"], lines("fuzz"), 7200)], needs=["cargo"]),
        Suite("bare_wheel", [Step([sys.executable, "-u", "tests/bare/wheel.py"],
                                  lines("bare_wheel"), 7200)], needs=["cargo"]),
        Suite("aarch64", [Step(["tests/aarch64/run"], lines("aarch64"), 10800)], needs=["cargo"],
              after_build=True),
        Suite("bare", [Step(["tests/bare/run"], lines("bare"), 10800)], needs=["git"]),
    ]
