#!/usr/bin/env python3
"""Interop suite: our engine against upstream's and against itself, through real processes.

Every cell of the matrix (initiator, target, operation, shape) moves seeded bytes, compares the
checksum of every request on both sides, and checks that nothing between the requests changed.

    matrix.py [WORD...]    only the tests whose name contains one of the words

MOONCAKE_TEST_SEED repeats a run; MOONCAKE_TEST_LONG makes it ten rounds.
"""

import os
import random
import sys

import behaviour
import kinds
import topology
from harness.report import Report
from pair import SHAPES, Pair

LONG_ROUNDS = 10

# (initiator, target); MC_TCP_PROTO and the pool switch act in the initiator only.
PAIRS = [
    (kinds.OURS, kinds.OLD),
    (kinds.OLD, kinds.OURS),
    (kinds.OURS, kinds.NEW),
    (kinds.NEW, kinds.OURS),
    (kinds.NEW_V1, kinds.OURS),
    (kinds.NEW_UNPOOLED, kinds.OURS),
    (kinds.OURS, kinds.OURS),
    (kinds.OURS_V1, kinds.OURS),
    (kinds.OURS_V2, kinds.OURS),
]


def main():
    report = Report("interop", sys.argv[1:])
    seed = int(os.environ.get("MOONCAKE_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}", flush=True)
    rounds = LONG_ROUNDS if os.environ.get("MOONCAKE_TEST_LONG") else 1
    for initiator, target in PAIRS:
        with Pair(initiator, target) as pair:
            for operation in ("write", "read"):
                for shape in SHAPES:
                    for turn in range(rounds):
                        name = f"{initiator.label}_to_{target.label}/{operation}/{shape}"
                        report.run(name + (f"/{turn}" if turn else ""), pair.cell, operation, shape,
                                   seed + turn)
    behaviour.run(report, seed, rounds)
    topology.run(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
