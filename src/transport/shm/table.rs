//! The table of registrations as peers of the same host see it, and the pins they hold in it.
//!
//! The owner writes the table, peers map it for reading. A slot names one registration by its key,
//! which is new for every one, so a key in a slot also says that the registration is alive. Every
//! peer has a file of pins of its own: before it copies it writes the number of the slot into a
//! free pin, and then looks whether the key is still there. The owner does it the other way round:
//! it takes the key away, and then waits until no pin names the slot. One of the two always sees
//! the other. Pins of a peer that is gone do not count.
//!
//! Nothing that a peer can write decides more here than how long an owner waits, and that is
//! bounded.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{fence, AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::memory::{backing_of, Access, Backing, Region, SharedFile, SharedWords};
use crate::net::door;

/// Words of one slot; a cache line.
pub(super) const SLOT_WORDS: usize = 8;
/// Words before the first slot; a page.
pub(super) const HEAD_WORDS: usize = 512;
/// Slots of a table.
pub(super) const SLOTS: usize = limits::BUFFERS_MAX;
/// Bytes of a table. Pages that nobody used hold no memory.
pub(super) const TABLE_BYTES: usize = (HEAD_WORDS + SLOTS * SLOT_WORDS) * 8;
/// Words of one pin; a cache line.
pub(super) const PIN_WORDS: usize = 8;
/// Bytes of the pins of one peer.
pub(super) const PINS_BYTES: usize = limits::SHM_PINS_MAX * PIN_WORDS * 8;

/// In the head: slots that were ever used.
pub(super) const USED: usize = 0;
/// In a slot: the key, 0 while the slot is free.
pub(super) const KEY: usize = 0;
/// In a slot: first address in the owner.
pub(super) const ADDRESS: usize = 1;
/// In a slot: bytes.
pub(super) const LENGTH: usize = 2;
/// In a slot: access bits.
pub(super) const ACCESS: usize = 3;
/// In a slot: 1 if there is a file behind the memory, which can be asked for.
pub(super) const HAS_FILE: usize = 4;

/// The word of a slot.
pub(super) fn word_of(slot: u32, member: usize) -> usize {
    HEAD_WORDS + slot as usize * SLOT_WORDS + member
}

/// What is in a slot, for its owner.
struct Entry {
    slot: u32,
    backing: Option<Arc<Backing>>,
}

#[derive(Default)]
struct Slots {
    by_key: HashMap<u64, Entry>,
    free: Vec<u32>,
    used: u32,
}

/// A peer that may hold pins.
pub(super) struct Guest {
    pins: SharedWords,
    socket: Arc<OwnedFd>,
    pid: Option<i32>,
    /// Its pins do not count any more.
    gone: AtomicBool,
}

impl Guest {
    fn holds(&self, slot: u32) -> bool {
        (0..limits::SHM_PINS_MAX).any(|pin| {
            let word = self.pins.word(pin * PIN_WORDS);
            word.is_some_and(|word| word.load(Ordering::SeqCst) == u64::from(slot) + 1)
        })
    }

    /// True if its process cannot be copying any more. A child that it forked may keep the
    /// connection open, so the process is asked for too.
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
            || door::has_ended(self.socket.as_fd())
            || self.pid.is_some_and(|pid| !door::process_exists(pid))
    }
}

/// The table of one engine.
pub(super) struct Table {
    words: SharedWords,
    reader: OwnedFd,
    slots: Mutex<Slots>,
    guests: Mutex<Vec<Arc<Guest>>>,
    patience: Duration,
}

impl Table {
    /// An empty table. `patience`: how long an owner waits for a peer that stands still.
    pub(super) fn new(patience: Duration) -> Result<Table> {
        let file = SharedFile::new("mooncake-table", TABLE_BYTES)?;
        let words = file.map()?;
        let reader = file.seal_for_readers()?;
        Ok(Table { words, reader, slots: Mutex::default(), guests: Mutex::default(), patience })
    }

    /// The descriptor that peers get.
    pub(super) fn reader(&self) -> &OwnedFd {
        &self.reader
    }

    fn set(&self, slot: u32, member: usize, value: u64) {
        if let Some(word) = self.words.word(word_of(slot, member)) {
            word.store(value, Ordering::SeqCst);
        }
    }

    /// Lets peers reach a region. Without a free slot they take another way.
    pub(super) fn add(&self, region: &Region) {
        let mut slots = self.slots.lock();
        let slot = match slots.free.pop() {
            Some(slot) => slot,
            None if (slots.used as usize) < SLOTS => {
                slots.used += 1;
                slots.used - 1
            }
            None => return,
        };
        // Whoever has the file may read and write, so it is only for those who may.
        let backing = match region.access() == Access::ALL {
            true => backing_of(region.address(), region.length()),
            false => None,
        };
        self.set(slot, ADDRESS, region.address() as u64);
        self.set(slot, LENGTH, region.length() as u64);
        self.set(slot, ACCESS, region.access().bits().into());
        self.set(slot, HAS_FILE, backing.is_some().into());
        self.set(slot, KEY, region.key());
        if let Some(used) = self.words.word(USED) {
            used.store(slots.used.into(), Ordering::SeqCst);
        }
        slots.by_key.insert(region.key(), Entry { slot, backing });
    }

    /// The file behind a registration that is alive.
    pub(super) fn backing(&self, key: u64) -> Option<Arc<Backing>> {
        self.slots.lock().by_key.get(&key)?.backing.clone()
    }

    /// Takes a region back and waits until no peer copies from or to it.
    pub(super) fn remove(&self, key: u64) -> Result<()> {
        let entry = self.slots.lock().by_key.remove(&key);
        let Some(Entry { slot, .. }) = entry else { return Ok(()) };
        self.set(slot, KEY, 0);
        self.wait_for_pins(slot)?;
        self.slots.lock().free.push(slot);
        Ok(())
    }

    /// Takes all regions back.
    pub(super) fn remove_all(&self) -> Result<()> {
        let keys: Vec<u64> = self.slots.lock().by_key.keys().copied().collect();
        let mut outcome = Ok(());
        for key in keys {
            outcome = outcome.and(self.remove(key));
        }
        outcome
    }

    fn wait_for_pins(&self, slot: u32) -> Result<()> {
        fence(Ordering::SeqCst);
        let end = Instant::now() + self.patience;
        let mut rounds = 0u32;
        loop {
            // Who comes to the door from now on does not find the key.
            let holders: Vec<Arc<Guest>> =
                self.guests.lock().iter().filter(|guest| guest.holds(slot)).cloned().collect();
            if holders.iter().all(|guest| guest.is_gone()) {
                return Ok(());
            }
            if Instant::now() >= end {
                let text = "a peer on this host stands still in the middle of a copy; its process \
                    must end before the memory is used for something else";
                let mut error = Error::new(ErrorKind::Timeout, text);
                for guest in holders {
                    if let Some(pid) = guest.pid {
                        error = error.with("process", pid);
                    }
                    self.turn_out(&guest);
                }
                return Err(error);
            }
            rounds += 1;
            if rounds < 100 {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(Duration::from_micros(20 * u64::from(rounds.min(1000) / 100)));
            }
        }
    }

    /// Lets a peer in: from now on its pins count. Returns the file of its pins.
    pub(super) fn admit(
        &self,
        socket: &Arc<OwnedFd>,
        pid: Option<i32>,
    ) -> Result<(Arc<Guest>, SharedFile)> {
        let file = SharedFile::new("mooncake-pins", PINS_BYTES)?;
        let guest = Guest {
            pins: file.map()?,
            socket: Arc::clone(socket),
            pid,
            gone: AtomicBool::new(false),
        };
        let guest = Arc::new(guest);
        self.guests.lock().push(Arc::clone(&guest));
        Ok((guest, file))
    }

    /// Ends the connection to a peer, whose pins do not count any more.
    pub(super) fn turn_out(&self, guest: &Arc<Guest>) {
        guest.gone.store(true, Ordering::Release);
        door::end(&guest.socket);
        self.guests.lock().retain(|other| !Arc::ptr_eq(other, guest));
    }

    /// Numbers for the dump: registrations that peers can reach, and peers.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.slots.lock().by_key.len(), self.guests.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::door::{connect, listen};

    fn region(address: usize, key: u64) -> Region {
        Region::new(address, 4096, "*", Access::ALL, key).unwrap()
    }

    /// The table with a peer in it, and the other end of the peer's connection.
    fn visited(patience: Duration, what: &str) -> (Table, SharedWords, Arc<Guest>, OwnedFd) {
        let table = Table::new(patience).unwrap();
        let name = format!("mooncake-test-table-{what}-{}", std::process::id());
        let listener = listen(&name, 1).unwrap();
        let visitor = connect(&name).unwrap();
        let socket = Arc::new(door::accept(listener.as_fd()).unwrap());
        let (guest, file) = table.admit(&socket, Some(std::process::id() as i32)).unwrap();
        (table, SharedWords::of_peer(file.fd(), PINS_BYTES, true).unwrap(), guest, visitor)
    }

    #[test]
    fn slots_are_written_whole_and_used_again() {
        let table = Table::new(Duration::ZERO).unwrap();
        let seen = SharedWords::of_peer(table.reader().as_fd(), TABLE_BYTES, false).unwrap();
        let at = |slot, member| seen.word(word_of(slot, member)).unwrap().load(Ordering::Relaxed);
        table.add(&region(4096, 7));
        table.add(&region(8192, 8));
        assert_eq!((at(0, KEY), at(0, ADDRESS), at(0, LENGTH)), (7, 4096, 4096));
        assert_eq!((at(1, KEY), at(1, ADDRESS), at(1, HAS_FILE)), (8, 8192, 0));
        assert_eq!(seen.word(USED).unwrap().load(Ordering::Relaxed), 2);
        table.remove(7).unwrap();
        table.remove(7).unwrap();
        assert_eq!(at(0, KEY), 0);
        table.add(&region(12_288, 9));
        assert_eq!((at(0, KEY), at(0, ADDRESS)), (9, 12_288));
        assert_eq!(table.counts(), (2, 0));
        table.remove_all().unwrap();
        assert_eq!((at(0, KEY), at(1, KEY), table.counts().0), (0, 0, 0));
    }

    #[test]
    fn removing_waits_for_a_pin_of_that_slot() {
        let (table, pins, _guest, _visitor) = visited(Duration::from_secs(600), "waits");
        table.add(&region(4096, 7));
        table.add(&region(8192, 8));
        let pin = pins.word(3 * PIN_WORDS).unwrap();
        pin.store(1, Ordering::SeqCst);
        table.remove(8).unwrap();
        std::thread::scope(|scope| {
            let remover = scope.spawn(|| table.remove(7));
            std::thread::sleep(Duration::from_millis(30));
            assert!(!remover.is_finished());
            pin.store(0, Ordering::SeqCst);
            remover.join().unwrap().unwrap();
        });
    }

    #[test]
    fn pins_of_a_peer_that_is_gone_do_not_count() {
        let (table, pins, guest, visitor) = visited(Duration::from_secs(600), "gone");
        table.add(&region(4096, 7));
        pins.word(0).unwrap().store(1, Ordering::SeqCst);
        drop(visitor);
        table.remove(7).unwrap();
        table.turn_out(&guest);
        assert_eq!(table.counts(), (0, 0));
    }

    #[test]
    fn a_peer_that_stands_still_is_turned_out_and_named() {
        let (table, pins, _guest, visitor) = visited(Duration::from_millis(20), "still");
        table.add(&region(4096, 7));
        for pin in 0..limits::SHM_PINS_MAX {
            // Whatever else a peer scribbles means nothing.
            let value = if pin == 200 { 1 } else { u64::MAX - pin as u64 };
            pins.word(pin * PIN_WORDS).unwrap().store(value, Ordering::SeqCst);
        }
        let error = table.remove(7).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        assert!(door::has_ended(visitor.as_fd()));
        // The slot is not used again, since that peer may still look at it.
        table.add(&region(8192, 8));
        assert_eq!(table.slots.lock().by_key.get(&8).unwrap().slot, 1);
        table.remove(8).unwrap();
    }
}
