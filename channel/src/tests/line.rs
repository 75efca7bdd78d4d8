//! A socket of memory that does not block, and does what sockets do: it takes and gives as much as
//! it likes, says `WouldBlock` when it likes, and ends when it is told to.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex};

/// One direction.
#[derive(Default)]
struct Lane {
    bytes: VecDeque<u8>,
    ended: bool,
    /// Everything that ever went through.
    record: Vec<u8>,
}

/// When an end does not do at once all that it is asked for.
#[derive(Clone)]
pub(super) enum Pace {
    /// It takes and gives all, as long as there is room for `room` bytes.
    Free { room: usize },
    /// Every second call blocks; what goes is at most `most` bytes.
    EverySecondBlocks { most: usize, next: [bool; 2] },
    /// By chance.
    Chance(Random),
}

#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

pub(super) struct End {
    from: Arc<Mutex<Lane>>,
    to: Arc<Mutex<Lane>>,
    pace: Pace,
}

pub(super) fn line(one: Pace, other: Pace) -> (End, End) {
    let (a, b) = (Arc::<Mutex<Lane>>::default(), Arc::<Mutex<Lane>>::default());
    let first = End { from: Arc::clone(&a), to: Arc::clone(&b), pace: one };
    (first, End { from: b, to: a, pace: other })
}

pub(super) fn free() -> Pace {
    Pace::Free { room: 1 << 20 }
}

impl End {
    /// No byte follows those that were written.
    pub(super) fn end(&self) {
        self.to.lock().unwrap().ended = true;
    }

    /// What went out of this end so far.
    pub(super) fn sent(&self) -> Vec<u8> {
        self.to.lock().unwrap().record.clone()
    }

    /// The same end once more, for another thread.
    pub(super) fn again(&self) -> Self {
        let (from, to) = (Arc::clone(&self.from), Arc::clone(&self.to));
        Self { from, to, pace: self.pace.clone() }
    }

    /// Throws away what has come and was not read.
    pub(super) fn take_all(&self) {
        self.from.lock().unwrap().bytes.clear();
    }

    /// Bytes that nobody encrypted.
    pub(super) fn put(&self, bytes: &[u8]) {
        self.to.lock().unwrap().bytes.extend(bytes);
    }

    /// How much of `wanted` goes in this call; `None`: it blocks.
    fn share(&mut self, way: Way, wanted: usize) -> Option<usize> {
        match &mut self.pace {
            Pace::Free { .. } => Some(wanted),
            Pace::EverySecondBlocks { most, next } => {
                let next = &mut next[way as usize];
                *next = !*next;
                next.then_some(wanted.min(*most))
            }
            Pace::Chance(random) => match random.below(4) {
                0 => None,
                1 => Some(wanted.min(1 + random.below(7))),
                2 => Some(wanted.min(1 + random.below(5_000))),
                _ => Some(wanted),
            },
        }
    }
}

impl Read for End {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.share(Way::In, room.len()).ok_or(ErrorKind::WouldBlock)?;
        let mut lane = self.from.lock().unwrap();
        if lane.bytes.is_empty() && !lane.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        lane.bytes.read(&mut room[..count])
    }
}

impl Write for End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut count = self.share(Way::Out, bytes.len()).ok_or(ErrorKind::WouldBlock)?;
        let mut lane = self.to.lock().unwrap();
        if let Pace::Free { room } = self.pace {
            count = count.min(room.saturating_sub(lane.bytes.len()));
        }
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        lane.bytes.extend(&bytes[..count]);
        lane.record.extend(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % end
    }
}
