"""The wheel: built from what cargo built, installed into an empty environment, used there, and put in the place
of upstream's and taken out of it again.
"""

import functools
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

from common import TREE, equal, library
from harness.report import Skip, expect
from masters import Master

SECONDS = 300
WHEEL_BYTES_MAX = 15 << 20
GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")

USE = """
import ctypes, importlib.resources, importlib.util, subprocess, sys
import mooncake, mooncake.engine, mooncake.store
assert '{folder}' in mooncake.__file__, mooncake.__file__
assert importlib.util.find_spec('mooncake.engine')
a, b = mooncake.engine.TransferEngine(), mooncake.engine.TransferEngine()
for made in (a, b):
    assert made.initialize('127.0.0.1', 'P2PHANDSHAKE', 'tcp', '') == 0, mooncake.last_error()
x, y = a.allocate_managed_buffer(64), b.allocate_managed_buffer(64)
assert a.write_bytes_to_buffer(x, b'hello', 5) == 0
assert a.transfer_sync_write(f'127.0.0.1:{{b.get_rpc_port()}}', x, y, 5) == 0, mooncake.last_error()
assert b.read_bytes_from_buffer(y, 5) == b'hello'
s = mooncake.store.MooncakeDistributedStore()
assert s.setup('127.0.0.1', 'P2PHANDSHAKE', 1 << 20, 1 << 20, 'tcp', '', sys.argv[1]) == 0
assert s.put('k', b'v') == 0 and s.get('k') == b'v', mooncake.last_error()
h = s.get_buffer('k')
assert bytes(memoryview(h)) == b'v' and memoryview(h).cast('B')[0] == 118
s.close()
master = importlib.resources.files('mooncake') / 'mooncake_master'
master.chmod(0o755)
assert subprocess.run([str(master), '--version'], capture_output=True).returncode == 0
print('used')
"""


def run(command, **extra):
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("MOONCAKE_LIBRARY", "PYTHONPATH")}
    environment.update(PIP_DISABLE_PIP_VERSION_CHECK="1", **extra)
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, timeout=SECONDS, check=False, cwd=TREE)
    expect(done.returncode == 0, f"{command[-1]}: {(done.stdout + done.stderr)[-500:]}")
    return done.stdout


@functools.lru_cache(None)
def built():
    """A wheel of this tree, of the files that were built already."""
    folder = KEPT.name
    try:
        run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder,
             "."], MOONCAKE_WHEEL_TARGET=str(pathlib.Path(library()).parent))
    except Exception as reason:
        if "setuptools" in str(reason) and "No matching distribution" in str(reason):
            raise Skip("setuptools cannot be fetched here") from None
        raise
    wheels = list(pathlib.Path(folder).glob("*.whl"))
    equal(len(wheels), 1, "wheels")
    return wheels[0]


def pure_wheel(folder, name, version, files, needs=""):
    """A small wheel as others publish them, made by hand."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    tag = "py3-none-any"
    files = dict(files)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + \
        (f"Requires-Dist: {needs}\n" if needs else "")
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
    path = pathlib.Path(folder) / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for place, text in files.items():
            wheel.writestr(place, text)
        wheel.writestr(f"{info}/RECORD", "".join(
            f"{place},,\n" for place in [*files, f"{info}/RECORD"]))
    return path


def holds_what_it_should(path):
    expect(path.stat().st_size < WHEEL_BYTES_MAX, f"{path.stat().st_size} bytes")
    tag = re.fullmatch(r"mooncake_transfer_engine-[^-]+-py3-none-manylinux_(\d+)_(\d+)_\w+\.whl",
                       path.name)
    expect(tag is not None, f"the tag of {path.name}")
    asked = (2, 0)
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        for name in ("libmooncake.so", "mooncake_master", "transfer_engine_bench", "py.typed",
                     "mooncake_http_metadata_server", "transfer_engine_topology_dump",
                     "mooncake_client"):
            expect(f"mooncake/{name}" in names, f"{name} is not in the wheel")
        for name in names:
            data = wheel.read(name)
            if data[:4] == b"\x7fELF":
                asked = max([asked] + [(int(a), int(b)) for a, b in GLIBC.findall(data)])
    modules = {f"mooncake/{path.name}" for path in (TREE / "python" / "mooncake").glob("*.py")}
    expect(modules <= names, f"{modules - names} are not in the wheel")
    equal((int(tag[1]), int(tag[2])), asked, "glibc of the tag and of the files")


def installs_and_works():
    """An environment of its own with nothing in it but this wheel."""
    with tempfile.TemporaryDirectory() as folder:
        path = built()
        holds_what_it_should(path)
        for version, interpreter in interpreters():
            place = os.path.join(folder, version)
            run([interpreter, "-m", "venv", "--without-pip", place])
            # No pip inside: an empty environment, and nothing that could fetch more.
            python = os.path.join(place, "bin", "python")
            run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet",
                 "--no-index", "--no-deps", str(path)])
            with Master("ours") as master:
                equal(run([python, "-c", USE.format(folder=place), master.address]).strip(), "used",
                      version)
            told = run([os.path.join(place, "bin", "mooncake_master"), "--version"])
            expect(told.startswith("mooncake_master "), told[:200])
            told = run([os.path.join(place, "bin", "mooncake_client"), "--help"])
            expect("--global_segment_size" in told, told[:200])
        return f"{path.stat().st_size / 1e6:.1f} MB, {[version for version, _ in interpreters()]}"


def interpreters():
    """This one, and those of MOONCAKE_TEST_PYTHONS: paths, separated by colons."""
    found = [("this", sys.executable)]
    others = filter(None, os.environ.get("MOONCAKE_TEST_PYTHONS", "").split(":"))
    return found + [(f"other{place}", path) for place, path in enumerate(others)]


KEPT = tempfile.TemporaryDirectory()


def swaps_and_swaps_back():
    """With a dependant of upstream's distribution installed, which must stay content throughout. What stands for
    upstream has its name, its version and one module."""
    with tempfile.TemporaryDirectory() as folder:
        place, shelf = os.path.join(folder, "place"), os.path.join(folder, "shelf")
        os.mkdir(shelf)
        pure_wheel(shelf, "mooncake-transfer-engine", "0.3.7.post2",
                   {"mooncake/__init__.py": "", "mooncake/engine.py": "UPSTREAM = True\n",
                    "mooncake/only_upstream.py": ""})
        pure_wheel(shelf, "serving-engine", "1.0", {"serving_engine.py": "import mooncake.engine\n"},
                   "mooncake-transfer-engine>=0.3.7")
        pure_wheel(shelf, "strict-engine", "1.0", {"strict_engine.py": "import mooncake.engine\n"},
                   "mooncake-transfer-engine==0.3.7.post2")
        run([sys.executable, "-m", "venv", "--without-pip", place])
        python = os.path.join(place, "bin", "python")
        pip = [sys.executable, "-m", "pip", "--python", python]
        look = ("import importlib.util, importlib.metadata as m, serving_engine, mooncake.engine as e; "
                "print(hasattr(e, 'UPSTREAM'), importlib.util.find_spec('mooncake.only_upstream') is "
                "not None, m.version('mooncake-transfer-engine'))")

        def state():
            run([*pip, "check"])
            return run([python, "-c", look]).split()

        shelved = ["--quiet", "--no-index", "--find-links", shelf]
        run([*pip, "install", *shelved, "serving-engine", "strict-engine"])
        equal(state(), ["True", "True", "0.3.7.post2"], "upstream")
        run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(built())])
        found = state()
        equal(found[:2], ["False", "False"], "ours")
        expect(found[2].startswith("0.3.7.post2+libmooncake."), found[2])
        # Somebody installs another dependant meanwhile: ours is enough for it.
        run([*pip, "install", *shelved, "serving-engine", "strict-engine"])
        equal(state(), found, "still ours")
        run([*pip, "install", *shelved, "--force-reinstall", "--no-deps",
             "mooncake-transfer-engine==0.3.7.post2"])
        equal(state(), ["True", "True", "0.3.7.post2"], "upstream again")
        left = [path.name for path in pathlib.Path(place).rglob("libmooncake.so")]
        equal(left, [], "left behind")


TESTS = (installs_and_works, swaps_and_swaps_back)
