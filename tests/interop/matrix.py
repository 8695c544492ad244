#!/usr/bin/env python3
"""Interop suite: our engine against upstream's and against itself, through real processes.

Every cell of the matrix (initiator, target, operation, shape) moves seeded bytes, compares the checksum
of every request on both sides, and checks that nothing between the requests changed.

    matrix.py [WORD...]    only the tests whose name contains one of the words

MOONCAKE_TEST_SEED repeats a run; MOONCAKE_TEST_LONG makes it ten rounds.
"""

import os
import random
import sys
import time

import behaviour
import kinds
import plan
from harness.report import Report, expect

BUFFER_BYTES = 72 * plan.MIB
SETTLE_SECONDS = 10
TRANSFER_SECONDS = 120
LONG_ROUNDS = 10

# Shape -> how it is laid out and submitted.
SHAPES = {
    "big": (plan.big, {}),
    "small": (plan.small, {"batch": 32}),
    "thousand": (plan.thousand, {}),
}

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


class Pair:
    """Two connected processes, started when first needed and anew after a failure."""

    def __init__(self, initiator, target):
        self.kinds = (initiator, target)
        self.peers = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for peer in self.peers:
            peer.stop()
        self.peers = []

    def start(self):
        if not self.peers:
            for role, kind in zip(("initiator", "target"), self.kinds):
                self.peers.append(kind.start(role))
                self.peers[-1].buffer("m", BUFFER_BYTES)
        return self.peers

    def cell(self, operation, shape, seed):
        try:
            return self.move(operation, shape, seed)
        except BaseException:
            self.__exit__()
            raise

    def move(self, operation, shape, seed):
        initiator, target = self.start()
        rng = random.Random(seed)
        lay_out, submission = SHAPES[shape]
        work = lay_out(rng)
        source, destination = (
            (initiator, target) if operation == "write" else (target, initiator))
        at_initiator = destination is initiator
        for peer, salt in ((source, 1), (destination, 2)):
            peer.call("fill", id="m", seed=seed * 4 + salt, length=work.region)
        gaps = destination.checksums("m", work.gaps(at_initiator))

        done = initiator.call(
            "transfer", TRANSFER_SECONDS, peer=target.name, operation=operation, id="m",
            requests=work.commands(target.addresses["m"]), **submission)
        expect(done["failed"] == 0,
               f"{done['count'] - done['failed']}/{done['count']} seed {seed}: {done['failures'][:3]}")

        wanted = source.checksums("m", work.ranges(not at_initiator))
        late = self.kinds[0].settles_late and operation == "write"
        deadline = time.monotonic() + (SETTLE_SECONDS if late else 0)
        while True:
            stored = destination.checksums("m", work.ranges(at_initiator))
            good = sum(one == other for one, other in zip(wanted, stored))
            if good == len(wanted) or time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        expect(good == len(wanted), f"{good}/{len(wanted)} with equal checksums, seed {seed}")
        expect(destination.checksums("m", work.gaps(at_initiator)) == gaps,
               f"bytes between the requests changed, seed {seed}")
        return f"{good}/{len(wanted)}"


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
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
