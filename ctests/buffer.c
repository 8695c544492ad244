/* Registering memory: counting repeats, overlaps, all or nothing, access. */
#include <sys/mman.h>

#include "check.h"

#define PAGE 4096
static unsigned char memory[16 * PAGE];

static mc_buffer_t buffer_at(size_t page, size_t pages) {
    mc_buffer_t buffer;
    memset(&buffer, 0, sizeof buffer);
    buffer.address = memory + page * PAGE;
    buffer.length_bytes = pages * PAGE;
    return buffer;
}

static size_t buffers_of(mc_engine_t *engine) {
    mc_segment_t own = check_open(engine, engine);
    size_t count = 999;
    CHECK_OK(mc_segment_refresh(engine, own));
    CHECK_OK(mc_segment_buffers(engine, own, NULL, 0, &count));
    CHECK_OK(mc_segment_close(engine, own));
    return count;
}

static void repeats_count(mc_engine_t *engine) {
    mc_buffer_t buffer = buffer_at(0, 2);
    CHECK_OK(mc_buffer_register(engine, &buffer));
    CHECK_OK(mc_buffer_register(engine, &buffer));
    CHECK(buffers_of(engine) == 1);
    CHECK_OK(mc_buffer_unregister(engine, buffer.address));
    CHECK(buffers_of(engine) == 1);
    CHECK_OK(mc_buffer_unregister(engine, buffer.address));
    CHECK(buffers_of(engine) == 0);
    CHECK_STATUS(MC_ERR_NOT_REGISTERED, mc_buffer_unregister(engine, buffer.address));
}

static void overlaps_are_refused(mc_engine_t *engine) {
    mc_buffer_t whole = buffer_at(4, 4);
    mc_buffer_t wrong[5];
    size_t i;
    wrong[0] = buffer_at(3, 2);
    wrong[1] = buffer_at(7, 2);
    wrong[2] = buffer_at(5, 1);
    wrong[3] = buffer_at(3, 8);
    wrong[4] = buffer_at(4, 3);
    CHECK_OK(mc_buffer_register(engine, &whole));
    for (i = 0; i < 5; i++) CHECK_STATUS(MC_ERR_OVERLAP, mc_buffer_register(engine, &wrong[i]));
    CHECK_STATUS(MC_ERR_NOT_REGISTERED, mc_buffer_unregister(engine, memory + 5 * PAGE));
    CHECK_OK(mc_buffer_unregister(engine, whole.address));
}

static void many_are_all_or_nothing(mc_engine_t *engine) {
    mc_buffer_t buffers[4];
    void *addresses[4];
    size_t i;
    for (i = 0; i < 4; i++) {
        buffers[i] = buffer_at(i * 2, 2);
        addresses[i] = buffers[i].address;
    }
    buffers[3] = buffer_at(5, 2);
    CHECK_STATUS(MC_ERR_OVERLAP, mc_buffer_register_many(engine, buffers, 4));
    CHECK(buffers_of(engine) == 0);
    buffers[3] = buffer_at(6, 2);
    buffers[3].access = 77;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_buffer_register_many(engine, buffers, 4));
    CHECK_SAYS("buffer: 3");
    CHECK(buffers_of(engine) == 0);
    buffers[3].access = MC_ACCESS_REMOTE_READ;
    CHECK_OK(mc_buffer_register_many(engine, buffers, 4));
    CHECK(buffers_of(engine) == 4);
    addresses[2] = memory + PAGE;
    CHECK_STATUS(MC_ERR_NOT_REGISTERED, mc_buffer_unregister_many(engine, addresses, 4));
    CHECK(buffers_of(engine) == 4);
    addresses[2] = buffers[2].address;
    CHECK_OK(mc_buffer_unregister_many(engine, addresses, 4));
    CHECK(buffers_of(engine) == 0);
    CHECK_OK(mc_buffer_register_many(engine, NULL, 0));
    CHECK_OK(mc_buffer_unregister_many(engine, NULL, 0));
}

static void bad_buffers_are_refused(mc_engine_t *engine) {
    mc_buffer_t buffer = buffer_at(0, 1);
    char long_location[128];
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_buffer_register(engine, NULL));
    buffer.length_bytes = 0;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_buffer_register(engine, &buffer));
    buffer = buffer_at(0, 1);
    buffer.address = NULL;
    CHECK(mc_buffer_register(engine, &buffer) < 0);
    buffer = buffer_at(0, 1);
    buffer.length_bytes = SIZE_MAX;
    CHECK(mc_buffer_register(engine, &buffer) < 0);
    buffer = buffer_at(0, 1);
    buffer.location = "the moon";
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_buffer_register(engine, &buffer));
    memset(long_location, 'c', sizeof long_location - 1);
    long_location[sizeof long_location - 1] = '\0';
    buffer.location = long_location;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_buffer_register(engine, &buffer));
    buffer = buffer_at(0, 1);
    buffer.access = MC_ACCESS_LOCAL_ONLY | MC_ACCESS_REMOTE_READ;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_buffer_register(engine, &buffer));
    buffer = buffer_at(0, 1);
    buffer.reserved = 1;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_buffer_register(engine, &buffer));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_buffer_register_many(engine, &buffer, SIZE_MAX));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_buffer_register_many(engine, NULL, 1));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_buffer_unregister_many(engine, NULL, 1));
    CHECK(buffers_of(engine) == 0);
}

static void local_buffers_are_not_shown(mc_engine_t *engine) {
    mc_buffer_t buffer = buffer_at(0, 1);
    buffer.access = MC_ACCESS_LOCAL_ONLY;
    CHECK_OK(mc_buffer_register(engine, &buffer));
    CHECK_OK(mc_buffer_unregister(engine, buffer.address));
}

static void memory_of_the_library(mc_engine_t *engine) {
    mc_buffer_t buffer = buffer_at(0, 1);
    unsigned char *first = mc_memory_allocate(3 * PAGE + 1), *second = mc_memory_allocate(1);
    unsigned char *large = mc_memory_allocate((size_t)16 << 20);
    size_t at;
    CHECK(first != NULL && second != NULL && large != NULL && first != second);
    if (first == NULL || second == NULL || large == NULL) return;
    CHECK((uintptr_t)first % PAGE == 0 && (uintptr_t)large % ((size_t)16 << 20) == 0);
    for (at = 0; at < 3 * PAGE + 1; at++) CHECK(first[at] == 0);
    memset(first, 1, 3 * PAGE + 1);
    buffer.address = first;
    buffer.length_bytes = 3 * PAGE + 1;
    CHECK_OK(mc_buffer_register(engine, &buffer));
    CHECK_OK(mc_buffer_unregister(engine, first));
    CHECK_OK(mc_memory_free(second));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_memory_free(second));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_memory_free(first + PAGE));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_memory_free(memory));
    CHECK_OK(mc_memory_free(NULL));
    CHECK(first[3 * PAGE] == 1);
    CHECK_OK(mc_memory_free(first));
    CHECK_OK(mc_memory_free(large));
    CHECK(mc_memory_allocate(0) == NULL);
    CHECK(mc_memory_allocate(SIZE_MAX) == NULL);
    CHECK(mc_memory_allocate(SIZE_MAX / 2 - (32u << 20)) == NULL);
}

int main(void) {
    mc_engine_t *engine;
    check_tool();
    engine = check_engine("tcp");
    repeats_count(engine);
    overlaps_are_refused(engine);
    many_are_all_or_nothing(engine);
    bad_buffers_are_refused(engine);
    local_buffers_are_not_shown(engine);
    memory_of_the_library(engine);
    CHECK_OK(mc_engine_destroy(engine));
    return check_end();
}
