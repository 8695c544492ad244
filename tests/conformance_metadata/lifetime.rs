//! What becomes of entries when their writer is killed, and of writers when the service is.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mooncake::config::EngineConfig;
use mooncake::metadata::{Lifetime, MetadataStore};

use crate::servers::{self, Server};
use crate::stores::{open_with, soon, PATIENCE};

const KEY: &str = "mooncake/ram/life:1";
const META_KEY: &str = "mooncake/rpc_meta/life:1";
/// Says to this program, started again, which service to write to before it is killed.
const CHILD: &str = "MOONCAKE_TEST_METADATA_CHILD";

fn short_lease(config: &mut EngineConfig) {
    config.metadata_lease_s = 2;
}

pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Not a test of its own: the process that is killed.
#[test]
fn child() {
    let Ok(metadata) = std::env::var(CHILD) else { return };
    let store = open_with(&metadata, short_lease);
    store.put(META_KEY, b"{}", Lifetime::Session, soon()).unwrap();
    store.put(KEY, b"{}", Lifetime::Session, soon()).unwrap();
    std::thread::sleep(PATIENCE);
}

fn a_killed_process_leaves_nothing(metadata: &str) {
    let store = open_with(metadata, short_lease);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "lifetime::child"]).env(CHILD, metadata);
    command.stdout(std::process::Stdio::null());
    servers::die_with_parent(&mut command);
    let mut child = command.spawn().unwrap();
    let is_there = || store.get(KEY, soon()).unwrap().is_some();
    eventually("the child never wrote", is_there);
    // Longer than the lease: it lives because it is renewed.
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        assert!(is_there(), "an entry vanished while its writer lived");
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the entry outlives its writer", || !is_there());
    eventually("the entry outlives its writer", || store.get(META_KEY, soon()).unwrap().is_none());
}

fn own_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

fn a_service_may_come_back_empty(mut server: Server, metadata: &str) {
    let store: Arc<dyn MetadataStore> = open_with(metadata, short_lease);
    store.put(META_KEY, b"{\"rpc_port\":1}", Lifetime::Session, soon()).unwrap();
    store.put(KEY, b"{}", Lifetime::Session, soon()).unwrap();
    store.put("mooncake/ram/permanent:1", b"{}", Lifetime::Permanent, soon()).unwrap();
    // A thread gives itself its name, a moment after it was started.
    eventually("no keeper", || own_threads().contains(&"mc-metadata".to_owned()));
    server.restart_empty();
    for key in [KEY, META_KEY] {
        eventually(key, || store.get(key, soon()).is_ok_and(|value| value.is_some()));
    }
    assert_eq!(store.get("mooncake/ram/permanent:1", soon()).unwrap(), None);
    // What is put right after a restart, before the entries were looked after, is kept as well.
    server.restart_empty();
    store.put(KEY, b"{\"later\":1}", Lifetime::Session, soon()).unwrap();
    eventually(META_KEY, || store.get(META_KEY, soon()).is_ok_and(|value| value.is_some()));
    assert_eq!(store.get(KEY, soon()).unwrap().unwrap(), b"{\"later\":1}");
    // What is removed while the service is away does not come back with it.
    server.kill();
    store.remove(KEY, soon()).unwrap_err();
    store.remove(META_KEY, soon()).unwrap_err();
    server.resume();
    let fresh = open_with(metadata, short_lease);
    // A service that remembers needs until the end of the lease.
    for key in [KEY, META_KEY] {
        eventually(key, || fresh.get(key, soon()).unwrap().is_none());
    }
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(fresh.get(KEY, soon()).unwrap(), None);
        assert_eq!(fresh.get(META_KEY, soon()).unwrap(), None);
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn etcd_lives_and_dies() {
    let Some(server) = servers::etcd(false) else { return };
    let metadata = server.url("etcd");
    a_killed_process_leaves_nothing(&metadata);
    a_service_may_come_back_empty(server, &metadata);
}

#[test]
fn redis_lives_and_dies() {
    let Some(server) = servers::redis(&[]) else { return };
    let metadata = server.url("redis");
    a_killed_process_leaves_nothing(&metadata);
    a_service_may_come_back_empty(server, &metadata);
}

#[test]
fn http_comes_back() {
    let server = servers::own_http(&[]);
    let metadata = server.url("http") + "/metadata";
    a_service_may_come_back_empty(server, &metadata);
}
