#!/usr/bin/env python3
"""Measures our master against upstream's, in turn, in one run.

    bench/master.py                      without pinning, then with the masters on one core
    bench/master.py --only "64 x" ...    further arguments go to `cargo bench --bench rpc`

Both masters run as they do by default, ours with its journal. What is loaded, and what the figures mean,
is at the top of bench/rpc.rs.
"""

import pathlib
import subprocess
import sys

TREE = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TREE / "tests"), str(TREE / "tests" / "store")]

import masters  # noqa: E402

RUN_SECONDS = 1800


def run(arguments):
    with masters.Master("ours") as ours, masters.Master("upstream") as upstream:
        subjects = [f"{name}={master.address}@{master.process.pid}"
                    for name, master in (("ours", ours), ("upstream", upstream))]
        command = ["cargo", "bench", "--quiet", "--bench", "rpc", "--", *subjects, *arguments]
        return subprocess.run(command, cwd=TREE, timeout=RUN_SECONDS, check=False).returncode


def main():
    arguments = sys.argv[1:]
    if "--pin" in arguments:
        sys.exit(run(arguments))
    for title, more in (("Not pinned", []), ("Masters on one core, the load on another", ["--pin"])):
        print(f"\n{title}\n", flush=True)
        code = run([*arguments, *more])
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
