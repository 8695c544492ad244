/* What it costs to move bytes to another process of this host, against memcpy by one thread in the
 * same moments: processor time of the whole process, which a busy machine disturbs little, and wall
 * time, in which the engine's second thread helps with large ones. Two engines in two processes; the
 * child only owns the memory, and sleeps.
 *
 *     cc -O2 -Iinclude bench/same_host.c -Ltarget/release -lmooncake -o same_host && ./same_host
 *
 * Prints for each shape GB per second of processor time of both, their ratio, the same of wall time,
 * and the wall time of one request or batch at the median. The memory walked through is larger than the caches. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "mooncake.h"

#define REGION ((size_t)256 << 20)
#define ROUNDS 15
#define SAMPLES 4096

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void need(mc_status_t status, const char *what) {
    char text[512] = "";
    if (status == MC_OK) return;
    mc_last_error_message(text, sizeof text);
    fprintf(stderr, "%s: %s\n", what, text);
    exit(1);
}

static unsigned char *region(int value) {
    unsigned char *memory = (unsigned char *)mmap(NULL, REGION, PROT_READ | PROT_WRITE,
                                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == (unsigned char *)MAP_FAILED) exit(1);
    memset(memory, value, REGION);
    return memory;
}

static mc_engine_t *engine_over(unsigned char *memory) {
    static const char json[] = "{\"local_name\": \"127.0.0.1\", \"protocol\": \"tcp\"}";
    mc_engine_t *engine = NULL;
    mc_buffer_t buffer;
    memset(&buffer, 0, sizeof buffer);
    buffer.address = memory;
    buffer.length_bytes = REGION;
    need(mc_engine_create_json(json, sizeof json - 1, &engine), "engine");
    need(mc_buffer_register(engine, &buffer), "register");
    return engine;
}

struct hello {
    char name[128];
    uint64_t address;
};

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One way to spend time, per round, in bytes per second. */
struct rates {
    double cpu[ROUNDS], wall[ROUNDS];
};

struct moment {
    double cpu, wall;
};

static struct moment now(void) {
    struct moment moment = {seconds(CLOCK_PROCESS_CPUTIME_ID), seconds(CLOCK_MONOTONIC)};
    return moment;
}

static void note(struct rates *rates, size_t round, struct moment start, size_t bytes) {
    struct moment end = now();
    rates->cpu[round] = (double)bytes / (end.cpu - start.cpu);
    rates->wall[round] = (double)bytes / (end.wall - start.wall);
}

static double median(double *values, size_t count) {
    qsort(values, count, sizeof values[0], compare);
    return values[count / 2];
}

static void measure(mc_engine_t *engine, mc_segment_t segment, unsigned char *own,
                    unsigned char *other, uint64_t remote, int is_read, size_t block, size_t count) {
    static double cpu_ratios[ROUNDS], wall_ratios[ROUNDS], walls[SAMPLES];
    static struct rates ours, theirs;
    mc_batch_t *batch = NULL;
    mc_request_t requests[64];
    size_t at = 0, taken = 0, round;
    double cpu, wall, cpu_ratio, wall_ratio;
    need(mc_batch_create(engine, 64, &batch), "batch");
    for (round = 0; round < ROUNDS; round++) {
        size_t bytes = (size_t)64 << 20, moved;
        struct moment begin = now();
        for (moved = 0; moved < bytes; moved += block * count) {
            double start = seconds(CLOCK_MONOTONIC);
            size_t i;
            memset(requests, 0, sizeof requests);
            for (i = 0; i < count; i++) {
                requests[i].operation = is_read ? MC_READ : MC_WRITE;
                requests[i].local = own + at;
                requests[i].segment = segment;
                requests[i].remote_address = remote + at;
                requests[i].length_bytes = block;
                at = (at + block) % REGION;
            }
            if (count > 1) {
                need(mc_batch_submit(batch, requests, count), "submit");
                need(mc_batch_wait(batch, 60000, NULL), "wait");
                need(mc_batch_reset(batch), "reset");
            } else if (is_read) {
                need(mc_read(engine, segment, requests[0].local, requests[0].remote_address, block, 60000),
                     "read");
            } else {
                need(mc_write(engine, segment, requests[0].local, requests[0].remote_address, block, 60000),
                     "write");
            }
            if (taken < SAMPLES) walls[taken++] = seconds(CLOCK_MONOTONIC) - start;
        }
        note(&ours, round, begin, moved);
        begin = now();
        for (moved = 0; moved < bytes; moved += block) {
            if (is_read) memcpy(own + at, other + at, block);
            else memcpy(other + at, own + at, block);
            at = (at + block) % REGION;
        }
        note(&theirs, round, begin, moved);
        cpu_ratios[round] = ours.cpu[round] / theirs.cpu[round];
        wall_ratios[round] = ours.wall[round] / theirs.wall[round];
    }
    need(mc_batch_destroy(batch), "destroy");
    cpu_ratio = median(cpu_ratios, ROUNDS);
    wall_ratio = median(wall_ratios, ROUNDS);
    cpu = median(ours.cpu, ROUNDS);
    wall = median(ours.wall, ROUNDS);
    printf("| %s %zu KiB x %zu | %.2f | %.2f | %.2f (%.2f-%.2f) | %.2f | %.2f (%.2f-%.2f) | %.0f | %.1f |\n",
           is_read ? "read" : "write", block >> 10, count, median(theirs.cpu, ROUNDS) / 1e9, cpu / 1e9,
           cpu_ratio, cpu_ratios[0], cpu_ratios[ROUNDS - 1], wall / 1e9, wall_ratio, wall_ratios[0],
           wall_ratios[ROUNDS - 1], cpu / (double)block / 1e3, median(walls, taken) * 1e6);
    fflush(stdout);
}

int main(void) {
    static const struct { size_t block, count; } shapes[] = {
        {4096, 1}, {4096, 32}, {65536, 32}, {1 << 20, 1}, {16 << 20, 1}, {1 << 20, 32}};
    int up[2], down[2];
    struct hello hello;
    pid_t child;
    size_t i;
    if (pipe(up) != 0 || pipe(down) != 0) return 1;
    memset(&hello, 0, sizeof hello);
    child = fork();
    if (child == 0) {
        unsigned char *memory = region(1);
        mc_engine_t *engine = engine_over(memory);
        char byte;
        close(down[1]);
        need(mc_engine_local_name(engine, hello.name, sizeof hello.name, NULL), "name");
        hello.address = (uint64_t)(uintptr_t)memory;
        if (write(up[1], &hello, sizeof hello) != (ssize_t)sizeof hello) _exit(1);
        while (read(down[0], &byte, 1) > 0) {
        }
        _exit(0);
    }
    close(up[1]);
    if (read(up[0], &hello, sizeof hello) != (ssize_t)sizeof hello) return 1;
    {
        unsigned char *own = region(2), *other = region(3);
        mc_engine_t *engine = engine_over(own);
        mc_segment_t segment;
        need(mc_segment_open(engine, hello.name, &segment), "open");
        printf("| what | memcpy, GB per CPU s | moved, GB per CPU s | ratio | moved, GB/s | / memcpy |"
               " thousand blocks per CPU s | one call, us |\n"
               "| --- | --- | --- | --- | --- | --- | --- | --- |\n");
        for (i = 0; i < 2 * sizeof shapes / sizeof shapes[0]; i++) {
            measure(engine, segment, own, other, hello.address, (int)(i % 2), shapes[i / 2].block,
                    shapes[i / 2].count);
        }
        mc_engine_destroy(engine);
    }
    close(down[1]);
    return 0;
}
