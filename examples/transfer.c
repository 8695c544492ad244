/*
 * Two processes move real bytes through libmooncake.so, without any outside service.
 *
 *   transfer target CHECKS        registers memory, prints "ready NAME", checks what is written into it
 *                                 CHECKS times, and ends
 *   transfer initiator NAME       writes to that target, asks it to check, reads everything back
 *
 * The initiator sends, behind its writes and in the same submission, a notification that carries the
 * CRC-32 of what it wrote; it is delivered only when every write has been stored.
 *
 * Build: cc transfer.c -lmooncake
 */
#include <inttypes.h>
#include <mooncake.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MIB ((size_t)1 << 20)
#define REGION_BYTES (64 * MIB)
#define REQUEST_BYTES (4 * MIB)
#define REQUESTS (REGION_BYTES / REQUEST_BYTES)
#define ROUNDS 16
#define WAIT_MS 30000

/* Ends the program with the library's own words when a call fails. */
static void check(mc_status_t status, const char *what)
{
    char text[512];

    if (status == MC_OK)
        return;
    mc_last_error_message(text, sizeof text);
    fprintf(stderr, "%s: %s: %s\n", what, mc_status_name(status), text);
    exit(1);
}

static double now_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static uint32_t crc32_of(const unsigned char *bytes, size_t length)
{
    static uint32_t table[256];
    uint32_t crc = 0xFFFFFFFFu;
    size_t i;

    for (i = 0; table[255] == 0 && i < 256; i++) {
        uint32_t entry = (uint32_t)i;
        int bit;

        for (bit = 0; bit < 8; bit++)
            entry = (entry >> 1) ^ (entry & 1 ? 0xEDB88320u : 0);
        table[i] = entry;
    }
    for (i = 0; i < length; i++)
        crc = table[(crc ^ bytes[i]) & 0xFF] ^ (crc >> 8);
    return crc ^ 0xFFFFFFFFu;
}

static void fill(unsigned char *bytes, size_t length, uint64_t seed)
{
    size_t i;

    for (i = 0; i + sizeof seed <= length; i += sizeof seed) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        memcpy(bytes + i, &seed, sizeof seed);
    }
}

/* An engine for the two processes of this machine, with `length` bytes of registered memory. */
static mc_engine_t *create_engine(unsigned char **memory_out, size_t length)
{
    mc_engine_options_t options = {.struct_size = sizeof options, .local_name = "127.0.0.1"};
    mc_buffer_t buffer = {.length_bytes = length};
    mc_engine_t *engine = NULL;

    *memory_out = calloc(1, length);
    if (*memory_out == NULL) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    buffer.address = *memory_out;
    check(mc_engine_create(&options, &engine), "mc_engine_create");
    check(mc_buffer_register(engine, &buffer), "mc_buffer_register");
    return engine;
}

/* Waits for one notification and copies its message; 0 when none came in time. */
static int take_message(mc_engine_t *engine, char *message, size_t capacity)
{
    double deadline = now_seconds() + WAIT_MS * 1e-3;
    struct timespec pause = {0, 1000000};

    while (now_seconds() < deadline) {
        mc_notifications_t *list = NULL;
        size_t count;

        check(mc_notify_take(engine, &list), "mc_notify_take");
        count = mc_notifications_count(list);
        if (count > 0) {
            const char *name, *text;
            size_t name_length, text_length;

            check(mc_notifications_get(list, count - 1, &name, &name_length, &text, &text_length),
                  "mc_notifications_get");
            snprintf(message, capacity, "%.*s", (int)text_length, text);
        }
        check(mc_notifications_destroy(list), "mc_notifications_destroy");
        if (count > 0)
            return 1;
        nanosleep(&pause, NULL);
    }
    return 0;
}

static int run_target(int checks)
{
    unsigned char *memory = NULL;
    mc_engine_t *engine = create_engine(&memory, REGION_BYTES);
    char name[256], message[64];
    int status = 0;

    check(mc_engine_local_name(engine, name, sizeof name, NULL), "mc_engine_local_name");
    printf("ready %s\n", name);
    fflush(stdout);
    while (checks-- > 0 && status == 0) {
        if (!take_message(engine, message, sizeof message)) {
            fprintf(stderr, "target: nobody wrote within %d s\n", WAIT_MS / 1000);
            status = 1;
        } else {
            uint32_t stored = crc32_of(memory, REGION_BYTES);

            status = stored != (uint32_t)strtoul(message, NULL, 16);
            printf("target: %zu MiB in memory, CRC-32 %08" PRIx32 ", written %s: %s\n",
                   REGION_BYTES / MIB, stored, message, status ? "DIFFERENT" : "equal");
            fflush(stdout);
        }
    }
    check(mc_engine_destroy(engine), "mc_engine_destroy");
    free(memory);
    return status;
}

/* One whole region in REQUESTS requests, and the notification behind them if there is one. */
static void move(mc_batch_t *batch, mc_request_t *requests, const char *message)
{
    mc_submit_options_t options = {.struct_size = sizeof options};

    if (message != NULL) {
        options.notify_name = "written";
        options.notify_name_len = strlen(options.notify_name);
        options.notify_message = message;
        options.notify_message_len = strlen(message);
    }
    check(mc_batch_submit_with(batch, requests, REQUESTS, &options), "mc_batch_submit_with");
    check(mc_batch_wait(batch, WAIT_MS, NULL), "mc_batch_wait");
    check(mc_batch_reset(batch), "mc_batch_reset");
}

static int run_initiator(const char *target)
{
    unsigned char *memory = NULL;
    mc_engine_t *engine = create_engine(&memory, 2 * REGION_BYTES);
    mc_request_t requests[REQUESTS];
    mc_segment_buffer_t remote;
    mc_segment_t segment;
    mc_batch_t *batch = NULL;
    char message[16];
    size_t count, i;
    int operation, round, different;

    check(mc_segment_open(engine, target, &segment), "mc_segment_open");
    check(mc_segment_buffers(engine, segment, &remote, 1, &count), "mc_segment_buffers");
    check(mc_batch_create(engine, REQUESTS, &batch), "mc_batch_create");

    fill(memory, REGION_BYTES, 0x9E3779B97F4A7C15u);
    snprintf(message, sizeof message, "%08" PRIx32, crc32_of(memory, REGION_BYTES));
    for (operation = MC_WRITE; operation >= MC_READ; operation--) {
        unsigned char *local = operation == MC_WRITE ? memory : memory + REGION_BYTES;
        double started = now_seconds();

        for (i = 0; i < REQUESTS; i++)
            requests[i] = (mc_request_t){.operation = operation,
                                         .local = local + i * REQUEST_BYTES,
                                         .segment = segment,
                                         .remote_address = remote.address + i * REQUEST_BYTES,
                                         .length_bytes = REQUEST_BYTES};
        for (round = 1; round <= ROUNDS; round++) {
            int last_write = operation == MC_WRITE && round == ROUNDS;

            move(batch, requests, last_write ? message : NULL);
        }
        printf("initiator (C): %s %d MiB at %.2f GB/s\n",
               operation == MC_WRITE ? "wrote" : "read", (int)(ROUNDS * REGION_BYTES / MIB),
               (double)(ROUNDS * REGION_BYTES) / (now_seconds() - started) * 1e-9);
    }
    different = memcmp(memory, memory + REGION_BYTES, REGION_BYTES) != 0;
    printf("initiator (C): read back %s\n", different ? "DIFFERENT bytes" : "equal bytes");

    check(mc_batch_destroy(batch), "mc_batch_destroy");
    check(mc_engine_destroy(engine), "mc_engine_destroy");
    free(memory);
    return different;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "target") == 0)
        return run_target(atoi(argv[2]));
    if (argc == 3 && strcmp(argv[1], "initiator") == 0)
        return run_initiator(argv[2]);
    fprintf(stderr, "usage: %s target CHECKS | initiator NAME\n", argv[0]);
    return 2;
}
