"""ReplicateConfig.group_ids: what it takes, every call that takes a config, and what it does."""

from common import Memory, equal, refused
from fake_torch import tensor
from harness.report import expect
from masters import Master
from pool import MIB, Pool, config

INVALID, LEASED = -600, -706
# No lease of a test ends before the test.
LONG_LEASE_MS = 600_000


def the_field():
    made = config()
    expect(hasattr(type(made), "group_ids") and made.group_ids is None, "as serving engines look for it")
    for given in (["a", ""], ("a", ""), (b"a", b"")):
        made.group_ids = given
        equal(made.group_ids, ["a", ""], "taken")
    made.group_ids.append("c")
    equal(made.group_ids, ["a", ""], "a list of its own")
    for value, name in (("text", "group_ids"), (5, "group_ids"), ([5], "group_ids[0]"),
                        (["a", None], "group_ids[1]"), (["\ud800"], "group_ids[0]")):
        refused(setattr, made, "group_ids", value, name=name)
    equal(made.group_ids, ["a", ""], "after what was refused")
    made.group_ids = None
    equal(made.group_ids, None, "taken back")


def one_for_each_key():
    """Another number of groups is -600 for every key, and nothing is put."""
    with Pool() as store:
        place = Memory(64, seed=1).address
        for groups in ([], ["g"], ["g"] * 3):
            of_two = config(group_ids=groups)
            equal(store.put_batch(["a", "b"], [b"1", b"2"], of_two), INVALID, "put_batch")
            equal(store.upsert_batch(["a", "b"], [b"1", b"2"], of_two), INVALID, "upsert_batch")
            for call in (store.batch_put_from, store.batch_upsert_from):
                equal(call(["a", "b"], [place] * 2, [8] * 2, of_two), [INVALID] * 2, call.__name__)
            equal(store.batch_put_from_multi_buffers(["a", "b"], [[place]] * 2, [[8]] * 2, of_two),
                  [INVALID] * 2, "multi")
            equal(store.batch_put_session_start(["a", "b"], [8, 8], of_two), [INVALID] * 2, "session")
            tensors = [tensor("float32", (2,)), 5]
            equal(store.batch_pub_tensor(["a", "b"], tensors, of_two), [INVALID] * 2, "tensors")
            equal(store.batch_pub_tensor_with_tp(["a", "b"], tensors, of_two), [INVALID] * 2, "shards")
        for groups in ([], ["g", "h"], ["a\0b"]):
            of_one = config(group_ids=groups)
            for call in (store.put, store.put_parts, store.upsert, store.upsert_parts):
                equal(call("a", b"v", config=of_one), INVALID, call.__name__)
            for call in (store.put_from, store.upsert_from):
                equal(call("a", place, 8, of_one), INVALID, call.__name__)
            equal(store.batch_put_from_ascend("a", [place], [8], of_one), [INVALID], "ascend")
        equal((store.put_from("a", place, 0, config(group_ids=[])), store.put_parts("a", config=config(
            group_ids=["g", "h"]))), (INVALID, INVALID), "no bytes")
        equal((store.batch_is_exist(["a", "b"]), store.put_batch([], [], config(group_ids=[]))),
              ([0, 0], 0), "nothing was put")
        equal(store.put("a", b"v", config(group_ids=["g" * 65537])), INVALID, "a long name")


def together(store, read, other, what):
    """Reading one object must lease the other."""
    equal((store.is_exist(read), store.remove(other)), (1, LEASED), what)
    equal(store.batch_remove([read, other], force=True), [0, 0], what)


def every_call_with_a_config():
    with Pool(default_kv_lease_ttl=LONG_LEASE_MS) as store:
        memory = Memory(64, seed=2)
        place, pair = memory.address, ["a", "b"]
        both, one = config(group_ids=["g", "g"]), config(group_ids=["g"])
        equal(store.put_batch(pair, [b"1", b"2"], both), 0, "put_batch")
        together(store, *pair, "put_batch")
        equal(store.batch_put_from(pair, [place] * 2, [8] * 2, both), [0, 0], "from")
        together(store, *pair, "batch_put_from")
        equal(store.batch_put_from_multi_buffers(pair, [[place, place]] * 2, [[8, 8]] * 2, both),
              [0, 0], "multi")
        together(store, *pair, "batch_put_from_multi_buffers")
        equal(store.upsert_batch(["x", "a", "b", "a"], [b"0", b"1", b"2", b"3"],
                                 config(group_ids=["", "h", "g", "g"])), 0, "the last of a key counts")
        together(store, *pair, "upsert_batch")
        equal(store.batch_upsert_from(pair, [place] * 2, [8] * 2, both), [0, 0], "upsert")
        together(store, *pair, "batch_upsert_from")
        equal(store.batch_put_session_start(["a", "x", "b"], [8] * 3,
                                            config(group_ids=["g", "", "g"])), [0, -705, 0], "session")
        equal(store.batch_put_from_multi_buffer_ranges(pair, [[place]] * 2, [[8]] * 2, [[0]] * 2),
              [8, 8], "pieces")
        equal(store.batch_put_session_end(pair), [0, 0], "end")
        together(store, *pair, "session")
        value = tensor("float32", (4, 2))
        equal(store.batch_pub_tensor(["a", "bad", "b"], [value, 5, value],
                                     config(group_ids=["g", "h", "g"])), [0, INVALID, 0], "tensors")
        together(store, *pair, "batch_pub_tensor")
        equal(store.batch_upsert_pub_tensor(pair, [value] * 2, both), [0, 0], "tensors")
        together(store, *pair, "batch_upsert_pub_tensor")
        equal(store.pub_tensor_with_tp("t", value, one, tp_size=2), 0, "shards")
        together(store, "t_tp_0", "t_tp_1", "all shards of a tensor are in its group")
        calls = {"put": (b"v",), "put_parts": (b"v", b"w"), "put_from": (place, 8), "upsert": (b"v",),
                 "upsert_parts": (b"v", b"w"), "upsert_from": (place, 8),
                 "put_from_with_metadata": (place, place + 8, 8, 8), "pub_tensor": (value,),
                 "upsert_pub_tensor": (value,)}
        for name, arguments in calls.items():
            for key in pair:
                equal(getattr(store, name)(key, *arguments, config=one), 0, name)
            together(store, *pair, name)
        for key in pair:
            equal(store.batch_put_from_ascend(key, [place], [8], one), [0], "ascend")
        together(store, *pair, "batch_put_from_ascend")


def a_reader_leases_its_group_alone():
    with Pool(default_kv_lease_ttl=LONG_LEASE_MS) as store:
        keys = ["a", "b", "other", "alone", "alone too"]
        equal(store.put_batch(keys, [b"v"] * 5, config(group_ids=["g", "g", "h", "", ""])), 0, "put")
        equal(store.put("a", b"w", config(group_ids=["h"])), 0, "an object stays in its group")
        equal((store.get("a"), store.is_exist("alone")), (b"v", 1), "read")
        equal(store.batch_remove(keys), [LEASED, LEASED, 0, LEASED, 0], "what is leased")
        equal(store.remove_all(), 0, "what is leased stays")
        equal(store.put("late", b"v", config(group_ids=["g"])), 0, "put")
        equal(store.remove("late"), 0, "it was not there when the group was read")


def eviction_takes_the_group():
    """Ten objects, then more than the pool holds: the oldest goes, and with it the newest of its
    group, while those between them stay."""
    with Pool(segment=16 * MIB) as store:
        block = Memory(MIB, seed=3)
        keys = [f"k{number}" for number in range(10)]
        groups = ["g" if number in (0, 9) else "" for number in range(10)]
        for key, group in zip(keys, groups):
            equal(store.put_from(key, block.address, MIB, config(group_ids=[group])), 0, key)
        for number in range(8):
            equal(store.put_from(f"more{number}", block.address, MIB), 0, "room is made")
        found = store.batch_is_exist(keys)
        equal((found[0], found[9], found[7], found[8]), (0, 0, 1, 1), f"what is left of {found}")


def a_master_of_old_knows_no_groups():
    """They are taken and do nothing there."""
    with Master("upstream", default_kv_lease_ttl=LONG_LEASE_MS) as master:
        from mooncake.store import MooncakeDistributedStore
        store = MooncakeDistributedStore()
        equal(store.setup("127.0.0.1", "P2PHANDSHAKE", 16 * MIB, MIB, "tcp", "", master.address), 0,
              "setup")
        equal(store.put_batch(["a", "b"], [b"1", b"2"], config(group_ids=["g", "g"])), 0, "put")
        equal(store.put("c", b"v", config(group_ids=["g", "g"])), INVALID, "checked all the same")
        equal((store.get("a"), store.remove("a"), store.remove("b")), (b"1", LEASED, 0), "leases")
        store.close()


TESTS = (the_field, one_for_each_key, every_call_with_a_config, a_reader_leases_its_group_alone,
         eviction_takes_the_group, a_master_of_old_knows_no_groups)
