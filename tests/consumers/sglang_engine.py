"""SGLang's MooncakeTransferEngine, which moves KV pages from prefill to decode."""

import socket
import threading

import loading
import side

OLD = "sglang.srt.disaggregation.mooncake.transfer_engine"
NEW = "sglang.srt.distributed.device_communicators.mooncake_transfer_engine"


def with_deadline(call, *, timeout_s, what):
    """SGLang's helper: the call in a thread of its own, for so long."""
    found = []
    worker = threading.Thread(target=lambda: found.append(call()), daemon=True)
    worker.start()
    worker.join(timeout_s)
    if not found:
        raise RuntimeError(f"{what} did not return")
    return found[0]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Side(side.Buffers):
    def __init__(self, folder, version):
        super().__init__()
        consumer = loading.Consumer(folder)
        consumer.given("sglang.srt.utils", get_free_port=free_port,
                       maybe_wrap_ipv6_address=lambda host: f"[{host}]" if ":" in host else host)
        consumer.given("sglang.srt.utils.common", run_with_deadline=with_deadline)
        released = (consumer.folder / NEW.replace(".", "/")).with_suffix(".py").is_file()
        if version.startswith("0.5"):
            consumer.load("sglang.srt.environ")
        if released:
            consumer.load("sglang.srt.utils.network")
        self.module = consumer.load(NEW if released else OLD)

    def start(self, hostname="127.0.0.1"):
        """The engine as the scheduler of SGLang makes it; its session."""
        self.engine = self.module.MooncakeTransferEngine(hostname, 0, None)
        return self.engine.get_session_id()

    def register(self, name):
        self.engine.register(self.tensors[name].data_ptr(), self.tensors[name].nbytes)

    def register_many(self, names):
        tensors = [self.tensors[name] for name in names]
        return self.engine.batch_register([one.data_ptr() for one in tensors], [one.nbytes for one in tensors])

    def deregister_many(self, names):
        return self.engine.batch_deregister([self.tensors[name].data_ptr() for name in names])

    def deregister(self, name):
        self.engine.deregister(self.tensors[name].data_ptr())

    def send(self, session, name, there, page, pages):
        """All pages, one after the other, last page first."""
        here = self.tensors[name].data_ptr()
        return [self.engine.transfer_sync(session, here + page * at, there + page * at, page)
                for at in reversed(range(pages))]

    def send_batch(self, session, name, there, page, pages):
        here = self.tensors[name].data_ptr()
        return self.engine.batch_transfer_sync(
            session, [here + page * at for at in range(pages)],
            [there + page * at for at in range(pages)], [page] * pages)

    def probe(self, session):
        return self.engine.send_probe(session)

    def shared(self):
        """Whether the engine can be handed to a store."""
        return self.engine.get_engine() is not None
