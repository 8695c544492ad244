/* Notifications between engines. */
#include "check.h"

static void sent_ones_arrive_in_order(mc_engine_t *us, mc_engine_t *peer) {
    mc_segment_t segment = check_open(us, peer);
    mc_notifications_t *list = NULL;
    const char *name = NULL;
    const char *message = NULL;
    size_t name_len = 0;
    size_t message_len = 0;
    int i;
    REQUIRE_OK(mc_notify_take(peer, &list));
    CHECK(mc_notifications_count(list) == 0);
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT,
                 mc_notifications_get(list, 0, &name, &name_len, &message, &message_len));
    CHECK_OK(mc_notifications_destroy(list));

    for (i = 0; i < 5; i++) {
        char text[32];
        snprintf(text, sizeof text, "message %d", i);
        CHECK_OK(mc_notify_send(us, segment, "name", 4, text, strlen(text), 5000));
    }
    CHECK_OK(mc_notify_send(us, segment, NULL, 0, NULL, 0, 0));
    REQUIRE_OK(mc_notify_take(peer, &list));
    CHECK(mc_notifications_count(list) == 6);
    for (i = 0; i < 5; i++) {
        char text[32];
        snprintf(text, sizeof text, "message %d", i);
        REQUIRE_OK(mc_notifications_get(list, (size_t)i, &name, &name_len, &message,
                                        &message_len));
        CHECK(name_len == 4 && strcmp(name, "name") == 0);
        CHECK(message_len == strlen(text) && strcmp(message, text) == 0);
    }
    CHECK_OK(mc_notifications_get(list, 5, &name, NULL, &message, NULL));
    CHECK(name[0] == '\0' && message[0] == '\0');
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT,
                 mc_notifications_get(list, 6, &name, &name_len, &message, &message_len));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_notifications_get(list, 0, NULL, NULL, NULL, NULL));
    CHECK_OK(mc_notifications_destroy(list));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_notifications_destroy(list));
    CHECK(mc_notifications_count(list) == 0);
    CHECK_OK(mc_notifications_destroy(NULL));

    REQUIRE_OK(mc_notify_take(peer, &list));
    CHECK(mc_notifications_count(list) == 0);
    CHECK_OK(mc_notifications_destroy(list));
}

static void bad_ones_are_refused(mc_engine_t *us, mc_engine_t *peer) {
    mc_segment_t segment = check_open(us, peer);
    char *large = (char *)calloc(1, 3 << 20);
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_notify_send(us, segment, NULL, 1, "m", 1, 0));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT,
                 mc_notify_send(us, segment, "n", 1, large, 3 << 20, 0));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT,
                 mc_notify_send(us, segment, "n", 1, "m", (size_t)-1, 0));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_notify_send(us, 0, "n", 1, "m", 1, 0));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_notify_take(us, NULL));
    free(large);
}

int main(void) {
    mc_engine_t *us;
    mc_engine_t *peer;
    check_tool();
    us = check_engine("tcp");
    peer = check_engine("tcp");
    sent_ones_arrive_in_order(us, peer);
    bad_ones_are_refused(us, peer);
    CHECK_OK(mc_engine_destroy(us));
    CHECK_OK(mc_engine_destroy(peer));
    return check_end();
}
