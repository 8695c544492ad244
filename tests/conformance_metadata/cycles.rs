//! One engine killed and started again under one name, over and over: each life is reachable with
//! the first request, and nothing piles up in the service.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use mooncake::engine::{Engine, Operation, SegmentId};

use crate::engines::{request, spec, tcp_engine};
use crate::lifetime::eventually;
use crate::servers;
use crate::stores::PATIENCE;
use crate::wire;

/// Says to this program, started again, which service to use before it is killed.
const CHILD: &str = "MOONCAKE_TEST_CYCLES_CHILD";
const NAME: &str = "cycle:1";
const READY: &str = "the child is ready at ";
const BYTES: usize = 4096;
const SHORT: usize = 30;
const LONG: usize = 1000;
/// Two documents of each of the two engines.
const KEYS: usize = 4;

/// Not a test of its own: the process that is killed.
#[test]
fn child() {
    let Ok(metadata) = std::env::var(CHILD) else { return };
    // Not aligned to anything and of another size in every life, so that addresses differ, too.
    let memory = vec![0u8; BYTES + std::process::id() as usize % 1024 * BYTES];
    let engine = tcp_engine(&metadata, NAME);
    engine.register(&[spec(&memory)]).unwrap();
    println!("{READY}{} {}", memory.as_ptr() as u64, memory.len());
    std::thread::sleep(2 * PATIENCE);
    engine.shutdown();
}

struct Life {
    child: std::process::Child,
    address: u64,
    length: u64,
}

impl Life {
    fn begin(metadata: &str) -> Life {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "cycles::child", "--nocapture"]).env(CHILD, metadata);
        command.stdout(Stdio::piped());
        servers::die_with_parent(&mut command);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let place = lines
            .map_while(Result::ok)
            .find_map(|line| line.split_once(READY).map(|(_, place)| place.to_owned()));
        let place = place.expect("the child could not start under its name");
        let (address, length) = place.split_once(' ').unwrap();
        Life { child, address: address.parse().unwrap(), length: length.parse().unwrap() }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // SIGKILL.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `count` is asked in every life; where it cannot tell at once, only at the end.
fn lives(metadata: &str, count: Option<&dyn Fn() -> usize>) {
    let cycles = if std::env::var_os("MOONCAKE_TEST_LONG").is_some() { LONG } else { SHORT };
    let mut block = vec![0u8; BYTES];
    let own = tcp_engine(metadata, "cycle-own:1");
    own.register(&[spec(&block)]).unwrap();
    let mut segment = None;
    for cycle in 0..cycles {
        let life = Life::begin(metadata);
        let segment = *segment.get_or_insert_with(|| own.open_segment(NAME).unwrap());
        talk(&own, segment, &mut block, &life, cycle);
        if let Some(count) = count {
            assert_eq!(count(), KEYS, "keys in life {cycle}");
        }
        let alive = own.metrics().refreshes.get();
        // A life costs one look, two where the first request met the old life's connection.
        assert!(alive <= 2 * (cycle as u64 + 1), "{alive} looks in {cycle} lives");
    }
    println!("{cycles} lives under one name over {}", metadata.split("://").next().unwrap());
}

/// The first request of a life, and one that shows where the bytes went.
fn talk(own: &Engine, segment: SegmentId, block: &mut [u8], life: &Life, cycle: usize) {
    let last = life.address + life.length - BYTES as u64;
    block.fill(cycle as u8 | 1);
    let write = request(Operation::Write, block, segment, last);
    own.transfer(&[write], Some(PATIENCE)).unwrap_or_else(|error| panic!("life {cycle}: {error}"));
    block.fill(0);
    let read = request(Operation::Read, block, segment, last);
    own.transfer(&[read], Some(PATIENCE)).unwrap();
    assert!(block.iter().all(|byte| *byte == cycle as u8 | 1), "life {cycle}");
}

#[test]
fn over_etcd() {
    let Some(server) = servers::etcd(false) else { return };
    let count = || {
        // Everything that begins with `mooncake/`.
        let asked = r#"{"key":"bW9vbmNha2Uv","range_end":"bW9vbmNha2Uw","count_only":true}"#;
        let answer = wire::request(server.port, "POST", "/v3/kv/range", asked.as_bytes());
        let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        value["count"].as_str().unwrap().parse().unwrap()
    };
    lives(&server.url("etcd"), Some(&count));
}

#[test]
fn over_redis() {
    let Some(server) = servers::redis(&[]) else { return };
    let count = || {
        let mut connection = wire::connect(server.port);
        connection.write_all(b"DBSIZE\r\nQUIT\r\n").unwrap();
        let mut reply = String::new();
        connection.read_to_string(&mut reply).unwrap();
        reply.lines().next().unwrap().strip_prefix(':').unwrap().parse().unwrap()
    };
    lives(&server.url("redis"), Some(&count));
}

/// Nothing expires in an HTTP service, so what had piled up would still be there at the end.
#[test]
fn over_http() {
    let folder = servers::Folder::new();
    let file: PathBuf = folder.path().join("documents");
    let server = servers::own_http(&["--file", &file.display().to_string()]);
    lives(&(server.url("http") + "/metadata"), None);
    // The file follows the table with a pause, hence a mark that is later than everything else. The
    // orderly end of our own engine took its two documents away.
    assert_eq!(wire::request(server.port, "PUT", "/metadata?key=mark", b"1").status, 200);
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the mark in the file", || text().contains("mark 1"));
    assert_eq!(text().lines().count(), KEYS - 2 + 1, "{}", text());
}
