"""Interop tests beside the matrix: notifications, concurrency, restart, death, IPv6."""

import os
import random
import signal
import time

import kinds
import plan
from harness.report import Skip, expect

NOTIFICATIONS = 20
NOTIFY_SECONDS = 10
# A peer has its old name again when it draws the same port from its range, so the range is narrow.
# It holds more than the two ports in use: a data port stays blocked for a minute (TIME_WAIT).
# Outside the default range, where any other engine of this machine may sit.
RESTART_PORT_COUNT = 12
RESTART_PORTS_FIRST = {kinds.OLD: 20900, kinds.NEW: 20920, kinds.OURS: 20940}
RESTART_SECONDS = 30
DEATH_TIMEOUT_MS = 3000
DEATH_SLACK_SECONDS = 5


def run(report, seed, rounds):
    """Runs all of them; `rounds` repeats the ones that look for rare losses."""
    for other in (kinds.OLD, kinds.NEW, kinds.OURS):
        for initiator, target in dict.fromkeys([(kinds.OURS, other), (other, kinds.OURS)]):
            report.run(f"notify/{initiator.label}_to_{target.label}/with_write", notify_with_write,
                       initiator, target)
        report.run(f"notify/ours_to_{other.label}/alone", notify_alone, other)
    report.run("probe/0.3.13_to_ours", probe, kinds.NEW, kinds.OURS)
    report.run("probe/ours_to_0.3.13", probe, kinds.OURS, kinds.NEW)
    for operation in ("write", "read"):
        for initiator, target in ((kinds.NEW, kinds.OURS), (kinds.OURS, kinds.NEW),
                                  (kinds.OURS, kinds.OURS), (kinds.OURS, kinds.OLD)):
            report.run(f"threads/{initiator.label}_to_{target.label}/{operation}", threads,
                       initiator, target, operation, seed, 4 * rounds)
    # Upstream cannot bind a port again that was in use less than a minute ago; the namespace suite
    # restarts it where closed connections do not linger.
    report.run("restart/ours_to_ours", restart, kinds.OURS, seed)
    for other in (kinds.OLD, kinds.NEW, kinds.OURS):
        report.run(f"killed/ours_to_{other.label}", killed, other)
    for initiator, target in ((kinds.NEW, kinds.OURS), (kinds.OURS, kinds.NEW),
                              (kinds.OURS, kinds.OURS)):
        report.run(f"ipv6/{initiator.label}_to_{target.label}", ipv6, initiator, target, seed)


def notify_with_write(initiator_kind, target_kind):
    """Notifications behind a small write arrive whole, once, in order."""
    with initiator_kind.start("initiator") as initiator, target_kind.start("target") as target:
        initiator.buffer("m", 4096, seed=1)
        address = target.buffer("m", 4096, seed=2)
        sent = [[f"from {turn}", f"Grüße {turn} " + "x" * turn * 50]
                for turn in range(NOTIFICATIONS)]
        for name, message in sent:
            error = initiator.call("notify", peer=target.name, name=name, message=message, id="m",
                                   request=[0, address, 64])["error"]
            expect(error is None, f"{name}: {error}")
        compare_notifications(target, sent)
    return f"{len(sent)}/{len(sent)}"


def notify_alone(target_kind):
    with kinds.OURS.start("initiator") as initiator, target_kind.start("target") as target:
        # Upstream installs what answers notifications together with its first registration.
        target.buffer("m", 4096)
        sent = [[f"alone {turn}", "y" * turn] for turn in range(1, NOTIFICATIONS)]
        for name, message in sent:
            initiator.call("extra", what="notify", peer=target.name, name=name, message=message)
        compare_notifications(target, sent)
    return f"{len(sent)}/{len(sent)}"


def compare_notifications(target, sent):
    taken = []
    deadline = time.monotonic() + NOTIFY_SECONDS
    while len(taken) < len(sent) and time.monotonic() < deadline:
        taken += target.call("notifications")["notifications"]
        time.sleep(0.02)
    taken += target.call("notifications")["notifications"]
    expect(taken == sent, f"{len(taken)} taken of {len(sent)} sent, equal: {taken == sent}")


def probe(initiator_kind, target_kind):
    with initiator_kind.start("initiator") as initiator, target_kind.start("target") as target:
        target.buffer("m", 4096)
        status = initiator.call("extra", what="probe", peer=target.name)["status"]
        expect(status == 0, f"probe of a live peer gave {status}")
        target.kill()
        status = initiator.call("extra", what="probe", peer=target.name)["status"]
        expect(status != 0, "probe of a dead peer gave 0")


def threads(initiator_kind, target_kind, operation, seed, repeat):
    """16 threads with one call each in flight: whatever is pooled or reused, nothing is lost."""
    rng = random.Random(seed)
    lengths = [rng.choice((512, 4096, 16384, 65537)) for _ in range(512)]
    work = plan.Plan(rng, lengths, 24 * plan.MIB)
    with initiator_kind.start("initiator") as initiator, target_kind.start("target") as target:
        source, destination = (
            (initiator, target) if operation == "write" else (target, initiator))
        for peer in (initiator, target):
            peer.buffer("m", work.region, seed=seed + (peer is source))
        done = initiator.call("transfer", 240, peer=target.name, operation=operation, id="m",
                              requests=work.commands(target.addresses["m"]), threads=16,
                              repeat=repeat)
        expect(done["failed"] == 0,
               f"{done['count'] - done['failed']}/{done['count']}: {done['failures'][:3]}")
        if initiator_kind.settles_late and operation == "write":
            time.sleep(1)
        at_initiator = destination is initiator
        wanted = source.checksums("m", work.ranges(not at_initiator))
        stored = destination.checksums("m", work.ranges(at_initiator))
        good = sum(one == other for one, other in zip(wanted, stored))
        expect(good == len(wanted), f"{good}/{len(wanted)} with equal checksums, seed {seed}")
        return f"{done['count']}/{done['count']}"


def restart(target_kind, seed, place=None):
    """A killed peer that comes back under its old name is found by the very next request."""
    place = place or {}
    first = RESTART_PORTS_FIRST[target_kind]
    ports = {"MC_MIN_PRC_PORT": str(first), "MC_MAX_PRC_PORT": str(first + RESTART_PORT_COUNT - 1)}
    with kinds.OURS.start("initiator", **place) as initiator:
        initiator.buffer("m", 65536, seed=seed)
        target = target_kind.start("target", variables=ports, **place)
        name = target.name
        try:
            for turn in range(3):
                address = target.buffer("m", 65536 * (turn + 1), seed=seed + 1 + turn)
                done = initiator.call("transfer", peer=name, operation="write", id="m",
                                      requests=[[0, address, 65536]])
                expect(done["failed"] == 0, f"life {turn}: {done['failures']}")
                whole = [[0, 65536]]
                expect(initiator.checksums("m", whole) == target.checksums("m", whole),
                       f"life {turn}: checksums differ")
                target.kill()
                target.stop()
                target = start_named(target_kind, ports, name, place)
        finally:
            target.stop()
    return "3 lives"


def start_named(kind, ports, name, place):
    deadline = time.monotonic() + RESTART_SECONDS
    while time.monotonic() < deadline:
        peer = kind.start("target", variables=ports, **place)
        if peer.name == name:
            return peer
        peer.stop()
    raise Skip(f"no peer drew the name {name} again within {RESTART_SECONDS} s")


def killed(target_kind):
    """A peer frozen and then killed in mid-transfer: its tasks fail within the deadline."""
    size = 64 * plan.MIB
    with kinds.OURS.start("initiator", transfer_timeout_ms=DEATH_TIMEOUT_MS) as initiator, \
            target_kind.start("target") as target:
        initiator.buffer("m", size)
        address = target.buffer("m", size)
        requests = [[0, address, size]]
        transfer = dict(peer=target.name, operation="write", id="m")
        done = initiator.call("transfer", requests=requests, **transfer)
        expect(done["failed"] == 0, f"before: {done['failures']}")

        target.signal(signal.SIGSTOP)
        initiator.send("transfer", requests=requests * 4, batch=4, **transfer)
        time.sleep(0.2)
        target.kill()
        done = initiator.answer(DEATH_TIMEOUT_MS / 1000 + DEATH_SLACK_SECONDS)
        expect(done["failed"] == 4, f"{done['failed']}/4 failed; a dead peer cannot store")

        # Refused fast afterwards: ten more requests may not cost ten deadlines.
        done = initiator.call("transfer", 2 * DEATH_TIMEOUT_MS / 1000 + DEATH_SLACK_SECONDS,
                              requests=[[0, address, 64]] * 10, **transfer)
        expect(done["failed"] == 10, f"{done['failed']}/10 failed; a dead peer cannot store")


def ipv6(initiator_kind, target_kind, seed):
    if not os.path.exists("/proc/net/if_inet6"):
        raise Skip("this machine has no IPv6")
    variables = {"MC_USE_IPV6": "1"}
    with initiator_kind.start("initiator", "::1", variables) as initiator, \
            target_kind.start("target", "::1", variables) as target:
        expect(target.name.startswith("[::1]:"), f"the name {target.name} is not bracketed")
        initiator.buffer("m", plan.MIB, seed=seed)
        address = target.buffer("m", plan.MIB, seed=seed + 1)
        half = plan.MIB // 2
        for operation, offset in (("write", 0), ("read", half)):
            done = initiator.call("transfer", peer=target.name, operation=operation, id="m",
                                  requests=[[offset, address + offset, half]])
            expect(done["failed"] == 0, f"{operation}: {done['failures']}")
        whole = [[0, plan.MIB]]
        expect(initiator.checksums("m", whole) == target.checksums("m", whole), "checksums differ")
