/* Two processes, no outside service: the child registers memory and serves it; the parent writes,
 * reads back and compares. The child is forked before any engine exists. Then the child is killed
 * in the middle, and one of the same name takes its place. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"

#define SIZE (8 << 20)

/* What the child tells the parent. */
typedef struct {
    char name[128];
    uint64_t address;
    uint16_t rpc_port;
} hello_t;

static void serve(int to_parent, int from_parent, uint16_t rpc_port) {
    mc_engine_options_t options = check_options("tcp");
    mc_engine_t *engine = NULL;
    unsigned char *memory = (unsigned char *)calloc(1, SIZE);
    hello_t hello;
    char byte;
    int tries = 0;
    /* Not before the parent says so. */
    while (read(from_parent, &byte, 1) < 0) {
    }
    memset(&hello, 0, sizeof hello);
    options.rpc_port = rpc_port;
    /* The port of a killed predecessor can be busy for a moment. */
    while (mc_engine_create(&options, &engine) == MC_ERR_RESOURCE && tries++ < 100) usleep(50000);
    if (engine == NULL) _exit(3);
    check_register(engine, memory, SIZE, 0);
    REQUIRE_OK(mc_engine_local_name(engine, hello.name, sizeof hello.name, NULL));
    REQUIRE_OK(mc_engine_ports(engine, &hello.rpc_port, NULL));
    hello.address = check_address(memory);
    if (write(to_parent, &hello, sizeof hello) != (ssize_t)sizeof hello) _exit(2);
    /* Until the parent says so, or is gone. */
    while (read(from_parent, &byte, 1) < 0) {
    }
    CHECK_OK(mc_engine_destroy(engine));
    free(memory);
    exit(check_failures == 0 ? 0 : 1);
}

typedef struct {
    pid_t pid;
    int to_child;
    int from_child;
} child_t;

static child_t start(uint16_t rpc_port) {
    int down[2];
    int up[2];
    child_t child;
    if (pipe(down) != 0 || pipe(up) != 0) exit(1);
    fflush(NULL);
    child.pid = fork();
    if (child.pid == 0) {
        close(down[1]);
        close(up[0]);
        alarm(120);
        serve(up[1], down[0], rpc_port);
    }
    close(down[0]);
    close(up[1]);
    child.to_child = down[1];
    child.from_child = up[0];
    return child;
}

static hello_t begin(const child_t *child) {
    hello_t hello;
    if (write(child->to_child, "!", 1) != 1 ||
        read(child->from_child, &hello, sizeof hello) != (ssize_t)sizeof hello) {
        check_failed(__FILE__, __LINE__, "the child does not begin");
        exit(1);
    }
    return hello;
}

static int end(child_t *child) {
    int status = 0;
    close(child->to_child);
    close(child->from_child);
    if (waitpid(child->pid, &status, 0) != child->pid) return -1;
    return status;
}

int main(void) {
    mc_engine_t *engine;
    mc_segment_t segment = 0;
    mc_metrics_t metrics;
    mc_status_t status;
    unsigned char *memory;
    hello_t hello;
    hello_t second;
    int tries;
    /* Both are forked while this process has no engine and no thread. */
    child_t child = start(0);
    child_t successor;
    check_tool();
    alarm(180);
    hello = begin(&child);
    successor = start(hello.rpc_port);

    memory = (unsigned char *)malloc(2 * SIZE);
    engine = check_engine("tcp");
    check_register(engine, memory, 2 * SIZE, 0);
    REQUIRE_OK(mc_segment_open(engine, hello.name, &segment));
    CHECK_OK(mc_segment_probe(engine, segment, 5000));

    check_fill(memory, SIZE, 77);
    memset(memory + SIZE, 0, SIZE);
    CHECK_OK(mc_write(engine, segment, memory, hello.address, SIZE, 0));
    CHECK_OK(mc_read(engine, segment, memory + SIZE, hello.address, SIZE, 0));
    CHECK(memcmp(memory, memory + SIZE, SIZE) == 0);
    memset(&metrics, 0, sizeof metrics);
    metrics.struct_size = sizeof metrics;
    CHECK_OK(mc_engine_metrics(engine, &metrics));
    CHECK(metrics.written_bytes == SIZE && metrics.read_bytes == SIZE);

    /* Killed: what follows fails in time, and says something. */
    kill(child.pid, SIGKILL);
    CHECK(WIFSIGNALED(end(&child)));
    status = mc_write(engine, segment, memory, hello.address, SIZE, 3000);
    CHECK(status < 0 && status != MC_ERR_INTERNAL && status != MC_ERR_PANIC);
    CHECK(check_last_error()[0] != '\0');

    /* Back under the same name: found again without help. */
    second = begin(&successor);
    CHECK(strcmp(second.name, hello.name) == 0);
    for (tries = 0; tries < 100; tries++) {
        status = mc_write(engine, segment, memory, second.address, SIZE, 5000);
        if (status == MC_OK || !mc_status_is_retryable(status)) break;
        usleep(50000);
    }
    CHECK_STATUS(MC_OK, status);
    memset(memory + SIZE, 0, SIZE);
    CHECK_OK(mc_read(engine, segment, memory + SIZE, second.address, SIZE, 0));
    CHECK(memcmp(memory, memory + SIZE, SIZE) == 0);

    CHECK(end(&successor) == 0);
    CHECK_OK(mc_engine_destroy(engine));
    free(memory);
    return check_end();
}
