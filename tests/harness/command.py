"""Runs one command of a suite: shows its output as it comes, bounds its time, leaves no process.

Used by `tests/run` only; peer processes of a suite are `harness/peer.py`.
"""

import os
import signal
import subprocess
import threading

KILL_AFTER_SECONDS = 20


class TimedOut(Exception):
    """The command took longer than it may."""


def run(command, seconds_max, on_line, directory, environment):
    """Returns the exit status; `on_line` sees every line, stderr included."""
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    expired = threading.Event()

    def expire():
        expired.set()
        end_group(process)

    timer = threading.Timer(seconds_max, expire)
    timer.start()
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            on_line(line.rstrip("\n"))
        status = process.wait()
    except BaseException:
        end_group(process)
        raise
    finally:
        timer.cancel()
    if expired.is_set():
        raise TimedOut(f"took longer than {seconds_max} s")
    return status


def end_group(process):
    """Asks the whole process group to end, and insists a little later.

    Called from the timer thread while the main thread reads, so it must not reap the process.
    """
    signal_group(process.pid, signal.SIGTERM)
    insist = threading.Timer(KILL_AFTER_SECONDS, signal_group, (process.pid, signal.SIGKILL))
    insist.daemon = True
    insist.start()


def signal_group(group, number):
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
