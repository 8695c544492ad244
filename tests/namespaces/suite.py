#!/usr/bin/env python3
"""Namespace suite: what needs a network of its own. Needs root and `ip`; else it is skipped.

    suite.py [WORD...]    only the tests whose name contains one of the words
"""

import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))

import behaviour  # noqa: E402
import kinds  # noqa: E402
import metadata  # noqa: E402
import services  # noqa: E402
from harness.report import Report, expect  # noqa: E402
from network import ADDRESSES, ADDRESSES_V6, Network  # noqa: E402
from pair import SHAPES, Pair  # noqa: E402

MIB = 1 << 20
FEW_PORTS = "40000 40199"
TRANSFERS = 100_000
# A waiting upstream initiator spins; on a busy machine a transfer then costs a scheduler's turn,
# and this many already use up 200 ports fifty times over.
TRANSFERS_OF_UPSTREAM = 10_000
TRANSFERS_SECONDS = 240
PARTITION_TIMEOUT_MS = 3000
# In a network of its own no port is taken.
SERVICE_PORT = 18080
PARTITION_SLACK_SECONDS = 5


def cable(operation, shape, seed):
    """The cell of the interop matrix, between two engines that share no loopback."""
    with Network() as network, Pair(kinds.OURS, kinds.OURS, network.places()) as pair:
        return pair.cell(operation, shape, seed)


def few_ports(initiator_kind, target_kind, threads, transfers):
    """Many more transfers than local ports, to one peer: only a reused connection can do that."""
    with Network() as network:
        for side in (0, 1):
            network.set(side, "ipv4/ip_local_port_range", FEW_PORTS)
        here, there = network.places()
        with initiator_kind.start("initiator", **here) as initiator, \
                target_kind.start("target", **there) as target:
            initiator.buffer("m", 4 * MIB, seed=1)
            address = target.buffer("m", 4 * MIB, seed=2)
            requests = [[offset, address + offset, 4096] for offset in range(0, 4 * MIB, 4096)]
            rounds = -(-transfers // len(requests))
            done = initiator.call("transfer", TRANSFERS_SECONDS, peer=target.name,
                                  operation="write", id="m", requests=requests,
                                  threads=threads, repeat=rounds)
            expect(done["failed"] == 0,
                   f"{done['failed']} of {done['count']} failed: {done['failures'][:3]}")
            whole = [[0, 4 * MIB]]
            expect(initiator.checksums("m", whole) == target.checksums("m", whole),
                   "checksums differ")
            return f"{done['count']}/{done['count']}"


def partition(operation):
    """The cable is pulled in mid-transfer: failures within the deadline; plugged in: it works."""
    with Network() as network:
        here, there = network.places()
        with kinds.OURS.start("initiator", transfer_timeout_ms=PARTITION_TIMEOUT_MS, **here) \
                as initiator, kinds.OURS.start("target", **there) as target:
            initiator.buffer("m", 64 * MIB, seed=1)
            address = target.buffer("m", 64 * MIB, seed=2)
            transfer = dict(peer=target.name, operation=operation, id="m")
            # Far more work than the time until the cable is pulled, in one batch of one deadline.
            initiator.send("transfer", requests=[[0, address, 64 * MIB]] * 64, batch=64, **transfer)
            time.sleep(0.3)
            network.cable(1, "down")
            pulled = time.monotonic()
            done = initiator.answer(PARTITION_TIMEOUT_MS / 1000 + PARTITION_SLACK_SECONDS)
            failed_after = time.monotonic() - pulled
            expect(done["failed"] == 64, "the batch did not fail although the cable was pulled")

            network.cable(1, "up")
            time.sleep(1)
            done = initiator.call("transfer", requests=[[0, address, MIB]], **transfer)
            expect(done["failed"] == 0, f"after the cable was plugged in: {done['failures']}")
            part = [[0, MIB]]
            expect(initiator.checksums("m", part) == target.checksums("m", part),
                   "checksums differ")
            return f"failed {failed_after:.1f} s after the cut"


def restart(target_kind, seed):
    """Upstream restarts on its port only where closed connections do not linger."""
    with Network() as network:
        network.set(0, "ipv4/tcp_max_tw_buckets", "0")
        return behaviour.restart(target_kind, seed, {"prefix": network.prefix(0)})


def several_interfaces(service_type, initiator, target, family, seed):
    """A service on one host, engines on two, and on both hosts interfaces that lead nowhere. Ours
    finds the address to publish by itself; upstream takes the first interface and is told."""
    with Network(distractions=True) as network:
        network.add_ipv6()
        addresses = ADDRESSES_V6 if family == "ipv6" else ADDRESSES
        with service_type(addresses[0], network.prefix(0), port=SERVICE_PORT) as service:
            places = []
            for side, kind in enumerate((initiator, target)):
                variables = {"MC_USE_IPV6": "1"} if family == "ipv6" else {}
                if not isinstance(kind, kinds.Ours):
                    variables["MC_TCP_BIND_ADDRESS"] = addresses[side]
                places.append({"prefix": network.prefix(side), "variables": variables})
            return metadata.meet(service, initiator, target, seed, places, hosts=addresses,
                                 reasons=True)


def main():
    report = Report("namespaces", sys.argv[1:])
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    for operation in ("write", "read"):
        for shape in SHAPES:
            report.run(f"cable/{operation}/{shape}", cable, operation, shape, seed)
    for initiator, target, threads, transfers in (
            (kinds.OURS, kinds.OURS, 4, TRANSFERS), (kinds.OURS_V2, kinds.OURS, 4, TRANSFERS),
            (kinds.OURS, kinds.NEW, 4, TRANSFERS),
            (kinds.NEW, kinds.OURS, 1, TRANSFERS_OF_UPSTREAM)):
        report.run(f"few_ports/{initiator.label}_to_{target.label}", few_ports, initiator, target,
                   threads, transfers)
    for operation in ("write", "read"):
        report.run(f"partition/{operation}", partition, operation)
    for service, pairs in ((services.Etcd, metadata.WITH_UPSTREAM + metadata.AMONG_OURS),
                           (services.OwnHttp, metadata.WITH_UPSTREAM + metadata.AMONG_OURS),
                           (services.Redis, metadata.AMONG_OURS)):
        for initiator, target in pairs:
            # Upstream 0.3.7 moves no data over IPv6.
            for family in ("ipv4", "ipv6")[:1 if kinds.OLD in (initiator, target) else 2]:
                report.run(f"interfaces/{service.label}/{family}/{initiator.label}_to_{target.label}",
                           several_interfaces, service, initiator, target, family, seed)
    for target in (kinds.OLD, kinds.NEW):
        report.run(f"restart/ours_to_{target.label}", restart, target, seed)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
