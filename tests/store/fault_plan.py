"""Which faults, when, and to whom: drawn from a seed, then carried out.

Everything happens in the suite's main thread: a process that another thread started would end with
that thread.
"""

import threading
import time

from harness.peer import PeerFailed

# Lengths of a freeze in seconds: within a lease (0.4), beyond it and its rest, beyond a client's
# time to live (2).
FREEZES = ((0.05, 0.3), (0.5, 1.5), (2.3, 4.0))
DUTY_SECONDS = 0.02
POSTPONED_SECONDS = 0.2


class Fault:
    """One fault from its beginning to its end."""

    def __init__(self, what, target, start, length):
        self.what, self.target, self.start, self.length = what, target, start, length

    def __str__(self):
        return f"{self.what} {self.target} for {self.length:.2f} s"


class Away(Exception):
    """The end of a fault has to wait for the end of another one."""


def draw(rng, seconds, labels, extra=()):
    """Faults of about that many seconds; what is under one does not get another at the time."""
    faults, free_at = [], {}
    choices = ["freeze", "freeze", "freeze", "kill", "kill", "duty", *extra]
    at = 0.5
    while at < seconds:
        target = rng.choice(["master", *labels])
        what = rng.choice(choices)
        if what == "duty" and target == "master":
            what = "freeze"
        if what in extra:
            target = "network"
        low, high = rng.choice(FREEZES)
        length = rng.uniform(low, high)
        if free_at.get(target, 0) <= at:
            free_at[target] = at + length + 1
            faults.append(Fault(what, target, at, length))
        at += rng.uniform(0.1, 0.9)
    return faults


def carry_out(world, faults, network=None):
    """Runs the faults at their times, to the last end."""
    began = time.monotonic()
    moments = [(fault.start, fault, True) for fault in faults]
    while moments:
        at, fault, is_begin = moments.pop(moments.index(min(moments, key=lambda m: m[0])))
        world.watch(max(0, began + at - time.monotonic()))
        begin, end = DOINGS[fault.what]
        if is_begin and target_is_away(world, fault):
            continue
        try:
            (begin if is_begin else end)(world, network, fault)
        except Away:
            moments.append((time.monotonic() - began + POSTPONED_SECONDS, fault, False))
            continue
        world.log(str(fault) if is_begin else f"end of {fault}")
        if is_begin:
            moments.append((time.monotonic() - began + fault.length, fault, False))


def target_is_away(world, fault):
    """Its last fault took longer than was planned."""
    if fault.target == "master":
        return world.master_is_away
    return fault.target != "network" and actor_of(world, fault.target).is_away


def actor_of(world, label):
    return next(actor for actor in world.actors if actor.label == label)


def freeze(world, _, fault):
    if fault.target == "master":
        world.master_freeze()
    else:
        actor = actor_of(world, fault.target)
        actor.is_away = True
        actor.freeze()


def thaw(world, _, fault):
    if fault.target == "master":
        world.master_thaw()
    else:
        actor = actor_of(world, fault.target)
        actor.thaw()
        actor.is_away = False


def kill(world, _, fault):
    if fault.target == "master":
        world.kill_master()
    else:
        actor_of(world, fault.target).kill()


def replace(world, _, fault):
    if fault.target == "master":
        world.start_master()
        return
    if world.master_is_away:
        raise Away
    try:
        actor_of(world, fault.target).begin()
    except PeerFailed as error:
        world.log(str(error))
        raise Away from None


def begin_duty(world, _, fault):
    """A slow process: it runs half of the time."""
    actor = actor_of(world, fault.target)
    actor.is_away = True
    end = time.monotonic() + fault.length

    def work():
        while time.monotonic() < end:
            actor.freeze()
            time.sleep(DUTY_SECONDS)
            actor.thaw()
            time.sleep(DUTY_SECONDS)

    fault.thread = threading.Thread(target=work, daemon=True)
    fault.thread.start()


def end_duty(world, _, fault):
    fault.thread.join()
    actor_of(world, fault.target).is_away = False


def cut(_, network, _fault):
    """The network between the two sides is cut."""
    network.cable(1, "down")


def mend(_, network, _fault):
    network.cable(1, "up")


def narrow(_, network, _fault):
    """The network between the two sides is slow, and loses what it cannot carry."""
    network.narrow("20mbit")


def widen(_, network, _fault):
    network.narrow(None)


DOINGS = {"freeze": (freeze, thaw), "kill": (kill, replace), "duty": (begin_duty, end_duty),
          "cut": (cut, mend), "narrow": (narrow, widen)}
