"""Finds the executables of this package and becomes one of them."""

import os
import shutil
import stat
import sys

from ._library_paths import PACKAGE, folders

EXECUTABLE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH


def find(name):
    """The path of an executable, made executable if an installer forgot; None without one."""
    for folder in folders():
        path = folder / name
        if not path.is_file():
            continue
        if not os.access(path, os.X_OK):
            try:
                path.chmod(path.stat().st_mode | EXECUTABLE)
            except OSError:
                continue
        return path
    found = shutil.which(name)
    # The console script of the same name would start itself for ever.
    if found and not is_script(found):
        return found
    return None


def is_script(path):
    with open(path, "rb") as file:
        return file.read(2) == b"#!"


def become(name, arguments=None):
    """Replaces this process, so that signals and the exit status are the program's own."""
    path = find(name)
    if path is None:
        print(f"{name}: not in {PACKAGE} and not on PATH", file=sys.stderr)
        return 127
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.stdout.flush()
    os.execv(path, [name, *arguments])
    return 127
