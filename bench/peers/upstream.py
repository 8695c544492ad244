"""Upstream's transfer engine through its Python API, over TCP, without a metadata service."""

import sys

import driver
import places


class Engine:
    def __init__(self, region):
        from mooncake.engine import TransferEngine

        self.engine = TransferEngine()
        if self.engine.initialize("127.0.0.1:0", "P2PHANDSHAKE", "tcp", ""):
            raise RuntimeError("initialize failed")
        if self.engine.register_memory(region.address, region.size_bytes):
            raise RuntimeError("register_memory failed")


class Target(Engine):
    def __init__(self, region, _options):
        super().__init__(region)

    def info(self):
        return {"name": f"127.0.0.1:{self.engine.get_rpc_port()}"}


class Initiator(Engine):
    def __init__(self, region, _options, info):
        super().__init__(region)
        self.name = info["name"]
        engine = self.engine
        self.calls = {
            ("write", True): engine.transfer_sync_write,
            ("read", True): engine.transfer_sync_read,
            ("write", False): engine.batch_transfer_sync_write,
            ("read", False): engine.batch_transfer_sync_read,
        }

    def prepare(self, op, pairs, block, _thread):
        if len(pairs) == 1:
            return self.calls[op, True], (self.name, *pairs[0], block)
        local, remote = (list(side) for side in zip(*pairs))
        return self.calls[op, False], (self.name, local, remote, [block] * len(pairs))

    def run(self, plan):
        call, arguments = plan
        if call(*arguments):
            raise RuntimeError("the transfer failed")


def add_options(parser):
    parser.add_argument("--version", choices=places.wheels.VERSIONS, default="0.3.7.post2")


def prepare_process(options):
    options.peer = f"upstream {options.version}"
    libraries = [str(places.folder(options.version) / name)
                 for name in places.wheels.REQUIREMENTS[options.version][1]]
    places.restart_with({"LD_LIBRARY_PATH": ":".join(libraries), "MC_LOG_LEVEL": "ERROR"})
    places.use(options.version)


driver.main(Target, Initiator, add_options, prepare_process)
