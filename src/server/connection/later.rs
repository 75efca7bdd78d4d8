//! Puts that came when storage had no place for them, with what came of their bodies.
//!
//! Bytes are kept in memory of their own and count as held by the connection: the buffers of the pool go on to
//! serve the others. Nothing more is read meanwhile, except where a list goes on: what it waits for may be on its
//! way, and puts that have a place may wait for it.

use std::collections::BTreeMap;

use ftx_protocol::message::{ClientMessage, Put};
use ftx_protocol::server::{Event, Refused};
use ftx_protocol::{Asked, Code, Refusal, RequestId, Time};

use super::Connection;
use crate::server::storage::{Granted, Job, Place, Standing, audit};

/// How much is read in one go while anybody waits for a place: what of it has to wait too is held outside the pool, and
/// thousands of connections may have to.
const FEW_BYTES: usize = 16 * 1024;

/// Puts without a place, in the order in which they came.
#[derive(Default)]
pub(super) struct Later {
    puts: BTreeMap<RequestId, Waiting>,
    held_bytes: usize,
    /// As what the connection stands in line for a place.
    in_line: Option<Standing>,
}

struct Waiting {
    put: Put,
    granted: Granted,
    since: Time,
    /// What there is to do once it has begun.
    rest: Vec<Job>,
    held_bytes: usize,
}

impl Later {
    /// Bytes that this makes the server hold.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn has(&self, id: RequestId) -> bool {
        self.puts.contains_key(&id)
    }

    fn add(&mut self, put: Put, granted: Granted, since: Time) {
        let held_bytes = size_of::<Waiting>().saturating_add(put.name.as_bytes().len());
        self.held_bytes = self.held_bytes.saturating_add(held_bytes);
        self.puts.insert(put.id, Waiting { put, granted, since, rest: Vec::new(), held_bytes });
    }

    fn push(&mut self, id: RequestId, job: Job) {
        let Some(waiting) = self.puts.get_mut(&id) else { return };
        let more = if let Job::Write { piece, .. } = &job { piece.len() } else { 0 };
        let bytes = size_of::<Job>().saturating_add(more);
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        waiting.held_bytes = waiting.held_bytes.saturating_add(bytes);
        waiting.rest.push(job);
    }

    fn remove(&mut self, id: RequestId) -> Option<Waiting> {
        let waiting = self.puts.remove(&id)?;
        self.held_bytes = self.held_bytes.saturating_sub(waiting.held_bytes);
        Some(waiting)
    }

    fn first(&self) -> Option<RequestId> {
        self.puts.first_key_value().map(|(&id, _)| id)
    }

    fn begin_first(&mut self, place: Place, jobs: &mut Vec<Job>) {
        if let Some(waiting) = self.first().and_then(|id| self.remove(id)) {
            jobs.push(Job::Begin(waiting.put, waiting.granted, place));
            jobs.extend(waiting.rest);
        }
    }
}

impl Connection {
    /// The job that begins a put, if there is a place for it; else it waits for one.
    pub(super) fn begin(&mut self, put: Put, granted: Granted, now: Time) -> Option<Job> {
        // Not past those that wait.
        let place = if self.later.is_none() { self.lane.take_place() } else { None };
        match place {
            Some(place) => Some(Job::Begin(put, granted, place)),
            None => {
                self.later.get_or_insert_default().add(put, granted, now);
                None
            }
        }
    }

    /// The job, unless it is about a put that waits: then it waits too, or is done with that.
    pub(super) fn hold_back(&mut self, job: Job, now: Time) -> Option<Job> {
        let Some(later) = &mut self.later else { return Some(job) };
        match job {
            Job::Write { id, piece } if later.has(id) => {
                later.push(id, Job::Write { id, piece: piece.to_own_memory() });
            }
            // Beside what came of it: what came behind it may have to wait longer.
            Job::Finish(end) if later.has(end.id) => later.push(end.id, Job::Finish(end)),
            Job::Discard(id, refusal) if later.has(id) => self.end_unbegun(id, &refusal, now),
            Job::Suspend(id) if later.has(id) => self.end_unbegun(id, &Code::Aborted.into(), now),
            Job::HangUp => {
                while let Some(id) = self.later.as_ref().and_then(|later| later.first()) {
                    self.end_unbegun(id, &Code::Aborted.into(), now);
                }
                return Some(job);
            }
            job => return Some(job),
        }
        None
    }

    /// None of those that wait is begun any more.
    pub(super) fn refuse_later(&mut self, refusal: &Refusal, now: Time) {
        while let Some(id) = self.later.as_ref().and_then(|later| later.first()) {
            self.machine.handle(Event::Refused { id, refusal: refusal.clone() }, now);
            self.end_unbegun(id, refusal, now);
        }
        // Nobody stands in line any more.
        self.begin_later(&mut Vec::new());
    }

    /// Storage will not hear of this put, and so has no line for it.
    fn end_unbegun(&mut self, id: RequestId, refusal: &Refusal, now: Time) {
        let waiting = self.later.as_mut().and_then(|later| later.remove(id));
        let Some(Waiting { put, since, .. }) = waiting else { return };
        let asked = Asked::of(&ClientMessage::Put(put));
        let refused = Refused { asked, refusal: refusal.clone(), since };
        audit::unbegun(self.peer(), &self.who(), &refused, now);
    }

    /// A place has become free for this connection: the next one's, if nothing waits here any more.
    pub(super) fn give_place(&mut self, place: Place) {
        let mut jobs = Vec::new();
        if let Some(later) = &mut self.later {
            later.in_line = None;
            later.begin_first(place, &mut jobs);
        }
        self.submit(jobs);
    }

    /// Begins those that wait, as far as there are places.
    pub(super) fn begin_later(&mut self, jobs: &mut Vec<Job>) {
        let Some(later) = &mut self.later else { return };
        while let Some(id) = later.first() {
            let standing = match self.machine.has_put_before(id) {
                true => Standing::Further,
                false => Standing::First,
            };
            if later.in_line == Some(standing) {
                return;
            }
            let Some(place) = self.lane.ask_for_place(standing) else {
                later.in_line = Some(standing);
                return;
            };
            later.in_line = None;
            later.begin_first(place, jobs);
        }
        // All may have been given up while it stood in line.
        self.lane.need_no_place();
        self.later = None;
    }

    /// How much may be read in one go, when so many bytes of a part are to come first.
    pub(super) fn bearable_bytes(&self, left_bytes: u64) -> usize {
        match self.lane.places_are_wanted() {
            true => usize::try_from(left_bytes).unwrap_or(usize::MAX).max(FEW_BYTES),
            false => usize::MAX,
        }
    }

    /// Whether nothing more is to be read before there is a place.
    pub(super) fn is_held_up(&self) -> bool {
        self.later.is_some() && !self.machine.has_list()
    }
}
