"""Builds the library and its programs with cargo and packs them into the Python package.

One wheel serves every interpreter: its tag says the machine, and the newest version of glibc that
the packed files ask for, read from the files themselves. MOONCAKE_WHEEL_TARGET=DIRECTORY packs what
was built there; MOONCAKE_WHEEL_GLIBC=2.28 builds with cargo-zigbuild against that glibc, and with
MOONCAKE_WHEEL_MACHINE=aarch64 for that machine; MOONCAKE_WHEEL_VERSION is the version to appear as.
"""

import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    from wheel.bdist_wheel import bdist_wheel

TREE = pathlib.Path(__file__).resolve().parent
LIBRARY = "libmooncake.so"
PROGRAMS = ("mooncake_master", "transfer_engine_bench", "mooncake_http_metadata_server",
            "transfer_engine_topology_dump")
# What of upstream is there: all of this version, and of later ones what serving engines call.
STANDS_FOR = "0.3.7.post2"
GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)\0?")
MACHINE = os.environ.get("MOONCAKE_WHEEL_MACHINE") or platform.machine()
# What the machine field of an ELF file says, by the names of Python.
ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


def own_version():
    text = (TREE / "Cargo.toml").read_text(encoding="utf-8")
    return re.search(r'^version = "([^"]+)"', text, re.M).group(1)


def version():
    return os.environ.get("MOONCAKE_WHEEL_VERSION") or f"{STANDS_FOR}+libmooncake.{own_version()}"


def build():
    """Builds, and gives the folder where the results are."""
    given = os.environ.get("MOONCAKE_WHEEL_TARGET")
    if given:
        return pathlib.Path(given)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TREE / "target"))
    floor = os.environ.get("MOONCAKE_WHEEL_GLIBC")
    if MACHINE != platform.machine() and not floor:
        sys.exit("MOONCAKE_WHEEL_MACHINE needs MOONCAKE_WHEEL_GLIBC: only cargo-zigbuild builds for another machine")
    command = ["cargo", "build", "--release"]
    folder = target / "release"
    if floor:
        triple = f"{MACHINE}-unknown-linux-gnu"
        command = ["cargo", "zigbuild", "--release", "--target", f"{triple}.{floor}"]
        folder = target / triple / "release"
    command += ["--lib"] + [word for name in PROGRAMS for word in ("--bin", name)]
    # Debug information is most of a file's bytes, and nobody debugs a wheel with it.
    stripped = {**os.environ, "CARGO_PROFILE_RELEASE_STRIP": "debuginfo"} if floor else None
    if subprocess.run(command, cwd=TREE, env=stripped, check=False).returncode != 0:
        sys.exit(f"{' '.join(command)} failed; Rust 1.85 or newer is needed")
    return folder


def strip(path):
    """The same for what was built with debug information; other machines' files are left alone."""
    if MACHINE == platform.machine() and shutil.which("strip"):
        subprocess.run(["strip", "--strip-debug", str(path)], check=False)


def check_machine(path):
    """A wheel whose files are for another machine than its tag says would only fail at its users."""
    with open(path, "rb") as file:
        found = int.from_bytes(file.read(20)[18:20], "little")
    if found != ELF_MACHINES.get(MACHINE, found):
        sys.exit(f"{path} is not built for {MACHINE}")


class Build(build_py):
    """Copies what cargo built next to the modules."""

    def run(self):
        # What an earlier build left must not be packed again.
        shutil.rmtree(pathlib.Path(self.build_lib) / "mooncake", ignore_errors=True)
        super().run()
        if self.editable_mode:
            return
        built, package = build(), pathlib.Path(self.build_lib) / "mooncake"
        package.mkdir(parents=True, exist_ok=True)
        for name in (LIBRARY, *PROGRAMS):
            shutil.copy(built / name, package / name)
            check_machine(package / name)
            strip(package / name)
            (package / name).chmod(0o755)
        (package / "mooncake_client").chmod(0o755)


def glibc_of(folder):
    """The newest version of glibc that a file in the folder asks for."""
    found = {(2, 17)}
    for name in (LIBRARY, *PROGRAMS):
        for major, minor in GLIBC.findall((folder / name).read_bytes()):
            found.add((int(major), int(minor)))
    return max(found)


class Wheel(bdist_wheel):
    """Any interpreter, this machine."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        folder = pathlib.Path(self.bdist_dir) / "mooncake"
        if not (folder / LIBRARY).exists():
            folder = TREE / "build" / "lib" / "mooncake"
        if not (folder / LIBRARY).exists():
            return "py3", "none", f"linux_{MACHINE}"
        major, minor = glibc_of(folder)
        return "py3", "none", f"manylinux_{major}_{minor}_{MACHINE}"


class Binary(Distribution):
    """Not for every machine."""

    def has_ext_modules(self):
        return True


setup(version=version(), distclass=Binary, cmdclass={"build_py": Build, "bdist_wheel": Wheel})
