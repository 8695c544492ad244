"""Runs the suites: those that compile alone, the others side by side; used by `tests/run`.

Most tests wait (for a deadline, a lease, a peer that starts), so a few suites at once keep two cores
busy without crowding them. A line on the screen is led by the name of its suite. One thread of this
process leads each lane; the reader of a suite is entered by that thread only.
"""

import concurrent.futures
import threading
import time

from harness import command, totals

# One more than the two cores the times are written for; more would only stretch the deadlines that
# the tests assert.
LANES = 3


class Outcome:
    """What became of one suite."""

    def __init__(self, name, counts, seconds, interrupted=False):
        self.name = name
        self.counts = counts
        self.seconds = seconds
        self.interrupted = interrupted


class Runner:
    """Runs suites in a tree with an environment; can be interrupted from the main thread."""

    def __init__(self, tree, environment, show=print):
        self.tree = tree
        self.environment = environment
        self.show = show
        self.showing = threading.Lock()
        self.interrupted = threading.Event()
        self.built = False

    def run_all(self, suites):
        """The outcomes in the order of the suites, whatever happens."""
        outcomes = [self.run_one(suite) for suite in suites if suite.alone]
        beside = [suite for suite in suites if not suite.alone]
        with concurrent.futures.ThreadPoolExecutor(LANES) as lanes:
            running = [lanes.submit(self.run_one, suite) for suite in beside]
            try:
                concurrent.futures.wait(running)
            except KeyboardInterrupt:
                self.interrupted.set()
        return outcomes + [future.result() for future in running]

    def run_one(self, suite):
        started = time.monotonic()
        counts = totals.Totals()
        reason = self.reason_to_skip(suite)
        if reason is not None:
            counts.skip(suite.name, reason)
        else:
            self.run_steps(suite, counts)
        if suite.name == "build":
            self.built = not counts.failed and counts.passed == 1
        return Outcome(suite.name, counts, time.monotonic() - started)

    def reason_to_skip(self, suite):
        if self.interrupted.is_set():
            return "interrupted before it ran"
        if suite.after_build and not self.built:
            return "the library was not built"
        return suite.missing(self.tree)

    def run_steps(self, suite, counts):
        for step in suite.steps:
            self.line(suite.name, "=== " + " ".join(step.arguments))

            def seen(text, reader=step.reader):
                self.line(suite.name, text)
                reader.line(text)

            try:
                status = command.run(step.arguments, step.seconds_max, seen, self.tree,
                                     self.environment, self.interrupted)
            except command.TimedOut as error:
                counts.add(step.reader.totals)
                counts.fail(suite.name, error)
                return
            except (command.Interrupted, KeyboardInterrupt):
                self.interrupted.set()
                counts.add(step.reader.totals)
                counts.fail(suite.name, "interrupted")
                return
            step.reader.close(status)
            counts.add(step.reader.totals)
            if status != 0:
                return

    def line(self, name, text):
        with self.showing:
            self.show(f"{name:<12} {text}", flush=True)
