"""Tests of the harness itself: a counter that misses a failure would make every suite worthless."""

import pathlib
import sys
import tempfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import suites  # noqa: E402
from harness import command, lanes, totals  # noqa: E402
from harness.report import Report, expect  # noqa: E402


def read(reader, text, status):
    for line in text.splitlines():
        reader.line(line)
    reader.close(status)
    counts = reader.totals
    return counts.passed, len(counts.failed), len(counts.skipped)


def check(seen, expected):
    expect(seen == expected, f"counted {seen}, expected {expected}")


CARGO = """     Running unittests src/lib.rs (target/debug/deps/mooncake-1)
test a::b ... ok
test a::c ... ignored, needs a card
test a::d ... FAILED
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.0s
   Doc-tests mooncake
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.0s
"""


def cargo_counts():
    check(read(totals.Cargo("rust"), CARGO, 101), (3, 1, 1))


def cargo_crashed_binary():
    lost = "     Running tests/x.rs (target/debug/deps/x-1)\ntest a ... ok\n"
    check(read(totals.Cargo("rust"), lost + CARGO, 101), (3, 2, 1))
    check(read(totals.Cargo("rust"), lost, 101), (0, 1, 0))


def cargo_torn_line():
    torn = CARGO.replace("test a::d ... FAILED", "test a::d ... some output")
    check(read(totals.Cargo("rust"), torn, 101), (3, 1, 1))


def cargo_skipped_part():
    part = CARGO.replace("test a::c", "skip a::b redis: it is not installed\ntest a::c")
    check(read(totals.Cargo("rust"), part, 101), (3, 1, 2))


def cargo_skipped_test():
    whole = CARGO.replace("test a::b ... ok", "SKIPPED a::b: no: IPv6\ntest a::b ... ok")
    check(read(totals.Cargo("rust"), whole, 101), (2, 1, 2))
    torn = CARGO.replace("test a::b ... ok", "test a::b ... SKIPPED a::b: no IPv6\nok")
    reader = totals.Cargo("rust")
    check(read(reader, torn, 101), (2, 1, 2))
    expect(reader.totals.skipped[0] == ("a::b", "no IPv6"), reader.totals.skipped)


def cargo_without_tests():
    check(read(totals.Cargo("rust"), "error: could not compile", 101), (0, 1, 0))
    check(read(totals.Cargo("rust"), "", 0), (0, 1, 0))


def lines_counts():
    text = "ok a 1000/1000\nnot ok b lost 3\nskip c no root\nnoise\n"
    check(read(totals.Lines("x"), text + "end x 1 passed, 1 failed, 1 skipped\n", 1), (1, 1, 1))
    check(read(totals.Lines("x"), text, 1), (1, 2, 1))
    check(read(totals.Lines("x"), "ok a\nend x 2 passed, 0 failed, 0 skipped\n", 0), (1, 1, 0))
    check(read(totals.Lines("x"), "ok a\nend x 1 passed, 0 failed, 0 skipped\n", -11), (1, 1, 0))


JUNIT = """<testsuite>
<testcase name="a" status="run"/>
<testcase name="b" status="fail"><failure message="Failed"/>
<system-out>check 1
check 2 broke</system-out></testcase>
<testcase name="c" status="notrun"><skipped message="SKIP_RETURN_CODE=77"/>
<system-out>skip no valgrind here</system-out></testcase>
</testsuite>"""


def ctest_counts():
    with tempfile.TemporaryDirectory() as folder:
        junit = pathlib.Path(folder) / "ctest.xml"
        reader = totals.CTest("c", junit)
        junit.write_text(JUNIT, encoding="utf-8")
        check(read(reader, "", 8), (1, 1, 1))
        expect(reader.totals.failed == [("b", "Failed check 2 broke")], reader.totals.failed)
        expect(reader.totals.skipped == [("c", "no valgrind here")], reader.totals.skipped)
        check(read(totals.CTest("c", junit), "", 0), (0, 1, 0))


def command_is_bounded():
    try:
        command.run(["sleep", "60"], 0.2, print, "/", None)
    except command.TimedOut:
        return
    expect(False, "sleep was not ended")


def command_can_be_given_up():
    give_up = threading.Event()
    threading.Timer(0.2, give_up.set).start()
    try:
        command.run(["sleep", "60"], 60, print, "/", None, give_up)
    except command.Interrupted:
        return
    expect(False, "sleep was not ended")


def command_tells_its_status():
    seen = []
    status = command.run(["sh", "-c", "echo one; echo two >&2; exit 3"], 30, seen.append, "/", None)
    check((status, seen), (3, ["one", "two"]))


def shell(name, text, alone=False, after_build=False):
    step = suites.Step(["sh", "-c", text], totals.Lines(name), 30)
    return suites.Suite(name, [step], alone=alone, after_build=after_build)


def lanes_keep_order_and_count():
    with tempfile.TemporaryDirectory() as folder:
        good = "echo ok it; echo end {0} 1 passed, 0 failed, 0 skipped"
        asked = [shell("b", good.format("b")), shell("a", good.format("a"), alone=True),
                 shell("c", "echo not ok it; echo end c 0 passed, 1 failed, 0 skipped"),
                 shell("d", "", after_build=True)]
        shown = []
        runner = lanes.Runner(folder, None, lambda text, flush: shown.append(text))
        outcomes = [(one.name, str(one.counts)) for one in runner.run_all(asked)]
        check(outcomes, [("a", "1 passed, 0 failed, 0 skipped"),
                         ("b", "1 passed, 0 failed, 0 skipped"),
                         ("c", "0 passed, 1 failed, 0 skipped"),
                         ("d", "0 passed, 0 failed, 1 skipped")])
        expect(any(text.split() == ["c", "not", "ok", "it"] for text in shown), shown)


def lanes_run_side_by_side():
    """Two suites that each wait for the other's file end only when both run at once."""
    with tempfile.TemporaryDirectory() as folder:
        wait = "touch {0}; until [ -e {1} ]; do sleep 0.02; done; echo ok it; " \
               "echo end {0} 1 passed, 0 failed, 0 skipped"
        runner = lanes.Runner(folder, None, lambda text, flush: None)
        outcomes = runner.run_all([shell("x", wait.format("x", "y")),
                                   shell("y", wait.format("y", "x"))])
        check([one.counts.passed for one in outcomes], [1, 1])


def main():
    report = Report("harness")
    for test in (cargo_counts, cargo_crashed_binary, cargo_torn_line, cargo_skipped_part,
                 cargo_skipped_test, cargo_without_tests, lines_counts, ctest_counts,
                 command_is_bounded, command_can_be_given_up, command_tells_its_status,
                 lanes_keep_order_and_count, lanes_run_side_by_side):
        report.run(test.__name__, test)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
