/* Many threads on one engine, and handles destroyed under the hands of other threads. */
#include <pthread.h>

#include "check.h"

#define THREADS 8
#define BLOCK 1024

static unsigned char source[THREADS * BLOCK];
static unsigned char target[THREADS * BLOCK];
static mc_engine_t *us;
static mc_segment_t segment;
static int rounds;

static void *transfer(void *argument) {
    size_t number = (size_t)(uintptr_t)argument;
    unsigned char *from = source + number * BLOCK;
    unsigned char *to = target + number * BLOCK;
    mc_batch_t *batch = NULL;
    int round;
    REQUIRE_OK(mc_batch_create(us, 4, &batch));
    for (round = 0; round < rounds; round++) {
        mc_request_t request = check_request(MC_WRITE, from, segment, to, BLOCK);
        check_fill(from, BLOCK, (unsigned)(number * 1000 + (size_t)round));
        CHECK_OK(mc_batch_submit(batch, &request, 1));
        CHECK_OK(mc_batch_wait(batch, 20000, NULL));
        CHECK(memcmp(from, to, BLOCK) == 0);
        CHECK_OK(mc_batch_reset(batch));
        memset(from, 0, BLOCK);
        CHECK_OK(mc_read(us, segment, from, check_address(to), BLOCK, 20000));
        CHECK(memcmp(from, to, BLOCK) == 0);
    }
    CHECK_OK(mc_batch_destroy(batch));
    return NULL;
}

static void on_all_threads(void *(*work)(void *)) {
    pthread_t threads[THREADS];
    size_t i;
    for (i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)i) != 0) exit(1);
    for (i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

static void transfers_do_not_mix(const char *protocol) {
    mc_engine_t *peer = check_engine(protocol);
    us = check_engine(protocol);
    check_register(us, source, sizeof source, 0);
    check_register(peer, target, sizeof target, 0);
    segment = check_open(us, peer);
    on_all_threads(transfer);
    CHECK_OK(mc_engine_destroy(us));
    CHECK_OK(mc_engine_destroy(peer));
}

static mc_batch_t *shared_batch;
static pthread_barrier_t barrier;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int destroyed;

/* All poll one batch, two of them destroy it: one of the two succeeds, everybody else gets an
 * answer, nobody touches what is gone. */
static void *use_and_destroy(void *argument) {
    size_t number = (size_t)(uintptr_t)argument;
    int round;
    for (round = 0; round < rounds; round++) {
        int i;
        if (number == 0) {
            destroyed = 0;
            REQUIRE_OK(mc_batch_create(us, 2, &shared_batch));
        }
        pthread_barrier_wait(&barrier);
        for (i = 0; i < 20; i++) {
            mc_batch_progress_t progress;
            mc_status_t status = mc_batch_poll(shared_batch, &progress);
            CHECK(status == MC_OK || status == MC_ERR_INVALID_HANDLE);
        }
        if (number < 2 && mc_batch_destroy(shared_batch) == MC_OK) {
            pthread_mutex_lock(&lock);
            destroyed++;
            pthread_mutex_unlock(&lock);
        }
        CHECK(number >= 2 || mc_batch_poll(shared_batch, NULL) == MC_ERR_INVALID_HANDLE);
        pthread_barrier_wait(&barrier);
        if (number == 0) CHECK(destroyed == 1);
    }
    return NULL;
}

static void destroy_races_with_use(void) {
    us = check_engine("loopback");
    pthread_barrier_init(&barrier, NULL, THREADS);
    on_all_threads(use_and_destroy);
    pthread_barrier_destroy(&barrier);
    CHECK_OK(mc_engine_destroy(us));
}

static void *use_the_engine(void *argument) {
    size_t number = (size_t)(uintptr_t)argument;
    unsigned char *from = source + number * BLOCK;
    mc_status_t status;
    pthread_barrier_wait(&barrier);
    if (number == 0) {
        usleep(2000);
        CHECK_OK(mc_engine_destroy(us));
        CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_engine_destroy(us));
        return NULL;
    }
    do {
        status = mc_write(us, segment, from, check_address(target + number * BLOCK), BLOCK, 5000);
    } while (status == MC_OK);
    CHECK(status < 0 && status != MC_ERR_PANIC && status != MC_ERR_INTERNAL);
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_engine_ports(us, NULL, NULL));
    return NULL;
}

static void an_engine_is_destroyed_under_load(const char *protocol) {
    int before = check_threads();
    int round;
    for (round = 0; round < (rounds > 10 ? 10 : rounds); round++) {
        mc_engine_t *peer = check_engine(protocol);
        us = check_engine(protocol);
        check_register(us, source, sizeof source, 0);
        check_register(peer, target, sizeof target, 0);
        segment = check_open(us, peer);
        pthread_barrier_init(&barrier, NULL, THREADS);
        on_all_threads(use_the_engine);
        pthread_barrier_destroy(&barrier);
        CHECK_OK(mc_engine_destroy(peer));
    }
    CHECK(check_threads() == before);
}

static void *fail_differently(void *argument) {
    size_t number = (size_t)(uintptr_t)argument;
    int round;
    CHECK(mc_last_error_message(NULL, 0) == 0);
    for (round = 0; round < rounds; round++) {
        char json[64];
        mc_engine_t *engine = NULL;
        snprintf(json, sizeof json, "{\"unknown_%u\": 1}", (unsigned)number);
        CHECK_STATUS(MC_ERR_INVALID_ARGUMENT,
                     mc_engine_create_json(json, strlen(json), &engine));
        snprintf(json, sizeof json, "unknown_%u", (unsigned)number);
        {
            char text[512];
            mc_last_error_message(text, sizeof text);
            CHECK(strstr(text, json) != NULL);
        }
    }
    return NULL;
}

int main(void) {
    check_tool();
    rounds = check_is_slow() ? 5 : 200;
    transfers_do_not_mix("tcp");
    transfers_do_not_mix("loopback");
    destroy_races_with_use();
    an_engine_is_destroyed_under_load("tcp");
    an_engine_is_destroyed_under_load("loopback");
    on_all_threads(fail_differently);
    return check_end();
}
