/* The binary interface of the upstream C API: sizes, offsets and numbers that programs were
 * compiled with. Fails when it is compiled. */
#include "mooncake/transfer_engine_c.h"

#define SAME(what, value) _Static_assert((what) == (value), #what)

SAME(sizeof(transfer_engine_t), 8);
SAME(sizeof(transport_t), 8);
SAME(sizeof(segment_id_t), 4);
SAME(sizeof(segment_handle_t), 4);
SAME(sizeof(batch_id_t), 8);

SAME(sizeof(struct transfer_request), 40);
SAME(offsetof(struct transfer_request, opcode), 0);
SAME(offsetof(struct transfer_request, source), 8);
SAME(offsetof(struct transfer_request, target_id), 16);
SAME(offsetof(struct transfer_request, target_offset), 24);
SAME(offsetof(struct transfer_request, length), 32);

SAME(sizeof(struct transfer_status), 16);
SAME(offsetof(struct transfer_status, status), 0);
SAME(offsetof(struct transfer_status, transferred_bytes), 8);

SAME(sizeof(struct buffer_entry), 16);
SAME(offsetof(struct buffer_entry, addr), 0);
SAME(offsetof(struct buffer_entry, length), 8);

SAME(sizeof(struct notify_msg), 16);
SAME(offsetof(struct notify_msg, name), 0);
SAME(offsetof(struct notify_msg, msg), 8);

SAME(sizeof(struct nic_load_stat), 80);
SAME(offsetof(struct nic_load_stat, inflight_bytes), 64);
SAME(offsetof(struct nic_load_stat, ewma_bandwidth_bps), 72);

SAME(sizeof(struct segment_desc), 48);
SAME(offsetof(struct segment_desc, desc_), 8);

SAME(LOCAL_SEGMENT, 0);
SAME(INVALID_BATCH, 18446744073709551615ull);
SAME(OPCODE_READ, 0);
SAME(OPCODE_WRITE, 1);
SAME(STATUS_WAITING, 0);
SAME(STATUS_PENDING, 1);
SAME(STATUS_INVALID, 2);
SAME(STATUS_CANCELED, 3);
SAME(STATUS_COMPLETED, 4);
SAME(STATUS_TIMEOUT, 5);
SAME(STATUS_FAILED, 6);

/* The functions have the types that callers were compiled with. */
transfer_engine_t (*const create)(const char *, const char *, const char *, uint64_t,
                                  int) = createTransferEngine;
void (*const destroy)(transfer_engine_t) = destroyTransferEngine;
int (*const discover)(transfer_engine_t) = discoverTopology;
int (*const local)(transfer_engine_t, char *, size_t) = getLocalIpAndPort;
transport_t (*const install)(transfer_engine_t, const char *, void **) = installTransport;
int (*const uninstall)(transfer_engine_t, const char *) = uninstallTransport;
segment_id_t (*const open_cached)(transfer_engine_t, const char *) = openSegment;
segment_id_t (*const open_fresh)(transfer_engine_t, const char *) = openSegmentNoCache;
int (*const close_one)(transfer_engine_t, segment_id_t) = closeSegment;
int (*const warm)(transfer_engine_t, const char *) = warmupEfaSegment;
int (*const remove_one)(transfer_engine_t, const char *) = removeLocalSegment;
int (*const register_one)(transfer_engine_t, void *, size_t, const char *,
                          int) = registerLocalMemory;
int (*const unregister_one)(transfer_engine_t, void *) = unregisterLocalMemory;
int (*const register_many)(transfer_engine_t, buffer_entry_t *, size_t,
                           const char *) = registerLocalMemoryBatch;
int (*const unregister_many)(transfer_engine_t, void **, size_t) = unregisterLocalMemoryBatch;
batch_id_t (*const allocate)(transfer_engine_t, size_t) = allocateBatchID;
int (*const submit)(transfer_engine_t, batch_id_t, struct transfer_request *,
                    size_t) = submitTransfer;
int (*const submit_notify)(transfer_engine_t, batch_id_t, struct transfer_request *, size_t,
                           notify_msg_t) = submitTransferWithNotify;
notify_msg_t *(*const take)(transfer_engine_t, int *) = getNotifsFromEngine;
int (*const free_taken)(notify_msg_t *, int) = freeNotifsMsgBuf;
int (*const notify)(transfer_engine_t, uint64_t, notify_msg_t) = genNotifyInEngine;
int (*const status)(transfer_engine_t, batch_id_t, size_t,
                    struct transfer_status *) = getTransferStatus;
int (*const free_batch)(transfer_engine_t, batch_id_t) = freeBatchID;
int (*const sync_all)(transfer_engine_t) = syncSegmentCache;
int (*const load)(transfer_engine_t, nic_load_stat_t *, size_t *) = getNicLoadStats;
void (*const graceful)(transfer_engine_t) = enableGracefulShutdown;
int (*const links)(transfer_engine_t, char *, size_t, int) = showLinks;

int main(void) { return 0; }
