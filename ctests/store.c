/* The store without a master: every function with NULL, foreign and closed handles, options that
 * cannot be right, and what a client says when nobody answers. With a master the functions are
 * tested through tests/store/. */
#include "check.h"
#include "mooncake/store_c.h"

static unsigned char memory[4096];

static mc_store_options_t options_for(const char *master) {
    mc_store_options_t options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.local_hostname = "127.0.0.1";
    options.master_server_address = master;
    return options;
}

/* Every function that takes a client answers a bad one with this status. */
static void store_calls_give(mc_status_t expected, mc_store_t *store) {
    mc_store_range_t range;
    mc_store_object_t object;
    mc_store_health_t health;
    mc_store_metrics_t metrics;
    mc_store_buffer_t *buffer = NULL;
    mc_status_t status = 77;
    uint64_t size = 77;
    int32_t exists = 77;
    size_t length = 0;
    char text[64];
    range.address = memory;
    range.length_bytes = 16;
    object.key = "k";
    object.key_len = 1;
    object.ranges = &range;
    object.range_count = 1;
    memset(&health, 0, sizeof health);
    health.struct_size = sizeof health;
    memset(&metrics, 0, sizeof metrics);
    metrics.struct_size = sizeof metrics;

    CHECK_STATUS(expected, mc_store_hostname(store, text, sizeof text, &length));
    CHECK_STATUS(expected, mc_store_put(store, "k", 1, memory, 16, NULL));
    CHECK_STATUS(expected, mc_store_get(store, "k", 1, memory, 16, 10, &size));
    CHECK_STATUS(expected, mc_store_size(store, "k", 1, 10, &size));
    CHECK_STATUS(expected, mc_store_exists(store, "k", 1, 10, &exists));
    CHECK_STATUS(expected, mc_store_remove(store, "k", 1, 0, 10));
    CHECK_STATUS(expected, mc_store_remove_by_pattern(store, "k", 1, 0, &size));
    CHECK_STATUS(expected, mc_store_remove_all(store, 0, &size));
    CHECK_STATUS(expected, mc_store_register_buffer(store, memory, sizeof memory));
    CHECK_STATUS(expected, mc_store_unregister_buffer(store, memory));
    CHECK_STATUS(expected, mc_store_put_batch(store, &object, 1, NULL, &status));
    CHECK_STATUS(expected, mc_store_get_batch(store, &object, 1, 10, &size, &status));
    CHECK_STATUS(expected, mc_store_size_batch(store, &object, 1, 10, &size, &status));
    CHECK_STATUS(expected, mc_store_exists_batch(store, &object, 1, 10, &exists, &status));
    CHECK_STATUS(expected, mc_store_remove_batch(store, &object, 1, 0, 10, &status));
    CHECK_STATUS(expected,
                 mc_store_replicas(store, &object, 1, 10, &status, text, sizeof text, &length));
    CHECK_STATUS(expected, mc_store_get_buffer(store, "k", 1, 10, &buffer));
    CHECK_STATUS(expected, mc_store_get_buffers(store, &object, 1, 10, &buffer, &status));
    CHECK_STATUS(expected, mc_store_health(store, &health));
    CHECK_STATUS(expected, mc_store_metrics(store, &metrics));
    CHECK_STATUS(expected, mc_store_metrics_text(store, text, sizeof text, &length));
    CHECK_STATUS(expected, mc_store_dump(store, text, sizeof text, &length));
    CHECK(buffer == NULL && status == 77 && size == 77 && exists == 77);
}

static void wrong_handles(void) {
    mc_engine_t *engine = check_engine("tcp");
    store_calls_give(MC_ERR_INVALID_HANDLE, NULL);
    store_calls_give(MC_ERR_INVALID_HANDLE, (mc_store_t *)(void *)memory);
    store_calls_give(MC_ERR_INVALID_HANDLE, (mc_store_t *)(void *)engine);
    CHECK_OK(mc_store_close(NULL));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_store_close((mc_store_t *)(void *)memory));
    CHECK_OK(mc_store_buffer_release(NULL));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_store_buffer_release((mc_store_buffer_t *)(void *)engine));
    CHECK(mc_store_buffer_address(NULL) == NULL);
    CHECK(mc_store_buffer_size((mc_store_buffer_t *)(void *)memory) == 0);
    CHECK_OK(mc_engine_destroy(engine));
}

static void wrong_options(void) {
    mc_store_options_t options = options_for("127.0.0.1:1");
    mc_store_t *store = (mc_store_t *)(void *)memory;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_store_open(&options, NULL, NULL));
    options.struct_size = 3;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_store_open(&options, NULL, &store));
    CHECK(store == NULL);
    options = options_for("127.0.0.1:1");
    options.reserved = 1;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_store_open(&options, NULL, &store));
    options = options_for("127.0.0.1:1");
    options.json = "{\"global_segment_size\": \"much\"}";
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_store_open(&options, NULL, &store));
    CHECK_SAYS("global_segment_size");
    options.json = "{\"no_such_option\": 1}";
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_store_open(&options, NULL, &store));
    CHECK_SAYS("no_such_option");
    options = options_for("redis://127.0.0.1:1");
    CHECK_STATUS(MC_ERR_UNKNOWN_PROTOCOL, mc_store_open(&options, NULL, &store));
    /* Nobody is there who could say which master leads. */
    options = options_for("etcd://127.0.0.1:1");
    CHECK_STATUS(MC_ERR_MASTER_UNAVAILABLE, mc_store_open(&options, NULL, &store));
    options = options_for("127.0.0.1:1");
    options.protocol = "carrier pigeon";
    CHECK_STATUS(MC_ERR_UNKNOWN_PROTOCOL, mc_store_open(&options, NULL, &store));
    options = options_for("127.0.0.1:1");
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_store_open(&options, (mc_engine_t *)(void *)memory, &store));
    CHECK(store == NULL);
}

static void nobody_answers(void) {
    mc_store_options_t options = options_for("127.0.0.1:1");
    mc_engine_t *engine = check_engine("tcp");
    mc_store_t *store = NULL;
    options.global_segment_bytes = 16u << 20;
    options.local_buffer_bytes = MC_STORE_NO_BYTES;
    CHECK_STATUS(MC_ERR_MASTER_UNAVAILABLE, mc_store_open(&options, NULL, &store));
    CHECK_SAYS("127.0.0.1:1");
    CHECK_STATUS(MC_ERR_MASTER_UNAVAILABLE, mc_store_open(&options, engine, &store));
    CHECK(store == NULL);
    CHECK_OK(mc_engine_destroy(engine));
}

static void numbers(void) {
    CHECK(mc_store_upstream_code(MC_OK) == 0);
    CHECK(mc_store_upstream_code(MC_ERR_OBJECT_NOT_FOUND) == -704);
    CHECK(mc_store_upstream_code(MC_ERR_OBJECT_NOT_READY) == -703);
    CHECK(mc_store_upstream_code(MC_ERR_OBJECT_EXISTS) == -705);
    CHECK(mc_store_upstream_code(MC_ERR_OBJECT_LEASED) == -706);
    CHECK(mc_store_upstream_code(MC_ERR_LEASE_EXPIRED) == -707);
    CHECK(mc_store_upstream_code(MC_ERR_NO_SPACE) == -200);
    CHECK(mc_store_upstream_code(MC_ERR_INVALID_ARGUMENT) == -600);
    CHECK(mc_store_upstream_code(MC_ERR_BUFFER_TOO_SMALL) == -600);
    CHECK(mc_store_upstream_code(MC_ERR_UNREACHABLE) == -800);
    CHECK(mc_store_upstream_code(MC_ERR_MASTER_UNAVAILABLE) == -900);
    CHECK(mc_store_upstream_code(12345) == -1);
    CHECK(mc_status_is_retryable(MC_ERR_NO_SPACE) == 1);
    CHECK(mc_status_is_retryable(MC_ERR_OBJECT_NOT_FOUND) == 0);
}

/* Upstream's functions: before setup and with wrong handles, where upstream ends the process. */
static void upstream_calls_give(int expected, mooncake_store_t store) {
    const char *keys[1] = {"k"};
    void *buffers[1] = {memory};
    size_t sizes[1] = {16};
    int results[1] = {77};
    int64_t lengths[1] = {77};
    char text[64];
    CHECK(mooncake_store_put(store, "k", memory, 16, NULL) == expected);
    CHECK(mooncake_store_put_from(store, "k", memory, 16, NULL) == expected);
    CHECK(mooncake_store_batch_put_from(store, keys, buffers, sizes, 1, NULL, results) == expected);
    CHECK(mooncake_store_get_into(store, "k", memory, 16) == expected);
    CHECK(mooncake_store_batch_get_into(store, keys, buffers, sizes, 1, lengths) == expected);
    CHECK(mooncake_store_is_exist(store, "k") == expected);
    CHECK(mooncake_store_batch_is_exist(store, keys, 1, results) == expected);
    CHECK(mooncake_store_get_size(store, "k") == expected);
    CHECK(mooncake_store_get_hostname(store, text, sizeof text) == expected);
    CHECK(mooncake_store_remove(store, "k", 0) == expected);
    CHECK(mooncake_store_remove_by_regex(store, "k", 0) == expected);
    CHECK(mooncake_store_remove_all(store, 0) == expected);
    CHECK(mooncake_store_register_buffer(store, memory, sizeof memory) == expected);
    CHECK(mooncake_store_unregister_buffer(store, memory) == expected);
    CHECK(results[0] == 77 && lengths[0] == 77);
}

static void upstreams_api(void) {
    mooncake_store_t store = mooncake_store_create();
    CHECK(store != NULL);
    upstream_calls_give(-600, store);
    CHECK(mooncake_store_health_check(store) == 1);
    CHECK(mooncake_store_set_etcd_tls_config(store, NULL, NULL, "") == 0);
    CHECK(mooncake_store_setup(store, "127.0.0.1", "P2PHANDSHAKE", 0, 0, "tcp", "", "127.0.0.1:1") == -600);
    CHECK(mooncake_store_setup(store, NULL, "P2PHANDSHAKE", 0, 0, "tcp", "", "127.0.0.1:1") == -1);
    CHECK(mooncake_store_setup(store, "127.0.0.1", "foo://x", 0, 0, "tcp", NULL, "127.0.0.1:1") == -600);
    upstream_calls_give(-600, store);
    mooncake_store_destroy(store);
    upstream_calls_give(-1, store);
    CHECK(mooncake_store_health_check(store) == -1);
    mooncake_store_destroy(store);
    mooncake_store_destroy(NULL);
    upstream_calls_give(-1, NULL);
    upstream_calls_give(-1, (mooncake_store_t)memory);
}

_Static_assert(sizeof(mc_store_options_t) == 72, "options");
_Static_assert(offsetof(mc_store_options_t, json) == 64, "options");
_Static_assert(sizeof(mc_put_options_t) == 56, "put options");
_Static_assert(offsetof(mc_put_options_t, groups) == 40, "put options");
_Static_assert(sizeof(mc_store_object_t) == 32, "object");
_Static_assert(sizeof(mc_store_range_t) == 16, "range");
_Static_assert(sizeof(mc_store_health_t) == 40, "health");
_Static_assert(sizeof(mc_store_metrics_t) == 160, "metrics");
_Static_assert(sizeof(struct mooncake_replicate_config) == 32, "upstream's config");

int main(void) {
    check_tool();
    wrong_handles();
    wrong_options();
    nobody_answers();
    numbers();
    upstreams_api();
    return check_end();
}
