//! Room for small files between the worker that read them whole and the socket that takes them.
//!
//! One budget for all connections, so that clients that ask and do not read make the server hold no
//! more than that. Where it is used up, files are opened and sent piece by piece instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of whole files that wait to be sent, of all connections together: as much as a hundred
/// fast clients keep moving.
const WHOLE_FILES_BYTES: usize = 8 * 1024 * 1024;

/// The budget.
#[derive(Debug)]
pub(super) struct Room {
    free_bytes: AtomicUsize,
}

/// Some of it. It is given back when this is dropped.
#[derive(Debug, Default)]
pub(in crate::server) struct Claim {
    bytes: usize,
    room: Option<Arc<Room>>,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { free_bytes: AtomicUsize::new(WHOLE_FILES_BYTES) }
    }

    /// Takes so much, if there is so much.
    pub(super) fn claim(self: &Arc<Self>, bytes: usize) -> Option<Claim> {
        let less = |free: usize| free.checked_sub(bytes);
        // It is a count and guards nothing.
        self.free_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Claim { bytes, room: Some(Arc::clone(self)) })
    }
}

impl Claim {
    /// Adds another claim on the same room to this one.
    pub(in crate::server) fn join(&mut self, mut other: Self) {
        if let Some(room) = other.room.take() {
            self.bytes = self.bytes.saturating_add(std::mem::take(&mut other.bytes));
            self.room = Some(room);
        }
    }

    /// Gives back what is not needed any more, if no more than `bytes` is.
    pub(in crate::server) fn shrink_to(&mut self, bytes: usize) {
        if let Some(room) = &self.room
            && let Some(over) = self.bytes.checked_sub(bytes)
            && over > 0
        {
            room.free_bytes.fetch_add(over, Ordering::Relaxed);
            self.bytes = bytes;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_gives_no_more_than_it_has_and_gets_back_what_is_not_needed() {
        let room = Arc::new(Room::new());
        let mut held = Claim::default();
        held.join(room.claim(WHOLE_FILES_BYTES - 10).unwrap());
        held.join(room.claim(10).unwrap());
        assert!(room.claim(1).is_none());
        held.shrink_to(WHOLE_FILES_BYTES);
        assert!(room.claim(1).is_none());
        held.shrink_to(WHOLE_FILES_BYTES - 5);
        assert!(room.claim(6).is_none());
        drop(room.claim(5).unwrap());
        drop(held);
        assert!(room.claim(WHOLE_FILES_BYTES).is_some());
    }
}
