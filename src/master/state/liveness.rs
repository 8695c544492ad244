//! Signs of life, and news for those who attend.

use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cell::{REPORTING, SETTLING, SILENT, SUSPECT};
use super::client::Client;
use super::puts::held;
use super::{Operation, State, Step, Waiting};
use crate::limits;
use crate::pool::eviction::NIL;
use crate::pool::identity::ClientId;
use crate::pool::lease::Micros;
use crate::pool::outcome::{Outcome, Refusal};
use crate::pool::segment::{ClientStatus, Pong, SegmentEvent};
use crate::rpc::message::{Events, Reply};

/// Time for a process that stood still to take in what its sockets hold.
const WAKING: Micros = 1_000_000;

impl State {
    /// The client of that id, made known if it is new.
    pub(super) fn client_of(&self, now: Micros, id: ClientId) -> Outcome<Arc<Client>> {
        if let Some(client) = self.clients.read().get(&id) {
            return Ok(Arc::clone(client));
        }
        let mut clients = self.clients.write();
        if clients.len() >= limits::STORE_CLIENTS_MAX && !clients.contains_key(&id) {
            return Err(Refusal::UNAVAILABLE_IN_CURRENT_STATUS);
        }
        let client = clients.entry(id).or_insert_with(|| {
            // After four thousand million clients the numbers begin anew; 0 stays anonymous.
            let serial = self.serial.fetch_add(1, Ordering::Relaxed).max(1);
            Arc::new(Client::new(id, serial, now, self.first_generation))
        });
        Ok(Arc::clone(client))
    }

    /// The short name of a put's owner; 0 where it has none.
    pub(super) fn serial_of(&self, now: Micros, owner: Option<ClientId>) -> Outcome<u32> {
        match owner {
            None => Ok(0),
            Some(id) => self.client_of(now, id).map(|client| client.serial),
        }
    }

    /// The same, without making anybody known.
    pub(super) fn known_serial(&self, owner: Option<ClientId>) -> u32 {
        let Some(id) = owner else { return 0 };
        self.clients.read().get(&id).map_or(0, |client| client.serial)
    }

    /// Whether a client of that serial is there. Looks at all of them.
    pub(super) fn is_known_serial(&self, serial: u32) -> bool {
        self.clients.read().values().any(|client| client.serial == serial)
    }

    /// A sign of life: its segments take objects again.
    pub(super) fn hear(&self, now: Micros, client: &Client) {
        client.heard.fetch_max(now, Ordering::Relaxed);
        if !client.marked.swap(false, Ordering::AcqRel) {
            return;
        }
        for cell in self.cells_of(client) {
            cell.wake(now.saturating_add(WAKING));
            if cell.unmark(SILENT | SUSPECT) {
                self.outlet.room();
            }
        }
    }

    pub(super) fn ping(&self, now: Micros, id: ClientId) -> Pong {
        let Ok(client) = self.client_of(now, id) else {
            return self.pong(false);
        };
        self.hear(now, &client);
        let mut inner = client.inner.lock();
        inner.pings = true;
        self.pong(inner.ok)
    }

    pub(super) fn attend(
        &self,
        now: Instant,
        id: ClientId,
        acknowledged: u64,
        wait_ms: u32,
    ) -> Step {
        let at = self.micros(now);
        let client = match self.client_of(at, id) {
            Ok(client) => client,
            Err(why) => {
                let reply = Reply::Events(Err(why));
                return Step::Reply(self.counted(Some(Operation::Attend), reply));
            }
        };
        self.hear(at, &client);
        self.become_native(&client);
        client.acknowledge(acknowledged);
        let mut gave = false;
        for cell in self.cells_of(&client) {
            gave |= cell.drain(at);
        }
        if gave {
            self.outlet.room();
        }
        let wait = Duration::from_millis(u64::from(wait_ms)).min(limits::ATTEND_WAIT_MAX);
        self.resume_attend(now, id, now + wait)
    }

    fn pong(&self, ok: bool) -> Pong {
        let status = if ok { ClientStatus::Ok } else { ClientStatus::NeedRemount };
        Pong { view_version: self.settings.view_version, status }
    }

    fn become_native(&self, client: &Client) {
        client.inner.lock().pings = true;
        if client.native.swap(true, Ordering::AcqRel) {
            return;
        }
        client.inner.lock().refill = Some(0);
        for cell in self.cells_of(client) {
            // It will tell what it holds, since this life has never heard it tell.
            if cell.has(SETTLING) {
                cell.mark(REPORTING);
            }
        }
    }

    pub(super) fn resume_attend(&self, now: Instant, client: ClientId, until: Instant) -> Step {
        if let Some(known) = self.clients.read().get(&client).cloned() {
            self.refill(self.micros(now), &known);
        }
        let reply = self.news_of(client);
        let is_news = match &reply {
            Reply::Events(Ok(events)) => {
                !events.events.is_empty() || events.pong.status != ClientStatus::Ok
            }
            _ => true,
        };
        if is_news || now >= until {
            return Step::Reply(self.counted(Some(Operation::Attend), reply));
        }
        Step::Later(Waiting::News { client, until })
    }

    pub(super) fn news_of(&self, id: ClientId) -> Reply {
        let client = self.clients.read().get(&id).cloned();
        let Some(client) = client else {
            let pong = self.pong(false);
            let master_life = self.first_generation;
            return Reply::Events(Ok(Events { pong, master_life, last: 0, events: Vec::new() }));
        };
        let (last, events) = client.news();
        let pong = self.pong(client.inner.lock().ok);
        Reply::Events(Ok(Events { pong, master_life: self.first_generation, last, events }))
    }

    /// Tells a holder of objects that it was not told of, shard by shard, while its queue is short.
    fn refill(&self, now: Micros, client: &Client) {
        let slots = client.inner.lock().segments.clone();
        while let Some(number) = client.take_refill() {
            let shard = self.shard(number).read();
            let table = self.table.load();
            for cell in slots.iter().filter_map(|slot| table.cell(*slot)) {
                for list in 0..3 {
                    let mut slot = shard.oldest(cell.slot, list);
                    while slot != NIL {
                        let object = shard.objects.get(slot);
                        if let Some(copy) = object.copy_in(cell.slot).filter(|_| object.complete) {
                            let held = held(now, object, copy, cell);
                            client.push_refilled(SegmentEvent::Completed(held));
                        }
                        slot = shard.newer(slot, cell.slot);
                    }
                }
            }
            let next = number + 1;
            if (next as usize) < self.shards.len() {
                client.inner.lock().refill = Some(next);
            }
        }
    }

    /// Somebody could not reach an endpoint.
    pub(super) fn suspect(&self, reporter: ClientId, endpoint: &str) -> Outcome<()> {
        let table = self.table.load();
        let mut known = false;
        for cell in table.cells.iter().flatten().filter(|c| c.segment.endpoint == endpoint) {
            known = true;
            // Who cannot reach itself has another trouble, and would never be heard of meanwhile.
            if cell.holder.id == reporter {
                continue;
            }
            cell.mark(SUSPECT);
            cell.holder.marked.store(true, Ordering::Release);
        }
        known.then_some(()).ok_or(Refusal::SEGMENT_NOT_FOUND)
    }
}
