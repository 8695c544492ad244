/* A forked child: the parent's handles are refused, its own work, and the parent notices nothing. */
#include <sys/wait.h>

#include "check.h"

static unsigned char memory[8192];

static void transfers(mc_engine_t *engine) {
    mc_segment_t own = check_open(engine, engine);
    check_fill(memory, 4096, 9);
    memset(memory + 4096, 0, 4096);
    CHECK_OK(mc_write(engine, own, memory, check_address(memory + 4096), 4096, 5000));
    CHECK(memcmp(memory, memory + 4096, 4096) == 0);
}

static void in_the_child(mc_engine_t *inherited, mc_batch_t *batch, mc_notifications_t *list,
                         const char *protocol) {
    const char *name = NULL;
    const char *message = NULL;
    mc_segment_t segment = 0;
    mc_engine_t *own;
    CHECK_STATUS(MC_ERR_FORKED, mc_engine_ports(inherited, NULL, NULL));
    CHECK_SAYS("parent");
    CHECK_STATUS(MC_ERR_FORKED, mc_segment_open(inherited, "127.0.0.1:1", &segment));
    CHECK_STATUS(MC_ERR_FORKED, mc_write(inherited, 1, memory, 1, 1, 10));
    CHECK_STATUS(MC_ERR_FORKED, mc_batch_poll(batch, NULL));
    CHECK_STATUS(MC_ERR_FORKED, mc_batch_wait(batch, 1000, NULL));
    CHECK_STATUS(MC_ERR_FORKED, mc_batch_destroy(batch));
    CHECK_STATUS(MC_ERR_FORKED, mc_notifications_get(list, 0, &name, NULL, &message, NULL));
    CHECK_STATUS(MC_ERR_FORKED, mc_notifications_destroy(list));
    CHECK_STATUS(MC_ERR_FORKED, mc_engine_destroy(inherited));
    CHECK_STATUS(MC_ERR_FORKED, mc_engine_destroy(inherited));

    own = check_engine(protocol);
    check_register(own, memory, sizeof memory, 0);
    transfers(own);
    CHECK_STATUS(MC_ERR_FORKED, mc_engine_ports(inherited, NULL, NULL));
    CHECK_OK(mc_engine_destroy(own));
    CHECK_STATUS(MC_ERR_INVALID_HANDLE, mc_engine_destroy(own));
}

static void wait_for(pid_t child) {
    int status = 0;
    if (waitpid(child, &status, 0) != child) check_failed(__FILE__, __LINE__, "waitpid");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void with(const char *protocol) {
    mc_engine_t *engine = check_engine(protocol);
    mc_batch_t *batch = NULL;
    mc_notifications_t *list = NULL;
    pid_t child;
    check_register(engine, memory, sizeof memory, 0);
    REQUIRE_OK(mc_batch_create(engine, 2, &batch));
    REQUIRE_OK(mc_notify_take(engine, &list));
    fflush(NULL);
    child = fork();
    if (child == 0) {
        pid_t grandchild;
        alarm(60);
        in_the_child(engine, batch, list, protocol);
        /* And once more, one level down. */
        grandchild = fork();
        if (grandchild == 0) {
            alarm(60);
            in_the_child(engine, batch, list, protocol);
            _exit(check_failures == 0 ? 0 : 1);
        }
        wait_for(grandchild);
        _exit(check_failures == 0 ? 0 : 1);
    }
    wait_for(child);
    transfers(engine);
    CHECK_OK(mc_batch_poll(batch, NULL));
    CHECK_OK(mc_notifications_destroy(list));
    CHECK_OK(mc_batch_destroy(batch));
    CHECK_OK(mc_engine_destroy(engine));
}

int main(void) {
#ifdef __SANITIZE_ADDRESS__
    /* The allocator of gcc's AddressSanitizer has no fork handlers: a lock that another thread holds
     * at the fork stays locked in the child, which then stands still in its first allocation. */
    check_skip("AddressSanitizer's allocator keeps its locks across fork");
#endif
    check_tool();
    with("loopback");
    with("tcp");
    return check_end();
}
