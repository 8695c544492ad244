"""Stand-ins for the small parts of vLLM that connectors call, for consumers that come without it."""

import logging
import os
from types import SimpleNamespace

import zmq


def zmq_path(scheme, host, port=None):
    return f"{scheme}://{host}" + (f":{port}" if port else "")


def zmq_socket(ctx, path, socket_type, bind=None, identity=None, linger=None, **_):
    """A socket, bound for the kinds that serve."""
    made = ctx.socket(socket_type)
    if identity is not None:
        made.setsockopt(zmq.IDENTITY, identity)
    if linger is not None:
        made.setsockopt(zmq.LINGER, linger)
    if bind is None:
        bind = socket_type not in (zmq.PUSH, zmq.SUB, zmq.XSUB)
    (made.bind if bind else made.connect)(path)
    return made


def split_host_port(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def join_host_port(host, port):
    return f"{host}:{port}"


def logger(name="vllm"):
    return logging.getLogger(name)


def one_rank():
    return SimpleNamespace(world_size=1, rank_in_group=0, local_rank=0, rank=0)


def prepare(consumer):
    """Everything above, where releases of vLLM have it."""
    network = dict(get_ip=lambda: "127.0.0.1", make_zmq_path=zmq_path, make_zmq_socket=zmq_socket,
                   split_host_port=split_host_port, join_host_port=join_host_port)
    arithmetic = dict(cdiv=lambda a, b: -(-a // b))
    consumer.given("vllm.utils", logger=logger(), **network, **arithmetic)
    consumer.given("vllm.utils.network_utils", **network)
    consumer.given("vllm.utils.math_utils", **arithmetic)
    consumer.given("vllm.logger", logger=logger(), init_logger=logger)
    ranks = dict(get_tensor_model_parallel_rank=lambda: 0, get_tensor_model_parallel_world_size=lambda: 1,
                 get_tp_group=one_rank, get_world_group=one_rank, get_pp_group=one_rank,
                 get_pcp_group=one_rank, get_dcp_group=one_rank)
    consumer.given("vllm.distributed.parallel_state", **ranks)
    consumer.given("vllm.distributed", **ranks)
    consumer.given("vllm.envs", MOONCAKE_REQUESTER_LOCAL_HOSTNAME=None, MOONCAKE_PREFERRED_SEGMENT=None,
                   VLLM_MOONCAKE_STORE_TIER_LOG=True, VLLM_MOONCAKE_DISK_STAGING_USABLE_RATIO=0.9,
                   VLLM_NIXL_ABORT_REQUEST_TIMEOUT=120, VLLM_MOONCAKE_LOAD_RECV_THREADS=1,
                   VLLM_HOST_IP="127.0.0.1", **{name: value for name, value in os.environ.items()
                                                if name.startswith("VLLM_MOONCAKE")})
