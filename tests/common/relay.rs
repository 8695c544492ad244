//! Stands between two engines and breaks what passes, by a seed. It publishes the target's
//! descriptor with its own data port in it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mooncake::descriptor::{Dialect, SegmentDescriptor};
use mooncake::net::handshake::MessageType;

use super::fake_peer::answer_handshake;
use super::random::Random;
use super::raw::handshake;

/// What may happen to a piece of the stream, in parts of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Both sides are reset.
    pub reset: u64,
    /// Both sides are closed in an orderly way.
    pub close: u64,
    /// Half of the piece passes, then a reset.
    pub half: u64,
    /// The piece waits for up to 20 ms.
    pub delay: u64,
    /// Nothing passes any more, in either direction; the connections stay open.
    pub freeze: u64,
}

struct State {
    faults: Mutex<(Faults, Random)>,
    links: Mutex<Vec<Arc<Link>>>,
    stopping: AtomicBool,
    opened: AtomicUsize,
    passed: AtomicU64,
}

struct Link {
    sides: [TcpStream; 2],
    frozen: AtomicBool,
    held: AtomicBool,
    /// Directions that have something to deliver late.
    late: AtomicUsize,
}

impl Link {
    fn reset(&self) {
        // Dissolving the association sends a reset at once, also while others hold the socket.
        let nowhere =
            libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
        let length = size_of::<libc::sockaddr>() as libc::socklen_t;
        for side in &self.sides {
            // SAFETY: the descriptor is open, the address is valid for the length given.
            unsafe { libc::connect(side.as_raw_fd(), &nowhere, length) };
        }
    }

    fn close(&self) {
        for side in &self.sides {
            let _ = side.shutdown(Shutdown::Both);
        }
    }
}

/// Connections that pass nothing at present.
pub struct Held(Vec<Arc<Link>>);

impl Held {
    /// Lets everything through, and returns when it was delivered or the target has refused it.
    pub fn release(self) {
        self.0.iter().for_each(|link| link.held.store(false, Ordering::Release));
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while self.0.iter().any(|link| link.late.load(Ordering::Acquire) > 0) {
            assert!(std::time::Instant::now() < until, "what was held is not taken");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Ends its threads and connections when dropped.
pub struct Relay {
    /// Open this instead of the target's name.
    pub name: String,
    data_port: u16,
    state: Arc<State>,
}

impl Relay {
    /// Before the engine whose handshake plane is at `rpc_port`.
    pub fn new(rpc_port: u16, random: Random) -> Relay {
        let state = Arc::new(State {
            faults: Mutex::new((Faults::default(), random)),
            links: Mutex::default(),
            stopping: AtomicBool::new(false),
            opened: AtomicUsize::new(0),
            passed: AtomicU64::new(0),
        });
        let data = TcpListener::bind("127.0.0.1:0").unwrap();
        let data_port = data.local_addr().unwrap().port();
        let control = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = control.local_addr().unwrap().to_string();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for mut stream in control.incoming().map_while(Result::ok) {
                if shared.stopping.load(Ordering::Acquire) {
                    return;
                }
                let Some(mut descriptor) = fetch(rpc_port) else { continue };
                descriptor.tcp_data_port = data_port;
                let line = descriptor.encode_line(Dialect::V0_3_13);
                answer_handshake(&mut stream, MessageType::Metadata, &line);
            }
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in data.incoming().map_while(Result::ok) {
                if shared.stopping.load(Ordering::Acquire) {
                    return;
                }
                let target = fetch(rpc_port)
                    .and_then(|d| TcpStream::connect(("127.0.0.1", d.tcp_data_port)).ok());
                if let Some(target) = target {
                    link(&shared, stream, target);
                }
            }
        });
        Relay { name, data_port, state }
    }

    pub fn set(&self, faults: Faults) {
        self.state.faults.lock().unwrap().0 = faults;
    }

    /// Connections made so far.
    pub fn opened(&self) -> usize {
        self.state.opened.load(Ordering::Relaxed)
    }

    /// Resets what is open now.
    pub fn reset_all(&self) {
        self.state.links.lock().unwrap().drain(..).for_each(|link| link.reset());
    }

    /// Closes what is open now.
    pub fn close_all(&self) {
        self.state.links.lock().unwrap().drain(..).for_each(|link| link.close());
    }

    /// What is open now passes nothing until it is released, and then everything, also what its
    /// sender has given up meanwhile.
    pub fn hold_all(&self) -> Held {
        let links = self.state.links.lock().unwrap().clone();
        links.iter().for_each(|link| link.held.store(true, Ordering::Release));
        Held(links)
    }

    /// What is open now passes nothing more.
    pub fn freeze_all(&self) {
        for link in self.state.links.lock().unwrap().iter() {
            link.frozen.store(true, Ordering::Release);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Release);
        self.reset_all();
        let _ = TcpStream::connect(&self.name);
        let _ = TcpStream::connect(("127.0.0.1", self.data_port));
    }
}

fn fetch(rpc_port: u16) -> Option<SegmentDescriptor> {
    TcpStream::connect(("127.0.0.1", rpc_port)).ok()?;
    let reply = handshake(rpc_port, MessageType::Metadata, b"{}\n")?;
    SegmentDescriptor::decode(&reply).ok()
}

fn link(state: &Arc<State>, near: TcpStream, far: TcpStream) {
    state.opened.fetch_add(1, Ordering::Relaxed);
    for side in [&near, &far] {
        let _ = side.set_nodelay(true);
    }
    let link = Arc::new(Link {
        sides: [near, far],
        frozen: AtomicBool::new(false),
        held: AtomicBool::new(false),
        late: AtomicUsize::new(0),
    });
    state.links.lock().unwrap().push(Arc::clone(&link));
    for direction in 0..2 {
        let (state, link) = (Arc::clone(state), Arc::clone(&link));
        std::thread::spawn(move || {
            pump(&state, &link, direction);
            state.links.lock().unwrap().retain(|other| !Arc::ptr_eq(other, &link));
        });
    }
}

enum Fate {
    Pass,
    Reset,
    Close,
    Half,
    Delay(u64),
    Freeze,
}

fn fate(state: &State) -> Fate {
    let (faults, random) = &mut *state.faults.lock().unwrap();
    let mut point = random.below(1000);
    let table = [
        (faults.reset, Fate::Reset),
        (faults.close, Fate::Close),
        (faults.half, Fate::Half),
        (faults.delay, Fate::Delay(random.below(20))),
        (faults.freeze, Fate::Freeze),
    ];
    for (parts, fate) in table {
        if point < parts {
            return fate;
        }
        point -= parts;
    }
    Fate::Pass
}

fn pump(state: &State, link: &Link, direction: usize) {
    let (mut from, mut to) = (&link.sides[direction], &link.sides[1 - direction]);
    let mut chunk = vec![0; 32 << 10];
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => {
                // An end in one direction, as v1 uses it, passes.
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(count) => count,
            Err(_) => return link.reset(),
        };
        state.passed.fetch_add(count as u64, Ordering::Relaxed);
        let mut bytes = &chunk[..count];
        match fate(state) {
            Fate::Pass => {}
            Fate::Reset => return link.reset(),
            Fate::Close => return link.close(),
            Fate::Half => {
                let _ = to.write_all(&bytes[..count / 2]);
                return link.reset();
            }
            Fate::Delay(millis) => std::thread::sleep(Duration::from_millis(millis)),
            Fate::Freeze => link.frozen.store(true, Ordering::Release),
        }
        while link.frozen.load(Ordering::Acquire) {
            // What is held is never delivered.
            bytes = &[];
            std::thread::sleep(Duration::from_millis(5));
            if state.stopping.load(Ordering::Acquire) || is_over(from) || is_over(to) {
                return link.reset();
            }
        }
        if link.held.load(Ordering::Acquire) {
            match hold(state, link, from, to, bytes.to_vec()) {
                true => continue,
                false => return link.reset(),
            }
        }
        if to.write_all(bytes).is_err() {
            return link.reset();
        }
    }
}

/// Takes whatever comes until the link is released, also if its sender goes away meanwhile, and
/// then delivers it; false once the link is over.
fn hold(
    state: &State,
    link: &Link,
    mut from: &TcpStream,
    mut to: &TcpStream,
    mut bytes: Vec<u8>,
) -> bool {
    link.late.fetch_add(1, Ordering::AcqRel);
    let mut chunk = vec![0; 256 << 10];
    let mut goes_on = true;
    let _ = from.set_read_timeout(Some(Duration::from_millis(5)));
    while link.held.load(Ordering::Acquire) {
        if state.stopping.load(Ordering::Acquire) {
            return false;
        }
        match from.read(&mut chunk) {
            Ok(count) if count > 0 && bytes.len() < 64 << 20 => {
                bytes.extend_from_slice(&chunk[..count]);
            }
            Err(error) if super::raw::is_silence(&error) => {}
            _ => {
                goes_on = false;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    let _ = from.set_read_timeout(None);
    let _ = to.set_write_timeout(Some(Duration::from_secs(30)));
    goes_on &= to.write_all(&bytes).is_ok();
    if !goes_on {
        // In order behind what was just written, and time for it to be read.
        let _ = to.shutdown(Shutdown::Write);
        std::thread::sleep(Duration::from_millis(300));
    }
    link.late.fetch_sub(1, Ordering::AcqRel);
    goes_on
}

/// True once the other side has closed or reset.
fn is_over(stream: &TcpStream) -> bool {
    let _ = stream.set_nonblocking(true);
    let mut byte = [0];
    let result = stream.peek(&mut byte);
    let _ = stream.set_nonblocking(false);
    match result {
        Ok(0) => true,
        Ok(_) => {
            // Bytes before the end hide it: read them away.
            let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
            let over = matches!({ stream }.read(&mut [0; 4096]), Ok(0));
            let _ = stream.set_read_timeout(None);
            over
        }
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}
