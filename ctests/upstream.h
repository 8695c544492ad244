/* Helpers for programs of the upstream C API. Both headers of the library are in scope here, which
 * also shows that they can be. */
#ifndef MOONCAKE_CTESTS_UPSTREAM_H
#define MOONCAKE_CTESTS_UPSTREAM_H

#include <time.h>

#include "check.h"
#include "mooncake/transfer_engine_c.h"

/* The call gives this number. */
#define CHECK_GIVES(expected, call)                                                        \
    do {                                                                                   \
        long long check_value_ = (long long)(call);                                        \
        if (check_value_ != (long long)(expected))                                         \
            check_failed(__FILE__, __LINE__, "%s gave %lld, not %lld (last error: %s)", #call, \
                         check_value_, (long long)(expected), check_last_error());         \
    } while (0)

/* An engine of this process only ("loopback"), or one on the network ("tcp"). */
static inline transfer_engine_t upstream_engine(const char *protocol, const char *name) {
    int loopback = strcmp(protocol, "loopback") == 0;
    transfer_engine_t engine = createTransferEngine(
        loopback ? "memory://upstream" : "P2PHANDSHAKE", loopback ? name : "127.0.0.1", NULL, 0, 0);
    if (engine == NULL || installTransport(engine, protocol, NULL) == NULL) {
        check_failed(__FILE__, __LINE__, "no engine over %s: %s", protocol, check_last_error());
        exit(1);
    }
    return engine;
}

/* The name under which a peer opens the engine. */
static inline void upstream_name(const char *protocol, const char *name, transfer_engine_t engine,
                                 char *buffer, size_t capacity) {
    if (strcmp(protocol, "loopback") == 0) {
        snprintf(buffer, capacity, "%s", name);
    } else {
        CHECK_GIVES(0, getLocalIpAndPort(engine, buffer, capacity));
    }
}

static inline transfer_request_t upstream_request(int opcode, void *source, segment_id_t target,
                                                  const void *remote, size_t length) {
    transfer_request_t request;
    memset(&request, 0, sizeof request);
    request.opcode = opcode;
    request.source = source;
    request.target_id = target;
    request.target_offset = check_address(remote);
    request.length = length;
    return request;
}

/* Polls a task to its end, or for 60 s; gives its last status. */
static inline transfer_status_t upstream_wait(transfer_engine_t engine, batch_id_t batch,
                                              size_t task) {
    transfer_status_t status;
    time_t end = time(NULL) + 60;
    memset(&status, 0, sizeof status);
    do {
        CHECK_GIVES(0, getTransferStatus(engine, batch, task, &status));
    } while (status.status == STATUS_WAITING && check_failures == 0 && time(NULL) < end);
    return status;
}

/* Moves one request in a batch of its own; gives the status of its task. */
static inline int upstream_move(transfer_engine_t engine, transfer_request_t request) {
    transfer_status_t status;
    batch_id_t batch = allocateBatchID(engine, 1);
    CHECK(batch != INVALID_BATCH);
    CHECK_GIVES(0, submitTransfer(engine, batch, &request, 1));
    status = upstream_wait(engine, batch, 0);
    if (status.status == STATUS_COMPLETED) CHECK_GIVES(request.length, status.transferred_bytes);
    CHECK_GIVES(0, freeBatchID(engine, batch));
    return status.status;
}

#endif
