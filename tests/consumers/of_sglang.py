"""SGLang: the transfer engine between two processes, HiCache and embeddings over a master."""

from common import OURS
from harness.ports import free_port
from harness.report import expect
from masters import OLD
from process import Consumer, arrived, checksum, master
from standalone import Standalone

PAGE, PAGES = 16 * 1024, 64
SEED = 31
FIRST, MIDDLE, LAST = "0.4.6.post5", "0.5.6.post2", "0.5.23"
MIB = 1 << 20


def engine(version, cast):
    """Prefill writes its pages into the memory of decode, one by one and in a batch; then decode
    dies."""
    with Consumer("sglang_engine", "sglang", version, cast.one) as prefill, \
            Consumer("sglang_engine", "sglang", version, cast.other) as decode:
        prefill.ask("start")
        session = decode.ask("start")
        place = decode.ask("buffer", name="kv", length=PAGE * PAGES)
        prefill.ask("buffer", name="kv", length=PAGE * PAGES, seed=SEED)
        for one in (prefill, decode):
            if version == FIRST:
                one.ask("register", name="kv")
            else:
                one.check("register_many", 0, names=["kv"])
        what = dict(session=session, name="kv", there=place, page=PAGE, pages=PAGES)
        wanted = checksum(PAGE * PAGES, SEED)

        def look():
            return decode.ask("bytes_of", name="kv")

        prefill.check("send", [0] * PAGES, **what)
        arrived(look, wanted, cast)
        if version != FIRST:
            decode.ask("clear", name="kv")
            prefill.check("send_batch", 0, **what)
            arrived(look, wanted, cast)
        if version == LAST:
            prefill.check("shared", True)
            if not cast.old:
                prefill.check("probe", 0, session=session)
        decode.kill()
        if version == FIRST:
            prefill.ask("deregister", name="kv")
        elif cast.one != OLD:  # Which ends the process here.
            expect(prefill.ask("send_batch", **what) < 0, "a dead peer took a batch")
            prefill.check("deregister_many", 0, names=["kv"])


def hand_over(version, cast):
    """Requests of prefill and decode, which meet at SGLang's bootstrap server: chunks of pages and
    auxiliary data end where decode said, and both sides see success."""
    port = free_port()
    requests = {7: ([3, 4, 5, 9], [10, 11, 2, 3], 1, 4), 8: ([0, 1, 2], [0, 5, 6], 2, 5)}
    with Consumer("sglang_pd", "sglang", version, cast.one) as prefill, \
            Consumer("sglang_pd", "sglang", version, cast.other) as decode:
        for process, mode, seed in ((prefill, "prefill", SEED), (decode, "decode", None)):
            process.ask("start", mode=mode, port=port, layers=3, pages=16, page_bytes=8192, seed=seed)
        for room, (source, target, here, there) in requests.items():
            decode.ask("expect_room", room=room, indices=target, aux=there)
            prefill.ask("send_room", room=room, chunks=[source[:2], source[2:]], aux=here)
            for process in (prefill, decode):
                process.check("end_room", True, room=room)
            wanted = prefill.ask("pages", indices=source, aux=here)
            arrived(lambda: decode.ask("pages", indices=target, aux=there), wanted, cast)


def hicaches(version, kind):
    return Consumer("sglang_hicache", "sglang", version, kind)


def settings(owner, **more):
    """What `--hicache-storage-backend-extra-config` holds."""
    return dict(master_server_address=owner.address, metadata_server="P2PHANDSHAKE", protocol="tcp",
                local_hostname="127.0.0.1", device_name="", global_segment_size=32 * MIB, **more)


def hicache(version, cast, form):
    """Warm-up, pages of a pool put, seen and read by another process, which waits for the service."""
    mla = form == "mla"
    keys = [f"page{index}" for index in range(16)]
    size = 16 * 4096 * (1 if mla else 2)
    with master(cast) as owner, hicaches(version, cast.one) as one, hicaches(version, cast.other) as other:
        # It groups the K and V of a page if the config of a put can, and does without if not.
        one.ask("start", pages=16, page_bytes=4096, seed=SEED, mla=mla,
                **settings(owner, enable_group_semantics=True))
        one.check("exists", 0, keys=keys)
        one.check("put", [True] * 8, keys=keys[:8])
        one.check("exists", 8, keys=keys)
        one.check("put", [True] * 16, keys=keys)
        other.ask("start", pages=16, page_bytes=4096, mla=mla,
                  **settings(owner, check_server=True, master_metrics_port=owner.http_port))
        other.check("exists", 16, keys=keys)
        arrived(lambda: [other.ask("get", keys=keys), other.ask("pool_bytes")],
                [[True] * 16, checksum(size, SEED)], cast)
        one.ask("clear_pool")
        one.check("get", [True] * 15 + [False], keys=keys[:15] + ["nothing"])
        one.ask("clear")


def own_tests(version, cast):
    """SGLang's own test program of its store, as it is in the wheel."""
    with master(cast) as owner, hicaches(version, cast.one) as one:
        one.ask("own_tests", MOONCAKE_MASTER=owner.address, MOONCAKE_PROTOCOL="tcp",
                MOONCAKE_TE_META_DATA_SERVER="P2PHANDSHAKE", MOONCAKE_LOCAL_HOSTNAME="127.0.0.1",
                MOONCAKE_GLOBAL_SEGMENT_SIZE=str(128 * MIB))


def embeddings(version, cast):
    """The store of embeddings: whole and in parts, put once, a miss."""
    with master(cast) as owner, hicaches(version, cast.one) as one:
        found = one.ask("embeddings", **settings(owner))
        wanted = {"before": [False, False], "put": [True, True], "again": [True, True],
                  "after": [True, True], "parts": [True], "get": [True, True], "get_parts": [True],
                  "missing": [False], "same": True}
        expect(found == wanted, f"{found}")


def layer_wise(version, cast):
    """The direct linker loads pages layer by layer, each key in a session."""
    cast.without(OLD, "has no sessions")
    with master(cast) as owner, hicaches(version, cast.one) as one:
        one.ask("start", pages=8, page_bytes=4096, seed=SEED, mla=True, **settings(owner))
        one.check("layer_wise", [[True] * 8, checksum(8 * 4096, SEED), [0, 1, 2, 3]],
                  keys=[f"p{index}" for index in range(8)], layers=4)


def standalone(version, cast):
    """A `mooncake_client` has the memory; SGLang attaches to it with a pool of its allocator."""
    cast.only(OURS, "programs attach to a client of their own implementation")
    keys = [f"page{index}" for index in range(16)]
    with Standalone() as there, hicaches(version, cast.one) as one, hicaches(version, cast.other) as other:
        address = f"127.0.0.1:{there.port}"
        for process in (one, other):
            process.ask("start", pages=16, page_bytes=4096, seed=SEED if process is one else None,
                        standalone=True, standalone_storage=True, client_server_address=address)
        one.check("put", [True] * 16, keys=keys)
        other.check("exists", 16, keys=keys)
        other.check("get", [True] * 16, keys=keys)
        other.check("pool_bytes", checksum(16 * 2 * 4096, SEED))


TESTS = tuple((engine, version) for version in (FIRST, MIDDLE, LAST)) + ((hand_over, MIDDLE),) \
    + tuple((hicache, version, form) for version in (MIDDLE, LAST) for form in ("mha", "mla")) \
    + ((own_tests, MIDDLE), (own_tests, LAST), (embeddings, LAST), (standalone, LAST), (layer_wise, LAST))
ENGINES = ((engine, LAST), (hand_over, MIDDLE))
STORES = ((hicache, LAST, "mha"),)
