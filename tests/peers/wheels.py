"""The upstream wheels: which ones, where they are kept, how a process is run with one.

A wheel is unpacked once, by name, into `.cache/peers/` of the tree and is used from there; nothing is
installed into the interpreter. What cannot be had raises `Unavailable` with the reason, and the
tests that need it are skipped with that reason. `aiohttp` is kept beside the wheels in the same way:
upstream's HTTP metadata server imports it, and its wheels do not ask for it.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys

TREE = pathlib.Path(__file__).resolve().parents[2]
CACHE = TREE / ".cache" / "peers"
INSTALL_SECONDS_MAX = 300
IMPORT_SECONDS_MAX = 60
REASON_BYTES_MAX = 300

# Version -> what pip is asked for, and the folders inside that hold shared libraries it needs.
REQUIREMENTS = {
    "0.3.7.post2": (
        ["mooncake-transfer-engine==0.3.7.post2", "nvidia-cuda-runtime-cu12"],
        ["nvidia/cuda_runtime/lib"],
    ),
    "0.3.13.post1": (["mooncake-transfer-engine-non-cuda==0.3.13.post1"], []),
}
VERSIONS = tuple(REQUIREMENTS)
# What upstream's HTTP metadata server imports; its dependencies come with it.
AIOHTTP = ["aiohttp>=3.8,<4"]


class Unavailable(Exception):
    """The wheel cannot be used on this machine; the text says why."""


class Wheel:
    """One prepared upstream version."""

    def __init__(self, version, folder, library_folders):
        self.version = version
        self.folder = folder
        self.library_folders = [folder / name for name in library_folders]

    def environment(self, extra=None):
        """The environment of a process that imports this wheel, plus `extra` variables."""
        environment = dict(os.environ, PYTHONPATH=str(self.folder))
        libraries = [str(path) for path in self.library_folders]
        libraries += filter(None, [os.environ.get("LD_LIBRARY_PATH")])
        if libraries:
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
        environment.update(extra or {})
        return environment


def prepare(version):
    """Returns the wheel of `version`, fetching it if it is not in the cache yet."""
    requirements, library_folders = REQUIREMENTS[version]
    # A wheel with native code fits one interpreter version only, so the name carries it.
    folder = CACHE / f"{version}-{sys.implementation.cache_tag}"
    if not folder.is_dir():
        fetch(["--no-deps", *requirements], folder)
    wheel = Wheel(version, folder, library_folders)
    check_import(wheel)
    return wheel


def prepare_aiohttp():
    """Returns the folder of aiohttp, fetching it if it is not in the cache yet."""
    folder = CACHE / f"aiohttp-{sys.implementation.cache_tag}"
    if not folder.is_dir():
        fetch(AIOHTTP, folder)
    run([sys.executable, "-c", "import aiohttp"], IMPORT_SECONDS_MAX,
        dict(os.environ, PYTHONPATH=str(folder)))
    return folder


def http_metadata_server(version, host, port):
    """Command and environment of the HTTP metadata server in the wheel of `version`."""
    wheel = prepare(version)
    script = wheel.folder / "mooncake" / "http_metadata_server.py"
    command = [sys.executable, str(script), "--host", host, "--port", str(port)]
    # Not the wheel's own folder: the script stands alone, and the package behind it loads libraries.
    return command, dict(os.environ, PYTHONPATH=str(prepare_aiohttp()))


@contextlib.contextmanager
def filling(folder):
    """A folder of its own to fill, which gets its name at the end: no half-filled cache."""
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
    fresh.mkdir(parents=True)
    try:
        yield fresh
        try:
            fresh.rename(folder)
        except OSError:
            # Somebody else was faster.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def fetch(requirements, folder):
    """Unpacks what pip is asked for into `folder`."""
    with filling(folder) as fresh:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir",
                   "--only-binary", ":all:", "--disable-pip-version-check", "--retries", "1",
                   "--target", str(fresh), *requirements]
        run(command, INSTALL_SECONDS_MAX, dict(os.environ))


def check_import(wheel):
    """A wheel whose shared libraries are missing is a reason to skip, told once and early."""
    run([sys.executable, "-c", "import mooncake.engine"], IMPORT_SECONDS_MAX, wheel.environment())


def run(command, seconds_max, environment):
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=seconds_max, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[2]} took longer than {seconds_max} s") from None
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no output"]
        raise Unavailable(errors[-1][:REASON_BYTES_MAX])
