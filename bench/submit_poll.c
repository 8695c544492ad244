/* What one request costs when no bytes cross a wire: submit and poll over the loopback transport.
 *
 *   submit_poll [ROUNDS]
 *
 * One engine writes to itself. The time includes the loopback transport's own copy of 8 bytes. The
 * program takes the place of the allocator's entry points and counts calls, so that an allocation
 * on this path shows. Prints one JSON object. One thread; ends by itself.
 */
#define _GNU_SOURCE
#include <mooncake.h>

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OPERATIONS_PER_ROUND = 20000, ROUNDS_MAX = 1000, BLOCK_BYTES = 8, SLOTS = 64 };

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

int main(int argc, char **argv)
{
    static unsigned char memory[2 * SLOTS * BLOCK_BYTES];
    static double round_ns[ROUNDS_MAX];
    static const char settings[] = "{\"protocol\": \"loopback\", \"local_name\": \"127.0.0.1\"}";
    long rounds = argc > 1 ? atol(argv[1]) : 50;
    mc_engine_t *engine = NULL;
    mc_batch_t *batch = NULL;
    mc_segment_t segment = 0;
    char name[256];
    if (rounds < 1 || rounds > ROUNDS_MAX) {
        fprintf(stderr, "submit_poll: between 1 and %d rounds\n", ROUNDS_MAX);
        return 2;
    }
    memset(memory, 1, sizeof memory / 2);
    check(mc_engine_create_json(settings, sizeof settings - 1, &engine), "create");
    mc_buffer_t buffer = {.address = memory, .length_bytes = sizeof memory};
    check(mc_buffer_register(engine, &buffer), "register");
    check(mc_engine_local_name(engine, name, sizeof name, NULL), "name");
    check(mc_segment_open(engine, name, &segment), "open");
    check(mc_batch_create(engine, 1, &batch), "batch");

    unsigned long allocations = 0, polls = 0;
    for (long round = -1; round < rounds; round++) { /* The first round warms up. */
        unsigned long allocations_before = atomic_load(&allocation_count);
        uint64_t start = now_ns();
        for (int i = 0; i < OPERATIONS_PER_ROUND; i++) {
            size_t offset = (size_t)(i % SLOTS) * BLOCK_BYTES;
            mc_request_t request = {
                .operation = MC_WRITE,
                .local = memory + offset,
                .segment = segment,
                .remote_address = (uint64_t)(uintptr_t)(memory + sizeof memory / 2 + offset),
                .length_bytes = BLOCK_BYTES,
            };
            mc_status_t status;
            check(mc_batch_submit(batch, &request, 1), "submit");
            do {
                status = mc_batch_poll(batch, NULL);
                polls++;
            } while (status == MC_IN_PROGRESS);
            check(status, "poll");
            check(mc_batch_reset(batch), "reset");
        }
        uint64_t elapsed = now_ns() - start;
        if (round < 0) {
            polls = 0;
            continue;
        }
        round_ns[round] = (double)elapsed / OPERATIONS_PER_ROUND;
        allocations += atomic_load(&allocation_count) - allocations_before;
    }
    if (memcmp(memory, memory + sizeof memory / 2, sizeof memory / 2)) {
        fprintf(stderr, "submit_poll: the bytes did not arrive\n");
        return 1;
    }
    double operations = (double)rounds * OPERATIONS_PER_ROUND;
    qsort(round_ns, (size_t)rounds, sizeof *round_ns, compare);
    printf("{\"what\": \"submit_poll\", \"min_ns\": %.1f, \"median_ns\": %.1f, \"max_ns\": %.1f, "
           "\"allocations_per_operation\": %.4f, \"polls_per_operation\": %.2f}\n",
           round_ns[0], round_ns[rounds / 2], round_ns[rounds - 1],
           (double)allocations / operations, (double)polls / operations);
    check(mc_batch_destroy(batch), "destroy batch");
    check(mc_engine_destroy(engine), "destroy engine");
    return 0;
}
