/* A program that knows only the upstream header and links with -ltransfer_engine: two processes
 * that find each other without a service, write, read back and compare, and a notification. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "transfer_engine_c.h"

#define SIZE (4u << 20)
#define BLOCKS 64

/* What the target tells the initiator. */
struct hello {
    char name[128];
    uint64_t address;
};

#define NEED(condition)                                                        \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

static transfer_engine_t start(void) {
    transfer_engine_t engine =
        createTransferEngine("P2PHANDSHAKE", "127.0.0.1:12345", "127.0.0.1", 12345, 0);
    NEED(engine != NULL);
    NEED(installTransport(engine, "tcp", NULL) != NULL);
    return engine;
}

static int target(int to_initiator, int from_initiator) {
    unsigned char *memory = calloc(1, SIZE);
    transfer_engine_t engine = start();
    notify_msg_t *list;
    struct hello hello;
    char byte;
    int size = 0;
    memset(&hello, 0, sizeof hello);
    NEED(registerLocalMemory(engine, memory, SIZE, "cpu:0", 1) == 0);
    NEED(getLocalIpAndPort(engine, hello.name, sizeof hello.name) == 0);
    hello.address = (uint64_t)(uintptr_t)memory;
    NEED(write(to_initiator, &hello, sizeof hello) == (ssize_t)sizeof hello);
    /* Until the initiator says it is done, or is gone. */
    while (read(from_initiator, &byte, 1) < 0) {
    }
    list = getNotifsFromEngine(engine, &size);
    NEED(size == 1 && strcmp(list[0].name, "kv") == 0 && strcmp(list[0].msg, "written") == 0);
    NEED(freeNotifsMsgBuf(list, size) == 0);
    destroyTransferEngine(engine);
    free(memory);
    return 0;
}

static void run(transfer_engine_t engine, struct transfer_request *requests, const char *message) {
    batch_id_t batch = allocateBatchID(engine, BLOCKS);
    char name[] = "kv";
    char text[32];
    size_t task;
    NEED(batch != INVALID_BATCH);
    if (message != NULL) {
        notify_msg_t notify;
        snprintf(text, sizeof text, "%s", message);
        notify.name = name;
        notify.msg = text;
        NEED(submitTransferWithNotify(engine, batch, requests, BLOCKS, notify) == 0);
    } else {
        NEED(submitTransfer(engine, batch, requests, BLOCKS) == 0);
    }
    for (task = 0; task < BLOCKS; task++) {
        struct transfer_status status;
        do {
            NEED(getTransferStatus(engine, batch, task, &status) == 0);
        } while (status.status == STATUS_WAITING);
        NEED(status.status == STATUS_COMPLETED);
        NEED(status.transferred_bytes == SIZE / BLOCKS);
    }
    NEED(freeBatchID(engine, batch) == 0);
}

static void initiate(const struct hello *hello) {
    unsigned char *memory = malloc(2 * SIZE);
    transfer_engine_t engine = start();
    struct transfer_request requests[BLOCKS];
    segment_id_t segment;
    size_t index;
    NEED(registerLocalMemory(engine, memory, 2 * SIZE, "*", 1) == 0);
    segment = openSegment(engine, hello->name);
    NEED(segment == 1);
    for (index = 0; index < SIZE; index++) memory[index] = (unsigned char)(index * 7 + index / 251);
    memset(memory + SIZE, 0, SIZE);
    for (index = 0; index < BLOCKS; index++) {
        size_t offset = index * (SIZE / BLOCKS);
        memset(&requests[index], 0, sizeof requests[index]);
        requests[index].opcode = OPCODE_WRITE;
        requests[index].source = memory + offset;
        requests[index].target_id = segment;
        requests[index].target_offset = hello->address + offset;
        requests[index].length = SIZE / BLOCKS;
    }
    run(engine, requests, "written");
    for (index = 0; index < BLOCKS; index++) {
        requests[index].opcode = OPCODE_READ;
        requests[index].source = (unsigned char *)requests[index].source + SIZE;
    }
    run(engine, requests, NULL);
    NEED(memcmp(memory, memory + SIZE, SIZE) == 0);
    destroyTransferEngine(engine);
    free(memory);
}

int main(void) {
    struct hello hello;
    int down[2];
    int up[2];
    int status = 0;
    pid_t child;
    NEED(pipe(down) == 0 && pipe(up) == 0);
    /* Forked before this process has a thread. */
    child = fork();
    NEED(child >= 0);
    if (child == 0) {
        close(down[1]);
        close(up[0]);
        alarm(120);
        exit(target(up[1], down[0]));
    }
    alarm(120);
    close(down[0]);
    close(up[1]);
    NEED(read(up[0], &hello, sizeof hello) == (ssize_t)sizeof hello);
    initiate(&hello);
    close(down[1]);
    NEED(waitpid(child, &status, 0) == child);
    NEED(status == 0);
    return 0;
}
