/* Notifications of the upstream C API: they arrive, in order, and belong to the caller. */
#include "upstream.h"

static notify_msg_t text(char *name, char *msg) {
    notify_msg_t message;
    message.name = name;
    message.msg = msg;
    return message;
}

/* Takes notifications until there are `wanted`, for 30 s. */
static notify_msg_t *take(transfer_engine_t engine, int wanted) {
    time_t end = time(NULL) + 30;
    notify_msg_t *list = NULL;
    int size = 0;
    while (list == NULL && time(NULL) < end) list = getNotifsFromEngine(engine, &size);
    CHECK_GIVES(wanted, size);
    if (size != wanted) exit(check_end());
    return list;
}

int main(void) {
    static char memory[4096];
    char name[256];
    char first[] = "first";
    char second[] = "second";
    char empty[] = "";
    char words[] = "a text \xc3\xa4";
    char no_text[] = "a \xff\xfe\x01";
    const char replaced[] = "a \xef\xbf\xbd\xef\xbf\xbd\x01";
    transfer_engine_t peer = upstream_engine("tcp", "peer");
    transfer_engine_t engine = upstream_engine("tcp", "own");
    transfer_request_t requests[2];
    transfer_status_t status;
    notify_msg_t *list;
    segment_id_t segment;
    batch_id_t batch;
    int size = 3;
    check_tool();

    upstream_name("tcp", "peer", peer, name, sizeof name);
    segment = openSegment(engine, name);
    CHECK_GIVES(1, segment);
    CHECK(getNotifsFromEngine(peer, &size) == NULL);
    CHECK_GIVES(0, size);

    /* In the order they were sent, each once. */
    CHECK_GIVES(0, genNotifyInEngine(engine, (uint64_t)segment, text(first, words)));
    CHECK_GIVES(0, genNotifyInEngine(engine, (uint64_t)segment, text(second, empty)));
    /* Bytes that are no text are taken too, as upstream does; each arrives as U+FFFD. */
    CHECK_GIVES(0, genNotifyInEngine(engine, (uint64_t)segment, text(no_text, no_text)));
    CHECK_GIVES(-1, genNotifyInEngine(engine, (uint64_t)segment, text(NULL, words)));
    CHECK_GIVES(-1, genNotifyInEngine(engine, (uint64_t)segment, text(words, NULL)));
    list = take(peer, 3);
    CHECK(strcmp(list[0].name, first) == 0 && strcmp(list[0].msg, words) == 0);
    CHECK(strcmp(list[1].name, second) == 0 && strcmp(list[1].msg, empty) == 0);
    CHECK(strcmp(list[2].name, replaced) == 0 && strcmp(list[2].msg, replaced) == 0);
    CHECK_GIVES(0, freeNotifsMsgBuf(list, 3));
    CHECK(getNotifsFromEngine(peer, &size) == NULL);

    /* To oneself. The memory is of the C library, so C may free it by itself. */
    CHECK_GIVES(0, genNotifyInEngine(engine, LOCAL_SEGMENT, text(first, first)));
    list = take(engine, 1);
    free(list[0].name);
    free(list[0].msg);
    free(list);

    /* After a batch: only when all of it is done and was asked about; then it is there. */
    CHECK_GIVES(0, registerLocalMemory(peer, memory, sizeof memory / 2, "*", 1));
    CHECK_GIVES(0, registerLocalMemory(engine, memory + 2048, sizeof memory / 2, "*", 1));
    requests[0] = upstream_request(OPCODE_WRITE, memory + 2048, segment, memory, 512);
    requests[1] = upstream_request(OPCODE_WRITE, memory + 2560, segment, memory + 512, 512);
    memset(memory + 2048, 'n', 1024);
    batch = allocateBatchID(engine, 2);
    CHECK_GIVES(0, submitTransferWithNotify(engine, batch, requests, 2, text(second, words)));
    CHECK_GIVES(STATUS_COMPLETED, upstream_wait(engine, batch, 1).status);
    CHECK_GIVES(STATUS_COMPLETED, upstream_wait(engine, batch, 0).status);
    list = getNotifsFromEngine(peer, &size);
    CHECK_GIVES(1, size);
    CHECK(list != NULL && strcmp(list[0].name, second) == 0 && strcmp(list[0].msg, words) == 0);
    CHECK_GIVES(0, freeNotifsMsgBuf(list, size));
    CHECK(memory[0] == 'n' && memory[1023] == 'n' && memory[1024] == '\0');
    /* Asking again does not send it again. */
    CHECK_GIVES(0, getTransferStatus(engine, batch, 0, &status));
    CHECK_GIVES(0, freeBatchID(engine, batch));

    /* After a batch of which a part failed: never. */
    requests[1].target_offset += sizeof memory;
    batch = allocateBatchID(engine, 2);
    CHECK_GIVES(0, submitTransferWithNotify(engine, batch, requests, 2, text(first, first)));
    CHECK_GIVES(STATUS_COMPLETED, upstream_wait(engine, batch, 0).status);
    CHECK_GIVES(STATUS_FAILED, upstream_wait(engine, batch, 1).status);
    CHECK_GIVES(0, freeBatchID(engine, batch));
    CHECK(getNotifsFromEngine(peer, &size) == NULL);
    CHECK_GIVES(0, size);

    /* Nobody there any more. */
    destroyTransferEngine(peer);
    CHECK(genNotifyInEngine(engine, (uint64_t)segment, text(first, first)) < 0);
    destroyTransferEngine(engine);
    return check_end();
}
