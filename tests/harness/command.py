"""Runs one command of a suite: hands on its output as it comes, bounds its time, leaves no process.

Used by the harness only; peer processes of a suite are `harness/peer.py`. Threads may run one command
each.
"""

import os
import signal
import subprocess
import threading
import time

KILL_AFTER_SECONDS = 20
LOOK_EVERY_SECONDS = 0.2


class TimedOut(Exception):
    """The command took longer than it may."""


class Interrupted(Exception):
    """The run was given up while the command ran."""


def run(command, seconds_max, on_line, directory, environment, give_up=None):
    """Returns the exit status; `on_line` sees every line, stderr included.

    `give_up` is an event that ends the command from another thread.
    """
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    give_up = give_up or threading.Event()
    expired, finished = threading.Event(), threading.Event()

    def watch():
        until = time.monotonic() + seconds_max
        while not finished.wait(LOOK_EVERY_SECONDS):
            if time.monotonic() >= until:
                expired.set()
            if expired.is_set() or give_up.is_set():
                end_group(process, finished)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        for line in process.stdout:
            on_line(line.rstrip("\n"))
        status = process.wait()
    except BaseException:
        end_group(process, finished)
        raise
    finally:
        finished.set()
    if expired.is_set():
        raise TimedOut(f"took longer than {seconds_max} s")
    if give_up.is_set():
        raise Interrupted()
    return status


def end_group(process, finished):
    """Asks the whole process group to end, and insists a little later.

    Called while another thread reads, so it must not reap the process.
    """
    signal_group(process.pid, signal.SIGTERM)

    def insist():
        finished.wait(KILL_AFTER_SECONDS)
        signal_group(process.pid, signal.SIGKILL)

    threading.Thread(target=insist, daemon=True).start()


def signal_group(group, number):
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
