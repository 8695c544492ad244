/* Version, statuses and the last error: nothing here needs an engine. */
#include "check.h"

static void macros_agree_with_the_library(void) {
    char text[32];
    CHECK(mc_version_number() == MC_VERSION_NUMBER);
    CHECK(mc_abi_version() == MC_ABI_VERSION);
    CHECK(strcmp(mc_version_string(), MC_VERSION_STRING) == 0);
    CHECK(MC_VERSION_NUMBER ==
          ((MC_VERSION_MAJOR << 16) | (MC_VERSION_MINOR << 8) | MC_VERSION_PATCH));
    snprintf(text, sizeof text, "%d.%d.%d", MC_VERSION_MAJOR, MC_VERSION_MINOR, MC_VERSION_PATCH);
    CHECK(strcmp(text, MC_VERSION_STRING) == 0);
}

static void statuses_have_names(void) {
    CHECK(strcmp(mc_status_name(MC_OK), "MC_OK") == 0);
    CHECK(strcmp(mc_status_name(MC_IN_PROGRESS), "MC_IN_PROGRESS") == 0);
    CHECK(strcmp(mc_status_name(MC_ERR_TIMEOUT), "MC_ERR_TIMEOUT") == 0);
    CHECK(strcmp(mc_status_name(MC_ERR_INTERNAL), "MC_ERR_INTERNAL") == 0);
    CHECK(strcmp(mc_status_name(4711), "MC_ERR_UNKNOWN") == 0);
    CHECK(strcmp(mc_status_name(INT32_MIN), "MC_ERR_UNKNOWN") == 0);
    CHECK(mc_status_text(MC_ERR_TIMEOUT)[0] != '\0');
    CHECK(mc_status_text(4711)[0] != '\0');
    /* A negative constant is one value in any expression. */
    CHECK(-MC_ERR_TIMEOUT == 200);
}

static void only_passing_failures_are_retryable(void) {
    CHECK(mc_status_is_retryable(MC_ERR_TIMEOUT) == 1);
    CHECK(mc_status_is_retryable(MC_ERR_PEER_DOWN) == 1);
    CHECK(mc_status_is_retryable(MC_ERR_METADATA_UNAVAILABLE) == 1);
    CHECK(mc_status_is_retryable(MC_ERR_INVALID_ARGUMENT) == 0);
    CHECK(mc_status_is_retryable(MC_ERR_REMOTE_RANGE) == 0);
    CHECK(mc_status_is_retryable(MC_ERR_PANIC) == 0);
    CHECK(mc_status_is_retryable(MC_OK) == 0);
    CHECK(mc_status_is_retryable(4711) == 0);
}

static void last_error_is_copied_as_asked(void) {
    char text[256];
    char little[8];
    size_t length;
    CHECK(mc_last_error_message(NULL, 0) == 0);
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_engine_create(NULL, NULL));
    length = mc_last_error_message(text, sizeof text);
    CHECK(length == strlen(text));
    CHECK(strstr(text, "engine_out") != NULL);
    CHECK(mc_last_error_message(NULL, 0) == length);
    memset(little, 'x', sizeof little);
    CHECK(mc_last_error_message(little, 4) == length);
    CHECK(little[3] == '\0' && strncmp(little, text, 3) == 0 && little[4] == 'x');
    /* Success leaves the text alone. */
    CHECK_OK(mc_engine_destroy(NULL));
    CHECK(mc_last_error_message(NULL, 0) == length);
}

int main(void) {
    check_tool();
    macros_agree_with_the_library();
    statuses_have_names();
    only_passing_failures_are_retryable();
    last_error_is_copied_as_asked();
    return check_end();
}
