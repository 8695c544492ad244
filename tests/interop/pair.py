"""Two connected processes and one cell of work between them: move, compare, look at the gaps."""

import random
import time

import plan
from harness.report import expect

BUFFER_BYTES = 72 * plan.MIB
SETTLE_SECONDS = 10
TRANSFER_SECONDS = 120
# No cell moves more than 64 MiB. One that needs this long has waited for a deadline somewhere and
# got over it by trying again, which is a defect and not a slow machine.
STALL_SECONDS = 20
# What both processes are started with beyond their kind: name and namespace, see `Kind.start`.
HERE = ({}, {})

# Shape -> how it is laid out and submitted.
SHAPES = {
    "big": (plan.big, {}),
    "small": (plan.small, {"batch": 32}),
    "thousand": (plan.thousand, {}),
}


class Pair:
    """Two connected processes, started when first needed and anew after a failure."""

    def __init__(self, initiator, target, places=HERE):
        self.kinds = (initiator, target)
        self.places = places
        self.peers = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for peer in self.peers:
            peer.stop()
        self.peers = []

    def start(self):
        if not self.peers:
            for role, kind, place in zip(("initiator", "target"), self.kinds, self.places):
                self.peers.append(kind.start(role, **place))
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
        moved = done["count"] - done["failed"]
        expect(done["failed"] == 0,
               f"{moved}/{done['count']} seed {seed}: {done['failures'][:3]}")

        expect(done["seconds"] < STALL_SECONDS,
               f"stalled: took {done['seconds']:.1f} s, seed {seed}")
        wanted = source.checksums("m", work.ranges(not at_initiator))
        late = self.kinds[0].settles_late and operation == "write"
        stored = settled(lambda: destination.checksums("m", work.ranges(at_initiator)), wanted,
                         late)
        good = sum(one == other for one, other in zip(wanted, stored))
        expect(good == len(wanted), f"{good}/{len(wanted)} with equal checksums, seed {seed}")
        expect(destination.checksums("m", work.gaps(at_initiator)) == gaps,
               f"bytes between the requests changed, seed {seed}")
        return f"{good}/{len(wanted)}"


def settled(look, wanted, late):
    """What `look` finds; where it may come late, looked at again until it is what is wanted."""
    deadline = time.monotonic() + (SETTLE_SECONDS if late else 0)
    while True:
        found = look()
        if found == wanted or time.monotonic() >= deadline:
            return found
        time.sleep(0.05)
