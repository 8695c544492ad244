"""Reads the output of each kind of suite and counts; pure, fed line by line.

A reader knows whether what it has seen is a *complete* run. A suite that ends early has lost tests
that nobody counted, so `close` turns that into a failure of its own.
"""

import re
import xml.etree.ElementTree as xml

REASON_CHARS_MAX = 300


class Totals:
    """Counts of one suite or of all."""

    def __init__(self):
        self.passed = 0
        self.failed = []  # (name, reason)
        self.skipped = []  # (name, reason)

    def fail(self, name, reason):
        self.failed.append((name, shorten(reason)))

    def skip(self, name, reason):
        self.skipped.append((name, shorten(reason)))

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self):
        return f"{self.passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"


def shorten(reason):
    text = " ".join(str(reason).split())
    return text if len(text) <= REASON_CHARS_MAX else text[:REASON_CHARS_MAX] + "..."


class Status:
    """A command that is one test: its exit status is the result."""

    def __init__(self, name):
        self.name = name
        self.totals = Totals()

    def line(self, text):
        pass

    def close(self, status):
        if status == 0:
            self.totals.passed += 1
        else:
            self.totals.fail(self.name, f"exit status {status}")


class Silent(Status):
    """A preparing step: no test when it works, a failure when it does not."""

    def close(self, status):
        if status != 0:
            super().close(status)


class Lines:
    """Our own suites: `ok`, `not ok` and `skip` lines, then one `end` line with the same counts."""

    END = re.compile(r"end (\S+) (\d+) passed, (\d+) failed, (\d+) skipped$")

    def __init__(self, name):
        self.name = name
        self.totals = Totals()
        self.end = None

    def line(self, text):
        word, _, rest = text.partition(" ")
        if text.startswith("not ok "):
            self.totals.fail(*split_name(text[len("not ok "):]))
        elif word == "ok":
            self.totals.passed += 1
        elif word == "skip":
            self.totals.skip(*split_name(rest))
        elif match := self.END.match(text):
            self.end = tuple(int(number) for number in match.groups()[1:])

    def close(self, status):
        totals = self.totals
        seen = (totals.passed, len(totals.failed), len(totals.skipped))
        if self.end != seen:
            totals.fail(self.name, f"ended early (exit status {status}): last line {self.end}, "
                                   f"seen {seen}")
        elif status != 0 and not totals.failed:
            totals.fail(self.name, f"exit status {status} without a failed test")


def split_name(text):
    name, _, reason = text.partition(" ")
    return name, reason


class Cargo:
    """`cargo test --no-fail-fast`: one `test result:` line for every binary it runs.

    A test that cannot run here says so past the capture of its output, `SKIPPED TEST: REASON`
    (`tests/common/skip.rs`), and counts as skipped, not as passed, as which cargo sees it. One that
    lacks something for a part of its work says `skip TEST REASON`; the part counts beside the test.
    """

    RUNNING = re.compile(r"\s+(?:Running|Doc-tests) (.+)$")
    TEST = re.compile(r"test (\S+)(?: - .*)? \.\.\. (FAILED|ignored)(?:, (.*))?$")
    PART = re.compile(r"skip (\S+) (.+)$")
    WHOLE = re.compile(r"(?:^|.* \.\.\. )SKIPPED (\S+): (.+)$")
    RESULT = re.compile(r"test result: \S+ (\d+) passed; (\d+) failed; (\d+) ignored;")

    def __init__(self, name):
        self.name = name
        self.totals = Totals()
        self.binary = None
        self.failed_before = 0
        self.whole = []

    def line(self, text):
        totals = self.totals
        if match := self.RUNNING.match(text):
            self._lost_binary()
            self.binary = match.group(1)
            self.failed_before = len(totals.failed)
            self.whole = []
        elif match := self.WHOLE.match(text):
            if match.group(1) not in self.whole:
                self.whole.append(match.group(1))
                totals.skip(*match.groups())
        elif match := self.TEST.match(text):
            test, result, reason = match.groups()
            if result == "FAILED":
                totals.fail(test, self.binary or "")
            else:
                totals.skip(test, reason or "ignored without a reason")
        elif match := self.PART.match(text):
            totals.skip(*match.groups())
        elif match := self.RESULT.match(text):
            totals.passed += max(0, int(match.group(1)) - len(self.whole))
            self.whole = []
            # A test that prints can break the line that names it; the sum still counts.
            for _ in range(int(match.group(2)) - (len(totals.failed) - self.failed_before)):
                totals.fail(self.binary or self.name, "a failed test whose name was not seen")
            self.binary = None

    def _lost_binary(self):
        if self.binary is not None:
            self.totals.fail(self.binary, "the test program ended without its results")
        self.binary = None

    def close(self, status):
        self._lost_binary()
        if status != 0 and not self.totals.failed:
            self.totals.fail(self.name, f"exit status {status} without a failed test")
        elif status == 0 and self.totals.passed == 0:
            self.totals.fail(self.name, "no test ran")


class CTest:
    """`ctest --output-junit`: the file is the result; the lines are only shown."""

    def __init__(self, name, junit):
        self.name = name
        self.junit = junit
        self.totals = Totals()
        junit.unlink(missing_ok=True)

    def line(self, text):
        pass

    def close(self, status):
        totals = self.totals
        try:
            cases = list(xml.parse(self.junit).getroot().iter("testcase"))
        except (OSError, xml.ParseError) as error:
            totals.fail(self.name, f"no results (exit status {status}): {error}")
            return
        for case in cases:
            skipped = case.find("skipped")
            if case.get("status") == "run":
                totals.passed += 1
            elif skipped is not None or case.get("status") == "disabled":
                totals.skip(case.get("name"), skip_reason(case, skipped))
            else:
                totals.fail(case.get("name"), fail_reason(case))
        if status != 0 and not totals.failed:
            totals.fail(self.name, f"exit status {status} without a failed test")
        elif not cases:
            totals.fail(self.name, "no test ran")


def fail_reason(case):
    """What ctest says, and the last thing the program printed."""
    failure = case.find("failure")
    printed = (case.findtext("system-out") or "").strip().splitlines()
    told = "" if failure is None else failure.get("message", "")
    return f"{told} {printed[-1] if printed else ''}".strip()


def skip_reason(case, skipped):
    """What the program printed behind `skip`, else what ctest says."""
    for line in (case.findtext("system-out") or "").splitlines():
        if line.lower().startswith("skip"):
            return line.partition(" ")[2]
    return "disabled" if skipped is None else skipped.get("message", "no reason given")
