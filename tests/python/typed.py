"""Annotations: every public name has them, and a program that is checked strictly can use them."""

import importlib
import inspect
import os
import pathlib
import subprocess
import sys
import tempfile

import wheels
from common import PACKAGE
from harness.report import Skip, expect

SECONDS = 300
# Modules, and what of those without `__all__` is there for others.
MODULES = {"mooncake": (), "mooncake.async_store": ("MooncakeDistributedStoreAsync",),
           "mooncake.buffer_pool": (), "mooncake.cli": ("main",), "mooncake.cli_bench": ("main",),
           "mooncake.cli_client": ("main",), "mooncake.engine": (),
           "mooncake.http_metadata_server": ("KVBootstrapServer", "KVPoll", "main"),
           "mooncake.mooncake_config": ("MooncakeConfig",),
           "mooncake.mooncake_store_service": ("MooncakeStoreService", "main", "sync_main"),
           "mooncake.native": (), "mooncake.store": (),
           "mooncake.transfer_engine_topology_dump": ("main",),
           "mooncake.vllm_v1_proxy_server": ("main",)}
CONSUMER = pathlib.Path(__file__).resolve().parent / "consumer.py"
CONFIG = """[mypy]
strict = True
cache_dir = {folder}
[mypy-mooncake.*]
# As for an installed package: what is inside it is not the program's business.
follow_imports = silent
"""
# What a checker must refuse, a line each, and the word it says.
WRONG = """from mooncake.engine import TransferEngine
from mooncake.store import MooncakeDistributedStore, ReplicateConfig
TransferEngine().transfer_sync_write("peer", "address", 1, 1)  # arg-type
MooncakeDistributedStore().put("key", 5)  # arg-type
MooncakeDistributedStore().put("key")  # call-arg
MooncakeDistributedStore().setup("host", "P2PHANDSHAKE")  # call-overload
MooncakeDistributedStore().nonsense()  # attr-defined
ReplicateConfig().replica_num = "2"  # assignment
"""


def functions(owner, name):
    """Public functions of a class, or the function itself, with dotted names."""
    if not inspect.isclass(owner):
        if inspect.isfunction(owner):
            yield name, owner
        return
    for member, value in inspect.getmembers(owner):
        special = member in ("__init__", "__enter__", "__exit__", "__len__", "__getattr__")
        if member.startswith("_") and not special:
            continue
        if isinstance(value, property):
            yield f"{name}.{member}", value.fget
            if value.fset:
                yield f"{name}.{member}=", value.fset
        elif inspect.isfunction(value) and value.__module__.startswith("mooncake"):
            yield f"{name}.{member}", value


def public():
    """All public functions of the package."""
    for name, members in MODULES.items():
        module = importlib.import_module(name)
        for member in getattr(module, "__all__", members):
            yield from functions(getattr(module, member), f"{name}.{member}")


def everything_public_is_annotated():
    found, wrong = 0, []
    for name, function in public():
        found += 1
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters.values() if p.name != "self"]
        wrong += [f"{name}: {p.name}" for p in parameters
                  if p.annotation is inspect.Parameter.empty]
        # A checker knows what __init__ returns once a parameter is annotated.
        if signature.return_annotation is inspect.Signature.empty \
                and not (name.endswith("__init__") and parameters):
            wrong.append(f"{name} returns")
    expect(not wrong, f"{len(wrong)}: {'; '.join(wrong)}")
    expect(found > 200, f"only {found} functions")
    return f"{found} functions"


def mypy(*files):
    """What mypy says about files, in strict mode."""
    folder = wheels.CACHE / f"mypy-{sys.implementation.cache_tag}"
    try:
        if not folder.is_dir():
            wheels.fetch(["mypy"], folder)
    except wheels.Unavailable as reason:
        raise Skip(f"no mypy: {reason}") from None
    with tempfile.NamedTemporaryFile("w", suffix=".ini") as config:
        # Its cache makes a second run short.
        config.write(CONFIG.format(folder=folder / "cache"))
        config.flush()
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--config-file", config.name, *map(str, files)],
            env=dict(os.environ, PYTHONPATH=str(folder), MYPYPATH=str(PACKAGE)), text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
    return done.returncode, done.stdout + done.stderr


def a_strict_program_passes():
    status, told = mypy(CONSUMER)
    expect(status == 0, told[-800:])


def mistakes_are_seen():
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(WRONG)
        file.flush()
        status, told = mypy(file.name)
    wanted = [(place, line.rpartition("# ")[2]) for place, line in
              enumerate(WRONG.splitlines(), 1) if "# " in line]
    missing = [f"line {place}: {word}" for place, word in wanted
               if not any(f":{place}: " in line and f"[{word}]" in line
                          for line in told.splitlines())]
    expect(status == 1 and not missing, f"{missing}: {told[-800:]}")


TESTS = (everything_public_is_annotated, a_strict_program_passes, mistakes_are_seen)
