"""A disk for a master's journal that can be filled: a small tmpfs in a mount namespace of its own."""

import os
import pathlib
import shutil
import subprocess
import tempfile

from harness.report import Skip

SIZE_BYTES = 4 << 20
FREE = "filler"


class SmallDisk:
    """`with SmallDisk() as disk`: `disk.prefix` starts programs that see it at `disk.path`."""

    def __enter__(self):
        if os.geteuid() != 0:
            raise Skip("a mount namespace needs root")
        for program in ("unshare", "nsenter", "mount"):
            if shutil.which(program) is None:
                raise Skip(f"the program {program} is not installed")
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="mooncake-disk-"))
        mount = f"mount -t tmpfs -o size={SIZE_BYTES} none {self.path} && echo yes && exec sleep 1d"
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self.holder.stdout.readline().strip() != "yes":
            reason = self.holder.stderr.read().strip()
            self.__exit__()
            raise Skip(f"no mount namespace here: {reason}")
        return self

    def __exit__(self, *_):
        # The namespace goes with its last process, and the disk with it.
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()
        self.holder.stderr.close()
        self.path.rmdir()

    @property
    def prefix(self):
        # With its root: in a chroot that of the namespace is another.
        return ("nsenter", "--mount", "--root", f"--target={self.holder.pid}", "--")

    @property
    def inside(self):
        """Its folder, seen from here."""
        return pathlib.Path(f"/proc/{self.holder.pid}/root{self.path}")

    def fill(self):
        """Takes all room that is left."""
        with open(self.inside / FREE, "ab", buffering=0) as file:
            for block in (bytes(65536), bytes(512)):
                try:
                    while True:
                        file.write(block)
                except OSError:
                    pass

    def clear(self):
        (self.inside / FREE).unlink()
