/*
 * mooncake.h - moves and pools KV cache between LLM inference processes.
 *
 * Generated from src/capi by tests/header.rs; changes here are overwritten.
 *
 * An engine owns registered memory, threads and connections. Its registered memory is a segment
 * that peers open by name, and then read or write inside it.
 *
 * Names. mc_<noun>_<verb>; the object comes first, outputs come last and end in _out. Units end a
 * name: timeout_ms, length_bytes.
 *
 * Statuses. Functions return mc_status_t: 0 success, positive "not yet", negative failure. Besides
 * those named below, every function that takes a handle can return MC_ERR_INVALID_HANDLE (NULL,
 * another type, destroyed), MC_ERR_FORKED (it belongs to the parent process) and MC_ERR_PANIC (a
 * defect of the library was caught). mc_last_error_message has the text of the calling thread's
 * last failure. On failure outputs are left as they are, except handles, which become NULL or 0.
 *
 * Handles. Pointers to opaque types are handles: keep them, compare them, never look behind them.
 * Using a destroyed or invented handle is a status and touches no memory. Whoever created a handle
 * destroys it, once; destroying NULL does nothing.
 *
 * Memory. Whatever a call is given it reads during the call only, unless said otherwise. Pointers
 * must be aligned and readable (outputs: writable) as their type says; a NULL one that is needed
 * is MC_ERR_INVALID_ARGUMENT. Texts are UTF-8, NUL-terminated, or given with their length.
 *
 * Structs that a program fills begin with struct_size = sizeof(the struct). Set the rest to zero,
 * then what you need: zero is default. Programs built with an older header keep working.
 *
 * Threads. Every function may be called from any thread at any time, also on one handle at once.
 * The library calls nothing of the program but the log sink. It installs no signal handlers, and
 * has no thread before the first mc_engine_create and after the last mc_engine_destroy.
 *
 * Processes. A forked child cannot use the handles of its parent, but can create its own.
 * Unloading is not supported: dlclose keeps the library in memory.
 */
#ifndef MOONCAKE_H
#define MOONCAKE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version ----------------------------------------------------------------------------- */
/** Version this header belongs to, as text. */
#define MC_VERSION_STRING "0.1.0"

/** Major version this header belongs to. */
#define MC_VERSION_MAJOR 0
/** Minor version this header belongs to. */
#define MC_VERSION_MINOR 1
/** Patch version this header belongs to. */
#define MC_VERSION_PATCH 0
/** Version this header belongs to, as one number: major << 16 | minor << 8 | patch. */
#define MC_VERSION_NUMBER 256
/** ABI this header describes. It moves only when a program built against an older header breaks. */
#define MC_ABI_VERSION 0

/**
 * Returns the version of the loaded library as text, for example "0.1.0".
 *
 * @return a static text; never NULL.
 *
 * Threads: any. Blocks: no. Since: 0.1.
 */
const char *mc_version_string(void);

/**
 * Returns the version of the loaded library as a number comparable with MC_VERSION_NUMBER.
 *
 * @return major << 16 | minor << 8 | patch.
 *
 * Threads: any. Blocks: no. Since: 0.1.
 */
uint32_t mc_version_number(void);

/**
 * Returns the ABI of the loaded library; a program built with another MC_ABI_VERSION must not
 * use it.
 *
 * @return the ABI number.
 *
 * Threads: any. Blocks: no. Since: 0.1.
 */
uint32_t mc_abi_version(void);

/* ---- Statuses ---------------------------------------------------------------------------- */
/**
 * Outcome of a call: 0 is success, positive is "not yet", negative is a failure. The hundreds of
 * a failure say what is lost: 1 the caller's mistake, 2 nothing (try later), 3 this operation,
 * 4 the connection to this peer, 5 metadata, 7 this engine, 9 a defect of the library.
 */
typedef int32_t mc_status_t;

/** Success. */
#define MC_OK 0
/** Not finished yet; ask again or wait. */
#define MC_IN_PROGRESS 1
/** An argument is out of its documented range or malformed. */
#define MC_ERR_INVALID_ARGUMENT (-100)
/** A handle is NULL, of another type, or already destroyed. */
#define MC_ERR_INVALID_HANDLE (-101)
/** A name, connection string or address cannot be parsed. */
#define MC_ERR_INVALID_ADDRESS (-102)
/** The named transport or metadata scheme does not exist in this build. */
#define MC_ERR_UNKNOWN_PROTOCOL (-103)
/** This build, peer or dialect cannot do what was asked. */
#define MC_ERR_UNSUPPORTED (-104)
/** The range overlaps a registered buffer without being equal to it. */
#define MC_ERR_OVERLAP (-105)
/** A local range is not inside registered memory. */
#define MC_ERR_NOT_REGISTERED (-106)
/** The buffer is registered, but not for this access. */
#define MC_ERR_ACCESS_DENIED (-107)
/** More requests than the batch was created for. */
#define MC_ERR_TOO_MANY_REQUESTS (-108)
/** The object is not in a state in which this call makes sense. */
#define MC_ERR_INVALID_STATE (-109)
/** The result does not fit into the buffer that was given for it. */
#define MC_ERR_BUFFER_TOO_SMALL (-110)
/** The deadline passed. */
#define MC_ERR_TIMEOUT (-200)
/** The object is in use. */
#define MC_ERR_BUSY (-201)
/** A bounded queue or table is full. */
#define MC_ERR_LIMIT_REACHED (-202)
/** The task was cancelled by its owner. */
#define MC_ERR_CANCELLED (-300)
/** The peer refused the remote range: not registered, not remotely accessible, or gone. */
#define MC_ERR_REMOTE_RANGE (-301)
/** Local memory was unregistered while the transfer used it. */
#define MC_ERR_UNREGISTERED (-302)
/** The kernel refused access to a registered range; it is not mapped as the caller said. */
#define MC_ERR_MEMORY_FAULT (-303)
/** No connection to the peer could be made. */
#define MC_ERR_UNREACHABLE (-400)
/** An established connection broke. */
#define MC_ERR_CONNECTION_LOST (-401)
/** The peer failed moments ago; refused without trying again yet. */
#define MC_ERR_PEER_DOWN (-402)
/** The bytes of the peer do not follow the protocol. */
#define MC_ERR_PROTOCOL (-403)
/** The peer answered, and its answer is no. */
#define MC_ERR_REJECTED (-404)
/** The metadata service cannot be reached or does not answer. */
#define MC_ERR_METADATA_UNAVAILABLE (-500)
/** No segment of this name is published. */
#define MC_ERR_SEGMENT_NOT_FOUND (-501)
/** A metadata document cannot be read. */
#define MC_ERR_METADATA_MALFORMED (-502)
/** The master of the store cannot be reached or does not answer. */
#define MC_ERR_MASTER_UNAVAILABLE (-503)
/** No such object. */
#define MC_ERR_OBJECT_NOT_FOUND (-600)
/** The object exists already; it was not changed. */
#define MC_ERR_OBJECT_EXISTS (-601)
/** The object is still being written, or its writer has gone. */
#define MC_ERR_OBJECT_NOT_READY (-602)
/** Readers hold a lease on the object. */
#define MC_ERR_OBJECT_LEASED (-603)
/** The lease ended before the bytes were copied; the bytes must not be used. */
#define MC_ERR_LEASE_EXPIRED (-604)
/** No segment has room for the object. */
#define MC_ERR_NO_SPACE (-605)
/** The bytes are not those that were put. */
#define MC_ERR_CHECKSUM_MISMATCH (-606)
/** The master refused for another reason; the last error text has its number. */
#define MC_ERR_STORE_REFUSED (-607)
/** The engine is being or has been destroyed. */
#define MC_ERR_SHUTDOWN (-700)
/** The handle was inherited through fork; it works only in the process that made it. */
#define MC_ERR_FORKED (-701)
/** The operating system refused a port, descriptor, memory or thread. */
#define MC_ERR_RESOURCE (-702)
/** A panic was caught; the object it happened in can only be destroyed. */
#define MC_ERR_PANIC (-900)
/** An invariant of the library does not hold. */
#define MC_ERR_INTERNAL (-901)

/**
 * Returns the name of a status, for example "MC_ERR_TIMEOUT".
 *
 * @param status  any number.
 * @return a static text; "MC_ERR_UNKNOWN" for a number this version does not know. Never NULL.
 *
 * Threads: any. Blocks: no. Since: 0.1.
 */
const char *mc_status_name(mc_status_t status);

/**
 * Returns what a status means in a few words, for example "timed out".
 *
 * @param status  any number.
 * @return a static text; "unknown status" for a number this version does not know. Never NULL.
 *
 * Threads: any. Blocks: no. Since: 0.1.
 */
const char *mc_status_text(mc_status_t status);

/**
 * Tells whether the same call may succeed later without the caller changing anything.
 *
 * @param status  any number.
 * @return 1 if it may (for example after MC_ERR_TIMEOUT), else 0.
 *
 * Threads: any. Blocks: no. Since: 0.1.
 */
int32_t mc_status_is_retryable(mc_status_t status);

/* ---- Text of the last failure ------------------------------------------------------------ */
/**
 * Copies the text of the last call that failed in the calling thread.
 *
 * A call that succeeds leaves the text as it is, so read it only after a failure. The failure of
 * a task happens in another thread: see mc_batch_task_error for its text.
 *
 * @param buf      receives the text, cut to fit and NUL-terminated; may be NULL if buf_len is 0.
 * @param buf_len  bytes in buf.
 * @return the full length of the text in bytes without its NUL; 0 if nothing failed yet.
 *
 * Threads: any; each has its own text. Blocks: no. Since: 0.1.
 */
size_t mc_last_error_message(char *buf, size_t buf_len);

/* ---- Log --------------------------------------------------------------------------------- */
/** Nothing is logged. */
#define MC_LOG_OFF 0
/** Something is lost. */
#define MC_LOG_ERROR 1
/** Something is wrong, but the library helps itself. */
#define MC_LOG_WARN 2
/** A few lines in the life of an engine or peer. */
#define MC_LOG_INFO 3
/** A line for most calls, none for single requests. */
#define MC_LOG_DEBUG 4
/** Everything; slow. */
#define MC_LOG_TRACE 5

/**
 * Receives one log record.
 *
 * It may be called from any thread, also from several at once, and must return soon. It must not
 * throw, and must not call mc_log_set or mc_engine_destroy; other calls are allowed, but what they
 * log is dropped. The text is NUL-terminated UTF-8 without line end, valid during the call.
 */
typedef void (*mc_log_sink_t)(int32_t level, const char *text, void *user);

/**
 * Sets how much is logged and where it goes; for the whole process.
 *
 * @param level  MC_LOG_OFF (the state before the first call) to MC_LOG_TRACE.
 * @param sink   called for every record up to that level; NULL = standard error.
 * @param user   handed to the sink; the caller keeps it valid until another sink is set. When
 *               this function returns MC_OK the earlier sink is not running and not called again.
 *
 * Before the first call nothing is logged, unless the setting log_level (MC_LOG_LEVEL) of an
 * engine asks for records on standard error; afterwards that setting has no effect.
 *
 * Threads: any, but not inside a sink. Blocks: while the earlier sink runs, longest 10 s.
 * Returns: MC_OK; MC_ERR_INVALID_ARGUMENT for another level; MC_ERR_INVALID_STATE inside a sink
 * or when the program is a Rust program with its own logger; MC_ERR_TIMEOUT. Since: 0.1.
 */
mc_status_t mc_log_set(int32_t level, mc_log_sink_t sink, void *user);

/* ---- Engine ------------------------------------------------------------------------------ */
/** Value of mc_engine_options_t.spin_us for "never poll, sleep at once". */
#define MC_SPIN_NEVER 4294967295

/** An engine: its threads, connections and registered memory. Opaque. */
typedef struct mc_engine_t mc_engine_t;

/**
 * Settings of an engine. Set struct_size to sizeof(mc_engine_options_t) and everything else to
 * zero; then change what you need. Zero means default for every member.
 */
typedef struct mc_engine_options_t {
    /** sizeof(mc_engine_options_t). */
    uint32_t struct_size;
    /** Zero. */
    uint32_t reserved;
    /** Where peers find each other; default "P2PHANDSHAKE": no service, names are addresses. */
    const char *metadata;
    /**
     * Name of this engine's segment, "host" or "host:port"; default: the first usable address.
     * With "P2PHANDSHAKE" the port is the one that was bound: see mc_engine_local_name.
     */
    const char *local_name;
    /** Transport: "tcp" or "loopback" (this process only, for tests); default: chosen. */
    const char *protocol;
    /** Address or host name to listen on; default: every address of the host. */
    const char *bind_address;
    /** Port of the handshake plane; default: the first free one of the port range. */
    uint16_t rpc_port;
    /** Port of the data plane; default: as above. */
    uint16_t data_port;
    /** Threads that move bytes; default: chosen. */
    uint32_t io_threads;
    /** Connections kept to one peer; default: chosen. */
    uint32_t lanes_per_peer;
    /** Longest time of a transfer for which the caller gives no deadline; default 30 s. */
    uint32_t transfer_timeout_ms;
    /** How long a waiting caller polls before it sleeps; MC_SPIN_NEVER turns it off. */
    uint32_t spin_us;
    /** Further settings of docs/configuration.md as a JSON object; members above win over it. */
    const char *json;
} mc_engine_options_t;

/**
 * Creates an engine: starts its threads, opens its ports and publishes its segment.
 *
 * @param options     read during the call only; NULL = all defaults.
 * @param engine_out  receives the engine, owned by the caller until mc_engine_destroy; NULL on
 *                    failure.
 *
 * Settings come from options, then from its json, then from the environment (MC_* variables of
 * docs/configuration.md), then from defaults.
 *
 * Threads: any. Blocks: while ports are opened and metadata is published, longest the transfer
 * timeout.
 * Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_INVALID_ADDRESS; MC_ERR_UNKNOWN_PROTOCOL;
 * MC_ERR_METADATA_UNAVAILABLE; MC_ERR_RESOURCE; MC_ERR_LIMIT_REACHED. Since: 0.1.
 */
mc_status_t mc_engine_create(const struct mc_engine_options_t *options,
                             struct mc_engine_t **engine_out);

/**
 * Creates an engine from settings in JSON, for callers that keep them as text.
 *
 * @param json        an object with the keys of docs/configuration.md; copied.
 * @param json_len    its bytes; 0 = all defaults.
 * @param engine_out  as in mc_engine_create.
 *
 * Threads, Blocks, Returns: as mc_engine_create. Since: 0.1.
 */
mc_status_t mc_engine_create_json(const char *json,
                                  size_t json_len,
                                  struct mc_engine_t **engine_out);

/**
 * Destroys an engine: cancels what is in flight, withdraws its segment, closes its connections
 * and ends its threads.
 *
 * When it returns MC_OK no memory registered with the engine is touched any more. Batches of the
 * engine stay valid handles with cancelled tasks; each still needs mc_batch_destroy.
 *
 * @param engine  the engine; NULL does nothing. The handle is invalid afterwards, whatever is
 *                returned.
 *
 * Threads: any, but not inside a log sink; calls of other threads in the same engine end with
 * MC_ERR_SHUTDOWN or MC_ERR_CANCELLED. Blocks: until its threads have ended, longest 10 s.
 * Returns: MC_OK; MC_ERR_INVALID_HANDLE when it was destroyed before; MC_ERR_INVALID_STATE
 * inside a log sink; MC_ERR_TIMEOUT when a call of another thread did not end in time (the engine
 * goes when that call ends). Since: 0.1.
 */
mc_status_t mc_engine_destroy(struct mc_engine_t *engine);

/**
 * Copies the name under which peers open this engine's segment.
 *
 * @param engine   the engine.
 * @param buf      receives the name, cut to fit and NUL-terminated; may be NULL if buf_len is 0.
 * @param buf_len  bytes in buf.
 * @param len_out  receives the full length without NUL; may be NULL.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
 */
mc_status_t mc_engine_local_name(const struct mc_engine_t *engine,
                                 char *buf,
                                 size_t buf_len,
                                 size_t *len_out);

/**
 * Tells the ports this engine listens on.
 *
 * @param engine         the engine.
 * @param rpc_port_out   receives the port of the handshake plane; may be NULL.
 * @param data_port_out  receives the port of the data plane, 0 without one; may be NULL.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
 */
mc_status_t mc_engine_ports(const struct mc_engine_t *engine,
                            uint16_t *rpc_port_out,
                            uint16_t *data_port_out);

/**
 * Copies a description of everything the engine found and chose, as one JSON object: settings
 * with their origins, transports, topology, peers.
 *
 * Its members may change between versions; it is meant for people and logs.
 *
 * @param engine, buf, buf_len, len_out  as in mc_engine_local_name.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
 */
mc_status_t mc_engine_dump(const struct mc_engine_t *engine,
                           char *buf,
                           size_t buf_len,
                           size_t *len_out);

/* ---- Memory ------------------------------------------------------------------------------ */
/**
 * Allocates memory to register: zeroed, aligned to a page and from 16 MiB on to 16 MiB, with the
 * wish for huge pages. Peers of this library on the same host and of the same user can map it
 * while it is registered with all access, which spares a copy by the kernel.
 *
 * @param length_bytes  how much; not 0. Pages cost nothing before they are written.
 * @return its first byte, to be freed with mc_memory_free; NULL on failure, and
 *         mc_last_error_message has the reason.
 *
 * Threads: any. Blocks: no. A forked child shares what its parent allocated. Since: 0.3.
 */
void *mc_memory_allocate(size_t length_bytes);

/**
 * Frees memory that mc_memory_allocate gave. It must not be registered or in use any more.
 *
 * @param memory  its first byte; NULL does nothing.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT for anything else, and for
 * what was freed before; MC_ERR_FORKED. Since: 0.3.
 */
mc_status_t mc_memory_free(void *memory);

/* ---- Buffers ----------------------------------------------------------------------------- */
/** Peers may read the buffer. */
#define MC_ACCESS_REMOTE_READ 1
/** Peers may write the buffer. */
#define MC_ACCESS_REMOTE_WRITE 2
/** Peers may read and write the buffer; the same as 0. */
#define MC_ACCESS_REMOTE_ALL 3
/** Only this engine uses the buffer; peers do not see it. */
#define MC_ACCESS_LOCAL_ONLY 4

/** One contiguous range of memory to register. */
typedef struct mc_buffer_t {
    /** Its first byte. */
    void *address;
    /** Its length; not zero. */
    size_t length_bytes;
    /** Where it lives, for example "cpu:0"; NULL = "*", find out. */
    const char *location;
    /** MC_ACCESS_* bits; 0 = MC_ACCESS_REMOTE_ALL. */
    uint32_t access;
    /** Zero. */
    uint32_t reserved;
} mc_buffer_t;

/**
 * Registers a buffer: from now on transfers may use it, and peers may reach it as its access
 * says.
 *
 * The memory must stay mapped until the buffer is unregistered or the engine is destroyed.
 * Registering exactly the same range again counts; it is gone after as many unregistrations.
 *
 * @param engine  the engine.
 * @param buffer  copied.
 *
 * Threads: any. Blocks: while metadata is published, longest the transfer timeout.
 * Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_OVERLAP when it partly covers another buffer;
 * MC_ERR_LIMIT_REACHED; MC_ERR_METADATA_UNAVAILABLE; MC_ERR_SHUTDOWN. Since: 0.1.
 */
mc_status_t mc_buffer_register(mc_engine_t *engine, const struct mc_buffer_t *buffer);

/**
 * Registers several buffers: all of them, or none when one is refused.
 *
 * @param engine   the engine.
 * @param buffers  copied; ignored if count is 0.
 * @param count    buffers in it.
 *
 * Threads, Blocks, Returns: as mc_buffer_register. Since: 0.1.
 */
mc_status_t mc_buffer_register_many(mc_engine_t *engine,
                                    const struct mc_buffer_t *buffers,
                                    size_t count);

/**
 * Unregisters a buffer; when it returns, no transfer and no peer touches the memory any more.
 *
 * Transfers that still use it fail with MC_ERR_UNREGISTERED.
 *
 * @param engine   the engine.
 * @param address  first byte of a registered buffer.
 *
 * Threads: any. Blocks: until running system calls let go of it and the change is published,
 * longest the transfer timeout.
 * Returns: MC_OK; MC_ERR_NOT_REGISTERED; MC_ERR_METADATA_UNAVAILABLE; MC_ERR_TIMEOUT;
 * MC_ERR_SHUTDOWN. Since: 0.1.
 */
mc_status_t mc_buffer_unregister(mc_engine_t *engine, void *address);

/**
 * Unregisters several buffers: all of them, or none when one is not registered.
 *
 * @param engine     the engine.
 * @param addresses  first bytes of registered buffers; ignored if count is 0.
 * @param count      addresses in it.
 *
 * Threads, Blocks, Returns: as mc_buffer_unregister. Since: 0.1.
 */
mc_status_t mc_buffer_unregister_many(mc_engine_t *engine, void *const *addresses, size_t count);

/* ---- Segments ---------------------------------------------------------------------------- */
/** An open segment: a number that means something to the engine that opened it. 0 is none. */
typedef uint64_t mc_segment_t;

/** One buffer of a segment. */
typedef struct mc_segment_buffer_t {
    /** Address of its first byte in its owner; use it as remote_address. */
    uint64_t address;
    /** Its length. */
    uint64_t length_bytes;
    /** Where it lives, for example "cpu:0"; NUL-terminated. */
    char location[64];
} mc_segment_buffer_t;

/**
 * Opens the segment of the engine called name, or finds it open already.
 *
 * @param engine       the engine.
 * @param name         NUL-terminated; a peer's local name, or the engine's own for its own memory.
 * @param segment_out  receives the segment; 0 on failure. Belongs to the engine; each open wants a
 *                     mc_segment_close, or mc_engine_destroy.
 *
 * Threads: any. Blocks: while metadata is fetched, longest the transfer timeout.
 * Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_INVALID_ADDRESS; MC_ERR_SEGMENT_NOT_FOUND;
 * MC_ERR_METADATA_UNAVAILABLE; MC_ERR_METADATA_MALFORMED; MC_ERR_UNREACHABLE; MC_ERR_TIMEOUT;
 * MC_ERR_LIMIT_REACHED; MC_ERR_SHUTDOWN. Since: 0.1.
 */
mc_status_t mc_segment_open(mc_engine_t *engine, const char *name, mc_segment_t *segment_out);

/**
 * Takes one opening of a segment back. With the last one, transfers in flight to it end with
 * MC_ERR_CANCELLED.
 *
 * @param engine   the engine that opened it.
 * @param segment  the segment; invalid afterwards, once every open has been closed.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_HANDLE. Since: 0.1.
 */
mc_status_t mc_segment_close(mc_engine_t *engine, mc_segment_t segment);

/**
 * Fetches the description of a segment again, to see buffers registered since it was opened.
 *
 * A transfer that fails because the description is old does this by itself, once.
 *
 * @param engine   the engine that opened it.
 * @param segment  the segment.
 *
 * Threads: any. Blocks: while metadata is fetched, longest the transfer timeout. Returns: MC_OK;
 * MC_ERR_INVALID_HANDLE; as mc_segment_open. Since: 0.1.
 */
mc_status_t mc_segment_refresh(mc_engine_t *engine, mc_segment_t segment);

/**
 * Lists the buffers of a segment as they were when it was opened or last refreshed.
 *
 * @param engine       the engine that opened it.
 * @param segment      the segment.
 * @param buffers_out  receives the first capacity buffers; may be NULL if capacity is 0.
 * @param capacity     places in buffers_out.
 * @param count_out    receives how many buffers there are, also when that is more than capacity.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_HANDLE; MC_ERR_INVALID_ARGUMENT.
 * Since: 0.1.
 */
mc_status_t mc_segment_buffers(mc_engine_t *engine,
                               mc_segment_t segment,
                               struct mc_segment_buffer_t *buffers_out,
                               size_t capacity,
                               size_t *count_out);

/**
 * Asks the peer that owns a segment for a sign of life.
 *
 * @param engine      the engine that opened it.
 * @param segment     the segment.
 * @param timeout_ms  longest time; 0 = 3000.
 *
 * Threads: any. Blocks: until the answer, longest timeout_ms. Returns: MC_OK;
 * MC_ERR_INVALID_HANDLE; MC_ERR_UNREACHABLE; MC_ERR_CONNECTION_LOST; MC_ERR_PROTOCOL;
 * MC_ERR_REJECTED; MC_ERR_TIMEOUT; MC_ERR_SHUTDOWN. Since: 0.1.
 */
mc_status_t mc_segment_probe(mc_engine_t *engine, mc_segment_t segment, uint32_t timeout_ms);

/* ---- Batches ----------------------------------------------------------------------------- */
/** From the peer to local memory. */
#define MC_READ 0
/** From local memory to the peer. */
#define MC_WRITE 1
/** Not handed to a transport yet. */
#define MC_TASK_WAITING 0
/** Under way. */
#define MC_TASK_IN_FLIGHT 1
/** All its bytes are where they belong. */
#define MC_TASK_COMPLETED 2
/** It failed; the bytes of its target are undefined. */
#define MC_TASK_FAILED 3
/** The batch was cancelled before it ended; the bytes of its target are undefined. */
#define MC_TASK_CANCELLED 4

/** Requests submitted together, and what became of each. Opaque. */
typedef struct mc_batch_t mc_batch_t;

/** One read or write. */
typedef struct mc_request_t {
    /** MC_READ or MC_WRITE. */
    int32_t operation;
    /** Zero. */
    uint32_t reserved;
    /** First local byte, inside a registered buffer; stays registered until the task is done. */
    void *local;
    /** Whose memory is read or written. */
    mc_segment_t segment;
    /** First byte there, as mc_segment_buffers tells it or as the peer's program told it. */
    uint64_t remote_address;
    /** How many bytes. */
    uint64_t length_bytes;
} mc_request_t;

/**
 * What to do with a submission besides moving its bytes. Set struct_size to
 * sizeof(mc_submit_options_t); zero means default for every member.
 */
typedef struct mc_submit_options_t {
    /** sizeof(mc_submit_options_t). */
    uint32_t struct_size;
    /** Longest time of these requests; default: the engine's transfer_timeout_ms. */
    uint32_t timeout_ms;
    /**
     * With notify_name_len: name of a notification for the peer, sent once all these requests
     * completed; copied.
     */
    const char *notify_name;
    /** Its bytes; 0 together with notify_message_len = no notification. */
    size_t notify_name_len;
    /** The notification's message; copied. */
    const char *notify_message;
    /** Its bytes. */
    size_t notify_message_len;
} mc_submit_options_t;

/** How far a batch is. It is done when completed + failed equals submitted. */
typedef struct mc_batch_progress_t {
    /** Requests handed in. */
    size_t submitted;
    /** Tasks that ended well. */
    size_t completed;
    /** Tasks that failed or were cancelled. */
    size_t failed;
    /** Bytes moved so far. */
    uint64_t transferred_bytes;
} mc_batch_progress_t;

/** What became of one request. */
typedef struct mc_task_status_t {
    /** One of MC_TASK_*. */
    int32_t state;
    /** MC_OK when completed, MC_IN_PROGRESS before its end, else why it failed. */
    mc_status_t status;
    /** Bytes moved so far. */
    uint64_t transferred_bytes;
} mc_task_status_t;

/**
 * Creates a batch for up to capacity requests.
 *
 * @param engine     the engine that will move the bytes.
 * @param capacity   1 to 1048576 requests, counted until mc_batch_reset.
 * @param batch_out  receives the batch, owned by the caller until mc_batch_destroy; NULL on
 *                   failure.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_LIMIT_REACHED;
 * MC_ERR_SHUTDOWN. Since: 0.1.
 */
mc_status_t mc_batch_create(mc_engine_t *engine, size_t capacity, struct mc_batch_t **batch_out);

/**
 * Destroys a batch; tasks in flight are cancelled.
 *
 * When it returns MC_OK the local memory of its requests is not touched any more.
 *
 * @param batch  the batch; NULL does nothing. The handle is invalid afterwards, whatever is
 *               returned.
 *
 * Threads: any; calls of other threads in the same batch end soon. Blocks: until cancelled tasks
 * have ended, longest 10 s. Returns: MC_OK; MC_ERR_INVALID_HANDLE when it was destroyed before;
 * MC_ERR_TIMEOUT when a task did not end in time: keep its memory until the engine is destroyed.
 * Since: 0.1.
 */
mc_status_t mc_batch_destroy(struct mc_batch_t *batch);

/**
 * Submits requests: all of them, or none when one is refused.
 *
 * @param batch     the batch.
 * @param requests  copied; ignored if count is 0.
 * @param count     requests in it.
 *
 * Threads: any. Blocks: no longer than starting the transfer takes.
 * Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_INVALID_HANDLE also for an unknown segment;
 * MC_ERR_TOO_MANY_REQUESTS; MC_ERR_NOT_REGISTERED for local memory; MC_ERR_UNSUPPORTED;
 * MC_ERR_INVALID_STATE after mc_batch_cancel; MC_ERR_LIMIT_REACHED; MC_ERR_SHUTDOWN. What happens
 * later is the status of the task. Since: 0.1.
 */
mc_status_t mc_batch_submit(struct mc_batch_t *batch,
                            const struct mc_request_t *requests,
                            size_t count);

/**
 * Submits requests with a deadline of their own, a notification to the peer, or both.
 *
 * @param batch, requests, count  as in mc_batch_submit. With a notification count is not 0 and
 *                                all requests have the same segment.
 * @param options                 read during the call only; NULL = as mc_batch_submit.
 *
 * Threads, Blocks, Returns: as mc_batch_submit. Since: 0.1.
 */
mc_status_t mc_batch_submit_with(struct mc_batch_t *batch,
                                 const struct mc_request_t *requests,
                                 size_t count,
                                 const struct mc_submit_options_t *options);

/**
 * Tells how far a batch is.
 *
 * @param batch         the batch.
 * @param progress_out  receives the counts; may be NULL.
 *
 * Threads: any. Blocks: no.
 * Returns: MC_OK when all submitted tasks completed (or none was submitted); MC_IN_PROGRESS;
 * once all tasks have ended and some failed, the status of the first that failed. Since: 0.1.
 */
mc_status_t mc_batch_poll(struct mc_batch_t *batch, struct mc_batch_progress_t *progress_out);

/**
 * Waits until all submitted tasks have ended.
 *
 * @param batch         the batch.
 * @param timeout_ms    longest wait; 0 = only look. At most an hour.
 * @param progress_out  receives the counts, also after a timeout; may be NULL.
 *
 * Threads: any. Blocks: longest timeout_ms. Returns: as mc_batch_poll, but MC_ERR_TIMEOUT instead
 * of MC_IN_PROGRESS; the tasks go on then. Since: 0.1.
 */
mc_status_t mc_batch_wait(struct mc_batch_t *batch,
                          uint32_t timeout_ms,
                          struct mc_batch_progress_t *progress_out);

/**
 * Gives a descriptor for the caller's own event loop: readable while all submitted tasks have
 * ended and at least one was submitted.
 *
 * @param batch   the batch; it owns the descriptor and closes it when destroyed. Do not read,
 *                write or close it.
 * @param fd_out  receives the descriptor; -1 on failure.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_RESOURCE. Since: 0.1.
 */
mc_status_t mc_batch_event_fd(struct mc_batch_t *batch, int *fd_out);

/**
 * Cancels the tasks that have not ended. They end soon, as cancelled or, if that was faster, as
 * completed; until then their memory is in use.
 *
 * @param batch  the batch; it takes no further requests until mc_batch_reset.
 *
 * Threads: any. Blocks: no. Returns: MC_OK. Since: 0.1.
 */
mc_status_t mc_batch_cancel(struct mc_batch_t *batch);

/**
 * Makes a batch empty again, so that it can be used anew; cheaper than a new one.
 *
 * @param batch  a batch whose tasks have all ended.
 *
 * Threads: any, but not while another thread submits. Blocks: no.
 * Returns: MC_OK; MC_ERR_BUSY while a task is in flight. Since: 0.1.
 */
mc_status_t mc_batch_reset(struct mc_batch_t *batch);

/**
 * Tells what became of one request.
 *
 * @param batch       the batch.
 * @param index       its place in the order of submission, from 0.
 * @param status_out  receives its state.
 *
 * Threads: any. Blocks: no. Returns: MC_OK, also when the task failed; MC_ERR_INVALID_ARGUMENT
 * for an index nothing was submitted at. Since: 0.1.
 */
mc_status_t mc_batch_task_status(struct mc_batch_t *batch,
                                 size_t index,
                                 struct mc_task_status_t *status_out);

/**
 * Copies the text of why one request failed: peer, operation and cause.
 *
 * @param batch    the batch.
 * @param index    as in mc_batch_task_status.
 * @param buf      receives the text, cut to fit and NUL-terminated; empty if it did not fail. May
 *                 be NULL if buf_len is 0.
 * @param buf_len  bytes in buf.
 * @param len_out  receives the full length without NUL; may be NULL.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
 */
mc_status_t mc_batch_task_error(struct mc_batch_t *batch,
                                size_t index,
                                char *buf,
                                size_t buf_len,
                                size_t *len_out);

/* ---- Transfers in one call --------------------------------------------------------------- */
/**
 * Reads from a peer's memory and returns when the bytes are in local memory.
 *
 * @param engine          the engine.
 * @param segment         whose memory is read.
 * @param local           first local byte, inside a registered buffer.
 * @param remote_address  first byte in the segment.
 * @param length_bytes    how many bytes.
 * @param timeout_ms      longest time; 0 = the engine's transfer_timeout_ms.
 *
 * Threads: any. Blocks: longest timeout_ms, and 10 s more to withdraw from local memory.
 * Returns: MC_OK; what mc_batch_submit and the task can return, for example MC_ERR_NOT_REGISTERED,
 * MC_ERR_REMOTE_RANGE, MC_ERR_UNREACHABLE, MC_ERR_PEER_DOWN, MC_ERR_CONNECTION_LOST,
 * MC_ERR_TIMEOUT. After a failure the target bytes are undefined. Since: 0.1.
 */
mc_status_t mc_read(mc_engine_t *engine,
                    mc_segment_t segment,
                    void *local,
                    uint64_t remote_address,
                    uint64_t length_bytes,
                    uint32_t timeout_ms);

/**
 * Writes to a peer's memory and returns when the peer has the bytes, as far as its protocol can
 * tell.
 *
 * @param engine, segment, remote_address, length_bytes, timeout_ms  as in mc_read.
 * @param local  first local byte, inside a registered buffer; not changed.
 *
 * Threads, Blocks, Returns: as mc_read. Since: 0.1.
 */
mc_status_t mc_write(mc_engine_t *engine,
                     mc_segment_t segment,
                     const void *local,
                     uint64_t remote_address,
                     uint64_t length_bytes,
                     uint32_t timeout_ms);

/**
 * Reads several ranges of one segment and returns when all bytes are in local memory.
 *
 * @param engine            the engine.
 * @param segment           whose memory is read.
 * @param locals            first local byte of each range.
 * @param remote_addresses  first remote byte of each range.
 * @param lengths_bytes     length of each range.
 * @param count             ranges; with 0 the arrays are ignored and nothing happens.
 * @param timeout_ms        longest time for all together; 0 = the engine's transfer_timeout_ms.
 *
 * Threads, Blocks, Returns: as mc_read; the status of the first range that failed. Since: 0.1.
 */
mc_status_t mc_read_vector(mc_engine_t *engine,
                           mc_segment_t segment,
                           void *const *locals,
                           const uint64_t *remote_addresses,
                           const uint64_t *lengths_bytes,
                           size_t count,
                           uint32_t timeout_ms);

/**
 * Writes several ranges of one segment and returns when the peer has all bytes, as far as its
 * protocol can tell.
 *
 * @param engine, segment, remote_addresses, lengths_bytes, count, timeout_ms  as in
 *        mc_read_vector.
 * @param locals  first local byte of each range; not changed.
 *
 * Threads, Blocks, Returns: as mc_read_vector. Since: 0.1.
 */
mc_status_t mc_write_vector(mc_engine_t *engine,
                            mc_segment_t segment,
                            const void *const *locals,
                            const uint64_t *remote_addresses,
                            const uint64_t *lengths_bytes,
                            size_t count,
                            uint32_t timeout_ms);

/* ---- Notifications ----------------------------------------------------------------------- */
/** A list of notifications that arrived. Opaque; it belongs to no engine. */
typedef struct mc_notifications_t mc_notifications_t;

/**
 * Sends a notification to the engine that owns a segment and waits until it has it.
 *
 * @param engine       the engine.
 * @param segment      the segment of the receiver.
 * @param name         bytes, copied; upstream peers take UTF-8 text only.
 * @param name_len     how many, at most 1 MiB.
 * @param message      as name.
 * @param message_len  as name_len.
 * @param timeout_ms   longest time; 0 = 5000.
 *
 * Threads: any. Blocks: until the answer, longest timeout_ms. Returns: MC_OK;
 * MC_ERR_INVALID_ARGUMENT; MC_ERR_INVALID_HANDLE; MC_ERR_UNSUPPORTED when the bytes are not UTF-8;
 * MC_ERR_REJECTED when the receiver takes none; MC_ERR_UNREACHABLE; MC_ERR_CONNECTION_LOST;
 * MC_ERR_TIMEOUT; MC_ERR_SHUTDOWN.
 * Since: 0.1.
 */
mc_status_t mc_notify_send(mc_engine_t *engine,
                           mc_segment_t segment,
                           const char *name,
                           size_t name_len,
                           const char *message,
                           size_t message_len,
                           uint32_t timeout_ms);

/**
 * Takes all notifications that arrived since the last call, oldest first.
 *
 * @param engine             the engine.
 * @param notifications_out  receives the list, perhaps empty, owned by the caller until
 *                           mc_notifications_destroy; NULL on failure.
 *
 * Threads: any; each notification is given out once. Blocks: no.
 * Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_LIMIT_REACHED. Since: 0.1.
 */
mc_status_t mc_notify_take(mc_engine_t *engine, struct mc_notifications_t **notifications_out);

/**
 * Counts the notifications in a list.
 *
 * @param notifications  the list.
 * @return how many; 0 for a handle that is not a list.
 *
 * Threads: any. Blocks: no. Since: 0.1.
 */
size_t mc_notifications_count(const struct mc_notifications_t *notifications);

/**
 * Gives one notification of a list.
 *
 * @param notifications    the list.
 * @param index            from 0.
 * @param name_out         receives the name; belongs to the list and is valid until that is
 *                         destroyed. A NUL follows its last byte.
 * @param name_len_out     receives its length without that NUL; may be NULL.
 * @param message_out      receives the message, as name_out.
 * @param message_len_out  receives its length, as name_len_out.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
 */
mc_status_t mc_notifications_get(const struct mc_notifications_t *notifications,
                                 size_t index,
                                 const char **name_out,
                                 size_t *name_len_out,
                                 const char **message_out,
                                 size_t *message_len_out);

/**
 * Destroys a list of notifications and the texts it gave out.
 *
 * @param notifications  the list; NULL does nothing.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_HANDLE when it was destroyed before.
 * Since: 0.1.
 */
mc_status_t mc_notifications_destroy(struct mc_notifications_t *notifications);

/* ---- Metrics ----------------------------------------------------------------------------- */
/** What an engine has counted since it was created. Set struct_size to sizeof(mc_metrics_t). */
typedef struct mc_metrics_t {
    /** sizeof(mc_metrics_t). */
    uint32_t struct_size;
    /** Zero. */
    uint32_t reserved;
    /** Requests handed in. */
    uint64_t requests;
    /** Requests that failed or were cancelled. */
    uint64_t requests_failed;
    /** Written to peers. */
    uint64_t written_bytes;
    /** Read from peers. */
    uint64_t read_bytes;
    /** Written into own memory by peers. */
    uint64_t received_bytes;
    /** Read from own memory by peers. */
    uint64_t served_bytes;
    /** Parts of requests that were tried again after a failure. */
    uint64_t retries;
    /** Descriptions of segments fetched again. */
    uint64_t refreshes;
    /** Connections made to peers. */
    uint64_t connections_opened;
    /** Connections of peers accepted. */
    uint64_t connections_accepted;
    /** Connections refused or closed because they broke a rule. */
    uint64_t connections_refused;
    /** Connections of peers open now. */
    uint64_t connections_serving;
    /** Requests of peers that were refused: range, access or key. */
    uint64_t remote_requests_refused;
    /** Notifications that arrived. */
    uint64_t notifications_received;
    /** Notifications refused because nobody takes them. */
    uint64_t notifications_dropped;
} mc_metrics_t;

/**
 * Reads the counters of an engine.
 *
 * Each is exact; together they are no single moment while transfers run.
 *
 * @param engine       the engine.
 * @param metrics_out  its struct_size says how much is filled.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
 */
mc_status_t mc_engine_metrics(const mc_engine_t *engine, struct mc_metrics_t *metrics_out);

/**
 * Copies the counters of an engine as text in the format Prometheus reads (OpenMetrics).
 *
 * @param engine, buf, buf_len, len_out  as in mc_engine_local_name.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.1.
 */
mc_status_t mc_engine_metrics_text(const mc_engine_t *engine,
                                   char *buf,
                                   size_t buf_len,
                                   size_t *len_out);

/* ---- Store ------------------------------------------------------------------------------- */
/**
 * Value of the sizes in mc_store_options_t for "no memory at all", where a file or the environment
 * says otherwise.
 */
#define MC_STORE_NO_BYTES 18446744073709551615ull
/** Evict the object last. */
#define MC_PUT_SOFT_PIN 1
/** Never evict the object; masters of ours only. */
#define MC_PUT_HARD_PIN 2
/** Put all objects of the batch into the segment of the first. */
#define MC_PUT_SAME_NODE 4

/** A client of the store. Opaque. */
typedef struct mc_store_t mc_store_t;

/**
 * How a client of the store is opened. Set struct_size to sizeof(mc_store_options_t) and
 * everything else to zero; then change what you need. What is zero comes from json, then from the
 * environment (MOONCAKE_* and MC_* variables), then from the default.
 */
typedef struct mc_store_options_t {
    /** sizeof(mc_store_options_t). */
    uint32_t struct_size;
    /** Zero. */
    uint32_t reserved;
    /** Name of this client, "host" or "host:port", under whose host peers reach it; needed. */
    const char *local_hostname;
    /** Where engines find each other; default "P2PHANDSHAKE". */
    const char *metadata_server;
    /** Transport; default "tcp". */
    const char *protocol;
    /** Adapters to use, separated by commas; default: all. */
    const char *device_name;
    /**
     * Address of the master, "host:port", several separated by commas, or
     * "etcd://host:port;host:port", where the elected one is found; needed.
     */
    const char *master_server_address;
    /** Memory given to the pool; default: none. */
    uint64_t global_segment_bytes;
    /** Memory for mc_store_get_buffer; default 16 MiB. */
    uint64_t local_buffer_bytes;
    /** A JSON object with the names of mooncake.json and any setting of docs/configuration.md. */
    const char *json;
} mc_store_options_t;

/** What is asked of a put beside the bytes. Set struct_size to sizeof(mc_put_options_t). */
typedef struct mc_put_options_t {
    /** sizeof(mc_put_options_t). */
    uint32_t struct_size;
    /**
     * Copies, each in another segment; default 1. Where there are fewer segments, fewer are made.
     */
    uint32_t replica_num;
    /** MC_PUT_* bits. */
    uint32_t flags;
    /** Longest time; default: the setting transfer_timeout_ms. */
    uint32_t timeout_ms;
    /** How long MC_PUT_SOFT_PIN lasts; default: the master's. Masters of ours only. */
    uint64_t soft_pin_ttl_ms;
    /** Names of segments to try first (mc_store_hostname of their clients); may be NULL. */
    const char *const *preferred_segments;
    /** How many. */
    size_t preferred_segment_count;
    /**
     * Names of groups, one for each object of the call, NULL or "" for none: objects of one group
     * are leased and evicted together. Masters of ours only; others ignore it. May be NULL.
     * Since: 0.3.
     */
    const char *const *groups;
    /** How many: 0, or as many as the call has objects. Since: 0.3. */
    size_t group_count;
} mc_put_options_t;

/**
 * Opens a client of the store: allocates and mounts its memory, and starts the thread that gives
 * signs of life.
 *
 * @param options    read during the call only.
 * @param engine     the engine that moves the bytes; it must live longer than the client, and the
 *                   options that concern it are ignored. NULL: the client makes its own.
 * @param store_out  receives the client, owned by the caller until mc_store_close; NULL on
 *                   failure.
 *
 * Threads: any. Blocks: for the metadata service and the master, longest the transfer timeout for
 * each. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_INVALID_ADDRESS; MC_ERR_UNSUPPORTED;
 * MC_ERR_MASTER_UNAVAILABLE; MC_ERR_METADATA_UNAVAILABLE; MC_ERR_RESOURCE; MC_ERR_STORE_REFUSED.
 * Since: 0.2.
 */
mc_status_t mc_store_open(const struct mc_store_options_t *options,
                          mc_engine_t *engine,
                          struct mc_store_t **store_out);

/**
 * Closes a client: waits for calls that are inside it, takes its memory out of the pool, and lets
 * go of everything but buffers that are still held.
 *
 * Objects whose only replica was in its memory are gone. An engine that was given stays open.
 *
 * @param store  the client; NULL does nothing. The handle is invalid afterwards, whatever is
 *               returned.
 *
 * Threads: any, but not inside a log sink; other calls in the client end with MC_ERR_SHUTDOWN or
 * as they would have. Blocks: longest 20 s. Returns: MC_OK; MC_ERR_INVALID_HANDLE when it was
 * closed before; MC_ERR_INVALID_STATE inside a log sink; MC_ERR_TIMEOUT when a call of another
 * thread did not end in time. Since: 0.2.
 */
mc_status_t mc_store_close(struct mc_store_t *store);

/**
 * Copies the name of a client, by which others prefer its memory: "host:port".
 *
 * @param store, buf, buf_len, len_out  as in mc_engine_local_name.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.2.
 */
mc_status_t mc_store_hostname(const struct mc_store_t *store,
                              char *buf,
                              size_t buf_len,
                              size_t *len_out);

/**
 * Puts one object. An object that exists is not changed.
 *
 * @param store      the client.
 * @param key        name of the object, 1 to 65536 bytes of any kind.
 * @param key_len    how many.
 * @param value      its bytes; registered memory (mc_store_register_buffer) is fastest.
 * @param value_len  how many, not 0.
 * @param options    NULL = all defaults.
 *
 * Threads: any. Blocks: longest the timeout of the options, and 2 s for taking back.
 * Returns: MC_OK when all copies are complete; MC_ERR_OBJECT_EXISTS; MC_ERR_OBJECT_NOT_READY when
 * another put of the key is not complete, or never will be; MC_ERR_NO_SPACE;
 * MC_ERR_MASTER_UNAVAILABLE; MC_ERR_INVALID_ARGUMENT; MC_ERR_SHUTDOWN; what transfers can return.
 * Since: 0.2.
 */
mc_status_t mc_store_put(struct mc_store_t *store,
                         const char *key,
                         size_t key_len,
                         const void *value,
                         size_t value_len,
                         const struct mc_put_options_t *options);

/**
 * Reads one object into memory of the caller.
 *
 * @param store       the client.
 * @param key         name of the object.
 * @param key_len     its bytes.
 * @param buffer      receives the bytes; after a failure they must not be used.
 * @param buffer_len  room; may be more than the object has.
 * @param timeout_ms  longest time; 0 = the setting transfer_timeout_ms.
 * @param size_out    receives the object's size; may be NULL.
 *
 * Threads: any. Blocks: longest timeout_ms. Returns: MC_OK; MC_ERR_OBJECT_NOT_FOUND;
 * MC_ERR_OBJECT_NOT_READY; MC_ERR_BUFFER_TOO_SMALL; MC_ERR_LEASE_EXPIRED;
 * MC_ERR_MASTER_UNAVAILABLE; MC_ERR_INVALID_ARGUMENT; MC_ERR_SHUTDOWN; what transfers can return.
 * Since: 0.2.
 */
mc_status_t mc_store_get(struct mc_store_t *store,
                         const char *key,
                         size_t key_len,
                         void *buffer,
                         size_t buffer_len,
                         uint32_t timeout_ms,
                         uint64_t *size_out);

/**
 * Tells the size of an object. Takes a lease on it.
 *
 * @param store, key, key_len, timeout_ms  as in mc_store_get.
 * @param size_out  receives the size.
 *
 * Threads: any. Blocks: longest timeout_ms. Returns: MC_OK; MC_ERR_OBJECT_NOT_FOUND;
 * MC_ERR_OBJECT_NOT_READY; MC_ERR_MASTER_UNAVAILABLE; MC_ERR_INVALID_ARGUMENT; MC_ERR_SHUTDOWN.
 * Since: 0.2.
 */
mc_status_t mc_store_size(struct mc_store_t *store,
                          const char *key,
                          size_t key_len,
                          uint32_t timeout_ms,
                          uint64_t *size_out);

/**
 * Tells whether an object exists and is complete. Takes a lease on it if it does.
 *
 * @param store, key, key_len, timeout_ms  as in mc_store_get.
 * @param exists_out  receives 1 or 0.
 *
 * Threads: any. Blocks: longest timeout_ms. Returns: MC_OK; MC_ERR_MASTER_UNAVAILABLE;
 * MC_ERR_INVALID_ARGUMENT; MC_ERR_SHUTDOWN. Since: 0.2.
 */
mc_status_t mc_store_exists(struct mc_store_t *store,
                            const char *key,
                            size_t key_len,
                            uint32_t timeout_ms,
                            int32_t *exists_out);

/**
 * Removes one object.
 *
 * @param store, key, key_len, timeout_ms  as in mc_store_get.
 * @param force  not 0: also when readers hold a lease; masters of ours only.
 *
 * Threads: any. Blocks: longest timeout_ms. Returns: MC_OK; MC_ERR_OBJECT_NOT_FOUND;
 * MC_ERR_OBJECT_LEASED; MC_ERR_OBJECT_NOT_READY; MC_ERR_UNSUPPORTED; MC_ERR_MASTER_UNAVAILABLE;
 * MC_ERR_INVALID_ARGUMENT; MC_ERR_SHUTDOWN. Since: 0.2.
 */
mc_status_t mc_store_remove(struct mc_store_t *store,
                            const char *key,
                            size_t key_len,
                            int32_t force,
                            uint32_t timeout_ms);

/**
 * Removes all objects in whose name a regular expression is found, as far as they are complete and
 * not leased.
 *
 * @param store        the client.
 * @param pattern      the expression.
 * @param pattern_len  its bytes.
 * @param force        as in mc_store_remove.
 * @param count_out    receives how many were removed; may be NULL.
 *
 * Threads: any. Blocks: longest the setting transfer_timeout_ms. Returns: MC_OK;
 * MC_ERR_INVALID_ARGUMENT, also for a wrong expression; MC_ERR_UNSUPPORTED;
 * MC_ERR_MASTER_UNAVAILABLE; MC_ERR_SHUTDOWN. Since: 0.2.
 */
mc_status_t mc_store_remove_by_pattern(struct mc_store_t *store,
                                       const char *pattern,
                                       size_t pattern_len,
                                       int32_t force,
                                       uint64_t *count_out);

/**
 * Removes all objects that are not leased.
 *
 * @param store      the client.
 * @param force      as in mc_store_remove.
 * @param count_out  receives how many were removed; may be NULL.
 *
 * Threads: any. Blocks: longest the setting transfer_timeout_ms. Returns: MC_OK;
 * MC_ERR_INVALID_ARGUMENT; MC_ERR_UNSUPPORTED; MC_ERR_MASTER_UNAVAILABLE; MC_ERR_SHUTDOWN.
 * Since: 0.2.
 */
mc_status_t mc_store_remove_all(struct mc_store_t *store, int32_t force, uint64_t *count_out);

/**
 * Registers memory that objects are put from and got into, which makes that cheaper. Peers cannot
 * reach it.
 *
 * @param store         the client.
 * @param address       its first byte; it must stay mapped until it is unregistered.
 * @param length_bytes  its length, not 0.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_OVERLAP, also for
 * the same range again; MC_ERR_LIMIT_REACHED; MC_ERR_SHUTDOWN. Since: 0.2.
 */
mc_status_t mc_store_register_buffer(struct mc_store_t *store, void *address, size_t length_bytes);

/**
 * Takes that back. When it returns, the store does not touch the memory any more.
 *
 * @param store    the client.
 * @param address  as it was registered.
 *
 * Threads: any. Blocks: for copies under way, microseconds. Returns: MC_OK;
 * MC_ERR_NOT_REGISTERED; MC_ERR_SHUTDOWN. Since: 0.2.
 */
mc_status_t mc_store_unregister_buffer(struct mc_store_t *store, void *address);

/**
 * Translates a status into the number that upstream's store interfaces have for it.
 *
 * @param status  any number.
 * @return 0 for MC_OK, else a negative number such as -704 for MC_ERR_OBJECT_NOT_FOUND.
 *
 * Threads: any. Blocks: no. Since: 0.2.
 */
int32_t mc_store_upstream_code(mc_status_t status);

/* ---- Batches of objects ------------------------------------------------------------------ */
/** A range of local memory. */
typedef struct mc_store_range_t {
    /** Its first byte. */
    void *address;
    /** Its length. */
    size_t length_bytes;
} mc_store_range_t;

/**
 * An object of a batch, and the memory its bytes come from or go to: ranges one after the other,
 * in any cut.
 */
typedef struct mc_store_object_t {
    /** Name of the object. */
    const char *key;
    /** Its bytes. */
    size_t key_len;
    /** The memory. */
    const struct mc_store_range_t *ranges;
    /** How many ranges; 0 where a call is about names only. */
    size_t range_count;
} mc_store_object_t;

/**
 * Puts many objects.
 *
 * @param store         the client.
 * @param objects       what to put; memory is read during the call only.
 * @param count         how many.
 * @param options       for all of them; NULL = all defaults.
 * @param statuses_out  receives a status for each object, as mc_store_put returns it.
 *
 * Threads: any. Blocks: as mc_store_put. Returns: MC_OK when the batch was carried out and
 * statuses_out says how each object ended, the last error text being that of the first failure;
 * MC_ERR_INVALID_ARGUMENT, MC_ERR_TOO_MANY_REQUESTS or MC_ERR_SHUTDOWN when nothing was done.
 * Since: 0.2.
 */
mc_status_t mc_store_put_batch(mc_store_t *store,
                               const struct mc_store_object_t *objects,
                               size_t count,
                               const mc_put_options_t *options,
                               mc_status_t *statuses_out);

/**
 * Reads many objects into memory of the caller.
 *
 * @param store         the client.
 * @param objects       names, and where the bytes go; the ranges of an object may have more room
 *                      than it has bytes.
 * @param count         how many.
 * @param timeout_ms    longest time; 0 = the setting transfer_timeout_ms.
 * @param sizes_out     receives the size of each object, 0 after a failure; may be NULL.
 * @param statuses_out  receives a status for each object, as mc_store_get returns it.
 *
 * Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_put_batch. Since: 0.2.
 */
mc_status_t mc_store_get_batch(mc_store_t *store,
                               const struct mc_store_object_t *objects,
                               size_t count,
                               uint32_t timeout_ms,
                               uint64_t *sizes_out,
                               mc_status_t *statuses_out);

/**
 * Tells the sizes of many objects. Takes a lease on each.
 *
 * @param store, objects, count, timeout_ms, sizes_out, statuses_out  as in mc_store_get_batch;
 *        only the names of the objects are looked at.
 *
 * Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_put_batch, and
 * MC_ERR_MASTER_UNAVAILABLE. Since: 0.2.
 */
mc_status_t mc_store_size_batch(mc_store_t *store,
                                const struct mc_store_object_t *objects,
                                size_t count,
                                uint32_t timeout_ms,
                                uint64_t *sizes_out,
                                mc_status_t *statuses_out);

/**
 * Tells which of many objects exist and are complete. Takes a lease on each that does.
 *
 * @param store, objects, count, timeout_ms, statuses_out  as in mc_store_size_batch.
 * @param exists_out  receives 1 or 0 for each object.
 *
 * Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_size_batch. Since: 0.2.
 */
mc_status_t mc_store_exists_batch(mc_store_t *store,
                                  const struct mc_store_object_t *objects,
                                  size_t count,
                                  uint32_t timeout_ms,
                                  int32_t *exists_out,
                                  mc_status_t *statuses_out);

/**
 * Removes many objects.
 *
 * @param store, objects, count, timeout_ms, statuses_out  as in mc_store_size_batch.
 * @param force  as in mc_store_remove.
 *
 * Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_size_batch. Since: 0.2.
 */
mc_status_t mc_store_remove_batch(mc_store_t *store,
                                  const struct mc_store_object_t *objects,
                                  size_t count,
                                  int32_t force,
                                  uint32_t timeout_ms,
                                  mc_status_t *statuses_out);

/* ---- Buffers of the store ---------------------------------------------------------------- */
/**
 * An object's bytes in memory of the store: the object itself where it lies in memory that this
 * client gave to the pool of a master of ours, else a copy in its local buffer. Opaque.
 */
typedef struct mc_store_buffer_t mc_store_buffer_t;

/**
 * Gives one object as memory of the store. An object in own memory is not copied: its memory is
 * not used again before the buffer is released, even when the object is removed or evicted. Views
 * hold at most half of the own memory; beyond that, and in all other cases, the object is read
 * once, into the local buffer.
 *
 * @param store, key, key_len, timeout_ms  as in mc_store_get.
 * @param buffer_out  receives the buffer, owned by the caller until mc_store_buffer_release; NULL
 *                    on failure.
 *
 * Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_get, and MC_ERR_LIMIT_REACHED
 * when buffers that were not released leave no room. Since: 0.2.
 */
mc_status_t mc_store_get_buffer(mc_store_t *store,
                                const char *key,
                                size_t key_len,
                                uint32_t timeout_ms,
                                struct mc_store_buffer_t **buffer_out);

/**
 * Gives many objects as memory of the store; see mc_store_get_buffer.
 *
 * @param store, objects, count, timeout_ms, statuses_out  as in mc_store_size_batch.
 * @param buffers_out  receives a buffer for each object, NULL where its status is a failure.
 *
 * Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_put_batch. Since: 0.2.
 */
mc_status_t mc_store_get_buffers(mc_store_t *store,
                                 const mc_store_object_t *objects,
                                 size_t count,
                                 uint32_t timeout_ms,
                                 struct mc_store_buffer_t **buffers_out,
                                 mc_status_t *statuses_out);

/**
 * Gives the first byte of a buffer. The bytes stay what they are and may be read until the buffer
 * is released, also after the store was closed. They must not be changed, because they may be the
 * object itself; see mc_store_buffer_detach.
 *
 * @param buffer  the buffer.
 * @return the address; NULL for a handle that is not a buffer.
 *
 * Threads: any. Blocks: no. Since: 0.2.
 */
void *mc_store_buffer_address(const struct mc_store_buffer_t *buffer);

/**
 * Gives the bytes of a buffer.
 *
 * @param buffer  the buffer.
 * @return how many; 0 for a handle that is not a buffer.
 *
 * Threads: any. Blocks: no. Since: 0.2.
 */
size_t mc_store_buffer_size(const struct mc_store_buffer_t *buffer);

/**
 * Makes the bytes of a buffer its holder's own, to be changed at will. A buffer that is the object
 * itself becomes a copy in the local buffer, at another address; any other stays as it is.
 *
 * @param buffer  the buffer.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_LIMIT_REACHED when the local buffer has no
 * room, and the buffer stays as it is. Since: 0.2.
 */
mc_status_t mc_store_buffer_detach(struct mc_store_buffer_t *buffer);

/**
 * Gives a buffer back, from any thread, in any order. Its memory must not be touched any more.
 *
 * @param buffer  the buffer; NULL does nothing.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_HANDLE when it was released before.
 * Since: 0.2.
 */
mc_status_t mc_store_buffer_release(struct mc_store_buffer_t *buffer);

/* ---- Where objects are ------------------------------------------------------------------- */
/**
 * Tells where the complete replicas of objects are. Takes a lease on each object.
 *
 * The text is a JSON array with an entry for each object, in order: null after a failure, else an
 * array of replicas, each with "kind" ("memory" or "disk"), "status", "size", and "ranges"
 * ("address", "size", "endpoint") or "path".
 *
 * @param store, objects, count, timeout_ms, statuses_out  as in mc_store_size_batch.
 * @param buf, buf_len, len_out  as in mc_engine_local_name.
 *
 * Threads: any. Blocks: longest timeout_ms. Returns: as mc_store_size_batch. Since: 0.2.
 */
mc_status_t mc_store_replicas(mc_store_t *store,
                              const mc_store_object_t *objects,
                              size_t count,
                              uint32_t timeout_ms,
                              mc_status_t *statuses_out,
                              char *buf,
                              size_t buf_len,
                              size_t *len_out);

/* ---- State of the store client ----------------------------------------------------------- */
/** What a client last heard of its master. Set struct_size to sizeof(mc_store_health_t). */
typedef struct mc_store_health_t {
    /** sizeof(mc_store_health_t). */
    uint32_t struct_size;
    /** 1 when the last sign of life was answered, else 0. */
    int32_t master_is_reachable;
    /** 1 when the master is one of ours, 0 when it is upstream's. */
    int32_t master_is_native;
    /** Why the last sign of life was not answered; MC_OK when it was. */
    mc_status_t last_failure;
    /** Signs of life in a row that were not answered. */
    uint64_t failures;
    /** Time since the last answer. */
    uint64_t since_answer_ms;
    /** Objects that the memory of this client is known to hold; masters of ours only. */
    uint64_t objects_held;
} mc_store_health_t;

/** What a client has counted since it was opened. Set struct_size to sizeof(mc_store_metrics_t). */
typedef struct mc_store_metrics_t {
    /** sizeof(mc_store_metrics_t). */
    uint32_t struct_size;
    /** Zero. */
    uint32_t reserved;
    /** Objects put. */
    uint64_t puts;
    /** Puts that found the object there already. */
    uint64_t puts_existing;
    /** Puts that failed. */
    uint64_t puts_failed;
    /** Bytes put, each replica asked for counted. */
    uint64_t put_bytes;
    /** Objects read. */
    uint64_t gets;
    /** Reads of objects that do not exist. */
    uint64_t gets_missed;
    /** Reads that failed. */
    uint64_t gets_failed;
    /** Bytes read. */
    uint64_t got_bytes;
    /** Copies made inside the process instead of transfers. */
    uint64_t copies;
    /** Replicas that could not be read. */
    uint64_t replica_failures;
    /** Reads repeated because their lease ended. */
    uint64_t rereads;
    /** Objects removed. */
    uint64_t removes;
    /** Signs of life that were not answered. */
    uint64_t pings_failed;
    /** Times the memory was mounted again. */
    uint64_t remounts;
    /** Objects told to a restarted master. */
    uint64_t objects_reported;
    /** Objects handed out by mc_store_get_buffer without a copy. */
    uint64_t views;
    /** Objects written to files of the disk tier. */
    uint64_t file_writes;
    /** Objects that were not, because too much waited to be written or a file system failed. */
    uint64_t file_writes_failed;
    /** Objects read from files of the disk tier. */
    uint64_t file_reads;
} mc_store_metrics_t;

/**
 * Tells what a client last heard of its master. Makes no call.
 *
 * @param store       the client.
 * @param health_out  its struct_size says how much is filled.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT; MC_ERR_SHUTDOWN. Since: 0.2.
 */
mc_status_t mc_store_health(mc_store_t *store, struct mc_store_health_t *health_out);

/**
 * Reads the counters of a client.
 *
 * @param store        the client.
 * @param metrics_out  its struct_size says how much is filled.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.2.
 */
mc_status_t mc_store_metrics(const mc_store_t *store, struct mc_store_metrics_t *metrics_out);

/**
 * Copies the counters of a client as text in the format Prometheus reads (OpenMetrics).
 *
 * @param store, buf, buf_len, len_out  as in mc_engine_local_name.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.2.
 */
mc_status_t mc_store_metrics_text(const mc_store_t *store,
                                  char *buf,
                                  size_t buf_len,
                                  size_t *len_out);

/**
 * Copies what a client found and chose, as JSON for people: segments, master, engine.
 *
 * @param store, buf, buf_len, len_out  as in mc_engine_local_name.
 *
 * Threads: any. Blocks: no. Returns: MC_OK; MC_ERR_INVALID_ARGUMENT. Since: 0.2.
 */
mc_status_t mc_store_dump(const mc_store_t *store, char *buf, size_t buf_len, size_t *len_out);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* MOONCAKE_H */
