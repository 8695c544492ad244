/* Creating and destroying again and again leaves no descriptor and no thread behind. */
#include "check.h"

static void engines(const char *protocol, int rounds) {
    static unsigned char memory[8192];
    int descriptors;
    int threads;
    int round;
    CHECK_OK(mc_engine_destroy(check_engine(protocol)));
    descriptors = check_open_descriptors();
    threads = check_threads();
    CHECK(threads == 1);
    for (round = 0; round < rounds; round++) {
        mc_engine_t *engine = check_engine(protocol);
        if (round % 4 == 0) {
            mc_batch_t *batch = NULL;
            mc_segment_t own = check_open(engine, engine);
            mc_request_t request = check_request(MC_WRITE, memory, own, memory + 4096, 64);
            int fd;
            check_register(engine, memory, sizeof memory, 0);
            REQUIRE_OK(mc_batch_create(engine, 8, &batch));
            CHECK_OK(mc_batch_event_fd(batch, &fd));
            CHECK_OK(mc_batch_submit(batch, &request, 1));
            CHECK_OK(mc_batch_wait(batch, 10000, NULL));
            CHECK_OK(mc_batch_destroy(batch));
        }
        CHECK_OK(mc_engine_destroy(engine));
    }
    CHECK(check_open_descriptors() == descriptors);
    CHECK(check_threads() == threads);
}

static void batches(int rounds) {
    mc_engine_t *engine = check_engine("loopback");
    int descriptors = check_open_descriptors();
    int round;
    for (round = 0; round < rounds; round++) {
        mc_batch_t *batch = NULL;
        mc_notifications_t *list = NULL;
        REQUIRE_OK(mc_batch_create(engine, 1 + (size_t)(round % 1000), &batch));
        REQUIRE_OK(mc_notify_take(engine, &list));
        CHECK_OK(mc_batch_destroy(batch));
        CHECK_OK(mc_notifications_destroy(list));
    }
    CHECK(check_open_descriptors() == descriptors);
    CHECK_OK(mc_engine_destroy(engine));
}

static void many_at_once(int count) {
    mc_engine_t *engine = check_engine("loopback");
    mc_batch_t **all = (mc_batch_t **)calloc((size_t)count, sizeof *all);
    int i;
    for (i = 0; i < count; i++) REQUIRE_OK(mc_batch_create(engine, 1, &all[i]));
    for (i = 0; i < count; i += 2) CHECK_OK(mc_batch_destroy(all[i]));
    for (i = 0; i < count; i++)
        CHECK_STATUS(i % 2 == 0 ? MC_ERR_INVALID_HANDLE : MC_OK, mc_batch_poll(all[i], NULL));
    for (i = 1; i < count; i += 2) CHECK_OK(mc_batch_destroy(all[i]));
    free(all);
    CHECK_OK(mc_engine_destroy(engine));
}

int main(void) {
    int slow = check_is_slow();
    check_tool();
    CHECK(check_threads() == 1);
    engines("loopback", slow ? 40 : 1000);
    engines("tcp", slow ? 20 : 1000);
    batches(slow ? 200 : 20000);
    many_at_once(slow ? 300 : 20000);
    return check_end();
}
