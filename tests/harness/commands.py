"""The loop of a process that obeys: one JSON object per line in, one JSON object per line out.

{"do": NAME, ...} calls the method NAME with the other members; what it returns is the answer, and {"raised": TEXT}
where it raised. `exit` and the end of the input end the process.

The answers leave on a private copy of file descriptor 1; descriptor 1 itself is pointed at stderr, because what is
under test may print.
"""

import ctypes
import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent():
    """An interrupted harness must not leave processes behind, not even hanging ones."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def obey(make, commands):
    """Serves the methods named in `commands` of what `make` returns, and never returns itself."""
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Made after descriptor 1 is out of the way: it may print while it is imported, too.
    servant = make()
    for line in sys.stdin:
        command = json.loads(line)
        what = command.pop("do")
        if what == "exit":
            break
        try:
            if what not in commands:
                raise ValueError(f"unknown command {what}")
            answer = getattr(servant, what)(**command)
        except Exception as error:  # Whoever gave the command decides what its failure means.
            answer = {"raised": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    answers.close()
    # What is under test may hang in its destructors at interpreter exit; whoever wants an orderly end has sent
    # a command for that before.
    os._exit(0)
