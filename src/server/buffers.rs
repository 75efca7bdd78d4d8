//! The one pool of memory for bodies. What is not in it is in a job, and comes back by itself.

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex};

use super::lock::lock;

/// One buffer. A worker is handed one at a time, and may sleep until then: with 256 KiB a put took 5 to 6 % longer, and one
/// with BLAKE3 10 to 14 %.
const BUFFER_BYTES: usize = 1024 * 1024;

/// All buffers together, of up to five selectors: this, and not the number of clients, bounds the memory for bodies.
const BUFFERS: usize = 48;

/// Clients whose disks hang that leave buffers to the others, also where all of them are at one of
/// several selectors.
const HANGING_CLIENTS: usize = 4;

/// The least that one of many selectors has, so that sixteen have 144: two for each of these clients, to store one while the
/// other is filled, and one for the others.
const BUFFERS_MIN: usize = 2 * HANGING_CLIENTS + 1;

/// Buffers that one connection may have with storage, however little is in them: a worker has enough to do while the
/// selector hears of what was stored and reads more. Twelve connections whose disk hangs have them all. Fewer where a
/// pool is small.
const SHARE_MAX: usize = 4;

/// Hands out buffers as long as there are some.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    shared: Arc<Mutex<Shared>>,
    share: usize,
}

#[derive(Debug)]
struct Shared {
    free: Vec<Box<[u8]>>,
    /// Buffers that may still be made. They are made when they are first needed.
    unmade: usize,
}

/// A buffer that goes back to its pool, if it is of one, when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    pool: Option<Pool>,
}

/// A part of a filled buffer that several jobs share.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    buffer: Arc<Buffer>,
    range: Range<usize>,
}

impl Pool {
    /// The share of one of so many selectors.
    pub(super) fn of_one(selectors: usize) -> Self {
        Self::new((BUFFERS / selectors.max(1)).max(BUFFERS_MIN))
    }

    fn new(buffers: usize) -> Self {
        let shared = Shared { free: Vec::with_capacity(buffers), unmade: buffers };
        let share = (buffers.saturating_sub(1) / HANGING_CLIENTS).clamp(1, SHARE_MAX);
        Self { shared: Arc::new(Mutex::new(shared)), share }
    }

    /// Buffers that one connection may have out.
    pub(super) fn share(&self) -> usize {
        self.share
    }

    /// A buffer, unless all are out.
    pub(super) fn take(&self) -> Option<Buffer> {
        let mut shared = lock(&self.shared);
        let bytes = match shared.free.pop() {
            Some(bytes) => bytes,
            None => {
                shared.unmade = shared.unmade.checked_sub(1)?;
                vec![0; BUFFER_BYTES].into_boxed_slice()
            }
        };
        drop(shared);
        Some(Buffer { bytes, pool: Some(self.clone()) })
    }

    /// Buffers that are not out.
    pub(super) fn available(&self) -> usize {
        let shared = lock(&self.shared);
        shared.free.len().saturating_add(shared.unmade)
    }
}

impl Buffer {
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            let bytes = std::mem::take(&mut self.bytes);
            lock(&pool.shared).free.push(bytes);
        }
    }
}

impl Piece {
    /// The part of the buffer that the range names; nothing of it where it is not inside.
    pub(super) fn new(buffer: &Arc<Buffer>, range: Range<usize>) -> Self {
        Self { buffer: Arc::clone(buffer), range }
    }

    /// The same bytes, without the pool.
    pub(super) fn to_own_memory(&self) -> Self {
        let buffer = Buffer { bytes: Box::from(&**self), pool: None };
        Self { buffer: Arc::new(buffer), range: 0..self.len() }
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.bytes.get(self.range.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::key::SELECTORS_MAX;

    #[test]
    fn a_pool_gives_no_more_than_it_has_and_gets_back_what_jobs_drop() {
        let pool = Pool::new(2);
        let first = Arc::new(pool.take().unwrap());
        let second = pool.take().unwrap();
        assert!(pool.take().is_none());
        let piece = Piece::new(&first, 0..3);
        drop(first);
        assert_eq!(pool.available(), 0, "a piece keeps its buffer out");
        assert_eq!(&*piece, [0; 3]);
        let own = piece.to_own_memory();
        drop((piece, second));
        assert_eq!(pool.available(), 2);
        assert_eq!(&*own, [0; 3]);
        drop(own);
        assert_eq!(pool.available(), 2, "it is none of the pool");
    }

    #[test]
    fn some_clients_whose_disks_hang_do_not_get_all_of_a_pool_however_many_there_are() {
        for selectors in 1..=SELECTORS_MAX {
            let pool = Pool::of_one(selectors);
            assert!(pool.share() >= 2, "{selectors}");
            assert!(HANGING_CLIENTS * pool.share() < pool.available(), "{selectors}");
        }
    }
}
