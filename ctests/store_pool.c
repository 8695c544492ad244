/* The store with a master of its own: buffers that are views of own memory and copies of others',
 * released in any order, by other threads, after the close, and twice. The master is the program
 * given as argument; it listens on the loopback only and ends with this program. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "check.h"

enum { OBJECTS = 8, BYTES = 10000, TRIES = 600 };

static unsigned char value[OBJECTS][BYTES];

static unsigned port_of_nobody(void) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    unsigned port = 0;
    int probe = socket(AF_INET, SOCK_STREAM, 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(probe, (struct sockaddr *)&address, sizeof address) == 0 &&
        getsockname(probe, (struct sockaddr *)&address, &length) == 0)
        port = ntohs(address.sin_port);
    close(probe);
    return port;
}

static pid_t start_master(const char *program, unsigned port) {
    char rpc[64], metrics[64];
    pid_t parent = getpid(), child;
    snprintf(rpc, sizeof rpc, "--rpc_port=%u", port);
    snprintf(metrics, sizeof metrics, "--metrics_port=%u", port_of_nobody());
    child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        execl(program, program, rpc, metrics, "--rpc_address=127.0.0.1", "--metrics_host=127.0.0.1",
              "--noenable_journal", "--default_kv_lease_ttl=100", "--minloglevel=3", (char *)NULL);
        _exit(127);
    }
    return child;
}

static mc_store_t *open_store(unsigned port, uint64_t segment_bytes) {
    mc_store_options_t options;
    mc_store_t *store = NULL;
    char address[64];
    mc_status_t status = MC_OK;
    int tries;
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.local_hostname = "127.0.0.1";
    options.master_server_address = address;
    options.global_segment_bytes = segment_bytes;
    options.local_buffer_bytes = 1u << 20;
    for (tries = 0; tries < TRIES; tries++) {
        status = mc_store_open(&options, NULL, &store);
        if (status != MC_ERR_MASTER_UNAVAILABLE) break;
        usleep(50000);
    }
    CHECK_OK(status);
    if (store == NULL) exit(1);
    return store;
}

static uint64_t views_of(mc_store_t *store) {
    mc_store_metrics_t metrics;
    memset(&metrics, 0, sizeof metrics);
    metrics.struct_size = sizeof metrics;
    CHECK_OK(mc_store_metrics(store, &metrics));
    return metrics.views;
}

static int holds(const mc_store_buffer_t *buffer, int index) {
    return mc_store_buffer_size(buffer) == BYTES &&
           memcmp(mc_store_buffer_address(buffer), value[index], BYTES) == 0;
}

static mc_store_buffer_t *buffer_of(mc_store_t *store, int index) {
    mc_store_buffer_t *buffer = NULL;
    char key[16];
    snprintf(key, sizeof key, "k%d", index);
    REQUIRE_OK(mc_store_get_buffer(store, key, strlen(key), 0, &buffer));
    CHECK(holds(buffer, index));
    return buffer;
}

static void *release_elsewhere(void *buffer) {
    CHECK_OK(mc_store_buffer_release(buffer));
    return NULL;
}

/* The object goes, its room is wanted by many others, and the view stays what it is. */
static void a_view_stays(mc_store_t *store) {
    static unsigned char block[1u << 20];
    mc_store_buffer_t *view = buffer_of(store, 0);
    char key[16];
    int index;
    CHECK_OK(mc_store_remove(store, "k0", 2, 1, 0));
    for (index = 0; index < 64; index++) {
        mc_status_t status;
        memset(block, index + 1, sizeof block);
        snprintf(key, sizeof key, "b%d", index);
        status = mc_store_put(store, key, strlen(key), block, sizeof block, NULL);
        CHECK(status == MC_OK || status == MC_ERR_NO_SPACE);
        CHECK(holds(view, 0));
    }
    CHECK_OK(mc_store_buffer_release(view));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_store_buffer_release(view));
    CHECK(mc_store_buffer_address(view) == NULL);
    CHECK(mc_store_buffer_size(view) == 0);
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_store_buffer_detach(view));
}

/* One group for each object, or none; what they do is for masters to test. */
static void groups_are_counted(mc_store_t *store) {
    const char *const names[] = {"g", NULL, ""};
    const char *const bad[] = {"\xff"};
    mc_store_range_t range;
    mc_store_object_t objects[3];
    mc_status_t statuses[3];
    mc_put_options_t options;
    int index;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.groups = names;
    range.address = value[0];
    range.length_bytes = BYTES;
    for (index = 0; index < 3; index++) {
        static const char *const keys[] = {"g0", "g1", "g2"};
        objects[index].key = keys[index];
        objects[index].key_len = 2;
        objects[index].ranges = &range;
        objects[index].range_count = 1;
    }
    options.group_count = 2;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_store_put_batch(store, objects, 3, &options, statuses));
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_store_put(store, "g0", 2, value[0], BYTES, &options));
    options.group_count = SIZE_MAX;
    CHECK(mc_store_put(store, "g0", 2, value[0], BYTES, &options) < 0);
    options.group_count = 3;
    CHECK_OK(mc_store_put_batch(store, objects, 3, &options, statuses));
    for (index = 0; index < 3; index++) CHECK_OK(statuses[index]);
    options.group_count = 1;
    CHECK_OK(mc_store_put(store, "g3", 2, value[0], BYTES, &options));
    options.groups = bad;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_store_put(store, "g4", 2, value[0], BYTES, &options));
    options.groups = NULL;
    CHECK_STATUS(MC_ERR_INVALID_ARGUMENT, mc_store_put(store, "g4", 2, value[0], BYTES, &options));
    /* As a program that was built before there were groups. */
    options.struct_size = (uint32_t)offsetof(mc_put_options_t, groups);
    CHECK_OK(mc_store_put(store, "g4", 2, value[0], BYTES, &options));
}

int main(int count, char **arguments) {
    mc_store_t *holder, *reader;
    mc_store_buffer_t *views[OBJECTS], *copy, *late;
    pthread_t thread;
    unsigned port = port_of_nobody();
    void *before;
    pid_t master;
    int index;
    check_tool();
    if (count < 2 || access(arguments[1], X_OK) != 0) check_skip("mooncake_master was not built");
    master = start_master(arguments[1], port);
    holder = open_store(port, 32u << 20);
    reader = open_store(port, MC_STORE_NO_BYTES);
    for (index = 0; index < OBJECTS; index++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", index);
        memset(value[index], 'a' + index, BYTES);
        REQUIRE_OK(mc_store_put(holder, key, strlen(key), value[index], BYTES, NULL));
        views[index] = buffer_of(holder, index);
    }
    CHECK(views_of(holder) == OBJECTS);
    groups_are_counted(reader);
    /* Somebody else's object is read once. */
    copy = buffer_of(reader, 1);
    CHECK(views_of(reader) == 0);
    /* A detached buffer may be changed, and the object is what it was. */
    before = mc_store_buffer_address(views[1]);
    CHECK_OK(mc_store_buffer_detach(views[1]));
    CHECK(mc_store_buffer_address(views[1]) != before && holds(views[1], 1));
    memset(mc_store_buffer_address(views[1]), 0, BYTES);
    CHECK(memcmp(before, value[1], BYTES) == 0);
    /* In any order. */
    for (index = OBJECTS - 1; index > 0; index -= 2) CHECK_OK(mc_store_buffer_release(views[index]));
    for (index = 0; index < OBJECTS; index += 2) CHECK_OK(mc_store_buffer_release(views[index]));
    /* Held while the pool overflows and their objects are evicted. */
    late = buffer_of(reader, 1);
    views[0] = buffer_of(holder, 2);
    a_view_stays(holder);
    CHECK(pthread_create(&thread, NULL, release_elsewhere, copy) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    /* After the close. */
    CHECK_OK(mc_store_close(holder));
    CHECK_OK(mc_store_close(reader));
    CHECK(holds(views[0], 2) && holds(late, 1));
    CHECK_OK(mc_store_buffer_release(views[0]));
    CHECK_OK(mc_store_buffer_release(late));
    kill(master, SIGKILL);
    waitpid(master, NULL, 0);
    return check_end();
}
