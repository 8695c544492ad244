#!/usr/bin/env python3
"""Metadata suite: engines that find each other through a service, ours and upstream's, both roles.

A cell starts one service and two engines, moves bytes in both directions, compares checksums, asks
the service by hand what the engines have left there, and ends the engines in order.

    metadata.py [WORD...]    only the tests whose name contains one of the words
"""

import json
import os
import random
import shutil
import sys
import time

import kinds
import plan
import services
from harness.report import Report, Skip, expect
from pair import settled

MIXED = [1, 64, 511, 4096, 65537, 3 * plan.MIB]
REGION = 8 * plan.MIB
BLOCK = 4096
BLOCKS = 100
TRANSFERS = 10_000
TRANSFER_SECONDS = 120
OUTAGE_SECONDS = 0.3
SEGMENT_MEMBERS = {"buffers", "name", "protocol", "tcp_data_port", "timestamp"}

# (service, initiator, target). The wheels are built without redis. Upstream's own HTTP servers are
# crossed with the other upstream version as well: documents of one must serve engines of the other.
WITH_UPSTREAM = [(kinds.OURS, kinds.OLD), (kinds.OLD, kinds.OURS),
                 (kinds.OURS, kinds.NEW), (kinds.NEW, kinds.OURS)]
AMONG_OURS = [(kinds.OURS, kinds.OURS)]
CELLS = [
    (services.Etcd, WITH_UPSTREAM + AMONG_OURS),
    (services.OwnHttp, WITH_UPSTREAM + AMONG_OURS),
    (services.OldHttp, WITH_UPSTREAM + AMONG_OURS),
    (services.NewHttp, WITH_UPSTREAM + AMONG_OURS),
    (services.Redis, AMONG_OURS),
]
IPV6_PAIRS = [(kinds.OURS, kinds.NEW), (kinds.NEW, kinds.OURS), (kinds.OURS, kinds.OURS)]
IPV6_CELLS = [
    (services.Etcd, IPV6_PAIRS),
    (services.OwnHttp, IPV6_PAIRS),
    (services.Redis, AMONG_OURS),
]


def meet(service, initiator_kind, target_kind, seed, places=({}, {}), variables=None, prefix="",
         hosts=(None, None), reasons=False):
    """One cell: both ways through `service`, with what is then found in it.

    `hosts` are the addresses that the engines must publish; `reasons` looks into our dump for why.
    """
    here, there = (dict(place) for place in places)
    for place in (here, there):
        place["variables"] = {**(variables or {}), **place.get("variables", {})}
    names = [f"{role}.{service.label}:{17000 + at}" for at, role in enumerate(("own", "target"))]
    # The target first: whoever is looked for must be there.
    with target_kind.start("target", names[1], metadata=service.url, **there) as target:
        address = target.buffer("m", REGION, seed=seed + 1)
        with initiator_kind.start("initiator", names[0], metadata=service.url, **here) as initiator:
            initiator.buffer("m", REGION, seed=seed)
            for operation in ("write", "read"):
                move(initiator, target, names[1], address, operation, seed,
                     initiator_kind.settles_late)
            for kind, name, host, peer in ((initiator_kind, names[0], hosts[0], initiator),
                                           (target_kind, names[1], hosts[1], target)):
                check_entries(service, kind, name, prefix, host)
                if reasons and isinstance(kind, kinds.Ours):
                    check_reasons(peer, host)
            if isinstance(initiator_kind, kinds.Ours):
                leaves_nothing(service, initiator, names[0], prefix)
        if isinstance(target_kind, kinds.Ours):
            leaves_nothing(service, target, names[1], prefix)
    return f"{2 * len(MIXED)} requests"


def move(initiator, target, name, address, operation, seed, settles_late):
    work = plan.Plan(random.Random(seed), MIXED, REGION)
    source, destination = (initiator, target) if operation == "write" else (target, initiator)
    at_initiator = destination is initiator
    source.call("fill", id="m", seed=seed + 7, length=REGION)
    destination.call("fill", id="m", seed=seed + 8, length=REGION)
    done = initiator.call("transfer", peer=name, operation=operation, id="m",
                          requests=work.commands(address))
    expect(done["failed"] == 0, f"{operation}: {done['failures']}")
    wanted = source.checksums("m", work.ranges(not at_initiator))
    late = settles_late and operation == "write"
    stored = settled(lambda: destination.checksums("m", work.ranges(at_initiator)), wanted, late)
    expect(stored == wanted, f"{operation}: checksums differ, seed {seed}")


def check_entries(service, kind, name, prefix, host=None):
    """The two documents of an engine: upstream's keys, members in order, no blanks, the right end.
    """
    end = b"\n" if service.ends_with_newline else b""
    for key, members in ((f"mooncake/{prefix}rpc_meta/{name}", {"ip_or_host_name", "rpc_port"}),
                         (f"mooncake/{prefix}ram/{name}", SEGMENT_MEMBERS)):
        document = service.get(key)
        expect(document is not None, f"{key} is not in the service")
        value = json.loads(document)
        expect(members <= set(value), f"{key}: members {sorted(value)}")
        canonical = json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + end
        expect(document == canonical, f"{key} of {kind.label}: {document[:200]!r}")
        if host and members is not SEGMENT_MEMBERS:
            expect(value["ip_or_host_name"] == host, f"{key}: {value}, not {host}")
        if members is SEGMENT_MEMBERS:
            buffers = [set(buffer) for buffer in value["buffers"]]
            expect(value["name"] == name and value["protocol"] == "tcp", f"{key}: {value}")
            expect(buffers and all(one == {"addr", "length", "name"} for one in buffers),
                   f"{key}: buffers with {buffers}")


def check_reasons(peer, host):
    """The dump names every address that was looked at, with what came of it."""
    reasons = peer.call("extra", what="dump")["dump"]["engine"]["reasons"]
    chosen = [reason for reason in reasons if reason.endswith(": chosen")]
    expect(len(chosen) == 1 and host in chosen[0], f"chosen: {reasons}")
    skipped = (("docker0", "bridge"), ("zeroconf0", "link-local"), ("off0", "down"),
               ("lo", "loopback"))
    for interface, why in skipped if "." in host else ():
        expect(any(reason.startswith(interface + " ") and why in reason for reason in reasons),
               f"{interface} is not {why}: {reasons}")


def leaves_nothing(service, peer, name, prefix):
    peer.call("destroy")
    for part in ("rpc_meta", "ram"):
        key = f"mooncake/{prefix}{part}/{name}"
        expect(service.get(key) is None, f"{key} outlives its engine")


def over(service_type, initiator, target, seed):
    with service_type() as service:
        # Published address: the loopback. Ours listens only there then, upstream everywhere.
        return meet(service, initiator, target, seed,
                    variables={"MC_TCP_BIND_ADDRESS": "127.0.0.1"})


def over_ipv6(service_type, initiator, target, seed):
    if not os.path.exists("/proc/net/if_inet6"):
        raise Skip("this machine has no IPv6")
    with service_type("::1") as service:
        return meet(service, initiator, target, seed,
                    variables={"MC_TCP_BIND_ADDRESS": "::1", "MC_USE_IPV6": "1"})


def in_cluster(initiator, target, seed):
    """`MC_METADATA_CLUSTER_ID` is part of every key, for both sides alike."""
    with services.OwnHttp() as service:
        return meet(service, initiator, target, seed, prefix="blue/",
                    variables={"MC_TCP_BIND_ADDRESS": "127.0.0.1",
                               "MC_METADATA_CLUSTER_ID": "blue"})


def restarted(service_type, other, seed):
    """An engine that was killed is started again under its name: ours is found by the other side
    and finds it, whatever the dead one left in the service."""
    variables = {"MC_TCP_BIND_ADDRESS": "127.0.0.1"}
    with service_type() as service, \
            other.start("other", "other:1", variables, metadata=service.url) as peer:
        address = peer.buffer("m", REGION, seed=seed)
        for life in range(3):
            own = kinds.OURS.start("restarted", "again:1", variables, metadata=service.url)
            try:
                own.buffer("m", REGION * (life + 1), seed=seed + life)
                move(own, peer, "other:1", address, "write", seed + life, False)
                check_entries(service, kinds.OURS, "again:1", "")
            finally:
                own.kill()
                own.stop()
    return "3 lives"


def outage(service_type, initiator_kind, target_kind, seed):
    """The service is killed and comes back empty while 10 000 transfers run: none of them fails."""
    variables = {"MC_TCP_BIND_ADDRESS": "127.0.0.1"}
    with service_type() as service, \
            target_kind.start("target", "target:1", variables, metadata=service.url) as target, \
            initiator_kind.start("own", "own:1", variables, metadata=service.url) as initiator:
        address = target.buffer("m", REGION, seed=seed)
        initiator.buffer("m", REGION, seed=seed + 1)
        requests = [[at, address + at, BLOCK] for at in range(0, BLOCKS * BLOCK, BLOCK)]
        transfer = dict(peer="target:1", operation="write", id="m", requests=requests)
        done = initiator.call("transfer", **transfer)
        expect(done["failed"] == 0, f"before: {done['failures']}")
        initiator.send("transfer", repeat=TRANSFERS // BLOCKS, **transfer)
        service.kill()
        shutil.rmtree(service.folder / "data", ignore_errors=True)
        time.sleep(OUTAGE_SECONDS)
        service.resume()
        done = initiator.answer(TRANSFER_SECONDS)
        expect(done["count"] == TRANSFERS and done["failed"] == 0,
               f"{done['failed']}/{done['count']}: {done['failures'][:3]}")
        whole = [[0, BLOCKS * BLOCK]]
        wanted = initiator.checksums("m", whole)
        stored = settled(lambda: target.checksums("m", whole), wanted, initiator_kind.settles_late)
        expect(stored == wanted, "checksums differ")
        return f"{done['count']}/{done['count']}"


def main():
    report = Report("metadata", sys.argv[1:])
    seed = int(os.environ.get("MOONCAKE_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed}", flush=True)
    for cells, test, where in ((CELLS, over, ""), (IPV6_CELLS, over_ipv6, "/ipv6")):
        for service_type, pairs in cells:
            for initiator, target in pairs:
                name = f"{service_type.label}{where}/{initiator.label}_to_{target.label}"
                report.run(name, test, service_type, initiator, target, seed)
    report.skip("redis/ours_to_upstream", "the published wheels are built without redis")
    for initiator, target in ((kinds.OURS, kinds.NEW), (kinds.OLD, kinds.OURS)):
        report.run(f"cluster/{initiator.label}_to_{target.label}", in_cluster, initiator, target,
                   seed)
    for service_type in (services.Etcd, services.OwnHttp):
        for initiator, target in WITH_UPSTREAM:
            report.run(f"outage/{service_type.label}/{initiator.label}_to_{target.label}", outage,
                       service_type, initiator, target, seed)
    report.run("outage/redis/ours_to_ours", outage, services.Redis, kinds.OURS, kinds.OURS, seed)
    for service_type in (services.Etcd, services.OwnHttp, services.NewHttp):
        report.run(f"restarted/{service_type.label}", restarted, service_type, kinds.NEW, seed)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
