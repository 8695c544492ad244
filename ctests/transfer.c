/* One-call reads and writes, single and vector, with canaries around what they may touch. */
#include "check.h"

#define SIZE (1 << 20)
#define CANARY 64
static unsigned char local[SIZE + 2 * CANARY];
static unsigned char remote[SIZE + 2 * CANARY];

static void canaries_are_alive(void) {
    int i;
    for (i = 0; i < CANARY; i++) {
        CHECK(local[i] == 0xca && local[SIZE + CANARY + i] == 0xca);
        CHECK(remote[i] == 0xca && remote[SIZE + CANARY + i] == 0xca);
    }
}

static void sizes_and_offsets(mc_engine_t *us, mc_segment_t segment) {
    static const size_t sizes[] = {1, 7, 4096, 65536, 65537, SIZE};
    unsigned char *here = local + CANARY;
    unsigned char *there = remote + CANARY;
    size_t i;
    for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t at = SIZE - sizes[i];
        check_fill(here, SIZE, (unsigned)i);
        memset(there, 0, SIZE);
        CHECK_OK(mc_write(us, segment, here, check_address(there + at), sizes[i], 0));
        CHECK(memcmp(here, there + at, sizes[i]) == 0);
        CHECK(at == 0 || there[at - 1] == 0);
        memset(here, 0, SIZE);
        CHECK_OK(mc_read(us, segment, here + at, check_address(there + at), sizes[i], 15000));
        CHECK(memcmp(here + at, there + at, sizes[i]) == 0);
        CHECK(at == 0 || here[at - 1] == 0);
    }
    canaries_are_alive();
}

static void vectors(mc_engine_t *us, mc_segment_t segment) {
    enum { COUNT = 50 };
    void *locals[COUNT];
    const void *sources[COUNT];
    uint64_t remotes[COUNT];
    uint64_t lengths[COUNT];
    unsigned char *here = local + CANARY;
    unsigned char *there = remote + CANARY;
    size_t at = 0;
    int i;
    for (i = 0; i < COUNT; i++) {
        lengths[i] = (uint64_t)(i * 137 + 1);
        locals[i] = here + at;
        sources[i] = here + at;
        at += (size_t)lengths[i];
        remotes[i] = check_address(there + SIZE - at);
    }
    check_fill(here, SIZE, 42);
    memset(there, 0, SIZE);
    CHECK_OK(mc_write_vector(us, segment, sources, remotes, lengths, COUNT, 0));
    for (i = 0; i < COUNT; i++)
        CHECK(memcmp(sources[i], (void *)(uintptr_t)remotes[i], (size_t)lengths[i]) == 0);
    memset(here, 0, SIZE);
    CHECK_OK(mc_read_vector(us, segment, locals, remotes, lengths, COUNT, 0));
    for (i = 0; i < COUNT; i++)
        CHECK(memcmp(sources[i], (void *)(uintptr_t)remotes[i], (size_t)lengths[i]) == 0);
    CHECK_OK(mc_read_vector(us, segment, NULL, NULL, NULL, 0, 0));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT,
                 mc_read_vector(us, segment, NULL, remotes, lengths, COUNT, 0));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT,
                 mc_write_vector(us, segment, sources, NULL, lengths, COUNT, 0));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT,
                 mc_write_vector(us, segment, sources, remotes, NULL, COUNT, 0));
    CHECK(mc_write_vector(us, segment, sources, remotes, lengths, SIZE_MAX, 0) < 0);
    canaries_are_alive();
}

static void outside_is_refused(mc_engine_t *us, mc_segment_t segment) {
    unsigned char *here = local + CANARY;
    unsigned char *there = remote + CANARY;
    uint64_t address = check_address(there);
    memset(here, 0x55, SIZE);
    CHECK_STATUS(MC_ERR_NOT_REGISTERED, mc_write(us, segment, here - 1, address, 2, 0));
    CHECK_STATUS(MC_ERR_NOT_REGISTERED, mc_write(us, segment, here + SIZE - 1, address, 2, 0));
    CHECK_STATUS(MC_ERR_NOT_REGISTERED, mc_write(us, segment, NULL, address, 2, 0));
    CHECK_STATUS(MC_ERR_REMOTE_RANGE, mc_write(us, segment, here, address - 1, 2, 0));
    CHECK_STATUS(MC_ERR_REMOTE_RANGE, mc_write(us, segment, here, address + SIZE - 1, 2, 0));
    CHECK_STATUS(MC_ERR_REMOTE_RANGE, mc_read(us, segment, here, 0, 2, 0));
    CHECK_STATUS(MC_ERR_REMOTE_RANGE, mc_read(us, segment, here, UINT64_MAX, 2, 0));
    CHECK(mc_read(us, segment, here, address, UINT64_MAX, 0) < 0);
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_read(us, 0, here, address, 2, 0));
    CHECK_OK(mc_read(us, segment, here, address, 0, 0));
    canaries_are_alive();
}

static void access_is_obeyed(const char *protocol) {
    mc_engine_t *us = check_engine(protocol);
    mc_engine_t *peer = check_engine(protocol);
    mc_segment_t segment;
    unsigned char *here = local + CANARY;
    unsigned char *there = remote + CANARY;
    check_register(us, here, SIZE, MC_ACCESS_LOCAL_ONLY);
    check_register(peer, there, 4096, MC_ACCESS_REMOTE_READ);
    check_register(peer, there + 4096, 4096, MC_ACCESS_REMOTE_WRITE);
    check_register(peer, there + 8192, 4096, MC_ACCESS_LOCAL_ONLY);
    segment = check_open(us, peer);
    CHECK_OK(mc_read(us, segment, here, check_address(there), 4096, 0));
    CHECK(mc_write(us, segment, here, check_address(there), 4096, 0) < 0);
    CHECK_OK(mc_write(us, segment, here, check_address(there + 4096), 4096, 0));
    CHECK(mc_read(us, segment, here, check_address(there + 4096), 4096, 0) < 0);
    CHECK(mc_write(us, segment, here, check_address(there + 8192), 4096, 0) < 0);
    CHECK(mc_read(us, segment, here, check_address(there + 8192), 4096, 0) < 0);
    CHECK_OK(mc_engine_destroy(peer));
    CHECK_OK(mc_engine_destroy(us));
}

static void a_dead_peer_is_told(const char *protocol) {
    mc_engine_t *us = check_engine(protocol);
    mc_engine_t *peer = check_engine(protocol);
    mc_segment_t segment;
    mc_status_t status;
    unsigned char *here = local + CANARY;
    check_register(us, here, SIZE, 0);
    check_register(peer, remote + CANARY, SIZE, 0);
    segment = check_open(us, peer);
    CHECK_OK(mc_write(us, segment, here, check_address(remote + CANARY), 4096, 0));
    CHECK_OK(mc_engine_destroy(peer));
    status = mc_write(us, segment, here, check_address(remote + CANARY), 4096, 3000);
    CHECK(status < 0);
    CHECK(check_last_error()[0] != '\0');
    CHECK_OK(mc_engine_destroy(us));
}

int main(void) {
    const char *protocols[2] = {"tcp", "loopback"};
    int i;
    check_tool();
    memset(local, 0xca, sizeof local);
    memset(remote, 0xca, sizeof remote);
    for (i = 0; i < 2; i++) {
        mc_engine_t *us = check_engine(protocols[i]);
        mc_engine_t *peer = check_engine(protocols[i]);
        mc_segment_t segment;
        check_register(us, local + CANARY, SIZE, 0);
        check_register(peer, remote + CANARY, SIZE, 0);
        segment = check_open(us, peer);
        sizes_and_offsets(us, segment);
        vectors(us, segment);
        outside_is_refused(us, segment);
        CHECK_OK(mc_engine_destroy(us));
        CHECK_OK(mc_engine_destroy(peer));
        access_is_obeyed(protocols[i]);
        a_dead_peer_is_told(protocols[i]);
    }
    return check_end();
}
