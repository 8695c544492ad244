/* Opening, listing, refreshing and closing segments. */
#include "check.h"

static unsigned char memory[4 * 4096];

static void a_peer_is_seen(mc_engine_t *us, mc_engine_t *peer) {
    mc_segment_t segment = check_open(us, peer);
    mc_segment_t again = check_open(us, peer);
    mc_segment_buffer_t buffers[4];
    mc_buffer_t buffer;
    size_t count = 0;
    CHECK(segment != 0);
    CHECK(segment == again);
    CHECK_OK(mc_segment_buffers(us, segment, NULL, 0, &count));
    CHECK(count == 0);

    memset(&buffer, 0, sizeof buffer);
    buffer.address = memory;
    buffer.length_bytes = 4096;
    buffer.location = "cpu:0";
    REQUIRE_OK(mc_buffer_register(peer, &buffer));
    check_register(peer, memory + 8192, 4096, 0);
    CHECK_OK(mc_segment_refresh(us, segment));
    memset(buffers, 0xee, sizeof buffers);
    CHECK_OK(mc_segment_buffers(us, segment, buffers, 4, &count));
    CHECK(count == 2);
    CHECK(buffers[0].address == check_address(memory));
    CHECK(buffers[0].length_bytes == 4096);
    CHECK(memchr(buffers[0].location, '\0', sizeof buffers[0].location) != NULL);
    CHECK(buffers[1].address == check_address(memory + 8192));
    memset(buffers, 0xee, sizeof buffers);
    CHECK_OK(mc_segment_buffers(us, segment, buffers, 1, &count));
    CHECK(count == 2);
    CHECK(buffers[0].address == check_address(memory));
    CHECK(((unsigned char *)&buffers[1])[0] == 0xee);

    CHECK_OK(mc_segment_probe(us, segment, 2000));
    CHECK_OK(mc_segment_close(us, segment));
    CHECK_OK(mc_segment_close(us, segment));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_segment_close(us, segment));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_segment_refresh(us, segment));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_segment_buffers(us, segment, NULL, 0, &count));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_segment_probe(us, segment, 100));
    CHECK_OK(mc_buffer_unregister(peer, memory));
    CHECK_OK(mc_buffer_unregister(peer, memory + 8192));
}

static void bad_names_and_handles_are_refused(mc_engine_t *us) {
    mc_segment_t segment = 5;
    size_t count = 0;
    char *long_name = (char *)malloc(100000);
    memset(long_name, 'a', 99999);
    long_name[99999] = '\0';
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_segment_open(us, NULL, &segment));
    CHECK(segment == 0);
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_segment_open(us, "127.0.0.1:1", NULL));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_segment_open(us, long_name, &segment));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_segment_open(us, "\xff", &segment));
    CHECK(mc_segment_open(us, "", &segment) < 0);
    CHECK(mc_segment_open(us, ":::", &segment) < 0);
    free(long_name);
    /* Nobody listens on port 1. */
    CHECK_STATUS(MC_ERR_UNREACHABLE, mc_segment_open(us, "127.0.0.1:1", &segment));
    CHECK_SAYS("127.0.0.1:1");
    CHECK(segment == 0);
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_segment_buffers(us, 0, NULL, 0, &count));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_segment_buffers(us, UINT64_MAX, NULL, 0, &count));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_segment_buffers(us, 1234567, NULL, 0, &count));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_segment_close(us, 0));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_segment_refresh(us, 0));
}

static void bad_places_are_refused(mc_engine_t *us, mc_engine_t *peer) {
    mc_segment_t segment = check_open(us, peer);
    size_t count = 0;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_segment_buffers(us, segment, NULL, 1, &count));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_segment_buffers(us, segment, NULL, 0, NULL));
    CHECK_OK(mc_segment_close(us, segment));
}

static void a_segment_can_be_the_own(mc_engine_t *us) {
    mc_segment_t own = check_open(us, us);
    CHECK(own != 0);
    CHECK_OK(mc_segment_probe(us, own, 1000));
    CHECK_OK(mc_segment_refresh(us, own));
    CHECK_OK(mc_segment_close(us, own));
}

int main(void) {
    mc_engine_t *us;
    mc_engine_t *peer;
    check_tool();
    us = check_engine("tcp");
    peer = check_engine("tcp");
    a_peer_is_seen(us, peer);
    bad_names_and_handles_are_refused(us);
    bad_places_are_refused(us, peer);
    a_segment_can_be_the_own(us);
    CHECK_OK(mc_engine_destroy(peer));
    CHECK_OK(mc_engine_destroy(us));
    return check_end();
}
