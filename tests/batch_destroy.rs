//! Once `mc_batch_destroy` has returned, no submission into the batch begins: not by a thread that
//! was in the middle of `mc_batch_submit` at that moment, wherever in it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A failed test is a panic.

mod common;

use std::ffi::CString;
use std::ptr::{from_ref, null_mut};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mooncake::capi::batch::{
    mc_batch_create, mc_batch_destroy, mc_batch_submit, mc_batch_t, mc_request_t, MC_WRITE,
};
use mooncake::capi::buffer::{mc_buffer_register, mc_buffer_t};
use mooncake::capi::engine::{
    mc_engine_create_json, mc_engine_destroy, mc_engine_local_name, mc_engine_t,
};
use mooncake::capi::segment::{mc_segment_open, mc_segment_t};
use mooncake::capi::status::{mc_status_t, MC_ERR_INVALID_HANDLE, MC_ERR_INVALID_STATE, MC_OK};
use mooncake::error::ErrorKind;

use common::engines::{finish, Kind, Pair, PATIENCE};
use common::guarded::Guarded;
use common::random::Random;

const BLOCK: usize = 8;
/// What local memory holds once the batch was destroyed: it must never arrive.
const AFTERWARDS: u8 = 0xEE;

/// An engine that writes into its own segment, through the C API only.
struct Scene {
    engine: *mut mc_engine_t,
    segment: mc_segment_t,
    local: Guarded,
    remote: Guarded,
}

// SAFETY: any thread may use handles of the C API, and the memory is only copied from and to.
unsafe impl Sync for Scene {}

impl Scene {
    fn new(blocks: usize) -> Scene {
        let json = r#"{"protocol":"loopback","local_name":"127.0.0.1","bind_address":"127.0.0.1"}"#;
        let (mut engine, mut segment) = (null_mut(), 0);
        // SAFETY: the text and its length; the output is a local.
        let status =
            unsafe { mc_engine_create_json(json.as_ptr().cast(), json.len(), &mut engine) };
        assert_eq!(status, MC_OK);
        let mut name = vec![0u8; 256];
        let (buf, buf_len) = (name.as_mut_ptr().cast(), name.len());
        // SAFETY: a buffer of that length.
        assert_eq!(unsafe { mc_engine_local_name(engine, buf, buf_len, null_mut()) }, MC_OK);
        name.retain(|byte| *byte != 0);
        let name = CString::new(name).unwrap();
        let (local, remote) = (Guarded::new(BLOCK), Guarded::new(BLOCK * blocks));
        for memory in [&local, &remote] {
            let buffer = mc_buffer_t {
                address: memory.address() as *mut _,
                length_bytes: memory.len(),
                location: std::ptr::null(),
                access: 0,
                reserved: 0,
            };
            // SAFETY: the memory outlives the engine.
            assert_eq!(unsafe { mc_buffer_register(engine, &buffer) }, MC_OK);
        }
        // SAFETY: a text with its end; the output is a local.
        assert_eq!(unsafe { mc_segment_open(engine, name.as_ptr(), &mut segment) }, MC_OK);
        Scene { engine, segment, local, remote }
    }

    fn batch(&self, capacity: usize) -> Shared {
        let mut batch = null_mut();
        // SAFETY: the output is a local.
        assert_eq!(unsafe { mc_batch_create(self.engine, capacity, &mut batch) }, MC_OK);
        Shared(batch)
    }

    fn write(&self, block: usize) -> mc_request_t {
        mc_request_t {
            operation: MC_WRITE,
            reserved: 0,
            local: self.local.address() as *mut _,
            segment: self.segment,
            remote_address: (self.remote.address() + block * BLOCK) as u64,
            length_bytes: BLOCK as u64,
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // SAFETY: any handle is allowed.
        let status = unsafe { mc_engine_destroy(self.engine) };
        assert!(status == MC_OK || std::thread::panicking());
    }
}

/// A handle that several threads use.
#[derive(Clone, Copy)]
struct Shared(*mut mc_batch_t);

// SAFETY: handles of the C API may be used by any thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn submit(&self, requests: *const mc_request_t, count: usize) -> mc_status_t {
        // SAFETY: the callers have so many requests there.
        unsafe { mc_batch_submit(self.0, requests, count) }
    }

    fn destroy(&self) -> mc_status_t {
        // SAFETY: any handle is allowed.
        unsafe { mc_batch_destroy(self.0) }
    }
}

/// A page on which whoever reads it stands still, until it is told to go on.
mod standstill {
    use super::*;

    static ADDRESS: AtomicUsize = AtomicUsize::new(0);
    static STANDS: AtomicBool = AtomicBool::new(false);
    static MAY_GO_ON: AtomicBool = AtomicBool::new(false);

    /// Forbids the page of `memory`, and catches those who touch it.
    pub(super) fn begin(memory: &Guarded) {
        ADDRESS.store(memory.address(), Ordering::SeqCst);
        memory.forbid();
        // SAFETY: an all-zero `sigaction` is a valid one.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = wait as extern "C" fn(libc::c_int) as usize;
        // SAFETY: the handler makes only calls that signal handlers may make.
        assert_eq!(unsafe { libc::sigaction(libc::SIGSEGV, &action, null_mut()) }, 0);
    }

    /// Waits for somebody who comes to the page; false if `is_gone` without having met it.
    pub(super) fn until_somebody_stands(is_gone: impl Fn() -> bool) -> bool {
        while !STANDS.load(Ordering::SeqCst) {
            if is_gone() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    pub(super) fn end() {
        MAY_GO_ON.store(true, Ordering::SeqCst);
    }

    extern "C" fn wait(_: libc::c_int) {
        // Another fault than ours meets the default action when it is repeated.
        if STANDS.swap(true, Ordering::SeqCst) {
            // SAFETY: allowed in a handler.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            return;
        }
        let pause = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        while !MAY_GO_ON.load(Ordering::SeqCst) {
            // SAFETY: allowed in a handler.
            unsafe { libc::nanosleep(&pause, null_mut()) };
        }
        let page = ADDRESS.load(Ordering::SeqCst) & !4095;
        // SAFETY: a whole page of the test's own mapping.
        unsafe { libc::mprotect(page as *mut _, 4096, libc::PROT_READ) };
    }
}

/// The submitter is inside the call and has not read its requests yet. The destruction needs not
/// wait for it, and the submission must find out.
#[test]
fn a_submission_that_stood_still_is_refused() {
    let scene = Scene::new(1);
    let batch = scene.batch(1);
    // In the middle of its page, so this length leaves it aligned.
    let requests = Guarded::new(size_of::<mc_request_t>().next_multiple_of(64));
    let request = scene.write(0);
    // SAFETY: the struct is plain memory without padding.
    requests.put(0, unsafe {
        std::slice::from_raw_parts(from_ref(&request).cast(), size_of::<mc_request_t>())
    });
    scene.local.fill(AFTERWARDS);
    standstill::begin(&requests);
    let address = requests.address();
    let (destroyed, submitted) = std::thread::scope(|scope| {
        let submitter = scope.spawn(move || {
            let batch = batch;
            batch.submit(address as *const mc_request_t, 1)
        });
        let stands = standstill::until_somebody_stands(|| submitter.is_finished());
        assert!(stands, "{:?}", submitter.join());
        let destroyed = batch.destroy();
        standstill::end();
        (destroyed, submitter.join().unwrap())
    });
    assert_eq!(destroyed, MC_OK);
    assert_eq!(submitted, MC_ERR_INVALID_STATE, "submitted into a batch that was destroyed");
    assert!(scene.remote.all() == [0; BLOCK], "memory was read after the destruction");
}

/// Several threads submit while the batch is destroyed, at any moment of what a submission does.
#[test]
fn nothing_is_read_after_the_destruction() {
    const THREADS: usize = 2;
    const EACH: usize = 4096;
    const ROUNDS: usize = 300;
    let scene = Scene::new(THREADS * EACH);
    let mut random = Random::for_test("nothing_is_read_after_the_destruction");
    let requests: Vec<mc_request_t> = (0..THREADS * EACH).map(|i| scene.write(i)).collect();
    let requests = Requests(requests);
    scene.local.fill(1);
    // How long a submission takes here says which moments are worth trying.
    let start = Instant::now();
    let batch = scene.batch(EACH);
    assert_eq!(batch.submit(requests.0.as_ptr(), EACH), MC_OK);
    let usual = start.elapsed();
    assert_eq!(batch.destroy(), MC_OK);

    let (mut accepted, mut refused, mut round) = (0, 0, 0);
    let end = Instant::now() + PATIENCE;
    while round < ROUNDS || (accepted == 0 || refused == 0) && Instant::now() < end {
        round += 1;
        scene.local.fill(1);
        let batch = scene.batch(THREADS * EACH);
        let moment = usual.mul_f64(random.below(1500) as f64 / 1000.0);
        let is_on = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let submitters: Vec<_> = requests
                .0
                .chunks(EACH)
                .map(|requests| {
                    let (batch, is_on) = (&batch, &is_on);
                    let requests = Requests(requests);
                    scope.spawn(move || {
                        let Requests(requests) = { requests };
                        is_on.fetch_add(1, Ordering::SeqCst);
                        batch.submit(requests.as_ptr(), requests.len())
                    })
                })
                .collect();
            while is_on.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            let start = Instant::now();
            while start.elapsed() < moment {
                std::hint::spin_loop();
            }
            assert_eq!(batch.destroy(), MC_OK);
            scene.local.fill(AFTERWARDS);
            for submitter in submitters {
                match submitter.join().unwrap() {
                    MC_OK => accepted += 1,
                    MC_ERR_INVALID_STATE | MC_ERR_INVALID_HANDLE => refused += 1,
                    other => panic!("{other}"),
                }
            }
        });
        let arrived = scene.remote.all().contains(&AFTERWARDS);
        assert!(!arrived, "round {round}: memory was read after the destruction");
    }
    assert!(accepted > 0 && refused > 0, "{accepted} accepted, {refused} refused");
    scene.remote.check_canaries();
}

/// The same of the step that decides: what a sealed batch has taken is all it ever takes, to the
/// last moment of the submission before.
#[test]
fn a_sealed_batch_takes_nothing() {
    const EACH: usize = 16 << 10;
    const ROUNDS: usize = 200;
    let pair = Pair::new(Kind::Own);
    let (local, remote) = (pair.local(BLOCK), pair.remote(BLOCK));
    let request = pair.write(local.address(), remote.address(), BLOCK);
    let requests = vec![request; EACH];
    let mut random = Random::for_test("a_sealed_batch_takes_nothing");
    let start = Instant::now();
    pair.batch(&requests);
    let usual = start.elapsed();
    let (mut taken, mut refused, mut round) = (0, 0, 0);
    let end = Instant::now() + PATIENCE;
    while round < ROUNDS || (taken == 0 || refused == 0) && Instant::now() < end {
        round += 1;
        let batch = pair.own.create_batch(EACH).unwrap();
        let moment = usual.mul_f64(random.below(1000) as f64 / 1000.0);
        let is_on = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let submitter = scope.spawn(|| {
                is_on.store(true, Ordering::SeqCst);
                batch.submit(&requests)
            });
            while !is_on.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            let start = Instant::now();
            while start.elapsed() < moment {
                std::hint::spin_loop();
            }
            let is_done = batch.seal();
            let at_the_seal = batch.poll();
            match submitter.join().unwrap() {
                Ok(()) => taken += 1,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidState, "{error}");
                    refused += 1;
                }
            }
            let later = batch.poll().submitted;
            assert_eq!(later, at_the_seal.submitted, "round {round}: taken after the seal");
            assert!(!is_done || at_the_seal.is_done(), "round {round}: something is in flight");
        });
        finish(&batch);
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}

/// Requests name memory, so that they stay where they were made by default.
struct Requests<T>(T);

// SAFETY: threads only read them.
unsafe impl<T> Send for Requests<T> {}
