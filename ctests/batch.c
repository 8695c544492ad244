/* Batches: submit, poll, wait, event descriptor, per-task status, cancel, reset. */
#include <poll.h>

#include "check.h"

#define BLOCK 4096
#define BLOCKS 64
static unsigned char source[BLOCKS * BLOCK];
static unsigned char target[BLOCKS * BLOCK];

static mc_engine_t *us;
static mc_engine_t *peer;
static mc_segment_t segment;

static void many_requests_arrive(void) {
    mc_request_t requests[BLOCKS];
    mc_batch_progress_t progress;
    mc_task_status_t status;
    mc_batch_t *batch = NULL;
    char text[64];
    size_t length = 9;
    size_t i;
    REQUIRE_OK(mc_batch_create(us, BLOCKS * 2, &batch));
    CHECK_OK(mc_batch_poll(batch, &progress));
    CHECK(progress.submitted == 0);

    check_fill(source, sizeof source, 1);
    memset(target, 0, sizeof target);
    for (i = 0; i < BLOCKS; i++)
        requests[i] = check_request(MC_WRITE, source + i * BLOCK, segment,
                                    target + (BLOCKS - 1 - i) * BLOCK, BLOCK);
    CHECK_OK(mc_batch_submit(batch, requests, BLOCKS));
    CHECK_OK(mc_batch_wait(batch, 20000, &progress));
    CHECK(progress.submitted == BLOCKS);
    CHECK(progress.completed == BLOCKS);
    CHECK(progress.failed == 0);
    CHECK(progress.transferred_bytes == sizeof source);
    for (i = 0; i < BLOCKS; i++)
        CHECK(memcmp(source + i * BLOCK, target + (BLOCKS - 1 - i) * BLOCK, BLOCK) == 0);
    for (i = 0; i < BLOCKS; i++) {
        CHECK_OK(mc_batch_task_status(batch, i, &status));
        CHECK(status.state == MC_TASK_COMPLETED);
        CHECK(status.status == MC_OK);
        CHECK(status.transferred_bytes == BLOCK);
    }
    CHECK_OK(mc_batch_task_error(batch, 0, text, sizeof text, &length));
    CHECK(length == 0 && text[0] == '\0');
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_batch_task_status(batch, BLOCKS, &status));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_batch_task_status(batch, SIZE_MAX, &status));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_batch_task_error(batch, BLOCKS, NULL, 0, NULL));

    /* The same back, as the second half of the batch. */
    check_fill(target, sizeof target, 2);
    for (i = 0; i < BLOCKS; i++) requests[i].operation = MC_READ;
    CHECK_OK(mc_batch_submit(batch, requests, BLOCKS));
    CHECK_OK(mc_batch_wait(batch, 20000, &progress));
    CHECK(progress.submitted == 2 * BLOCKS);
    CHECK(memcmp(source, target + (BLOCKS - 1) * BLOCK, BLOCK) == 0);
    CHECK_STATUS(MC_ERR_TOO_MANY_REQUESTS, mc_batch_submit(batch, requests, 1));

    CHECK_OK(mc_batch_reset(batch));
    CHECK_OK(mc_batch_submit(batch, requests, 1));
    CHECK_OK(mc_batch_wait(batch, 20000, &progress));
    CHECK(progress.submitted == 1);
    CHECK_OK(mc_batch_destroy(batch));
}

static void the_event_descriptor_tells_the_end(void) {
    mc_request_t request = check_request(MC_WRITE, source, segment, target, sizeof source);
    mc_batch_t *batch = NULL;
    struct pollfd waiting;
    int fd = -2;
    int again = -2;
    REQUIRE_OK(mc_batch_create(us, 4, &batch));
    REQUIRE_OK(mc_batch_event_fd(batch, &fd));
    CHECK(fd >= 0);
    CHECK_OK(mc_batch_event_fd(batch, &again));
    CHECK(fd == again);
    waiting.fd = fd;
    waiting.events = POLLIN;
    CHECK(poll(&waiting, 1, 0) == 0);
    CHECK_OK(mc_batch_submit(batch, &request, 1));
    CHECK(poll(&waiting, 1, 20000) == 1);
    CHECK_OK(mc_batch_poll(batch, NULL));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_batch_event_fd(batch, NULL));
    CHECK_OK(mc_batch_destroy(batch));
}

static void one_bad_request_refuses_all(void) {
    static unsigned char elsewhere[16];
    mc_request_t good = check_request(MC_WRITE, source, segment, target, BLOCK);
    mc_request_t requests[2];
    mc_batch_progress_t progress;
    mc_batch_t *batch = NULL;
    mc_request_t *million;
    size_t i;
    REQUIRE_OK(mc_batch_create(us, 8, &batch));
    requests[0] = good;

    requests[1] = good;
    requests[1].operation = 7;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_batch_submit(batch, requests, 2));
    CHECK_SAYS("request: 1");
    requests[1] = good;
    requests[1].reserved = 7;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_batch_submit(batch, requests, 2));
    requests[1] = good;
    requests[1].local = elsewhere;
    CHECK_STATUS(MC_ERR_NOT_REGISTERED, mc_batch_submit(batch, requests, 2));
    requests[1] = good;
    requests[1].local = source + sizeof source - 1;
    CHECK_STATUS(MC_ERR_NOT_REGISTERED, mc_batch_submit(batch, requests, 2));
    requests[1] = good;
    requests[1].length_bytes = UINT64_MAX;
    CHECK(mc_batch_submit(batch, requests, 2) < 0);
    requests[1] = good;
    requests[1].segment = 0;
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_batch_submit(batch, requests, 2));
    requests[1].segment = 987654321;
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_batch_submit(batch, requests, 2));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_batch_submit(batch, NULL, 1));
    CHECK_STATUS(MC_ERR_TOO_MANY_REQUESTS, mc_batch_submit(batch, requests, SIZE_MAX));
    CHECK_STATUS(MC_ERR_TOO_MANY_REQUESTS, mc_batch_submit(batch, requests, (size_t)1 << 40));
    million = (mc_request_t *)calloc(1000000, sizeof *million);
    for (i = 0; i < 1000000; i++) million[i] = good;
    CHECK_STATUS(MC_ERR_TOO_MANY_REQUESTS, mc_batch_submit(batch, million, 1000000));
    free(million);
    CHECK_OK(mc_batch_submit(batch, NULL, 0));

    CHECK_OK(mc_batch_poll(batch, &progress));
    CHECK(progress.submitted == 0);
    CHECK_OK(mc_batch_destroy(batch));

    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_batch_create(us, 0, &batch));
    CHECK(batch == NULL);
    CHECK(mc_batch_create(us, SIZE_MAX, &batch) < 0);
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_batch_create(us, 1, NULL));
}

/* A range the peer did not register fails its own task and no other. */
static void a_remote_failure_is_told_per_task(void) {
    mc_request_t requests[3];
    mc_batch_progress_t progress;
    mc_task_status_t status;
    mc_batch_t *batch = NULL;
    char text[512];
    size_t length = 0;
    check_fill(source, sizeof source, 3);
    requests[0] = check_request(MC_WRITE, source, segment, target, BLOCK);
    requests[1] = check_request(MC_WRITE, source, segment, target + sizeof target - 8, BLOCK);
    requests[2] = check_request(MC_WRITE, source + BLOCK, segment, target + BLOCK, BLOCK);
    REQUIRE_OK(mc_batch_create(us, 3, &batch));
    CHECK_OK(mc_batch_submit(batch, requests, 3));
    CHECK_STATUS(MC_ERR_REMOTE_RANGE, mc_batch_wait(batch, 20000, &progress));
    CHECK(progress.submitted == 3 && progress.completed == 2 && progress.failed == 1);
    CHECK_STATUS(MC_ERR_REMOTE_RANGE, mc_batch_poll(batch, NULL));
    CHECK_OK(mc_batch_task_status(batch, 0, &status));
    CHECK(status.state == MC_TASK_COMPLETED && status.status == MC_OK);
    CHECK_OK(mc_batch_task_status(batch, 1, &status));
    CHECK(status.state == MC_TASK_FAILED && status.status == MC_ERR_REMOTE_RANGE);
    CHECK_OK(mc_batch_task_status(batch, 2, &status));
    CHECK(status.state == MC_TASK_COMPLETED);
    CHECK_OK(mc_batch_task_error(batch, 1, text, sizeof text, &length));
    CHECK(length > 0 && length == strlen(text));
    CHECK(memcmp(source, target, 2 * BLOCK) == 0);
    CHECK_OK(mc_batch_destroy(batch));
}

static void empty_requests_are_complete(void) {
    mc_request_t request = check_request(MC_WRITE, source, segment, target, 0);
    mc_batch_t *batch = NULL;
    mc_task_status_t status;
    REQUIRE_OK(mc_batch_create(us, 1, &batch));
    CHECK_OK(mc_batch_submit(batch, &request, 1));
    CHECK_OK(mc_batch_wait(batch, 5000, NULL));
    CHECK_OK(mc_batch_task_status(batch, 0, &status));
    CHECK(status.state == MC_TASK_COMPLETED && status.transferred_bytes == 0);
    CHECK_OK(mc_batch_destroy(batch));
}

static void submissions_have_options(void) {
    mc_request_t request = check_request(MC_WRITE, source, segment, target, BLOCK);
    mc_submit_options_t options;
    mc_notifications_t *list = NULL;
    mc_batch_t *batch = NULL;
    int tries;
    memset(&options, 0, sizeof options);
    REQUIRE_OK(mc_batch_create(us, 4, &batch));
    CHECK_OK(mc_batch_submit_with(batch, &request, 1, NULL));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_batch_submit_with(batch, &request, 1, &options));
    options.struct_size = sizeof options;
    options.notify_name = "done";
    options.notify_name_len = 4;
    options.notify_message = "block 7";
    options.notify_message_len = 7;
    options.timeout_ms = 10000;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_batch_submit_with(batch, NULL, 0, &options));
    CHECK_OK(mc_batch_submit_with(batch, &request, 1, &options));
    CHECK_OK(mc_batch_wait(batch, 20000, NULL));
    for (tries = 0; tries < 2000; tries++) {
        REQUIRE_OK(mc_notify_take(peer, &list));
        if (mc_notifications_count(list) > 0) break;
        CHECK_OK(mc_notifications_destroy(list));
        list = NULL;
        usleep(10000);
    }
    CHECK(list != NULL && mc_notifications_count(list) == 1);
    CHECK_OK(mc_notifications_destroy(list));
    options.notify_name_len = (size_t)1 << 40;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_batch_submit_with(batch, &request, 1, &options));
    CHECK_OK(mc_batch_destroy(batch));
}

/* A transport that never answers: only deadline, cancel or destroy end its tasks. */
static void silence_ends_by_timeout_cancel_or_destroy(void) {
    mc_engine_t *deaf = NULL;
    const char *json =
        "{\"protocol\": \"loopback\", \"metadata\": \"memory://batch\", \"local_name\": \"deaf\","
        " \"loopback_faults\": \"drop=1000000\"}";
    const char *json_peer =
        "{\"protocol\": \"loopback\", \"metadata\": \"memory://batch\", \"local_name\": \"mute\"}";
    mc_engine_t *mute = NULL;
    mc_batch_t *batch = NULL;
    mc_batch_progress_t progress;
    mc_task_status_t status;
    mc_request_t request;
    mc_segment_t there;
    REQUIRE_OK(mc_engine_create_json(json, strlen(json), &deaf));
    REQUIRE_OK(mc_engine_create_json(json_peer, strlen(json_peer), &mute));
    check_register(deaf, source, sizeof source, 0);
    check_register(mute, target, sizeof target, 0);
    there = check_open(deaf, mute);
    request = check_request(MC_WRITE, source, there, target, BLOCK);

    REQUIRE_OK(mc_batch_create(deaf, 4, &batch));
    CHECK_OK(mc_batch_submit(batch, &request, 1));
    CHECK_STATUS(MC_IN_PROGRESS, mc_batch_poll(batch, &progress));
    CHECK(progress.submitted == 1 && progress.completed + progress.failed == 0);
    CHECK_STATUS(MC_ERR_TIMEOUT, mc_batch_wait(batch, 0, &progress));
    CHECK_STATUS(MC_ERR_TIMEOUT, mc_batch_wait(batch, 30, &progress));
    CHECK(progress.submitted == 1);
    CHECK_OK(mc_batch_task_status(batch, 0, &status));
    CHECK(status.state == MC_TASK_IN_FLIGHT && status.status == MC_IN_PROGRESS);
    CHECK_STATUS(MC_ERR_BUSY, mc_batch_reset(batch));
    CHECK_OK(mc_batch_cancel(batch));
    CHECK_STATUS(MC_ERR_CANCELLED, mc_batch_wait(batch, 10000, &progress));
    CHECK(progress.failed == 1);
    CHECK_OK(mc_batch_task_status(batch, 0, &status));
    CHECK(status.state == MC_TASK_CANCELLED && status.status == MC_ERR_CANCELLED);
    CHECK_STATUS(MC_ERR_INVALID_STATE, mc_batch_submit(batch, &request, 1));
    CHECK_OK(mc_batch_reset(batch));

    CHECK_OK(mc_batch_submit(batch, &request, 1));
    CHECK_STATUS(MC_IN_PROGRESS, mc_batch_poll(batch, NULL));
    CHECK_OK(mc_batch_destroy(batch));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_batch_poll(batch, NULL));

    CHECK_STATUS(MC_ERR_TIMEOUT,
                 mc_write(deaf, there, source, check_address(target), BLOCK, 200));

    /* A batch outlives its engine as a handle; its tasks do not. */
    REQUIRE_OK(mc_batch_create(deaf, 4, &batch));
    CHECK_OK(mc_batch_submit(batch, &request, 1));
    CHECK_OK(mc_engine_destroy(deaf));
    CHECK(mc_batch_wait(batch, 10000, &progress) < 0);
    CHECK(progress.failed == 1);
    CHECK_STATUS(MC_ERR_SHUTDOWN, mc_batch_submit(batch, &request, 1));
    CHECK_OK(mc_batch_destroy(batch));
    CHECK_OK(mc_engine_destroy(mute));
}

int main(void) {
    const char *protocols[2] = {"tcp", "loopback"};
    int i;
    check_tool();
    for (i = 0; i < 2; i++) {
        us = check_engine(protocols[i]);
        peer = check_engine(protocols[i]);
        check_register(us, source, sizeof source, 0);
        check_register(peer, target, sizeof target, 0);
        segment = check_open(us, peer);
        many_requests_arrive();
        the_event_descriptor_tells_the_end();
        one_bad_request_refuses_all();
        a_remote_failure_is_told_per_task();
        empty_requests_are_complete();
        submissions_have_options();
        CHECK_OK(mc_engine_destroy(us));
        CHECK_OK(mc_engine_destroy(peer));
    }
    silence_ends_by_timeout_cancel_or_destroy();
    return check_end();
}
