"""SGLang's hand-over from prefill to decode: managers, senders and receivers of requests."""

import os
import time
from types import SimpleNamespace

import numpy

import loading
import side
from side import ENDS

HOME = "sglang.srt.disaggregation"
AUX_BYTES = 64


def socket_on_host(context, kind, host):
    """SGLang's helper: a socket bound to any free port, and the port."""
    made = context.socket(kind)
    return made.bind_to_random_port(f"tcp://{host}"), made


class Side:
    def __init__(self, folder, _version):
        consumer = loading.Consumer(folder)
        consumer.given(
            "sglang.srt.utils", format_tcp_address=lambda host, port: f"tcp://{host}:{port}",
            get_local_ip_auto=lambda: "127.0.0.1", get_zmq_socket_on_host=socket_on_host,
            is_valid_ipv6_address=lambda _: False, maybe_wrap_ipv6_address=lambda host: host,
            get_int_env_var=lambda name, default=0: int(os.environ.get(name, default)), is_npu=lambda: False)
        consumer.given("sglang.srt.layers.dp_attention", get_attention_dp_rank=lambda: 0,
                       get_attention_dp_size=lambda: 1, get_attention_tp_rank=lambda: 0,
                       get_attention_tp_size=lambda: 1)
        consumer.given("sglang.srt.distributed",
                       get_pp_group=lambda: SimpleNamespace(is_last_rank=True, is_first_rank=True))
        self.modes = consumer.load("sglang.srt.environ", f"{HOME}.utils").DisaggregationMode
        self.base = consumer.load(f"{HOME}.base.conn")
        self.conn = consumer.load(f"{HOME}.common.utils", f"{HOME}.common.conn", f"{HOME}.mooncake.utils",
                                  f"{HOME}.mooncake.transfer_engine", f"{HOME}.mooncake.conn")
        self.requests = {}

    def start(self, mode, port, layers, pages, page_bytes, seed=None):
        """The manager of one rank with its KV pool: K of all layers, then V; prefill has the server at
        which they meet."""
        self.port, self.page_bytes = port, page_bytes
        self.pool = [side.filled(pages * page_bytes, None if seed is None else seed + at)
                     for at in range(2 * layers)]
        self.aux = side.filled(16 * AUX_BYTES, seed)
        args = self.base.KVArgs()
        known = dict(
            engine_rank=0, kv_data_ptrs=[one.data_ptr() for one in self.pool],
            kv_data_lens=[one.nbytes for one in self.pool], kv_item_lens=[page_bytes] * len(self.pool),
            aux_data_ptrs=[self.aux.data_ptr()], aux_data_lens=[self.aux.nbytes], aux_item_lens=[AUX_BYTES],
            state_data_ptrs=[], state_data_lens=[], state_item_lens=[], state_type="none", ib_device=None,
            gpu_id=0, decode_tp_size=1, kv_head_num=1, page_size=1, prefill_pp_size=1, pp_rank=0,
            prefill_start_layer=0, system_dp_rank=0)
        for name, value in known.items():
            setattr(args, name, value)
        if mode == "prefill":
            self.server = self.conn.MooncakeKVBootstrapServer("127.0.0.1", port)
            self.wait_for_server()
        server = SimpleNamespace(host="127.0.0.1", disaggregation_bootstrap_port=port, dist_init_addr=None,
                                 enable_dp_attention=False, dp_size=1, pp_size=1)
        self.manager = self.conn.MooncakeKVManager(args, getattr(self.modes, mode.upper()), server, False)

    def wait_for_server(self):
        import requests
        for _ in range(ENDS * 20):
            try:
                if requests.get(f"http://127.0.0.1:{self.port}/health", timeout=2).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.05)
        raise RuntimeError("the bootstrap server does not answer")

    def expect_room(self, room, indices, aux):
        """Decode tells prefill where the KV of a request shall go."""
        made = self.conn.MooncakeKVReceiver(self.manager, f"127.0.0.1:{self.port}", room)
        made.init(numpy.array(indices, dtype=numpy.int32), aux)
        self.requests[room] = made

    def send_room(self, room, chunks, aux):
        """Prefill sends the KV of a request in chunks, once decode has told."""
        made = self.conn.MooncakeKVSender(self.manager, f"127.0.0.1:{self.port}", room, [0], 0)
        made.init(sum(len(chunk) for chunk in chunks), aux)
        self.requests[room] = made
        self.until(made, self.base.KVPoll.WaitingForInput)
        for chunk in chunks:
            made.send(numpy.array(chunk, dtype=numpy.int32))

    def end_room(self, room):
        """How the request ends."""
        return self.until(self.requests[room], self.base.KVPoll.Success, self.base.KVPoll.Failed)

    def until(self, request, *wanted):
        end = time.monotonic() + ENDS
        while (found := request.poll()) not in wanted:
            if time.monotonic() > end:
                raise RuntimeError(f"the request stays in state {found}")
            time.sleep(0.002)
        return found == self.base.KVPoll.Success

    def pages(self, indices, aux):
        """Checksums of pages of all layers, and of the auxiliary data."""
        size = self.page_bytes
        return [[side.seen(one[at * size:(at + 1) * size]) for at in indices] for one in self.pool] \
            + [side.seen(self.aux[aux * AUX_BYTES:(aux + 1) * AUX_BYTES])]
