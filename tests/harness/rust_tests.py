#!/usr/bin/env python3
"""Runs the Rust test programs a few at a time, and the examples in the documentation.

`cargo test` runs one program after another, and most of the time each waits for a deadline. Here
what cargo would run is asked of cargo itself, then run in its way (its folder, its environment), and
each output is shown as one piece under cargo's own `Running` line, which `totals.Cargo` reads.

    tests/harness/rust_tests.py              all
    tests/harness/rust_tests.py faults_tcp   those with this in their name
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import threading

TREE = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS_AT_ONCE = 3
# Known to wait longest; the others fill the lanes behind them.
LONG_FIRST = ["master_program", "conformance_metadata", "faults_tcp", "hostile_peers",
              "idle_engine", "conformance_transport"]


def compiled_programs():
    """(name, executable) of every test program, compiled if need be."""
    cargo = subprocess.run(
        ["cargo", "test", "--no-run", "--message-format=json-render-diagnostics"], cwd=TREE,
        stdout=subprocess.PIPE, text=True, check=True)
    for line in cargo.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") != "compiler-artifact" or not message.get("executable"):
            continue
        if message["profile"]["test"]:
            source = pathlib.Path(message["target"]["src_path"]).relative_to(TREE)
            yield message["target"]["name"], source, message["executable"]


def environment(executable):
    """As cargo sets it: tests find their tree and the shared library by it."""
    deps = pathlib.Path(executable).parent
    paths = [str(deps), str(deps.parent), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "CARGO_MANIFEST_DIR": str(TREE),
            "LD_LIBRARY_PATH": ":".join(path for path in paths if path)}


def order(programs):
    def place(program):
        name = program[0]
        return LONG_FIRST.index(name) if name in LONG_FIRST else len(LONG_FIRST)
    return sorted(programs, key=place)


def run(heading, arguments, env, showing):
    """Runs one program to its end and shows all it said; True when it passed."""
    ended = subprocess.run(arguments, cwd=TREE, env=env, stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           errors="replace", check=False)
    with showing:
        print(f"     Running {heading}", flush=True)
        print(ended.stdout, end="" if ended.stdout.endswith("\n") else "\n", flush=True)
        if ended.returncode < 0:
            print(f"{heading}: ended by signal {-ended.returncode}", flush=True)
    return ended.returncode == 0


def main():
    wanted = sys.argv[1:]
    programs = order(list(compiled_programs()))
    if wanted:
        programs = [one for one in programs if any(word in one[0] for word in wanted)]
    showing = threading.Lock()
    with concurrent.futures.ThreadPoolExecutor(PROGRAMS_AT_ONCE) as lanes:
        running = [lanes.submit(run, f"{source} ({executable})", [executable],
                                environment(executable), showing)
                   for _, source, executable in programs]
        passed = all([future.result() for future in running])
    if not wanted:
        examples = run("the examples in the documentation",
                       ["cargo", "test", "--doc", "--quiet"], None, showing)
        passed = passed and examples
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
