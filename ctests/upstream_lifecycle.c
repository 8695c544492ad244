/* The upstream C API from creation to destruction, with two engines in one process: in memory, and
 * over TCP. */
#include "upstream.h"

#define SIZE (1 << 20)

static void names_and_transports(const char *protocol) {
    char text[256];
    char wide[8];
    transfer_engine_t engine;
    void *args[2] = {NULL, NULL};
    char matrix[] = "{\"cpu:0\":[[\"mlx5_0\"],[]]}";
    transport_t transport;

    engine = createTransferEngine("P2PHANDSHAKE", "127.0.0.1:9", "ignored", 7, 0);
    CHECK(engine != NULL);
    transport = installTransport(engine, protocol, args);
    CHECK(transport != NULL);
    CHECK(installTransport(engine, protocol, NULL) == transport);
    /* A preference matrix, and a text that is none, which is ignored. */
    args[0] = matrix;
    CHECK(installTransport(engine, protocol, args) == transport);
    args[0] = text;
    strcpy(text, "mlx5_0");
    CHECK(installTransport(engine, protocol, args) == transport);
    CHECK(installTransport(engine, "no such transport", NULL) == NULL);
    CHECK(installTransport(engine, protocol, NULL) == transport);
    CHECK_GIVES(0, uninstallTransport(engine, protocol));
    CHECK_GIVES(0, discoverTopology(engine));

    CHECK_GIVES(0, getLocalIpAndPort(engine, text, sizeof text));
    CHECK(strncmp(text, "127.0.0.1:", 10) == 0 && strcmp(text, "127.0.0.1:9") != 0);
    memset(wide, 'x', sizeof wide);
    CHECK_GIVES(0, getLocalIpAndPort(engine, wide, sizeof wide));
    CHECK(strncmp(text, wide, sizeof wide - 1) == 0 && wide[sizeof wide - 1] == '\0');

    /* Its own name is the local segment. */
    CHECK_GIVES(LOCAL_SEGMENT, openSegment(engine, text));

    CHECK_GIVES(0, showLinks(engine, text, sizeof text, 0));
    CHECK(strstr(text, protocol) != NULL);
    CHECK_GIVES(0, showLinks(engine, text, sizeof text, 1));
    CHECK(text[0] == '{');
    enableGracefulShutdown(engine);
    destroyTransferEngine(engine);
}

static void discovery_installs_a_transport(void) {
    char memory[64] = "discovered";
    transfer_engine_t engine = createTransferEngine("P2PHANDSHAKE", "127.0.0.1", NULL, 0, 1);
    CHECK(engine != NULL);
    CHECK(installTransport(engine, "tcp", NULL) != NULL);
    CHECK_GIVES(0, registerLocalMemory(engine, memory, sizeof memory, "cpu:0", 1));
    CHECK_GIVES(STATUS_COMPLETED,
                upstream_move(engine, upstream_request(OPCODE_WRITE, memory, LOCAL_SEGMENT,
                                                       memory + 32, 16)));
    CHECK(strcmp(memory + 32, "discovered") == 0);
    destroyTransferEngine(engine);
}

static void bytes_move(const char *protocol) {
    char name[256];
    unsigned char *source = (unsigned char *)malloc(SIZE);
    unsigned char *target = (unsigned char *)calloc(1, SIZE);
    transfer_engine_t peer = upstream_engine(protocol, "peer");
    transfer_engine_t engine = upstream_engine(protocol, "own");
    transfer_request_t requests[100];
    transfer_request_t request;
    buffer_entry_t both[2];
    void *addresses[2];
    segment_id_t segment;
    batch_id_t batch;
    size_t index;
    int round;

    /* Memory registered in one call, with one that is refused as a whole before. */
    both[0].addr = target;
    both[0].length = SIZE / 2;
    both[1].addr = target + SIZE / 4;
    both[1].length = SIZE / 2;
    CHECK_GIVES(-7, registerLocalMemoryBatch(peer, both, 2, "cpu:0"));
    both[1].addr = target + SIZE / 2;
    CHECK_GIVES(0, registerLocalMemoryBatch(peer, both, 2, "cpu:0"));
    CHECK_GIVES(0, registerLocalMemory(engine, source, SIZE, "*", 0));

    upstream_name(protocol, "peer", peer, name, sizeof name);
    segment = openSegment(engine, name);
    CHECK_GIVES(1, segment);
    CHECK_GIVES(1, openSegment(engine, name));
    CHECK_GIVES(1, openSegmentNoCache(engine, name));
    CHECK_GIVES(0, warmupEfaSegment(engine, name));

    check_fill(source, SIZE, 3);
    request = upstream_request(OPCODE_WRITE, source, segment, target, SIZE / 2);
    CHECK_GIVES(STATUS_COMPLETED, upstream_move(engine, request));
    CHECK(memcmp(source, target, SIZE / 2) == 0);

    /* The same again through what is fetched anew. */
    CHECK_GIVES(0, syncSegmentCache(engine));
    CHECK_GIVES(0, closeSegment(engine, segment));
    CHECK_GIVES(0, removeLocalSegment(engine, name));
    CHECK_GIVES(1, openSegment(engine, name));
    check_fill(target, SIZE / 2, 4);
    request.opcode = OPCODE_READ;
    CHECK_GIVES(STATUS_COMPLETED, upstream_move(engine, request));
    CHECK(memcmp(source, target, SIZE / 2) == 0);

    /* Many in one batch, handed in by halves. */
    check_fill(source, SIZE, 5);
    for (index = 0; index < 100; index++) {
        size_t offset = index * 4096;
        requests[index] =
            upstream_request(OPCODE_WRITE, source + offset, segment, target + offset, 4096);
    }
    batch = allocateBatchID(engine, 100);
    CHECK(batch != INVALID_BATCH);
    CHECK((int64_t)batch >= 0);
    CHECK_GIVES(0, submitTransfer(engine, batch, requests, 50));
    CHECK_GIVES(2, submitTransfer(engine, batch, requests, 51));
    CHECK_GIVES(0, submitTransfer(engine, batch, requests + 50, 50));
    CHECK_GIVES(2, submitTransfer(engine, batch, requests, 1));
    for (index = 0; index < 100; index++) {
        transfer_status_t status;
        /* Not every task was seen to have ended. */
        CHECK_GIVES(4, freeBatchID(engine, batch));
        status = upstream_wait(engine, batch, index);
        CHECK_GIVES(STATUS_COMPLETED, status.status);
        CHECK_GIVES(4096, status.transferred_bytes);
    }
    CHECK_GIVES(0, freeBatchID(engine, batch));
    CHECK_GIVES(1, freeBatchID(engine, batch));
    CHECK(memcmp(source, target, 100 * 4096) == 0);

    /* Nothing and no bytes are done at once. */
    batch = allocateBatchID(engine, 0);
    CHECK_GIVES(0, submitTransfer(engine, batch, NULL, 0));
    CHECK_GIVES(2, submitTransfer(engine, batch, requests, 1));
    CHECK_GIVES(0, freeBatchID(engine, batch));
    request.length = 0;
    CHECK_GIVES(STATUS_COMPLETED, upstream_move(engine, request));

    /* Outside the peer's memory: it fails, and does so again. */
    for (round = 0; round < 2; round++) {
        request = upstream_request(OPCODE_WRITE, source, segment, target + SIZE, 4096);
        CHECK_GIVES(STATUS_FAILED, upstream_move(engine, request));
    }

    /* Unregistered: refused here, and refused there. */
    addresses[0] = target;
    addresses[1] = source;
    CHECK_GIVES(-3, unregisterLocalMemoryBatch(peer, addresses, 2));
    addresses[1] = target + SIZE / 2;
    CHECK_GIVES(0, unregisterLocalMemoryBatch(peer, addresses, 2));
    request = upstream_request(OPCODE_WRITE, source, segment, target, 4096);
    CHECK_GIVES(STATUS_FAILED, upstream_move(engine, request));
    CHECK_GIVES(0, unregisterLocalMemory(engine, source));
    CHECK_GIVES(-3, unregisterLocalMemory(engine, source));
    batch = allocateBatchID(engine, 1);
    CHECK_GIVES(3, submitTransfer(engine, batch, &request, 1));
    CHECK_GIVES(0, freeBatchID(engine, batch));

    /* A batch that is never freed goes with its engine. */
    CHECK(allocateBatchID(engine, 100) != INVALID_BATCH);
    destroyTransferEngine(engine);
    destroyTransferEngine(peer);
    free(source);
    free(target);
}

int main(void) {
    int descriptors;
    int threads;
    check_tool();
    names_and_transports("tcp");
    /* What a process keeps from its first engine on is not a leak. */
    descriptors = check_open_descriptors();
    threads = check_threads();
    bytes_move("loopback");
    bytes_move("tcp");
    discovery_installs_a_transport();
    CHECK_GIVES(descriptors, check_open_descriptors());
    CHECK_GIVES(threads, check_threads());
    return check_end();
}
