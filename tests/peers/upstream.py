"""A peer process around one upstream TransferEngine; see `harness/driver.py` for the commands.

Run with the wheel's folder on PYTHONPATH and its libraries on LD_LIBRARY_PATH, which
`wheels.Wheel.environment` provides.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from harness import driver  # noqa: E402


class Upstream:
    """The binding of both upstream versions, as far as they agree."""

    def __init__(self):
        from mooncake.engine import TransferEngine, TransferNotify, TransferOpcode
        self.engine = TransferEngine()
        self.notify_type = TransferNotify
        self.opcodes = {"read": TransferOpcode.Read, "write": TransferOpcode.Write}

    def create(self, name, metadata="P2PHANDSHAKE", protocol="tcp"):
        check("initialize", self.engine.initialize(name, metadata, protocol, ""))
        port = self.engine.get_rpc_port()
        host = f"[{name}]" if ":" in name and not name.startswith("[") else name
        return {"name": f"{host}:{port}" if metadata == "P2PHANDSHAKE" else name, "port": port}

    def register(self, address, length):
        check("register_memory", self.engine.register_memory(address, length))

    def unregister(self, address):
        check("unregister_memory", self.engine.unregister_memory(address))

    def transfer(self, peer, operation, group):
        if len(group) == 1:
            call = (self.engine.transfer_sync_write if operation == "write"
                    else self.engine.transfer_sync_read)
            status = call(peer, *group[0])
        else:
            call = (self.engine.batch_transfer_sync_write if operation == "write"
                    else self.engine.batch_transfer_sync_read)
            status = call(peer, *(list(column) for column in zip(*group)))
        return None if status == 0 else status

    def notify(self, peer, name, message, request):
        status = self.engine.transfer_sync(
            peer, *request, self.opcodes["write"], self.notify_type(name, message))
        return None if status == 0 else status

    def notifications(self):
        return [[item.name, item.msg] for item in self.engine.get_notifies()]

    def extra_probe(self, peer):
        return {"status": self.engine.send_probe(peer)}

    def destroy(self):
        self.engine = None


def check(call, status):
    if status != 0:
        raise RuntimeError(f"{call} returned {status}")


if __name__ == "__main__":
    driver.serve(Upstream())
