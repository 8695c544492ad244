/* The log sink: silence before, records after, no call once it is replaced, rules inside it. */
#include <pthread.h>

#include "check.h"

typedef struct {
    pthread_mutex_t lock;
    int records;
    int bad;
    mc_status_t inside;
} collector_t;

static void collect(int32_t level, const char *text, void *user) {
    collector_t *collector = (collector_t *)user;
    pthread_mutex_lock(&collector->lock);
    collector->records++;
    if (level < MC_LOG_ERROR || level > MC_LOG_TRACE) collector->bad++;
    if (text == NULL || strchr(text, '\n') != NULL) collector->bad++;
    collector->inside = mc_log_set(MC_LOG_OFF, NULL, NULL);
    pthread_mutex_unlock(&collector->lock);
}

static int records_of(collector_t *collector) {
    int records;
    pthread_mutex_lock(&collector->lock);
    records = collector->records;
    pthread_mutex_unlock(&collector->lock);
    return records;
}

/* A variable with a value that makes no sense is worth a warning from every engine. */
static void make_records(void) {
    mc_engine_t *engine = check_engine("loopback");
    CHECK_OK(mc_engine_destroy(engine));
}

/* Whatever is written to standard error meanwhile is counted. */
static long bytes_on_stderr(void (*work)(void)) {
    FILE *file = tmpfile();
    int kept = dup(STDERR_FILENO);
    long bytes;
    if (file == NULL || kept < 0) return -1;
    fflush(stderr);
    dup2(fileno(file), STDERR_FILENO);
    work();
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    fseek(file, 0, SEEK_END);
    bytes = ftell(file);
    fclose(file);
    return bytes;
}

int main(void) {
    collector_t collector = {PTHREAD_MUTEX_INITIALIZER, 0, 0, MC_OK};
    int before;
    check_tool();
    setenv("MC_TCP_PROTO", "no such protocol", 1);

    CHECK(bytes_on_stderr(make_records) == 0);
    /* The environment can ask for records too, as long as the program says nothing. */
    setenv("MC_LOG_LEVEL", "warn", 1);
    CHECK(bytes_on_stderr(make_records) > 0);
    setenv("MC_LOG_LEVEL", "off", 1);
    CHECK(bytes_on_stderr(make_records) == 0);
    unsetenv("MC_LOG_LEVEL");

    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_log_set(-1, collect, &collector));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_log_set(6, collect, &collector));

    CHECK_OK(mc_log_set(MC_LOG_TRACE, collect, &collector));
    make_records();
    CHECK(records_of(&collector) > 0);
    CHECK(collector.bad == 0);
    CHECK(collector.inside == MC_ERR_INVALID_STATE);

    CHECK_OK(mc_log_set(MC_LOG_OFF, collect, &collector));
    before = records_of(&collector);
    make_records();
    CHECK(records_of(&collector) == before);

    CHECK_OK(mc_log_set(MC_LOG_TRACE, NULL, NULL));
    CHECK(bytes_on_stderr(make_records) > 0);
    CHECK(records_of(&collector) == before);

    CHECK_OK(mc_log_set(MC_LOG_OFF, NULL, NULL));
    setenv("MC_LOG_LEVEL", "trace", 1);
    CHECK(bytes_on_stderr(make_records) == 0);
    return check_end();
}
