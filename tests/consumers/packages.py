"""The released files of serving engines: fetched by name, never part of this tree.

A package is unpacked once into `.cache/peers/`, its Python files only; nothing is installed into the
interpreter. What cannot be had raises `wheels.Unavailable` with the reason. Wheels are what pip would
install. Those of vLLM hold 400 MB of kernels, so its source archive is taken, which pip will only hand
over after it has asked it for its name: that program runs with an empty `torch` and without a compiler.
"""

import os
import pathlib
import sys
import tarfile
import tempfile
import zipfile

import wheels

DOWNLOAD_SECONDS_MAX = 120
UNPACKED_BYTES_MAX = 200 << 20
FILES_MAX = 20_000

# What the connectors under test import and what is small; the rest is stood in for.
NEEDED = ["numpy", "pyzmq", "msgspec", "requests", "regex", "safetensors", "aiohttp"]
# What asks the source archive of vLLM for its name.
BUILDING = ["setuptools<81", "packaging", "setuptools-rust", "wheel"]
# `get_version` is asked for the version, to which vLLM would add a word about the missing compiler.
EMPTY_BUILD = {
    "torch/__init__.py": "class version: cuda = hip = xpu = None\n",
    "torch/utils/__init__.py": "",
    "torch/utils/cpp_extension.py": "CUDA_HOME = ROCM_HOME = None\n",
    "setuptools_scm.py": "import os\n\n\nclass Version(str):\n    def __add__(self, _):\n        return self\n"
                         "\n\ndef get_version(*_, **__):\n    return Version(os.environ['ASKED_VERSION'])\n",
}


def once(fetch):
    """What could not be had is not asked for again by the next test."""
    known = {}

    def wrapped(*what):
        if what not in known:
            try:
                known[what] = fetch(*what)
            except wheels.Unavailable as reason:
                known[what] = reason
        if isinstance(known[what], wheels.Unavailable):
            raise known[what]
        return known[what]

    return wrapped


@once
def folder_of(name, version):
    """Where the Python files of this release are, fetched if they are not in the cache yet."""
    folder = wheels.CACHE / f"{name}-{version}-{sys.implementation.cache_tag}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as place:
            place = pathlib.Path(place)
            fetch_into(folder, download(name, version, place), name.replace("-", "_"))
    return folder


@once
def libraries():
    """The folder with what connectors import."""
    folder = wheels.CACHE / f"consumer-libraries-{sys.implementation.cache_tag}"
    if not folder.is_dir():
        wheels.fetch(NEEDED, folder)
    return folder


def download(name, version, place):
    """The released file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--no-cache-dir", "--retries", "1", "--dest", str(place), f"{name}=={version}"]
    environment = dict(os.environ)
    if name == "vllm":
        tools = wheels.CACHE / f"consumer-building-{sys.implementation.cache_tag}"
        if not tools.is_dir():
            wheels.fetch(BUILDING, tools)
        empty = place / "empty"
        for path, text in EMPTY_BUILD.items():
            file = empty / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        command += ["--no-binary", name, "--no-build-isolation"]
        environment.update(PYTHONPATH=f"{empty}{os.pathsep}{tools}", ASKED_VERSION=version,
                           VLLM_TARGET_DEVICE="empty")
    else:
        command += ["--only-binary", ":all:"]
    wheels.run(command, DOWNLOAD_SECONDS_MAX, environment)
    return next(file for file in place.iterdir() if file.suffix in (".whl", ".gz"))


def fetch_into(folder, archive, package):
    """Unpacks `package/**.py` into `folder`."""
    with wheels.filling(folder) as fresh:
        count = total = 0
        for name, size, read in members(archive):
            parts = pathlib.PurePosixPath(name).parts
            if archive.suffix == ".gz":
                parts = parts[1:]
            if parts[:1] != (package,) or ".." in parts or not name.endswith(".py"):
                continue
            count, total = count + 1, total + size
            if count > FILES_MAX or total > UNPACKED_BYTES_MAX:
                raise wheels.Unavailable(f"{archive.name} is larger than any release so far")
            file = fresh.joinpath(*parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(read())
        if not count:
            raise wheels.Unavailable(f"{archive.name} has no folder {package}")


def members(archive):
    """(name, bytes, how to read it) of every file inside."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                yield entry.filename, entry.file_size, lambda entry=entry: wheel.read(entry)
    else:
        with tarfile.open(archive) as source:
            for entry in source:
                if entry.isfile():
                    yield entry.name, entry.size, lambda entry=entry: source.extractfile(entry).read()
