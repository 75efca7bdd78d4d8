//! Puts that came when storage had no place for them, with what came of their bodies.
//!
//! Bytes are kept in memory of their own and count as held by the connection: the buffers of the pool go on to
//! serve the others. Nothing more is read meanwhile, except where a list goes on: what it waits for may be on its
//! way, and puts that have a place may wait for it. With the place they take the way of what is read: through buffers
//! of the pool, as storage gives these back, and before anything more is read.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use ftx_protocol::message::{ClientMessage, End, Put};
use ftx_protocol::server::{Behind, Event, Refused};
use ftx_protocol::{Asked, Code, Refusal, RequestId, Time};

use super::{Buffers, Connection, ReadEnd};
use crate::server::access::Granted;
use crate::server::buffers::Piece;
use crate::server::storage::{Job, Place, Standing, audit};

/// How much is read in one go while anybody waits for a place: what of it has to wait too is held outside the pool, and
/// thousands of connections may have to.
const FEW_BYTES: usize = 16 * 1024;

/// Puts without a place, in the order in which they came.
#[derive(Default)]
pub(super) struct Later {
    puts: BTreeMap<RequestId, Waiting>,
    /// What came of puts that have their places since, in the order in which it came.
    begun: VecDeque<Following>,
    held_bytes: usize,
    /// As what the connection stands in line for a place.
    in_line: Option<Standing>,
}

struct Waiting {
    put: Put,
    behind: Behind,
    granted: Granted,
    since: Time,
    /// What there is to do once it has begun.
    rest: Vec<Following>,
    held_bytes: usize,
}

/// What came of a put behind its beginning.
enum Following {
    Bytes(RequestId, Piece),
    End(End),
}

impl Following {
    fn id(&self) -> RequestId {
        match self {
            Self::Bytes(id, _) => *id,
            Self::End(end) => end.id,
        }
    }

    fn held_bytes(&self) -> usize {
        let more = if let Self::Bytes(_, piece) = self { piece.len() } else { 0 };
        size_of::<Self>().saturating_add(more)
    }
}

/// The same, with its bytes in a buffer of the pool.
enum Moved {
    Bytes(RequestId, Range<usize>),
    End(End),
}

impl Later {
    /// Bytes that this makes the server hold.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn has(&self, id: RequestId) -> bool {
        self.puts.contains_key(&id)
    }

    /// Whether bytes of a put that come now have to wait behind what came before them.
    fn holds_back(&self, id: RequestId) -> bool {
        self.has(id) || !self.begun.is_empty()
    }

    /// Whether bytes of a put wait that came before its end.
    fn has_bytes_of(&self, id: RequestId) -> bool {
        self.has(id) || self.begun.iter().any(|came| came.id() == id)
    }

    fn add(&mut self, put: Put, behind: Behind, granted: Granted, since: Time) {
        let held_bytes = size_of::<Waiting>().saturating_add(put.name.as_bytes().len());
        self.held_bytes = self.held_bytes.saturating_add(held_bytes);
        self.puts
            .insert(put.id, Waiting { put, behind, granted, since, rest: Vec::new(), held_bytes });
    }

    fn push(&mut self, came: Following) {
        let bytes = came.held_bytes();
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        match self.puts.get_mut(&came.id()) {
            Some(waiting) => {
                waiting.held_bytes = waiting.held_bytes.saturating_add(bytes);
                waiting.rest.push(came);
            }
            None => self.begun.push_back(came),
        }
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
            jobs.push(Job::Begin(waiting.put, waiting.behind, waiting.granted, place));
            waiting.rest.into_iter().for_each(|came| self.push(came));
        }
    }

    /// Drops what came of puts that have begun, as far as nobody wants it any more.
    fn forget_begun(&mut self, is_over: impl Fn(RequestId) -> bool) {
        let Self { begun, held_bytes, .. } = self;
        begun.retain(|came| {
            let over = is_over(came.id());
            if over {
                *held_bytes = held_bytes.saturating_sub(came.held_bytes());
            }
            !over
        });
    }

    /// Moves what came first of puts that have begun to a buffer, as far as there is room; returns how much that was.
    fn fill(&mut self, buffer: &mut [u8]) -> (Vec<Moved>, usize) {
        let (mut moved, mut filled): (Vec<Moved>, usize) = (Vec::new(), 0);
        while let Some(came) = self.begun.pop_front() {
            let bytes = came.held_bytes();
            match came {
                Following::Bytes(id, piece) => {
                    let range = filled..filled.saturating_add(piece.len());
                    let Some(room) = buffer.get_mut(range.clone()) else {
                        self.begun.push_front(Following::Bytes(id, piece));
                        break;
                    };
                    room.copy_from_slice(&piece);
                    filled = range.end;
                    match moved.last_mut() {
                        // However small the parts were, it is one job.
                        Some(Moved::Bytes(last, before)) if *last == id => before.end = filled,
                        _ => moved.push(Moved::Bytes(id, range)),
                    }
                }
                Following::End(end) => moved.push(Moved::End(end)),
            }
            self.held_bytes = self.held_bytes.saturating_sub(bytes);
        }
        (moved, filled)
    }
}

impl Connection {
    /// The job that begins a put, if there is a place for it; else it waits for one.
    pub(super) fn begin(
        &mut self,
        put: Put,
        behind: Behind,
        granted: Granted,
        now: Time,
    ) -> Option<Job> {
        // Not past those that wait.
        let place = if self.later.is_none() { self.lane.take_place() } else { None };
        match place {
            Some(place) => Some(Job::Begin(put, behind, granted, place)),
            None => {
                self.later.get_or_insert_default().add(put, behind, granted, now);
                None
            }
        }
    }

    /// The job, unless it is about a put that waits: then it waits too, or is done with that.
    pub(super) fn hold_back(&mut self, job: Job, now: Time) -> Option<Job> {
        let Some(later) = &mut self.later else { return Some(job) };
        match job {
            Job::Write { id, piece } if later.holds_back(id) => {
                later.push(Following::Bytes(id, piece.to_own_memory()));
            }
            // Beside what came of it: what came behind it may have to wait longer.
            Job::Finish(end) if later.has_bytes_of(end.id) => later.push(Following::End(end)),
            Job::Discard(id, refusal) if later.has(id) => self.end_unbegun(id, &refusal, now),
            Job::Suspend(id) if later.has(id) => self.end_unbegun(id, &Code::Aborted.into(), now),
            Job::Discard(id, _) | Job::Suspend(id) => {
                later.forget_begun(|begun| begun == id);
                return Some(job);
            }
            Job::HangUp => {
                later.forget_begun(|_| true);
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
        if later.begun.is_empty() {
            self.later = None;
        }
    }

    /// Whether something that has come is to be handed on before anything more is read.
    pub(super) fn has_to_hand_on(&self) -> bool {
        self.later.as_ref().is_some_and(|later| !later.begun.is_empty())
    }

    /// Hands on what came of puts while they waited for the places that they have now, as if it had just been read.
    pub(super) fn hand_on(&mut self, buffers: &mut Buffers<'_>, now: Time) -> ReadEnd {
        self.machine.not_reading(now);
        if self.has_its_share(buffers.pool) {
            return ReadEnd::Nothing;
        }
        let Some(later) = &mut self.later else { return ReadEnd::Nothing };
        let Some(mut buffer) = buffers.take() else { return ReadEnd::WantBuffer };
        let (moved, filled) = later.fill(buffer.bytes_mut());
        let buffer = Arc::new(buffer);
        let mut jobs: Vec<Job> = Vec::with_capacity(moved.len());
        jobs.extend(moved.into_iter().map(|moved| match moved {
            Moved::Bytes(id, range) => Job::Write { id, piece: Piece::new(&buffer, range) },
            Moved::End(end) => Job::Finish(end),
        }));
        self.begin_later(&mut jobs);
        self.submit(jobs);
        self.lend(buffer, buffers.spare);
        ReadEnd::Bytes(filled.max(1))
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
        let waits = self.later.as_ref().is_some_and(|later| later.first().is_some());
        waits && !self.machine.has_list()
    }
}

#[cfg(test)]
mod tests {
    use ftx_protocol::{Algorithm, Digest};

    use super::*;
    use crate::server::buffers::Pool;

    fn bytes(id: u64, bytes: &[u8]) -> Following {
        let mut buffer = Pool::of_one(1).take().unwrap();
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        Following::Bytes(RequestId(id), Piece::new(&Arc::new(buffer), 0..bytes.len()))
    }

    fn end(id: u64) -> Following {
        let digest = Digest { algorithm: Algorithm::Sha256, bytes: [0; 32] };
        Following::End(End { id: RequestId(id), size: 5, digest, spent: None })
    }

    /// What goes on together, in a buffer of this size.
    fn fill(later: &mut Later, room: usize) -> Vec<String> {
        let mut buffer = vec![0; room];
        let (moved, filled) = later.fill(&mut buffer);
        assert!(filled <= room);
        let text = |moved| match moved {
            Moved::Bytes(id, range) => {
                format!("{id} {}", String::from_utf8_lossy(&buffer[range]))
            }
            Moved::End(end) => format!("{} ends", end.id),
        };
        moved.into_iter().map(text).collect()
    }

    #[test]
    fn what_has_waited_goes_on_in_its_order_as_far_as_there_is_room_and_counts_until_then() {
        let mut later = Later::default();
        let all = [bytes(1, b"abc"), bytes(1, b"de"), end(1), bytes(2, b"fgh"), bytes(3, b"xyz")];
        all.into_iter().for_each(|came| later.push(came));
        let held = later.held_bytes();
        assert!(held > 14, "{held}");
        assert_eq!(fill(&mut later, 7), ["1 abcde", "1 ends"]);
        assert!((6..held - 5).contains(&later.held_bytes()));
        later.forget_begun(|id| id == RequestId(2));
        assert_eq!(fill(&mut later, 7), ["3 xyz"]);
        assert_eq!((later.held_bytes(), later.begun.is_empty()), (0, true));
    }
}
