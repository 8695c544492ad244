//! Eviction: the oldest bytes of a segment that is too full, and room for a put that found none.
//!
//! The first is exact to an age: candidates of all shards are merged by their last use. The second
//! must give one run of bytes, and in a segment full of small objects the oldest ones lie
//! scattered; so it takes an old object and as many of its neighbours as are needed.

use std::collections::HashSet;
use std::sync::Arc;

use super::cell::{Cell, DRAINING, RESTING};
use super::removal::End;
use super::shard::{Copy, Object, Shard, FILES, PLAIN, SOFT};
use super::{counters, State};
use crate::limits;
use crate::pool::allocator::Span;
use crate::pool::eviction::{choose, Candidate, NIL};
use crate::pool::lease::{Micros, Pin};

/// Candidates of one shard and list in one round.
const PER_LIST: usize = 16;
/// Objects of a list that are passed over because readers hold them.
const SKIPS: usize = 64;
/// Objects of a list that are filed anew under one hold of its shard's lock.
const MOVES: usize = 64;
/// Looks at the lists of all shards in which nothing was found but what had to be filed anew. More
/// than there can be, if readers do not come as fast.
const PASSES: usize = 4096;
/// Segments that one put looks at.
const SEGMENTS: usize = 2;
/// Old objects around which a run is sought.
const ANCHORS: usize = 8;
/// Runs that are tried; each time one more object turns out not to be evictable.
const RUNS: usize = 16;
/// Ranges to each side of an old object that are looked at.
const NEIGHBOURS: usize = 16_384;

/// For so long nothing more is evicted for a put whose room waits for a holder to take note.
const ACKNOWLEDGE_PATIENCE: Micros = 100_000;

/// What was done for a put without room.
pub(super) enum Relief {
    /// No segment could ever take the object.
    Hopeless,
    /// Nothing can be evicted now.
    Nothing,
    /// There is, or will be, room at that moment.
    At(Micros),
}

/// Old ends of the lists of a segment.
#[derive(Default)]
struct Gathered {
    found: Vec<Candidate>,
    /// Up to which last use all are known; `None` where the lists were read to their ends.
    complete_until: Option<(bool, Micros)>,
    /// Something had to be filed anew.
    moved: bool,
}

impl State {
    /// Whether the object may be evicted now.
    pub(super) fn is_evictable(&self, now: Micros, object: &Object, soft_too: bool) -> bool {
        object.complete
            && object.pin() != Pin::Hard
            && !object.last_use().is_leased(now, self.times.lease)
            && !self.is_saved_by_group(now, object)
            && (soft_too || !object.pin().is_soft(now))
    }

    /// Evictable objects at the old end of a list, and the last use up to which all are known.
    fn heads(
        &self,
        now: Micros,
        shard: &mut Shard,
        (segment, list): (u32, u8),
        max: usize,
        gathered: &mut Gathered,
    ) -> Option<(bool, Micros)> {
        let soft_too = self.settings.evict_soft_pinned;
        let mut slot = shard.oldest(segment, list);
        let mut before = NIL;
        let (mut count, mut looks, mut moves) = (0, 0, 0);
        while slot != NIL {
            if count == max || looks == max + SKIPS || moves == MOVES {
                return Some((list == SOFT, shard.known_until(slot, segment)));
            }
            if shard.is_misfiled(slot, segment, now) {
                moves += 1;
                gathered.moved = true;
                shard.renew(slot, now);
            } else {
                looks += 1;
                let object = shard.objects.get(slot);
                let copy = object.copy_in(segment);
                if let Some(copy) = copy.filter(|_| self.is_evictable(now, object, soft_too)) {
                    count += 1;
                    gathered.found.push(candidate(now, shard.number, slot, object, copy));
                }
                before = slot;
            }
            // What was filed anew may come later in this list.
            slot = match before {
                NIL => shard.oldest(segment, list),
                before => shard.newer(before, segment),
            };
        }
        None
    }

    /// Evictable objects of a segment from all shards; files anew what it meets in a wrong place,
    /// a bounded number under each lock.
    fn gather_once(&self, now: Micros, segment: u32, max: usize) -> Gathered {
        let mut gathered = Gathered::default();
        for number in 0..self.shards.len() as u32 {
            for list in [PLAIN, SOFT] {
                let mut shard = self.shard(number).write();
                let cut = self.heads(now, &mut shard, (segment, list), max, &mut gathered);
                gathered.complete_until = match (gathered.complete_until, cut) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
        }
        gathered
    }

    /// The same, again and again while all that it meets has to be filed anew.
    fn gather(&self, now: Micros, segment: u32, max: usize) -> Gathered {
        let mut gathered = Gathered::default();
        for _ in 0..PASSES {
            gathered = self.gather_once(now, segment, max);
            if !gathered.found.is_empty() || !gathered.moved {
                break;
            }
        }
        gathered
    }

    /// Files anew some of what was used since, in a segment that is about to become too full, so
    /// that puts need not wait for it.
    pub(super) fn prepare_eviction(&self, now: Micros, segment: u32) {
        self.gather_once(now, segment, 1);
    }

    /// Takes an object out of a segment, and the others of its group out of memory; or its file
    /// out of the disk tier. The object goes on in a written file, or in memory, as long as it has
    /// the other. Returns the bytes in that segment, and when the last of them may be used again.
    fn evict(&self, now: Micros, candidate: &Candidate, from: u32) -> Option<(u64, Micros)> {
        let mut shard = self.shard(candidate.shard).write();
        let object = shard.alive(candidate.slot, candidate.generation)?;
        if !self.is_evictable(now, object, candidate.soft) {
            return None;
        }
        if from == FILES {
            let has_memory = object.copies.iter().any(|copy| copy.segment != FILES);
            let done = match has_memory {
                true => (self.drop_file(&mut shard, candidate.slot), now),
                false => self.drop_object(now, &mut shard, candidate.slot, End::Removed),
            };
            counters::add(&self.counters.evicted_files, 1);
            counters::add(&self.counters.evicted_file_bytes, done.0);
            return Some(self.count_evicted(done));
        }
        let group = object.group().cloned();
        let (bytes, until) = self.evict_from_memory(now, &mut shard, candidate.slot);
        drop(shard);
        let Some(group) = group else { return Some((bytes, until)) };
        let (more, last) = self.evict_group(now, &group, candidate.soft, from);
        Some((bytes + more, until.max(last)))
    }

    /// Takes an object out of memory, and out of the index where it has no written file.
    pub(super) fn evict_from_memory(
        &self,
        now: Micros,
        shard: &mut Shard,
        slot: u32,
    ) -> (u64, Micros) {
        self.count_evicted(match shard.objects.get(slot).file() {
            Some(true) => self.drop_memory(now, shard, slot),
            _ => self.drop_object(now, shard, slot, End::Removed),
        })
    }

    fn count_evicted(&self, (bytes, until): (u64, Micros)) -> (u64, Micros) {
        counters::add(&self.counters.evicted_keys, 1);
        counters::add(&self.counters.evicted_bytes, bytes);
        (bytes, until)
    }

    /// Evicts the oldest objects of a segment, `bytes` bytes of them or a bounded number.
    pub(super) fn evict_oldest(&self, now: Micros, segment: u32, bytes: u64) -> u64 {
        let (mut evicted, mut count) = (0, 0);
        while evicted < bytes && count < limits::EVICTION_STEP_MAX {
            let gathered = self.gather(now, segment, PER_LIST);
            let mut candidates = gathered.found;
            choose(&mut candidates, gathered.complete_until, bytes - evicted);
            let mut progress = false;
            for candidate in &candidates {
                if let Some((bytes, _)) = self.evict(now, candidate, segment) {
                    evicted += bytes;
                    count += 1;
                    progress = true;
                }
            }
            if !progress {
                break;
            }
        }
        counters::add(&self.counters.attempted_evictions, 1);
        counters::add(&self.counters.successful_evictions, u64::from(evicted > 0));
        evicted
    }

    /// Makes one run of `bytes` bytes free in a segment that objects may be placed in.
    pub(super) fn relieve(&self, now: Micros, bytes: u64) -> Relief {
        let table = self.table.load_full();
        let could = |cell: &Arc<Cell>| cell.segment.size >= bytes && !cell.has(DRAINING);
        if !table.cells.iter().flatten().any(could) {
            return Relief::Hopeless;
        }
        let mut best: Option<(&Arc<Cell>, Vec<Candidate>)> = None;
        for cell in self.some_cells(&table.mounted, bytes) {
            if cell.drain(now) && cell.largest() >= bytes {
                return Relief::At(now);
            }
            let mut anchors = self.gather(now, cell.slot, 1).found;
            choose(&mut anchors, None, u64::MAX);
            anchors.truncate(ANCHORS);
            let Some(oldest) = anchors.first() else { continue };
            let order = (oldest.soft, oldest.at);
            let is_older = best.as_ref().is_none_or(|(_, c)| order < (c[0].soft, c[0].at));
            if is_older {
                best = Some((cell, anchors));
            }
        }
        counters::add(&self.counters.attempted_evictions, 1);
        let Some((cell, anchors)) = best else { return Relief::Nothing };
        let mut at = self.clear_run(now, cell, &anchors, bytes);
        if at.is_some() && cell.largest() >= bytes {
            // What still rests are other copies of the same objects.
            at = Some(now);
        }
        counters::add(&self.counters.successful_evictions, u64::from(at.is_some()));
        at.map_or(Relief::Nothing, Relief::At)
    }

    /// A few segments, at random, of those that may take the object.
    fn some_cells<'a>(&self, cells: &'a [Arc<Cell>], bytes: u64) -> Vec<&'a Arc<Cell>> {
        if cells.is_empty() {
            return Vec::new();
        }
        let start = self.rng.lock().usize(..cells.len());
        let (front, back) = cells.split_at(start);
        let fits = |cell: &&Arc<Cell>| cell.segment.size >= bytes && !cell.has(u32::MAX);
        back.iter().chain(front).filter(fits).take(SEGMENTS).collect()
    }

    fn clear_run(
        &self,
        now: Micros,
        cell: &Cell,
        anchors: &[Candidate],
        bytes: u64,
    ) -> Option<Micros> {
        let plain = self.clear_run_of(now, cell, anchors, bytes, false);
        if plain.is_some() || !self.settings.evict_soft_pinned {
            return plain;
        }
        self.clear_run_of(now, cell, anchors, bytes, true)
    }

    fn clear_run_of(
        &self,
        now: Micros,
        cell: &Cell,
        anchors: &[Candidate],
        bytes: u64,
        soft_too: bool,
    ) -> Option<Micros> {
        let mut barriers = HashSet::new();
        for _ in 0..RUNS {
            let run = best_run(cell, anchors, bytes, &barriers)?;
            let mut victims = Vec::with_capacity(run.len());
            let before = barriers.len();
            for span in &run {
                match self.victim(now, cell, span, soft_too) {
                    Some(victim) => victims.push(victim),
                    None => {
                        barriers.insert(span.id);
                    }
                }
            }
            if barriers.len() > before {
                continue;
            }
            let mut at = now;
            for victim in &victims {
                if let Some((_, until)) = self.evict(now, victim, cell.slot) {
                    at = at.max(until);
                }
            }
            // A holder that attends must take note before its ranges are used again.
            let native = cell.holder.is_native();
            return Some(if native { at.max(now + ACKNOWLEDGE_PATIENCE) } else { at });
        }
        None
    }

    /// The object of a range, if it may be evicted.
    fn victim(&self, now: Micros, cell: &Cell, span: &Span, soft_too: bool) -> Option<Candidate> {
        let (number, slot) = self.place_of(span.tag?);
        let shard = self.shards.get(number as usize)?.read();
        let object = shard.objects.try_get(slot)?;
        let copy = object.copy_in(cell.slot)?;
        if copy.piece != span.id || !self.is_evictable(now, object, soft_too) {
            return None;
        }
        Some(candidate(now, number, slot, object, copy))
    }
}

fn candidate(now: Micros, shard: u32, slot: u32, object: &Object, copy: &Copy) -> Candidate {
    Candidate {
        soft: object.pin().is_soft(now),
        at: object.used_at(),
        bytes: object.size,
        shard,
        slot,
        generation: object.generation,
        piece: copy.piece,
    }
}

/// Of the runs around the anchors the one that costs the fewest bytes beside its anchor; the taken
/// ranges in it.
fn best_run(
    cell: &Cell,
    anchors: &[Candidate],
    bytes: u64,
    barriers: &HashSet<u32>,
) -> Option<Vec<Span>> {
    let mut best: Option<(u64, Vec<Span>)> = None;
    cell.with_room(|room| {
        for anchor in anchors {
            let is_barrier = |span: &Span| span.tag == Some(RESTING) || barriers.contains(&span.id);
            let middle = room.allocator.span(anchor.piece);
            if middle.tag.is_none() || is_barrier(&middle) {
                continue;
            }
            let mut spans = std::collections::VecDeque::from([middle]);
            for is_before in [true, false] {
                let (mut sum, mut at) = (middle.size, anchor.piece);
                for _ in 0..NEIGHBOURS {
                    let next = match is_before {
                        true => room.allocator.before(at),
                        false => room.allocator.after(at),
                    };
                    let Some(next) = next.filter(|next| sum < bytes && !is_barrier(next)) else {
                        break;
                    };
                    sum += next.size;
                    at = next.id;
                    if is_before {
                        spans.push_front(next);
                    } else {
                        spans.push_back(next);
                    }
                }
            }
            let spans: Vec<Span> = spans.into();
            if let Some((cost, run)) = cheapest(&spans, anchor.piece, bytes) {
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, run));
                }
            }
            if best.as_ref().is_some_and(|(cost, _)| *cost == 0) {
                break;
            }
        }
    });
    best.map(|(_, run)| run)
}

/// The cheapest run of at least `bytes` bytes that contains the anchor.
fn cheapest(spans: &[Span], anchor: u32, bytes: u64) -> Option<(u64, Vec<Span>)> {
    let middle = spans.iter().position(|span| span.id == anchor)?;
    let cost_of = |span: &Span| if span.tag.is_some() && span.id != anchor { span.size } else { 0 };
    let mut best: Option<(u64, usize, usize)> = None;
    let (mut end, mut sum, mut cost) = (0, 0, 0);
    for start in 0..=middle {
        while end < spans.len() && (sum < bytes || end <= middle) {
            sum += spans[end].size;
            cost += cost_of(&spans[end]);
            end += 1;
        }
        if sum < bytes {
            break;
        }
        if best.is_none_or(|(least, ..)| cost < least) {
            best = Some((cost, start, end));
        }
        sum -= spans[start].size;
        cost -= cost_of(&spans[start]);
    }
    let (cost, start, end) = best?;
    Some((cost, spans[start..end].iter().filter(|span| span.tag.is_some()).copied().collect()))
}
