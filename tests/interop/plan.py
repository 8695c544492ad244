"""What one cell moves: requests that never overlap, and the gaps between them. Pure, seeded."""

KIB = 1 << 10
MIB = 1 << 20


class Plan:
    """Requests with a place on both sides, and the gaps there, which must stay untouched."""

    def __init__(self, rng, lengths, region):
        self.region = region
        local = place(rng, lengths, region)
        remote = place(rng, lengths, region)
        self.requests = [(local[index], remote[index], length)
                         for index, length in enumerate(lengths)]

    def commands(self, remote_base):
        return [[local, remote_base + remote, length] for local, remote, length in self.requests]

    def ranges(self, initiator):
        """The ranges of one side, in the order of the requests."""
        return [[local if initiator else remote, length]
                for local, remote, length in self.requests]

    def gaps(self, initiator):
        gaps = []
        position = 0
        for offset, length in sorted(self.ranges(initiator)):
            if offset > position:
                gaps.append([position, offset - position])
            position = offset + length
        if position < self.region:
            gaps.append([position, self.region - position])
        return gaps


def place(rng, lengths, region):
    """Offsets in random order with random gaps, unaligned on purpose."""
    spare = region - sum(lengths)
    if spare < 0:
        raise ValueError(f"{sum(lengths)} bytes do not fit into {region}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    cuts = sorted(rng.randint(0, spare) for _ in order)
    offsets = [0] * len(lengths)
    placed = 0
    for index, cut in zip(order, cuts):
        offsets[index] = placed + cut
        placed += lengths[index]
    return offsets


def big(rng):
    return Plan(rng, [64 * MIB], 66 * MIB)


def small(rng):
    return Plan(rng, [4 * KIB] * 2048, 12 * MIB)


def thousand(rng):
    """1000 sizes spread over the orders of magnitude, 1 byte to 256 KiB."""
    lengths = [int(2 ** rng.uniform(0, 18)) for _ in range(1000)]
    return Plan(rng, lengths, sum(lengths) + 4 * MIB)
