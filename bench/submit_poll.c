/* What one request costs when no bytes cross a wire: submit and poll over the loopback transport.
 *
 *   submit_poll [ROUNDS]
 *
 * One engine writes to itself, one request at a time and in batches of 32. The time is per request
 * and includes the loopback transport's own copy of 8 bytes and the reset of the batch. The program
 * takes the place of the allocator's entry points and counts calls, so that an allocation on this
 * path shows. Prints one JSON object per measurement. One thread; ends by itself.
 */
#define _GNU_SOURCE
#include <mooncake.h>

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    OPERATIONS_PER_ROUND = 20000,
    ROUNDS_MAX = 1000,
    BLOCK_BYTES = 8,
    BATCH_MAX = 32,
    SLOTS = BATCH_MAX,
};

static atomic_ulong allocation_count;

/* glibc's own entry points behind the public names. */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

void *malloc(size_t size)
{
    atomic_fetch_add_explicit(&allocation_count, 1, memory_order_relaxed);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    atomic_fetch_add_explicit(&allocation_count, 1, memory_order_relaxed);
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    atomic_fetch_add_explicit(&allocation_count, 1, memory_order_relaxed);
    return __libc_realloc(old, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    atomic_fetch_add_explicit(&allocation_count, 1, memory_order_relaxed);
    *out = __libc_memalign(alignment, size);
    return *out ? 0 : 12;
}

static void check(mc_status_t status, const char *what)
{
    char text[512];
    if (status == MC_OK)
        return;
    mc_last_error_message(text, sizeof text);
    fprintf(stderr, "submit_poll: %s: %s: %s\n", what, mc_status_name(status), text);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

struct setup {
    mc_engine_t *engine;
    mc_segment_t segment;
    long rounds;
};

static unsigned char memory[2 * SLOTS * BLOCK_BYTES];

/* Submits `count` requests, polls until they are done and makes the batch ready again. */
static unsigned long run_once(mc_batch_t *batch, const mc_request_t *requests, size_t count)
{
    unsigned long polls = 0;
    mc_status_t status;
    check(mc_batch_submit(batch, requests, count), "submit");
    do {
        status = mc_batch_poll(batch, NULL);
        polls++;
    } while (status == MC_IN_PROGRESS);
    check(status, "poll");
    check(mc_batch_reset(batch), "reset");
    return polls;
}

static void measure(const struct setup *setup, const char *what, size_t count)
{
    static double round_ns[ROUNDS_MAX];
    mc_request_t requests[BATCH_MAX];
    mc_batch_t *batch = NULL;
    unsigned long allocations = 0, polls = 0;
    check(mc_batch_create(setup->engine, count, &batch), "batch");
    memset(memory, 0, sizeof memory);
    memset(memory, 1, count * BLOCK_BYTES);
    for (size_t i = 0; i < count; i++)
        requests[i] = (mc_request_t){
            .operation = MC_WRITE,
            .local = memory + i * BLOCK_BYTES,
            .segment = setup->segment,
            .remote_address = (uint64_t)(uintptr_t)(memory + (SLOTS + i) * BLOCK_BYTES),
            .length_bytes = BLOCK_BYTES,
        };
    size_t turns = OPERATIONS_PER_ROUND / count;
    double operations = (double)(turns * count);
    for (long round = -1; round < setup->rounds; round++) { /* The first round warms up. */
        unsigned long allocations_before = atomic_load(&allocation_count), polls_now = 0;
        uint64_t start = now_ns();
        for (size_t turn = 0; turn < turns; turn++)
            polls_now += run_once(batch, requests, count);
        uint64_t elapsed = now_ns() - start;
        if (round < 0)
            continue;
        round_ns[round] = (double)elapsed / operations;
        allocations += atomic_load(&allocation_count) - allocations_before;
        polls += polls_now;
    }
    if (memcmp(memory, memory + SLOTS * BLOCK_BYTES, count * BLOCK_BYTES)) {
        fprintf(stderr, "submit_poll: the bytes did not arrive\n");
        exit(1);
    }
    operations *= (double)setup->rounds;
    qsort(round_ns, (size_t)setup->rounds, sizeof *round_ns, compare);
    printf("{\"what\": \"%s\", \"min_ns\": %.1f, \"median_ns\": %.1f, \"max_ns\": %.1f, "
           "\"allocations_per_operation\": %.4f, \"polls_per_operation\": %.2f}\n",
           what, round_ns[0], round_ns[setup->rounds / 2], round_ns[setup->rounds - 1],
           (double)allocations / operations, (double)polls / operations);
    check(mc_batch_destroy(batch), "destroy batch");
}

int main(int argc, char **argv)
{
    static const char settings[] = "{\"protocol\": \"loopback\", \"local_name\": \"127.0.0.1\"}";
    struct setup setup = {.rounds = argc > 1 ? atol(argv[1]) : 50};
    char name[256];
    if (setup.rounds < 1 || setup.rounds > ROUNDS_MAX) {
        fprintf(stderr, "submit_poll: between 1 and %d rounds\n", ROUNDS_MAX);
        return 2;
    }
    check(mc_engine_create_json(settings, sizeof settings - 1, &setup.engine), "create");
    mc_buffer_t buffer = {.address = memory, .length_bytes = sizeof memory};
    check(mc_buffer_register(setup.engine, &buffer), "register");
    check(mc_engine_local_name(setup.engine, name, sizeof name, NULL), "name");
    check(mc_segment_open(setup.engine, name, &setup.segment), "open");
    measure(&setup, "submit_poll", 1);
    measure(&setup, "submit_poll_batch", BATCH_MAX);
    check(mc_engine_destroy(setup.engine), "destroy engine");
    return 0;
}
