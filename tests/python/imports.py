"""What importing the package does to a process: nothing but loading the library."""

import re
import shutil
import subprocess
import sys
import tempfile

from common import CHILD_SECONDS, OURS, child, environment, equal
from harness.report import Skip, expect

MODULES = ("mooncake.engine", "mooncake.store", "mooncake.native", "mooncake.mooncake_config",
           "mooncake.async_store", "mooncake.http_metadata_server", "mooncake.cli",
           "mooncake.mooncake_store_service", "mooncake.vllm_v1_proxy_server")
IMPORTS = "\n".join(f"import {name}" for name in MODULES)
# asyncio brings parts of the standard library that look at the system; they are not the package's.
BEFORE = "import asyncio, ctypes, http.server, json, subprocess, sys, os, threading, time\n"


def the_interpreter_sees_nothing_opened():
    """By audit hooks, open descriptors and threads."""
    return child(BEFORE + """
seen = []
words = ("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.fork", "os.system")
def watch(event, arguments):
    if event.startswith(words):
        seen.append(event)
    elif event == "open" and str(arguments[0]).startswith(("/dev", "/sys")):
        seen.append(f"{event} {arguments[0]}")
sys.addaudithook(watch)
before = sorted(os.listdir("/proc/self/fd"))
start, worked = time.perf_counter(), time.process_time()
import mooncake.engine, mooncake.store
took, worked = time.perf_counter() - start, time.process_time() - worked
""" + IMPORTS + """
assert not seen, seen
assert sorted(os.listdir("/proc/self/fd")) == before, os.listdir("/proc/self/fd")
assert len(os.listdir("/proc/self/task")) == 1, os.listdir("/proc/self/task")
assert "torch" not in sys.modules and "numpy" not in sys.modules
print(f"{took * 1e3:.0f} ms for engine and store, {worked * 1e3:.0f} ms of them at work")
""")

def the_kernel_sees_nothing_opened():
    """By strace: no socket, no device, no thread, no other program, between two marks."""
    if shutil.which("strace") is None:
        raise Skip("strace is not installed")
    program = BEFORE + f"""
def mark(name):
    try:
        os.stat(name)
    except OSError:
        pass
mark("/mark-before")
{IMPORTS}
mark("/mark-after")
"""
    with tempfile.NamedTemporaryFile("r") as log:
        done = subprocess.run(["strace", "-f", "-o", log.name, sys.executable, "-c", program],
                              env=environment(OURS), capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=CHILD_SECONDS)
        text = log.read()
    if "ptrace" in done.stderr and "/mark-before" not in text:
        raise Skip(f"strace may not trace here: {done.stderr.strip()[-100:]}")
    equal(done.returncode, 0, done.stderr[-300:])
    between = text[text.index("/mark-before"):text.index("/mark-after")].splitlines()[1:]
    expect(any("libmooncake.so" in line for line in between), "the library was not loaded between")
    bad = [line for line in between if re.search(
        r" (socket|connect|bind|listen|ioctl|clone3?|v?fork|execve|memfd_create|rt_sigaction)\(", line)
        or re.search(r' open(at)?\(.*"/(dev|sys)/', line)]
    bad = [line for line in bad if "TCGETS" not in line]  # Python asks each file whether it is a terminal.
    expect(not bad, bad[:3])
    return f"{len(between)} system calls"


TESTS = (the_interpreter_sees_nothing_opened, the_kernel_sees_nothing_opened)
