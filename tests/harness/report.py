"""What a Python suite prints, so that `tests/run` can count it.

One line per test: `ok NAME DETAIL`, `not ok NAME REASON` or `skip NAME REASON`; at the very end one
line `end SUITE P passed, F failed, S skipped`, whose absence tells that the suite crashed.
"""

import os
import signal
import time
import traceback


class Skip(Exception):
    """Raised by a test that cannot run here; the text is the reason."""


class Failed(Exception):
    """Raised by a test whose expectation does not hold."""


class Report:
    """Runs tests and counts; `only` keeps those whose name contains one of the given words."""

    def __init__(self, suite, only=()):
        self.suite = suite
        self.only = only
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        # `tests/run` ends a suite that takes too long with SIGTERM; peers are ended on the way out.
        signal.signal(signal.SIGTERM, raise_interrupt)

    def wanted(self, name):
        return not self.only or any(word in name for word in self.only)

    def run(self, name, test, *arguments):
        """Runs one test; what it returns is printed behind its name."""
        if not self.wanted(name):
            return
        started = time.monotonic()
        try:
            detail = test(*arguments)
        except Skip as reason:
            self.skip(name, reason)
        except Failed as reason:
            self._line("failed", "not ok", name, reason)
        except Exception as error:  # A broken test is a failed test, and the next one still runs.
            if os.environ.get("MOONCAKE_TEST_TRACE"):
                traceback.print_exc()
            self._line("failed", "not ok", name, f"{type(error).__name__}: {error}")
        else:
            seconds = time.monotonic() - started
            self._line("passed", "ok", name, f"{detail or ''} ({seconds:.1f} s)".strip())

    def skip(self, name, reason):
        if self.wanted(name):
            self._line("skipped", "skip", name, reason)

    def _line(self, count, word, name, text):
        self.counts[count] += 1
        print(f"{word} {name} {' '.join(str(text).split())}", flush=True)

    def finish(self):
        """Prints the last line and returns the exit status."""
        totals = ", ".join(f"{number} {what}" for what, number in self.counts.items())
        print(f"end {self.suite} {totals}", flush=True)
        return 1 if self.counts["failed"] else 0


def raise_interrupt(*_):
    raise KeyboardInterrupt


def expect(condition, text):
    if not condition:
        raise Failed(text)
