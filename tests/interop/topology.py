"""Interop tests of `transfer_engine_topology_dump`: upstream's program and ours on this machine.

They print the same text about the same host. Accelerators of this machine are left out of the
comparison, because one upstream wheel is built without GPUs and none looks for NPUs.
"""

import json
import os
import subprocess
import sys
import tempfile

import kinds
from harness.report import Skip, expect

SECONDS_MAX = 60
MODULE = "mooncake.transfer_engine_topology_dump"
MATRIX = {"cpu:0": [[], []], "cpu:1": [[], []]}


def run(report):
    report.run("topology/0.3.7", compare, kinds.OLD, [])
    report.run("topology/0.3.13", compare, kinds.NEW, [])
    report.run("topology/0.3.13/filter", compare, kinds.NEW, ["--device-name=no_such,adapter"])
    report.run("topology/0.3.13/unreadable", compare, kinds.NEW, ["--custom-topo-json=/nowhere"])
    report.run("topology/0.3.13/custom", custom)
    report.run("topology/0.3.13/refusals", refusals)


def ours():
    target = os.environ.get("CARGO_TARGET_DIR", str(kinds.TREE / "target"))
    program = os.path.join(target, "release", "transfer_engine_topology_dump")
    if not os.path.exists(program):
        raise Skip("the program is not built")
    return [program]


def output(command, arguments, environment):
    return subprocess.run([*command, *arguments], env=environment, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=SECONDS_MAX, check=False)


def both(kind, arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MC_")}
    theirs = kind.environment({})
    theirs = {name: value for name, value in theirs.items() if not name.startswith("MC_")}
    return (output([sys.executable, "-m", MODULE], arguments, theirs),
            output(ours(), arguments, environment))


def parsed(done):
    """The words before the matrix, the matrix of memory nodes, and what follows it."""
    expect(done.returncode == 0, f"status {done.returncode}: {done.stderr}")
    words, brace, rest = done.stdout.partition("{")
    matrix, end = json.JSONDecoder().raw_decode(brace + rest)
    matrix = {name: lists for name, lists in matrix.items() if name.startswith("cpu:")}
    return words, matrix, (brace + rest)[end:]


def compare(kind, arguments):
    theirs, mine = both(kind, arguments)
    their_words, their_matrix, their_end = parsed(theirs)
    words, matrix, end = parsed(mine)
    if their_matrix == {}:
        raise Skip("the kernel of this machine shows no memory nodes")
    expect(matrix == their_matrix, f"{matrix} instead of {their_matrix}")
    expect(end == their_end, f"{end!r} instead of {their_end!r}")
    if kind is kinds.NEW:
        expect(words == their_words, f"{words!r} instead of {their_words!r}")
        if "cuda:" not in mine.stdout and "npu:" not in mine.stdout:
            expect(mine.stdout == theirs.stdout, f"{mine.stdout!r} is not {theirs.stdout!r}")
    else:
        expect(their_words.startswith("Local topology") and words.startswith("Local topology"),
               f"{words!r} and {their_words!r}")
    return f"{len(matrix)} locations"


def custom():
    """Without adapters in it, so that upstream does not go on to open them."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(MATRIX, file)
        file.flush()
        theirs, mine = both(kinds.NEW, [f"--custom-topo-json={file.name}"])
    expect(mine.stdout == theirs.stdout, f"{mine.stdout!r} is not {theirs.stdout!r}")
    expect(parsed(mine)[1] == MATRIX, mine.stdout)


def refusals():
    for arguments in (["word"], ["--no-such-flag"], ["--backend=other"], ["--use-custom-topo"],
                      ["--device-name"], ["--help"], ["-h"]):
        theirs, mine = both(kinds.NEW, arguments)
        expect(mine.returncode == theirs.returncode,
               f"{arguments}: status {mine.returncode} instead of {theirs.returncode}")
        expect(bool(mine.stdout) == bool(theirs.stdout), f"{arguments}: {mine.stdout!r}")
