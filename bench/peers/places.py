"""Where the peers' packages are, and how a process is prepared to load them."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# At the end: that folder has files of the same names as this one.
sys.path.append(str(ROOT / "tests" / "peers"))

import wheels  # noqa: E402

NIXL = "nixl-1.5.1"
NIXL_REQUIREMENTS = ["nixl-cu12==1.5.1", "numpy"]


def prepare(name):
    """Fetches a peer that is not there yet; returns its folder, or raises `wheels.Unavailable`."""
    if name != NIXL:
        return wheels.prepare(name).folder
    if not folder(name).is_dir():
        wheels.fetch(NIXL_REQUIREMENTS, folder(name))
    return folder(name)


def folder(name):
    return wheels.CACHE / f"{name}-{sys.implementation.cache_tag}"


def use(name):
    """Puts a prepared peer on the path of this process, which ends if the peer is not there."""
    if not folder(name).is_dir():
        sys.exit(f"peer {name} is not under {wheels.CACHE}: run bench/run, or bench/peers/fetch")
    sys.path.insert(0, str(folder(name)))


def restart_with(environment):
    """Loader settings count only from the start of a process: replaces this one if they differ."""
    if any(os.environ.get(key) != value for key, value in environment.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **environment})
