#!/usr/bin/env python3
"""The wheel for old distributions, built and used on bare systems: Python, pip, glibc and nothing else. Long: it
builds everything with cargo-zigbuild and downloads two systems.

    tests/bare/wheel.py [FOLDER]

FOLDER keeps the systems for the next run. Needs root and debootstrap; skips with the reason. A system with glibc
2.28 itself cannot be had here, so for that version the proof is what the files ask for.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

TREE = pathlib.Path(__file__).resolve().parents[2]
for folder in ("tests", "tests/python", "tests/store"):
    sys.path.insert(0, str(TREE / folder))

import wheel  # noqa: E402
from harness.own_network import prefix  # noqa: E402
from harness.report import Failed, Report, Skip, expect  # noqa: E402

FLOOR = "2.28"
# The oldest that Debian's mirrors still have, and the one that is usual on hosts with NPUs.
SYSTEMS = ("bullseye", "bookworm")
TOOLS = ("ziglang", "cargo-zigbuild", "setuptools>=68", "wheel", "auditwheel")
BUILD_SECONDS, SYSTEM_SECONDS, USE_SECONDS = 3000, 900, 300
OUTPUT = 600
# Nothing of this machine's environment: the tests' own variables would lead to its library.
LOGIN = ("/usr/bin/env", "-i", "HOME=/root", "LANG=C.UTF-8",
         "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")

# What a user does there; the master is the console script of the wheel.
INSIDE = """
mount -t proc proc /proc
export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m pip uninstall -q -y mooncake-transfer-engine >/dev/null 2>&1
python3 -m pip install -q --no-index --no-deps /wheel/*.whl || exit
mooncake_master --rpc_address=127.0.0.1 --rpc_port=50051 --enable_journal=false 2>/tmp/master.log &
for try in 1 2 3 4 5 6 7 8 9 10; do grep -q :C383 /proc/net/tcp && break; sleep 0.5; done
python3 /wheel/use.py 127.0.0.1:50051
"""


def command(words, seconds, **extra):
    """What a command printed."""
    try:
        done = subprocess.run(words, env=dict(os.environ, **extra), cwd=TREE, text=True, check=False,
                              capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"{words[0]} took more than {seconds} s") from None
    expect(done.returncode == 0, f"{words[0]}: {(done.stdout + done.stderr)[-OUTPUT:]}")
    return done.stdout


class Wheel:
    """The wheel, built by the first test."""

    def __init__(self, folder):
        self.tools = pathlib.Path(folder) / "tools"
        self.shelf = pathlib.Path(folder) / "wheel"
        self.path = None

    def build(self):
        command([sys.executable, "-m", "venv", str(self.tools)], SYSTEM_SECONDS)
        try:
            command([str(self.tools / "bin" / "pip"), "install", "-q", *TOOLS], SYSTEM_SECONDS)
        except Failed as reason:
            raise Skip(f"the tools cannot be fetched: {reason}") from None
        command([str(self.tools / "bin" / "pip"), "wheel", ".", "--no-deps", "--no-build-isolation",
                 "-w", str(self.shelf)], BUILD_SECONDS, MOONCAKE_WHEEL_GLIBC=FLOOR,
                PATH=f"{self.tools / 'bin'}:{os.environ['PATH']}")
        self.path, = self.shelf.glob("*.whl")
        (self.shelf / "use.py").write_text(wheel.USE.format(folder="/"), encoding="utf-8")
        return f"{self.path.name}, {self.path.stat().st_size / 1e6:.1f} MB"

    def needs(self):
        if self.path is None:
            raise Skip("no wheel was built")
        return self.path


def floor(made):
    """The size, the files, and that no file asks for a newer glibc than the tag says."""
    path = made.needs()
    wheel.holds_what_it_should(path)
    asked = tuple(map(int, re.search(r"manylinux_(\d+)_(\d+)_", path.name).groups()))
    expect(asked <= (2, 28), f"the wheel asks for glibc {asked}")
    told = command([str(made.tools / "bin" / "auditwheel"), "show", str(path)], USE_SECONDS)
    told = " ".join(told.split())
    expect(f"manylinux_{asked[0]}_{asked[1]}" in told, told)
    return told[-200:]


def system(name, folder):
    """The root folder of a bare system, downloaded if it is not there."""
    root = pathlib.Path(folder) / name
    if os.geteuid() != 0:
        raise Skip("needs root for chroot")
    if not (root / "etc" / "debian_version").exists():
        if shutil.which("debootstrap") is None:
            raise Skip("debootstrap is not installed")
        try:
            command(["debootstrap", "--variant=minbase", "--include=python3,python3-pip", name,
                     str(root)], SYSTEM_SECONDS)
        except Failed as reason:
            shutil.rmtree(root, ignore_errors=True)
            raise Skip(f"no system could be fetched: {reason}") from None
    return root


def use(made, name, folder):
    """Import, transfer over TCP, store round trip, the master as a file of the package."""
    made.needs()
    root = system(name, folder)
    shutil.rmtree(root / "wheel", ignore_errors=True)
    shutil.copytree(made.shelf, root / "wheel")
    # Namespaces end with the command, and with them its network, its mounts and its processes.
    told = command([*prefix(), "unshare", "--mount", "--pid", "--fork", "--kill-child", "chroot",
                    str(root), *LOGIN, "/bin/sh", "-c", INSIDE], USE_SECONDS)
    expect(told.split()[-1:] == ["used"], told)
    there = command(["chroot", str(root), *LOGIN, "python3", "-c", "import os, platform; print('Python', "
                     "platform.python_version() + ',', os.confstr('CS_GNU_LIBC_VERSION'))"], 60)
    return there.strip()


def main(words):
    report = Report("bare_wheel")
    with tempfile.TemporaryDirectory() as work:
        made, folder = Wheel(work), words[0] if words else work
        report.run("build", made.build)
        report.run("floor", floor, made)
        for name in SYSTEMS:
            report.run(f"use/{name}", use, made, name, folder)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
