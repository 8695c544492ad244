"""NIXL through its Python API with the UCX backend.

`--path tcp` allows UCX only TCP; `--path host` leaves the choice to UCX, which takes shared memory
on one host. Transfers are prepared once and posted again and again, which is NIXL's fastest way.
The target has a progress thread, without which it would not serve. So has the initiator, which is
NIXL's default; `--tuned` leaves that one out, because the initiator polls anyway and on few cores a
second spinning thread costs most of the speed.
"""

import base64
import sys

import driver
import places


def create_agent(name, progress_thread):
    from nixl_cu12._api import nixl_agent, nixl_agent_config

    return nixl_agent(name, nixl_agent_config(enable_prog_thread=progress_thread, backends=["UCX"]))


def register(agent, region):
    return agent.register_memory([(region.address, region.size_bytes, 0, "")], "DRAM")


class Target:
    def __init__(self, region, _options):
        self.agent = create_agent("target", True)
        self.registered = register(self.agent, region)

    def info(self):
        return {"metadata": base64.b64encode(self.agent.get_agent_metadata()).decode()}


class Initiator:
    """One agent, and so one set of UCX workers, per thread: agents are not thread-safe."""

    def __init__(self, region, options, info):
        self.region = region
        self.progress_thread = not options.tuned
        self.metadata = base64.b64decode(info["metadata"])
        self.agents = {}

    def agent(self, thread):
        if thread not in self.agents:
            agent = create_agent(f"initiator-{thread}", self.progress_thread)
            register(agent, self.region)
            self.agents[thread] = (agent, agent.add_remote_agent(self.metadata))
        return self.agents[thread]

    def prepare(self, op, pairs, block, thread):
        agent, remote = self.agent(thread)
        mine = agent.prep_xfer_dlist("", [(local, block, 0) for local, _ in pairs], "DRAM")
        theirs = agent.prep_xfer_dlist(
            remote, [(address, block, 0) for _, address in pairs], "DRAM")
        indices = list(range(len(pairs)))
        return agent, agent.make_prepped_xfer(op.upper(), mine, indices, theirs, indices)

    def run(self, plan):
        agent, handle = plan
        state, check = agent.transfer(handle), agent.check_xfer_state
        while state == "PROC":
            state = check(handle)
        if state != "DONE":
            raise RuntimeError(f"the transfer ended as {state}")


def add_options(parser):
    parser.add_argument("--path", choices=["tcp", "host"], default="tcp")
    parser.add_argument("--tuned", action="store_true",
                        help="the initiator has no progress thread")


def prepare_process(options):
    options.peer = f"nixl {options.path}" + (" tuned" if options.tuned else "")
    places.restart_with({
        "UCX_TLS": "tcp" if options.path == "tcp" else "all",
        "UCX_LOG_LEVEL": "error",
        "NIXL_LOG_LEVEL": "ERROR",
    })
    places.use(places.NIXL)


driver.main(Target, Initiator, add_options, prepare_process)
