/* An engine by itself: options, names, ports, the dump, metrics. */
#include "check.h"

static void defaults_are_enough(void) {
    mc_engine_t *engine = NULL;
    char name[256];
    size_t length = 0;
    uint16_t rpc_port = 0;
    uint16_t data_port = 0;
    REQUIRE_OK(mc_engine_create(NULL, &engine));
    CHECK(engine != NULL);
    CHECK_OK(mc_engine_local_name(engine, name, sizeof name, &length));
    CHECK(length > 0 && length == strlen(name));
    CHECK_OK(mc_engine_ports(engine, &rpc_port, &data_port));
    CHECK(rpc_port != 0);
    CHECK_OK(mc_engine_ports(engine, NULL, NULL));
    CHECK_OK(mc_engine_destroy(engine));

    engine = NULL;
    REQUIRE_OK(mc_engine_create_json(NULL, 0, &engine));
    CHECK_OK(mc_engine_destroy(engine));
}

static void options_are_obeyed(void) {
    mc_engine_options_t options = check_options("tcp");
    mc_engine_t *engine = NULL;
    char name[256];
    char expected[64];
    uint16_t rpc_port = 0;
    char *dump;
    size_t length = 0;
    options.json = "{\"tcp_lanes_per_peer\": 3, \"transfer_timeout_ms\": 1234}";
    options.lanes_per_peer = 2;
    REQUIRE_OK(mc_engine_create(&options, &engine));
    CHECK_OK(mc_engine_ports(engine, &rpc_port, NULL));
    CHECK_OK(mc_engine_local_name(engine, name, sizeof name, NULL));
    snprintf(expected, sizeof expected, "127.0.0.1:%u", rpc_port);
    CHECK(strcmp(name, expected) == 0);

    CHECK_OK(mc_engine_dump(engine, NULL, 0, &length));
    dump = (char *)malloc(length + 256);
    CHECK_OK(mc_engine_dump(engine, dump, length + 256, &length));
    CHECK(strlen(dump) == length);
    CHECK(dump[0] == '{' && dump[length - 1] == '}');
    CHECK(strstr(dump, "P2PHANDSHAKE") != NULL);
    CHECK(strstr(dump, "tcp_lanes_per_peer") != NULL);
    free(dump);
    CHECK_OK(mc_engine_destroy(engine));
}

static void refused(const char *json, mc_status_t status, const char *words) {
    mc_engine_t *engine = (mc_engine_t *)&engine;
    CHECK_STATUS(status, mc_engine_create_json(json, strlen(json), &engine));
    CHECK_SAYS(words);
    CHECK(engine == NULL);
}

static void bad_settings_are_refused(void) {
    mc_engine_options_t options;
    mc_engine_t *engine = NULL;
    refused("{\"protocol\": \"carrier_pigeon\"}", MC_ERR_UNKNOWN_PROTOCOL, "carrier_pigeon");
    refused("{\"metadata\": \"gopher://x\"}", MC_ERR_UNKNOWN_PROTOCOL, "gopher");
    refused("{\"no_such_key\": 1}", MC_ERR_INVALID_ARGUMENT, "no_such_key");
    refused("{\"rpc_port\": 70000}", MC_ERR_INVALID_ARGUMENT, "rpc_port");
    refused("[]", MC_ERR_INVALID_ARGUMENT, "object");
    refused("{", MC_ERR_INVALID_ARGUMENT, "JSON");
    refused("\xff\xfe", MC_ERR_INVALID_ARGUMENT, "UTF-8");
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_engine_create_json("{}", (size_t)1 << 40, &engine));

    options = check_options("carrier_pigeon");
    CHECK_STATUS(MC_ERR_UNKNOWN_PROTOCOL, mc_engine_create(&options, &engine));
    options = check_options("tcp");
    options.local_name = "";
    options.bind_address = "256.1.1.1.1:";
    CHECK(mc_engine_create(&options, &engine) < 0);
    CHECK(engine == NULL);
    options = check_options("tcp");
    options.json = "{\"tcp_spin_us\": -1}";
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_engine_create(&options, &engine));
    options = check_options("tcp");
    options.reserved = 1;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_engine_create(&options, &engine));
}

static void a_taken_port_is_refused(void) {
    mc_engine_options_t options = check_options("tcp");
    mc_engine_t *first = check_engine("tcp");
    mc_engine_t *second = NULL;
    uint16_t rpc_port = 0;
    CHECK_OK(mc_engine_ports(first, &rpc_port, NULL));
    options.rpc_port = rpc_port;
    CHECK_STATUS(MC_ERR_RESOURCE, mc_engine_create(&options, &second));
    CHECK(second == NULL);
    CHECK_OK(mc_engine_destroy(first));
    REQUIRE_OK(mc_engine_create(&options, &second));
    CHECK_OK(mc_engine_destroy(second));
}

static void texts_are_cut_to_fit(void) {
    mc_engine_t *engine = check_engine("tcp");
    char name[256];
    char little[16];
    size_t length = 0;
    size_t full = 0;
    CHECK_OK(mc_engine_local_name(engine, name, sizeof name, &full));
    memset(little, 'x', sizeof little);
    CHECK_OK(mc_engine_local_name(engine, little, 4, &length));
    CHECK(length == full);
    CHECK(strncmp(little, name, 3) == 0 && little[3] == '\0' && little[4] == 'x');
    CHECK_OK(mc_engine_local_name(engine, NULL, 0, &length));
    CHECK(length == full);
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_engine_local_name(engine, NULL, 5, &length));
    CHECK_OK(mc_engine_destroy(engine));
}

static mc_metrics_t metrics_of(const mc_engine_t *engine) {
    mc_metrics_t metrics;
    memset(&metrics, 0, sizeof metrics);
    metrics.struct_size = sizeof metrics;
    CHECK_OK(mc_engine_metrics(engine, &metrics));
    CHECK(metrics.struct_size == sizeof metrics);
    return metrics;
}

static void metrics_count(void) {
    static unsigned char memory[8192];
    mc_engine_t *us = check_engine("tcp");
    mc_engine_t *peer = check_engine("tcp");
    mc_segment_t segment;
    mc_metrics_t metrics;
    char *text;
    size_t length = 0;
    check_register(us, memory, 4096, 0);
    check_register(peer, memory + 4096, 4096, 0);
    segment = check_open(us, peer);
    REQUIRE_OK(mc_write(us, segment, memory, check_address(memory + 4096), 4096, 0));
    REQUIRE_OK(mc_read(us, segment, memory, check_address(memory + 4096), 1024, 0));
    CHECK(mc_write(us, segment, memory, 64, 16, 0) < 0);
    metrics = metrics_of(us);
    CHECK(metrics.requests == 3);
    CHECK(metrics.requests_failed == 1);
    CHECK(metrics.written_bytes == 4096);
    CHECK(metrics.read_bytes == 1024);
    CHECK(metrics.received_bytes == 0 && metrics.served_bytes == 0);
    CHECK(metrics.connections_opened >= 1);
    metrics = metrics_of(peer);
    CHECK(metrics.requests == 0);
    CHECK(metrics.received_bytes == 4096);
    CHECK(metrics.served_bytes == 1024);
    CHECK(metrics.connections_accepted >= 1);

    CHECK_OK(mc_engine_metrics_text(us, NULL, 0, &length));
    text = (char *)malloc(length + 64);
    CHECK_OK(mc_engine_metrics_text(us, text, length + 64, &length));
    CHECK(strstr(text, "mooncake_requests_total 3") != NULL);
    CHECK(strstr(text, "mooncake_written_bytes_total 4096") != NULL);
    free(text);
    CHECK_OK(mc_engine_destroy(us));
    CHECK_OK(mc_engine_destroy(peer));
}

int main(void) {
    check_tool();
    defaults_are_enough();
    options_are_obeyed();
    bad_settings_are_refused();
    a_taken_port_is_refused();
    texts_are_cut_to_fit();
    metrics_count();
    return check_end();
}
