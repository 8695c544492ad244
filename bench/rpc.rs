//! Calls of the store: time of one, and how many a second, over 1 to 16 connections.
//!
//!     cargo bench --bench rpc                     our server, which answers without an index
//!     cargo bench --bench rpc -- HOST:PORT...     and these masters in the same run
//!
//! Each connection is one thread that calls `Exists` again and again for a key that is absent. The
//! server of ours is a process of its own; where it and the callers share few cores, the figures
//! are those of the sharing.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A measurement that cannot be made ends.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mooncake::net::port::PortRule;
use mooncake::rpc::client::{ClientOptions, MasterClient};
use mooncake::rpc::dialect::Dialect;
use mooncake::rpc::message::{Call, Greeting, Reply};
use mooncake::rpc::server::{Caller, Port, Replier, Server, ServerOptions, Service};
use mooncake::time::Deadline;

const CONNECTIONS: [usize; 5] = [1, 2, 4, 8, 16];
const SAMPLES: usize = 20_000;
const TIME: Duration = Duration::from_secs(2);
const BATCH: usize = 64;

/// Answers that nothing is there.
struct Empty;

impl Service for Empty {
    fn serve(&self, call: Call, _: Caller, replier: Replier) {
        replier.answer(&match &call {
            Call::Greet { .. } => Reply::Greeted(Ok(Greeting { version: 1, master_life: 1 })),
            Call::ServiceReady => Reply::Ready(Ok(String::new())),
            Call::Exists(_) => Reply::Exists(Ok(false)),
            Call::BatchExists(keys) => Reply::BatchExists(vec![Ok(false); keys.len()]),
            other => other.refuse(mooncake::pool::outcome::Refusal::NOT_SUPPORTED),
        });
    }
}

/// Serves until its standard input ends.
fn serve() {
    let bind = Some("127.0.0.1".parse().unwrap());
    let port = Port { bind, rule: PortRule::Fixed(0), dialect: Dialect::Upstream0_3_7 };
    let server = Server::start(ServerOptions::default(), &[port], Arc::new(Empty)).unwrap();
    println!("{}", server.addresses()[0]);
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn client(address: &str, dialect: Option<Dialect>) -> MasterClient {
    let mut options = ClientOptions::new(address);
    options.dialect = dialect;
    MasterClient::new(options).unwrap()
}

fn call(client: &MasterClient, call: &Call) {
    client.call(call, Deadline::within(Duration::from_secs(10))).unwrap();
}

fn measure(name: &str, address: &str, dialect: Option<Dialect>) {
    let one = Call::Exists(b"a key that is absent".to_vec());
    let many = Call::BatchExists((0..BATCH).map(|n| format!("absent {n}").into()).collect());
    let client = client(address, dialect);
    call(&client, &one);
    let mut times: Vec<Duration> = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            call(&client, &one);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    println!("{name}: one call p50 {:.1} us, p99 {:.1} us", at(50), at(99));
    for connections in CONNECTIONS {
        let calls = rate(&client, connections, &one);
        let keys = rate(&client, connections, &many) * BATCH as f64;
        println!(
            "{name}: {connections:2} connections {calls:8.0} calls/s, in batches {keys:9.0} keys/s"
        );
    }
}

fn rate(client: &MasterClient, connections: usize, what: &Call) -> f64 {
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let calls: usize = std::thread::scope(|scope| {
        let caller = || {
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) {
                call(client, what);
                calls += 1;
            }
            calls
        };
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(caller)).collect();
        std::thread::sleep(TIME);
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    calls as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    // Cargo adds a flag of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| one != "--bench").collect();
    if arguments.first().is_some_and(|first| first == "serve") {
        return serve();
    }
    let own = std::env::current_exe().unwrap();
    let pipes = || Stdio::piped();
    let mut server = Command::new(own).arg("serve").stdin(pipes()).stdout(pipes()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    measure("ours, native", line.trim(), None);
    measure("ours, 0.3.7 ", line.trim(), Some(Dialect::Upstream0_3_7));
    drop(server.stdin.take());
    server.wait().unwrap();
    for address in &arguments {
        measure(address, address, None);
    }
}
