/* What a program must not do, and does: every function with NULL, foreign, wrong and destroyed
 * handles, structs of wrong size, misaligned pointers. Each is a status; nothing else happens. */
#include "check.h"

static unsigned char memory[4096];

/* Every function that takes an engine answers a bad one with this status. */
static void engine_calls_give(mc_status_t expected, mc_engine_t *engine) {
    mc_buffer_t buffer;
    mc_metrics_t metrics;
    mc_batch_t *batch = NULL;
    mc_notifications_t *list = NULL;
    mc_segment_t segment = 0;
    void *address = memory;
    const void *source = memory;
    uint64_t remote = check_address(memory);
    uint64_t length = 16;
    uint16_t port = 0;
    size_t count = 0;
    char text[64];
    memset(&buffer, 0, sizeof buffer);
    buffer.address = memory;
    buffer.length_bytes = sizeof memory;
    memset(&metrics, 0, sizeof metrics);
    metrics.struct_size = sizeof metrics;

    CHECK_STATUS(expected, mc_engine_local_name(engine, text, sizeof text, &count));
    CHECK_STATUS(expected, mc_engine_ports(engine, &port, &port));
    CHECK_STATUS(expected, mc_engine_dump(engine, text, sizeof text, &count));
    CHECK_STATUS(expected, mc_engine_metrics(engine, &metrics));
    CHECK_STATUS(expected, mc_engine_metrics_text(engine, text, sizeof text, &count));
    CHECK_STATUS(expected, mc_buffer_register(engine, &buffer));
    CHECK_STATUS(expected, mc_buffer_register_many(engine, &buffer, 1));
    CHECK_STATUS(expected, mc_buffer_unregister(engine, memory));
    CHECK_STATUS(expected, mc_buffer_unregister_many(engine, &address, 1));
    CHECK_STATUS(expected, mc_segment_open(engine, "127.0.0.1:1", &segment));
    CHECK_STATUS(expected, mc_segment_close(engine, 1));
    CHECK_STATUS(expected, mc_segment_refresh(engine, 1));
    CHECK_STATUS(expected, mc_segment_buffers(engine, 1, NULL, 0, &count));
    CHECK_STATUS(expected, mc_segment_probe(engine, 1, 10));
    CHECK_STATUS(expected, mc_batch_create(engine, 1, &batch));
    CHECK_STATUS(expected, mc_read(engine, 1, memory, remote, 16, 10));
    CHECK_STATUS(expected, mc_write(engine, 1, memory, remote, 16, 10));
    CHECK_STATUS(expected, mc_read_vector(engine, 1, &address, &remote, &length, 1, 10));
    CHECK_STATUS(expected, mc_write_vector(engine, 1, &source, &remote, &length, 1, 10));
    CHECK_STATUS(expected, mc_notify_send(engine, 1, "n", 1, "m", 1, 10));
    CHECK_STATUS(expected, mc_notify_take(engine, &list));
    CHECK(batch == NULL && list == NULL && segment == 0);
}

static void batch_calls_give(mc_status_t expected, mc_batch_t *batch) {
    mc_request_t request = check_request(MC_READ, memory, 1, memory, 16);
    mc_batch_progress_t progress;
    mc_task_status_t status;
    size_t length = 0;
    char text[64];
    int fd = 0;
    CHECK_STATUS(expected, mc_batch_submit(batch, &request, 1));
    CHECK_STATUS(expected, mc_batch_submit_with(batch, &request, 1, NULL));
    CHECK_STATUS(expected, mc_batch_poll(batch, &progress));
    CHECK_STATUS(expected, mc_batch_wait(batch, 1, &progress));
    CHECK_STATUS(expected, mc_batch_event_fd(batch, &fd));
    CHECK_STATUS(expected, mc_batch_cancel(batch));
    CHECK_STATUS(expected, mc_batch_reset(batch));
    CHECK_STATUS(expected, mc_batch_task_status(batch, 0, &status));
    CHECK_STATUS(expected, mc_batch_task_error(batch, 0, text, sizeof text, &length));
}

static void list_calls_give(mc_status_t expected, mc_notifications_t *list) {
    const char *name = NULL;
    const char *message = NULL;
    CHECK(mc_notifications_count(list) == 0);
    CHECK_STATUS(expected, mc_notifications_get(list, 0, &name, NULL, &message, NULL));
    CHECK(name == NULL && message == NULL);
}

static void bad_handles(void) {
    mc_engine_t *engine = check_engine("loopback");
    mc_batch_t *batch = NULL;
    mc_notifications_t *list = NULL;
    mc_engine_t *engine_place = engine;
    char on_stack[64];
    void *on_heap = malloc(64);
    uintptr_t word = (uintptr_t)engine;
    int bit;
    REQUIRE_OK(mc_batch_create(engine, 4, &batch));
    REQUIRE_OK(mc_notify_take(engine, &list));
    memset(on_stack, 0xff, sizeof on_stack);
    memset(on_heap, 0, 64);

    engine_calls_give(MC_ERR_INVALID_HANDLE, NULL);
    batch_calls_give(MC_ERR_INVALID_HANDLE, NULL);
    list_calls_give(MC_ERR_INVALID_HANDLE, NULL);
    CHECK_SAYS("NULL");
    /* Of another type. */
    engine_calls_give(MC_ERR_INVALID_HANDLE, (mc_engine_t *)batch);
    engine_calls_give(MC_ERR_INVALID_HANDLE, (mc_engine_t *)list);
    batch_calls_give(MC_ERR_INVALID_HANDLE, (mc_batch_t *)engine);
    list_calls_give(MC_ERR_INVALID_HANDLE, (mc_notifications_t *)batch);
    /* Memory of the program, mapped or not. */
    engine_calls_give(MC_ERR_INVALID_HANDLE, (mc_engine_t *)(void *)on_stack);
    engine_calls_give(MC_ERR_INVALID_HANDLE, (mc_engine_t *)on_heap);
    engine_calls_give(MC_ERR_INVALID_HANDLE, (mc_engine_t *)(void *)&engine_place);
    engine_calls_give(MC_ERR_INVALID_HANDLE, (mc_engine_t *)(uintptr_t)1);
    engine_calls_give(MC_ERR_INVALID_HANDLE, (mc_engine_t *)UINTPTR_MAX);
    /* One bit from a good one. */
    for (bit = 0; bit < 64; bit++) {
        mc_engine_t *wrong = (mc_engine_t *)(word ^ ((uintptr_t)1 << bit));
        CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_engine_ports(wrong, NULL, NULL));
        CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_engine_destroy(wrong));
    }
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_batch_destroy((mc_batch_t *)engine));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_engine_destroy((mc_engine_t *)batch));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_notifications_destroy((mc_notifications_t *)engine));

    /* The good ones did not suffer. */
    CHECK_OK(mc_engine_ports(engine, NULL, NULL));
    CHECK_OK(mc_batch_poll(batch, NULL));
    CHECK_OK(mc_notifications_destroy(list));
    CHECK_OK(mc_batch_destroy(batch));
    CHECK_OK(mc_engine_destroy(engine));
    free(on_heap);
}

static void destroyed_handles(void) {
    mc_engine_t *engine = check_engine("loopback");
    mc_engine_t *next;
    mc_batch_t *batch = NULL;
    mc_batch_t *next_batch = NULL;
    REQUIRE_OK(mc_batch_create(engine, 4, &batch));
    CHECK_OK(mc_batch_destroy(batch));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_batch_destroy(batch));
    CHECK_SAYS("destroyed");
    batch_calls_give(MC_ERR_INVALID_HANDLE, batch);
    /* Whatever takes its place has another handle. */
    REQUIRE_OK(mc_batch_create(engine, 4, &next_batch));
    CHECK(next_batch != batch);
    batch_calls_give(MC_ERR_INVALID_HANDLE, batch);
    CHECK_OK(mc_batch_destroy(next_batch));

    CHECK_OK(mc_engine_destroy(engine));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_engine_destroy(engine));
    engine_calls_give(MC_ERR_INVALID_HANDLE, engine);
    next = check_engine("loopback");
    CHECK(next != engine);
    engine_calls_give(MC_ERR_INVALID_HANDLE, engine);
    CHECK_OK(mc_engine_destroy(next));
    CHECK_OK(mc_engine_destroy(NULL));
    CHECK_OK(mc_batch_destroy(NULL));
    CHECK_OK(mc_notifications_destroy(NULL));
}

static void structs_of_wrong_size(void) {
    struct {
        mc_engine_options_t options;
        uint64_t later[4];
    } newer;
    mc_engine_options_t options = check_options("loopback");
    mc_engine_t *engine = NULL;
    mc_metrics_t metrics;
    uint32_t size;
    for (size = 0; size < sizeof options; size++) {
        options.struct_size = size;
        CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_engine_create(&options, &engine));
    }
    options.struct_size = UINT32_MAX;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_engine_create(&options, &engine));
    CHECK_SAYS("struct_size");

    memset(&newer, 0, sizeof newer);
    newer.options = check_options("loopback");
    newer.options.struct_size = sizeof newer;
    REQUIRE_OK(mc_engine_create(&newer.options, &engine));

    metrics.struct_size = 4;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_engine_metrics(engine, &metrics));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_engine_metrics(engine, NULL));
    CHECK_OK(mc_engine_destroy(engine));

    newer.later[2] = 1;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_engine_create(&newer.options, &engine));
    CHECK(engine == NULL);
}

static void misaligned_pointers(void) {
    mc_engine_t *engine = check_engine("loopback");
    mc_engine_t *other = engine;
    char *place = (char *)calloc(1, 256);
    mc_batch_t *batch = NULL;
    REQUIRE_OK(mc_batch_create(engine, 4, &batch));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT,
                 mc_engine_create((const mc_engine_options_t *)(void *)(place + 1), &other));
    CHECK(other == NULL);
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT,
                 mc_batch_submit(batch, (const mc_request_t *)(void *)(place + 1), 1));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT,
                 mc_batch_poll(batch, (mc_batch_progress_t *)(void *)(place + 1)));
    CHECK_OK(mc_batch_destroy(batch));
    CHECK_OK(mc_engine_destroy(engine));
    free(place);
}

int main(void) {
    check_tool();
    bad_handles();
    destroyed_handles();
    structs_of_wrong_size();
    misaligned_pointers();
    return check_end();
}
