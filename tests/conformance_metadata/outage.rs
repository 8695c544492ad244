//! A service that is killed and comes back in the middle of transfers: whoever has the segment open
//! does not notice, and everybody else is served again afterwards.

use std::sync::mpsc::channel;

use mooncake::engine::Operation;
use mooncake::error::ErrorKind;

use crate::engines::{request, spec, tcp_engine};
use crate::lifetime::eventually;
use crate::servers::{self, Server};
use crate::stores::{open, soon, PATIENCE};

const TRANSFERS: usize = 10_000;
const BLOCK: usize = 4096;
const BLOCKS: usize = 64;

/// What happens at which transfer. The event begins while transfers go on, and must be over before
/// the later number: that many transfers happen with the service away, however fast they are.
const KILL: (usize, usize) = (2000, 3000);
const RESUME: (usize, usize) = (7000, 8000);
/// In between, with nobody listening.
const AWAY: usize = 5000;

fn transfers_go_on(mut server: Server, metadata: &str, comes_back_empty: bool) {
    let mut memory = vec![0u8; BLOCK * BLOCKS];
    let mut block = vec![0u8; BLOCK];
    let late = vec![0u8; BLOCK];
    let target = tcp_engine(metadata, "outage-target:1");
    target.register(&[spec(&memory)]).unwrap();
    let own = tcp_engine(metadata, "outage-own:1");
    own.register(&[spec(&block)]).unwrap();
    let segment = own.open_segment("outage-target:1").unwrap();
    let base = memory.as_mut_ptr() as u64;

    let (to_operator, asked) = channel();
    let (to_worker, done) = channel();
    let (worker, worker_block, worker_late) = (&own, &mut block, &late);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (own, block, late) = (worker, worker_block, worker_late);
            for number in 0..TRANSFERS {
                if [KILL.0, RESUME.0].contains(&number) {
                    to_operator.send(()).unwrap();
                }
                if [KILL.1, RESUME.1].contains(&number) {
                    done.recv_timeout(2 * PATIENCE).unwrap();
                }
                if number == AWAY {
                    let error = own.open_segment("outage-nobody:1").unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::MetadataUnavailable, "{error}");
                    // Refused, and as if it had never been asked for.
                    let error = own.register(&[spec(late)]).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::MetadataUnavailable, "{error}");
                    assert!(!own.is_registered(late.as_ptr() as usize, late.len()));
                }
                let remote = base + (number % BLOCKS * BLOCK) as u64;
                if number % 2 == 0 {
                    block.fill(number as u8);
                    let write = request(Operation::Write, block, segment, remote);
                    own.transfer(&[write], Some(PATIENCE)).unwrap();
                } else {
                    // The block was written `BLOCKS` transfers ago, or never: odd blocks are zero.
                    block.fill(1);
                    let read = request(Operation::Read, block, segment, remote);
                    own.transfer(&[read], Some(PATIENCE)).unwrap();
                    assert!(block.iter().all(|byte| *byte == 0), "transfer {number}");
                }
            }
        });
        asked.recv_timeout(2 * PATIENCE).unwrap();
        server.kill();
        to_worker.send(()).unwrap();
        asked.recv_timeout(2 * PATIENCE).unwrap();
        match comes_back_empty {
            true => server.restart_empty(),
            false => server.resume(),
        }
        to_worker.send(()).unwrap();
    });
    let last = (TRANSFERS - 2) as u8;
    assert!(memory[(TRANSFERS - 2) % BLOCKS * BLOCK..][..BLOCK].iter().all(|byte| *byte == last));

    // Both engines are there again for those who do not know them yet, and can publish.
    let store = open(metadata);
    for name in ["outage-target:1", "outage-own:1"] {
        for part in ["rpc_meta", "ram"] {
            let key = format!("mooncake/{part}/{name}");
            eventually(&key, || store.get(&key, soon()).is_ok_and(|value| value.is_some()));
        }
    }
    own.register(&[spec(&late)]).unwrap();
    let third = tcp_engine(metadata, "outage-third:1");
    third.register(&[spec(&block)]).unwrap();
    let segment = third.open_segment("outage-own:1").unwrap();
    block.fill(9);
    let write = request(Operation::Write, &block, segment, late.as_ptr() as u64);
    third.transfer(&[write], Some(PATIENCE)).unwrap();
    assert!(late.iter().all(|byte| *byte == 9));
}

#[test]
fn etcd_killed_in_the_middle() {
    let Some(server) = servers::etcd(false) else { return };
    let metadata = server.url("etcd");
    transfers_go_on(server, &metadata, false);
}

#[test]
fn etcd_comes_back_empty_in_the_middle() {
    let Some(server) = servers::etcd(false) else { return };
    let metadata = server.url("etcd");
    transfers_go_on(server, &metadata, true);
}

#[test]
fn redis_killed_in_the_middle() {
    let Some(server) = servers::redis(&[]) else { return };
    let metadata = server.url("redis");
    transfers_go_on(server, &metadata, true);
}

#[test]
fn http_killed_in_the_middle() {
    let server = servers::own_http(&[]);
    let metadata = server.url("http") + "/metadata";
    transfers_go_on(server, &metadata, true);
}

#[test]
fn upstream_http_killed_in_the_middle() {
    for version in ["0.3.7.post2", "0.3.13.post1"] {
        let Some(server) = servers::upstream_http(version) else { continue };
        let metadata = server.url("http") + "/metadata";
        transfers_go_on(server, &metadata, true);
    }
}
