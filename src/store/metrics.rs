//! Counters of one store client, readable as numbers and as Prometheus text.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

/// All counters. Increments are single atomic additions.
pub struct StoreMetrics {
    /// Objects put.
    pub puts: Counter,
    /// Puts that found the object there already.
    pub puts_existing: Counter,
    /// Puts that failed.
    pub puts_failed: Counter,
    /// Bytes of objects put, each replica counted.
    pub bytes_put: Counter,
    /// Objects read.
    pub gets: Counter,
    /// Reads of objects that do not exist.
    pub gets_missed: Counter,
    /// Reads that failed.
    pub gets_failed: Counter,
    /// Bytes of objects read.
    pub bytes_got: Counter,
    /// Objects read or written by a copy inside this process.
    pub copies: Counter,
    /// Reads that had to take another replica than the first.
    pub replica_failures: Counter,
    /// Reads repeated because the lease ended during the copy.
    pub rereads: Counter,
    /// Objects removed.
    pub removes: Counter,
    /// Signs of life that were not answered.
    pub pings_failed: Counter,
    /// Times the segments were mounted again.
    pub remounts: Counter,
    /// Times that peers were kept from writing by old grants.
    pub fences: Counter,
    /// Times that a native master was told which puts go on, because a word about one was lost.
    pub unfinished_told: Counter,
    /// Objects reported to a master that had lost its memory.
    pub objects_reported: Counter,
    /// Objects handed out without a copy.
    pub views: Counter,
    /// Objects written to files.
    pub file_writes: Counter,
    /// Objects that were to be written to files and were not.
    pub file_writes_failed: Counter,
    /// Files of which a master of ours was told again, because the first word was not answered.
    pub file_words_repeated: Counter,
    /// Objects read from files.
    pub file_reads: Counter,
    /// Files that were missing, broken, or could not be read.
    pub file_reads_failed: Counter,
    /// Reads and writes of files that the file system did not answer in time.
    pub file_timeouts: Counter,
    registry: Registry,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("mooncake_store");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let puts = counter("puts", "Objects put");
        let puts_existing = counter("puts_existing", "Puts of objects that existed already");
        let puts_failed = counter("puts_failed", "Puts that failed");
        let gets = counter("gets", "Objects read");
        let gets_missed = counter("gets_missed", "Reads of objects that do not exist");
        let gets_failed = counter("gets_failed", "Reads that failed");
        let copies = counter("copies", "Copies made inside this process");
        let replica_failures = counter("replica_failures", "Replicas that could not be read");
        let rereads = counter("rereads", "Reads repeated because their lease ended");
        let removes = counter("removes", "Objects removed");
        let pings_failed = counter("pings_failed", "Signs of life without an answer");
        let remounts = counter("remounts", "Times the segments were mounted again");
        let fences = counter("fences", "Times that peers were kept from writing by old grants");
        let objects_reported = counter("objects_reported", "Objects told to a restarted master");
        let unfinished_told =
            counter("unfinished_told", "Times that a lost word about a put was made good");
        let views = counter("views", "Objects handed out without a copy");
        let file_writes = counter("file_writes", "Objects written to files");
        let file_writes_failed =
            counter("file_writes_failed", "Objects that could not be written to files");
        let file_words_repeated =
            counter("file_words_repeated", "Lost words about files that were made good");
        let file_reads = counter("file_reads", "Objects read from files");
        let file_reads_failed =
            counter("file_reads_failed", "Files that could not be read, or were not whole");
        let file_timeouts = counter("file_timeouts", "Files that were not read or written in time");
        let mut bytes = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register_with_unit(name, help, Unit::Bytes, counter.clone());
            counter
        };
        let bytes_put = bytes("put", "Written to replicas");
        let bytes_got = bytes("got", "Read from replicas");
        StoreMetrics {
            puts,
            puts_existing,
            puts_failed,
            bytes_put,
            gets,
            gets_missed,
            gets_failed,
            bytes_got,
            copies,
            replica_failures,
            rereads,
            removes,
            pings_failed,
            remounts,
            fences,
            unfinished_told,
            objects_reported,
            views,
            file_writes,
            file_writes_failed,
            file_words_repeated,
            file_reads,
            file_reads_failed,
            file_timeouts,
            registry,
        }
    }
}

impl StoreMetrics {
    /// The OpenMetrics text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
