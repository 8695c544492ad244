"""A process with one consumer in it, driven by JSON lines on stdin.

    child.py SIDE FOLDER VERSION

SIDE is a module here with a class `Side(folder, version)`; every public method is one command. What
the connectors print goes to stderr, which the harness keeps.
"""

import ctypes
import importlib
import json
import logging
import os
import pathlib
import signal
import sys
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "stand_ins")]

PR_SET_PDEATHSIG = 1


def obey(driven, wanted, what, command):
    """One command; the first makes the side, so that a failure of that is an answer too."""
    if what == "implementation":
        import mooncake
        return mooncake.__file__
    if not driven:
        side, folder, version = wanted
        driven.append(importlib.import_module(side).Side(folder, version))
    return getattr(driven[0], what)(**command)


def main(side, folder, version):
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    driven = []
    for line in sys.stdin:
        command = json.loads(line)
        what = command.pop("do")
        if what == "exit":
            break
        try:
            answer = {"found": obey(driven, (side, folder, version), what, command)}
        except Exception as error:  # The suite decides what a failed command means.
            traceback.print_exc()
            answer = {"raised": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    answers.close()
    # Connectors leave threads that never end.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
