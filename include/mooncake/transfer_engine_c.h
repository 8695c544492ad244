/*
 * transfer_engine_c.h - the C API of the upstream transfer engine, as this library has it.
 *
 * Generated from src/capi/upstream by tests/upstream_header.rs; changes here are overwritten.
 *
 * For programs written against upstream's header of the same name: names, layouts and numbers are
 * those of 0.3.7.post2, with the functions added up to 0.3.13. Link with -ltransfer_engine, which
 * is another name of libmooncake. New programs use mooncake.h.
 *
 * Return values. Most functions give 0 or a negative number, those of batches 0 or a positive one:
 * 1 invalid argument, 2 too many requests, 3 memory not registered, 4 batch busy, 7 memory
 * registered already, 8 no such transport, 101 name not found, 102 socket, 103 malformed message,
 * 104 rejected by the peer, 200 metadata, 202 engine, 302 memory. mc_last_error_message of
 * mooncake.h tells the cause of the calling thread's last failure.
 *
 * Handles and ids that are wrong, NULL or destroyed are a return value, never a crash. Texts and
 * arrays are read during the call only. Every function may be called from any thread.
 */
#ifndef TRANSFER_ENGINE_C
#define TRANSFER_ENGINE_C

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Not used by any function; for programs that mention it. */
struct segment_desc {
    int type;
    union {
        struct {
            void *addr;
            uint64_t size;
            const char *location;
        } rdma;
        struct {
            const char *file_path;
            const char *subsystem_name;
            const char *proto;
            const char *ip;
            uint64_t port;
        } nvmeof;
    } desc_;
};
typedef struct segment_desc segment_desc_t;

/** From the segment to local memory. */
#define OPCODE_READ 0
/** From local memory to the segment. */
#define OPCODE_WRITE 1
/** Under way. */
#define STATUS_WAITING 0
/** Not given by this library. */
#define STATUS_PENDING 1
/** Not given by this library. */
#define STATUS_INVALID 2
/** Not given by this library. */
#define STATUS_CANCELED 3
/** All bytes are where they belong. */
#define STATUS_COMPLETED 4
/** It took longer than MC_SLICE_TIMEOUT, which is the only way to this status. */
#define STATUS_TIMEOUT 5
/** It failed. */
#define STATUS_FAILED 6

/** An engine; the value of a failed creation is NULL. */
typedef void *transfer_engine_t;

/** A transport of an engine; belongs to the engine. */
typedef void *transport_t;

/** Load of one network adapter. */
struct nic_load_stat {
    /** Its name. */
    char device_name[64];
    /** Bytes on their way. */
    uint64_t inflight_bytes;
    /** Smoothed bits per second. */
    double ewma_bandwidth_bps;
};

/** Load of one network adapter. */
typedef struct nic_load_stat nic_load_stat_t;

/** An open segment of one engine: 0 is its own, others count from 1. */
typedef int32_t segment_id_t;

/** A range of memory. */
struct buffer_entry {
    /** Its first byte. */
    void *addr;
    /** Its length in bytes. */
    size_t length;
};

/** A range of memory. */
typedef struct buffer_entry buffer_entry_t;

/** A batch of one engine. */
typedef uint64_t batch_id_t;

/** One read or write. */
struct transfer_request {
    /** OPCODE_READ or OPCODE_WRITE. */
    int opcode;
    /** First local byte; in use until the task has ended. */
    void *source;
    /** Whose memory is read or written. */
    segment_id_t target_id;
    /** Address of the first byte there. */
    uint64_t target_offset;
    /** How many bytes. */
    uint64_t length;
};

/** A notification: two NUL-terminated texts. */
struct notify_msg {
    /** What it is about. */
    char *name;
    /** Its content. */
    char *msg;
};

/** A notification. */
typedef struct notify_msg notify_msg_t;

/** What became of one request. */
struct transfer_status {
    /** One of STATUS_*. */
    int status;
    /** Bytes moved so far. */
    uint64_t transferred_bytes;
};

/** The same as segment_id_t. */
typedef int32_t segment_handle_t;

/** One read or write. */
typedef struct transfer_request transfer_request_t;

/** What became of one request. */
typedef struct transfer_status transfer_status_t;

/** The segment of the engine itself. */
#define LOCAL_SEGMENT 0
/** What allocateBatchID gives when there is no batch to give. */
#define INVALID_BATCH UINT64_MAX

/**
 * Creates an engine: starts its threads, opens its ports and publishes its segment.
 *
 * @param metadata_conn_string  where peers find each other: "P2PHANDSHAKE", or the address of a
 *                              metadata service.
 * @param local_server_name     name of the engine's segment, "host" or "host:port". With
 *                              "P2PHANDSHAKE" the port is replaced by the one that was bound.
 * @param ip_or_host_name       ignored, as upstream does; may be NULL.
 * @param rpc_port              ignored, as upstream does.
 * @param auto_discover         not 0: choose and install a transport; 0: installTransport will,
 *                              unless MC_FORCE_TCP is set.
 * @return the engine, owned by the caller until destroyTransferEngine; NULL on failure, also for
 *         an unknown kind of metadata service.
 *
 * Further settings come from the environment (MC_* variables of docs/configuration.md).
 */
transfer_engine_t createTransferEngine(const char *metadata_conn_string,
                                       const char *local_server_name,
                                       const char *ip_or_host_name,
                                       uint64_t rpc_port,
                                       int auto_discover);

/**
 * Destroys an engine with its batches, cancels what is in flight and withdraws its segment.
 *
 * When it returns no memory registered with the engine is touched any more. Destroying an engine
 * twice, or NULL, does nothing.
 *
 * @param engine  the engine; the handle is invalid afterwards.
 */
void destroyTransferEngine(transfer_engine_t engine);

/**
 * Looks at the host's devices, again if that was done before. Transports that are installed keep
 * what they have. Blocks for some milliseconds.
 *
 * @param engine  the engine.
 * @return 0, or -1 for a handle that is not an engine.
 */
int discoverTopology(transfer_engine_t engine);

/**
 * Copies the published address of the engine's handshake plane, "host:port"; an IPv6 host has no
 * brackets.
 *
 * @param engine   the engine.
 * @param buf_out  receives the text, cut to fit and NUL-terminated.
 * @param buf_len  bytes in buf_out.
 * @return 0, or -1 for a handle that is not an engine or a NULL buffer.
 */
int getLocalIpAndPort(transfer_engine_t engine, char *buf_out, size_t buf_len);

/**
 * Adds a transport to an engine; memory registered before is registered with it too.
 *
 * @param engine  the engine.
 * @param proto   "tcp"; other names upstream knows are refused where this build lacks them.
 * @param args    NULL, or an array whose first entry is a preference matrix of network adapters
 *                (JSON) or NULL. The engine then uses this matrix instead of the host's own. A
 *                text that is none is logged and ignored.
 * @return the transport, which belongs to the engine; the same one when it was installed before;
 *         NULL on failure.
 */
transport_t installTransport(transfer_engine_t engine, const char *proto, void **args);

/**
 * Does nothing, as upstream: a transport lives as long as its engine.
 *
 * @return 0, or -1 for a handle that is not an engine.
 */
int uninstallTransport(transfer_engine_t engine, const char *proto);

/**
 * Does nothing: this library installs no signal handlers, and destroyTransferEngine always leaves
 * in good order.
 *
 * @param engine  any value.
 */
void enableGracefulShutdown(transfer_engine_t engine);

/**
 * Tells the load of the engine's network adapters. Transports without adapters have none.
 *
 * @param engine  the engine.
 * @param stats   receives up to *count entries.
 * @param count   places in stats; receives how many adapters there are.
 * @return 0, or -1 for a handle that is not an engine or a NULL pointer.
 */
int getNicLoadStats(transfer_engine_t engine, nic_load_stat_t *stats, size_t *count);

/**
 * Copies a description of the engine's transports and of the peers it is connected to.
 *
 * Its form may change between versions; it is meant for people and logs.
 *
 * @param engine   the engine.
 * @param buf_out  receives the text, cut to fit and NUL-terminated.
 * @param buf_len  bytes in buf_out; not 0.
 * @param json     not 0: as a JSON object, else as lines.
 * @return 0, or -1 for a handle that is not an engine or no buffer.
 */
int showLinks(transfer_engine_t engine, char *buf_out, size_t buf_len, int json);

/**
 * Opens the segment of the engine called segment_name, or finds it open already.
 *
 * @param engine        the engine.
 * @param segment_name  a peer's name, or the engine's own; leading slashes are dropped.
 * @return the segment, valid until the engine is destroyed; -1 on failure.
 *
 * Blocks while metadata is fetched.
 */
segment_id_t openSegment(transfer_engine_t engine, const char *segment_name);

/**
 * As openSegment, but what is known of an open segment is fetched again first. Where that fails
 * the segment is given as it was known.
 */
segment_id_t openSegmentNoCache(transfer_engine_t engine, const char *segment_name);

/**
 * Does nothing, as upstream: a segment stays open until its engine is destroyed.
 *
 * @return 0, or -1 for a handle that is not an engine.
 */
int closeSegment(transfer_engine_t engine, segment_id_t segment_id);

/**
 * Forgets what is known of a segment: opening it by that name fetches it again. Nothing is
 * removed at the peer or in the metadata service.
 *
 * @param engine        the engine.
 * @param segment_name  the name.
 * @return 0, or -1 for an empty name or a handle that is not an engine.
 */
int removeLocalSegment(transfer_engine_t engine, const char *segment_name);

/**
 * Fetches what is known of all open segments again. A segment for which that fails stays as it
 * was known; one whose peer is silent is waited for one second, and then not for half a minute.
 *
 * @param engine  the engine.
 * @return 0, or -1 for a handle that is not an engine.
 *
 * Blocks while metadata is fetched.
 */
int syncSegmentCache(transfer_engine_t engine);

/**
 * Does nothing: connections of the transports of this library need no preparation.
 *
 * @return 0, or -1 for a handle that is not an engine.
 */
int warmupEfaSegment(transfer_engine_t engine, const char *segment_name);

/**
 * Registers memory, so that the engine's and its peers' transfers may use it.
 *
 * @param engine             the engine.
 * @param addr               its first byte.
 * @param length             its length in bytes.
 * @param location           where it lives, for example "cpu:0"; "*" or NULL = find out.
 * @param remote_accessible  ignored, as upstream does: peers always may use it.
 * @return 0; -7 when part or all of it is registered already; -1 for a length of zero or a handle
 *         that is not an engine; another negative number otherwise.
 */
int registerLocalMemory(transfer_engine_t engine,
                        void *addr,
                        size_t length,
                        const char *location,
                        int remote_accessible);

/**
 * Takes a registration back. When it returns, no transfer and no peer touches the memory any more.
 *
 * @param engine  the engine.
 * @param addr    first byte of registered memory.
 * @return 0; -3 when none begins there; -1 for a handle that is not an engine.
 */
int unregisterLocalMemory(transfer_engine_t engine, void *addr);

/**
 * Registers several ranges: all of them, or none when one is refused.
 *
 * @param engine       the engine.
 * @param buffer_list  the ranges; ignored if buffer_len is 0.
 * @param buffer_len   how many.
 * @param location     where they live, as in registerLocalMemory.
 * @return as registerLocalMemory.
 */
int registerLocalMemoryBatch(transfer_engine_t engine,
                             buffer_entry_t *buffer_list,
                             size_t buffer_len,
                             const char *location);

/**
 * Takes several registrations back: all of them, or none when one does not exist.
 *
 * @param engine     the engine.
 * @param addr_list  first bytes of registered memory; ignored if addr_len is 0.
 * @param addr_len   how many.
 * @return as unregisterLocalMemory.
 */
int unregisterLocalMemoryBatch(transfer_engine_t engine, void **addr_list, size_t addr_len);

/**
 * Creates a batch.
 *
 * @param engine      the engine that will move the bytes.
 * @param batch_size  how many requests may be submitted in its life.
 * @return the batch, owned by the caller until freeBatchID or destroyTransferEngine;
 *         INVALID_BATCH on failure.
 */
batch_id_t allocateBatchID(transfer_engine_t engine, size_t batch_size);

/**
 * Submits requests: all of them, or none when one is refused.
 *
 * @param engine    the engine.
 * @param batch_id  its batch.
 * @param entries   copied; ignored if count is 0.
 * @param count     requests in it. Tasks are numbered in the order of submission.
 * @return 0; 1 for a wrong batch, segment, operation or pointer; 2 when the batch is too small; 3
 *         when source is not registered; another positive number otherwise.
 */
int submitTransfer(transfer_engine_t engine,
                   batch_id_t batch_id,
                   struct transfer_request *entries,
                   size_t count);

/**
 * As submitTransfer, and sends a notification to the segment of the first request: from inside
 * the call of getTransferStatus that finds the whole batch completed.
 *
 * @param engine, batch_id, entries, count  as in submitTransfer; count is not 0.
 * @param notify_msg                        two texts, as in genNotifyInEngine; copied.
 * @return as submitTransfer.
 */
int submitTransferWithNotify(transfer_engine_t engine,
                             batch_id_t batch_id,
                             struct transfer_request *entries,
                             size_t count,
                             notify_msg_t notify_msg);

/**
 * Tells what became of a task, and moves bytes while it is asked.
 *
 * @param engine    the engine.
 * @param batch_id  its batch.
 * @param task_id   the task, from 0 in the order of submission.
 * @param status    receives the status; written only if 0 is returned.
 * @return 0; 1 for a wrong batch, task or pointer.
 */
int getTransferStatus(transfer_engine_t engine,
                      batch_id_t batch_id,
                      size_t task_id,
                      struct transfer_status *status);

/**
 * Frees a batch.
 *
 * @param engine    the engine.
 * @param batch_id  its batch; invalid afterwards if 0 is returned.
 * @return 0; 4 unless getTransferStatus has shown every task of it as ended; 1 for a wrong batch.
 */
int freeBatchID(transfer_engine_t engine, batch_id_t batch_id);

/**
 * Sends a notification to the engine that owns a segment and waits until it has it.
 *
 * @param engine      the engine.
 * @param target_id   an open segment.
 * @param notify_msg  two texts, copied; what is not UTF-8 in them arrives as U+FFFD.
 * @return 0; -200 for an unknown segment; another negative number when the peer did not take it.
 */
int genNotifyInEngine(transfer_engine_t engine, uint64_t target_id, notify_msg_t notify_msg);

/**
 * Takes the notifications that arrived since the last call, oldest first.
 *
 * @param engine  the engine.
 * @param size    receives how many.
 * @return an array of *size entries, owned by the caller until freeNotifsMsgBuf; NULL if there is
 *         none or on failure.
 */
notify_msg_t *getNotifsFromEngine(transfer_engine_t engine, int *size);

/**
 * Frees what getNotifsFromEngine gave.
 *
 * @param msg   the array; NULL does nothing.
 * @param size  its entries, as getNotifsFromEngine told.
 * @return 0, or -1 for a negative size.
 */
int freeNotifsMsgBuf(notify_msg_t *msg, int size);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* TRANSFER_ENGINE_C */
