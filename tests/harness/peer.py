"""A peer process seen from the harness: start it, send commands with a time limit, stop it.

Engines under test hang and crash. So every command has a limit, everything a peer prints goes
into a file of its own, and a failure carries the end of that file.
"""

import json
import os
import pathlib
import queue
import signal
import subprocess
import threading

TREE = pathlib.Path(__file__).resolve().parents[2]
LOGS = TREE / "build" / "peer-logs"
COMMAND_SECONDS = 60
STOP_SECONDS = 5
LOG_TAIL_BYTES = 600


class PeerFailed(Exception):
    """The peer refused a command, did not answer in time, or is gone."""


class Peer:
    """One peer process; use it in a `with` statement, which ends it in any case."""

    def __init__(self, label, command, environment, prefix=()):
        LOGS.mkdir(parents=True, exist_ok=True)
        self.label = label
        self.name = None
        self.addresses = {}
        with open(LOGS / f"{label}.{os.getpid()}.log", "ab") as log:
            self.log_path = log.name
            # A session of its own: one signal reaches whatever the peer has started as well.
            self.process = subprocess.Popen(
                [*prefix, *command], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True, start_new_session=True)
        self.answers = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def _read(self):
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put(None)

    def send(self, do, **arguments):
        """Sends a command without waiting; `answer` collects it."""
        try:
            self.process.stdin.write(json.dumps(dict(arguments, do=do)) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise self.failed(f"is gone ({error.strerror})") from None

    def answer(self, seconds=COMMAND_SECONDS):
        try:
            line = self.answers.get(timeout=seconds)
        except queue.Empty:
            raise self.failed(f"gave no answer within {seconds} s") from None
        if line is None:
            raise self.failed(f"ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "raised" in answer:
            raise self.failed(answer["raised"])
        return answer

    def call(self, do, seconds=COMMAND_SECONDS, **arguments):
        self.send(do, **arguments)
        return self.answer(seconds)

    def create(self, **options):
        self.name = self.call("create", **options)["name"]
        return self

    def buffer(self, id, length, **options):
        self.addresses[id] = self.call("buffer", id=id, length=length, **options)["address"]
        return self.addresses[id]

    def checksums(self, id, ranges):
        return self.call("checksums", id=id, ranges=ranges)["checksums"]

    def failed(self, what):
        with open(self.log_path, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_TAIL_BYTES))
            tail = log.read().decode("utf-8", "replace").strip().replace("\n", " | ")
        return PeerFailed(f"{self.label} {what}" + (f"; it printed: ...{tail}" if tail else ""))

    def signal(self, number):
        self.process.send_signal(number)

    def log_bytes(self):
        """What it has printed so far."""
        return pathlib.Path(self.log_path).read_bytes()

    def kill(self):
        """Ends the process as a crash would; `stop` may follow."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def stop(self):
        """Ends the process; asks first, so that an orderly end is the usual one. Idempotent."""
        if self.process.stdin.closed:
            return
        try:
            self.send("exit")
            self.process.wait(STOP_SECONDS)
        except (PeerFailed, subprocess.TimeoutExpired):
            pass
        self.kill()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # A command that the peer did not live to read.
