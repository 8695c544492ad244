//! Every bound of the crate, with its reason. Queues, tables, strings, counts and times taken from
//! outside are checked against these before they are used or allocated.

use std::time::Duration;

/// Longest deadline: an hour covers any transfer; beyond that a caller means "for ever", which
/// this library does not offer.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Segment and server names. Upstream has no limit; a host name is at most 253 bytes, and names
/// carry a port, brackets, a device suffix or a path.
pub const NAME_BYTES_MAX: usize = 1024;

/// Connection strings: a list of endpoints.
pub const CONNECTION_STRING_BYTES_MAX: usize = 8192;

/// Buffers one engine may register. Inference engines register one per layer and tensor (about a
/// thousand); stores register a few large ones.
pub const BUFFERS_MAX: usize = 65_536;

/// Segments one engine may have open.
pub const SEGMENTS_MAX: usize = 65_536;

/// Requests of one batch: a million is a documented caller's wish, and a task is under 100 bytes.
pub const BATCH_REQUESTS_MAX: usize = 1 << 20;

/// Batches alive in one engine.
pub const BATCHES_MAX: usize = 1 << 20;

/// Length of one request. No host has a mapping larger than this; it also keeps sums in 63 bits.
pub const REQUEST_BYTES_MAX: u64 = 1 << 46;

/// The largest `size` that marks the first 8 bytes of a data connection as an upstream header. The
/// native magic, ASCII text and TLS records all read as larger numbers.
pub const UPSTREAM_SIZE_MAX: u64 = 1 << 46;

/// Handshake message, upstream's own default (`MC_HANDSHAKE_MAX_LENGTH` raises it).
pub const HANDSHAKE_BYTES_DEFAULT: usize = 1 << 20;
/// Upper end of `MC_HANDSHAKE_MAX_LENGTH`.
pub const HANDSHAKE_BYTES_MAX: usize = 128 << 20;

/// Handshake conversations served at once. Each holds at most one message.
pub const HANDSHAKE_CONNECTIONS_MAX: usize = 256;

/// A handshake client must have sent its whole message within this time (upstream 0.3.13: 5 s).
pub const HANDSHAKE_SERVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a look at all segments waits for one of them. Programs look after every batch, so a
/// peer that stands still must not cost the others a handshake's whole time.
pub const SYNC_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long such looks then pass a silent one over: they cost a thirtieth of the time at most.
pub const SYNC_PAUSE: Duration = Duration::from_secs(30);

/// Notifications kept until the owner takes them; a newer one beyond this is refused, not stored.
pub const NOTIFICATIONS_MAX: usize = 65_536;
/// Notifications behind batches that wait to be sent to one segment.
pub const NOTIFICATIONS_UNSENT_MAX: usize = 4096;
/// Bytes of one notification's name or message.
pub const NOTIFICATION_BYTES_MAX: usize = 1 << 20;

/// Blocks in one native frame. With a header and a scratch vector this stays below the kernel's
/// 1024 vectors a call.
pub const NATIVE_BLOCKS_MAX: usize = 512;
/// Payload of one native frame: large enough to amortise the header, small enough that one frame
/// does not hold a lane for long (about a millisecond at 4 GB/s).
pub const NATIVE_FRAME_BYTES_MAX: u64 = 4 << 20;
/// Native hello, with name and room for later fields.
pub const NATIVE_HELLO_BYTES_MAX: usize = 4096;

/// Peers (addresses) one engine keeps lanes to.
pub const PEERS_MAX: usize = 16_384;

/// Lanes of peers without a connection whose last epoch is remembered, against hellos that the
/// network held back. A peer has a few lanes; what is forgotten cannot do harm (see `fence.rs`).
pub const ABANDONED_LANES_MAX: usize = 4096;

/// Kernel vectors per call (`IOV_MAX` of Linux).
pub const IOV_MAX: usize = 1024;

/// A metadata document or HTTP body read from a service.
pub const DOCUMENT_BYTES_MAX: usize = 128 << 20;
/// Buffers a peer's descriptor may list; more is refused as malformed.
pub const DESCRIPTOR_BUFFERS_MAX: usize = 1 << 20;
/// Devices a peer's descriptor may list; hosts have a few dozen at most.
pub const DESCRIPTOR_DEVICES_MAX: usize = 256;
/// Protocols one descriptor may name at once; there are fewer kinds than this.
pub const DESCRIPTOR_PROTOCOLS_MAX: usize = 32;
/// Text of a JSON member that is carried without being understood. The topology of a host is a few
/// kilobytes; the tree built from hostile text is up to about 100 times as large as the text.
pub const OPAQUE_MEMBER_BYTES_MAX: usize = 1 << 18;
/// Queue pairs offered in one connection message, the upper end of `MC_NUM_QP_PER_EP`.
pub const CONNECTION_QPS_MAX: usize = 255;

/// Bytes kept of one error message handed to C.
pub const ERROR_TEXT_BYTES_MAX: usize = 4096;

const _: () = assert!(NATIVE_BLOCKS_MAX + 2 <= IOV_MAX);
const _: () = assert!(NATIVE_BLOCKS_MAX <= u16::MAX as usize);
const _: () = assert!(HANDSHAKE_BYTES_DEFAULT <= HANDSHAKE_BYTES_MAX);
const _: () = assert!(DESCRIPTOR_BUFFERS_MAX >= BUFFERS_MAX);

/// The JSON object of an engine's settings: connection strings, lists of devices, a few numbers.
pub const CONFIG_JSON_BYTES_MAX: usize = 1 << 20;
/// Entries of a setting that is a list: more network adapters than any host has.
pub const CONFIG_LIST_ITEMS_MAX: usize = 256;
/// Characters of an unknown key that are repeated in the error about it.
pub const CONFIG_KEY_CHARS_SHOWN: usize = 64;

/// Times of the master's flags: a year, which is for ever there. Sums of a few stay in every clock.
pub const MASTER_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Endpoints of one metadata service.
pub const METADATA_ENDPOINTS_MAX: usize = 64;

/// Addresses of the host that are looked at. A node of a large container cluster has a few
/// hundred.
pub const INTERFACES_MAX: usize = 4096;

/// Random draws from a port range before it is searched from end to end. Upstream draws as often
/// and then gives up; in a range that is nearly full the search finds the last free port.
pub const PORT_DRAWS_MAX: usize = 500;

/// Bytes of notifications kept until the owner takes them.
pub const NOTIFICATION_QUEUE_BYTES_MAX: usize = 64 << 20;

/// Buffers, segments and peers listed one by one in the dump; more are only counted.
pub const DUMP_ENTRIES_MAX: usize = 256;

/// Longest wait for the metadata service while an engine is destroyed.
pub const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait of a cancelling thread for a slice that a control thread is just handing over.
pub const CANCEL_HANDOVER: Duration = Duration::from_millis(200);

/// Longest v2 request made of a longer one: as with native frames, others may go in between.
pub const V2_SLICE_BYTES_MAX: u64 = 16 << 20;

/// Look-ups of names that wait for the system's resolver at once. Each holds a thread, and a
/// resolver without a name server takes half a minute to say so.
pub const NAME_LOOKUPS_MAX: usize = 32;

/// Longest look-up of a name that stands in a setting, when an engine or a program starts.
pub const BIND_NAME_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections kept to one HTTP service: calls to it come one at a time, or a few.
pub const HTTP_IDLE_CONNECTIONS_MAX: usize = 2;
/// Bytes of an unwelcome reply that are repeated in the error about it.
pub const REPLY_BYTES_SHOWN: usize = 200;
/// Longest connect to an HTTP metadata service, and longest call (upstream's numbers).
pub const HTTP_CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
/// See [`HTTP_CONNECT_TIMEOUT`].
pub const HTTP_CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest call to etcd or redis, all endpoints together (upstream's number for etcd).
pub const METADATA_CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest call made in the background to keep entries alive. The end of an engine may have to
/// wait for one.
pub const METADATA_KEEP_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for the answer of an engine that may still be using a name. One that is alive
/// answers within a round trip.
pub const NAME_CLAIM_TIMEOUT: Duration = Duration::from_millis(1500);
/// Pause before entries are tried to be kept alive again after a failure, at most.
pub const METADATA_KEEP_RETRY: Duration = Duration::from_secs(2);

/// Connections that the HTTP metadata server serves at once; more are closed. Engines hold one for
/// the length of a request, or a little longer.
pub const SERVER_CONNECTIONS_MAX: usize = 4096;
/// Time for the head of a request, also of the next one on a kept connection.
pub const SERVER_HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The head of a request: a key in its most escaped form and a few headers.
pub const SERVER_HEADER_BYTES_MAX: usize = 64 << 10;
/// Time for the body of a request.
pub const SERVER_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A key: `mooncake/`, a cluster, a kind and a name.
pub const SERVER_KEY_BYTES_MAX: usize = 4096;
/// A document: a descriptor of 65 536 buffers with their keys is about 13 MB.
pub const SERVER_DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Bodies that are being received, together.
pub const SERVER_UPLOAD_BYTES_MAX: usize = 256 << 20;
/// Documents kept by the server.
pub const SERVER_DOCUMENTS_MAX: usize = 1 << 20;
/// Keys and documents kept by the server, in bytes.
pub const SERVER_TABLE_BYTES_MAX: usize = 1 << 30;
/// Changes of the table are collected for this long before its file is written.
pub const SERVER_SAVE_PAUSE: Duration = Duration::from_millis(500);
/// Time for requests that have begun when the server is told to stop.
pub const SERVER_STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted.
pub const SERVER_ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const _: () = assert!(3 * (SERVER_KEY_BYTES_MAX + NAME_BYTES_MAX) < SERVER_HEADER_BYTES_MAX);
const _: () = assert!(SERVER_DOCUMENT_BYTES_MAX <= SERVER_UPLOAD_BYTES_MAX);
const _: () = assert!(SERVER_DOCUMENT_BYTES_MAX <= DOCUMENT_BYTES_MAX);

/// Key of a stored object. Upstream has none and dies on regular expressions over long ones;
/// engines build keys from hashes and names, far below this.
pub const KEY_BYTES_MAX: usize = 64 << 10;

/// Bytes of a key that are repeated in an error about it.
pub const STORE_KEY_BYTES_SHOWN: usize = 200;
/// Longest slice of an object: where upstream 0.3.7 cuts, which its readers insist on.
pub const STORE_SLICE_BYTES_MAX: u64 = 16_777_200;
/// Replicas of one object that a reader tries before it gives up.
pub const STORE_REPLICAS_TRIED_MAX: usize = 8;
/// Room that a master grants is used within this time from asking, or asked for again. It is less
/// than what a master waits before it gives up a silent writer, so a writer that stood still
/// meanwhile does not begin to write by what was taken from it.
pub const STORE_GRANT_USE_MAX: Duration = Duration::from_millis(1000);
/// Puts of one client that go on at the same time and are known by number; of further ones lost
/// words are not repeated. A list of them all is one call to the master, of 512 KiB at most.
pub const STORE_OPEN_PUTS_MAX: usize = 65_536;
/// After a lost word about a put, and from the next sign of life that is answered, the master is
/// told this much later which puts go on: what waited in sockets has been taken in by then.
pub const STORE_DOUBT_PAUSE: Duration = Duration::from_secs(3);
/// Only puts that began so long ago are dropped for not being named: an answer that grants one is
/// not on its way for longer, or is not used any more.
pub const STORE_DOUBT_AGE: Duration = Duration::from_secs(2);
const _: () = assert!(STORE_DOUBT_AGE.as_millis() > STORE_GRANT_USE_MAX.as_millis());
const _: () = assert!(STORE_DOUBT_AGE.as_millis() < STORE_DOUBT_PAUSE.as_millis());
/// How often a reader looks an object up again whose lease ended during the copy.
pub const STORE_REREADS_MAX: usize = 4;
/// Keys of one call to the master; larger batches take several. It keeps answers, with a few
/// hundred bytes for each replica, far below the longest frame.
pub const STORE_KEYS_PER_CALL_MAX: usize = 8192;
/// Bytes of keys in one call to the master.
pub const STORE_KEY_BYTES_PER_CALL_MAX: usize = 4 << 20;
/// Objects in own segments that are remembered for the report to a restarted master.
pub const STORE_HELD_OBJECTS_MAX: usize = 1 << 22;
/// Objects that one client hands out as views of its own memory at a time; further ones are
/// copied. A list of them all is one call to the master, of 2 MiB at most.
pub const STORE_KEPT_RANGES_MAX: usize = 65_536;
/// Views hold at most this part of the own memory, because what they hold cannot be used again.
pub const STORE_KEPT_PART: u64 = 2;
/// Bytes of objects that wait to be written to files of the disk tier; further ones are not.
pub const STORE_FILE_QUEUE_BYTES_MAX: usize = 256 << 20;
/// The same as a number of objects.
pub const STORE_FILE_QUEUE_MAX: usize = 16_384;
/// Words about such files that a master which is away has not heard and will be told again: as many
/// as wait to be written when it goes away. Further ones are not said again.
pub const STORE_FILE_WORDS_MAX: usize = STORE_FILE_QUEUE_MAX;
/// Bytes of keys and paths in them, a thousand of each.
pub const STORE_FILE_WORD_BYTES_MAX: usize = STORE_FILE_WORDS_MAX * 1024;
/// Threads that write them, upstream's number.
pub const STORE_FILE_WRITERS: usize = 2;
/// A writer that has not come back from the file system for so long is kept by it: a disk takes the
/// MiB of one step in far less, and what waits is not worth its memory for longer.
pub const STORE_FILE_WRITE_STUCK: Duration = Duration::from_secs(10);
/// Threads that read files for callers: as many reads as a disk or a server likes at a time. No
/// more calls than that stand in a file system that hangs.
pub const STORE_FILE_READERS: usize = 8;
/// Reads that wait for one of these threads, each with its caller.
pub const STORE_FILE_READS_MAX: usize = 1024;
/// A file system that has not answered any of them for so long is not asked by more.
pub const STORE_FILE_STUCK: Duration = Duration::from_secs(2);
/// Longest wait of a sign of life for news.
pub const STORE_ATTEND_WAIT: Duration = Duration::from_millis(500);
/// Time between two signs of life without news, upstream's number.
pub const STORE_PING_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a sign of life that was not answered.
pub const STORE_PING_RETRY: Duration = Duration::from_millis(250);
/// Longest wait for calls under way and for the master when a client is closed.
pub const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Smallest segment that is mounted, upstream's number.
pub const STORE_SEGMENT_BYTES_MIN: u64 = 16 << 20;
/// Segments that one client mounts.
pub const CLIENT_SEGMENTS_MAX: usize = 1024;
/// Body of a call to the master: a batch of a hundred thousand puts with keys of 500 bytes.
pub const RPC_REQUEST_BYTES_MAX: usize = 64 << 20;
/// Body of an answer: a look-up by pattern that finds a few million objects.
pub const RPC_REPLY_BYTES_MAX: usize = 1 << 30;
/// Connections of one master. A client of upstream keeps two or three, at most 100.
pub const RPC_CONNECTIONS_MAX: usize = 65_536;
/// Threads that serve calls: what they do takes microseconds, and the index is shared.
pub const RPC_THREADS_MAX: usize = 64;
/// Answers that one connection may be owed before its next request is looked at.
pub const RPC_PENDING_MAX: usize = 1024;
/// Answers that wait for a caller who does not read; then its requests are not read either.
pub const RPC_BACKLOG_BYTES: usize = 4 << 20;
/// The same for answers that come later than others were sent: beyond this the connection is
/// closed.
pub const RPC_BACKLOG_BYTES_MAX: usize = RPC_REPLY_BYTES_MAX + (64 << 20);
/// Parts of requests that have not arrived whole, of all connections together.
pub const RPC_INPUT_BYTES_MAX: usize = 1 << 30;
/// Time for one request to arrive once it has begun.
pub const RPC_FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// A large request is given a second more for each of these.
pub const RPC_FRAME_BYTES_PER_SECOND: u64 = 256 << 10;
/// Time for a new connection to send its first request.
pub const RPC_STRANGER_TIMEOUT: Duration = Duration::from_secs(60);
/// Time in which a caller must take some bytes of what it is sent.
pub const RPC_PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest budget of a thread for looking out before it sleeps.
pub const RPC_SPIN_MAX: Duration = Duration::from_millis(10);

const _: () = assert!(RPC_REPLY_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(RPC_REQUEST_BYTES_MAX <= RPC_INPUT_BYTES_MAX);
/// Slices of one object: 1 TiB in upstream's slices of 16 MiB.
pub const OBJECT_SLICES_MAX: usize = 65_536;
/// Pieces of memory that a program got from the library and has not freed: each is a mapping, of
/// which the kernel gives a process 65 530 by default.
pub const MEMORY_ALLOCATIONS_MAX: usize = 32_768;
/// Longest wait for the table of these. It is held for microseconds, but in a forked child it may
/// be held for ever, by a thread that is not there.
pub const MEMORY_TABLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Objects of one group: whoever reads one of them renews the others, one after the other, on the
/// thread that carries out the call. The parts of a page of a cache are a few hundred.
pub const GROUP_MEMBERS_MAX: usize = 4096;
/// Copies of one object. Each is written by the writer itself, so more would take for ever.
pub const REPLICAS_MAX: usize = 64;
/// Items of one batched call. Engines ask for thousands of keys at once.
pub const STORE_BATCH_MAX: usize = 1 << 20;
/// Files of the disk tier that wait to be deleted; what does not fit is found by the next look
/// through the folder.
pub const MASTER_FILES_QUEUED_MAX: usize = 1 << 18;
/// Keys whose end is kept in mind while files of an earlier life are taken over. Beyond it no more
/// files are: they are deleted.
pub const MASTER_GONE_NOTED_MAX: usize = 1 << 20;
/// Segments mounted at one master. A client mounts one or a few.
pub const STORE_SEGMENTS_MAX: usize = 65_536;
/// Clients known to one master: each costs a few hundred bytes until its time to live is over.
pub const STORE_CLIENTS_MAX: usize = 1 << 18;
/// Text of a regular expression over keys.
pub const PATTERN_BYTES_MAX: usize = 16 << 10;
/// Memory of a compiled regular expression; what needs more is refused.
pub const PATTERN_COMPILED_BYTES_MAX: usize = 4 << 20;
/// Keys that one lookup by pattern answers with. Beyond it the answer would be hundreds of MB.
pub const PATTERN_MATCHES_MAX: usize = 1 << 20;
/// News of completed objects kept for a holder until it takes them. What does not fit is told
/// later, from the index.
pub const HOLDER_EVENTS_MAX: usize = 65_536;
/// News told at once.
pub const HOLDER_EVENTS_PER_REPLY: usize = 4096;
/// With the longest keys and names of groups they fit into one answer.
const _: () = assert!(HOLDER_EVENTS_PER_REPLY * 2 * KEY_BYTES_MAX < RPC_REPLY_BYTES_MAX);
/// Longest wait for news that a client may ask for.
pub const ATTEND_WAIT_MAX: Duration = Duration::from_secs(30);
/// Objects that one part of a report may list.
pub const REPORT_OBJECTS_MAX: usize = 65_536;
/// Objects that one pass of background eviction takes, so that nobody waits long for a lock.
pub const EVICTION_STEP_MAX: usize = 4096;
/// Records that wait to be written. More means that the disk does not follow; the journal is given
/// up, not the service.
pub const JOURNAL_BUFFER_BYTES_MAX: usize = 256 << 20;
/// A log below this is not worth a snapshot.
pub const JOURNAL_LOG_BYTES_MIN: u64 = 64 << 20;
/// Files of one journal that are looked at: two of each kind in a crash at the worst moment.
pub const JOURNAL_FILES_MAX: usize = 64;

/// One file of sysfs: the kernel writes at most a page, with few exceptions.
pub const SYSFS_FILE_BYTES_MAX: usize = 4096;
/// Names looked at in one folder of sysfs.
pub const SYSFS_ENTRIES_MAX: usize = 65_536;
/// Name of a device: the field of verbs has 64 bytes with its end, interfaces have 15.
pub const DEVICE_NAME_BYTES_MAX: usize = 63;
/// PCI functions looked at. Large hosts have about a thousand, and more with virtual functions.
pub const PCI_FUNCTIONS_MAX: usize = 16_384;
/// RDMA adapters, and network interfaces that are hardware; as many as a descriptor may list.
pub const ADAPTERS_MAX: usize = DESCRIPTOR_DEVICES_MAX;
/// Ports of one adapter: verbs count them in a byte, hardware has two.
pub const ADAPTER_PORTS_MAX: usize = 32;
/// Accelerators of one kind.
pub const ACCELERATORS_MAX: usize = 256;
/// The table in which a driver numbers its devices: 32 bytes for each.
pub const DEVICE_TABLE_BYTES_MAX: usize = 64 << 10;
/// NUMA nodes: the largest number a kernel is built with.
pub const NUMA_NODES_MAX: u32 = 1024;
/// Pages whose node is asked for to tell where a range is; a majority of so many is sure enough.
pub const NODE_PROBES_MAX: usize = 64;
/// Processor numbers: well above the largest number a kernel is built with (8192).
pub const CPU_NUMBER_MAX: u32 = 65_536;
/// Ranges in one list of processors.
pub const CPU_RANGES_MAX: usize = 4096;
/// Sentences about what was left out of the topology.
pub const TOPOLOGY_NOTES_MAX: usize = 256;
/// A preference matrix written by somebody, as opaque members of descriptors are.
pub const CUSTOM_TOPOLOGY_BYTES_MAX: usize = OPAQUE_MEMBER_BYTES_MAX;

const _: () = assert!(RPC_REPLY_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(RPC_REQUEST_BYTES_MAX <= RPC_INPUT_BYTES_MAX);

/// Blocks moved by one call of the kernel between two processes: the call's own cost is spread over
/// so many, and a cancelling thread waits for one call.
pub const SHM_BLOCKS_PER_CALL: usize = 64;
/// Bytes moved in one go between two processes: less than a tenth of a millisecond, which is how
/// long a cancelling thread, or an owner who unregisters, waits, and how long one of two threads
/// that share a transfer waits for the other at its end.
pub const SHM_BYTES_PER_CALL: u64 = 256 << 10;
/// A submission of more bytes than this is shared with the transport's thread. Waking it takes tens
/// of microseconds, in which one thread moves about a third of this.
pub const SHM_SHARED_BYTES_MIN: u64 = 512 << 10;
/// Bytes of small blocks that a thread moves at once; the rest is shared with the transport's
/// thread.
pub const SHM_SUBMIT_BYTES_MAX: u64 = 1 << 20;
/// Bytes that a thread moves between two looks at its deadline.
pub const SHM_PROGRESS_BYTES_MAX: u64 = 8 << 20;
/// Copies of one peer into or out of one engine at the same time: threads of its process.
pub const SHM_PINS_MAX: usize = 256;
/// Peers of one host that an engine serves. Each holds a page or a few and a descriptor.
pub const SHM_GUESTS_MAX: usize = 1024;
/// Callers at the door that have not proved who they are; the oldest of more makes room.
pub const SHM_STRANGERS_MAX: usize = 32;
/// Time in which a caller at the door must prove who it is.
pub const SHM_STRANGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a peer's door, all steps together. One that is alive answers within
/// microseconds; without it TCP is used.
pub const SHM_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for the descriptor of a peer's memory, on a thread that moves bytes.
pub const SHM_MEMORY_TIMEOUT: Duration = Duration::from_millis(250);
/// Longest wait of an owner who unregisters for a peer that stands still in the middle of a copy.
/// A copy lasts a tenth of a millisecond; this leaves room for a host without free cores.
pub const SHM_PIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Memory of one peer that is mapped here, in pieces.
pub const SHM_FOREIGN_MAX: usize = 4096;
/// Lives of peers about which it is remembered why bytes take the other way.
pub const SHM_LIVES_MAX: usize = 4096;

const _: () = assert!(SHM_BLOCKS_PER_CALL <= IOV_MAX);
/// The number of a master's life in milliseconds since 1970: the year 2248. Generations of objects
/// begin with it, shifted by 20 bits, and stay below 2^63.
pub const MASTER_LIFE_MAX: u64 = 1 << 43;
/// Lease of an elected master: etcd's own limits are of the order of its elections (two seconds)
/// at the lower end; at the upper end a fail-over takes as long.
pub const ELECTION_LEASE_MIN: Duration = Duration::from_secs(2);
/// See [`ELECTION_LEASE_MIN`].
pub const ELECTION_LEASE_MAX: Duration = Duration::from_secs(60);
/// Longest wait of an ending master for the ends of puts that it has granted. Supervisors kill
/// after ten seconds or more.
pub const MASTER_DRAIN_PUTS: Duration = Duration::from_secs(5);
/// Longest question for the leader on behalf of a store client. Closing the client may have to
/// wait for one.
pub const LEADER_LOOK_TIMEOUT: Duration = Duration::from_millis(1500);
/// Pause between two questions for the leader while the known one does not answer.
pub const LEADER_LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Names of clients that are gone and whose metadata is about to be removed: more than the segments
/// of a rack that fails at once.
pub const CLEANUP_NAMES_MAX: usize = 4096;
/// Longest wait of a client that opens for a leader that is being elected: a lease that ends, a
/// winner that waits as long again, both upstream's five seconds, and a little more.
pub const LEADER_WAIT: Duration = Duration::from_secs(12);
