/* Every function of the upstream C API with arguments nobody should give: each is a return value. */
#include "upstream.h"

/* A handle that is none, for every reason there is. */
static void *wrong_engines[6];

static void on_every_function(void *engine) {
    static char memory[64];
    char text[64];
    char word[] = "word";
    buffer_entry_t buffer;
    notify_msg_t message;
    transfer_request_t request = upstream_request(OPCODE_WRITE, memory, 0, memory, 8);
    transfer_status_t status;
    nic_load_stat_t load;
    void *addresses[1];
    size_t count = 1;
    int size = 5;

    buffer.addr = memory;
    buffer.length = sizeof memory;
    addresses[0] = memory;
    message.name = word;
    message.msg = word;
    CHECK_GIVES(-1, discoverTopology(engine));
    CHECK_GIVES(-1, getLocalIpAndPort(engine, text, sizeof text));
    CHECK(installTransport(engine, "tcp", NULL) == NULL);
    CHECK_GIVES(-1, uninstallTransport(engine, "tcp"));
    CHECK_GIVES(-1, openSegment(engine, "name"));
    CHECK_GIVES(-1, openSegmentNoCache(engine, "name"));
    CHECK_GIVES(-1, closeSegment(engine, 0));
    CHECK_GIVES(-1, warmupEfaSegment(engine, "name"));
    CHECK_GIVES(-1, removeLocalSegment(engine, "name"));
    CHECK_GIVES(-1, registerLocalMemory(engine, memory, sizeof memory, "*", 1));
    CHECK_GIVES(-1, unregisterLocalMemory(engine, memory));
    CHECK_GIVES(-1, registerLocalMemoryBatch(engine, &buffer, 1, "*"));
    CHECK_GIVES(-1, unregisterLocalMemoryBatch(engine, addresses, 1));
    CHECK(allocateBatchID(engine, 1) == INVALID_BATCH);
    CHECK_GIVES(1, submitTransfer(engine, 1, &request, 1));
    CHECK_GIVES(1, submitTransferWithNotify(engine, 1, &request, 1, message));
    CHECK_GIVES(1, getTransferStatus(engine, 1, 0, &status));
    CHECK_GIVES(1, freeBatchID(engine, 1));
    CHECK(getNotifsFromEngine(engine, &size) == NULL);
    CHECK_GIVES(0, size);
    CHECK_GIVES(-1, genNotifyInEngine(engine, 0, message));
    CHECK_GIVES(-1, syncSegmentCache(engine));
    CHECK_GIVES(-1, getNicLoadStats(engine, &load, &count));
    CHECK_GIVES(-1, showLinks(engine, text, sizeof text, 0));
    enableGracefulShutdown(engine);
    destroyTransferEngine(engine);
}

static void creation(void) {
    static const char *const refused[] = {"foo://host", "://", "http://[", "etcd://"};
    char *endless = (char *)malloc(1 << 20);
    size_t index;
    memset(endless, 'a', (1 << 20) - 1);
    endless[(1 << 20) - 1] = '\0';
    CHECK(createTransferEngine(NULL, "127.0.0.1", NULL, 0, 0) == NULL);
    CHECK(createTransferEngine("P2PHANDSHAKE", NULL, NULL, 0, 0) == NULL);
    CHECK(createTransferEngine("P2PHANDSHAKE", endless, NULL, 0, 0) == NULL);
    CHECK(createTransferEngine(endless, "127.0.0.1", NULL, 0, 0) == NULL);
    CHECK(createTransferEngine("P2PHANDSHAKE", "\xff", NULL, 0, 0) == NULL);
    for (index = 0; index < sizeof refused / sizeof refused[0]; index++) {
        if (createTransferEngine(refused[index], "127.0.0.1", NULL, 0, 0) != NULL)
            check_failed(__FILE__, __LINE__, "an engine with \"%s\"", refused[index]);
    }
    free(endless);
}

static void arguments(transfer_engine_t engine, transfer_engine_t other) {
    static char memory[8192];
    static char remote[4096];
    char text[32];
    char word[] = "word";
    notify_msg_t message;
    notify_msg_t half;
    transfer_request_t request = upstream_request(OPCODE_WRITE, memory, 0, remote, 8);
    transfer_request_t wrong;
    transfer_status_t status;
    nic_load_stat_t load;
    batch_id_t batch;
    batch_id_t freed;
    size_t count = 0;
    int size = 0;

    message.name = word;
    message.msg = word;
    half = message;
    half.msg = NULL;

    CHECK_GIVES(-1, getLocalIpAndPort(engine, NULL, 8));
    CHECK(installTransport(engine, NULL, NULL) == NULL);
    CHECK(installTransport(engine, "", NULL) == NULL);
    CHECK(installTransport(engine, "rdma", NULL) == NULL);
    CHECK_GIVES(-1, openSegment(engine, NULL));
    CHECK_GIVES(-1, openSegment(engine, ""));
    CHECK_GIVES(-1, openSegment(engine, "///"));
    CHECK_GIVES(-1, openSegment(engine, "nobody has this name"));
    CHECK_GIVES(-1, openSegmentNoCache(engine, "nobody has this name"));
    CHECK_GIVES(-1, removeLocalSegment(engine, ""));
    CHECK_GIVES(0, removeLocalSegment(engine, "nobody has this name"));
    CHECK_GIVES(0, closeSegment(engine, 12345));

    CHECK_GIVES(-1, registerLocalMemory(engine, memory, 0, "*", 1));
    CHECK_GIVES(-1, registerLocalMemory(engine, NULL, 8, "*", 1));
    CHECK(registerLocalMemory(engine, memory, SIZE_MAX, "*", 1) < 0);
    CHECK_GIVES(0, registerLocalMemory(engine, memory, 4096, NULL, 1));
    CHECK_GIVES(-7, registerLocalMemory(engine, memory, 4096, NULL, 1));
    CHECK_GIVES(-7, registerLocalMemory(engine, memory, 4096, "cpu:0", 1));
    CHECK_GIVES(-7, registerLocalMemory(engine, memory + 8, 8, "*", 1));
    CHECK_GIVES(-7, registerLocalMemory(engine, memory + 4095, 8, "*", 1));
    CHECK_GIVES(-3, unregisterLocalMemory(engine, memory + 8));
    CHECK_GIVES(-3, unregisterLocalMemory(engine, NULL));
    CHECK_GIVES(0, unregisterLocalMemory(engine, memory));
    CHECK_GIVES(-3, unregisterLocalMemory(engine, memory));
    /* A location nobody knows is no reason to refuse, as upstream. */
    CHECK_GIVES(0, registerLocalMemory(engine, memory, sizeof memory, "Somewhere else", 1));
    CHECK_GIVES(0, registerLocalMemory(engine, remote, sizeof remote, "", 0));
    CHECK_GIVES(0, registerLocalMemoryBatch(engine, NULL, 0, "*"));
    CHECK_GIVES(-1, registerLocalMemoryBatch(engine, NULL, 1, "*"));
    CHECK_GIVES(-1, registerLocalMemoryBatch(engine, NULL, SIZE_MAX, "*"));
    CHECK_GIVES(-1, unregisterLocalMemoryBatch(engine, NULL, 1));
    CHECK_GIVES(-1, unregisterLocalMemoryBatch(engine, NULL, SIZE_MAX));
    CHECK_GIVES(0, unregisterLocalMemoryBatch(engine, NULL, 0));

    CHECK(allocateBatchID(engine, SIZE_MAX) == INVALID_BATCH);
    freed = allocateBatchID(engine, 1);
    CHECK_GIVES(0, freeBatchID(engine, freed));
    batch = allocateBatchID(engine, 4);
    CHECK(batch != freed);
    {
        const batch_id_t ids[] = {0, 1, INVALID_BATCH, freed, batch + 1, batch | 1ull << 63,
                                  check_address(memory), check_address(engine)};
        size_t index;
        for (index = 0; index < sizeof ids / sizeof ids[0]; index++) {
            CHECK_GIVES(1, submitTransfer(engine, ids[index], &request, 1));
            CHECK_GIVES(1, submitTransferWithNotify(engine, ids[index], &request, 1, message));
            CHECK_GIVES(1, getTransferStatus(engine, ids[index], 0, &status));
            CHECK_GIVES(1, freeBatchID(engine, ids[index]));
        }
    }
    /* A batch of one engine is none of the other. */
    CHECK_GIVES(1, submitTransfer(other, batch, &request, 1));
    CHECK_GIVES(1, getTransferStatus(other, batch, 0, &status));
    CHECK_GIVES(1, freeBatchID(other, batch));

    CHECK_GIVES(1, submitTransfer(engine, batch, NULL, 1));
    CHECK_GIVES(2, submitTransfer(engine, batch, NULL, SIZE_MAX));
    wrong = request;
    wrong.opcode = 2;
    CHECK_GIVES(1, submitTransfer(engine, batch, &wrong, 1));
    wrong = request;
    wrong.target_id = -1;
    CHECK_GIVES(1, submitTransfer(engine, batch, &wrong, 1));
    wrong.target_id = 4711;
    CHECK_GIVES(1, submitTransfer(engine, batch, &wrong, 1));
    wrong = request;
    wrong.length = UINT64_MAX;
    CHECK_GIVES(1, submitTransfer(engine, batch, &wrong, 1));
    wrong = request;
    wrong.source = NULL;
    CHECK_GIVES(3, submitTransfer(engine, batch, &wrong, 1));
    CHECK_GIVES(1, submitTransferWithNotify(engine, batch, &request, 1, half));
    CHECK_GIVES(1, submitTransferWithNotify(engine, batch, NULL, 0, message));
    /* None of these left a task behind. */
    CHECK_GIVES(1, getTransferStatus(engine, batch, 0, &status));
    CHECK_GIVES(0, submitTransfer(engine, batch, &request, 1));
    CHECK_GIVES(1, getTransferStatus(engine, batch, 0, NULL));
    CHECK_GIVES(1, getTransferStatus(engine, batch, 1, &status));
    CHECK_GIVES(1, getTransferStatus(engine, batch, SIZE_MAX, &status));
    CHECK_GIVES(STATUS_COMPLETED, upstream_wait(engine, batch, 0).status);
    CHECK_GIVES(0, freeBatchID(engine, batch));

    CHECK(getNotifsFromEngine(engine, NULL) == NULL);
    CHECK(getNotifsFromEngine(engine, &size) == NULL);
    CHECK_GIVES(0, freeNotifsMsgBuf(NULL, 3));
    CHECK_GIVES(-1, genNotifyInEngine(engine, 0, half));
    CHECK_GIVES(-200, genNotifyInEngine(engine, 4711, message));
    CHECK_GIVES(-200, genNotifyInEngine(engine, UINT64_MAX, message));
    CHECK_GIVES(-1, getNicLoadStats(engine, NULL, &count));
    CHECK_GIVES(-1, getNicLoadStats(engine, &load, NULL));
    count = 1;
    CHECK_GIVES(0, getNicLoadStats(engine, &load, &count));
    CHECK_GIVES(0, count);
    CHECK_GIVES(-1, showLinks(engine, NULL, 8, 0));
    CHECK_GIVES(-1, showLinks(engine, text, 0, 0));
    memset(text, 'x', sizeof text);
    CHECK_GIVES(0, showLinks(engine, text, 1, 1));
    CHECK(text[0] == '\0' && text[1] == 'x');
}

int main(void) {
    mc_engine_t *of_the_other_api = check_engine("loopback");
    char local[8] = "";
    transfer_engine_t gone = upstream_engine("loopback", "gone");
    transfer_engine_t engine = upstream_engine("loopback", "engine");
    transfer_engine_t other = upstream_engine("loopback", "other");
    size_t index;
    check_tool();
    destroyTransferEngine(gone);
    wrong_engines[0] = NULL;
    wrong_engines[1] = (void *)local;
    wrong_engines[2] = gone;
    wrong_engines[3] = (void *)of_the_other_api;
    wrong_engines[4] = (void *)((uintptr_t)engine ^ 1u << 20);
    wrong_engines[5] = (void *)(uintptr_t)allocateBatchID(engine, 1);
    for (index = 0; index < sizeof wrong_engines / sizeof wrong_engines[0]; index++)
        on_every_function(wrong_engines[index]);
    /* None of that touched an engine that is there. */
    CHECK_STATUS(MC_OK, mc_engine_ports(of_the_other_api, NULL, NULL));
    creation();
    arguments(engine, other);
    destroyTransferEngine(other);
    destroyTransferEngine(engine);
    destroyTransferEngine(engine);
    CHECK_OK(mc_engine_destroy(of_the_other_api));
    return check_end();
}
