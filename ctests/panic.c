/* A defect inside the library: a status with its text and place, nothing on standard error, and an
 * object that answers so until it is destroyed. */
#include "check.h"

static unsigned char memory[4096];

static void panic_once(void) {
    const char *json = "{\"protocol\": \"loopback\", \"loopback_faults\": \"panic\"}";
    mc_engine_t *engine = NULL;
    mc_engine_t *other = check_engine("loopback");
    mc_batch_t *batch = NULL;
    mc_buffer_t buffer;
    memset(&buffer, 0, sizeof buffer);
    buffer.address = memory;
    buffer.length_bytes = sizeof memory;
    REQUIRE_OK(mc_engine_create_json(json, strlen(json), &engine));
    REQUIRE_OK(mc_batch_create(engine, 1, &batch));
    CHECK_STATUS(MC_ERR_PANIC, mc_buffer_register(engine, &buffer));
    CHECK_SAYS("on command");
    CHECK_SAYS(".rs:");
    /* The engine is in an unknown state, and says so. */
    CHECK_STATUS(MC_ERR_PANIC, mc_engine_ports(engine, NULL, NULL));
    CHECK_STATUS(MC_ERR_PANIC, mc_buffer_register(engine, &buffer));
    CHECK_SAYS("destroy");
    /* Others are not. */
    CHECK_OK(mc_batch_poll(batch, NULL));
    CHECK_OK(mc_buffer_register(other, &buffer));
    CHECK_OK(mc_engine_destroy(engine));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_engine_destroy(engine));
    CHECK_OK(mc_batch_destroy(batch));
    CHECK_OK(mc_engine_destroy(other));
}

static int records;

static void count(int32_t level, const char *text, void *user) {
    (void)user;
    records += level == MC_LOG_ERROR && strstr(text, "on command") != NULL;
}

int main(void) {
    FILE *file = tmpfile();
    int kept = dup(STDERR_FILENO);
    int threads = check_threads();
    check_tool();
    if (file == NULL || kept < 0) return 1;
    dup2(fileno(file), STDERR_FILENO);
    panic_once();
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    fseek(file, 0, SEEK_END);
    if (check_failures == 0) CHECK(ftell(file) == 0);
    fclose(file);

    CHECK_OK(mc_log_set(MC_LOG_ERROR, count, NULL));
    panic_once();
    CHECK(records == 1);
    CHECK_OK(mc_log_set(MC_LOG_OFF, NULL, NULL));
    CHECK(check_threads() == threads);
    return check_end();
}
