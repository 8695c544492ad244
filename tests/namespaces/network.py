"""Two network namespaces joined by one virtual cable, made for a test and removed after it."""

import os
import shutil
import subprocess

from harness.report import Skip

COMMAND_SECONDS = 20
ADDRESSES = ("10.123.45.1", "10.123.45.2")
ADDRESSES_V6 = ("fd12:3456::1", "fd12:3456::2")
DISTRACTIONS = (("docker0", "172.17.0.1/16"), ("zeroconf0", "169.254.7.7/16"),
                ("off0", "10.99.0.1/24"), ("bare0", None))


class Network:
    """`with Network() as network`: places 0 and 1, each with an address and a cable end."""

    def __init__(self, distractions=False, names=None):
        """`names` are those of another process's network, which this one only changes."""
        self.distractions = distractions
        self.names = names or [f"mooncake-{side}-{os.getpid()}" for side in "ab"]

    def __enter__(self):
        require()
        try:
            for name in self.names:
                ip("netns", "add", name)
                if self.distractions:
                    self.distract(name)
            # Made inside the first namespace, so that nothing ever appears in the machine's own.
            ip("-n", self.names[0], "link", "add", "cable0", "type", "veth",
               "peer", "name", "cable1", "netns", self.names[1])
            for side, name in enumerate(self.names):
                ip("-n", name, "address", "add", f"{ADDRESSES[side]}/24", "dev", f"cable{side}")
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "link", "set", f"cable{side}", "up")
        except subprocess.CalledProcessError as error:
            self.__exit__()
            raise Skip(f"no network namespaces here: {error.stderr.strip()}") from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False,
                           timeout=COMMAND_SECONDS)

    def prefix(self, side):
        return ("ip", "netns", "exec", self.names[side])

    def places(self):
        """What a pair of processes is started with, one at each end."""
        return tuple({"name": ADDRESSES[side], "prefix": self.prefix(side)} for side in (0, 1))

    def set(self, side, name, value):
        """Writes one setting under /proc/sys/net of a namespace."""
        path = "/proc/sys/net/" + name
        try:
            run([*self.prefix(side), "sh", "-c", f"echo '{value}' > {path}"])
        except subprocess.CalledProcessError as error:
            raise Skip(f"cannot set {path} here: {error.stderr.strip()}") from None

    def distract(self, name):
        """What hosts with containers have beside their network, and before it in the kernel's list:
        a bridge with the same address on every host, a link-local address, an interface that is
        down, one without an address."""
        for interface, address in DISTRACTIONS:
            ip("-n", name, "link", "add", interface, "type", "veth",
               "peer", "name", interface + "p")
            if address:
                ip("-n", name, "address", "add", address, "dev", interface)
            for end in (interface, interface + "p"):
                ip("-n", name, "link", "set", end, "down" if interface == "off0" else "up")

    def add_ipv6(self):
        """A second address for both ends, of the other family."""
        for side, name in enumerate(self.names):
            ip("-n", name, "address", "add", f"{ADDRESSES_V6[side]}/64", "dev", f"cable{side}",
               "nodad")

    def cable(self, side, state):
        ip("-n", self.names[side], "link", "set", f"cable{side}", state)

    def narrow(self, rate):
        """Both directions carry no more than that, and drop what waits too long; None: as before."""
        for side, name in enumerate(self.names):
            queue = ["tc", "-n", name, "qdisc"]
            if rate is None:
                run([*queue, "delete", "dev", f"cable{side}", "root"])
            else:
                run([*queue, "replace", "dev", f"cable{side}", "root", "tbf", "rate", rate,
                     "burst", "32kb", "latency", "100ms"])


def require():
    if os.geteuid() != 0:
        raise Skip("network namespaces need root")
    if shutil.which("ip") is None:
        raise Skip("the program ip (iproute2) is not installed")


def ip(*arguments):
    run(["ip", *arguments])


def run(command):
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMMAND_SECONDS)
