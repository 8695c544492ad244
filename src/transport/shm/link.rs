//! The initiator's side of a door: proving, the peer's table, pins, and how each registration of
//! the peer is reached.
//!
//! Everything that is read from the table may be a lie or change at any time: it is copied out
//! once, and decides only whether this process tries a copy whose bounds the kernel, or the checked
//! mapping, enforces. Entered by every thread that moves bytes; asking the peer for a descriptor
//! blocks for a bounded time.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{fence, AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde_json::{json, Value};

use crate::limits;
use crate::memory::{peek, Access, Foreign, SharedWords};
use crate::net::door;
use crate::net::ending::Ending;
use crate::transport::Slice;

use super::table::{
    word_of, ACCESS, ADDRESS, HAS_FILE, KEY, LENGTH, PINS_BYTES, PIN_WORDS, SLOTS, TABLE_BYTES,
    USED,
};
use super::wire::{door_name, proof, Message, Side, Sixteen, MESSAGE_BYTES};

/// What is remembered of one life of a peer as long as anybody may send to it. Bytes that once took
/// the other way never come back to this one: a write of theirs that failed may still arrive, and
/// only the other way knows how to fence it off.
#[derive(Default)]
pub(super) struct Life {
    declined: OnceLock<String>,
    far: Mutex<HashSet<u64>>,
}

impl Life {
    /// Why nothing is moved here, once that was decided.
    pub(super) fn declined(&self) -> Option<&str> {
        self.declined.get().map(String::as_str)
    }

    pub(super) fn decline(&self, why: &str) {
        let _ = self.declined.set(why.to_owned());
    }

    fn is_far(&self, key: u64) -> bool {
        self.far.lock().contains(&key)
    }

    fn set_far(&self, key: u64) {
        let mut far = self.far.lock();
        if far.len() >= SLOTS {
            self.decline("too many registrations of the peer go the other way");
        } else {
            far.insert(key);
        }
    }
}

/// How the bytes of one registration travel.
#[derive(Clone)]
pub(super) enum Way {
    /// The kernel copies between the two processes.
    Cross { slot: u32, pid: i32 },
    /// The memory is mapped here.
    Mapped { slot: u32, memory: Arc<Foreign> },
    /// Not here.
    Far,
}

/// A pin that is held.
pub(super) struct Pin<'a>(&'a AtomicU64);

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

/// What a slot said at one moment.
#[derive(Clone, Copy)]
struct Seen {
    address: u64,
    length: u64,
    access: Access,
}

/// One connection to the door of a peer.
pub(super) struct Link {
    socket: OwnedFd,
    table: SharedWords,
    pins: SharedWords,
    /// The peer's process, or why the kernel does not copy from and to it.
    cross: std::result::Result<i32, String>,
    ways: RwLock<HashMap<u64, Way>>,
    asking: Mutex<()>,
    is_over: AtomicBool,
    life: Arc<Life>,
}

/// Receives one message; `None` at the end, at the deadline or for nonsense.
fn receive(
    socket: &OwnedFd,
    ending: &Ending,
    deadline: Instant,
) -> Option<(Message, Vec<OwnedFd>)> {
    let mut bytes = [0; MESSAGE_BYTES];
    loop {
        match door::receive(socket.as_fd(), &mut bytes) {
            Ok((length, fds)) => return Some((Message::decode(&bytes[..length])?, fds)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || ending.has_begun() {
            return None;
        }
        ending.wait(socket.as_fd(), false, left).ok()?;
    }
}

impl Link {
    /// Goes to the door of the engine `instance`. Says why it did not get in. Blocks for at most
    /// [`limits::SHM_CONNECT_TIMEOUT`].
    pub(super) fn open(
        instance: &Sixteen,
        life: &Arc<Life>,
        ending: &Ending,
    ) -> std::result::Result<Link, String> {
        let deadline = Instant::now() + limits::SHM_CONNECT_TIMEOUT;
        let socket = door::connect(&door_name(instance)).map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => {
                "no door of the peer in this network namespace".to_owned()
            }
            _ => format!("the peer's door: {error}"),
        })?;
        let caller =
            door::caller(socket.as_fd()).map_err(|error| format!("the peer's door: {error}"))?;
        let own = door::own_uid();
        if caller.uid != own {
            return Err(format!("the peer runs as user {}, this process as {own}", caller.uid));
        }
        let say = |message: Message| {
            door::send(socket.as_fd(), &message.encode(), &[])
                .map_err(|error| format!("the peer's door: {error}"))
        };
        let hear = || {
            let heard = receive(&socket, ending, deadline);
            heard.ok_or_else(|| "the peer's door did not answer as it should".to_owned())
        };
        let mut nonce = [0; 16];
        crate::net::random::fill(&mut nonce).map_err(|error| error.to_string())?;
        say(Message::Hello { nonce })?;
        let (Message::Challenge { nonce: other, proof: shown }, _) = hear()? else {
            return Err("the peer's door speaks out of turn".to_owned());
        };
        if shown != proof(instance, Side::Target, &nonce, &other) {
            return Err("whoever is behind the peer's door is not the peer".to_owned());
        }
        say(Message::Proof { proof: proof(instance, Side::Initiator, &nonce, &other) })?;
        let (Message::Grant { probe, secret }, fds) = hear()? else {
            return Err("the peer's door speaks out of turn".to_owned());
        };
        let [table, pins] = fds.as_slice() else {
            return Err("the peer sent no table".to_owned());
        };
        let table = SharedWords::of_peer(table.as_fd(), TABLE_BYTES, false);
        let table = table.map_err(|error| error.to_string())?;
        let pins = SharedWords::of_peer(pins.as_fd(), PINS_BYTES, true);
        let pins = pins.map_err(|error| error.to_string())?;
        let cross = match caller.pid {
            Some(pid) => can_cross(pid, probe, &secret).map(|()| pid),
            None => Err("the peer's process is not visible from here".to_owned()),
        };
        Ok(Link {
            socket,
            table,
            pins,
            cross,
            ways: RwLock::default(),
            asking: Mutex::default(),
            is_over: AtomicBool::new(false),
            life: Arc::clone(life),
        })
    }

    /// The connection, to be watched for its end.
    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// One sentence for the dump.
    pub(super) fn story(&self) -> String {
        match &self.cross {
            Ok(_) => "the peer is on this host".to_owned(),
            Err(why) => format!("the peer is on this host; only memory that it shares: {why}"),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Nothing is moved here from now on; what is being moved goes on to its end.
    pub(super) fn end(&self) {
        if !self.is_over.swap(true, Ordering::AcqRel) {
            door::end(&self.socket);
        }
    }

    /// The same, because something is wrong: the peer is never tried this way again.
    pub(super) fn fail(&self, why: &str) {
        self.life.decline(why);
        self.end();
    }

    /// Unmaps what was mapped, once nobody copies.
    pub(super) fn forget_all(&self) {
        self.ways.write().clear();
    }

    fn word(&self, slot: u32, member: usize) -> u64 {
        // Relaxed, as the mapping can only be read from.
        self.table.word(word_of(slot, member)).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// True if the slot holds this registration now. After taking a pin: and as long as the pin is
    /// held, for an owner who keeps the rules.
    pub(super) fn holds(&self, slot: u32, key: u64) -> bool {
        fence(Ordering::SeqCst);
        let found = self.word(slot, KEY);
        fence(Ordering::Acquire);
        key != 0 && found == key
    }

    /// True if the registration in the slot covers what the slice wants.
    pub(super) fn covers(&self, slot: u32, slice: &Slice) -> bool {
        let seen = Seen {
            address: self.word(slot, ADDRESS),
            length: self.word(slot, LENGTH),
            access: Access::from_bits(self.word(slot, ACCESS) as u32),
        };
        let wanted = slice.operation.remote_access();
        let offset = slice.remote_address.checked_sub(seen.address);
        let end = offset.and_then(|offset| offset.checked_add(slice.length));
        seen.access.allows(wanted) && end.is_some_and(|end| end <= seen.length)
    }

    /// First address of the registration in the slot.
    pub(super) fn base(&self, slot: u32) -> u64 {
        self.word(slot, ADDRESS)
    }

    /// Takes a pin on a slot; `None` if all are taken.
    pub(super) fn pin(&self, slot: u32) -> Option<Pin<'_>> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static HOME: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        let home = HOME.with(Cell::get);
        let value = u64::from(slot) + 1;
        (0..limits::SHM_PINS_MAX).find_map(|step| {
            let pin = (home.wrapping_add(step)) % limits::SHM_PINS_MAX;
            let word = self.pins.word(pin * PIN_WORDS)?;
            let taken = word.compare_exchange(0, value, Ordering::SeqCst, Ordering::Relaxed);
            taken.is_ok().then_some(Pin(word))
        })
    }

    /// How the registration is reached; `None` if the peer does not have it any more.
    pub(super) fn way(&self, key: u64, ending: &Ending) -> Option<Way> {
        if let Some(way) = self.ways.read().get(&key) {
            return Some(way.clone());
        }
        self.find_way(key, ending)
    }

    #[cold]
    fn find_way(&self, key: u64, ending: &Ending) -> Option<Way> {
        if key == 0 || self.life.is_far(key) {
            return Some(Way::Far);
        }
        let _asking = self.asking.lock();
        if let Some(way) = self.ways.read().get(&key) {
            return Some(way.clone());
        }
        let used = self.table.word(USED).map_or(0, |word| word.load(Ordering::Relaxed));
        let used = (used as usize).min(SLOTS) as u32;
        let slot = (0..used).find(|slot| self.holds(*slot, key))?;
        let mapped = match self.word(slot, HAS_FILE) {
            0 => None,
            _ => self.map(key, self.word(slot, LENGTH), ending),
        };
        let way = match (mapped, &self.cross) {
            (Some(memory), _) => Way::Mapped { slot, memory },
            (None, Ok(pid)) => Way::Cross { slot, pid: *pid },
            (None, Err(_)) => {
                self.life.set_far(key);
                Way::Far
            }
        };
        let mut ways = self.ways.write();
        // Registrations that are over leave when others come.
        ways.retain(|key, way| match way {
            Way::Cross { slot, .. } | Way::Mapped { slot, .. } => self.holds(*slot, *key),
            Way::Far => true,
        });
        if ways.len() < SLOTS {
            ways.insert(key, way.clone());
        }
        Some(way)
    }

    /// Asks for the memory behind a registration and maps it.
    fn map(&self, key: u64, length: u64, ending: &Ending) -> Option<Arc<Foreign>> {
        let is_mapped = |way: &&Way| matches!(way, Way::Mapped { .. });
        if self.ways.read().values().filter(is_mapped).count() >= limits::SHM_FOREIGN_MAX {
            return None;
        }
        let deadline = Instant::now() + limits::SHM_MEMORY_TIMEOUT;
        let asked = door::send(self.socket.as_fd(), &Message::Want { key }.encode(), &[]);
        let answer = match asked {
            Ok(()) => receive(&self.socket, ending, deadline),
            Err(_) => None,
        };
        let Some((Message::Give { key: given }, fds)) = answer else {
            self.fail("the peer's door did not answer as it should");
            return None;
        };
        let fd = fds.first().filter(|_| given == key)?;
        match Foreign::map(fd.as_fd()) {
            Ok(memory) if memory.length() as u64 >= length => Some(Arc::new(memory)),
            Ok(_) => None,
            Err(error) => {
                log::debug!("shm: {error}");
                None
            }
        }
    }

    /// The registration is not there any more.
    pub(super) fn forget(&self, key: u64) {
        self.ways.write().remove(&key);
    }

    pub(super) fn dump(&self) -> Value {
        let ways = self.ways.read();
        let count = |wanted: fn(&Way) -> bool| ways.values().filter(|way| wanted(way)).count();
        json!({
            "process": self.cross.as_ref().ok(),
            "copies_between_processes": match &self.cross {
                Ok(_) => "yes",
                Err(why) => why.as_str(),
            },
            "over": self.is_over(),
            "declined": self.life.declined(),
            "registrations": {
                "mapped": count(|way| matches!(way, Way::Mapped { .. })),
                "copied": count(|way| matches!(way, Way::Cross { .. })),
                "other_way": self.life.far.lock().len(),
            },
        })
    }
}

/// Reads the peer's secret out of its memory: shows that the process is the peer's, and that the
/// kernel lets this one.
fn can_cross(pid: i32, probe: u64, secret: &Sixteen) -> std::result::Result<(), String> {
    let mut seen = [0; 16];
    match peek(pid, probe, &mut seen) {
        Ok(()) if seen == *secret => Ok(()),
        Ok(()) => Err("the process at the door is not the peer's".to_owned()),
        Err(error) => Err(format!("copies between processes: {error}")),
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end();
    }
}

/// How long a peer that does not answer delays the first use of TCP.
const _: () = assert!(limits::SHM_CONNECT_TIMEOUT.as_millis() < Duration::from_secs(5).as_millis());
